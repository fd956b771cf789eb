/**
 * Copies committed objects of mirroring buckets to tier 2 behind the writer's back.
 *
 * What is still to be mirrored is written in the catalog (a blob without a remote name), so nothing is lost with the process:
 * `resume` finds it again. Failures are retried with a growing pause, in which others get their turn, and stay in the
 * backlog. A blob that has no good copy left cannot be mirrored, ever: it is given up, and `ebb verify` names it.
 */
import { isStoreError } from '@ebb/protocol';
import PQueue from 'p-queue';
import type { Catalog } from '../catalog/catalog.ts';
import type { Clock } from '../clock.ts';
import type { BlobPlacement } from './blob-placement.ts';

const MIRRORS_AT_ONCE = 2;
const RETRY_PAUSE_MS_MIN = 250;
const RETRY_PAUSE_MS_MAX = 30_000;

export class Mirror {
  readonly #catalog: Catalog;
  readonly #placement: BlobPlacement;
  readonly #clock: Clock;
  readonly #onError: (error: unknown) => void;
  readonly #queue = new PQueue({ concurrency: MIRRORS_AT_ONCE });
  readonly #waiting = new Map<number, number>();
  readonly #onEmpty = new Set<() => void>();
  readonly #stop = new AbortController();
  #backlogBytes = 0;

  constructor(parts: {
    catalog: Catalog;
    placement: BlobPlacement;
    clock: Clock;
    onError: (error: unknown) => void;
  }) {
    this.#catalog = parts.catalog;
    this.#placement = parts.placement;
    this.#clock = parts.clock;
    this.#onError = parts.onError;
  }

  get backlogBytes(): number {
    return this.#backlogBytes;
  }

  /** Whether it is still to be copied, and not given up. */
  has(blobId: number): boolean {
    return this.#waiting.has(blobId);
  }

  add(blobId: number, sizeBytes: number): void {
    if (this.#waiting.has(blobId)) return;
    this.#waiting.set(blobId, sizeBytes);
    this.#backlogBytes += sizeBytes;
    this.#enqueue(blobId, RETRY_PAUSE_MS_MIN);
  }

  /** After a restart: queues what the catalog says is not mirrored yet. */
  async resume(wantsMirror: (bucket: string) => Promise<boolean>): Promise<void> {
    for (let after = 0; ; ) {
      const page = await this.#catalog.listBlobs({
        afterBlobId: after,
        limit: 512,
        where: 'unmirrored',
      });
      if (page.length === 0) return;
      for (const blob of page) {
        after = blob.blobId;
        const [object] = await this.#catalog.objectsOfBlob(blob.blobId, 1);
        if (object !== undefined && (await wantsMirror(object.bucket)))
          this.add(blob.blobId, blob.sizeBytes);
      }
    }
  }

  /** Resolves when the backlog is empty, or the signal says to wait no longer. */
  async idle(signal: AbortSignal): Promise<void> {
    if (this.#waiting.size === 0 || signal.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onEmpty.add(resolve);
    signal.addEventListener('abort', () => resolve(), { once: true });
    await promise;
    this.#onEmpty.delete(resolve);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    this.#queue.clear();
    await this.#queue.onIdle();
  }

  #enqueue(blobId: number, nextPauseMs: number): void {
    // Cleared at close: the catalog still knows that it is not mirrored.
    void this.#queue.add(() => this.#mirrorOnce(blobId, nextPauseMs)).catch(() => undefined);
  }

  async #mirrorOnce(blobId: number, nextPauseMs: number): Promise<void> {
    if (this.#stop.signal.aborted) return;
    try {
      await this.#placement.move(blobId, 'remote', { drop: [], why: 'mirrored by policy' });
      this.#finish(blobId);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#onError(error);
      if (isStoreError(error, 'data_lost') || isStoreError(error, 'data_corrupt'))
        this.#finish(blobId);
      else void this.#retry(blobId, nextPauseMs);
    }
  }

  async #retry(blobId: number, pauseMs: number): Promise<void> {
    try {
      await this.#clock.sleep(pauseMs, this.#stop.signal);
    } catch {
      return; // closed meanwhile
    }
    this.#enqueue(blobId, Math.min(pauseMs * 2, RETRY_PAUSE_MS_MAX));
  }

  #finish(blobId: number): void {
    this.#backlogBytes -= this.#waiting.get(blobId) ?? 0;
    this.#waiting.delete(blobId);
    if (this.#waiting.size > 0) return;
    for (const resolve of this.#onEmpty) resolve();
  }
}
