/**
 * What the embedded catalog writes into its rows, encoded and decoded in one place. Persisted: keep stable; a change
 * of layout gets a new format number, and the decoder keeps reading the old one.
 *
 * Fields that SQL searches, counts or changes are columns (sqlite-schema.ts). The rest of an object is one body, so that a
 * row costs one bind and one read instead of six:
 *
 *   | body bytes u32 | format u8 | flags u8 | crc32c u32 | etag str | content type str
 *   | metadata map | attributes map, in format 2 | extents u32 | (blob u48 | offset u48 | length u48)* |
 *
 * `str` is u16 length + UTF-8, `map` is count u16 + (name str | value str)*, all numbers are little-endian. 48 bits are 256 TiB, and 2^48 ids.
 */
import { assert, StoreError } from '@ebb/protocol';
import type { BucketPolicy, ObjectRecord } from './catalog.ts';
import { EXTENT_BYTES, PackedExtents, withPackedExtents } from './packed-extents.ts';

export type ObjectBody = Pick<
  ObjectRecord,
  'etag' | 'crc32c' | 'contentType' | 'metadata' | 'attributes' | 'extents' | 'versioned'
>;

const BODY_FORMAT = 1;
/** Written only where there are attributes: most objects have none. */
const BODY_FORMAT_ATTRIBUTES = 2;
const HAS_CRC32C = 1;
const VERSIONED = 2;
/** Found in tier 2, where others put it: until it is written here. */
const FOUND = 4;
const FLAGS_AT = 5;
const BODY_FIXED_BYTES = 4 + 1 + 1 + 4 + 2 + 2 + 2 + 4;
const STRING_BYTES_MAX = 0xffff;
const NUMBER_MAX = 2 ** 48 - 1;

export function encodeObjectBody(body: ObjectBody): Buffer {
  const { etag, contentType, crc32c, extents, metadata, attributes, versioned } = body;
  const hasAttributes = Object.keys(attributes).length > 0;
  // Strings are written in one pass: three bytes a UTF-16 unit is the most that UTF-8 takes.
  const roomBytes =
    BODY_FIXED_BYTES +
    3 * (etag.length + contentType.length) +
    mapRoomBytes(metadata) +
    (hasAttributes ? mapRoomBytes(attributes) : 0);
  const buffer = Buffer.allocUnsafe(roomBytes + extents.length * EXTENT_BYTES);
  let at = 4;
  at = buffer.writeUInt8(hasAttributes ? BODY_FORMAT_ATTRIBUTES : BODY_FORMAT, at);
  const flags = (crc32c === null ? 0 : HAS_CRC32C) | (versioned === true ? VERSIONED : 0);
  at = buffer.writeUInt8(flags, at);
  at = buffer.writeUInt32LE(crc32c ?? 0, at);
  at = writeString(buffer, etag, at);
  at = writeString(buffer, contentType, at);
  at = writeMap(buffer, metadata, at);
  if (hasAttributes) at = writeMap(buffer, attributes, at);
  at = buffer.writeUInt32LE(extents.length, at);
  for (const extent of extents) {
    at = writeU48(buffer, extent.blobId, at);
    at = writeU48(buffer, extent.offset, at);
    at = writeU48(buffer, extent.length, at);
  }
  buffer.writeUInt32LE(at, 0);
  return buffer.subarray(0, at);
}

/** @throws {StoreError} `data_corrupt` when the body is not whole, `version_unsupported` for a later format. */
export function decodeObjectBody(bytes: Uint8Array): ObjectBody {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (buffer.length < BODY_FIXED_BYTES) throw corruptBody(`${buffer.length} bytes are too short`);
  if (buffer.readUInt32LE(0) !== buffer.length) {
    throw corruptBody(`${buffer.length} bytes, ${buffer.readUInt32LE(0)} were written`);
  }
  const format = buffer.readUInt8(4);
  if (format !== BODY_FORMAT && format !== BODY_FORMAT_ATTRIBUTES) {
    throw new StoreError('version_unsupported', `catalog: object body of format ${format}`);
  }
  try {
    return readBody(buffer);
  } catch (error) {
    if (error instanceof RangeError) throw corruptBody('a field reaches beyond the end');
    throw error;
  }
}

