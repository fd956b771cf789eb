/**
 * The shared suite of every catalog. Titles are the promises of packages/core/src/catalog/catalog.ts; "§13.n" names a known
 * fault of earlier systems (DESIGN). At the end a model of some hundred lines answers random operations beside the catalog.
 */
import type {
  BlobRecord,
  BucketPolicy,
  Catalog,
  CatalogTotals,
  Condition,
  Extent,
  ListOptions,
  ListPage,
  ObjectCommit,
  ObjectRecord,
  RemoteCopy,
  SpoolEntry,
} from '@ebb/core';
import { isStoreError, StoreError, type StoreErrorCode } from '@ebb/protocol';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { versionConformance } from './catalog-versions.ts';

type MirrorCopies = Parameters<Catalog['setMirrored']>[1]['copies'];

export interface CatalogFactory {
  /** A new and empty catalog. The suite closes it. */
  open(): Promise<Catalog>;
  /** Ends the use of `catalog` and opens the same data again. Absent: the suite does not ask what a restart leaves. */
  reopen?(catalog: Catalog): Promise<Catalog>;
}

const POLICY: BucketPolicy = {
  preset: 'buffered',
  ack: 'disk',
  mirror: true,
  ttlMs: null,
  quotaBytes: null,
  remote: null,
  revalidateMs: null,
  versioning: 'off',
};

