/** Tier 2 on an object store, with the daemon killed and the store gone for a while. The store is another node's S3 surface. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { type EbbClient, openClient } from '@ebb/client';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { runEbb } from './support/ebb-command.ts';
import { mirrored } from './support/mirrored.ts';

const KEY = { accessKeyId: 'REMOTEKEYID', secretAccessKey: 'remote-secret-of-the-test' };
const MiB = 1024 * 1024;

let remote: NodeProcess;
let node: NodeProcess;
let client: EbbClient;
/** To the object store itself, as anybody has it. */
let s3: S3Client;
let dir: string;

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'ebb-tier2-'));
  remote = await startNodeProcess({
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
  const endpoint = { endpoint: remote.s3Url, region: 'us-east-1', forcePathStyle: true };
  s3 = new S3Client({ ...endpoint, credentials: { ...KEY } });
  for (const Bucket of ['company', 'lake', 'archive'])
    await s3.send(new CreateBucketCommand({ Bucket }));
  const url = (path: string): string => `s3://${path}?endpoint=${encodeURIComponent(remote.s3Url)}`;
  writeFileSync(
    join(dir, 'remotes.json'),
    JSON.stringify({
      company: { url: url('company/ebb'), layout: 'bucket/key', credentials: KEY },
      lake: { url: url('lake/raw'), credentials: KEY },
      archive: { url: url('archive'), credentials: KEY },
    }),
  );
  node = await startNodeProcess({
    args: ['--remote=company', `--remotes=${join(dir, 'remotes.json')}`, '--log-level=debug'],
    diskLimit: '256MiB',
  });
  client = await openClient({ node: node.url });
  await client.buckets.create('data', { preset: 'buffered' });
});
afterAll(async () => {
  await client?.close();
  s3?.destroy();
  await node?.[Symbol.asyncDispose]();
  await remote?.[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

async function ebb(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await runEbb(args, { EBB_NODE: node.url });
  expect(code, stderr).toBe(0);
  return stdout;
}

async function get(Bucket: string, Key: string): Promise<Buffer> {
  const { Body } = await s3.send(new GetObjectCommand({ Bucket, Key }));
  return Buffer.from((await Body?.transformToByteArray()) ?? []);
}

async function names(Bucket: string, Prefix = ''): Promise<string[]> {
  const { Contents = [] } = await s3.send(new ListObjectsV2Command({ Bucket, Prefix }));
  return Contents.map(({ Key }) => Key ?? '');
}

function bytes(sizeBytes: number, seed: number): Buffer {
  const buffer = Buffer.alloc(sizeBytes);
  for (let at = 0; at + 4 <= sizeBytes; at += 4)
    buffer.writeUInt32LE((seed * 31 + at * 7) >>> 0, at);
  return buffer;
}

test('what is written is there as a plain object, with its type and metadata, for any S3 client; what is deleted goes', async () => {
  const content = bytes(3 * MiB, 1);
  await client.put('data', 'dir/ä b.bin', content, {
    contentType: 'application/x-test',
    metadata: { owner: 'ann' },
  });
  await client.put('data', 'gone', Buffer.from('x'));
  await mirrored(client, 60_000);
  expect((await get('company', 'ebb/data/dir/ä b.bin')).equals(content)).toBe(true);
  const head = await s3.send(
    new HeadObjectCommand({ Bucket: 'company', Key: 'ebb/data/dir/ä b.bin' }),
  );
  expect(head).toMatchObject({ ContentType: 'application/x-test', Metadata: { owner: 'ann' } });
  await client.delete('data', 'gone');
  await mirrored(client, 60_000);
  expect(await names('company')).toEqual(['ebb/data/dir/ä b.bin']);
});

test('a large object, uploaded in parts and joined without a copy, is one plain object there; no upload stays open', async () => {
  const content = bytes(45 * MiB + 17, 2);
  const own = new S3Client({
    ...{ endpoint: node.s3Url, region: 'us-east-1', forcePathStyle: true },
    credentials: { accessKeyId: 'any', secretAccessKey: 'any' },
  });
  const params = { Bucket: 'data', Key: 'large', Body: content };
  await new Upload({ client: own, params, partSize: 8 * MiB }).done();
  own.destroy();
  await mirrored(client, 60_000);
  expect((await get('company', 'ebb/data/large')).equals(content)).toBe(true);
  const uploads = await s3.send(new ListMultipartUploadsCommand({ Bucket: 'company' }));
  expect(uploads.Uploads ?? []).toEqual([]);
  await client.relocate('data', 'large', 'remote');
  expect((await client.head('data', 'large')).tiers).toEqual(['remote']);
  const part = await client
    .get('data', 'large', { range: { offset: 40 * MiB, length: 100 } })
    .then((found) => found.bytes());
  expect(Buffer.from(part).equals(content.subarray(40 * MiB, 40 * MiB + 100))).toBe(true);
});

test('ack=remote: the reply comes after the store has it', async () => {
  await client.buckets.create('durable', { preset: 'durable' });
  const { durability } = await client.put('durable', 'k', Buffer.from('there'));
  expect(durability).toBe('remote');
  expect((await get('company', 'ebb/durable/k')).toString()).toBe('there');
});

test('the daemon killed in the middle of mirroring: all that was acknowledged is there in the end', async () => {
  const nameOf = (i: number): string => `crash/${i % 5}/${i}`;
  const textOf = (round: number, i: number): string => `${round} ${i} `.repeat(500 + i);
  /** Of each name the last round that was acknowledged. */
  const acknowledged = new Map<number, number>();
  const rounds = 5;
  for (let round = 0; round < rounds; round++) {
    let answers = 0;
    const writing = Promise.allSettled(
      Array.from({ length: 40 }, async (_, i) => {
        await client.put('data', nameOf(i), Buffer.from(textOf(round, i)));
        acknowledged.set(i, round);
        answers++;
      }),
    );
    await vi.waitFor(() => expect(answers).toBeGreaterThan(5), 20_000);
    await node.kill();
    await node.start();
    await writing; // the client's own retries go to the new process
    await client.close();
    client = await openClient({ node: node.url });
  }
  await mirrored(client, 60_000);
  for (const [i, round] of acknowledged) {
    const here = Buffer.from(await client.get('data', nameOf(i)).then((found) => found.bytes()));
    const there = await get('company', `ebb/data/${nameOf(i)}`);
    expect(there.equals(here), nameOf(i)).toBe(true);
    // A later write whose answer was lost may have taken its place, but whole.
    const possible = Array.from({ length: rounds - round }, (_, n) => textOf(round + n, i));
    expect(possible, nameOf(i)).toContain(here.toString());
  }
});

test('the store gone for a while: writes and reads go on, then everything drains; nothing is there twice', async () => {
  await remote.stop();
  const content = bytes(100_000, 3);
  for (let i = 0; i < 30; i++) await client.put('data', `outage/${i}`, content);
  for (let i = 0; i < 30; i += 3) await client.delete('data', `outage/${i}`);
  const status = await client.status();
  expect(status.mirrorBacklogObjects).toBe(30);
  expect(status.mirrorBacklogBytes).toBe(20 * content.length);
  expect(
    Buffer.from(await client.get('data', 'outage/1').then((found) => found.bytes())).equals(
      content,
    ),
  ).toBe(true);
  await node.kill(); // the spool is on disk
  await node.start();
  await client.close();
  client = await openClient({ node: node.url });
  expect((await client.status()).mirrorBacklogObjects).toBe(30);
  await remote.start();
  await mirrored(client, 60_000);
  const there = await names('company', 'ebb/data/outage/');
  expect(there).toHaveLength(20);
  expect((await get('company', 'ebb/data/outage/1')).equals(content)).toBe(true);
}, 120_000);

test('a bucket that exists in S3 appears by ebb sync, is warmed by ebb warm, and what others change there is followed', async () => {
  for (const [key, text] of [
    ['raw/2026/a.csv', 'a,b'],
    ['raw/2026/b.csv', 'longer'],
    ['raw/2025/old', 'old'],
    ['elsewhere', 'not ours'],
  ] as const)
    await s3.send(
      new PutObjectCommand({
        Bucket: 'lake',
        Key: key,
        Body: text,
        ContentType: 'text/csv',
        Metadata: { by: 'them' },
      }),
    );
  await ebb('buckets', 'create', 'lake', '--remote', 'lake', '--revalidate', '0s');
  expect(await ebb('sync', 'lake')).toContain('3 objects added');
  const found = await client.list('lake', { prefix: '2026/' });
  expect(found.objects.map(({ key, tiers }) => `${key} ${tiers.join()}`)).toEqual([
    '2026/a.csv remote',
    '2026/b.csv remote',
  ]);
  expect(await client.head('lake', '2026/a.csv')).toMatchObject({
    contentType: 'text/csv',
    metadata: { by: 'them' },
  });
  expect(await ebb('warm', 'lake/2026/')).toContain('2 objects');
  expect((await client.head('lake', '2026/a.csv')).tiers).toEqual(['disk', 'remote']);
  expect(await ebb('cat', 'lake/2026/a.csv')).toBe('a,b');
  await s3.send(new PutObjectCommand({ Bucket: 'lake', Key: 'raw/2026/a.csv', Body: 'changed' }));
  expect(await ebb('cat', 'lake/2026/a.csv')).toBe('changed');
  await client.put('lake', '2026/ours', Buffer.from('ours'));
  await mirrored(client, 60_000);
  expect((await get('lake', 'raw/2026/ours')).toString()).toBe('ours');
  await s3.send(new DeleteObjectCommand({ Bucket: 'lake', Key: 'raw/2025/old' }));
  expect(await ebb('sync', 'lake', '--remove')).toContain('1 removed');
  expect((await client.list('lake', { prefix: '2025/' })).objects).toEqual([]);
  // Another bucket must not share the place.
  await expect(client.buckets.create('lake2', { remote: 'lake' })).rejects.toMatchObject({
    code: 'request_invalid',
  });
  await expect(
    client.buckets.create('bad', { remote: 's3://x?endpoint=http://evil' }),
  ).rejects.toMatchObject({
    code: 'request_invalid',
  });
});

test('writing more than the disk holds: what is mirrored makes room, nothing is lost', async () => {
  await client.buckets.create('big', { remote: 'archive' });
  const expected = new Map<string, Buffer>();
  for (let i = 0; i < 40; i++) {
    const content = bytes(10 * MiB + i, i);
    expected.set(`k${i}`, content);
    await client.put('big', `k${i}`, content);
  }
  await mirrored(client, 60_000);
  for (const [key, content] of expected) {
    const got = Buffer.from(await client.get('big', key).then((found) => found.bytes()));
    expect(got.equals(content), key).toBe(true);
  }
  expect((await names('archive')).length).toBe(40);
}, 240_000);
