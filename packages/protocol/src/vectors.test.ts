/** The golden files are what clients in other languages were built against: this side must read and write them byte for byte. */
import { readFileSync } from 'node:fs';
import { zstdDecompressSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import {
  CHUNK_CODEC,
  CHUNK_HEADER_BYTES,
  decodeIndexBlock,
  encodeFrame,
  encodeIndexBlock,
  type FrameHeader,
  FrameSplitter,
  messages,
  OPS,
  PROTOCOL_VERSION,
  StoreError,
} from './index.ts';

interface MessageVector {
  readonly name: string;
  readonly op: number;
  readonly hexFields?: readonly string[];
  readonly message: Record<string, unknown>;
  readonly payloadHex: string;
}
interface FrameVectors {
  readonly protocolVersion: number;
  readonly ops: Record<string, number>;
  readonly messages: readonly MessageVector[];
  readonly error: { code: string; message: string; details: unknown; payloadHex: string };
  readonly frames: readonly (FrameHeader & {
    name: string;
    payloadHex: string;
    frameHex: string;
  })[];
}
interface IndexVectors {
  readonly crc32c: readonly { textHex: string; crc32c: number }[];
  readonly blocks: readonly {
    name: string;
    framing: number;
    shuffleId: number;
    mapIndex: number;
    attemptId: number;
    offsets: number[];
    crc32cs: number[];
    dataHex: string | null;
    blockHex: string;
  }[];
  readonly chunks: readonly {
    name: string;
    storedHex: string;
    rawHex: string;
    storedCrc32c: number;
  }[];
}
interface AnyCodec {
  encode(message: unknown): Buffer;
  decode(payload: Buffer): unknown;
}

const frames = load('frames.json') as FrameVectors;
const index = load('index-block.json') as IndexVectors;

describe('frames.json', () => {
  test('names the protocol version and every op as this code knows them', () => {
    expect(frames.protocolVersion).toBe(PROTOCOL_VERSION);
    expect(frames.ops).toEqual(OPS);
  });

  test('has a request and a response of every op, and both pushes', () => {
    const pushes: readonly string[] = ['revoke', 'goingAway'];
    const wanted = Object.keys(OPS).flatMap((op) =>
      pushes.includes(op) ? [`${op}.push`] : [`${op}.request`, `${op}.response`],
    );
    expect([...new Set(frames.messages.map((vector) => vector.name))].sort()).toEqual(
      wanted.sort(),
    );
  });

  test.each(frames.messages.map((vector, at) => [`${at} ${vector.name}`, vector] as const))(
    '%s is read and written byte for byte',
    (_, vector) => {
      const codec = codecOf(vector.name);
      const message = revive(vector);
      expect(vector.op).toBe(OPS[vector.name.split('.')[0] as keyof typeof OPS]);
      expect(codec.encode(message).toString('hex')).toBe(vector.payloadHex);
      expect(codec.decode(Buffer.from(vector.payloadHex, 'hex'))).toEqual(
        Object.keys(vector.message).length === 0 ? undefined : message,
      );
    },
  );

  test.each(frames.messages.map((vector, at) => [`${at} ${vector.name}`, vector] as const))(
    '%s is refused when a byte is missing or left over',
    (_, vector) => {
      const codec = codecOf(vector.name);
      const payload = Buffer.from(vector.payloadHex, 'hex');
      expect(() => codec.decode(Buffer.concat([payload, Buffer.alloc(1)]))).toThrow(StoreError);
      if (payload.length > 0)
        expect(() => codec.decode(payload.subarray(0, -1))).toThrow(StoreError);
    },
  );

  test('an error carries its code, its message and its details', () => {
    const payload = Buffer.from(frames.error.payloadHex, 'hex');
    const error = messages.errorPayload.decode(payload);
    expect({ code: error.code, message: error.message, details: error.details }).toEqual({
      code: frames.error.code,
      message: frames.error.message,
      details: frames.error.details,
    });
    expect(error.retry).toBe('safe');
    expect(messages.errorPayload.encode(error).equals(payload)).toBe(true);
  });

  test.each(frames.frames.map((frame) => [frame.name, frame] as const))('frame: %s', (_, frame) => {
    const payload = Buffer.from(frame.payloadHex, 'hex');
    expect(encodeFrame(frame.requestId, frame.op, frame.flags, payload).toString('hex')).toBe(
      frame.frameHex,
    );
    const seen: unknown[] = [];
    new FrameSplitter((header, body) => seen.push({ ...header, body: body.toString('hex') })).push(
      Buffer.from(frame.frameHex, 'hex'),
    );
    expect(seen).toEqual([
      {
        payloadBytes: payload.length,
        requestId: frame.requestId,
        op: frame.op,
        flags: frame.flags,
        body: frame.payloadHex,
      },
    ]);
  });
});

describe('index-block.json', () => {
  test('the checksum is CRC32C', () => {
    for (const vector of index.crc32c)
      expect(crc32c(Buffer.from(vector.textHex, 'hex'))).toBe(vector.crc32c);
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
  });

  test.each(index.blocks.map((block) => [block.name, block] as const))(
    '%s: read and written byte for byte, and refused with any byte changed',
    (_, vector) => {
      const bytes = Buffer.from(vector.blockHex, 'hex');
      const block = decodeIndexBlock(bytes, crc32c);
      expect({ ...block, offsets: [...block.offsets], crc32cs: [...block.crc32cs] }).toEqual({
        framing: vector.framing,
        shuffleId: vector.shuffleId,
        mapIndex: vector.mapIndex,
        attemptId: vector.attemptId,
        offsets: vector.offsets,
        crc32cs: vector.crc32cs,
      });
      expect(encodeIndexBlock(block, crc32c).equals(bytes)).toBe(true);
      for (let at = 0; at < bytes.length; at++) {
        const broken = Buffer.from(bytes);
        broken[at] = (broken[at] as number) ^ 1;
        expect(() => decodeIndexBlock(broken, crc32c)).toThrow(StoreError);
      }
      if (vector.dataHex === null) return;
      const data = Buffer.from(vector.dataHex, 'hex');
      vector.crc32cs.forEach((crc, partition) => {
        const [from, to] = [vector.offsets[partition], vector.offsets[partition + 1]];
        expect(crc32c(data.subarray(from, to))).toBe(crc);
      });
    },
  );

  test.each(index.chunks.map((chunk) => [chunk.name, chunk] as const))(
    'chunks: %s',
    (_, vector) => {
      const stored = Buffer.from(vector.storedHex, 'hex');
      expect(decodeChunks(stored).toString('hex')).toBe(vector.rawHex);
      expect(crc32c(stored)).toBe(vector.storedCrc32c);
    },
  );
});

function load(name: string): unknown {
  return JSON.parse(readFileSync(new URL(`../vectors/${name}`, import.meta.url), 'utf8'));
}

function codecOf(name: string): AnyCodec {
  const [message, side] = name.split('.') as [string, string];
  if (message === 'ping') return messages.empty as AnyCodec;
  const group = (messages as unknown as Record<string, Record<string, AnyCodec> & AnyCodec>)[
    message
  ];
  const found = side === 'push' ? group : group?.[side];
  if (found === undefined) throw new Error(`no codec for ${name}`);
  return found;
}

/** The message as the codec takes it: hex to bytes, null to undefined. */
function revive(vector: MessageVector): Record<string, unknown> {
  const entries = Object.entries(vector.message).map(([name, value]) => {
    if (vector.hexFields?.includes(name) === true)
      return [name, Buffer.from(value as string, 'hex')];
    return [name, withoutNulls(value)];
  });
  return Object.fromEntries(entries) as Record<string, unknown>;
}

function withoutNulls(value: unknown): unknown {
  if (value === null) return undefined;
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, at]) => [name, withoutNulls(at)]));
}