export function catalogConformance(name: string, factory: CatalogFactory): void {
  describe(`catalog: ${name}`, () => {
    let catalog: Catalog;
    beforeEach(async () => {
      catalog = await factory.open();
      for (const bucket of ['one', 'two']) {
        await catalog.createBucket({ name: bucket, createdAtMs: 1000, policy: POLICY });
      }
    });
    afterEach(async () => {
      await catalog.close();
    });

    const put = (key: string, options?: PutOptions): Promise<Put> =>
      putObject(catalog, key, options);
    const keys = async (bucket = 'one', options: Partial<ListOptions> = {}): Promise<string[]> =>
      (await listAll(catalog, bucket, options)).map((entry) => entry.name);

    describe('ids', () => {
      test('no id is given twice, in blocks or alone, in parallel or not', async () => {
        const counts = [1, 7, 1, 300, 1, 1, 65_000, 2, 4000, 1];
        const firsts = await Promise.all(counts.map((count) => catalog.nextIds(count)));
        const taken = firsts.map((first, i) => ({ first, end: first + (counts[i] as number) }));
        taken.sort((a, b) => a.first - b.first);
        for (let i = 1; i < taken.length; i++) {
          expect(taken[i]?.first).toBeGreaterThanOrEqual(taken[i - 1]?.end as number);
        }
        expect(taken[0]?.first).toBeGreaterThan(0);
      });

      test.runIf('reopen' in factory)(
        'an id is not given again after a restart; nor does the node id change',
        async () => {
          const before = await catalog.nextIds(10);
          const nodeId = await catalog.nodeId();
          expect(nodeId).not.toBe('');
          catalog = await (factory.reopen as (c: Catalog) => Promise<Catalog>)(catalog);
          expect(await catalog.nextIds(1)).toBeGreaterThanOrEqual(before + 10);
          expect(await catalog.nodeId()).toBe(nodeId);
        },
      );
    });

    describe('buckets', () => {
      test('creating a bucket again returns the first record, unchanged', async () => {
        const again = await catalog.createBucket({
          name: 'one',
          createdAtMs: 2000,
          policy: { ...POLICY, ack: 'memory' },
        });
        expect(again).toEqual({
          created: false,
          bucket: { name: 'one', createdAtMs: 1000, policy: POLICY },
        });
        expect(await catalog.findBucket('one')).toEqual(again.bucket);
      });

      test('of many who create a bucket at once, one creates it', async () => {
        const all = await Promise.all(
          range(20).map((i) =>
            catalog.createBucket({ name: 'race', createdAtMs: i, policy: POLICY }),
          ),
        );
        expect(all.filter((result) => result.created)).toHaveLength(1);
        expect(new Set(all.map((result) => result.bucket.createdAtMs)).size).toBe(1);
      });

      test('buckets are listed by name', async () => {
        await catalog.createBucket({ name: 'alpha', createdAtMs: 1, policy: POLICY });
        expect((await catalog.listBuckets()).map((bucket) => bucket.name)).toEqual([
          'alpha',
          'one',
          'two',
        ]);
      });

      test('a policy is replaced whole', async () => {
        const policy: BucketPolicy = {
          preset: 'ephemeral',
          ack: 'memory',
          mirror: false,
          ttlMs: 5,
          quotaBytes: 2 ** 50,
          remote: 's3://bucket/prefix',
          revalidateMs: 1000,
          versioning: 'off',
        };
        await catalog.setBucketPolicy('one', policy);
        expect((await catalog.findBucket('one'))?.policy).toEqual(policy);
        expect((await catalog.findBucket('two'))?.policy).toEqual(POLICY);
        await refused(catalog.setBucketPolicy('none', policy), 'bucket_not_found');
      });

      test('a bucket with objects cannot be deleted; an empty one is gone', async () => {
        await put('a');
        await refused(catalog.deleteBucket('one'), 'bucket_not_empty');
        await catalog.deleteObject('one', 'a', {});
        await catalog.deleteBucket('one');
        expect(await catalog.findBucket('one')).toBeUndefined();
        await refused(catalog.deleteBucket('one'), 'bucket_not_found');
      });

      test('totals of a bucket follow every change', async () => {
        await put('a', { sizeBytes: 10 });
        await put('b', { sizeBytes: 5 });
        await put('a', { sizeBytes: 7 });
        expect(await catalog.bucketTotals('one')).toEqual({ objects: 2, sizeBytes: 12 });
        await catalog.renameObject({ bucket: 'one', key: 'b' }, { bucket: 'two', key: 'b' }, {});
        expect(await catalog.bucketTotals('one')).toEqual({ objects: 1, sizeBytes: 7 });
        expect(await catalog.bucketTotals('two')).toEqual({ objects: 1, sizeBytes: 5 });
        expect(await catalog.bucketTotals('none')).toEqual({ objects: 0, sizeBytes: 0 });
      });
    });

    describe('commit', () => {
      test('a committed object is found with all its fields', async () => {
        const { object } = await put('dir/ключ 😀', {
          metadata: { 'x-a': 'ä', __proto__x: '', empty: '' },
          attributes: { tagging: 'a=b&ü=1', empty: '' },
          jobId: 'job-1',
          sizeBytes: 2 ** 40,
        });
        expect(await catalog.findObject('one', 'dir/ключ 😀')).toEqual(object);
        expect(await catalog.findObject('two', 'dir/ключ 😀')).toBeUndefined();
        expect(await catalog.findObject('none', 'dir/ключ 😀')).toBeUndefined();
      });

      test('a new blob has one reference, generation 1 or more, and the copies it was born with', async () => {
        const { object, blobIds } = await put('a', { sizeBytes: 9, memoryBytes: 4096 });
        const blob = await catalog.findBlob(blobIds[0] as number);
        expect(blob).toMatchObject({
          sizeBytes: 9,
          crc32c: 77,
          refs: 1,
          createdAtMs: object.createdAtMs,
          memoryBytes: 4096,
          diskBytes: null,
          remote: null,
        });
        expect(await catalog.findBlob(2 ** 40)).toBeUndefined();
      });

      test('replacing an object frees its blob, whose record stays until it is dropped', async () => {
        const first = await put('a', { sizeBytes: 3 });
        const second = await put('a', { sizeBytes: 4 });
        const [blobId] = first.blobIds as [number];
        expect(second.freed.map((blob) => [blob.blobId, blob.refs])).toEqual([[blobId, 0]]);
        expect((await catalog.findBlob(blobId))?.refs).toBe(0);
        expect(await catalog.listBlobs({ afterBlobId: 0, limit: 9, where: 'freed' })).toEqual(
          second.freed,
        );
        await catalog.dropBlob(blobId);
        await catalog.dropBlob(blobId);
        expect(await catalog.findBlob(blobId)).toBeUndefined();
        await catalog.dropBlob(second.blobIds[0] as number);
        expect((await catalog.findBlob(second.blobIds[0] as number))?.refs).toBe(1);
      });

      test('an object of many extents counts each as a reference, of old blobs and new', async () => {
        const part = await put('part', { sizeBytes: 10 });
        const [old] = part.blobIds as [number];
        const [fresh] = [await catalog.nextIds(2)];
        const extents: Extent[] = [
          { blobId: old, offset: 0, length: 4 },
          { blobId: fresh, offset: 0, length: 6 },
          { blobId: old, offset: 2, length: 8 },
        ];
        const joined: ObjectRecord = {
          ...part.object,
          key: 'joined',
          version: fresh + 1,
          sizeBytes: 18,
          crc32c: null,
          extents,
        };
        const newBlobs = [blobOf(fresh, { sizeBytes: 6 })];
        await catalog.commitObject({ object: joined, newBlobs, condition: {} });
        expect((await catalog.findObject('one', 'joined'))?.extents).toEqual(extents);
        expect((await catalog.findBlob(old))?.refs).toBe(3);
        expect(await holders(catalog, old)).toEqual(['one/joined', 'one/part']);
        expect((await catalog.deleteObject('one', 'part', {})).freed).toEqual([]);
        const { freed } = await catalog.deleteObject('one', 'joined', {});
        expect(freed.map((blob) => blob.blobId).sort((a, b) => a - b)).toEqual([old, fresh]);
      });

      test('an object of ten thousand parts is kept whole', async () => {
        const first = await catalog.nextIds(10_001);
        const extents = range(10_000).map((i) => ({ blobId: first + i, offset: 0, length: i }));
        const object = objectOf('big', { version: first + 10_000, extents });
        const newBlobs = extents.map(({ blobId, length }) => blobOf(blobId, { sizeBytes: length }));
        await catalog.commitObject({ object, newBlobs, condition: {} });
        expect(await catalog.findObject('one', 'big')).toEqual(object);
        expect((await catalog.deleteObject('one', 'big', {})).freed).toHaveLength(10_000);
      });

      test('an empty object needs no blob, and a new blob that no extent names is born freed', async () => {
        const { freed } = await put('empty', { sizeBytes: 0, extents: [] });
        expect((await catalog.findObject('one', 'empty'))?.extents).toEqual([]);
        expect(freed.map((blob) => blob.refs)).toEqual([0]);
      });

      test('a commit into no bucket is refused', async () => {
        await refused(put('a', { bucket: 'none' }), 'bucket_not_found');
      });

      test('an extent of an unknown or freed blob is refused as lost, and nothing is written', async () => {
        const { blobIds } = await put('a', { sizeBytes: 5 });
        const [blobId] = blobIds as [number];
        await catalog.deleteObject('one', 'a', {});
        for (const gone of [blobId, blobId + 1_000_000]) {
          const version = await catalog.nextIds(2);
          const object = objectOf('b', {
            version,
            extents: [
              { blobId: gone, offset: 0, length: 5 },
              { blobId: version + 1, offset: 0, length: 1 },
            ],
          });
          const newBlobs = [blobOf(version + 1, { sizeBytes: 1 })];
          await refused(catalog.commitObject({ object, newBlobs, condition: {} }), 'data_lost');
          expect(await catalog.findBlob(version + 1)).toBeUndefined();
        }
        expect(await catalog.findObject('one', 'b')).toBeUndefined();
      });

      test('§13.1 a refused create leaves the object that is there untouched', async () => {
        const { object, blobIds } = await put('a');
        const before = await catalog.totals();
        await refused(put('a', { condition: { ifNoneMatch: true } }), 'already_exists');
        await refused(put('a', { condition: { ifMatch: 'other' } }), 'precondition_failed');
        expect(await catalog.findObject('one', 'a')).toEqual(object);
        expect((await catalog.findBlob(blobIds[0] as number))?.refs).toBe(1);
        expect(await catalog.totals()).toEqual(before);
      });

      test('a condition that holds lets the commit through', async () => {
        const { object } = await put('a', { condition: { ifNoneMatch: true } });
        await put('a', { condition: { ifMatch: object.etag } });
        await refused(put('b', { condition: { ifMatch: object.etag } }), 'precondition_failed');
      });

      test('* is any object, and an ETag that must not be there lets none and every other one through', async () => {
        await refused(put('a', { condition: { ifMatch: '*' } }), 'precondition_failed');
        const { object } = await put('a', { condition: { ifNoneMatch: 'other' } });
        await refused(put('a', { condition: { ifNoneMatch: object.etag } }), 'precondition_failed');
        const { object: next } = await put('a', { condition: { ifMatch: '*' } });
        await put('a', { condition: { ifNoneMatch: object.etag } });
        expect(next.etag).not.toBe(object.etag);
        await refused(
          put('a', { condition: { ifMatch: next.etag, ifNoneMatch: 'other' } }),
          'precondition_failed',
        );
      });

      test('what an object needs beside it must be there, at just that version, in the same step', async () => {
        const { object: needed } = await put('needed');
        const version = await catalog.nextIds(1);
        const object = objectOf('part', { version, extents: [] });
        const commit = (requires: { bucket: string; key: string; version: number }) =>
          catalog.commitObject({ object, newBlobs: [], condition: {}, requires });
        await refused(commit({ ...needed, key: 'none' }), 'not_found');
        await refused(commit({ ...needed, version: 1 }), 'precondition_failed');
        expect(await keys()).toEqual(['needed']);
        await commit(needed);
        // Whichever comes first counts: a removal, or a commit that needs what is removed.
        const [, late] = await Promise.allSettled([
          catalog.deleteObject('one', 'needed', {}),
          commit(needed),
        ]);
        expect(late).toMatchObject({ status: 'rejected', reason: { code: 'not_found' } });
      });

      test('of many creates at once under If-None-Match, one wins and the others leave nothing', async () => {
        const results = await Promise.allSettled(
          range(50).map(() => put('race', { condition: { ifNoneMatch: true } })),
        );
        const won = results.filter((result) => result.status === 'fulfilled');
        expect(won).toHaveLength(1);
        for (const result of results) {
          if (result.status === 'rejected')
            expect(isStoreError(result.reason, 'already_exists')).toBe(true);
        }
        expect((await catalog.findObject('one', 'race'))?.version).toBe(
          won[0]?.value.object.version,
        );
        expect((await catalog.totals()).blobs).toBe(1);
      });

      test('§13.9 a late commit of an older attempt is refused, and the newer stands', async () => {
        const early = await catalog.nextIds(2);
        const { object } = await put('a');
        const late = objectOf('a', {
          version: early,
          extents: [{ blobId: early + 1, offset: 0, length: 1 }],
        });
        const newBlobs = [blobOf(early + 1, { sizeBytes: 1 })];
        await refused(
          catalog.commitObject({ object: late, newBlobs, condition: {} }),
          'superseded',
        );
        expect(await catalog.findObject('one', 'a')).toEqual(object);
        expect(await catalog.findBlob(early + 1)).toBeUndefined();
      });

      test('a refused commit among many at once fails alone', async () => {
        await put('taken');
        const results = await Promise.allSettled(
          range(60).map((i) =>
            put(i % 3 === 0 ? 'taken' : `free-${i}`, { condition: { ifNoneMatch: true } }),
          ),
        );
        expect(results.map((result) => result.status)).toEqual(
          range(60).map((i) => (i % 3 === 0 ? 'rejected' : 'fulfilled')),
        );
        expect(await keys()).toHaveLength(41);
      });

      test('many writers of one key at once leave the one with the highest version, and one live blob', async () => {
        const results = await Promise.allSettled(range(40).map(() => put('a')));
        const done = results.flatMap((result) =>
          result.status === 'fulfilled' ? [result.value] : [],
        );
        const last = Math.max(...done.map((result) => result.object.version));
        expect((await catalog.findObject('one', 'a'))?.version).toBe(last);
        const live = (await catalog.listBlobs({ afterBlobId: 0, limit: 100 })).filter(
          (blob) => blob.refs > 0,
        );
        expect(live).toHaveLength(1);
        expect(done.flatMap((result) => result.freed)).toHaveLength(done.length - 1);
      });

      test('what was resolved is seen by every later call', async () => {
        for (let i = 0; i < 20; i++) {
          await put(`k${i}`);
          expect(await catalog.findObject('one', `k${i}`)).toBeDefined();
          expect((await keys()).length).toBe(i + 1);
          await catalog.durable();
        }
      });
    });

    describe('delete', () => {
      test('a deleted object is gone, and its blob freed', async () => {
        const { object, blobIds } = await put('a');
        const result = await catalog.deleteObject('one', 'a', { ifMatch: object.etag });
        expect(result.object).toEqual(object);
        expect(result.freed.map((blob) => blob.blobId)).toEqual(blobIds);
        expect(await catalog.findObject('one', 'a')).toBeUndefined();
      });

      test('deleting what is not there is no error', async () => {
        expect(await catalog.deleteObject('one', 'a', {})).toEqual({
          freed: [],
          object: undefined,
        });
        expect(await catalog.deleteObject('none', 'a', {})).toEqual({
          freed: [],
          object: undefined,
        });
      });

      test('a condition that fails leaves the object', async () => {
        await put('a');
        await refused(
          catalog.deleteObject('one', 'a', { ifMatch: 'other' }),
          'precondition_failed',
        );
        await refused(
          catalog.deleteObject('one', 'b', { ifMatch: 'other' }),
          'precondition_failed',
        );
        expect(await keys()).toEqual(['a']);
      });

      test('versions grow across a delete', async () => {
        const first = await put('a');
        await catalog.deleteObject('one', 'a', {});
        expect((await put('a')).object.version).toBeGreaterThan(first.object.version);
      });

      test('§13.5 deleting a prefix a/ leaves ab and a, and stops at the limit', async () => {
        for (const key of ['a', 'a/', 'a/1', 'a/2/3', 'ab', 'a0']) await put(key, { sizeBytes: 2 });
        const first = await catalog.deletePrefix('one', 'a/', 2);
        expect(first).toMatchObject({ objects: 2, sizeBytes: 4, done: false });
        expect(first.freed).toHaveLength(2);
        expect(await catalog.deletePrefix('one', 'a/', 2)).toMatchObject({
          objects: 1,
          done: true,
        });
        expect(await catalog.deletePrefix('one', 'a/', 2)).toMatchObject({
          objects: 0,
          done: true,
        });
        expect(await keys()).toEqual(['a', 'a0', 'ab']);
        expect(await catalog.deletePrefix('one', '', 3)).toMatchObject({ objects: 3, done: true });
        expect(await catalog.deletePrefix('none', '', 3)).toMatchObject({ objects: 0, done: true });
      });
    });

    describe('copy and rename', () => {
      const from = { bucket: 'one', key: 'a' };

      test('a copy shares the bytes; job and pin do not travel', async () => {
        const { object, blobIds } = await put('a', { jobId: 'job-1', metadata: { m: '1' } });
        await catalog.setPinned('one', 'a', true);
        const version = await catalog.nextIds(1);
        const to = { bucket: 'two', key: 'b', version, createdAtMs: 5555 };
        const copied = await catalog.copyObject(from, to, {});
        expect(copied).toEqual({
          freed: [],
          object: { ...object, ...to, jobId: null, pinned: false },
        });
        expect(await catalog.findObject('two', 'b')).toEqual(copied.object);
        expect((await catalog.findBlob(blobIds[0] as number))?.refs).toBe(2);
        expect((await catalog.deleteObject('one', 'a', {})).freed).toEqual([]);
        expect(await holders(catalog, blobIds[0] as number)).toEqual(['two/b']);
        expect((await catalog.deleteObject('two', 'b', {})).freed).toHaveLength(1);
      });

      test('a copy onto itself is a new version of the same bytes', async () => {
        const { blobIds } = await put('a');
        const version = await catalog.nextIds(1);
        const copied = await catalog.copyObject(from, { ...from, version, createdAtMs: 1 }, {});
        expect(copied.freed).toEqual([]);
        expect(copied.object.version).toBe(version);
        expect((await catalog.findBlob(blobIds[0] as number))?.refs).toBe(1);
        expect(await holders(catalog, blobIds[0] as number)).toEqual(['one/a']);
      });

      test('copy and rename replace the target and free its blob', async () => {
        await put('a');
        const target = await put('b');
        const version = await catalog.nextIds(1);
        const copied = await catalog.copyObject(
          from,
          { bucket: 'one', key: 'b', version, createdAtMs: 1 },
          {},
        );
        expect(copied.freed.map((blob) => blob.blobId)).toEqual(target.blobIds);
        const other = await put('c');
        const renamed = await catalog.renameObject(from, { bucket: 'one', key: 'c' }, {});
        expect(renamed.freed.map((blob) => blob.blobId)).toEqual(other.blobIds);
        expect(await keys()).toEqual(['b', 'c']);
      });

      test('a rename takes version, job and pin along, into another bucket too', async () => {
        const { object, blobIds } = await put('a', { jobId: 'job-1' });
        await catalog.setPinned('one', 'a', true);
        const { object: renamed, freed } = await catalog.renameObject(
          from,
          { bucket: 'two', key: 'z' },
          {},
        );
        expect(renamed).toEqual({ ...object, bucket: 'two', key: 'z', pinned: true });
        expect(freed).toEqual([]);
        expect(await catalog.findObject('one', 'a')).toBeUndefined();
        expect(await catalog.findObject('two', 'z')).toEqual(renamed);
        expect(await catalog.objectsOfBlob(blobIds[0] as number, 5)).toEqual([
          { bucket: 'two', key: 'z', pinned: true },
        ]);
        expect(await catalog.jobTotals('job-1')).toMatchObject({ objects: 1 });
      });

      test('a rename onto itself changes nothing; onto a copy of itself it frees nothing', async () => {
        const { object, blobIds } = await put('a');
        expect(await catalog.renameObject(from, from, {})).toEqual({ freed: [], object });
        const version = await catalog.nextIds(1);
        await catalog.copyObject(from, { bucket: 'one', key: 'b', version, createdAtMs: 1 }, {});
        expect((await catalog.renameObject(from, { bucket: 'one', key: 'b' }, {})).freed).toEqual(
          [],
        );
        expect((await catalog.findBlob(blobIds[0] as number))?.refs).toBe(1);
        expect(await keys()).toEqual(['b']);
      });

      test('§13.1 a refused copy or rename leaves both names as they were', async () => {
        const source = await put('a');
        const target = await put('b');
        const before = await catalog.totals();
        const to = { bucket: 'one', key: 'b' };
        const version = await catalog.nextIds(1);
        const copyTo = { ...to, version, createdAtMs: 1 };
        await refused(catalog.copyObject(from, copyTo, { ifNoneMatch: true }), 'already_exists');
        await refused(catalog.copyObject(from, copyTo, { ifMatch: 'x' }), 'precondition_failed');
        await refused(catalog.renameObject(from, to, { ifNoneMatch: true }), 'already_exists');
        await refused(catalog.renameObject(from, to, { ifMatch: 'x' }), 'precondition_failed');
        await refused(catalog.copyObject({ ...from, key: 'x' }, copyTo, {}), 'not_found');
        await refused(catalog.renameObject({ ...from, key: 'x' }, to, {}), 'not_found');
        await refused(
          catalog.copyObject(from, { ...copyTo, bucket: 'none' }, {}),
          'bucket_not_found',
        );
        await refused(
          catalog.renameObject(from, { ...to, bucket: 'none' }, {}),
          'bucket_not_found',
        );
        await refused(
          catalog.renameObject({ ...from, bucket: 'none' }, to, {}),
          'bucket_not_found',
        );
        await refused(
          catalog.copyObject(from, { ...copyTo, version: target.object.version - 1 }, {}),
          'superseded',
        );
        expect(await catalog.findObject('one', 'a')).toEqual(source.object);
        expect(await catalog.findObject('one', 'b')).toEqual(target.object);
        expect(await catalog.totals()).toEqual(before);
      });

      test('§13.5 during a rename the object is at exactly one of both names', async () => {
        await put('a');
        const names = [from, { bucket: 'one', key: 'b' }] as const;
        for (let i = 0; i < 20; i++) {
          const [here, there] = i % 2 === 0 ? names : [names[1], names[0]];
          const [, page] = await Promise.all([
            catalog.renameObject(here, there, {}),
            catalog.listObjects('one', { prefix: '', delimiter: '', startAfter: '', limit: 10 }),
          ]);
          expect(page.objects).toHaveLength(1);
        }
      });

      test('§13.5 renaming the prefix a/ moves every key below it at once, and leaves ab', async () => {
        for (const key of ['a', 'a/', 'a/1', 'a/2/3', 'ab'])
          await put(key, { sizeBytes: 3, jobId: 'j' });
        const renamed = catalog.renamePrefix(
          { bucket: 'one', prefix: 'a/' },
          { bucket: 'one', prefix: 'new/' },
          { overwrite: false },
        );
        const seen = await keys();
        expect(['a/1,a/2/3', 'new/1,new/2/3']).toContain(
          seen.filter((key) => /\d/.test(key)).join(),
        );
        expect(await renamed).toEqual({ freed: [], objects: 3, sizeBytes: 9 });
        expect(await keys()).toEqual(['a', 'ab', 'new/', 'new/1', 'new/2/3']);
        expect(await catalog.jobTotals('j')).toEqual({ objects: 5, sizeBytes: 15 });
        for (const { blobId } of await catalog.listBlobs({ afterBlobId: 0, limit: 9 })) {
          expect(await holders(catalog, blobId)).toHaveLength(1);
        }
      });

      test('a prefix of many keys is renamed in one step, into another bucket', async () => {
        await Promise.all(range(700).map((i) => put(`many/${i}`)));
        const moved = await catalog.renamePrefix(
          { bucket: 'one', prefix: 'many/' },
          { bucket: 'two', prefix: '' },
          { overwrite: false },
        );
        expect(moved.objects).toBe(700);
        expect(await catalog.bucketTotals('one')).toEqual({ objects: 0, sizeBytes: 0 });
        expect(new Set(await keys('two'))).toEqual(new Set(range(700).map(String)));
      });

      test('a prefix rename onto existing keys is refused whole, or frees what it replaces', async () => {
        for (const key of ['a/1', 'a/2']) await put(key);
        const target = await put('b/2');
        const places = [
          { bucket: 'one', prefix: 'a/' },
          { bucket: 'one', prefix: 'b/' },
        ] as const;
        await refused(catalog.renamePrefix(...places, { overwrite: false }), 'already_exists');
        expect(await keys()).toEqual(['a/1', 'a/2', 'b/2']);
        const { freed, objects } = await catalog.renamePrefix(...places, { overwrite: true });
        expect(objects).toBe(2);
        expect(freed.map((blob) => blob.blobId)).toEqual(target.blobIds);
        expect(await keys()).toEqual(['b/1', 'b/2']);
      });

      test('a prefix rename that cannot be is refused', async () => {
        await put('a/1');
        const rename = (to: { bucket: string; prefix: string }, bucket = 'one'): Promise<unknown> =>
          catalog.renamePrefix({ bucket, prefix: 'a/' }, to, { overwrite: true });
        await refused(rename({ bucket: 'one', prefix: 'a/b/' }), 'request_invalid');
        await refused(rename({ bucket: 'one', prefix: 'a/' }), 'request_invalid');
        await refused(rename({ bucket: 'one', prefix: '' }), 'request_invalid');
        await refused(rename({ bucket: 'none', prefix: 'x/' }), 'bucket_not_found');
        await refused(rename({ bucket: 'one', prefix: 'x/' }, 'none'), 'bucket_not_found');
        await refused(rename({ bucket: 'two', prefix: 'x'.repeat(1024) }), 'name_invalid');
        expect(await keys()).toEqual(['a/1']);
      });

      describe('of a prefix', () => {
        const source = { bucket: 'one', prefix: 'a/' };
        const target = { bucket: 'two', prefix: 'snap/' };
        const keep = { overwrite: false, exact: false };
        const stamp = async () => ({ version: await catalog.nextIds(1), createdAtMs: 77 });

        test('every key below it has the same bytes under its new name, in one step; ab is no part of it', async () => {
          for (const key of ['a', 'a/', 'a/1', 'a/2/3', 'ab'])
            await put(key, { sizeBytes: 3, jobId: 'j', metadata: { of: key } });
          await catalog.setPinned('one', 'a/1', true);
          const { version } = await stamp();
          const copied = catalog.copyPrefix(source, target, keep, { version, createdAtMs: 77 });
          expect([[], ['snap/', 'snap/1', 'snap/2/3']]).toContainEqual(await keys('two'));
          expect(await copied).toEqual({ freed: [], objects: 3, sizeBytes: 9, removed: 0 });
          expect(await keys()).toEqual(['a', 'a/', 'a/1', 'a/2/3', 'ab']);
          const of = await catalog.findObject('one', 'a/1');
          expect(await catalog.findObject('two', 'snap/1')).toEqual({
            ...of,
            ...{ bucket: 'two', key: 'snap/1', version, createdAtMs: 77 },
            ...{ jobId: null, pinned: false },
          });
          expect(await catalog.jobTotals('j')).toEqual({ objects: 5, sizeBytes: 15 });
          const { blobId } = of?.extents[0] as Extent;
          expect(await holders(catalog, blobId)).toEqual(['one/a/1', 'two/snap/1']);
          expect((await catalog.deletePrefix('one', 'a/', 9)).freed).toEqual([]);
          expect((await catalog.deletePrefix('two', 'snap/', 9)).freed).toHaveLength(3);
        });

        test('a prefix of many keys goes in one step, into its own bucket too', async () => {
          await Promise.all(range(700).map((i) => put(`a/${i}`)));
          const here = { bucket: 'one', prefix: 'b/' };
          const copied = catalog.copyPrefix(source, here, keep, await stamp());
          expect([700, 1400]).toContain((await keys()).length);
          expect((await copied).objects).toBe(700);
          expect(await catalog.bucketTotals('one')).toMatchObject({ objects: 1400 });
        });

        test('what is there is refused, or replaced and freed; what has no counterpart stays, unless it is to be exact', async () => {
          for (const key of ['a/1', 'a/2']) await put(key);
          const replaced = await put('snap/2', { bucket: 'two' });
          const other = await put('snap/3', { bucket: 'two' });
          await put('snapshot', { bucket: 'two' });
          const copy = async (options: { overwrite: boolean; exact: boolean }) =>
            await catalog.copyPrefix(source, target, options, await stamp());
          await refused(copy(keep), 'already_exists');
          expect(await keys('two')).toEqual(['snap/2', 'snap/3', 'snapshot']);
          const over = await copy({ overwrite: true, exact: false });
          expect(over).toMatchObject({ objects: 2, removed: 0 });
          expect(over.freed.map((blob) => blob.blobId)).toEqual(replaced.blobIds);
          expect(await keys('two')).toEqual(['snap/1', 'snap/2', 'snap/3', 'snapshot']);
          const exact = await copy({ overwrite: true, exact: true });
          expect(exact).toMatchObject({ objects: 2, removed: 1 });
          expect(exact.freed.map((blob) => blob.blobId)).toEqual(other.blobIds);
          expect(await keys('two')).toEqual(['snap/1', 'snap/2', 'snapshot']);
        });

        test('of nothing it is nothing, and exactly nothing empties the target', async () => {
          await put('snap/1', { bucket: 'two' });
          const nothing = { objects: 0, sizeBytes: 0 };
          const copy = async (exact: boolean) =>
            await catalog.copyPrefix(source, target, { overwrite: true, exact }, await stamp());
          expect(await copy(false)).toEqual({ ...nothing, freed: [], removed: 0 });
          expect(await keys('two')).toEqual(['snap/1']);
          expect(await copy(true)).toMatchObject({ ...nothing, removed: 1 });
          expect(await keys('two')).toEqual([]);
        });

        test('§13.1 one that cannot be is refused whole', async () => {
          await put('a/1');
          await put('a/2');
          const there = await put('snap/2', { bucket: 'two' });
          const before = await catalog.totals();
          const over = { overwrite: true, exact: true };
          const copy = async (to: { bucket: string; prefix: string }, bucket = 'one') =>
            await catalog.copyPrefix({ bucket, prefix: 'a/' }, to, over, await stamp());
          await refused(copy({ bucket: 'one', prefix: 'a/b/' }), 'request_invalid');
          await refused(copy({ bucket: 'one', prefix: 'a/' }), 'request_invalid');
          await refused(copy({ bucket: 'one', prefix: '' }), 'request_invalid');
          await refused(copy({ bucket: 'none', prefix: 'x/' }), 'bucket_not_found');
          await refused(copy({ bucket: 'one', prefix: 'x/' }, 'none'), 'bucket_not_found');
          await refused(copy({ bucket: 'two', prefix: 'x'.repeat(1024) }), 'name_invalid');
          const late = { version: there.object.version - 1, createdAtMs: 1 };
          await refused(catalog.copyPrefix(source, target, over, late), 'superseded');
          expect(await keys()).toEqual(['a/1', 'a/2']);
          expect(await keys('two')).toEqual(['snap/2']);
          expect(await catalog.totals()).toEqual(before);
        });
      });

      test('a pin is set and taken back, and no more', async () => {
        const { object } = await put('a');
        expect(await catalog.setPinned('one', 'a', true)).toEqual({ ...object, pinned: true });
        expect(await catalog.findObject('one', 'a')).toEqual({ ...object, pinned: true });
        expect(await catalog.setPinned('one', 'a', false)).toEqual(object);
        await refused(catalog.setPinned('one', 'b', true), 'not_found');
      });

      test('attributes are set by compare and set, and the version stays', async () => {
        const { object, blobIds } = await put('a', { attributes: { tagging: 'x=1' } });
        const { bucket, key, version } = object;
        const set = (from: Record<string, string>, to: Record<string, string>, at = version) =>
          catalog.setAttributes({ bucket, key, version: at }, { from, to });
        expect(await set({}, { tagging: 'y=2' })).toBeUndefined();
        expect(await set({ tagging: 'x=1' }, { tagging: 'y=2' }, version + 1)).toBeUndefined();
        const changed = { ...object, attributes: { tagging: 'y=2' } };
        expect(await set({ tagging: 'x=1' }, { tagging: 'y=2' })).toEqual(changed);
        expect(await catalog.findObject('one', 'a')).toEqual(changed);
        expect(await set({ tagging: 'y=2' }, {})).toEqual({ ...object, attributes: {} });
        expect((await catalog.findBlob(blobIds[0] as number))?.refs).toBe(1);
        const none = { bucket: 'one', key: 'b', version: 1 };
        await refused(catalog.setAttributes(none, { from: {}, to: {} }), 'not_found');
      });
    });

    describe('joining', () => {
      test('what is joined goes in the same step, and its blobs stay with the new object', async () => {
        const parts = [
          await put('part/1', { bucket: 'two', sizeBytes: 5 }),
          await put('part/2', { bucket: 'two', sizeBytes: 7 }),
        ];
        const old = await put('whole', { sizeBytes: 3 });
        const version = await catalog.nextIds(1);
        const extents = parts.flatMap(({ object }) => object.extents);
        const object = objectOf('whole', { version, extents });
        const removes = parts.map((part) => part.object);
        const { freed } = await catalog.commitObject({
          object,
          newBlobs: [],
          condition: {},
          removes,
        });
        expect(freed.map((blob) => blob.blobId)).toEqual(old.blobIds);
        expect(await catalog.findObject('one', 'whole')).toEqual(object);
        expect(await catalog.bucketTotals('two')).toEqual({ objects: 0, sizeBytes: 0 });
        expect(await catalog.bucketTotals('one')).toEqual({ objects: 1, sizeBytes: 12 });
        for (const { blobIds } of parts) {
          const [blobId = 0] = blobIds;
          expect((await catalog.findBlob(blobId))?.refs).toBe(1);
          expect(await catalog.objectsOfBlob(blobId, 9)).toEqual([
            { bucket: 'one', key: 'whole', pinned: false },
          ]);
        }
      });

      test('an object of many blobs keeps their references, names and ends as one of few does', async () => {
        const parts = await Promise.all(range(150).map((n) => put(`part-${n}`)));
        const ids = parts.map(({ blobIds }) => blobIds[0] as number);
        const extents = parts.flatMap(({ object }) => object.extents);
        const join = async (key: string, more: readonly Extent[] = []) => {
          const version = await catalog.nextIds(1);
          const object = objectOf(key, { version, extents: [...extents, ...more] });
          return await catalog.commitObject({ object, newBlobs: [], condition: {} });
        };
        const expectUsers = async (names: readonly string[], refs = names.length) => {
          for (const id of ids.slice(1)) {
            expect((await catalog.findBlob(id))?.refs).toBe(refs);
            const users = await catalog.objectsOfBlob(id, 10);
            const shown = users.map(({ key }) => key.replace(/^part-.*/, 'part'));
            expect(shown.sort()).toEqual([...names].sort());
          }
        };
        // The first blob twice: it is changed by itself.
        await join('whole', extents.slice(0, 1));
        await expectUsers(['part', 'whole']);
        expect((await catalog.findBlob(ids[0] as number))?.refs).toBe(3);
        const to = { bucket: 'one', key: 'copy', version: await catalog.nextIds(1) };
        await catalog.copyObject({ bucket: 'one', key: 'whole' }, { ...to, createdAtMs: 1 }, {});
        await expectUsers(['part', 'whole', 'copy']);
        for (const n of range(150)) await catalog.deleteObject('one', `part-${n}`, {});
        await expectUsers(['whole', 'copy']);
        expect((await put('whole')).freed).toEqual([]);
        await expectUsers(['copy']);
        await join('again');
        await expectUsers(['copy', 'again']);
        expect((await catalog.deleteObject('one', 'copy', {})).freed).toEqual([]);
        await expectUsers(['again']);
        const from = { bucket: 'one', key: 'again' };
        await catalog.renameObject(from, { bucket: 'one', key: 'renamed' }, {});
        await expectUsers(['renamed']);
        const { freed } = await catalog.deleteObject('one', 'renamed', {});
        expect(freed.map(({ blobId }) => blobId).sort((a, b) => a - b)).toEqual(ids);
        expect(freed.every(({ refs }) => refs === 0)).toBe(true);
        const listed = await catalog.listBlobs({ afterBlobId: 0, limit: 200, where: 'freed' });
        expect(listed.map(({ blobId }) => blobId)).toEqual(ids);
        await refused(join('late'), 'data_lost');
      });

      test('a part that is another version, or gone, or a condition that fails, changes nothing', async () => {
        const part = await put('part');
        const version = await catalog.nextIds(1);
        const object = objectOf('whole', { version, extents: part.object.extents });
        const join = (
          removes: readonly { bucket: string; key: string; version: number }[],
          condition: Condition = {},
        ) => catalog.commitObject({ object, newBlobs: [], condition, removes });
        const { bucket, key } = part.object;
        await refused(join([{ bucket, key, version: 1 }]), 'precondition_failed');
        await refused(join([part.object, { bucket, key: 'none', version: 1 }]), 'not_found');
        await refused(join([part.object], { ifMatch: 'other' }), 'precondition_failed');
        expect(await keys()).toEqual(['part']);
        await join([part.object], { ifNoneMatch: true });
        expect(await keys()).toEqual(['whole']);
        await refused(join([part.object]), 'not_found');
      });
    });

    describe('listing', () => {
      const list = (options: Partial<ListOptions>): Promise<ListPage> =>
        catalog.listObjects('one', {
          prefix: '',
          delimiter: '',
          startAfter: '',
          limit: 1000,
          ...options,
        });

      test('keys come in the order of their UTF-8 bytes', async () => {
        const names = [
          '\u{10FFFF}',
          '\u{1F600}',
          '\uffee',
          '\ue000',
          '\ud7ff',
          'é',
          'z',
          'a b',
          'a',
          'A',
          '~',
        ];
        for (const key of names) await put(key);
        const sorted = names.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
        expect(await keys()).toEqual(sorted);
        expect(await keys('one', { limit: 2 })).toEqual(sorted);
      });

      test('a delimiter rolls keys up; pages meet without a gap, whatever their size', async () => {
        const names = [
          'a',
          'a/',
          'a/1',
          'a/2/3',
          'a0',
          'b/1',
          'b/2',
          'c',
          'c//',
          'd/\u{10FFFF}',
          '\u{10FFFF}/',
        ];
        for (const key of names) await put(key);
        for (const prefix of ['', 'a', 'a/', 'b/', 'c/', 'x', '\u{10FFFF}']) {
          for (const delimiter of ['', '/', '/2', '\u{10FFFF}']) {
            for (const startAfter of ['', 'a', 'a/', 'a/1', 'a0', 'b', 'b/1', 'zz']) {
              const expected = modelNames(names, { prefix, delimiter, startAfter });
              for (const limit of [1, 2, 3, 100]) {
                const found = await listAll(catalog, 'one', {
                  prefix,
                  delimiter,
                  startAfter,
                  limit,
                });
                expect(found, JSON.stringify({ prefix, delimiter, startAfter, limit })).toEqual(
                  expected,
                );
              }
            }
          }
        }
      });

      test('a page says whether more follows', async () => {
        for (const key of ['a/1', 'a/2', 'b']) await put(key);
        expect((await list({ limit: 3 })).next).toBeNull();
        expect((await list({ limit: 2 })).next).toBe('a/2');
        expect(await list({ delimiter: '/', limit: 1 })).toEqual({
          objects: [],
          prefixes: ['a/'],
          next: 'a/',
        });
        expect(await list({ delimiter: '/', startAfter: 'a/', limit: 1 })).toMatchObject({
          prefixes: [],
          next: null,
        });
        expect(await list({ limit: 0 })).toEqual({ objects: [], prefixes: [], next: null });
        expect(
          await catalog.listObjects('none', {
            prefix: '',
            delimiter: '',
            startAfter: '',
            limit: 5,
          }),
        ).toEqual({
          objects: [],
          prefixes: [],
          next: null,
        });
      });
    });

    describe('expiry', () => {
      test('objects older than the TTL of their bucket are listed, under the policy that holds now', async () => {
        await put('old', { createdAtMs: 1000 });
        await catalog.setBucketPolicy('one', { ...POLICY, ttlMs: 500 });
        const { object } = await put('young', { createdAtMs: 1400 });
        await put('elsewhere', { bucket: 'two', createdAtMs: 1 });
        const expired = async (now: number): Promise<string[]> =>
          (await catalog.listExpired(now, 10)).map(({ bucket, key }) => `${bucket}/${key}`);
        expect(await expired(1500)).toEqual([]);
        expect(await expired(1501)).toEqual(['one/old']);
        expect(await expired(1901)).toEqual(['one/old', 'one/young']);
        expect(await catalog.listExpired(1901, 1)).toHaveLength(1);
        await catalog.renameObject(
          { bucket: 'two', key: 'elsewhere' },
          { bucket: 'one', key: 'x' },
          {},
        );
        await catalog.deleteObject('one', 'old', {});
        expect(await expired(5000)).toEqual(['one/x', 'one/young']);
        expect(await catalog.listExpired(5000, 10)).toContainEqual({
          bucket: 'one',
          key: 'young',
          version: object.version,
        });
        await catalog.setBucketPolicy('one', POLICY);
        expect(await expired(5000)).toEqual([]);
      });
    });

    describe('spool', () => {
      const spooled = async (): Promise<string[]> =>
        (await catalog.listSpool({ after: 0, limit: 100 })).map(
          ({ key, version }) => `${key} ${version === null ? 'deleted' : 'stored'}`,
        );
      const get = async (key: string, bucket = 'one'): Promise<SpoolEntry> =>
        (await catalog.findSpooled(bucket, key)) as SpoolEntry;
      const store = async (key: string, copies: MirrorCopies = []): Promise<boolean> =>
        await catalog.setMirrored(await get(key), { etag: `"${key}"`, copies });

      test('what happens to names waits in the order in which they began to differ, one entry a name', async () => {
        for (const key of ['a', 'b', 'c']) await put(key);
        const last = await put('a', { sizeBytes: 70 });
        await catalog.deleteObject('one', 'b', {});
        expect(await spooled()).toEqual(['a stored', 'b deleted', 'c stored']);
        expect(await get('a')).toMatchObject({ version: last.object.version, sizeBytes: 70 });
        expect(await catalog.spoolTotals()).toMatchObject({ entries: 3, bytes: 71 });
        const [first] = await catalog.listSpool({ after: 0, limit: 1 });
        const rest = await catalog.listSpool({ after: first?.seq ?? 0, limit: 100 });
        expect(rest.map(({ key }) => key)).toEqual(['b', 'c']);
      });

      test('what was stored is noted with the object and its blobs, and waits no more', async () => {
        const { object, blobIds } = await put('a');
        const [blobId] = blobIds as [number];
        const remote = { name: 'one/a', offset: 0, etag: '"a"' };
        expect(await store('a', [{ blobId, remote }])).toBe(true);
        expect(await catalog.findObject('one', 'a')).toEqual({ ...object, remoteEtag: '"a"' });
        expect(await catalog.findBlob(blobId)).toMatchObject({ remote });
        expect(await spooled()).toEqual([]);
        expect(await catalog.spoolTotals()).toEqual({ entries: 0, bytes: 0, oldestMs: null });
      });

      test('§13.2 a version that was replaced or deleted while it was sent is not noted, and what came after still waits', async () => {
        await put('a');
        const sent = await get('a');
        await put('a');
        expect(await catalog.setMirrored(sent, { etag: 'old', copies: [] })).toBe(false);
        await catalog.dropSpooled(sent);
        expect(await spooled()).toEqual(['a stored']);
        await catalog.deleteObject('one', 'a', {});
        expect(await catalog.setMirrored(sent, { etag: 'old', copies: [] })).toBe(false);
        expect(await spooled()).toEqual(['a deleted']);
        const deletion = await get('a');
        await put('a');
        await catalog.dropSpooled(deletion);
        expect(await spooled()).toEqual(['a stored']);
      });

      test('a blob that lies in tier 2 already keeps its place there', async () => {
        const { blobIds } = await put('a', { remote: remoteOf('one/.ebb/1') });
        const [blobId] = blobIds as [number];
        await store('a', [{ blobId, remote: remoteOf('one/a') }]);
        expect(await catalog.findBlob(blobId)).toMatchObject({ remote: { name: 'one/.ebb/1' } });
      });

      test('a copy and a renamed object are to be stored under their own names', async () => {
        await put('a');
        await store('a');
        const at = { key: 'copy', bucket: 'one', version: await catalog.nextIds(1) };
        const from = { bucket: 'one', key: 'a' };
        await catalog.copyObject(from, { ...at, createdAtMs: 5 }, {});
        await catalog.renameObject(from, { bucket: 'two', key: 'b' }, {});
        expect((await catalog.findObject('two', 'b'))?.remoteEtag).toBeNull();
        expect(await spooled()).toEqual(['copy stored', 'b stored', 'a deleted']);
      });

      test('all below a prefix is entered when it is renamed or deleted', async () => {
        for (const key of ['p/1', 'p/2', 'q']) await put(key);
        for (const key of ['p/1', 'p/2', 'q']) await store(key);
        await catalog.renamePrefix(
          { bucket: 'one', prefix: 'p/' },
          { bucket: 'one', prefix: 'r/' },
          { overwrite: false },
        );
        expect((await spooled()).toSorted()).toEqual([
          'p/1 deleted',
          'p/2 deleted',
          'r/1 stored',
          'r/2 stored',
        ]);
        await catalog.deletePrefix('one', 'r/', 10);
        expect((await spooled()).every((entry) => entry.endsWith('deleted'))).toBe(true);
      });

      test('copies of all below a prefix are entered, and what they replace or drop', async () => {
        for (const key of ['p/1', 'p/2', 'r/2', 'r/3']) await put(key);
        for (const key of ['p/1', 'p/2', 'r/2', 'r/3']) await store(key);
        await catalog.copyPrefix(
          { bucket: 'one', prefix: 'p/' },
          { bucket: 'one', prefix: 'r/' },
          { overwrite: true, exact: true },
          { version: await catalog.nextIds(1), createdAtMs: 5 },
        );
        expect((await catalog.findObject('one', 'r/2'))?.remoteEtag).toBeNull();
        expect((await spooled()).toSorted()).toEqual(['r/1 stored', 'r/2 stored', 'r/3 deleted']);
      });

      test('a bucket that is not mirrored has entries only for what is asked to be stored, and for its deletion', async () => {
        await catalog.createBucket({
          ...{ name: 'plain', createdAtMs: 1 },
          policy: { ...POLICY, mirror: false, ack: 'memory' },
        });
        await put('a', { bucket: 'plain' });
        await catalog.deleteObject('plain', 'a', {});
        expect(await spooled()).toEqual([]);
        await put('b', { bucket: 'plain', mirror: true });
        expect(await spooled()).toEqual(['b stored']);
        await put('b', { bucket: 'plain' });
        expect(await spooled()).toEqual(['b deleted']);
        await catalog.dropSpooled(await get('b', 'plain'));
        const { object } = await put('c', { bucket: 'plain', mirror: true });
        await catalog.setMirrored(await get('c', 'plain'), { etag: 'c', copies: [] });
        await catalog.deleteObject('plain', 'c', { ifMatch: object.etag });
        expect(await spooled()).toEqual(['c deleted']);
      });

      test('when a bucket begins to be mirrored all its objects wait, and none when it ends', async () => {
        await catalog.setBucketPolicy('one', { ...POLICY, mirror: false });
        for (const key of ['a', 'b']) await put(key);
        expect(await spooled()).toEqual([]);
        await catalog.setBucketPolicy('one', POLICY);
        expect(await spooled()).toEqual(['a stored', 'b stored']);
        await store('a');
        await catalog.setBucketPolicy('one', { ...POLICY, mirror: false });
        expect(await spooled()).toEqual([]);
        await catalog.setBucketPolicy('one', POLICY);
        expect(await spooled()).toEqual(['b stored']);
      });

      test('an entry names the target that its bucket had', async () => {
        const remote = 's3://archive/logs';
        await catalog.createBucket({
          ...{ name: 'far', createdAtMs: 1 },
          policy: { ...POLICY, remote },
        });
        await put('a', { bucket: 'far' });
        expect(await get('a', 'far')).toMatchObject({ target: remote, bucket: 'far' });
        await put('a');
        expect(await get('a')).toMatchObject({ target: null });
      });

      test('an object of a bucket that is not mirrored is entered when somebody asks, once and as it is', async () => {
        await catalog.setBucketPolicy('one', { ...POLICY, mirror: false });
        const { object } = await put('a');
        await catalog.askMirrored({ ...object, version: object.version - 1 });
        await catalog.askMirrored({ bucket: 'one', key: 'none', version: 1 });
        expect(await spooled()).toEqual([]);
        await catalog.askMirrored(object);
        expect(await spooled()).toEqual(['a stored']);
        await store('a');
        await catalog.askMirrored(object);
        expect(await spooled()).toEqual([]);
      });

      test('what tier 2 lost is to be stored again', async () => {
        await put('a');
        await catalog.unsetMirrored({ bucket: 'one', key: 'a', remoteEtag: null });
        await store('a');
        await catalog.unsetMirrored({ bucket: 'one', key: 'a', remoteEtag: '"other"' });
        expect(await spooled()).toEqual([]);
        await catalog.unsetMirrored({ bucket: 'one', key: 'a', remoteEtag: '"a"' });
        expect(await catalog.findSpooled('one', 'a')).toMatchObject({
          ...{ seenEtag: '"a"', onlyOverSeen: true, tried: [] },
        });
        expect((await catalog.findObject('one', 'a'))?.remoteEtag).toBeNull();
        expect(await spooled()).toEqual(['a stored']);
        await catalog.unsetMirrored({ bucket: 'one', key: 'none', remoteEtag: '"a"' });
      });

      test('an object that was found in tier 2 does not wait to be stored there', async () => {
        await put('a', { remoteEtag: 'found', remote: remoteOf('one/a') });
        expect(await spooled()).toEqual([]);
        await put('b');
        await put('b', { remoteEtag: 'found', remote: remoteOf('one/b') });
        expect(await spooled()).toEqual([]);
      });

      test.runIf('reopen' in factory)('what waits is there after a restart', async () => {
        for (const key of ['a', 'b']) await put(key, { sizeBytes: 5 });
        catalog = await (factory.reopen as (c: Catalog) => Promise<Catalog>)(catalog);
        expect(await spooled()).toEqual(['a stored', 'b stored']);
        expect(await catalog.spoolTotals()).toMatchObject({ entries: 2, bytes: 10 });
      });
    });

    describe('blobs', () => {
      const copies = (blob: BlobRecord) => ({
        memoryBytes: blob.memoryBytes,
        diskBytes: blob.diskBytes,
        remote: blob.remote,
      });
      const get = async (blobId: number): Promise<BlobRecord> =>
        (await catalog.findBlob(blobId)) as BlobRecord;

      test('copies change by compare-and-set on the generation', async () => {
        const [blobId] = (await put('a', { sizeBytes: 100 })).blobIds as [number];
        const blob = await get(blobId);
        expect(
          await catalog.setBlobCopies(blobId, blob.generation, { ...copies(blob), diskBytes: 128 }),
        ).toBe(true);
        expect(
          await catalog.setBlobCopies(blobId, blob.generation, {
            ...copies(blob),
            memoryBytes: null,
          }),
        ).toBe(false);
        const now = await get(blobId);
        expect(now.generation).toBeGreaterThan(blob.generation);
        expect(now).toMatchObject({ memoryBytes: 4096, diskBytes: 128 });
        expect(await catalog.setBlobCopies(2 ** 40, 1, copies(blob))).toBe(false);
      });

      test('§13.2 a mover that was overtaken by a delete or an overwrite learns it, and the old bytes stay gone', async () => {
        const [overwritten] = (await put('a')).blobIds as [number];
        const [deleted] = (await put('b')).blobIds as [number];
        const read = [await get(overwritten), await get(deleted)];
        await put('a');
        await catalog.deleteObject('one', 'b', {});
        for (const blob of read) {
          const moved = {
            memoryBytes: null,
            diskBytes: 64,
            remote: remoteOf(`one/${blob.blobId}`),
          };
          expect(await catalog.setBlobCopies(blob.blobId, blob.generation, moved)).toBe(false);
          expect(copies(await get(blob.blobId))).toEqual(copies(blob));
        }
      });

      test('of movers at once, one wins', async () => {
        const [blobId] = (await put('a')).blobIds as [number];
        const blob = await get(blobId);
        const results = await Promise.all(
          range(20).map((i) =>
            catalog.setBlobCopies(blobId, blob.generation, { ...copies(blob), diskBytes: i }),
          ),
        );
        expect(results.filter(Boolean)).toHaveLength(1);
        expect((await get(blobId)).diskBytes).toBe(results.indexOf(true));
      });

      test('several blobs lie in one object of tier 2, each from an offset on; freed ones are not listed there', async () => {
        const [first] = (await put('a')).blobIds as [number];
        const [second] = (await put('b')).blobIds as [number];
        for (const [index, blobId] of [first, second].entries()) {
          const blob = await get(blobId);
          const remote = { name: 'one/joined', offset: index * 100, etag: 'e' };
          await catalog.setBlobCopies(blobId, blob.generation, { ...copies(blob), remote });
          expect((await get(blobId)).remote).toEqual(remote);
        }
        const stored = async (): Promise<number[]> =>
          (await catalog.listBlobsStoredAs('one/joined')).map(({ blobId }) => blobId);
        expect(await stored()).toEqual([first, second]);
        await catalog.deleteObject('one', 'a', {});
        expect(await stored()).toEqual([second]);
        expect(await catalog.listBlobsStoredAs('one/join')).toEqual([]);
      });

      test('a private name is known from its note to the record of the copy, over restarts too', async () => {
        const listed = () => catalog.listPrivateCopies({ after: '', limit: 10 });
        const [blobId] = (await put('a')).blobIds as [number];
        const names = ['one/.ebb/1', 'one/.ebb/2', '|s3://x/y|one/.ebb/3'];
        for (const name of [...names, names[0] as string]) await catalog.notePrivateCopy(name);
        expect(await listed()).toEqual(names);
        expect(await catalog.listPrivateCopies({ after: 'one/.ebb/1', limit: 1 })).toEqual([
          'one/.ebb/2',
        ]);
        if (factory.reopen !== undefined) catalog = await factory.reopen(catalog);
        expect(await listed()).toEqual(names);
        const blob = await get(blobId);
        const remote = { name: 'one/.ebb/2', offset: 0, etag: 'e' };
        const places = { ...copies(blob), remote };
        // Who was overtaken has recorded nothing.
        expect(await catalog.setBlobCopies(blobId, blob.generation - 1, places)).toBe(false);
        expect(await catalog.hasPrivateCopy('one/.ebb/2')).toBe(true);
        expect(await catalog.setBlobCopies(blobId, blob.generation, places)).toBe(true);
        expect(await catalog.hasPrivateCopy('one/.ebb/2')).toBe(false);
        await catalog.dropPrivateCopy('one/.ebb/1');
        await catalog.dropPrivateCopy('one/.ebb/1');
        expect(await listed()).toEqual(['|s3://x/y|one/.ebb/3']);
      });

      test('a checksum that is not known is noted once', async () => {
        const [blobId] = (await put('a', { crc32c: null })).blobIds as [number];
        expect((await get(blobId)).crc32c).toBeNull();
        await catalog.setBlobChecksum(blobId, 0xfedcba98);
        await catalog.setBlobChecksum(blobId, 1);
        expect((await get(blobId)).crc32c).toBe(0xfedcba98);
      });

      test('blobs are listed by place, in id order, in pages', async () => {
        const disk = await put('disk', { memoryBytes: null, diskBytes: 10 });
        const memory = await put('memory');
        const remote = await put('remote', { memoryBytes: null, remote: remoteOf('one/remote') });
        const both = await put('both', { diskBytes: 11, remote: remoteOf('one/both') });
        const freed = await put('freed');
        await catalog.deleteObject('one', 'freed', {});
        const listed = async (where?: 'memory' | 'disk' | 'remote' | 'freed' | 'unmirrored') => {
          const found: number[] = [];
          for (let after = 0; ; after = found.at(-1) as number) {
            const page = await catalog.listBlobs({
              afterBlobId: after,
              limit: 2,
              ...(where === undefined ? {} : { where }),
            });
            if (page.length === 0) return found;
            expect(page.length).toBeLessThanOrEqual(2);
            found.push(...page.map((blob) => blob.blobId));
          }
        };
        const ids = (...puts: Put[]): number[] => puts.flatMap((result) => result.blobIds);
        expect(await listed()).toEqual(ids(disk, memory, remote, both, freed));
        expect(await listed('memory')).toEqual(ids(memory, both, freed));
        expect(await listed('disk')).toEqual(ids(disk, both));
        expect(await listed('remote')).toEqual(ids(remote, both));
        expect(await listed('freed')).toEqual(ids(freed));
        expect(await listed('unmirrored')).toEqual(ids(disk, memory));
      });

      test('totals count every copy, freed blobs included, until they are dropped', async () => {
        await put('a', { sizeBytes: 100, memoryBytes: 4096 });
        const [blobId] = (
          await put('b', {
            sizeBytes: 7,
            memoryBytes: null,
            diskBytes: 8,
            remote: remoteOf('one/b'),
          })
        ).blobIds as [number];
        const expected: CatalogTotals = {
          buckets: 2,
          objects: 2,
          blobs: 2,
          bytes: { 0: 4096, 1: 8, 2: 7 },
          blobsByTier: { 0: 1, 1: 1, 2: 1 },
        };
        expect(await catalog.totals()).toEqual(expected);
        await catalog.deleteObject('one', 'b', {});
        expect(await catalog.totals()).toEqual({ ...expected, objects: 1 });
        await catalog.dropBlob(blobId);
        expect(await catalog.totals()).toEqual({
          buckets: 2,
          objects: 1,
          blobs: 1,
          bytes: { 0: 4096, 1: 0, 2: 0 },
          blobsByTier: { 0: 1, 1: 0, 2: 0 },
        });
      });

      test('the objects of a blob are found, at most as many as asked', async () => {
        const [blobId] = (await put('a')).blobIds as [number];
        for (const key of ['b', 'c', 'd']) {
          const version = await catalog.nextIds(1);
          const to = { bucket: 'two', key, version, createdAtMs: 1 };
          await catalog.copyObject({ bucket: 'one', key: 'a' }, to, {});
        }
        expect(await holders(catalog, blobId)).toEqual(['one/a', 'two/b', 'two/c', 'two/d']);
        expect(await catalog.objectsOfBlob(blobId, 2)).toHaveLength(2);
        await catalog.deleteObject('one', 'a', {});
        expect(await holders(catalog, blobId)).toEqual(['two/b', 'two/c', 'two/d']);
        expect(await catalog.objectsOfBlob(2 ** 40, 2)).toEqual([]);
      });
    });

    describe('jobs', () => {
      const job = {
        jobId: 'job-1',
        label: 'q67 ✓',
        createdAtMs: 5,
        heartbeatTtlMs: 1000,
        budgetBytes: null,
        token: 'a-life',
      };

      test('a job is put, replaced, found, listed and deleted', async () => {
        await catalog.putJob(job);
        await catalog.putJob({ ...job, budgetBytes: 2 ** 40 });
        await catalog.putJob({ ...job, jobId: 'job-0' });
        expect(await catalog.findJob('job-1')).toEqual({ ...job, budgetBytes: 2 ** 40 });
        expect((await catalog.listJobs()).map((found) => found.jobId)).toEqual(['job-0', 'job-1']);
        await catalog.deleteJob('job-1');
        await catalog.deleteJob('job-1');
        expect(await catalog.findJob('job-1')).toBeUndefined();
      });

      test('all that a job owns goes, in whatever bucket, and nothing else', async () => {
        for (const key of ['a', 'b']) await put(key, { jobId: 'job-1', sizeBytes: 4 });
        await put('c', { jobId: 'job-1', bucket: 'two', sizeBytes: 4 });
        await put('other', { jobId: 'job-2' });
        await put('free');
        expect(await catalog.jobTotals('job-1')).toEqual({ objects: 3, sizeBytes: 12 });
        const first = await catalog.deleteJobObjects('job-1', 2);
        expect(first).toMatchObject({ objects: 2, sizeBytes: 8, done: false });
        expect(first.freed).toHaveLength(2);
        expect(await catalog.deleteJobObjects('job-1', 2)).toMatchObject({
          objects: 1,
          done: true,
        });
        expect(await catalog.deleteJobObjects('job-1', 2)).toMatchObject({
          objects: 0,
          done: true,
        });
        expect(await catalog.jobTotals('job-1')).toEqual({ objects: 0, sizeBytes: 0 });
        expect(await keys()).toEqual(['free', 'other']);
        expect(await keys('two')).toEqual([]);
      });
    });

    describe('records', () => {
      test('namespaces do not see each other, and prefixes are exact', async () => {
        const value = Uint8Array.from([0, 255, 7]);
        await catalog.putRecord('shuffle', 'a/1', value);
        await catalog.putRecord('shuffle', 'a/2', new Uint8Array());
        await catalog.putRecord('shuffle', 'ab', value);
        await catalog.putRecord('runs', 'a/1', Uint8Array.of(1));
        const record = async (namespace: string, key: string): Promise<number[] | undefined> => {
          const found = await catalog.findRecord(namespace, key);
          return found === undefined ? undefined : [...found];
        };
        expect(await record('shuffle', 'a/1')).toEqual([0, 255, 7]);
        expect(await record('shuffle', 'a/2')).toEqual([]);
        expect(await record('runs', 'a/1')).toEqual([1]);
        expect(await record('runs', 'ab')).toBeUndefined();
        const names = async (prefix: string): Promise<string[]> =>
          (await catalog.listRecords('shuffle', prefix)).map(({ key }) => key);
        expect(await names('a/')).toEqual(['a/1', 'a/2']);
        expect(await names('')).toEqual(['a/1', 'a/2', 'ab']);
        await catalog.putRecord('shuffle', 'a/1', Uint8Array.of(9));
        await catalog.deleteRecord('shuffle', 'ab');
        await catalog.deleteRecord('shuffle', 'ab');
        expect(await record('shuffle', 'a/1')).toEqual([9]);
        expect(await names('')).toEqual(['a/1', 'a/2']);
      });

      test('many are put at once, or none of them', async () => {
        const value = Uint8Array.of(1);
        const good = [1, 2, 3].map((n) => ({ key: `k/${n}`, value }));
        await catalog.putRecords('many', good);
        expect(await catalog.listRecords('many', 'k/')).toHaveLength(3);
        const broken = [
          { key: 'x/1', value },
          { key: 'x/2', value: null as unknown as Uint8Array },
        ];
        await expect(catalog.putRecords('many', broken)).rejects.toThrow();
        expect(await catalog.listRecords('many', 'x/')).toEqual([]);
      });
    });

    versionConformance(factory);

    describe('as a whole', () => {
      test('durable resolves, alone and for many at once, amid commits', async () => {
        await Promise.all(
          range(100).map(async (i) => {
            await put(`k${i}`);
            await catalog.durable();
          }),
        );
        expect(await keys()).toHaveLength(100);
      });

      test('a closed catalog refuses work, and closing twice is fine', async () => {
        const other = await factory.open();
        await other.close();
        await other.close();
        await refused(
          other.createBucket({ name: 'x', createdAtMs: 1, policy: POLICY }),
          'draining',
        );
        await refused(other.durable(), 'draining');
      });

      test('answers as the model does, over random operations and restarts', async () => {
        await fc.assert(
          fc.asyncProperty(
            fc.array(operation, { minLength: 1, maxLength: 60 }),
            async (operations) => {
              let subject = await factory.open();
              try {
                const model = new Model();
                for (const bucket of BUCKETS) {
                  await subject.createBucket({ name: bucket, createdAtMs: 1, policy: POLICY });
                }
                for (const step of operations) {
                  if (step.op === 'reopen') {
                    if (factory.reopen !== undefined) subject = await factory.reopen(subject);
                    continue;
                  }
                  await compareStep(subject, model, step);
                }
                await compareState(subject, model);
              } finally {
                await subject.close();
              }
            },
          ),
          { numRuns: 60 },
        );
      }, 120_000);
    });
  });
}

// ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

interface PutOptions {
  readonly bucket?: string;
  readonly sizeBytes?: number;
  readonly jobId?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly attributes?: Readonly<Record<string, string>>;
  readonly createdAtMs?: number;
  readonly memoryBytes?: number | null;
  readonly diskBytes?: number | null;
  readonly remote?: BlobRecord['remote'];
  readonly crc32c?: number | null;
  readonly extents?: readonly Extent[];
  readonly condition?: Condition;
  readonly mirror?: boolean;
  readonly remoteEtag?: string;
}
interface Put {
  readonly object: ObjectRecord;
  readonly blobIds: number[];
  readonly freed: readonly BlobRecord[];
}

/** Commits one object of one new blob. */
async function putObject(catalog: Catalog, key: string, options: PutOptions = {}): Promise<Put> {
  const blobId = await catalog.nextIds(2);
  const { sizeBytes = 1, createdAtMs = 1_700_000_000_000 } = options;
  const object = objectOf(key, {
    bucket: options.bucket ?? 'one',
    version: blobId + 1,
    createdAtMs,
    jobId: options.jobId ?? null,
    metadata: options.metadata ?? {},
    attributes: options.attributes ?? {},
    extents: options.extents ?? [{ blobId, offset: 0, length: sizeBytes }],
    remoteEtag: options.remoteEtag ?? null,
  });
  const blob = blobOf(blobId, {
    sizeBytes,
    createdAtMs,
    memoryBytes: options.memoryBytes === undefined ? 4096 : options.memoryBytes,
    diskBytes: options.diskBytes ?? null,
    remote: options.remote ?? null,
    ...(options.crc32c === undefined ? {} : { crc32c: options.crc32c }),
  });
  const { freed } = await catalog.commitObject({
    object,
    newBlobs: [blob],
    condition: options.condition ?? {},
    mirror: options.mirror === true,
  });
  return { object, blobIds: [blobId], freed };
}

