/** Races between movers, which the store as a whole meets rarely: here each is brought about. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { isStoreError, StoreError } from '@ebb/protocol';
import {
  buffered,
  ephemeral,
  mirrored,
  openStoreInTest,
  override,
  type TestStore,
  type TestStoreOptions,
} from '@ebb/testkit';
import { expect, test, vi } from 'vitest';

async function open(faults: TestStoreOptions['faults'] = {}): Promise<TestStore> {
  return await openStoreInTest({ mem: ephemeral, buf: buffered }, { faults });
}

test('a version that was overtaken while it went to tier 2 does not delete its successor there (I6)', async () => {
  const gate = Promise.withResolvers<void>();
  let puts = 0;
  const at = await open({
    remote: (remote) =>
      override(remote, {
        put: async (...args) => {
          if (++puts === 1) await gate.promise; // the first version is slow
          return await remote.put(...args);
        },
      }),
  });
  await at.put('buf', 'k', Buffer.from('first'));
  await vi.waitFor(() => expect(puts).toBe(1));
  const second = at.put('buf', 'k', Buffer.from('second!'));
  await vi.waitFor(() => expect(puts).toBe(2), { timeout: 200 }).catch(() => undefined);
  gate.resolve();
  await second;
  await mirrored(at);
  await at.store.relocate({ bucket: 'buf', key: 'k' }, 2);
  expect((await at.get('buf', 'k')).toString()).toBe('second!');
  expect((await at.store.verify({})).broken).toEqual([]);
});

test('a name that was freed by a rename is not deleted with the object that had it before (I6)', async () => {
  const at = await open();
  await at.put('buf', 'a', Buffer.from('first'));
  await mirrored(at);
  await at.store.rename({ bucket: 'buf', key: 'a' }, { bucket: 'buf', key: 'b' });
  await at.put('buf', 'a', Buffer.from('second'));
  await mirrored(at);
  await at.store.delete({ bucket: 'buf', key: 'b' });
  await at.store.relocate({ bucket: 'buf', key: 'a' }, 2);
  expect((await at.get('buf', 'a')).toString()).toBe('second');
});

test('two blobs that want one name in tier 2 at the same time get two names (I6)', async () => {
  const gate = Promise.withResolvers<void>();
  let puts = 0;
  const at = await open({
    remote: (remote) =>
      override(remote, {
        put: async (...args) => {
          if (++puts === 1) await gate.promise;
          return await remote.put(...args);
        },
      }),
  });
  await at.put('buf', 'a', Buffer.from('first'));
  await vi.waitFor(() => expect(puts).toBe(1)); // on its way as buf/a
  await at.store.rename({ bucket: 'buf', key: 'a' }, { bucket: 'buf', key: 'b' });
  await at.put('buf', 'a', Buffer.from('second'));
  await vi.waitFor(() => expect(puts).toBe(2));
  gate.resolve();
  await mirrored(at);
  for (const key of ['a', 'b']) await at.store.relocate({ bucket: 'buf', key }, 2);
  expect((await at.store.verify({})).broken).toEqual([]);
  expect((await at.get('buf', 'b')).toString()).toBe('first');
  expect((await at.get('buf', 'a')).toString()).toBe('second');
});

test('a copy that cannot be published is not left behind, in no tier (I2)', async () => {
  let isRefusing = false;
  const at = await open({
    catalog: (catalog) =>
      override(catalog, {
        setBlobCopies: (...args) =>
          isRefusing
            ? Promise.reject(new StoreError('busy', 'the catalog is busy'))
            : catalog.setBlobCopies(...args),
      }),
  });
  await at.put('mem', 'k', Buffer.alloc(10_000, 7));
  isRefusing = true;
  for (const tier of [1, 2] as const)
    await expect(at.store.relocate({ bucket: 'mem', key: 'k' }, tier)).rejects.toMatchObject({
      code: 'busy',
    });
  expect(at.tiers.disk.usage().usedBytes).toBe(0);
  expect(existsSync(join(at.root, 'remote', 'mem'))).toBe(false);
  isRefusing = false;
  expect((await at.store.relocate({ bucket: 'mem', key: 'k' }, 1)).tiers).toEqual([1]);
});

test("a file whose filling failed is nobody else's afterwards: what filled it may still write", async () => {
  const at = await open({
    remote: (remote) =>
      override(remote, {
        fetch: () => Promise.reject(new StoreError('io_failed', 'tier 2 does not answer')),
      }),
  });
  await at.put('mem', 'k', Buffer.alloc(100_000, 7));
  await at.store.relocate({ bucket: 'mem', key: 'k' }, 2);
  const before = at.tiers.memory.usage().pooledBytes;
  const back = at.store.relocate({ bucket: 'mem', key: 'k' }, 0);
  await expect(back).rejects.toMatchObject({ code: 'io_failed' });
  expect(before).toBeGreaterThan(0); // the file of its first copy, which the second one took
  expect(at.tiers.memory.usage().pooledBytes).toBe(0);
});

test('a tier that fails while it seals gives its room back', async () => {
  let fails = true;
  const at = await open({
    disk: (disk) =>
      override(disk, {
        seal: (...args) => {
          if (fails) throw new StoreError('io_failed', 'the disk fails');
          return disk.seal(...args);
        },
      }),
  });
  await at.put('mem', 'k', Buffer.alloc(10_000, 7));
  await expect(at.store.relocate({ bucket: 'mem', key: 'k' }, 1)).rejects.toMatchObject({
    code: 'io_failed',
  });
  expect(at.tiers.disk.usage().usedBytes).toBe(0);
  fails = false;
  await at.store.relocate({ bucket: 'mem', key: 'k' }, 1);
  expect(await at.get('mem', 'k')).toEqual(Buffer.alloc(10_000, 7));
});

test('a blob is readable at every moment of every move (I4)', async () => {
  const at = await open();
  const whole = Buffer.alloc(100_000, 3);
  await at.put('mem', 'k', whole);
  const { object } = await at.store.head({ bucket: 'mem', key: 'k' });
  const blobId = object.extents[0]?.blobId as number;
  let isDone = false;
  let reads = 0;
  const readers = Array.from({ length: 4 }, async () => {
    const target = Buffer.alloc(whole.length);
    for (; !isDone; reads++) {
      target.fill(0);
      await at.store.readBlob(blobId, target, 0);
      expect(target.equals(whole)).toBe(true);
      await at.store.locate(blobId, whole.length);
    }
  });
  for (let round = 0; round < 60; round++)
    await at.store
      .relocate({ bucket: 'mem', key: 'k' }, ([1, 2, 0] as const)[round % 3] as 0 | 1 | 2)
      .catch((error: unknown) => {
        if (!isStoreError(error, 'busy')) throw error; // readers hold what was given up a moment ago
      });
  isDone = true;
  await Promise.all(readers);
  expect(reads).toBeGreaterThan(40);
});
