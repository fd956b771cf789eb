/**
 * The object store: owns the clocks that tick inside a node (expiry of staged writes, leases, jobs, TTLs), and answers
 * ObjectStore (object-store.ts), where the contract is.
 *
 * Writes are in write-path.ts, reads in read-path.ts, deletions in deletions.ts, jobs in job-life.ts; what is here is names, and
 * the life of the store itself. What it stands on is put together in open-store.ts.
 */

import { type Ack, StoreError, type TierIndex } from '@ebb/protocol';
import type {
  BucketPolicy,
  BucketRecord,
  Condition,
  ListOptions,
  ListPage,
  ObjectRecord,
  VersionRecord,
} from '../catalog/catalog.ts';
import { storedSize } from '../encryption/vault.ts';
import { FileTable } from '../files/file-table.ts';
import { parseAnyBucketName, parseBucketName, parseKey, versionsBucketOf } from '../object-ref.ts';
import type { MoveResult } from '../placement/blob-placement.ts';
import { durabilityOf, meets } from '../placement/policy.ts';
import { type BodySums, createBodySums } from './body-sums.ts';
import { syncBucket } from './bucket-sync.ts';
import { composeObject } from './compose.ts';
import { type DeletedCount, Deletions } from './deletions.ts';
import { type EventBatch, EventFeed, type FollowOptions } from './events.ts';
import { blobIdsOf } from './extent-index.ts';
import { GrowthRate } from './growth-rate.ts';
import { JobLife } from './job-life.ts';
import type { LeaseTable } from './lease-table.ts';
import { neverFits } from './never-fits.ts';
import type {
  BrokenBlob,
  BucketTotals,
  CommitOptions,
  Committed,
  ComposeOptions,
  ComposeSource,
  DeleteReceipt,
  JobOpening,
  JobReceipt,
  JobView,
  ObjectRef,
  ObjectStore,
  ObjectView,
  OpenedObject,
  OpenOptions,
  Owner,
  PresignedRead,
  SpoolStatus,
  StagedWrite,
  StageOptions,
  SyncOptions,
  SyncReport,
  TierStatus,
  VersionListed,
  VersionListing,
  WhyEvent,
} from './object-store.ts';
import { payOwed } from './owed.ts';
import type { StoreParts } from './parts.ts';
import { ReadPath } from './read-path.ts';
import { retireFreed } from './recovery.ts';
import type { Retirement } from './retirement.ts';
import { Rewriting } from './rewriting.ts';
import {
  allBlobs,
  blobsUnder,
  forEachBlob,
  isAnythingUnder,
  isName,
  objectsUnder,
} from './scan.ts';
import { verifyAll } from './verify.ts';
import { listVersions, stamped } from './versions.ts';
import { type Waited, type WaitOptions, Waits } from './wait.ts';
import { WritePath } from './write-path.ts';

const SWEEP_MS = 1000;
/** A sweep this late means that the process was stopped: what clients sent may wait in sockets, unread. */
const SWEEP_LATE_MS = 5000;

export class CatalogObjectStore implements ObjectStore {
  readonly nodeId: string;
  readonly files: FileTable;
  readonly #parts: StoreParts;
  readonly #writes: WritePath;
  readonly #reads: ReadPath;
  readonly #deletions: Deletions;
  readonly #jobs: JobLife;
  readonly #retirement: Retirement;
  readonly #cutRemote: () => void;
  readonly #waits: Waits;
  readonly #feed: EventFeed;
  readonly #rewriting: Rewriting;
  readonly #stop = new AbortController();
  readonly #owners: Set<number>;
  readonly #diskGrowth = new GrowthRate();
  #sweeping: Promise<void> | undefined;
  #lastOwnerId = 0;

