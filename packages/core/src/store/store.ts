/**
 * The object store: wires catalog, tiers and placement together, owns the clocks that tick inside a node (expiry of staged
 * writes, leases, jobs, TTLs), and answers ObjectStore (object-store.ts), where the contract is.
 *
 * Writes are in write-path.ts, reads in read-path.ts; what is here is names, jobs, and the life of the store itself.
 */
import { type Ack, isStoreError, StoreError, type TierIndex } from '@ebb/protocol';
import type {
  BlobRecord,
  BucketPolicy,
  BucketRecord,
  Catalog,
  Condition,
  JobRecord,
  ListOptions,
  ObjectRecord,
} from '../catalog/catalog.ts';
import { type Clock, systemClock } from '../clock.ts';
import { FileTable } from '../files/file-table.ts';
import { parseAnyBucketName, parseJobId, parseKey } from '../object-ref.ts';
import { BlobPlacement, type MoveResult } from '../placement/blob-placement.ts';
import { RecencyIndex } from '../placement/evictor.ts';
import { Mirror } from '../placement/mirror.ts';
import { durabilityOf, meets } from '../placement/policy.ts';
import { Spiller } from '../placement/spiller.ts';
import type { LocalTier, Mover, RemoteTier } from '../tier/tier.ts';
import { Buckets } from './buckets.ts';
import { composeObject } from './compose.ts';
import { IdBlocks } from './id-blocks.ts';
import { JobTable } from './job-table.ts';
import { LeaseTable } from './lease-table.ts';
import { LifeLog } from './life-log.ts';
import type {
  BrokenBlob,
  CommitOptions,
  Committed,
  ComposeOptions,
  ComposeSource,
  JobReceipt,
  JobView,
  ObjectRef,
  ObjectStore,
  ObjectView,
  OpenedObject,
  Owner,
  StagedWrite,
  StageOptions,
  TierStatus,
  WhyEvent,
} from './object-store.ts';
import {
  DEFAULT_SETTINGS,
  type StoreObserver,
  type StoreParts,
  type StoreSettings,
} from './parts.ts';
import { Quotas } from './quotas.ts';
import { ReadPath } from './read-path.ts';
import { type RecoveryReport, recover, retireFreed } from './recovery.ts';
import { StagingTable } from './staging.ts';
import { verifyAll } from './verify.ts';
import { WritePath } from './write-path.ts';

export interface StoreOptions {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly remote: RemoteTier;
  readonly mover: Mover;
  readonly clock?: Clock;
  readonly settings?: Partial<StoreSettings>;
  readonly observer?: Partial<StoreObserver>;
}

export interface OpenedStore {
  readonly store: ObjectStore;
  readonly recovery: RecoveryReport;
}

const DELETE_BATCH = 512;
const SWEEP_MS = 1000;
/** A sweep this late means that the process was stopped, or the clock set: heartbeats may wait in sockets, unread. */
const SWEEP_LATE_MS = 5000;
const RETRY_FREED_MS = 10_000;

/** Recovers what an earlier run left, then starts. The store closes the parts it was given. */
export async function openObjectStore(options: StoreOptions): Promise<OpenedStore> {
  const clock = options.clock ?? systemClock;
  const settings = { ...DEFAULT_SETTINGS, ...options.settings };
  const observer: StoreObserver = {
    committed: () => undefined,
    moved: () => undefined,
    failed: () => undefined,
    ...options.observer,
  };
  const { catalog, memory, disk, remote, mover } = options;
  const recency = new RecencyIndex();
  const log = new LifeLog({ subjectsMax: 20_000, eventsMax: 32, now: () => clock.now() });
  const leases = new LeaseTable({
    limboMs: settings.limboMs,
    now: () => clock.now(),
    remove: (blobId, how) => placement.removeFile('memory', blobId, how),
  });
  const diskLeases = new LeaseTable({
    limboMs: settings.limboMs,
    now: () => clock.now(),
    remove: (blobId) => placement.removeFile('disk', blobId, { recycle: false }),
  });
  const placement: BlobPlacement = new BlobPlacement({
    ...{ catalog, memory, disk, remote, mover, leases, diskLeases, recency, log },
    onMoved: (move) => observer.moved(move),
    onError: (error) => observer.failed(error, 'removal'),
  });
  const spiller = new Spiller({
    ...{ catalog, memory, disk, placement, leases, recency },
    memoryMarks: settings.memoryMarks,
    diskMarks: settings.diskMarks,
    onError: (error) => observer.failed(error, 'spill'),
  });
  const mirror = new Mirror({
    catalog,
    placement,
    clock,
    onError: (error) => observer.failed(error, 'mirror'),
  });
  const ids = new IdBlocks(catalog);
  const owners = new Set<number>();
  const parts: StoreParts = {
    ...{
      catalog,
      memory,
      disk,
      remote,
      mover,
      clock,
      settings,
      observer,
      leases,
      diskLeases,
      recency,
      placement,
      spiller,
      mirror,
      log,
    },
    staging: new StagingTable(),
    jobs: new JobTable(),
    buckets: new Buckets({
      catalog,
      clock,
      empty: (bucket) => store.deletePrefix(bucket, ''),
    }),
    quotas: new Quotas(catalog),
    owners,
    takeId: () => ids.take(),
    nextId: () => ids.next(),
    retireAll: (freed) => store.retireAll(freed),
  };
  const recovery = await recover(parts);
  const store: CatalogObjectStore = new CatalogObjectStore(parts, {
    owners,
    nodeId: await catalog.nodeId(),
  });
  await store.start();
  return { store, recovery };
}