function objectOf(
  key: string,
  fields: Partial<ObjectRecord> & Pick<ObjectRecord, 'version' | 'extents'>,
): ObjectRecord {
  return {
    bucket: 'one',
    key,
    sizeBytes: fields.extents.reduce((sum, extent) => sum + extent.length, 0),
    etag: `e-${fields.version}`,
    crc32c: 0xfedcba98,
    contentType: 'application/octet-stream',
    metadata: {},
    attributes: {},
    createdAtMs: 1_700_000_000_000,
    jobId: null,
    pinned: false,
    remoteEtag: null,
    ...fields,
  };
}

function blobOf(blobId: number, fields: Partial<BlobRecord>): ObjectCommit['newBlobs'][number] {
  const { sizeBytes = 1, createdAtMs = 1_700_000_000_000, memoryBytes = 4096 } = fields;
  const { diskBytes = null, remote = null, crc32c = 77 } = fields;
  return { blobId, sizeBytes, crc32c, createdAtMs, memoryBytes, diskBytes, remote };
}

function remoteOf(name: string): RemoteCopy {
  return { name, offset: 0, etag: 'e' };
}

async function refused(work: Promise<unknown>, code: StoreErrorCode): Promise<void> {
  const outcome = await work.then(
    () => 'no error',
    (error: unknown) => (isStoreError(error) ? error.code : error),
  );
  expect(outcome).toBe(code);
}

