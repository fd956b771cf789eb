/** What web pages do: forms, requests of other origins, and links, against a real node. */
import { mkdtempSync, readdirSync, writeFileSync } from 'node:fs';
import { request as sendRequest } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { presign, type RawAnswer, sendRaw, signForm, signHeaders } from '../testing/sign-s3.ts';
import { openTestNode, type TestNode } from '../testing/test-node.ts';

const ROOT = { accessKeyId: 'ROOT', secretAccessKey: 'the root secret' };
const WRITER = { accessKeyId: 'WRITER', secretAccessKey: 'the writing secret' };
let node: TestNode;

beforeAll(async () => {
  const directory = mkdtempSync('/dev/shm/ebb-test-');
  const s3Keys = join(directory, 'keys.json');
  const grants = [{ bucket: 'forms', prefix: 'in/', actions: ['write'] }];
  writeFileSync(s3Keys, JSON.stringify([ROOT, { ...WRITER, grants }]));
  node = await openTestNode({ directory, s3Keys });
  await send('PUT', '/forms');
});
afterAll(async () => await node[Symbol.asyncDispose]());

const at = (path: string): URL => new URL(path, node.node.s3Url as string);

async function send(
  method: string,
  path: string,
  { headers = {}, body = '' } = {} as { headers?: Record<string, string>; body?: string },
): Promise<RawAnswer> {
  const url = at(path);
  const signed = signHeaders(ROOT, { method, url, headers, body });
  return await sendRaw({ method, url, body, headers: signed });
}

