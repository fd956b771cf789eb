/** Stores that are less than S3: what they ignore and what they refuse (the fault model: testkit's careless-store.ts). */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB } from '@ebb/protocol';
import { bytesOf, type CarelessStore, startCarelessStore, tempDir } from '@ebb/testkit';
import { describe, expect, onTestFinished, test } from 'vitest';
import { crc32c } from '../../checksum.ts';
import { isListed } from '../still-there.ts';
import { parseS3Location } from './s3-location.ts';
import type { S3Remark } from './s3-protocol.ts';
import { createS3Thread } from './s3-thread.ts';
import { openS3Tier, type S3Tier } from './s3-tier.ts';

interface Opened {
  readonly store: CarelessStore;
  readonly tier: S3Tier;
  readonly remarks: S3Remark[];
}

async function open(is: Parameters<typeof startCarelessStore>[0] = {}): Promise<Opened> {
  const store = await startCarelessStore(is);
  const remarks: S3Remark[] = [];
  const tier = openS3Tier({
    target: parseS3Location(`s3://bucket/p?endpoint=${encodeURIComponent(store.url)}`, {
      allowsEndpoint: true,
    }),
    credentials: { accessKeyId: 'key', secretAccessKey: 'secret' },
    names: 'bucket/key',
    thread: createS3Thread({ closeMs: 500 }),
    settings: { attempts: 1, retryDelayMs: 1, singlePutBytesMax: 5 * MiB, partBytes: 5 * MiB },
    onRemark: (remark) => remarks.push(remark),
  });
  onTestFinished(async () => {
    await tier.close();
    await store[Symbol.asyncDispose]();
  });
  return { store, tier, remarks };
}

async function local(content: Buffer): Promise<Parameters<S3Tier['put']>[1]> {
  const file = join(await tempDir(), 'file');
  await writeFile(file, content);
  return [{ file, offset: 0, length: content.length, crc32c: crc32c(content) }];
}

describe('a store that ignores conditions', () => {
  test('gives no other object for the one that was asked for, whole, in ranges, or beyond its end', async () => {
    const { store, tier, remarks } = await open({ ignores: 'conditions' });
    const etag = store.put('p/b/k', bytesOf(24 * MiB, 1));
    await tier.read('b/k', Buffer.alloc(MiB), 0, { etag });
    for (const sizeBytes of [24 * MiB, 20 * MiB]) {
      store.put('p/b/k', bytesOf(sizeBytes, 2));
      for (const position of [0, 8 * MiB, 23 * MiB]) {
        const read = tier.read('b/k', Buffer.alloc(MiB), position, { etag });
        await expect(read).rejects.toMatchObject({ code: 'precondition_failed' });
      }
      const [file] = await local(Buffer.alloc(0));
      const run = { offset: 0, length: 24 * MiB, crc32c: null, etag };
      const fetched = tier.fetch('b/k', file?.file ?? '', run);
      await expect(fetched).rejects.toMatchObject({ code: 'precondition_failed' });
    }
    expect(remarks).toEqual(['ignores_conditions']);
  });

  test('mixes no two objects in one read or fetch, whenever the object is replaced', async () => {
    const { store, tier } = await open({ ignores: 'conditions' });
    store.put('p/b/k', bytesOf(24 * MiB, 1));
    let gets = 0;
    store.onRequest = (line) => {
      if (line === 'GET p/b/k' && ++gets === 2) store.put('p/b/k', bytesOf(24 * MiB, 2));
    };
    const read = tier.read('b/k', Buffer.alloc(24 * MiB), 0);
    await expect(read).rejects.toMatchObject({ code: expect.stringMatching(/_failed$/) });
    gets = 0;
    store.put('p/b/k', bytesOf(24 * MiB, 1));
    const [file] = await local(Buffer.alloc(0));
    const run = { offset: 0, length: 24 * MiB, crc32c: null };
    const fetched = tier.fetch('b/k', file?.file ?? '', run);
    await expect(fetched).rejects.toMatchObject({ code: 'io_failed' });
  });

  test('is noticed with the first read that names an ETag, though nothing changed', async () => {
    const { store, tier, remarks } = await open({ ignores: 'conditions' });
    const etag = store.put('p/b/k', bytesOf(100, 1));
    await expect
      .poll(async () => {
        await tier.read('b/k', Buffer.alloc(10), 0, { etag });
        return remarks;
      })
      .toEqual(['ignores_conditions']);
  });

  test('deletes and replaces nothing else than was named, as it is right before', async () => {
    const { store, tier } = await open({ ignores: 'conditions' });
    const etag = store.put('p/b/k', bytesOf(100, 1));
    store.put('p/b/k', bytesOf(100, 2));
    await expect(tier.delete('b/k', { etag })).rejects.toMatchObject({
      code: 'precondition_failed',
    });
    for (const replaces of [etag, null]) {
      const put = tier.put('b/k', await local(bytesOf(50, 3)), { replaces });
      await expect(put).rejects.toMatchObject({ code: 'precondition_failed' });
    }
    expect(store.objects.get('p/b/k')?.bytes.equals(bytesOf(100, 2))).toBe(true);
  });
});

