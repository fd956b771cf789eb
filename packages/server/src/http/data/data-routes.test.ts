import { request } from 'node:http';
import { errorBodySchema, KiB, type ListResponse, MiB, objectPath } from '@ebb/protocol';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PIECE_BYTES, SMALL_BODY_BYTES } from '../../limits.ts';
import { openTestNode, type TestNode } from '../../testing/test-node.ts';

let node: TestNode;
beforeAll(async () => {
  node = await openTestNode();
  for (const preset of ['ephemeral', 'buffered', 'durable'])
    await node.json('PUT', `/v1/buckets/${preset}`, { preset });
});
afterAll(async () => await node[Symbol.asyncDispose]());

function bytes(length: number, seed = 1): Buffer {
  const body = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; at++) body[at] = (at * 31 + seed * 7 + (at >> 8)) & 0xff;
  return body;
}
const at = (key: string, bucket = 'ephemeral'): string => objectPath(bucket, key);
const staged = (): number =>
  node.node.services.store.tiers().reduce((sum, tier) => sum + tier.stagedBytes, 0);

describe('bodies', () => {
  const edges = [
    0,
    1,
    255,
    SMALL_BODY_BYTES,
    SMALL_BODY_BYTES + 1,
    PIECE_BYTES - 1,
    PIECE_BYTES,
    PIECE_BYTES + 1,
    2.5 * MiB,
    5 * MiB,
  ];
  test.each(edges)(
    '%i bytes come back as they went in, with and without a length',
    async (length) => {
      const body = bytes(length);
      for (const sent of [body, cut(body, 100_000)]) {
        const put = await node.http('PUT', at('edge'), { body: sent });
        expect(put.status).toBe(201);
        const got = await node.http('GET', at('edge'));
        expect([got.status, got.body.equals(body)]).toEqual([200, true]);
        expect(got.headers.etag).toBe(put.headers.etag);
        expect(got.headers['x-ebb-crc32c']).toBe(put.headers['x-ebb-crc32c']);
        expect(Number(got.headers['content-length'])).toBe(length);
      }
    },
  );

  test('any range of an object is the same as that range of its bytes', async () => {
    const body = bytes(3 * MiB + 17);
    await node.http('PUT', at('ranged'), { body });
    const bound = fc.integer({ min: 0, max: body.length - 1 });
    await fc.assert(
      fc.asyncProperty(bound, bound, async (a, b) => {
        const [from, to] = [Math.min(a, b), Math.max(a, b)];
        const got = await node.http('GET', at('ranged'), {
          headers: { range: `bytes=${from}-${to}` },
        });
        expect(got.status).toBe(206);
        expect(got.headers['content-range']).toBe(`bytes ${from}-${to}/${body.length}`);
        expect(got.body.equals(body.subarray(from, to + 1))).toBe(true);
      }),
      { numRuns: 25 },
    );
  });

  test('a range beyond the end is refused and tells the size; one past the end is cut', async () => {
    await node.http('PUT', at('short'), { body: 'hello world' });
    const beyond = await node.http('GET', at('short'), { headers: { range: 'bytes=11-' } });
    expect([beyond.status, beyond.code, beyond.headers['content-range']]).toEqual([
      416,
      'range_invalid',
      'bytes */11',
    ]);
    const past = await node.http('GET', at('short'), { headers: { range: 'bytes=6-100' } });
    expect([past.status, past.body.toString()]).toEqual([206, 'world']);
    const several = await node.http('GET', at('short'), { headers: { range: 'bytes=0-1,3-4' } });
    expect([several.status, several.body.toString()]).toEqual([200, 'hello world']);
  });

  test('many readers and writers at once share the pieces and mix nothing up', async () => {
    const bodies = Array.from({ length: 40 }, (_, n) => bytes(300 * KiB + n * 1000, n));
    await Promise.all(bodies.map((body, n) => node.http('PUT', at(`many/${n}`), { body })));
    const got = await Promise.all(
      [...bodies, ...bodies].map((_, n) => node.http('GET', at(`many/${n % 40}`))),
    );
    got.forEach((answer, n) => expect(answer.body.equals(bodies[n % 40] as Buffer)).toBe(true));
  });
});

