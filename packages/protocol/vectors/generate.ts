/**
 * Writes the golden examples that every language's client must reproduce: `node vectors/generate.ts`, then `biome check
 * --write packages/protocol/vectors`. A change in a file that exists is a change of the wire or disk format: clients of
 * other versions are out there, so add examples, and do not let old ones move.
 *
 * In the JSON, raw bytes are lower-case hex (fields that end in `Hex`, and those listed in `hexFields`), and null stands for
 * an optional value that is absent. Numbers stay below 2^53.
 */
import { writeFileSync } from 'node:fs';
import { zstdCompressSync } from 'node:zlib';
import {
  CHUNK_CODEC,
  CHUNK_HEADER_BYTES,
  EPOCH_NONE,
  encodeFrame,
  encodeIndexBlock,
  FRAME_FLAG_ERROR,
  FRAMING,
  type IndexBlock,
  messages,
  OPS,
  PROTOCOL_VERSION,
  StoreError,
  TIER_BY_POLICY,
} from '../src/index.ts';

interface Encoder<T> {
  encode(message: T): Buffer;
}

interface MessageVector {
  readonly name: string;
  readonly op: number;
  readonly hexFields?: readonly string[];
  readonly message: unknown;
  readonly payloadHex: string;
}

const BIG = 2 ** 53 - 1;
const extentInMemory = { tier: 0, blobId: 17, path: '0/17.blob', offset: 0, length: 4096 } as const;
const extentOnDisk = {
  tier: 1,
  blobId: 5_000_000_001,
  path: 'ab/5000000001.blob',
  offset: 64,
  length: 6_442_450_944,
} as const;
const extentRemote = { tier: 2, blobId: 18, path: '', offset: 0, length: 1 } as const;
const rowInMemory = {
  mapIndex: 3,
  attemptId: 4_294_967_299,
  epoch: 1,
  winner: true,
  location: extentInMemory,
  indexBytes: 208,
} as const;
const rowOnDisk = {
  mapIndex: 4,
  attemptId: 12,
  epoch: 0,
  winner: false,
  location: extentOnDisk,
  indexBytes: 1872,
} as const;
const shuffle = { jobId: 'app-20261122-0001', shuffleId: 7 } as const;
const full = new StoreError('tier_full', 'tier 0 is full: 4096 bytes wanted, 0 free', {
  tier: 0,
  needBytes: 4096,
  freeBytes: 0,
});

const vectors: MessageVector[] = [];
function add<T>(
  name: string,
  op: number,
  codec: Encoder<T>,
  message: T,
  hexFields?: readonly string[],
): void {
  vectors.push({
    name,
    op,
    ...(hexFields === undefined ? {} : { hexFields }),
    message: message ?? {},
    payloadHex: codec.encode(message).toString('hex'),
  });
}

