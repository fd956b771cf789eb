import fc from 'fast-check';
import { expect, test } from 'vitest';
import { addBytes, isNegativeSum, NO_BYTES, parseSum, shownSum, storedSum } from './byte-sum.ts';

test('a sum of bytes is exact beyond 2^53, and comes back from what is stored of it', () => {
  const size = fc.integer({ min: -(2 ** 48), max: 2 ** 48 });
  fc.assert(
    fc.property(fc.array(size), fc.bigInt({ min: 0n, max: 2n ** 62n }), (sizes, start) => {
      const sum = { ...parseSum(start) };
      let exact = start;
      for (const bytes of sizes) {
        addBytes(sum, bytes);
        exact += BigInt(bytes);
      }
      expect(isNegativeSum(sum)).toBe(exact < 0n);
      expect(sum).toEqual(parseSum(exact));
      if (exact < 0n) return;
      expect(storedSum(sum)).toBe(exact);
      expect(shownSum(sum)).toBe(Number(exact < 2n ** 53n ? exact : 2n ** 53n - 1n));
    }),
  );
});

test('a sum that SQLite has no integer for is not stored', () => {
  expect(storedSum(parseSum(2n ** 63n - 1n))).toBe(2n ** 63n - 1n);
  expect(storedSum(parseSum(2n ** 63n))).toBeUndefined();
  expect(storedSum(NO_BYTES)).toBe(0n);
});
