/** What S3 answers where clients and the suites of the field look closely, against a real node without access keys. */
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type RawAnswer, sendRaw } from '../testing/sign-s3.ts';
import { openTestNode, type TestNode } from '../testing/test-node.ts';

let node: TestNode;
beforeAll(async () => {
  node = await openTestNode();
  await send('PUT', '/box', { headers: { 'x-ebb-preset': 'ephemeral' } });
});
afterAll(async () => await node[Symbol.asyncDispose]());

interface Sent {
  readonly body?: string | Buffer;
  readonly headers?: Record<string, string>;
}
async function send(method: string, path: string, sent: Sent = {}): Promise<RawAnswer> {
  const { body = '', headers = {} } = sent;
  const url = new URL(node.node.s3Url as string);
  // The path as it is given: URL would fold `//` and dots.
  Object.defineProperty(url, 'pathname', { value: path });
  return await sendRaw({ method, url, body, headers });
}

/** Bytes as they are, which no client library would send. */
async function sendBytes(bytes: Buffer): Promise<string> {
  const { hostname, port } = new URL(node.node.s3Url as string);
  return await new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(bytes));
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.once('end', () => resolve(Buffer.concat(chunks).toString('latin1')));
    socket.once('error', reject);
  });
}

const hostOf = (): string => new URL(node.node.s3Url as string).host;

describe('addresses', () => {
  test('a path with two slashes in front names no bucket, and not the service', async () => {
    for (const path of ['//box/key', '//', '//?list-type=2', '//box'])
      expect(await send('GET', path)).toMatchObject({ status: 400, code: 'InvalidBucketName' });
    expect((await send('GET', '/')).body).toContain('<Bucket><Name>box</Name>');
    await send('PUT', '/box//a', { body: 'slash' });
    expect((await send('GET', '/box//a')).body).toBe('slash');
  });

  test('the Location of a completed upload is where it is, by path and by host name', async () => {
    const { port } = new URL(node.node.s3Url as string);
    const host = `box.localhost:${port}`;
    for (const [root, headers, location] of [
      ['/box', {}, `http://${hostOf()}/box/l%20a/b`],
      ['', { host }, `http://${host}/l%20a/b`],
    ] as const) {
      const begun = await send('POST', `${root}/l%20a/b?uploads`, { headers });
      const id = /<UploadId>([^<]+)/.exec(begun.body)?.[1];
      const path = `${root}/l%20a/b?uploadId=${id}`;
      const part = await send('PUT', `${path}&partNumber=1`, { body: 'x', headers });
      const body = `<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>${part.headers.etag}</ETag></Part></CompleteMultipartUpload>`;
      const done = await send('POST', path, { body, headers });
      expect(done.body).toContain(`<Location>${location}</Location>`);
      const url = new URL(location);
      expect((await send('GET', url.pathname, { headers: { host: url.host } })).body).toBe('x');
    }
  });
});

describe('a framed body of which no x-amz-content-sha256 tells', () => {
  const framed = '5\r\nhello\r\n0\r\n\r\n';
  const length = { 'x-amz-decoded-content-length': '5' };
  const encoded = { 'content-encoding': 'aws-chunked' };
  test.each([
    ['with its encoding and length', framed, { ...encoded, ...length }],
    ['with its length alone', framed, length],
    [
      'with chunk signatures',
      `5;chunk-signature=${'a'.repeat(64)}\r\nhello\r\n0;chunk-signature=${'b'.repeat(64)}\r\n\r\n`,
      { ...encoded, ...length },
    ],
    [
      'with a trailer',
      '5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n',
      { ...encoded, ...length, 'x-amz-trailer': 'x-amz-checksum-crc32' },
    ],
    ['beside another encoding', framed, { 'content-encoding': 'gzip,aws-chunked', ...length }],
  ])('%s is stored without its framing', async (_how, body, headers) => {
    expect((await send('PUT', '/box/framed', { body, headers })).status).toBe(200);
    const got = await send('GET', '/box/framed');
    expect(got.body).toBe('hello');
    expect(got.headers['content-encoding']).toBe(
      headers['content-encoding' as never] === 'gzip,aws-chunked' ? 'gzip' : undefined,
    );
  });

  test('needs the length of its data, and has a trailer that is right', async () => {
    const without = await send('PUT', '/box/framed', { body: framed, headers: encoded });
    expect(without.code).toBe('MissingContentLength');
    const headers = { ...encoded, ...length, 'x-amz-trailer': 'x-amz-checksum-crc32' };
    const wrong = framed.replace('0\r\n', '0\r\nx-amz-checksum-crc32:AAAAAA==\r\n');
    expect((await send('PUT', '/box/framed', { body: wrong, headers })).code).toBe('BadDigest');
  });
});

