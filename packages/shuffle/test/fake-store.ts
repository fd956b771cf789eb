/**
 * As much of an object store as the shuffle service asks for, in memory and without bytes, for tests of its rules.
 *
 * Fault model: every call may be made to wait at `pause` (so that a scheduler decides the order), `loseBlob` takes a blob's
 * last copy away, `spill` and `promote` move it (spilling asks the lease holders first, as the real store does), `restart`
 * forgets owners, staged writes and guards, as a `kill -9` does. Not modelled: bytes, tiers that are full, torn commits.
 */
import type {
  BucketPolicy,
  BucketRecord,
  Committed,
  JobView,
  LeaseGuards,
  ListOptions,
  ObjectRecord,
  ObjectRef,
  ObjectView,
  Owner,
  StagedWrite,
  StageOptions,
} from '@ebb/core';
import { type ExtentLocation, StoreError, type TierIndex } from '@ebb/protocol';
import type { ShuffleRecords, ShuffleStore } from '../src/catalog-shuffle-service.ts';

interface Staged {
  readonly owner: Owner;
  readonly ref: ObjectRef;
  readonly jobId: string | undefined;
  readonly tier: 0 | 1;
  committing: boolean;
}

class FakeGuards implements LeaseGuards {
  readonly groups = new Map<
    string,
    { holders: Map<number, (ids: readonly number[]) => void>; blobs: Set<number> }
  >();
  readonly awaiting = new Map<number, Set<number>>();

  assign(blobId: number, group: string): void {
    const blobs = this.#group(group).blobs;
    if (blobs.has(blobId)) throw new Error(`blob ${blobId} assigned twice`);
    blobs.add(blobId);
  }
  hold(group: string, owner: Owner, revoke: (blobIds: readonly number[]) => void): void {
    this.#group(group).holders.set(owner.ownerId, revoke);
  }
  settled(owner: Owner, blobIds: readonly number[]): void {
    for (const blobId of blobIds) {
      const awaited = this.awaiting.get(blobId);
      awaited?.delete(owner.ownerId);
      if (awaited?.size === 0) this.awaiting.delete(blobId);
    }
  }
  unhold(name: string, owner: Owner): void {
    this.groups.get(name)?.holders.delete(owner.ownerId);
    this.#tidy(name);
  }
  dropOwner(owner: Owner): void {
    for (const name of [...this.groups.keys()]) this.unhold(name, owner);
    this.settled(owner, [...this.awaiting.keys()]);
  }
  giveUp(blobId: number): void {
    for (const [name, group] of this.groups) {
      if (!group.blobs.delete(blobId)) continue;
      if (group.holders.size > 0) this.awaiting.set(blobId, new Set(group.holders.keys()));
      for (const revoke of [...group.holders.values()]) revoke([blobId]);
      this.#tidy(name);
    }
  }

  #group(name: string): {
    holders: Map<number, (ids: readonly number[]) => void>;
    blobs: Set<number>;
  } {
    let group = this.groups.get(name);
    if (group === undefined) {
      group = { holders: new Map(), blobs: new Set() };
      this.groups.set(name, group);
    }
    return group;
  }
  #tidy(name: string): void {
    const group = this.groups.get(name);
    if (group !== undefined && group.holders.size === 0 && group.blobs.size === 0)
      this.groups.delete(name);
  }
}

export class FakeStore implements ShuffleStore {
  guards = new FakeGuards();
  readonly objects = new Map<string, ObjectRecord>();
  readonly tiers = new Map<number, TierIndex>();
  readonly staged = new Map<number, Staged>();
  readonly jobs = new Set<string>();
  readonly pause: () => Promise<void>;
  /** Calls of `locate`, for tests of cost. */
  located = 0;
  #nextId = 1;
  #nextOwner = 1;
  #listeners: ((jobId: string) => void | Promise<void>)[] = [];

  constructor(pause: () => Promise<void> = () => Promise.resolve()) {
    this.pause = pause;
  }

