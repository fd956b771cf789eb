/** Who asks: signatures by header, link, chunk and form, and what an error looks like. */
import { createHash, randomBytes } from 'node:crypto';
import { expect } from 'vitest';
import { chunkSigner, presign, sendRaw, signForm, signHeaders } from '../../src/testing/sign-s3.ts';
import { type Case, codeOf, type Group, type Tools } from './suite.ts';

const hours = (count: number): Date => new Date(Date.now() + count * 3_600_000);

/** A body that is signed chunk by chunk; `spoil` may change it before it is sent. */
async function putChunked(
  { url, key }: Tools,
  path: string,
  chunks: readonly Buffer[],
  { spoil = (body: Buffer) => body, trailer }: ChunkedOptions = {},
) {
  const sizeBytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  const payload = 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD';
  const headers = signHeaders(key, {
    ...{ method: 'PUT', url: url(path) },
    headers: {
      'x-amz-content-sha256': trailer === undefined ? payload : `${payload}-TRAILER`,
      'x-amz-decoded-content-length': String(sizeBytes),
      'content-encoding': 'aws-chunked',
      ...(trailer === undefined ? {} : { 'x-amz-trailer': trailer.split(':')[0] as string }),
    },
  });
  const signer = chunkSigner(key, headers);
  let previous = signer.seed;
  const parts = [...chunks, Buffer.alloc(0)].map((chunk) => {
    previous = signer.sign(previous, chunk);
    const head = `${chunk.length.toString(16)};chunk-signature=${previous}\r\n`;
    const isLast = chunk.length === 0 && trailer !== undefined;
    return Buffer.concat([Buffer.from(head), chunk, Buffer.from(isLast ? '' : '\r\n')]);
  });
  if (trailer !== undefined) {
    const signature = signer.signTrailer(previous, `${trailer}\n`);
    parts.push(Buffer.from(`${trailer}\r\nx-amz-trailer-signature:${signature}\r\n\r\n`));
  }
  return await sendRaw({
    method: 'PUT',
    url: url(path),
    body: spoil(Buffer.concat(parts)),
    headers,
  });
}

interface ChunkedOptions {
  readonly spoil?: (body: Buffer) => Buffer;
  /** `name:value` */
  readonly trailer?: string;
}

