/**
 * The calls spoken in frames (frames.ts): one codec per message, encode and decode side by side.
 * Op numbers are on the wire: keep stable, never reuse.
 */
import { type ErrorDetails, isStoreErrorCode, StoreError } from './errors.ts';
import { PayloadReader, PayloadWriter } from './frames.ts';

export const PROTOCOL_VERSION = 1;

export const OPS = {
  hello: 1,
  ping: 2,
  proveHost: 3,
  stage: 10,
  extend: 11,
  write: 12,
  commit: 13,
  abort: 14,
  open: 15,
  release: 16,
  read: 17,
  jobOpen: 20,
  jobHeartbeat: 21,
  jobEnd: 22,
  shuffleRegister: 30,
  mapStage: 31,
  mapCommit: 32,
  shuffleTable: 33,
  shuffleRelease: 34,
  shuffleRemove: 35,
  mapResolve: 36,
  fileOpen: 40,
  fileStage: 41,
  fileSync: 42,
  fileClose: 43,
  fileAbort: 44,
  directoryMake: 54,
  directoryRemove: 55,
  head: 60,
  listObjects: 61,
  deleteObject: 62,
  deletePrefix: 63,
  rename: 64,
  renamePrefix: 65,
  /** Server push (request id 0): stop using these blobs and answer with `blobsReleased`. */
  revoke: 90,
  blobsReleased: 91,
  /** Server push: the node is stopping. */
  goingAway: 92,
} as const;

export type Ack = 'memory' | 'disk' | 'remote';
export const ACKS: readonly Ack[] = ['memory', 'disk', 'remote'];
export type TierIndex = 0 | 1 | 2;
/** In `StageRequest.tier`: let the bucket's policy choose. */
export const TIER_BY_POLICY = 255;

interface Codec<T> {
  encode(message: T): Buffer;
  decode(payload: Buffer): T;
}

function codec<T>(
  write: (to: PayloadWriter, message: T) => void,
  read: (from: PayloadReader) => T,
): Codec<T> {
  return {
    encode(message) {
      const to = new PayloadWriter();
      write(to, message);
      return to.done();
    },
    decode(payload) {
      const from = new PayloadReader(payload);
      const message = read(from);
      from.end();
      return message;
    },
  };
}

function list<T>(to: PayloadWriter, items: readonly T[], write: (item: T) => void): void {
  to.u32(items.length);
  for (const item of items) write(item);
}

function readList<T>(from: PayloadReader, read: () => T): T[] {
  const count = from.u32();
  const items: T[] = [];
  for (let i = 0; i < count; i++) items.push(read());
  return items;
}

function tierIndex(value: number): TierIndex {
  if (value !== 0 && value !== 1 && value !== 2)
    throw new StoreError('request_invalid', `no tier ${value}`);
  return value;
}

function ack(value: number): Ack {
  const found = ACKS[value];
  if (found === undefined)
    throw new StoreError('request_invalid', `no acknowledgement level ${value}`);
  return found;
}

export const empty: Codec<void> = codec<void>(
  () => undefined,
  () => undefined,
);

/** Payload of a response with FRAME_FLAG_ERROR. */
export const errorPayload: Codec<StoreError> = codec<StoreError>(
  (to, error) =>
    to
      .str(error.code)
      .str(error.message.slice(0, 4000))
      .str(JSON.stringify(error.details).slice(0, 8000)),
  (from) => {
    const code = from.str();
    const message = from.str();
    const details = parseDetails(from.str());
    return new StoreError(isStoreErrorCode(code) ? code : 'internal', message, details);
  },
);

function parseDetails(text: string): ErrorDetails {
  try {
    return JSON.parse(text) as ErrorDetails;
  } catch {
    return {}; // cut off at the length limit: the code and message carry what matters
  }
}

