/**
 * The shuffle service: which attempt's output holds each map's place, and where it lies now.
 *
 * Everything that must survive is in the store and its catalog (shuffle-record.ts): a shape per shuffle, an object per map
 * output. What is here is a compact index of it (map-output-table.ts), built as commits come, and built again from a
 * listing when a shuffle is first asked for after a restart.
 *
 * I1  Among the attempts at a map the highest epoch holds the place; inside an epoch, the first commit. Check, commit and
 *     the row are one step per map (`commits`), so two racing commits never both win. Attempts without an epoch (EPOCH_NONE)
 *     do not contend: each that commits stands beside the others, none is told of another, and none is refused for what
 *     another did. Which of them is read is the engine's to say; the place is the latest commit's, and counts maps only.
 * I2  A loser's bytes are given up before it is told. An output that a newer epoch replaced stays readable by attempt id
 *     until the shuffle is removed.
 * I3  A place whose bytes are gone may be taken again in the same epoch, never by an older one.
 * I4  Versions given for a shuffle only grow: over removal and a new register (`#highWater`), and over restarts of the
 *     daemon (each takes a new generation from the catalog). A `sinceVersion` from elsewhere is answered in full.
 * I5  A row in tier 0 is under the shuffle's lease group before its location is given out.
 * I6  Removal refuses new commits, waits for those under way, then deletes by prefix: nothing appears afterwards.
 * I7  Nothing is kept of a shuffle that was removed, nor of a staged write whose owner went away.
 */
import {
  type Catalog,
  type Clock,
  type ObjectStore,
  type Owner,
  resolvePolicy,
  Serial,
  type StagedWrite,
} from '@ebb/core';
import {
  EPOCH_NONE,
  type ExtentLocation,
  indexBlockBytes,
  isStoreError,
  type MapOutputRow,
  type messages,
  type ShuffleInfo,
  type ShuffleRef,
  StoreError,
  TIER_BY_POLICY,
} from '@ebb/protocol';
import {
  COMMITTED_WRITES_REMEMBERED,
  LOCATE_BATCH,
  MAPS_MAX,
  PARTITIONS_MAX,
  RESOLVE_ATTEMPTS_MAX,
  RESOLVE_PARALLEL,
  TABLE_ANSWER_BYTES_MAX,
} from './limits.ts';
import { MapOutputTable } from './map-output-table.ts';
import {
  decodeGeneration,
  decodeShape,
  encodeGeneration,
  encodeMapOutputMetadata,
  encodeShape,
  GENERATION_KEY,
  mapOutputKey,
  parseMapOutputKey,
  parseMapOutputMetadata,
  parseShuffleName,
  SHUFFLE_BUCKET,
  SHUFFLE_NAMESPACE,
  type ShuffleShape,
  shuffleName,
  shufflePrefix,
} from './shuffle-record.ts';
import type { ShuffleService } from './shuffle-service.ts';

/** Of the store: no more than this. */
export type ShuffleStore = Pick<
  ObjectStore,
  | 'abort'
  | 'commit'
  | 'createBucket'
  | 'createOwner'
  | 'deletePrefix'
  | 'extend'
  | 'getJob'
  | 'guards'
  | 'list'
  | 'locate'
  | 'onJobEnd'
  | 'resolve'
  | 'stage'
>;
export type ShuffleRecords = Pick<
  Catalog,
  'deleteRecord' | 'findRecord' | 'listRecords' | 'putRecord'
>;

export interface ShuffleServiceOptions {
  readonly store: ShuffleStore;
  readonly records: ShuffleRecords;
  readonly clock: Pick<Clock, 'now'>;
}

/**
 * Opens the service on a store that has recovered. Creates the bucket, and forgets shuffles whose job ended while no
 * service listened. It holds no file and no timer: it ends with the store.
 */
export async function openShuffleService(options: ShuffleServiceOptions): Promise<ShuffleService> {
  const service = new CatalogShuffleService(options);
  await service.open();
  return service;
}

