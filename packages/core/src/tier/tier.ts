/**
 * The tier contracts. Tier 0 and 1 are directories of blob files (file-tier.ts) that clients on the node read and write
 * directly; tier 2 (RemoteTier) is an object store or, as the embedded default, a directory (directory-tier.ts).
 *
 * A tier knows blobs and bytes; it knows nothing of objects. Who may be dropped is decided in placement/.
 * Conformance suites: packages/testkit, `localTierConformance`, `remoteTierConformance`.
 */
import type { SealableSource, SealableTarget } from './mover-tasks.ts';
import type { PublishRequest } from './publish.ts';

export interface LocalBlob {
  readonly blobId: number;
  /** Relative to `root`; stable while the blob is in this tier. */
  readonly path: string;
  /** Charged to the tier: what was reserved, or what the file really holds if that is more; in whole blocks of 4 KiB. */
  readonly allocatedBytes: number;
  /**
   * Identifies the underlying file across recycling: its inode number, so a client that keeps it mapped meets no other
   * file of that number, across restarts too. 0 in a tier that does not recycle.
   */
  readonly slotId: number;
}

export interface LocalTierUsage {
  readonly capacityBytes: number;
  /** Blobs and pool together: never above capacity. */
  readonly usedBytes: number;
  /** Of these, files kept ready for recycling. */
  readonly pooledBytes: number;
  readonly blobs: number;
}

export interface LocalTier {
  readonly name: 'memory' | 'disk';
  /** Absolute. */
  readonly root: string;
  usage(): LocalTierUsage;
  /** What the file system has for this tier beside what was promised already, by a look now; infinite where it has no limit. */
  availableBytes(): number;

  /**
   * Creates the file of a new blob with room for `reserveBytes`, or returns undefined when the budget has no room (pooled
   * files are given up first). Synchronous in effect: two callers never share the same room. The file may hold old bytes and be longer than asked.
   * The file may also be shorter: who maps it raises its length first. @throws `io_failed`
   */
  create(blobId: number, reserveBytes: number): LocalBlob | undefined;
  /** Raises the reservation; false when there is no room. */
  extend(blobId: number, reserveBytes: number): boolean;
  /** Lowers the reservation of a blob that is being written, to no less than what is present. Nothing of it is under way. */
  shrink(blobId: number, reserveBytes: number): void;
  /**
   * The blob is complete with `sizeBytes`: gives back what was reserved too much. Returns what stays charged.
   * @throws `length_mismatch` when the file is shorter, `data_lost` when it is gone, `tier_full` when more was written than
   * reserved and there is no room for it; the blob is then as before.
   */
  seal(blobId: number, sizeBytes: number): number;
  /**
   * Tells a tier after a restart about a blob that the catalog knows. Undefined when the file is missing or shorter than
   * `sizeBytes`. Room or not, what is there is kept: usage may then be above a capacity that was lowered.
   */
  adopt(blobId: number, sizeBytes: number): LocalBlob | undefined;
  find(blobId: number): LocalBlob | undefined;
  absolutePath(blobId: number): string;
  /** A read-only handle, shared and cached; `read` fails with `data_lost` if the file is gone, `range_invalid` past its end. */
  read(blobId: number, target: Uint8Array, position: number): Promise<void>;
  /** Within what is reserved, before `seal`. @throws `tier_full` when the file system has no room, `io_failed` */
  write(blobId: number, source: Uint8Array, position: number): Promise<void>;
  /** fdatasync of the file and its directory: the bytes survive a power cut (on disk). */
  sync(blobId: number): Promise<void>;
  /**
   * Gives the blob up. `recycle: true` only when nobody can still be reading it: its file may be handed to a next writer.
   * Otherwise the file is unlinked, so that late readers keep the old bytes and never see new ones. No effect on a blob
   * that is not here.
   */
  remove(blobId: number, options: { readonly recycle: boolean }): void;
  /** Keeps a second name of the blob's file where nobody looks for blobs, as far as there is room for that: its bytes are wrong. */
  setAside(blobId: number): void;
  /** That a file is not there says something only while this holds. @throws `io_failed` when the tier's directory is away */
  assertThere(): void;
  /** Makes a directory of a tmpfs anew that was removed; the blobs stay until they are removed. False where it may come back. */
  renew(): boolean;
  /** Files no blob of this tier stands behind (left by a crash): removes them, and says how much that was. */
  removeOrphans(): Promise<{ readonly files: number; readonly bytes: number }>;
  /** Gives pooled files back to the system until at most `bytes` are kept. Returns bytes given back. */
  trimPool(bytes: number): number;
  /**
   * Gets files of this size ready ahead of need, their pages present, off the main thread, as far as there is room.
   * @throws `unsupported` in a tier that does not recycle; `aborted`
   */
  populate(
    options: { readonly fileBytes: number; readonly files: number },
    signal?: AbortSignal,
  ): Promise<void>;
  close(): Promise<void>;
}

