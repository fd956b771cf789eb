/**
 * Tier 2 on an object store, against Ebb's own S3 surface and, where there is one, against MinIO: the conformance suite, and
 * what comes of faults between both (the fault model stands in testkit's faulty-proxy.ts).
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  AbortMultipartUploadCommand,
  CreateMultipartUploadCommand,
  ListMultipartUploadsCommand,
  ListPartsCommand,
  PutObjectCommand,
} from '@aws-sdk/client-s3';
import {
  crc32c,
  openS3Tier,
  parseS3Location,
  type RemoteRun,
  type S3Tier,
  type S3TierOptions,
} from '@ebb/core';
import { isStoreError, MiB, type StoreError } from '@ebb/protocol';
import {
  type FaultyProxy,
  type ProxiedRequest,
  type ProxyFault,
  remoteTierConformance,
  startFaultyProxy,
  tempDir,
} from '@ebb/testkit';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { type ObjectStore, objectStores } from './support/object-store.ts';

const OWN_NODE = join(import.meta.dirname, '../../../node_modules/.bin/node');
const KILLED_PUT = join(import.meta.dirname, 'support/killed-put.ts');
const SETTINGS = {
  singlePutBytesMax: 5 * MiB,
  partBytes: 5 * MiB,
  stallMs: 700,
  serverWorkMs: 700,
  connectMs: 2000,
  attempts: 2,
  retryDelayMs: 10,
} as const;
const SMALL = 100_000;
const LARGE = 12 * MiB;

let tests = 0;

for (const kind of objectStores()) {
  describe(kind.name, () => {
    let store: ObjectStore;
    beforeAll(async () => {
      store = await kind.start();
    });
    afterAll(async () => await store[Symbol.asyncDispose]());

    const openTier = (options: Partial<S3TierOptions> & { url?: string } = {}): S3Tier => {
      tests++;
      const { url = store.url, ...rest } = options;
      const location = `s3://tier/test-${tests}?endpoint=${encodeURIComponent(url)}`;
      const tier = openS3Tier({
        target: parseS3Location(location, { allowsEndpoint: true }),
        ...{ credentials: store.credentials, names: 'bucket/key', ...rest },
      });
      onTestFinished(async () => await tier.close());
      return tier;
    };

    remoteTierConformance('an S3 tier', { open: () => Promise.resolve(openTier()) });
    describeStorage(() => store, openTier);
    describeFaults(() => store, openTier);
  });
}

type OpenTier = (options?: Partial<S3TierOptions> & { url?: string }) => S3Tier;

function describeStorage(store: () => ObjectStore, openTier: OpenTier): void {
  test('content type and metadata travel, also beyond ASCII', async () => {
    const tier = openTier();
    // A store that reads encoded words keeps no blanks at the ends, and nothing that only looks like one.
    const metadata = { plain: 'yes', blanks: 'a b', umlaut: 'Grüße 👋' };
    for (const sizeBytes of [0, 10, 17 * MiB]) {
      const { source } = await localFile(sizeBytes);
      await tier.put('b/k', [source], { contentType: 'text/x-test', metadata });
      expect(await tier.head('b/k')).toMatchObject({
        sizeBytes,
        contentType: 'text/x-test',
        metadata,
      });
      await tier.copy('b/k', 'b/copy', { offset: 0, length: sizeBytes });
      expect(await tier.head('b/copy')).toMatchObject({ contentType: 'text/x-test', metadata });
      await tier.copy('b/k', 'b/part', { offset: 0, length: Math.floor(sizeBytes / 2) });
      expect(await tier.head('b/part')).toMatchObject({ contentType: 'text/x-test', metadata });
    }
  });

  test('an object of many parts, made of runs that end anywhere, is fetched and read as it went', async () => {
    const tier = openTier({ settings: { singlePutBytesMax: 5 * MiB, partBytes: 5 * MiB } });
    const { file, content } = await localFile(37 * MiB + 11);
    const cuts = [0, 1, 6 * MiB, 6 * MiB, 22 * MiB + 5, content.length];
    const runs = cuts.slice(1).map((to, index) => {
      const offset = cuts[index] as number;
      return { file, offset, length: to - offset, crc32c: crc32c(content.subarray(offset, to)) };
    });
    const { etag } = await tier.put('b/k', runs);
    const { file: target } = await localFile(0);
    const run = { offset: 0, length: content.length, crc32c: crc32c(content), etag };
    expect(await tier.fetch('b/k', target, run)).toBe(crc32c(content));
    expect((await readFile(target)).equals(content)).toBe(true);
    const read = Buffer.alloc(content.length - 3);
    await tier.read('b/k', read, 3, { etag });
    expect(read.equals(content.subarray(3))).toBe(true);
    const wrong = runs.map((entry, index) => (index === 4 ? { ...entry, crc32c: 1 } : entry));
    await expectFailure(tier.put('b/wrong', wrong), { code: 'data_corrupt' });
    expect(await tier.head('b/wrong')).toBeUndefined();
    expect(await uploadsOf(store())).toEqual([]);
  });

  test('a listing of more than a page has every name once', async () => {
    const tier = openTier();
    const { source } = await localFile(1);
    const names = Array.from({ length: 1003 }, (_, index) => `b/${index}`);
    await Promise.all(names.map(async (name) => await tier.put(name, [source])));
    expect((await namesOf(tier, 'b/')).sort()).toEqual(names.sort());
  });

  test('a tier for one bucket: the key alone is the key, and the names have the bucket', async () => {
    const tier = openTier({ names: 'key', bucket: 'data' });
    const prefix = `test-${tests}`;
    const put = { Bucket: 'tier', Key: `${prefix}/by/others`, Body: 'content' };
    await store().client.send(new PutObjectCommand(put));
    const { source } = await localFile(10);
    await tier.put('data/own', [source]);
    expect((await namesOf(tier, 'data/')).sort()).toEqual(['data/by/others', 'data/own']);
    const target = Buffer.alloc(7);
    await tier.read('data/by/others', target, 0);
    expect(target.toString()).toBe('content');
    await expectFailure(tier.put('other/own', [source]), { code: 'name_invalid' });
    expect(await tier.head('other/own')).toBeUndefined();
  });

  test('a bucket that is missing is no missing object: io_failed, and it says what to do', async () => {
    const target = parseS3Location(`s3://no-such-bucket?endpoint=${store().url}`, {
      allowsEndpoint: true,
    });
    const tier = openTier({ target });
    const { source, file } = await localFile(10);
    const run = { offset: 0, length: 10, crc32c: null };
    for (const call of [
      () => tier.put('b/k', [source]),
      () => tier.head('b/k'),
      () => tier.fetch('b/k', file, run),
      () => tier.delete('b/k'),
      () => namesOf(tier, ''),
    ]) {
      const error = await expectFailure(call(), { code: 'io_failed', retryable: false });
      expect(error.message).toContain('there is no bucket no-such-bucket; create it');
    }
  });

  test('wrong credentials are io_failed, and no error repeats them', async () => {
    const { source } = await localFile(10);
    const wrong = { accessKeyId: 'NOSUCHKEY12345', secretAccessKey: 'not-the-secret-at-all' };
    const { accessKeyId } = store().credentials;
    for (const credentials of [wrong, { ...wrong, accessKeyId }]) {
      const tier = openTier({ credentials });
      const error = await expectFailure(tier.put('b/k', [source]), {
        code: 'io_failed',
        retryable: false,
      });
      expect(error.message).toMatch(/access key/);
      const shown = JSON.stringify([error, error.message, error.stack, tier.location]);
      expect(shown).not.toContain(credentials.accessKeyId);
      expect(shown).not.toContain(credentials.secretAccessKey);
    }
  });

  test('uploads of a killed process (its credentials from the environment) are aborted by the next, and those of others stay', async () => {
    const foreign = { Bucket: 'tier', Key: 'killed/b/killed' };
    const { UploadId } = await store().client.send(new CreateMultipartUploadCommand(foreign));
    const proxy = await startFaultyProxy(store().url);
    onTestFinished(async () => await proxy[Symbol.asyncDispose]());
    proxy.harm('hang', { when: ({ path }) => path.includes('partNumber=3&') });
    const journal = await tempDir();
    const location = `s3://tier/killed?endpoint=${encodeURIComponent(proxy.url)}`;
    const { file, content } = await localFile(20 * MiB);
    const harmed = proxy.harmed();
    const { accessKeyId, secretAccessKey } = store().credentials;
    const child = spawn(
      OWN_NODE,
      ['--conditions=source', KILLED_PUT, location, journal, file, String(content.length)],
      {
        env: {
          ...process.env,
          AWS_ACCESS_KEY_ID: accessKeyId,
          AWS_SECRET_ACCESS_KEY: secretAccessKey,
        },
      },
    );
    await harmed;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
    expect((await uploadsOf(store(), foreign.Key)).length).toBe(2);
    const target = parseS3Location(location, { allowsEndpoint: true });
    const tier = openTier({ target, uploadJournal: journal });
    expect(await tier.abortLeftoverUploads()).toBe(1);
    expect(await uploadsOf(store(), foreign.Key)).toEqual([UploadId]);
    expect(await tier.abortLeftoverUploads()).toBe(0);
    await store().client.send(new AbortMultipartUploadCommand({ ...foreign, UploadId }));
  });
}

interface Harm {
  readonly fault: ProxyFault;
  readonly code: string;
}

const IO: readonly Harm[] = (
  ['refuse', 'cut-request', 'lose-reply', 'corrupt-request', 'hang'] as const
).map((fault) => ({ fault, code: 'io_failed' }));
const PUT_HARMS: readonly Harm[] = [...IO, { fault: 'full', code: 'tier_full' }];
const GET_HARMS: readonly Harm[] = [
  ...(['refuse', 'lose-reply', 'cut-response', 'stall-response', 'hang'] as const).map((fault) => ({
    fault,
    code: 'io_failed',
  })),
  { fault: 'corrupt-response', code: 'data_corrupt' },
];
/** Requests with a body of content; of the others only the answer can be harmed. */
const isPart = ({ method, path }: ProxiedRequest): boolean =>
  method === 'PUT' && path.includes('partNumber=2&');
