/** Multipart uploads that end while parts are on their way, against a real node whose requests are sent piece by piece. */
import { type ClientRequest, request as open } from 'node:http';
import { StoreError } from '@ebb/protocol';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type RawAnswer, sendRaw } from '../testing/sign-s3.ts';
import { openTestNode, type TestNode } from '../testing/test-node.ts';
import { toS3Error } from './s3-error.ts';

const MiB = 1024 * 1024;
let node: TestNode;

beforeAll(async () => {
  node = await openTestNode();
  await send('PUT', '/ups', { headers: { 'x-ebb-preset': 'ephemeral' } });
});
afterAll(async () => await node[Symbol.asyncDispose]());

interface Sent {
  readonly body?: string | Buffer;
  readonly headers?: Record<string, string>;
}
async function send(
  method: string,
  path: string,
  { body = '', headers = {} }: Sent = {},
  at: TestNode = node,
): Promise<RawAnswer> {
  return await sendRaw({ method, url: new URL(path, at.node.s3Url as string), body, headers });
}

async function begin(key: string, headers: Record<string, string> = {}): Promise<string> {
  const { body } = await send('POST', `/ups/${key}?uploads`, { headers });
  return /<UploadId>([^<]+)/.exec(body)?.[1] as string;
}

const partOf = (key: string, uploadId: string, number: number): string =>
  `/ups/${key}?uploadId=${uploadId}&partNumber=${number}`;

function completion(...etags: readonly (string | undefined)[]): Sent {
  const parts = etags.map(
    (etag, i) => `<Part><PartNumber>${i + 1}</PartNumber><ETag>${etag}</ETag></Part>`,
  );
  return { body: `<CompleteMultipartUpload>${parts.join('')}</CompleteMultipartUpload>` };
}

/** A part whose first half has been sent; the node has staged it. */
async function halfSent(path: string): Promise<{ readonly finish: () => Promise<RawAnswer> }> {
  const half = Buffer.alloc(MiB, 7);
  const url = new URL(path, node.node.s3Url as string);
  let call!: ClientRequest;
  const answered = new Promise<RawAnswer>((resolve, reject) => {
    call = open(
      url,
      { method: 'PUT', agent: false, headers: { 'content-length': 2 * half.length } },
      (answer) => {
        const chunks: Buffer[] = [];
        answer.on('data', (chunk: Buffer) => chunks.push(chunk));
        answer.once('end', () => {
          const body = Buffer.concat(chunks).toString();
          const code = /<Code>([^<]+)/.exec(body)?.[1] ?? '';
          resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body, code });
        });
      },
    );
    call.once('error', reject);
    call.write(half);
  });
  await expect.poll(async () => await staged()).toBeGreaterThan(0);
  return {
    finish: async () => {
      call.end(half);
      return await answered;
    },
  };
}

/** Bytes that are reserved for bodies on their way. */
async function staged(): Promise<number> {
  const tiers = node.node.services.store.tiers();
  return tiers.reduce((sum, { stagedBytes }) => sum + stagedBytes, 0);
}
/** Blobs that objects and parts have. */
async function used(): Promise<number> {
  return (await node.node.services.store.totals()).blobs;
}

