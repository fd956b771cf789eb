/**
 * The extents of an object as its row has them: many are decoded when somebody asks for them, one by one or all.
 *
 *   | (blob u48 | offset u48 | length u48)* |     persisted, keep stable (catalog-records.ts)
 */
import type { Extent } from './catalog.ts';

export const EXTENT_BYTES = 18;

export class PackedExtents {
  readonly #bytes: Buffer;
  #decoded: readonly Extent[] | undefined;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get count(): number {
    return this.#bytes.length / EXTENT_BYTES;
  }

  blobIdAt(index: number): number {
    return this.#bytes.readUIntLE(index * EXTENT_BYTES, 6);
  }

  lengthAt(index: number): number {
    return this.#bytes.readUIntLE(index * EXTENT_BYTES + 12, 6);
  }

  at(index: number): Extent {
    const offset = this.#bytes.readUIntLE(index * EXTENT_BYTES + 6, 6);
    return { blobId: this.blobIdAt(index), offset, length: this.lengthAt(index) };
  }

  all(): readonly Extent[] {
    if (this.#decoded !== undefined) return this.#decoded;
    const decoded: Extent[] = [];
    for (let index = 0; index < this.count; index++) decoded.push(this.at(index));
    this.#decoded = decoded;
    return decoded;
  }
}

/** The encoded form of records that came out of rows, of those with many extents. */
const packedOf = new WeakMap<object, PackedExtents>();
/** So few are decoded at once: that costs less than what it takes to do it later. */
const DECODED_AT_ONCE_MAX = 16;

/** Gives `record` its extents: many are decoded at the first look. */
export function withPackedExtents<T extends object>(
  record: T,
  packed: PackedExtents,
): T & { readonly extents: readonly Extent[] } {
  if (packed.count <= DECODED_AT_ONCE_MAX) return withExtents(record, packed.all());
  Object.defineProperty(record, 'extents', {
    get: () => packed.all(),
    enumerable: true,
    configurable: true,
  });
  packedOf.set(record, packed);
  return record as T & { readonly extents: readonly Extent[] };
}

/** Gives `record` the extents of another one, decoded or not as they are there. */
export function withExtentsOf<T extends object>(
  record: T,
  source: { readonly extents: readonly Extent[] },
): T & { readonly extents: readonly Extent[] } {
  const packed = packedOf.get(source);
  return packed === undefined
    ? withExtents(record, source.extents)
    : withPackedExtents(record, packed);
}

function withExtents<T extends object>(
  record: T & { extents?: readonly Extent[] },
  extents: readonly Extent[],
): T & { readonly extents: readonly Extent[] } {
  record.extents = extents;
  return record as T & { readonly extents: readonly Extent[] };
}

/**
 * Undefined for a record that has all its extents already: one with few, one that is no row's, and a changed copy of one.
 */
export function findPackedExtents(record: object): PackedExtents | undefined {
  return packedOf.get(record);
}
