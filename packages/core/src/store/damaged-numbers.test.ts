/** Numbers in the catalog that are damaged, or larger than JavaScript counts: a node starts, counts again, and goes on. */
import { cpSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { GiB } from '@ebb/protocol';
import { codeOf, ephemeral, openStoreInTest, type TestStore } from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';
import type { Catalog } from '../catalog/catalog.ts';
import { openSqliteCatalog } from '../catalog/sqlite-catalog.ts';
import { OBJECT_BYTES_MAX } from '../limits.ts';

type Sql = (sql: string, ...values: (string | number | bigint)[]) => Record<string, unknown>[];

function changeCatalog(directory: string, change: (sql: Sql) => void): void {
  const database = new DatabaseSync(join(directory, 'catalog.sqlite'));
  change((sql, ...values) => {
    const statement = database.prepare(sql);
    statement.setReadBigInts(true);
    return statement.all(...values);
  });
  database.close();
}

/** The store after its process was killed, its catalog was changed behind it, and it was started again. */
async function damaged(t: TestStore, change: (sql: Sql) => void): Promise<TestStore> {
  const next = await t.crash({
    meanwhile: (root) => {
      changeCatalog(join(root, 'catalog'), change);
    },
  });
  onTestFinished(() => next.close());
  return next;
}

/** A store that has a row of each kind. */
async function openWithRows(): Promise<TestStore> {
  const t = await openStoreInTest({});
  await t.store.createBucket('bkt', ephemeral);
  await t.store.createBucket('kept', {
    ...ephemeral,
    mirror: true,
    versioning: 'enabled',
    events: true,
  });
  await t.store.openJob({
    jobId: 'job',
    label: 'a job',
    heartbeatTtlMs: 60_000,
    budgetBytes: null,
  });
  await t.put('bkt', 'a', Buffer.alloc(1000, 1), { jobId: 'job' });
  await t.put('bkt', 'b', Buffer.alloc(2000, 2), { ack: 'disk' });
  await t.put('kept', 'c', Buffer.alloc(3000, 3));
  return t;
}

async function expectWorks(t: TestStore): Promise<void> {
  await t.put('bkt', 'new', Buffer.from('new'));
  expect(await t.get('bkt', 'new')).toEqual(Buffer.from('new'));
  await t.store.delete({ bucket: 'bkt', key: 'new' });
  await t.store.totals();
  await t.store.spool();
  await t.store.listJobs();
  for (const { name } of await t.store.listBuckets()) await t.store.bucketTotals(name);
}

const ABSURD = [2n ** 62n, 2n ** 63n - 1n, -(2n ** 63n), -7n, 2n ** 53n];

/** Does what `damaged` does, with the catalog alone: it was closed in good order each time. */
async function catalogsOf(t: TestStore): Promise<(change: (sql: Sql) => void) => Promise<Catalog>> {
  const directory = join(t.root, 'catalog');
  await t.crash({
    meanwhile: (root) => cpSync(join(root, 'catalog'), `${directory}-copy`, { recursive: true }),
  });
  let open: Catalog | undefined;
  onTestFinished(() => open?.close());
  return async (change) => {
    await open?.close();
    changeCatalog(`${directory}-copy`, change);
    open = await openSqliteCatalog({ directory: `${directory}-copy` });
    return open;
  };
}

test('a damaged or absurd counter is counted again at the start, whichever row it is', async () => {
  const after = await catalogsOf(await openWithRows());
  const good = { objects: 2, sizeBytes: 3000 };
  const rows: unknown[] = [];
  expect(
    await (await after((sql) => rows.push(...sql('select * from counters')))).bucketTotals('bkt'),
  ).toEqual(good);
  expect(rows.length).toBeGreaterThan(5);
  for (const column of ['count', 'bytes'])
    for (const value of [...ABSURD, 123_456n])
      for (const row of rows.keys()) {
        const catalog = await after((sql) => {
          sql(
            `update counters set ${column} = ? where (scope, name) in (select scope, name from counters limit 1 offset ?)`,
            value,
            row,
          );
        });
        expect(await catalog.bucketTotals('bkt')).toEqual(good);
        expect((await catalog.jobTotals('job')).sizeBytes).toBe(1000);
      }
  const catalog = await after((sql) => {
    sql('delete from counters where scope = 4');
  });
  expect(await catalog.bucketTotals('bkt')).toEqual(good);
});

test('a damaged number of whatever row and column keeps no node from starting', async () => {
  let t = await openWithRows();
  const columns: { table: string; column: string }[] = [];
  t = await damaged(t, (sql) => {
    for (const { name: table } of sql("select name from sqlite_schema where type = 'table'"))
      for (const { name, type, pk } of sql(`pragma table_info(${String(table)})`))
        if (type === 'INTEGER' && pk === 0n)
          columns.push({ table: String(table), column: String(name) });
  });
  expect(columns.length).toBeGreaterThan(25);
  let restore = (_sql: Sql): void => undefined;
  for (const { table, column } of columns)
    for (const value of [2n ** 62n, -7n]) {
      t = await damaged(t, (sql) => {
        restore(sql);
        sql(`create table undamaged as select * from ${table}`);
        sql(`update ${table} set ${column} = ?`, value);
      });
      restore = (sql) => {
        sql(`delete from ${table}`);
        sql(`insert into ${table} select * from undamaged`);
        sql('drop table undamaged');
      };
      await t.store.totals();
    }
  t = await damaged(t, restore);
  await expectWorks(t);
}, 120_000);

test('ids go on behind all that are in use after what reserved them was damaged', async () => {
  const t = await openWithRows();
  const inUse = (await t.store.head({ bucket: 'kept', key: 'c' })).object.version;
  const after = await catalogsOf(t);
  for (const name of [
    'ids_reserved',
    'bucket_ids_reserved',
    'event_ids_reserved',
    'events_trimmed',
  ])
    for (const value of [2n ** 63n - 1n, -5n, 0n, 'text']) {
      const catalog = await after((sql) => {
        sql('update meta set value = ? where name = ?', value, name);
      });
      const id = await catalog.nextIds(1);
      expect(id).toBeGreaterThan(inUse);
      const bucket = `bucket-${id}`;
      await catalog.createBucket({ name: bucket, createdAtMs: 1, policy: ephemeral });
      expect(await catalog.bucketTotals(bucket)).toEqual({ objects: 0, sizeBytes: 0 });
      const afterEventId = await catalog.lastEventId();
      await catalog.deleteBucket(bucket);
      expect((await catalog.listEvents({ afterEventId, limit: 1 })).events).toEqual([]);
    }
});

test('sums of sizes beyond 2^53 and beyond 2^63 are exact or shown as the most, and the catalog opens', async () => {
  let t = await openStoreInTest({});
  await t.store.createBucket('bkt', ephemeral);
  await t.put('bkt', 'base', Buffer.alloc(1000, 1));
  // It looks as if sparse objects had been joined, when that had no bound.
  t = await damaged(t, (sql) => {
    sql(
      `with recursive n(i) as (select 1 union all select i + 1 from n where i < 33000)
       insert into objects (bucket, key, version, size, job, created_at, pinned, expires, body)
       select bucket, 'c' || i, version, ?, null, created_at, 0, 0, body from objects, n where key = 'base'`,
      2n ** 48n - 1n,
    );
  });
  expect(await t.store.bucketTotals('bkt')).toEqual({
    objects: 33_001,
    sizeBytes: Number.MAX_SAFE_INTEGER,
  });
  await expectWorks(t);
  t = await damaged(t, (sql) => {
    sql("delete from objects where key like 'c%' and key <> 'c1'");
  });
  expect(await t.store.bucketTotals('bkt')).toEqual({
    objects: 2,
    sizeBytes: 2 ** 48 + 999,
  });
}, 60_000);

test('an object is at most as large however it comes to be: written, joined or copied', async () => {
  const t = await openStoreInTest({ bkt: ephemeral }, { diskBytes: 6 * GiB });
  const ref = (key: string): { bucket: string; key: string } => ({ bucket: 'bkt', key });
  // The file is sparse.
  const sizeBytes = 5 * GiB;
  const staged = await t.store.stage(t.owner, ref('base'), { reserveBytes: sizeBytes, tier: 1 });
  truncateSync(staged.absolutePath, sizeBytes);
  await t.store.commit(t.owner, staged.writeId, { sizeBytes, crc32c: 1 });
  const parts = Array.from({ length: OBJECT_BYTES_MAX / sizeBytes }, () => ref('base'));
  await t.store.compose(ref('large'), parts, {});
  const tooMany = [...parts, ref('base')];
  expect(await codeOf(t.store.compose(ref('larger'), tooMany, {}))).toBe('too_large');
  expect(
    await codeOf(t.store.stage(t.owner, ref('s'), { reserveBytes: OBJECT_BYTES_MAX + 1 })),
  ).toBe('too_large');
  // An older version joined them: it can be read and renamed, and not be copied.
  const next = await damaged(t, (sql) => {
    sql("update objects set size = ? where key = 'large'", BigInt(OBJECT_BYTES_MAX + 1));
  });
  expect(await codeOf(next.store.copy(ref('large'), ref('copy')))).toBe('too_large');
  const prefixes = [
    { bucket: 'bkt', prefix: 'lar' },
    { bucket: 'bkt', prefix: 'x/' },
  ] as const;
  const options = { overwrite: false, exact: false };
  expect(await codeOf(next.store.copyPrefix(...prefixes, options))).toBe('too_large');
  await next.store.rename(ref('large'), ref('moved'));
});