describe('a form', () => {
  const BOUNDARY = '----boundary7MA4YWxk';
  const TYPE = `multipart/form-data; boundary=${BOUNDARY}`;

  function encodeForm(
    fields: Readonly<Record<string, string>>,
    file: { readonly name: string; readonly bytes: Buffer | string } | null,
  ): Buffer {
    const part = (head: string, value: Buffer | string): Buffer =>
      Buffer.concat([
        Buffer.from(`--${BOUNDARY}\r\nContent-Disposition: form-data; ${head}\r\n\r\n`),
        Buffer.from(value as string),
        Buffer.from('\r\n'),
      ]);
    return Buffer.concat([
      ...Object.entries(fields).map(([name, value]) => part(`name="${name}"`, value)),
      ...(file === null ? [] : [part(`name="file"; filename="${file.name}"`, file.bytes)]),
      Buffer.from(`--${BOUNDARY}--\r\n`),
    ]);
  }
  async function post(
    fields: Readonly<Record<string, string>>,
    bytes: Buffer | string = 'the file',
    name = 'a.txt',
  ): Promise<RawAnswer> {
    const body = encodeForm(fields, { name, bytes });
    return await sendRaw({
      ...{ method: 'POST', url: at('/forms'), body },
      headers: { 'content-type': TYPE },
    });
  }
  const ANY = [{ bucket: 'forms' }, ['starts-with', '$key', '']];

  test('stores its file under the name of its key, with what its fields say', async () => {
    const conditions = [
      ...[...ANY, ['starts-with', '$Content-Type', 'text/'], { 'x-amz-meta-who': 'ü' }],
      ...[
        ['eq', '$Cache-Control', 'no-store'],
        { acl: 'private' },
        ['starts-with', '$tagging', ''],
      ],
    ];
    const answer = await post(
      {
        ...signForm(ROOT, { conditions }),
        key: 'in/${filename}',
        'Content-Type': 'text/x-form',
        'Cache-Control': 'no-store',
        'x-amz-meta-who': 'ü',
        acl: 'private',
        tagging: '<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>',
        'x-ignore-me': 'whatever',
      },
      'line\r\n--not the boundary\r\n',
      'C:\\dir\\ä b.txt',
    );
    expect(answer.status).toBe(204);
    expect(answer.headers.location).toMatch(/\/forms\/in\/%C3%A4%20b\.txt$/);
    const got = await send('GET', '/forms/in/%C3%A4%20b.txt');
    expect(got.body).toBe('line\r\n--not the boundary\r\n');
    expect(got.headers).toMatchObject({
      etag: answer.headers.etag,
      'content-type': 'text/x-form',
      'cache-control': 'no-store',
      'x-amz-tagging-count': '1',
    });
    expect(got.headers['x-amz-meta-who']).toBe('=?UTF-8?B?w7w=?=');
  });

  test('answers as it asks: with a status, a document, or another page', async () => {
    const ask = async (name: string, value: string): Promise<RawAnswer> =>
      await post({
        ...signForm(ROOT, { conditions: [...ANY, { [name]: value }] }),
        key: 'in/status',
        [name]: value,
      });
    expect((await ask('success_action_status', '200')).status).toBe(200);
    expect((await ask('success_action_status', '299')).status).toBe(204);
    const created = await ask('success_action_status', '201');
    expect(created.status).toBe(201);
    expect(created.body).toContain('<Bucket>forms</Bucket><Key>in/status</Key>');
    const away = await ask('success_action_redirect', 'http://example.com/done?a=1');
    expect(away.status).toBe(303);
    const to = new URL(String(away.headers.location));
    expect(`${to.origin}${to.pathname}`).toBe('http://example.com/done');
    expect([...to.searchParams]).toEqual([
      ['a', '1'],
      ['bucket', 'forms'],
      ['key', 'in/status'],
      ['etag', away.headers.etag],
    ]);
    expect((await ask('success_action_redirect', 'javascript:alert(1)')).status).toBe(204);
  });

  test.each([
    ['a field that no condition covers', { 'x-amz-meta-x': '1' }, ANY, 'AccessDenied'],
    ['a key outside', {}, [{ bucket: 'forms' }, ['starts-with', '$key', 'else/']], 'AccessDenied'],
    ['another bucket', {}, [{ bucket: 'others' }, { key: 'in/no' }], 'AccessDenied'],
    ['too many bytes', {}, [...ANY, ['content-length-range', 0, 3]], 'EntityTooLarge'],
    ['too few bytes', {}, [...ANY, ['content-length-range', 100, 200]], 'EntityTooSmall'],
    ['a policy that is none', {}, [['like', '$key', 'x']], 'InvalidPolicyDocument'],
    [
      'a public ACL',
      { acl: 'public-read' },
      [...ANY, ['starts-with', '$acl', '']],
      'AccessControlListNotSupported',
    ],
    [
      'a wrong checksum',
      { 'x-amz-checksum-crc32': 'AAAAAA==' },
      [...ANY, { 'x-amz-checksum-crc32': 'AAAAAA==' }],
      'BadDigest',
    ],
  ])('with %s leaves nothing', async (_what, fields, conditions, code) => {
    const answer = await post({ ...signForm(ROOT, { conditions }), key: 'in/no', ...fields });
    expect(answer.code).toBe(code);
    expect((await send('GET', '/forms/in/no')).code).toBe('NoSuchKey');
  });

  test('is refused expired, forged, unsigned, with version 2, or with a key that may not', async () => {
    const signed = signForm(ROOT, { conditions: ANY });
    const key = 'in/no';
    const late = signForm(ROOT, { conditions: ANY, expiration: '2020-01-01T00:00:00Z' });
    expect((await post({ ...late, key })).code).toBe('AccessDenied');
    const other = signForm({ ...ROOT, secretAccessKey: 'another' }, { conditions: ANY });
    expect((await post({ ...other, key })).code).toBe('SignatureDoesNotMatch');
    const wider = signForm(ROOT, { conditions: [...ANY, ['starts-with', '$acl', '']] });
    expect((await post({ ...signed, policy: wider['policy'] as string, key })).code).toBe(
      'SignatureDoesNotMatch',
    );
    expect((await post({ key })).code).toBe('AccessDenied');
    expect((await post({ key, AWSAccessKeyId: 'ROOT', signature: 'x', policy: 'e30=' })).code).toBe(
      'InvalidRequest',
    );
    const narrow = signForm(WRITER, { conditions: ANY });
    expect((await post({ ...narrow, key: 'out/no' })).code).toBe('AccessDenied');
    expect((await post({ ...narrow, key: 'in/yes' })).status).toBe(204);
    expect((await send('GET', '/forms/in/no')).code).toBe('NoSuchKey');
  });

  test('is refused without a file, without a key, cut short, and with fields that are too long', async () => {
    const signed = signForm(ROOT, { conditions: ANY });
    const raw = async (body: Buffer, type = TYPE): Promise<string> =>
      (
        await sendRaw({
          method: 'POST',
          url: at('/forms'),
          body,
          headers: { 'content-type': type },
        })
      ).code;
    const whole = encodeForm({ ...signed, key: 'in/no' }, { name: 'a', bytes: 'abc' });
    expect(await raw(encodeForm({ ...signed, key: 'in/no' }, null))).toBe(
      'IncorrectNumberOfFilesInPostRequest',
    );
    expect((await post(signed)).code).toBe('InvalidArgument');
    expect(await raw(whole.subarray(0, 300))).toBe('MalformedPOSTRequest');
    expect(await raw(whole.subarray(0, -30))).toBe('MalformedPOSTRequest');
    expect(await raw(whole, 'multipart/form-data')).toBe('MalformedPOSTRequest');
    expect((await post({ ...signed, key: 'in/no', 'x-ignore-a': 'x'.repeat(21_000) })).code).toBe(
      'MaxPostPreDataLengthExceeded',
    );
    expect((await send('GET', '/forms/in/no')).code).toBe('NoSuchKey');
  });

  test('of many pieces is stored as it comes, wherever it is cut', async () => {
    // Full of what looks like the boundary.
    const file = Buffer.concat(
      Array.from({ length: 3000 }, (_, i) => Buffer.from(`\r\n--${BOUNDARY.slice(0, i % 20)}\r`)),
    );
    const body = encodeForm(
      { ...signForm(ROOT, { conditions: ANY }), key: 'in/pieces' },
      { name: 'a', bytes: file },
    );
    for (const cut of [1021, 65_536]) {
      const status = await new Promise<number>((resolve, reject) => {
        const call = sendRequest(
          at('/forms'),
          { method: 'POST', headers: { 'content-type': TYPE }, agent: false },
          (answer) => resolve(answer.resume().statusCode ?? 0),
        );
        call.once('error', reject);
        for (let from = 0; from < body.length; from += cut)
          call.write(body.subarray(from, from + cut));
        call.end();
      });
      expect(status).toBe(204);
      const got = await send('GET', '/forms/in/pieces');
      expect(got.body === file.toString()).toBe(true);
    }
  });

  test('needs no policy where no keys are asked for, but must not come from a page elsewhere', async () => {
    await using open = await openTestNode();
    const url = (path: string): URL => new URL(path, open.node.s3Url as string);
    await sendRaw({ method: 'PUT', url: url('/forms') });
    const body = encodeForm({ key: 'a' }, { name: 'a', bytes: 'from a form' });
    const submit = async (headers: Record<string, string>): Promise<number> => {
      const all = { 'content-type': TYPE, ...headers };
      return (await sendRaw({ method: 'POST', url: url('/forms'), body, headers: all })).status;
    };
    for (const origin of ['https://evil.example.com', 'null'])
      expect(await submit({ origin })).toBe(403);
    expect(await submit({ host: 'rebound.example.com' })).toBe(403);
    expect((await sendRaw({ method: 'GET', url: url('/forms/a') })).code).toBe('NoSuchKey');
    expect(await submit({})).toBe(204);
    expect((await sendRaw({ method: 'GET', url: url('/forms/a') })).body).toBe('from a form');
    // A policy that is given holds, whoever signed it.
    const { policy } = signForm(ROOT, { conditions: [{ bucket: 'forms' }, { key: 'b' }] });
    const bound = encodeForm({ key: 'c', policy: policy as string }, { name: 'a', bytes: 'x' });
    const headers = { 'content-type': TYPE };
    const answer = await sendRaw({ method: 'POST', url: url('/forms'), body: bound, headers });
    expect(answer.code).toBe('AccessDenied');
  });

  test('whose sender goes away leaves nothing staged', async () => {
    const body = encodeForm(
      { ...signForm(ROOT, { conditions: ANY }), key: 'in/gone' },
      { name: 'a', bytes: Buffer.alloc(300_000) },
    );
    const { services } = node.node;
    const staged = (): number =>
      services.store.tiers().reduce((bytes, tier) => bytes + tier.stagedBytes, 0);
    const call = sendRequest(at('/forms'), {
      method: 'POST',
      headers: { 'content-type': TYPE, 'content-length': body.length },
      agent: false,
    });
    call.on('error', () => undefined);
    call.write(body.subarray(0, 200_000));
    await expect.poll(staged, { timeout: 10_000 }).toBeGreaterThan(0);
    call.destroy();
    await expect.poll(staged, { timeout: 10_000 }).toBe(0);
    expect((await send('GET', '/forms/in/gone')).code).toBe('NoSuchKey');
    expect(readdirSync(node.directory)).toContain('data');
  });
});

