/** The promises of waiting (W1 to W4 of wait.ts), on a real store whose tier 2 can be held up. */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { StoreError } from '@ebb/protocol';
import {
  buffered,
  codeOf,
  createTestClock,
  ephemeral,
  openStoreInTest,
  override,
  reopen,
  type TestStore,
  type TestStoreOptions,
} from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';

async function open(options: TestStoreOptions = {}): Promise<TestStore> {
  return await openStoreInTest({ mem: ephemeral, buf: buffered }, options);
}

/** A store whose tier 2 takes nothing before `let` is called. */
async function openHeldUp(
  options: TestStoreOptions = {},
): Promise<{ readonly at: TestStore; readonly begun: Promise<void>; readonly let: () => void }> {
  const gate = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<void>();
  const at = await open({
    ...options,
    faults: {
      remote: (remote) =>
        override(remote, {
          put: async (...args) => {
            begun.resolve();
            await gate.promise;
            return await remote.put(...args);
          },
        }),
    },
  });
  onTestFinished(() => gate.resolve()); // before the store closes
  return { at, begun: begun.promise, let: gate.resolve };
}

const bytes = Buffer.alloc(30_000, 7);
const ref = { bucket: 'buf', key: 'k' };

test('what is as durable as asked resolves at once, and says what holds', async () => {
  const at = await open();
  await at.put('mem', 'k', bytes);
  const inMemory = await at.store.wait({ bucket: 'mem', key: 'k' }, 'memory');
  expect(inMemory.durability).toBe('memory');
  await at.put('buf', 'k', bytes, { ack: 'remote' });
  const { object, durability } = await at.store.wait(ref, 'remote');
  expect([object.key, durability]).toEqual(['k', 'remote']);
});

test('waiting for remote resolves when tier 2 has the bytes, and not before', async () => {
  const { at, begun, let: go } = await openHeldUp();
  await at.put('buf', 'k', bytes);
  let isDone = false;
  const waiting = at.store.wait(ref, 'remote').finally(() => {
    isDone = true;
  });
  await begun;
  expect((await at.store.head(ref)).durability).toBe('disk');
  expect(isDone).toBe(false);
  go();
  expect((await waiting).durability).toBe('remote');
  expect((await at.store.head(ref)).tiers).toContain(2);
});

test('waiting for disk makes the copy: the object outlives the loss of all memory', async () => {
  const synced: number[] = [];
  const at = await open({
    faults: {
      disk: (disk) =>
        override(disk, {
          sync: async (blobId) => {
            await disk.sync(blobId);
            synced.push(blobId);
          },
        }),
    },
  });
  await at.put('mem', 'k', bytes);
  await at.put('mem', 'lost', bytes);
  const { object, durability } = await at.store.wait({ bucket: 'mem', key: 'k' }, 'disk');
  expect(durability).toBe('disk');
  expect(synced).toEqual([object.extents[0]?.blobId]);
  const after = await reopen(at, { loseMemory: true, faults: {} });
  expect(await after.get('mem', 'k')).toEqual(bytes);
  expect(await codeOf(after.get('mem', 'lost'))).toBe('data_lost');
});

test('waiting for disk syncs a copy that was only spilled', async () => {
  const synced: number[] = [];
  const at = await open({
    faults: {
      disk: (disk) =>
        override(disk, {
          sync: async (blobId) => {
            synced.push(blobId);
            await disk.sync(blobId);
          },
        }),
    },
  });
  await at.put('mem', 'k', bytes);
  const { object } = await at.store.relocate({ bucket: 'mem', key: 'k' }, 1);
  expect(synced).toEqual([]);
  await at.store.wait({ bucket: 'mem', key: 'k' }, 'disk');
  expect(synced).toEqual([object.extents[0]?.blobId]);
});

test('who gives up waiting for disk is let go; the copy is made all the same', async () => {
  const gate = Promise.withResolvers<void>();
  const at = await open({
    faults: {
      mover: (mover) =>
        override(mover, {
          copy: async (job) => {
            await gate.promise;
            return await mover.copy(job);
          },
        }),
    },
  });
  onTestFinished(() => gate.resolve());
  const name = { bucket: 'mem', key: 'k' };
  await at.put('mem', 'k', bytes);
  const givesUp = new AbortController();
  const first = codeOf(at.store.wait(name, 'disk', { signal: givesUp.signal }));
  const second = at.store.wait(name, 'disk');
  givesUp.abort();
  expect(await first).toBe('aborted');
  gate.resolve();
  expect((await second).durability).toBe('disk');
  expect((await at.store.head(name)).tiers).toEqual([0, 1]);
});

test('waiting for disk says when there is no room, and leaves the object', async () => {
  const at = await open({ diskBytes: 16 * 1024 });
  await at.put('mem', 'k', bytes);
  await expect(at.store.wait({ bucket: 'mem', key: 'k' }, 'disk')).rejects.toMatchObject({
    code: 'tier_full',
    retry: 'never', // the whole disk is smaller than it
  });
  expect(await at.get('mem', 'k')).toEqual(bytes);
});

