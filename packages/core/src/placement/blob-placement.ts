/**
 * Moves blobs between tiers: spill (down), promote (up), mirror (copy to tier 2), evict (drop a copy that exists elsewhere).
 *
 * I1  Work on one blob is exclusive: two movers never touch the same blob at once, and its removal waits its turn.
 * I2  A copy is made and checked first, then published by compare-and-set on the blob's generation, and only then is another
 *     copy dropped. A mover that lost the race (the object was deleted meanwhile) removes what it made: old bytes never come back.
 * I3  The last copy is never dropped here.
 * I4  A file that is being filled is no copy yet: readers see it only after it was published (`readableIn`).
 * I5  Every byte that changes tier is read back through its CRC32C.
 * I6  To tier 2 a blob goes under a private name, which nobody else ever writes or deletes, and which is known before anything
 *     lies there (private-copies.ts). Objects under their own names are
 *     the mirror's; here they are only read, and only as long as they are what was stored (their ETag).
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import type { BlobCopies, BlobRecord, Catalog } from '../catalog/catalog.ts';
import { storedSize } from '../encryption/vault.ts';
import { type BlockSums, collectorFor } from '../store/block-sums.ts';
import type { LeaseTable } from '../store/lease-table.ts';
import type { LifeLog } from '../store/life-log.ts';
import type { LocalBlob, LocalTier, Mover, RemoteObject, RemoteTier } from '../tier/tier.ts';
import type { RecencyIndex } from './evictor.ts';
import type { PrivateCopies } from './private-copies.ts';
import { isPrivateName, privateName } from './remote-names.ts';
import { isSealedBlob, type SealedBlob, type SealedCopies } from './sealed-copies.ts';

export type Place = 'memory' | 'disk' | 'remote';
/** A local file that is not given to another writer before `release`. */
export interface HeldFile {
  readonly place: 'memory' | 'disk';
  readonly file: string;
  release(): void;
}

/** `gone`: deleted or overtaken, nothing to do; `full`: the target tier has no room. */
export type MoveResult = 'done' | 'gone' | 'full';

export interface MoveOptions {
  readonly drop: readonly ('memory' | 'disk')[];
  /** For `ebb why`. */
  readonly why: string;
}

export interface PlacementParts {
  readonly nodeId: string;
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly remote: RemoteTier;
  readonly mover: Mover;
  readonly leases: LeaseTable;
  readonly diskLeases: LeaseTable;
  readonly recency: RecencyIndex;
  readonly log: LifeLog;
  readonly sealed: SealedCopies;
  readonly blockSums: BlockSums;
  readonly privateCopies: PrivateCopies;
  readonly onMoved: (move: { from: Place; to: Place; bytes: number }) => void;
  readonly onError: (error: unknown) => void;
}

const PLACES = ['memory', 'disk'] as const;
const REVERSED_PLACES = ['disk', 'memory'] as const;

export class BlobPlacement {
  readonly #parts: PlacementParts;
  readonly #busy = new Map<number, Promise<unknown>>();
  /** Which tier's file of a blob is being made (I4). One at a time a blob, by I1. */
  readonly #filling = new Map<number, 'memory' | 'disk'>();
  /** Files that were given up and wait for their readers, with what they hold. */
  readonly #limbo = { memory: new Map<number, number>(), disk: new Map<number, number>() };
  readonly #limboBytes = { memory: 0, disk: 0 };

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

  /** The blob's file in `first`, or else in the other local tier; undefined when it has none that is offered to new readers. */
  holdFile(blobId: number, first: 'memory' | 'disk'): HeldFile | undefined {
    const { leases, diskLeases } = this.#parts;
    for (const place of first === 'memory' ? PLACES : REVERSED_PLACES) {
      const table = place === 'memory' ? leases : diskLeases;
      if (this.readableIn(place, blobId) === undefined || table.isInLimbo(blobId)) continue;
      const lease = table.lease(blobId);
      const file = this.#parts[place].absolutePath(blobId);
      return { place, file, release: () => table.endLease(lease, { returned: true }) };
    }
    return undefined;
  }

