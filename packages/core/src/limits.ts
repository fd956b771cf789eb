/** The limits of the tiers, with their reasons. What a person may want to set is an option with one of these as default. */
import { assert, GiB, KiB, MiB } from '@ebb/protocol';

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

/** Files with wrong bytes that are kept beside a tier: so many, and this part of its capacity. */
export const SET_ASIDE_FILES_MAX = 16;
export const SET_ASIDE_PART = 1 / 16;

/**
 * The mover's buffer stays in a core's cache between read, checksum and write. Measured for 256 MiB from tmpfs to disk on a
 * busy machine, CPU ms: 118 with 128 to 512 KiB, 135 to 265 with 1 MiB, 362 with 4 MiB; fs.copyFile without a checksum 98.
 */
export const MOVER_BUFFER_BYTES = 256 * KiB;

/** With `sync`, dirty pages are written back this often, so that one large copy does not stall everyone's fdatasync at its end. */
export const MOVER_SYNC_EVERY_BYTES = 64 * MiB;

/** Jobs and sends above this may not take all that there is for both: the small ones behind them would wait for seconds. */
export const SMALL_MOVE_BYTES_MAX = 8 * MiB;

/** Jobs waiting for a mover; each is a few hundred bytes, and those who submit are bounded themselves. */
export const MOVER_QUEUE_MAX = 4096;

/**
 * Heap of a mover's worker: it holds one buffer outside the heap, and almost nothing in it. What a cipher makes lies outside
 * too, but counts for the collector: below these sizes that runs so often that encryption takes three times as long.
 */
export const MOVER_HEAP_MIB = 64;
export const MOVER_YOUNG_HEAP_MIB = 8;

/** Files open for reading or writing by position. Each may hold a lease or a staged write, and costs about 1 KiB here. */
export const OPEN_FILES_MAX = 65_536;

/** Piece in which the start of a staged file is filled when the mover cannot do it; and up to this size it is not asked. */
export const FILE_COPY_PIECE_BYTES = 256 * KiB;

/** A name of tier 2: one segment, and the whole below the tier's root. Linux's NAME_MAX, and PATH_MAX less the root's own length. */
export const REMOTE_SEGMENT_BYTES_MAX = 255;
export const REMOTE_NAME_BYTES_MAX = 3 * KiB;

/** Of a key in S3, in UTF-8. */
export const S3_KEY_BYTES_MAX = 1024;

/** S3's own: of a multipart upload; of a part, and of what one request copies. */
export const S3_PARTS_MAX = 10_000;
export const S3_PART_BYTES_MAX = 5 * GiB;

/**
 * The largest object, 48.8 TiB: what an object store takes in one upload, so each object can leave the node. It holds however an
 * object comes to be: written, joined, copied, or found in tier 2.
 */
export const OBJECT_BYTES_MAX = S3_PARTS_MAX * S3_PART_BYTES_MAX;

/** The most pieces of one object: a complete upload of the most parts. What is joined of more is written anew, as one. */
export const EXTENTS_MAX = 10_000;

/** User metadata of an object in S3, names and values together. */
export const S3_METADATA_BYTES_MAX = 2 * KiB;

/** One request stores an object up to here. Beyond, parts: a failure costs one of them and not all, and they go side by side. */
export const S3_SINGLE_PUT_BYTES_MAX = 16 * MiB;
export const S3_PART_BYTES = 8 * MiB;

/** Read from a file and handed to a socket at once; a transfer holds about two of these. */
export const S3_CHUNK_BYTES = 256 * KiB;

/** Each connection that ranges are read from has a buffer of this size, and is closed when nothing was read for so long. */
export const S3_SOCKET_BUFFER_BYTES = 1 * MiB;
export const S3_IDLE_SOCKET_MS = 4_000;
export const S3_RESPONSE_HEAD_BYTES_MAX = 64 * KiB;

/** One range request of a read; of a fetch, the least and the most: few requests, and as many side by side as may be. */
export const S3_RANGE_BYTES = 8 * MiB;
export const S3_FETCH_RANGE_BYTES_MAX = 32 * MiB;

/** Parts or ranges of one object at once. */
export const S3_TRANSFERS_PER_OBJECT_MAX = 4;

/**
 * Memory of all transfers together, and what one takes of it: two chunks of its own, the rest in sockets. A read takes what it
 * reads. So at most 16 go at once.
 */
export const S3_TRANSFERS_BYTES_MAX = 32 * MiB;
export const S3_TRANSFER_BYTES = 2 * MiB;

/** Calls that wait for the worker; each is a few hundred bytes, and those who make them are bounded themselves. */
export const S3_CALLS_MAX = 4096;

/** The SDK takes 30 MiB; a page of a listing 2. */
export const S3_WORKER_HEAP_MIB = 128;

/** Tries of one request. Few: who calls tries again later, and for longer. */
export const S3_ATTEMPTS = 3;
export const S3_RETRY_DELAY_MS = 200;

export const S3_CONNECT_MS = 10_000;
/** Without a byte either way. It bounds no transfer that makes progress. */
export const S3_STALL_MS = 60_000;
/** Joining 10,000 parts or copying 5 GiB takes a store minutes, in which it sends nothing. */
export const S3_SERVER_WORK_MS = 600_000;
/** Taking a failed upload back: what does not succeed now is done with the next put. */
export const S3_CLEANUP_MS = 10_000;

/** Closing waits so long for calls that it aborted: what the store does not answer by then, the next start cleans up. */
export const S3_CLOSE_MS = 2_000;

/**
 * A URL that is handed out reads its object for so long. Enough for a restore of some terabytes over one link; short, since nothing
 * takes it back. Stores take at most seven days, and one that was signed with a temporary key ends with that key.
 */
export const PRESIGNED_READ_SECONDS = 3600;

/** Directories of tier 2 remembered as durable; forgetting them costs one fsync each. */
export const DURABLE_DIRECTORIES_MAX = 4096;

assert(SYNC_IO_BYTES_MAX < MOVER_BUFFER_BYTES, 'synchronous calls move less than one buffer');
assert(MOVER_SYNC_EVERY_BYTES % MOVER_BUFFER_BYTES === 0, 'write-back falls between two buffers');
assert(EXTENTS_MAX >= S3_PARTS_MAX, 'a complete upload is one object');
assert(OBJECT_BYTES_MAX < 2 ** 48, 'the size of an object fits its record');
assert(S3_PART_BYTES >= 5 * MiB, 'S3 takes no smaller part');
assert(S3_SINGLE_PUT_BYTES_MAX >= S3_PART_BYTES, 'what goes in parts has more than one');
assert(S3_RANGE_BYTES <= S3_TRANSFERS_BYTES_MAX, 'one read fits into the memory of all');
