/**
 * Chunk framing (protocol/index-block.ts): `| raw length u32 | stored length u32 | codec u8 | stored bytes |`, repeated.
 * What was written in one order may be joined end to end, so spills are merged without a second encoding.
 */
import * as zlib from 'node:zlib';
import { CHUNK_CODEC, CHUNK_HEADER_BYTES, StoreError } from '@ebb/protocol';
import { CHUNK_RAW_BYTES_MAX } from './limits.ts';

export type ChunkCompression = 'none' | 'zstd';

const CODEC_NAMES: Readonly<Record<number, string>> = {
  [CHUNK_CODEC.none]: 'none',
  [CHUNK_CODEC.lz4]: 'LZ4',
  [CHUNK_CODEC.zstd]: 'Zstandard',
};

/** @throws {StoreError} `unsupported` on a runtime without Zstandard */
export function assertCompressionOffered(compression: ChunkCompression): void {
  if (compression === 'zstd' && typeof zlib.zstdCompressSync !== 'function')
    throw new StoreError('unsupported', `this Node (${process.version}) has no Zstandard`);
}

/** One chunk: its header and its stored bytes. Bytes that compression does not shorten are stored as they are. */
export function encodeChunk(
  raw: Uint8Array,
  compression: ChunkCompression,
): { readonly header: Buffer; readonly stored: Uint8Array } {
  const header = Buffer.allocUnsafe(CHUNK_HEADER_BYTES);
  let stored = raw;
  let codec: number = CHUNK_CODEC.none;
  if (compression === 'zstd') {
    const shorter = zlib.zstdCompressSync(raw);
    if (shorter.byteLength < raw.byteLength) {
      stored = shorter;
      codec = CHUNK_CODEC.zstd;
    }
  }
  header.writeUInt32LE(raw.byteLength, 0);
  header.writeUInt32LE(stored.byteLength, 4);
  header.writeUInt8(codec, 8);
  return { header, stored };
}

/** Longest that the chunks of `rawBytes` can become, written in `parts` separate runs. */
export function chunkedBytesMax(rawBytes: number, chunkBytes: number, parts: number): number {
  return rawBytes + (Math.floor(rawBytes / chunkBytes) + parts) * CHUNK_HEADER_BYTES;
}

/** Takes bytes in pieces of any length, gives whole raw chunks. Holds less than one chunk between calls. */
export class ChunkDecoder {
  #pending: Buffer[] = [];
  #pendingBytes = 0;

  /** The chunks may be views of `bytes`. @throws {StoreError} `data_corrupt`, `unsupported` for a codec that is not offered */
  *push(bytes: Buffer): Generator<Buffer, void, undefined> {
    let buffer = bytes;
    if (this.#pendingBytes > 0) {
      this.#pending.push(bytes);
      this.#pendingBytes += bytes.length;
      if (this.#pendingBytes < this.#neededBytes()) return;
      buffer = Buffer.concat(this.#pending, this.#pendingBytes);
      this.#pending = [];
      this.#pendingBytes = 0;
    }
    let at = 0;
    while (buffer.length - at >= CHUNK_HEADER_BYTES) {
      const end = at + CHUNK_HEADER_BYTES + storedBytes(buffer, at);
      if (end > buffer.length) break;
      yield decodeChunk(buffer, at, end);
      at = end;
    }
    if (at < buffer.length) {
      this.#pending.push(at === 0 ? buffer : buffer.subarray(at));
      this.#pendingBytes = buffer.length - at;
    }
  }

  /** @throws {StoreError} `data_corrupt` when the bytes ended inside a chunk */
  end(): void {
    if (this.#pendingBytes > 0)
      throw new StoreError('data_corrupt', `${this.#pendingBytes} bytes of an unfinished chunk`);
  }

  #neededBytes(): number {
    const first = this.#pending[0] as Buffer;
    if (first.length < CHUNK_HEADER_BYTES) return CHUNK_HEADER_BYTES;
    return CHUNK_HEADER_BYTES + storedBytes(first, 0);
  }
}

function storedBytes(buffer: Buffer, at: number): number {
  const raw = buffer.readUInt32LE(at);
  const stored = buffer.readUInt32LE(at + 4);
  if (raw > CHUNK_RAW_BYTES_MAX || stored > CHUNK_RAW_BYTES_MAX)
    throw new StoreError('data_corrupt', `a chunk announces ${raw} bytes, ${stored} stored`);
  return stored;
}

function decodeChunk(buffer: Buffer, at: number, end: number): Buffer {
  const rawBytes = buffer.readUInt32LE(at);
  const codec = buffer.readUInt8(at + 8);
  const stored = buffer.subarray(at + CHUNK_HEADER_BYTES, end);
  const raw = decompress(stored, codec, rawBytes);
  if (raw.length !== rawBytes)
    throw new StoreError('data_corrupt', `a chunk of ${rawBytes} bytes became ${raw.length}`);
  return raw;
}

function decompress(stored: Buffer, codec: number, rawBytes: number): Buffer {
  if (codec === CHUNK_CODEC.none) return stored;
  if (codec !== CHUNK_CODEC.zstd) {
    const name = CODEC_NAMES[codec] ?? 'unknown';
    throw new StoreError(
      'unsupported',
      `this client does not read chunk codec ${codec} (${name})`,
      {
        codec,
      },
    );
  }
  assertCompressionOffered('zstd');
  try {
    return zlib.zstdDecompressSync(stored, { maxOutputLength: Math.max(1, rawBytes) });
  } catch (cause) {
    throw new StoreError('data_corrupt', 'a chunk is no Zstandard frame of its length', {}, cause);
  }
}
