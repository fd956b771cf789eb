import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Retained, type Retention, stepsToRemove } from './retention.ts';

const ALL: Retention = { keepLast: null, keepEvery: null, maxAgeMs: null, maxBytes: null };

function snapshot(step: number, changes: Partial<Retained> = {}): Retained {
  return {
    ...{ step, sequence: step, ageMs: 0, pinned: false, isBad: false, isSafe: true },
    ...{ objects: new Map([[`data-${step}`, 100]]), imageBytes: 100 },
    ...changes,
  };
}

const sorted = (steps: readonly number[]): number[] => steps.toSorted((a, b) => a - b);

test('the last ones stay, and those at every so many steps', () => {
  const snapshots = [10, 20, 30, 40, 50, 60].map((step) => snapshot(step));
  expect(sorted(stepsToRemove(snapshots, { ...ALL, keepLast: 2, keepEvery: 30 }))).toEqual([
    10, 20, 40,
  ]);
});

test('one that is not durable yet does not push out the last that is', () => {
  const snapshots = [snapshot(1), snapshot(2, { isSafe: false }), snapshot(3, { isSafe: false })];
  expect(stepsToRemove(snapshots, { ...ALL, keepLast: 1 })).toEqual([2]);
});

test('bad ones do not count: the good ones before them stay', () => {
  const snapshots = [snapshot(1), snapshot(2), snapshot(3, { isBad: true })];
  expect(stepsToRemove(snapshots, { ...ALL, keepLast: 2 })).toEqual([]);
});

test('by bytes, what is shared counts once, and the oldest go first', () => {
  const shared = new Map([['base', 1000]]);
  const snapshots = [1, 2, 3, 4].map((step) =>
    snapshot(step, { objects: new Map([...shared, [`data-${step}`, 100]]) }),
  );
  expect(stepsToRemove(snapshots, { ...ALL, maxBytes: 1400 })).toEqual([]);
  expect(sorted(stepsToRemove(snapshots, { ...ALL, maxBytes: 1250 }))).toEqual([1, 2]);
});

test('whatever the policy, the newest good one stays, the newest durable good one, and what is pinned', () => {
  const anySnapshot = fc.record({
    ...{ ageMs: fc.nat(2000), pinned: fc.boolean(), isBad: fc.boolean() },
    ...{ sequence: fc.nat(1_000_000) },
    ...{ isSafe: fc.boolean(), imageBytes: fc.nat(1000) },
    objects: fc.constant(new Map<string, number>()),
  });
  const orNull = fc.option(fc.integer({ min: 1, max: 2000 }), { nil: null });
  const anyPolicy = fc.record({
    ...{ keepLast: orNull, keepEvery: orNull, maxAgeMs: orNull, maxBytes: orNull },
  });
  fc.assert(
    fc.property(
      fc.uniqueArray(anySnapshot, { maxLength: 20, selector: ({ sequence }) => sequence }),
      anyPolicy,
      (anys, policy) => {
        const snapshots = anys
          .map((any, n) => ({ ...any, step: n * 3 }))
          .toSorted((a, b) => a.sequence - b.sequence);
        const left = new Set(snapshots.map(({ step }) => step));
        for (const step of stepsToRemove(snapshots, policy)) left.delete(step);
        const good = snapshots.filter(({ isBad }) => !isBad).toReversed();
        const stays = [good[0], good.find(({ isSafe }) => isSafe)].flatMap((one) => one ?? []);
        for (const { step } of [...stays, ...snapshots.filter(({ pinned }) => pinned)])
          expect(left.has(step)).toBe(true);
      },
    ),
  );
});
