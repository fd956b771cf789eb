/** Fault model: the disk takes files, and its syncs fail while a test says so. */
import { StoreError } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { Conditions } from './conditions.ts';
import { DiskHealth } from './disk-health.ts';

test('a disk that fails syncs is a condition until one that is tried in between succeeds', async () => {
  const conditions = new Conditions();
  let works = false;
  let files = 0;
  const sync = async (): Promise<void> => {
    if (!works) throw new StoreError('io_failed', 'syncing blob 7 in tier disk: EIO');
  };
  const health = new DiskHealth({
    disk: {
      ...{ name: 'disk', root: '/data/disk', sync },
      create: (blobId) => {
        files++;
        return { blobId, allocatedBytes: 4096, path: '', slotId: 0 };
      },
      write: async () => undefined,
      remove: () => {
        files--;
      },
    },
    conditions,
    nextId: async () => 1,
  });
  await health.sweep();
  await expect(health.watch(sync)).rejects.toMatchObject({ code: 'io_failed' });
  expect(conditions.list()).toMatchObject([
    {
      ...{ name: 'tier_failed', subject: 'disk', effect: 'refuses_new_data' },
      ...{ lastError: 'io_failed', reason: expect.stringContaining('/data/disk fails: syncing') },
    },
  ]);
  for (let i = 0; i < 5; i++) await health.sweep();
  expect(conditions.list()).toHaveLength(1);
  works = true;
  for (let i = 0; i < 5; i++) await health.sweep();
  expect(conditions.list()).toEqual([]);
  expect(files).toBe(0);
});
