/**
 * A node whose object store is behind a proxy that answers 404 to everything while the store is away, or to objects alone (the fault
 * model: testkit's careless-store.ts).
 */
import { MiB, StoreError } from '@ebb/protocol';
import {
  buffered,
  bytesOf,
  type CarelessStore,
  durable,
  mirrored,
  openStoreInTest,
  override,
  startCarelessStore,
  type TestStore,
} from '@ebb/testkit';
import { expect, onTestFinished, test, vi } from 'vitest';
import { parseS3Location } from '../tier/s3/s3-location.ts';
import { createS3Thread } from '../tier/s3/s3-thread.ts';
import { openS3Tier } from '../tier/s3/s3-tier.ts';
import type { RemoteTier } from '../tier/tier.ts';

interface Opened {
  readonly at: TestStore;
  readonly store: CarelessStore;
  /** `hidesObjects`: every answer about one object is that there is none; the listing has them. */
  readonly faults: { hidesObjects: boolean };
}

async function open(): Promise<Opened> {
  const faults = { hidesObjects: false };
  const store = await startCarelessStore();
  const tier = openS3Tier({
    target: parseS3Location(`s3://bucket/p?endpoint=${encodeURIComponent(store.url)}`, {
      allowsEndpoint: true,
    }),
    credentials: { accessKeyId: 'key', secretAccessKey: 'secret' },
    names: 'bucket/key',
    thread: createS3Thread({ closeMs: 500 }),
    settings: { attempts: 1, retryDelayMs: 1, singlePutBytesMax: 5 * MiB, partBytes: 5 * MiB },
  });
  const at = await openStoreInTest(
    { buf: buffered, dur: durable },
    { faults: { remote: () => hiding(tier, faults) } },
  );
  onTestFinished(async () => {
    await tier.close();
    await store[Symbol.asyncDispose]();
  });
  return { at, store, faults };
}

function hiding(tier: RemoteTier, faults: Opened['faults']): RemoteTier {
  const ask = (): void => {
    if (faults.hidesObjects) throw new StoreError('data_lost', 'no such object');
  };
  return override(tier, {
    head: async (name) => (faults.hidesObjects ? undefined : await tier.head(name)),
    read: async (...args) => {
      ask();
      await tier.read(...args);
    },
    fetch: async (...args) => {
      ask();
      return await tier.fetch(...args);
    },
  });
}

test('what was acknowledged while a proxy answered 404 to every put is sent when the store is back', async () => {
  const { at, store } = await open();
  store.is.isAway = true;
  await at.put('buf', 'small', bytesOf(100, 1));
  await at.put('buf', 'large', bytesOf(11 * MiB, 2));
  const durablePut = at.put('dur', 'k', bytesOf(100, 3));
  await expect(durablePut).rejects.toMatchObject({ code: 'not_yet_durable', retry: 'ambiguous' });
  await vi.waitFor(() => expect(at.failures.length).toBeGreaterThan(1), { timeout: 5000 });
  expect(await at.store.spool()).toMatchObject({ entries: 3 });
  store.is.isAway = false;
  await mirrored(at);
  expect([...store.objects.keys()].toSorted()).toEqual(['p/buf/large', 'p/buf/small', 'p/dur/k']);
});

test('a suspicion while tier 2 answers 404 forgets no copy that tier 2 still has', async () => {
  const { at, store, faults } = await open();
  const bytes = bytesOf(10_000, 1);
  await at.put('buf', 'k', bytes);
  await mirrored(at);
  const ref = { bucket: 'buf', key: 'k' };
  await at.store.relocate(ref, 2);
  const { object } = await at.store.head(ref);
  const blobId = object.extents[0]?.blobId ?? 0;
  const suspect = (): Promise<unknown> => at.store.resolve(blobId, bytes.length, { suspect: true });
  store.is.isAway = true;
  await expect(suspect()).rejects.toMatchObject({ code: 'io_failed' });
  store.is.isAway = false;
  faults.hidesObjects = true;
  await expect(suspect()).rejects.toMatchObject({ code: 'io_failed' });
  faults.hidesObjects = false;
  await suspect();
  expect((await at.get('buf', 'k')).equals(bytes)).toBe(true);
  await at.store.relocate(ref, 2);
  store.objects.clear();
  await expect(suspect()).rejects.toMatchObject({ code: 'data_lost' });
});
