/**
 * Copies committed objects of mirroring buckets to tier 2 behind the writer's back.
 *
 * What is still to be mirrored is written in the catalog (a blob without a remote name), so nothing is lost with the process:
 * `resume` finds it again. Failures are retried with a growing pause, and stay in the backlog.
 */
import PQueue from 'p-queue';
import type { Catalog } from '../catalog/catalog.ts';
import type { Clock } from '../clock.ts';
import type { BlobPlacement } from './blob-placement.ts';

const MIRRORS_AT_ONCE = 2;
const RETRY_PAUSE_MS_MAX = 30_000;

export class Mirror {
  readonly #catalog: Catalog;
  readonly #placement: BlobPlacement;
  readonly #clock: Clock;
  readonly #onError: (error: unknown) => void;
  readonly #queue = new PQueue({ concurrency: MIRRORS_AT_ONCE });
  readonly #waiting = new Map<number, number>();
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

  add(blobId: number, sizeBytes: number): void {
    if (this.#waiting.has(blobId)) return;
    this.#waiting.set(blobId, sizeBytes);
    this.#backlogBytes += sizeBytes;
    void this.#queue
      .add(() => this.#mirrorUntilDone(blobId))
      .catch(() => undefined) // cleared at close: the catalog still knows that it is not mirrored
      .finally(() => {
        this.#waiting.delete(blobId);
        this.#backlogBytes -= sizeBytes;
      });
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
    await Promise.race([
      this.#queue.onIdle(),
      new Promise<void>((resolve) =>
        signal.addEventListener('abort', () => resolve(), { once: true }),
      ),
    ]);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    this.#queue.clear();
    await this.#queue.onIdle();
  }

  async #mirrorUntilDone(blobId: number): Promise<void> {
    for (
      let pauseMs = 250;
      !this.#stop.signal.aborted;
      pauseMs = Math.min(pauseMs * 2, RETRY_PAUSE_MS_MAX)
    ) {
      try {
        await this.#placement.move(blobId, 'remote', { drop: [], why: 'mirrored by policy' });
        return;
      } catch (error) {
        this.#onError(error);
        await this.#clock.sleep(pauseMs, this.#stop.signal).catch(() => undefined);
      }
    }
  }
}