add('hello.request', OPS.hello, messages.hello.request, {
  protocolVersion: PROTOCOL_VERSION,
  client: 'ebb-jvm/0.1.0 executor-3',
  jobId: 'app-20261122-0001',
});
add('hello.request', OPS.hello, messages.hello.request, {
  protocolVersion: PROTOCOL_VERSION,
  client: 'grüße-✓-𝄞',
  jobId: '',
});
add('hello.response', OPS.hello, messages.hello.response, {
  protocolVersion: PROTOCOL_VERSION,
  nodeId: 'n-1f2e3d',
  instanceId: 1_795_000_000_123,
  memoryDir: '/dev/shm/ebb-1000',
  diskDir: '/var/lib/ebb/disk',
  probeName: '.probe-1',
  probeNonce: '00112233445566778899aabbccddeeff',
});
add('ping.request', OPS.ping, messages.empty, undefined);
add('ping.response', OPS.ping, messages.empty, undefined);
add('proveHost.request', OPS.proveHost, messages.proveHost.request, {
  challenge: '00112233445566778899aabbccddeeff',
});
add('proveHost.response', OPS.proveHost, messages.empty, undefined);
add('stage.request', OPS.stage, messages.stage.request, {
  bucket: 'results',
  key: 'a/b c/ü.bin',
  reserveBytes: 65_536,
  tier: TIER_BY_POLICY,
  jobId: '',
});
add('stage.response', OPS.stage, messages.stage.response, {
  writeId: BIG,
  blobId: 4_294_967_296,
  tier: 0,
  path: 'slot/12',
  reservedBytes: 1_048_576,
  slotId: 12,
});
add('extend.request', OPS.extend, messages.extend.request, { writeId: 9, reserveBytes: 2 ** 33 });
add('extend.response', OPS.extend, messages.extend.response, { reservedBytes: 2 ** 33 });
add(
  'write.request',
  OPS.write,
  {
    encode: (m: { writeId: number; offset: number; data: string }) =>
      messages.write.request.encode({ ...m, data: Buffer.from(m.data, 'hex') }),
  },
  { writeId: 9, offset: 4096, data: '00ff10807f' },
  ['data'],
);
add('write.response', OPS.write, messages.write.response, undefined);
for (const message of [
  {
    writeId: 9,
    sizeBytes: 12_345,
    crc32c: 0xe3069283,
    ifMatch: '"v7"',
    ifNoneMatch: false,
    ack: 'disk',
    contentType: 'application/octet-stream',
    metadata: { owner: 'spark', größe: '12' },
  },
  {
    writeId: 10,
    sizeBytes: 0,
    crc32c: null,
    ifMatch: '',
    ifNoneMatch: true,
    ack: null,
    contentType: '',
    metadata: {},
  },
] as const) {
  add(
    'commit.request',
    OPS.commit,
    {
      encode: (m: typeof message) =>
        messages.commit.request.encode({
          ...m,
          crc32c: m.crc32c ?? undefined,
          ack: m.ack ?? undefined,
        }),
    },
    message,
  );
}
add('commit.response', OPS.commit, messages.commit.response, {
  version: 41,
  etag: '"29"',
  durability: 'memory',
});
add('abort.request', OPS.abort, messages.abort.request, { writeId: 9 });
add('abort.response', OPS.abort, messages.abort.response, undefined);
add('open.request', OPS.open, messages.open.request, { bucket: 'results', key: 'part-00000' });
add('open.response', OPS.open, messages.open.response, {
  leaseId: 77,
  version: 41,
  etag: '"29"',
  sizeBytes: 6_442_455_041,
  extents: [extentInMemory, extentOnDisk, extentRemote],
});
add('release.request', OPS.release, messages.release.request, { leaseIds: [77, 4_294_967_373] });
add('release.response', OPS.release, messages.release.response, undefined);
add('read.request', OPS.read, messages.read.request, {
  ranges: [
    { blobId: 17, offset: 0, length: 3 },
    { blobId: 5_000_000_001, offset: 5_368_709_120, length: 2 },
  ],
});
add(
  'read.response',
  OPS.read,
  {
    encode: (m: { data: string }) =>
      messages.read.response.encode({ data: Buffer.from(m.data, 'hex') }),
  },
  { data: '010203fffe' },
  ['data'],
);
const objectRow = {
  key: 'a/b c/ü.bin',
  version: 41,
  sizeBytes: 6_442_455_041,
  etag: '29-e3069283',
  crc32c: 0xe3069283,
  createdAtMs: 1_795_000_000_123,
  durability: 'remote',
} as const;
const rowWithoutCrc = {
  ...objectRow,
  key: 'joined/𝄞',
  sizeBytes: 0,
  crc32c: null,
  durability: 'memory',
} as const;
const absentAsUndefined = <T extends { readonly crc32c: number | null }>(row: T) => ({
  ...row,
  crc32c: row.crc32c ?? undefined,
});
const rowEncoder = {
  encode: (row: typeof objectRow | typeof rowWithoutCrc) =>
    messages.head.response.encode(absentAsUndefined(row)),
};
const renamed = {
  bucket: 'results',
  from: 'a/_temporary/1',
  toBucket: 'results',
  to: 'a/part-00000',
  overwrite: false,
};
add('head.request', OPS.head, messages.head.request, { bucket: 'results', key: 'ü' });
add('head.response', OPS.head, rowEncoder, objectRow);
add('head.response', OPS.head, rowEncoder, rowWithoutCrc);
add('listObjects.request', OPS.listObjects, messages.listObjects.request, {
  bucket: 'results',
  prefix: 'a/',
  delimiter: '/',
  startAfter: 'a/b c/',
  limit: 1000,
});
for (const next of ['a/z', null])
  add(
    'listObjects.response',
    OPS.listObjects,
    {
      encode: (m: {
        objects: readonly (typeof objectRow | typeof rowWithoutCrc)[];
        prefixes: readonly string[];
        next: string | null;
      }) =>
        messages.listObjects.response.encode({
          ...m,
          objects: m.objects.map(absentAsUndefined),
          next: m.next ?? undefined,
        }),
    },
    {
      objects: next === null ? [] : [objectRow, rowWithoutCrc],
      prefixes: ['a/_temporary/', 'a/ü/'],
      next,
    },
  );
