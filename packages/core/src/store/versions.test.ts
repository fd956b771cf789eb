import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KiB } from '@ebb/protocol';
import {
  buffered,
  codeOf,
  createTestClock,
  mirrored,
  openStoreInTest,
  reopen,
  type TestStore,
  type TestStoreOptions,
} from '@ebb/testkit';
import { expect, test, vi } from 'vitest';
import type { BucketPolicy } from '../catalog/catalog.ts';
import type { VersionListed } from './object-store.ts';
import { versionIdOf } from './versions.ts';

const PRIVATE = /^kept\/\.ebb\/[-0-9a-f]+$/;
const ALL = { prefix: '', delimiter: '', startAfter: { key: '' }, limit: 1000 };

async function open(
  policy: Partial<BucketPolicy> = {},
  options: TestStoreOptions = {},
): Promise<TestStore> {
  const kept: BucketPolicy = { ...buffered, versioning: 'enabled', ...policy };
  return await openStoreInTest({ kept }, options);
}

function bytes(length: number, seed = 1): Buffer {
  return Buffer.from(Array.from({ length }, (_, i) => (i * 7 + seed) & 0xff));
}

async function versions(at: TestStore): Promise<VersionListed['versions']> {
  return (await at.store.listVersions('kept', ALL)).versions;
}

/** Of what is listed, newest first in each key. */
async function ids(at: TestStore): Promise<string[]> {
  return (await versions(at)).map(({ object }) => versionIdOf(object));
}

async function read(at: TestStore, key: string, versionId: string): Promise<Buffer> {
  const opened = await at.store.open(at.owner, { bucket: 'kept', key, versionId });
  const target = Buffer.alloc(opened.object.sizeBytes);
  await at.store.read(at.owner, opened.leaseId, target, 0);
  at.store.release(at.owner, [opened.leaseId]);
  return target;
}

async function namesInTier2(at: TestStore): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of at.tiers.remote.list('')) names.push(name);
  return names.sort();
}

test('old versions keep their bytes across crashes, and in whatever tier they lie', async () => {
  let at = await open({}, { memoryBytes: 256 * KiB, diskBytes: 256 * KiB });
  for (let i = 0; i < 30; i++) await at.put('kept', 'a', bytes(30_000, i));
  await at.store.delete({ bucket: 'kept', key: 'a' });
  at = await reopen(at);
  const [marker, ...written] = await ids(at);
  expect(written).toHaveLength(30);
  for (const [i, id] of written.toReversed().entries())
    expect(await read(at, 'a', id)).toEqual(bytes(30_000, i));
  expect(await codeOf(read(at, 'a', marker as string))).toBe('not_found');
  await expect(at.store.head({ bucket: 'kept', key: 'a' })).rejects.toMatchObject({
    details: { deleteMarker: marker },
  });
});

test('an old version is copied to tier 2 behind its writer as the object was to be, also after a crash', async () => {
  const stuck = { head: (): Promise<never> => Promise.reject(new Error('tier 2 does not answer')) };
  const faults: TestStoreOptions['faults'] = {
    remote: (tier) =>
      new Proxy(tier, { get: (of, name) => Reflect.get(name in stuck ? stuck : of, name) }),
  };
  const before = await open({}, { faults });
  await before.put('kept', 'a', bytes(1000, 1));
  await before.put('kept', 'a', bytes(1000, 2));
  const at = await reopen(before, { faults: {} });
  await vi.waitFor(async () => {
    const views = await Promise.all(
      (await ids(at)).map((versionId) => at.store.head({ bucket: 'kept', key: 'a', versionId })),
    );
    expect(views.map(({ tiers }) => tiers.includes(2))).toEqual([true, true]);
  });
  expect(await namesInTier2(at)).toEqual([
    expect.stringMatching(/^kept!versions\/a v[0-9a-f]{12}$/),
    'kept/a',
  ]);
});