describe('a part that is on its way when its upload', () => {
  test('is aborted is cut, its room is free at once, and nothing of it is left', async () => {
    const id = await begin('a');
    await send('PUT', partOf('a', id, 1), { body: 'stored' });
    const before = await used();
    const part = await halfSent(partOf('a', id, 2));
    expect((await send('DELETE', `/ups/a?uploadId=${id}`)).status).toBe(204);
    expect(await staged()).toBe(0);
    expect(await part.finish()).toMatchObject({ status: 404, code: 'NoSuchUpload' });
    expect(await used()).toBe(before - 1);
    expect((await send('GET', '/ups?uploads')).body).not.toContain('<Upload>');
  });

  test('is completed is cut, and the object has what was listed', async () => {
    const id = await begin('b');
    const { headers } = await send('PUT', partOf('b', id, 1), { body: 'whole' });
    const part = await halfSent(partOf('b', id, 2));
    const done = await send('POST', `/ups/b?uploadId=${id}`, completion(headers.etag));
    expect(done.status).toBe(200);
    const blobs = await used();
    expect(await part.finish()).toMatchObject({ status: 404, code: 'NoSuchUpload' });
    expect(await staged()).toBe(0);
    expect(await used()).toBe(blobs);
    expect((await send('GET', '/ups/b')).body).toBe('whole');
  });

  test('goes with its bucket leaves nothing', async () => {
    await send('PUT', '/gone', { headers: { 'x-ebb-preset': 'ephemeral' } });
    const { body } = await send('POST', '/gone/a?uploads');
    const id = /<UploadId>([^<]+)/.exec(body)?.[1];
    const before = await used();
    const part = await halfSent(`/gone/a?uploadId=${id}&partNumber=1`);
    expect((await send('DELETE', '/gone')).status).toBe(204);
    expect(await part.finish()).toMatchObject({ status: 404, code: 'NoSuchBucket' });
    expect(await used()).toBe(before);
    expect(await staged()).toBe(0);
  });
});

test('parts, copies, completions and abortions at once leave nothing of an upload that ended', async () => {
  await send('PUT', '/ups/source', { body: 'source' });
  const before = await used();
  for (let round = 0; round < 8; round++) {
    const id = await begin('race');
    const first = await send('PUT', partOf('race', id, 1), { body: 'first' });
    const copied = { 'x-amz-copy-source': '/ups/source' };
    const end = round % 2 === 0 ? `/ups/race?uploadId=${id}` : undefined;
    const answers = await Promise.all([
      ...[2, 3, 4].map(async (n) => await send('PUT', partOf('race', id, n), { body: 'late' })),
      end === undefined
        ? send('DELETE', `/ups/race?uploadId=${id}`)
        : send('POST', end, completion(first.headers.etag)),
      ...[5, 6].map(async (n) => await send('PUT', partOf('race', id, n), { headers: copied })),
      send('DELETE', `/ups/race?uploadId=${id}`),
    ]);
    for (const { status, code } of answers)
      expect(status < 300 || code === 'NoSuchUpload', `${status} ${code}`).toBe(true);
    await send('DELETE', '/ups/race');
    expect(await used()).toBe(before);
  }
});

test('parts of an upload that ended when the node was killed go when it starts', async () => {
  const first = await openTestNode();
  await send('PUT', '/kill', {}, first);
  const { body } = await send('POST', '/kill/a?uploads', {}, first);
  const id = /<UploadId>([^<]+)/.exec(body)?.[1];
  const kept = await send('POST', '/kill/b?uploads', {}, first);
  const keptId = /<UploadId>([^<]+)/.exec(kept.body)?.[1];
  for (const path of [`a?uploadId=${id}`, `b?uploadId=${keptId}`])
    await send('PUT', `/kill/${path}&partNumber=1`, { body: 'x' }, first);
  // It is the state after a kill between the two steps of an abort.
  const { store } = first.node.services;
  await store.delete({ bucket: 'kill!uploads', key: `u/${id}` });
  await first.stop();
  await using second = await openTestNode({ directory: first.directory });
  const parts = async (): Promise<readonly string[]> => {
    const { objects } = await second.node.services.store.listRecords('kill!uploads', {
      ...{ prefix: 'p/', delimiter: '', startAfter: '', limit: 10 },
    });
    return objects.map(({ key }) => key);
  };
  await expect.poll(parts).toEqual([`p/${keptId}/00001`]);
});

