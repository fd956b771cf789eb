/** Checkpoints: runs, and the snapshots of one. Bytes of a snapshot are read by part-reader.ts; nothing is written here. */
import {
  type Ack,
  isStoreError,
  PATHS,
  type PreparedRun,
  parseRunName,
  preparedRunSchema,
  type RestorePlan,
  type RunInfo,
  type RunPolicyChange,
  type RunsImported,
  restorePlanSchema,
  runInfoSchema,
  runsImportedSchema,
  type SnapshotInfo,
  type SnapshotVerified,
  StoreError,
  snapshotInfoSchema,
  snapshotVerifiedSchema,
} from '@ebb/protocol';
import type { Abortable } from './client.ts';
import type { HttpClient, Parser } from './http-client.ts';
import { WAIT_STEP_MS } from './limits.ts';
import { listOf } from './lists.ts';
import { createPartReader, type PartReader, type PartReaderParts } from './part-reader.ts';

export interface InBucket extends Abortable {
  /** Default: `checkpoints`. */
  readonly bucket?: string | undefined;
}

export interface Runs {
  /** Of one bucket, or of all. */
  list(options?: InBucket): Promise<RunInfo[]>;
  get(run: string, options?: InBucket): Promise<RunInfo>;
  /** Makes the run, or changes what it keeps; what is left out stays as it is. */
  put(run: string, policy?: RunPolicyChange, options?: InBucket): Promise<RunInfo>;
  /** With all its snapshots. @throws `not_found` */
  remove(run: string, options?: InBucket): Promise<{ readonly snapshots: number }>;
  /**
   * Takes in snapshots that tier 2 has and the node has no record of, of one run or of all in the bucket. No data is read.
   * @throws `bucket_not_found`, `not_mirrored`
   */
  import(run?: string, options?: InBucket): Promise<RunsImported>;
  /** Makes memory ready for images, so that the first snapshots touch no fresh page. @throws `tier_full` when they can never fit */
  prepare(
    run: string,
    want: { readonly imageBytes: number; readonly slots?: number | undefined },
    options?: InBucket,
  ): Promise<PreparedRun>;
}

/** `latest`: the snapshot that was committed last, of those not marked bad. */
export type StepChoice = number | 'latest';

export interface PlanOptions extends InBucket {
  /** false: without the digests of blocks, which are most of the answer. */
  readonly digests?: boolean | undefined;
}

export interface SnapshotWaitOptions extends InBucket {
  /** Default: `remote`. */
  readonly for?: Ack | undefined;
  /** Default: until the signal. */
  readonly timeoutMs?: number | undefined;
}

export interface Snapshots {
  /** The one that was committed last first. */
  list(run: string, options?: InBucket): Promise<SnapshotInfo[]>;
  get(run: string, step: StepChoice, options?: InBucket): Promise<SnapshotInfo>;
  /** Where the bytes of its parts are, and the shards in them. */
  plan(run: string, step: StepChoice, options?: PlanOptions): Promise<RestorePlan>;
  /**
   * Resolves when it is so durable. @throws `timed_out`, `not_mirrored`; `not_found` when it is removed meanwhile,
   * `data_lost` when it is lost, `precondition_failed` when another snapshot takes its step
   */
  wait(run: string, step: StepChoice, options?: SnapshotWaitOptions): Promise<SnapshotInfo>;
  /** Keeps it whatever the run keeps, or no longer. */
  pin(run: string, step: number, pinned: boolean, options?: InBucket): Promise<SnapshotInfo>;
  /** Why it is not to be resumed from; null takes that back. `latest` passes it over. */
  bad(run: string, step: number, bad: string | null, options?: InBucket): Promise<SnapshotInfo>;
  /** Reads all its bytes, and compares them with their digests. */
  verify(run: string, step: StepChoice, options?: InBucket): Promise<SnapshotVerified>;
  remove(run: string, step: number, options?: InBucket): Promise<void>;
  /** Reads any range of a part's image, wherever its bytes are. Nothing is opened before the first read. */
  openPart(plan: RestorePlan, part: string, options?: Abortable): PartReader;
}

export interface RunsParts {
  readonly http: HttpClient;
  readonly open: PartReaderParts['open'];
  /** Adds the signal of the client. */
  readonly withSignal: <T extends Abortable>(options: T) => T;
}

