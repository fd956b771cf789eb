import fc from 'fast-check';
import { expect, test } from 'vitest';
import { POOL_OVERSIZE_FACTOR, POOL_OVERSIZE_SLACK_BYTES, POOL_UNDERSIZE_PART } from '../limits.ts';
import { SlotPool } from './slot-pool.ts';

interface Slot {
  readonly id: number;
  readonly presentBytes: number;
}

/** The rule, said the slow way, on slots in order of arrival. */
function modelTake(slots: readonly Slot[], need: number): Slot | undefined {
  const max = Math.max(need * POOL_OVERSIZE_FACTOR, need + POOL_OVERSIZE_SLACK_BYTES);
  const newestFirst = slots.toReversed();
  const enough = newestFirst.filter((s) => s.presentBytes >= need && s.presentBytes <= max);
  if (enough.length > 0) return enough.reduce((a, b) => (b.presentBytes < a.presentBytes ? b : a));
  const part = newestFirst.filter(
    (s) => s.presentBytes < need && s.presentBytes >= need * POOL_UNDERSIZE_PART,
  );
  return part.length === 0
    ? undefined
    : part.reduce((a, b) => (b.presentBytes > a.presentBytes ? b : a));
}

test('takes the best fit, the newest of equals, and keeps its sums', () => {
  const size = fc.oneof(
    fc.nat(20),
    fc.nat(8).map((n) => n * 1024 * 1024),
  );
  const step = fc.record({
    kind: fc.constantFrom('add' as const, 'add' as const, 'take' as const, 'oldest' as const),
    bytes: size,
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const pool = new SlotPool<Slot>();
      let model: Slot[] = [];
      for (const [id, { kind, bytes }] of steps.entries()) {
        if (kind === 'add') {
          const slot = { id, presentBytes: bytes };
          pool.add(slot);
          model.push(slot);
        } else {
          const expected = kind === 'take' ? modelTake(model, bytes) : model[0];
          expect(kind === 'take' ? pool.take(bytes) : pool.takeOldest()).toBe(expected);
          model = model.filter((slot) => slot !== expected);
        }
        expect(pool.size).toBe(model.length);
        expect(pool.bytes).toBe(model.reduce((sum, slot) => sum + slot.presentBytes, 0));
      }
    }),
  );
});

test('a slot that is hopelessly small or wastefully large stays in the pool', () => {
  const pool = new SlotPool<Slot>();
  pool.add({ id: 1, presentBytes: 64 * 1024 * 1024 });
  expect(pool.take(4096)).toBeUndefined();
  expect(pool.take(1024 * 1024 * 1024)).toBeUndefined();
  expect(pool.take(100 * 1024 * 1024)?.id).toBe(1);
});