test('a store that keeps conditions is not remarked on', async () => {
  const { store, tier, remarks } = await open();
  const etag = store.put('p/b/k', bytesOf(100, 1));
  for (let i = 0; i < 3; i++) await tier.read('b/k', Buffer.alloc(10), 0, { etag });
  await tier.delete('b/k', { etag });
  expect(store.objects.size).toBe(0);
  expect(remarks).toEqual([]);
});

describe('a store that refuses the header of a checksum', () => {
  const refusals = [
    [400, 'InvalidArgument'],
    [400, 'InvalidRequest'],
    [400, 'UnheardOf'],
    [403, 'SignatureDoesNotMatch'],
    [405, 'MethodNotAllowed'],
    [501, 'NotImplemented'],
  ] as const;
  test.each(refusals)(
    'with %i %s gets objects without it, small and large, and is asked once',
    async (status, code) => {
      const header = /^x-amz-(?:sdk-)?checksum/;
      const { store, tier, remarks } = await open({ refuses: [{ header, status, code }] });
      for (const sizeBytes of [0, 1000, 11 * MiB]) {
        const content = bytesOf(sizeBytes, 1);
        expect((await tier.put('b/k', await local(content))).sizeBytes).toBe(sizeBytes);
        expect(store.objects.get('p/b/k')?.bytes.equals(content)).toBe(true);
      }
      const asked = store.requests.filter(({ headers }) =>
        headers.some((name) => header.test(name)),
      );
      expect(asked).toHaveLength(1);
      // The MD5 says that the bytes arrived: nothing was read back.
      expect(store.requests.some(({ line }) => line.startsWith('GET'))).toBe(false);
      expect(remarks).toEqual(['refuses_checksums']);
    },
  );

  test('in uploads of parts alone gets those without it', async () => {
    const header = /^x-amz-checksum-(?:algorithm|type)$/;
    const { store, tier } = await open({
      refuses: [{ header, methods: ['POST'], status: 400, code: 'InvalidRequest' }],
    });
    for (const sizeBytes of [1000, 11 * MiB]) {
      const content = bytesOf(sizeBytes, 1);
      await tier.put('b/k', await local(content));
      expect(store.objects.get('p/b/k')?.bytes.equals(content)).toBe(true);
    }
  });

  test('is not trusted with the bytes: where the ETag is no MD5 of them they are read back', async () => {
    const refuses = [{ header: /^x-amz-checksum/, status: 400, code: 'InvalidArgument' }];
    const { store, tier } = await open({ refuses, md5: false });
    await tier.put('b/k', await local(bytesOf(1000, 1)));
    expect(store.requests.some(({ line }) => line === 'GET p/b/k')).toBe(true);
    store.is.corrupts = true;
    const put = tier.put('b/other', await local(bytesOf(1000, 1)));
    await expect(put).rejects.toMatchObject({ code: 'io_failed' });
    expect(store.objects.has('p/b/other')).toBe(false);
  });

  test('a refusal that is not about the header stays what it was', async () => {
    const refuses = [{ header: /./, status: 400, code: 'SomethingElse' }];
    const { tier, remarks } = await open({ refuses });
    const put = tier.put('b/k', await local(bytesOf(10, 1)));
    await expect(put).rejects.toMatchObject({ details: { status: 400, s3Code: 'SomethingElse' } });
    expect(remarks).toEqual([]);
  });
});

test('a store that refuses conditions is asked what it has, right before', async () => {
  const header = /^if-(?:none-)?match$/;
  const refuses = [{ header, methods: ['PUT', 'DELETE'], status: 501, code: 'NotImplemented' }];
  const { store, tier, remarks } = await open({ refuses });
  const { etag } = await tier.put('b/k', await local(bytesOf(10, 1)), { replaces: null });
  await tier.put('b/k', await local(bytesOf(10, 2)), { replaces: etag });
  const stale = tier.delete('b/k', { etag });
  await expect(stale).rejects.toMatchObject({ code: 'precondition_failed' });
  await tier.delete('b/k', { etag: store.objects.get('p/b/k')?.etag ?? '' });
  expect(store.objects.size).toBe(0);
  expect(remarks).toEqual(['refuses_conditions']);
});

