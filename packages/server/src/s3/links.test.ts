/** Links for uploads as the AWS SDK for JavaScript makes them by default, against a real node. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  GetObjectCommand,
  PutObjectCommand,
  type PutObjectCommandInput,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { presign, type RawAnswer, sendRaw, signHeaders } from '../testing/sign-s3.ts';
import { openTestNode, type TestNode } from '../testing/test-node.ts';

const KEY = { accessKeyId: 'EBBTESTKEY', secretAccessKey: 'a secret of the test' };
const Bucket = 'links';
const HELLO = 'hello';
const HELLO_CRC32 = 'NhCmhg==';
let node: TestNode;
let s3: S3Client;

beforeAll(async () => {
  const directory = mkdtempSync('/dev/shm/ebb-test-');
  const s3Keys = join(directory, 'keys.json');
  writeFileSync(s3Keys, JSON.stringify([KEY]));
  node = await openTestNode({ directory, s3Keys });
  s3 = new S3Client({
    ...{ endpoint: node.node.s3Url as string, region: 'us-east-1', forcePathStyle: true },
    credentials: KEY,
  });
  await signed('PUT', '/links');
});
afterAll(async () => {
  s3.destroy();
  await node[Symbol.asyncDispose]();
});

async function signed(method: string, path: string, body = ''): Promise<RawAnswer> {
  const url = new URL(path, node.node.s3Url as string);
  return await sendRaw({ method, url, body, headers: signHeaders(KEY, { method, url, body }) });
}

/** What whoever holds a link does: it sends a body and nothing else. */
async function put(url: string, body: string, headers: Record<string, string> = {}) {
  return await fetch(url, { method: 'PUT', body, headers });
}

async function linkTo(Key: string, more: Partial<PutObjectCommandInput> = {}): Promise<string> {
  return await getSignedUrl(s3, new PutObjectCommand({ Bucket, Key, ...more }));
}

test('a link to put an object, made by default, takes whatever body is sent, and its checksum is kept', async () => {
  const link = await linkTo('default');
  expect(link).toContain('x-amz-checksum-crc32=AAAAAA%3D%3D'); // as the SDK has it
  const answer = await put(link, HELLO);
  expect(answer.status).toBe(200);
  expect(answer.headers.get('x-amz-checksum-crc32')).toBe(HELLO_CRC32);
  expect((await put(await linkTo('default'), '')).status).toBe(200);
  expect((await put(await linkTo('default'), 'x'.repeat(300_000))).status).toBe(200);
  const read = await getSignedUrl(s3, new GetObjectCommand({ Bucket, Key: 'default' }));
  expect(await (await fetch(read)).text()).toBe('x'.repeat(300_000));
});

test.each(['CRC32', 'CRC32C', 'CRC64NVME', 'SHA1', 'SHA256'] as const)(
  'a link with the %s of no body takes whatever body is sent',
  async (ChecksumAlgorithm) => {
    const answer = await put(await linkTo('other', { ChecksumAlgorithm }), HELLO);
    expect(answer.status).toBe(200);
    const header = `x-amz-checksum-${ChecksumAlgorithm.toLowerCase()}`;
    expect(answer.headers.get(header)).not.toBeNull();
  },
);

test('a link to upload a part, made by default, takes whatever body is sent', async () => {
  const { body } = await signed('POST', '/links/parts?uploads=');
  const UploadId = /<UploadId>([^<]+)/.exec(body)?.[1];
  const command = new UploadPartCommand({ Bucket, Key: 'parts', UploadId, PartNumber: 1 });
  expect((await put(await getSignedUrl(s3, command), HELLO)).status).toBe(200);
});

test('a link that binds the checksum of a body takes that body alone', async () => {
  const link = await linkTo('bound', { ChecksumCRC32: HELLO_CRC32 });
  const wrong = await put(link, 'hellO');
  expect([wrong.status, await wrong.text()]).toEqual([400, expect.stringContaining('BadDigest')]);
  expect((await signed('HEAD', '/links/bound')).status).toBe(404);
  expect((await put(link, HELLO)).status).toBe(200);
});

test('a checksum that comes with the body, as a header that the link binds, is checked: that of nothing too', async () => {
  const url = new URL('/links/header', node.node.s3Url as string);
  const send = async (value: string, body: string): Promise<RawAnswer> => {
    const headers = { 'x-amz-checksum-crc32': value };
    const link = presign(KEY, { method: 'PUT', url, headers });
    return await sendRaw({
      ...{ method: 'PUT', url: link, body },
      headers: { ...headers, host: url.host },
    });
  };
  expect((await send('AAAAAA==', HELLO)).code).toBe('BadDigest');
  expect((await send(HELLO_CRC32, HELLO)).status).toBe(200);
  expect((await send('AAAAAA==', '')).status).toBe(200);
});

test('a signed request whose header has the checksum of nothing is checked as ever', async () => {
  const url = new URL('/links/plain', node.node.s3Url as string);
  const headers = { 'x-amz-checksum-crc32': 'AAAAAA==' };
  const request = { method: 'PUT', url, headers, body: HELLO };
  const answer = await sendRaw({ ...request, headers: signHeaders(KEY, request) });
  expect(answer.code).toBe('BadDigest');
});
