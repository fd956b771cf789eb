/**
 * The catalog contract: what exists, and where its bytes lie. It knows names, versions and counts; it never touches a blob.
 *
 * Every method is one atomic change, so that the same contract fits an embedded database (sqlite-catalog.ts) and a
 * replicated key-value engine with server-side scripts. Nothing here takes a callback into a transaction.
 *
 * I1  A method that resolved is visible to every later call, and survives the death of the process. It survives a power
 *     cut once `durable()` resolved after it.
 * I2  A blob's `refs` is the number of extents of live objects that name it. A blob whose refs fell to 0 is *freed*:
 *     its record stays until `dropBlob`, so that an interrupted clean-up is found again.
 * I3  An object's `version` only grows, across deletes too, because versions come from `nextIds`.
 * I4  Conditions are checked in the same atomic step as the change they guard.
 * I5  What somebody does here to a name of which tier 2 has, or is to have, a plain object is entered into the spool in the same
 *     atomic step: a new version of a mirrored bucket, a deletion, a rename. So tier 2 follows, whatever happens to this process.
 *     What was learned from tier 2 (`Cause`, `ObjectCommit.found`) is never entered: it would go back as a change of ours.
 * I6  In a bucket that keeps versions, a change and the archiving of what it replaces are one step. Of all versions of a
 *     key the newest is the object, unless it is a delete marker: then there is no object. `findObject`, `listObjects` and
 *     conditions know the object alone.
 * I7  The events of a change are recorded in the same atomic step: one without the other is never seen. Ids of events only
 *     grow, and one that was shown is never given to another event, not even after a power cut. The log is bounded: the
 *     oldest events go, and who asks for what came after one of them is told so.
 *
 * Conformance suite: packages/testkit, `catalogConformance`.
 */
import type { Ack, TierIndex } from '@ebb/protocol';
import type { EventFilter, EventPage } from './events.ts';

export interface BucketPolicy {
  readonly preset: 'ephemeral' | 'buffered' | 'durable';
  readonly ack: Ack;
  readonly mirror: boolean;
  readonly ttlMs: number | null;
  readonly quotaBytes: number | null;
  /** Where its objects go in tier 2; null: to the node's own. What it may be: routed-tier.ts. */
  readonly remote: string | null;
  /**
   * Others change its objects in tier 2: one that was not compared for so long is compared before it is read; null: what was
   * stored or found there is trusted until it is read from there.
   */
  readonly revalidateMs: number | null;
  /** Whether a write or delete keeps what it replaces (sqlite-versions.ts). Once on it is never off again, only suspended. */
  readonly versioning: 'off' | 'enabled' | 'suspended';
  /** Whether changes of its objects are recorded; absent: as `recordsEvents` says (events.ts). */
  readonly events?: boolean;
  /** Its bytes are encrypted on disk and in tier 2 (docs/encryption.md); absent: they are plain. */
  readonly encrypted?: boolean;
}

export interface BucketRecord {
  readonly name: string;
  readonly createdAtMs: number;
  readonly policy: BucketPolicy;
}

export interface Extent {
  readonly blobId: number;
  readonly offset: number;
  readonly length: number;
}

export interface ObjectRecord {
  readonly bucket: string;
  readonly key: string;
  readonly version: number;
  readonly sizeBytes: number;
  readonly etag: string;
  /** Of the whole object; null when it was joined from extents. */
  readonly crc32c: number | null;
  readonly contentType: string;
  readonly metadata: Readonly<Record<string, string>>;
  /** What a surface keeps with the object (S3's headers, tags, checksum): copied with it, and not looked into here. */
  readonly attributes: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  readonly jobId: string | null;
  readonly pinned: boolean;
  readonly extents: readonly Extent[];
  /** Of the plain object in tier 2 that is this version under its own name; null while there is none. */
  readonly remoteEtag: string | null;
  /** Written while its bucket kept versions. Without it this is the *null version*, of which a key has one at most. */
  readonly versioned?: true;
}

/** One version of a key, the current one or an archived one. `isLatest`: no version of the key is newer. */
export interface VersionRecord {
  readonly object: ObjectRecord;
  readonly isLatest: boolean;
  /** It stands for a delete, and has no content. */
  readonly isDeleteMarker: boolean;
}

/** What a change leaves in a bucket that keeps versions: the version and time of a delete marker, or of a renamed object. */
export interface VersionStamp {
  readonly version: number;
  readonly createdAtMs: number;
}