/** Versions are `generation × 2^34 + changes`: 17 × 10^9 changes an instance, 2^19 instances before generations come round. */
const GENERATION_SPAN = 2 ** 34;
const GENERATIONS = 2 ** 19;
/** A row as messages.ts encodes it, without its path. */
const ROW_FIXED_BYTES = 21 + 27;
const LIST_PAGE = 1000;

interface Shuffle extends ShuffleShape {
  readonly ref: ShuffleRef;
  readonly prefix: string;
  readonly group: string;
  readonly table: MapOutputTable;
  /** Version of the empty table. */
  readonly baseVersion: number;
  readonly commits: Serial<number>;
  /** The attempts whose commits are under way, and the map of each. */
  readonly committing: Map<number, number>;
  /** Owners that were given the table. Those whose connection ended stay in until the shuffle goes. */
  readonly holders: Set<Owner>;
  removed: boolean;
}

interface StagedMap {
  readonly shuffle: Shuffle;
  readonly mapIndex: number;
  readonly attemptId: number;
  readonly epoch: number;
  readonly tier: 0 | 1;
}

interface OwnerWrites {
  readonly staged: Map<number, StagedMap>;
  /** The latest commits' write ids, oldest first. */
  readonly committed: number[];
  sweepAt: number;
}

class CatalogShuffleService implements ShuffleService {
  readonly #store: ShuffleStore;
  readonly #records: ShuffleRecords;
  readonly #clock: Pick<Clock, 'now'>;
  readonly #shuffles = new Map<string, Shuffle>();
  /** Register, load and remove of one shuffle, one at a time. */
  readonly #lifecycles = new Serial<string>();
  /** Goes with the owner object, so with its connection. */
  readonly #writes = new WeakMap<Owner, OwnerWrites>();
  /** Holds every shuffle's lease group, to learn of files that are given up. */
  readonly #self: Owner;
  /** Above every version given so far. 0: no generation taken yet. */
  #highWater = 0;
  #takingGeneration: Promise<void> | undefined;

  constructor(options: ShuffleServiceOptions) {
    this.#store = options.store;
    this.#records = options.records;
    this.#clock = options.clock;
    this.#self = options.store.createOwner('shuffle service');
  }

  async open(): Promise<void> {
    await this.#createBucket();
    this.#store.onJobEnd((jobId) => this.#endJob(jobId));
    await this.#forgetOrphans();
  }