describe('properties', () => {
  test('travel with the object: type, metadata in UTF-8, version, durability', async () => {
    const headers = {
      'content-type': 'text/plain',
      'x-ebb-meta-owner': Buffer.from('Zoë ✓').toString('latin1'),
    };
    const put = await node.http('PUT', at('dir/ä b?#%.txt', 'buffered'), { body: 'x', headers });
    expect(put.headers['x-ebb-durability']).toBe('disk');
    const head = await node.http('HEAD', at('dir/ä b?#%.txt', 'buffered'));
    expect(head.status).toBe(200);
    expect(head.body.length).toBe(0);
    expect(head.headers).toMatchObject({
      'content-type': 'text/plain',
      'content-length': '1',
      'accept-ranges': 'bytes',
      'x-ebb-version': put.headers['x-ebb-version'],
    });
    expect(Buffer.from(String(head.headers['x-ebb-meta-owner']), 'latin1').toString()).toBe(
      'Zoë ✓',
    );
    const listed = JSON.parse(
      (await node.http('GET', '/v1/buckets/buffered/objects?prefix=dir/')).body.toString(),
    ) as ListResponse;
    expect(listed.objects[0]).toMatchObject({
      key: 'dir/ä b?#%.txt',
      metadata: { owner: 'Zoë ✓' },
      contentType: 'text/plain',
    });
  });

  test('x-ebb-ack raises what holds before the answer', async () => {
    const put = await node.http('PUT', at('acked'), {
      body: 'x',
      headers: { 'x-ebb-ack': 'remote' },
    });
    expect([put.status, put.headers['x-ebb-durability']]).toEqual([201, 'remote']);
    expect(
      (await node.http('PUT', at('acked'), { body: 'x', headers: { 'x-ebb-ack': 'paper' } })).code,
    ).toBe('request_invalid');
  });

  test('a checksum that the bytes do not have leaves nothing', async () => {
    const wrong = await node.http('PUT', at('summed'), {
      body: '123456789',
      headers: { 'x-ebb-crc32c': '00000000' },
    });
    expect([wrong.status, wrong.code]).toEqual([400, 'checksum_mismatch']);
    expect((await node.http('GET', at('summed'))).code).toBe('not_found');
    const right = await node.http('PUT', at('summed'), {
      body: '123456789',
      headers: { 'x-ebb-crc32c': 'E3069283' },
    });
    expect([right.status, right.headers['x-ebb-crc32c']]).toEqual([201, 'e3069283']);
    expect(staged()).toBe(0);
  });

  test('conditions guard writes and reads', async () => {
    const first = await node.http('PUT', at('guarded'), {
      body: 'one',
      headers: { 'if-none-match': '*' },
    });
    expect(first.status).toBe(201);
    const again = await node.http('PUT', at('guarded'), {
      body: 'two',
      headers: { 'if-none-match': '*' },
    });
    expect([again.status, again.code]).toEqual([412, 'already_exists']);
    const etag = String(first.headers.etag);
    expect(
      (await node.http('PUT', at('guarded'), { body: 'two', headers: { 'if-match': etag } }))
        .status,
    ).toBe(201);
    const stale = await node.http('PUT', at('guarded'), {
      body: 'three',
      headers: { 'if-match': etag },
    });
    expect([stale.status, stale.code]).toEqual([412, 'precondition_failed']);
    const now = await node.http('GET', at('guarded'));
    expect(now.body.toString()).toBe('two');
    expect(
      (
        await node.http('GET', at('guarded'), {
          headers: { 'if-none-match': String(now.headers.etag) },
        })
      ).status,
    ).toBe(304);
    expect((await node.http('GET', at('guarded'), { headers: { 'if-match': etag } })).status).toBe(
      412,
    );
    expect(
      (await node.http('DELETE', at('guarded'), { headers: { 'if-match': etag } })).status,
    ).toBe(412);
    expect((await node.http('DELETE', at('guarded'))).status).toBe(204);
    expect((await node.http('DELETE', at('guarded'))).code).toBe('not_found');
  });
});

describe('names', () => {
  test.each([
    ['empty', '', 'name_invalid'],
    ['over-long', 'k'.repeat(2000), 'name_invalid'],
    ['with NUL', 'a%00b', 'name_invalid'],
    ['not UTF-8', 'a%ff', 'name_invalid'],
    ['not percent-encoded', 'a%zz', 'name_invalid'],
    ['going up', '../up', 'name_invalid'],
    ['going up, encoded', 'a/%2e%2e/up', 'name_invalid'],
  ])('a key that is %s is refused', async (_, key, code) => {
    const put = await node.http('PUT', `/v1/buckets/ephemeral/objects/${key}`, { body: 'x' });
    expect([put.status, put.code]).toEqual([400, code]);
    expect(errorBodySchema.parse(JSON.parse(put.body.toString())).error.retry).toBe('never');
  });

  test('no bucket, no route, no such method: each says so', async () => {
    expect((await node.http('PUT', at('k', 'nowhere'), { body: 'x' })).code).toBe(
      'bucket_not_found',
    );
    expect((await node.http('GET', at('k', 'nowhere'))).code).toBe('bucket_not_found');
    expect((await node.http('GET', at('no-such-key'))).status).toBe(404);
    const unknown = await node.http('GET', '/nothing');
    expect([unknown.status, unknown.body.toString()]).toEqual([
      404,
      expect.stringContaining('S3 has an address of its own'),
    ]);
    expect((await node.http('PATCH', at('k'))).status).toBe(405);
    expect((await node.http('GET', '/v1/buckets/ephemeral/objects?limit=0')).code).toBe(
      'request_invalid',
    );
    expect((await node.http('GET', '/v1/buckets/ephemeral/objects?colour=red')).code).toBe(
      'request_invalid',
    );
    expect((await node.http('GET', '/v1/buckets/ephemeral/objects?prefix=%ff')).code).toBe(
      'name_invalid',
    );
  });
});

