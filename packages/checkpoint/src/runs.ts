/**
 * The runs of a node and their snapshots: an index of what the catalog keeps, which is read once at the start. All changes of a
 * record go through here, so index and catalog do not differ.
 *
 * I1  Commits are counted on the node, and the count is the order of the snapshots. The clock of the host may be set.
 * I2  An age is measured with a clock that nobody sets, from what the time of day said when the node first saw the snapshot.
 */
import type { Catalog, Clock } from '@ebb/core';
import {
  DEFAULT_RUN_POLICY,
  type RunPolicy,
  type RunPolicyChange,
  runPolicyChangeSchema,
  StoreError,
} from '@ebb/protocol';
import { parseSnapshotKey, type RunRef, runKey, type SnapshotRef, snapshotKey } from './names.ts';
import {
  decodeRecord,
  encodeRecord,
  inSequence,
  JOBS,
  RUNS,
  SNAPSHOTS,
  type SnapshotRecord,
} from './snapshot-record.ts';

export type CheckpointRecords = Pick<
  Catalog,
  'deleteRecord' | 'durable' | 'findRecord' | 'listRecords' | 'nextIds' | 'putRecord' | 'putRecords'
>;

/** A snapshot that is not committed yet. Times are monotonic. */
export interface Begun {
  readonly step: number;
  readonly session: string;
  /** Parts that were told to come, by name, and when. */
  readonly promises: Map<string, number>;
  /** Images begun before this one do not count: they were given up. */
  readonly sinceId: number;
  heardMs: number;
  /** Commits that wait for its parts. */
  commits: number;
}

/** Why there is no snapshot of a session at a step, or none any more. */
export interface Ended {
  readonly code: 'data_lost' | 'not_found' | 'superseded';
  readonly message: string;
}

/** Who may save to a run. Persisted: fields are added, never changed. */
interface Jobs {
  /** The last one that began to save; null before the first. */
  readonly current: string | null;
  /** Those before it, the oldest first: they save no more. */
  readonly fenced: readonly Fenced[];
}
interface Fenced {
  readonly job: string;
  readonly by: string;
  readonly step: number;
  readonly atMs: number;
}

export interface Run {
  readonly ref: RunRef;
  policy: RunPolicy;
  jobs: Jobs;
  readonly snapshots: Map<number, SnapshotRecord>;
  /** By step, and by the sessions that its record names: when they committed, on the monotonic clock (I2). */
  readonly bornMs: Map<number, ReadonlyMap<string, number>>;
  /** By step and session. */
  readonly begun: Map<string, Begun>;
  /** Why a step is left out, by step and session. */
  readonly skipped: Map<string, string>;
  /** By step and session: a part that comes late is thrown away, and who waits is told. */
  readonly ended: Map<string, Ended>;
  readonly waiters: Set<() => void>;
}

const NO_JOBS: Jobs = { current: null, fenced: [] };
/** Lives of a job that are remembered as over. */
const FENCED_MAX = 256;

export class Runs {
  readonly #records: CheckpointRecords;
  readonly #clock: Clock;
  readonly #runs = new Map<string, Run>();
  #sequence = 0;

  constructor(records: CheckpointRecords, clock: Clock) {
    this.#records = records;
    this.#clock = clock;
  }

  async load(): Promise<void> {
    for (const { key, value } of await this.#records.listRecords(RUNS, '')) {
      const kept = runPolicyChangeSchema.parse(JSON.parse(Buffer.from(value).toString('utf8')));
      this.#add(parseSnapshotKey(key), changedPolicy(DEFAULT_RUN_POLICY, kept));
    }
    for (const { key, value } of await this.#records.listRecords(JOBS, '')) {
      const run = this.find(parseSnapshotKey(key));
      if (run !== undefined) run.jobs = JSON.parse(Buffer.from(value).toString('utf8')) as Jobs;
    }
    const kept = await this.#records.listRecords(SNAPSHOTS, '');
    const stored = kept.map(({ key, value }) => decodeRecord(key, value));
    const inOrder = inSequence(stored);
    const changed: { key: string; value: Uint8Array }[] = [];
    for (const [n, { key }] of kept.entries()) {
      const ref = parseSnapshotKey(key);
      const record = inOrder[n] as SnapshotRecord;
      this.#enter(this.find(ref) ?? this.#add(ref, DEFAULT_RUN_POLICY), ref.step, record);
      const isOld = stored[n]?.sequence === undefined;
      if (isOld) changed.push({ key, value: encodeRecord(record) });
    }
    if (changed.length > 0) await this.#records.putRecords(SNAPSHOTS, changed);
  }

