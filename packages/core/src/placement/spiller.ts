/**
 * Keeps room in tier 0 and tier 1. It works in the background between water marks, and at once when a writer found a tier full.
 *
 * Memory: least recently used blobs go to disk (or only lose their memory copy, when they have another). Disk: the oldest
 * blobs that were not read since the last pass go to tier 2, those that are mirrored already just lose their disk copy.
 * The spiller never slows itself by the limits it enforces on writers.
 *
 * I1  A run ends: each blob is tried once a run in memory, and in at most three passes on disk, whatever readers do meanwhile.
 * I2  What was given up and waits for its readers counts as free: nothing more is pushed out in its place.
 * I3  No run rejects. After a few failures in a row a run gives up, and the next demand begins another.
 * I4  A run that ended without a byte less, though room was wanted, was in vain. If that was because moves failed, those that
 *     follow it are no reason to wait, until something moves: else a node whose disk is full and whose tier 2 is away would seem
 *     to be making room for ever.
 */
import type { Catalog } from '../catalog/catalog.ts';
import { storedSize } from '../encryption/vault.ts';
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
  /** Objects of it that go to tier 2 anyway go there now, under their own names. */
  readonly mirrorFirst: (blobId: number) => Promise<void>;
  /** Gives back room in tier 1 that holds nothing but what can be read again; returns how much. */
  readonly dropCached: (bytes: number) => number;
  readonly onError: (error: unknown) => void;
}

const MOVES_AT_ONCE = 2;
const DISK_SCAN_PAGE = 256;
/** The rest of a pass begun in the middle, one that uses up second chances, and one in which everything may go. */
const DISK_PASSES_MAX = 3;
const FAILURES_MAX = 8;
const READS_NOTED_MAX = 100_000;

type Outcome = 'useful' | 'nothing to move' | 'failed';

/** What one run of the spiller knows. */
interface Run {
  readonly stuck: Set<number>;
  failuresInRow: number;
  hasFailed: boolean;
  /** It made some room. */
  hasFreed: boolean;
  /** The tier was above its high mark: the run goes on to the low one. */
  isAboveMark: boolean;
}

export class Spiller {
  readonly #parts: SpillerParts;
  readonly #readSinceScan = new Set<number>();
  readonly #runs: [Promise<void> | undefined, Promise<void> | undefined] = [undefined, undefined];
  readonly #demandBytes: [number, number] = [0, 0];
  /** What came of the last runs (I4). */
  readonly #outcomes: [Outcome, Outcome] = ['useful', 'useful'];
  #diskCursor = 0;
  #closed = false;

  constructor(parts: SpillerParts) {
    this.#parts = parts;
  }

  /** Whether room in this tier may come of the work that is under way (I4). */
  mayFree(tier: 0 | 1): boolean {
    return this.#runs[tier] !== undefined && this.#outcomes[tier] !== 'failed';
  }

  /** Nothing more can go from this tier, as far as is known (I4). */
  isInVain(tier: 0 | 1): boolean {
    return this.#outcomes[tier] !== 'useful';
  }

  /** Tier 2 took something: what failed there may go now. */
  noteRemoteTook(): void {
    this.#outcomes.fill('useful');
  }

