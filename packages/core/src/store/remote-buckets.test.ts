/** Buckets whose objects others put, change and delete in tier 2. */
import { readFileSync, rmSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isStoreError, MiB, StoreError } from '@ebb/protocol';
import {
  buffered,
  bytesOf,
  mirrored,
  openStoreInTest,
  override,
  type TestStore,
} from '@ebb/testkit';
import { describe, expect, test } from 'vitest';
import { crc32c } from '../checksum.ts';

interface Fetched {
  readonly reads: { name: string; position: number; length: number }[];
  fetches: number;
  /** That became known by reading a whole blob. */
  readonly checksums: number[];
}

async function open(
  policy: Partial<typeof buffered> = {},
  options: { readonly diskBytes?: number } = {},
): Promise<TestStore & { readonly fetched: Fetched }> {
  const fetched: Fetched = { reads: [], fetches: 0, checksums: [] };
  const buckets = { lake: { ...buffered, ...policy } };
  const at = await openStoreInTest(buckets, {
    ...options,
    faults: {
      catalog: (catalog) =>
        override(catalog, {
          setBlobChecksum: async (blobId, crc) => {
            fetched.checksums.push(crc);
            await catalog.setBlobChecksum(blobId, crc);
          },
        }),
      remote: (remote) =>
        override(remote, {
          read: async (name, target, position, readOptions) => {
            fetched.reads.push({ name, position, length: target.byteLength });
            await remote.read(name, target, position, readOptions);
          },
          fetch: async (...args) => {
            fetched.fetches++;
            return await remote.fetch(...args);
          },
        }),
    },
  });
  return { ...at, fetched };
}

/** As somebody with an S3 client does. */
async function putBehind(at: TestStore, key: string, bytes: Uint8Array): Promise<void> {
  const file = join(at.root, 'remote/lake', key);
  await mkdir(dirname(file), { recursive: true });
  rmSync(file, { force: true });
  await writeFile(file, bytes);
}

const sync = (at: TestStore, options: { remove: boolean; prefix?: string } = { remove: false }) =>
  at.store.sync('lake', options.prefix ?? '', options);
const list = async (at: TestStore): Promise<string[]> =>
  (
    await at.store.list('lake', { prefix: '', delimiter: '', startAfter: '', limit: 1000 })
  ).objects.map(({ object }) => `${object.key} ${object.sizeBytes}`);

