/**
 * The files of a tier that wait to be used again, with their pages present. Decides which one fits; moves nothing itself.
 *
 * I1  `bytes` is the sum of `presentBytes` of the slots inside.
 * I2  `take` gives a slot that is big enough before one that is not, the smallest of those, and of equals the one that
 *     came last: its pages are most likely in a cache, and mapped by the client that wants it.
 */
import { POOL_OVERSIZE_FACTOR, POOL_OVERSIZE_SLACK_BYTES, POOL_UNDERSIZE_PART } from '../limits.ts';

export interface PooledSlot {
  /** Does not change while the slot is in the pool. */
  readonly presentBytes: number;
}

export class SlotPool<Slot extends PooledSlot> {
  /** Ascending by `presentBytes`, equals in order of arrival. */
  readonly #bySize: Slot[] = [];
  /** In order of arrival. */
  readonly #byAge = new Set<Slot>();
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  get size(): number {
    return this.#byAge.size;
  }

  add(slot: Slot): void {
    this.#bySize.splice(this.#indexAbove(slot.presentBytes), 0, slot);
    this.#byAge.add(slot);
    this.#bytes += slot.presentBytes;
  }

  /** Takes out the slot that fits `needBytes` best, or undefined when each is hopelessly small or wastefully large. */
  take(needBytes: number): Slot | undefined {
    const slot = this.#findBigEnough(needBytes) ?? this.#findPartlyBigEnough(needBytes);
    if (slot !== undefined) this.delete(slot);
    return slot;
  }

  /** How many slots `take` would give for this size, one after the other, that need no more pages. */
  countBigEnough(needBytes: number): number {
    return this.#indexAbove(bytesMaxFor(needBytes)) - this.#indexFrom(needBytes);
  }

  takeOldest(): Slot | undefined {
    for (const slot of this.#byAge) {
      this.delete(slot);
      return slot;
    }
    return undefined;
  }

  delete(slot: Slot): void {
    if (!this.#byAge.delete(slot)) return;
    this.#bySize.splice(this.#bySize.indexOf(slot, this.#indexFrom(slot.presentBytes)), 1);
    this.#bytes -= slot.presentBytes;
  }

  #findBigEnough(needBytes: number): Slot | undefined {
    const smallest = this.#bySize[this.#indexFrom(needBytes)];
    if (smallest === undefined || smallest.presentBytes > bytesMaxFor(needBytes)) return undefined;
    return this.#bySize[this.#indexAbove(smallest.presentBytes) - 1];
  }

  #findPartlyBigEnough(needBytes: number): Slot | undefined {
    const largest = this.#bySize[this.#indexFrom(needBytes) - 1];
    return largest !== undefined && largest.presentBytes >= needBytes * POOL_UNDERSIZE_PART
      ? largest
      : undefined;
  }

  /** Where the slots of at least this size begin. */
  #indexFrom(bytes: number): number {
    return lowestIndex(this.#bySize, (slot) => slot.presentBytes >= bytes);
  }

  /** Where the slots above this size begin. */
  #indexAbove(bytes: number): number {
    return lowestIndex(this.#bySize, (slot) => slot.presentBytes > bytes);
  }
}

function bytesMaxFor(needBytes: number): number {
  return Math.max(needBytes * POOL_OVERSIZE_FACTOR, needBytes + POOL_OVERSIZE_SLACK_BYTES);
}

/** The first index where `holds`, which is false up to there and true from there. */
function lowestIndex<T>(sorted: readonly T[], holds: (item: T) => boolean): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (holds(sorted[middle] as T)) high = middle;
    else low = middle + 1;
  }
  return low;
}
