/** Objects that are made up of very many pieces: what is done with them has a bound, and others have their turn meanwhile. */
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { MiB } from '@ebb/protocol';
import { codeOf, ephemeral, openStoreInTest, reopen, type TestStore } from '@ebb/testkit';
import { expect, test } from 'vitest';
import { decodeObjectBody, encodeObjectBody } from '../catalog/catalog-records.ts';
import { EXTENTS_MAX } from '../limits.ts';

const ref = (key: string): { bucket: string; key: string } => ({ bucket: 'bkt', key });
const BASE = Buffer.from(Array.from({ length: 1000 }, (_, at) => at % 251));

/** `pieces` times the same ten bytes of `base`, which no two neighbours are of one piece. */
async function compose(t: TestStore, key: string, pieces: number, from = 'base'): Promise<void> {
  const source = { ...ref(from), offset: 10, length: 10 };
  await t.store.compose(
    ref(key),
    Array.from({ length: pieces }, () => source),
    {},
  );
}

async function range(t: TestStore, key: string, from: number, to: number): Promise<Buffer> {
  const opened = await t.store.open(t.owner, ref(key), { ranges: true });
  const target = Buffer.alloc(to - from);
  await t.store.read(t.owner, opened.leaseId, target, from);
  t.store.release(t.owner, [opened.leaseId]);
  return target;
}

async function extents(t: TestStore, key: string): Promise<number> {
  return (await t.store.head(ref(key))).object.extents.length;
}

/** How often others had their turn while the work was done. */
async function turnsDuring(work: () => Promise<unknown>): Promise<number> {
  let turns = 0;
  let isDone = false;
  const others = (): void => {
    turns++;
    if (!isDone) setImmediate(others);
  };
  setImmediate(others);
  await work();
  isDone = true;
  return turns;
}

async function openWithBase(): Promise<TestStore> {
  const t = await openStoreInTest({ bkt: ephemeral });
  await t.put('bkt', 'base', BASE);
  return t;
}

test('what would have more extents than an object may have is written anew, as one', async () => {
  const t = await openWithBase();
  await compose(t, 'most', EXTENTS_MAX);
  expect(await extents(t, 'most')).toBe(EXTENTS_MAX);
  const parts = [ref('most'), ref('base'), ref('most')];
  await t.store.compose(ref('more'), parts, {});
  expect(await extents(t, 'more')).toBe(1);
  const most = Buffer.concat(Array.from({ length: EXTENTS_MAX }, () => BASE.subarray(10, 20)));
  expect(await t.get('bkt', 'more')).toEqual(Buffer.concat([most, BASE, most]));
  // A short range of it has few.
  await t.store.compose(ref('part'), [{ ...ref('most'), offset: 5, length: 20 }], {});
  expect(await extents(t, 'part')).toBe(3);
  expect(await t.get('bkt', 'part')).toEqual(most.subarray(5, 25));
});

test('what is written anew of many sources takes them away, and says so when it does not fit', async () => {
  const t = await openWithBase();
  for (let at = 0; at < 70; at++) await compose(t, `p${at}`, 150);
  const parts = Array.from({ length: 70 }, (_, at) => ({ ...ref(`p${at}`), consume: true }));
  await t.store.compose(ref('whole'), parts, {});
  expect(await extents(t, 'whole')).toBe(1);
  expect(
    (
      await t.store.list('bkt', { prefix: '', delimiter: '', startAfter: '', limit: 100 })
    ).objects.map(({ object }) => object.key),
  ).toEqual(['base', 'whole']);
  expect((await t.get('bkt', 'whole')).length).toBe(70 * 1500);
  await t.put('bkt', 'large', Buffer.alloc(MiB));
  const large = Array.from({ length: EXTENTS_MAX + 1 }, () => ref('large'));
  expect(await codeOf(t.store.compose(ref('too-large'), large, {}))).toBe('tier_full');
});

test('a range of an object with many extents reads its own, and the object may go meanwhile', async () => {
  const t = await openWithBase();
  await compose(t, 'k', 5000);
  for (const [from, to] of [
    [0, 1],
    [9, 11],
    [24_995, 25_005],
    [49_999, 50_000],
    [0, 50_000],
  ] as const) {
    const expected = Buffer.from(
      Array.from({ length: to - from }, (_, at) => BASE[10 + ((from + at) % 10)] as number),
    );
    expect(await range(t, 'k', from, to)).toEqual(expected);
  }
  const opened = await t.store.open(t.owner, ref('k'), { ranges: true });
  await t.store.delete(ref('k'));
  await t.store.delete(ref('base'));
  await t.put('bkt', 'other', Buffer.alloc(1000, 9)); // would take the file
  const target = Buffer.alloc(10);
  await t.store.read(t.owner, opened.leaseId, target, 40_000);
  expect(target).toEqual(BASE.subarray(10, 20));
  t.store.release(t.owner, [opened.leaseId]);
});

test('an object of 600,000 extents that an older version made is served, and others have their turn', async () => {
  const COUNT = 600_000;
  const first = await openWithBase();
  const t = await reopen(first, {
    meanwhile: (root) => {
      const database = new DatabaseSync(join(root, 'catalog', 'catalog.sqlite'));
      const row = database.prepare("select body from objects where key = 'base'").get();
      const body = decodeObjectBody(row?.['body'] as Uint8Array);
      const { blobId } = body.extents[0] as { blobId: number };
      const many = Array.from({ length: COUNT }, (_, at) => ({
        blobId,
        offset: at % 2 === 0 ? 10 : 30,
        length: 10,
      }));
      database
        .prepare("update objects set body = ?, size = ? where key = 'base'")
        .run(encodeObjectBody({ ...body, crc32c: null, extents: many }), COUNT * 10);
      database.prepare('update blobs set refs = ?').run(COUNT);
      database.close();
    },
  });
  const turns = await turnsDuring(async () => {
    expect((await t.store.head(ref('base'))).tiers).toEqual([0]);
  });
  expect(turns).toBeGreaterThan(10);
  expect(await turnsDuring(() => range(t, 'base', 5_000_001, 5_000_002))).toBeGreaterThan(10);
  expect(await range(t, 'base', 5_000_005, 5_000_015)).toEqual(
    Buffer.concat([BASE.subarray(15, 20), BASE.subarray(30, 35)]),
  );
  const page = await t.store.listRecords('bkt', {
    prefix: '',
    delimiter: '',
    startAfter: '',
    limit: 10,
  });
  expect(page.objects[0]?.sizeBytes).toBe(COUNT * 10);
  expect(await codeOf(t.store.open(t.owner, ref('base')))).toBe('unsupported');
  await t.store.rename(ref('base'), ref('moved'));
  await t.store.delete(ref('moved'));
  expect((await t.store.totals()).blobs).toBe(0);
});