describe('sync', () => {
  test('a bucket that exists in tier 2 appears, and no byte of it is fetched before it is read', async () => {
    const at = await open();
    await putBehind(at, 'a', Buffer.from('from elsewhere'));
    await putBehind(at, 'dir/b', bytesOf(100_000, 1));
    await putBehind(at, 'empty', Buffer.alloc(0));
    expect(await sync(at)).toMatchObject({ added: 3, updated: 0, removed: 0, bytes: 100_014 });
    expect(await list(at)).toEqual(['a 14', 'dir/b 100000', 'empty 0']);
    expect(at.fetched).toEqual({ reads: [], fetches: 0, checksums: [] });
    const view = await at.store.head({ bucket: 'lake', key: 'dir/b' });
    expect(view).toMatchObject({ durability: 'remote', tiers: [2] });
    expect((await at.get('lake', 'a')).toString()).toBe('from elsewhere');
    expect((await at.get('lake', 'dir/b')).equals(bytesOf(100_000, 1))).toBe(true);
    expect((await at.get('lake', 'empty')).length).toBe(0);
    expect(at.fetched.fetches).toBe(2);
    await at.get('lake', 'dir/b'); // from here
    expect(at.fetched.fetches).toBe(2);
    expect((await at.store.verify({})).broken).toEqual([]);
  });

  test('again it finds nothing new; what changed or went behind us is followed, below the prefix only', async () => {
    const at = await open();
    for (const key of ['p/changed', 'p/gone', 'p/same', 'q/gone'])
      await putBehind(at, key, Buffer.from('first'));
    await sync(at);
    expect(await sync(at)).toMatchObject({ added: 0, updated: 0, unchanged: 4 });
    await putBehind(at, 'p/changed', Buffer.from('second!'));
    for (const key of ['p/gone', 'q/gone']) rmSync(join(at.root, 'remote/lake', key));
    expect(await sync(at)).toMatchObject({ added: 0, updated: 1, removed: 0 });
    const followed = await sync(at, { remove: true, prefix: 'p/' });
    expect(followed).toMatchObject({ updated: 0, removed: 1, unchanged: 2 });
    expect(await list(at)).toEqual(['p/changed 7', 'p/same 5', 'q/gone 5']);
    expect((await at.get('lake', 'p/changed')).toString()).toBe('second!');
  });

  test('what was written here and is on its way wins', async () => {
    const at = await open();
    await putBehind(at, 'k', Buffer.from('theirs'));
    await sync(at);
    await at.put('lake', 'k', Buffer.from('ours'));
    await sync(at, { remove: true });
    expect((await at.get('lake', 'k')).toString()).toBe('ours');
    await mirrored(at);
    expect(readFileSync(join(at.root, 'remote/lake/k'), 'utf8')).toBe('ours');
  });

  test('an object of ours that was stored there is no news', async () => {
    const at = await open();
    await at.put('lake', 'k', Buffer.from('ours'));
    await mirrored(at);
    expect(await sync(at, { remove: true })).toMatchObject({ unchanged: 1 });
  });

  test('a bucket that is not there is an error', async () => {
    const at = await open();
    const error: unknown = await at.store.sync('none', '', { remove: false }).catch((e) => e);
    expect(isStoreError(error, 'bucket_not_found')).toBe(true);
  });
});

describe('an object that is changed in tier 2 behind us (§13.11)', () => {
  test('is noticed by its ETag when it is fetched, and the new one is given', async () => {
    const at = await open();
    await putBehind(at, 'k', Buffer.from('first'));
    await sync(at);
    await putBehind(at, 'k', Buffer.from('second!'));
    expect((await at.get('lake', 'k')).toString()).toBe('second!');
    expect(await list(at)).toEqual(['k 7']);
  });

  test('is never mixed with its former self: a read under way fails, the next open gives the new one', async () => {
    const at = await open();
    await putBehind(at, 'k', bytesOf(20 * MiB, 1));
    await sync(at);
    const ref = { bucket: 'lake', key: 'k' };
    const opened = await at.store.open(at.owner, ref, { ranges: true });
    await at.store.read(at.owner, opened.leaseId, Buffer.alloc(100), 0);
    await putBehind(at, 'k', bytesOf(20 * MiB, 2));
    const read = at.store.read(at.owner, opened.leaseId, Buffer.alloc(100), 15 * MiB);
    await expect(read).rejects.toMatchObject({ code: 'superseded' });
    const again = await at.store.open(at.owner, ref, { ranges: true });
    const target = Buffer.alloc(100);
    await at.store.read(at.owner, again.leaseId, target, 15 * MiB);
    expect(target.equals(bytesOf(20 * MiB, 2).subarray(15 * MiB, 15 * MiB + 100))).toBe(true);
  });

  test('where the bucket says that others change it, also a copy that is here is compared first', async () => {
    const at = await open({ revalidateMs: 0 });
    await putBehind(at, 'k', Buffer.from('first'));
    await sync(at);
    expect((await at.get('lake', 'k')).toString()).toBe('first');
    await putBehind(at, 'k', Buffer.from('second!'));
    expect((await at.store.head({ bucket: 'lake', key: 'k' })).object.sizeBytes).toBe(7);
    expect((await at.get('lake', 'k')).toString()).toBe('second!');
    rmSync(join(at.root, 'remote/lake/k'));
    expect(await at.store.find({ bucket: 'lake', key: 'k' })).toBeUndefined();
  });

  test('while tier 2 is away, what is here is given', async () => {
    let isAway = false;
    const buckets = { lake: { ...buffered, revalidateMs: 0 } };
    const at = await openStoreInTest(buckets, {
      faults: {
        remote: (remote) =>
          override(remote, {
            head: async (name) => {
              if (isAway) throw new StoreError('io_failed', 'away');
              return await remote.head(name);
            },
          }),
      },
    });
    await putBehind(at, 'k', Buffer.from('first'));
    await sync(at);
    await at.get('lake', 'k');
    isAway = true;
    expect((await at.get('lake', 'k')).toString()).toBe('first');
  });

  test('an object that was deleted there is lost, and says so, where nobody was to delete it', async () => {
    const at = await open();
    await at.put('lake', 'k', Buffer.from('ours'));
    await mirrored(at);
    await at.store.relocate({ bucket: 'lake', key: 'k' }, 2);
    rmSync(join(at.root, 'remote/lake/k'));
    await expect(at.get('lake', 'k')).rejects.toMatchObject({ code: 'data_lost' });
  });
});

