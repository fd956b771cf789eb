/**
 * The public face of core: what the HTTP surfaces and the feature packages call. Implemented by store.ts.
 *
 * Writers stage, then commit. A staged write is invisible, belongs to one owner (a connection, or a request), is fenced by
 * its write id, and is thrown away when its owner goes or its deadline passes. Readers open, get a lease and file ranges,
 * and release. All methods throw StoreError with a code of the protocol's table.
 */

import type { Ack, ExtentLocation, TierIndex } from '@ebb/protocol';
import type {
  BucketPolicy,
  BucketRecord,
  Condition,
  JobRecord,
  ListOptions,
  ListPage,
  ObjectCommit,
  ObjectRecord,
  VersionListOptions,
  VersionRecord,
} from '../catalog/catalog.ts';
import type { Files } from '../files/files.ts';
import type { BlockCollector } from '../tier/tier.ts';
import type { BodySums } from './body-sums.ts';
import type { EventBatch, FollowOptions } from './events.ts';
import type { Waited, WaitOptions } from './wait.ts';

export type { EventBatch, FollowOptions, Waited, WaitOptions };

export interface ObjectRef {
  readonly bucket: string;
  readonly key: string;
  /** That version instead of the object; for `head`, `find`, `open`, `setAttributes` and `deleteVersion`. */
  readonly versionId?: string;
}

export interface VersionListing extends Omit<VersionListOptions, 'startAfter'> {
  /** Only what comes after this version; without one, after all of the key; `key` '' from the beginning. */
  readonly startAfter: { readonly key: string; readonly versionId?: string };
}
export interface VersionListed {
  readonly versions: readonly VersionRecord[];
  readonly prefixes: readonly string[];
  /** `startAfter` of the next page; null at the end. */
  readonly next: VersionListing['startAfter'] | null;
}

/** What a delete left behind where versions are kept. */
export interface DeleteReceipt {
  readonly deleted: boolean;
  /** Of the delete marker. */
  readonly markerId?: string;
}

/** Holder of staged writes and leases: one per connection. Dropping it aborts the writes and ends the leases. */
export interface Owner {
  readonly ownerId: number;
  /** For `ebb why` and logs. */
  readonly name: string;
}

export interface StageOptions {
  readonly reserveBytes: number;
  /** undefined: by the bucket's policy and what has room. */
  readonly tier?: 0 | 1;
  readonly jobId?: string;
  readonly signal?: AbortSignal;
}
export interface StagedWrite {
  readonly writeId: number;
  readonly blobId: number;
  readonly tier: 0 | 1;
  /** Relative to the tier's directory. */
  readonly path: string;
  readonly absolutePath: string;
  readonly reservedBytes: number;
  readonly slotId: number;
}

export interface CommitOptions extends Condition {
  readonly sizeBytes: number;
  /** Of all bytes; undefined: computed off the main thread before the commit. */
  readonly crc32c?: number;
  /** Sums of the same pass; without them, another one may be made. */
  readonly blocks?: BlockCollector | undefined;
  readonly ack?: Ack;
  readonly contentType?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly attributes?: Readonly<Record<string, string>>;
  /** An object that must be there, at exactly this version, in the step that makes this one visible. @throws `not_found`, `precondition_failed` */
  readonly requires?: ObjectCommit['requires'];
}
export interface Committed {
  readonly object: ObjectRecord;
  readonly blobId: number;
  /** What holds now. */
  readonly durability: Ack;
}

export interface OpenedObject {
  readonly leaseId: number;
  readonly object: ObjectRecord;
  /** Opened with `ranges`, an object with many of them shows the first two: who reads through us needs none. */
  readonly extents: readonly ExtentLocation[];
}

/** A range of an object that is joined into another. */
export interface ComposeSource extends ObjectRef {
  /** It must be at this version; undefined: whatever is there. */
  readonly version?: number;
  /** The record that was looked up a moment ago, so that it is not looked up again: the step that joins it looks whether its blobs live. */
  readonly known?: ObjectRecord;
  /** Bytes from the start; default 0. */
  readonly offset?: number;
  /** Default: to the end. */
  readonly length?: number;
  /** The source goes in the same step. */
  readonly consume?: boolean;
}
export interface ComposeOptions extends Condition {
  readonly contentType?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly attributes?: Readonly<Record<string, string>>;
  readonly ack?: Ack;
  /** The same as for a commit. */
  readonly requires?: ObjectCommit['requires'];
}

