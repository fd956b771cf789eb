/**
 * The promises of a catalog about buckets that keep versions. A model of them answers random operations beside the
 * catalog: a list of versions per key, of which the newest is the object.
 */
import type {
  BlobRecord,
  BucketPolicy,
  Catalog,
  ObjectCommit,
  ObjectRecord,
  SpoolEntry,
  VersionListOptions,
  VersionRecord,
} from '@ebb/core';
import { isStoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { CatalogFactory } from './catalog.ts';

type Versioning = BucketPolicy['versioning'];

function policyOf(versioning: Versioning, fields: Partial<BucketPolicy> = {}): BucketPolicy {
  return {
    ...{ preset: 'buffered', ack: 'disk', mirror: true, ttlMs: null, quotaBytes: null },
    ...{ remote: null, revalidateMs: null },
    versioning,
    ...fields,
  };
}

export function versionConformance(factory: CatalogFactory): void {
  describe('versions', () => {
    let catalog: Catalog;
    beforeEach(async () => {
      catalog = await factory.open();
      await catalog.createBucket({ name: 'kept', createdAtMs: 1, policy: policyOf('enabled') });
      await catalog.createBucket({ name: 'plain', createdAtMs: 1, policy: policyOf('off') });
    });
    afterEach(async () => {
      await catalog.close();
    });

    const put = (key: string, fields: Partial<ObjectRecord> = {}): Promise<Put> =>
      putObject(catalog, 'kept', key, fields);
    const remove = async (key: string, marksAbsent = false): Promise<Removed> => {
      const stamp = { version: await catalog.nextIds(1), createdAtMs: 5, marksAbsent };
      return await catalog.deleteObject('kept', key, {}, stamp);
    };
    const set = (versioning: Versioning, fields: Partial<BucketPolicy> = {}): Promise<void> =>
      catalog.setBucketPolicy('kept', policyOf(versioning, fields));
    const list = async (key = ''): Promise<readonly VersionRecord[]> =>
      (await catalog.listVersions('kept', { ...ALL, prefix: key })).versions;
    const shown = async (): Promise<string[]> =>
      (await list()).map(
        ({ object, isLatest, isDeleteMarker }) =>
          `${object.key} ${isDeleteMarker ? 'marker' : object.etag}${object.versioned === true ? '' : ' null'}${isLatest ? ' latest' : ''}`,
      );

    test('an overwrite keeps what it replaced, with all its properties, and frees nothing', async () => {
      const first = await put('a', { metadata: { m: 'ä' }, attributes: { tagging: 'x=y' } });
      const second = await put('a');
      expect(second.freed).toEqual([]);
      expect(await catalog.findObject('kept', 'a')).toEqual(second.object);
      expect(await list()).toEqual([
        { object: second.object, isLatest: true, isDeleteMarker: false },
        { object: first.object, isLatest: false, isDeleteMarker: false },
      ]);
      expect(first.object.versioned).toBe(true);
      expect((await catalog.listObjects('kept', ALL_OBJECTS)).objects).toEqual([second.object]);
      expect(await catalog.bucketTotals('kept')).toEqual({ objects: 1, sizeBytes: 1 });
    });

    test('a delete leaves a marker that stands for it, and every version below it', async () => {
      const { object } = await put('a');
      const { object: gone, marker, freed } = await remove('a');
      expect([gone, freed]).toEqual([object, []]);
      expect(await catalog.findObject('kept', 'a')).toBeUndefined();
      const latest = await catalog.findVersion('kept', 'a', 'latest');
      expect(latest).toEqual({ object: marker, isLatest: true, isDeleteMarker: true });
      expect(await catalog.findVersion('kept', 'a', object.version)).toEqual({
        ...{ object, isLatest: false, isDeleteMarker: false },
      });
    });

    test('where nothing is, a delete marks that only when it is asked to', async () => {
      expect(await remove('a')).toEqual({ freed: [], object: undefined });
      expect(await list()).toEqual([]);
      await remove('a', true);
      expect(await shown()).toEqual(['a marker latest']);
      const inPlain = { version: await catalog.nextIds(1), createdAtMs: 1, marksAbsent: true };
      expect(await catalog.deleteObject('plain', 'a', {}, inPlain)).toEqual({
        ...{ freed: [], object: undefined },
      });
    });

    test('the newest version that is removed for good gives way to the one before, in one step', async () => {
      const first = await put('a');
      const second = await put('a');
      const { freed, removed } = await catalog.deleteVersion(
        'kept',
        'a',
        second.object.version,
        {},
      );
      expect(removed).toEqual({ object: second.object, isLatest: true, isDeleteMarker: false });
      expect(freed.map(({ blobId }) => blobId)).toEqual(blobsOf(second.object));
      expect(await catalog.findObject('kept', 'a')).toEqual(first.object);
      const marked = await remove('a');
      await catalog.deleteVersion('kept', 'a', marked.marker?.version as number, {});
      expect(await catalog.findObject('kept', 'a')).toEqual(first.object);
      await catalog.deleteVersion('kept', 'a', first.object.version, {});
      expect(await list()).toEqual([]);
      expect(await catalog.deleteVersion('kept', 'a', first.object.version, {})).toEqual({
        ...{ freed: [], removed: undefined },
      });
    });

    test('an old version that is removed leaves the others, and a marker stays above them', async () => {
      const first = await put('a');
      await put('a');
      await remove('a');
      await catalog.deleteVersion('kept', 'a', first.object.version, {});
      expect(await catalog.findObject('kept', 'a')).toBeUndefined();
      expect(await shown()).toHaveLength(2);
    });

    test('what was there before versions were kept is the null version, and is kept from then on', async () => {
      await set('suspended');
      const before = await put('a');
      expect(before.object.versioned).toBeUndefined();
      await set('enabled');
      const after = await put('a');
      expect(await shown()).toEqual([
        `a ${after.object.etag} latest`,
        `a ${before.object.etag} null`,
      ]);
      expect((await catalog.findVersion('kept', 'a', 'null'))?.object).toEqual(before.object);
    });

    test('while suspended, a write or delete replaces the null version wherever it lies, and nothing else', async () => {
      const kept = await put('a');
      await set('suspended');
      const first = await put('a');
      expect(await shown()).toEqual([
        `a ${first.object.etag} null latest`,
        `a ${kept.object.etag}`,
      ]);
      const second = await put('a');
      expect(second.freed.map(({ blobId }) => blobId)).toEqual(blobsOf(first.object));
      await set('enabled');
      const newest = await put('a');
      await set('suspended');
      const third = await put('a');
      expect(third.freed.map(({ blobId }) => blobId)).toEqual(blobsOf(second.object));
      expect(await shown()).toEqual([
        `a ${third.object.etag} null latest`,
        `a ${newest.object.etag}`,
        `a ${kept.object.etag}`,
      ]);
      await remove('a');
      await remove('a', true);
      expect(await shown()).toEqual([
        'a marker null latest',
        `a ${newest.object.etag}`,
        `a ${kept.object.etag}`,
      ]);
      await catalog.deleteVersion('kept', 'a', 'null', {});
      expect(await catalog.findObject('kept', 'a')).toEqual(newest.object);
    });

    test('the null version can be written over itself from its own bytes', async () => {
      await set('suspended');
      const { object } = await put('a');
      await set('enabled');
      await put('a');
      await set('suspended');
      const version = await catalog.nextIds(1);
      const again = { ...object, version, etag: 'again' };
      await catalog.commitObject({ object: again, newBlobs: [], condition: {} });
      expect((await catalog.findBlob(blobsOf(object)[0] as number))?.refs).toBe(1);
    });

    test('a condition is held against the object, never against an old version', async () => {
      const first = await put('a');
      const second = await put('a');
      const commit = async (condition: ObjectCommit['condition']): Promise<Put> =>
        await putObject(catalog, 'kept', 'a', {}, condition);
      await expectCode(commit({ ifMatch: first.object.etag }), 'precondition_failed');
      await expectCode(commit({ ifNoneMatch: true }), 'already_exists');
      await commit({ ifMatch: second.object.etag });
      await remove('a');
      await commit({ ifNoneMatch: true });
    });

    test('a change that comes too late is refused, also below a marker, and changes nothing', async () => {
      await put('a');
      const early = await catalog.nextIds(3);
      await remove('a');
      const before = await shown();
      const late = { version: early, createdAtMs: 1 };
      const object = objectOf('kept', 'a', { version: early, extents: [] });
      await expectCode(catalog.commitObject({ object, newBlobs: [], condition: {} }), 'superseded');
      await expectCode(
        catalog.deleteObject('kept', 'a', {}, { ...late, marksAbsent: true }),
        'superseded',
      );
      await put('b');
      const name = (key: string): { bucket: string; key: string } => ({ bucket: 'kept', key });
      await expectCode(catalog.renameObject(name('b'), name('a'), {}, late), 'superseded');
      await expectCode(catalog.deletePrefix('kept', 'b', 9, late), 'superseded');
      expect((await shown()).filter((line) => line.startsWith('a'))).toEqual(before);
      expect(await catalog.findObject('kept', 'b')).toBeDefined();
    });

    test('a rename leaves the old name a marker and its versions, and is a new version under the new name', async () => {
      const { object } = await put('a', { jobId: 'j' });
      const { object: there } = await put('b');
      await catalog.setPinned('kept', 'a', true);
      const from = { bucket: 'kept', key: 'a' };
      const version = await catalog.nextIds(1);
      const stamp = { version, createdAtMs: 9 };
      const renamed = await catalog.renameObject(from, { ...from, key: 'b' }, {}, stamp);
      expect(renamed.object).toEqual({ ...object, key: 'b', version, pinned: true });
      expect(await shown()).toEqual([
        'a marker latest',
        `a ${object.etag}`,
        `b ${object.etag} latest`,
        `b ${there.etag}`,
      ]);
      await catalog.renameObject(
        { ...from, key: 'b' },
        { bucket: 'plain', key: 'b' },
        {},
        {
          ...stamp,
          version: await catalog.nextIds(1),
        },
      );
      expect((await catalog.findObject('plain', 'b'))?.versioned).toBeUndefined();
      expect((await catalog.findBlob(blobsOf(object)[0] as number))?.refs).toBe(3);
    });

    test('attributes of an old version are set by its number', async () => {
      const { object } = await put('a', { attributes: { x: '1' } });
      const current = await put('a', { attributes: { x: '1' } });
      const name = { bucket: 'kept', key: 'a', version: object.version };
      const changed = await catalog.setAttributes(name, { from: { x: '1' }, to: { x: '2' } });
      expect(changed).toEqual({ ...object, attributes: { x: '2' } });
      expect((await catalog.findVersion('kept', 'a', object.version))?.object).toEqual(changed);
      expect(await catalog.findObject('kept', 'a')).toEqual(current.object);
    });

    test('a bucket with old versions or markers cannot be deleted; an empty one is gone with what is hidden', async () => {
      const { object } = await put('a');
      const { marker } = await remove('a');
      await expectCode(catalog.deleteBucket('kept'), 'bucket_not_empty');
      await catalog.deleteVersion('kept', 'a', object.version, {});
      await expectCode(catalog.deleteBucket('kept'), 'bucket_not_empty');
      await catalog.deleteVersion('kept', 'a', marker?.version as number, {});
      await catalog.deleteBucket('kept');
      expect((await catalog.listBuckets()).map(({ name }) => name)).toEqual(
        expect.not.arrayContaining([expect.stringContaining('kept')]),
      );
    });

    test('old versions and markers expire by the age of each, and what has not expired stays the object', async () => {
      const old = await put('a', { createdAtMs: 100 });
      const young = await put('a', { createdAtMs: 200 });
      await set('enabled', { ttlMs: 50 });
      const name = { bucket: 'kept', key: 'a' };
      expect(await catalog.listExpired(200, 9)).toEqual([{ ...name, version: old.object.version }]);
      expect((await catalog.listExpired(300, 9)).map(({ version }) => version).sort()).toEqual(
        [old.object.version, young.object.version].sort(),
      );
    });

    test('of a mirrored bucket an old version is spooled only if tier 2 never had it, and a marker never', async () => {
      const spooled = async (): Promise<string[]> =>
        (await catalog.listSpool({ after: 0, limit: 100 }))
          .map(({ bucket, version }) => `${bucket} ${version ?? 'deleted'}`)
          .sort();
      const first = (await put('a')).object.version;
      const second = (await put('a')).object.version;
      expect(await spooled()).toEqual([`kept ${second}`, `kept!versions ${first}`]);
      const entry = await catalog.findSpooled('kept', 'a');
      await catalog.setMirrored(entry as SpoolEntry, { etag: 'stored', copies: [] });
      const third = (await put('a')).object.version;
      expect(await spooled()).toEqual([`kept ${third}`, `kept!versions ${first}`]);
      expect((await catalog.findVersion('kept', 'a', second))?.object.remoteEtag).toBeNull();
      await remove('a');
      expect(await spooled()).toEqual([
        'kept deleted',
        ...[first, third].map((version) => `kept!versions ${version}`).sort(),
      ]);
      await catalog.deleteVersion('kept', 'a', first, {});
      expect(await spooled()).toEqual([
        ...['kept deleted', `kept!versions ${third}`, 'kept!versions deleted'],
      ]);
    });

    test('an old version is not sent where the objects of its bucket lie for others to read', async () => {
      await set('enabled', { remote: 's3://theirs/prefix' });
      await put('a');
      await put('a');
      const spool = await catalog.listSpool({ after: 0, limit: 100 });
      expect(new Map(spool.map(({ bucket, target }) => [bucket, target]))).toEqual(
        new Map([
          ['kept', 's3://theirs/prefix'],
          ['kept!versions', null],
        ]),
      );
    });

    test('the end of a job takes all its versions for good, and what was there before comes back', async () => {
      const mine = await put('a');
      for (let i = 0; i < 3; i++) await put('a', { jobId: 'j' });
      await put('b', { jobId: 'j' });
      await remove('b');
      expect(await catalog.jobTotals('j')).toEqual({ objects: 4, sizeBytes: 4 });
      for (let done = false; !done; ) ({ done } = await catalog.deleteJobObjects('j', 2));
      expect(await catalog.findObject('kept', 'a')).toEqual(mine.object);
      expect(await shown()).toEqual([`a ${mine.object.etag} latest`, 'b marker latest']);
      expect(await catalog.jobTotals('j')).toEqual({ objects: 0, sizeBytes: 0 });
    });

    test('a copy is a version of its own, of the same bytes', async () => {
      const { object } = await put('a');
      const from = { bucket: 'kept', key: 'a' };
      const version = await catalog.nextIds(1);
      const copy = await catalog.copyObject(from, { ...from, version, createdAtMs: 7 }, {});
      expect(copy).toEqual({ freed: [], object: { ...object, version, createdAtMs: 7 } });
      expect((await catalog.findBlob(blobsOf(object)[0] as number))?.refs).toBe(2);
    });

    test('a prefix that is copied here becomes newest versions; what it replaces or drops is kept', async () => {
      await catalog.createBucket({ name: 'plain', createdAtMs: 1, policy: policyOf('off') });
      const source = await putObject(catalog, 'plain', 's/a');
      const [a, b] = [await put('r/a'), await put('r/b')];
      const version = await catalog.nextIds(1);
      const copied = await catalog.copyPrefix(
        { bucket: 'plain', prefix: 's/' },
        { bucket: 'kept', prefix: 'r/' },
        { overwrite: true, exact: true },
        { version, createdAtMs: 7 },
      );
      expect(copied).toEqual({ freed: [], objects: 1, sizeBytes: 1, removed: 1 });
      expect((await catalog.findBlob(blobsOf(source.object)[0] as number))?.refs).toBe(2);
      expect(await shown()).toEqual([
        ...[`r/a ${source.object.etag} latest`, `r/a ${a.object.etag}`],
        ...['r/b marker latest', `r/b ${b.object.etag}`],
      ]);
      const late = { version: version - 1, createdAtMs: 7 };
      const [from, to] = [
        { bucket: 'plain', prefix: 's/' },
        { bucket: 'kept', prefix: 'r/' },
      ];
      const again = catalog.copyPrefix(from, to, { overwrite: true, exact: true }, late);
      await expectCode(again, 'superseded');
    });

    test('a page goes on below the version it ended with, though that was removed and another took its place', async () => {
      const versions = [await put('a'), await put('a'), await put('a')].map(({ object }) => object);
      const [first, second, third] = versions as [ObjectRecord, ObjectRecord, ObjectRecord];
      const page = await catalog.listVersions('kept', { ...ALL, limit: 1 });
      expect(page.next).toEqual({ key: 'a', version: third.version });
      await catalog.deleteVersion('kept', 'a', third.version, {});
      const startAfter = page.next as VersionListOptions['startAfter'];
      const rest = await catalog.listVersions('kept', { ...ALL, startAfter });
      expect(rest.versions.map(({ object }) => object)).toEqual([second, first]);
    });

    test.runIf('reopen' in factory)('a restart changes nothing of it', async () => {
      await put('a');
      await put('a');
      await remove('a');
      const before = await list();
      catalog = await (factory.reopen as (c: Catalog) => Promise<Catalog>)(catalog);
      expect(await list()).toEqual(before);
    });

    test('answers as the model does, over random changes and pages', async () => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(step, { minLength: 10, maxLength: 60, size: 'max' }),
          fc.integer({ min: 1, max: 7 }),
          async (steps, limit) => {
            const tested = await factory.open();
            try {
              await tested.createBucket({ name: 'kept', createdAtMs: 1, policy: policyOf('off') });
              const model = new Model();
              for (const one of steps) {
                await apply(tested, model, one);
                await compare(tested, model, limit);
              }
              for (const prefix of ['', 'a', 'a/', 'a!', 'b'])
                for (const delimiter of ['', '/', '!'])
                  await comparePages(tested, model, { prefix, delimiter, limit });
            } finally {
              await tested.close();
            }
          },
        ),
        { numRuns: 40 },
      );
    });
  });
}