export interface HelloRequest {
  readonly protocolVersion: number;
  /** For logs and `status`: `ebb-jvm/0.1.0 executor-3`. */
  readonly client: string;
  /** The job this connection works for; '' for none. While the connection lives, the job is alive. */
  readonly jobId: string;
}
/** A client asks by `proveHost` whether the directories are of its host. Without that it uses `write` and `read`. */
export interface HelloResponse {
  readonly protocolVersion: number;
  readonly nodeId: string;
  /** Changes with each start of the daemon: leases and staged writes of an earlier one are gone. */
  readonly instanceId: number;
  readonly memoryDir: string;
  readonly diskDir: string;
  /** Always ''. Here the first clients found a file and its content, both of the node's choice; they now use HTTP. */
  readonly probeName: string;
  readonly probeNonce: string;
}
export const hello = {
  request: codec<HelloRequest>(
    (to, m) => to.u16(m.protocolVersion).str(m.client).str(m.jobId),
    (from) => ({ protocolVersion: from.u16(), client: from.str(), jobId: from.str() }),
  ),
  response: codec<HelloResponse>(
    (to, m) =>
      to
        .u16(m.protocolVersion)
        .str(m.nodeId)
        .u64(m.instanceId)
        .str(m.memoryDir)
        .str(m.diskDir)
        .str(m.probeName)
        .str(m.probeNonce),
    (from) => ({
      protocolVersion: from.u16(),
      nodeId: from.str(),
      instanceId: from.u64(),
      memoryDir: from.str(),
      diskDir: from.str(),
      probeName: from.str(),
      probeNonce: from.str(),
    }),
  ),
};

/**
 * The node makes an empty file named after the challenge, `proofName` of node-files.ts, in both directories. A client that
 * finds its own there shares the host with the node. An answer says only that the node has tried.
 */
export interface ProveHostRequest {
  /** 32 random hexadecimal digits, made up by the client. */
  readonly challenge: string;
}
export const proveHost = {
  request: codec<ProveHostRequest>(
    (to, m) => to.str(m.challenge),
    (from) => ({ challenge: from.str() }),
  ),
  response: empty,
};

export interface StageRequest {
  readonly bucket: string;
  readonly key: string;
  /** Room to reserve; ask for what you know, `extend` for more. */
  readonly reserveBytes: number;
  /** 0, 1, or TIER_BY_POLICY. */
  readonly tier: number;
  /** '' for none. */
  readonly jobId: string;
}
/** Answer to `stage` and `mapStage`. The file exists; write it from offset 0, within `reservedBytes`. */
export interface StagedResponse {
  readonly writeId: number;
  readonly blobId: number;
  readonly tier: TierIndex;
  /** Relative to the tier's directory in HelloResponse. */
  readonly path: string;
  readonly reservedBytes: number;
  /** Identifies the underlying file across recycling (0: never recycled), for clients that keep mappings. */
  readonly slotId: number;
}
export const staged: Codec<StagedResponse> = codec<StagedResponse>(
  (to, m) =>
    to.u64(m.writeId).u64(m.blobId).u8(m.tier).str(m.path).u64(m.reservedBytes).u64(m.slotId),
  (from) => ({
    writeId: from.u64(),
    blobId: from.u64(),
    tier: tierIndex(from.u8()),
    path: from.str(),
    reservedBytes: from.u64(),
    slotId: from.u64(),
  }),
);
export const stage = {
  request: codec<StageRequest>(
    (to, m) => to.str(m.bucket).str(m.key).u64(m.reserveBytes).u8(m.tier).str(m.jobId),
    (from) => ({
      bucket: from.str(),
      key: from.str(),
      reserveBytes: from.u64(),
      tier: from.u8(),
      jobId: from.str(),
    }),
  ),
  response: staged,
};

/** Raises the reservation. On `tier_full` the client stages anew on tier 1 and copies what it has. */
export interface ExtendRequest {
  readonly writeId: number;
  readonly reserveBytes: number;
}
export const extend = {
  request: codec<ExtendRequest>(
    (to, m) => to.u64(m.writeId).u64(m.reserveBytes),
    (from) => ({ writeId: from.u64(), reserveBytes: from.u64() }),
  ),
  response: codec<{ reservedBytes: number }>(
    (to, m) => to.u64(m.reservedBytes),
    (from) => ({ reservedBytes: from.u64() }),
  ),
};

