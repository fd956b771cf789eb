/**
 * The tier contracts. Tier 0 and 1 are directories of blob files (file-tier.ts) that clients on the node read and write
 * directly; tier 2 (RemoteTier) is an object store or, as the embedded default, a directory (directory-tier.ts).
 *
 * A tier knows blobs and bytes; it knows nothing of objects. Who may be dropped is decided in placement/.
 * Conformance suites: packages/testkit, `localTierConformance`, `remoteTierConformance`.
 */
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

  /**
   * Creates the file of a new blob with room for `reserveBytes`, or returns undefined when the budget has no room (pooled
   * files are given up first). Synchronous in effect: two callers never share the same room. The file may hold old bytes and be longer than asked.
   * The file may also be shorter: who maps it raises its length first. @throws `io_failed`
   */
  create(blobId: number, reserveBytes: number): LocalBlob | undefined;
  /** Raises the reservation; false when there is no room. */
  extend(blobId: number, reserveBytes: number): boolean;
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

export interface RemoteTierCapabilities {
  /** Largest single put, beyond which `put` splits by itself. */
  readonly putBytesMax: number;
}

/** Tier 2. Names are `bucket/key`, made by placement/; a name is written by one caller at a time. */
export interface RemoteTier {
  readonly location: string;
  readonly capabilities: RemoteTierCapabilities;
  /**
   * Stores the first `sizeBytes` of a local file under `name`, replacing what was there, all or nothing, durable when it
   * resolves, and verified: the CRC32C of what was read on the way must be `crc32c`.
   * @throws `data_corrupt` when it is not; `data_lost` when the local file is missing or shorter; `name_invalid` when a
   * conflict has come up since `accepts` (take the fallback name); `tier_full`; `io_failed`; `aborted`. Each leaves nothing behind.
   */
  put(
    name: string,
    file: string,
    options: { sizeBytes: number; crc32c: number; signal?: AbortSignal },
  ): Promise<void>;
  /** @throws `data_lost` when there is no such name, `range_invalid` past the end. */
  read(name: string, target: Uint8Array, position: number, signal?: AbortSignal): Promise<void>;
  /** Fetches the whole into a local file that exists, and verifies it. @throws as put and read. */
  fetch(
    name: string,
    file: string,
    options: { sizeBytes: number; crc32c: number; signal?: AbortSignal },
  ): Promise<void>;
  head(name: string): Promise<{ readonly sizeBytes: number } | undefined>;
  /** No error when there is none. */
  delete(name: string): Promise<void>;
  /** Whether a name can be stored as it is; if not, placement/ chooses another (`bucket/.ebb/<blob id>`). */
  accepts(name: string): boolean;
  /** Every name with its size, in no order, for recovery and checks. */
  list(prefix: string): AsyncIterable<{ readonly name: string; readonly sizeBytes: number }>;
  close(): Promise<void>;
}

/** Copies and checks bytes off the main thread. */
export interface Mover {
  /**
   * Copies `sizeBytes` from one file into another (which exists), and resolves with their CRC32C. `sync`: fdatasync after.
   * Offsets are 0 unless they are given.
   * @throws `data_lost` when the source is missing or shorter; `tier_full`, `io_failed`, `aborted`, `busy`
   */
  copy(options: {
    from: string;
    to: string;
    sizeBytes: number;
    fromOffset?: number;
    toOffset?: number;
    sync: boolean;
    signal?: AbortSignal;
  }): Promise<number>;
  /** CRC32C of the first `sizeBytes`. @throws `data_lost` when the file is missing or shorter. */
  checksum(file: string, sizeBytes: number, signal?: AbortSignal): Promise<number>;
  /** Writes zeros, so that the file's pages are present. */
  populate(file: string, sizeBytes: number, signal?: AbortSignal): Promise<void>;
  close(): Promise<void>;
}