describe('requests that are taken as S3 takes them', () => {
  const head = (line: string, ...headers: readonly string[]): Buffer =>
    Buffer.from(
      `${[line, `host: ${hostOf()}`, 'connection: close', ...headers].join('\r\n')}\r\n\r\n`,
    );

  test('an object needs its length, a bucket none', async () => {
    expect(await sendBytes(head('PUT /box/endless HTTP/1.1'))).toMatch(/^HTTP\/1\.1 411 /);
    expect(await sendBytes(head('PUT /box-two HTTP/1.1'))).toMatch(/^HTTP\/1\.1 200 /);
  });

  test('an expectation that nobody knows is none', async () => {
    const put = head('PUT /box/expected HTTP/1.1', 'expect: 200', 'content-length: 0');
    expect(await sendBytes(put)).toMatch(/^HTTP\/1\.1 200 /);
  });

  test('an empty token of a list is the beginning', async () => {
    const { status, body } = await send('GET', '/box?list-type=2&continuation-token=');
    expect([status, body]).toEqual([200, expect.stringContaining('<ContinuationToken></')]);
    const wrong = await send('GET', '/box?list-type=2&continuation-token=!');
    expect(wrong.code).toBe('InvalidArgument');
  });
});

describe('Content-Encoding', () => {
  test.each([
    ['gzip', 'gzip'],
    ['deflate, gzip', 'deflate, gzip'],
    ['deflate,gzip', 'deflate,gzip'],
    ['gzip, aws-chunked', 'gzip'],
    ['aws-chunked, gzip', 'gzip'],
    ['deflate, AWS-Chunked, gzip', 'deflate, gzip'],
    ['aws-chunked', undefined],
    ['aws-chunked, aws-chunked', undefined],
  ])('"%s" is kept as "%s"', async (encoding, kept) => {
    const sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
    const headers = { 'content-encoding': encoding, 'x-amz-content-sha256': sha256 };
    expect((await send('PUT', '/box/encoded', { headers })).status).toBe(200);
    expect((await send('HEAD', '/box/encoded')).headers['content-encoding']).toBe(kept);
  });
});

describe('user metadata beyond ASCII', () => {
  const put = async (value: Buffer): Promise<string> => {
    const head = `PUT /box/meta HTTP/1.1\r\nhost: ${hostOf()}\r\nconnection: close\r\ncontent-length: 0\r\nx-amz-meta-m: `;
    await sendBytes(Buffer.concat([Buffer.from(head), value, Buffer.from('\r\n\r\n')]));
    return String((await send('HEAD', '/box/meta')).headers['x-amz-meta-m']);
  };
  test.each([
    ['plain text', 'plain', 'plain'],
    ['UTF-8', 'ä日', '=?UTF-8?B?w6Tml6U=?='],
    ['an encoded word', '=?UTF-8?B?w6Tml6U=?=', '=?UTF-8?B?w6Tml6U=?='],
    ['an encoded word in quoted form', '=?utf-8?q?=04my_meta?=', '=?UTF-8?B?BG15IG1ldGE=?='],
    ['an encoded word of ASCII', '=?UTF-8?Q?a=62c?=', 'abc'],
    ['two words, folded', '=?UTF-8?B?w6Q=?= =?UTF-8?B?w6Q=?=', '=?UTF-8?B?w6TDpA==?='],
    ['what only looks like one', '=?UTF-7?B?w6Q=?=', '=?UTF-7?B?w6Q=?='],
  ])('%s', async (_what, sent, told) => {
    expect(await put(Buffer.from(sent))).toBe(told);
  });

  test('bytes that are no UTF-8 come back as they are', async () => {
    expect(await put(Buffer.from('Hello World\xe9', 'latin1'))).toBe('Hello World\xe9');
    const headers = { 'x-amz-copy-source': '/box/meta' };
    expect((await send('PUT', '/box/meta-copy', { headers })).status).toBe(200);
    const copied = await send('HEAD', '/box/meta-copy');
    expect(copied.headers['x-amz-meta-m']).toBe('Hello World\xe9');
  });
});