/** Bytes for a staged write from a client that cannot see the node's files. */
export interface WriteRequest {
  readonly writeId: number;
  readonly offset: number;
  readonly data: Buffer;
}
export const write = {
  request: codec<WriteRequest>(
    (to, m) => to.u64(m.writeId).u64(m.offset).bytes(m.data),
    (from) => ({ writeId: from.u64(), offset: from.u64(), data: from.bytes() }),
  ),
  response: empty,
};

export interface CommitRequest {
  readonly writeId: number;
  readonly sizeBytes: number;
  /** CRC32C of the whole object, or undefined: then the node computes it before it answers. */
  readonly crc32c: number | undefined;
  /** ETag the object must have now; '' for no condition. */
  readonly ifMatch: string;
  /** The object must not exist. */
  readonly ifNoneMatch: boolean;
  /** undefined: the bucket's. */
  readonly ack: Ack | undefined;
  readonly contentType: string;
  readonly metadata: Readonly<Record<string, string>>;
}
export interface CommittedResponse {
  readonly version: number;
  readonly etag: string;
  readonly durability: Ack;
}
export const commit = {
  request: codec<CommitRequest>(
    (to, m) => {
      to.u64(m.writeId)
        .u64(m.sizeBytes)
        .bool(m.crc32c !== undefined)
        .u32(m.crc32c ?? 0)
        .str(m.ifMatch)
        .bool(m.ifNoneMatch);
      to.u8(m.ack === undefined ? 255 : ACKS.indexOf(m.ack)).str(m.contentType);
      list(to, Object.entries(m.metadata), ([name, value]) => to.str(name).str(value));
    },
    (from) => {
      const writeId = from.u64();
      const sizeBytes = from.u64();
      const hasCrc = from.bool();
      const crc = from.u32();
      const ifMatch = from.str();
      const ifNoneMatch = from.bool();
      const level = from.u8();
      const contentType = from.str();
      const metadata = Object.fromEntries(readList(from, () => [from.str(), from.str()] as const));
      return {
        writeId,
        sizeBytes,
        crc32c: hasCrc ? crc : undefined,
        ifMatch,
        ifNoneMatch,
        ack: level === 255 ? undefined : ack(level),
        contentType,
        metadata,
      };
    },
  ),
  response: codec<CommittedResponse>(
    (to, m) => to.u64(m.version).str(m.etag).u8(ACKS.indexOf(m.durability)),
    (from) => ({ version: from.u64(), etag: from.str(), durability: ack(from.u8()) }),
  ),
};

export const abort = {
  request: codec<{ writeId: number }>(
    (to, m) => to.u64(m.writeId),
    (from) => ({ writeId: from.u64() }),
  ),
  response: empty,
};

export interface OpenRequest {
  readonly bucket: string;
  readonly key: string;
}
/** `path` is relative to the tier's directory, and '' for tier 2: fetch such an extent by `read`. */
export interface ExtentLocation {
  readonly tier: TierIndex;
  readonly blobId: number;
  readonly path: string;
  readonly offset: number;
  readonly length: number;
}
export interface OpenResponse {
  readonly leaseId: number;
  readonly version: number;
  readonly etag: string;
  readonly sizeBytes: number;
  readonly extents: readonly ExtentLocation[];
}
function writeExtent(to: PayloadWriter, extent: ExtentLocation): void {
  to.u8(extent.tier).u64(extent.blobId).str(extent.path).u64(extent.offset).u64(extent.length);
}
function readExtent(from: PayloadReader): ExtentLocation {
  return {
    tier: tierIndex(from.u8()),
    blobId: from.u64(),
    path: from.str(),
    offset: from.u64(),
    length: from.u64(),
  };
}
export const open = {
  request: codec<OpenRequest>(
    (to, m) => to.str(m.bucket).str(m.key),
    (from) => ({ bucket: from.str(), key: from.str() }),
  ),
  response: codec<OpenResponse>(
    (to, m) => {
      to.u64(m.leaseId).u64(m.version).str(m.etag).u64(m.sizeBytes);
      list(to, m.extents, (extent) => writeExtent(to, extent));
    },
    (from) => ({
      leaseId: from.u64(),
      version: from.u64(),
      etag: from.str(),
      sizeBytes: from.u64(),
      extents: readList(from, () => readExtent(from)),
    }),
  ),
};

