/**
 * The life of a read: open (a lease and where the bytes are), read, release.
 *
 * I1  An opened object's bytes stay readable until its lease ends, whatever happens to the name meanwhile.
 * I2  A read gives exactly the bytes asked for, or fails; never fewer. A copy that turns out to be gone is no reason to fail
 *     while another is there.
 * I3  A read inside this process holds the file by a lease too: a file is not recycled under it.
 * I4  A client is shown no file with encrypted bytes: they are brought to memory for it, or read through us.
 * I5  What is read from disk or tier 2 is compared, block by block, with what the blob's CRC32C vouches for, before anybody
 *     sees it; a file on disk is shown to a client after it was compared whole (shown-files.ts). A copy that does not match
 *     is no reason to fail while another is there. What lies in memory is not compared.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { type ExtentLocation, isStoreError, MiB, StoreError, type TierIndex } from '@ebb/protocol';
import type {
  BlobRecord,
  Extent,
  ListOptions,
  ListPage,
  ObjectRecord,
  RemoteCopy,
} from '../catalog/catalog.ts';
import { storedSize } from '../encryption/vault.ts';
import { EXTENTS_MAX, PRESIGNED_READ_SECONDS } from '../limits.ts';
import { nextTurn } from '../next-turn.ts';
import { parseAnyBucketName } from '../object-ref.ts';
import { durabilityOfObject, shouldPromote } from '../placement/policy.ts';
import { isPrivateName, ownName } from '../placement/remote-names.ts';
import { isSealedBlob, type SealedBlob } from '../placement/sealed-copies.ts';
import { isStillThere } from '../tier/still-there.ts';
import type { LocalBlob } from '../tier/tier.ts';
import type { ReadRaw } from './checked-reads.ts';
import { blobIdsOf, ExtentIndex, extentCount, isManyExtents } from './extent-index.ts';
import type { FileLease, LeaseTable } from './lease-table.ts';
import type {
  ObjectRef,
  ObjectView,
  OpenedObject,
  OpenOptions,
  Owner,
  PresignedRead,
  StagedWrite,
} from './object-store.ts';
import type { StoreParts } from './parts.ts';
import { RecentMap } from './recent-map.ts';
import { forEachBlob } from './scan.ts';
import { type MayShow, ShownFiles } from './shown-files.ts';
import { takesTurns } from './turns.ts';
import { verifyBlob } from './verify.ts';
import { absenceOf, findReferenced } from './versions.ts';

interface HeldFile {
  readonly table: LeaseTable;
  readonly lease: FileLease;
}

interface Lease {
  readonly leaseId: number;
  readonly owner: Owner;
  readonly object: ObjectRecord;
  /** The local files this lease holds; of an object with many extents none, until blobs of it are freed. */
  readonly held: HeldFile[];
  /** What finds the extents of an object that has many: made at the first read. */
  index: Promise<ExtentIndex> | undefined;
  deadlineMs: number;
}

/** Between look-up and read a copy may move; more than a few times in a row means that there is none. */
const READ_LOOKUPS_MAX = 3;
/** Each pause is so much longer than the one before: whoever moves the copy gets on. */
const LOOKUP_PAUSE_MS = 5;
const READS_REMEMBERED_MIN = 32_768;
/** A larger object in tier 2 that is read through us is fetched as it is read. */
const FETCHED_WHOLE_BYTES_MAX = 8 * MiB;

/** Names of a listing that are looked up in one turn: some 5 ms. */
const LISTED_AT_ONCE = 1000;

export class ReadPath {
  readonly #parts: StoreParts;
  readonly #leases = new Map<number, Lease>();
  readonly #leasesOf = new Map<number, Set<number>>();
  /** Those of objects with many extents, which are read in ranges. */
  readonly #manyExtents = new Set<Lease>();
  readonly #reads = new RecentMap<number, number>(READS_REMEMBERED_MIN);
  readonly #promoting = new Set<number>();
  readonly #shown: ShownFiles;
  #lastLeaseId = 0;

  constructor(parts: StoreParts) {
    this.#parts = parts;
    this.#shown = new ShownFiles(parts);
  }

  async find(ref: ObjectRef): Promise<ObjectView | undefined> {
    parseAnyBucketName(ref.bucket);
    const object = await this.#findCurrent(ref);
    return object === undefined ? undefined : await this.view(object);
  }