test('an examination tells what a store ignores and refuses, and goes on', async () => {
  const refuses = [{ header: /^x-amz-checksum/, status: 400, code: 'InvalidArgument' }];
  const { tier } = await open({ ignores: 'conditions', refuses });
  const found = new Map((await tier.examine()).map(({ check, level }) => [check, level]));
  expect(Object.fromEntries(found)).toMatchObject({
    ...{ reachable: 'ok', 'write and read': 'ok', checksums: 'warn', ranges: 'ok' },
    ...{ 'conditional writes': 'warn', 'conditional reads': 'warn', 'conditional deletes': 'warn' },
  });
  const { tier: other } = await open({ ignores: 'ranges' });
  const ranges = (await other.examine()).find(({ check }) => check === 'ranges');
  expect(ranges).toMatchObject({ level: 'fail' });
});

test.each(['content-length', 'etag'] as const)(
  'an answer to HEAD without %s is none: no empty object is made of a full one',
  async (hides) => {
    const { store, tier } = await open({ hides });
    store.put('p/b/k', Buffer.from('content'));
    await expect(tier.head('b/k')).rejects.toMatchObject({ code: 'io_failed' });
    store.is.hides = 'nothing';
    expect(await tier.head('b/k')).toMatchObject({ sizeBytes: 7 });
  },
);

test('a proxy that answers 404 to everything, while its store is away, says nothing about any object', async () => {
  const { store, tier } = await open();
  const etag = store.put('p/b/k', bytesOf(100, 1));
  store.is.isAway = true;
  const [file] = await local(Buffer.alloc(0));
  const run = { offset: 0, length: 100, crc32c: null, etag };
  const small = await local(bytesOf(10, 2));
  const large = await local(bytesOf(11 * MiB, 2));
  const list = async (): Promise<void> => {
    for await (const _ of tier.list('b/'));
  };
  const calls: readonly (() => Promise<unknown>)[] = [
    () => tier.put('b/new', small),
    () => tier.put('b/new', small, { replaces: null }),
    () => tier.put('b/new', large),
    () => tier.copy('b/k', 'b/new', run),
    () => tier.read('b/k', Buffer.alloc(10), 0),
    () => tier.read('b/k', Buffer.alloc(0), 0),
    () => tier.fetch('b/k', file?.file ?? '', run),
    () => tier.head('b/k'),
    () => tier.delete('b/k'),
    () => tier.delete('b/k', { etag }),
    list,
  ];
  for (const call of calls) await expect(call()).rejects.toMatchObject({ code: 'io_failed' });
  store.is.isAway = false;
  expect([...store.objects.keys()]).toEqual(['p/b/k']);
  expect(await tier.head('b/none')).toBeUndefined();
  const read = tier.read('b/none', Buffer.alloc(1), 0);
  await expect(read).rejects.toMatchObject({ code: 'data_lost' });
});

test('a beginning of an upload that is answered without an upload is no beginning: the store is named, and no part is sent', async () => {
  const { store, tier } = await open({ losesUploads: true });
  const put = tier.put('b/k', await local(bytesOf(11 * MiB, 1)));
  await expect(put).rejects.toMatchObject({
    code: 'io_failed',
    message: expect.stringContaining(store.url),
  });
  expect(store.requests.every(({ line }) => line === 'POST p/b/k')).toBe(true);
});

test.each(['again', 'empty', 'untold'] as const)(
  'a listing that never ends, with pages that are %s, is a failure of the store',
  async (lists) => {
    const { store, tier } = await open({ lists });
    const listed = Array.fromAsync(tier.list('b/'));
    await expect(listed).rejects.toMatchObject({ code: 'io_failed' });
    await expect(isListed(tier, 'b/k')).rejects.toMatchObject({ code: 'io_failed' });
    expect(store.requests.length).toBeLessThan(250);
  },
);

test('a listing without an end ends with who asked for it, and a look for one name by itself', async () => {
  const { store, tier } = await open({ lists: 'strange' });
  await expect(isListed(tier, 'b/k')).rejects.toMatchObject({ code: 'io_failed' });
  const client = new AbortController();
  const before = store.requests.length;
  store.onRequest = () => {
    if (store.requests.length > before + 50) client.abort();
  };
  const listed = Array.fromAsync(tier.list('b/', { signal: client.signal }));
  await expect(listed).rejects.toMatchObject({ code: 'aborted' });
});
