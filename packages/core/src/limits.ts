/** The limits of the tiers, with their reasons. What a person may want to set is an option with one of these as default. */
import { assert, KiB, MiB } from '@ebb/protocol';

/** What tmpfs, ext4 and xfs allocate at least: charges are rounded up to it, so that many small files cannot pass the capacity. */
export const BLOCK_BYTES = 4 * KiB;

/** Open files kept per tier. A miss costs 4 µs; each costs a descriptor, of which a service has 1024 if nobody raised that. */
export const FILE_HANDLES_MAX = 256;

/** On tmpfs up to this size a read or write is done at once: 6 µs, where a thread-pool trip costs 20. Above, it would stall others. */
export const SYNC_IO_BYTES_MAX = 64 * KiB;

/** Files kept for recycling. Each holds an inode and a name; below a page of content a fresh file costs as little. */
export const POOL_FILES_MAX = 4096;

/** A pooled file is too big for a blob when it is larger than this factor times what was asked, plus the slack. */
export const POOL_OVERSIZE_FACTOR = 4;
export const POOL_OVERSIZE_SLACK_BYTES = MiB;

/** A pooled file that is too small still helps when it has this part of what was asked. */
export const POOL_UNDERSIZE_PART = 0.5;

/** Freeing tmpfs pages costs 75 µs a MiB: larger files are unlinked off the main thread. */
export const SYNC_UNLINK_BYTES_MAX = 4 * MiB;

/** Files waiting for their unlink; beyond, the caller does it itself and so is slowed down. */
export const TRASH_FILES_MAX = 1024;

/** How long what statfs said is trusted, less what was handed out since. Others may fill the same file system meanwhile. */
export const STATFS_CACHE_MS = 100;

/**
 * The mover's buffer stays in a core's cache between read, checksum and write. Measured for 256 MiB from tmpfs to disk on a
 * busy machine, CPU ms: 118 with 128 to 512 KiB, 135 to 265 with 1 MiB, 362 with 4 MiB; fs.copyFile without a checksum 98.
 */
export const MOVER_BUFFER_BYTES = 256 * KiB;

/** With `sync`, dirty pages are written back this often, so that one large copy does not stall everyone's fdatasync at its end. */
export const MOVER_SYNC_EVERY_BYTES = 64 * MiB;

/** Jobs waiting for a mover; each is a few hundred bytes, and those who submit are bounded themselves. */
export const MOVER_QUEUE_MAX = 4096;

/** Heap of a mover's worker: it holds one buffer outside the heap, and almost nothing in it. */
export const MOVER_HEAP_MIB = 16;

/** Files open for reading or writing by position. Each may hold a lease or a staged write, and costs about 1 KiB here. */
export const OPEN_FILES_MAX = 65_536;

/** Piece in which the start of a staged file is filled when the mover cannot do it; and up to this size it is not asked. */
export const FILE_COPY_PIECE_BYTES = 256 * KiB;

/** A name of tier 2: one segment, and the whole below the tier's root. Linux's NAME_MAX, and PATH_MAX less the root's own length. */
export const REMOTE_SEGMENT_BYTES_MAX = 255;
export const REMOTE_NAME_BYTES_MAX = 3 * KiB;

/** Directories of tier 2 remembered as durable; forgetting them costs one fsync each. */
export const DURABLE_DIRECTORIES_MAX = 4096;

assert(SYNC_IO_BYTES_MAX < MOVER_BUFFER_BYTES, 'synchronous calls move less than one buffer');
assert(MOVER_SYNC_EVERY_BYTES % MOVER_BUFFER_BYTES === 0, 'write-back falls between two buffers');