for (const ifMatch of ['', '29-e3069283'])
  add('deleteObject.request', OPS.deleteObject, messages.deleteObject.request, {
    bucket: 'results',
    key: 'a/',
    ifMatch,
  });
for (const deleted of [true, false])
  add('deleteObject.response', OPS.deleteObject, messages.deleteObject.response, { deleted });
add('deletePrefix.request', OPS.deletePrefix, messages.deletePrefix.request, {
  bucket: 'results',
  prefix: 'a/',
});
const affected = { objects: 3, sizeBytes: 6_442_455_041 };
add('deletePrefix.response', OPS.deletePrefix, messages.deletePrefix.response, affected);
add('rename.request', OPS.rename, messages.rename.request, renamed);
add('rename.response', OPS.rename, rowEncoder, objectRow);
add('renamePrefix.request', OPS.renamePrefix, messages.renamePrefix.request, {
  ...renamed,
  overwrite: true,
});
add('renamePrefix.response', OPS.renamePrefix, messages.renamePrefix.response, affected);
add('jobOpen.request', OPS.jobOpen, messages.jobOpen.request, {
  jobId: 'app-20261122-0001',
  heartbeatTtlMs: 120_000,
  label: 'TPC-DS q67',
});
add('jobOpen.request', OPS.jobOpen, messages.jobOpen.request, {
  jobId: 'app-20261122-0001',
  heartbeatTtlMs: 120_000,
  label: '',
  token: 'b1946ac92492d234',
});
add('jobOpen.response', OPS.jobOpen, messages.jobOpen.response, undefined);
add('jobHeartbeat.request', OPS.jobHeartbeat, messages.jobHeartbeat.request, {
  jobId: 'app-20261122-0001',
});
add('jobHeartbeat.request', OPS.jobHeartbeat, messages.jobHeartbeat.request, {
  jobId: 'app-20261122-0001',
  token: 'b1946ac92492d234',
});
add('jobHeartbeat.response', OPS.jobHeartbeat, messages.jobHeartbeat.response, undefined);
add('jobEnd.request', OPS.jobEnd, messages.jobEnd.request, { jobId: 'app-20261122-0001' });
add('jobEnd.request', OPS.jobEnd, messages.jobEnd.request, {
  jobId: 'app-20261122-0001',
  token: 'b1946ac92492d234',
});
add('jobEnd.response', OPS.jobEnd, messages.jobEnd.response, {
  objects: 400,
  freedBytes: 98_000_000,
});
add('shuffleRegister.request', OPS.shuffleRegister, messages.shuffleRegister.request, {
  ...shuffle,
  maps: 8,
  partitions: 200,
});
add('shuffleRegister.response', OPS.shuffleRegister, messages.shuffleRegister.response, undefined);
add('mapStage.request', OPS.mapStage, messages.mapStage.request, {
  ...shuffle,
  mapIndex: 3,
  attemptId: 4_294_967_299,
  epoch: 1,
  reserveBytes: 1_048_576,
  tier: 0,
});
add('mapStage.request', OPS.mapStage, messages.mapStage.request, {
  ...shuffle,
  mapIndex: 3,
  attemptId: 4_294_967_300,
  epoch: EPOCH_NONE,
  reserveBytes: 4096,
  tier: TIER_BY_POLICY,
});
add('mapStage.response', OPS.mapStage, messages.mapStage.response, {
  writeId: 500,
  blobId: 17,
  tier: 1,
  path: '0/17.blob',
  reservedBytes: 1_048_576,
  slotId: 0,
});
add('mapCommit.request', OPS.mapCommit, messages.mapCommit.request, {
  writeId: 500,
  sizeBytes: 4096,
  crc32c: 0xffffffff,
  indexBytes: 208,
});
add('mapCommit.response', OPS.mapCommit, messages.mapCommit.response, {
  won: true,
  winner: rowInMemory,
});
add('mapCommit.response', OPS.mapCommit, messages.mapCommit.response, {
  won: false,
  winner: rowOnDisk,
});
add('shuffleTable.request', OPS.shuffleTable, messages.shuffleTable.request, {
  ...shuffle,
  sinceVersion: 0,
});
add('shuffleTable.response', OPS.shuffleTable, messages.shuffleTable.response, {
  version: 6,
  maps: 8,
  partitions: 200,
  rows: [rowInMemory, rowOnDisk],
});
add('shuffleTable.response', OPS.shuffleTable, messages.shuffleTable.response, {
  version: 6,
  maps: 8,
  partitions: 200,
  rows: [],
});
add('shuffleRelease.request', OPS.shuffleRelease, messages.shuffleRelease.request, shuffle);
add('shuffleRelease.response', OPS.shuffleRelease, messages.shuffleRelease.response, undefined);
add('shuffleRemove.request', OPS.shuffleRemove, messages.shuffleRemove.request, shuffle);
add('shuffleRemove.response', OPS.shuffleRemove, messages.shuffleRemove.response, {
  freedBytes: 98_000_000,
});
add('mapResolve.request', OPS.mapResolve, messages.mapResolve.request, {
  ...shuffle,
  attemptIds: [4_294_967_299, 12],
  suspect: true,
});
add('mapResolve.response', OPS.mapResolve, messages.mapResolve.response, { rows: [rowInMemory] });
add('fileOpen.request', OPS.fileOpen, messages.fileOpen.request, {
  bucket: 'results',
  key: 'a/b c/ü.bin',
  flags: 1 + 2 + 4,
  ifMatch: '',
  jobId: 'app-20261122-0001',
});
add('fileOpen.request', OPS.fileOpen, messages.fileOpen.request, {
  bucket: 'results',
  key: 'log',
  flags: 2 + 32,
  ifMatch: '11-0badcafe',
  jobId: '',
});
add('fileOpen.response', OPS.fileOpen, messages.fileOpen.response, {
  fileId: 77,
  exists: true,
  version: BIG,
  etag: '11-0badcafe',
  sizeBytes: 6_442_455_039,
  extents: [extentInMemory, extentOnDisk, extentRemote],
});
add('fileOpen.response', OPS.fileOpen, messages.fileOpen.response, {
  fileId: BIG,
  exists: false,
  version: 0,
  etag: '',
  sizeBytes: 0,
  extents: [],
});
add('fileStage.request', OPS.fileStage, messages.fileStage.request, {
  fileId: 77,
  reserveBytes: 6_442_455_040,
  keepBytes: 4_294_967_297,
});
add('fileStage.response', OPS.fileStage, messages.fileStage.response, {
  writeId: 4_294_967_298,
  blobId: 4_294_967_298,
  tier: 1,
  path: 'ab/1000000ab',
  reservedBytes: 6_442_455_040,
  slotId: 0,
});
for (const name of ['fileSync', 'fileClose'] as const) {
  for (const message of [
    { fileId: 77, sizeBytes: 6_442_455_039, crc32c: 0xffff_ffff, ack: 'disk' },
    { fileId: 78, sizeBytes: 0, crc32c: null, ack: null },
  ] as const)
    add(
      `${name}.request`,
      OPS[name],
      {
        encode: (m: typeof message) =>
          messages[name].request.encode({
            ...m,
            crc32c: m.crc32c ?? undefined,
            ack: m.ack ?? undefined,
          }),
      },
      message,
    );
  add(`${name}.response`, OPS[name], messages[name].response, {
    published: true,
    version: 4_294_967_299,
    etag: '12-ffffffff',
    durability: 'disk',
  });
  add(`${name}.response`, OPS[name], messages[name].response, {
    published: false,
    version: 0,
    etag: '',
    durability: 'memory',
  });
}
add('fileAbort.request', OPS.fileAbort, messages.fileAbort.request, { fileId: 77 });
add('fileAbort.response', OPS.fileAbort, messages.fileAbort.response, undefined);
for (const name of ['directoryMake', 'directoryRemove'] as const) {
  add(`${name}.request`, OPS[name], messages[name].request, { bucket: 'results', path: 'a/ü/' });
  add(`${name}.response`, OPS[name], messages[name].response, undefined);
}
add('revoke.push', OPS.revoke, messages.revoke, { blobIds: [17, 5_000_000_001] });
add('blobsReleased.request', OPS.blobsReleased, messages.blobsReleased.request, {
  blobIds: [17, 5_000_000_001],
});
add('blobsReleased.response', OPS.blobsReleased, messages.blobsReleased.response, undefined);
add('goingAway.push', OPS.goingAway, messages.goingAway, { reason: 'SIGTERM' });