/** Buffer's own bounds check ends a read beyond the body with a RangeError; strings are checked here. */
function readBody(buffer: Buffer): ObjectBody {
  const hasAttributes = buffer.readUInt8(4) === BODY_FORMAT_ATTRIBUTES;
  const hasCrc32c = (buffer.readUInt8(FLAGS_AT) & HAS_CRC32C) !== 0;
  const crc32c = hasCrc32c ? buffer.readUInt32LE(6) : null;
  let at = 10;
  const readString = (): string => {
    const start = at + 2;
    at = start + buffer.readUInt16LE(at);
    if (at > buffer.length) throw new RangeError('string');
    return buffer.toString('utf8', start, at);
  };
  const etag = readString();
  const contentType = readString();
  const readMap = (): Record<string, string> => {
    const names = buffer.readUInt16LE(at);
    at += 2;
    const map: Record<string, string> = {};
    for (let i = 0; i < names; i++) {
      const name = readString();
      const value = readString();
      if (name === '__proto__') defineOwn(map, name, value);
      else map[name] = value;
    }
    return map;
  };
  const metadata = readMap();
  const attributes = hasAttributes ? readMap() : {};
  const count = buffer.readUInt32LE(at);
  at += 4;
  if (at + count * EXTENT_BYTES !== buffer.length) throw corruptBody(`${count} extents do not fit`);
  const body = {
    ...{ etag, crc32c, contentType, metadata, attributes },
    ...(isVersionedBody(buffer) ? ({ versioned: true } as const) : {}),
  };
  return withPackedExtents(body, new PackedExtents(buffer.subarray(at)));
}

/** Without decoding the rest. */
export function isVersionedBody(body: Uint8Array): boolean {
  return ((body[FLAGS_AT] ?? 0) & VERSIONED) !== 0;
}

/** The same body with or without the flag; itself when it is so already. */
export function withVersioned(body: Uint8Array, versioned: boolean): Uint8Array {
  if (isVersionedBody(body) === versioned) return body;
  const changed = Uint8Array.from(body);
  changed[FLAGS_AT] = (body[FLAGS_AT] as number) ^ VERSIONED;
  return changed;
}

export function isFoundBody(body: Uint8Array): boolean {
  return ((body[FLAGS_AT] ?? 0) & FOUND) !== 0;
}

/** The same body with or without the flag; itself when it is so already. */
export function withFound(body: Uint8Array, found: boolean): Uint8Array {
  if (isFoundBody(body) === found) return body;
  const changed = Uint8Array.from(body);
  changed[FLAGS_AT] = (body[FLAGS_AT] as number) ^ FOUND;
  return changed;
}

const POLICY_FORMAT = 1;
/** Written only where versions are kept: a program that does not know them must not write there. */
const POLICY_FORMAT_VERSIONING = 2;
/** Written only where bytes are encrypted: a program that does not know it would take them for plain ones. */
const POLICY_FORMAT_ENCRYPTED = 3;

/** A policy is JSON with its format: it is read rarely, and people look at it. */
export function encodePolicy(policy: BucketPolicy): string {
  const { preset, ack, mirror, ttlMs, quotaBytes, remote, revalidateMs, versioning } = policy;
  const { events, encrypted } = policy;
  const common = { preset, ack, mirror, ttlMs, quotaBytes, remote, revalidateMs, events };
  if (encrypted === true)
    return JSON.stringify({ format: POLICY_FORMAT_ENCRYPTED, ...common, versioning, encrypted });
  return JSON.stringify(
    versioning === 'off'
      ? { format: POLICY_FORMAT, ...common }
      : { format: POLICY_FORMAT_VERSIONING, ...common, versioning },
  );
}

