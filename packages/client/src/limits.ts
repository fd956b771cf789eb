/** Every bound of the client in one place, with the reason above it. */
import { assert, KiB, MiB } from '@ebb/protocol';

/** Piece in which bytes travel between memory and files: large enough to make a call's cost vanish, small enough for the cache. */
export const PIECE_BYTES = 1 * MiB;
/**
 * Piece in which large chunks are written from where they are, one after the other: the best of 1 to 16 MiB. A second one
 * under way would only wait for the file's lock, on the core that computes the checksum.
 */
export const DIRECT_PIECE_BYTES = 16 * MiB;
/** Chunks from here on are written from where they are; smaller ones are gathered in a pooled piece first. */
export const DIRECT_BYTES = 256 * KiB;
/** Up to here a write or read on tmpfs is done synchronously: the copy is shorter than a trip to the thread pool. */
export const SYNC_BYTES = 128 * KiB;
/** Pieces of one writer or reader under way at a time: the second hides the wake-up between two system calls. */
export const PIECES_INFLIGHT = 2;
/** Pooled pieces kept when idle. */
export const POOLED_PIECES_MAX = 16;
/** Chunk of a body read from files; each is fresh memory, so it stays below the size where malloc maps anew. */
export const BODY_CHUNK_BYTES = 256 * KiB;

/** Of an open file, extents whose descriptors are opened at once: they keep its version. More are opened when they are read. */
export const EAGER_EXTENTS_MAX = 16;

/** First reservation of a writer that does not know its size; then it doubles, by at most RESERVE_STEP_BYTES_MAX. */
export const RESERVE_FIRST_BYTES = 1 * MiB;
export const RESERVE_STEP_BYTES_MAX = 64 * MiB;

/** Calls in flight on a connection, and calls that wait for a place; one more is refused with `busy`. */
export const CALLS_INFLIGHT_MAX = 4096;
export const CALLS_WAITING_MAX = 65_536;
/** Frames up to here are joined into one system call. */
export const JOINED_WRITE_BYTES = 64 * KiB;
/**
 * A call that a living node does not answer for this long fails; the connection stays. A node ends its own calls much
 * sooner: this is the end of a wait for one that it forgot.
 */
export const CALL_TIMEOUT_MS = 600_000;
/**
 * A node that is waited for in silence for this long is asked, and given up at the second limit: by `ping` on a connection
 * of frames, by `GET /healthz` where HTTP is waited for.
 */
export const PING_AFTER_MS = 10_000;
export const SILENCE_MS_MAX = 40_000;
export const CONNECT_TIMEOUT_MS = 5_000;
/** The first answer of a node whose address is tried; the kernel takes connections for one that is paused. */
export const FIRST_ANSWER_MS = 10_000;
/** For how long a lost connection is sought again: a restart of the daemon takes well under this. */
export const RECONNECT_MS = 30_000;

/** One request that waits for an object; the node allows a minute. */
export const WAIT_STEP_MS = 30_000;
/** A stream of events without a sign of life: the node sends one every 15 s. */
export const STREAM_SILENCE_MS = 60_000;

/** HTTP connections to one node. */
export const HTTP_CONNECTIONS = 32;
/** Control answers larger than this are refused: a list page is about 0.5 MiB. */
export const JSON_BYTES_MAX = 64 * MiB;
export const LIST_PAGE_OBJECTS = 1000;

assert(
  DIRECT_BYTES <= PIECE_BYTES,
  'a gathered piece must hold what is too small to write directly',
);
assert(SILENCE_MS_MAX > PING_AFTER_MS, 'a ping needs time to be answered');
assert(
  CALL_TIMEOUT_MS > SILENCE_MS_MAX,
  'whether the node lives is known before a call is given up',
);