export const release = {
  request: codec<{ leaseIds: readonly number[] }>(
    (to, m) => list(to, m.leaseIds, (id) => to.u64(id)),
    (from) => ({ leaseIds: readList(from, () => from.u64()) }),
  ),
  response: empty,
};

/** Batched ranges. The response is one `bytes` with all ranges in order; at most READ_BYTES_MAX together. */
export const READ_BYTES_MAX = 8 * 1024 * 1024;
export interface ReadRange {
  readonly blobId: number;
  readonly offset: number;
  readonly length: number;
}
export const read = {
  request: codec<{ ranges: readonly ReadRange[] }>(
    (to, m) =>
      list(to, m.ranges, (range) => to.u64(range.blobId).u64(range.offset).u32(range.length)),
    (from) => ({
      ranges: readList(from, () => ({
        blobId: from.u64(),
        offset: from.u64(),
        length: from.u32(),
      })),
    }),
  ),
  response: codec<{ data: Buffer }>(
    (to, m) => to.bytes(m.data),
    (from) => ({ data: from.bytes() }),
  ),
};

/** An object as listings and `head` give it: what a file system asks for. All else is in the JSON of the control surface. */
export interface ObjectRow {
  readonly key: string;
  readonly version: number;
  readonly sizeBytes: number;
  readonly etag: string;
  /** Of the whole object, where it is known. */
  readonly crc32c: number | undefined;
  readonly createdAtMs: number;
  /** What holds now. */
  readonly durability: Ack;
}
const objectRow: Codec<ObjectRow> = codec<ObjectRow>(writeObjectRow, readObjectRow);
function writeObjectRow(to: PayloadWriter, row: ObjectRow): void {
  to.str(row.key)
    .u64(row.version)
    .u64(row.sizeBytes)
    .str(row.etag)
    .bool(row.crc32c !== undefined)
    .u32(row.crc32c ?? 0)
    .u64(row.createdAtMs)
    .u8(ACKS.indexOf(row.durability));
}
function readObjectRow(from: PayloadReader): ObjectRow {
  const key = from.str();
  const version = from.u64();
  const sizeBytes = from.u64();
  const etag = from.str();
  const hasCrc = from.bool();
  const crc = from.u32();
  const crc32c = hasCrc ? crc : undefined;
  const createdAtMs = from.u64();
  return { key, version, sizeBytes, etag, crc32c, createdAtMs, durability: ack(from.u8()) };
}
export const head = { request: open.request, response: objectRow };

export interface ListRequest {
  readonly bucket: string;
  readonly prefix: string;
  /** '' for none. */
  readonly delimiter: string;
  /** Only names after this one; '' from the beginning. */
  readonly startAfter: string;
  /** Objects and prefixes together, 1 to LIST_FRAME_LIMIT_MAX. */
  readonly limit: number;
}
/** A page is the bucket at one moment; `next` is the `startAfter` of the following one, undefined at the end. */
export interface ListedResponse {
  readonly objects: readonly ObjectRow[];
  readonly prefixes: readonly string[];
  readonly next: string | undefined;
}
/** So many keys of 1024 bytes fit a frame. */
export const LIST_FRAME_LIMIT_MAX = 10_000;
export const listObjects = {
  request: codec<ListRequest>(
    (to, m) => to.str(m.bucket).str(m.prefix).str(m.delimiter).str(m.startAfter).u32(m.limit),
    (from) => ({
      bucket: from.str(),
      prefix: from.str(),
      delimiter: from.str(),
      startAfter: from.str(),
      limit: from.u32(),
    }),
  ),
  response: codec<ListedResponse>(
    (to, m) => {
      list(to, m.objects, (row) => writeObjectRow(to, row));
      list(to, m.prefixes, (prefix) => to.str(prefix));
      to.bool(m.next !== undefined).str(m.next ?? '');
    },
    (from) => {
      const objects = readList(from, () => readObjectRow(from));
      const prefixes = readList(from, () => from.str());
      const hasNext = from.bool();
      const next = from.str();
      return { objects, prefixes, next: hasNext ? next : undefined };
    },
  ),
};