  async register(
    ref: ShuffleRef,
    shape: { readonly maps: number; readonly partitions: number },
  ): Promise<void> {
    checkRef(ref);
    checkRange('maps', shape.maps, 0, MAPS_MAX);
    checkRange('partitions', shape.partitions, 1, PARTITIONS_MAX);
    await this.#lifecycles.run(shuffleName(ref), async () => {
      const present = await this.#load(ref);
      if (present !== undefined) {
        checkSameShape(ref, present, shape);
        return;
      }
      await this.#store.getJob(ref.jobId); // throws job_not_found
      const record = { ...shape, createdAtMs: this.#clock.now() };
      await this.#records.putRecord(SHUFFLE_NAMESPACE, shuffleName(ref), encodeShape(record));
      const shuffle = await this.#createShuffle(ref, record);
      this.#shuffles.set(shuffleName(ref), shuffle);
      try {
        // The job may have ended between the look and the record; its end did not see the record then.
        await this.#store.getJob(ref.jobId);
      } catch (error) {
        this.#drop(shuffle);
        await this.#records.deleteRecord(SHUFFLE_NAMESPACE, shuffleName(ref));
        throw error;
      }
    });
  }

  async stageMap(owner: Owner, request: messages.MapStageRequest): Promise<StagedWrite> {
    const shuffle = await this.#get(request);
    const { mapIndex, attemptId, epoch } = request;
    if (mapIndex >= shuffle.maps)
      throw new StoreError(
        'request_invalid',
        `map ${mapIndex} of shuffle ${shuffle.ref.shuffleId}, which has ${shuffle.maps}`,
        refDetails(shuffle.ref),
      );
    this.#refuseUsedAttempt(shuffle, mapIndex, attemptId);
    const staged = await this.#store.stage(
      owner,
      { bucket: SHUFFLE_BUCKET, key: mapOutputKey(shuffle.prefix, { mapIndex, attemptId }) },
      {
        reserveBytes: request.reserveBytes,
        jobId: request.jobId,
        ...(request.tier === TIER_BY_POLICY ? {} : { tier: localTier(request.tier) }),
      },
    );
    if (shuffle.removed) {
      await this.#store.abort(owner, staged.writeId);
      throw notFound(request);
    }
    const { tier } = staged;
    this.#remember(owner, staged.writeId, { shuffle, mapIndex, attemptId, epoch, tier });
    return staged;
  }

  async commitMap(
    owner: Owner,
    request: messages.MapCommitRequest,
  ): Promise<messages.MapCommitResponse> {
    const staged = this.#take(owner, request.writeId);
    const { shuffle, mapIndex } = staged;
    // I1: one at a time per map. I6: remove waits for what is in `commits`.
    return await shuffle.commits.run(mapIndex, () => this.#commitOne(owner, request, staged));
  }

  async table(
    owner: Owner,
    ref: ShuffleRef,
    sinceVersion: number,
    revoke: (blobIds: readonly number[]) => void,
  ): Promise<messages.ShuffleTableResponse> {
    const shuffle = await this.#get(ref);
    // Before the first location is given out, so that no file is recycled between answer and lease.
    this.#store.guards.hold(shuffle.group, owner, revoke);
    shuffle.holders.add(owner);
    return await this.#answer(shuffle, sinceVersion);
  }

  async resolve(
    ref: ShuffleRef,
    attemptIds: readonly number[],
    options: { readonly suspect: boolean },
  ): Promise<readonly MapOutputRow[]> {
    const shuffle = await this.#get(ref);
    checkRange('the number of attempts', attemptIds.length, 0, RESOLVE_ATTEMPTS_MAX);
    const found: MapOutputRow[] = [];
    for (let from = 0; from < attemptIds.length; from += RESOLVE_PARALLEL) {
      const batch = attemptIds.slice(from, from + RESOLVE_PARALLEL);
      const rows = await Promise.all(
        batch.map((attemptId) => this.#resolveOne(shuffle, attemptId, options)),
      );
      for (const row of rows) if (row !== undefined) found.push(row);
    }
    return found;
  }

  release(owner: Owner, ref: ShuffleRef): void {
    this.#shuffles.get(shuffleName(ref))?.holders.delete(owner);
    this.#store.guards.unhold(groupName(ref), owner);
  }

  async remove(ref: ShuffleRef): Promise<{ readonly freedBytes: number }> {
    checkRef(ref);
    const name = shuffleName(ref);
    return await this.#lifecycles.run(name, async () => {
      const shuffle = this.#shuffles.get(name);
      if (shuffle !== undefined) {
        this.#drop(shuffle);
        await shuffle.commits.settled();
      }
      // The record goes last: a removal that a crash cut short is found and done again.
      const deleted = await this.#store.deletePrefix(SHUFFLE_BUCKET, shufflePrefix(ref));
      // Every file is given up now, and awaits the answers of those who held it then. Later ones need no group.
      for (const owner of shuffle?.holders ?? []) this.#store.guards.unhold(groupName(ref), owner);
      await this.#records.deleteRecord(SHUFFLE_NAMESPACE, name);
      return { freedBytes: deleted.sizeBytes };
    });
  }

  async list(): Promise<readonly ShuffleInfo[]> {
    const infos: ShuffleInfo[] = [];
    for (const { key } of await this.#records.listRecords(SHUFFLE_NAMESPACE, '')) {
      const ref = parseShuffleName(key);
      const shuffle = ref === undefined ? undefined : await this.#find(ref);
      if (shuffle === undefined) continue; // not a shuffle's record, or removed meanwhile
      infos.push({
        jobId: shuffle.ref.jobId,
        shuffleId: shuffle.ref.shuffleId,
        maps: shuffle.maps,
        partitions: shuffle.partitions,
        committedMaps: shuffle.table.countCommittedMaps(),
        sizeBytes: shuffle.table.sizeBytes,
      });
    }
    return infos;
  }

  async #commitOne(
    owner: Owner,
    request: messages.MapCommitRequest,
    staged: StagedMap,
  ): Promise<messages.MapCommitResponse> {
    const { shuffle, mapIndex, attemptId, epoch } = staged;
    let holder: MapOutputRow | undefined;
    try {
      if (shuffle.removed) throw notFound(shuffle.ref);
      checkIndexBytes(shuffle, request);
      holder = await this.#holderAgainst(shuffle, mapIndex, epoch);
      if (holder === undefined) {
        this.#refuseUsedAttempt(shuffle, mapIndex, attemptId);
        this.#refuseCommittingAttempt(shuffle, mapIndex, attemptId);
      }
    } catch (error) {
      await this.#store.abort(owner, request.writeId);
      throw error;
    }
    if (holder !== undefined) {
      await this.#store.abort(owner, request.writeId);
      return { won: false, winner: holder };
    }
    shuffle.committing.set(attemptId, mapIndex);
    try {
      return await this.#commitFree(owner, request, staged);
    } finally {
      shuffle.committing.delete(attemptId);
    }
  }

  /** The place is free for it, and its attempt id is its own. */
  async #commitFree(
    owner: Owner,
    request: messages.MapCommitRequest,
    staged: StagedMap,
  ): Promise<messages.MapCommitResponse> {
    const { shuffle, mapIndex, attemptId, epoch } = staged;
    const committed = await this.#store.commit(owner, request.writeId, {
      sizeBytes: request.sizeBytes,
      crc32c: request.crc32c,
      ifNoneMatch: true,
      metadata: encodeMapOutputMetadata({ epoch, indexBytes: request.indexBytes }),
    });
    if (shuffle.removed) throw notFound(shuffle.ref); // the removal waits for us, and deletes it
    const row = shuffle.table.add(
      {
        mapIndex,
        attemptId,
        epoch,
        blobId: committed.blobId,
        sizeBytes: request.sizeBytes,
        indexBytes: request.indexBytes,
        tier: staged.tier,
      },
      { winner: true },
    );
    const winner = await this.#locate(shuffle, row);
    if (winner === undefined)
      throw new StoreError('data_lost', `map output ${mapIndex} is gone since its commit`, {
        ...refDetails(shuffle.ref),
        mapIndex,
        attemptId,
      });
    return { won: true, winner };
  }

  /**
   * The output that keeps an attempt of this epoch from the place; undefined when the place is free for it.
   * @throws `superseded` when a newer epoch held it and lost its bytes (I3): there is no row to answer with.
   */
  async #holderAgainst(
    shuffle: Shuffle,
    mapIndex: number,
    epoch: number,
  ): Promise<MapOutputRow | undefined> {
    const row = shuffle.table.winnerOf(mapIndex);
    if (row === undefined) return undefined;
    const holderEpoch = shuffle.table.get(row).epoch;
    if ((epoch === EPOCH_NONE) !== (holderEpoch === EPOCH_NONE))
      throw new StoreError(
        'request_invalid',
        `map ${mapIndex}: of the attempts at one shuffle all have an epoch, or none`,
        { ...refDetails(shuffle.ref), mapIndex },
      );
    if (epoch > holderEpoch || epoch === EPOCH_NONE) return undefined;
    const holder = shuffle.table.isLost(row) ? undefined : await this.#locate(shuffle, row);
    if (holder !== undefined || epoch === holderEpoch) return holder;
    throw new StoreError(
      'superseded',
      `map ${mapIndex}: epoch ${holderEpoch} was committed before epoch ${epoch}`,
      { ...refDetails(shuffle.ref), mapIndex, epoch, holderEpoch },
    );
  }

  #refuseUsedAttempt(shuffle: Shuffle, mapIndex: number, attemptId: number): void {
    const row = shuffle.table.findAttempt(attemptId);
    if (row === undefined) return;
    const details = { ...refDetails(shuffle.ref), mapIndex, attemptId };
    const committedMap = shuffle.table.get(row).mapIndex;
    if (committedMap === mapIndex)
      throw new StoreError('already_committed', `attempt ${attemptId} was committed`, details);
    throw ofAnotherMap(shuffle, committedMap, { mapIndex, attemptId });
  }

  /** `commits` is one at a time per map, and an attempt id is one map's. */
  #refuseCommittingAttempt(shuffle: Shuffle, mapIndex: number, attemptId: number): void {
    const other = shuffle.committing.get(attemptId);
    if (other !== undefined) throw ofAnotherMap(shuffle, other, { mapIndex, attemptId });
  }

  async #answer(shuffle: Shuffle, sinceVersion: number): Promise<messages.ShuffleTableResponse> {
    const { table, baseVersion } = shuffle;
    // Read first: a row that moves while the others are located comes again with the next answer.
    const atStart = table.version;
    const since = sinceVersion - baseVersion;
    const known = since > 0 && since <= atStart ? since : 0; // I4
    const changed = table.changedSince(known);
    const rows: MapOutputRow[] = [];
    let version = atStart;
    let bytes = 0;
    for (let from = 0; from < changed.length; from += LOCATE_BATCH) {
      if (from > 0) await new Promise((resolve) => setImmediate(resolve));
      if (shuffle.removed) throw notFound(shuffle.ref);
      const batch = changed.subarray(from, from + LOCATE_BATCH);
      const versions = Array.from(batch, (row) => table.versionOf(row));
      const located = await Promise.all(Array.from(batch, (row) => this.#locate(shuffle, row)));
      for (const row of located) {
        if (row === undefined) continue;
        rows.push(row);
        bytes += ROW_FIXED_BYTES + Buffer.byteLength(row.location.path);
      }
      const batchBytesMax = LOCATE_BATCH * (bytes / Math.max(1, rows.length));
      const last = from + batch.length;
      if (last < changed.length && bytes + batchBytesMax * 2 > TABLE_ANSWER_BYTES_MAX) {
        version = Math.max(...versions); // cut here (I3 of the table): the caller asks again from this version
        break;
      }
    }
    return {
      version: baseVersion + version,
      maps: shuffle.maps,
      partitions: shuffle.partitions,
      rows,
    };
  }

  async #resolveOne(
    shuffle: Shuffle,
    attemptId: number,
    options: { readonly suspect: boolean },
  ): Promise<MapOutputRow | undefined> {
    const row = shuffle.table.findAttempt(attemptId);
    if (row === undefined) return undefined;
    const { blobId, sizeBytes } = shuffle.table.get(row);
    return await this.#observed(shuffle, row, this.#store.resolve(blobId, sizeBytes, options));
  }

  async #locate(shuffle: Shuffle, row: number): Promise<MapOutputRow | undefined> {
    const { blobId, sizeBytes } = shuffle.table.get(row);
    return await this.#observed(shuffle, row, this.#store.locate(blobId, sizeBytes));
  }

  async #observed(
    shuffle: Shuffle,
    row: number,
    asked: Promise<ExtentLocation>,
  ): Promise<MapOutputRow | undefined> {
    let location: ExtentLocation;
    try {
      location = await asked;
    } catch (error) {
      if (!isStoreError(error, 'data_lost')) throw error;
      shuffle.table.setLost(row, true);
      return undefined;
    }
    return this.#observe(shuffle, row, location);
  }

  /** Notes where a row's bytes lie, takes them under guard (I5), and makes the row as clients see it. */
  #observe(shuffle: Shuffle, row: number, location: ExtentLocation): MapOutputRow {
    const { table } = shuffle;
    table.setLost(row, false);
    table.setTier(row, location.tier);
    const { mapIndex, attemptId, epoch, blobId, indexBytes, winner } = table.get(row);
    // Only files of tier 0 are recycled. After removal the group must not come into being again.
    if (location.tier === 0 && !table.isGuarded(row) && !shuffle.removed) {
      this.#store.guards.assign(blobId, shuffle.group);
      table.setGuarded(row, true);
    }
    return { mapIndex, attemptId, epoch, winner, location, indexBytes };
  }

  /** The store gives these files up: what lies there moved (or was deleted), and the guard on it ended. */
  #onRevoke(shuffle: Shuffle, blobIds: readonly number[]): void {
    for (const blobId of blobIds) {
      const row = shuffle.table.findBlob(blobId);
      if (row === undefined) continue;
      shuffle.table.setGuarded(row, false);
      shuffle.table.touch(row);
    }
    this.#store.guards.settled(this.#self, blobIds);
  }

  async #get(ref: ShuffleRef): Promise<Shuffle> {
    const shuffle = await this.#find(ref);
    if (shuffle === undefined) throw notFound(ref);
    return shuffle;
  }

  async #find(ref: ShuffleRef): Promise<Shuffle | undefined> {
    checkRef(ref);
    const name = shuffleName(ref);
    return this.#shuffles.get(name) ?? (await this.#lifecycles.run(name, () => this.#load(ref)));
  }

  /** From memory, else from the catalog. Call inside `#lifecycles`. */
  async #load(ref: ShuffleRef): Promise<Shuffle | undefined> {
    const name = shuffleName(ref);
    const present = this.#shuffles.get(name);
    if (present !== undefined) return present;
    const record = await this.#records.findRecord(SHUFFLE_NAMESPACE, name);
    if (record === undefined) return undefined;
    const shuffle = await this.#createShuffle(ref, decodeShape(record, name));
    try {
      await this.#loadRows(shuffle);
    } catch (error) {
      this.#drop(shuffle);
      throw error;
    }
    this.#shuffles.set(name, shuffle);
    return shuffle;
  }

  async #loadRows(shuffle: Shuffle): Promise<void> {
    const { prefix, table } = shuffle;
    let startAfter = '';
    let winnerVersion = 0;
    for (;;) {
      const page = await this.#store.list(SHUFFLE_BUCKET, {
        prefix,
        delimiter: '',
        startAfter,
        limit: LIST_PAGE,
      });
      for (const { object, tiers } of page.objects) {
        const name = parseMapOutputKey(prefix, object.key);
        const metadata = parseMapOutputMetadata(object.metadata);
        const blobId = object.extents[0]?.blobId;
        if (name === undefined || metadata === undefined || blobId === undefined) continue;
        if (name.mapIndex >= shuffle.maps || table.findAttempt(name.attemptId) !== undefined)
          continue;
        // Inside an epoch only one commits, unless its bytes were lost (I3): then the later commit counts.
        const row = table.winnerOf(name.mapIndex);
        const holderEpoch = row === undefined ? -1 : table.get(row).epoch;
        const winner =
          metadata.epoch > holderEpoch ||
          (metadata.epoch === holderEpoch && object.version > winnerVersion);
        if (winner) winnerVersion = object.version; // keys come in map order, so one map's rows together
        table.add(
          {
            ...name,
            ...metadata,
            blobId,
            sizeBytes: object.sizeBytes,
            tier: tiers[0] ?? 2,
          },
          { winner },
        );
      }
      if (page.next === null) return;
      startAfter = page.next;
    }
  }

  async #createShuffle(ref: ShuffleRef, shape: ShuffleShape): Promise<Shuffle> {
    await this.#takeGeneration();
    const shuffle: Shuffle = {
      ...shape,
      ref: { jobId: ref.jobId, shuffleId: ref.shuffleId },
      prefix: shufflePrefix(ref),
      group: groupName(ref),
      table: new MapOutputTable(shape.maps),
      baseVersion: this.#highWater,
      commits: new Serial(),
      committing: new Map(),
      holders: new Set(),
      removed: false,
    };
    this.#store.guards.hold(shuffle.group, this.#self, (ids) => this.#onRevoke(shuffle, ids));
    return shuffle;
  }

  /** From here on nobody finds it, and no commit into it succeeds. */
  #drop(shuffle: Shuffle): void {
    shuffle.removed = true;
    this.#shuffles.delete(shuffleName(shuffle.ref));
    this.#store.guards.unhold(shuffle.group, this.#self);
    this.#highWater = Math.max(this.#highWater, shuffle.baseVersion + shuffle.table.version + 1);
  }

  /** Once per instance, and once more when its span is used up. Persisted before any version of it is given out. */
  async #takeGeneration(): Promise<void> {
    const spent = this.#highWater % GENERATION_SPAN > GENERATION_SPAN / 2;
    if (this.#highWater > 0 && !spent) return;
    this.#takingGeneration ??= (async () => {
      const record = await this.#records.findRecord(SHUFFLE_NAMESPACE, GENERATION_KEY);
      const last = record === undefined ? 0 : decodeGeneration(record);
      const next = (last + 1) % GENERATIONS;
      await this.#records.putRecord(SHUFFLE_NAMESPACE, GENERATION_KEY, encodeGeneration(next));
      this.#highWater = next * GENERATION_SPAN + 1;
    })().finally(() => {
      this.#takingGeneration = undefined;
    });
    await this.#takingGeneration;
  }

  /** Before the store deletes the job's objects: nothing of the job is found from here on. */
  async #endJob(jobId: string): Promise<void> {
    const records = await this.#records.listRecords(SHUFFLE_NAMESPACE, `${jobId}/`);
    const names = new Set(records.map(({ key }) => key));
    for (const [name, { ref }] of this.#shuffles) if (ref.jobId === jobId) names.add(name);
    for (const name of names) {
      await this.#lifecycles.run(name, async () => {
        const shuffle = this.#shuffles.get(name);
        if (shuffle !== undefined) {
          this.#drop(shuffle);
          await shuffle.commits.settled();
        }
        await this.#records.deleteRecord(SHUFFLE_NAMESPACE, name);
      });
    }
  }

  async #createBucket(): Promise<void> {
    try {
      await this.#store.createBucket(SHUFFLE_BUCKET, resolvePolicy({ preset: 'ephemeral' }));
    } catch (error) {
      if (!isStoreError(error, 'bucket_exists')) throw error; // somebody gave it a policy of their own: theirs counts
    }
  }

  /** A job may have ended between the death of the last instance and now. */
  async #forgetOrphans(): Promise<void> {
    const jobs = new Map<string, boolean>();
    for (const { key } of await this.#records.listRecords(SHUFFLE_NAMESPACE, '')) {
      const ref = parseShuffleName(key);
      if (ref === undefined) continue;
      if (!jobs.has(ref.jobId)) jobs.set(ref.jobId, await this.#jobExists(ref.jobId));
      if (jobs.get(ref.jobId) === false) await this.remove(ref);
    }
  }

  async #jobExists(jobId: string): Promise<boolean> {
    try {
      await this.#store.getJob(jobId);
      return true;
    } catch (error) {
      if (isStoreError(error, 'job_not_found')) return false;
      throw error;
    }
  }

  #writesOf(owner: Owner): OwnerWrites {
    let writes = this.#writes.get(owner);
    if (writes === undefined) {
      writes = { staged: new Map(), committed: [], sweepAt: 64 };
      this.#writes.set(owner, writes);
    }
    return writes;
  }

  #remember(owner: Owner, writeId: number, staged: StagedMap): void {
    const writes = this.#writesOf(owner);
    writes.staged.set(writeId, staged);
    if (writes.staged.size < writes.sweepAt) return;
    // Aborts go to the store directly, and so do deadlines: ask it which writes still live. Amortised, one question a write.
    for (const other of writes.staged.keys())
      if (!this.#isLive(owner, other)) writes.staged.delete(other);
    writes.sweepAt = Math.max(64, writes.staged.size * 2);
  }

  #isLive(owner: Owner, writeId: number): boolean {
    try {
      this.#store.extend(owner, writeId, 0);
      return true;
    } catch {
      return false;
    }
  }

  /** A write is committed once: whoever takes it has it. */
  #take(owner: Owner, writeId: number): StagedMap {
    const writes = this.#writesOf(owner);
    const staged = writes.staged.get(writeId);
    if (staged === undefined) {
      if (writes.committed.includes(writeId))
        throw new StoreError('already_committed', undefined, { writeId });
      throw new StoreError('write_not_found', undefined, { writeId });
    }
    writes.staged.delete(writeId);
    writes.committed.push(writeId);
    if (writes.committed.length > COMMITTED_WRITES_REMEMBERED) writes.committed.shift();
    return staged;
  }
}

