/** Every bound of the daemon's surfaces in one place, with the reason above it. */
import { assert, FRAME_PAYLOAD_BYTES_MAX, KiB, MiB, READ_BYTES_MAX } from '@ebb/protocol';

/** Piece in which bodies travel between sockets and tiers: FACTS shows 64 KiB pieces cost three times the CPU. */
export const PIECE_BYTES = 1 * MiB;
/** Pieces of all bodies under way. Bounds the daemon's memory. */
export const PIECES_MAX = 64;
/** The pieces of these that answers may hold: readers may stop, senders are given the rest. */
export const ANSWER_PIECES_MAX = 48;
/** Pieces kept when idle. */
export const PIECES_KEPT = 8;
/** Bodies up to here take no piece; each connection may hold so much of its own, for each direction. */
export const SMALL_BODY_BYTES = 64 * KiB;
/** What has come of a body is written out when no more has come for so long: so a piece never waits for a sender. */
export const BODY_FLUSH_MS = 100;
/** A sender who has been silent for so long gives back the room that was kept for the rest of his body. */
export const BODY_SILENCE_MS = 5_000;
/** A reader who has not taken what he was sent after so long holds one piece, and is sent less at a time. */
export const ANSWER_STALL_MS = 200;
/** The least pace of a body: so many bytes in each window, or its end. Half a KiB a second. */
export const BODY_WINDOW_MS = 120_000;
export const BODY_WINDOW_BYTES_MIN = 64 * KiB;
/** Requests that are read before they are looked at (JSON, XML) come whole within this time. */
export const GATHERED_BODY_MS_MAX = 60_000;
/** The bytes of all answers and requests above SMALL_BODY_BYTES that are held whole: listings, XML, JSON. */
export const HELD_BYTES_MAX = 64 * MiB;
/** When that is full, a peer who has stood still for so long makes place. */
export const HELD_PATIENCE_MS = 1_000;
/** Requests of one connection that wait for the answers to those before them; each is only a head. */
export const PIPELINED_REQUESTS_MAX = 64;
/** First room for a body that does not tell its length; the store doubles it. */
export const UNKNOWN_LENGTH_RESERVE_BYTES = 1 * MiB;
/**
 * At most this much of a refused upload is still read, so that its sender sees the answer; then the connection is cut. Parts
 * of an upload fit in: they have 8 MiB with boto3, 16 and 32 MiB elsewhere.
 */
export const REFUSED_BODY_BYTES_MAX = 64 * MiB;
export const REFUSED_BODY_MS_MAX = 10_000;

/** A key has up to 1024 bytes, three characters each when percent-encoded; and user metadata. */
export const HEADER_BYTES_MAX = 32 * KiB;
export const JSON_BODY_BYTES_MAX = 1 * MiB;
export const HEADERS_TIMEOUT_MS = 30_000;
/** From the opening of a connection to the end of its handshake. */
export const TLS_HANDSHAKE_MS = 10_000;
/** Handshakes under way on one listener; beyond, the oldest makes place. */
export const TLS_HANDSHAKES_MAX = 32;
/** Silence on a connection, also in the middle of a body. */
export const IDLE_TIMEOUT_MS = 120_000;
export const KEEP_ALIVE_TIMEOUT_MS = 65_000;
/** Connections of all listeners together, where descriptors allow it: see descriptors.ts. */
export const CONNECTIONS_MAX = 4096;
/** The places among these that no request but a probe takes. */
export const CONNECTIONS_RESERVED = 16;
/** What the process itself has open: the catalog, workers, sockets to tier 2, files on their way. */
export const DESCRIPTORS_RESERVED = 72;
/** Open files kept per tier. A miss costs 4 µs. */
export const HANDLES_PER_TIER_MAX = 256;

/** `?wait=…` of one request: below the silence that ends a connection, here and in proxies. Clients ask again. */
export const WAIT_MS_DEFAULT = 30_000;
export const WAIT_MS_MAX = 60_000;