class CatalogObjectStore implements ObjectStore {
  readonly nodeId: string;
  readonly files: FileTable;
  readonly #parts: StoreParts;
  readonly #writes: WritePath;
  readonly #reads: ReadPath;
  readonly #jobEndListeners: ((jobId: string) => void | Promise<void>)[] = [];
  readonly #stop = new AbortController();
  readonly #owners: Set<number>;
  readonly #ending = new Map<string, Promise<JobReceipt>>();
  /** A freed blob could not be removed, perhaps at the start already: its record waits. */
  #hasFreed = true;
  #retryFreedAtMs = 0;
  #sweeping: Promise<void> | undefined;
  #lastOwnerId = 0;

  constructor(
    parts: StoreParts,
    options: { readonly owners: Set<number>; readonly nodeId: string },
  ) {
    this.#parts = parts;
    this.nodeId = options.nodeId;
    this.#owners = options.owners;
    this.#writes = new WritePath(parts);
    this.#reads = new ReadPath(parts);
    this.files = new FileTable({
      ...parts,
      reads: this.#reads,
      writes: this.#writes,
      promise: async (object, ack) => (await this.#keepPromises(object, ack)).durability,
    });
  }

  async start(): Promise<void> {
    const { catalog, clock, jobs, mirror, spiller } = this.#parts;
    for (const job of await catalog.listJobs()) jobs.open(job, clock.now());
    await mirror.resume(
      async (bucket) => (await catalog.findBucket(bucket))?.policy.mirror === true,
    );
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
  bucketTotals(name: string): Promise<{ objects: number; sizeBytes: number }> {
    return this.#parts.catalog.bucketTotals(name);
  }
  deleteBucket(name: string): Promise<void> {
    return this.#parts.buckets.delete(name);
  }

  stage(owner: Owner, ref: ObjectRef, options: StageOptions): Promise<StagedWrite> {
    return this.#writes.stage(owner, ref, options);
  }
  extend(owner: Owner, writeId: number, reserveBytes: number): number {
    return this.#writes.extend(owner, writeId, reserveBytes);
  }
  write(owner: Owner, writeId: number, source: Uint8Array, position: number): Promise<void> {
    return this.#writes.write(owner, writeId, source, position);
  }
  commit(owner: Owner, writeId: number, options: CommitOptions): Promise<Committed> {
    return this.#writes.commit(owner, writeId, options);
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
  open(owner: Owner, ref: ObjectRef): Promise<OpenedObject> {
    return this.#reads.open(owner, ref);
  }
  release(owner: Owner, leaseIds: readonly number[]): void {
    this.#reads.release(owner, leaseIds);
  }
  read(owner: Owner, leaseId: number, target: Uint8Array, position: number): Promise<void> {
    return this.#reads.read(owner, leaseId, target, position);
  }
  readBlob(blobId: number, target: Uint8Array, position: number): Promise<void> {
    return this.#reads.readBlob(blobId, target, position);
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

  async delete(ref: ObjectRef, condition: Condition = {}): Promise<{ deleted: boolean }> {
    parseAnyBucketName(ref.bucket);
    const result = await this.#parts.catalog.deleteObject(ref.bucket, ref.key, condition);
    await this.retireAll(result.freed);
    return { deleted: result.object !== undefined };
  }

  async deletePrefix(
    bucket: string,
    prefix: string,
  ): Promise<{ objects: number; sizeBytes: number }> {
    parseAnyBucketName(bucket);
    return await this.#deleteInBatches(() =>
      this.#parts.catalog.deletePrefix(bucket, prefix, DELETE_BATCH),
    );
  }

  async copy(from: ObjectRef, to: ObjectRef, condition: Condition = {}): Promise<ObjectView> {
    parseAnyBucketName(to.bucket);
    parseKey(to.key);
    const version = await this.#parts.nextId();
    const result = await this.#parts.catalog.copyObject(
      from,
      { ...to, version, createdAtMs: this.#parts.clock.now() },
      condition,
    );
    await this.retireAll(result.freed);
    return await this.#keepPromises(result.object);
  }

  async compose(
    to: ObjectRef,
    sources: readonly ComposeSource[],
    options: ComposeOptions,
  ): Promise<ObjectView> {
    const { object, freed } = await composeObject(this.#parts, to, sources, options);
    await this.retireAll(freed);
    return await this.#keepPromises(object, options.ack);
  }

  async rename(from: ObjectRef, to: ObjectRef, condition: Condition = {}): Promise<ObjectView> {
    parseAnyBucketName(to.bucket);
    parseKey(to.key);
    const result = await this.#parts.catalog.renameObject(from, to, condition);
    await this.retireAll(result.freed);
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
    const result = await this.#parts.catalog.renamePrefix(from, to, options);
    await this.retireAll(result.freed);
    if (from.bucket !== to.bucket)
      for await (const object of this.#objectsUnder(to.bucket, to.prefix))
        await this.#keepPromises(object);
    return { objects: result.objects, sizeBytes: result.sizeBytes };
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
    for (const extent of object.extents) {
      const move = (): Promise<MoveResult> =>
        this.#parts.placement.move(extent.blobId, place, { drop, why: 'relocated by request' });
      let result = await move();
      if (result === 'full' && tier !== 2) {
        await this.#parts.spiller.makeRoom(tier, extent.length);
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

  async openJob(job: Omit<JobRecord, 'createdAtMs'>): Promise<JobView> {
    parseJobId(job.jobId);
    const { catalog, clock, jobs } = this.#parts;
    const existing = jobs.find(job.jobId);
    if (existing?.isEnding === true)
      throw new StoreError('job_not_found', `job "${job.jobId}" is ending; take another id`, {
        jobId: job.jobId,
      });
    const record = { ...job, createdAtMs: existing?.record.createdAtMs ?? clock.now() };
    await catalog.putJob(record);
    jobs.open(record, clock.now());
    return await this.getJob(job.jobId);
  }

  heartbeat(jobId: string): void {
    this.#parts.jobs.beat(jobId, this.#parts.clock.now());
  }

  async getJob(jobId: string): Promise<JobView> {
    const job = this.#parts.jobs.get(jobId);
    return {
      job: job.record,
      lastHeartbeatMs: job.lastHeartbeatMs,
      ...(await this.#parts.catalog.jobTotals(jobId)),
    };
  }

  async listJobs(): Promise<readonly JobView[]> {
    const views: JobView[] = [];
    for (const job of this.#parts.jobs) {
      const totals = await this.#parts.catalog.jobTotals(job.record.jobId);
      views.push({ job: job.record, lastHeartbeatMs: job.lastHeartbeatMs, ...totals });
    }
    return views;
  }

  /** A second call while one runs gets the same receipt: it must not delete what a new job of this name makes. */
  async endJob(jobId: string): Promise<JobReceipt> {
    parseJobId(jobId);
    let ending = this.#ending.get(jobId);
    if (ending === undefined) {
      ending = this.#endJob(jobId).finally(() => this.#ending.delete(jobId));
      this.#ending.set(jobId, ending);
    }
    return await ending;
  }

  async #endJob(jobId: string): Promise<JobReceipt> {
    const { catalog, jobs } = this.#parts;
    const job = jobs.find(jobId);
    if (job !== undefined) job.isEnding = true; // no new writes: `stage` and `commit` refuse a job that is ending
    try {
      const stagedWrites = this.#writes.dropJob(jobId);
      await this.#writes.settledOf(jobId); // a commit under way either made its object before this line, or is refused
      for (const listener of this.#jobEndListeners) await listener(jobId);
      const gone = await this.#deleteInBatches(() => catalog.deleteJobObjects(jobId, DELETE_BATCH));
      await catalog.deleteJob(jobId);
      jobs.remove(jobId);
      return { jobId, objects: gone.objects, freedBytes: gone.sizeBytes, stagedWrites };
    } catch (error) {
      if (job !== undefined) job.isEnding = false; // so that its end is tried again when its heartbeat stops
      throw error;
    }
  }

  onJobEnd(listener: (jobId: string) => void | Promise<void>): void {
    this.#jobEndListeners.push(listener);
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

  mirrorBacklogBytes(): number {
    return this.#parts.mirror.backlogBytes;
  }

  async why(
    ref: ObjectRef,
  ): Promise<{ view: ObjectView | undefined; events: readonly WhyEvent[] }> {
    const view = await this.#reads.find(ref);
    const events = (view?.object.extents ?? []).flatMap((extent) =>
      this.#parts.log.of(extent.blobId),
    );
    return { view, events: [...events].sort((a, b) => a.atMs - b.atMs) };
  }

  async verify(options: {
    bucket?: string;
    prefix?: string;
    signal?: AbortSignal;
  }): Promise<{ blobs: number; bytes: number; broken: readonly BrokenBlob[] }> {
    const blobs =
      options.bucket === undefined
        ? this.#allBlobs()
        : this.#blobsUnder(options.bucket, options.prefix ?? '');
    return await verifyAll(this.#parts, blobs, options.signal);
  }

  async gc(): ReturnType<ObjectStore['gc']> {
    const { catalog, memory, disk } = this.#parts;
    const expiredStagings = this.#writes.dropExpired();
    await retireFreed(this.#parts);
    let lostObjects = 0;
    for await (const blob of this.#allBlobs()) {
      if (
        blob.refs === 0 ||
        blob.memoryBytes !== null ||
        blob.diskBytes !== null ||
        blob.remoteName !== null
      )
        continue;
      for (const name of await catalog.objectsOfBlob(blob.blobId, 1024)) {
        const object = await catalog.findObject(name.bucket, name.key);
        // It may have been replaced since: the new version is not lost.
        if (object?.extents.some(({ blobId }) => blobId === blob.blobId) !== true) continue;
        if (await this.#deleteVersion(object)) lostObjects++;
      }
    }
    const orphans = [await memory.removeOrphans(), await disk.removeOrphans()];
    return {
      expiredStagings,
      orphanFiles: orphans.reduce((sum, found) => sum + found.files, 0),
      orphanBytes: orphans.reduce((sum, found) => sum + found.bytes, 0),
      lostObjects,
      trimmedPoolBytes: memory.trimPool(0),
    };
  }

  async drain(options: { persist: boolean; deadlineMs: number }): Promise<void> {
    const { clock, staging, mirror, catalog } = this.#parts;
    this.#writes.refuseNewWrites();
    const until = clock.now() + options.deadlineMs;
    while (staging.size > 0 && clock.now() < until) await clock.sleep(20);
    if (options.persist) await this.#persist(until);
    await mirror.idle(AbortSignal.timeout(Math.max(1, until - clock.now())));
    await catalog.durable();
  }

  async close(): Promise<void> {
    const { mirror, spiller, placement, memory, disk, remote, mover, catalog } = this.#parts;
    this.#writes.refuseNewWrites();
    this.#stop.abort();
    await this.#sweeping;
    await this.#writes.settled();
    await mirror.close();
    await spiller.close();
    await placement.settled();
    await mover.close();
    await memory.close();
    await disk.close();
    await remote.close();
    try {
      await catalog.durable();
    } finally {
      await catalog.close();
    }
  }

  /** StoreParts.retireAll. */
  async retireAll(freed: readonly BlobRecord[]): Promise<void> {
    const { catalog, placement, observer } = this.#parts;
    try {
      if (freed.some((blob) => blob.diskBytes !== null || blob.remoteName !== null))
        await catalog.durable();
      const retired = await Promise.allSettled(freed.map((blob) => placement.retire(blob)));
      const failed = retired.find((result) => result.status === 'rejected');
      if (failed !== undefined) throw failed.reason;
    } catch (error) {
      this.#hasFreed = true;
      observer.failed(error, 'removal');
    }
  }

  /** Everything that lies on this node alone goes to tier 2, as far as the time allows. */
  async #persist(until: number): Promise<void> {
    const { clock, placement, observer } = this.#parts;
    const left = { blobs: 0, bytes: 0 };
    for await (const blob of this.#allBlobs('unmirrored')) {
      if (clock.now() < until) {
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
    const { catalog, placement, disk, mirror } = this.#parts;
    const policy = (await catalog.findBucket(object.bucket))?.policy;
    const ack = asked ?? policy?.ack ?? 'memory';
    for (const { blobId } of object.extents) {
      const blob = await catalog.findBlob(blobId);
      if (blob === undefined) continue;
      if (ack !== 'memory' && !meets(durabilityOf(blob), 'remote')) {
        const to = ack === 'remote' ? 'remote' : 'disk';
        const why = `policy of ${object.bucket}`;
        const result = await placement.move(blobId, to, { drop: [], why });
        if (result === 'full') void this.#parts.spiller.makeRoom(1, blob.sizeBytes);
        if (to === 'disk' && result === 'done') await disk.sync(blobId);
      }
      if (policy?.mirror === true && blob.remoteName === null) mirror.add(blobId, blob.sizeBytes);
    }
    if (ack !== 'memory') await catalog.durable();
    return await this.#reads.view(object);
  }

  #isGivenUp(tier: TierIndex, blobId: number): boolean {
    const { leases, diskLeases } = this.#parts;
    return tier !== 2 && (tier === 0 ? leases : diskLeases).isInLimbo(blobId);
  }

  /** Only if it is still this version. */
  async #deleteVersion(object: ObjectRecord): Promise<boolean> {
    try {
      return (await this.delete(object, { ifMatch: object.etag })).deleted;
    } catch (error) {
      if (isStoreError(error, 'precondition_failed')) return false;
      throw error;
    }
  }

  async #sweepUntilStopped(): Promise<void> {
    const { clock, leases, diskLeases, jobs, observer } = this.#parts;
    let lastMs = clock.now();
    const steps: readonly (() => unknown)[] = [
      () => this.files.sweep(),
      () => this.#writes.dropExpired(),
      () => this.#reads.dropExpired(),
      () => leases.sweep(),
      () => diskLeases.sweep(),
      () => Promise.all(jobs.expired(clock.now()).map((jobId) => this.endJob(jobId))),
      () => this.#deleteExpiredObjects(),
      () => this.#retryRetirements(),
      () => this.totals(),
    ];
    while (!this.#stop.signal.aborted) {
      await clock.sleep(SWEEP_MS, this.#stop.signal).catch(() => undefined);
      const now = clock.now();
      const lateMs = now - lastMs - SWEEP_MS;
      lastMs = now;
      if (lateMs > SWEEP_LATE_MS) jobs.forgive(lateMs);
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

  async #retryRetirements(): Promise<void> {
    const { clock } = this.#parts;
    if (!this.#hasFreed || clock.now() < this.#retryFreedAtMs) return;
    this.#retryFreedAtMs = clock.now() + RETRY_FREED_MS;
    this.#hasFreed = (await retireFreed(this.#parts)).failed > 0;
  }

  async #deleteExpiredObjects(): Promise<void> {
    const { catalog, clock } = this.#parts;
    for (const expired of await catalog.listExpired(clock.now(), DELETE_BATCH)) {
      const object = await catalog.findObject(expired.bucket, expired.key);
      if (object?.version === expired.version) await this.#deleteVersion(object);
    }
  }

  async #deleteInBatches(
    step: () => Promise<{
      freed: readonly BlobRecord[];
      objects: number;
      sizeBytes: number;
      done: boolean;
    }>,
  ): Promise<{ objects: number; sizeBytes: number }> {
    let objects = 0;
    let sizeBytes = 0;
    for (;;) {
      const batch = await step();
      await this.retireAll(batch.freed);
      objects += batch.objects;
      sizeBytes += batch.sizeBytes;
      if (batch.done) return { objects, sizeBytes };
    }
  }

  async *#allBlobs(where?: 'unmirrored'): AsyncGenerator<BlobRecord> {
    for (let after = 0; ; ) {
      const page = await this.#parts.catalog.listBlobs({
        afterBlobId: after,
        limit: 512,
        ...(where === undefined ? {} : { where }),
      });
      if (page.length === 0) return;
      yield* page;
      after = (page[page.length - 1] as BlobRecord).blobId;
    }
  }

  async *#blobsUnder(bucket: string, prefix: string): AsyncGenerator<BlobRecord> {
    let last = 0; // neighbours share blobs after copies
    for await (const object of this.#objectsUnder(bucket, prefix)) {
      for (const { blobId } of object.extents) {
        if (blobId === last) continue;
        last = blobId;
        const blob = await this.#parts.catalog.findBlob(blobId);
        if (blob !== undefined) yield blob;
      }
    }
  }

  async *#objectsUnder(bucket: string, prefix: string): AsyncGenerator<ObjectRecord> {
    for (let startAfter = ''; ; ) {
      const page = await this.#parts.catalog.listObjects(bucket, {
        ...{ prefix, startAfter },
        delimiter: '',
        limit: 512,
      });
      yield* page.objects;
      if (page.next === null) return;
      startAfter = page.next;
    }
  }
}
