import fc from 'fast-check';
import { expect, test } from 'vitest';
import { commonPrefix, compareUtf8, rangeEnd } from './utf8-order.ts';

/** Points around every edge of UTF-8 and UTF-16. */
const edges = [0x01, 0x2f, 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xffff, 0x10000, 0x10ffff];
const name = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 6 }),
  fc
    .array(fc.constantFrom(...edges), { maxLength: 4 })
    .map((points) => String.fromCodePoint(...points)),
);
const byBytes = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

test('strings compare as their UTF-8 bytes do', () => {
  fc.assert(
    fc.property(name, name, (a, b) => {
      expect(Math.sign(compareUtf8(a, b))).toBe(byBytes(a, b));
    }),
    { numRuns: 2000 },
  );
});

test('a prefix is exactly the range up to its end', () => {
  fc.assert(
    fc.property(name, name, name, (prefix, rest, other) => {
      const end = rangeEnd(prefix);
      for (const candidate of [prefix + rest, other]) {
        const isInside =
          byBytes(candidate, prefix) >= 0 && (end === undefined || byBytes(candidate, end) < 0);
        expect(isInside).toBe(candidate.startsWith(prefix));
      }
    }),
    { numRuns: 2000 },
  );
});

test('a range has no end only when nothing can follow', () => {
  expect(rangeEnd('')).toBeUndefined();
  expect(rangeEnd('\u{10FFFF}\u{10FFFF}')).toBeUndefined();
  expect(rangeEnd('a\u{10FFFF}')).toBe('b');
  expect(rangeEnd('a/')).toBe('a0');
  expect(rangeEnd('\ud7ff')).toBe('\ue000');
});

test('a key is rolled up to the first delimiter after the prefix', () => {
  expect(commonPrefix('a/b/c', '', '/')).toBe('a/');
  expect(commonPrefix('a/b/c', 'a/', '/')).toBe('a/b/');
  expect(commonPrefix('a/b', 'a/', '/')).toBeUndefined();
  expect(commonPrefix('a::b', '', '::')).toBe('a::');
  expect(commonPrefix('a/b', '', '')).toBeUndefined();
});
