/**
 * The index block: the last bytes of a map output's blob, so that it travels with the data it describes.
 *
 *   | data: partition 0 | partition 1 | … | offsets (partitions + 1) | CRC32C of each partition | trailer (48 bytes) |
 *
 * Offsets are u32 when the data is shorter than 4 GiB, else u64, relative to the start of the data; offset[0] is 0 and
 * offset[partitions] the length of the data. All numbers are little-endian. Persisted: keep stable (vectors/index-block.json).
 *
 * Trailer: magic u32 'EBBI' | format u16 | offset width u8 | framing u8 | partitions u32 | map index u32 | attempt u64 |
 *          shuffle u32 | reserved u32 | data bytes u64 | CRC32C u32 of the block up to here | magic u32 again
 */
import { assert, StoreError } from './errors.ts';

export const INDEX_MAGIC = 0x49424245; // 'EBBI' as it lies in the file
export const INDEX_FORMAT = 1;
export const INDEX_TRAILER_BYTES = 48;

/** What the bytes of a partition are. Persisted, keep stable. */
export const FRAMING = {
  /** One stream per partition and map output, as the engine's own serializer, codec and encryption wrote it. */
  engineStream: 0,
  /** Chunks (chunk framing below), which may be joined end to end. */
  chunks: 1,
} as const;

/**
 * Chunk framing: `| raw length u32 | stored length u32 | codec u8 | stored bytes |`, repeated. A record may cross chunks.
 * Codec 0: stored as it is (stored length = raw length); 1: LZ4 block; 2: Zstandard frame.
 */
export const CHUNK_HEADER_BYTES = 9;
export const CHUNK_CODEC = { none: 0, lz4: 1, zstd: 2 } as const;

export interface IndexBlock {
  readonly framing: number;
  readonly shuffleId: number;
  readonly mapIndex: number;
  readonly attemptId: number;
  /** partitions + 1 entries. */
  readonly offsets: readonly number[] | Float64Array;
  /** partitions entries. */
  readonly crc32cs: readonly number[] | Uint32Array;
}

export type Crc32c = (bytes: Uint8Array) => number;

export function indexBlockBytes(partitions: number, dataBytes: number): number {
  return (partitions + 1) * offsetWidth(dataBytes) + partitions * 4 + INDEX_TRAILER_BYTES;
}

export function encodeIndexBlock(block: IndexBlock, crc32c: Crc32c): Buffer {
  const partitions = block.crc32cs.length;
  assert(block.offsets.length === partitions + 1, 'one offset more than partitions');
  const dataBytes = block.offsets[partitions] as number;
  const width = offsetWidth(dataBytes);
  const buffer = Buffer.alloc(indexBlockBytes(partitions, dataBytes));
  let at = 0;
  for (const offset of block.offsets) {
    if (width === 4) at = buffer.writeUInt32LE(offset, at);
    else at = writeU64(buffer, offset, at);
  }
  for (const crc of block.crc32cs) at = buffer.writeUInt32LE(crc, at);
  at = buffer.writeUInt32LE(INDEX_MAGIC, at);
  at = buffer.writeUInt16LE(INDEX_FORMAT, at);
  at = buffer.writeUInt8(width, at);
  at = buffer.writeUInt8(block.framing, at);
  at = buffer.writeUInt32LE(partitions, at);
  at = buffer.writeUInt32LE(block.mapIndex, at);
  at = writeU64(buffer, block.attemptId, at);
  at = buffer.writeUInt32LE(block.shuffleId, at);
  at = buffer.writeUInt32LE(0, at);
  at = writeU64(buffer, dataBytes, at);
  at = buffer.writeUInt32LE(crc32c(buffer.subarray(0, at)), at);
  at = buffer.writeUInt32LE(INDEX_MAGIC, at);
  assert(at === buffer.length, 'index block filled exactly');
  return buffer;
}

/** @throws {StoreError} `data_corrupt` when the block is not whole, `version_unsupported` for a later format. */
export function decodeIndexBlock(buffer: Buffer, crc32c: Crc32c): IndexBlock {
  if (buffer.length < INDEX_TRAILER_BYTES) throw corrupt(`${buffer.length} bytes are too short`);
  const trailer = buffer.length - INDEX_TRAILER_BYTES;
  if (buffer.readUInt32LE(trailer) !== INDEX_MAGIC) throw corrupt('no magic number');
  if (buffer.readUInt32LE(buffer.length - 4) !== INDEX_MAGIC)
    throw corrupt('no closing magic number');
  if (crc32c(buffer.subarray(0, buffer.length - 8)) !== buffer.readUInt32LE(buffer.length - 8))
    throw corrupt('checksum differs');
  const format = buffer.readUInt16LE(trailer + 4);
  if (format !== INDEX_FORMAT)
    throw new StoreError('version_unsupported', `index block format ${format}`);
  const width = buffer.readUInt8(trailer + 6);
  const partitions = buffer.readUInt32LE(trailer + 8);
  const dataBytes = readU64(buffer, trailer + 32);
  if (buffer.length !== indexBlockBytes(partitions, dataBytes) || width !== offsetWidth(dataBytes))
    throw corrupt('length differs');
  const offsets = new Float64Array(partitions + 1);
  for (let i = 0; i <= partitions; i++)
    offsets[i] = width === 4 ? buffer.readUInt32LE(i * 4) : readU64(buffer, i * 8);
  const crc32cs = new Uint32Array(partitions);
  for (let i = 0; i < partitions; i++)
    crc32cs[i] = buffer.readUInt32LE((partitions + 1) * width + i * 4);
  for (let i = 0; i < partitions; i++) {
    if ((offsets[i] as number) > (offsets[i + 1] as number))
      throw corrupt(`offsets fall at partition ${i}`);
  }
  if (offsets[0] !== 0 || offsets[partitions] !== dataBytes)
    throw corrupt('offsets do not span the data');
  return {
    framing: buffer.readUInt8(trailer + 7),
    shuffleId: buffer.readUInt32LE(trailer + 24),
    mapIndex: buffer.readUInt32LE(trailer + 12),
    attemptId: readU64(buffer, trailer + 16),
    offsets,
    crc32cs,
  };
}

function offsetWidth(dataBytes: number): 4 | 8 {
  return dataBytes < 2 ** 32 ? 4 : 8;
}

function writeU64(buffer: Buffer, value: number, at: number): number {
  assert(Number.isSafeInteger(value) && value >= 0, 'u64 below 2^53');
  buffer.writeUInt32LE(value % 2 ** 32, at);
  return buffer.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

function readU64(buffer: Buffer, at: number): number {
  return buffer.readUInt32LE(at) + buffer.readUInt32LE(at + 4) * 2 ** 32;
}

function corrupt(why: string): StoreError {
  return new StoreError('data_corrupt', `index block of a map output: ${why}`);
}