function frameVector(
  name: string,
  requestId: number,
  op: number,
  flags: number,
  payload: Buffer,
): unknown {
  return {
    name,
    requestId,
    op,
    flags,
    payloadHex: payload.toString('hex'),
    frameHex: encodeFrame(requestId, op, flags, payload).toString('hex'),
  };
}

const none = Buffer.alloc(0);
const errorBytes = messages.errorPayload.encode(full);
save('frames.json', {
  about:
    'Golden frames, all numbers little-endian. Raw bytes are hex (hexFields, *Hex); null is an absent optional value. Made by generate.ts.',
  protocolVersion: PROTOCOL_VERSION,
  ops: OPS,
  messages: vectors,
  error: {
    code: full.code,
    message: full.message,
    details: full.details,
    payloadHex: errorBytes.toString('hex'),
  },
  frames: [
    frameVector('ping request, no payload', 1, OPS.ping, 0, none),
    frameVector(
      'release of a lease',
      0xffffffff,
      OPS.release,
      0,
      messages.release.request.encode({ leaseIds: [77] }),
    ),
    frameVector('error response', 2, OPS.stage, FRAME_FLAG_ERROR, errorBytes),
    frameVector(
      'push: going away',
      0,
      OPS.goingAway,
      0,
      messages.goingAway.encode({ reason: 'SIGTERM' }),
    ),
  ],
});

