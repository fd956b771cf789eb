/**
 * The end of blobs that no name refers to any more: at once, and again later for what could not be removed then.
 */
import type { BlobRecord, Catalog } from '../catalog/catalog.ts';
import type { Clock } from '../clock.ts';
import type { BlobPlacement } from '../placement/blob-placement.ts';
import type { StoreObserver } from './parts.ts';
import type { RangeCache } from './range-cache.ts';
import { retireFreed } from './recovery.ts';

const RETRY_MS = 10_000;

export interface RetirementParts {
  readonly catalog: Catalog;
  readonly clock: Clock;
  readonly placement: BlobPlacement;
  readonly ranges: RangeCache;
  readonly observer: StoreObserver;
}

export class Retirement {
  readonly #parts: RetirementParts;
  /** A freed blob could not be removed, perhaps at the start already: its record waits. */
  #hasFreed = true;
  #retryAtMs = 0;
  #hold: ((freed: readonly BlobRecord[]) => Promise<void>) | undefined;

  constructor(parts: RetirementParts) {
    this.#parts = parts;
  }

  /** `hold` takes leases for those who still read some of the blobs. */
  holdFirst(hold: (freed: readonly BlobRecord[]) => Promise<void>): void {
    this.#hold = hold;
  }

  /** StoreParts.retireAll. */
  async retireAll(
    freed: readonly BlobRecord[],
    { isDurable }: { readonly isDurable: boolean } = { isDurable: false },
  ): Promise<void> {
    const { catalog, placement, observer, ranges } = this.#parts;
    for (const { blobId } of freed) ranges.forget(blobId);
    try {
      await this.#hold?.(freed);
      if (!isDurable && freed.some((blob) => blob.diskBytes !== null || blob.remote !== null))
        await catalog.durable();
      const retired = await Promise.allSettled(freed.map((blob) => placement.retire(blob)));
      const failed = retired.find((result) => result.status === 'rejected');
      if (failed !== undefined) throw failed.reason;
    } catch (error) {
      this.#hasFreed = true;
      observer.failed(error, 'removal');
    }
  }

  /** What is left, but not more often than it may help. */
  async sweep(): Promise<void> {
    const nowMs = this.#parts.clock.monotonic();
    if (!this.#hasFreed || nowMs < this.#retryAtMs) return;
    this.#retryAtMs = nowMs + RETRY_MS;
    this.#hasFreed = (await retireFreed(this.#parts)).failed > 0;
  }
}