export interface DeleteRequest {
  readonly bucket: string;
  readonly key: string;
  /** ETag the object must have now; '' for no condition. */
  readonly ifMatch: string;
}
/** `deleted` is false when there was none. @throws `precondition_failed` when it is not at `ifMatch` */
export const deleteObject = {
  request: codec<DeleteRequest>(
    (to, m) => to.str(m.bucket).str(m.key).str(m.ifMatch),
    (from) => ({ bucket: from.str(), key: from.str(), ifMatch: from.str() }),
  ),
  response: codec<{ deleted: boolean }>(
    (to, m) => to.bool(m.deleted),
    (from) => ({ deleted: from.bool() }),
  ),
};

const affected: Codec<{ objects: number; sizeBytes: number }> = codec<{
  objects: number;
  sizeBytes: number;
}>(
  (to, m) => to.u64(m.objects).u64(m.sizeBytes),
  (from) => ({ objects: from.u64(), sizeBytes: from.u64() }),
);
export const deletePrefix = {
  request: codec<{ bucket: string; prefix: string }>(
    (to, m) => to.str(m.bucket).str(m.prefix),
    (from) => ({ bucket: from.str(), prefix: from.str() }),
  ),
  response: affected,
};

/** `renamePrefix`: the keys are prefixes, and all names change in one step or none does. */
export interface RenameRequest {
  readonly bucket: string;
  readonly from: string;
  readonly toBucket: string;
  readonly to: string;
  /** Otherwise a name that is taken is `already_exists`, and nothing changes. */
  readonly overwrite: boolean;
}
const renameRequest: Codec<RenameRequest> = codec<RenameRequest>(
  (to, m) => to.str(m.bucket).str(m.from).str(m.toBucket).str(m.to).bool(m.overwrite),
  (from) => ({
    bucket: from.str(),
    from: from.str(),
    toBucket: from.str(),
    to: from.str(),
    overwrite: from.bool(),
  }),
);
export const rename = { request: renameRequest, response: objectRow };
export const renamePrefix = { request: renameRequest, response: affected };

export interface JobOpenRequest {
  readonly jobId: string;
  /**
   * Chosen once by whoever begins the job, and shown by whoever comes back to it, or joins it. A job that was opened under
   * another token, or under none, is somebody else's: `job_exists`.
   */
  readonly token?: string | undefined;
  /** The job expires, and all it owns is freed, when no heartbeat and no connection was seen for this long. */
  readonly heartbeatTtlMs: number;
  /** Shown by `ebb jobs`, such as the Spark application's name. */
  readonly label: string;
}
export const jobOpen = {
  request: codec<JobOpenRequest>(
    (to, m) => {
      to.str(m.jobId).u32(m.heartbeatTtlMs).str(m.label);
      writeToken(to, m);
    },
    (from) => ({
      jobId: from.str(),
      heartbeatTtlMs: from.u32(),
      label: from.str(),
      ...readToken(from),
    }),
  ),
  response: empty,
};
/** With a token, the job is meant only if it was opened under that one; another of the same id is not touched. */
export interface JobOfToken {
  readonly jobId: string;
  readonly token?: string | undefined;
}
const jobOfToken: Codec<JobOfToken> = codec<JobOfToken>(
  (to, m) => {
    to.str(m.jobId);
    writeToken(to, m);
  },
  (from) => ({ jobId: from.str(), ...readToken(from) }),
);
/** Clients before it send none: the field is left out, not empty. */
function writeToken(to: PayloadWriter, { token }: { readonly token?: string | undefined }): void {
  if (token !== undefined) to.str(token);
}
function readToken(from: PayloadReader): { token?: string } {
  return from.isAtEnd ? {} : { token: from.str() };
}
export const jobHeartbeat = { request: jobOfToken, response: empty };
export const jobEnd = {
  request: jobOfToken,
  /** The receipt: what was freed. */
  response: codec<{ objects: number; freedBytes: number }>(
    (to, m) => to.u64(m.objects).u64(m.freedBytes),
    (from) => ({ objects: from.u64(), freedBytes: from.u64() }),
  ),
};

