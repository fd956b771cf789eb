/** The same calls by files and over HTTP, against a real daemon. */
import { randomBytes } from 'node:crypto';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { type EbbClient, openClient } from '@ebb/client';
import { MiB } from '@ebb/protocol';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type NodeProcess, startNodeProcess } from './support/node-process.ts';

let node: NodeProcess;
let local: EbbClient;
let http: EbbClient;

beforeAll(async () => {
  node = await startNodeProcess({ memoryLimit: '256MiB' });
  local = await openClient({ node: node.url });
  http = await openClient({ node: node.url, path: 'http' });
  await local.buckets.create('data', { preset: 'ephemeral' });
});
afterAll(async () => {
  await local?.close();
  await http?.close();
  await node?.[Symbol.asyncDispose]();
});

const clients = (): [string, EbbClient][] => [
  ['local', local],
  ['http', http],
];

test('the path is chosen by what the client sees', () => {
  expect(local.path).toBe('local');
  expect(http.path).toBe('http');
});

describe.each(['local', 'http'])('written by %s', (writer) => {
  test.each([0, 1, 1000, MiB - 1, MiB, MiB + 1, 20 * MiB, 20 * MiB + 12_345])(
    '%i bytes read back on both paths, by every form of body',
    async (size) => {
      const bytes = randomBytes(size);
      const from = writer === 'local' ? local : http;
      const file = join(node.dataDir, 'body.bin');
      writeFileSync(file, bytes);
      const bodies = {
        bytes,
        file: { file },
        stream: Readable.from(cut(bytes, 70_001)),
        iterable: cut(bytes, 700_001),
      };
      for (const [form, body] of Object.entries(bodies)) {
        const key = `${writer}/${size}/${form}`;
        const committed = await from.put('data', key, body, {
          metadata: { Form: form },
          contentType: 'x/y',
        });
        expect(committed.sizeBytes).toBe(size);
        for (const [, reader] of clients()) {
          const got = await reader.get('data', key);
          expect(got.info).toMatchObject({
            sizeBytes: size,
            version: committed.version,
            etag: committed.etag,
          });
          expect((await got.bytes()).length).toBe(size);
          expect(Buffer.compare(await (await reader.get('data', key)).bytes(), bytes)).toBe(0);
          expect(Buffer.compare(await collect((await reader.get('data', key)).body), bytes)).toBe(
            0,
          );
          const info = await reader.head('data', key);
          expect(info).toMatchObject({
            sizeBytes: size,
            crc32c: committed.crc32c,
            contentType: 'x/y',
            metadata: { form },
          });
        }
      }
    },
  );
});