/** An object as people and clients see it. */
export interface ObjectView {
  readonly object: ObjectRecord;
  readonly durability: Ack;
  /** Tiers that hold all its bytes. */
  readonly tiers: readonly TierIndex[];
  /** Some of its bytes are in no tier: `durability` means nothing then. */
  readonly isLost: boolean;
}

export interface TierStatus {
  readonly tier: TierIndex;
  readonly location: string;
  readonly capacityBytes: number | null;
  readonly usedBytes: number;
  readonly stagedBytes: number;
  readonly pooledBytes: number;
  readonly blobs: number;
}

export interface SpoolStatus {
  /** Names that differ from what tier 2 has: to be stored or deleted there. */
  readonly entries: number;
  readonly bytes: number;
  /** Since when the oldest of them waits; null when none does. */
  readonly oldestMs: number | null;
  /** At the rate of the last minute, tier 1 is full then; null while it does not grow. */
  readonly secondsUntilFull: number | null;
}

/** What `sync` found. */
export interface SyncReport {
  readonly added: number;
  /** They changed in tier 2 behind us. */
  readonly updated: number;
  readonly removed: number;
  readonly unchanged: number;
  /** Of those that were added or updated; none was read. */
  readonly bytes: number;
  /** Names that no key can have, objects that are not ours to open, and those that the store does not show. */
  readonly refused: readonly { readonly key: string; readonly problem: string }[];
  /** Objects that are here and went there, of which `removed` were removed. Counted when that was asked for. */
  readonly missing: number;
  /** Why none of the missing ones was removed, though that was asked for. */
  readonly removalRefused?: string;
}

export interface SyncOptions {
  /** What went in tier 2 goes here too: never the other way round. */
  readonly remove: boolean;
  /** Also where it is more than what looks like an outage (importer.ts, I5). */
  readonly force?: boolean;
  /** Looks, and changes nothing. */
  readonly dryRun?: boolean;
  readonly signal?: AbortSignal;
}

export interface OpenOptions {
  /** Its bytes will be read by `read`, perhaps in part: a large object in tier 2 stays there, and what is read is kept. */
  readonly ranges?: boolean;
  /**
   * Its local files will be read by the caller. One on disk is compared first: while that takes longer than a moment it is not
   * shown, unless the caller `waits`. Default: unless `ranges`.
   */
  readonly files?: boolean | 'waits';
}

/** For reading straight from tier 2. `url` is a secret of whoever it is for; `etag` belongs into an `If-Match` beside it. */
export interface PresignedRead {
  readonly url: string;
  readonly etag: string;
}

/** Without a token the store makes one: nobody comes back to that job. */
export type JobOpening = Omit<JobRecord, 'createdAtMs' | 'token'> & {
  readonly token?: string | undefined;
};

export interface JobView {
  readonly job: JobRecord;
  readonly lastHeartbeatMs: number;
  readonly objects: number;
  readonly sizeBytes: number;
}
export interface JobReceipt {
  readonly jobId: string;
  readonly objects: number;
  readonly freedBytes: number;
  readonly stagedWrites: number;
}

export interface BrokenBlob {
  readonly blobId: number;
  readonly tier: TierIndex;
  readonly objects: readonly string[];
  readonly problem: string;
}

export interface WhyEvent {
  /** A number among all events of this process: which came before which, whatever was done to the clock of the host. */
  readonly sequence: number;
  /** For people. */
  readonly atMs: number;
  readonly what: string;
  readonly details: Readonly<Record<string, string | number>>;
}

export interface BucketTotals {
  readonly objects: number;
  readonly sizeBytes: number;
  /** Old versions and delete markers, where they are kept. */
  readonly oldVersions?: number;
  readonly oldVersionsBytes?: number;
}

export interface ObjectStore {
  readonly nodeId: string;
  /** Objects opened by position, for reading and writing. */
  readonly files: Files;

