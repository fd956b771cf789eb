/**
 * A file of the format safetensors: the length of the header (u64, little-endian), the header (JSON, padded with spaces so that
 * data begins at a multiple of 8), then the tensors without gaps. Those with larger items come first, so that each is
 * aligned as its items want it.
 */
import type { Shard } from '@ebb/protocol';
import { type Tensor, tensorBytes } from './tensors.ts';

const NAMES = {
  ...{ bool: 'BOOL', uint8: 'U8', int8: 'I8', uint16: 'U16', int16: 'I16', uint32: 'U32' },
  ...{ int32: 'I32', uint64: 'U64', int64: 'I64', float16: 'F16', bfloat16: 'BF16' },
  ...{ float32: 'F32', float64: 'F64', complex64: 'C64' },
  ...{ float8_e4m3fn: 'F8_E4M3', float8_e5m2: 'F8_E5M2' },
  ...{ float8_e4m3fnuz: 'F8_E4M3FNUZ', float8_e5m2fnuz: 'F8_E5M2FNUZ' },
  /** The format has none. */
  complex128: undefined,
} as const satisfies Record<NonNullable<Shard['dtype']>, string | undefined>;

const METADATA = '__metadata__';
const ALIGNMENT = 8;

/** Why the file cannot hold it. */
export function problemOf({ name, dtype }: Tensor): string | undefined {
  if (NAMES[dtype] === undefined) return `safetensors has no ${dtype}`;
  if (name === METADATA) return 'safetensors keeps that name for itself';
  return undefined;
}

/** What comes before the data, and the tensors in the order of their data. */
export function safetensorsHeader(
  tensors: readonly Tensor[],
  metadata: Readonly<Record<string, string>>,
): { readonly header: Buffer; readonly order: readonly Tensor[]; readonly dataBytes: number } {
  const order = tensors.toSorted((a, b) => b.itemBytes - a.itemBytes || (a.name < b.name ? -1 : 1));
  const entries = new Map<string, unknown>([[METADATA, metadata]]);
  let at = 0;
  for (const tensor of order) {
    const end = at + tensorBytes(tensor);
    const { name, dtype, shape } = tensor;
    entries.set(name, { dtype: NAMES[dtype], shape, data_offsets: [at, end] });
    at = end;
  }
  // Entry by entry: an object would move keys that look like numbers to the front, and swallow __proto__.
  const text = [...entries].map(
    ([name, entry]) => `${JSON.stringify(name)}:${JSON.stringify(entry)}`,
  );
  const json = Buffer.from(`{${text.join(',')}}`);
  const header = Buffer.alloc(8 + Math.ceil(json.length / ALIGNMENT) * ALIGNMENT, ' ');
  header.writeBigUInt64LE(BigInt(header.length - 8), 0);
  json.copy(header, 8);
  return { header, order, dataBytes: at };
}