const isCreate = ({ method, path }: ProxiedRequest): boolean =>
  method === 'POST' && path.includes('uploads');
const isComplete = ({ method, path }: ProxiedRequest): boolean =>
  method === 'POST' && path.includes('uploadId=');
const isAbort = ({ method, path }: ProxiedRequest): boolean =>
  method === 'DELETE' && path.includes('uploadId=');
const isPut = ({ method }: ProxiedRequest): boolean => method === 'PUT';
const isGet = ({ method }: ProxiedRequest): boolean => method === 'GET';

function describeFaults(store: () => ObjectStore, openTier: OpenTier): void {
  const openHarmed = async (): Promise<{ proxy: FaultyProxy; tier: S3Tier }> => {
    const proxy = await startFaultyProxy(store().url);
    onTestFinished(async () => await proxy[Symbol.asyncDispose]());
    return { proxy, tier: openTier({ url: proxy.url, settings: SETTINGS }) };
  };

  test.each([
    ...PUT_HARMS.map((harm) => ({ ...harm, of: 'a small object', sizeBytes: SMALL, when: isPut })),
    ...PUT_HARMS.map((harm) => ({ ...harm, of: 'a part', sizeBytes: LARGE, when: isPart })),
    ...PUT_HARMS.filter(({ fault }) => !fault.endsWith('-request')).flatMap((harm) => [
      { ...harm, of: 'the beginning of an upload', sizeBytes: LARGE, when: isCreate },
      { ...harm, of: 'the completion', sizeBytes: LARGE, when: isComplete },
    ]),
  ])(
    'put, $fault of $of: $code, nothing half-made, no parts left, and a repeat succeeds',
    async ({ fault, code, sizeBytes, when }) => {
      const { proxy, tier } = await openHarmed();
      const { source, content, file } = await localFile(sizeBytes);
      proxy.harm(fault, { when });
      const isApplied = fault === 'lose-reply' && when !== isPart && when !== isCreate;
      const put = tier.put('b/k', [source]);
      if (isApplied && when === isComplete) await put;
      else await expectFailure(put, { code, ...(code === 'io_failed' ? { retryable: true } : {}) });
      proxy.heal();
      // A lost answer to what was done: then it is there, and whole.
      expect((await tier.head('b/k'))?.sizeBytes).toBe(isApplied ? sizeBytes : undefined);
      expect(await partsOf(store())).toBe(0);
      if (!(fault === 'lose-reply' && when === isCreate))
        expect(await uploadsOf(store())).toEqual([]);
      await tier.put('b/k', [source]);
      await tier.fetch('b/k', file, runOf(source));
      expect((await readFile(file)).equals(content)).toBe(true);
    },
  );

  test.each(
    GET_HARMS.flatMap((harm) => [SMALL, LARGE].map((sizeBytes) => ({ ...harm, sizeBytes }))),
  )(
    'fetch of $sizeBytes bytes, $fault: $code, and a repeat succeeds',
    async ({ fault, code, sizeBytes }) => {
      const { proxy, tier } = await openHarmed();
      const { source, content } = await localFile(sizeBytes);
      const { file } = await localFile(0);
      await tier.put('b/k', [source]);
      proxy.harm(fault, { when: isGet });
      const run = { offset: 0, length: sizeBytes, crc32c: source.crc32c };
      await expectFailure(tier.fetch('b/k', file, run), { code });
      if (code === 'io_failed') {
        const read = tier.read('b/k', Buffer.alloc(sizeBytes), 0);
        await expectFailure(read, { code, retryable: true });
      }
      proxy.heal();
      await tier.fetch('b/k', file, run);
      expect((await readFile(file)).equals(content)).toBe(true);
    },
  );

  test('a fault that passes is not seen: put, fetch and copy try again', async () => {
    const { proxy, tier } = await openHarmed();
    const { source, content } = await localFile(LARGE);
    const { file } = await localFile(0);
    for (const { fault } of IO) {
      proxy.harm(fault, { when: isPart, times: 1 });
      await tier.put(`b/${fault}`, [source]);
      proxy.harm(fault === 'corrupt-request' ? 'corrupt-response' : fault, {
        when: isGet,
        times: 1,
      });
      await tier.fetch(`b/${fault}`, file, runOf(source));
      expect((await readFile(file)).equals(content)).toBe(true);
      proxy.heal();
    }
    proxy.harm('refuse', { when: isPut, times: 1 });
    expect((await tier.copy('b/hang', 'b/copy', { offset: 0, length: LARGE })).sizeBytes).toBe(
      LARGE,
    );
    expect(await uploadsOf(store())).toEqual([]);
  });

  test('a slow answer that goes on is not cut, however long it takes', async () => {
    const { proxy, tier } = await openHarmed();
    const { source, content } = await localFile(SMALL);
    const { file } = await localFile(0);
    await tier.put('b/k', [source]);
    proxy.harm('slow', { when: isGet });
    const begin = performance.now();
    await tier.fetch('b/k', file, runOf(source));
    expect(performance.now() - begin).toBeGreaterThan(SETTINGS.stallMs);
    expect((await readFile(file)).equals(content)).toBe(true);
  });

  test('an upload that could not be taken back is, before the next put', async () => {
    const { proxy, tier } = await openHarmed();
    const { source } = await localFile(LARGE);
    proxy.harm('refuse', { when: isPart });
    proxy.harm('refuse', { when: isAbort });
    await expectFailure(tier.put('b/k', [source]), { code: 'io_failed' });
    expect((await uploadsOf(store())).length).toBe(1);
    proxy.heal();
    await tier.put('b/other', [(await localFile(1)).source]);
    expect(await uploadsOf(store())).toEqual([]);
  });

  test('a put that is aborted while a part hangs ends at once and leaves nothing', async () => {
    const { proxy, tier } = await openHarmed();
    const { source } = await localFile(LARGE);
    proxy.harm('hang', { when: isPart });
    const harmed = proxy.harmed();
    const controller = new AbortController();
    const put = tier.put('b/k', [source], { signal: controller.signal });
    await harmed;
    controller.abort();
    await expectFailure(put, { code: 'aborted' });
    expect(await tier.head('b/k')).toBeUndefined();
    expect(await uploadsOf(store())).toEqual([]);
  });

  test.each([SMALL, LARGE])(
    'a store that repeats no checksum is read back (%i bytes), and what is wrong there is not kept',
    async (sizeBytes) => {
      const { proxy, tier } = await openHarmed();
      const { source } = await localFile(sizeBytes);
      const isAnswered = (request: ProxiedRequest): boolean =>
        isPut(request) || isComplete(request);
      proxy.harm('hide-checksums', { when: isAnswered });
      proxy.harm('corrupt-response', { when: isGet, times: 1 });
      await expectFailure(tier.put('b/k', [source]), { code: 'io_failed', retryable: true });
      expect(proxy.requests.filter(isGet).length).toBeGreaterThan(0);
      expect(await tier.head('b/k')).toBeUndefined();
      // From here on the MD5 is computed too: it may be the ETag, and then says it all.
      await tier.put('b/k', [source]);
      expect((await tier.head('b/k'))?.sizeBytes).toBe(sizeBytes);
    },
  );

  test('head, list and delete: an outage is io_failed, and passes', async () => {
    const { proxy, tier } = await openHarmed();
    await tier.put('b/k', [(await localFile(10)).source]);
    for (const fault of ['refuse', 'lose-reply', 'hang'] as const) {
      proxy.harm(fault, { when: () => true });
      const calls = [
        () => tier.head('b/k'),
        () => namesOf(tier, 'b/'),
        () => tier.delete('b/none'),
      ];
      for (const call of calls) {
        await expectFailure(call(), { code: 'io_failed', retryable: true });
      }
      proxy.heal();
    }
    expect(await namesOf(tier, 'b/')).toEqual(['b/k']);
  });

  test('nobody there: io_failed, to be tried again', async () => {
    const proxy = await startFaultyProxy(store().url);
    const tier = openTier({ url: proxy.url, settings: SETTINGS });
    await proxy[Symbol.asyncDispose]();
    const { source } = await localFile(10);
    await expectFailure(tier.put('b/k', [source]), { code: 'io_failed', retryable: true });
    const nowhere = openTier({ url: 'http://no-such-host.invalid:9', settings: SETTINGS });
    await expectFailure(nowhere.put('b/k', [source]), { code: 'io_failed', retryable: true });
  });
}

