import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RecentMap } from './recent-map.ts';

test('the last keys that were set are kept, with their last value, and the size stays bounded', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(20), fc.nat())),
      fc.integer({ min: 1, max: 8 }),
      (sets, keepMin) => {
        const map = new RecentMap<number, number>(keepMin);
        for (const [key, value] of sets) map.set(key, value);
        const last = new Map(sets);
        const recent = [...new Set(sets.map(([key]) => key).reverse())].slice(0, keepMin);
        for (const key of recent) expect(map.get(key)).toBe(last.get(key));
        const kept = [...last.keys()].filter((key) => map.get(key) !== undefined);
        expect(kept.length).toBeLessThanOrEqual(2 * keepMin);
      },
    ),
  );
});

test('a deleted key is gone from both generations', () => {
  const map = new RecentMap<string, number>(1);
  map.set('a', 1);
  map.delete('a');
  expect(map.get('a')).toBeUndefined();
});