async function holders(catalog: Catalog, blobId: number): Promise<string[]> {
  const found = await catalog.objectsOfBlob(blobId, 1000);
  return found.map(({ bucket, key }) => `${bucket}/${key}`).sort();
}

interface Entry {
  readonly name: string;
  readonly rolledUp: boolean;
}
async function listAll(
  catalog: Catalog,
  bucket: string,
  options: Partial<ListOptions>,
): Promise<Entry[]> {
  const entries: Entry[] = [];
  const full = { prefix: '', delimiter: '', startAfter: '', limit: 1000, ...options };
  for (let startAfter: string | null = full.startAfter; startAfter !== null; ) {
    const page: ListPage = await catalog.listObjects(bucket, { ...full, startAfter });
    expect(page.objects.length + page.prefixes.length).toBeLessThanOrEqual(full.limit);
    const objects = page.objects.map(({ key }) => ({ name: key, rolledUp: false }));
    const prefixes = page.prefixes.map((name) => ({ name, rolledUp: true }));
    entries.push(...[...objects, ...prefixes].sort((a, b) => byBytes(a.name, b.name)));
    startAfter = page.next;
  }
  return entries;
}

function modelNames(keys: readonly string[], options: Omit<ListOptions, 'limit'>): Entry[] {
  const { prefix, delimiter, startAfter } = options;
  const entries = new Map<string, Entry>();
  for (const key of keys) {
    if (!key.startsWith(prefix)) continue;
    const at = delimiter === '' ? -1 : key.indexOf(delimiter, prefix.length);
    const name = at < 0 ? key : key.slice(0, at + delimiter.length);
    if (startAfter !== '' && byBytes(name, startAfter) <= 0) continue;
    entries.set(name, { name, rolledUp: at >= 0 });
  }
  return [...entries.values()].sort((a, b) => byBytes(a.name, b.name));
}