test.each([
  ['PUT', `${at('named')}?ack=remote`, 'here, the path takes none'],
  ['DELETE', `${at('named')}?versionId=1`, 'here, the path takes none'],
  ['GET', `${at('named')}?foo=bar`, 'only wait, timeoutMs, version'],
  ['GET', `${at('named')}?version=9`, 'version go with wait'],
])('%s %s: a parameter that would not be heeded is refused', async (method, path, message) => {
  const answer = await node.http(method, path, method === 'PUT' ? { body: bytes(1) } : {});
  expect(answer.status).toBe(400);
  expect(answer.body.toString()).toContain(message);
  expect((await node.http('HEAD', at('named'))).status).toBe(404);
});

test.each([
  ['PUT', '/v1/buckets/slip', { quota: 1 }, 'quota'],
  ['PUT', '/v1/buckets/slip', { Preset: 'ephemeral' }, 'Preset'],
  ['POST', '/v1/buckets/ephemeral', { TTL: 5 }, 'TTL'],
  ['PUT', '/v1/runs/slip', { keep_last: 3 }, 'keep_last'],
])('%s %s: a name that the body does not have is refused', async (method, path, body, name) => {
  const answer = await node.json(method, path, body);
  expect(answer).toMatchObject({ status: 400 });
  expect(JSON.stringify(answer.value)).toContain(name);
  expect((await node.json('GET', '/v1/buckets/slip')).status).toBe(404);
});

test('an S3 client at the control address is told in its own words where S3 is', async () => {
  const authorization = 'AWS4-HMAC-SHA256 Credential=a/20261201/us-east-1/s3/aws4_request';
  for (const [method, path, headers] of [
    ['GET', '/', { authorization }],
    ['PUT', '/bucket/key', { authorization }],
    ['GET', '/bucket/key?X-Amz-Signature=0', {}],
  ] as const) {
    const answer = await node.http(method, path, { headers });
    expect([answer.status, answer.headers['content-type']]).toEqual([400, 'application/xml']);
    expect(answer.body.toString()).toMatch(/<Code>InvalidRequest<.*control address.*9701/);
  }
  const key = at('x?X-Amz-Signature=1'.replace('?', '%3F'));
  expect((await node.http('PUT', key, { body: 'ours' })).status).toBe(201);
  const head = await node.http('HEAD', '/bucket', { headers: { authorization } });
  expect([head.status, head.body.length]).toEqual([400, 0]);
});

describe('prefixes', () => {
  test('list pages through, groups by delimiter, and delete leaves the neighbour', async () => {
    for (const key of ['a/1', 'a/2', 'a/b/3', 'ab', 'c'])
      await node.http('PUT', at(`tree/${key}`), { body: key });
    const list = async (query: string): Promise<ListResponse> =>
      JSON.parse(
        (await node.http('GET', `/v1/buckets/ephemeral/objects?${query}`)).body.toString(),
      ) as ListResponse;
    const grouped = await list('prefix=tree/&delimiter=/');
    expect([grouped.objects.map((o) => o.key), grouped.prefixes]).toEqual([
      ['tree/ab', 'tree/c'],
      ['tree/a/'],
    ]);
    const seen: string[] = [];
    for (let next: string | null = ''; next !== null; ) {
      const page: ListResponse = await list(
        `prefix=tree/&limit=2&startAfter=${encodeURIComponent(next)}`,
      );
      seen.push(...page.objects.map((o) => o.key));
      next = page.next;
    }
    expect(seen).toEqual(['tree/a/1', 'tree/a/2', 'tree/a/b/3', 'tree/ab', 'tree/c']);
    expect((await node.http('DELETE', '/v1/buckets/ephemeral/objects')).code).toBe(
      'request_invalid',
    );
    const gone = await node.http('DELETE', '/v1/buckets/ephemeral/objects?prefix=tree/a/');
    expect(JSON.parse(gone.body.toString())).toEqual({ objects: 3, sizeBytes: 11 });
    expect((await list('prefix=tree/')).objects.map((o) => o.key)).toEqual(['tree/ab', 'tree/c']);
  });
});