describe('ranges of a large object in tier 2', () => {
  const content = bytesOf(40 * MiB + 12_345, 7);
  const openLarge = async (options: { readonly diskBytes?: number } = {}) => {
    const at = await open({}, options);
    await putBehind(at, 'large', content);
    await sync(at);
    const ref = { bucket: 'lake', key: 'large' };
    const { leaseId } = await at.store.open(at.owner, ref, { ranges: true });
    const read = async (position: number, length: number): Promise<void> => {
      const target = Buffer.alloc(length);
      await at.store.read(at.owner, leaseId, target, position);
      expect(target.equals(content.subarray(position, position + length))).toBe(true);
    };
    const bytes = (): number => at.fetched.reads.reduce((sum, { length }) => sum + length, 0);
    return { at, read, bytes };
  };

  test('only what is read is fetched, and only once', async () => {
    const { at, read, bytes } = await openLarge();
    await read(content.length - 64_000, 64_000);
    expect(bytes()).toBeLessThanOrEqual(2 * MiB);
    const before = bytes();
    await read(content.length - 8, 8);
    await read(content.length - 64_000, 64_000);
    expect(bytes()).toBe(before);
    await read(10 * MiB - 5, 10); // over the border of two chunks
    expect(bytes()).toBe(before + 2 * MiB);
    await Promise.all(Array.from({ length: 20 }, async () => await read(20 * MiB, 1000)));
    expect(bytes()).toBe(before + 3 * MiB);
    expect(at.fetched.fetches).toBe(0);
  });

  test('who reads on gets larger pieces at once; a second time nothing is fetched, and its checksum is known then', async () => {
    const { at, read, bytes } = await openLarge();
    const readAll = async (): Promise<void> => {
      for (let position = 0; position < content.length; position += 300_000)
        await read(position, Math.min(300_000, content.length - position));
    };
    await readAll();
    expect(bytes()).toBe(content.length);
    expect(at.fetched.reads.length).toBeLessThan(12);
    await readAll();
    expect(bytes()).toBe(content.length);
    expect(at.fetched.checksums).toEqual([crc32c(content)]);
  });

  test('what is kept of it makes way for writers', async () => {
    const { at, read } = await openLarge({ diskBytes: 48 * MiB });
    await read(0, 100);
    expect(at.tiers.disk.usage().usedBytes).toBeGreaterThan(40 * MiB);
    await at.put('lake', 'ours', bytesOf(30 * MiB, 2));
    expect((await at.get('lake', 'ours')).equals(bytesOf(30 * MiB, 2))).toBe(true);
    await read(5 * MiB, 100); // without room it is fetched, and not kept
  });

  test('when the object goes, what was kept of it goes', async () => {
    const { at, read } = await openLarge();
    await read(0, 100);
    await at.store.delete({ bucket: 'lake', key: 'large' });
    expect(at.tiers.disk.usage().usedBytes).toBe(0);
  });
});
