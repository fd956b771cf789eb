/**
 * The image of a part: shards, the table that names them, a footer (docs/checkpoint-format.md). Written by clients;
 * here it is read and checked, before a snapshot that consists of it is shown.
 */
import { imageTableSchema, type Shard, StoreError } from '@ebb/protocol';
import { crc32 } from '@node-rs/crc32';

export const FOOTER_BYTES = 32;
const FORMAT = 1;
const MAGIC = 'EBBCKPT1';
/** A million shards with long names fit. */
const TABLE_BYTES_MAX = 256 * 1024 * 1024;

/** Where the table lies in the image. */
interface Footer {
  readonly tableOffset: number;
  readonly tableBytes: number;
  readonly tableCrc32: number;
}

/** Fills `target` from `position` of the image on. */
export type ReadImage = (target: Uint8Array, position: number) => Promise<void>;

/** @throws `data_corrupt` when it is no whole image: what its writer did wrong, or what happened to it */
export async function readShards(
  read: ReadImage,
  { imageBytes, part }: { readonly imageBytes: number; readonly part: string },
): Promise<readonly Shard[]> {
  if (imageBytes < FOOTER_BYTES) throw corrupt(part, `${imageBytes} bytes are no image`);
  const tail = Buffer.alloc(FOOTER_BYTES);
  await read(tail, imageBytes - FOOTER_BYTES);
  const footer = parseFooter(tail, imageBytes, part);
  const text = Buffer.alloc(footer.tableBytes);
  await read(text, footer.tableOffset);
  if (crc32(text) !== footer.tableCrc32) throw corrupt(part, 'its table does not match its CRC-32');
  const shards = parseTable(text, part);
  checkShards(shards, footer.tableOffset, part);
  return shards;
}

function parseFooter(tail: Buffer, imageBytes: number, part: string): Footer {
  if (tail.toString('latin1', 24) !== MAGIC) throw corrupt(part, 'it does not end with a footer');
  const format = tail.readUInt32LE(20);
  if (format !== FORMAT)
    throw new StoreError('version_unsupported', `part ${part}: image of format ${format}`);
  const tableOffset = Number(tail.readBigUInt64LE(0));
  const tableBytes = Number(tail.readBigUInt64LE(8));
  if (tableBytes > TABLE_BYTES_MAX || tableOffset + tableBytes + FOOTER_BYTES !== imageBytes)
    throw corrupt(
      part,
      `its table of ${tableBytes} bytes at ${tableOffset} does not end at its footer`,
    );
  return { tableOffset, tableBytes, tableCrc32: tail.readUInt32LE(16) };
}

function parseTable(text: Buffer, part: string): readonly Shard[] {
  try {
    return imageTableSchema.parse(JSON.parse(text.toString('utf8'))).shards;
  } catch (error) {
    throw corrupt(part, 'its table is not what docs/checkpoint-format.md says', error);
  }
}

/** @throws `data_corrupt` when they overlap, reach beyond `end`, or are not of the size that they say */
export function checkShards(shards: readonly Shard[], end: number, part: string): void {
  let behind = 0;
  for (const shard of shards.toSorted((a, b) => a.offset - b.offset || a.length - b.length)) {
    if (shard.offset < behind) throw corrupt(part, `shard ${shard.name} overlaps the one before`);
    behind = shard.offset + shard.length;
    if (behind > end) throw corrupt(part, `shard ${shard.name} reaches beyond the shards' end`);
    if (shard.dtype !== undefined && shard.shape === undefined)
      throw corrupt(part, `shard ${shard.name} has a dtype and no shape`);
    if (shard.dtype !== undefined) checkLength(shard, part);
    const { piece, shape } = shard;
    if (piece === undefined) continue;
    const fits =
      shape !== undefined &&
      piece.shape.length === shape.length &&
      piece.start.length === shape.length &&
      shape.every((n, i) => (piece.start[i] as number) + n <= (piece.shape[i] as number));
    if (!fits) throw corrupt(part, `shard ${shard.name} is no piece of the tensor it names`);
  }
}

function checkLength({ name, dtype, shape = [], length }: Shard, part: string): void {
  const elements = shape.reduce((product, n) => product * n, 1);
  const bytes = elements * ITEM_BYTES[dtype as NonNullable<Shard['dtype']>];
  if (bytes !== length)
    throw corrupt(part, `shard ${name} has ${length} bytes, its shape takes ${bytes}`);
}

const ITEM_BYTES: Readonly<Record<NonNullable<Shard['dtype']>, number>> = {
  ...{ bool: 1, uint8: 1, int8: 1, uint16: 2, int16: 2, uint32: 4, int32: 4, uint64: 8, int64: 8 },
  ...{ float16: 2, bfloat16: 2, float32: 4, float64: 8, complex64: 8, complex128: 16 },
  ...{ float8_e4m3fn: 1, float8_e5m2: 1, float8_e4m3fnuz: 1, float8_e5m2fnuz: 1 },
};

function corrupt(part: string, problem: string, cause?: unknown): StoreError {
  return new StoreError('data_corrupt', `part ${part}: ${problem}`, { part }, cause);
}