describe('a bucket that keeps old versions', () => {
  test('is made and changed over HTTP, says what it holds, and is emptied of all versions on request', async () => {
    const at = '/v1/buckets/kept';
    const policy = { preset: 'ephemeral', versioning: 'enabled' };
    expect(await node.json('PUT', at, policy)).toMatchObject({ status: 201 });
    for (const body of ['one', 'two']) await node.http('PUT', `${at}/objects/a`, { body });
    expect((await node.http('DELETE', `${at}/objects/a`)).status).toBe(204);
    // What is deleted is not there, and deleting it again leaves no second marker.
    expect((await node.http('DELETE', `${at}/objects/a`)).code).toBe('not_found');
    expect((await node.json('GET', at)).value).toMatchObject({
      policy: { versioning: 'enabled' },
      ...{ objects: 0, sizeBytes: 0, oldVersions: 3, oldVersionsBytes: 6 },
    });
    expect((await node.json('POST', at, { versioning: 'suspended' })).value).toMatchObject({
      policy: { versioning: 'suspended' },
    });
    expect((await node.json('POST', at, { versioning: 'off' })).status).toBe(400);
    expect((await node.http('DELETE', at)).code).toBe('bucket_not_empty');
    expect((await node.http('DELETE', `${at}/objects?prefix=&allVersions=yes`)).code).toBe(
      'request_invalid',
    );
    const gone = await node.http('DELETE', `${at}/objects?prefix=&allVersions=true`);
    expect(JSON.parse(gone.body.toString())).toEqual({ objects: 3, sizeBytes: 6 });
    expect((await node.http('DELETE', at)).status).toBe(204);
  });
});

describe('clients that misbehave', () => {
  test('one that goes away in the middle of a body leaves nothing', async () => {
    for (const headers of [{ 'content-length': 3 * MiB }, {}]) {
      const call = request({
        socketPath: node.socketPath,
        method: 'PUT',
        path: at('half'),
        headers,
      });
      call.on('error', () => undefined);
      call.write(bytes(1.5 * MiB));
      await until(() => staged() > 0);
      call.destroy();
      await until(() => staged() === 0);
      expect((await node.http('GET', at('half'))).code).toBe('not_found');
    }
  });

  test('one that goes away in the middle of a GET gives its lease back, and the next is served', async () => {
    await node.http('PUT', at('long'), { body: bytes(8 * MiB) });
    for (let n = 0; n < 80; n++)
      await new Promise<void>((resolve) => {
        const call = request({ socketPath: node.socketPath, path: at('long') }, (answer) => {
          answer.once('data', () => {
            answer.destroy();
            resolve();
          });
        });
        call.on('error', () => undefined);
        call.end();
      });
    // More than there are pieces: had those been lost, this would wait for ever.
    expect((await node.http('GET', at('long'))).body.length).toBe(8 * MiB);
  });

  test('a body for which there is no room is refused before it is sent', async () => {
    const answer = await new Promise<{
      status: number;
      continued: boolean;
      retryAfter: string | undefined;
    }>((resolve, reject) => {
      let continued = false;
      const call = request(
        {
          socketPath: node.socketPath,
          method: 'PUT',
          path: at('huge'),
          headers: { expect: '100-continue', 'content-length': 500 * MiB },
        },
        (response) => {
          response.resume();
          resolve({
            status: response.statusCode ?? 0,
            continued,
            retryAfter: response.headers['retry-after'],
          });
          call.destroy();
        },
      );
      call.on('continue', () => {
        continued = true;
      });
      call.on('error', reject);
      call.flushHeaders();
    });
    // It fits in no tier: no time to wait is named.
    expect(answer).toEqual({ status: 507, continued: false, retryAfter: undefined });
  });

  test('one that waits for 100-continue gets it when there is room', async () => {
    const status = await new Promise<number>((resolve, reject) => {
      const call = request(
        {
          socketPath: node.socketPath,
          method: 'PUT',
          path: at('polite'),
          headers: { expect: '100-continue', 'content-length': 5 },
        },
        (response) => {
          response.resume();
          resolve(response.statusCode ?? 0);
        },
      );
      call.on('continue', () => call.end('hello'));
      call.on('error', reject);
      call.flushHeaders();
    });
    expect(status).toBe(201);
  });

  test('header and JSON sizes are bounded', async () => {
    expect(
      (await node.http('GET', at('k'), { headers: { 'x-ebb-meta-a': 'x'.repeat(40_000) } })).status,
    ).toBe(431);
    const big = await node.http('PUT', '/v1/buckets/big', {
      body: ' '.repeat(2 * MiB),
      headers: { 'content-type': 'application/json' },
    });
    expect([big.status, big.code]).toEqual([413, 'too_large']);
  });
});

function cut(body: Buffer, size: number): Buffer[] {
  return Array.from({ length: Math.ceil(body.length / size) }, (_, n) =>
    body.subarray(n * size, (n + 1) * size),
  );
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}