export interface VersionListOptions {
  readonly prefix: string;
  /** '' for none. */
  readonly delimiter: string;
  /** Only what comes after this version; without `version`, after all of the key; `key` '' from the beginning. */
  readonly startAfter: { readonly key: string; readonly version?: number };
  /** Versions and prefixes together. */
  readonly limit: number;
}
export interface VersionPage {
  /** By key, in a key the newest first. */
  readonly versions: readonly VersionRecord[];
  readonly prefixes: readonly string[];
  /** `startAfter` of the next page; null at the end. */
  readonly next: VersionListOptions['startAfter'] | null;
}

/** Bytes in tier 2: in the object `name`, from `offset` on, as long as that has the ETag. */
export interface RemoteCopy {
  readonly name: string;
  readonly offset: number;
  readonly etag: string;
}

/**
 * Where copies of a blob lie: bytes allocated in tier 0 and 1 (null: no copy there), and where in tier 2.
 * `generation` grows with every change of the copies: movers compare and set on it.
 */
export interface BlobRecord {
  readonly blobId: number;
  readonly sizeBytes: number;
  /** Null while nobody has read it whole: it was found in tier 2. */
  readonly crc32c: number | null;
  readonly refs: number;
  readonly createdAtMs: number;
  readonly generation: number;
  readonly memoryBytes: number | null;
  readonly diskBytes: number | null;
  readonly remote: RemoteCopy | null;
  /** On disk and in tier 2 it is encrypted, under this seal id (encryption/sealed-format.ts); absent: it is plain there. */
  readonly sealId?: string;
}
export type BlobCopies = Pick<BlobRecord, 'memoryBytes' | 'diskBytes' | 'remote'>;

/**
 * A name of which tier 2 does not have the last state yet. There is one entry a name and target: what happens to the name
 * again before that was sent takes its place in the queue.
 */
export interface SpoolEntry {
  /** The order of the queue. */
  readonly seq: number;
  /** The bucket's `policy.remote` when the entry was made. */
  readonly target: string | null;
  readonly bucket: string;
  readonly key: string;
  /** To be stored; null: to be deleted. */
  readonly version: number | null;
  readonly sizeBytes: number;
  /** The ETag of what tier 2 had under the name when this node last put or found something there; null: nothing that it knows of. */
  readonly seenEtag: string | null;
  /** To be stored over nothing but that: no write to this name asked for it (an older version that comes back). */
  readonly onlyOverSeen: boolean;
  /** Versions that waited under this name before, and may have come to tier 2 though nobody heard of it. */
  readonly tried: readonly StoredContent[];
  /** Since when tier 2 is behind. */
  readonly sinceMs: number;
}

/** What tells that an object of tier 2 was put there by this node. */
export interface StoredContent {
  readonly sizeBytes: number;
  readonly crc32c: number;
}

/**
 * Why an object goes. `asked`: somebody deletes it here; tier 2 follows, if it still has what was seen there. `policy`: a TTL, the
 * end of a job, retention, lost bytes: so too, but what others put into tier 2 stays there. `gone`: others deleted it there;
 * nothing is sent.
 */
export type Cause = 'asked' | 'policy' | 'gone';

export interface JobRecord {
  readonly jobId: string;
  readonly label: string;
  readonly createdAtMs: number;
  readonly heartbeatTtlMs: number;
  readonly budgetBytes: number | null;
  /** Whose life of the job this is: chosen once by whoever began it. */
  readonly token: string;
}

/** What must hold of the object now. Neither: always. */
export interface Condition {
  /** Its ETag; `*` demands an object, whichever. No ETag is `*`. */
  readonly ifMatch?: string;
  /** True demands that there is no object; an ETag, that the object there, if any, is another. */
  readonly ifNoneMatch?: boolean | string;
}

export interface ObjectCommit {
  /** `createdAtMs`, `version` and all else are the caller's; `pinned` false. */
  readonly object: ObjectRecord;
  /** Blobs born with this commit, refs not counted in; blobs that the extents name and that exist already just gain refs. */
  readonly newBlobs: readonly Omit<BlobRecord, 'refs' | 'generation'>[];
  readonly condition: Condition;
  /** An object that must be there in the same step, at exactly this version: what this one is a part of. */
  readonly requires?: Pick<ObjectRecord, 'bucket' | 'key' | 'version'>;
  /** Objects that go in the same step, if they are at exactly these versions: what was joined into this one. */
  readonly removes?: readonly Pick<ObjectRecord, 'bucket' | 'key' | 'version'>[];
  /** It goes to tier 2 although its bucket is not mirrored. */
  readonly mirror?: boolean;
  /**
   * It was found in tier 2. Nothing is sent, and `superseded` is thrown where something waits to be sent under the name, but
   * for `overSpooled`: the version that gives way.
   */
  readonly found?: { readonly overSpooled?: number };
}