  constructor(
    parts: StoreParts,
    options: {
      readonly owners: Set<number>;
      readonly waits: Waits;
      readonly retirement: Retirement;
      readonly cutRemote: () => void;
      readonly nodeId: string;
    },
  ) {
    this.#parts = parts;
    this.nodeId = options.nodeId;
    this.#owners = options.owners;
    this.#writes = new WritePath(parts);
    this.#reads = new ReadPath(parts);
    this.#deletions = new Deletions(parts);
    this.#jobs = new JobLife(parts, this.#writes, this.#deletions);
    this.#retirement = options.retirement;
    this.#cutRemote = options.cutRemote;
    this.#retirement.holdFirst((freed) => this.#reads.holdFreed(freed));
    this.#waits = options.waits;
    this.#feed = new EventFeed(parts.catalog);
    this.#rewriting = new Rewriting(this, parts.catalog);
    this.files = new FileTable({
      ...parts,
      reads: this.#reads,
      writes: this.#writes,
      promise: async (object, ack) => (await this.#keepPromises(object, ack)).durability,
    });
  }

  async start(): Promise<void> {
    const { catalog, clock, mirror, privateCopies, spiller, spoolGate } = this.#parts;
    await this.#jobs.adopt();
    spoolGate.look(await catalog.spoolTotals(), clock.now());
    this.#parts.rooms.look();
    privateCopies.wake();
    mirror.wake();
    void spiller.makeRoom(0);
    void spiller.makeRoom(1);
    await this.totals();
    this.#sweeping = this.#sweepUntilStopped();
  }

  get guards(): LeaseTable {
    return this.#parts.leases;
  }

  createOwner(name: string): Owner {
    const ownerId = ++this.#lastOwnerId;
    this.#owners.add(ownerId);
    return { ownerId, name };
  }

  async dropOwner(owner: Owner): Promise<void> {
    this.#owners.delete(owner.ownerId);
    this.files.dropOwner(owner);
    this.#writes.dropOwner(owner);
    this.#reads.dropOwner(owner);
    this.#parts.leases.dropOwner(owner);
    await Promise.resolve();
  }

  createBucket(
    name: string,
    policy: BucketPolicy,
  ): Promise<{ created: boolean; bucket: BucketRecord }> {
    return this.#parts.buckets.create(name, policy);
  }
  getBucket(name: string): Promise<BucketRecord> {
    return this.#parts.buckets.get(name);
  }
  listBuckets(): Promise<readonly BucketRecord[]> {
    return this.#parts.buckets.list();
  }
  uploadsOf(bucket: string): Promise<string> {
    return this.#parts.buckets.uploadsOf(bucket);
  }
  async bucketTotals(name: string): Promise<BucketTotals> {
    const { catalog } = this.#parts;
    const totals = await catalog.bucketTotals(name);
    const versioning = (await catalog.findBucket(name))?.policy.versioning;
    if (versioning === undefined || versioning === 'off') return totals;
    const old = await catalog.bucketTotals(versionsBucketOf(name));
    return { ...totals, oldVersions: old.objects, oldVersionsBytes: old.sizeBytes };
  }
  async versioningOf(name: string): Promise<BucketPolicy['versioning']> {
    const { buckets } = this.#parts;
    return (buckets.find(name) ?? (await buckets.get(name))).policy.versioning;
  }
  setVersioning(name: string, versioning: 'enabled' | 'suspended'): Promise<BucketRecord> {
    return this.#parts.buckets.setVersioning(name, versioning);
  }
  setEncrypted(name: string, encrypted: boolean): Promise<BucketRecord> {
    return this.#parts.buckets.setEncrypted(name, encrypted);
  }
  deleteBucket(name: string): Promise<void> {
    return this.#parts.buckets.delete(name);
  }

  stage(owner: Owner, ref: ObjectRef, options: StageOptions): Promise<StagedWrite> {
    return this.#writes.stage(owner, ref, options);
  }
  shrink(owner: Owner, writeId: number): void {
    this.#writes.shrink(owner, writeId);
  }

  extend(owner: Owner, writeId: number, reserveBytes: number): number {
    return this.#writes.extend(owner, writeId, reserveBytes);
  }
  write(owner: Owner, writeId: number, source: Uint8Array, position: number): Promise<void> {
    return this.#writes.write(owner, writeId, source, position);
  }
  createBodySums(): BodySums {
    return createBodySums(this.#parts.checksums);
  }
  commit(owner: Owner, writeId: number, options: CommitOptions): Promise<Committed> {
    return this.#writes.commit(owner, writeId, options);
  }
  isStagedUnder(prefix: ObjectRef): boolean {
    return this.#parts.staging.isAnyUnder(prefix);
  }

  async abort(owner: Owner, writeId: number): Promise<void> {
    this.#writes.abort(owner, writeId);
    await Promise.resolve();
  }

  head(ref: ObjectRef): Promise<ObjectView> {
    return this.#reads.head(ref);
  }
  find(ref: ObjectRef): Promise<ObjectView | undefined> {
    return this.#reads.find(ref);
  }
  list(bucket: string, options: ListOptions): ReturnType<ObjectStore['list']> {
    return this.#reads.list(bucket, options);
  }
  listRecords(bucket: string, options: ListOptions): Promise<ListPage> {
    return this.#reads.listRecords(bucket, options);
  }
  open(owner: Owner, ref: ObjectRef, options?: OpenOptions): Promise<OpenedObject> {
    return this.#reads.open(owner, ref, options);
  }
  release(owner: Owner, leaseIds: readonly number[]): void {
    this.#reads.release(owner, leaseIds);
  }
  read(owner: Owner, leaseId: number, target: Uint8Array, position: number): Promise<void> {
    return this.#reads.read(owner, leaseId, target, position);
  }
  presignRead(ref: ObjectRef): Promise<PresignedRead | undefined> {
    return this.#reads.presignRead(ref);
  }
  readBlob(blobId: number, target: Uint8Array, position: number, owner?: Owner): Promise<void> {
    return this.#reads.readBlob(blobId, target, position, owner);
  }
  locate(blobId: number, length: number): ReturnType<ObjectStore['locate']> {
    return this.#reads.locate(blobId, length);
  }
  resolve(
    blobId: number,
    length: number,
    options: { suspect: boolean },
  ): ReturnType<ObjectStore['resolve']> {
    return this.#reads.resolve(blobId, length, options);
  }

  wait(ref: ObjectRef, ack: Ack, options?: WaitOptions): Promise<Waited> {
    return this.#waits.wait(ref, ack, options);
  }
  events(options: FollowOptions): AsyncGenerator<EventBatch, never> {
    return this.#feed.follow(options);
  }

  delete(
    ref: ObjectRef,
    condition?: Condition,
    options?: { readonly marksAbsent?: boolean },
  ): Promise<DeleteReceipt> {
    return this.#deletions.delete(ref, condition, options);
  }
  deleteVersion(
    ref: ObjectRef & { readonly versionId: string },
    condition?: Condition,
  ): Promise<VersionRecord | undefined> {
    return this.#deletions.deleteVersion(ref, condition);
  }
  deleteAllVersions(bucket: string, prefix: string): Promise<DeletedCount> {
    return this.#deletions.deleteAllVersions(bucket, prefix);
  }
  deletePrefix(bucket: string, prefix: string): Promise<DeletedCount> {
    return this.#deletions.deletePrefix(bucket, prefix);
  }

  async listVersions(bucket: string, options: VersionListing): Promise<VersionListed> {
    parseBucketName(bucket);
    await this.#parts.buckets.get(bucket);
    return await listVersions(this.#parts.catalog, bucket, options);
  }

  async copy(from: ObjectRef, to: ObjectRef, condition: Condition = {}): Promise<ObjectView> {
    parseAnyBucketName(to.bucket);
    parseKey(to.key);
    if (await this.#mustRewrite([from.bucket, to.bucket]))
      return (await this.#rewriting.copy(from, to, condition)).view;
    const result = await stamped(this.#parts, (stamp) =>
      this.#parts.catalog.copyObject(from, { ...to, ...stamp }, condition),
    );
    await this.#parts.retireAll(result.freed);
    return await this.#keepPromises(result.object);
  }

  async compose(
    to: ObjectRef,
    sources: readonly ComposeSource[],
    options: ComposeOptions,
  ): Promise<ObjectView> {
    if (await this.#mustRewrite([to.bucket, ...sources.map(({ bucket }) => bucket)]))
      return await this.#rewriting.compose(to, sources, options);
    const composed = await composeObject(this.#parts, to, sources, options);
    if (composed === 'too many extents') return await this.#rewriting.compose(to, sources, options);
    const { object, freed } = composed;
    await this.#parts.retireAll(freed);
    return await this.#keepPromises(object, options.ack);
  }

  async rename(from: ObjectRef, to: ObjectRef, condition: Condition = {}): Promise<ObjectView> {
    parseAnyBucketName(to.bucket);
    parseKey(to.key);
    if (await this.#mustRewrite([from.bucket, to.bucket])) {
      const { view, source } = await this.#rewriting.copy(from, to, condition);
      await this.delete(from, { ifMatch: source.etag });
      return view;
    }
    const result = await stamped(this.#parts, (stamp) =>
      this.#parts.catalog.renameObject(from, to, condition, stamp),
    );
    await this.#parts.retireAll(result.freed);
    this.#parts.mirror.wake();
    return from.bucket === to.bucket
      ? await this.#reads.view(result.object)
      : await this.#keepPromises(result.object);
  }

  async renamePrefix(
    from: { bucket: string; prefix: string },
    to: { bucket: string; prefix: string },
    options: { overwrite: boolean },
  ): Promise<{ objects: number; sizeBytes: number }> {
    parseAnyBucketName(from.bucket);
    parseAnyBucketName(to.bucket);
    await this.#assertShares(from.bucket, to.bucket);
    const result = await stamped(this.#parts, (stamp) =>
      this.#parts.catalog.renamePrefix(from, to, options, stamp),
    );
    await this.#parts.retireAll(result.freed);
    this.#parts.mirror.wake();
    if (from.bucket !== to.bucket)
      for await (const object of objectsUnder(this.#parts.catalog, to.bucket, to.prefix))
        await this.#keepPromises(object);
    return { objects: result.objects, sizeBytes: result.sizeBytes };
  }

  async copyPrefix(
    from: { bucket: string; prefix: string },
    to: { bucket: string; prefix: string },
    options: { overwrite: boolean; exact: boolean },
  ): Promise<{ objects: number; sizeBytes: number; removed: number }> {
    parseAnyBucketName(from.bucket);
    parseAnyBucketName(to.bucket);
    if (options.exact && !options.overwrite)
      throw new StoreError('request_invalid', 'exact deletes objects, so it needs overwrite');
    await this.#assertShares(from.bucket, to.bucket);
    const result = await stamped(this.#parts, (stamp) =>
      this.#parts.catalog.copyPrefix(from, to, options, stamp),
    );
    await this.#parts.retireAll(result.freed);
    this.#parts.mirror.wake();
    for await (const object of objectsUnder(this.#parts.catalog, to.bucket, to.prefix))
      await this.#keepPromises(object);
    return { objects: result.objects, sizeBytes: result.sizeBytes, removed: result.removed };
  }

  async sync(bucket: string, prefix: string, options: SyncOptions): Promise<SyncReport> {
    await this.#parts.buckets.get(bucket);
    return await syncBucket(this.#parts, { bucket, prefix }, options);
  }

  async setPinned(ref: ObjectRef, pinned: boolean): Promise<ObjectView> {
    parseAnyBucketName(ref.bucket);
    return await this.#reads.view(await this.#parts.catalog.setPinned(ref.bucket, ref.key, pinned));
  }

  async setAttributes(
    ref: ObjectRef,
    change: (attributes: ObjectRecord['attributes']) => ObjectRecord['attributes'],
  ): Promise<ObjectView> {
    parseAnyBucketName(ref.bucket);
    const { catalog } = this.#parts;
    for (;;) {
      const { object } = await this.#reads.head(ref);
      const { bucket, key, version, attributes } = object;
      const changed = await catalog.setAttributes(
        { bucket, key, version },
        { from: attributes, to: change(attributes) },
      );
      if (changed !== undefined) return await this.#reads.view(changed);
    }
  }

  async relocate(ref: ObjectRef, tier: TierIndex): Promise<ObjectView> {
    const { object } = await this.#reads.head(ref);
    const place = (['memory', 'disk', 'remote'] as const)[tier];
    const drop =
      tier === 0 ? [] : tier === 1 ? (['memory'] as const) : (['memory', 'disk'] as const);
    if (tier === 2) await this.#parts.mirror.flush(object);
    for (const extent of object.extents) {
      const move = (): Promise<MoveResult> =>
        this.#parts.placement.move(extent.blobId, place, { drop, why: 'relocated by request' });
      let result = await move();
      if (result === 'full' && tier !== 2) {
        const blob = await this.#parts.catalog.findBlob(extent.blobId);
        // A blob moves as a whole, also where the object has a part of it.
        const wholeBytes = blob?.sizeBytes ?? extent.length;
        const needBytes = blob !== undefined && tier === 1 ? storedSize(blob) : wholeBytes;
        const { capacityBytes } = this.#parts[tier === 0 ? 'memory' : 'disk'].usage();
        if (needBytes > capacityBytes)
          throw neverFits(ref, { needBytes, capacityBytes, where: place });
        await this.#parts.spiller.makeRoom(tier, needBytes);
        result = await move();
      }
      if (result === 'full' && this.#isGivenUp(tier, extent.blobId))
        throw new StoreError(
          'busy',
          `${ref.bucket}/${ref.key}: readers still hold its former file in ${place}`,
          { tier, retryAfterMs: 1000 },
        );
      if (result === 'full') {
        throw new StoreError(
          'tier_full',
          `${ref.bucket}/${ref.key} needs ${extent.length} bytes in ${place}, which has no room`,
          { tier, needBytes: extent.length },
        );
      }
    }
    return await this.#reads.head(ref);
  }

  openJob(job: JobOpening): Promise<JobView> {
    return this.#jobs.open(job);
  }
  heartbeat(jobId: string, token?: string): void {
    this.#jobs.heartbeat(jobId, token);
  }
  getJob(jobId: string): Promise<JobView> {
    return this.#jobs.get(jobId);
  }
  listJobs(): Promise<readonly JobView[]> {
    return this.#jobs.list();
  }
  endJob(jobId: string, token?: string): Promise<JobReceipt> {
    return this.#jobs.end(jobId, token);
  }
  onJobEnd(listener: (jobId: string) => void | Promise<void>): void {
    this.#jobs.onEnd(listener);
  }

  tiers(): readonly TierStatus[] {
    const { memory, disk, remote, staging } = this.#parts;
    return [
      { tier: 0, location: memory.root, ...memory.usage(), stagedBytes: staging.stagedBytes(0) },
      { tier: 1, location: disk.root, ...disk.usage(), stagedBytes: staging.stagedBytes(1) },
      {
        tier: 2,
        location: remote.location,
        capacityBytes: null,
        usedBytes: this.#remoteBytes,
        stagedBytes: 0,
        pooledBytes: 0,
        blobs: this.#remoteBlobs,
      },
    ];
  }
  #remoteBytes = 0;
  #remoteBlobs = 0;

  async totals(): Promise<{ buckets: number; objects: number; blobs: number }> {
    const totals = await this.#parts.catalog.totals();
    this.#remoteBytes = totals.bytes[2];
    this.#remoteBlobs = totals.blobsByTier[2];
    const buckets = (await this.listBuckets()).length; // without the hidden ones
    return { buckets, objects: totals.objects, blobs: totals.blobs };
  }

  async spool(): Promise<SpoolStatus> {
    const totals = await this.#parts.catalog.spoolTotals();
    const { capacityBytes } = this.#parts.disk.usage();
    return { ...totals, secondsUntilFull: this.#diskGrowth.secondsUntil(capacityBytes) };
  }

  async why(
    ref: ObjectRef,
  ): Promise<{ view: ObjectView | undefined; events: readonly WhyEvent[] }> {
    const view = await this.#reads.find(ref);
    const blobIds = view === undefined ? [] : await blobIdsOf(view.object);
    const events = [...blobIds].flatMap((blobId) => this.#parts.log.of(blobId));
    return { view, events: [...events].sort((a, b) => a.sequence - b.sequence) };
  }

  async verify(options: {
    bucket?: string;
    prefix?: string;
    signal?: AbortSignal;
  }): Promise<{ blobs: number; bytes: number; broken: readonly BrokenBlob[] }> {
    const { catalog, buckets } = this.#parts;
    const { bucket, prefix = '' } = options;
    if (bucket !== undefined) {
      await buckets.get(bucket);
      // A name with a slip in it is not found, rather than sound; a directory may be empty.
      if (isName(prefix) && !(await isAnythingUnder(catalog, bucket, prefix)))
        throw new StoreError('not_found', `no object ${bucket}/${prefix}, and none below it`, {
          bucket,
          key: prefix,
        });
    }
    const blobs = bucket === undefined ? allBlobs(catalog) : blobsUnder(catalog, bucket, prefix);
    return await verifyAll(this.#parts, blobs, options.signal);
  }

  async gc(): ReturnType<ObjectStore['gc']> {
    const { memory, disk } = this.#parts;
    const expiredStagings = this.#writes.dropExpired();
    await retireFreed(this.#parts);
    const lostObjects = await this.#deletions.deleteLost();
    const orphans = [await memory.removeOrphans(), await disk.removeOrphans()];
    return {
      expiredStagings,
      orphanFiles: orphans.reduce((sum, found) => sum + found.files, 0),
      orphanBytes: orphans.reduce((sum, found) => sum + found.bytes, 0),
      lostObjects,
      trimmedPoolBytes: memory.trimPool(0),
    };
  }

  async populate(
    want: { readonly fileBytes: number; readonly files: number },
    signal?: AbortSignal,
  ): Promise<void> {
    await this.#parts.memory.populate(want, signal);
  }

  async drain(options: { persist: boolean; deadlineMs: number }): Promise<void> {
    const { clock, staging, mirror, catalog } = this.#parts;
    this.#writes.refuseNewWrites();
    this.#feed.close();
    const until = clock.monotonic() + options.deadlineMs;
    const ended = new AbortController();
    void clock.sleep(options.deadlineMs, ended.signal).then(
      () => this.giveUpRemote(),
      () => undefined,
    );
    try {
      while (staging.size > 0 && clock.monotonic() < until) await clock.sleep(20);
      await mirror.idle(AbortSignal.timeout(Math.max(1, until - clock.monotonic())));
      if (options.persist) await this.#persist(until);
    } finally {
      ended.abort();
    }
    // The end of the time may have come to us before it came to the alarm above: who waits for tier 2 is told.
    if ((await catalog.spoolTotals()).entries > 0) this.giveUpRemote();
    this.#waits.close();
    await catalog.durable();
  }

  giveUpRemote(): void {
    this.#parts.mirror.stop();
    this.#cutRemote();
  }

  async close(): Promise<void> {
    const { mirror, spiller, placement, privateCopies } = this.#parts;
    const { memory, disk, remote, mover, commitMover, catalog } = this.#parts;
    this.#writes.refuseNewWrites();
    this.#feed.close();
    this.#waits.close();
    this.#stop.abort();
    this.giveUpRemote();
    await this.#sweeping;
    await this.#writes.settled();
    await mirror.close();
    await spiller.close();
    await placement.settled();
    await privateCopies.close();
    await mover.close();
    if (commitMover !== mover) await commitMover.close();
    await this.#parts.checksums.close();
    await memory.close();
    await disk.close();
    await remote.close();
    try {
      await catalog.durable();
    } finally {
      await catalog.close();
    }
  }

  /** Everything that lies on this node alone goes to tier 2, as far as the time allows. */
  async #persist(until: number): Promise<void> {
    const { catalog, clock, placement, observer } = this.#parts;
    const left = { blobs: 0, bytes: 0 };
    for await (const blob of allBlobs(catalog, 'unmirrored')) {
      if (clock.monotonic() < until) {
        try {
          await placement.move(blob.blobId, 'remote', { drop: [], why: 'persisted at shutdown' });
        } catch (error) {
          observer.failed(error, 'persist', `blob ${blob.blobId}`);
        }
        continue;
      }
      left.blobs++;
      left.bytes += blob.sizeBytes;
    }
    if (left.blobs === 0) return;
    const message = `${left.blobs} blobs (${left.bytes} bytes) are not in tier 2: the time to drain was up`;
    observer.failed(new StoreError('busy', message, left), 'persist');
  }

  /** An object that came to a bucket without being written there gets what the bucket's policy promises. */
  async #keepPromises(object: ObjectRecord, asked?: Ack): Promise<ObjectView> {
    return await payOwed(object, () => this.#promise(object, asked));
  }

  async #promise(object: ObjectRecord, asked?: Ack): Promise<ObjectView> {
    const { catalog, placement, disk, mirror } = this.#parts;
    const policy = (await catalog.findBucket(object.bucket))?.policy;
    const ack = asked ?? policy?.ack ?? 'memory';
    mirror.wake();
    if (ack === 'remote') {
      await catalog.askMirrored(object);
      await mirror.ensureStored(object);
    }
    const toDisk = async (blobId: number): Promise<void> => {
      const blob = await catalog.findBlob(blobId);
      if (blob === undefined || meets(durabilityOf(blob), 'remote')) return;
      const why = `policy of ${object.bucket}`;
      const result = await placement.move(blobId, 'disk', { drop: [], why });
      if (result === 'full') void this.#parts.spiller.makeRoom(1, storedSize(blob));
      if (result === 'done') await disk.sync(blobId);
    };
    if (ack === 'disk') await forEachBlob(object, toDisk);
    if (ack !== 'memory') await catalog.durable();
    const now = await catalog.findObject(object.bucket, object.key);
    return await this.#reads.view(now?.version === object.version ? now : object);
  }

  /** Whether some of these buckets are encrypted and some are not: their blobs cannot be shared. */
  async #mustRewrite(names: readonly string[]): Promise<boolean> {
    const kinds = new Set<boolean>();
    for (const name of new Set(names)) {
      const { buckets } = this.#parts;
      kinds.add((buckets.find(name) ?? (await buckets.get(name))).policy.encrypted === true);
    }
    return kinds.size > 1;
  }

  /** @throws `unsupported` */
  async #assertShares(from: string, to: string): Promise<void> {
    if (!(await this.#mustRewrite([from, to]))) return;
    const message = `${from} and ${to} are not both encrypted: objects are copied one by one between them`;
    throw new StoreError('unsupported', message, { from, to });
  }

  #isGivenUp(tier: TierIndex, blobId: number): boolean {
    const { leases, diskLeases } = this.#parts;
    return tier !== 2 && (tier === 0 ? leases : diskLeases).isInLimbo(blobId);
  }

  async #sweepUntilStopped(): Promise<void> {
    const { clock, awake, leases, diskLeases, observer } = this.#parts;
    let lastMs = clock.monotonic();
    const steps: readonly (() => unknown)[] = [
      () => this.files.sweep(),
      () => this.#writes.dropExpired(),
      () => this.#reads.dropExpired(),
      () => leases.sweep(),
      () => diskLeases.sweep(),
      () => this.#jobs.endExpired(),
      () => this.#deletions.deleteExpired(),
      () => this.#retirement.sweep(),
      () => this.#parts.presence.sweep(),
      () => this.#parts.rooms.look(),
      () => this.#parts.diskHealth.sweep(),
      () => this.#diskGrowth.note(this.#parts.disk.usage().usedBytes, clock.monotonic()),
      async () => this.#parts.spoolGate.look(await this.#parts.catalog.spoolTotals(), clock.now()),
      () => this.#waits.wakeAll(),
      () => this.totals(),
    ];
    while (!this.#stop.signal.aborted) {
      await clock.sleep(SWEEP_MS, this.#stop.signal).catch(() => undefined);
      const now = clock.monotonic();
      const lateMs = now - lastMs - SWEEP_MS;
      lastMs = now;
      if (lateMs > SWEEP_LATE_MS) awake.forgive(lateMs);
      for (const step of steps) {
        if (this.#stop.signal.aborted) return;
        try {
          await step();
        } catch (error) {
          if (!this.#stop.signal.aborted) observer.failed(error, 'sweep');
        }
      }
    }
  }
}