function groupName(ref: ShuffleRef): string {
  return `shuffle/${shuffleName(ref)}`;
}

function refDetails(ref: ShuffleRef): { jobId: string; shuffleId: number } {
  return { jobId: ref.jobId, shuffleId: ref.shuffleId };
}

function ofAnotherMap(
  { ref }: Shuffle,
  other: number,
  attempt: { readonly mapIndex: number; readonly attemptId: number },
): StoreError {
  const message = `attempt ${attempt.attemptId} is map ${other}'s: attempt ids are unique in a shuffle`;
  return new StoreError('request_invalid', message, { ...refDetails(ref), ...attempt });
}

function notFound(ref: ShuffleRef): StoreError {
  return new StoreError(
    'shuffle_not_found',
    `no shuffle ${ref.shuffleId} of job "${ref.jobId}": it was removed with its job, or never registered`,
    refDetails(ref),
  );
}

/** Job ids become part of keys: one with a slash could reach into another job's. */
function checkRef(ref: ShuffleRef): void {
  if (ref.jobId === '' || ref.jobId.includes('/'))
    throw new StoreError('name_invalid', `job id "${ref.jobId}" is empty or has a slash`);
}

function checkRange(what: string, value: number, least: number, most: number): void {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return;
  throw new StoreError('request_invalid', `${what} is ${value}, allowed are ${least} to ${most}`);
}