type Removed = Awaited<ReturnType<Catalog['deleteObject']>>;
interface Put {
  readonly object: ObjectRecord;
  readonly freed: readonly BlobRecord[];
}

const ALL: VersionListOptions = {
  prefix: '',
  delimiter: '',
  startAfter: { key: '' },
  limit: 1000,
};
const ALL_OBJECTS = { prefix: '', delimiter: '', startAfter: '', limit: 1000 };

async function putObject(
  catalog: Catalog,
  bucket: string,
  key: string,
  fields: Partial<ObjectRecord> = {},
  condition: ObjectCommit['condition'] = {},
): Promise<Put> {
  const blobId = await catalog.nextIds(2);
  const extents = [{ blobId, offset: 0, length: 1 }];
  const object = objectOf(bucket, key, { version: blobId + 1, extents, ...fields });
  const places = { memoryBytes: 4096, diskBytes: null, remote: null };
  const blob = { blobId, sizeBytes: 1, crc32c: 7, createdAtMs: 1, ...places };
  return await catalog.commitObject({ object, newBlobs: [blob], condition });
}

function objectOf(
  bucket: string,
  key: string,
  fields: Partial<ObjectRecord> & Pick<ObjectRecord, 'version' | 'extents'>,
): ObjectRecord {
  return {
    ...{ bucket, key, sizeBytes: fields.extents.length, etag: `e${fields.version}`, crc32c: 7 },
    ...{ contentType: 'text/plain', metadata: {}, attributes: {}, createdAtMs: 1 },
    ...{ jobId: null, pinned: false, remoteEtag: null },
    ...fields,
  };
}