describe('a page of another origin', () => {
  const ORIGIN = 'https://app.example.com';
  const RULES = `<CORSConfiguration><CORSRule><AllowedOrigin>${ORIGIN}</AllowedOrigin><AllowedMethod>GET</AllowedMethod><AllowedMethod>PUT</AllowedMethod><AllowedHeader>*</AllowedHeader><ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>60</MaxAgeSeconds></CORSRule></CORSConfiguration>`;
  const preflight = async (path: string, method: string, origin = ORIGIN): Promise<RawAnswer> =>
    await sendRaw({
      ...{ method: 'OPTIONS', url: at(path) },
      headers: {
        ...{ origin, 'access-control-request-method': method },
        'access-control-request-headers': 'x-amz-date,content-type',
      },
    });

  test('is let in by the rules of the bucket, and by nothing else', async () => {
    await send('PUT', '/cors');
    expect((await send('GET', '/cors?cors')).code).toBe('NoSuchCORSConfiguration');
    expect((await preflight('/cors/a', 'PUT')).code).toBe('AccessForbidden');
    expect((await send('PUT', '/cors?cors', { body: RULES })).status).toBe(200);
    expect((await send('GET', '/cors?cors')).body).toContain(
      `<AllowedOrigin>${ORIGIN}</AllowedOrigin>`,
    );

    const allowed = await preflight('/cors/a', 'PUT');
    expect(allowed.status).toBe(200);
    expect(allowed.headers).toMatchObject({
      'access-control-allow-origin': ORIGIN,
      'access-control-allow-methods': 'GET, PUT',
      'access-control-allow-headers': 'x-amz-date, content-type',
      'access-control-max-age': '60',
    });
    expect((await preflight('/cors/a', 'DELETE')).code).toBe('AccessForbidden');
    expect((await preflight('/cors/a', 'PUT', 'https://evil.example.com')).code).toBe(
      'AccessForbidden',
    );
    expect((await sendRaw({ method: 'OPTIONS', url: at('/cors/a') })).code).toBe('BadRequest');

    const put = await send('PUT', '/cors/a', { body: 'a', headers: { origin: ORIGIN } });
    expect(put.headers).toMatchObject({
      'access-control-allow-origin': ORIGIN,
      'access-control-expose-headers': 'ETag',
      vary: expect.stringContaining('Origin') as string,
    });
    // A refusal is to be read by the page too.
    const missing = await send('GET', '/cors/none', { headers: { origin: ORIGIN } });
    expect(missing).toMatchObject({ code: 'NoSuchKey' });
    expect(missing.headers['access-control-allow-origin']).toBe(ORIGIN);
    const evil = await send('GET', '/cors/a', { headers: { origin: 'https://evil.example.com' } });
    expect(evil.headers['access-control-allow-origin']).toBeUndefined();

    expect((await send('DELETE', '/cors?cors')).status).toBe(204);
    expect((await send('GET', '/cors?cors')).code).toBe('NoSuchCORSConfiguration');
  });

  test('is not let in by the rules of a bucket that is gone', async () => {
    await send('PUT', '/again');
    await send('PUT', '/again?cors', { body: RULES });
    expect((await node.http('DELETE', '/v1/buckets/again')).status).toBeLessThan(300);
    await send('PUT', '/again');
    expect((await send('GET', '/again?cors')).code).toBe('NoSuchCORSConfiguration');
    expect((await preflight('/again/a', 'PUT')).code).toBe('AccessForbidden');
  });

  test('needs a rule also where no keys are asked for, and our host name always', async () => {
    await using open = await openTestNode();
    const url = (path: string): URL => new URL(path, open.node.s3Url as string);
    const ask = async (path: string, headers: Record<string, string>): Promise<number> =>
      (await sendRaw({ method: 'GET', url: url(path), headers })).status;
    await sendRaw({ method: 'PUT', url: url('/cors') });
    await sendRaw({ method: 'PUT', url: url('/cors/a'), body: 'a' });
    expect(await ask('/cors/a', { origin: ORIGIN })).toBe(403);
    await sendRaw({ method: 'PUT', url: url('/cors?cors'), body: RULES });
    expect(await ask('/cors/a', { origin: ORIGIN })).toBe(200);
    expect(await ask('/cors/a', { origin: 'https://evil.example.com' })).toBe(403);
    expect(await ask('/', { origin: ORIGIN })).toBe(403);
    expect(await ask('/cors/a', { origin: ORIGIN, host: 'rebound.example.com' })).toBe(403);
  });

  test('finds the rules after a restart', async () => {
    const first = await openTestNode();
    const { directory } = first;
    const put = async (running: TestNode, path: string, body = ''): Promise<RawAnswer> =>
      await sendRaw({ method: 'PUT', url: new URL(path, running.node.s3Url as string), body });
    await put(first, '/cors');
    await put(first, '/cors?cors', RULES);
    await first.stop();
    await using second = await openTestNode({ directory });
    const found = await sendRaw({
      method: 'GET',
      url: new URL('/cors?cors', second.node.s3Url as string),
    });
    expect(found.body).toContain(ORIGIN);
  });
});

