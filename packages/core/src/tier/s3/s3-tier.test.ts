/** What needs no object store: the worker's life, and answers of a server that is none. The rest: server/e2e/s3-tier.test.ts. */
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Worker } from 'node:worker_threads';
import { type HttpAnswer, startAnsweringServer, tempDir } from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';
import { parseS3Location } from './s3-location.ts';
import { createS3Thread, type S3Thread, startS3Worker } from './s3-thread.ts';
import { openS3Tier, type S3Tier } from './s3-tier.ts';

const CREDENTIALS = {
  accessKeyId: 'AKIAOFTHETEST',
  secretAccessKey: 'secret-of-the-test',
  sessionToken: 'token-of-the-test',
};

async function setUp(
  answer: HttpAnswer,
): Promise<{ tier: S3Tier; workers: Worker[]; thread: S3Thread; location: string }> {
  const server = await startAnsweringServer(answer);
  const workers: Worker[] = [];
  const startWorker = (): Worker => {
    workers.push(startS3Worker());
    return workers.at(-1) as Worker;
  };
  const thread = createS3Thread({ startWorker, closeMs: 500 });
  const location = `s3://bucket/prefix?endpoint=${encodeURIComponent(server.url)}`;
  const tier = openS3Tier({
    target: parseS3Location(location, { allowsEndpoint: true }),
    names: 'bucket/key',
    thread,
    credentials: CREDENTIALS,
    settings: { attempts: 1, retryDelayMs: 1 },
  });
  onTestFinished(async () => {
    await tier.close();
    await server[Symbol.asyncDispose]();
  });
  return { tier, workers, thread, location };
}

const refuse =
  (status: number, code: string): HttpAnswer =>
  (request, response) => {
    request.resume();
    // As AWS does, which repeats the key.
    const body = `<Error><Code>${code}</Code><Message>said of ${CREDENTIALS.accessKeyId}</Message><AWSAccessKeyId>${CREDENTIALS.accessKeyId}</AWSAccessKeyId></Error>`;
    response.writeHead(status, { 'content-type': 'application/xml' }).end(body);
  };

async function source(sizeBytes: number): Promise<Parameters<S3Tier['put']>[1]> {
  const file = join(await tempDir(), 'file');
  await writeFile(file, Buffer.alloc(sizeBytes, 7));
  return [{ file, offset: 0, length: sizeBytes, crc32c: null }];
}

test('opening starts no worker; a worker that dies fails its calls, and the next call starts another', async () => {
  let isSilent = true;
  const silence = Promise.withResolvers<void>();
  const { tier, workers } = await setUp((request, response) => {
    if (isSilent) silence.resolve();
    else if (request.url?.startsWith('/bucket/prefix/') === true) response.writeHead(404).end();
    else response.writeHead(200).end();
  });
  expect(workers.length).toBe(0);
  const calls = [tier.head('b/one'), tier.head('b/two')].map(
    async (call) => await call.catch((error: unknown) => error),
  );
  await silence.promise;
  await workers[0]?.terminate();
  for (const call of calls) {
    expect(await call).toMatchObject({ code: 'io_failed', details: { retryable: true } });
  }
  isSilent = false;
  expect(await tier.head('b/one')).toBeUndefined();
  expect(workers.length).toBe(2);
});

test('tiers share a worker; it ends with the last, and calls after closing are refused', async () => {
  const found: HttpAnswer = (_, response) =>
    response.writeHead(200, { 'content-length': '5', etag: '"e"' }).end();
  const { tier, workers, thread, location } = await setUp(found);
  const target = parseS3Location(location, { allowsEndpoint: true });
  const other = openS3Tier({ target, credentials: CREDENTIALS, names: 'bucket/key', thread });
  expect(await tier.head('b/k')).toMatchObject({ sizeBytes: 5, etag: 'e' });
  expect(await other.head('b/k')).toMatchObject({ sizeBytes: 5 });
  await tier.close();
  await expect(tier.head('b/k')).rejects.toMatchObject({ code: 'draining' });
  expect(await other.head('b/k')).toMatchObject({ sizeBytes: 5 });
  expect(workers.length).toBe(1);
  const ended = once(workers[0] as Worker, 'exit');
  await other.close();
  await ended;
});

test('closing ends a call that hangs', async () => {
  const asked = Promise.withResolvers<void>();
  const { tier } = await setUp(() => asked.resolve());
  const call = tier.head('b/k').catch((error: unknown) => error);
  await asked.promise;
  await tier.close();
  expect(await call).toMatchObject({ code: 'aborted' });
});

test('closing waits a while for what it cannot abort, and no longer', async () => {
  const asked = Promise.withResolvers<void>();
  const { tier, workers } = await setUp((request) => {
    // All of it came: the object may be there from here on.
    request.resume().once('end', () => asked.resolve());
  });
  const call = tier.put('b/k', await source(5)).catch((error: unknown) => error);
  await asked.promise;
  const ended = once(workers[0] as Worker, 'exit');
  await tier.close();
  expect(await call).toMatchObject({ code: 'aborted' });
  await ended;
});