/** A run of bytes of a local file, to be stored. */
export interface RemoteSource {
  readonly file: string;
  readonly offset: number;
  readonly length: number;
  /** Of the run; null: not known, and not checked. */
  readonly crc32c: number | null;
}

/** An object of tier 2 as it is there. The ETag is opaque and another one for every content. */
export interface RemoteObject {
  readonly sizeBytes: number;
  readonly etag: string;
  readonly modifiedAtMs: number;
}

/** What goes with an object where tier 2 can keep it; a directory cannot. */
export interface RemoteHeaders {
  readonly contentType: string;
  /** User metadata, without a prefix. */
  readonly metadata: Readonly<Record<string, string>>;
}

export interface RemotePutOptions extends Partial<RemoteHeaders> {
  readonly signal?: AbortSignal;
  /** Only over the object with this ETag; null: only where there is none. Absent: whatever is there. */
  readonly replaces?: string | null;
}

export interface RemoteDeleteOptions {
  /** Only the object with this ETag. */
  readonly etag?: string;
  readonly signal?: AbortSignal;
}

export interface RemoteReadOptions {
  /** The object must still have this ETag. */
  readonly etag?: string;
  readonly signal?: AbortSignal;
}

/** A run of bytes of an object of tier 2, and what it should be. */
export interface RemoteRun extends RemoteReadOptions {
  readonly offset: number;
  readonly length: number;
  /** Of the run; null: not known, and not checked. */
  readonly crc32c: number | null;
}

/**
 * Tier 2. Names are made by placement/ (`remote-names.ts`); a name is written by one caller at a time.
 *
 * Errors that may pass (no answer, 503, a cut connection) are `io_failed`; `tier_full` when there is no room.
 */
export interface RemoteTier {
  /** A URL without credentials. */
  readonly location: string;
  /**
   * Stores the runs, one after the other, as one object under `name`, replacing what was there: all or nothing, durable
   * when it resolves, and verified.
   * @throws `data_corrupt` when a run does not match its checksum; `data_lost` when a local file is missing or shorter;
   * `name_invalid` for a name that it does not accept; `precondition_failed` when something else than `replaces` is there;
   * `tier_full`; `io_failed`; `aborted`. Each leaves nothing behind.
   *
   * What others do at the very moment: a store that offers conditional writes and deletes checks `replaces` and `etag` in one step
   * with the change. One that does not, and a directory, are asked right before it: what others put in between is not seen.
   */
  put(
    name: string,
    sources: readonly RemoteSource[],
    options?: RemotePutOptions,
  ): Promise<RemoteObject>;
  /**
   * Fills `target` from `position` on.
   * @throws `data_lost` when there is no such name, `range_invalid` past the end, `precondition_failed` when it has another
   * ETag by now.
   */
  read(
    name: string,
    target: Uint8Array,
    position: number,
    options?: RemoteReadOptions,
  ): Promise<void>;
  /** Fetches a run to the start of a local file that exists, and resolves with its CRC32C. @throws as put and read. */
  fetch(name: string, file: string, run: RemoteRun): Promise<number>;
  /** Stores a run of an object as another object, in tier 2 itself where it can. @throws as read and put. */
  copy(from: string, to: string, run: Omit<RemoteRun, 'crc32c' | 'signal'>): Promise<RemoteObject>;
  head(name: string): Promise<(RemoteObject & RemoteHeaders) | undefined>;
  /**
   * A URL with which anybody may read the object for so long, whole or in ranges; undefined where there is none, as in a directory.
   * The store is not asked: the object may be gone. The URL is a secret of whoever it is for.
   * @throws `io_failed` when there are no credentials to sign with
   */
  presign(name: string, options: { readonly seconds: number }): Promise<string | undefined>;
  /** No error when there is none. @throws `precondition_failed` when the name has another ETag, `io_failed`, `aborted` */
  delete(name: string, options?: RemoteDeleteOptions): Promise<void>;
  /** Whether a name can be stored as it is, where nothing stands in its way; that `put` says with `name_invalid`. Nobody is asked. */
  accepts(name: string): boolean;
  /** Every name that starts with `prefix`, in no order. @throws `io_failed` for a listing that does not end; `aborted` */
  list(
    prefix: string,
    options?: RemoteListOptions,
  ): AsyncIterable<RemoteObject & { readonly name: string }>;
  close(): Promise<void>;
}