/** Streams of events at a time; each holds a page of 512 events at most, some 150 KiB, while its reader is slow. */
export const EVENT_STREAMS_MAX = 256;
/** A reader that takes nothing for so long is cut; it goes on from the log. */
export const EVENT_STALL_MS = 30_000;
/** A sign of life on a stream without events: proxies cut what is silent for a minute. */
export const EVENT_KEEP_ALIVE_MS = 15_000;

export const LIST_LIMIT_DEFAULT = 1000;
export const LIST_LIMIT_MAX = 10_000;

/** Calls of one frame connection at work; beyond, its socket is not read. Above a client's own limit, so that it never waits here first. */
export const FRAME_CALLS_INFLIGHT_MAX = 8192;
/** Payloads of one connection: that of the frame on its way in, and those of calls at work. */
export const FRAME_BYTES_INFLIGHT_MAX = 32 * MiB;
/** The memory of all connections together: payloads, and answers that are held until they are taken. Pieces of large reads are not among them. */
export const FRAME_BYTES_INFLIGHT_TOTAL_MAX = 64 * MiB;
/** Each connection has so much beside that, for each direction: so its small calls go on whatever others hold. */
export const FRAME_OWN_BYTES = 64 * KiB;
/** When there is no room, a connection that has stood still for so long is ended. */
export const FRAME_PATIENCE_MS = 2_000;
/** A frame that moves by so much counts as moving. */
export const FRAME_PROGRESS_BYTES = 256 * KiB;
/** How soon a connection that waits for room looks again; what it does itself is seen at once. */
export const FRAME_RETRY_MS = 100;
/** Before HELLO nothing longer comes. */
export const HELLO_PAYLOAD_BYTES_MAX = 64 * KiB;
/** Answers not yet taken by the peer; beyond, its socket is not read, and no large answer is begun. */
export const FRAME_UNSENT_BYTES_MAX = 2 * MiB;
/** Calls of one connection with large answers that are at work at a time, and that wait for that. */
export const LARGE_CALLS_MAX = 4;
export const LARGE_CALLS_QUEUED_MAX = 256;
/** Answers up to here are joined with their neighbours into one write. */
export const FRAME_JOINED_BYTES = 16 * KiB;
export const FRAME_BATCH_BYTES = 64 * KiB;
/** Ranges in one `read`: blocks of 32 bytes and less are not fetched one by one. */
export const READ_RANGES_MAX = 262_144;
/** Ranges of one `read` fetched at a time. */
export const READ_RANGES_PARALLEL = 8;
/** A connection that sends nothing before this has passed is closed: HELLO comes first. */
export const HELLO_TIMEOUT_MS = 10_000;
/** How often connected clients count as a heartbeat of their job; a job's time to live is at least a second. */
export const CONNECTED_HEARTBEAT_MS = 300;

/** Log lines about clients who do not speak our language, or are in the way: so many in so long. */
export const STRANGER_LINES_MAX = 20;
export const STRANGER_WINDOW_MS = 10_000;

/** Blobs named in one `revoke`. */
export const REVOKE_BLOBS_MAX = 65_536;

assert(WAIT_MS_MAX < IDLE_TIMEOUT_MS, 'a wait must not look like a dead connection');
assert(EVENT_KEEP_ALIVE_MS < IDLE_TIMEOUT_MS, 'nor must a stream of events');
assert(FRAME_BYTES_INFLIGHT_MAX >= FRAME_PAYLOAD_BYTES_MAX, 'the longest frame must fit');
assert(
  READ_BYTES_MAX <= ANSWER_PIECES_MAX * PIECE_BYTES,
  'the longest read fits the pieces of answers',
);
assert(FRAME_BYTES_INFLIGHT_TOTAL_MAX >= FRAME_BYTES_INFLIGHT_MAX, 'one connection must fit');
assert(FRAME_JOINED_BYTES <= FRAME_BATCH_BYTES, 'a joined answer must fit its batch');
assert(BODY_WINDOW_MS <= IDLE_TIMEOUT_MS, 'a slow body ends no later than a silent one');
assert(PIECE_BYTES >= SMALL_BODY_BYTES, 'a small body must fit a piece');