test('refusals say what to check, are not tried again, and repeat no credentials', async () => {
  let current = refuse(500, 'None');
  const { tier } = await setUp((request, response) => current(request, response));
  for (const [status, code, hint] of [
    [403, 'InvalidAccessKeyId', 'does not know this access key'],
    [403, 'SignatureDoesNotMatch', 'the secret key does not belong'],
    [403, 'AccessDenied', 'check that these credentials may'],
    [401, 'Unauthorized', 'check that these credentials may'],
    [400, 'ExpiredToken', 'the session token has expired'],
    [400, 'Unheard', 'the store answered 400 Unheard: said of'],
    [403, 'SomethingNew', 'check that these credentials may'],
  ] as const) {
    current = refuse(status, code);
    const error = (await tier.put('b/k', await source(5)).catch((e: unknown) => e)) as Error;
    expect(error).toMatchObject({
      code: 'io_failed',
      details: { status, s3Code: code, retryable: false },
    });
    expect(error.message).toContain(hint);
    const shown = JSON.stringify([error, error.message, error.stack, error.cause, tier.location]);
    for (const secret of Object.values(CREDENTIALS)) expect(shown).not.toContain(secret);
  }
});

test('each answer has its code', async () => {
  let current = refuse(500, 'None');
  const { tier } = await setUp((request, response) => current(request, response));
  for (const [status, s3Code, expected] of [
    [503, 'SlowDown', { code: 'io_failed', details: { retryable: true } }],
    [500, 'InternalError', { code: 'io_failed', details: { retryable: true } }],
    [429, 'TooManyRequests', { code: 'io_failed', details: { retryable: true } }],
    [507, 'Whatever', { code: 'tier_full' }],
    [403, 'QuotaExceeded', { code: 'tier_full' }],
    [400, 'KeyTooLongError', { code: 'name_invalid' }],
    [400, 'EntityTooLarge', { code: 'too_large' }],
    [404, 'NoSuchBucket', { code: 'io_failed', details: { retryable: false } }],
    [400, 'Unknown', { code: 'io_failed', details: { retryable: false, status: 400 } }],
  ] as const) {
    current = refuse(status, s3Code);
    await expect(tier.put('b/k', await source(5))).rejects.toMatchObject(expected);
  }
});

test('an answer of another range than asked for is never taken for content', async () => {
  const ranges: HttpAnswer = (_, response) =>
    response
      .writeHead(206, { 'content-length': '4', 'content-range': 'bytes 4-7/100', etag: '"e"' })
      .end('abcd');
  const { tier } = await setUp(ranges);
  const target = Buffer.alloc(4);
  await tier.read('b/k', target, 4);
  expect(target.toString()).toBe('abcd');
  await expect(tier.read('b/k', target, 0)).rejects.toMatchObject({ code: 'io_failed' });
  await expect(tier.read('b/k', target, 98)).rejects.toMatchObject({ code: 'range_invalid' });
});

test('a store that refuses checksums gets none, and what it stored is read back', async () => {
  let stored = Buffer.alloc(0);
  const gets: string[] = [];
  const { tier } = await setUp((request, response) => {
    const refusal = refuse(501, 'NotImplemented');
    if (request.method === 'GET') {
      gets.push(request.url ?? '');
      const range = `bytes 0-${stored.length - 1}/${stored.length}`;
      const head = { 'content-length': stored.length, 'content-range': range, etag: '"e"' };
      response.writeHead(206, head).end(stored);
    } else if ('x-amz-checksum-crc32c' in request.headers) refusal(request, response);
    else {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        stored = Buffer.concat(chunks);
        response.writeHead(200, { etag: '"e"' }).end();
      });
    }
  });
  expect(await tier.put('b/k', await source(5))).toMatchObject({ sizeBytes: 5, etag: 'e' });
  expect(stored.toString('hex')).toBe('0707070707');
  expect(gets.length).toBe(1);
});

test('a presigned URL names one object, a time and no secret key; the store is not asked', async () => {
  let asked = 0;
  const { tier, location } = await setUp((_, response) => {
    asked++;
    response.writeHead(500).end();
  });
  const url = new URL((await tier.presign('b/ä b+c/%41', { seconds: 60 })) as string);
  const { endpoint = '' } = parseS3Location(location, { allowsEndpoint: true });
  expect(url.origin).toBe(new URL(endpoint).origin);
  expect(decodeURIComponent(url.pathname)).toBe('/bucket/prefix/b/ä b+c/%41');
  expect(Object.fromEntries(url.searchParams)).toMatchObject({
    'X-Amz-Algorithm': 'AWS4-HMAC-SHA256',
    'X-Amz-Credential': expect.stringMatching(
      /^AKIAOFTHETEST\/\d{8}\/us-east-1\/s3\/aws4_request$/,
    ),
    'X-Amz-Expires': '60',
    'X-Amz-Security-Token': CREDENTIALS.sessionToken,
    'X-Amz-Signature': expect.stringMatching(/^[0-9a-f]{64}$/),
    'X-Amz-SignedHeaders': 'host',
  });
  expect(url.href).not.toContain(CREDENTIALS.secretAccessKey);
  expect(asked).toBe(0);
});