export interface ShuffleRef {
  readonly jobId: string;
  readonly shuffleId: number;
}
const shuffleRef: Codec<ShuffleRef> = codec<ShuffleRef>(
  (to, m) => to.str(m.jobId).u32(m.shuffleId),
  (from) => ({ jobId: from.str(), shuffleId: from.u32() }),
);
export interface ShuffleRegisterRequest extends ShuffleRef {
  readonly maps: number;
  readonly partitions: number;
}
/** Idempotent for equal numbers. */
export const shuffleRegister = {
  request: codec<ShuffleRegisterRequest>(
    (to, m) => to.str(m.jobId).u32(m.shuffleId).u32(m.maps).u32(m.partitions),
    (from) => ({
      jobId: from.str(),
      shuffleId: from.u32(),
      maps: from.u32(),
      partitions: from.u32(),
    }),
  ),
  response: empty,
};

/** For engines that know by themselves which attempt counts, such as Spark. Persisted, keep stable. */
export const EPOCH_NONE = 0xffff_ffff;

/** Stages one attempt of one map task's output. */
export interface MapStageRequest extends ShuffleRef {
  readonly mapIndex: number;
  /** Unique among all attempts of the shuffle (Spark's mapId, the task attempt id). */
  readonly attemptId: number;
  /**
   * Among two attempts at one map the higher epoch wins, within an epoch the first commit. EPOCH_NONE: there is no contest,
   * every attempt that commits stands, and readers name the attempts that they read. Attempts at one shuffle are all of
   * one kind.
   */
  readonly epoch: number;
  readonly reserveBytes: number;
  /** 0, 1 or TIER_BY_POLICY. */
  readonly tier: number;
}
export const mapStage = {
  request: codec<MapStageRequest>(
    (to, m) =>
      to
        .str(m.jobId)
        .u32(m.shuffleId)
        .u32(m.mapIndex)
        .u64(m.attemptId)
        .u32(m.epoch)
        .u64(m.reserveBytes)
        .u8(m.tier),
    (from) => ({
      jobId: from.str(),
      shuffleId: from.u32(),
      mapIndex: from.u32(),
      attemptId: from.u64(),
      epoch: from.u32(),
      reserveBytes: from.u64(),
      tier: from.u8(),
    }),
  ),
  response: staged,
};

/** One committed map output: its blob holds data followed by the index block (index-block.ts). */
export interface MapOutputRow {
  readonly mapIndex: number;
  readonly attemptId: number;
  readonly epoch: number;
  /** Whether this attempt holds the place of its map index. Losers of an older epoch stay readable by attempt id. */
  readonly winner: boolean;
  readonly location: ExtentLocation;
  /** Length of the index block at the end of the extent. */
  readonly indexBytes: number;
}
function writeRow(to: PayloadWriter, row: MapOutputRow): void {
  to.u32(row.mapIndex).u64(row.attemptId).u32(row.epoch).bool(row.winner).u32(row.indexBytes);
  writeExtent(to, row.location);
}
function readRow(from: PayloadReader): MapOutputRow {
  const mapIndex = from.u32();
  const attemptId = from.u64();
  const epoch = from.u32();
  const winner = from.bool();
  const indexBytes = from.u32();
  return { mapIndex, attemptId, epoch, winner, indexBytes, location: readExtent(from) };
}

export interface MapCommitRequest {
  readonly writeId: number;
  /** Data plus index block. */
  readonly sizeBytes: number;
  /** CRC32C of those bytes. */
  readonly crc32c: number;
  readonly indexBytes: number;
}
/**
 * `won`: this attempt stands. Otherwise another attempt of the same epoch, or one of a newer epoch, holds
 * the place; the staged bytes are gone, and `winner` is the output to report instead.
 */
export interface MapCommitResponse {
  readonly won: boolean;
  readonly winner: MapOutputRow;
}
export const mapCommit = {
  request: codec<MapCommitRequest>(
    (to, m) => to.u64(m.writeId).u64(m.sizeBytes).u32(m.crc32c).u32(m.indexBytes),
    (from) => ({
      writeId: from.u64(),
      sizeBytes: from.u64(),
      crc32c: from.u32(),
      indexBytes: from.u32(),
    }),
  ),
  response: codec<MapCommitResponse>(
    (to, m) => {
      to.bool(m.won);
      writeRow(to, m.winner);
    },
    (from) => ({ won: from.bool(), winner: readRow(from) }),
  ),
};