function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, i) => i);
}

// ── the model ───────────────────────────────────────────────────────────────────────────────────────────────────────

const BUCKETS = ['one', 'two'] as const;
const KEYS = [
  'a',
  'a/',
  'a/b',
  'a/b/c',
  'a/c',
  'ab',
  'b/a',
  'b',
  'é',
  '\uffee',
  '\u{1F600}',
] as const;
const PREFIXES = ['', 'a', 'a/', 'a/b', 'b', 'b/', 'new/'] as const;
const JOBS = ['j1', 'j2'] as const;

const place = fc.record({ bucket: fc.constantFrom(...BUCKETS), key: fc.constantFrom(...KEYS) });
const prefixPlace = fc.record({
  bucket: fc.constantFrom(...BUCKETS),
  prefix: fc.constantFrom(...PREFIXES),
});
/** `matching`: If-Match with the ETag that is there, if any. */
const conditionKind = fc.constantFrom(
  ...(['none', 'none', 'none', 'create', 'matching', 'other', 'any'] as const),
);
/** Index into the blobs that were ever made. */
const pick = fc.nat(30);

const operation = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('commit' as const),
      at: place,
      sizeBytes: fc.nat(9),
      alsoExtentsOf: fc.array(pick, { maxLength: 3 }),
      jobId: fc.constantFrom(null, null, ...JOBS),
      conditionKind,
      isLate: fc.boolean().map((late) => late && true),
      createdAtMs: fc.nat(100),
      mirrored: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ op: fc.constant('delete' as const), at: place, conditionKind }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('copy' as const),
      from: place,
      to: place,
      conditionKind,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('rename' as const),
      from: place,
      to: place,
      conditionKind,
    }),
  },
  fc.record({
    op: fc.constant('renamePrefix' as const),
    from: prefixPlace,
    to: prefixPlace,
    overwrite: fc.boolean(),
  }),
  fc.record({
    op: fc.constant('copyPrefix' as const),
    from: prefixPlace,
    to: prefixPlace,
    overwrite: fc.boolean(),
    exact: fc.boolean(),
  }),
  fc.record({
    op: fc.constant('deletePrefix' as const),
    at: prefixPlace,
    limit: fc.integer({ min: 1, max: 3 }),
  }),
  fc.record({ op: fc.constant('pin' as const), at: place, pinned: fc.boolean() }),
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('setCopies' as const),
      blob: pick,
      isStale: fc.boolean(),
      memoryBytes: fc.option(fc.nat(99)),
      diskBytes: fc.option(fc.nat(99)),
      remote: fc.option(fc.constantFrom('r/1', 'r/2').map(remoteOf)),
    }),
  },
  fc.record({ op: fc.constant('drop' as const), blob: pick }),
  { weight: 2, arbitrary: fc.record({ op: fc.constant('send' as const), at: place }) },
  fc.record({
    op: fc.constant('deleteJob' as const),
    jobId: fc.constantFrom(...JOBS),
    limit: fc.integer({ min: 1, max: 3 }),
  }),
  fc.record({
    op: fc.constant('ttl' as const),
    bucket: fc.constantFrom(...BUCKETS),
    ttlMs: fc.option(fc.nat(50)),
  }),
  fc.record({ op: fc.constant('reopen' as const) }),
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;
type Step = Exclude<Operation, { op: 'reopen' }>;