export interface RemoteListOptions {
  readonly signal?: AbortSignal;
  /** More answers of a store than these are no listing: `io_failed`. A directory has no pages. */
  readonly pagesMax?: number;
}

/** Gets the CRC32C of each block of what is read, from the first on; the last block may be shorter. */
export interface BlockCollector {
  readonly blockBytes: number;
  readonly sums: number[];
}

/** Copies and checks bytes off the main thread. */
/** A number that changes while work goes on: its own, or while it waits its turn the work before it. */
export type Progress = () => number;

export interface Mover {
  /**
   * Copies `sizeBytes` from one file into another (which exists), and resolves with their CRC32C. `fromOffset`, `toOffset`:
   * default 0. `sync`: fdatasync after. `directory`: synced after that, so that the name of `to` is durable as well.
   * `etag` (file-identity.ts): the source must have it from the first byte to the last.
   * @throws `data_lost` when the source is missing or shorter, `precondition_failed` when it is another file than `etag` says;
   * `tier_full`, `io_failed`, `aborted`, `busy`. What came by then is in the target.
   */
  copy(options: {
    from: string;
    to: string;
    sizeBytes: number;
    fromOffset?: number;
    toOffset?: number;
    etag?: string | undefined;
    sync: boolean;
    directory?: string;
    blocks?: BlockCollector;
    signal?: AbortSignal;
    onAccepted?: (progress: Progress) => void;
  }): Promise<number>;
  /**
   * As `copy`, where one side or both are encrypted, or without `to` to check what is there. Resolves with the CRC32C of
   * the plain bytes. @throws `data_corrupt` when a frame does not open, and as `copy`
   */
  convert(options: {
    from: SealableSource;
    to?: SealableTarget;
    sizeBytes: number;
    sync: boolean;
    signal?: AbortSignal;
  }): Promise<number>;
  /** CRC32C of `sizeBytes`, from `offset` (default 0) on. @throws `data_lost` when the file is missing or shorter. */
  checksum(
    file: string,
    sizeBytes: number,
    options?: { offset?: number; blocks?: BlockCollector; signal?: AbortSignal },
  ): Promise<number>;
  /**
   * Makes a file at `path` whole or not at all (publish.ts). @throws `data_corrupt` when a run has another CRC32C than it should,
   * `data_lost` when a source is missing or shorter, `precondition_failed` when something else than `replaces` is there,
   * `tier_full`, `busy`, `aborted`, `io_failed`. With `details.unsynced` the file is there and may not be durable; else nothing is left.
   */
  publish(
    request: PublishRequest & {
      signal?: AbortSignal | undefined;
      onAccepted?: (progress: Progress) => void;
    },
  ): Promise<RemoteObject>;
  /** Writes zeros, so that the file's pages are present. */
  populate(file: string, sizeBytes: number, signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}