/** @throws {StoreError} `data_corrupt`, `version_unsupported` */
export function decodePolicy(text: string): BucketPolicy {
  const found = parseJsonObject(text);
  const format = found['format'];
  const formats: unknown[] = [POLICY_FORMAT, POLICY_FORMAT_VERSIONING, POLICY_FORMAT_ENCRYPTED];
  if (!formats.includes(format)) {
    throw new StoreError(
      'version_unsupported',
      `catalog: bucket policy of format ${String(format)}`,
    );
  }
  const { preset, ack, mirror, ttlMs, quotaBytes, events, remote = null } = found;
  const { revalidateMs = null } = found;
  const versioning = format === POLICY_FORMAT ? 'off' : found['versioning'];
  if (preset !== 'ephemeral' && preset !== 'buffered' && preset !== 'durable')
    throw corrupt('preset of a bucket policy');
  if (ack !== 'memory' && ack !== 'disk' && ack !== 'remote')
    throw corrupt('ack of a bucket policy');
  if (typeof mirror !== 'boolean') throw corrupt('mirror of a bucket policy');
  if (ttlMs !== null && typeof ttlMs !== 'number') throw corrupt('ttlMs of a bucket policy');
  if (quotaBytes !== null && typeof quotaBytes !== 'number')
    throw corrupt('quotaBytes of a bucket policy');
  if (remote !== null && typeof remote !== 'string') throw corrupt('remote of a bucket policy');
  if (revalidateMs !== null && typeof revalidateMs !== 'number')
    throw corrupt('revalidateMs of a bucket policy');
  if (versioning !== 'off' && versioning !== 'enabled' && versioning !== 'suspended')
    throw corrupt('versioning of a bucket policy');
  if (events !== undefined && typeof events !== 'boolean')
    throw corrupt('events of a bucket policy');
  const common = { preset, ack, mirror, ttlMs, quotaBytes } as const;
  const encrypted = format === POLICY_FORMAT_ENCRYPTED ? ({ encrypted: true } as const) : {};
  const policy = { ...common, remote, revalidateMs, versioning, ...encrypted } as const;
  return events === undefined ? policy : { ...policy, events };
}

function parseJsonObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch (error) {
    throw corrupt('a bucket policy is not JSON', error);
  }
  throw corrupt('a bucket policy is not an object');
}

function writeString(buffer: Buffer, text: string, at: number): number {
  const bytes = buffer.write(text, at + 2);
  assert(bytes <= STRING_BYTES_MAX, 'a string in an object record has at most 65535 bytes');
  buffer.writeUInt16LE(bytes, at);
  return at + 2 + bytes;
}

function mapRoomBytes(map: Readonly<Record<string, string>>): number {
  let bytes = 2;
  for (const name of Object.keys(map))
    bytes += 4 + 3 * (name.length + (map[name] as string).length);
  return bytes;
}

function writeMap(buffer: Buffer, map: Readonly<Record<string, string>>, from: number): number {
  const names = Object.keys(map);
  let at = buffer.writeUInt16LE(names.length, from);
  for (const name of names) {
    at = writeString(buffer, name, at);
    at = writeString(buffer, map[name] as string, at);
  }
  return at;
}

function writeU48(buffer: Buffer, value: number, at: number): number {
  assert(Number.isInteger(value) && value >= 0 && value <= NUMBER_MAX, 'u48 in an object record');
  return buffer.writeUIntLE(value, at, 6);
}

function defineOwn(target: Record<string, string>, name: string, value: string): void {
  Object.defineProperty(target, name, {
    value,
    enumerable: true,
    configurable: true,
    writable: true,
  });
}

function corruptBody(why: string): StoreError {
  return corrupt(`object body: ${why}`);
}
function corrupt(why: string, cause?: unknown): StoreError {
  return new StoreError('data_corrupt', `catalog: ${why}`, {}, cause);
}