describe.each(['local', 'http'])('ranges by %s', (path) => {
  const bytes = randomBytes(3 * MiB + 77);
  bytes[0] = 0xff;
  const reader = (): EbbClient => (path === 'local' ? local : http);
  beforeAll(async () => {
    await local.put('data', 'ranges', bytes);
    await local.put('data', 'one', Buffer.from([0xff]));
    await local.put('data', 'none', Buffer.alloc(0));
  });

  test.each([
    [{ offset: 0, length: 1 }, 0, 1],
    [{ offset: 5, length: 100_000 }, 5, 100_005],
    [{ offset: MiB - 1, length: MiB + 2 }, MiB - 1, 2 * MiB + 1],
    [{ offset: 3 * MiB }, 3 * MiB, 3 * MiB + 77],
    [{ offset: 3 * MiB, length: 1e9 }, 3 * MiB, 3 * MiB + 77],
    [{ last: 10 }, 3 * MiB + 67, 3 * MiB + 77],
    [{ last: 1e9 }, 0, 3 * MiB + 77],
    [{ offset: 17, length: 0 }, 17, 17],
  ])('%j', async (range, start, end) => {
    const got = await reader().get('data', 'ranges', { range });
    expect(got.range.length).toBe(end - start);
    expect(Buffer.compare(await got.bytes(), bytes.subarray(start, end))).toBe(0);
  });

  test('beyond the end is refused, nothing of nothing is not', async () => {
    await expect(
      reader().get('data', 'ranges', { range: { offset: bytes.length } }),
    ).rejects.toMatchObject({ code: 'range_invalid' });
    await expect(
      reader().get('data', 'ranges', { range: { offset: bytes.length + 1 } }),
    ).rejects.toMatchObject({ code: 'range_invalid' });
    expect(
      (await (await reader().get('data', 'none', { range: { offset: 0 } })).bytes()).length,
    ).toBe(0);
    expect(
      (await (await reader().get('data', 'none', { range: { last: 5 } })).bytes()).length,
    ).toBe(0);
  });

  test('a single byte 0xFF is a byte, and not the end', async () => {
    await using handle = await reader().open('data', 'one');
    const target = Buffer.alloc(4);
    expect(await handle.read(target, 0)).toBe(1);
    expect(target[0]).toBe(0xff);
    expect(await handle.read(target, 1)).toBe(0);
  });

  test('positional reads at random places, many at a time', async () => {
    await using handle = await reader().open('data', 'ranges');
    const reads = Array.from({ length: 64 }, async () => {
      const position = Math.floor(Math.random() * bytes.length);
      const target = Buffer.alloc(1 + Math.floor(Math.random() * 300_000));
      const count = await handle.read(target, position);
      expect(count).toBe(Math.min(target.length, bytes.length - position));
      expect(
        Buffer.compare(target.subarray(0, count), bytes.subarray(position, position + count)),
      ).toBe(0);
    });
    await Promise.all(reads);
  });

  test('an open handle reads its version after the object was replaced or deleted, by files; over HTTP it says so', async () => {
    await local.put('data', `replaced-${path}`, bytes);
    await using handle = await reader().open('data', `replaced-${path}`);
    await local.put('data', `replaced-${path}`, randomBytes(bytes.length));
    const target = Buffer.alloc(bytes.length);
    if (path === 'http') {
      await expect(handle.read(target, 0)).rejects.toMatchObject({ code: 'precondition_failed' });
      return;
    }
    await local.delete('data', `replaced-${path}`);
    await local.put('data', 'reuse', randomBytes(bytes.length)); // would take the file, were it free
    await handle.read(target, 0);
    expect(Buffer.compare(target, bytes)).toBe(0);
  });
});

describe.each(['local', 'http'])('conditions and errors by %s', (path) => {
  const client = (): EbbClient => (path === 'local' ? local : http);
  const key = `conditions-${path}`;

  test('a refused create leaves the object untouched', async () => {
    await client().put('data', key, Buffer.from('first'), { ifNoneMatch: '*' });
    for (const size of [6, 5 * MiB]) {
      await expect(
        client().put('data', key, randomBytes(size), { ifNoneMatch: '*' }),
      ).rejects.toMatchObject({ code: 'already_exists' });
    }
    expect(String(await (await client().get('data', key)).bytes())).toBe('first');
  });

  test('If-Match takes the version that is there, and no other', async () => {
    const { etag } = await client().put('data', key, Buffer.from('second'));
    const { etag: newer } = await client().put('data', key, Buffer.from('third'), {
      ifMatch: etag,
    });
    await expect(
      client().put('data', key, Buffer.from('x'), { ifMatch: etag }),
    ).rejects.toMatchObject({ code: 'precondition_failed' });
    await expect(client().delete('data', key, { ifMatch: etag })).rejects.toMatchObject({
      code: 'precondition_failed',
    });
    await client().delete('data', key, { ifMatch: newer });
  });

  test('what is not there', async () => {
    await expect(client().get('data', 'nope')).rejects.toMatchObject({ code: 'not_found' });
    await expect(client().head('data', 'nope')).rejects.toMatchObject({ code: 'not_found' });
    await expect(client().open('data', 'nope')).rejects.toMatchObject({ code: 'not_found' });
    await expect(client().delete('data', 'nope')).rejects.toMatchObject({ code: 'not_found' });
    await expect(client().put('no-such-bucket', 'x', Buffer.from('x'))).rejects.toMatchObject({
      code: 'bucket_not_found',
    });
    await expect(client().put('data', '../x', Buffer.from('x'))).rejects.toMatchObject({
      code: 'name_invalid',
    });
  });

  test('an abort in the middle leaves nothing staged and nothing visible', async () => {
    const stop = new AbortController();
    async function* endless(): AsyncGenerator<Uint8Array> {
      for (let at = 0; ; at++) {
        if (at === 5) stop.abort();
        yield randomBytes(MiB);
        await delay(1);
      }
    }
    await expect(
      client().put('data', 'never', endless(), { signal: stop.signal }),
    ).rejects.toMatchObject({ code: 'aborted' });
    await expect(client().head('data', 'never')).rejects.toMatchObject({ code: 'not_found' });
    await expect.poll(stagedBytes, { timeout: 60_000 }).toBe(0);
  });

  test('an abort is heard while the body is silent', async () => {
    const stop = new AbortController();
    async function* silent(): AsyncGenerator<Uint8Array> {
      yield randomBytes(2 * MiB);
      setTimeout(() => stop.abort(), 50);
      await new Promise(() => undefined);
    }
    const endless = new Readable({ read: () => undefined });
    endless.push(randomBytes(MiB));
    const signal = stop.signal;
    await Promise.all(
      [silent(), endless].map((body, at) =>
        expect(client().put('data', `never-${at}`, body, { signal })).rejects.toMatchObject({
          code: 'aborted',
        }),
      ),
    );
    expect(endless.destroyed).toBe(true);
    await expect.poll(stagedBytes, { timeout: 60_000 }).toBe(0);
  });

  test('a body that fails takes its write with it, and its error is the one thrown', async () => {
    async function* failing(): AsyncGenerator<Uint8Array> {
      yield randomBytes(2 * MiB);
      throw new RangeError('the source broke');
    }
    await expect(client().put('data', 'never', failing())).rejects.toThrow('the source broke');
    await expect.poll(stagedBytes, { timeout: 60_000 }).toBe(0);
  });

  test('a consumer that stops early holds nothing', async () => {
    await client().put('data', 'long', randomBytes(20 * MiB));
    for await (const chunk of (await client().get('data', 'long')).body) {
      expect(chunk.length).toBeGreaterThan(0);
      break;
    }
    expect((await (await client().get('data', 'long')).bytes()).length).toBe(20 * MiB);
  });
});