  createOwner(name: string): Owner;
  /** Aborts its staged writes and ends its leases. */
  dropOwner(owner: Owner): Promise<void>;

  /** Idempotent for an equal policy. @throws `name_invalid`, `bucket_exists` when the policy differs. */
  createBucket(
    name: string,
    policy: BucketPolicy,
  ): Promise<{ created: boolean; bucket: BucketRecord }>;
  getBucket(name: string): Promise<BucketRecord>;
  listBuckets(): Promise<readonly BucketRecord[]>;
  bucketTotals(name: string): Promise<BucketTotals>;
  /** What `getBucket` says of it, at less cost. @throws as getBucket */
  versioningOf(name: string): Promise<BucketPolicy['versioning']>;
  /**
   * From here on a write or delete keeps what it replaces, or no longer. What was kept stays.
   * @throws `name_invalid`, `bucket_not_found`
   */
  setVersioning(name: string, versioning: 'enabled' | 'suspended'): Promise<BucketRecord>;
  /**
   * From here on what is written to it is encrypted, or no longer.
   * @throws `name_invalid`, `bucket_not_found`, `bucket_not_empty`, `key_unavailable`
   */
  setEncrypted(name: string, encrypted: boolean): Promise<BucketRecord>;
  /** With its uploads. @throws `bucket_not_found`; `bucket_not_empty`, also while old versions or delete markers are left */
  deleteBucket(name: string): Promise<void>;
  /**
   * The hidden bucket for uploads into this one, made at first use: acknowledged as the bucket is, not mirrored, and
   * emptied of what was forgotten for a week.
   */
  uploadsOf(bucket: string): Promise<string>;

  /** @throws `name_invalid`, `bucket_not_found`, `job_not_found`, `quota_exceeded`, `busy`, `tier_full`, `too_large`, `draining` */
  stage(owner: Owner, ref: ObjectRef, options: StageOptions): Promise<StagedWrite>;
  /** Returns the reservation that holds now. @throws `write_not_found`, `tier_full`, `quota_exceeded` */
  extend(owner: Owner, writeId: number, reserveBytes: number): number;
  /** Gives back the room that nothing was written into; later writes through `write` ask for it again. No write is under way. */
  shrink(owner: Owner, writeId: number): void;
  /** For writers that cannot see the file. Extends as needed, and moves the write to tier 1 when tier 0 has no room. */
  write(owner: Owner, writeId: number, source: Uint8Array, position: number): Promise<void>;
  /** For the bytes of one write, in order; with the store's worker for those in shared memory. */
  createBodySums(): BodySums;
  /** @throws `write_not_found`, `already_committed`, `length_mismatch`, `checksum_mismatch`, and those of Catalog.commitObject; after an error other than `already_committed` the write is gone. */
  commit(owner: Owner, writeId: number, options: CommitOptions): Promise<Committed>;
  /** No error when there is no such write: aborting twice is fine. */
  abort(owner: Owner, writeId: number): Promise<void>;
  /** Whether a staged write lives whose key begins with this one. */
  isStagedUnder(prefix: ObjectRef): boolean;

  /** @throws `not_found`, with `deleteMarker` (its version id) and `deletedAtMs` when it is deleted; `data_lost` */
  head(ref: ObjectRef): Promise<ObjectView>;
  find(ref: ObjectRef): Promise<ObjectView | undefined>;
  list(
    bucket: string,
    options: ListOptions,
  ): Promise<{ objects: readonly ObjectView[]; prefixes: readonly string[]; next: string | null }>;
  /** As `list`, without a look at where each object's bytes are: what a listing of names costs least. */
  listRecords(bucket: string, options: ListOptions): Promise<ListPage>;
  /** Local file ranges and a lease on them. Counts as use. Extents in tier 2 only are brought up first when there is room, else come with path ''. */
  open(owner: Owner, ref: ObjectRef, options?: OpenOptions): Promise<OpenedObject>;
  release(owner: Owner, leaseIds: readonly number[]): void;
  /**
   * Reads exactly `target.length` bytes of an opened object, from whatever tier. @throws `lease_not_found`, `range_invalid`,
   * `data_lost`; `superseded` for a version in tier 2 alone that was replaced or deleted meanwhile
   */
  read(owner: Owner, leaseId: number, target: Uint8Array, position: number): Promise<void>;
  /**
   * Reads from a blob by id, for batched ranges; the blob must be live or leased. `owner`: whose lease names it.
   * @throws `data_lost`; `superseded` when the owner's lease is on a version as `read` says
   */
  readBlob(blobId: number, target: Uint8Array, position: number, owner?: Owner): Promise<void>;
  /**
   * A URL for an object that lies in tier 2 alone, plain and as one object of an S3 store, good for `PRESIGNED_READ_SECONDS`;
   * undefined of any other, of none, and where the settings say so. Tier 2 is not asked: what happens to the object there, or
   * here, meanwhile is for the reader to notice.
   * @throws `io_failed` when there are no credentials to sign with; `busy`
   */
  presignRead(ref: ObjectRef): Promise<PresignedRead | undefined>;

