/**
 * Others put, change and delete objects in tier 2. Nothing of theirs is ever removed or replaced there but by a write that somebody
 * made to that very name here.
 *
 * The faults: `put` and `delete` of tier 2 may do their work and lose the answer, `head` may say that nothing is there, and a
 * listing may come back short.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { StoreError } from '@ebb/protocol';
import {
  buffered,
  createTestClock,
  ephemeral,
  mirrored,
  openStoreInTest,
  openTestStore,
  override,
  type TestStore,
  type TestStoreOptions,
} from '@ebb/testkit';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import type { VersionRecord } from '../catalog/catalog.ts';
import { versionIdOf } from './versions.ts';

interface Faults {
  losesPuts: number;
  losesDeletes: number;
  hides: number;
  cutsLists: number;
  isAway: boolean;
}

const NO_FAULTS: Faults = { losesPuts: 0, losesDeletes: 0, hides: 0, cutsLists: 0, isAway: false };

function harmed(faults: Faults): NonNullable<TestStoreOptions['faults']> {
  const lost = (): never => {
    throw new StoreError('io_failed', 'the answer was lost');
  };
  const ask = (): void => {
    if (faults.isAway) throw new StoreError('io_failed', 'away');
  };
  return {
    remote: (remote) =>
      override(remote, {
        put: async (...args) => {
          ask();
          const made = await remote.put(...args);
          return faults.losesPuts-- > 0 ? lost() : made;
        },
        delete: async (...args) => {
          ask();
          await remote.delete(...args);
          if (faults.losesDeletes-- > 0) lost();
        },
        head: async (name) => {
          ask();
          return faults.hides-- > 0 ? undefined : await remote.head(name);
        },
        list: async function* list(...args) {
          ask();
          if (faults.cutsLists-- > 0) return;
          yield* remote.list(...args);
        },
      }),
  };
}

async function open(
  policy: Partial<typeof buffered> = {},
  options: TestStoreOptions = {},
): Promise<TestStore & { readonly faults: Faults }> {
  const faults = { ...NO_FAULTS };
  const at = await openStoreInTest(
    { lake: { ...buffered, ...policy }, mem: ephemeral },
    { faults: harmed(faults), ...options },
  );
  return { ...at, faults };
}

const fileOf = (at: TestStore, name: string): string => join(at.root, 'remote', name);

async function putBehind(at: TestStore, name: string, text: string): Promise<void> {
  const file = fileOf(at, name);
  await mkdir(dirname(file), { recursive: true });
  rmSync(file, { force: true });
  writeFileSync(file, text);
}

function there(at: TestStore, name: string): string | undefined {
  const file = fileOf(at, name);
  return existsSync(file) ? readFileSync(file, 'utf8') : undefined;
}

async function keys(at: TestStore, bucket = 'lake'): Promise<string[]> {
  const options = { prefix: '', delimiter: '', startAfter: '', limit: 1000 };
  return (await at.store.listRecords(bucket, options)).objects.map(({ key }) => key);
}

const lake = (key: string) => ({ bucket: 'lake', key });

describe('what was learned from tier 2 is not sent to tier 2', () => {
  test('an object that others deleted, and put anew after a sync, stays', async () => {
    const at = await open();
    for (const key of ['a', 'b']) await putBehind(at, `lake/${key}`, 'theirs');
    await at.store.sync('lake', '', { remove: false });
    rmSync(fileOf(at, 'lake/b'));
    expect(await at.store.sync('lake', '', { remove: true })).toMatchObject({ removed: 1 });
    expect((await at.store.spool()).entries).toBe(0);
    await putBehind(at, 'lake/b', 'anew');
    await at.put('lake', 'other', Buffer.from('ours'));
    await mirrored(at);
    expect(there(at, 'lake/b')).toBe('anew');
  });

  test('a read that finds an object gone in tier 2 forgets it here, and sends no deletion', async () => {
    const at = await open({ revalidateMs: 0 });
    await putBehind(at, 'lake/k', 'theirs');
    await at.store.sync('lake', '', { remove: false });
    rmSync(fileOf(at, 'lake/k'));
    expect(await at.store.find(lake('k'))).toBeUndefined();
    await putBehind(at, 'lake/k', 'anew');
    expect((await at.store.spool()).entries).toBe(0);
    expect(there(at, 'lake/k')).toBe('anew');
  });

  test('one answer that says an object is gone removes nothing, here or there', async () => {
    const at = await open({ revalidateMs: 0 });
    await putBehind(at, 'lake/k', 'theirs');
    await at.store.sync('lake', '', { remove: false });
    at.faults.hides = 1;
    expect((await at.get('lake', 'k')).toString()).toBe('theirs');
    await mirrored(at);
    expect(there(at, 'lake/k')).toBe('theirs');
  });

  test('a listing that comes back short removes nothing, here or there', async () => {
    const at = await open();
    for (let i = 0; i < 24; i++) await putBehind(at, `lake/${i}`, 'theirs');
    await at.store.sync('lake', '', { remove: false });
    at.faults.cutsLists = 1;
    const report = await at.store.sync('lake', '', { remove: true });
    expect(report).toMatchObject({ removed: 0, missing: 0, unchanged: 24 });
    expect(await keys(at)).toHaveLength(24);
    await mirrored(at);
    for (let i = 0; i < 24; i++) expect(there(at, `lake/${i}`)).toBe('theirs');
  });

  test('a directory that is not mounted is away, and not empty', async () => {
    const at = await open({ revalidateMs: 0 });
    await putBehind(at, 'lake/k', 'theirs');
    await at.store.sync('lake', '', { remove: false });
    rmSync(join(at.root, 'remote'), { recursive: true });
    await mkdir(join(at.root, 'remote'));
    await expect(at.store.sync('lake', '', { remove: true, force: true })).rejects.toMatchObject({
      code: 'io_failed',
    });
    expect(await at.store.find(lake('k'))).toBeDefined();
  });
});

describe('sync --remove', () => {
  test('refuses to remove most of what is known unless it is told to, and says how much it is', async () => {
    const at = await open();
    for (let i = 0; i < 40; i++) await putBehind(at, `lake/${i}`, 'theirs');
    await at.store.sync('lake', '', { remove: false });
    for (let i = 0; i < 11; i++) rmSync(fileOf(at, `lake/${i}`));
    const refused = await at.store.sync('lake', '', { remove: true });
    expect(refused).toMatchObject({ removed: 0, missing: 11 });
    expect(refused.removalRefused).toContain('11 of 40');
    expect(await keys(at)).toHaveLength(40);
    const forced = await at.store.sync('lake', '', { remove: true, force: true });
    expect(forced).toMatchObject({ removed: 11, missing: 11 });
    expect(await keys(at)).toHaveLength(29);
    expect((await at.store.spool()).entries).toBe(0);
  });

  test('refuses to remove all where nothing is left in tier 2', async () => {
    const at = await open();
    for (const key of ['a', 'b']) await putBehind(at, `lake/${key}`, 'theirs');
    await at.store.sync('lake', '', { remove: false });
    for (const key of ['a', 'b']) rmSync(fileOf(at, `lake/${key}`));
    expect(await at.store.sync('lake', '', { remove: true })).toMatchObject({
      ...{ removed: 0, missing: 2, removalRefused: expect.stringContaining('2 of 2') },
    });
    expect(await keys(at)).toEqual(['a', 'b']);
  });

  test('a dry run tells what would be done, and does nothing', async () => {
    const at = await open();
    for (const key of ['a', 'b', 'c']) await putBehind(at, `lake/${key}`, 'first');
    await at.store.sync('lake', '', { remove: false });
    await putBehind(at, 'lake/a', 'second');
    rmSync(fileOf(at, 'lake/b'));
    await putBehind(at, 'lake/d', 'new');
    const options = { remove: true, dryRun: true };
    expect(await at.store.sync('lake', '', options)).toMatchObject({
      ...{ added: 1, updated: 1, removed: 1, unchanged: 1, missing: 1 },
    });
    expect(await keys(at)).toEqual(['a', 'b', 'c']);
  });

  test('an object that the store does not show is told, and the others are taken in', async () => {
    const hidden = new StoreError('io_failed', 'access denied', { status: 403 });
    const at = await openStoreInTest(
      { lake: buffered },
      {
        faults: {
          remote: (remote) =>
            override(remote, {
              head: async (name) => {
                if (name.endsWith('secret')) throw hidden;
                return await remote.head(name);
              },
            }),
        },
      },
    );
    for (const key of ['a', 'secret', 'z']) await putBehind(at, `lake/${key}`, 'theirs');
    // A listing of a store tells no content type either.
    expect(await at.store.sync('lake', '', { remove: false })).toMatchObject({
      ...{ added: 2, refused: [{ key: 'secret', problem: 'access denied' }] },
    });
    expect(await keys(at)).toEqual(['a', 'z']);
  });
});

describe('a deletion here', () => {
  test('deletes in tier 2 what was seen there, and leaves what others put in its place', async () => {
    const at = await open();
    for (const key of ['seen', 'changed']) await putBehind(at, `lake/${key}`, 'first');
    await at.store.sync('lake', '', { remove: false });
    await putBehind(at, 'lake/changed', 'second');
    for (const key of ['seen', 'changed']) await at.store.delete(lake(key));
    await mirrored(at);
    expect(there(at, 'lake/seen')).toBeUndefined();
    expect(there(at, 'lake/changed')).toBe('second');
  });

  test('leaves what others put under the name of an object that was never sent', async () => {
    const at = await open();
    at.faults.isAway = true;
    await at.put('lake', 'k', Buffer.from('ours'));
    await at.store.delete(lake('k'));
    await putBehind(at, 'lake/k', 'theirs');
    at.faults.isAway = false;
    await vi.waitFor(async () => expect((await at.store.spool()).entries).toBe(0), 20_000);
    expect(there(at, 'lake/k')).toBe('theirs');
  });

  test('finds the object of a put whose answer was lost by its bytes', async () => {
    const clock = createTestClock();
    const at = await open({}, { clock });
    at.faults.losesPuts = 1;
    await at.put('lake', 'k', Buffer.from('ours'));
    await vi.waitFor(() => expect(at.failures).toHaveLength(1));
    expect(there(at, 'lake/k')).toBe('ours');
    await at.store.delete(lake('k'));
    await clock.advance(120_000);
    await mirrored(at);
    expect(there(at, 'lake/k')).toBeUndefined();
  });

  test('of a whole prefix, of a renamed object, and by an exact copy leaves what others changed since', async () => {
    const at = await open();
    for (const key of ['p/a', 'p/b', 'q/a', 'r/a']) await putBehind(at, `lake/${key}`, 'first');
    await at.put('lake', 's/x', Buffer.from('kept'));
    await mirrored(at);
    await at.store.sync('lake', '', { remove: false });
    for (const key of ['p/a', 'q/a', 'r/a']) await putBehind(at, `lake/${key}`, 'second');
    await at.store.deletePrefix('lake', 'p/');
    await at.put('lake', 'fresh', Buffer.from('x'));
    const [from, to] = [
      { bucket: 'lake', prefix: 's/' },
      { bucket: 'lake', prefix: 'r/' },
    ];
    await at.store.copyPrefix(from, to, { overwrite: true, exact: true });
    await at.store.delete(lake('q/a'));
    await mirrored(at);
    expect(there(at, 'lake/p/b')).toBeUndefined();
    for (const key of ['p/a', 'q/a', 'r/a']) expect(there(at, `lake/${key}`)).toBe('second');
  });
});

test('a copy whose only bytes others replaced is given up, and does not wait for ever', async () => {
  const at = await open();
  for (const key of ['a', 'b']) await putBehind(at, `lake/${key}`, 'first');
  await at.store.sync('lake', '', { remove: false });
  await putBehind(at, 'lake/a', 'second');
  rmSync(fileOf(at, 'lake/b'));
  await at.store.rename(lake('a'), lake('moved-a'));
  await at.store.rename(lake('b'), lake('moved-b'));
  await mirrored(at);
  expect(there(at, 'lake/a')).toBe('second');
  expect(at.failures).toContainEqual(expect.objectContaining({ code: 'data_lost' }));
  const { broken } = await at.store.verify({});
  const names = broken.flatMap(({ objects }) => objects).toSorted();
  expect(names).toEqual(['lake/moved-a', 'lake/moved-b']);
});

describe('what the node does by itself', () => {
  test('a TTL takes an object of others here, and leaves it in tier 2; one of ours goes there too', async () => {
    const clock = createTestClock();
    const at = await openStoreInTest({ lake: { ...buffered, ttlMs: 60_000 } }, { clock });
    await putBehind(at, 'lake/theirs', 'theirs');
    await at.store.sync('lake', '', { remove: false });
    await at.put('lake', 'ours', Buffer.from('ours'));
    await mirrored(at);
    await clock.advance(62_000);
    await vi.waitFor(async () => expect(await keys(at)).toEqual([]));
    await mirrored(at);
    expect(there(at, 'lake/theirs')).toBe('theirs');
    expect(there(at, 'lake/ours')).toBeUndefined();
  });

  test('an older version that comes back gives way to what others put under the name', async () => {
    const at = await open({ versioning: 'enabled' });
    await at.put('lake', 'k', Buffer.from('first'));
    await mirrored(at);
    await at.put('lake', 'k', Buffer.from('second'));
    await mirrored(at);
    await putBehind(at, 'lake/k', 'theirs');
    const [newest] = (await at.store.listVersions('lake', VERSIONS)).versions;
    await at.store.deleteVersion({ ...lake('k'), versionId: idOf(newest) });
    await mirrored(at);
    expect(there(at, 'lake/k')).toBe('theirs');
    expect((await at.get('lake', 'k')).toString()).toBe('theirs');
  });

  for (const after of ['its answer was lost', 'the process was killed'])
    test(`a version that comes back and was put before ${after} is this node's own, with its content type`, async () => {
      const clock = createTestClock();
      const at = await open({ versioning: 'enabled' }, { clock });
      const headers = { contentType: 'text/special', metadata: { who: 'me' } };
      await at.put('lake', 'k', Buffer.from('first'), headers);
      await mirrored(at);
      const { version } = (await at.store.head(lake('k'))).object;
      await at.put('lake', 'k', Buffer.from('second'));
      await mirrored(at);
      const [newest] = (await at.store.listVersions('lake', VERSIONS)).versions;
      at.faults.losesPuts = 1;
      await at.store.deleteVersion({ ...lake('k'), versionId: idOf(newest) });
      await vi.waitFor(() => expect(at.failures).toHaveLength(1));
      expect(there(at, 'lake/k')).toBe('first');
      const now = after === 'the process was killed' ? await at.crash({ clock }) : at;
      await clock.advance(120_000);
      await mirrored(now);
      const { object } = await now.store.head(lake('k'));
      expect(object).toMatchObject({ version, ...headers });
      expect((await now.get('lake', 'k')).toString()).toBe('first');
    });

  test('a repaired copy whose answer was lost is known by its bytes', async () => {
    const clock = createTestClock();
    const at = await open({}, { clock });
    await at.put('lake', 'k', Buffer.from('ours'), { contentType: 'text/special' });
    await mirrored(at);
    const { object } = await at.store.head(lake('k'));
    await at.catalog.unsetMirrored(object); // a copy that came wrong, and is stored again
    at.faults.losesPuts = 2;
    await at.put('lake', 'other', Buffer.from('other'));
    await vi.waitFor(() => expect(at.failures).toHaveLength(2));
    await clock.advance(120_000);
    await mirrored(at);
    expect((await at.store.head(lake('k'))).object).toMatchObject({
      version: object.version,
      contentType: 'text/special',
    });
  });

  test('a copy that is broken in tier 2 is not repaired over what others put there', async () => {
    const at = await open();
    await at.put('lake', 'k', Buffer.from('ours'));
    await mirrored(at);
    await putBehind(at, 'lake/k', 'theirs');
    const { extents } = (await at.store.head(lake('k'))).object;
    await at.store.resolve(extents[0]?.blobId ?? 0, 4, { suspect: true });
    await mirrored(at);
    expect(there(at, 'lake/k')).toBe('theirs');
    expect((await at.get('lake', 'k')).toString()).toBe('theirs');
  });
});

test('a deletion that waits is not lost to a sync that finds the object still there', async () => {
  const at = await open();
  await at.put('lake', 'k', Buffer.from('ours'));
  await mirrored(at);
  at.faults.isAway = true;
  await at.store.delete(lake('k'));
  const found = await at.tiers.remote.head('lake/k');
  at.faults.isAway = false;
  expect(found).toBeDefined();
  await at.store.sync('lake', '', { remove: false });
  await mirrored(at);
  expect(await keys(at)).toEqual([]);
  expect(there(at, 'lake/k')).toBeUndefined();
});

const idOf = (version: VersionRecord | undefined): string =>
  version === undefined ? '' : versionIdOf(version.object);

const VERSIONS = { prefix: '', delimiter: '', startAfter: { key: '' }, limit: 10 };

// ── a random life, with somebody else in tier 2 ─────────────────────────────────────────────────────────────────────

const bucket = fc.constantFrom('lake', 'kept', 'short');
const key = fc.constantFrom('a', 'b', 'd/x', 'd/y');
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ op: fc.constant('theyPut' as const), bucket, key }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('theyDelete' as const), bucket, key }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('put' as const), bucket, key }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant('delete' as const), bucket, key }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('rename' as const), bucket, key, to: key }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('deleteVersion' as const), key }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('read' as const), bucket, key }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant('sync' as const), bucket }) },
  fc.record({ op: fc.constant('expire' as const) }),
  fc.record({ op: fc.constant('restore' as const), bucket }),
  fc.record({ op: fc.constant('repair' as const), bucket, key }),
  fc.record({ op: fc.constant('crash' as const) }),
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('fault' as const),
      fault: fc.constantFrom('losesPuts', 'losesDeletes', 'hides', 'cutsLists'),
    }),
  },
);

test('in any life, whatever others put into tier 2 stays there until somebody writes that name here', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 8, maxLength: 30 }), async (steps) => {
      const faults = { ...NO_FAULTS };
      const clock = createTestClock();
      let at = await openTestStore({ faults: harmed(faults), clock });
      await at.store.createBucket('lake', { ...buffered, revalidateMs: 0 });
      await at.store.createBucket('kept', { ...buffered, versioning: 'enabled' });
      await at.store.createBucket('short', { ...buffered, ttlMs: 300_000 });
      /** What others put under a name, while nobody has written it here since. */
      const theirs = new Map<string, string>();
      let count = 0;
      const settle = async (): Promise<void> => {
        await vi.waitFor(
          async () => {
            await clock.advance(1000);
            expect((await at.store.spool()).entries).toBe(0);
          },
          { timeout: 20_000, interval: 1 },
        );
      };
      /** A deletion here takes what was seen there, and nothing else. */
      const deleting = async (names: readonly { bucket: string; key: string }[]): Promise<void> => {
        for (const one of names) {
          const seen = (await at.catalog.findObject(one.bucket, one.key))?.remoteEtag ?? null;
          const name = `${one.bucket}/${one.key}`;
          const found = await at.tiers.remote.head(name);
          if (found !== undefined && found.etag === seen) theirs.delete(name);
        }
      };
      for (const now of steps) {
        if (now.op === 'fault') faults[now.fault] = 1;
        else if (now.op === 'crash') at = await at.crash();
        else if (now.op === 'expire') await clock.advance(302_000);
        else if (now.op === 'sync')
          await at.store.sync(now.bucket, '', { remove: true, force: true });
        else if (now.op === 'restore') {
          const [from, to] = ['d/', 'e/'].map((prefix) => ({ bucket: now.bucket, prefix }));
          if (from === undefined || to === undefined) continue;
          await at.store.copyPrefix(from, to, { overwrite: true, exact: true });
        } else if (now.op === 'deleteVersion') {
          const { versions } = await at.store.listVersions('kept', {
            ...VERSIONS,
            prefix: now.key,
          });
          const newest = versions.find(({ object }) => object.key === now.key);
          if (newest === undefined) continue;
          await deleting([{ bucket: 'kept', key: now.key }]);
          const ref = { bucket: 'kept', key: now.key, versionId: idOf(newest) };
          await at.store.deleteVersion(ref);
        } else {
          const ref = { bucket: now.bucket, key: now.key };
          const name = `${now.bucket}/${now.key}`;
          if (now.op === 'theyPut') {
            const spooled = await at.catalog.findSpooled(ref.bucket, ref.key);
            await putBehind(at, name, `theirs ${count++}`).catch(() => undefined);
            // What is written here and on its way wins over what others put there meanwhile.
            const isOnItsWay = spooled !== undefined && spooled.version !== null;
            if (isOnItsWay && !spooled.onlyOverSeen) theirs.delete(name);
            else theirs.set(name, `theirs ${count - 1}`);
          } else if (now.op === 'theyDelete') {
            rmSync(fileOf(at, name), { force: true });
            theirs.delete(name);
          } else if (now.op === 'put') {
            theirs.delete(name);
            await at.put(now.bucket, now.key, Buffer.from(`ours ${count++}`));
          } else if (now.op === 'read') await at.get(now.bucket, now.key).catch(() => undefined);
          else if (now.op === 'repair') {
            const object = await at.catalog.findObject(now.bucket, now.key);
            const [extent] = object?.extents ?? [];
            if (extent === undefined) continue;
            await at.store
              .resolve(extent.blobId, extent.length, { suspect: true })
              .catch(() => undefined);
          } else if (now.op === 'delete') {
            await deleting([ref]);
            await at.store.delete(ref);
          } else if ((await at.catalog.findObject(now.bucket, now.key)) !== undefined) {
            await deleting([ref]);
            if (now.to !== now.key) theirs.delete(`${now.bucket}/${now.to}`);
            await at.store.rename(ref, { bucket: now.bucket, key: now.to });
          }
        }
        if (count % 3 === 0) await settle();
      }
      Object.assign(faults, NO_FAULTS);
      await settle();
      for (const [name, content] of theirs)
        expect([name, there(at, name)]).toEqual([name, content]);
      await at.close();
    }),
    { numRuns: 25 },
  );
}, 120_000);