test('copy, rename, list, pin, relocate, why, verify', async () => {
  await local.put('data', 'ops/a', Buffer.from('A'));
  await http.put('data', 'opsb', Buffer.from('B'));
  expect(
    (await local.copy({ bucket: 'data', key: 'ops/a' }, { bucket: 'data', key: 'ops/c' }))
      .sizeBytes,
  ).toBe(1);
  await expect(
    local.copy(
      { bucket: 'data', key: 'ops/a' },
      { bucket: 'data', key: 'ops/c' },
      { overwrite: false },
    ),
  ).rejects.toMatchObject({ code: 'already_exists' });
  expect(
    await local.renamePrefix({ bucket: 'data', key: 'ops/' }, { bucket: 'data', key: 'moved/' }),
  ).toMatchObject({ objects: 2 });
  expect((await local.list('data', { prefix: 'ops' })).objects.map(({ key }) => key)).toEqual([
    'opsb',
  ]);
  expect((await all(http.listAll('data', { prefix: 'moved/' }))).map(({ key }) => key)).toEqual([
    'moved/a',
    'moved/c',
  ]);
  expect((await local.list('data', { delimiter: '/' })).prefixes).toContain('moved/');
  expect((await local.pin('data', 'moved/a', true)).pinned).toBe(true);
  expect((await local.relocate('data', 'moved/c', 'disk')).objects).toBe(1);
  expect((await local.head('data', 'moved/c')).tiers).toContain('disk');
  expect(String(await (await local.get('data', 'moved/c')).bytes())).toBe('A');
  expect((await local.why('data', 'moved/c')).events.length).toBeGreaterThan(0);
  expect((await local.verify({ bucket: 'data' })).broken).toEqual([]);
  expect(await local.deletePrefix('data', 'moved/')).toMatchObject({ objects: 2 });
  expect((await local.status()).state).toBe('ready');
  expect(await local.gc()).toMatchObject({ orphanFiles: 0 });
});

test('keys that need care in a URL', async () => {
  for (const key of ['a b', 'ä/ü?#%41', "it's", 'a+b&c=d', '日本/語', 'semi;colon']) {
    await http.put('data', key, Buffer.from(key));
    expect(String(await (await local.get('data', key)).bytes())).toBe(key);
    expect((await http.head('data', key)).key).toBe(key);
    await http.delete('data', key);
  }
});

