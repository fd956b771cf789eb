/**
 * The runs of a node and their snapshots: an index of what the catalog keeps, which is read once at the start. All changes of a
 * record go through here, so index and catalog do not differ.
 */
import type { Catalog } from '@ebb/core';
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
  RUNS,
  SNAPSHOTS,
  type SnapshotRecord,
} from './snapshot-record.ts';

export type CheckpointRecords = Pick<
  Catalog,
  'deleteRecord' | 'durable' | 'findRecord' | 'listRecords' | 'putRecord' | 'putRecords'
>;

/** A snapshot that is not committed yet. */
export interface Begun {
  readonly step: number;
  readonly session: string;
  readonly sinceMs: number;
}

export interface Run {
  readonly ref: RunRef;
  policy: RunPolicy;
  readonly snapshots: Map<number, SnapshotRecord>;
  /** By step and session. */
  readonly begun: Map<string, Begun>;
  /** Why a step is left out, by step and session. */
  readonly skipped: Map<string, string>;
  /** Given up, by step and session: a part that comes late is thrown away. */
  readonly aborted: Set<string>;
  readonly waiters: Set<() => void>;
}

export class Runs {
  readonly #records: CheckpointRecords;
  readonly #runs = new Map<string, Run>();

  constructor(records: CheckpointRecords) {
    this.#records = records;
  }

  async load(): Promise<void> {
    for (const { key, value } of await this.#records.listRecords(RUNS, '')) {
      const kept = runPolicyChangeSchema.parse(JSON.parse(Buffer.from(value).toString('utf8')));
      this.#add(parseSnapshotKey(key), changedPolicy(DEFAULT_RUN_POLICY, kept));
    }
    for (const { key, value } of await this.#records.listRecords(SNAPSHOTS, '')) {
      const ref = parseSnapshotKey(key);
      const run = this.find(ref) ?? this.#add(ref, DEFAULT_RUN_POLICY);
      run.snapshots.set(ref.step, decodeRecord(key, value));
    }
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

  /** @throws `not_found`, also for one that is being removed */
  snapshot(ref: SnapshotRef): SnapshotRecord {
    const record = this.get(ref).snapshots.get(ref.step);
    if (record !== undefined && !record.isRemoved) return record;
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
    run.snapshots.set(ref.step, record);
    await this.#records.putRecord(SNAPSHOTS, snapshotKey(ref), encodeRecord(record));
    if (durable) await this.#records.durable();
    wake(run);
  }

  /** Of steps that have no record: all of them or none. They survive a power cut when this resolves. */
  async add(ref: RunRef, records: ReadonlyMap<number, SnapshotRecord>): Promise<void> {
    const run = this.get(ref);
    for (const [step, record] of records) run.snapshots.set(step, record);
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

  async drop(ref: SnapshotRef): Promise<void> {
    await this.#records.deleteRecord(SNAPSHOTS, snapshotKey(ref));
    const run = this.get(ref);
    run.snapshots.delete(ref.step);
    wake(run);
  }

  async dropRun(ref: RunRef): Promise<void> {
    await this.#records.deleteRecord(RUNS, runKey(ref));
    this.#runs.delete(runKey(ref));
  }

  #add(ref: RunRef, policy: RunPolicy): Run {
    const { bucket, run: name } = ref;
    const run: Run = {
      ref: { bucket, run: name },
      policy,
      snapshots: new Map(),
      begun: new Map(),
      skipped: new Map(),
      aborted: new Set(),
      waiters: new Set(),
    };
    this.#runs.set(runKey(ref), run);
    return run;
  }
}

/** What the change leaves out stays. */
export function changedPolicy(policy: RunPolicy, change: RunPolicyChange): RunPolicy {
  const said = Object.entries(change).filter(([, value]) => value !== undefined);
  return { ...policy, ...(Object.fromEntries(said) as Partial<RunPolicy>) };
}

/** Those who wait for a slot or for durability look again. */
export function wake(run: Run): void {
  for (const waiter of [...run.waiters]) waiter();
}

export function begunKey({ step, session }: Pick<Begun, 'step' | 'session'>): string {
  return `${step}/${session}`;
}

/** Those that are seen, the newest step first. */
export function visible(run: Run): readonly (readonly [step: number, SnapshotRecord])[] {
  return [...run.snapshots].filter(([, { isRemoved }]) => !isRemoved).sort((a, b) => b[0] - a[0]);
}

/** What a training job goes on from. */
export function latestStep(run: Run): number | null {
  return visible(run).find(([, { bad }]) => bad === null)?.[0] ?? null;
}