/** Blobs whose refs fell to 0 by this change. */
export interface Freed {
  readonly freed: readonly BlobRecord[];
}

export interface ListOptions {
  readonly prefix: string;
  /** '' for none. */
  readonly delimiter: string;
  /** Only names after this one, in UTF-8 byte order; '' from the beginning. */
  readonly startAfter: string;
  /** Objects and prefixes together. */
  readonly limit: number;
}
export interface ListPage {
  readonly objects: readonly ObjectRecord[];
  readonly prefixes: readonly string[];
  /** `startAfter` of the next page (a common prefix counts as passed whole); null at the end. */
  readonly next: string | null;
}

export interface CatalogTotals {
  readonly buckets: number;
  readonly objects: number;
  readonly blobs: number;
  /** Sum of bytes allocated by blob copies, freed blobs included, by tier. */
  readonly bytes: Readonly<Record<TierIndex, number>>;
  readonly blobsByTier: Readonly<Record<TierIndex, number>>;
}

export interface Catalog {
  /**
   * The first of `count` ids never given before, on any node: blob ids, versions, write ids. An id that was handed out
   * and not used is a gap, never a reuse.
   */
  nextIds(count: number): Promise<number>;
  nodeId(): Promise<string>;

  /** Creates, or returns the existing record unchanged. */
  createBucket(
    record: BucketRecord,
  ): Promise<{ readonly created: boolean; readonly bucket: BucketRecord }>;
  /** @throws `bucket_not_found`; `bucket_not_empty` where whether it is encrypted would change */
  setBucketPolicy(name: string, policy: BucketPolicy): Promise<void>;
  findBucket(name: string): Promise<BucketRecord | undefined>;
  listBuckets(): Promise<readonly BucketRecord[]>;
  /** @throws `bucket_not_found`; `bucket_not_empty`, also when only old versions or delete markers are left */
  deleteBucket(name: string): Promise<void>;
  bucketTotals(name: string): Promise<{ readonly objects: number; readonly sizeBytes: number }>;

  findObject(bucket: string, key: string): Promise<ObjectRecord | undefined>;
  listObjects(bucket: string, options: ListOptions): Promise<ListPage>;
  /**
   * Makes a version visible, replacing what was there. Returns the object as it is stored.
   * @throws `bucket_not_found`; `already_exists` (ifNoneMatch); `precondition_failed` (ifMatch); `superseded` when the
   * object there has a higher version, or the delete marker in its place; `data_lost` when an extent names a blob that is unknown or freed; `not_found` or
   * `precondition_failed` for one that was to go (`removes`), or to be there (`requires`).
   */
  commitObject(commit: ObjectCommit): Promise<Freed & { readonly object: ObjectRecord }>;
  /**
   * Resolves with `object` undefined when there was none. A bucket that keeps versions needs the stamp, and gets a delete
   * marker; with `marksAbsent` also where there was no object.
   * @throws `precondition_failed`; `superseded` when the stamp is older than what is there, or something of the name waits to
   * be sent to tier 2 and the cause is `gone`
   */
  deleteObject(
    bucket: string,
    key: string,
    condition: Condition,
    stamp?: VersionStamp & { readonly marksAbsent?: boolean; readonly cause?: Cause },
  ): Promise<
    Freed & {
      readonly object: ObjectRecord | undefined;
      readonly marker?: ObjectRecord;
    }
  >;
  /** Deletes up to `limit` objects whose key starts with `prefix`; `done` when none is left. The stamp is as for deleteObject. */
  deletePrefix(
    bucket: string,
    prefix: string,
    limit: number,
    stamp?: VersionStamp,
  ): Promise<
    Freed & { readonly objects: number; readonly sizeBytes: number; readonly done: boolean }
  >;
  /**
   * Another name for the same extents: no bytes move; `version` is the copy's. Job and pin do not travel.
   * @throws `not_found`, `bucket_not_found`, and those of the condition (on the target).
   */
  copyObject(
    from: { readonly bucket: string; readonly key: string },
    to: {
      readonly bucket: string;
      readonly key: string;
      readonly version: number;
      readonly createdAtMs: number;
    },
    condition: Condition,
  ): Promise<Freed & { readonly object: ObjectRecord }>;
  /**
   * One step: the object is at exactly one of both names at any time. Version, job and pin travel. If one of the buckets
   * keeps versions, the stamp is needed: the object is a new version under its new name, and the old name gets a marker.
   * @throws as copyObject
   */
  renameObject(
    from: { readonly bucket: string; readonly key: string },
    to: { readonly bucket: string; readonly key: string },
    condition: Condition,
    stamp?: VersionStamp,
  ): Promise<Freed & { readonly object: ObjectRecord }>;
  /**
   * Renames every key that starts with `from.prefix` in one step; the rest of the key stays. A prefix `a/` leaves `ab`.
   * Stamp and versions are as for renameObject.
   * @throws `already_exists` when a target exists and `overwrite` is false; `request_invalid` when one prefix contains the other.
   */
  renamePrefix(
    from: { readonly bucket: string; readonly prefix: string },
    to: { readonly bucket: string; readonly prefix: string },
    options: { readonly overwrite: boolean },
    stamp?: VersionStamp,
  ): Promise<Freed & { readonly objects: number; readonly sizeBytes: number }>;

