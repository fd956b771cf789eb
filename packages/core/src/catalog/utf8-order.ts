/**
 * Names are ordered by their UTF-8 bytes, as S3 lists them and as SQLite's BINARY collation compares TEXT. JavaScript
 * compares UTF-16 units, which puts U+E000…U+FFFF after the surrogates, so `<` is wrong beyond the basic plane.
 * UTF-8 byte order is code point order: that is all these functions use.
 */

/** Negative, zero or positive, like a comparator. */
export function compareUtf8(a: string, b: string): number {
  const shorter = Math.min(a.length, b.length);
  for (let i = 0; i < shorter; i++) {
    const left = a.charCodeAt(i);
    const right = b.charCodeAt(i);
    if (left !== right) return codePointRank(left) - codePointRank(right);
  }
  return a.length - b.length;
}

/**
 * The first string after every string that starts with `prefix`; undefined when there is none (the prefix is empty, or
 * U+10FFFF to its end). With it a prefix is the half-open range `prefix … rangeEnd(prefix)`.
 */
export function rangeEnd(prefix: string): string | undefined {
  const points = Array.from(prefix);
  for (let i = points.length - 1; i >= 0; i--) {
    const point = (points[i] as string).codePointAt(0) as number;
    if (point === 0x10ffff) continue;
    const following = point === 0xd7ff ? 0xe000 : point + 1;
    return points.slice(0, i).join('') + String.fromCodePoint(following);
  }
  return undefined;
}

/** What `key` is rolled up into: everything up to the first delimiter after the prefix; undefined when there is none. */
export function commonPrefix(key: string, prefix: string, delimiter: string): string | undefined {
  if (delimiter === '') return undefined;
  const at = key.indexOf(delimiter, prefix.length);
  return at < 0 ? undefined : key.slice(0, at + delimiter.length);
}

/** Moves surrogates (code points from U+10000) behind U+E000…U+FFFF. */
function codePointRank(unit: number): number {
  if (unit < 0xd800) return unit;
  return unit >= 0xe000 ? unit - 0x800 : unit + 0x2000;
}
