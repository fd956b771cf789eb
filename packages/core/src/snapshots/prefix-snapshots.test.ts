import { StoreError } from '@ebb/protocol';
import { codeOf, openTestStore, override, type TestStore } from '@ebb/testkit';
import { afterEach, expect, test } from 'vitest';
import type { BucketPolicy } from '../catalog/catalog.ts';
import { systemClock } from '../clock.ts';
import { parseKeyring } from '../encryption/keyring.ts';
import { resolvePolicy } from '../placement/policy.ts';
import {
  openPrefixSnapshots,
  type PrefixSnapshots,
  type PrefixSnapshotsOptions,
} from './prefix-snapshots.ts';

let at: TestStore;
let snapshots: PrefixSnapshots;
const failures: unknown[] = [];
afterEach(async () => {
  await snapshots?.close();
  await at.close();
  expect(failures.splice(0)).toEqual([]);
});

async function openService(changes: Partial<PrefixSnapshotsOptions> = {}): Promise<void> {
  snapshots = await openPrefixSnapshots({
    ...{ store: at.store, records: at.catalog, clock: systemClock },
    assertRemoteFree: async () => undefined,
    onError: (error) => failures.push(error),
    ...changes,
  });
}

async function open(policy: Partial<BucketPolicy> = {}): Promise<void> {
  const keys = [{ id: 'k1', key: Buffer.alloc(32, 7).toString('base64') }];
  at = await openTestStore({
    encryptionKeys: parseKeyring(JSON.stringify(keys)),
  });
  await at.store.createBucket('data', { ...resolvePolicy({}), ...policy });
  await openService();
}

async function put(texts: Readonly<Record<string, string>>, bucket = 'data'): Promise<void> {
  for (const [key, text] of Object.entries(texts)) await at.put(bucket, key, Buffer.from(text));
}

async function all(bucket = 'data', prefix = ''): Promise<Record<string, string>> {
  const options = { prefix, delimiter: '', startAfter: '', limit: 100 };
  const { objects } = await at.store.listRecords(bucket, options);
  const found: Record<string, string> = {};
  for (const { key } of objects) found[key] = (await at.get(bucket, key)).toString();
  return found;
}

const SOURCE = { bucket: 'data', prefix: 'a/' };
const keep = { overwrite: false, exact: false };

test('a prefix is kept as it was, and comes back in one step, without a byte copied', async () => {
  await open();
  await put({ 'a/1': 'one', 'a/x/2': 'two', ab: 'beside' });
  const blobs = (await at.store.totals()).blobs;
  const made = await snapshots.create('before', SOURCE);
  expect(made).toMatchObject({ name: 'before', source: SOURCE, objects: 2, sizeBytes: 6 });
  expect(made.kept).toEqual({ bucket: 'data-snapshots', prefix: 'before/' });
  expect((await at.store.totals()).blobs).toBe(blobs);
  expect(await all('data-snapshots')).toEqual({ 'before/1': 'one', 'before/x/2': 'two' });
  await put({ 'a/1': 'other', 'a/3': 'new' });
  await at.store.delete({ bucket: 'data', key: 'a/x/2' });
  expect(await codeOf(snapshots.restore('before', keep))).toBe('already_exists');
  expect(await snapshots.restore('before', { overwrite: true, exact: false })).toEqual({
    ...{ objects: 2, sizeBytes: 6, removed: 0 },
  });
  expect(await all()).toEqual({ 'a/1': 'one', 'a/3': 'new', 'a/x/2': 'two', ab: 'beside' });
  expect(await snapshots.restore('before', { overwrite: true, exact: true })).toMatchObject({
    removed: 1,
  });
  expect(await all('data', 'a')).toEqual({ 'a/1': 'one', 'a/x/2': 'two', ab: 'beside' });
  await snapshots.restore('before', { ...keep, to: { bucket: 'data', prefix: 'b/' } });
  expect(await all('data', 'b/')).toEqual({ 'b/1': 'one', 'b/x/2': 'two' });
  await snapshots.remove('before');
  expect(await all('data-snapshots')).toEqual({});
  expect(await snapshots.list()).toEqual([]);
  expect(await codeOf(snapshots.restore('before', keep))).toBe('not_found');
});

test('one object is kept too, and nothing beside it', async () => {
  await open();
  await put({ 'd/report': 'one', 'd/report.bak': 'other' });
  const source = { bucket: 'data', key: 'd/report' };
  expect(await snapshots.create('friday', source)).toMatchObject({ source, objects: 1 });
  expect(await all('data-snapshots')).toEqual({ 'friday/report': 'one' });
  await put({ 'd/report': 'changed' });
  expect(await codeOf(snapshots.restore('friday', keep))).toBe('already_exists');
  await snapshots.restore('friday', { overwrite: true, exact: false });
  await snapshots.restore('friday', { ...keep, to: { bucket: 'data', key: 'copy' } });
  expect(await all()).toEqual({ copy: 'one', 'd/report': 'one', 'd/report.bak': 'other' });
  expect(await codeOf(snapshots.restore('friday', { ...keep, to: SOURCE }))).toBe(
    'request_invalid',
  );
});

test('the bucket of snapshots promises what the source does, and lets nothing go by itself', async () => {
  await open({ ...resolvePolicy({ preset: 'durable' }), ttlMs: 1000, quotaBytes: 5 });
  await put({ 'a/1': 'one' });
  await snapshots.create('s', SOURCE);
  const { policy } = await at.store.getBucket('data-snapshots');
  expect(policy).toMatchObject({ ack: 'remote', mirror: true, ttlMs: null, quotaBytes: null });
  const view = await at.store.head({ bucket: 'data-snapshots', key: 's/1' });
  expect(view.durability).toBe('remote');
});