test('a bucket that is not mirrored says so at once; what is in tier 2 all the same is fine', async () => {
  const at = await open();
  const name = { bucket: 'mem', key: 'k' };
  await at.put('mem', 'k', bytes);
  expect(await codeOf(at.store.wait(name, 'remote'))).toBe('not_mirrored');
  await at.store.relocate(name, 2);
  expect((await at.store.wait(name, 'remote')).durability).toBe('remote');
});

test('an object that is not there, and another version than asked for, are told at once', async () => {
  const at = await open();
  expect(await codeOf(at.store.wait(ref, 'disk'))).toBe('not_found');
  expect(await codeOf(at.store.wait({ bucket: 'none', key: 'k' }, 'disk'))).toBe(
    'bucket_not_found',
  );
  await at.put('buf', 'k', bytes);
  const { version } = (await at.store.head(ref)).object;
  expect(await codeOf(at.store.wait(ref, 'disk', { version }))).toBe('none');
  expect(await codeOf(at.store.wait(ref, 'disk', { version: version + 1 }))).toBe(
    'precondition_failed',
  );
});

test('a wait ends when the object is deleted, and when another version replaces it', async () => {
  const { at, begun, let: go } = await openHeldUp();
  await at.put('buf', 'k', bytes);
  await at.put('buf', 'other', bytes);
  const deleted = codeOf(at.store.wait(ref, 'remote'));
  const replaced = codeOf(at.store.wait({ bucket: 'buf', key: 'other' }, 'remote'));
  await begun;
  const changes = [at.store.delete(ref), at.put('buf', 'other', bytes)];
  expect(await deleted).toBe('not_found');
  expect(await replaced).toBe('precondition_failed');
  go(); // the files of what was deleted go after the mover is done with them
  await Promise.all(changes);
});

test('a wait ends when the object is renamed: the next sweep sees it', async () => {
  const clock = createTestClock();
  const { at, begun } = await openHeldUp({ clock });
  await at.put('buf', 'k', bytes);
  const waiting = codeOf(at.store.wait(ref, 'remote'));
  await begun;
  await at.store.rename(ref, { bucket: 'buf', key: 'k2' });
  await clock.advance(1000);
  expect(await waiting).toBe('not_found');
});

test('a wait outlives an outage of tier 2', async () => {
  let failures = 0;
  const at = await open({
    faults: {
      remote: (remote) =>
        override(remote, {
          put: (...args) =>
            ++failures <= 2
              ? Promise.reject(new StoreError('io_failed', 'away'))
              : remote.put(...args),
        }),
    },
  });
  await at.put('buf', 'k', bytes);
  expect((await at.store.wait(ref, 'remote')).durability).toBe('remote');
  expect(failures).toBe(3);
});

test('a wait for bytes that are broken everywhere ends', async () => {
  const { at, begun, let: go } = await openHeldUp();
  await at.put('buf', 'first', bytes);
  await at.put('buf', 'k', bytes);
  await begun;
  const { object } = await at.store.head(ref);
  const file = openSync(at.tiers.disk.absolutePath(object.extents[0]?.blobId as number), 'r+');
  const byte = Buffer.alloc(1);
  readSync(file, byte, 0, 1, 5);
  byte[0] = (byte[0] as number) ^ 0xff;
  writeSync(file, byte, 0, 1, 5);
  closeSync(file);
  const waiting = codeOf(at.store.wait(ref, 'remote'));
  go();
  expect(await waiting).toBe('data_corrupt');
});

test('a caller that gives up is let go, and so is everyone when the node stops', async () => {
  const { at, begun, let: go } = await openHeldUp();
  await at.put('buf', 'k', bytes);
  await begun;
  const givesUp = new AbortController();
  const aborted = codeOf(at.store.wait(ref, 'remote', { signal: givesUp.signal }));
  const drained = codeOf(at.store.wait(ref, 'remote'));
  givesUp.abort();
  expect(await aborted).toBe('aborted');
  await at.store.drain({ persist: false, deadlineMs: 1 });
  expect(await drained).toBe('draining');
  go();
});

test('an object of several parts waits for all of them, and an empty one for none', async () => {
  const { at, begun, let: go } = await openHeldUp();
  for (const part of ['1', '2', '3']) await at.put('buf', part, bytes);
  const sources = ['1', '2', '3'].map((key) => ({ bucket: 'buf', key }));
  const joining = at.store.compose(ref, sources, {});
  await begun;
  go();
  await joining;
  await at.store.wait(ref, 'remote');
  expect((await at.store.head(ref)).durability).toBe('remote');
  await at.put('buf', 'empty', Buffer.alloc(0));
  expect((await at.store.wait({ bucket: 'buf', key: 'empty' }, 'remote')).durability).toBe(
    'remote',
  );
});
