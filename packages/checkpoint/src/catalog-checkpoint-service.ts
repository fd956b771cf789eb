/**
 * Runs, snapshots and their images on an object store and its catalog.
 *
 * I1  A snapshot is one record. It is written when all parts are there and were looked at, and never before; so half a
 *     snapshot is never seen, whoever dies in between.
 * I2  Parts of two sessions never make one snapshot: images carry the session in their name, and a session that begins
 *     throws away what other jobs handed over and did not commit. The images of a committed snapshot are never written again:
 *     a job that saves a step once more does so as another session (`~N`).
 * I3  A snapshot that replaces another of its step keeps that one's stored form until it is stored itself.
 * I4  Slots: of a run whose snapshots are stored, at most `policy.slots` snapshots have images in memory, begun ones included,
 *     unless the policy says `spill`.
 * I5  Room that a client was told of is not promised to another: the staged write reserves it. A slot bounds what a run
 *     takes, the tier bounds what all take.
 */
import { type Clock, isMirrored, resolvePolicy, Serial } from '@ebb/core';
import {
  ACKS,
  type Ack,
  CHECKPOINT_BUCKET,
  DEFAULT_RUN_POLICY,
  type DirectRead,
  type ImageRun,
  isStoreError,
  type PreparedRun,
  type RestorePlan,
  type RunInfo,
  type RunPolicyChange,
  type RunsImported,
  type Shard,
  type SnapshotBegun,
  type SnapshotInfo,
  type SnapshotVerified,
  StoreError,
} from '@ebb/protocol';
import type {
  BeginOptions,
  CheckpointService,
  CheckpointTotals,
  CommitSnapshot,
  SnapshotChoice,
} from './checkpoint-service.ts';
import { readShards } from './image.ts';
import { ImageThread } from './image-thread.ts';
import { Importing } from './importing.ts';
import {
  IMAGE_BUCKET,
  imageKey,
  imagesPrefix,
  isOfOneJob,
  nextSession,
  PREPARED_PREFIX,
  parsePartName,
  parseRunName,
  parseStep,
  type RunRef,
  runKey,
  runPrefix,
  SEALED_IMAGE_BUCKET,
  type SnapshotRef,
  snapshotKey,
} from './names.ts';
import { type CheckpointStore, Objects } from './objects.ts';
import {
  begunKey,
  type CheckpointRecords,
  changedPolicy,
  latestStep,
  type Run,
  Runs,
  visible,
  wake,
} from './runs.ts';
import type { SnapshotRecord } from './snapshot-record.ts';
import { imageBucket, Storing, storedBytesOf, wantsStored } from './storing.ts';
import { verifySnapshot } from './verify.ts';

export interface CheckpointServiceOptions {
  readonly store: CheckpointStore;
  readonly records: CheckpointRecords;
  readonly clock: Clock;
  /** Work behind a snapshot's back that failed, and is tried again. */
  readonly onError: (error: unknown, subject: string) => void;
}

const WAIT_MS = 10 * 60_000;
const PART_POLL_MS_MIN = 5;
const PART_POLL_MS_MAX = 100;
/** Images of a session that was never heard of again. */
const BEGUN_MS_MAX = 60 * 60_000;
const SWEEP_MS = 60_000;
const RETRY_AFTER_MS = 1000;
const DRAIN_POLL_MS = 20;
/** Snapshots of a run that were left out or given up, remembered so that all its ranks are told the same. */
const REMEMBERED_MAX = 64;

/** Opens the service on a store that has recovered, and goes on where the last one stopped. */
export async function openCheckpointService(
  options: CheckpointServiceOptions,
): Promise<CheckpointService> {
  const service = new CatalogCheckpointService(options);
  try {
    await service.open();
  } catch (error) {
    await service.close();
    throw error;
  }
  return service;
}