const CASES: readonly Case[] = [
  [
    'Authorization: a wrong secret does not match',
    async ({ connect, key }) => {
      const wrong = connect({ credentials: { ...key, secretAccessKey: 'another secret' } });
      expect(await codeOf(wrong.listBuckets({}))).toBe('SignatureDoesNotMatch');
    },
  ],
  [
    'Authorization: an unknown key is invalid',
    async ({ connect, key }) => {
      const wrong = connect({ credentials: { ...key, accessKeyId: 'AKIANOBODY' } });
      expect(await codeOf(wrong.listBuckets({}))).toBe('InvalidAccessKeyId');
    },
  ],
  [
    'Authorization: without one access is denied',
    async ({ url }) => {
      for (const [method, path] of [
        ['GET', ''],
        ['GET', '/a'],
        ['PUT', '/a'],
        ['DELETE', '/a'],
      ] as const) {
        const answer = await sendRaw({ method, url: url(path) });
        expect(answer).toMatchObject({ status: 403, code: 'AccessDenied' });
      }
    },
  ],
  [
    'Authorization: a clock that is wrong by an hour is too skewed',
    async ({ url, key }) => {
      for (const now of [hours(-1), hours(1)]) {
        const request = { method: 'GET', url: url('') };
        const headers = signHeaders(key, request, now);
        expect((await sendRaw({ ...request, headers })).code).toBe('RequestTimeTooSkewed');
      }
    },
  ],
  [
    'Authorization: another method, path or header than was signed does not match',
    async ({ url, key }) => {
      const request = { method: 'GET', url: url('/a') };
      const headers = signHeaders(key, request);
      for (const changed of [
        { ...request, headers, method: 'DELETE' },
        { ...request, headers, url: url('/b') },
        { ...request, headers, url: url('/a?acl') },
        { ...request, headers: { ...headers, 'x-amz-date': '20200101T000000Z' } },
      ])
        expect((await sendRaw(changed)).status).toBe(403);
    },
  ],
  [
    'Authorization: an x-amz header that is not signed is denied',
    async ({ url, key }) => {
      const request = { method: 'PUT', url: url('/unsigned'), body: 'x' };
      const headers = { ...signHeaders(key, request), 'x-amz-meta-a': '1' };
      expect((await sendRaw({ ...request, headers })).code).toBe('AccessDenied');
    },
  ],
  [
    'Authorization: a body that is not the one that was signed leaves nothing',
    async ({ url, key, raw }) => {
      const request = { method: 'PUT', url: url('/spoiled'), body: 'signed' };
      const headers = signHeaders(key, request);
      const put = await sendRaw({ ...request, headers, body: 'forged' });
      expect(put).toMatchObject({ status: 400, code: 'XAmzContentSHA256Mismatch' });
      expect((await raw({ method: 'GET', path: '/spoiled' })).code).toBe('NoSuchKey');
    },
  ],
  [
    'Authorization: an unsigned payload is taken',
    async ({ raw, bytes }) => {
      const headers = { 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' };
      expect((await raw({ method: 'PUT', path: '/un', body: 'payload', headers })).status).toBe(
        200,
      );
      expect((await bytes('un')).toString()).toBe('payload');
    },
  ],
  [
    'Authorization: a payload hash that is none is invalid',
    async ({ raw }) => {
      const headers = { 'x-amz-content-sha256': 'none' };
      const put = await raw({ method: 'PUT', path: '/none', body: 'x', headers });
      expect(put.status).toBe(400);
    },
  ],
  [
    'Authorization: version 2 is not supported',
    async ({ url, key }) => {
      const headers = { authorization: `AWS ${key.accessKeyId}:c2lnbmF0dXJl` };
      const answer = await sendRaw({ method: 'GET', url: url(''), headers });
      expect(answer).toMatchObject({ status: 400, code: 'InvalidRequest' });
    },
  ],
  [
    'Authorization: a header without its parts is malformed',
    async ({ url }) => {
      const headers = { authorization: 'AWS4-HMAC-SHA256 x', 'x-amz-date': '20200101T000000Z' };
      const answer = await sendRaw({ method: 'GET', url: url(''), headers });
      expect(answer.status).toBe(400);
    },
  ],
  [
    'Authorization: a header and a link at once are one too many',
    async ({ url, key }) => {
      const link = presign(key, { method: 'GET', url: url('/a') });
      const headers = signHeaders(key, { method: 'GET', url: link });
      const answer = await sendRaw({ method: 'GET', url: link, headers });
      expect(answer).toMatchObject({ status: 400, code: 'InvalidArgument' });
    },
  ],
  [
    'Links: put, get, head and delete',
    async ({ url, key }) => {
      const link = (method: string) => presign(key, { method, url: url('/by%20link+') });
      const send = async (method: string, body?: string) =>
        await sendRaw({ method, url: link(method), ...(body === undefined ? {} : { body }) });
      expect((await send('PUT', 'linked')).status).toBe(200);
      expect((await send('GET')).body).toBe('linked');
      expect((await send('HEAD')).headers['content-length']).toBe('6');
      expect((await send('DELETE')).status).toBe(204);
      expect((await send('GET')).code).toBe('NoSuchKey');
    },
  ],
  [
    'Links: one that has expired is denied',
    async ({ url, key }) => {
      const link = presign(
        key,
        { method: 'GET', url: url('/a') },
        { expiresSeconds: 60, now: hours(-1) },
      );
      expect(await sendRaw({ method: 'GET', url: link })).toMatchObject({
        ...{ status: 403, code: 'AccessDenied' },
      });
    },
  ],
  [
    'Links: one that is not valid yet is denied',
    async ({ url, key }) => {
      const link = presign(key, { method: 'GET', url: url('/a') }, { now: hours(2) });
      expect((await sendRaw({ method: 'GET', url: link })).status).toBe(403);
    },
  ],
  [
    'Links: more than a week is too long',
    async ({ url, key }) => {
      const link = presign(key, { method: 'GET', url: url('/a') }, { expiresSeconds: 604_801 });
      expect((await sendRaw({ method: 'GET', url: link })).code).toBe(
        'AuthorizationQueryParametersError',
      );
    },
  ],
  [
    'Links: hold for one method and one key',
    async ({ url, key, put }) => {
      await put('linked/a', 'a');
      const link = presign(key, { method: 'GET', url: url('/linked/a') });
      expect((await sendRaw({ method: 'DELETE', url: link })).code).toBe('SignatureDoesNotMatch');
      const other = new URL(link);
      other.pathname = other.pathname.replace(/a$/, 'b');
      expect((await sendRaw({ method: 'GET', url: other })).code).toBe('SignatureDoesNotMatch');
      const longer = new URL(link);
      longer.searchParams.set('X-Amz-Expires', '600');
      expect((await sendRaw({ method: 'GET', url: longer })).code).toBe('SignatureDoesNotMatch');
    },
  ],
  [
    'Links: take no x-amz header that they do not bind',
    async ({ url, key, Bucket, put, raw }) => {
      await put('secret', 'secret');
      const link = presign(key, { method: 'PUT', url: url('/stolen') });
      const headers = { 'x-amz-copy-source': `/${Bucket}/secret` };
      expect((await sendRaw({ method: 'PUT', url: link, headers, body: '' })).status).toBe(403);
      expect((await raw({ method: 'GET', path: '/stolen' })).code).toBe('NoSuchKey');
    },
  ],
  [
    'Links: headers that they bind must come as they were bound',
    async ({ url, key }) => {
      const headers = { 'content-type': 'a/b' };
      const link = presign(key, { method: 'PUT', url: url('/bound'), headers });
      const send = async (type: string) =>
        (await sendRaw({ method: 'PUT', url: link, body: 'x', headers: { 'content-type': type } }))
          .status;
      expect(await send('c/d')).toBe(403);
      expect(await send('a/b')).toBe(200);
    },
  ],
  [
    'Links: overrides of headers are part of them',
    async ({ url, key, put }) => {
      await put('override', 'x');
      const target = url('/override');
      target.searchParams.set('response-content-disposition', 'attachment; filename="ä.txt"');
      const link = presign(key, { method: 'GET', url: target });
      const { headers } = await sendRaw({ method: 'GET', url: link });
      expect(Buffer.from(String(headers['content-disposition']), 'latin1').toString()).toBe(
        'attachment; filename="ä.txt"',
      );
    },
  ],
  [
    'Chunks: a body that is signed chunk by chunk is taken',
    async (t) => {
      const chunks = [randomBytes(65_536), randomBytes(65_536), randomBytes(1000)];
      expect((await putChunked(t, '/chunks', chunks)).status).toBe(200);
      expect((await t.bytes('chunks')).equals(Buffer.concat(chunks))).toBe(true);
    },
  ],
  [
    'Chunks: an empty body is one empty chunk',
    async (t) => {
      expect((await putChunked(t, '/chunks-empty', [])).status).toBe(200);
      expect((await t.bytes('chunks-empty')).length).toBe(0);
    },
  ],
  [
    'Chunks: a flipped bit does not match, and leaves nothing',
    async (t) => {
      const spoil = (body: Buffer): Buffer => {
        body[50_000] = (body[50_000] as number) ^ 1;
        return body;
      };
      const put = await putChunked(t, '/chunks-bit', [randomBytes(70_000)], { spoil });
      expect(put.code).toBe('SignatureDoesNotMatch');
      expect((await t.raw({ method: 'GET', path: '/chunks-bit' })).code).toBe('NoSuchKey');
    },
  ],
  [
    'Chunks: a body without its last chunk is incomplete, and leaves nothing',
    async (t) => {
      const spoil = (body: Buffer): Buffer => body.subarray(0, -86);
      const put = await putChunked(t, '/chunks-cut', [randomBytes(8192)], { spoil });
      expect(put.status).toBe(400);
      expect((await t.raw({ method: 'GET', path: '/chunks-cut' })).code).toBe('NoSuchKey');
    },
  ],
  [
    'Chunks: a trailer that is signed is taken, with the checksum in it',
    async (t) => {
      const body = randomBytes(8192);
      const value = createHash('sha256').update(body).digest('base64');
      const trailer = `x-amz-checksum-sha256:${value}`;
      const put = await putChunked(t, '/trailer', [body], { trailer });
      expect(put.status).toBe(200);
      expect(put.headers['x-amz-checksum-sha256']).toBe(value);
      expect((await t.bytes('trailer')).equals(body)).toBe(true);
    },
  ],
  [
    'Chunks: a trailer that was changed does not match, and leaves nothing',
    async (t) => {
      const [body, other] = [Buffer.from('sent'), Buffer.from('told')];
      const sumOf = (bytes: Buffer): string => createHash('sha1').update(bytes).digest('base64');
      const trailer = `x-amz-checksum-sha1:${sumOf(other)}`;
      // Signed with another checksum, then made right for the body: only the signature tells.
      const spoil = (whole: Buffer): Buffer =>
        Buffer.from(whole.toString('latin1').replace(sumOf(other), sumOf(body)), 'latin1');
      const put = await putChunked(t, '/trailer-bit', [body], { trailer, spoil });
      expect(put.status).toBeGreaterThanOrEqual(400);
      expect((await t.raw({ method: 'GET', path: '/trailer-bit' })).code).toBe('NoSuchKey');
    },
  ],
  [
    'Links: x-amz headers that they carry in the query count as headers',
    async ({ s3, Bucket, url, key }) => {
      const target = url('/hoisted');
      target.searchParams.set('x-amz-meta-from', 'link');
      const link = presign(key, { method: 'PUT', url: target });
      expect((await sendRaw({ method: 'PUT', url: link, body: 'x' })).status).toBe(200);
      expect((await s3.headObject({ Bucket, Key: 'hoisted' })).Metadata).toEqual({ from: 'link' });
    },
  ],
  [
    'Errors: a document with code, message, resource and request, as XML',
    async ({ raw, Bucket }) => {
      const { status, headers, body } = await raw({ method: 'GET', path: '/no%20object' });
      expect(status).toBe(404);
      expect(headers['content-type']).toBe('application/xml');
      expect(body).toMatch(
        /^<\?xml version="1.0" encoding="UTF-8"\?>\n<Error><Code>NoSuchKey<\/Code>/,
      );
      expect(body).toContain('<Message>The specified key does not exist.</Message>');
      expect(body).toContain(`<Resource>/${Bucket}/no%20object</Resource>`);
      expect(body).toMatch(/<RequestId>[^<]+<\/RequestId>/);
    },
  ],
  [
    'Errors: every answer has the id of its request',
    async ({ raw }) => {
      const ids = new Set<string>();
      for (const method of ['GET', 'HEAD', 'DELETE'])
        ids.add(String((await raw({ method, path: '/id' })).headers['x-amz-request-id']));
      expect(ids.size).toBe(3);
    },
  ],
  [
    'Errors: a method that the resource has not',
    async ({ raw }) => {
      const answer = await raw({ method: 'POST', path: '/object' });
      expect(answer).toMatchObject({ status: 405, code: 'MethodNotAllowed' });
    },
  ],
  [
    'Errors: a length that is missing',
    async ({ url, key }) => {
      const request = { method: 'PUT', url: url('/length') };
      const headers = signHeaders(key, {
        ...request,
        headers: {
          'x-amz-content-sha256': 'STREAMING-UNSIGNED-PAYLOAD-TRAILER',
          'x-amz-trailer': 'x-amz-checksum-crc32',
        },
      });
      const put = await sendRaw({ ...request, headers, body: '0\r\n\r\n' });
      expect(put).toMatchObject({ status: 411, code: 'MissingContentLength' });
    },
  ],
  [
    'Cors: rules are set, read, answered by, and deleted',
    async ({ s3, Bucket, url, put }) => {
      await put('cors', 'x');
      const rule = {
        ...{ AllowedOrigins: ['https://*.example.com'], AllowedMethods: ['GET', 'PUT'] },
        ...{ AllowedHeaders: ['x-amz-*'], ExposeHeaders: ['ETag'], MaxAgeSeconds: 30, ID: 'one' },
      };
      await s3.putBucketCors({ Bucket, CORSConfiguration: { CORSRules: [rule] } });
      expect((await s3.getBucketCors({ Bucket })).CORSRules).toEqual([rule]);
      const preflight = async (origin: string, asked = 'x-amz-date') =>
        await sendRaw({
          ...{ method: 'OPTIONS', url: url('/cors') },
          headers: {
            ...{ origin, 'access-control-request-method': 'PUT' },
            'access-control-request-headers': asked,
          },
        });
      const allowed = await preflight('https://app.example.com');
      expect(allowed.status).toBe(200);
      expect(allowed.headers['access-control-allow-origin']).toBe('https://app.example.com');
      expect((await preflight('https://example.org')).status).toBe(403);
      expect((await preflight('https://app.example.com', 'x-other')).status).toBe(403);
      await s3.deleteBucketCors({ Bucket });
      expect(await codeOf(s3.getBucketCors({ Bucket }))).toBe('NoSuchCORSConfiguration');
      expect((await preflight('https://app.example.com')).status).toBe(403);
    },
  ],
  ...(
    [
      ['stores its file', {}, 'key', [], '204'],
      ['a document of 201', { success_action_status: '201' }, 'key', [], '201'],
      ['a key outside its policy', {}, 'else', [], 'AccessDenied'],
      ['a field outside its policy', { 'x-amz-meta-a': '1' }, 'key', [], 'AccessDenied'],
      ['a file that is too large', {}, 'key', [['content-length-range', 0, 3]], 'EntityTooLarge'],
      ['a file that is too small', {}, 'key', [['content-length-range', 10, 20]], 'EntityTooSmall'],
    ] as const
  ).map(
    ([what, fields, suffix, conditions, expected]): Case => [
      `PostObject: ${what} gives ${expected}`,
      async ({ url, key, Bucket, name, bytes, s3 }) => {
        const Key = `form/${name()}/${suffix}`;
        const covered = Object.entries(fields).filter(([field]) => !field.startsWith('x-amz-meta'));
        const form = new FormData();
        const signed = signForm(key, {
          conditions: [
            ...[{ bucket: Bucket }, ['starts-with', '$key', Key.replace('else', 'key')]],
            ...[...conditions, ...covered.map(([field, value]) => ({ [field]: value }))],
          ],
        });
        for (const [field, value] of Object.entries({ ...signed, ...fields, key: Key }))
          form.append(field, value);
        form.append('file', new Blob(['the file']), 'a.txt');
        const answer = await fetch(url(''), { method: 'POST', body: form });
        const text = await answer.text();
        if (/^\d+$/.test(expected)) {
          expect(String(answer.status)).toBe(expected);
          expect((await bytes(Key)).toString()).toBe('the file');
        } else {
          expect(text).toContain(`<Code>${expected}</Code>`);
          expect(await codeOf(s3.headObject({ Bucket, Key }))).toBe('NotFound');
        }
      },
    ],
  ),
  [
    'DeleteObjects: a wrong Content-MD5 deletes nothing',
    async ({ raw, put, bytes }) => {
      await put('kept', 'kept');
      const body = '<Delete><Object><Key>kept</Key></Object></Delete>';
      const md5 = createHash('md5').update('another').digest('base64');
      const answer = await raw({
        ...{ method: 'POST', path: '?delete', body, headers: { 'content-md5': md5 } },
      });
      expect(answer.code).toBe('BadDigest');
      expect((await bytes('kept')).toString()).toBe('kept');
    },
  ],
];

export const signing: Group = { title: 'signatures, links, forms and errors', cases: CASES };