  /**
   * Copies every key that starts with `from.prefix` in one step, as copyObject does: what is under the new names afterwards is what
   * was under the old ones at one moment. `exact`: other keys that start with `to.prefix` are deleted, in the same step; it
   * goes with `overwrite`. All copies have the stamp's version.
   * @throws `already_exists` when a target exists and `overwrite` is false; `request_invalid` when one prefix contains the other;
   * `name_invalid`, `superseded`
   */
  copyPrefix(
    from: { readonly bucket: string; readonly prefix: string },
    to: { readonly bucket: string; readonly prefix: string },
    options: { readonly overwrite: boolean; readonly exact: boolean },
    stamp: VersionStamp,
  ): Promise<
    Freed & { readonly objects: number; readonly sizeBytes: number; readonly removed: number }
  >;

  /** The version of this number, the null version, or the latest, be it an object or a delete marker. */
  findVersion(
    bucket: string,
    key: string,
    which: number | 'null' | 'latest',
  ): Promise<VersionRecord | undefined>;
  listVersions(bucket: string, options: VersionListOptions): Promise<VersionPage>;
  /**
   * Removes one version for good. If it was the latest, the one before takes its place, in the same step.
   * @throws `precondition_failed`
   */
  deleteVersion(
    bucket: string,
    key: string,
    which: number | 'null',
    condition: Condition,
    cause?: Cause,
  ): Promise<Freed & { readonly removed: VersionRecord | undefined }>;
  /** @throws `not_found` */
  setPinned(bucket: string, key: string, pinned: boolean): Promise<ObjectRecord>;
  /**
   * Compare-and-set of an object's attributes; its version stays. Undefined, and no change, when the object is another
   * version and this one is not archived, or its attributes are others than `from`.
   * @throws `not_found`
   */
  setAttributes(
    name: Pick<ObjectRecord, 'bucket' | 'key' | 'version'>,
    change: {
      readonly from: ObjectRecord['attributes'];
      readonly to: ObjectRecord['attributes'];
    },
  ): Promise<ObjectRecord | undefined>;
  /** Objects, old versions and delete markers whose bucket has a TTL and that are older than it. */
  listExpired(
    nowMs: number,
    limit: number,
  ): Promise<
    readonly { readonly bucket: string; readonly key: string; readonly version: number }[]
  >;

  findBlob(blobId: number): Promise<BlobRecord | undefined>;
  /** In id order, so in order of age. `where` narrows to blobs with a copy in that tier, or to freed ones. */
  listBlobs(options: {
    readonly afterBlobId: number;
    readonly limit: number;
    readonly where?: 'memory' | 'disk' | 'remote' | 'freed' | 'unmirrored';
  }): Promise<readonly BlobRecord[]>;
  /**
   * Compare-and-set of where copies lie. False, and no change, when the blob is unknown, freed, or of another generation:
   * so a mover that was overtaken by a delete or another mover learns it here. A private name of tier 2 under which bytes of
   * the blob lie from now on is known as unrecorded no more.
   */
  setBlobCopies(blobId: number, expectedGeneration: number, copies: BlobCopies): Promise<boolean>;
  /** What is known only after a blob was read whole. No effect on one whose checksum is known. */
  setBlobChecksum(blobId: number, crc32c: number): Promise<void>;
  /** CRC32Cs of blocks of a blob, from this block on. They go with the blob. */
  putBlockSums(blobId: number, firstBlock: number, sums: readonly number[]): Promise<void>;
  /** The sums that were put, from exactly this block on; undefined when they were not. */
  findBlockSums(blobId: number, firstBlock: number): Promise<Uint32Array | undefined>;
  /** Live blobs with bytes in this object of tier 2. */
  listBlobsStoredAs(remoteName: string): Promise<readonly BlobRecord[]>;
  /** Whether bytes of a blob, or what the spool last saw of a name, lie in the node's own tier 2. At once, however many blobs there are. */
  hasOwnCopies(): Promise<boolean>;