/** Applies a step to both, and compares what they answer: a value, or the code of an error. */
async function compareStep(catalog: Catalog, model: Model, step: Step): Promise<void> {
  const ids = await catalog.nextIds(3);
  const told = bind(model, step, ids);
  const expected = outcomeOf(() => told.model());
  const actual = await told.catalog(catalog).then(
    (value) => ({ value }),
    (error: unknown) => ({ error: isStoreError(error) ? error.code : error }),
  );
  expect(normalise(actual), JSON.stringify(step)).toEqual(normalise(expected));
}

function outcomeOf(work: () => unknown): { value: unknown } | { error: unknown } {
  try {
    return { value: work() };
  } catch (error) {
    return { error: isStoreError(error) ? error.code : error };
  }
}

/** In which order freed blobs and a limited deletion come is nobody's promise. */
function normalise(outcome: { value: unknown } | { error: unknown }): unknown {
  if ('error' in outcome) return outcome;
  const { value } = outcome;
  if (typeof value !== 'object' || value === null || !('freed' in value)) return outcome;
  const freed = (value.freed as BlobRecord[]).toSorted((a, b) => a.blobId - b.blobId);
  return { value: { ...value, freed } };
}

/** Turns a step into the same call on the model and on the catalog. */
function bind(
  model: Model,
  step: Step,
  ids: number,
): { model: () => unknown; catalog: (catalog: Catalog) => Promise<unknown> } {
  const conditionAt = (at: { bucket: string; key: string }, kind: string): Condition => {
    if (kind === 'create') return { ifNoneMatch: true };
    if (kind === 'other') return { ifMatch: 'other' };
    if (kind === 'any') return { ifMatch: '*' };
    const found = model.find(at);
    return kind === 'matching' && found !== undefined ? { ifMatch: found.etag } : {};
  };
  switch (step.op) {
    case 'commit': {
      const extents: Extent[] = [{ blobId: ids, offset: 0, length: step.sizeBytes }];
      for (const blob of step.alsoExtentsOf)
        extents.push({ blobId: model.pick(blob), offset: 0, length: 0 });
      const commit: ObjectCommit = {
        object: objectOf(step.at.key, {
          ...step.at,
          version: step.isLate ? 1 : ids + 1,
          extents,
          createdAtMs: step.createdAtMs,
          jobId: step.jobId,
        }),
        newBlobs: [
          blobOf(ids, {
            sizeBytes: step.sizeBytes,
            createdAtMs: step.createdAtMs,
            remote: step.mirrored ? remoteOf(`born/${ids}`) : null,
          }),
        ],
        condition: conditionAt(step.at, step.conditionKind),
      };
      return { model: () => model.commit(commit), catalog: (c) => c.commitObject(commit) };
    }
    case 'delete': {
      const condition = conditionAt(step.at, step.conditionKind);
      return {
        model: () => model.delete(step.at, condition),
        catalog: (c) => c.deleteObject(step.at.bucket, step.at.key, condition),
      };
    }
    case 'copy': {
      const condition = conditionAt(step.to, step.conditionKind);
      const to = { ...step.to, version: ids + 1, createdAtMs: 50 };
      return {
        model: () => model.copy(step.from, to, condition),
        catalog: (c) => c.copyObject(step.from, to, condition),
      };
    }
    case 'rename': {
      const condition = conditionAt(step.to, step.conditionKind);
      return {
        model: () => model.rename(step.from, step.to, condition),
        catalog: (c) => c.renameObject(step.from, step.to, condition),
      };
    }
    case 'renamePrefix':
      return {
        model: () => model.renamePrefix(step.from, step.to, step.overwrite),
        catalog: (c) => c.renamePrefix(step.from, step.to, { overwrite: step.overwrite }),
      };
    case 'copyPrefix': {
      const { from, to, overwrite } = step;
      const options = { overwrite, exact: overwrite && step.exact };
      const stamp = { version: ids + 1, createdAtMs: 50 };
      return {
        model: () => model.copyPrefix(from, to, options, stamp),
        catalog: (c) => c.copyPrefix(from, to, options, stamp),
      };
    }
    case 'deletePrefix':
      return {
        model: () =>
          model.deleteAll(
            step.limit,
            (object) => object.bucket === step.at.bucket && object.key.startsWith(step.at.prefix),
          ),
        catalog: (c) => c.deletePrefix(step.at.bucket, step.at.prefix, step.limit),
      };
    case 'deleteJob':
      return {
        model: () => model.deleteAll(step.limit, (object) => object.jobId === step.jobId),
        catalog: (c) => c.deleteJobObjects(step.jobId, step.limit),
      };
    case 'pin':
      return {
        model: () => model.pin(step.at, step.pinned),
        catalog: (c) => c.setPinned(step.at.bucket, step.at.key, step.pinned),
      };
    case 'setCopies': {
      const blobId = model.pick(step.blob);
      const generation = (model.blobs.get(blobId)?.generation ?? 1) - (step.isStale ? 1 : 0);
      const { memoryBytes, diskBytes, remote } = step;
      const copies = { memoryBytes, diskBytes, remote };
      return {
        model: () => model.setCopies(blobId, generation, copies),
        catalog: (c) => c.setBlobCopies(blobId, generation, copies),
      };
    }
    case 'drop': {
      const blobId = model.pick(step.blob);
      return { model: () => model.drop(blobId), catalog: (c) => c.dropBlob(blobId) };
    }
    case 'send': {
      const { bucket, key } = step.at;
      return {
        model: () => model.send(`${bucket}/${key}`),
        catalog: async (c) => {
          const entry = await c.findSpooled(bucket, key);
          if (entry === undefined) return undefined;
          if (entry.version === null) return await c.dropSpooled(entry);
          return await c.setMirrored(entry, { etag: `sent-${entry.version}`, copies: [] });
        },
      };
    }
    case 'ttl': {
      const policy = { ...POLICY, ttlMs: step.ttlMs };
      return {
        model: () => void model.ttl.set(step.bucket, step.ttlMs),
        catalog: (c) => c.setBucketPolicy(step.bucket, policy),
      };
    }
  }
}

/** Objects and blobs in maps; references and totals are counted from them each time. */
class Model {
  readonly objects = new Map<string, ObjectRecord>();
  readonly blobs = new Map<number, BlobRecord>();
  readonly ttl = new Map<string, number | null>();
  /** By name: the version to be stored, or null for a deletion. */
  readonly spool = new Map<string, number | null>();

  find(at: { bucket: string; key: string }): ObjectRecord | undefined {
    return this.objects.get(`${at.bucket}/${at.key}`);
  }
  sorted(): ObjectRecord[] {
    return [...this.objects.values()].sort(
      (a, b) => byBytes(a.bucket, b.bucket) || byBytes(a.key, b.key),
    );
  }
  /** Blobs that were dropped are picked too. */
  pick(index: number): number {
    const known = [...this.blobs.keys()];
    return known[index % Math.max(1, known.length)] ?? 999_999_999;
  }

