import { existsSync, readdirSync } from 'node:fs';
import { appendFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { isStoreError, MiB } from '@ebb/protocol';
import { smallTmpfs, tempDir } from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';
import { Conditions } from '../store/conditions.ts';
import type { BucketPolicy, Catalog } from './catalog.ts';
import { CatalogRoom } from './catalog-room.ts';
import { openSqliteCatalog } from './sqlite-catalog.ts';
import { CATALOG_FILE } from './sqlite-file.ts';

const POLICY: BucketPolicy = {
  preset: 'ephemeral',
  ack: 'memory',
  mirror: false,
  ttlMs: null,
  quotaBytes: null,
  remote: null,
  revalidateMs: null,
  versioning: 'off',
};
const bucket = (name: string) => ({ name, createdAtMs: 1, policy: POLICY });

test('what adds to the catalog is refused from when little is left until there is twice that', () => {
  const conditions = new Conditions();
  const space = { availableBytes: 100 * MiB, totalBytes: 1024 * MiB };
  let now = 0;
  const room = new CatalogRoom({
    ...{ directory: '/data/catalog', conditions, space: () => space, now: () => (now += 1000) },
  });
  onTestFinished(() => room.close());
  const seen = [8, 7, 0, 9, 15, 16, 9].map((mib) => {
    space.availableBytes = mib * MiB;
    try {
      room.assertMayGrow();
      return 'takes';
    } catch (error) {
      expect(error).toMatchObject({ code: 'tier_full', details: { availableBytes: mib * MiB } });
      expect(conditions.list()).toMatchObject([{ name: 'catalog_full', subject: 'catalog' }]);
      return 'refuses';
    }
  });
  expect(seen).toEqual(['takes', 'refuses', 'refuses', 'refuses', 'refuses', 'takes', 'takes']);
  expect(conditions.list()).toEqual([]);
});

test('where others take all that is freed, deletions and starts go on, and additions are refused', async () => {
  const parent = await smallTmpfs(32 * MiB);
  if (parent === undefined) return;
  const directory = join(parent, 'catalog');
  const open = async (): Promise<Catalog> =>
    await openSqliteCatalog({ directory, keepsRoom: true });
  const others = join(parent, 'others');
  const fill = async (): Promise<void> => {
    for (const size of [MiB, 4096])
      while (
        await appendFile(others, Buffer.alloc(size)).then(
          () => true,
          () => false,
        )
      );
  };
  const names = Array.from({ length: 60 }, (_, i) => `bucket-${i}`);
  let catalog = await open();
  for (const name of names) await catalog.createBucket(bucket(name));
  // Clean, and as after a kill: the log is there, and nobody closed it.
  for (const isClean of [true, false]) {
    await fill();
    for (const name of names.splice(0, 20)) {
      await catalog.deleteBucket(name);
      await fill();
    }
    // The last look at the file system may be a moment old.
    await expect
      .poll(async () => {
        const name = `more-${names.length}`;
        const error = await catalog.createBucket(bucket(name)).then(
          () => void names.push(name),
          (thrown: unknown) => thrown,
        );
        return isStoreError(error, 'tier_full');
      })
      .toBe(true);
    await expect(catalog.putBlockSums(1, 0, [1])).rejects.toMatchObject({ code: 'tier_full' });
    expect((await catalog.createBucket(bucket(names[0] as string))).created).toBe(false);
    if (isClean) {
      await catalog.close();
      await fill();
      catalog = await open();
    }
    expect((await catalog.listBuckets()).map(({ name }) => name).sort()).toEqual([...names].sort());
  }
  await rm(others);
  await expect
    .poll(
      async () =>
        await catalog.createBucket(bucket('more')).then(
          () => 'taken',
          () => 'refused',
        ),
    )
    .toBe('taken');
  await catalog.close();
});

test('the log keeps its blocks over a clean close, and what an older log held is not read again', async () => {
  const directory = join(await tempDir('/dev/shm'), 'catalog');
  const database = join(directory, CATALOG_FILE);
  const open = async (): Promise<Catalog> =>
    await openSqliteCatalog({ directory, keepsRoom: true });
  const first = await open();
  await first.createBucket(bucket('kept'));
  await first.createBucket(bucket('gone'));
  const { size } = await stat(`${database}-wal`);
  expect(size).toBe(16 * MiB);
  await first.close();
  expect(readdirSync(directory).sort()).toEqual([CATALOG_FILE, `${CATALOG_FILE}-reserve`]);
  // Somebody else changes the database meanwhile: the old log must not bring its pages back.
  const other = new DatabaseSync(database);
  other.exec("update meta set value = 7 where name = 'created_at'; pragma journal_mode=DELETE;");
  other.close();
  const second = await open();
  expect((await stat(`${database}-wal`)).size).toBe(size);
  expect(existsSync(`${database}-reserve`)).toBe(false);
  await second.deleteBucket('gone');
  await second.close();
  const check = new DatabaseSync(database, { readOnly: true });
  expect(check.prepare('pragma integrity_check').get()).toEqual({ integrity_check: 'ok' });
  expect(check.prepare("select value from meta where name = 'created_at'").get()).toEqual({
    value: 7,
  });
  check.close();
  const third = await open();
  expect((await third.listBuckets()).map(({ name }) => name)).toEqual(['kept']);
  await third.close();
});
