/** A proxy in front of the node sends large objects from the node's own files: the configuration of infra/proxy, with Caddy. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { openClient } from '@ebb/client';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';

const REPO = join(import.meta.dirname, '../../..');
const CADDY = process.env['EBB_TEST_CADDY'] ?? join(REPO, '.ebb/tools/caddy');
const isThere = existsSync(CADDY);
if (!isThere)
  process.stderr.write(
    'skipped: no Caddy; `npm run setup:peers -- --only caddy` builds one, EBB_TEST_CADDY names another\n',
  );
const MiB = 1024 * 1024;
const KEY = { accessKeyId: 'PROXYKEY', secretAccessKey: 'a secret behind a proxy' };

let node: NodeProcess;
let caddy: ChildProcess;
let s3: S3Client;
let url: string;

beforeAll(async () => {
  if (!isThere) return;
  node = await startNodeProcess({
    args: ['--s3-file-redirect=/ebb-files'],
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
  await using client = await openClient({ node: node.url });
  const { tiers } = await client.status();
  const [memory, disk] = tiers.map(({ location }) => location);
  const port = await freePort();
  url = `http://127.0.0.1:${port}`;
  const config = join(REPO, 'infra/proxy/Caddyfile');
  caddy = spawn(CADDY, ['run', '--config', config, '--adapter', 'caddyfile'], {
    stdio: ['ignore', 'ignore', 'ignore'],
    env: {
      ...process.env,
      PROXY_LISTEN: `127.0.0.1:${port}`,
      S3_ADDRESS: new URL(node.s3Url).host,
      MEMORY_TIER: memory,
      DISK_TIER: disk,
    },
  });
  await vi.waitFor(async () => expect((await fetch(url)).status).toBe(403), { timeout: 60_000 });
  s3 = new S3Client({
    ...{ endpoint: url, region: 'us-east-1', forcePathStyle: true },
    credentials: { ...KEY },
  });
  await s3.send(new CreateBucketCommand({ Bucket: 'proxied' }));
});
afterAll(async () => {
  s3?.destroy();
  caddy?.kill();
  await node?.[Symbol.asyncDispose]();
});

async function freePort(): Promise<number> {
  const server = createServer();
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(0, '127.0.0.1', resolve);
  await promise;
  const { port } = server.address() as { port: number };
  await new Promise((done) => server.close(done));
  return port;
}

const put = async (key: string, body: Buffer, more: object = {}): Promise<string> =>
  (await s3.send(new PutObjectCommand({ Bucket: 'proxied', Key: key, Body: body, ...more })))
    .ETag ?? '';

test.skipIf(!isThere)('objects of all sizes, whole and in ranges, with their headers', async () => {
  for (const size of [0, 1, 100_000, 256 * 1024, 8 * MiB + 3]) {
    const body = randomBytes(size);
    const etag = await put(`of ${size}`, body, { ContentType: 'text/x-test' });
    const at = { Bucket: 'proxied', Key: `of ${size}` };
    const got = await s3.send(new GetObjectCommand(at));
    expect(Buffer.from((await got.Body?.transformToByteArray()) ?? []).equals(body)).toBe(true);
    expect(got).toMatchObject({ ETag: etag, ContentType: 'text/x-test', ContentLength: size });
    expect(got.$metadata.httpStatusCode).toBe(200);
    if (size < 10) continue;
    const part = await s3.send(new GetObjectCommand({ ...at, Range: 'bytes=5-9' }));
    const bytes = Buffer.from((await part.Body?.transformToByteArray()) ?? []);
    expect(bytes.equals(body.subarray(5, 10))).toBe(true);
    expect(part).toMatchObject({ ContentRange: `bytes 5-9/${size}`, ETag: etag });
    const stale = s3.send(new GetObjectCommand({ ...at, IfMatch: '"other"' }));
    await expect(stale).rejects.toMatchObject({ name: 'PreconditionFailed' });
    expect(await s3.send(new HeadObjectCommand(at))).toMatchObject({ ContentLength: size });
  }
});

test.skipIf(!isThere)('the bytes of a large object do not pass the node', async () => {
  await put('large', randomBytes(8 * MiB));
  await using client = await openClient({ node: node.url });
  await client.wait('proxied', 'large', { for: 'remote' }); // the mirror writes too
  const sent = async (): Promise<number> => {
    const text = await (await fetch(`${node.url}/metrics`)).text();
    return Number(/^ebb_http_requests_total\{[^}]*s3:GetObject[^}]*\} (\d+)/m.exec(text)?.[1] ?? 0);
  };
  const before = await sent();
  const path = `/proc/${node.pid}/io`;
  const written = (): number => Number(/wchar: (\d+)/.exec(readFileSync(path, 'utf8'))?.[1]);
  const bytesBefore = written();
  for (let i = 0; i < 10; i++) {
    const got = await s3.send(new GetObjectCommand({ Bucket: 'proxied', Key: 'large' }));
    expect((await got.Body?.transformToByteArray())?.length).toBe(8 * MiB);
  }
  expect((await sent()) - before).toBe(10);
  // Of 80 MiB that went out; what is read again is brought to memory once.
  expect(written() - bytesBefore).toBeLessThan(9 * MiB);
});

test.skipIf(!isThere)(
  'objects that are replaced and deleted while they are read are never mixed',
  async () => {
    const bodies = [1, 2, 3].map((fill) => Buffer.alloc(4 * MiB, fill));
    await put('changing', bodies[0] as Buffer);
    let isDone = false;
    const readers = Array.from({ length: 4 }, async () => {
      for (; !isDone; ) {
        const got = await s3
          .send(new GetObjectCommand({ Bucket: 'proxied', Key: 'changing' }))
          .then(async ({ Body }) => Buffer.from((await Body?.transformToByteArray()) ?? []))
          .catch((error: { name: string }) => error.name);
        if (typeof got === 'string') continue; // between its deletion and its return, or gone before the proxy opened it
        expect(bodies.some((body) => body.equals(got))).toBe(true);
      }
    });
    for (let round = 0; round < 60; round++) {
      if (round % 5 === 4)
        await s3.send(new DeleteObjectCommand({ Bucket: 'proxied', Key: 'changing' }));
      await put('changing', bodies[round % 3] as Buffer);
    }
    isDone = true;
    await Promise.all(readers);
  },
);