  /** As it is in tier 2, where the bucket's policy says that others change it there. */
  async #findCurrent(ref: ObjectRef): Promise<ObjectRecord | undefined> {
    const { catalog, buckets, importer } = this.#parts;
    const object = await findReferenced(catalog, ref);
    if (ref.versionId !== undefined) return object;
    const maxAgeMs = buckets.find(ref.bucket)?.policy.revalidateMs ?? null;
    if (object === undefined || maxAgeMs === null) return object;
    try {
      return await importer.revalidate(object, maxAgeMs);
    } catch (error) {
      if (isStoreError(error, 'io_failed')) return object; // tier 2 is away: what is here is what there is
      throw error;
    }
  }

  async head(ref: ObjectRef): Promise<ObjectView> {
    const view = await this.find(ref);
    if (view === undefined) throw await this.notFound(ref);
    if (view.tiers.length === 0 && (await this.#isLost(view.object)))
      throw new StoreError('data_lost', `the bytes of ${ref.bucket}/${ref.key} are in no tier`, {
        bucket: ref.bucket,
        key: ref.key,
      });
    return view;
  }

  /** A long page comes in several turns of the event loop: it is no picture of one moment. */
  async list(
    bucket: string,
    options: ListOptions,
  ): Promise<{ objects: readonly ObjectView[]; prefixes: readonly string[]; next: string | null }> {
    const objects: ObjectView[] = [];
    const prefixes: string[] = [];
    let { startAfter } = options;
    for (;;) {
      const left = options.limit - objects.length - prefixes.length;
      const limit = Math.min(left, LISTED_AT_ONCE);
      const page = await this.listRecords(bucket, { ...options, startAfter, limit });
      for (const object of page.objects) objects.push(await this.view(object));
      prefixes.push(...page.prefixes);
      if (page.next === null || left <= LISTED_AT_ONCE)
        return { objects, prefixes, next: page.next };
      startAfter = page.next;
      await nextTurn();
    }
  }

  async listRecords(bucket: string, options: ListOptions): Promise<ListPage> {
    parseAnyBucketName(bucket);
    const page = await this.#parts.catalog.listObjects(bucket, options);
    if (
      page.objects.length === 0 &&
      page.prefixes.length === 0 &&
      (await this.#parts.catalog.findBucket(bucket)) === undefined
    ) {
      throw new StoreError('bucket_not_found', `no bucket "${bucket}"`, { bucket });
    }
    return page;
  }

  async view(object: ObjectRecord): Promise<ObjectView> {
    const blobs = await this.#blobsOf(object);
    const bucket =
      this.#parts.buckets.find(object.bucket) ??
      (await this.#parts.catalog.findBucket(object.bucket));
    const tiers: TierIndex[] = [];
    if (blobs.every((blob) => blob.memoryBytes !== null)) tiers.push(0);
    if (blobs.length > 0 && blobs.every((blob) => blob.diskBytes !== null)) tiers.push(1);
    if (blobs.length > 0 && blobs.every((blob) => blob.remote !== null)) tiers.push(2);
    return {
      object,
      durability: durabilityOfObject(object, blobs, bucket?.policy),
      tiers,
      isLost: tiers.length === 0 && blobs.some(isLostBlob),
    };
  }

  async open(owner: Owner, ref: ObjectRef, options: OpenOptions = {}): Promise<OpenedObject> {
    parseAnyBucketName(ref.bucket);
    const { catalog, importer } = this.#parts;
    let object = await this.#findCurrent(ref);
    if (object === undefined) throw await this.notFound(ref);
    let files: { extents: readonly ExtentLocation[]; held: readonly HeldFile[] };
    for (;;) {
      try {
        files = await this.#holdFiles(object, options);
        break;
      } catch (error) {
        // The object may have been replaced between look-up and hold: then its successor is what the caller asked for.
        const now =
          ref.versionId === undefined && this.#isChangedBehind(ref, error)
            ? await importer.refresh(ref)
            : await findReferenced(catalog, ref);
        if (now === undefined) throw await this.notFound(ref);
        if (now.version === object.version) throw error;
        object = now;
      }
    }
    return this.#lease(owner, object, files);
  }

  /**
   * Holds the file of a write that is about to be committed, so that its writer can go on reading whatever happens to the
   * name: `keep` makes it a lease on the version that came of it, `giveBack` ends it.
   */
  holdStaged({ tier, blobId, path }: StagedWrite): {
    keep(owner: Owner, object: ObjectRecord): OpenedObject;
    giveBack(): void;
  } {
    const { leases, diskLeases } = this.#parts;
    const table = tier === 0 ? leases : diskLeases;
    const held = [{ table, lease: table.lease(blobId) }];
    return {
      keep: (owner, object) => {
        const extents = object.extents.map((extent) => ({ tier, path, ...extent }));
        return this.#lease(owner, object, { extents, held });
      },
      giveBack: () => this.#endHolds(held, { returned: true }),
    };
  }

  /** The lease lives on, though nobody read. */
  keepAlive(leaseId: number): void {
    const lease = this.#leases.get(leaseId);
    if (lease !== undefined)
      lease.deadlineMs = this.#parts.awake.now() + this.#parts.settings.leaseTtlMs;
  }

  #lease(
    owner: Owner,
    object: ObjectRecord,
    {
      extents,
      held,
    }: { readonly extents: readonly ExtentLocation[]; readonly held: readonly HeldFile[] },
  ): OpenedObject {
    const { awake, settings } = this.#parts;
    if (!this.#parts.owners.has(owner.ownerId)) {
      this.#endHolds(held, { returned: true });
      throw new StoreError('aborted', `${owner.name} is gone: nobody would return this lease`);
    }
    const leaseId = ++this.#lastLeaseId;
    const lease: Lease = {
      leaseId,
      owner,
      object,
      held: [...held],
      index: undefined,
      deadlineMs: awake.now() + settings.leaseTtlMs,
    };
    this.#leases.set(leaseId, lease);
    if (isManyExtents(object)) this.#manyExtents.add(lease);
    let owned = this.#leasesOf.get(owner.ownerId);
    if (owned === undefined) {
      owned = new Set();
      this.#leasesOf.set(owner.ownerId, owned);
    }
    owned.add(leaseId);
    return { leaseId, object, extents };
  }

  /** Bytes that are gone are lost, unless others may delete objects in tier 2: then that is what happened. */
  #isChangedBehind(ref: ObjectRef, error: unknown): boolean {
    if (isStoreError(error, 'precondition_failed')) return true;
    const policy = this.#parts.buckets.find(ref.bucket)?.policy;
    return isStoreError(error, 'data_lost') && (policy?.revalidateMs ?? null) !== null;
  }

  release(owner: Owner, leaseIds: readonly number[]): void {
    for (const leaseId of leaseIds) {
      const lease = this.#leases.get(leaseId);
      if (lease?.owner.ownerId === owner.ownerId) this.#end(lease, { returned: true });
    }
  }

  dropOwner(owner: Owner): void {
    for (const leaseId of [...(this.#leasesOf.get(owner.ownerId) ?? [])])
      this.#end(this.#leases.get(leaseId) as Lease, { returned: false });
  }

  dropExpired(): void {
    const now = this.#parts.awake.now();
    for (const lease of this.#leases.values())
      if (lease.deadlineMs <= now) this.#end(lease, { returned: false });
  }

  async read(owner: Owner, leaseId: number, target: Uint8Array, position: number): Promise<void> {
    const lease = this.#leases.get(leaseId);
    if (lease?.owner.ownerId !== owner.ownerId)
      throw new StoreError('lease_not_found', `lease ${leaseId} was returned or has expired`, {
        leaseId,
      });
    lease.deadlineMs = this.#parts.awake.now() + this.#parts.settings.leaseTtlMs;
    const end = position + target.byteLength;
    if (!Number.isSafeInteger(position) || position < 0 || end > lease.object.sizeBytes) {
      throw new StoreError(
        'range_invalid',
        `bytes ${position} to ${end} of an object of ${lease.object.sizeBytes}`,
        { position, end, sizeBytes: lease.object.sizeBytes },
      );
    }
    try {
      for (const extent of await this.#extentsWithin(lease, position, end)) {
        const { blobId, offset, length, start } = extent;
        const from = start - position;
        await this.#readBlob(blobId, target.subarray(from, from + length), offset);
      }
    } catch (error) {
      throw await this.#lostOrGone(lease.object, error);
    }
  }

  /** Bytes in tier 2 are held by no lease: of a version that was replaced or deleted meanwhile nothing was lost. */
  async #lostOrGone({ bucket, key, version }: ObjectRecord, error: unknown): Promise<unknown> {
    if (!isStoreError(error, 'data_lost')) return error;
    if ((await this.#parts.catalog.findVersion(bucket, key, version)) !== undefined) return error;
    const message = `${bucket}/${key} was replaced or deleted while it was read; open it again`;
    return new StoreError('superseded', message, { bucket, key }, error);
  }

  async #extentsWithin(
    lease: Lease,
    from: number,
    to: number,
  ): Promise<Iterable<Extent & { readonly start: number }>> {
    const { object } = lease;
    const [only] = extentCount(object) === 1 ? object.extents : [];
    if (only !== undefined && to > from)
      return [{ ...only, offset: only.offset + from, length: to - from, start: from }];
    lease.index ??= ExtentIndex.of(object);
    return (await lease.index).slice(from, to);
  }

  /** Blobs that lost their last name: readers of objects with many extents, who hold no file of their own, get them now (I1). */
  async holdFreed(freed: readonly BlobRecord[]): Promise<void> {
    if (this.#manyExtents.size === 0) return;
    for (const lease of [...this.#manyExtents]) {
      const blobIds = await blobIdsOf(lease.object);
      if (!this.#leases.has(lease.leaseId)) continue;
      for (const { blobId } of freed)
        if (blobIds.has(blobId)) lease.held.push(...this.#holdBoth(blobId));
    }
  }

  #holdBoth(blobId: number): HeldFile[] {
    const { leases, diskLeases, placement } = this.#parts;
    const held: HeldFile[] = [];
    if (placement.readableIn('memory', blobId) !== undefined)
      held.push({ table: leases, lease: leases.lease(blobId) });
    if (placement.readableIn('disk', blobId) !== undefined)
      held.push({ table: diskLeases, lease: diskLeases.lease(blobId) });
    return held;
  }

  async presignRead(ref: ObjectRef): Promise<PresignedRead | undefined> {
    const { catalog, buckets, remote, settings } = this.#parts;
    if (!settings.presignReads) return undefined;
    const object = await findReferenced(catalog, ref);
    if (object === undefined || extentCount(object) !== 1) return undefined;
    const [extent] = object.extents;
    if (extent === undefined) return undefined;
    const blob = await catalog.findBlob(extent.blobId);
    if (blob === undefined || blob.remote === null || isSealedBlob(blob)) return undefined;
    if (blob.memoryBytes !== null || blob.diskBytes !== null) return undefined;
    // A blob may also lie in the middle of what tier 2 has under the name of another object.
    const { name, offset, etag } = blob.remote;
    const { policy } = buckets.find(ref.bucket) ?? (await buckets.get(ref.bucket));
    const isAlone = isPrivateName(name) || name === ownName(policy.remote, ref);
    const isWhole = extent.offset === 0 && extent.length === blob.sizeBytes && offset === 0;
    if (!isAlone || !isWhole) return undefined;
    const url = await remote.presign(name, { seconds: PRESIGNED_READ_SECONDS });
    return url === undefined ? undefined : { url, etag };
  }

  async readBlob(
    blobId: number,
    target: Uint8Array,
    position: number,
    owner?: Owner,
  ): Promise<void> {
    try {
      await this.#readBlob(blobId, target, position);
    } catch (error) {
      if (owner === undefined || !isStoreError(error, 'data_lost')) throw error;
      const object = await this.#leasedWith(owner, blobId);
      throw object === undefined ? error : await this.#lostOrGone(object, error);
    }
  }

  /** What the owner opened that has bytes in this blob. */
  async #leasedWith(owner: Owner, blobId: number): Promise<ObjectRecord | undefined> {
    for (const [step, leaseId] of [...(this.#leasesOf.get(owner.ownerId) ?? [])].entries()) {
      const turn = takesTurns(step);
      if (turn !== undefined) await turn;
      const object = this.#leases.get(leaseId)?.object;
      if (object !== undefined && (await blobIdsOf(object)).has(blobId)) return object;
    }
    return undefined;
  }

  /** A copy may move or vanish between look-up and read: then the next look-up tells where it went. */
  async #readBlob(blobId: number, target: Uint8Array, position: number): Promise<void> {
    let failure: StoreError | undefined;
    for (let attempt = 0; ; attempt++) {
      for (const place of ['memory', 'disk'] as const) {
        try {
          if (await this.#readLocal(place, blobId, target, position)) return;
        } catch (error) {
          if (!isStoreError(error) || !LOCAL_FAILURES.has(error.code)) throw error;
          failure = error;
        }
      }
      const blob = await this.#getBlob(blobId);
      const isLast = failure !== undefined || attempt === READ_LOOKUPS_MAX;
      const isRemoteOnly = blob.memoryBytes === null && blob.diskBytes === null;
      if (blob.remote !== null && (isRemoteOnly || isLast))
        return await this.#readRemote(blob, target, position);
      if (isLast || isRemoteOnly) throw failure ?? lost(blobId);
      await pause(attempt * LOOKUP_PAUSE_MS);
    }
  }

  /** @throws `superseded` when somebody replaced the object in tier 2: the name is followed then */
  async #readRemote(blob: BlobRecord, target: Uint8Array, position: number): Promise<void> {
    const { catalog, remote, ranges, importer, badCopies } = this.#parts;
    const { name, offset, etag } = blob.remote as RemoteCopy;
    try {
      if (isSealedBlob(blob)) await this.#readSegment(blob, target, position);
      else
        await this.#readRemoteChecked(blob, target, position, async (part, at) => {
          if (blob.sizeBytes > FETCHED_WHOLE_BYTES_MAX) await ranges.read(blob, part, at);
          else await remote.read(name, part, offset + at, { etag });
        });
    } catch (error) {
      if (isStoreError(error, 'data_corrupt')) await badCopies.found(2, blob.blobId, error);
      if (!isStoreError(error, 'precondition_failed')) throw error;
      const { blobId } = blob;
      for (const ref of await catalog.objectsOfBlob(blobId, 16)) await importer.refresh(ref);
      const message = `${name} was replaced in tier 2 while it was read; open it again`;
      throw new StoreError('superseded', message, { blobId }, error);
    }
  }

  /** I5 */
  async #readRemoteChecked(
    blob: BlobRecord,
    target: Uint8Array,
    position: number,
    raw: ReadRaw,
  ): Promise<void> {
    const { blockSums, checkedReads, ranges } = this.#parts;
    const { blobId } = blob;
    const facts = await blockSums.findFacts(blobId);
    if (facts === undefined) return await raw(target, position);
    // Once more: what came wrong over the network lies right in the store.
    for (let look = 0; look < 2; look++) {
      const compared = await checkedReads.read(facts, target, position, raw);
      if (compared === 'right') return;
      if (compared === 'unknown') return await raw(target, position);
      ranges.forget(blobId);
    }
    throw wrongBytes(blobId, 'tier 2', position, target.length);
  }

  async #readSegment(blob: SealedBlob, target: Uint8Array, position: number): Promise<void> {
    const { remote, ranges, sealed } = this.#parts;
    const { name, offset, etag } = blob.remote as RemoteCopy;
    const stored = { ...blob, sizeBytes: storedSize(blob) };
    const isCached = blob.sizeBytes > FETCHED_WHOLE_BYTES_MAX;
    await sealed.readRemote(blob, target, position, async (part, at) => {
      if (isCached) await ranges.read(stored, part, at);
      else await remote.read(name, part, offset + at, { etag });
    });
  }

  /** False when there is no whole file in this tier. */
  async #readLocal(
    place: 'memory' | 'disk',
    blobId: number,
    target: Uint8Array,
    position: number,
  ): Promise<boolean> {
    const { placement, leases, diskLeases } = this.#parts;
    if (placement.readableIn(place, blobId) === undefined) return false;
    const table = place === 'memory' ? leases : diskLeases;
    const lease = table.lease(blobId); // I3
    try {
      if (place === 'memory') await this.#parts.memory.read(blobId, target, position);
      else await this.#readDisk(blobId, target, position);
      return true;
    } finally {
      table.endLease(lease, { returned: true });
    }
  }

  /** I5. Sums that are missing, or that do not match, are made anew: then it is certain who is wrong. */
  async #readDisk(blobId: number, target: Uint8Array, position: number): Promise<void> {
    const { disk, vault, blockSums, checkedReads, badCopies } = this.#parts;
    try {
      const facts = vault.isSealedOnDisk(blobId) ? undefined : await blockSums.findFacts(blobId);
      if (facts === undefined) return await disk.read(blobId, target, position);
      const raw: ReadRaw = (part, at) => disk.read(blobId, part, at);
      if ((await checkedReads.read(facts, target, position, raw)) === 'right') return;
      if (!badCopies.isKept(1, blobId)) {
        await blockSums.make(facts, disk.absolutePath(blobId));
        if ((await checkedReads.read(facts, target, position, raw)) === 'right') return;
      }
      throw wrongBytes(blobId, 'disk', position, target.length);
    } catch (error) {
      if (isStoreError(error, 'data_corrupt')) await badCopies.found(1, blobId, error);
      throw error;
    }
  }

  async locate(blobId: number, length: number): Promise<ExtentLocation> {
    const inMemory = this.#offeredIn('memory', blobId);
    if (inMemory !== undefined) return { tier: 0, blobId, path: inMemory.path, offset: 0, length };
    const onDisk = this.#offeredIn('disk', blobId);
    if (onDisk !== undefined) return this.#locationOnDisk(onDisk, length);
    const blob = await this.#getBlob(blobId);
    if (blob.remote === null) {
      // It may just have come to a local tier: between this turn and the look-up.
      const again = this.#offeredIn('memory', blobId) ?? this.#offeredIn('disk', blobId);
      if (again === undefined) throw lost(blobId);
      if (this.#offeredIn('memory', blobId) === undefined)
        return this.#locationOnDisk(again, length);
      return { tier: 0, blobId, path: again.path, offset: 0, length };
    }
    return throughUs({ blobId, length, offset: 0 });
  }

  /** I4, I5: to a client, bytes that it can only ask us for are in tier 2. */
  #locationOnDisk({ blobId, path }: LocalBlob, length: number): ExtentLocation {
    const { vault, badCopies } = this.#parts;
    return vault.isSealedOnDisk(blobId) || badCopies.isKept(1, blobId)
      ? throughUs({ blobId, length, offset: 0 })
      : { tier: 1, blobId, path, offset: 0, length };
  }

  async resolve(
    blobId: number,
    length: number,
    options: { suspect: boolean },
  ): Promise<ExtentLocation> {
    if (options.suspect) await this.#dropBrokenCopies(blobId);
    const location = await this.locate(blobId, length);
    if (location.tier !== 2) return location;
    return await this.#bringUp(blobId, length);
  }

  notFound(ref: ObjectRef): Promise<StoreError> {
    return absenceOf(this.#parts.catalog, ref);
  }

  async #holdFiles(
    object: ObjectRecord,
    options: OpenOptions,
  ): Promise<{ extents: readonly ExtentLocation[]; held: readonly HeldFile[] }> {
    const extents: ExtentLocation[] = [];
    const held: HeldFile[] = [];
    if (options.ranges === true && isManyExtents(object))
      return { extents: await this.#locateFirst(object), held };
    if (extentCount(object) > EXTENTS_MAX)
      throw new StoreError(
        'unsupported',
        `${object.bucket}/${object.key} is made of ${extentCount(object)} pieces, by an older version; read it over HTTP`,
        { bucket: object.bucket, key: object.key, extents: extentCount(object) },
      );
    try {
      for (const [step, extent] of object.extents.entries()) {
        const turn = takesTurns(step);
        if (turn !== undefined) await turn;
        const { location, file } = await this.#holdFile(extent.blobId, extent.length, options);
        if (file !== undefined) held.push(file);
        extents.push({ ...location, offset: extent.offset });
      }
    } catch (error) {
      this.#endHolds(held, { returned: true });
      throw error;
    }
    return { extents, held };
  }

  /** It is read through us, and each range locates what it needs: where the first two lie is enough to tell. */
  async #locateFirst(object: ObjectRecord): Promise<ExtentLocation[]> {
    const located: ExtentLocation[] = [];
    const { sizeBytes } = object;
    for (const { blobId, offset, length } of (await ExtentIndex.of(object)).slice(0, sizeBytes)) {
      located.push({ ...(await this.locate(blobId, length)), offset });
      if (located.length === 2) break;
    }
    return located;
  }

  /** Locates, takes the lease, and looks again: the file may have been given up in between. */
  async #holdFile(
    blobId: number,
    length: number,
    options: OpenOptions,
  ): Promise<{ location: ExtentLocation; file: HeldFile | undefined }> {
    const { leases, diskLeases } = this.#parts;
    for (;;) {
      const location = await this.#locateForRead(blobId, length, options);
      if (location.tier === 2)
        return {
          location,
          file:
            this.#offeredIn('disk', blobId) === undefined
              ? undefined
              : { table: diskLeases, lease: diskLeases.lease(blobId) },
        };
      const place = location.tier === 0 ? 'memory' : 'disk';
      if (this.#offeredIn(place, blobId)?.path !== location.path) continue;
      const table = place === 'memory' ? leases : diskLeases;
      const file = { table, lease: table.lease(blobId) };
      if (place === 'memory') return { location, file };
      try {
        const shown = await this.#mayShow(blobId, options);
        if (shown === 'yes') return { location, file };
        if (shown === 'not yet') return { location: throughUs(location), file };
      } catch (error) {
        this.#endHolds([file], { returned: true });
        throw error;
      }
      this.#endHolds([file], { returned: true });
    }
  }

  /** Whether a reader may have the file on disk (I5). If it is bad, the next look finds another copy, or none that is shown. */
  async #mayShow(
    blobId: number,
    { ranges = false, files = !ranges }: OpenOptions,
  ): Promise<MayShow> {
    // Known from here on, also when the object is deleted before it is read.
    const facts = await this.#parts.blockSums.findFacts(blobId);
    if (facts === undefined || files === false) return 'yes';
    return await this.#shown.mayShow(facts, { toItsEnd: files === 'waits' });
  }

  /** The local file a new reader may have: whole, and not given up. */
  #offeredIn(place: 'memory' | 'disk', blobId: number): LocalBlob | undefined {
    const { leases, diskLeases, placement } = this.#parts;
    return (place === 'memory' ? leases : diskLeases).isInLimbo(blobId)
      ? undefined
      : placement.readableIn(place, blobId);
  }

  #endHolds(held: readonly HeldFile[], options: { returned: boolean }): void {
    for (const { table, lease } of held) table.endLease(lease, options);
  }

  async #locateForRead(
    blobId: number,
    length: number,
    { ranges = false }: OpenOptions,
  ): Promise<ExtentLocation> {
    const { recency, spiller, badCopies } = this.#parts;
    const location = await this.locate(blobId, length);
    if (location.tier === 0) recency.touch(blobId);
    if (location.tier === 1) {
      spiller.noteDiskRead(blobId);
      this.#promoteIfHot(blobId);
    }
    if (location.tier !== 2 || (ranges && length > FETCHED_WHOLE_BYTES_MAX)) return location;
    // What of it is right is read through us.
    if (badCopies.isKept(1, blobId) || badCopies.isKept(2, blobId)) return location;
    return await this.#bringUp(blobId, length);
  }

  /** Tier 2 only: to memory when there is room, else to disk, else it is read from where it is. */
  async #bringUp(blobId: number, length: number): Promise<ExtentLocation> {
    const { placement, memory, vault, badCopies } = this.#parts;
    const blob = await this.#getBlob(blobId);
    const isOnDisk = vault.isSealedOnDisk(blobId);
    const toMemory = shouldPromote(
      { sizeBytes: blob.sizeBytes, readsSeen: 2 },
      memory.usage(),
      this.#parts.settings.memoryMarks,
    );
    const options = { drop: [], why: 'read while only in tier 2' };
    try {
      for (const to of toMemory ? (['memory', 'disk'] as const) : (['disk'] as const)) {
        if (to === 'disk' && isOnDisk) break;
        if ((await placement.move(blobId, to, options)) === 'done') break;
      }
    } catch (error) {
      if (isStoreError(error, 'data_lost')) throw await this.#lostOr(blob, error);
      if (!isStoreError(error, 'data_corrupt')) throw error;
      await badCopies.found(2, blobId, error); // what of it is right is read through us
    }
    return await this.locate(blobId, length);
  }

  /** One answer of tier 2 loses nothing: what it still has could just not be read. */
  async #lostOr({ remote: copy }: BlobRecord, error: StoreError): Promise<StoreError> {
    if (copy === null || !(await isStillThere(this.#parts.remote, copy))) return error;
    const message = `${copy.name}: tier 2 did not give it, and then says that it is there`;
    return new StoreError('io_failed', message, { name: copy.name }, error);
  }

  #promoteIfHot(blobId: number): void {
    const { catalog, memory, placement, settings, observer } = this.#parts;
    const readsSeen = (this.#reads.get(blobId) ?? 0) + 1;
    this.#reads.set(blobId, readsSeen);
    if (readsSeen < 2 || this.#promoting.has(blobId)) return;
    this.#promoting.add(blobId);
    void (async () => {
      try {
        const blob = await catalog.findBlob(blobId);
        if (blob === undefined || blob.memoryBytes !== null) return;
        if (
          !shouldPromote(
            { sizeBytes: blob.sizeBytes, readsSeen },
            memory.usage(),
            settings.memoryMarks,
          )
        )
          return;
        await placement.move(blobId, 'memory', { drop: [], why: 'read again' });
      } catch (error) {
        observer.failed(error, 'promotion');
      } finally {
        this.#promoting.delete(blobId);
      }
    })();
  }

  /**
   * What is certainly broken goes, also the last copy: wrong bytes are worse than none. What could just not be read goes only
   * while another copy is good.
   */
  async #dropBrokenCopies(blobId: number): Promise<void> {
    const { placement, badCopies, memory, disk } = this.#parts;
    await placement.exclusively(blobId, async () => {
      const blob = await this.#getBlob(blobId);
      const found = await verifyBlob(this.#parts, blob);
      // A copy in a directory that is away is not broken.
      if (found.some(({ tier }) => tier === 0)) memory.assertThere();
      if (found.some(({ tier }) => tier === 1)) disk.assertThere();
      const copies = [blob.memoryBytes, blob.diskBytes, blob.remote].filter((c) => c !== null);
      const broken = found.length < copies.length ? found : found.filter((c) => c.isCertain);
      if (broken.length === 0) return;
      await badCopies.setAside(blob, broken);
    });
  }

  async #isLost(object: ObjectRecord): Promise<boolean> {
    for (const [step, blobId] of [...(await blobIdsOf(object))].entries()) {
      const turn = takesTurns(step);
      if (turn !== undefined) await turn;
      const blob = await this.#parts.catalog.findBlob(blobId);
      if (blob === undefined) return true;
      if (blob.memoryBytes === null && blob.diskBytes === null && blob.remote === null) return true;
    }
    return false;
  }

  async #blobsOf(object: ObjectRecord): Promise<readonly BlobRecord[]> {
    const blobs: BlobRecord[] = [];
    await forEachBlob(object, async (blobId) => {
      const blob = await this.#parts.catalog.findBlob(blobId);
      if (blob !== undefined) blobs.push(blob);
    });
    return blobs;
  }

  async #getBlob(blobId: number): Promise<BlobRecord> {
    const blob = await this.#parts.catalog.findBlob(blobId);
    if (blob === undefined) throw lost(blobId);
    return blob;
  }

  #end(lease: Lease, options: { returned: boolean }): void {
    this.#leases.delete(lease.leaseId);
    this.#manyExtents.delete(lease);
    const owned = this.#leasesOf.get(lease.owner.ownerId);
    owned?.delete(lease.leaseId);
    if (owned?.size === 0) this.#leasesOf.delete(lease.owner.ownerId);
    this.#endHolds(lease.held, options);
  }
}

/** One that nothing refers to any more is being removed: its object was replaced or deleted meanwhile. */
function isLostBlob({ refs, memoryBytes, diskBytes, remote }: BlobRecord): boolean {
  return refs > 0 && memoryBytes === null && diskBytes === null && remote === null;
}

/** What may be wrong with one copy, while another is good. */
const LOCAL_FAILURES: ReadonlySet<string> = new Set(['data_lost', 'io_failed', 'data_corrupt']);

/** A client asks us for its bytes. */
function throughUs(extent: Omit<ExtentLocation, 'tier' | 'path'>): ExtentLocation {
  return { ...extent, tier: 2, path: '' };
}

function wrongBytes(blobId: number, where: string, position: number, length: number): StoreError {
  const message = `blob ${blobId} on ${where} does not match its checksum within bytes ${position} to ${position + length}`;
  return new StoreError('data_corrupt', message, { blobId, position, length });
}

function lost(blobId: number): StoreError {
  return new StoreError('data_lost', `no copy of blob ${blobId} is left in any tier`, { blobId });
}
