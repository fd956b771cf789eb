/** Every bound of the package, with the reason and the relation to the others. */
import { assert, FRAME_PAYLOAD_BYTES_MAX, KiB, MiB, READ_BYTES_MAX } from '@ebb/protocol';

/** Keys pad the map index to this many digits, so that a listing comes in map order. Persisted in keys: keep stable. */
export const MAP_INDEX_DIGITS = 7;
export const MAPS_MAX = 10 ** MAP_INDEX_DIGITS;
/** An index block of this many partitions is 12 MiB: a reader holds one in memory to verify it. */
export const PARTITIONS_MAX = 1024 * 1024;

/** One answer of `shuffleTable` fits a frame. A longer table comes in several answers, in order of version. */
export const TABLE_ANSWER_BYTES_MAX = FRAME_PAYLOAD_BYTES_MAX - 64 * KiB;
/** Rows located at a time; between batches other work of the daemon has its turn. */
export const LOCATE_BATCH = 1024;
/** Blobs verified or brought up at a time for one `mapResolve`: each may read a whole map output. */
export const RESOLVE_PARALLEL = 8;
/** Attempts in one `mapResolve`: their rows fit a frame with room to spare. */
export const RESOLVE_ATTEMPTS_MAX = 65_536;
/** Write ids of an owner remembered after their commit, so that a second commit is told apart from a foreign one. */
export const COMMITTED_WRITES_REMEMBERED = 64;

/** Longest key or value of the record framing: one record is held in memory by writer and reader. */
export const RECORD_PART_BYTES_MAX = 256 * MiB;
/** Longest raw chunk a reader accepts: what one decompression may allocate. */
export const CHUNK_RAW_BYTES_MAX = 64 * MiB;
export const CHUNK_BYTES_DEFAULT = 64 * KiB;

export const WRITER_MEMORY_BYTES_DEFAULT = 64 * MiB;
export const WRITER_MEMORY_BYTES_MIN = 4 * KiB;
export const READER_PREFETCH_BYTES_DEFAULT = 32 * MiB;
export const READER_PREFETCH_BYTES_MIN = 4 * KiB;
/** Decoded index blocks a shuffle view keeps between readers of one process. */
export const INDEX_CACHE_BYTES_DEFAULT = 64 * MiB;

assert(CHUNK_BYTES_DEFAULT <= CHUNK_RAW_BYTES_MAX, 'a reader accepts what a writer writes');
assert(READ_BYTES_MAX < FRAME_PAYLOAD_BYTES_MAX, 'a batch of ranges fits a frame');