class CatalogCheckpointService implements CheckpointService {
  readonly #store: CheckpointStore;
  readonly #clock: Clock;
  readonly #onError: (error: unknown, subject: string) => void;
  readonly #objects: Objects;
  readonly #runs: Runs;
  readonly #thread = new ImageThread();
  readonly #serial = new Serial<string>();
  readonly #storing: Storing;
  readonly #importing: Importing;
  readonly #stop = new AbortController();
  #committed = 0;
  #skipped = 0;

  constructor({ store, records, clock, onError }: CheckpointServiceOptions) {
    this.#store = store;
    this.#clock = clock;
    this.#onError = onError;
    this.#objects = new Objects(store);
    this.#runs = new Runs(records);
    this.#storing = new Storing({
      ...{ store, clock, onError },
      objects: this.#objects,
      runs: this.#runs,
      thread: this.#thread,
      serial: this.#serial,
    });
    this.#importing = new Importing({
      ...{ store, clock, objects: this.#objects, runs: this.#runs, serial: this.#serial },
      ensureRun: async (ref) => await this.#ensureRun(ref),
    });
  }

  async open(): Promise<void> {
    await this.#store.createBucket(IMAGE_BUCKET, resolvePolicy({ preset: 'ephemeral' }));
    await this.#runs.load();
    for (const run of this.#runs.all()) await this.#recover(run);
    await this.#findBegun();
    await this.#dropPrepared(this.#clock.now());
    this.#storing.wake();
    void this.#sweepForever();
  }

  async drain(deadlineMs: number): Promise<void> {
    const until = this.#clock.monotonic() + deadlineMs;
    while ((await this.#storing.unstored()).length > 0 && this.#clock.monotonic() < until)
      await this.#clock.sleep(DRAIN_POLL_MS);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    for (const run of this.#runs.all()) wake(run);
    await this.#thread.close();
    await this.#storing.close();
    await this.#serial.settled();
    await this.#objects.close();
  }

  async totals(): Promise<CheckpointTotals> {
    const runs = this.#runs.all();
    const unstored = await this.#storing.unstored();
    const times = unstored.map(({ committedAtMs }) => committedAtMs);
    return {
      runs: runs.length,
      snapshots: runs.reduce((sum, run) => sum + visible(run).length, 0),
      unstored: unstored.length,
      oldestUnstoredMs: times.length === 0 ? null : Math.min(...times),
      committed: this.#committed,
      skipped: this.#skipped,
      storedBytes: this.#storing.storedBytes,
    };
  }

  // ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async listRuns(bucket?: string): Promise<readonly RunInfo[]> {
    const runs = this.#runs
      .all()
      .filter(({ ref }) => bucket === undefined || ref.bucket === bucket);
    return await Promise.all(runs.map((run) => this.#runInfo(run)));
  }

  async getRun(ref: RunRef): Promise<RunInfo> {
    return await this.#runInfo(this.#runs.get(ref));
  }

  async putRun(ref: RunRef, policy: RunPolicyChange): Promise<RunInfo> {
    const run = await this.#ensureRun(ref, policy);
    this.#tidyLater(run);
    return await this.#runInfo(run);
  }

  async removeRun(ref: RunRef): Promise<{ readonly snapshots: number }> {
    const run = this.#runs.get(ref);
    return await this.#serial.run(runKey(ref), async () => {
      const steps = [...run.snapshots.keys()];
      for (const step of steps) await this.#storing.remove({ ...ref, step });
      for (const { step, session } of run.begun.values()) await this.#dropBegun(run, step, session);
      await this.#runs.dropRun(ref);
      return { snapshots: steps.length };
    });
  }

  async importRuns(
    { bucket, run }: { readonly bucket: string; readonly run?: string | undefined },
    signal?: AbortSignal,
  ): Promise<RunsImported> {
    const prefix = run === undefined ? '' : runPrefix(parseRunName(run));
    if (bucket === CHECKPOINT_BUCKET) await this.#ensureBucket(bucket);
    if (!isMirrored((await this.#store.getBucket(bucket)).policy))
      throw new StoreError('not_mirrored', `bucket ${bucket} copies nothing to tier 2`, { bucket });
    const synced = await this.#store.sync(bucket, prefix, {
      ...{ remove: false, signal: this.#withStop(signal) },
    });
    const found = await this.importSynced({ bucket, prefix }, signal);
    return { ...found, refused: [...synced.refused, ...found.refused] };
  }

  async importSynced(
    { bucket, prefix }: { readonly bucket: string; readonly prefix: string },
    signal?: AbortSignal,
  ): Promise<RunsImported> {
    if (!isMirrored((await this.#store.getBucket(bucket)).policy)) return { runs: [], refused: [] };
    const found = await this.#importing.importUnder({ bucket, prefix }, this.#withStop(signal));
    for (const { run } of found.runs) {
      const imported = this.#runs.find({ bucket, run });
      if (imported !== undefined) this.#tidyLater(imported);
    }
    return found;
  }

  async prepare(
    ref: RunRef,
    { imageBytes, slots }: { readonly imageBytes: number; readonly slots?: number | undefined },
  ): Promise<PreparedRun> {
    const run = await this.#ensureRun(ref);
    this.#assertFits(imageBytes);
    const files = slots ?? run.policy.slots;
    await this.#store.populate({ fileBytes: imageBytes, files }, this.#stop.signal);
    const policy = (await this.#store.getBucket(ref.bucket)).policy;
    return { bucket: imageBucket(policy), slots: files };
  }

  // ── making a snapshot ─────────────────────────────────────────────────────────────────────────────────────────────

  async begin(ref: SnapshotRef, options: BeginOptions): Promise<SnapshotBegun> {
    const { session, part, imageBytes } = options;
    parseStep(ref.step);
    parsePartName(part);
    const run = await this.#ensureRun(ref);
    this.#assertFits(imageBytes);
    const policy = (await this.#store.getBucket(ref.bucket)).policy;
    const key = imageKey(ref, session, part);
    if (run.snapshots.get(ref.step)?.session === session) {
      const message = `session ${session} has committed step ${ref.step}: what is saved anew needs a session of its own, such as ${nextSession(session)}`;
      throw new StoreError('already_committed', message, { step: ref.step, session });
    }
    const go = { decision: 'go', bucket: imageBucket(policy), key } as const;
    await this.#dropOtherSessions(run, session);
    const begun = { step: ref.step, session, sinceMs: this.#clock.now() };
    if (!run.begun.has(begunKey(begun)) && wantsStored(policy)) {
      const reason =
        run.skipped.get(begunKey(begun)) ?? (await this.#takeSlot(run, ref.step, options));
      if (reason !== undefined) {
        if (!run.skipped.has(begunKey(begun))) this.#skipped++;
        run.skipped.set(begunKey(begun), reason);
        forgetOldest(run.skipped);
        return { decision: 'skip', reason };
      }
    }
    run.aborted.delete(begunKey(begun));
    run.begun.set(begunKey(begun), begun);
    return go;
  }

  async commit(ref: SnapshotRef, options: CommitSnapshot): Promise<SnapshotInfo> {
    const { session } = options;
    parseStep(ref.step);
    for (const part of options.parts) parsePartName(part);
    const run = this.#runs.get(ref);
    const policy = (await this.#store.getBucket(ref.bucket)).policy;
    const bucket = imageBucket(policy);
    const before = run.snapshots.get(ref.step);
    if (before?.session === session && !before.isRemoved) return await this.#info(run, ref.step);
    const parts = await this.#awaitParts(run, ref, bucket, options);
    await this.#checkParts(ref, bucket, session, parts);
    await this.#serial.run(`commit ${snapshotKey(ref)}`, async () => {
      const there = run.snapshots.get(ref.step);
      const isThere = there !== undefined && !there.isRemoved;
      if (isThere && there.session === session) return;
      if (isThere && !options.overwrite) {
        const message = `run ${ref.run} has a snapshot of step ${ref.step} already`;
        throw new StoreError('already_exists', message, { step: ref.step });
      }
      if (there?.isRemoved === true)
        await this.#serial.run(runKey(ref), async () => await this.#storing.remove(ref));
      const record: SnapshotRecord = {
        ...{ session, parts, metadata: options.metadata },
        committedAtMs: this.#clock.now(),
        ...{ pinned: false, bad: null, imagesGone: false, stored: null, isRemoved: false },
        previous: isThere ? keptOf(there) : null,
      };
      await this.#runs.put(ref, record, { durable: policy.ack !== 'memory' });
      this.#committed++;
      run.begun.delete(begunKey({ step: ref.step, session }));
      if (isThere)
        for (const { name } of there.parts)
          await this.#objects.delete({ bucket, key: imageKey(ref, there.session, name) });
    });
    this.#tidyLater(run);
    return await this.#info(run, ref.step);
  }

  async abort(ref: SnapshotRef, session: string): Promise<void> {
    const run = this.#runs.find(ref);
    if (run === undefined) return;
    if (run.snapshots.get(ref.step)?.session === session) return;
    remember(run.aborted, begunKey({ step: ref.step, session }));
    await this.#dropBegun(run, ref.step, session);
  }

  // ── snapshots ─────────────────────────────────────────────────────────────────────────────────────────────────────

  async list(ref: RunRef): Promise<readonly SnapshotInfo[]> {
    const run = this.#runs.get(ref);
    return await Promise.all(visible(run).map(([step]) => this.#info(run, step)));
  }

  async get(ref: SnapshotChoice): Promise<SnapshotInfo> {
    return await this.#info(this.#runs.get(ref), this.#choose(ref).step);
  }

  async plan(
    choice: SnapshotChoice,
    { direct = false }: { readonly direct?: boolean } = {},
  ): Promise<RestorePlan> {
    const ref = this.#choose(choice);
    const run = this.#runs.get(ref);
    const record = this.#runs.snapshot(ref);
    const { session, imagesGone } = record;
    const bucket = imageBucket((await this.#store.getBucket(ref.bucket)).policy);
    const manifest =
      record.stored === null ? undefined : await this.#storing.readManifest(ref, record);
    const parts = await Promise.all(
      record.parts.map(async ({ name, imageBytes }) => {
        const stored = manifest?.parts.find((one) => one.name === name);
        const image = { bucket, key: imageKey(ref, session, name) };
        const shards =
          stored?.shards ?? (await this.#readShards(image.bucket, image.key, imageBytes, name));
        return {
          ...{ name, imageBytes, shards: [...shards] },
          image: imagesGone ? null : image,
          blockBytes: stored?.blockBytes ?? 0,
          digests: stored?.digests ?? null,
          runs: stored?.runs ?? null,
          direct: direct && imagesGone ? await this.#directReads(ref, stored?.runs ?? []) : [],
        };
      }),
    );
    return { snapshot: await this.#info(run, ref.step), parts };
  }

  async wait(choice: SnapshotChoice, ack: Ack, signal?: AbortSignal): Promise<SnapshotInfo> {
    const ref = this.#choose(choice);
    const run = this.#runs.get(ref);
    const policy = (await this.#store.getBucket(ref.bucket)).policy;
    if (ack === 'remote' && !isMirrored(policy))
      throw new StoreError('not_mirrored', `bucket ${ref.bucket} copies nothing to tier 2`, {
        bucket: ref.bucket,
      });
    if (ack === 'disk' && !wantsStored(policy))
      throw new StoreError(
        'request_invalid',
        `bucket ${ref.bucket} keeps snapshots in memory alone; its policy would have to say ack=disk`,
        { bucket: ref.bucket },
      );
    const { session } = this.#runs.snapshot(ref);
    const isReached = (): boolean => {
      const record = this.#runs.snapshot(ref);
      if (record.session !== session) {
        const message = `another snapshot of step ${ref.step} took its place`;
        throw new StoreError('precondition_failed', message, { step: ref.step });
      }
      return ACKS.indexOf(durabilityOf(record)) >= ACKS.indexOf(ack);
    };
    await this.#until(run, isReached, { signal });
    return await this.#info(run, ref.step);
  }

  async setPinned(ref: SnapshotRef, pinned: boolean): Promise<SnapshotInfo> {
    const record = this.#runs.snapshot(ref);
    await this.#runs.put(ref, { ...record, pinned }, { durable: true });
    this.#tidyLater(this.#runs.get(ref));
    return await this.get(ref);
  }

  async setBad(ref: SnapshotRef, bad: string | null): Promise<SnapshotInfo> {
    const record = this.#runs.snapshot(ref);
    await this.#runs.put(ref, { ...record, bad }, { durable: true });
    return await this.get(ref);
  }

  async verify(choice: SnapshotChoice, signal?: AbortSignal): Promise<SnapshotVerified> {
    const ref = this.#choose(choice);
    const plan = await this.plan(ref);
    const found = await verifySnapshot(plan, {
      objects: this.#objects,
      store: this.#store,
      signal: this.#withStop(signal),
    });
    const older = visible(this.#runs.get(ref)).find(
      ([step, { bad }]) => step < ref.step && bad === null,
    );
    return { ...found, fallback: older?.[0] ?? null };
  }

  async remove(ref: SnapshotRef): Promise<void> {
    this.#runs.snapshot(ref);
    await this.#serial.run(runKey(ref), async () => await this.#storing.remove(ref));
  }

  // ── parts and slots ───────────────────────────────────────────────────────────────────────────────────────────────

  /** I4. Returns why the snapshot is left out, if it is. @throws `busy`, `aborted` */
  async #takeSlot(run: Run, step: number, options: BeginOptions): Promise<string | undefined> {
    const { slots } = run.policy;
    const key = begunKey({ step, session: options.session });
    const mayGo = (): boolean =>
      run.begun.has(key) ||
      run.policy.behind !== 'wait' ||
      takenSlots(run, step) < run.policy.slots;
    await this.#storing.dropImages(run);
    const waitMs = options.waitMs ?? WAIT_MS;
    if (!(await this.#until(run, mayGo, { signal: options.signal, waitMs }))) {
      const message = `all ${slots} slots of run ${run.ref.run} hold snapshots that are not stored yet`;
      throw new StoreError('busy', message, { slots, retryAfterMs: RETRY_AFTER_MS });
    }
    if (run.policy.behind !== 'skip' || takenSlots(run, step) < slots) return undefined;
    return `storing is behind: all ${slots} slots of run ${run.ref.run} are taken`;
  }

  async #awaitParts(
    run: Run,
    ref: SnapshotRef,
    bucket: string,
    { session, parts, waitMs = WAIT_MS, signal }: CommitSnapshot,
  ): Promise<SnapshotRecord['parts']> {
    const found: { name: string; imageBytes: number }[] = [];
    const deadlineMs = this.#clock.monotonic() + waitMs;
    let pauseMs = PART_POLL_MS_MIN;
    for (const name of new Set(parts))
      for (;;) {
        const view = await this.#store.find({ bucket, key: imageKey(ref, session, name) });
        if (view !== undefined) {
          found.push({ name, imageBytes: view.object.sizeBytes });
          break;
        }
        signal?.throwIfAborted();
        if (this.#stop.signal.aborted) throw new StoreError('draining', 'the node is stopping');
        if (!run.begun.has(begunKey({ step: ref.step, session }))) {
          const message = `session ${session} has begun no snapshot of step ${ref.step}, or another session took over`;
          throw new StoreError('superseded', message, { step: ref.step, part: name });
        }
        if (this.#clock.monotonic() >= deadlineMs) {
          const message = `part ${name} of step ${ref.step} did not come in ${waitMs} ms`;
          throw new StoreError('busy', message, { part: name, retryAfterMs: RETRY_AFTER_MS });
        }
        await this.#clock.sleep(pauseMs);
        pauseMs = Math.min(pauseMs * 2, PART_POLL_MS_MAX);
      }
    return found;
  }

  async #checkParts(
    ref: SnapshotRef,
    bucket: string,
    session: string,
    parts: SnapshotRecord['parts'],
  ): Promise<void> {
    for (const { name, imageBytes } of parts)
      await this.#readShards(bucket, imageKey(ref, session, name), imageBytes, name);
  }

  /** What has none is read through the node; and so is all the rest when one fails: that says what is wrong. */
  async #directReads({ bucket }: RunRef, runs: readonly ImageRun[]): Promise<DirectRead[]> {
    const found: DirectRead[] = [];
    try {
      for (const key of new Set(runs.map(([, , key]) => key))) {
        const read = await this.#store.presignRead({ bucket, key });
        if (read !== undefined) found.push({ key, ...read });
      }
    } catch (error) {
      if (!isStoreError(error)) throw error;
    }
    return found;
  }

  async #readShards(
    bucket: string,
    key: string,
    imageBytes: number,
    part: string,
  ): Promise<readonly Shard[]> {
    return await this.#objects.using({ bucket, key }, async (opened) => {
      const read = (target: Uint8Array, at: number): Promise<void> =>
        this.#objects.read(opened, target, at);
      return await readShards(read, { imageBytes, part });
    });
  }

  /** I2 */
  async #dropOtherSessions(run: Run, session: string): Promise<void> {
    for (const begun of [...run.begun.values()])
      if (!isOfOneJob(begun.session, session))
        await this.#dropBegun(run, begun.step, begun.session);
  }

  async #dropBegun(run: Run, step: number, session: string): Promise<void> {
    const policy = (await this.#store.getBucket(run.ref.bucket)).policy;
    run.begun.delete(begunKey({ step, session }));
    const ref = { ...run.ref, step };
    await this.#objects.deleteAll(imageBucket(policy), `${imagesPrefix(ref)}${session}/`);
    wake(run);
  }

  /** @throws `tier_full` */
  #assertFits(imageBytes: number): void {
    const memory = this.#store.tiers().find(({ tier }) => tier === 0);
    const capacityBytes = memory?.capacityBytes ?? null;
    if (capacityBytes === null || imageBytes <= capacityBytes) return;
    throw new StoreError(
      'tier_full',
      `an image of ${imageBytes} bytes can never fit the memory tier of ${capacityBytes} bytes at ${memory?.location}: raise --memory-limit`,
      { imageBytes, capacityBytes },
    );
  }

  // ── runs, inside ──────────────────────────────────────────────────────────────────────────────────────────────────

  async #ensureRun(ref: RunRef, policy?: RunPolicyChange): Promise<Run> {
    parseRunName(ref.run);
    const known = this.#runs.find(ref);
    if (known !== undefined && policy === undefined) return known;
    const bucket = await this.#ensureBucket(ref.bucket);
    if (bucket.encrypted === true) {
      const sealed = resolvePolicy({ preset: 'ephemeral', encrypted: true });
      await this.#store.createBucket(SEALED_IMAGE_BUCKET, sealed);
    }
    const next = changedPolicy(known?.policy ?? DEFAULT_RUN_POLICY, policy ?? {});
    return await this.#runs.setPolicy(ref, next);
  }

  async #ensureBucket(name: string): Promise<{ readonly encrypted?: boolean }> {
    try {
      return (await this.#store.getBucket(name)).policy;
    } catch (error) {
      if (!isStoreError(error, 'bucket_not_found')) throw error;
      const made = await this.#store.createBucket(name, resolvePolicy({ preset: 'buffered' }));
      return made.bucket.policy;
    }
  }

  async #runInfo(run: Run): Promise<RunInfo> {
    const policy = (await this.#store.getBucket(run.ref.bucket)).policy;
    return {
      ...{ bucket: run.ref.bucket, run: run.ref.run, policy: run.policy },
      snapshots: visible(run).length,
      latestStep: latestStep(run),
      storedBytes: storedBytesOf(run, policy),
    };
  }

  async #info(run: Run, step: number): Promise<SnapshotInfo> {
    const record = this.#runs.snapshot({ ...run.ref, step });
    return {
      ...{ bucket: run.ref.bucket, run: run.ref.run, step, session: record.session },
      committedAtMs: record.committedAtMs,
      durability: durabilityOf(record),
      inMemory: !record.imagesGone,
      imageBytes: record.parts.reduce((sum, { imageBytes }) => sum + imageBytes, 0),
      newBytes: record.stored?.newBytes ?? null,
      parts: record.parts.map((part) => ({ ...part })),
      ...{ pinned: record.pinned, bad: record.bad, metadata: { ...record.metadata } },
    };
  }

  /** @throws `not_found` */
  #choose({ step, ...of }: SnapshotChoice): SnapshotRef {
    const run = this.#runs.get(of);
    const chosen = step === 'latest' ? latestStep(run) : step;
    if (chosen !== null) return { ...run.ref, step: chosen };
    throw new StoreError('not_found', `run ${of.run} has no snapshot to go on from`, {
      ...{ bucket: of.bucket, run: of.run },
    });
  }

  #withStop(signal: AbortSignal | undefined): AbortSignal {
    return signal === undefined ? this.#stop.signal : AbortSignal.any([signal, this.#stop.signal]);
  }

  /** False when the time was up. @throws what `isReached` throws; `aborted`, `draining` */
  async #until(
    run: Run,
    isReached: () => boolean,
    { signal, waitMs }: { readonly signal?: AbortSignal | undefined; readonly waitMs?: number },
  ): Promise<boolean> {
    const enough = new AbortController();
    const stops = [enough.signal, this.#stop.signal, ...(signal === undefined ? [] : [signal])];
    const ended = AbortSignal.any(stops);
    let isLate = false;
    if (waitMs !== undefined)
      this.#clock.sleep(waitMs, ended).then(
        () => {
          isLate = true;
          wake(run);
        },
        () => undefined,
      );
    try {
      while (!isReached()) {
        if (isLate) return false;
        if (signal?.aborted === true)
          throw new StoreError('aborted', 'the caller waits no longer', {}, signal.reason);
        if (this.#stop.signal.aborted) throw new StoreError('draining', 'the node is stopping');
        await new Promise<void>((resolve) => {
          const look = (): void => {
            run.waiters.delete(look);
            ended.removeEventListener('abort', look);
            resolve();
          };
          run.waiters.add(look);
          ended.addEventListener('abort', look, { once: true });
        });
      }
      return true;
    } finally {
      enough.abort();
    }
  }

  // ── clean-up ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Images first: a slot may be waited for. */
  #tidyLater(run: Run): void {
    const work = async (): Promise<void> => {
      await this.#storing.dropImages(run);
      this.#storing.wake();
      await this.#serial.run(runKey(run.ref), async () => await this.#storing.retain(run));
    };
    work().catch((error: unknown) => {
      if (!this.#stop.signal.aborted) this.#onError(error, runKey(run.ref));
    });
  }

  async #sweepForever(): Promise<void> {
    for (;;) {
      try {
        await this.#clock.sleep(SWEEP_MS, this.#stop.signal);
      } catch {
        return; // closed
      }
      const oldMs = this.#clock.now() - BEGUN_MS_MAX;
      // Also parts that came when their snapshot was given up already.
      await this.#findBegun().catch((error: unknown) => this.#onError(error, 'checkpoints'));
      await this.#dropPrepared(oldMs).catch((error: unknown) =>
        this.#onError(error, 'checkpoints'),
      );
      for (const run of this.#runs.all()) {
        for (const begun of [...run.begun.values()])
          if (begun.sinceMs < oldMs)
            await this.#dropBegun(run, begun.step, begun.session).catch((error: unknown) =>
              this.#onError(error, runKey(run.ref)),
            );
        this.#tidyLater(run);
      }
    }
  }

  /** What clients that died left behind: made before this time. */
  async #dropPrepared(beforeMs: number): Promise<void> {
    for (const { name: bucket } of await this.#store.listBuckets())
      if (bucket === IMAGE_BUCKET || bucket === SEALED_IMAGE_BUCKET)
        for await (const { key, createdAtMs } of this.#objects.list(bucket, PREPARED_PREFIX))
          if (createdAtMs <= beforeMs) await this.#objects.delete({ bucket, key });
  }

  /** After a restart: what was being removed goes, and what memory lost is what it was before. */
  async #recover(run: Run): Promise<void> {
    for (const [step, record] of [...run.snapshots]) {
      const ref = { ...run.ref, step };
      if (record.isRemoved) await this.#storing.remove(ref);
      else if (!record.imagesGone && !(await this.#hasImages(ref, record)))
        await this.#imagesLost(ref, record);
    }
  }

  async #imagesLost(ref: SnapshotRef, record: SnapshotRecord): Promise<void> {
    if (record.stored !== null) {
      await this.#runs.put(ref, { ...record, imagesGone: true }, { durable: false });
      return;
    }
    const message = `snapshot ${snapshotKey(ref)} was in memory alone, and that is lost`;
    this.#onError(new StoreError('data_lost', message, { step: ref.step }), snapshotKey(ref));
    if (record.previous !== null) await this.#runs.put(ref, record.previous, { durable: true });
    else await this.#storing.remove(ref);
  }

  async #hasImages(ref: SnapshotRef, { session, parts }: SnapshotRecord): Promise<boolean> {
    const bucket = imageBucket((await this.#store.getBucket(ref.bucket)).policy);
    for (const { name } of parts)
      try {
        await this.#store.head({ bucket, key: imageKey(ref, session, name) });
      } catch (error) {
        if (isStoreError(error, 'not_found') || isStoreError(error, 'data_lost')) return false;
        throw error;
      }
    return true;
  }

  /** Images of snapshots that were not committed: their sessions may live, and go on. */
  async #findBegun(): Promise<void> {
    for (const run of this.#runs.all()) {
      const bucket = imageBucket((await this.#store.getBucket(run.ref.bucket)).policy);
      for await (const { key, createdAtMs } of this.#objects.list(bucket, runKey(run.ref))) {
        const [, , digits = '', session = ''] = key.split('/');
        const step = Number(digits);
        const record = run.snapshots.get(step);
        if (record?.session === session || record?.previous?.session === session) continue;
        const begun = { step, session, sinceMs: createdAtMs };
        if (run.aborted.has(begunKey(begun))) await this.#dropBegun(run, step, session);
        else if (!run.begun.has(begunKey(begun))) run.begun.set(begunKey(begun), begun);
      }
    }
  }
}

function remember(keys: Set<string>, key: string): void {
  keys.add(key);
  forgetOldest(keys);
}

function forgetOldest(kept: Set<string> | Map<string, unknown>): void {
  for (const oldest of kept.keys()) if (kept.size > REMEMBERED_MAX) kept.delete(oldest);
}

/** Snapshots with images in memory, others than this step. */
function takenSlots(run: Run, step: number): number {
  const steps = new Set([...run.begun.values()].map((begun) => begun.step));
  for (const [of, { imagesGone }] of visible(run)) if (!imagesGone) steps.add(of);
  steps.delete(step);
  return steps.size;
}

/** I3 */
function keptOf(record: SnapshotRecord): SnapshotRecord | null {
  return record.stored === null ? record.previous : { ...record, imagesGone: true, previous: null };
}

function durabilityOf({ stored }: SnapshotRecord): Ack {
  return stored?.durability ?? 'memory';
}