/**
 * The table of a shuffle. `sinceVersion` 0 asks for all; with the version of an earlier answer only rows that are new or
 * have moved since come back. From the answer on, this connection holds a read lease on the shuffle: files that leave
 * the table are not recycled under it until it answers `revoke` with `blobsReleased`, or sends `shuffleRelease`.
 */
export interface ShuffleTableRequest extends ShuffleRef {
  readonly sinceVersion: number;
}
export interface ShuffleTableResponse {
  readonly version: number;
  readonly maps: number;
  readonly partitions: number;
  readonly rows: readonly MapOutputRow[];
}
export const shuffleTable = {
  request: codec<ShuffleTableRequest>(
    (to, m) => to.str(m.jobId).u32(m.shuffleId).u64(m.sinceVersion),
    (from) => ({ jobId: from.str(), shuffleId: from.u32(), sinceVersion: from.u64() }),
  ),
  response: codec<ShuffleTableResponse>(
    (to, m) => {
      to.u64(m.version).u32(m.maps).u32(m.partitions);
      list(to, m.rows, (row) => writeRow(to, row));
    },
    (from) => ({
      version: from.u64(),
      maps: from.u32(),
      partitions: from.u32(),
      rows: readList(from, () => readRow(from)),
    }),
  ),
};
export const shuffleRelease = { request: shuffleRef, response: empty };
export const shuffleRemove = {
  request: shuffleRef,
  response: codec<{ freedBytes: number }>(
    (to, m) => to.u64(m.freedBytes),
    (from) => ({ freedBytes: from.u64() }),
  ),
};

/**
 * Where these attempts lie now, brought back from tier 2 to a local tier if need be. `suspect` says that the reader found
 * a checksum mismatch: the node verifies the blob first, and drops it when it is really broken. Attempts that are gone are left out.
 */
export interface MapResolveRequest extends ShuffleRef {
  readonly attemptIds: readonly number[];
  readonly suspect: boolean;
}
export const mapResolve = {
  request: codec<MapResolveRequest>(
    (to, m) => {
      to.str(m.jobId).u32(m.shuffleId).bool(m.suspect);
      list(to, m.attemptIds, (id) => to.u64(id));
    },
    (from) => {
      const jobId = from.str();
      const shuffleId = from.u32();
      const suspect = from.bool();
      return { jobId, shuffleId, suspect, attemptIds: readList(from, () => from.u64()) };
    },
  ),
  response: codec<{ rows: readonly MapOutputRow[] }>(
    (to, m) => list(to, m.rows, (row) => writeRow(to, row)),
    (from) => ({ rows: readList(from, () => readRow(from)) }),
  ),
};

const blobIds: Codec<{ blobIds: readonly number[] }> = codec<{ blobIds: readonly number[] }>(
  (to, m) => list(to, m.blobIds, (id) => to.u64(id)),
  (from) => ({ blobIds: readList(from, () => from.u64()) }),
);
/** Push. */
export const revoke = blobIds;
export const blobsReleased = { request: blobIds, response: empty };
/** Push. */
export const goingAway: Codec<{ reason: string }> = codec<{ reason: string }>(
  (to, m) => to.str(m.reason),
  (from) => ({ reason: from.str() }),
);

/** Bits of `FileOpenRequest.flags`. */
export const FILE_FLAGS = {
  read: 1,
  write: 2,
  create: 4,
  exclusive: 8,
  truncate: 16,
  append: 32,
} as const;