interface LocalFile {
  readonly file: string;
  readonly content: Buffer;
  readonly source: { file: string; offset: number; length: number; crc32c: number };
}

async function localFile(sizeBytes: number): Promise<LocalFile> {
  const content = randomBytes(sizeBytes);
  const file = join(await tempDir(), 'file');
  await writeFile(file, content);
  return { file, content, source: { file, offset: 0, length: sizeBytes, crc32c: crc32c(content) } };
}

function runOf({ length, crc32c: crc }: LocalFile['source']): RemoteRun {
  return { offset: 0, length, crc32c: crc };
}

async function namesOf(tier: S3Tier, prefix: string): Promise<string[]> {
  return (await Array.fromAsync(tier.list(prefix))).map(({ name }) => name);
}

/** Of `b/k` of the tier opened last. MinIO lists the uploads of one key only. */
async function uploadsOf(
  { client }: ObjectStore,
  key = `test-${tests}/b/k`,
): Promise<(string | undefined)[]> {
  const list = new ListMultipartUploadsCommand({ Bucket: 'tier', Prefix: key });
  const { Uploads = [] } = await client.send(list);
  return Uploads.map(({ UploadId }) => UploadId);
}

async function partsOf(store: ObjectStore): Promise<number> {
  const Key = `test-${tests}/b/k`;
  let parts = 0;
  for (const UploadId of await uploadsOf(store)) {
    const list = new ListPartsCommand({ Bucket: 'tier', Key, UploadId });
    parts += (await store.client.send(list)).Parts?.length ?? 0;
  }
  return parts;
}

async function expectFailure(
  call: Promise<unknown>,
  { code, retryable }: { readonly code: string; readonly retryable?: boolean },
): Promise<StoreError> {
  const error = await call.then(
    () => new Error('no error'),
    (thrown: unknown) => thrown,
  );
  if (!isStoreError(error)) throw error;
  expect({ code: error.code, message: error.message }).toMatchObject({ code });
  if (retryable !== undefined) expect(error.details).toMatchObject({ retryable });
  return error;
}