  commit({ object, newBlobs, condition }: ObjectCommit): unknown {
    const old = this.find(object);
    this.#check(condition, old, 'already_exists');
    if (old !== undefined && old.version > object.version) throw new StoreError('superseded');
    for (const { blobId } of object.extents) {
      if (newBlobs.some((blob) => blob.blobId === blobId)) continue;
      if ((this.blobs.get(blobId)?.refs ?? 0) === 0) throw new StoreError('data_lost');
    }
    for (const blob of newBlobs) this.blobs.set(blob.blobId, { ...blob, refs: 1, generation: 1 });
    this.#set(object);
    return { freed: this.#recount(), object };
  }
  delete(at: { bucket: string; key: string }, condition: Condition): unknown {
    const object = this.find(at);
    this.#check(condition, object, 'precondition_failed');
    if (object !== undefined) this.#unset(object);
    return { freed: this.#recount(), object };
  }
  copy(
    from: { bucket: string; key: string },
    to: { bucket: string; key: string; version: number; createdAtMs: number },
    condition: Condition,
  ): unknown {
    const source = this.find(from);
    if (source === undefined) throw new StoreError('not_found');
    this.#check(condition, this.find(to), 'already_exists');
    const object = { ...source, ...to, jobId: null, pinned: false, remoteEtag: null };
    this.#set(object);
    return { freed: this.#recount(), object };
  }
  rename(
    from: { bucket: string; key: string },
    to: { bucket: string; key: string },
    condition: Condition,
  ): unknown {
    const source = this.find(from);
    if (source === undefined) throw new StoreError('not_found');
    this.#check(condition, this.find(to), 'already_exists');
    if (from.bucket === to.bucket && from.key === to.key) return { freed: [], object: source };
    const object = { ...source, ...to, remoteEtag: null };
    this.#unset(source);
    this.#set(object);
    return { freed: this.#recount(), object };
  }
  renamePrefix(
    from: { bucket: string; prefix: string },
    to: { bucket: string; prefix: string },
    overwrite: boolean,
  ): unknown {
    const contains = from.prefix.startsWith(to.prefix) || to.prefix.startsWith(from.prefix);
    if (from.bucket === to.bucket && contains) throw new StoreError('request_invalid');
    const moved = this.sorted()
      .filter((object) => object.bucket === from.bucket && object.key.startsWith(from.prefix))
      .map((object) => ({
        object,
        renamed: {
          ...object,
          bucket: to.bucket,
          key: to.prefix + object.key.slice(from.prefix.length),
          remoteEtag: null,
        },
      }));
    for (const { renamed } of moved) {
      if (renamed.key === '') throw new StoreError('name_invalid');
      if (!overwrite && this.find(renamed) !== undefined) throw new StoreError('already_exists');
    }
    for (const { object, renamed } of moved) {
      this.#unset(object);
      this.#set(renamed);
    }
    const sizeBytes = moved.reduce((sum, { object }) => sum + object.sizeBytes, 0);
    return { freed: this.#recount(), objects: moved.length, sizeBytes };
  }
  copyPrefix(
    from: { bucket: string; prefix: string },
    to: { bucket: string; prefix: string },
    { overwrite, exact }: { overwrite: boolean; exact: boolean },
    stamp: { version: number; createdAtMs: number },
  ): unknown {
    const contains = from.prefix.startsWith(to.prefix) || to.prefix.startsWith(from.prefix);
    if (from.bucket === to.bucket && contains) throw new StoreError('request_invalid');
    const under = (at: { bucket: string; prefix: string }): ObjectRecord[] =>
      this.sorted().filter(({ bucket, key }) => bucket === at.bucket && key.startsWith(at.prefix));
    const copies = under(from).map((object) => ({
      ...object,
      ...{ bucket: to.bucket, key: to.prefix + object.key.slice(from.prefix.length), ...stamp },
      ...{ jobId: null, pinned: false, remoteEtag: null },
    }));
    for (const copy of copies) {
      if (copy.key === '') throw new StoreError('name_invalid');
      if (!overwrite && this.find(copy) !== undefined) throw new StoreError('already_exists');
    }
    const isOther = ({ key }: ObjectRecord): boolean => !copies.some((copy) => copy.key === key);
    const others = exact ? under(to).filter(isOther) : [];
    for (const object of others) this.#unset(object);
    for (const copy of copies) this.#set(copy);
    const sizeBytes = copies.reduce((sum, copy) => sum + copy.sizeBytes, 0);
    return { freed: this.#recount(), objects: copies.length, sizeBytes, removed: others.length };
  }
  /** In the order of names, which is what a limited deletion of the catalogs here does too. */
  deleteAll(limit: number, matches: (object: ObjectRecord) => boolean): unknown {
    const found = this.sorted().filter(matches);
    const gone = found.slice(0, limit);
    for (const object of gone) this.#unset(object);
    const sizeBytes = gone.reduce((sum, object) => sum + object.sizeBytes, 0);
    return {
      freed: this.#recount(),
      objects: gone.length,
      sizeBytes,
      done: found.length <= limit,
    };
  }
  pin(at: { bucket: string; key: string }, pinned: boolean): unknown {
    const found = this.find(at);
    if (found === undefined) throw new StoreError('not_found');
    const object = { ...found, pinned };
    this.objects.set(`${at.bucket}/${at.key}`, object);
    return object;
  }
  setCopies(
    blobId: number,
    generation: number,
    copies: Pick<BlobRecord, 'memoryBytes' | 'diskBytes' | 'remote'>,
  ): unknown {
    const blob = this.blobs.get(blobId);
    if (blob === undefined || blob.refs === 0 || blob.generation !== generation) return false;
    this.blobs.set(blobId, { ...blob, ...copies, generation: generation + 1 });
    return true;
  }
  /** Tier 2 got what the entry says. */
  send(name: string): unknown {
    const version = this.spool.get(name);
    this.spool.delete(name);
    const object = this.objects.get(name);
    if (version == null || object === undefined) return undefined;
    this.objects.set(name, { ...object, remoteEtag: `sent-${version}` });
    return true;
  }
  drop(blobId: number): undefined {
    if (this.blobs.get(blobId)?.refs === 0) this.blobs.delete(blobId);
  }

  totals(): CatalogTotals {
    const blobs = [...this.blobs.values()];
    const tier = (of: (blob: BlobRecord) => number | null): [number, number] => {
      const held = blobs.map(of).filter((bytes) => bytes !== null);
      return [held.length, held.reduce((sum, bytes) => sum + bytes, 0)];
    };
    const memory = tier((blob) => blob.memoryBytes);
    const disk = tier((blob) => blob.diskBytes);
    const remote = tier((blob) => (blob.remote === null ? null : blob.sizeBytes));
    return {
      buckets: BUCKETS.length,
      objects: this.objects.size,
      blobs: blobs.length,
      blobsByTier: { 0: memory[0], 1: disk[0], 2: remote[0] },
      bytes: { 0: memory[1], 1: disk[1], 2: remote[1] },
    };
  }

  #check(condition: Condition, old: ObjectRecord | undefined, ifExists: StoreErrorCode): void {
    if (condition.ifNoneMatch === true && old !== undefined) throw new StoreError(ifExists);
    const { ifMatch, ifNoneMatch } = condition;
    const isAny = ifMatch === '*' && old !== undefined;
    if (ifMatch !== undefined && ifMatch !== old?.etag && !isAny)
      throw new StoreError('precondition_failed');
    if (typeof ifNoneMatch === 'string' && ifNoneMatch === old?.etag)
      throw new StoreError('precondition_failed');
  }
  /** Both buckets are mirrored: every change of a name is entered into the spool. */
  #set(object: ObjectRecord): void {
    const name = `${object.bucket}/${object.key}`;
    this.objects.set(name, object);
    this.spool.set(name, object.version);
  }
  #unset(object: ObjectRecord): void {
    const name = `${object.bucket}/${object.key}`;
    this.objects.delete(name);
    this.spool.set(name, null);
  }
  /** Sets every `refs` from the objects, and returns blobs that fell to 0 just now. */
  #recount(): BlobRecord[] {
    const uses = new Map<number, number>();
    for (const object of this.objects.values()) {
      for (const { blobId } of object.extents) uses.set(blobId, (uses.get(blobId) ?? 0) + 1);
    }
    const freed: BlobRecord[] = [];
    for (const blob of this.blobs.values()) {
      const now = { ...blob, refs: uses.get(blob.blobId) ?? 0 };
      this.blobs.set(blob.blobId, now);
      if (blob.refs > 0 && now.refs === 0) freed.push(now);
    }
    return freed;
  }
}

/** Everything that can be asked, once. */
async function compareState(catalog: Catalog, model: Model): Promise<void> {
  const objects = model.sorted();
  for (const bucket of BUCKETS) {
    const here = objects.filter((object) => object.bucket === bucket);
    for (const object of here) expect(await catalog.findObject(bucket, object.key)).toEqual(object);
    for (const prefix of PREFIXES) {
      const options = { prefix, delimiter: '/', startAfter: '', limit: 2 };
      const names = here.map((object) => object.key);
      expect(await listAll(catalog, bucket, options)).toEqual(modelNames(names, options));
    }
    const page = await catalog.listObjects(bucket, {
      prefix: '',
      delimiter: '',
      startAfter: '',
      limit: 1000,
    });
    expect(page.objects).toEqual(here);
    expect(await catalog.bucketTotals(bucket)).toEqual(sumOf(here));
  }
  for (const jobId of JOBS) {
    expect(await catalog.jobTotals(jobId)).toEqual(
      sumOf(objects.filter((object) => object.jobId === jobId)),
    );
  }
  expect(await catalog.totals()).toEqual(model.totals());
  const spool = await catalog.listSpool({ after: 0, limit: 1000 });
  expect(new Map(spool.map(({ bucket, key, version }) => [`${bucket}/${key}`, version]))).toEqual(
    model.spool,
  );
  const spooledBytes = spool.reduce((sum, entry) => sum + entry.sizeBytes, 0);
  expect(await catalog.spoolTotals()).toMatchObject({
    entries: model.spool.size,
    bytes: spooledBytes,
  });
  const now = 80;
  const expired = objects.filter(
    (object) => object.createdAtMs < now - (model.ttl.get(object.bucket) ?? Infinity),
  );
  expect(
    new Set((await catalog.listExpired(now, 1000)).map(({ bucket, key }) => `${bucket}/${key}`)),
  ).toEqual(new Set(expired.map(({ bucket, key }) => `${bucket}/${key}`)));
  const blobs = [...model.blobs.values()].sort((a, b) => a.blobId - b.blobId);
  expect(await catalog.listBlobs({ afterBlobId: 0, limit: 1000 })).toEqual(blobs);
  const places = {
    memory: (blob: BlobRecord) => blob.memoryBytes !== null,
    disk: (blob: BlobRecord) => blob.diskBytes !== null,
    remote: (blob: BlobRecord) => blob.remote !== null,
    freed: (blob: BlobRecord) => blob.refs === 0,
    unmirrored: (blob: BlobRecord) => blob.refs > 0 && blob.remote === null,
  };
  for (const [where, matches] of Object.entries(places)) {
    const found = await catalog.listBlobs({
      afterBlobId: 0,
      limit: 1000,
      where: where as keyof typeof places,
    });
    expect(found).toEqual(blobs.filter(matches));
  }
  for (const { blobId } of blobs) {
    const names = objects
      .filter((object) => object.extents.some((extent) => extent.blobId === blobId))
      .map(({ bucket, key }) => `${bucket}/${key}`);
    expect(await holders(catalog, blobId)).toEqual(names.sort());
  }
}

function sumOf(objects: readonly ObjectRecord[]): { objects: number; sizeBytes: number } {
  return {
    objects: objects.length,
    sizeBytes: objects.reduce((sum, object) => sum + object.sizeBytes, 0),
  };
}