test('into a bucket that keeps versions it is restored as the newest ones', async () => {
  await open({ versioning: 'enabled' });
  await put({ 'a/1': 'one' });
  await snapshots.create('s', SOURCE);
  await put({ 'a/1': 'two', 'a/2': 'new' });
  await snapshots.restore('s', { overwrite: true, exact: true });
  expect(await all()).toEqual({ 'a/1': 'one' });
  const listed = await at.store.listVersions('data', {
    ...{ prefix: '', delimiter: '', limit: 10, startAfter: { key: '' } },
  });
  expect(listed.versions).toHaveLength(5); // three of a/1, one of a/2 and its marker
});

test('what is encrypted stays so, and is not restored into a plain bucket', async () => {
  await open({ encrypted: true });
  await at.store.createBucket('plain', resolvePolicy({}));
  await put({ 'a/1': 'one', 'a/2': 'two' });
  await snapshots.create('s', SOURCE);
  await snapshots.create('o', { bucket: 'data', key: 'a/1' });
  expect((await at.store.getBucket('data-snapshots')).policy.encrypted).toBe(true);
  const prefix = { ...keep, to: { bucket: 'plain', prefix: '' } };
  expect(await codeOf(snapshots.restore('s', prefix))).toBe('unsupported');
  const key = { ...keep, to: { bucket: 'plain', key: 'x' } };
  expect(await codeOf(snapshots.restore('o', key))).toBe('unsupported');
  expect(await all('plain')).toEqual({});
  await at.store.deletePrefix('data', '');
  await snapshots.restore('s', keep);
  expect(await all()).toEqual({ 'a/1': 'one', 'a/2': 'two' });
});

test('what cannot be kept is refused, and leaves nothing', async () => {
  await open();
  await put({ 'a/1': 'one' });
  await snapshots.create('s', SOURCE);
  expect(await codeOf(snapshots.create('s', SOURCE))).toBe('already_exists');
  expect(await codeOf(snapshots.create('../s', SOURCE))).toBe('name_invalid');
  expect(await codeOf(snapshots.create('t', { bucket: 'none', prefix: '' }))).toBe(
    'bucket_not_found',
  );
  expect(await codeOf(snapshots.create('t', { bucket: 'data', prefix: 'x/' }))).toBe('not_found');
  expect(await codeOf(snapshots.create('t', { bucket: 'data', key: 'x' }))).toBe('not_found');
  await put({ 'mine/1': 'of somebody' }, 'data-snapshots');
  expect(await codeOf(snapshots.create('mine', SOURCE))).toBe('already_exists');
  expect((await snapshots.list()).map(({ name }) => name)).toEqual(['s']);
  expect(Object.keys(await all('data-snapshots'))).toEqual(['mine/1', 's/1']);
  await openService({
    assertRemoteFree: () => Promise.reject(new StoreError('request_invalid', 'taken')),
  });
  await at.store.createBucket('lake', resolvePolicy({ remote: 's3://lake/raw' }));
  expect(await codeOf(snapshots.create('t', { bucket: 'lake', prefix: '' }))).toBe('unsupported');
});

test('one that lost objects is not restored', async () => {
  await open();
  await put({ 'a/1': 'one', 'a/2': 'two' });
  await snapshots.create('s', SOURCE);
  await at.store.delete({ bucket: 'data-snapshots', key: 's/2' });
  const exact = { overwrite: true, exact: true };
  expect(await codeOf(snapshots.restore('s', exact))).toBe('data_lost');
  expect(Object.keys(await all())).toEqual(['a/1', 'a/2']);
  await at.store.deletePrefix('data-snapshots', '');
  await at.store.deleteBucket('data-snapshots');
  await snapshots.remove('s');
});

test('a crash before it was whole leaves no snapshot, and nothing behind', async () => {
  await open();
  await put({ 'a/1': 'one' });
  await snapshots.create('s', SOURCE);
  // As the crash leaves it: the objects are there, the record says that they are not known to be all.
  const killed = override(at.catalog, {
    putRecord: async (namespace, key, value) => {
      if (!Buffer.from(value).includes('"making"')) throw new StoreError('internal', 'killed');
      await at.catalog.putRecord(namespace, key, value);
    },
    deleteRecord: () => Promise.reject(new StoreError('internal', 'killed')),
  });
  const store = override(at.store, {
    deletePrefix: () => Promise.reject(new StoreError('internal', 'killed')),
  });
  await openService({ records: killed, store, onError: () => undefined });
  expect(await codeOf(snapshots.create('half', SOURCE))).toBe('internal');
  expect(await codeOf(snapshots.remove('s'))).toBe('internal');
  expect(await all('data-snapshots', 'half/')).toEqual({ 'half/1': 'one' });
  at = await at.crash();
  await openService();
  await snapshots.create('half', SOURCE);
  expect((await snapshots.list()).map(({ name }) => name)).toEqual(['half', 's']);
  await at.catalog.putRecord(
    'prefix-snapshots',
    's',
    Buffer.from(JSON.stringify({ ...(await snapshots.get('s')), state: 'removing' })),
  );
  await openService();
  await snapshots.close();
  expect((await snapshots.list()).map(({ name }) => name)).toEqual(['half']);
  expect(Object.keys(await all('data-snapshots'))).toEqual(['half/1']);
});