test('x-amz headers that a link carries in its query count as headers', async () => {
  const url = at('/forms/hoisted');
  url.searchParams.set('x-amz-meta-from', 'the link');
  url.searchParams.set('x-amz-storage-class', 'STANDARD_IA');
  const link = presign(ROOT, { method: 'PUT', url });
  expect((await sendRaw({ method: 'PUT', url: link, body: 'x' })).status).toBe(200);
  expect((await send('HEAD', '/forms/hoisted')).headers).toMatchObject({
    'x-amz-meta-from': 'the link',
    'x-amz-storage-class': 'STANDARD_IA',
  });
  link.searchParams.set('x-amz-meta-from', 'another');
  expect((await sendRaw({ method: 'PUT', url: link, body: 'x' })).code).toBe(
    'SignatureDoesNotMatch',
  );
});

test('a bucket of somebody else is meant: nothing is done', async () => {
  const owner = /<Owner><ID>([0-9a-f]+)</.exec((await send('GET', '/')).body)?.[1] as string;
  const put = async (id: string): Promise<RawAnswer> =>
    await send('PUT', '/forms/owned', { headers: { 'x-amz-expected-bucket-owner': id } });
  expect((await put('111122223333')).code).toBe('AccessDenied');
  expect((await send('GET', '/forms/owned')).code).toBe('NoSuchKey');
  expect((await put(owner)).status).toBe(200);
});