export function createRuns({ http, withSignal }: RunsParts): Runs {
  return {
    async list(options = {}) {
      const { bucket, signal } = withSignal(options);
      const parser = listOf('runs', runInfoSchema);
      return await http.json('GET', PATHS.runs, parser, { query: { bucket }, signal });
    },
    async get(run, options = {}) {
      return await http.json('GET', runPath(PATHS.run, run), runInfoSchema, ask(options));
    },
    async put(run, policy = {}, options = {}) {
      const request = { ...ask(options), body: policy };
      return await http.json('PUT', runPath(PATHS.run, run), runInfoSchema, request);
    },
    async remove(run, options = {}) {
      return await http.json('DELETE', runPath(PATHS.run, run), REMOVED, ask(options));
    },
    async import(run, options = {}) {
      const request = { ...ask(options), body: { run }, idempotent: true };
      return await http.json('POST', PATHS.runsImport, runsImportedSchema, request);
    },
    async prepare(run, want, options = {}) {
      const request = { ...ask(options), body: want, idempotent: true };
      return await http.json('POST', runPath(PATHS.runPrepare, run), preparedRunSchema, request);
    },
  };

  function ask(options: InBucket) {
    const { bucket, signal } = withSignal(options);
    return { query: { bucket }, signal };
  }
}

export function createSnapshots({ http, open, withSignal }: RunsParts): Snapshots {
  const snapshots: Snapshots = {
    async list(run, options = {}) {
      const parser = listOf('snapshots', snapshotInfoSchema);
      return await http.json('GET', runPath(PATHS.snapshots, run), parser, ask(options));
    },
    async get(run, step, options = {}) {
      const path = stepPath(PATHS.snapshot, run, step);
      return await http.json('GET', path, snapshotInfoSchema, ask(options));
    },
    async plan(run, step, options = {}) {
      const { query, signal } = ask(options);
      const path = stepPath(PATHS.snapshotPlan, run, step);
      const asked = { ...query, digests: options.digests };
      return await http.json('GET', path, restorePlanSchema, { query: asked, signal });
    },
    async wait(run, step, options = {}) {
      const { for: ack = 'remote', timeoutMs = Number.POSITIVE_INFINITY } = options;
      const { query, signal } = ask(options);
      const first = await snapshots.get(run, step, options);
      const path = stepPath(PATHS.snapshotWait, run, first.step);
      const until = performance.now() + timeoutMs;
      for (;;) {
        const leftMs = Math.max(0, Math.ceil(until - performance.now()));
        const stepMs = Math.min(leftMs, WAIT_STEP_MS);
        const asked = { ...query, for: ack, timeoutMs: stepMs, session: first.session };
        const request = { query: asked, signal, idempotent: true };
        try {
          const now = await http.json('GET', path, snapshotInfoSchema, request);
          assertSame(first, now);
          return now;
        } catch (error) {
          if (!isStoreError(error, 'timed_out') || leftMs <= stepMs) throw error;
        }
      }
    },
    async pin(run, step, pinned, options = {}) {
      return await post(PATHS.snapshotPin, run, step, { body: { pinned }, ...ask(options) });
    },
    async bad(run, step, bad, options = {}) {
      return await post(PATHS.snapshotBad, run, step, { body: { bad }, ...ask(options) });
    },
    async verify(run, step, options = {}) {
      const path = stepPath(PATHS.snapshotVerify, run, step);
      const request = { ...ask(options), idempotent: true };
      return await http.json('POST', path, snapshotVerifiedSchema, request);
    },
    async remove(run, step, options = {}) {
      await http.plain('DELETE', stepPath(PATHS.snapshot, run, step), ask(options));
    },
    openPart(plan, part, options = {}) {
      const { bucket, run, step } = plan.snapshot;
      const { signal } = withSignal(options);
      const replan = async (): Promise<RestorePlan> => {
        const now = await snapshots.plan(run, step, { bucket, digests: false, signal });
        assertSame(plan.snapshot, now.snapshot);
        return now;
      };
      return createPartReader({ open, replan, signal }, plan, part);
    },
  };
  return snapshots;

  function ask(options: InBucket) {
    const { bucket, signal } = withSignal(options);
    return { query: { bucket }, signal };
  }

  function post(
    template: string,
    run: string,
    step: number,
    request: Parameters<HttpClient['json']>[3],
  ): Promise<SnapshotInfo> {
    const path = stepPath(template, run, step);
    return http.json('POST', path, snapshotInfoSchema, { ...request, idempotent: true });
  }
}

/** What a plan or a wait began with is what it ends with. @throws `precondition_failed` */
function assertSame(first: SnapshotInfo, now: SnapshotInfo): void {
  if (first.session === now.session && first.committedAtMs === now.committedAtMs) return;
  const { run, step } = first;
  const message = `another snapshot of step ${step} of run ${run} took its place`;
  throw new StoreError('precondition_failed', message, { run, step });
}

function runPath(template: string, run: string): string {
  return template.replace('{run}', encodeURIComponent(parseRunName(run)));
}

function stepPath(template: string, run: string, step: StepChoice): string {
  return runPath(template, run).replace('{step}', String(step));
}

const REMOVED: Parser<{ snapshots: number }> = {
  safeParse(value) {
    const snapshots = (value as { snapshots?: unknown } | null)?.snapshots;
    if (typeof snapshots === 'number') return { success: true, data: { snapshots } };
    return { success: false, error: new Error('no number of snapshots') };
  },
};