/** Opens an object as a file (docs/files.md). It lives as long as the connection. */
export interface FileOpenRequest {
  readonly bucket: string;
  readonly key: string;
  readonly flags: number;
  /** ETag that the object must have now, and whenever this file is published; '' for no condition. */
  readonly ifMatch: string;
  /** The job that owns what is published; '' for the one of the object there is. */
  readonly jobId: string;
}
/** With `exists` false, version is 0 and the ETag ''. The bytes are read from the extents until `fileStage` is called. */
export interface FileOpenResponse {
  readonly fileId: number;
  readonly exists: boolean;
  readonly version: number;
  readonly etag: string;
  readonly sizeBytes: number;
  readonly extents: readonly ExtentLocation[];
}
export const fileOpen = {
  request: codec<FileOpenRequest>(
    (to, m) => to.str(m.bucket).str(m.key).u32(m.flags).str(m.ifMatch).str(m.jobId),
    (from) => ({
      bucket: from.str(),
      key: from.str(),
      flags: from.u32(),
      ifMatch: from.str(),
      jobId: from.str(),
    }),
  ),
  response: codec<FileOpenResponse>(
    (to, m) => {
      to.u64(m.fileId).bool(m.exists).u64(m.version).str(m.etag).u64(m.sizeBytes);
      list(to, m.extents, (extent) => writeExtent(to, extent));
    },
    (from) => ({
      fileId: from.u64(),
      exists: from.bool(),
      version: from.u64(),
      etag: from.str(),
      sizeBytes: from.u64(),
      extents: readList(from, () => readExtent(from)),
    }),
  ),
};

/**
 * A staged file to write in, with room for `reserveBytes`, that begins with the first `keepBytes` of the open file. Again
 * for more room: when tier or path differ from the answer before, it is another file, with what was written to the
 * first one below `keepBytes`. From the answer on, the extents of `fileOpen` and the files of earlier answers must not be used.
 */
export interface FileStageRequest {
  readonly fileId: number;
  readonly reserveBytes: number;
  readonly keepBytes: number;
}
export const fileStage = {
  request: codec<FileStageRequest>(
    (to, m) => to.u64(m.fileId).u64(m.reserveBytes).u64(m.keepBytes),
    (from) => ({ fileId: from.u64(), reserveBytes: from.u64(), keepBytes: from.u64() }),
  ),
  response: staged,
};

/** Publishes the first `sizeBytes`. For `fileSync` the staged file may then be read on, and no longer written. */
export interface FileSyncRequest {
  readonly fileId: number;
  readonly sizeBytes: number;
  /** Of all bytes, or undefined: then the node computes it before it answers. */
  readonly crc32c: number | undefined;
  /** undefined: the bucket's. */
  readonly ack: Ack | undefined;
}
/** Without `published` there was nothing to publish; the rest is then 0, '' and `memory`. */
export interface FileSyncResponse {
  readonly published: boolean;
  readonly version: number;
  readonly etag: string;
  readonly durability: Ack;
}
const fileSyncRequest: Codec<FileSyncRequest> = codec<FileSyncRequest>(
  (to, m) =>
    to
      .u64(m.fileId)
      .u64(m.sizeBytes)
      .bool(m.crc32c !== undefined)
      .u32(m.crc32c ?? 0)
      .u8(m.ack === undefined ? 255 : ACKS.indexOf(m.ack)),
  (from) => {
    const fileId = from.u64();
    const sizeBytes = from.u64();
    const hasCrc = from.bool();
    const crc = from.u32();
    const level = from.u8();
    return {
      ...{ fileId, sizeBytes },
      crc32c: hasCrc ? crc : undefined,
      ack: level === 255 ? undefined : ack(level),
    };
  },
);
const fileSyncResponse: Codec<FileSyncResponse> = codec<FileSyncResponse>(
  (to, m) => to.bool(m.published).u64(m.version).str(m.etag).u8(ACKS.indexOf(m.durability)),
  (from) => ({
    published: from.bool(),
    version: from.u64(),
    etag: from.str(),
    durability: ack(from.u8()),
  }),
);
export const fileSync = { request: fileSyncRequest, response: fileSyncResponse };
/** As `fileSync` when there are changes; the file is closed in any case. */
export const fileClose = { request: fileSyncRequest, response: fileSyncResponse };
/** Throws away what was not published. */
export const fileAbort = {
  request: codec<{ fileId: number }>(
    (to, m) => to.u64(m.fileId),
    (from) => ({ fileId: from.u64() }),
  ),
  response: empty,
};

const directory: Codec<{ bucket: string; path: string }> = codec<{ bucket: string; path: string }>(
  (to, m) => to.str(m.bucket).str(m.path),
  (from) => ({ bucket: from.str(), path: from.str() }),
);
/** @throws `already_exists` */
export const directoryMake = { request: directory, response: empty };
/** @throws `not_found`, `directory_not_empty` */
export const directoryRemove = { request: directory, response: empty };
