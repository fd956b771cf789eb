/**
 * Moves blobs between tiers: spill (down), promote (up), mirror (copy to tier 2), evict (drop a copy that exists elsewhere).
 *
 * I1  Work on one blob is exclusive: two movers never touch the same blob at once, and its removal waits its turn.
 * I2  A copy is made and checked first, then published by compare-and-set on the blob's generation, and only then is another
 *     copy dropped. A mover that lost the race (the object was deleted meanwhile) removes what it made: old bytes never come back.
 * I3  The last copy is never dropped here.
 * I4  A file that is being filled is no copy yet: readers see it only after it was published (`readableIn`).
 * I5  Every byte that changes tier is read back through its CRC32C.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import type { BlobCopies, BlobRecord, Catalog } from '../catalog/catalog.ts';
import type { LeaseTable } from '../store/lease-table.ts';
import type { LifeLog } from '../store/life-log.ts';
import type { LocalBlob, LocalTier, Mover, RemoteTier } from '../tier/tier.ts';
import type { RecencyIndex } from './evictor.ts';
import { remoteNames } from './policy.ts';

export type Place = 'memory' | 'disk' | 'remote';
/** `gone`: deleted or overtaken, nothing to do; `full`: the target tier has no room. */
export type MoveResult = 'done' | 'gone' | 'full';

export interface PlacementParts {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly remote: RemoteTier;
  readonly mover: Mover;
  readonly leases: LeaseTable;
  readonly diskLeases: LeaseTable;
  readonly recency: RecencyIndex;
  readonly log: LifeLog;
  readonly onMoved: (move: { from: Place; to: Place; bytes: number }) => void;
}

export class BlobPlacement {
  readonly #parts: PlacementParts;
  readonly #busy = new Map<number, Promise<unknown>>();
  /** Which tier's file of a blob is being made (I4). One at a time a blob, by I1. */
  readonly #filling = new Map<number, 'memory' | 'disk'>();
  readonly #limbo = new Map<number, number>();
  #limboBytes = 0;

  constructor(parts: PlacementParts) {
    this.#parts = parts;
  }

  isMoving(blobId: number): boolean {
    return this.#busy.has(blobId);
  }

  /** The blob's file in a local tier, if it is whole and published. It may be given up: a new reader also asks the lease table. */
  readableIn(place: 'memory' | 'disk', blobId: number): LocalBlob | undefined {
    return this.#filling.get(blobId) === place ? undefined : this.#parts[place].find(blobId);
  }

  /** Tier-0 bytes that were given up and wait for their readers. */
  get limboBytes(): number {
    return this.#limboBytes;
  }

  /** The lease table's order to remove a tier-0 file for good. */
  removeFromMemory(blobId: number, options: { recycle: boolean }): void {
    const bytes = this.#limbo.get(blobId);
    if (bytes !== undefined) {
      this.#limbo.delete(blobId);
      this.#limboBytes -= bytes;
    }
    this.#parts.memory.remove(blobId, options);
  }