describe('the ETag of a part', () => {
  test('follows from its bytes: sent again after a lost answer it is the same, and either completes', async () => {
    const id = await begin('again');
    const one = await send('PUT', partOf('again', id, 1), { body: 'bytes' });
    const two = await send('PUT', partOf('again', id, 1), { body: 'bytes' });
    const other = await send('PUT', partOf('again', id, 2), { body: 'bytez' });
    expect(two.headers.etag).toBe(one.headers.etag);
    expect(other.headers.etag).not.toBe(one.headers.etag);
    expect(one.headers.etag).not.toMatch(/^"[0-9a-f]{32}"$/); // it is no MD5
    const listed = await send('GET', `/ups/again?uploadId=${id}`);
    expect(listed.body).toContain(`<ETag>&quot;${one.headers.etag?.slice(1, -1)}&quot;</ETag>`);
    const done = await send('POST', `/ups/again?uploadId=${id}`, completion(one.headers.etag));
    expect(done.status).toBe(200);
  });

  test('of a copy is that of the same bytes sent, and of a range follows from what was copied', async () => {
    await send('PUT', '/ups/original', { body: 'original' });
    const id = await begin('copies');
    const etagOf = async (n: number, headers: Record<string, string>): Promise<string> => {
      const source = { 'x-amz-copy-source': '/ups/original', ...headers };
      const { body } = await send('PUT', partOf('copies', id, n), { headers: source });
      return /<ETag>&quot;([^&]+)/.exec(body)?.[1] as string;
    };
    const sent = await send('PUT', partOf('copies', id, 9), { body: 'original' });
    expect(`"${await etagOf(1, {})}"`).toBe(sent.headers.etag);
    const range = { 'x-amz-copy-source-range': 'bytes=1-3' };
    expect(await etagOf(1, range)).toBe(await etagOf(1, range));
    expect(await etagOf(1, range)).not.toBe(
      await etagOf(1, { 'x-amz-copy-source-range': 'bytes=1-4' }),
    );
  });

  test('that is of another content completes nothing', async () => {
    const id = await begin('other');
    const old = await send('PUT', partOf('other', id, 1), { body: 'old' });
    await send('PUT', partOf('other', id, 1), { body: 'new' });
    const done = await send('POST', `/ups/other?uploadId=${id}`, completion(old.headers.etag));
    expect(done).toMatchObject({ status: 400, code: 'InvalidPart' });
  });
});