test('in tier 2 the newest version has the plain name; old ones stay under others, and all bytes go with the last version', async () => {
  const at = await open({ ack: 'remote' });
  const ref = { bucket: 'kept', key: 'a' };
  await at.put('kept', 'a', bytes(1000, 1));
  await at.put('kept', 'a', bytes(1000, 2));
  expect(await namesInTier2(at)).toEqual([expect.stringMatching(PRIVATE), 'kept/a']);
  expect(readFileSync(join(at.root, 'remote/kept/a'))).toEqual(bytes(1000, 2));
  const [newer, older] = (await ids(at)) as [string, string];
  for (const versionId of [newer, older]) await at.store.relocate({ ...ref, versionId }, 2);
  expect(await read(at, 'a', older)).toEqual(bytes(1000, 1));
  for (const versionId of [newer, older]) await at.store.relocate({ ...ref, versionId }, 2);

  const { markerId } = await at.store.delete(ref);
  await vi.waitFor(async () =>
    expect(await namesInTier2(at)).toEqual([
      expect.stringMatching(PRIVATE),
      expect.stringMatching(PRIVATE),
    ]),
  );
  expect(await read(at, 'a', newer)).toEqual(bytes(1000, 2));
  await at.store.deleteVersion({ ...ref, versionId: markerId as string });
  await vi.waitFor(async () => expect(await namesInTier2(at)).toContain('kept/a'));
  expect(readFileSync(join(at.root, 'remote/kept/a'))).toEqual(bytes(1000, 2));
  await at.store.deleteVersion({ ...ref, versionId: newer });
  await vi.waitFor(async () => {
    expect((await at.store.spool()).entries).toBe(0);
    expect(readFileSync(join(at.root, 'remote/kept/a'))).toEqual(bytes(1000, 1));
  });
  await at.store.deleteAllVersions('kept', '');
  await vi.waitFor(async () => expect(await namesInTier2(at)).toEqual([]));
  expect(at.failures).toEqual([]);
});

test('what others change in tier 2 is a version of its own here, and what they delete there a delete', async () => {
  const at = await open();
  await at.put('kept', 'a', bytes(1000, 1));
  const file = join(at.root, 'remote/kept/a');
  await mirrored(at);
  writeFileSync(file, bytes(700, 2));
  expect(await at.store.sync('kept', '', { remove: true })).toMatchObject({ updated: 1 });
  expect(await at.get('kept', 'a')).toEqual(bytes(700, 2));
  expect(await read(at, 'a', (await ids(at))[1] as string)).toEqual(bytes(1000, 1));
  rmSync(file);
  expect(await at.store.sync('kept', '', { remove: true })).toMatchObject({ removed: 1 });
  expect(await codeOf(at.get('kept', 'a'))).toBe('not_found');
  expect((await versions(at)).map(({ isDeleteMarker }) => isDeleteMarker)).toEqual([
    ...[true, false, false],
  ]);
});

test('old versions count towards the quota, until they are deleted for good', async () => {
  const at = await open({ quotaBytes: 2500 });
  await at.put('kept', 'a', bytes(1000, 1));
  await at.put('kept', 'a', bytes(1000, 2));
  await at.store.delete({ bucket: 'kept', key: 'a' });
  expect(await codeOf(at.put('kept', 'a', bytes(1000, 3)))).toBe('quota_exceeded');
  expect(await at.store.bucketTotals('kept')).toEqual({
    ...{ objects: 0, sizeBytes: 0, oldVersions: 3, oldVersionsBytes: 2000 },
  });
  const oldest = (await ids(at)).at(-1) as string;
  await at.store.deleteVersion({ bucket: 'kept', key: 'a', versionId: oldest });
  await at.put('kept', 'a', bytes(1000, 3));
});

test('versions and markers go for good when the time of each is up', async () => {
  const clock = createTestClock();
  const at = await open({ ttlMs: 60_000 }, { clock });
  await at.put('kept', 'a', bytes(10, 1));
  await at.put('kept', 'b', bytes(10, 1));
  await clock.advance(30_000);
  await at.put('kept', 'a', bytes(10, 2));
  await at.store.delete({ bucket: 'kept', key: 'b' });
  await clock.advance(40_000);
  // A sweep that was under way when the time came looks again a second later.
  const swept = async (left: number): Promise<void> =>
    await vi.waitFor(async () => {
      await clock.advance(1000);
      expect(await ids(at)).toHaveLength(left);
    });
  await swept(2);
  expect(await at.get('kept', 'a')).toEqual(bytes(10, 2));
  await clock.advance(30_000);
  await swept(0);
  expect((await at.store.totals()).blobs).toBe(0);
});

