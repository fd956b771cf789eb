/** What the surfaces call. Implemented by catalog-checkpoint-service.ts. */
import type {
  Ack,
  PreparedRun,
  RestorePlan,
  RunInfo,
  RunPolicyChange,
  RunsImported,
  SnapshotBegun,
  SnapshotInfo,
  SnapshotVerified,
} from '@ebb/protocol';
import type { RunRef, SnapshotRef } from './names.ts';

/** `latest`: the snapshot that was committed last, of those not marked bad. */
export interface SnapshotChoice extends RunRef {
  readonly step: number | 'latest';
}

export interface BeginOptions {
  readonly session: string;
  readonly part: string;
  readonly imageBytes: number;
  /** How long to wait for a slot; a minute at most. */
  readonly waitMs?: number | undefined;
  readonly signal?: AbortSignal;
}

export interface CommitSnapshot {
  readonly session: string;
  readonly parts: readonly string[];
  /** Keys of images that were handed over for these parts: no others become this snapshot. Of the rest the last one begun does. */
  readonly images?: Readonly<Record<string, string>> | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly overwrite: boolean;
  /** How long to wait for parts; a minute at most. */
  readonly waitMs?: number | undefined;
  readonly signal?: AbortSignal;
}

/** Of all runs of the node. The last three count since the start. */
export interface CheckpointTotals {
  readonly runs: number;
  readonly snapshots: number;
  /** In memory alone, and to be stored. */
  readonly unstored: number;
  /** Since when the oldest of those waits, in ms since the epoch; null when none does. */
  readonly oldestUnstoredMs: number | null;
  readonly committed: number;
  /** Left out, since storing was behind. */
  readonly skipped: number;
  /** Bytes of data objects. */
  readonly storedBytes: number;
}

export interface CheckpointService {
  totals(): Promise<CheckpointTotals>;
  /** Of one bucket, or of all. */
  listRuns(bucket?: string): Promise<readonly RunInfo[]>;
  /** @throws `not_found` */
  getRun(ref: RunRef): Promise<RunInfo>;
  /** Makes the run, and its bucket (preset `buffered`), if they are not there. @throws `name_invalid` */
  putRun(ref: RunRef, policy: RunPolicyChange): Promise<RunInfo>;
  /** With all its snapshots. @throws `not_found` */
  removeRun(ref: RunRef): Promise<{ readonly snapshots: number }>;
  /**
   * Takes in the bucket's objects from tier 2, and the snapshots that they make, of one run or of all; a bucket for checkpoints that
   * is not there is made. No data is read. What the node has a record of stays as it is.
   * @throws `bucket_not_found`, `not_mirrored`, `name_invalid`, `aborted`, `io_failed`
   */
  importRuns(
    from: { readonly bucket: string; readonly run?: string | undefined },
    signal?: AbortSignal,
  ): Promise<RunsImported>;
  /** As above, of what a sync took in below this prefix. In a bucket that is not mirrored there are none. */
  importSynced(
    from: { readonly bucket: string; readonly prefix: string },
    signal?: AbortSignal,
  ): Promise<RunsImported>;
  /**
   * Makes memory ready for images, so that the first snapshots touch no fresh page. Resolves with the bucket of images.
   * @throws `tier_full` when they can never fit
   */
  prepare(
    ref: RunRef,
    want: { readonly imageBytes: number; readonly slots?: number | undefined },
  ): Promise<PreparedRun>;

  /**
   * Asks for a slot for one part's image. Parts of one snapshot get one decision. Each answer has a key of its own.
   * @throws `name_invalid`; `busy` when no slot came in time, with who holds them; `superseded` when another job saves to
   * the run now; `already_committed`; `tier_full` when the image can never fit; `aborted`
   */
  begin(ref: SnapshotRef, options: BeginOptions): Promise<SnapshotBegun>;
  /**
   * Makes the snapshot, when all its parts are there. Again for the same session: as the first time.
   * @throws `already_exists`; `already_committed` when this session has committed the step with other images than `images` says;
   * `superseded` when another session took over, or parts of several saves lie there; `busy` when a part did not come in time;
   * `data_corrupt` for an image that is none; `aborted`
   */
  commit(ref: SnapshotRef, options: CommitSnapshot): Promise<SnapshotInfo>;
  /** Throws away what a session handed over for a step that it did not commit. */
  abort(ref: SnapshotRef, session: string): Promise<void>;

  /** The one that was committed last first. @throws `not_found` */
  list(ref: RunRef): Promise<readonly SnapshotInfo[]>;
  /** @throws `not_found` */
  get(ref: SnapshotChoice): Promise<SnapshotInfo>;
  /**
   * Where the bytes are. `direct`: with URLs for what an object store alone has, as far as there are any.
   * @throws `not_found`, `data_corrupt`
   */
  plan(ref: SnapshotChoice, options?: { readonly direct?: boolean }): Promise<RestorePlan>;
  /**
   * Resolves when it is so durable. `session`: the snapshot of this session, also while its parts are on their way.
   * @throws `not_found`, `data_lost`, `superseded`, `precondition_failed` when it is there no more, or will not come;
   * `not_mirrored`, `aborted`
   */
  wait(
    ref: SnapshotChoice,
    ack: Ack,
    options?: { readonly signal?: AbortSignal; readonly session?: string },
  ): Promise<SnapshotInfo>;
  setPinned(ref: SnapshotRef, pinned: boolean): Promise<SnapshotInfo>;
  /** `bad`: why it is not to be resumed from; null takes that back. */
  setBad(ref: SnapshotRef, bad: string | null): Promise<SnapshotInfo>;
  /** Reads everything and compares it with its digests. @throws `not_found` */
  verify(ref: SnapshotChoice, signal?: AbortSignal): Promise<SnapshotVerified>;
  /** @throws `not_found` */
  remove(ref: SnapshotRef): Promise<void>;
  /** Resolves when every snapshot is as durable on this node as its bucket asks, or the time is up. */
  drain(deadlineMs: number): Promise<void>;
  close(): Promise<void>;
}