function checkSameShape(
  ref: ShuffleRef,
  present: ShuffleShape,
  asked: { readonly maps: number; readonly partitions: number },
): void {
  if (present.maps === asked.maps && present.partitions === asked.partitions) return;
  throw new StoreError(
    'request_invalid',
    `shuffle ${ref.shuffleId} of job "${ref.jobId}" has ${present.maps} maps and ${present.partitions} partitions, not ${asked.maps} and ${asked.partitions}`,
    refDetails(ref),
  );
}

/** The length of an index block follows from the shape, so a wrong one is a client that writes another format. */
function checkIndexBytes(shuffle: Shuffle, request: messages.MapCommitRequest): void {
  const dataBytes = request.sizeBytes - request.indexBytes;
  if (dataBytes >= 0 && indexBlockBytes(shuffle.partitions, dataBytes) === request.indexBytes)
    return;
  throw new StoreError(
    'request_invalid',
    `an index block of ${request.indexBytes} bytes in ${request.sizeBytes} does not fit ${shuffle.partitions} partitions`,
    { ...refDetails(shuffle.ref), sizeBytes: request.sizeBytes, indexBytes: request.indexBytes },
  );
}

function localTier(tier: number): 0 | 1 {
  if (tier === 0 || tier === 1) return tier;
  throw new StoreError('request_invalid', `map outputs are staged in tier 0 or 1, not ${tier}`);
}
