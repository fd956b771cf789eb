/** Which objects can be read straight from tier 2. The URLs are made up: real ones are in server/e2e/direct-reads.test.ts. */
import {
  buffered,
  bytesOf,
  ephemeral,
  mirrored,
  openStoreInTest,
  override,
  type TestStore,
} from '@ebb/testkit';
import { expect, test } from 'vitest';
import { parseKeyring } from '../encryption/keyring.ts';
import { PRESIGNED_READ_SECONDS } from '../limits.ts';
import type { StoreSettings } from './parts.ts';

const KEYS = parseKeyring(
  JSON.stringify([{ id: 'one', key: Buffer.alloc(32, 1).toString('base64') }]),
);

async function open(settings: Partial<StoreSettings> = {}): Promise<TestStore> {
  const buckets = {
    data: buffered,
    sealed: { ...buffered, encrypted: true },
    local: ephemeral,
  };
  return await openStoreInTest(buckets, {
    ...{ settings, encryptionKeys: KEYS },
    faults: {
      remote: (remote) =>
        override(remote, {
          presign: (name, { seconds }) => Promise.resolve(`https://store/${name}?for=${seconds}`),
        }),
    },
  });
}

test('an object has a URL while it lies in tier 2 alone, with the ETag that it has there', async () => {
  const at = await open();
  const ref = { bucket: 'data', key: 'k' };
  await at.put('data', 'k', bytesOf(10_000, 1));
  await mirrored(at);
  expect(await at.store.presignRead(ref)).toBeUndefined();
  await at.store.relocate(ref, 1);
  expect((await at.store.head(ref)).tiers).toEqual([1, 2]);
  expect(await at.store.presignRead(ref)).toBeUndefined();
  await at.store.relocate(ref, 2);
  const { etag } = (await at.tiers.remote.head('data/k')) as { etag: string };
  expect(await at.store.presignRead(ref)).toEqual({
    ...{ url: `https://store/data/k?for=${PRESIGNED_READ_SECONDS}`, etag },
  });
  await at.get('data', 'k'); // brings it up
  expect(await at.store.presignRead(ref)).toBeUndefined();
});

test('one that went there under a private name has a URL of that', async () => {
  const at = await open();
  const ref = { bucket: 'local', key: 'k' };
  await at.put('local', 'k', bytesOf(10_000, 1));
  await at.store.relocate(ref, 2);
  const { url } = (await at.store.presignRead(ref)) ?? {};
  expect(url).toMatch(/^https:\/\/store\/local\/\.ebb\/[0-9a-f-]+-\d+\?/);
});

test('there is none for an object of several extents, an encrypted one, a range of another, or none', async () => {
  const at = await open();
  for (const [bucket, key] of [
    ['data', 'a'],
    ['data', 'b'],
    ['sealed', 'k'],
  ] as const)
    await at.put(bucket, key, bytesOf(10_000, 1));
  const range = { bucket: 'data', key: 'a', offset: 1, length: 100 };
  await at.store.compose({ bucket: 'data', key: 'range' }, [range], {});
  const whole = ['a', 'b'].map((key) => ({ bucket: 'data', key }));
  await at.store.compose({ bucket: 'data', key: 'joined' }, whole, {});
  await mirrored(at);
  for (const [bucket, key] of [
    ['data', 'range'],
    ['data', 'joined'],
    ['sealed', 'k'],
  ] as const) {
    await at.store.relocate({ bucket, key }, 2);
    expect((await at.store.head({ bucket, key })).tiers, key).toEqual([2]);
    expect(await at.store.presignRead({ bucket, key }), key).toBeUndefined();
  }
  expect(await at.store.presignRead({ bucket: 'data', key: 'none' })).toBeUndefined();
});

test('there is none at all when the settings say so', async () => {
  const at = await open({ presignReads: false });
  await at.put('data', 'k', bytesOf(10_000, 1));
  await at.store.relocate({ bucket: 'data', key: 'k' }, 2);
  expect(await at.store.presignRead({ bucket: 'data', key: 'k' })).toBeUndefined();
});