  /** A second chance for blobs on disk that are read; bounded, because it only improves a guess. */
  noteDiskRead(blobId: number): void {
    if (this.#readSinceScan.size < READS_NOTED_MAX) this.#readSinceScan.add(blobId);
  }

  /** Called after every commit: cheap while the tier is below its mark. */
  noteGrowth(tier: 0 | 1): void {
    if (this.#runs[tier] === undefined && this.#missingBytes(tier) > 0) void this.makeRoom(tier);
  }

  /** Works until the tier is below its mark and has `demandBytes` free, or nothing more can go. Never rejects. */
  makeRoom(tier: 0 | 1, demandBytes = 0): Promise<void> {
    this.#demandBytes[tier] = Math.max(this.#demandBytes[tier], demandBytes);
    this.#runs[tier] ??= this.#run(tier);
    return this.#runs[tier];
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#runs[0];
    await this.#runs[1];
  }

  async #run(tier: 0 | 1): Promise<void> {
    const run: Run = {
      ...{ stuck: new Set<number>(), failuresInRow: 0, hasFailed: false, hasFreed: false },
      isAboveMark: false,
    };
    try {
      await (tier === 0 ? this.#spillMemory(run) : this.#spillDisk(run));
    } catch (error) {
      if (!this.#closed) this.#parts.onError(error);
    }
    if (!run.hasFreed && this.#missingBytes(tier) > 0)
      this.#outcomes[tier] = run.hasFailed ? 'failed' : 'nothing to move';
    // In one turn: a demand that comes later finds no run, and begins one.
    this.#demandBytes[tier] = 0;
    this.#runs[tier] = undefined;
  }

  /** How much has to go, 0 or less when nothing. */
  #missingBytes(tier: 0 | 1, run?: Run): number {
    const { memory, disk, placement, memoryMarks, diskMarks } = this.#parts;
    const { usedBytes, pooledBytes, capacityBytes } = (tier === 0 ? memory : disk).usage();
    const marks = tier === 0 ? memoryMarks : diskMarks;
    // Pooled files the tier gives up by itself; what is in limbo comes by itself (I2).
    const heldBytes =
      usedBytes - pooledBytes - placement.limboBytes(tier === 0 ? 'memory' : 'disk');
    const aboveHigh = bytesToFree({ usedBytes: heldBytes, pooledBytes: 0, capacityBytes }, marks);
    if (run !== undefined && aboveHigh > 0) run.isAboveMark = true;
    const aboveMark =
      run?.isAboveMark === true ? Math.ceil(heldBytes - capacityBytes * marks.low) : aboveHigh;
    return Math.max(aboveMark, this.#demandBytes[tier] - (capacityBytes - heldBytes));
  }

  async #spillMemory(run: Run): Promise<void> {
    const { placement, recency, leases } = this.#parts;
    const isHeld = (id: number): boolean =>
      run.stuck.has(id) || leases.isLeased(id) || placement.isMoving(id);
    while (!this.#closed && run.failuresInRow < FAILURES_MAX) {
      const wantedBytes = this.#missingBytes(0, run);
      if (wantedBytes <= 0) return;
      const victims = pickVictims(recency, wantedBytes, isHeld);
      if (victims.length === 0) return;
      for (let at = 0; at < victims.length && run.failuresInRow < FAILURES_MAX; ) {
        const batch = victims.slice(at, at + MOVES_AT_ONCE);
        at += MOVES_AT_ONCE;
        await Promise.all(batch.map((id) => this.#spillOne(id, run)));
        if (this.#closed || this.#missingBytes(0, run) <= 0) return;
      }
    }
  }

  async #spillOne(blobId: number, run: Run): Promise<void> {
    const { catalog, placement, recency } = this.#parts;
    try {
      const blob = await catalog.findBlob(blobId);
      if (blob === undefined || blob.memoryBytes === null) {
        recency.remove(blobId);
        return;
      }
      if (await this.#isPinned(blobId)) {
        run.stuck.add(blobId);
        return;
      }
      const hasOther = blob.diskBytes !== null || blob.remote !== null;
      const target = hasOther && blob.diskBytes === null ? 'remote' : 'disk';
      const why = hasOther
        ? 'memory above its mark, other copy exists'
        : 'memory above its mark, least recently used';
      let result = await placement.move(blobId, target, { drop: ['memory'], why });
      if (result === 'full') {
        await this.makeRoom(1, storedSize(blob));
        result = await placement.move(blobId, 'disk', { drop: ['memory'], why });
        if (result === 'full') {
          if (blob.remote === null) await this.#parts.mirrorFirst(blobId);
          result = await placement.move(blobId, 'remote', {
            drop: ['memory'],
            why: 'memory and disk full',
          });
        }
      }
      if (result === 'done') this.#noteFreed(0, run);
      else run.stuck.add(blobId);
      run.failuresInRow = 0;
    } catch (error) {
      run.stuck.add(blobId);
      run.failuresInRow++;
      run.hasFailed = true;
      if (!this.#closed) this.#parts.onError(error);
    }
  }

  async #spillDisk(run: Run): Promise<void> {
    const { catalog } = this.#parts;
    let passes = this.#diskCursor === 0 ? 1 : 0;
    const missingBytes = this.#missingBytes(1, run);
    if (missingBytes > 0 && this.#parts.dropCached(missingBytes) > 0) this.#noteFreed(1, run);
    while (this.#mayGoOn(run)) {
      const page = await catalog.listBlobs({
        afterBlobId: this.#diskCursor,
        limit: DISK_SCAN_PAGE,
        where: 'disk',
      });
      if (page.length === 0) {
        this.#diskCursor = 0;
        this.#readSinceScan.clear();
        if (++passes > DISK_PASSES_MAX - 1) return; // whole passes with second chances used up: nothing more can go
        continue;
      }
      for (const { blobId } of page) {
        if (!this.#mayGoOn(run)) return;
        this.#diskCursor = blobId;
        if (!this.#readSinceScan.delete(blobId)) await this.#evictOne(blobId, run);
      }
    }
  }

  #mayGoOn(run: Run): boolean {
    return !this.#closed && run.failuresInRow < FAILURES_MAX && this.#missingBytes(1, run) > 0;
  }

  async #evictOne(blobId: number, run: Run): Promise<void> {
    const { catalog, placement } = this.#parts;
    if (run.stuck.has(blobId) || placement.isMoving(blobId)) return;
    try {
      // Asked again: the page may be old, and by now the blob may have come to rest elsewhere.
      const blob = await catalog.findBlob(blobId);
      if (blob === undefined || blob.diskBytes === null) return;
      if (await this.#isPinned(blobId)) {
        run.stuck.add(blobId);
        return;
      }
      const why =
        blob.remote === null ? 'disk above its mark, oldest' : 'disk above its mark, mirrored';
      if (blob.remote === null) await this.#parts.mirrorFirst(blobId);
      const result = await placement.move(blobId, 'remote', { drop: ['disk'], why });
      if (result === 'done') this.#noteFreed(1, run);
      run.failuresInRow = 0;
    } catch (error) {
      run.stuck.add(blobId);
      run.failuresInRow++;
      run.hasFailed = true;
      if (!this.#closed) this.#parts.onError(error);
    }
  }

  #noteFreed(tier: 0 | 1, run: Run): void {
    run.hasFreed = true;
    this.#outcomes[tier] = 'useful';
  }

  async #isPinned(blobId: number): Promise<boolean> {
    return (await this.#parts.catalog.objectsOfBlob(blobId, 64)).some((object) => object.pinned);
  }
}