  /** In order, from after `seq`. */
  listSpool(options: {
    readonly after: number;
    readonly limit: number;
  }): Promise<readonly SpoolEntry[]>;
  findSpooled(bucket: string, key: string): Promise<SpoolEntry | undefined>;
  /**
   * Tier 2 has the version of the entry, as `etag`: the object says so, its blobs that have no copy there get `copies`, and
   * the entry goes. False when the name holds another version by now; then the entry that came after stays, and knows what
   * tier 2 has.
   */
  setMirrored(
    entry: SpoolEntry,
    made: {
      readonly etag: string;
      readonly copies: readonly { readonly blobId: number; readonly remote: RemoteCopy }[];
    },
  ): Promise<boolean>;
  /** This version is to be stored in tier 2, although nothing changed. No effect when it is there, or is not this version. */
  askMirrored(object: Pick<ObjectRecord, 'bucket' | 'key' | 'version'>): Promise<void>;
  /**
   * The object in tier 2 that this version knows as `remoteEtag` turned out to be broken: it is to be stored again over that one,
   * unless others put it there.
   */
  unsetMirrored(
    object: Pick<ObjectRecord, 'bucket' | 'key'> & { readonly remoteEtag: string | null },
  ): Promise<void>;
  /** The entry goes, if nothing happened to its name since. */
  dropSpooled(entry: SpoolEntry): Promise<void>;
  spoolTotals(): Promise<{
    readonly entries: number;
    readonly bytes: number;
    readonly oldestMs: number | null;
  }>;

  /** Something may lie under this private name of tier 2 that no blob refers to. */
  notePrivateCopy(name: string): Promise<void>;
  hasPrivateCopy(name: string): Promise<boolean>;
  /** Names that were noted and neither recorded nor dropped since, in order, from after one of them ('': from the first). */
  listPrivateCopies(options: {
    readonly after: string;
    readonly limit: number;
  }): Promise<readonly string[]>;
  dropPrivateCopy(name: string): Promise<void>;

  /** Forgets a freed blob, after its files are gone. No effect on a blob with refs. */
  dropBlob(blobId: number): Promise<void>;
  /** Objects that name this blob, at most `limit`. */
  objectsOfBlob(
    blobId: number,
    limit: number,
  ): Promise<
    readonly { readonly bucket: string; readonly key: string; readonly pinned: boolean }[]
  >;

  putJob(record: JobRecord): Promise<void>;
  findJob(jobId: string): Promise<JobRecord | undefined>;
  listJobs(): Promise<readonly JobRecord[]>;
  /** Only the job's own record: delete its objects first. */
  deleteJob(jobId: string): Promise<void>;
  jobTotals(jobId: string): Promise<{ readonly objects: number; readonly sizeBytes: number }>;
  /** Deletes up to `limit` objects of the job for good, in whatever bucket, old versions too; what was there before them comes back. */
  deleteJobObjects(
    jobId: string,
    limit: number,
  ): Promise<
    Freed & { readonly objects: number; readonly sizeBytes: number; readonly done: boolean }
  >;

  /** Small records of feature packages (a shuffle's shape, a run's policy); namespaces do not see each other. */
  putRecord(namespace: string, key: string, value: Uint8Array): Promise<void>;
  /** All of them or none, whatever happens in between. */
  putRecords(
    namespace: string,
    records: readonly { readonly key: string; readonly value: Uint8Array }[],
  ): Promise<void>;
  findRecord(namespace: string, key: string): Promise<Uint8Array | undefined>;
  listRecords(
    namespace: string,
    prefix: string,
  ): Promise<readonly { readonly key: string; readonly value: Uint8Array }[]>;
  deleteRecord(namespace: string, key: string): Promise<void>;

  /**
   * Events after an id, oldest first, from at most `limit` entries of the log.
   * @throws `events_gone` when later ones are gone already, or the id was never given.
   */
  listEvents(options: {
    readonly afterEventId: number;
    readonly limit: number;
    readonly filter?: EventFilter;
  }): Promise<EventPage>;
  /** Events from now on have higher ids. */
  lastEventId(): Promise<number>;
  /** Calls `listener` when there are new events, not for each one. Returns the end of it. */
  onEvents(listener: () => void): () => void;

  totals(): Promise<CatalogTotals>;
  /** Resolves when all that resolved before survives a power cut. Calls are batched. */
  durable(): Promise<void>;
  close(): Promise<void>;
}