/** CRC32C, bit by bit: slow, and independent of the library the product uses. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

function decodeChunks(stored: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < stored.length; ) {
    const rawBytes = stored.readUInt32LE(at);
    const start = at + CHUNK_HEADER_BYTES;
    at = start + stored.readUInt32LE(at + 4);
    const body = stored.subarray(start, at);
    const codec = stored.readUInt8(start - 1);
    const raw =
      codec === CHUNK_CODEC.none
        ? body
        : codec === CHUNK_CODEC.lz4
          ? decodeLz4(body, rawBytes)
          : zstdDecompressSync(body);
    expect(raw.length).toBe(rawBytes);
    parts.push(raw);
  }
  return Buffer.concat(parts);
}

/** The LZ4 block format, for the small examples here. */
function decodeLz4(block: Buffer, rawBytes: number): Buffer {
  const raw = Buffer.alloc(rawBytes);
  let at = 0;
  let out = 0;
  const lengthOf = (nibble: number): number => {
    let length = nibble;
    if (nibble < 15) return length;
    for (let more = 255; more === 255; length += more) more = block.readUInt8(at++);
    return length;
  };
  while (at < block.length) {
    const token = block.readUInt8(at++);
    const literals = lengthOf(token >> 4);
    out += block.copy(raw, out, at, at + literals);
    at += literals;
    if (at >= block.length) break;
    const distance = block.readUInt16LE(at);
    at += 2;
    for (let left = lengthOf(token & 15) + 4; left > 0; left--, out++)
      raw[out] = raw[out - distance] as number;
  }
  return raw;
}
