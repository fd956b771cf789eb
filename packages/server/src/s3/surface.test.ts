/** What the S3 surface lets in, against a real node; what it does with it is in e2e. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { presign, type RawAnswer, sendRaw, signHeaders } from '../testing/sign-s3.ts';
import { openTestNode, type TestNode } from '../testing/test-node.ts';

const ROOT = { accessKeyId: 'ROOT', secretAccessKey: 'the root secret' };
const LISTER = { accessKeyId: 'LISTER', secretAccessKey: 'the listing secret' };
let node: TestNode;

beforeAll(async () => {
  const directory = mkdtempSync('/dev/shm/ebb-test-');
  const s3Keys = join(directory, 'keys.json');
  const grants = [{ bucket: 'open', prefix: 'mine/', actions: ['list'] }];
  writeFileSync(s3Keys, JSON.stringify([ROOT, { ...LISTER, grants }]));
  node = await openTestNode({ directory, s3Keys });
  for (const bucket of ['open', 'closed']) await send('PUT', `/${bucket}`);
});
afterAll(async () => await node[Symbol.asyncDispose]());

async function send(
  method: string,
  path: string,
  { key = ROOT, headers = {}, body = '' } = {} as {
    key?: typeof ROOT;
    headers?: Record<string, string>;
    body?: string;
  },
): Promise<RawAnswer> {
  const url = new URL(path, node.node.s3Url as string);
  return await sendRaw({
    ...{ method, url, body },
    headers: signHeaders(key, { method, url, headers, body }),
  });
}

describe('a bucket that holds uploads', () => {
  test('is no name: not to list, read, write, copy from or create', async () => {
    await send('POST', '/open/upload?uploads');
    const calls: readonly (readonly [string, string])[] = [
      ['GET', '/open!uploads'],
      ['GET', '/open!uploads?list-type=2'],
      ['GET', '/open!uploads/u/x'],
      ['PUT', '/open!uploads/u/x'],
      ['DELETE', '/open!uploads/u/x'],
      ['PUT', '/open!uploads'],
      ['PUT', '/open!versions'],
      ['DELETE', '/open%21uploads'],
      ['POST', '/open!uploads?delete'],
    ];
    for (const [method, path] of calls)
      expect([method, path, (await send(method, path)).code]).toEqual([
        method,
        path,
        'InvalidBucketName',
      ]);
    const copy = await send('PUT', '/open/copy', {
      headers: { 'x-amz-copy-source': 'open!uploads/u/x' },
    });
    expect(copy).toMatchObject({ status: 400, code: 'InvalidBucketName' });
  });

  test('is found by a host name as little', async () => {
    const url = new URL('/?list-type=2', node.node.s3Url as string);
    const host = `open!uploads.localhost:${url.port}`;
    // The signed host is the one that is sent.
    const headers = signHeaders(ROOT, { method: 'GET', url, headers: { host } });
    expect((await sendRaw({ method: 'GET', url, headers })).code).toBe('InvalidBucketName');
  });
});

test('a key of 1024 bytes is taken, one of 1025 is too long, wherever it stands', async () => {
  const [longest, tooLong] = ['k'.repeat(1024), 'é'.repeat(513)];
  expect((await send('PUT', `/open/${longest}`)).status).toBe(200);
  expect((await send('PUT', `/open/${tooLong}`)).code).toBe('KeyTooLongError');
  const copy = await send('PUT', '/open/copy', {
    headers: { 'x-amz-copy-source': `open/${encodeURIComponent(tooLong)}` },
  });
  expect(copy.code).toBe('KeyTooLongError');
  const many = await send('POST', '/open?delete', {
    body: `<Delete><Object><Key>${tooLong}</Key></Object><Object><Key>${longest}</Key></Object></Delete>`,
  });
  expect(many.body).toContain('<Code>KeyTooLongError</Code>');
  expect(many.body).toContain(`<Deleted><Key>${longest}</Key></Deleted>`);
});

describe('a key that may list below a prefix', () => {
  const asked = async (path: string): Promise<number> =>
    (await send('GET', path, { key: LISTER })).status;

  test('lists that prefix and what is below, and nothing beside', async () => {
    for (const query of ['list-type=2&', '', 'versions&', 'uploads&']) {
      expect(await asked(`/open?${query}prefix=mine/`)).toBe(200);
      expect(await asked(`/open?${query}prefix=mine/deeper/`)).toBe(200);
      expect(await asked(`/open?${query}prefix=min`)).toBe(403);
      expect(await asked(`/open?${query}`)).toBe(403);
      expect(await asked(`/closed?${query}prefix=mine/`)).toBe(403);
    }
  });

  test('asks about the bucket itself, which has no prefix', async () => {
    for (const query of ['location', 'versioning', 'acl']) {
      expect(await asked(`/open?${query}`)).toBe(200);
      expect(await asked(`/closed?${query}`)).toBe(403);
    }
  });
});

test('a link to put an object cannot be made one to copy another', async () => {
  await send('PUT', '/closed/secret', { body: 'secret' });
  const url = presign(ROOT, {
    method: 'PUT',
    url: new URL('/open/put', node.node.s3Url as string),
  });
  const copy = await sendRaw({
    ...{ method: 'PUT', url, body: '' },
    headers: { host: url.host, 'x-amz-copy-source': '/closed/secret' },
  });
  expect(copy).toMatchObject({ status: 403, code: 'AccessDenied' });
  expect((await send('GET', '/open/put')).code).toBe('NoSuchKey');
  const put = await sendRaw({ method: 'PUT', url, body: 'mine', headers: { host: url.host } });
  expect(put.status).toBe(200);
  expect((await send('GET', '/open/put')).body).toBe('mine');
});

test('objects whose bytes are lost are counted as lost, not as an internal error', async () => {
  const first = await openTestNode();
  const { directory } = first;
  const at = (path: string, running: TestNode): URL => new URL(path, running.node.s3Url as string);
  const headers = { 'x-ebb-preset': 'ephemeral' };
  await sendRaw({ method: 'PUT', url: at('/short', first), headers });
  await sendRaw({ method: 'PUT', url: at('/short/lost', first), body: 'x' });
  await first.stop();
  rmSync(join(directory, 'memory'), { recursive: true }); // as after a reboot
  await using second = await openTestNode({ directory });
  const answer = await sendRaw({ method: 'GET', url: at('/short/lost', second) });
  expect(answer).toMatchObject({ status: 500, code: 'InternalError' });
  const metrics = (await second.http('GET', '/metrics')).body.toString();
  expect(metrics).toContain('ebb_http_errors_total{code="data_lost"} 1');
  expect(metrics).not.toContain('s3:InternalError');
});

test('a POST to a bucket that is neither a form nor a deletion is not implemented', async () => {
  expect((await send('POST', '/open', { body: 'x' })).code).toBe('NotImplemented');
});

test('a list of deletions with an empty key is malformed, and deletes nothing', async () => {
  await send('PUT', '/open/stays');
  const body = '<Delete><Object><Key>stays</Key></Object><Object><Key></Key></Object></Delete>';
  const answer = await send('POST', '/open?delete', { body });
  expect(answer).toMatchObject({ status: 400, code: 'MalformedXML' });
  expect((await send('HEAD', '/open/stays')).status).toBe(200);
});

test.each([
  [
    'a tag',
    '/open/stays?tagging',
    '<Tagging><TagSet><Tag><Key>a&#x1;</Key><Value>b</Value></Tag></TagSet></Tagging>',
  ],
  [
    'the value of a tag',
    '/open/stays?tagging',
    '<Tagging><TagSet><Tag><Key>a</Key><Value>&#xB;</Value></Tag></TagSet></Tagging>',
  ],
  [
    'an origin of CORS',
    '/open?cors',
    '<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>a&#x1;</AllowedOrigin></CORSRule></CORSConfiguration>',
  ],
])('%s with a character that XML has not is malformed', async (_, path, body) => {
  await send('PUT', '/open/stays');
  expect(await send('PUT', path, { body })).toMatchObject({ status: 400, code: 'MalformedXML' });
});

test('a tag in a header with a character that XML has not is no tag', async () => {
  const headers = { 'x-amz-tagging': 'a=%01' };
  expect(await send('PUT', '/open/tagged', { headers })).toMatchObject({ code: 'InvalidTag' });
});