  /** Bytes that were given up and wait for their readers: room that comes by itself. */
  limboBytes(place: 'memory' | 'disk'): number {
    return this.#limboBytes[place];
  }

  /** The lease table's order to remove a file for good. */
  removeFile(place: 'memory' | 'disk', blobId: number, options: { recycle: boolean }): void {
    const bytes = this.#limbo[place].get(blobId);
    if (bytes !== undefined) {
      this.#limbo[place].delete(blobId);
      this.#limboBytes[place] -= bytes;
    }
    this.#parts[place].remove(blobId, options);
  }

  /**
   * Makes sure the blob has a copy in `to`, then drops the copies named in `drop`, all in one published step.
   * @throws `data_corrupt` when no source matches its checksum, `data_lost` when there is none, `io_failed`.
   */
  move(blobId: number, to: Place, options: MoveOptions): Promise<MoveResult> {
    return this.#exclusive(blobId, async () => {
      const blob = await this.#parts.catalog.findBlob(blobId);
      if (blob === undefined || blob.refs === 0) return 'gone';
      const { leases, diskLeases } = this.#parts;
      if (
        (to === 'memory' && leases.isInLimbo(blobId)) ||
        (to === 'disk' && diskLeases.isInLimbo(blobId))
      )
        return 'full';
      if (copyIn(blob, to)) return await this.#publish(blob, to, {}, options);
      return to === 'remote'
        ? await this.#moveToRemote(blob, options)
        : await this.#moveToLocal(blob, to, options);
    });
  }

  /** Runs `work` while nothing else moves or removes the blob (I1). It may change the catalog's record by compare-and-set. */
  exclusively<T>(blobId: number, work: () => Promise<T>): Promise<T> {
    return this.#exclusive(blobId, work);
  }

  /** Removes the files of a freed blob, then its record. */
  async retire(blob: BlobRecord): Promise<void> {
    if (this.#busy.has(blob.blobId)) await this.#exclusive(blob.blobId, () => this.#retire(blob));
    else await this.#retire(blob);
  }

  /** Gives the local file up, as soon as its readers allow. */
  giveUp(place: 'memory' | 'disk', blobId: number): void {
    const { leases, diskLeases, recency } = this.#parts;
    if (place === 'memory') recency.remove(blobId);
    const table = place === 'memory' ? leases : diskLeases;
    const local = this.#parts[place].find(blobId);
    if (local === undefined) table.forget(blobId);
    if (local === undefined || table.isInLimbo(blobId)) return;
    this.#limbo[place].set(blobId, local.allocatedBytes);
    this.#limboBytes[place] += local.allocatedBytes;
    table.giveUp(blobId);
  }

  async settled(): Promise<void> {
    await Promise.allSettled([...this.#busy.values()]);
  }

  async #retire(blob: BlobRecord): Promise<void> {
    // What lies where is asked of the tiers, not of the record: a mover may have finished since the record was read.
    this.giveUp('memory', blob.blobId);
    this.giveUp('disk', blob.blobId);
    const { catalog, log, remote } = this.#parts;
    const name = blob.remote?.name;
    // Of an object under its own name the mirror takes care. A private one may hold further blobs (a name that could not be).
    if (name !== undefined && isPrivateName(name)) {
      const others = await catalog.listBlobsStoredAs(name);
      if (others.length === 0) await remote.delete(name);
    }
    await catalog.dropBlob(blob.blobId);
    log.forget(blob.blobId);
  }

  async #moveToLocal(
    blob: BlobRecord,
    to: 'memory' | 'disk',
    options: MoveOptions,
  ): Promise<MoveResult> {
    const tier = this.#parts[to];
    const { blobId } = blob;
    const { sealed } = this.#parts;
    const roomBytes = isSealedBlob(blob) ? sealed.roomFor(blob, to) : blob.sizeBytes;
    if (tier.create(blobId, roomBytes) === undefined) return 'full';
    this.#filling.set(blobId, to);
    try {
      await (isSealedBlob(blob) ? sealed.fill(blob, to) : this.#fill(blob, tier));
      const allocatedBytes = tier.seal(blobId, to === 'disk' ? storedSize(blob) : blob.sizeBytes);
      const made =
        to === 'memory' ? { memoryBytes: allocatedBytes } : { diskBytes: allocatedBytes };
      const result = await this.#publish(blob, to, made, options);
      // Nobody was shown the file before it was published.
      if (result === 'gone') tier.remove(blobId, { recycle: true });
      return result;
    } catch (error) {
      // Never recycled: a fetch that was given up may still write into the file.
      tier.remove(blobId, { recycle: false });
      return await this.#goneOr(blob, error);
    } finally {
      this.#filling.delete(blobId);
    }
  }

  async #moveToRemote(blob: BlobRecord, options: MoveOptions): Promise<MoveResult> {
    const { catalog, privateCopies, nodeId } = this.#parts;
    const { blobId } = blob;
    const [object] = await catalog.objectsOfBlob(blobId, 1);
    if (object === undefined) return 'gone';
    const policy = (await catalog.findBucket(object.bucket))?.policy;
    const name = privateName(policy?.remote ?? null, object.bucket, { nodeId, blobId });
    return await privateCopies.during(name, () => this.#copyToRemote(blob, name, options));
  }

  async #copyToRemote(blob: BlobRecord, name: string, options: MoveOptions): Promise<MoveResult> {
    const { sizeBytes, crc32c } = blob;
    let made: RemoteObject | undefined;
    try {
      if (isSealedBlob(blob)) made = await this.#putSealed(blob, name);
      else
        await this.#fromEachSource(blob, async (file) => {
          made = await this.#parts.remote.put(name, [
            { file, offset: 0, length: sizeBytes, crc32c },
          ]);
        });
    } catch (error) {
      // To make a segment takes room for it.
      if (isSealedBlob(blob) && isStoreError(error, 'busy')) return 'full';
      return await this.#goneOr(blob, error);
    }
    const { etag } = made as RemoteObject;
    const copy = { name, offset: 0, etag };
    return await this.#publish(blob, 'remote', { remote: copy }, options);
  }

  /** From disk first, where the segment is that already. */
  async #putSealed(blob: SealedBlob, name: string): Promise<RemoteObject> {
    const { remote, sealed } = this.#parts;
    const run = { offset: 0, length: blob.sizeBytes };
    let failure: unknown;
    for (const place of REVERSED_PLACES) {
      if (!copyIn(blob, place)) continue;
      try {
        const segment = await sealed.segmentOf(blob, run, place);
        try {
          return await remote.put(name, [segment.source]);
        } finally {
          segment.release();
        }
      } catch (error) {
        if (!isBadSource(error)) throw error;
        failure = error;
      }
    }
    throw failure;
  }

  async #fill(blob: BlobRecord, tier: LocalTier): Promise<void> {
    const { blobId, sizeBytes, crc32c } = blob;
    const to = tier.absolutePath(blobId);
    const { remote } = blob;
    const { blockSums } = this.#parts;
    try {
      await this.#fromEachSource(blob, async (from) => {
        const blocks = crc32c === null ? undefined : collectorFor(sizeBytes);
        const found = await this.#parts.mover.copy({
          ...{ from, to, sizeBytes, sync: false },
          ...(blocks && { blocks }),
        });
        if (found === crc32c && tier.name === 'disk') await blockSums.keep(blobId, blocks);
        if (crc32c === null || found === crc32c) return;
        throw new StoreError(
          'data_corrupt',
          `blob ${blobId} does not match its checksum on the way to tier ${tier.name}`,
          { blobId },
        );
      });
    } catch (error) {
      if (remote === null || !isBadSource(error)) throw error;
      const { name, offset, etag } = remote;
      const run = { offset, length: sizeBytes, crc32c, etag };
      const found = await this.#parts.remote.fetch(name, to, run);
      if (crc32c === null) await this.#parts.catalog.setBlobChecksum(blobId, found);
    }
  }

  /** Tries the local copies in turn: one that is broken or gone is no reason to fail while another is good. */
  async #fromEachSource(blob: BlobRecord, use: (file: string) => Promise<void>): Promise<void> {
    const { blobId } = blob;
    const { memory, disk } = this.#parts;
    let failure: unknown = new StoreError('data_lost', `blob ${blobId} has no local copy`, {
      blobId,
    });
    for (const tier of [
      ...(blob.memoryBytes === null ? [] : [memory]),
      ...(blob.diskBytes === null ? [] : [disk]),
    ]) {
      try {
        return await use(tier.absolutePath(blobId));
      } catch (error) {
        if (!isBadSource(error)) throw error;
        failure = error;
      }
    }
    throw failure;
  }

  async #publish(
    blob: BlobRecord,
    to: Place,
    made: Partial<BlobCopies>,
    options: MoveOptions,
  ): Promise<MoveResult> {
    const { catalog, log, recency } = this.#parts;
    const next: BlobCopies = {
      memoryBytes: options.drop.includes('memory') ? null : (made.memoryBytes ?? blob.memoryBytes),
      diskBytes: options.drop.includes('disk') ? null : (made.diskBytes ?? blob.diskBytes),
      remote: made.remote ?? blob.remote,
    };
    if (next.memoryBytes === null && next.diskBytes === null && next.remote === null) {
      throw new StoreError('internal', `refusing to drop the last copy of blob ${blob.blobId}`, {
        blobId: blob.blobId,
      });
    }
    if (next.memoryBytes === null && next.diskBytes === null) await this.#makeSums(blob);
    if (!(await catalog.setBlobCopies(blob.blobId, blob.generation, next))) return 'gone';
    // In one turn: what was made can be read, and what is dropped no more.
    this.#filling.delete(blob.blobId);
    if (made.memoryBytes != null) recency.add(blob.blobId, made.memoryBytes);
    const from: Place =
      blob.memoryBytes !== null ? 'memory' : blob.diskBytes !== null ? 'disk' : 'remote';
    if (blob.memoryBytes !== null && options.drop.includes('memory'))
      this.#giveUpQuietly('memory', blob.blobId);
    if (blob.diskBytes !== null && options.drop.includes('disk'))
      await this.#dropFromDisk(blob.blobId);
    this.#parts.onMoved({ from, to, bytes: blob.sizeBytes });
    log.add(blob.blobId, `copied to ${to}`, {
      from,
      why: options.why,
      dropped: options.drop.join('+') || 'nothing',
    });
    return 'done';
  }

  /** Before the last local copy goes: ranges from tier 2 are compared with the sums. */
  async #makeSums(blob: BlobRecord): Promise<void> {
    const { blockSums } = this.#parts;
    const { blobId, sizeBytes, crc32c } = blob;
    if (crc32c === null || isSealedBlob(blob)) return;
    const facts = { blobId, sizeBytes, crc32c };
    if (await blockSums.areStored(facts)) return;
    try {
      await this.#fromEachSource(blob, (file) => blockSums.make(facts, file));
    } catch (error) {
      if (!isBadSource(error)) throw error; // what tier 2 has may be good
    }
  }

  /** A power cut that took the change back would find the file gone, and where its bytes are forgotten: so it goes after. */
  async #dropFromDisk(blobId: number): Promise<void> {
    try {
      await this.#parts.catalog.durable();
    } catch (error) {
      this.#parts.onError(error); // the file is found as an orphan later
      return;
    }
    this.#giveUpQuietly('disk', blobId);
  }

  /** What was published stands: a file that cannot be unlinked is found as an orphan later. */
  #giveUpQuietly(place: 'memory' | 'disk', blobId: number): void {
    try {
      this.giveUp(place, blobId);
    } catch (error) {
      this.#parts.onError(error);
    }
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

function copyIn(blob: BlobRecord, place: Place): boolean {
  if (place === 'remote') return blob.remote !== null;
  return (place === 'memory' ? blob.memoryBytes : blob.diskBytes) !== null;
}

function isBadSource(error: unknown): boolean {
  return isStoreError(error, 'data_corrupt') || isStoreError(error, 'data_lost');
}