test('a job owns what its client puts, and its end frees it', async () => {
  const job = await local.jobs.open('job-e2e', { label: 'a test', heartbeatTtlMs: 5000 });
  await using worker = await openClient({ node: node.unixUrl, job: 'job-e2e' });
  await using distant = await openClient({ node: node.url, job: 'job-e2e', path: 'http' });
  await worker.put('data', 'job/a', randomBytes(1000));
  await distant.put('data', 'job/b', randomBytes(2 * MiB));
  expect(await local.jobs.get('job-e2e')).toMatchObject({ objects: 2, label: 'a test' });
  expect(await job.end()).toMatchObject({ objects: 2 });
  expect((await local.list('data', { prefix: 'job/' })).objects).toEqual([]);
});

test('two programs that choose one job id do not share the job: the second is refused, and one with the token joins it', async () => {
  const first = await local.jobs.open('job-of-two');
  await using writer = await openClient({ node: node.unixUrl, job: 'job-of-two' });
  await writer.put('data', 'two/a', randomBytes(10));
  await expect(local.jobs.open('job-of-two')).rejects.toMatchObject({ code: 'job_exists' });
  const worker = await local.jobs.open('job-of-two', { token: first.token });
  worker.detach();
  expect(await first.end()).toMatchObject({ objects: 1 });
  // The id is free again, and the handle of the first cannot end what the next one has.
  await using next = await local.jobs.open('job-of-two');
  await writer.put('data', 'two/b', randomBytes(10));
  expect(await worker.end()).toMatchObject({ objects: 0 });
  expect(await local.jobs.get(next.jobId)).toMatchObject({ objects: 1 });
});

describe('staged writers', () => {
  test('grow beyond what they reserved, and move to disk when memory has no room', async () => {
    const before = readdirSync(node.dataDir).length;
    const total = 400 * MiB; // memory holds 256
    const piece = randomBytes(4 * MiB);
    await using writer = await local.stage('data', 'large', { tier: 0, reserveBytes: MiB });
    expect(writer.tier).toBe(0);
    for (let at = 0; at < total; at += piece.length) {
      piece.writeUInt32LE(at, 0);
      await writer.write(piece);
    }
    expect(writer.tier).toBe(1);
    const { sizeBytes, crc32c } = await writer.commit();
    expect(sizeBytes).toBe(total);
    expect(await local.head('data', 'large')).toMatchObject({ sizeBytes: total, crc32c });
    expect((await local.verify({ bucket: 'data', prefix: 'large' })).broken).toEqual([]);
    await using handle = await local.open('data', 'large');
    const target = Buffer.alloc(4);
    for (let at = 0; at < total; at += piece.length) {
      await handle.read(target, at);
      expect(target.readUInt32LE(0)).toBe(at);
    }
    await local.delete('data', 'large');
    expect(readdirSync(node.dataDir).length).toBe(before);
  });

  test('through the node, for a client that does not see its files', async () => {
    await using writer = await http.stage('data', 'far', { reserveBytes: 100 });
    expect(writer.path).toBeUndefined();
    const bytes = randomBytes(5 * MiB + 3);
    for (const chunk of cutSync(bytes, 333_333)) await writer.write(chunk);
    await writer.commit({ metadata: { a: 'b' } });
    expect(Buffer.compare(await (await local.get('data', 'far')).bytes(), bytes)).toBe(0);
  });

  test('that are dropped leave nothing', async () => {
    {
      await using writer = await local.stage('data', 'dropped', { reserveBytes: 8 * MiB });
      await writer.write(randomBytes(3 * MiB));
    }
    await expect.poll(stagedBytes, { timeout: 60_000 }).toBe(0);
    await expect(local.head('data', 'dropped')).rejects.toMatchObject({ code: 'not_found' });
  });
});

async function stagedBytes(): Promise<number> {
  return (await local.status()).tiers.reduce((sum, tier) => sum + tier.stagedBytes, 0);
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  return Buffer.concat(await all(chunks));
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

function* cutSync(bytes: Buffer, size: number): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}
async function* cut(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  yield* cutSync(bytes, size);
}
