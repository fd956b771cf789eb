/**
 * Runs, snapshots and their images on an object store and its catalog.
 *
 * I1  A snapshot is one record. It is written when all parts are there and were looked at, and never before; so half a
 *     snapshot is never seen, whoever dies in between. How parts come together is in handing-over.ts.
 * I2  Parts of two sessions never make one snapshot: images carry the session in their name. The images of a committed
 *     snapshot are never written again: a job that saves a step once more does so as another session (`~N`), and each
 *     image has a key of its own (I6, I7 of handing-over.ts).
 * I3  A snapshot that replaces another of its step keeps that one's stored form until it is stored itself.
 * I4  Slots: of a run whose snapshots are stored, at most `policy.slots` snapshots have images in memory, begun ones included,
 *     unless the policy says `spill`.
 * I5  Room that a client was told of is not promised to another: the staged write reserves it. A slot bounds what a run
 *     takes, the tier bounds what all take.
 * I6  Whoever waits for a snapshot that does not come, or is there no more, is told why.
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
  parseRunName,
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
import { assertCommitted, HandingOver } from './handing-over.ts';
import { readShards } from './image.ts';
import { ImageThread } from './image-thread.ts';
import { Importing } from './importing.ts';
import { Losses } from './losses.ts';
import {
  IMAGE_BUCKET,
  parsePartName,
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
  type CheckpointRecords,
  changedPolicy,
  latestStep,
  type Run,
  Runs,
  visible,
  wake,
} from './runs.ts';
import {
  assertIsImage,
  imageKeyOf,
  lastSessionAfter,
  type SnapshotPart,
  type SnapshotRecord,
} from './snapshot-record.ts';
import { imageBucket, Storing, storedBytesOf, wantsStored } from './storing.ts';
import { verifySnapshot } from './verify.ts';
import { awaitChange } from './waiting.ts';

export interface CheckpointServiceOptions {
  readonly store: CheckpointStore;
  readonly records: CheckpointRecords;
  readonly clock: Clock;
  /** Work behind a snapshot's back that failed, and is tried again. */
  readonly onError: (error: unknown, subject: string) => void;
}