  /** Where versions are kept the object becomes an old one. `marksAbsent`: a delete marker comes also where no object is. */
  delete(
    ref: ObjectRef,
    condition?: Condition,
    options?: { readonly marksAbsent?: boolean },
  ): Promise<DeleteReceipt>;
  /** Removes one version, or a delete marker, for good; undefined when it is not there. */
  deleteVersion(
    ref: ObjectRef & { readonly versionId: string },
    condition?: Condition,
  ): Promise<VersionRecord | undefined>;
  /** All below the prefix for good: objects, and where versions are kept the old ones and delete markers too. */
  deleteAllVersions(
    bucket: string,
    prefix: string,
  ): Promise<{ objects: number; sizeBytes: number }>;
  /** All versions, by key, in a key the newest first. @throws `bucket_not_found` */
  listVersions(bucket: string, options: VersionListing): Promise<VersionListed>;
  deletePrefix(bucket: string, prefix: string): Promise<{ objects: number; sizeBytes: number }>;
  copy(from: ObjectRef, to: ObjectRef, condition?: Condition): Promise<ObjectView>;
  /**
   * Makes one object of ranges of others, in order: no bytes move.
   * @throws `not_found`, `range_invalid`, `precondition_failed` when a source is at another version, and those of the condition
   */
  compose(
    to: ObjectRef,
    sources: readonly ComposeSource[],
    options: ComposeOptions,
  ): Promise<ObjectView>;
  rename(from: ObjectRef, to: ObjectRef, condition?: Condition): Promise<ObjectView>;
  renamePrefix(
    from: { bucket: string; prefix: string },
    to: { bucket: string; prefix: string },
    options: { overwrite: boolean },
  ): Promise<{ objects: number; sizeBytes: number }>;
  /**
   * Copies all below a prefix in one step: no bytes move. `exact`: what else is below the target's prefix is deleted, in the same step.
   * @throws `unsupported` between buckets of which one alone is encrypted; `already_exists` without `overwrite`; `request_invalid`
   */
  copyPrefix(
    from: { bucket: string; prefix: string },
    to: { bucket: string; prefix: string },
    options: { overwrite: boolean; exact: boolean },
  ): Promise<{ objects: number; sizeBytes: number; removed: number }>;
  /**
   * Takes in what is in tier 2 under the bucket's names and not here, and what changed there; `remove`: what went there goes
   * here too. Nothing is read before somebody asks for it.
   * @throws `bucket_not_found`, `aborted`, `io_failed`
   */
  sync(bucket: string, prefix: string, options: SyncOptions): Promise<SyncReport>;
  setPinned(ref: ObjectRef, pinned: boolean): Promise<ObjectView>;
  /** Changes what a surface keeps with an object; its version stays. @throws `not_found` */
  setAttributes(
    ref: ObjectRef,
    change: (attributes: ObjectRecord['attributes']) => ObjectRecord['attributes'],
  ): Promise<ObjectView>;
  /** Moves an object's bytes to a tier now. @throws `tier_full`; `busy` while readers hold a file that was given up there */
  relocate(ref: ObjectRef, tier: TierIndex): Promise<ObjectView>;