  /** The place of the commit that is made next (I1). */
  nextSequence(): number {
    return this.#sequence + 1;
  }

  /** How long ago it was committed (I2). */
  ageMs(ref: SnapshotRef, { session }: SnapshotRecord): number {
    const now = this.#clock.monotonic();
    return now - (this.find(ref)?.bornMs.get(ref.step)?.get(session) ?? now);
  }

  all(): readonly Run[] {
    return [...this.#runs.values()];
  }

  find(ref: RunRef): Run | undefined {
    return this.#runs.get(runKey(ref));
  }

  /** @throws `not_found` */
  get(ref: RunRef): Run {
    const run = this.find(ref);
    if (run !== undefined) return run;
    throw new StoreError('not_found', `there is no run ${ref.run} in bucket ${ref.bucket}`, {
      ...{ bucket: ref.bucket, run: ref.run },
    });
  }

  async setPolicy(ref: RunRef, policy: RunPolicy): Promise<Run> {
    await this.#records.putRecord(RUNS, runKey(ref), Buffer.from(JSON.stringify(policy)));
    const run = this.find(ref) ?? this.#add(ref, policy);
    run.policy = policy;
    wake(run);
    return run;
  }

  /** Whoever saved before `job` saves no more, also after a restart; nor do `others`. */
  async takeOver(
    run: Run,
    {
      job,
      step,
      others,
    }: { readonly job: string; readonly step: number; readonly others: Iterable<string> },
  ): Promise<void> {
    const { current, fenced } = run.jobs;
    const over = new Set([...(current === null ? [] : [current]), ...others]);
    const now = [...over].map((one) => ({ job: one, by: job, step, atMs: this.#clock.now() }));
    const jobs = { current: job, fenced: [...fenced, ...now].slice(-FENCED_MAX) };
    await this.#records.putRecord(JOBS, runKey(run.ref), Buffer.from(JSON.stringify(jobs)));
    run.jobs = jobs;
  }

  /** @throws `not_found`, also for one that is being removed; `data_lost` */
  snapshot(ref: SnapshotRef): SnapshotRecord {
    const run = this.get(ref);
    const record = run.snapshots.get(ref.step);
    if (record !== undefined && !record.isRemoved) return record;
    const was = run.ended
      .entries()
      .filter(([key, { code }]) => key.startsWith(`${ref.step}/`) && code !== 'superseded')
      .toArray()
      .at(-1);
    if (was !== undefined) throw endedError(ref, was[1]);
    throw new StoreError('not_found', `run ${ref.run} has no snapshot of step ${ref.step}`, {
      ...{ bucket: ref.bucket, run: ref.run, step: ref.step },
    });
  }

  /** `durable`: it survives a power cut when this resolves. */
  async put(
    ref: SnapshotRef,
    record: SnapshotRecord,
    { durable }: { readonly durable: boolean },
  ): Promise<void> {
    const run = this.get(ref);
    // At once, so that changes that meet are made one on the other; the catalog takes them in the order of these calls.
    this.#enter(run, ref.step, record);
    await this.#records.putRecord(SNAPSHOTS, snapshotKey(ref), encodeRecord(record));
    if (durable) await this.#records.durable();
    wake(run);
  }

  /** Imported ones, and those whose place in the order changes by that: all of them or none. They survive a power cut when this resolves. */
  async add(ref: RunRef, records: ReadonlyMap<number, SnapshotRecord>): Promise<void> {
    const run = this.get(ref);
    for (const [step, record] of records) this.#enter(run, step, record);
    const entries = [...records].map(([step, record]) => ({
      key: snapshotKey({ ...ref, step }),
      value: encodeRecord(record),
    }));
    await this.#records.putRecords(SNAPSHOTS, entries);
    await this.#records.durable();
    wake(run);
  }

  /** Changes the record of this session as it is now; false when another one took its place, or it is being removed. */
  async change(
    { session, ...ref }: SnapshotRef & { readonly session: string },
    change: Partial<SnapshotRecord>,
    options: { readonly durable: boolean },
  ): Promise<boolean> {
    const now = this.find(ref)?.snapshots.get(ref.step);
    if (now === undefined || now.session !== session || now.isRemoved) return false;
    await this.put(ref, { ...now, ...change }, options);
    return true;
  }

  /** The record of a snapshot that was removed; not that of another one that took its step meanwhile. */
  async drop(ref: SnapshotRef, { session }: SnapshotRecord): Promise<void> {
    const run = this.get(ref);
    const now = run.snapshots.get(ref.step);
    if (now?.session !== session || !now.isRemoved) return;
    run.snapshots.delete(ref.step);
    run.bornMs.delete(ref.step);
    await this.#records.deleteRecord(SNAPSHOTS, snapshotKey(ref));
    wake(run);
  }

  async dropRun(ref: RunRef): Promise<void> {
    const run = this.get(ref);
    this.#runs.delete(runKey(ref));
    await this.#records.deleteRecord(RUNS, runKey(ref));
    await this.#records.deleteRecord(JOBS, runKey(ref));
    wake(run);
  }

  #enter(run: Run, step: number, record: SnapshotRecord): void {
    const known = run.bornMs.get(step);
    const bornMs = new Map<string, number>();
    for (let one: SnapshotRecord | null = record; one !== null; one = one.previous) {
      const ageMs = Math.max(0, this.#clock.now() - one.committedAtMs);
      bornMs.set(one.session, known?.get(one.session) ?? this.#clock.monotonic() - ageMs);
    }
    run.bornMs.set(step, bornMs);
    this.#sequence = Math.max(this.#sequence, record.sequence);
    run.snapshots.set(step, record);
  }

  #add(ref: RunRef, policy: RunPolicy): Run {
    const { bucket, run: name } = ref;
    const run: Run = {
      ref: { bucket, run: name },
      policy,
      jobs: NO_JOBS,
      snapshots: new Map(),
      bornMs: new Map(),
      begun: new Map(),
      skipped: new Map(),
      ended: new Map(),
      waiters: new Set(),
    };
    this.#runs.set(runKey(ref), run);
    return run;
  }
}

export function endedError(
  { bucket, run, step }: SnapshotRef,
  { code, message }: Ended,
): StoreError {
  return new StoreError(code, message, { bucket, run, step, ended: true });
}

/** Remembers the last ones. */
export function remember<V>(kept: Map<string, V>, key: string, value: V): void {
  kept.delete(key);
  kept.set(key, value);
  for (const oldest of kept.keys()) if (kept.size > REMEMBERED_MAX) kept.delete(oldest);
}
const REMEMBERED_MAX = 256;

/** What the change leaves out stays. */
export function changedPolicy(policy: RunPolicy, change: RunPolicyChange): RunPolicy {
  const said = Object.entries(change).filter(([, value]) => value !== undefined);
  return { ...policy, ...(Object.fromEntries(said) as Partial<RunPolicy>) };
}

/** Those who wait for a slot or for durability look again. */
export function wake(run: Run): void {
  for (const waiter of [...run.waiters]) waiter();
}

export const endedKey = begunKey;
export function begunKey({ step, session }: Pick<Begun, 'step' | 'session'>): string {
  return `${step}/${session}`;
}

/** Those that are seen, the one that was committed last first. */
export function visible(run: Run): readonly (readonly [step: number, SnapshotRecord])[] {
  return [...run.snapshots]
    .filter(([, { isRemoved }]) => !isRemoved)
    .sort(([stepA, a], [stepB, b]) => b.sequence - a.sequence || stepB - stepA);
}

/** What a training job goes on from. */
export function latestStep(run: Run): number | null {
  return visible(run).find(([, { bad }]) => bad === null)?.[0] ?? null;
}