describe('partNumber of an object that was put whole', () => {
  test('1 is all of it, as a range; of an empty one there is none', async () => {
    await send('PUT', '/box/whole', { body: 'whole' });
    await send('PUT', '/box/empty');
    const mode = { headers: { 'x-amz-checksum-mode': 'ENABLED' } };
    for (const method of ['GET', 'HEAD']) {
      const part = await send(method, '/box/whole?partNumber=1', mode);
      expect(part.status).toBe(206);
      expect(part.headers).toMatchObject({ 'content-range': 'bytes 0-4/5', 'content-length': '5' });
      expect(part.headers['x-amz-checksum-crc32c']).toBeDefined();
      expect(part.headers['x-amz-mp-parts-count']).toBeUndefined();
      expect((await send(method, '/box/empty?partNumber=1')).status).toBe(200);
      expect((await send(method, '/box/whole?partNumber=2')).status).toBe(416);
    }
    expect((await send('GET', '/box/whole?partNumber=2')).code).toBe('InvalidPartNumber');
    expect((await send('GET', '/box/whole?partNumber=0')).code).toBe('InvalidArgument');
  });
});

test('a range of a source that has no such bytes is InvalidRange, one that is none InvalidArgument', async () => {
  await send('PUT', '/box/short', { body: 'short' });
  const { body } = await send('POST', '/box/ranges?uploads');
  const id = /<UploadId>([^<]+)/.exec(body)?.[1];
  const copy = async (range: string): Promise<string> => {
    const headers = { 'x-amz-copy-source': '/box/short', 'x-amz-copy-source-range': range };
    return (await send('PUT', `/box/ranges?uploadId=${id}&partNumber=1`, { headers })).code;
  };
  expect(await copy('bytes=0-5')).toBe('InvalidRange');
  expect(await copy('bytes=5-5')).toBe('InvalidRange');
  expect(await copy('bytes=0-4')).toBe('');
  for (const range of ['0-2', 'bytes=0', 'bytes=hello-world', 'bytes=3-1', 'bytes=0-2,3-4'])
    expect(await copy(range)).toBe('InvalidArgument');
});

describe('conditions on writes', () => {
  const complete = async (key: string, headers: Record<string, string>): Promise<RawAnswer> => {
    const begun = await send('POST', `/box/${key}?uploads`);
    const id = /<UploadId>([^<]+)/.exec(begun.body)?.[1];
    const path = `/box/${key}?uploadId=${id}`;
    const part = await send('PUT', `${path}&partNumber=1`, { body: 'x' });
    const body = `<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>${part.headers.etag}</ETag></Part></CompleteMultipartUpload>`;
    const done = await send('POST', path, { body, headers });
    // An upload whose condition does not hold is still there.
    if (done.status >= 300) expect((await send('DELETE', path)).status).toBe(204);
    return done;
  };
  const copy = async (key: string, headers: Record<string, string>): Promise<RawAnswer> =>
    await send('PUT', `/box/${key}`, { headers: { ...headers, 'x-amz-copy-source': '/box/from' } });
  const put = async (key: string, headers: Record<string, string>): Promise<RawAnswer> =>
    await send('PUT', `/box/${key}`, { body: 'put', headers });

  test.each([
    ['a put', put],
    ['a copy', copy],
    ['a completion', complete],
  ])('%s is decided as S3 does', async (how, write) => {
    await send('PUT', '/box/from', { body: 'from' });
    const key = `on-${how.replace(' ', '-')}`;
    const outcome = async (headers: Record<string, string>): Promise<string> => {
      const { code, body } = await write(key, headers);
      const condition = /<Condition>([^<]+)/.exec(body)?.[1];
      return [code || 'done', condition].filter((word) => word !== undefined).join(' ');
    };
    const etagNow = async (): Promise<string> =>
      String((await send('HEAD', `/box/${key}`)).headers.etag);

    expect(await outcome({ 'if-match': '*' })).toBe('NoSuchKey');
    expect(await outcome({ 'if-match': '"a"' })).toBe('NoSuchKey');
    expect(await outcome({ 'if-none-match': '"a"' })).toBe('done');
    expect(await outcome({ 'if-none-match': '*' })).toBe('PreconditionFailed If-None-Match');
    expect(await outcome({ 'if-none-match': await etagNow() })).toBe(
      'PreconditionFailed If-None-Match',
    );
    expect(await outcome({ 'if-none-match': 'another' })).toBe('done');
    expect(await outcome({ 'if-match': '"a"' })).toBe('PreconditionFailed If-Match');
    expect(await outcome({ 'if-match': '*' })).toBe('done');
    expect(await outcome({ 'if-match': (await etagNow()).replaceAll('"', '') })).toBe('done');
    expect(await outcome({ 'if-match': '"a", "b"' })).toBe('NotImplemented');
  });
});