test('what is lost gives way to a delete marker, never to an older version', async () => {
  const before = await open({ preset: 'ephemeral', ack: 'memory', mirror: false });
  await before.put('kept', 'a', bytes(1000, 1), { ack: 'disk', tier: 1 });
  await before.put('kept', 'a', bytes(1000, 2));
  await before.put('kept', 'b', bytes(1000, 3));
  await before.put('kept', 'b', bytes(1000, 4), { ack: 'disk', tier: 1 });
  const at = await reopen(before, { loseMemory: true });
  expect(await codeOf(at.get('kept', 'a'))).toBe('data_lost');
  const { broken } = await at.store.verify({ bucket: 'kept' });
  const lost = (await versions(at)).filter(({ object }) =>
    broken.some(({ blobId }) => object.extents[0]?.blobId === blobId),
  );
  expect(broken.flatMap(({ objects }) => objects).sort()).toEqual([
    'kept/a',
    `kept/b?versionId=${versionIdOf((lost[1] as (typeof lost)[0]).object)}`,
  ]);
  expect(await at.store.gc()).toMatchObject({ lostObjects: 2 });
  expect(await codeOf(at.get('kept', 'a'))).toBe('not_found');
  expect(
    (await versions(at)).map(({ object, isDeleteMarker }) => [object.key, isDeleteMarker]),
  ).toEqual([
    ['a', true],
    ['a', false],
    ['b', false],
  ]);
  expect(await at.get('kept', 'b')).toEqual(bytes(1000, 4));
  expect((await at.store.verify({})).broken).toEqual([]);
});

test('verifying a bucket reads its old versions too, of the prefix that was asked for', async () => {
  const at = await open();
  for (const key of ['a b', 'a b', 'a!', 'c']) await at.put('kept', key, bytes(100));
  expect(await at.store.verify({ bucket: 'kept' })).toMatchObject({ blobs: 4 });
  expect(await at.store.verify({ bucket: 'kept', prefix: 'a ' })).toMatchObject({ blobs: 2 });
  await at.store.delete({ bucket: 'kept', key: 'c' });
  expect(await at.store.verify({ bucket: 'kept', prefix: 'c' })).toMatchObject({ blobs: 1 });
});

test('verifying what is not there is refused: nothing was read, so nothing is sound', async () => {
  const at = await open();
  await at.put('kept', 'empty', bytes(0));
  expect(await at.store.verify({ bucket: 'kept', prefix: 'em' })).toMatchObject({ blobs: 0 });
  expect(await codeOf(at.store.verify({ bucket: 'kept', prefix: 'nope' }))).toBe('not_found');
  expect(await codeOf(at.store.verify({ bucket: 'nob' }))).toBe('bucket_not_found');
  expect(await at.store.verify({ bucket: 'kept', prefix: 'nope/' })).toMatchObject({ blobs: 0 });
});

test('of many who write and delete one key at once, each leaves its version or marker, in one order', async () => {
  const at = await open();
  await at.put('kept', 'a', bytes(1));
  const done = await Promise.allSettled(
    Array.from({ length: 60 }, async (_, i) => {
      if (i % 3 === 0)
        return await at.store.delete({ bucket: 'kept', key: 'a' }, {}, { marksAbsent: true });
      return await at.put('kept', 'a', bytes(10, i));
    }),
  );
  expect(done.filter(({ status }) => status === 'rejected')).toEqual([]);
  const listed = await versions(at);
  expect(listed).toHaveLength(61);
  expect(listed.filter(({ isDeleteMarker }) => isDeleteMarker)).toHaveLength(20);
  const numbers = listed.map(({ object }) => object.version);
  expect(numbers).toEqual(numbers.toSorted((a, b) => b - a));
  expect(listed.map(({ isLatest }) => isLatest)).toEqual(listed.map((_, i) => i === 0));
});

