/** The part of every catalog's promises that is about events (I5 of packages/core/src/catalog/catalog.ts). */
import type {
  BucketPolicy,
  Catalog,
  CatalogEvent,
  EventFilter,
  ObjectRecord,
  SpoolEntry,
} from '@ebb/core';
import { isStoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';

export interface EventCatalogFactory {
  /** A new and empty catalog, which keeps at least `eventsMax` events and at most 1,024 more. The suite closes it. */
  open(options: { readonly eventsMax: number }): Promise<Catalog>;
  /** Ends the use of `catalog` and opens the same data again. */
  reopen(catalog: Catalog): Promise<Catalog>;
}

const BUFFERED: BucketPolicy = {
  ...{ preset: 'buffered', ack: 'disk', mirror: true },
  ...{ ttlMs: null, quotaBytes: null, remote: null, revalidateMs: null, versioning: 'off' },
};
const EPHEMERAL: BucketPolicy = { ...BUFFERED, preset: 'ephemeral', ack: 'memory', mirror: false };
const EVENTS_MAX = 2000;

export function catalogEventsConformance(name: string, factory: EventCatalogFactory): void {
  describe(`events of the catalog: ${name}`, () => {
    let catalog: Catalog;
    beforeEach(async () => {
      catalog = await factory.open({ eventsMax: EVENTS_MAX });
      await addBucket('one', BUFFERED);
      await addBucket('two', BUFFERED);
    });
    afterEach(async () => {
      await catalog.close();
    });

    const addBucket = (bucket: string, policy: BucketPolicy): Promise<unknown> =>
      catalog.createBucket({ name: bucket, createdAtMs: 1, policy });
    const all = (filter?: EventFilter, afterEventId = 0): Promise<readonly CatalogEvent[]> =>
      allEvents(catalog, { afterEventId, ...(filter === undefined ? {} : { filter }) });
    /** `type bucket/key`, in order. */
    const told = async (filter?: EventFilter, afterEventId = 0): Promise<string[]> =>
      (await all(filter, afterEventId)).map(({ type, bucket, key }) => `${type} ${bucket}/${key}`);

    test('a commit, an overwrite and a delete are told with version, size and time', async () => {
      const first = await putObject(catalog, 'a', { sizeBytes: 3 });
      const second = await putObject(catalog, 'a', { sizeBytes: 5 });
      await catalog.deleteObject('one', 'a', {});
      const events = await all();
      expect(events.map(({ eventId: _, atMs: __, ...event }) => event)).toEqual([
        eventOf('created', first),
        eventOf('updated', second),
        eventOf('deleted', second),
      ]);
      for (const { atMs } of events) expect(Math.abs(Date.now() - atMs)).toBeLessThan(60_000);
    });

    test('a change that is refused, and one that changes nothing, tell nothing', async () => {
      await putObject(catalog, 'a');
      const before = await catalog.lastEventId();
      const exists = putObject(catalog, 'a', { condition: { ifNoneMatch: true } });
      await expect(exists).rejects.toMatchObject({ code: 'already_exists' });
      await catalog.deleteObject('one', 'none', {});
      await catalog.renameObject({ bucket: 'one', key: 'a' }, { bucket: 'one', key: 'a' }, {});
      await catalog.setPinned('one', 'a', true);
      expect(await told({}, before)).toEqual([]);
    });

    test('a rename tells that the old name is gone and the new one is there, in one step', async () => {
      const { version } = await putObject(catalog, 'a');
      await putObject(catalog, 'taken', { bucket: 'two' });
      const before = await catalog.lastEventId();
      await catalog.renameObject({ bucket: 'one', key: 'a' }, { bucket: 'one', key: 'b' }, {});
      await catalog.renameObject({ bucket: 'one', key: 'b' }, { bucket: 'two', key: 'taken' }, {});
      expect(await told({}, before)).toEqual([
        'deleted one/a',
        'created one/b',
        'deleted one/b',
        'updated two/taken',
      ]);
      expect((await all({}, before)).every((event) => event.version === version)).toBe(true);
    });

    test('prefixes that are renamed or deleted, copies, and the end of a job are told object by object', async () => {
      await putObject(catalog, 'p/1');
      await putObject(catalog, 'p/2');
      await putObject(catalog, 'pq', { jobId: 'job' });
      let before = await catalog.lastEventId();
      const next = async (): Promise<string[]> => {
        const events = await told({}, before);
        before = await catalog.lastEventId();
        return events;
      };
      await catalog.renamePrefix(
        { bucket: 'one', prefix: 'p/' },
        { bucket: 'two', prefix: 'r/' },
        { overwrite: false },
      );
      expect(await next()).toEqual([
        ...['deleted one/p/1', 'created two/r/1'],
        ...['deleted one/p/2', 'created two/r/2'],
      ]);
      const version = await catalog.nextIds(1);
      const copy = { bucket: 'one', key: 'copy', version, createdAtMs: 1 };
      await catalog.copyObject({ bucket: 'two', key: 'r/1' }, copy, {});
      expect(await next()).toEqual(['created one/copy']);
      await putObject(catalog, 's/2');
      await putObject(catalog, 's/3');
      await next();
      await catalog.copyPrefix(
        { bucket: 'two', prefix: 'r/' },
        { bucket: 'one', prefix: 's/' },
        { overwrite: true, exact: true },
        { version: await catalog.nextIds(1), createdAtMs: 1 },
      );
      expect(await next()).toEqual(['deleted one/s/3', 'created one/s/1', 'updated one/s/2']);
      await catalog.deletePrefix('two', 'r/', 1000);
      expect(await next()).toEqual(['deleted two/r/1', 'deleted two/r/2']);
      await catalog.deleteJobObjects('job', 1000);
      expect(await next()).toEqual(['deleted one/pq']);
    });

    test('ephemeral and hidden buckets tell nothing, unless the policy says so', async () => {
      await addBucket('scratch', EPHEMERAL);
      await addBucket('told', { ...EPHEMERAL, events: true });
      await addBucket('quiet', { ...BUFFERED, events: false });
      await addBucket('one!uploads', BUFFERED);
      for (const bucket of ['scratch', 'told', 'quiet', 'one!uploads'])
        await putObject(catalog, 'a', { bucket });
      await catalog.renameObject({ bucket: 'scratch', key: 'a' }, { bucket: 'one', key: 'a' }, {});
      expect(await told()).toEqual(['created told/a', 'created one/a']);
    });

    describe('tiers', () => {
      const blobOf = async (object: ObjectRecord, at = 0): Promise<number> =>
        object.extents[at]?.blobId as number;
      const copy = async (
        blobId: number,
        copies: { memory?: boolean; disk?: boolean; remote?: string },
      ): Promise<void> => {
        const blob = await catalog.findBlob(blobId);
        const done = await catalog.setBlobCopies(blobId, blob?.generation as number, {
          memoryBytes: copies.memory === true ? 4096 : null,
          diskBytes: copies.disk === true ? 4096 : null,
          remote:
            copies.remote === undefined ? null : { name: copies.remote, offset: 0, etag: 'e' },
        });
        expect(done).toBe(true);
      };

      test('each change of where an object lies is told, with what holds then', async () => {
        const object = await putObject(catalog, 'a');
        const blobId = await blobOf(object);
        const before = await catalog.lastEventId();
        await copy(blobId, { memory: true, disk: true });
        await copy(blobId, { memory: true, disk: true }); // nothing new
        await copy(blobId, { disk: true });
        await copy(blobId, { disk: true, remote: 'one/a' });
        await copy(blobId, { remote: 'one/a' });
        await copy(blobId, {});
        const events = await all({}, before);
        expect(events.map(({ place }) => place)).toEqual([
          { durability: 'disk', tiers: [0, 1] },
          { durability: 'disk', tiers: [1] },
          { durability: 'disk', tiers: [1, 2] },
          { durability: 'disk', tiers: [2] },
          { durability: null, tiers: [] },
        ]);
        expect(events.every(({ version }) => version === object.version)).toBe(true);
      });

      test('an object of a mirrored bucket is remote when it is stored under its own name, and one event tells it', async () => {
        const object = await putObject(catalog, 'a');
        const blobId = await blobOf(object);
        const before = await catalog.lastEventId();
        const entry = await catalog.findSpooled('one', 'a');
        const remote = { name: 'one/a', offset: 0, etag: 'e' };
        const made = { etag: 'e', copies: [{ blobId, remote }] };
        expect(await catalog.setMirrored(entry as SpoolEntry, made)).toBe(true);
        await catalog.unsetMirrored({ bucket: 'one', key: 'a', remoteEtag: 'e' });
        const events = await all({}, before);
        expect(events.map(({ type, place }) => [type, place])).toEqual([
          ['tier', { durability: 'remote', tiers: [0, 2] }],
          ['tier', { durability: 'disk', tiers: [0, 2] }],
        ]);
      });

      test('a copy on disk promises nothing in a bucket that acknowledges in memory', async () => {
        await addBucket('fast', { ...EPHEMERAL, events: true });
        const object = await putObject(catalog, 'a', { bucket: 'fast' });
        await copy(await blobOf(object), { disk: true });
        expect((await all({ types: ['tier'] })).map(({ place }) => place)).toEqual([
          { durability: 'memory', tiers: [1] },
        ]);
      });

      test('an object of several parts is in a tier when the last part has come, and no more when the first has left', async () => {
        const parts = [];
        for (const key of ['1', '2', '3']) parts.push(await putObject(catalog, key));
        const version = await catalog.nextIds(1);
        const joined: ObjectRecord = {
          ...(parts[0] as ObjectRecord),
          ...{ key: 'joined', version, sizeBytes: 3, crc32c: null },
          extents: parts.flatMap(({ extents }) => extents),
        };
        await catalog.commitObject({
          ...{ object: joined, newBlobs: [], condition: {} },
          removes: parts,
        });
        const before = await catalog.lastEventId();
        const blobIds = joined.extents.map(({ blobId }) => blobId);
        for (const order of [blobIds, blobIds.toReversed()]) {
          for (const id of order) await copy(id, { memory: true, remote: `r${id}` });
          for (const id of order) await copy(id, { memory: true });
        }
        const there = { durability: 'disk', tiers: [0, 2] }; // the parts; not yet the object
        const left = { durability: 'memory', tiers: [0] };
        expect((await all({}, before)).map(({ place }) => place)).toEqual([
          ...[there, left],
          ...[there, left],
        ]);
      });

      test('objects that share bytes are each told', async () => {
        const object = await putObject(catalog, 'a');
        const version = await catalog.nextIds(1);
        const copied = { bucket: 'two', key: 'copy', version, createdAtMs: 1 };
        await catalog.copyObject(object, copied, {});
        await copy(await blobOf(object), { memory: true, remote: 'one/a' });
        expect((await told({ types: ['tier'] })).toSorted()).toEqual([
          'tier one/a',
          'tier two/copy',
        ]);
      });

      test('a mover that was overtaken tells nothing', async () => {
        const object = await putObject(catalog, 'a');
        const before = await catalog.lastEventId();
        const copies = { memoryBytes: null, diskBytes: 1, remote: null };
        expect(await catalog.setBlobCopies(await blobOf(object), 99, copies)).toBe(false);
        expect(await told({}, before)).toEqual([]);
      });
    });

    describe('filters', () => {
      test('bucket, object, prefix and type narrow; a prefix a/ never shows ab', async () => {
        for (const key of ['a', 'a/', 'a/x', 'a/x/y', 'ab', 'b']) await putObject(catalog, key);
        await putObject(catalog, 'a/x', { bucket: 'two' });
        await putObject(catalog, 'a/x');
        expect(await told({ bucket: 'one', prefix: 'a/' })).toEqual([
          ...['created one/a/', 'created one/a/x', 'created one/a/x/y', 'updated one/a/x'],
        ]);
        expect(await told({ bucket: 'one', key: 'a' })).toEqual(['created one/a']);
        expect(await told({ bucket: 'two' })).toEqual(['created two/a/x']);
        expect(await told({ types: ['updated', 'deleted'] })).toEqual(['updated one/a/x']);
      });

      test('a page that matches nothing still goes on', async () => {
        for (let i = 0; i < 20; i++) await putObject(catalog, `a${i}`);
        await putObject(catalog, 'wanted');
        const filter = { key: 'wanted' };
        const page = await catalog.listEvents({ afterEventId: 0, limit: 5, filter });
        expect(page.events).toEqual([]);
        expect(page.throughEventId).toBe((await all())[4]?.eventId);
        expect(await allEvents(catalog, { afterEventId: 0, filter, limit: 5 })).toHaveLength(1);
      });
    });

    describe('ids and the bound', () => {
      test('ids grow, also over a restart, after which events are what they were', async () => {
        await putObject(catalog, 'a');
        await putObject(catalog, 'b');
        const before = await all();
        catalog = await factory.reopen(catalog);
        expect(await all()).toEqual(before);
        await putObject(catalog, 'c');
        const after = await all();
        expect(after.slice(0, -1)).toEqual(before);
        const ids = after.map(({ eventId }) => eventId);
        expect(ids).toEqual([...new Set(ids)].toSorted((x, y) => x - y));
        expect(await catalog.lastEventId()).toBe(ids.at(-1));
      });

      test('the log is bounded; asking for what is gone names the first that is there', async () => {
        for (let i = 0; i < 30; i++)
          await Promise.all(
            Array.from({ length: 100 }, (_, at) => putObject(catalog, `${i}/${at}`)),
          );
        const first = await firstEventId(catalog);
        const kept = await all({}, first - 1);
        expect(kept[0]?.eventId).toBe(first);
        expect(kept.at(-1)?.key.split('/')[0]).toBe('29');
        expect(kept.length).toBeGreaterThanOrEqual(EVENTS_MAX);
        expect(kept.length).toBeLessThanOrEqual(EVENTS_MAX + 1024);
        // Whoever has seen the last one that went misses nothing; one before it, something.
        await expect(all({}, first - 2)).rejects.toMatchObject({ code: 'events_gone' });
        catalog = await factory.reopen(catalog);
        expect(await all({}, first - 1)).toEqual(kept);
        await expect(all({}, first - 2)).rejects.toMatchObject({ code: 'events_gone' });
      });

      test('one change of more objects than the log holds keeps the newest', async () => {
        for (let i = 0; i < 25; i++)
          await Promise.all(
            Array.from({ length: 100 }, (_, at) => putObject(catalog, `old/${i}-${at}`)),
          );
        await catalog.renamePrefix(
          { bucket: 'one', prefix: 'old/' },
          { bucket: 'one', prefix: 'new/' },
          { overwrite: false },
        );
        const kept = await told({}, (await firstEventId(catalog)) - 1);
        expect(kept.slice(-2)).toEqual(['deleted one/old/9-99', 'created one/new/9-99']);
        expect(kept.length).toBeLessThanOrEqual(EVENTS_MAX + 1024);
      });

      test('an id that was never given is refused', async () => {
        await putObject(catalog, 'a');
        const beyond = (await catalog.lastEventId()) + 1_000_000;
        await expect(all({}, beyond)).rejects.toMatchObject({ code: 'events_gone' });
        expect(await all({}, await catalog.lastEventId())).toEqual([]);
      });
    });

    test('listeners hear of new events until they end', async () => {
      let calls = 0;
      let heard = Promise.withResolvers<void>();
      const end = catalog.onEvents(() => {
        calls++;
        heard.resolve();
      });
      await putObject(catalog, 'a');
      await heard.promise;
      expect(await told()).toEqual(['created one/a']);
      heard = Promise.withResolvers<void>();
      await putObject(catalog, 'b');
      await heard.promise;
      end();
      const before = calls;
      await putObject(catalog, 'c');
      await catalog.durable();
      expect(calls).toBe(before);
    });

    test('events are those of a model, over random changes and restarts', async () => {
      const key = fc.constantFrom('a', 'a/', 'a/x', 'a/y', 'ab', 'b/x');
      const bucket = fc.constantFrom('one', 'two', 'scratch');
      const name = fc.record({ bucket, key });
      const prefix = fc.constantFrom('a/', 'b/', '');
      const change = fc.oneof(
        fc.record({ do: fc.constant('put' as const), to: name }),
        fc.record({ do: fc.constant('delete' as const), from: name }),
        fc.record({ do: fc.constant('rename' as const), from: name, to: name }),
        fc.record({ do: fc.constant('copy' as const), from: name, to: name }),
        fc.record({ do: fc.constant('deletePrefix' as const), bucket, prefix }),
        fc.record({ do: fc.constant('restart' as const) }),
      );
      await fc.assert(
        fc.asyncProperty(fc.array(change, { maxLength: 30 }), async (changes) => {
          await catalog.close();
          catalog = await factory.open({ eventsMax: EVENTS_MAX });
          for (const made of ['one', 'two']) await addBucket(made, BUFFERED);
          await addBucket('scratch', EPHEMERAL);
          const model = createModel();
          for (const asked of changes) {
            if (asked.do === 'restart') catalog = await factory.reopen(catalog);
            else await apply(catalog, model, asked);
          }
          expect(await told()).toEqual(model.told);
        }),
        { numRuns: 15 },
      );
    });
  });
}

// ── the model ───────────────────────────────────────────────────────────────────────────────────────────────────────

interface Name {
  readonly bucket: string;
  readonly key: string;
}
type Change =
  | { readonly do: 'put'; readonly to: Name }
  | { readonly do: 'delete'; readonly from: Name }
  | { readonly do: 'rename' | 'copy'; readonly from: Name; readonly to: Name }
  | { readonly do: 'deletePrefix'; readonly bucket: string; readonly prefix: string };

interface Model {
  readonly told: string[];
  has(name: Name): boolean;
  put(name: Name): void;
  delete(name: Name): void;
  under(bucket: string, prefix: string): Name[];
}

function createModel(): Model {
  const names = new Map<string, Name>();
  const told: string[] = [];
  const id = ({ bucket, key }: Name): string => `${bucket}/${key}`;
  const tell = (type: string, name: Name): void => {
    if (name.bucket !== 'scratch') told.push(`${type} ${id(name)}`);
  };
  return {
    told,
    has: (name) => names.has(id(name)),
    put: (name) => {
      tell(names.has(id(name)) ? 'updated' : 'created', name);
      names.set(id(name), name);
    },
    delete: (name) => {
      tell('deleted', name);
      names.delete(id(name));
    },
    under: (bucket, prefix) =>
      [...names.values()]
        .filter((name) => name.bucket === bucket && name.key.startsWith(prefix))
        .toSorted((a, b) => (a.key < b.key ? -1 : 1)),
  };
}

/** Does the same to both. */
async function apply(catalog: Catalog, model: Model, change: Change): Promise<void> {
  if (change.do === 'put') {
    await putObject(catalog, change.to.key, { bucket: change.to.bucket });
    model.put(change.to);
  } else if (change.do === 'delete') {
    await catalog.deleteObject(change.from.bucket, change.from.key, {});
    if (model.has(change.from)) model.delete(change.from);
  } else if (change.do === 'deletePrefix') {
    await catalog.deletePrefix(change.bucket, change.prefix, 1000);
    for (const name of model.under(change.bucket, change.prefix)) model.delete(name);
  } else {
    const { from, to } = change;
    if (!model.has(from)) return;
    if (change.do === 'copy') {
      const version = await catalog.nextIds(1);
      await catalog.copyObject(from, { ...to, version, createdAtMs: 1 }, {});
      model.put(to);
      return;
    }
    await catalog.renameObject(from, to, {});
    if (from.bucket === to.bucket && from.key === to.key) return;
    model.delete(from);
    model.put(to);
  }
}

// ── helpers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

async function putObject(
  catalog: Catalog,
  key: string,
  options: {
    readonly bucket?: string;
    readonly sizeBytes?: number;
    readonly jobId?: string;
    readonly condition?: { readonly ifNoneMatch: boolean };
  } = {},
): Promise<ObjectRecord> {
  const blobId = await catalog.nextIds(2);
  const { bucket = 'one', sizeBytes = 1, jobId = null, condition = {} } = options;
  const object: ObjectRecord = {
    ...{ bucket, key, version: blobId + 1, sizeBytes, jobId },
    ...{ etag: `e${blobId}`, crc32c: 1, contentType: 'x', metadata: {}, attributes: {} },
    ...{ createdAtMs: 1, pinned: false },
    extents: [{ blobId, offset: 0, length: sizeBytes }],
    remoteEtag: null,
  };
  const blob = {
    ...{ blobId, sizeBytes, crc32c: 1, createdAtMs: 1 },
    ...{ memoryBytes: 4096, diskBytes: null, remote: null },
  };
  await catalog.commitObject({ object, newBlobs: [blob], condition });
  return object;
}

function eventOf(type: string, { bucket, key, version, sizeBytes }: ObjectRecord): object {
  return { type, bucket, key, version, sizeBytes, place: null };
}

async function allEvents(
  catalog: Catalog,
  options: {
    readonly afterEventId: number;
    readonly filter?: EventFilter;
    readonly limit?: number;
  },
): Promise<readonly CatalogEvent[]> {
  const { limit = 300, ...asked } = options;
  const events: CatalogEvent[] = [];
  for (let after = asked.afterEventId; ; ) {
    const page = await catalog.listEvents({ ...asked, afterEventId: after, limit });
    events.push(...page.events);
    if (page.throughEventId === after) return events;
    after = page.throughEventId;
  }
}

/** Of a log that has lost some: as its refusal names it. */
async function firstEventId(catalog: Catalog): Promise<number> {
  const asked = catalog.listEvents({ afterEventId: 0, limit: 1 });
  const error: unknown = await asked.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!isStoreError(error, 'events_gone')) throw new Error('nothing was lost', { cause: error });
  return error.details['firstEventId'] as number;
}