/** CRC32C (Castagnoli), bit by bit: slow, and independent of any library. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

function blockVector(name: string, block: IndexBlock, data?: Buffer): unknown {
  return {
    name,
    ...block,
    offsets: [...block.offsets],
    crc32cs: [...block.crc32cs],
    dataHex: data === undefined ? null : data.toString('hex'),
    blockHex: encodeIndexBlock(block, crc32c).toString('hex'),
  };
}

/** A block over these partitions, with the checksums that really belong to them. */
function blockOf(partitions: readonly Buffer[], rest: Omit<IndexBlock, 'offsets' | 'crc32cs'>) {
  const offsets = [0];
  for (const part of partitions) offsets.push((offsets.at(-1) as number) + part.length);
  return { ...rest, offsets, crc32cs: partitions.map(crc32c) };
}

function chunk(codec: number, raw: Buffer, stored: Buffer): Buffer {
  const header = Buffer.alloc(CHUNK_HEADER_BYTES);
  header.writeUInt32LE(raw.length, 0);
  header.writeUInt32LE(stored.length, 4);
  header.writeUInt8(codec, 8);
  return Buffer.concat([header, stored]);
}

const hello = Buffer.from('hello, ');
const world = Buffer.from('world');
const letters = Buffer.alloc(32, 'a');
// By hand: 1 literal 'a', a match of 26 bytes at distance 1, then the 5 literals an LZ4 block must end with.
const lettersLz4 = Buffer.from('1f6101000750' + '6161616161', 'hex');
const plain = chunk(CHUNK_CODEC.none, hello, hello);
const joined = Buffer.concat([plain, chunk(CHUNK_CODEC.none, world, world)]);
const lz4 = chunk(CHUNK_CODEC.lz4, letters, lettersLz4);
const zstd = chunk(CHUNK_CODEC.zstd, letters, zstdCompressSync(letters));
const mixed = Buffer.concat([plain, lz4, zstd]);
const partitions = [joined, none, mixed];

