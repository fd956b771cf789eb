/**
 * What the shuffle service keeps in the catalog, in namespace `shuffle`, and how its names look. Persisted: keep stable.
 *
 *   record  <jobId>/<shuffleId>    | format u8 = 1 | maps u32 | partitions u32 | created at, ms u64 | CRC32C u32 |
 *   record  generation             | format u8 = 1 | generation u32 | CRC32C u32 |
 *   object  shuffle/<jobId>/<shuffleId>/<map index, 7 digits>/<attemptId>      one map output; metadata `epoch`, `indexBytes`
 *
 * There is no second record per map output: which attempt holds a map's place follows from the objects themselves
 * (highest epoch; inside an epoch only one ever commits; among those without an epoch the latest commit).
 */
import { assert, StoreError } from '@ebb/protocol';
import { crc32c } from '@node-rs/crc32';
import { MAP_INDEX_DIGITS } from './limits.ts';

export const SHUFFLE_BUCKET = 'shuffle';
export const SHUFFLE_NAMESPACE = 'shuffle';
/** No job id is empty, so no shuffle's record can have this key. */
export const GENERATION_KEY = 'generation';

const FORMAT = 1;
const SHAPE_BYTES = 1 + 4 + 4 + 8 + 4;
const GENERATION_BYTES = 1 + 4 + 4;

export interface ShuffleShape {
  readonly maps: number;
  readonly partitions: number;
  readonly createdAtMs: number;
}

export function shuffleName(ref: { readonly jobId: string; readonly shuffleId: number }): string {
  return `${ref.jobId}/${ref.shuffleId}`;
}

/** Undefined for a record that is no shuffle's. */
export function parseShuffleName(name: string): { jobId: string; shuffleId: number } | undefined {
  const match = /^([^/]+)\/(0|[1-9]\d{0,9})$/.exec(name);
  if (match === null) return undefined;
  return { jobId: match[1] as string, shuffleId: Number(match[2]) };
}

export function encodeShape(shape: ShuffleShape): Buffer {
  const buffer = Buffer.alloc(SHAPE_BYTES);
  buffer.writeUInt8(FORMAT, 0);
  buffer.writeUInt32LE(shape.maps, 1);
  buffer.writeUInt32LE(shape.partitions, 5);
  buffer.writeBigUInt64LE(BigInt(Math.floor(shape.createdAtMs)), 9);
  return sealed(buffer);
}

/** @throws {StoreError} `data_corrupt`, `version_unsupported` */
export function decodeShape(value: Uint8Array, name: string): ShuffleShape {
  const buffer = opened(value, SHAPE_BYTES, name);
  return {
    maps: buffer.readUInt32LE(1),
    partitions: buffer.readUInt32LE(5),
    createdAtMs: Number(buffer.readBigUInt64LE(9)),
  };
}

export function encodeGeneration(generation: number): Buffer {
  const buffer = Buffer.alloc(GENERATION_BYTES);
  buffer.writeUInt8(FORMAT, 0);
  buffer.writeUInt32LE(generation, 1);
  return sealed(buffer);
}

/** @throws {StoreError} `data_corrupt`, `version_unsupported` */
export function decodeGeneration(value: Uint8Array): number {
  return opened(value, GENERATION_BYTES, GENERATION_KEY).readUInt32LE(1);
}

function sealed(buffer: Buffer): Buffer {
  const body = buffer.length - 4;
  buffer.writeUInt32LE(crc32c(buffer.subarray(0, body)), body);
  return buffer;
}

function opened(value: Uint8Array, bytes: number, name: string): Buffer {
  const buffer = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (buffer.length > 0 && buffer.readUInt8(0) !== FORMAT)
    throw new StoreError('version_unsupported', `shuffle record ${name} has a later format`);
  if (buffer.length !== bytes)
    throw new StoreError('data_corrupt', `shuffle record ${name} has ${buffer.length} bytes`);
  if (crc32c(buffer.subarray(0, bytes - 4)) !== buffer.readUInt32LE(bytes - 4))
    throw new StoreError('data_corrupt', `shuffle record ${name} does not match its checksum`);
  return buffer;
}

export interface MapOutputName {
  readonly mapIndex: number;
  readonly attemptId: number;
}

/** With the final slash: `job/1/` never covers `job/11/`. */
export function shufflePrefix(ref: { readonly jobId: string; readonly shuffleId: number }): string {
  return `${shuffleName(ref)}/`;
}

export function mapOutputKey(prefix: string, name: MapOutputName): string {
  const index = String(name.mapIndex).padStart(MAP_INDEX_DIGITS, '0');
  assert(index.length === MAP_INDEX_DIGITS, 'the map index is below MAPS_MAX');
  return `${prefix}${index}/${name.attemptId}`;
}

/** Undefined for a key somebody else put under the prefix. */
export function parseMapOutputKey(prefix: string, key: string): MapOutputName | undefined {
  if (!key.startsWith(prefix)) return undefined;
  const match = /^(\d{7})\/(0|[1-9]\d{0,15})$/.exec(key.slice(prefix.length));
  if (match === null) return undefined;
  const attemptId = Number(match[2]);
  return Number.isSafeInteger(attemptId) ? { mapIndex: Number(match[1]), attemptId } : undefined;
}

export interface MapOutputMetadata {
  readonly epoch: number;
  readonly indexBytes: number;
}

export function encodeMapOutputMetadata(metadata: MapOutputMetadata): Record<string, string> {
  return { epoch: String(metadata.epoch), indexBytes: String(metadata.indexBytes) };
}

/** Undefined when an object under the prefix is no map output. */
export function parseMapOutputMetadata(
  metadata: Readonly<Record<string, string>>,
): MapOutputMetadata | undefined {
  const epoch = parseU32(metadata['epoch']);
  const indexBytes = parseU32(metadata['indexBytes']);
  return epoch === undefined || indexBytes === undefined ? undefined : { epoch, indexBytes };
}

function parseU32(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,10}$/.test(text)) return undefined;
  const value = Number(text);
  return value < 2 ** 32 ? value : undefined;
}