function blobsOf({ extents }: ObjectRecord): number[] {
  return extents.map(({ blobId }) => blobId);
}

async function expectCode(work: Promise<unknown>, code: string): Promise<void> {
  const error: unknown = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(isStoreError(error) ? error.code : error).toBe(code);
}

// ── the model ───────────────────────────────────────────────────────────────────────────────────────────────────────

/** Keys around each other in every order that could be mistaken: characters that are escaped, prefixes of one another. */
const KEYS = ['a', 'a ', 'a!P', 'a/b', 'a\u0001', 'b v1'];
const key = fc.constantFrom(...KEYS);
const job = fc.constantFrom(null, null, 'j');
const step = fc.oneof(
  { weight: 16, arbitrary: fc.record({ op: fc.constant('put' as const), key, job }) },
  {
    weight: 5,
    arbitrary: fc.record({ op: fc.constant('delete' as const), key, marksAbsent: fc.boolean() }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ op: fc.constant('deleteVersion' as const), key, pick: fc.nat(9) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant('set' as const),
      versioning: fc.constantFrom('enabled' as const, 'suspended' as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('rename' as const), key, to: key }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('copy' as const), key, to: key }) },
  {
    weight: 1,
    arbitrary: fc.record({
      op: fc.constant('deletePrefix' as const),
      prefix: fc.constantFrom('a', 'a/', ''),
    }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('endJob' as const) }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

interface ModelVersion {
  readonly version: number;
  readonly isNull: boolean;
  readonly isMarker: boolean;
  readonly blobIds: readonly number[];
  readonly job: string | null;
}

class Model {
  versioning: Versioning = 'off';
  /** Oldest first. */
  readonly keys = new Map<string, ModelVersion[]>();

  of(name: string): ModelVersion[] {
    return this.keys.get(name) ?? [];
  }
  object(name: string): ModelVersion | undefined {
    const newest = this.of(name).at(-1);
    return newest?.isMarker === true ? undefined : newest;
  }
  add(name: string, added: Omit<ModelVersion, 'isNull'>): void {
    const isNull = this.versioning !== 'enabled';
    const kept = this.of(name).filter((old) => !(isNull && old.isNull));
    this.keys.set(name, [...kept, { ...added, isNull }]);
  }
  delete(name: string, version: number): void {
    if (this.versioning === 'off') this.keys.delete(name);
    else this.add(name, { version, isMarker: true, blobIds: [], job: null });
  }
  /** As a listing has them: by key, the newest first. */
  all(): { readonly key: string; readonly found: ModelVersion; readonly isLatest: boolean }[] {
    return [...this.keys]
      .toSorted(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
      .flatMap(([name, versions]) =>
        versions.toReversed().map((found, i) => ({ key: name, found, isLatest: i === 0 })),
      );
  }
}

async function apply(catalog: Catalog, model: Model, one: Step): Promise<void> {
  const version = await catalog.nextIds(1);
  const stamp = { version, createdAtMs: 1 };
  const at = (name: string): { bucket: string; key: string } => ({ bucket: 'kept', key: name });
  switch (one.op) {
    case 'put': {
      const { object } = await putObject(catalog, 'kept', one.key, { jobId: one.job });
      const blobIds = blobsOf(object);
      model.add(one.key, { version: object.version, isMarker: false, blobIds, job: one.job });
      return;
    }
    case 'delete': {
      const existed = model.object(one.key) !== undefined;
      const done = await catalog.deleteObject('kept', one.key, {}, { ...stamp, ...one });
      expect(done.object !== undefined).toBe(existed);
      if (existed || (one.marksAbsent && model.versioning !== 'off'))
        model.delete(one.key, version);
      return;
    }
    case 'deleteVersion': {
      const versions = model.of(one.key);
      const meant = versions[one.pick];
      const which = meant === undefined ? version : meant.isNull ? 'null' : meant.version;
      const { removed } = await catalog.deleteVersion('kept', one.key, which, {});
      expect(removed?.object.version).toBe(meant?.version);
      model.keys.set(
        one.key,
        versions.filter((other) => other !== meant),
      );
      return;
    }
    case 'set':
      model.versioning = one.versioning;
      await catalog.setBucketPolicy('kept', policyOf(one.versioning));
      return;
    case 'rename': {
      const source = model.object(one.key);
      const work = catalog.renameObject(at(one.key), at(one.to), {}, stamp);
      if (source === undefined) {
        await expectCode(work, 'not_found');
        return;
      }
      await work;
      if (one.key === one.to) return;
      model.add(one.to, {
        ...source,
        version: model.versioning === 'off' ? source.version : version,
      });
      model.delete(one.key, version);
      return;
    }
    case 'copy': {
      const source = model.object(one.key);
      const work = catalog.copyObject(at(one.key), { ...at(one.to), ...stamp }, {});
      if (source === undefined) await expectCode(work, 'not_found');
      else {
        await work;
        model.add(one.to, { ...source, version, job: null });
      }
      return;
    }
    case 'deletePrefix': {
      const names = KEYS.filter(
        (name) => name.startsWith(one.prefix) && model.object(name) !== undefined,
      );
      const done = await catalog.deletePrefix('kept', one.prefix, 100, stamp);
      expect([done.objects, done.done]).toEqual([names.length, true]);
      for (const name of names) model.delete(name, version);
      return;
    }
    case 'endJob':
      for (let done = false; !done; ) ({ done } = await catalog.deleteJobObjects('j', 1));
      for (const [name, versions] of model.keys)
        model.keys.set(
          name,
          versions.filter(({ job: owner }) => owner !== 'j'),
        );
  }
}

async function compare(catalog: Catalog, model: Model, limit: number): Promise<void> {
  await comparePages(catalog, model, { prefix: '', delimiter: '', limit });
  for (const name of KEYS) {
    expect((await catalog.findObject('kept', name))?.version).toBe(model.object(name)?.version);
    const latest = await catalog.findVersion('kept', name, 'latest');
    expect(latest?.object.version).toBe(model.of(name).at(-1)?.version);
    const nullVersion = await catalog.findVersion('kept', name, 'null');
    expect(nullVersion?.object.version).toBe(model.of(name).find(({ isNull }) => isNull)?.version);
    for (const { version } of model.of(name))
      expect((await catalog.findVersion('kept', name, version))?.object.version).toBe(version);
  }
  const held = new Map<number, number>();
  for (const { found } of model.all())
    for (const blobId of found.blobIds) held.set(blobId, (held.get(blobId) ?? 0) + 1);
  const blobs = await catalog.listBlobs({ afterBlobId: 0, limit: 1000 });
  const live = blobs.filter(({ refs }) => refs > 0);
  expect(new Map(live.map(({ blobId, refs }) => [blobId, refs]))).toEqual(held);
}

/** Page by page against what the model lists, rolled up the plain way. */
async function comparePages(
  catalog: Catalog,
  model: Model,
  asked: { readonly prefix: string; readonly delimiter: string; readonly limit: number },
): Promise<void> {
  const { prefix, delimiter, limit } = asked;
  const wanted: string[] = [];
  for (const { key: name, found, isLatest } of model.all()) {
    if (!name.startsWith(prefix)) continue;
    const at = delimiter === '' ? -1 : name.indexOf(delimiter, prefix.length);
    const line =
      at >= 0
        ? `prefix ${name.slice(0, at + delimiter.length)}`
        : `${name} ${found.version} ${found.isNull} ${found.isMarker} ${isLatest}`;
    if (wanted.at(-1) !== line) wanted.push(line);
  }
  const listed: { readonly name: string; readonly line: string }[] = [];
  let startAfter: VersionListOptions['startAfter'] | null = { key: '' };
  while (startAfter !== null) {
    const page: Awaited<ReturnType<Catalog['listVersions']>> = await catalog.listVersions('kept', {
      ...asked,
      startAfter,
    });
    expect(page.versions.length + page.prefixes.length).toBeLessThanOrEqual(limit);
    const lines = [
      ...page.versions.map(({ object, isLatest, isDeleteMarker }) => ({
        name: object.key,
        line: `${object.key} ${object.version} ${object.versioned !== true} ${isDeleteMarker} ${isLatest}`,
      })),
      ...page.prefixes.map((name) => ({ name, line: `prefix ${name}` })),
    ];
    // Stable: the versions of one key stay in the order in which they came.
    listed.push(
      ...lines.toSorted((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name))),
    );
    startAfter = page.next;
  }
  expect(listed.map(({ line }) => line)).toEqual(wanted);
}
