import { KiB, MiB } from '@ebb/protocol';
import { createTestClock } from '@ebb/testkit';
import { expect, test } from 'vitest';
import { LastRoom } from './last-room.ts';

function start(usedBytes: number) {
  const clock = createTestClock(0);
  const disk = { usedBytes, capacityBytes: 100 * MiB };
  let isInVain = true;
  const room = new LastRoom({
    clock,
    settings: { diskMarks: { high: 0.9, low: 0.8 } },
    disk: { usage: () => ({ ...disk, pooledBytes: 0, blobs: 0 }) },
    spiller: { isInVain: () => isInVain },
  });
  const take = (bytes: number): boolean =>
    room.take(bytes, () => {
      if (disk.usedBytes + bytes > disk.capacityBytes) return undefined;
      disk.usedBytes += bytes;
      return true;
    }) ?? false;
  return { clock, disk, room, take, mayGo: () => (isInVain = false) };
}

test('the last of the room is given out ever more slowly, and then there is none', async () => {
  const { clock, room, take } = start(94 * MiB);
  for (let i = 0; i < 16; i++) expect(take(64 * KiB)).toBe(true); // not scarce yet
  const waits: number[] = [];
  for (let isTaken = true; isTaken; ) {
    const from = clock.monotonic();
    for (isTaken = take(512 * KiB); !isTaken && room.isHeldFor(512 * KiB); ) {
      await clock.advance(100);
      isTaken = take(512 * KiB);
    }
    if (isTaken) waits.push(clock.monotonic() - from);
  }
  expect(waits).toHaveLength(10);
  expect(waits).toEqual(waits.toSorted((a, b) => a - b));
  const wholeMs = waits.reduce((sum, wait) => sum + wait, 0);
  expect(wholeMs).toBeGreaterThan(15_000);
  expect(wholeMs).toBeLessThan(60_000);
});

test('one that is too large for what is left does not wait for it, and slows nobody', async () => {
  const { room, take } = start(98 * MiB);
  expect(take(3 * MiB)).toBe(false);
  expect(room.isHeldFor(3 * MiB)).toBe(false);
  expect(take(1 * MiB)).toBe(true);
  expect(room.isHeldFor(1 * MiB)).toBe(true);
});

test('nobody is slowed while something may still go, nor while there is room enough', () => {
  const scarce = start(96 * MiB);
  scarce.mayGo();
  for (let i = 0; i < 4; i++) expect(scarce.take(1 * MiB)).toBe(true);
  expect(scarce.room.isHeldFor(1)).toBe(false);
  const roomy = start(80 * MiB);
  for (let i = 0; i < 15; i++) expect(roomy.take(1 * MiB)).toBe(true);
});