describe('an upload that declares a checksum', () => {
  test.each([
    ['CRC32', 'FULL_OBJECT'],
    ['CRC64NVME', 'FULL_OBJECT'],
    ['SHA256', 'COMPOSITE'],
    ['CRC32C', 'COMPOSITE'],
  ])(
    '%s %s has it in each answer, also of parts that came without and of copies',
    async (name, type) => {
      await send('PUT', '/ups/part', { body: Buffer.alloc(5 * MiB, 1) });
      const key = `sum-${name}`;
      const declared = { 'x-amz-checksum-algorithm': name, 'x-amz-checksum-type': type };
      const begun = await send('POST', `/ups/${key}?uploads`, { headers: declared });
      expect(begun.headers).toMatchObject(declared);
      const id = /<UploadId>([^<]+)/.exec(begun.body)?.[1] as string;
      const copied = await send('PUT', partOf(key, id, 1), {
        headers: { 'x-amz-copy-source': '/ups/part' },
      });
      expect(copied.body).toContain(`<Checksum${name}>`);
      const ranged = await send('PUT', partOf(key, id, 2), {
        headers: { 'x-amz-copy-source': '/ups/part', 'x-amz-copy-source-range': 'bytes=0-5242879' },
      });
      expect(ranged.body.replace(/<LastModified>.*?</, '<')).toBe(
        copied.body.replace(/<LastModified>.*?</, '<'),
      );
      const sent = await send('PUT', partOf(key, id, 3), { body: Buffer.alloc(5 * MiB, 1) });
      const value = new RegExp(`<Checksum${name}>([^<]+)`).exec(copied.body)?.[1];
      expect(sent.headers[`x-amz-checksum-${name.toLowerCase()}`]).toBe(value);
      const listed = await send('GET', `/ups/${key}?uploadId=${id}`);
      expect(listed.body).toContain(`<ChecksumType>${type}</ChecksumType>`);
      expect(listed.body.match(new RegExp(`<Checksum${name}>`, 'g'))).toHaveLength(3);
      const etag = /<ETag>([^<]+)/.exec(copied.body)?.[1];
      const path = `/ups/${key}?uploadId=${id}`;
      // Each part's must be told then, as S3 has it.
      const without = await send('POST', path, completion(etag, etag, 'none'));
      expect(without.code).toBe(type === 'COMPOSITE' ? 'InvalidRequest' : 'InvalidPart');
      const claimed = { [`x-amz-checksum-${name.toLowerCase()}`]: 'bad' };
      const part = (n: number): string =>
        `<Part><PartNumber>${n}</PartNumber><ETag>${etag}</ETag><Checksum${name}>${value}</Checksum${name}></Part>`;
      const body = `<CompleteMultipartUpload>${part(1)}${part(2)}${part(3)}</CompleteMultipartUpload>`;
      const bad = await send('POST', path, { body, headers: claimed });
      expect(bad.code).toBe('InvalidRequest');
      const done = await send('POST', path, { body });
      expect(done.body).toContain(`<ChecksumType>${type}</ChecksumType>`);
      expect(done.body).toContain(`<Checksum${name}>`);
      const head = await send('HEAD', `/ups/${key}`, {
        headers: { 'x-amz-checksum-mode': 'ENABLED' },
      });
      expect(head.headers['x-amz-checksum-type']).toBe(type);
      const ofParts = { 'x-amz-object-attributes': 'ObjectParts' };
      const attributes = await send('GET', `/ups/${key}?attributes`, { headers: ofParts });
      expect(attributes.body.split(`<Checksum${name}>${value}<`)).toHaveLength(4);
      const second = await send('HEAD', `/ups/${key}?partNumber=2`, {
        headers: { 'x-amz-checksum-mode': 'ENABLED' },
      });
      expect(second.headers[`x-amz-checksum-${name.toLowerCase()}`]).toBe(value);
      await send('PUT', `/ups/${key}-copy`, { headers: { 'x-amz-copy-source': `/ups/${key}` } });
      const copy = await send('GET', `/ups/${key}-copy?attributes`, { headers: ofParts });
      expect(copy.body).not.toContain('<ObjectParts>');
    },
  );

  test('by a type alone is refused', async () => {
    const headers = { 'x-amz-checksum-type': 'FULL_OBJECT' };
    expect((await send('POST', '/ups/typed?uploads', { headers })).code).toBe('InvalidRequest');
  });

  test('completes with no other checksum of a part than was stored', async () => {
    const id = await begin('unsummed');
    const { headers } = await send('PUT', partOf('unsummed', id, 1), { body: 'x' });
    const listed = `<Part><PartNumber>1</PartNumber><ETag>${headers.etag}</ETag><ChecksumSHA256>${'A'.repeat(43)}=</ChecksumSHA256></Part>`;
    const done = await send('POST', `/ups/unsummed?uploadId=${id}`, {
      body: `<CompleteMultipartUpload>${listed}</CompleteMultipartUpload>`,
    });
    expect(done.code).toBe('InvalidPart');
  });
});

describe('what can never fit, of which SDKs send again what is answered 507', () => {
  const body = Buffer.alloc(2 * MiB, 1);
  const tooLarge = { status: 400, code: 'EntityTooLarge' };
  let small: TestNode;
  beforeAll(async () => {
    small = await openTestNode({ memoryLimit: 1 * MiB, diskLimit: 1 * MiB });
    await send('PUT', '/ups', { headers: { 'x-ebb-preset': 'ephemeral' } }, small);
  });
  afterAll(async () => await small[Symbol.asyncDispose]());

  test('is too large, as an object and as a part', async () => {
    expect(await send('PUT', '/ups/k', { body }, small)).toMatchObject(tooLarge);
    const begun = await send('POST', '/ups/k?uploads', {}, small);
    const id = /<UploadId>([^<]+)/.exec(begun.body)?.[1] as string;
    expect(await send('PUT', partOf('k', id, 1), { body }, small)).toMatchObject(tooLarge);
  });

  test('is not what a full node refuses, which may have room later', () => {
    const full = { status: 507, code: 'StorageFull' };
    expect(toS3Error(new StoreError('tier_full'))).toMatchObject(full);
  });
});
