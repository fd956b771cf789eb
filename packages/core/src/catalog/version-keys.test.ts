import fc from 'fast-check';
import { expect, test } from 'vitest';
import { compareUtf8 } from './utf8-order.ts';
import {
  afterVersionsOf,
  displayName,
  escapeKey,
  formatVersionId,
  nullVersionKey,
  parseVersionId,
  parseVersionKey,
  VERSION_MAX,
  versionKey,
} from './version-keys.ts';

/** Short, and of characters that are escaped, that escapes are made of, and of every length in UTF-8. */
const key = fc.string({
  unit: fc.constantFrom(...'\u0001\t !"#0PQanv/~\u007f\u0080\uffff\u{10000}\u{10ffff}'),
  minLength: 1,
  maxLength: 5,
});
const version = fc.nat({ max: VERSION_MAX });

test('a key and a version come back', () => {
  fc.assert(
    fc.property(key, version, (name, number) => {
      expect(parseVersionKey(versionKey(name, number))).toEqual({ key: name, version: number });
      expect(parseVersionKey(nullVersionKey(name))).toEqual({ key: name, version: 'null' });
    }),
  );
});

test('order is that of the keys, then from the newest to the oldest, with the null version first', () => {
  fc.assert(
    fc.property(key, key, version, version, (a, b, v, w) => {
      const order = Math.sign(compareUtf8(versionKey(a, v), versionKey(b, w)));
      expect(order).toBe(Math.sign(compareUtf8(a, b)) || Math.sign(w - v));
      expect(compareUtf8(nullVersionKey(a), versionKey(a, v))).toBeLessThan(0);
      if (a !== b)
        expect(Math.sign(compareUtf8(nullVersionKey(a), versionKey(b, w)))).toBe(
          Math.sign(compareUtf8(a, b)),
        );
    }),
  );
});

test('a prefix of a key is one of its versions, and of no others', () => {
  fc.assert(
    fc.property(key, key, version, (name, prefix, number) => {
      const hidden = versionKey(name, number);
      expect(hidden.startsWith(escapeKey(prefix))).toBe(name.startsWith(prefix));
    }),
  );
});

test('what comes after all versions of a key begins after them, and before every later key', () => {
  fc.assert(
    fc.property(key, key, version, (name, later, number) => {
      const end = afterVersionsOf(name);
      expect(compareUtf8(versionKey(name, number), end)).toBeLessThan(0);
      fc.pre(compareUtf8(name, later) < 0);
      expect(compareUtf8(end, nullVersionKey(later))).toBeLessThan(0);
    }),
  );
});

test('a hidden key is as printable as the key: it may become a name in tier 2', () => {
  expect(versionKey('a b/c!\n', 255)).toBe('a!Pb/c!Q!: vffffffffff00');
});

test('an id is read back, and nothing else is an id', () => {
  fc.assert(
    fc.property(version, (number) => {
      expect(parseVersionId(formatVersionId(number))).toBe(number);
    }),
  );
  expect(parseVersionId(formatVersionId('null'))).toBe('null');
  for (const text of ['', 'NULL', '1', '00000000000g', '0000000000001', '00000000000A'])
    expect(parseVersionId(text)).toBeUndefined();
});

test('people are told the name and the id', () => {
  expect(displayName({ bucket: 'b', key: 'a b' })).toBe('b/a b');
  expect(displayName({ bucket: 'b!versions', key: versionKey('a b', 255) })).toBe(
    'b/a b?versionId=0000000000ff',
  );
});