  /**
   * Makes sure the blob has a copy in `to`, then drops the copies named in `drop`, all in one published step.
   * @throws `data_corrupt` when no source matches its checksum, `data_lost` when there is none, `io_failed`.
   */
  move(
    blobId: number,
    to: Place,
    options: { drop: readonly ('memory' | 'disk')[]; why: string },
  ): Promise<MoveResult> {
    return this.#exclusive(blobId, async () => {
      const blob = await this.#parts.catalog.findBlob(blobId);
      if (blob === undefined || blob.refs === 0) return 'gone';
      const { leases, diskLeases } = this.#parts;
      if (
        (to === 'memory' && leases.isInLimbo(blobId)) ||
        (to === 'disk' && diskLeases.isInLimbo(blobId))
      )
        return 'full';
      if (to !== 'remote') this.#filling.set(blobId, to);
      try {
        const made = await this.#ensureCopy(blob, to);
        return made === 'full' || made === 'gone'
          ? made
          : await this.#publish(blob, to, made, options);
      } finally {
        this.#filling.delete(blobId);
      }
    });
  }

  /** Removes the files of a freed blob, then its record. */
  async retire(blob: BlobRecord): Promise<void> {
    if (this.#busy.has(blob.blobId)) await this.#exclusive(blob.blobId, () => this.#retire(blob));
    else await this.#retire(blob);
  }

  /** Gives the tier-0 file up, as soon as its readers allow. */
  giveUpMemory(blobId: number): void {
    const { memory, leases, recency } = this.#parts;
    const local = memory.find(blobId);
    recency.remove(blobId);
    if (local === undefined || leases.isInLimbo(blobId)) return;
    this.#limbo.set(blobId, local.allocatedBytes);
    this.#limboBytes += local.allocatedBytes;
    leases.giveUp(blobId);
  }

  giveUpDisk(blobId: number): void {
    if (this.#parts.disk.find(blobId) !== undefined) this.#parts.diskLeases.giveUp(blobId);
  }

  async settled(): Promise<void> {
    await Promise.allSettled([...this.#busy.values()]);
  }

  async #retire(blob: BlobRecord): Promise<void> {
    // What lies where is asked of the tiers, not of the record: a mover may have finished since the record was read.
    this.giveUpMemory(blob.blobId);
    this.giveUpDisk(blob.blobId);
    if (blob.remoteName !== null) await this.#parts.remote.delete(blob.remoteName);
    await this.#parts.catalog.dropBlob(blob.blobId);
    this.#parts.log.forget(blob.blobId);
  }

  async #ensureCopy(blob: BlobRecord, to: Place): Promise<Partial<BlobCopies> | 'full' | 'gone'> {
    if (to === 'memory')
      return blob.memoryBytes !== null ? {} : await this.#copyToLocal(blob, this.#parts.memory);
    if (to === 'disk')
      return blob.diskBytes !== null ? {} : await this.#copyToLocal(blob, this.#parts.disk);
    return blob.remoteName !== null ? {} : await this.#copyToRemote(blob);
  }

  async #copyToLocal(
    blob: BlobRecord,
    tier: LocalTier,
  ): Promise<Partial<BlobCopies> | 'full' | 'gone'> {
    const created = tier.create(blob.blobId, blob.sizeBytes);
    if (created === undefined) return 'full';
    try {
      await this.#fill(blob, tier);
    } catch (error) {
      tier.remove(blob.blobId, { recycle: true });
      return await this.#goneOr(blob, error);
    }
    const allocated = tier.seal(blob.blobId, blob.sizeBytes);
    return tier.name === 'memory' ? { memoryBytes: allocated } : { diskBytes: allocated };
  }

  async #fill(blob: BlobRecord, tier: LocalTier): Promise<void> {
    const target = tier.absolutePath(blob.blobId);
    const source = this.#localSource(blob);
    if (source === undefined) {
      if (blob.remoteName === null)
        throw new StoreError('data_lost', `blob ${blob.blobId} has no copy in any tier`, {
          blobId: blob.blobId,
        });
      await this.#parts.remote.fetch(blob.remoteName, target, {
        sizeBytes: blob.sizeBytes,
        crc32c: blob.crc32c,
      });
      return;
    }
    const crc32c = await this.#parts.mover.copy({
      from: source,
      to: target,
      sizeBytes: blob.sizeBytes,
      sync: false,
    });
    if (crc32c !== blob.crc32c) {
      throw new StoreError(
        'data_corrupt',
        `blob ${blob.blobId} does not match its checksum on the way to tier ${tier.name}`,
        { blobId: blob.blobId },
      );
    }
  }

  async #copyToRemote(blob: BlobRecord): Promise<Partial<BlobCopies> | 'gone'> {
    const { catalog, remote } = this.#parts;
    const source = this.#localSource(blob);
    if (source === undefined)
      throw new StoreError('data_lost', `blob ${blob.blobId} has no local copy to mirror`, {
        blobId: blob.blobId,
      });
    const [object] = await catalog.objectsOfBlob(blob.blobId, 1);
    if (object === undefined) return 'gone';
    const names = remoteNames(object, blob.blobId);
    // The name is claimed in the catalog only after the bytes are there (I2), so look first whether somebody holds it.
    const isTaken = !remote.accepts(names.own) || (await remote.head(names.own)) !== undefined;
    const name = isTaken ? names.fallback : names.own;
    const content = { sizeBytes: blob.sizeBytes, crc32c: blob.crc32c };
    try {
      await remote.put(name, source, content);
      return { remoteName: name };
    } catch (error) {
      // Since `accepts` looked, another object may have taken the name's place in the directory.
      if (!isStoreError(error, 'name_invalid')) return await this.#goneOr(blob, error);
      await remote.put(names.fallback, source, content);
      return { remoteName: names.fallback };
    }
  }

  async #publish(
    blob: BlobRecord,
    to: Place,
    made: Partial<BlobCopies>,
    options: { drop: readonly ('memory' | 'disk')[]; why: string },
  ): Promise<MoveResult> {
    const { catalog, memory, disk, remote, log, recency } = this.#parts;
    const next: BlobCopies = {
      memoryBytes: options.drop.includes('memory') ? null : (made.memoryBytes ?? blob.memoryBytes),
      diskBytes: options.drop.includes('disk') ? null : (made.diskBytes ?? blob.diskBytes),
      remoteName: made.remoteName ?? blob.remoteName,
    };
    if (next.memoryBytes === null && next.diskBytes === null && next.remoteName === null) {
      throw new StoreError('internal', `refusing to drop the last copy of blob ${blob.blobId}`, {
        blobId: blob.blobId,
      });
    }
    if (!(await catalog.setBlobCopies(blob.blobId, blob.generation, next))) {
      if (made.memoryBytes !== undefined) memory.remove(blob.blobId, { recycle: true });
      if (made.diskBytes !== undefined) disk.remove(blob.blobId, { recycle: false });
      if (made.remoteName != null) await remote.delete(made.remoteName);
      return 'gone';
    }
    if (made.memoryBytes != null) recency.add(blob.blobId, made.memoryBytes);
    const from: Place =
      blob.memoryBytes !== null ? 'memory' : blob.diskBytes !== null ? 'disk' : 'remote';
    if (blob.memoryBytes !== null && next.memoryBytes === null) this.giveUpMemory(blob.blobId);
    if (blob.diskBytes !== null && next.diskBytes === null) this.giveUpDisk(blob.blobId);
    this.#parts.onMoved({ from, to, bytes: blob.sizeBytes });
    log.add(blob.blobId, `copied to ${to}`, {
      from,
      why: options.why,
      dropped: options.drop.join('+') || 'nothing',
    });
    return 'done';
  }

  #localSource(blob: BlobRecord): string | undefined {
    if (blob.memoryBytes !== null) return this.#parts.memory.absolutePath(blob.blobId);
    if (blob.diskBytes !== null) return this.#parts.disk.absolutePath(blob.blobId);
    return undefined;
  }

  /** A failure on a blob that was deleted meanwhile is no failure. */
  async #goneOr(blob: BlobRecord, error: unknown): Promise<'gone'> {
    const now = await this.#parts.catalog.findBlob(blob.blobId);
    if (now === undefined || now.refs === 0 || now.generation !== blob.generation) return 'gone';
    throw error;
  }

  async #exclusive<T>(blobId: number, work: () => Promise<T>): Promise<T> {
    const before = this.#busy.get(blobId);
    const run = (async () => {
      if (before !== undefined) await before.catch(() => undefined);
      return await work();
    })();
    this.#busy.set(blobId, run);
    try {
      return await run;
    } finally {
      if (this.#busy.get(blobId) === run) this.#busy.delete(blobId);
    }
  }
}
