/**
 * A sum of bytes that stays exact beyond 2^53: copies share their bytes, so sums of sizes have no bound that a disk sets. Plain
 * numbers, because a commit adds to five sums and a BigInt for each would cost it two percent.
 */
const HIGH_UNIT = 2 ** 50;
const HIGH_BITS = 50n;
const INT64_MAX = 2n ** 63n - 1n;

/** `high` times 2^50, plus `low`, which is from 0 to below 2^50. */
export interface ByteSum {
  readonly high: number;
  readonly low: number;
}

export const NO_BYTES: ByteSum = { high: 0, low: 0 };

export function isNegativeSum({ high }: ByteSum): boolean {
  return high < 0;
}

/** `sum` becomes itself plus `bytes`, which may be negative. */
export function addBytes(sum: { high: number; low: number }, bytes: number): void {
  const low = sum.low + (bytes % HIGH_UNIT);
  const carry = Math.floor(low / HIGH_UNIT);
  sum.high += Math.trunc(bytes / HIGH_UNIT) + carry;
  sum.low = low - carry * HIGH_UNIT;
}

/** The number that people and JSON see: what is more than 2^53 - 1 is shown as that. */
export function shownSum({ high, low }: ByteSum): number {
  return Math.min(Number.MAX_SAFE_INTEGER, high * HIGH_UNIT + low);
}

/** The form that SQLite stores; undefined when it has no integer so large. */
export function storedSum({ high, low }: ByteSum): bigint | undefined {
  const sum = (BigInt(high) << HIGH_BITS) + BigInt(low);
  return sum > INT64_MAX ? undefined : sum;
}

/** Takes what SQLite stored, or sums of the two halves of many numbers: `upper` counts 2^32. */
export function parseSum(lower: bigint, upper = 0n): ByteSum {
  const sum = (upper << 32n) + lower;
  return { high: Number(sum >> HIGH_BITS), low: Number(sum & ((1n << HIGH_BITS) - 1n)) };
}