describe('DeleteObjects', () => {
  const remove = async (objects: string | Buffer): Promise<RawAnswer> => {
    const parts = [Buffer.from('<Delete>'), Buffer.from(objects), Buffer.from('</Delete>')];
    return await send('POST', '/box?delete', { body: Buffer.concat(parts) });
  };
  const left = async (): Promise<readonly string[]> => {
    const { body } = await send('GET', '/box?list-type=2&prefix=report&encoding-type=url');
    return [...body.matchAll(/<Key>([^<]*)/g)].map(([, key]) => key as string);
  };

  test.each([
    ['a control character by number', '<Object><Key>&#x1;report</Key></Object>'],
    ['NUL by number', '<Object><Key>&#0;report</Key></Object>'],
    ['half a character', '<Object><Key>report&#xD800;</Key></Object>'],
    ['an entity of HTML', '<Object><Key>report&nbsp;</Key></Object>'],
    ['bytes that are no UTF-8', Buffer.from('<Object><Key>report\xff</Key></Object>', 'latin1')],
    ['an element that is none', '<Object><Key>report</Key><Keys>x</Keys></Object>'],
    ['one object of many that is none', '<Object><Key>report</Key></Object><Object></Object>'],
    ['a key twice', '<Object><Key>report</Key><Key>report</Key></Object>'],
    ['a size that is no condition here', '<Object><Key>report</Key><Size>5</Size></Object>'],
    ['quiet that is no word', '<Object><Key>report</Key></Object><Quiet>maybe</Quiet>'],
  ])('%s deletes nothing else', async (_what, objects: string | Buffer) => {
    await send('PUT', '/box/report', { body: 'x' });
    await remove(objects);
    expect(await left()).toEqual(['report']);
  });

  test('a key is deleted by any way to write it, and told as it is', async () => {
    for (const [path, written] of [
      ['report%0D%0A', 'report&#13;&#xA;'],
      ['report%01', 'report&#x1;'],
      ['report%26', 'report&amp;'],
      ['report%3C', '<![CDATA[report<]]>'],
      ['%20report', ' report'],
    ] as const) {
      await send('PUT', `/box/${path}`, { body: 'x' });
      const { body } = await remove(`<Object><Key>${written}</Key></Object>`);
      expect(body).toContain('<Deleted>');
      expect((await send('HEAD', `/box/${path}`)).status).toBe(404);
    }
  });

  test('a thousand keys of 1,024 bytes, each byte written as a reference, are taken', async () => {
    const keys = Array.from({ length: 1000 }, (_, n) => String(n).padStart(4, '0'));
    const objects = keys.map((n) => `<Object><Key>${n}${'&#x001F;'.repeat(1020)}</Key></Object>`);
    const { status, body } = await remove(objects.join(''));
    expect(status).toBe(200);
    expect(body.match(/<Deleted>/g)).toHaveLength(1000);
  });
});