const SWEEP_MS = 60_000;
/** Files made ready by clients that did not give them back. */
const PREPARED_MS_MAX = 60 * 60_000;
const DRAIN_POLL_MS = 20;

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
  readonly #losses: Losses;
  readonly #storing: Storing;
  readonly #handing: HandingOver;
  readonly #importing: Importing;
  readonly #stop = new AbortController();
  #committed = 0;

  constructor({ store, records, clock, onError }: CheckpointServiceOptions) {
    this.#store = store;
    this.#clock = clock;
    this.#onError = onError;
    this.#objects = new Objects(store);
    this.#runs = new Runs(records, clock);
    this.#losses = new Losses({
      ...{ store, runs: this.#runs, onError },
      imageBucketOf: async (bucket) => imageBucket((await store.getBucket(bucket)).policy),
    });
    this.#storing = new Storing({
      ...{ store, clock, onError },
      objects: this.#objects,
      runs: this.#runs,
      thread: this.#thread,
      serial: this.#serial,
      losses: this.#losses,
    });
    this.#handing = new HandingOver({
      ...{ store, clock, objects: this.#objects, runs: this.#runs, storing: this.#storing },
      ...{ losses: this.#losses, serial: this.#serial, stop: this.#stop.signal },
      nextId: async () => await records.nextIds(1),
    });
    this.#importing = new Importing({
      ...{ store, clock, objects: this.#objects, runs: this.#runs, serial: this.#serial },
      ensureRun: async (ref) => await this.#ensureRun(ref),
    });
  }

  async open(): Promise<void> {
    await this.#runs.load();
    if (this.#runs.all().length > 0) await this.#ensureImageBucket(false);
    for (const run of this.#runs.all()) await this.#recover(run);
    await this.#handing.sweep(this.#onError);
    await this.#handing.dropPrepared(Number.POSITIVE_INFINITY);
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
      skipped: this.#handing.skipped,
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
    const bucket = imageBucket((await this.#store.getBucket(ref.bucket)).policy);
    return await this.#serial.run(runKey(ref), async () => {
      const steps = [...run.snapshots.keys()];
      const message = `run ${ref.run} was removed`;
      for (const step of steps) await this.#storing.remove({ ...ref, step }, message);
      await this.#handing.dropAll(run, bucket);
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
    parseStep(ref.step);
    parsePartName(options.part);
    const run = await this.#ensureRun(ref);
    this.#assertFits(options.imageBytes);
    const policy = (await this.#store.getBucket(ref.bucket)).policy;
    const placing = { imageBucket: imageBucket(policy), isStored: wantsStored(policy) };
    return await this.#handing.begin(run, ref.step, { options, placing });
  }

  async commit(ref: SnapshotRef, options: CommitSnapshot): Promise<SnapshotInfo> {
    const { session } = options;
    parseStep(ref.step);
    for (const part of options.parts) parsePartName(part);
    const run = this.#runs.get(ref);
    const policy = (await this.#store.getBucket(ref.bucket)).policy;
    const bucket = imageBucket(policy);
    const known = run.snapshots.get(ref.step);
    if (isOf(known, session)) {
      assertCommitted(ref, known, options);
      return await this.#info(run, ref.step);
    }
    await this.#handing.commit(run, ref.step, {
      ...{ options, imageBucket: bucket },
      check: async (parts) => {
        await this.#checkParts(ref, bucket, session, parts);
        await this.#awaitRemoval(run, ref);
      },
      publish: async (parts) => {
        const there = run.snapshots.get(ref.step);
        if (there?.isRemoved === true) return false;
        if (there?.session === session) {
          assertCommitted(ref, there, options);
          return true;
        }
        if (there !== undefined && !options.overwrite) {
          const message = `run ${ref.run} has a snapshot of step ${ref.step} already`;
          throw new StoreError('already_exists', message, { step: ref.step });
        }
        const record: SnapshotRecord = {
          ...{ session, ...lastSessionAfter(there, session), parts, metadata: options.metadata },
          ...{ sequence: this.#runs.nextSequence(), committedAtMs: this.#clock.now() },
          ...{ pinned: false, bad: null, imagesGone: false, stored: null, isRemoved: false },
          previous: there === undefined ? null : keptOf(there),
        };
        await this.#runs.put(ref, record, { durable: policy.ack !== 'memory' });
        this.#committed++;
        for (const part of there?.parts ?? [])
          await this.#objects.delete({ bucket, key: imageKeyOf(ref, there?.session ?? '', part) });
        return true;
      },
    });
    this.#tidyLater(run);
    return await this.#info(run, ref.step);
  }

  async abort(ref: SnapshotRef, session: string): Promise<void> {
    const run = this.#runs.find(ref);
    if (run === undefined) return;
    const bucket = imageBucket((await this.#store.getBucket(ref.bucket)).policy);
    await this.#handing.abort(run, { step: ref.step, session }, bucket);
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
    for (;;) {
      const ref = this.#choose(choice);
      const plan = await this.#planOf(ref, { direct });
      if (plan !== undefined) return plan;
      // What was lost is seen by now: the next choice is another one, or says so.
      if (choice.step !== 'latest') this.#runs.snapshot(ref);
    }
  }

  /** undefined: it changed meanwhile, or was found to be lost. @throws `data_lost` */
  async #planOf(
    ref: SnapshotRef,
    { direct }: { readonly direct: boolean },
  ): Promise<RestorePlan | undefined> {
    const run = this.#runs.get(ref);
    const record = this.#runs.snapshot(ref);
    const { session, imagesGone } = record;
    const bucket = imageBucket((await this.#store.getBucket(ref.bucket)).policy);
    if (!imagesGone && !(await this.#losses.checkImages(ref, record))) return undefined;
    const manifest =
      record.stored === null ? undefined : await this.#storing.readManifest(ref, record);
    if (imagesGone && manifest !== undefined && record.bad === null) {
      const keys = new Set(manifest.parts.flatMap(({ runs }) => runs.map(([, , key]) => key)));
      if (!(await this.#losses.checkStored(ref, record, keys))) return undefined;
    }
    const parts = await Promise.all(
      record.parts.map(async (part) => {
        const { name, imageBytes } = part;
        const stored = manifest?.parts.find((one) => one.name === name);
        const image = { bucket, key: imageKeyOf(ref, session, part) };
        const shards = stored?.shards ?? (await this.#readShards(image, part));
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

  async wait(
    choice: SnapshotChoice,
    ack: Ack,
    { signal, session: asked }: { readonly signal?: AbortSignal; readonly session?: string } = {},
  ): Promise<SnapshotInfo> {
    const ref =
      asked === undefined || choice.step === 'latest'
        ? this.#choose(choice)
        : { ...choice, step: choice.step };
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
    const session = asked ?? this.#runs.snapshot(ref).session;
    const isReached = (): boolean => {
      const record = run.snapshots.get(ref.step);
      if (isOf(record, session)) return ACKS.indexOf(durabilityOf(record)) >= ACKS.indexOf(ack);
      if (this.#handing.mayCome(run, { step: ref.step, session })) return false;
      this.#runs.snapshot(ref); // says why there is none
      const message = `another snapshot of step ${ref.step} took its place`;
      throw new StoreError('precondition_failed', message, { step: ref.step, ended: true });
    };
    await this.#until(run, isReached, signal);
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
    const inOrder = visible(this.#runs.get(ref));
    const older = inOrder.slice(inOrder.findIndex(([step]) => step === ref.step) + 1);
    return { ...found, fallback: older.find(([, { bad }]) => bad === null)?.[0] ?? null };
  }

  async remove(ref: SnapshotRef): Promise<void> {
    this.#runs.snapshot(ref);
    const message = `snapshot ${snapshotKey(ref)} was removed`;
    await this.#serial.run(runKey(ref), async () => await this.#storing.remove(ref, message));
  }

  // ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Waits for the removal of what was there at this step: nothing new takes its place before that is gone. */
  async #awaitRemoval(run: Run, ref: SnapshotRef): Promise<void> {
    if (run.snapshots.get(ref.step)?.isRemoved !== true) return;
    const message = `snapshot ${snapshotKey(ref)} was removed`;
    await this.#serial.run(runKey(ref), async () => {
      if (run.snapshots.get(ref.step)?.isRemoved === true) await this.#storing.remove(ref, message);
    });
  }

  async #checkParts(
    ref: SnapshotRef,
    bucket: string,
    session: string,
    parts: SnapshotRecord['parts'],
  ): Promise<void> {
    for (const part of parts)
      await this.#readShards({ bucket, key: imageKeyOf(ref, session, part) }, part);
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
    image: { readonly bucket: string; readonly key: string },
    part: SnapshotPart,
  ): Promise<readonly Shard[]> {
    return await this.#objects.using(image, async (opened) => {
      assertIsImage(part, opened.object);
      const read = (target: Uint8Array, at: number): Promise<void> =>
        this.#objects.read(opened, target, at);
      return await readShards(read, { imageBytes: part.imageBytes, part: part.name });
    });
  }

  /** @throws `tier_full` */
  #assertFits(imageBytes: number): void {
    const memory = this.#store.tiers().find(({ tier }) => tier === 0);
    const capacityBytes = memory?.capacityBytes ?? null;
    if (capacityBytes === null || imageBytes <= capacityBytes) return;
    throw new StoreError(
      'tier_full',
      `an image of ${imageBytes} bytes can never fit the memory tier of ${capacityBytes} bytes at ${memory?.location}: raise --memory-limit`,
      { imageBytes, capacityBytes, neverFits: true },
    );
  }

  // ── runs, inside ──────────────────────────────────────────────────────────────────────────────────────────────────

  async #ensureRun(ref: RunRef, policy?: RunPolicyChange): Promise<Run> {
    parseRunName(ref.run);
    const known = this.#runs.find(ref);
    if (known !== undefined && policy === undefined) return known;
    const bucket = await this.#ensureBucket(ref.bucket);
    // With the first run, so that a node without any lists no bucket that nobody made.
    await this.#ensureImageBucket(bucket.encrypted === true);
    const next = changedPolicy(known?.policy ?? DEFAULT_RUN_POLICY, policy ?? {});
    return await this.#runs.setPolicy(ref, next);
  }

  async #ensureImageBucket(encrypted: boolean): Promise<void> {
    const name = encrypted ? SEALED_IMAGE_BUCKET : IMAGE_BUCKET;
    const policy = resolvePolicy({ preset: 'ephemeral', ...(encrypted ? { encrypted } : {}) });
    await this.#store.createBucket(name, policy);
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
      ...{ sequence: record.sequence, committedAtMs: record.committedAtMs },
      durability: durabilityOf(record),
      inMemory: !record.imagesGone,
      imageBytes: record.parts.reduce((sum, { imageBytes }) => sum + imageBytes, 0),
      newBytes: record.stored?.newBytes ?? null,
      parts: record.parts.map(({ name, imageBytes }) => ({ name, imageBytes })),
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

  /** @throws what `isReached` throws; `aborted`, `draining` */
  async #until(run: Run, isReached: () => boolean, signal: AbortSignal | undefined): Promise<void> {
    const stops = this.#withStop(signal);
    while (!isReached()) {
      if (signal?.aborted === true)
        throw new StoreError('aborted', 'the caller waits no longer', {}, signal.reason);
      if (this.#stop.signal.aborted) throw new StoreError('draining', 'the node is stopping');
      await awaitChange(run, { clock: this.#clock, signal: stops });
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
      const tell = (error: unknown): void => this.#onError(error, 'checkpoints');
      // Also parts that came when their snapshot was given up already.
      await this.#handing.sweep(this.#onError).catch(tell);
      await this.#handing.dropPrepared(this.#clock.now() - PREPARED_MS_MAX).catch(tell);
      for (const run of this.#runs.all()) {
        await this.#lookForLosses(run).catch(tell);
        this.#tidyLater(run);
      }
    }
  }

  async #lookForLosses(run: Run): Promise<void> {
    for (const [step, record] of visible(run))
      if (!record.imagesGone) await this.#losses.checkImages({ ...run.ref, step }, record);
  }

  /** After a restart: what was being removed goes, and what memory lost is what it was before. */
  async #recover(run: Run): Promise<void> {
    for (const [step, { isRemoved }] of [...run.snapshots])
      if (isRemoved) await this.#storing.remove({ ...run.ref, step }, 'it was being removed');
    await this.#lookForLosses(run);
    for (const [step, { isRemoved }] of [...run.snapshots])
      if (isRemoved) await this.#storing.remove({ ...run.ref, step }, 'it is lost');
  }
}

/** I3 */
function keptOf(record: SnapshotRecord): SnapshotRecord | null {
  return record.stored === null ? record.previous : { ...record, imagesGone: true, previous: null };
}

function isOf(record: SnapshotRecord | undefined, session: string): record is SnapshotRecord {
  return record !== undefined && !record.isRemoved && record.session === session;
}

function durabilityOf({ stored }: SnapshotRecord): Ack {
  return stored?.durability ?? 'memory';
}