  /**
   * Resolves when the object is at least so durable. For `disk` it makes the copy; for `remote` the mirror does.
   * @throws `not_found`; `precondition_failed` when another version takes its place; `not_mirrored` at once when its bucket
   * copies nothing to tier 2; `data_lost`, `data_corrupt`, `tier_full`, `busy`; `draining`; `aborted`
   */
  wait(ref: ObjectRef, ack: Ack, options?: WaitOptions): Promise<Waited>;
  /**
   * What happens to objects, from an id or from now on; the first batch comes at once. Ends only by an error.
   * @throws `events_gone`, `draining`, `aborted`
   */
  events(options: FollowOptions): AsyncGenerator<EventBatch, never>;

  /**
   * Begins a job, or, with the token it was begun with, comes back to it (and may change it).
   * @throws `job_exists` when it is open under another token
   */
  openJob(job: JobOpening): Promise<JobView>;
  /** @throws `job_not_found`, also when a token is given and the open job has another */
  heartbeat(jobId: string, token?: string): void;
  getJob(jobId: string): Promise<JobView>;
  listJobs(): Promise<readonly JobView[]>;
  /** Deletes all that the job owns. Ending a job that is gone resolves with zeros; so does one of another token than the one given. */
  endJob(jobId: string, token?: string): Promise<JobReceipt>;
  /** Called after a job ended or expired, before its objects are deleted, so that features drop their state. */
  onJobEnd(listener: (jobId: string) => void | Promise<void>): void;

  /** Where a blob's bytes are now. @throws `data_lost` */
  locate(blobId: number, length: number): Promise<ExtentLocation>;
  /**
   * Brings a blob that lies only in tier 2 back to a local tier if there is room, then locates it.
   * `suspect`: verifies each copy first and drops those that are broken.
   */
  resolve(blobId: number, length: number, options: { suspect: boolean }): Promise<ExtentLocation>;
  /**
   * Says that readers outside hold this blob's files by a lease of their own kind (a shuffle's). While `holders()` is not
   * empty, files that are given up are kept until `settled` was called for the blob by every holder, or the holder is gone.
   */
  readonly guards: LeaseGuards;

  tiers(): readonly TierStatus[];
  totals(): Promise<{ buckets: number; objects: number; blobs: number }>;
  /** What tier 2 does not have yet. */
  spool(): Promise<SpoolStatus>;
  why(ref: ObjectRef): Promise<{ view: ObjectView | undefined; events: readonly WhyEvent[] }>;
  /** @throws `bucket_not_found`; `not_found` when nothing begins with a prefix that does not end in a slash */
  verify(options: {
    bucket?: string;
    prefix?: string;
    signal?: AbortSignal;
  }): Promise<{ blobs: number; bytes: number; broken: readonly BrokenBlob[] }>;
  gc(): Promise<{
    expiredStagings: number;
    orphanFiles: number;
    orphanBytes: number;
    lostObjects: number;
    trimmedPoolBytes: number;
  }>;

  /**
   * Makes files ready in tier 0 whose memory is there already, for writers that are to come: `files` of at least `fileBytes`,
   * or as many as fit beside what else is in the tier and in its pool.
   */
  populate(
    want: { readonly fileBytes: number; readonly files: number },
    signal?: AbortSignal,
  ): Promise<void>;

  /** Refuses new writes, waits for staged ones up to the deadline, mirrors what the policy or `persist` asks for. */
  drain(options: { persist: boolean; deadlineMs: number }): Promise<void>;
  /**
   * The time to stop is up: what waits for tier 2 fails now, with an ambiguous error, and later calls to it do too. What was
   * committed here stays, and is sent after the next start.
   */
  giveUpRemote(): void;
  close(): Promise<void>;
}

/** Read leases by group (one group per shuffle) instead of by object: constant memory, whatever the number of map outputs. */
export interface LeaseGuards {
  /** Puts a blob under a group. */
  assign(blobId: number, group: string): void;
  /** `revoke` is called with blobs of the group that are to be given up; the holder answers with `settled`. */
  hold(group: string, owner: Owner, revoke: (blobIds: readonly number[]) => void): void;
  settled(owner: Owner, blobIds: readonly number[]): void;
  unhold(group: string, owner: Owner): void;
  /** All groups of an owner whose connection ended. */
  dropOwner(owner: Owner): void;
}
