import { MiB } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { Conditions } from './conditions.ts';
import { RoomWatch } from './room-watch.ts';

/** A tier of 100 MiB on a file system of which a test says what is left. */
function openWatch(): {
  tier: { usedBytes: number; leftBytes: number };
  watch: RoomWatch;
  refuse: (needBytes: number) => void;
  refuseAtLimit: (needBytes: number) => void;
  isHeld: () => boolean;
  isAtLimit: () => boolean;
} {
  const tier = { usedBytes: 0, leftBytes: 100 * MiB };
  const watched = {
    ...{ name: 'disk' as const, root: '/data/disk' },
    usage: () => ({
      ...{ capacityBytes: 100 * MiB, usedBytes: tier.usedBytes, pooledBytes: 0, blobs: 0 },
    }),
    availableBytes: () => tier.leftBytes,
  };
  const conditions = new Conditions();
  const watch = new RoomWatch([watched], conditions);
  return {
    ...{ tier, watch },
    refuse: (needBytes) => void watch.noteRefused(watched, needBytes),
    refuseAtLimit: (needBytes) => watch.noteAtLimit(watched, needBytes),
    isAtLimit: () => conditions.has('tier_at_limit', 'disk'),
    isHeld: () => conditions.has('tier_without_room', 'disk'),
  };
}

test('a file system that others filled is a condition, from before nothing is left until there is twice that', () => {
  const { tier, watch, isHeld } = openWatch();
  const seen = [5, 3, 0, 5, 7, 9, 5].map((left) => {
    tier.leftBytes = left * MiB;
    watch.look();
    return isHeld();
  });
  expect(seen).toEqual([false, true, true, true, true, false, false]);
});

test('a tier that is full by its own limit is in no such condition', () => {
  const { tier, watch, isHeld } = openWatch();
  tier.usedBytes = 99 * MiB;
  tier.leftBytes = 2 * MiB;
  watch.look();
  expect(isHeld()).toBe(false);
});

test('a disk tier from which nothing can go is one, from a write without room until there is twice that', () => {
  const { tier, watch, refuseAtLimit, isAtLimit } = openWatch();
  tier.usedBytes = 60 * MiB;
  refuseAtLimit(5 * MiB); // by the file system, not by the limit
  expect(isAtLimit()).toBe(false);
  const seen = [99, 97, 94, 89].map((used, n) => {
    tier.usedBytes = used * MiB;
    if (n === 0) refuseAtLimit(5 * MiB);
    watch.look();
    return isAtLimit();
  });
  expect(seen).toEqual([true, true, true, false]);
});

test('a write that found no room begins it, but one that asks for very much does not', () => {
  const { tier, refuse, isHeld } = openWatch();
  tier.leftBytes = 70 * MiB;
  refuse(99 * MiB);
  expect(isHeld()).toBe(false);
  tier.leftBytes = 20 * MiB;
  refuse(30 * MiB);
  expect(isHeld()).toBe(true);
});