function chunkVector(name: string, stored: Buffer, raw: Buffer): unknown {
  return {
    name,
    storedHex: stored.toString('hex'),
    rawHex: raw.toString('hex'),
    storedCrc32c: crc32c(stored),
  };
}

save('index-block.json', {
  about:
    'Golden index blocks and chunk framing, all numbers little-endian. dataHex is null where only the block matters. Compressors may choose other bytes: for codecs 1 and 2 the promise is that storedHex decodes to rawHex. Made by generate.ts.',
  crc32c: [
    { textHex: '', crc32c: crc32c(none) },
    { textHex: Buffer.from('123456789').toString('hex'), crc32c: crc32c(Buffer.from('123456789')) },
  ],
  blocks: [
    blockVector(
      'three partitions of chunks, one empty',
      blockOf(partitions, {
        framing: FRAMING.chunks,
        shuffleId: 7,
        mapIndex: 3,
        attemptId: 4_294_967_299,
      }),
      Buffer.concat(partitions),
    ),
    blockVector(
      'one partition, an engine stream',
      blockOf([world], { framing: FRAMING.engineStream, shuffleId: 0, mapIndex: 0, attemptId: 0 }),
      world,
    ),
    blockVector(
      'nothing in any of two partitions',
      blockOf([none, none], {
        framing: FRAMING.engineStream,
        shuffleId: 1,
        mapIndex: 2,
        attemptId: 9,
      }),
      none,
    ),
    blockVector('longest data with u32 offsets', {
      framing: FRAMING.engineStream,
      shuffleId: 2,
      mapIndex: 5,
      attemptId: BIG,
      offsets: [0, 1, 2 ** 32 - 1],
      crc32cs: [0, 0xffffffff],
    }),
    blockVector('u64 offsets from 4 GiB on', {
      framing: FRAMING.engineStream,
      shuffleId: 2,
      mapIndex: 6,
      attemptId: 10,
      offsets: [0, 2 ** 31, 2 ** 32],
      crc32cs: [1, 2],
    }),
  ],
  chunks: [
    chunkVector('no bytes, no chunk', none, none),
    chunkVector('codec none', plain, hello),
    chunkVector('two chunks joined end to end', joined, Buffer.concat([hello, world])),
    chunkVector('lz4 block', lz4, letters),
    chunkVector('zstandard frame', zstd, letters),
    chunkVector('codecs mixed in one partition', mixed, Buffer.concat([hello, letters, letters])),
  ],
});

function save(name: string, value: unknown): void {
  writeFileSync(new URL(name, import.meta.url), `${JSON.stringify(value, null, 2)}\n`);
}
