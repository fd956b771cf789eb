import { readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { StoreError } from '@ebb/protocol';
import {
  buffered,
  bytesOf as bytes,
  ephemeral,
  mirrored,
  openTestStore,
  override,
  type TestStore,
} from '@ebb/testkit';
import { expect, onTestFinished, test, vi } from 'vitest';
import { Conditions } from './conditions.ts';
import { LifeLog } from './life-log.ts';
import { TierPresence } from './tier-presence.ts';

const size = 30_000;

async function filled(): Promise<TestStore> {
  const at = await openTestStore();
  onTestFinished(async () => await at.close());
  await at.store.createBucket('mem', ephemeral);
  await at.store.createBucket('buf', buffered);
  await at.put('mem', 'gone', bytes(size, 1));
  await at.put('buf', 'kept', bytes(size, 2), { ack: 'disk' });
  return at;
}

test('a memory directory that is removed while the node runs is made anew: what only it had is told as lost, and all else goes on', async () => {
  const at = await filled();
  at.tiers.memory.trimPool(0);
  rmSync(at.tiers.memory.root, { recursive: true });
  expect(() => at.tiers.memory.create(2 ** 40, size)).toThrow(
    expect.objectContaining({
      code: 'io_failed',
      message: expect.stringContaining(`${at.tiers.memory.root} does not exist`),
    }),
  );
  await vi.waitFor(async () => await at.put('mem', 'new', bytes(size, 3)));
  expect(await at.get('mem', 'new')).toEqual(bytes(size, 3));
  expect(await at.get('buf', 'kept')).toEqual(bytes(size, 2));
  await vi.waitFor(async () => {
    await expect(at.store.head({ bucket: 'mem', key: 'gone' })).rejects.toMatchObject({
      code: 'data_lost',
    });
    // The room of what is lost is free again.
    expect(at.tiers.memory.usage().usedBytes).toBeLessThan(2 * size);
  });
  expect(at.failures).toEqual([]);
});

test('a disk directory that is moved away while the node runs is a condition until it is back, and nothing is given up', async () => {
  const at = await filled();
  const conditions = new Conditions();
  const log = new LifeLog({ subjectsMax: 1, eventsMax: 1, now: () => 0 });
  const placement = { exclusively: () => expect.unreachable(), giveUp: () => undefined };
  const { memory, disk } = at.tiers;
  const presence = new TierPresence({
    ...{ catalog: at.catalog, memory, disk, placement, conditions, log },
  });
  const { root } = disk;
  renameSync(root, `${root}-away`);
  for (let i = 0; i < 2; i++) await presence.sweep();
  expect(conditions.list()).toMatchObject([
    {
      ...{ name: 'tier_away', subject: 'disk', effect: 'refuses_new_data' },
      ...{ lastError: 'io_failed', reason: expect.stringContaining(`${root} does not exist`) },
    },
  ]);
  await expect(at.put('buf', 'new', bytes(size, 3), { ack: 'disk' })).rejects.toMatchObject({
    code: 'io_failed',
  });
  await at.put('mem', 'new', bytes(size, 4));
  renameSync(`${root}-away`, root);
  await presence.sweep();
  expect(conditions.list()).toEqual([]);
  expect(await at.get('buf', 'kept')).toEqual(bytes(size, 2));
  await at.put('buf', 'new', bytes(size, 3), { ack: 'disk' });
  expect((await at.store.verify({})).broken).toEqual([]);
});

test('what a disk has that is away is neither given up as broken, when a client misses its file, nor as lost on the way to tier 2', async () => {
  let isOn = false;
  let asked = 0;
  const at = await openTestStore({
    faults: {
      remote: (tier) =>
        override(tier, {
          put: async (...args) => {
            asked++;
            if (!isOn) throw new StoreError('io_failed', 'no answer');
            return await tier.put(...args);
          },
        }),
    },
  });
  onTestFinished(async () => await at.close());
  await at.store.createBucket('buf', buffered);
  await at.put('buf', 'a', bytes(size, 1), { ack: 'disk', tier: 1 });
  await vi.waitFor(() => expect(asked).toBeGreaterThan(0));
  const { root } = at.tiers.disk;
  renameSync(root, `${root}-away`);
  const [extent] = (await at.catalog.findObject('buf', 'a'))?.extents ?? [];
  await expect(
    at.store.resolve(extent?.blobId as number, size, { suspect: true }),
  ).rejects.toMatchObject({ code: 'io_failed' });
  isOn = true;
  const before = asked;
  await vi.waitFor(() => expect(asked).toBeGreaterThan(before));
  renameSync(`${root}-away`, root);
  expect(await at.get('buf', 'a')).toEqual(bytes(size, 1));
  await mirrored(at);
  expect(readFileSync(join(at.root, 'remote/buf/a'))).toEqual(bytes(size, 1));
});