describe('what no bucket has', () => {
  test.each([
    ['lifecycle', 'NoSuchLifecycleConfiguration'],
    ['policy', 'NoSuchBucketPolicy'],
    ['policyStatus', 'NoSuchBucketPolicy'],
    ['replication', 'ReplicationConfigurationNotFoundError'],
    ['object-lock', 'ObjectLockConfigurationNotFoundError'],
    ['ownershipControls', 'OwnershipControlsNotFoundError'],
    ['publicAccessBlock', 'NoSuchPublicAccessBlockConfiguration'],
    ['tagging', 'NoSuchTagSet'],
    ['website', 'NoSuchWebsiteConfiguration'],
    ['logging', ''],
    ['notification', ''],
    ['accelerate', ''],
    ['requestPayment', ''],
  ])('%s: looking says so, setting is refused, deleting is no error', async (name, code) => {
    const looked = await send('GET', `/forms?${name}`);
    expect(looked.code).toBe(code);
    expect(looked.status).toBe(code === '' ? 200 : 404);
    expect((await send('PUT', `/forms?${name}`, { body: '<x/>' })).code).toBe('NotImplemented');
    expect((await send('DELETE', `/forms?${name}`)).status).toBe(204);
    expect((await send('GET', `/nobucket?${name}`)).code).toBe('NoSuchBucket');
  });

  test.each(['analytics', 'inventory', 'metrics', 'intelligent-tiering'])(
    '%s is not implemented at all',
    async (name) => {
      for (const method of ['GET', 'PUT', 'DELETE'])
        expect((await send(method, `/forms?${name}`)).code).toBe('NotImplemented');
    },
  );

  test.each([
    ['PUT', 'x-amz-server-side-encryption'],
    ['GET', 'x-amz-server-side-encryption-customer-algorithm'],
    ['HEAD', 'x-amz-server-side-encryption-customer-key'],
    ['PUT', 'x-amz-server-side-encryption-context'],
    ['PUT', 'x-amz-copy-source-server-side-encryption-customer-key'],
    ['PUT', 'x-amz-object-lock-event-hold'],
    ['PUT', 'x-amz-checksum-xxhash64'],
    ['PUT', 'x-amz-write-offset-bytes'],
    ['DELETE', 'x-amz-if-match-size'],
  ])('%s with %s is refused, not ignored', async (method, header) => {
    const { status } = await send(method, '/forms/refused', { headers: { [header]: 'x' } });
    expect(status).toBe(501);
  });

  test('locks of objects: the bucket has none', async () => {
    await send('PUT', '/forms/lock');
    for (const name of ['retention', 'legal-hold'])
      for (const method of ['GET', 'PUT'])
        expect((await send(method, `/forms/lock?${name}`)).code).toBe('InvalidRequest');
    for (const header of ['x-amz-object-lock-mode', 'x-amz-object-lock-legal-hold'])
      expect((await send('PUT', '/forms/lock', { headers: { [header]: 'x' } })).code).toBe(
        'NotImplemented',
      );
    for (const name of ['restore', 'select', 'torrent'])
      expect((await send('POST', `/forms/lock?${name}`)).code).toBe('NotImplemented');
  });
});