test('a reader of an old version keeps it while it is deleted', async () => {
  const at = await open();
  await at.put('kept', 'a', bytes(5000, 1));
  await at.put('kept', 'a', bytes(5000, 2));
  const versionId = (await ids(at))[1] as string;
  const opened = await at.store.open(at.owner, { bucket: 'kept', key: 'a', versionId });
  await at.store.deleteVersion({ bucket: 'kept', key: 'a', versionId });
  const target = Buffer.alloc(5000);
  await at.store.read(at.owner, opened.leaseId, target, 0);
  expect(target).toEqual(bytes(5000, 1));
  at.store.release(at.owner, [opened.leaseId]);
  expect(await codeOf(read(at, 'a', versionId))).toBe('not_found');
});

test('a source of a copy may be named by its version, also when it was replaced meanwhile', async () => {
  const at = await open();
  await at.put('kept', 'a', bytes(10, 1));
  const { object } = await at.store.head({ bucket: 'kept', key: 'a' });
  await at.put('kept', 'a', bytes(10, 2));
  const { bucket, key, version } = object;
  const copy = await at.store.compose({ bucket, key: 'b' }, [{ bucket, key, version }], {});
  expect(copy.object.versioned).toBe(true);
  expect(await at.get('kept', 'b')).toEqual(bytes(10, 1));
});

test('the end of a job brings back what its objects replaced', async () => {
  const at = await open();
  await at.put('kept', 'a', bytes(10, 1));
  await at.store.openJob({ jobId: 'j', label: '', heartbeatTtlMs: 60_000, budgetBytes: null });
  await at.put('kept', 'a', bytes(10, 2), { jobId: 'j' });
  await at.put('kept', 'b', bytes(10, 3), { jobId: 'j' });
  expect(await at.store.endJob('j')).toMatchObject({ objects: 2 });
  expect(await at.get('kept', 'a')).toEqual(bytes(10, 1));
  expect(await ids(at)).toHaveLength(1);
});

test('all versions below a prefix go at once, and then the bucket', async () => {
  const at = await open();
  for (let i = 0; i < 1200; i++) await at.put('kept', `a/${i % 3}`, bytes(1, i));
  await at.put('kept', 'b', bytes(1));
  await at.store.deletePrefix('kept', 'a/1');
  expect(await at.store.deleteAllVersions('kept', 'a/')).toEqual({
    objects: 1201,
    sizeBytes: 1200,
  });
  expect(await ids(at)).toHaveLength(1);
  expect(await codeOf(at.store.deleteBucket('kept'))).toBe('bucket_not_empty');
  await at.store.deleteAllVersions('kept', '');
  await at.store.deleteBucket('kept');
  expect((await at.store.totals()).blobs).toBe(0);
});

test('versioning is changed while the bucket is in use, and asked for by who creates it again', async () => {
  const at = await openStoreInTest({ kept: buffered });
  await at.put('kept', 'a', bytes(1, 1));
  expect((await at.store.setVersioning('kept', 'enabled')).policy.versioning).toBe('enabled');
  await at.put('kept', 'a', bytes(1, 2));
  expect(await ids(at)).toEqual([expect.stringMatching(/^[0-9a-f]{12}$/), 'null']);
  // Who asks for none is served by a bucket that keeps them; who asks for another state is told.
  expect(await at.store.createBucket('kept', buffered)).toMatchObject({ created: false });
  expect(
    await codeOf(at.store.createBucket('kept', { ...buffered, versioning: 'suspended' })),
  ).toBe('bucket_exists');
  expect(await codeOf(at.store.setVersioning('none', 'enabled'))).toBe('bucket_not_found');
  expect(await codeOf(at.store.head({ bucket: 'kept!versions', key: 'a n' }))).toBe('name_invalid');
  expect((await at.store.listBuckets()).map(({ name }) => name)).toEqual(['kept']);
});
