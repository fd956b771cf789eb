/**
 * The extents of an object by position, for work that is proportional to what is asked and not to how the object is made up: a
 * range looks at its own extents. Making the index goes through the lengths once, and gives way to others on the way.
 */
import type { Extent, ObjectRecord } from '../catalog/catalog.ts';
import { findPackedExtents } from '../catalog/packed-extents.ts';
import { takesTurns } from './turns.ts';

/** Without a look-up of its own a step takes some ten nanoseconds. */
const STEPS_AT_ONCE = 32_768;

/** Up to here an object is handled extent by extent, as nearly all are. */
const FEW_EXTENTS_MAX = 64;

export function extentCount(object: ObjectRecord): number {
  return findPackedExtents(object)?.count ?? object.extents.length;
}

export function isManyExtents(object: ObjectRecord): boolean {
  return extentCount(object) > FEW_EXTENTS_MAX;
}

/** Each blob of the object once, in order. */
export async function blobIdsOf(
  object: Pick<ObjectRecord, 'extents'>,
): Promise<ReadonlySet<number>> {
  const packed = findPackedExtents(object);
  const ids = new Set<number>();
  if (packed === undefined) for (const { blobId } of object.extents) ids.add(blobId);
  else
    for (let at = 0; at < packed.count; at++) {
      ids.add(packed.blobIdAt(at));
      const turn = takesTurns(at, STEPS_AT_ONCE);
      if (turn !== undefined) await turn;
    }
  return ids;
}

export class ExtentIndex {
  readonly #at: (index: number) => Extent;
  /** Where each extent begins, and where the last one ends. */
  readonly #starts: Float64Array;

  private constructor(at: (index: number) => Extent, starts: Float64Array) {
    this.#at = at;
    this.#starts = starts;
  }

  static async of(object: ObjectRecord): Promise<ExtentIndex> {
    const packed = findPackedExtents(object);
    const count = extentCount(object);
    const at = (index: number): Extent => packed?.at(index) ?? (object.extents[index] as Extent);
    const starts = new Float64Array(count + 1);
    for (let index = 0; index < count; index++) {
      const length = packed?.lengthAt(index) ?? at(index).length;
      starts[index + 1] = (starts[index] as number) + length;
      const turn = takesTurns(index, STEPS_AT_ONCE);
      if (turn !== undefined) await turn;
    }
    return new ExtentIndex(at, starts);
  }

  /** What lies between two positions, cut to them, with where it begins in the object. */
  *slice(from: number, to: number): Generator<Extent & { readonly start: number }> {
    for (let index = this.#indexAt(from); ; index++) {
      const start = this.#starts[index] as number;
      const end = this.#starts[index + 1];
      if (end === undefined || start >= to) return;
      const cutFrom = Math.max(from, start);
      const cutTo = Math.min(to, end);
      if (cutFrom >= cutTo) continue;
      const { blobId, offset } = this.#at(index);
      yield { blobId, offset: offset + cutFrom - start, length: cutTo - cutFrom, start: cutFrom };
    }
  }

  /** The last extent that begins at the position or before. */
  #indexAt(position: number): number {
    let low = 0;
    let high = this.#starts.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if ((this.#starts[middle] as number) <= position) low = middle;
      else high = middle;
    }
    return low;
  }
}