  createOwner(name: string): Owner {
    return { ownerId: this.#nextOwner++, name };
  }
  async createBucket(
    name: string,
    policy: BucketPolicy,
  ): Promise<{ created: boolean; bucket: BucketRecord }> {
    await this.pause();
    return { created: true, bucket: { name, createdAtMs: 0, policy } };
  }
  async getJob(jobId: string): Promise<JobView> {
    await this.pause();
    if (!this.jobs.has(jobId)) throw new StoreError('job_not_found');
    return {
      job: { jobId, label: '', createdAtMs: 0, heartbeatTtlMs: 1, budgetBytes: null, token: '' },
      lastHeartbeatMs: 0,
      objects: 0,
      sizeBytes: 0,
    };
  }
  onJobEnd(listener: (jobId: string) => void | Promise<void>): void {
    this.#listeners.push(listener);
  }
  async endJob(jobId: string): Promise<void> {
    for (let i = 0; i < 4; i++) await this.pause();
    this.jobs.delete(jobId);
    for (const listener of this.#listeners) await listener(jobId);
    for (const object of [...this.objects.values()])
      if (object.jobId === jobId) this.#delete(object);
  }

  async stage(owner: Owner, ref: ObjectRef, options: StageOptions): Promise<StagedWrite> {
    await this.pause();
    const writeId = this.#nextId++;
    const tier = options.tier ?? 0;
    this.staged.set(writeId, { owner, ref, jobId: options.jobId, tier, committing: false });
    return {
      writeId,
      blobId: writeId,
      tier,
      path: `blob-${writeId}`,
      absolutePath: `/nowhere/blob-${writeId}`,
      reservedBytes: options.reserveBytes,
      slotId: 0,
    };
  }
  extend(owner: Owner, writeId: number, reserveBytes: number): number {
    if (this.staged.get(writeId)?.owner !== owner) throw new StoreError('write_not_found');
    return reserveBytes;
  }
  async abort(owner: Owner, writeId: number): Promise<void> {
    if (this.staged.get(writeId)?.owner === owner) this.staged.delete(writeId);
    await this.pause();
  }
  async commit(
    owner: Owner,
    writeId: number,
    options: Parameters<ShuffleStore['commit']>[2],
  ): Promise<Committed> {
    const write = this.staged.get(writeId);
    if (write?.owner !== owner || write.committing) throw new StoreError('write_not_found');
    write.committing = true;
    await this.pause();
    this.staged.delete(writeId);
    const name = `${write.ref.bucket}/${write.ref.key}`;
    if (options.ifNoneMatch === true && this.objects.has(name))
      throw new StoreError('already_exists');
    const object: ObjectRecord = {
      ...write.ref,
      version: this.#nextId++,
      sizeBytes: options.sizeBytes,
      etag: '',
      crc32c: options.crc32c ?? 0,
      contentType: '',
      metadata: options.metadata ?? {},
      attributes: {},
      createdAtMs: 0,
      jobId: write.jobId ?? null,
      pinned: false,
      extents: [{ blobId: writeId, offset: 0, length: options.sizeBytes }],
      remoteEtag: null,
    };
    this.objects.set(name, object);
    this.tiers.set(writeId, write.tier);
    await this.pause(); // visible, but the caller does not know yet
    return { object, blobId: writeId, durability: 'memory' };
  }
  async list(
    bucket: string,
    options: ListOptions,
  ): Promise<{ objects: readonly ObjectView[]; prefixes: readonly string[]; next: string | null }> {
    await this.pause();
    const keys = [...this.objects.values()]
      .filter((object) => object.bucket === bucket)
      .map((object) => object.key)
      .filter((key) => key.startsWith(options.prefix) && key > options.startAfter)
      .sort();
    const page = keys.slice(0, options.limit);
    return {
      objects: page.map((key) => {
        const object = this.objects.get(`${bucket}/${key}`) as ObjectRecord;
        const tier = this.tiers.get(object.extents[0]?.blobId ?? 0);
        return {
          object,
          durability: 'memory',
          isLost: false,
          tiers: tier === undefined ? [] : [tier],
        };
      }),
      prefixes: [],
      next: keys.length > page.length ? (page.at(-1) as string) : null,
    };
  }
  async deletePrefix(
    bucket: string,
    prefix: string,
  ): Promise<{ objects: number; sizeBytes: number }> {
    await this.pause();
    const gone = [...this.objects.values()].filter(
      (object) => object.bucket === bucket && object.key.startsWith(prefix),
    );
    for (const object of gone) this.#delete(object);
    return {
      objects: gone.length,
      sizeBytes: gone.reduce((sum, object) => sum + object.sizeBytes, 0),
    };
  }
  async locate(blobId: number, length: number): Promise<ExtentLocation> {
    this.located++;
    await this.pause();
    return this.#where(blobId, length);
  }
  async resolve(
    blobId: number,
    length: number,
    _options: { suspect: boolean },
  ): Promise<ExtentLocation> {
    await this.pause();
    if (this.tiers.get(blobId) === 2) this.tiers.set(blobId, 1);
    return this.#where(blobId, length);
  }

  spill(blobId: number, tier: TierIndex = 1): void {
    if (!this.tiers.has(blobId)) return;
    const before = this.tiers.get(blobId);
    this.tiers.set(blobId, tier);
    if (before === 0) this.guards.giveUp(blobId);
  }
  promote(blobId: number): void {
    if (this.tiers.has(blobId)) this.tiers.set(blobId, 0);
  }
  loseBlob(blobId: number): void {
    const before = this.tiers.get(blobId);
    this.tiers.delete(blobId);
    if (before === 0) this.guards.giveUp(blobId);
  }
  /** `kill -9` and a new start: what was committed is found again. */
  restart(): void {
    this.guards = new FakeGuards();
    this.staged.clear();
    this.#listeners = [];
  }

  #delete(object: ObjectRecord): void {
    this.objects.delete(`${object.bucket}/${object.key}`);
    this.loseBlob(object.extents[0]?.blobId ?? 0);
  }
  #where(blobId: number, length: number): ExtentLocation {
    const tier = this.tiers.get(blobId);
    if (tier === undefined) throw new StoreError('data_lost', undefined, { blobId });
    return { tier, blobId, path: tier === 2 ? '' : `${tier}/blob-${blobId}`, offset: 0, length };
  }
}

export class FakeRecords implements ShuffleRecords {
  readonly records = new Map<string, Uint8Array>();

  async putRecord(namespace: string, key: string, value: Uint8Array): Promise<void> {
    this.records.set(`${namespace}:${key}`, Uint8Array.from(value));
    await Promise.resolve();
  }
  async findRecord(namespace: string, key: string): Promise<Uint8Array | undefined> {
    await Promise.resolve();
    return this.records.get(`${namespace}:${key}`);
  }
  async listRecords(
    namespace: string,
    prefix: string,
  ): Promise<readonly { readonly key: string; readonly value: Uint8Array }[]> {
    await Promise.resolve();
    const start = `${namespace}:`;
    return [...this.records]
      .filter(([key]) => key.startsWith(start + prefix))
      .map(([key, value]) => ({ key: key.slice(start.length), value }));
  }
  async deleteRecord(namespace: string, key: string): Promise<void> {
    this.records.delete(`${namespace}:${key}`);
    await Promise.resolve();
  }
}
