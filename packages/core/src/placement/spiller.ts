/**
 * Keeps room in tier 0 and tier 1. It works in the background between water marks, and at once when a writer found a tier full.
 *
 * Memory: least recently used blobs go to disk (or only lose their memory copy, when they have another). Disk: the oldest
 * blobs that were not read since the last pass go to tier 2, those that are mirrored already just lose their disk copy.
 * The spiller never slows itself by the limits it enforces on writers.
 */
import type { Catalog } from '../catalog/catalog.ts';
import type { LeaseTable } from '../store/lease-table.ts';
import type { LocalTier } from '../tier/tier.ts';
import type { BlobPlacement } from './blob-placement.ts';
import { pickVictims, type RecencyIndex } from './evictor.ts';
import { bytesToFree, type WaterMarks } from './policy.ts';

export interface SpillerParts {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly placement: BlobPlacement;
  readonly leases: LeaseTable;
  readonly recency: RecencyIndex;
  readonly memoryMarks: WaterMarks;
  readonly diskMarks: WaterMarks;
  readonly onError: (error: unknown) => void;
}

const MOVES_AT_ONCE = 2;
const DISK_SCAN_PAGE = 256;

export class Spiller {
  readonly #parts: SpillerParts;
  readonly #readSinceScan = new Set<number>();
  #memoryRun: Promise<void> | undefined;
  #diskRun: Promise<void> | undefined;
  #memoryDemandBytes = 0;
  #diskDemandBytes = 0;
  #diskCursor = 0;
  #closed = false;

  constructor(parts: SpillerParts) {
    this.#parts = parts;
  }

  /** A second chance for blobs on disk that are read; bounded, because it only improves a guess. */
  noteDiskRead(blobId: number): void {
    if (this.#readSinceScan.size < 100_000) this.#readSinceScan.add(blobId);
  }

  /** Looks whether tier 0 is above its mark, or `demandBytes` short, and works until it is not. */
  kickMemory(demandBytes = 0): Promise<void> {
    this.#memoryDemandBytes = Math.max(this.#memoryDemandBytes, demandBytes);
    this.#memoryRun ??= this.#spillMemory().finally(() => {
      this.#memoryRun = undefined;
    });
    return this.#memoryRun;
  }

  kickDisk(demandBytes = 0): Promise<void> {
    this.#diskDemandBytes = Math.max(this.#diskDemandBytes, demandBytes);
    this.#diskRun ??= this.#spillDisk().finally(() => {
      this.#diskRun = undefined;
    });
    return this.#diskRun;
  }

  get isWorking(): boolean {
    return this.#memoryRun !== undefined || this.#diskRun !== undefined;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.allSettled([this.#memoryRun, this.#diskRun]);
  }

  async #spillMemory(): Promise<void> {
    const { memory, placement, recency, leases, memoryMarks } = this.#parts;
    const stuck = new Set<number>();
    while (!this.#closed) {
      const usage = memory.usage();
      const settling = { ...usage, usedBytes: usage.usedBytes - placement.limboBytes };
      const free = usage.capacityBytes - (settling.usedBytes - usage.pooledBytes);
      const wanted = Math.max(bytesToFree(settling, memoryMarks), this.#memoryDemandBytes - free);
      if (wanted <= 0) break;
      const victims = pickVictims(
        recency,
        wanted,
        (id) => stuck.has(id) || leases.isLeased(id) || placement.isMoving(id),
      );
      if (victims.length === 0) break;
      for (let at = 0; at < victims.length; at += MOVES_AT_ONCE) {
        await Promise.all(
          victims.slice(at, at + MOVES_AT_ONCE).map((id) => this.#spillOne(id, stuck)),
        );
      }
    }
    this.#memoryDemandBytes = 0;
  }

  async #spillOne(blobId: number, stuck: Set<number>): Promise<void> {
    const { catalog, placement, recency } = this.#parts;
    try {
      if (await this.#isPinned(blobId)) {
        stuck.add(blobId);
        return;
      }
      const blob = await catalog.findBlob(blobId);
      if (blob === undefined || blob.memoryBytes === null) {
        recency.remove(blobId);
        return;
      }
      const hasOther = blob.diskBytes !== null || blob.remoteName !== null;
      const target = hasOther ? (blob.diskBytes !== null ? 'disk' : 'remote') : 'disk';
      const why = hasOther
        ? 'memory above its mark, other copy exists'
        : 'memory above its mark, least recently used';
      let result = await placement.move(blobId, target, { drop: ['memory'], why });
      if (result === 'full') {
        await this.kickDisk(blob.sizeBytes);
        result = await placement.move(blobId, 'disk', { drop: ['memory'], why });
        if (result === 'full')
          result = await placement.move(blobId, 'remote', {
            drop: ['memory'],
            why: 'memory and disk full',
          });
      }
      if (result !== 'done') stuck.add(blobId);
    } catch (error) {
      stuck.add(blobId);
      this.#parts.onError(error);
    }
  }

  async #spillDisk(): Promise<void> {
    const { catalog, disk, placement, diskMarks } = this.#parts;
    let wrapped = false;
    while (!this.#closed) {
      const usage = disk.usage();
      const free = usage.capacityBytes - usage.usedBytes;
      if (Math.max(bytesToFree(usage, diskMarks), this.#diskDemandBytes - free) <= 0) break;
      const page = await catalog.listBlobs({
        afterBlobId: this.#diskCursor,
        limit: DISK_SCAN_PAGE,
        where: 'disk',
      });
      if (page.length === 0) {
        if (wrapped) break; // a whole pass with second chances used up: nothing more can go
        wrapped = this.#diskCursor === 0 || this.#readSinceScan.size === 0;
        this.#readSinceScan.clear();
        this.#diskCursor = 0;
        continue;
      }
      for (const blob of page) {
        this.#diskCursor = blob.blobId;
        const now = disk.usage();
        const short = this.#diskDemandBytes - (now.capacityBytes - now.usedBytes);
        if (Math.max(bytesToFree(now, diskMarks), short) <= 0) break;
        if (this.#readSinceScan.delete(blob.blobId) || placement.isMoving(blob.blobId)) continue;
        try {
          if (await this.#isPinned(blob.blobId)) continue;
          const why =
            blob.remoteName === null
              ? 'disk above its mark, oldest'
              : 'disk above its mark, mirrored';
          await placement.move(blob.blobId, 'remote', { drop: ['disk'], why });
        } catch (error) {
          this.#parts.onError(error);
        }
      }
    }
    this.#diskDemandBytes = 0;
  }

  async #isPinned(blobId: number): Promise<boolean> {
    return (await this.#parts.catalog.objectsOfBlob(blobId, 64)).some((object) => object.pinned);
  }
}
