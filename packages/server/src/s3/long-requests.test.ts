/** The longest honest requests against a real node, by how long they hold every other request up. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type RawAnswer, sendRaw } from '../testing/sign-s3.ts';
import { openTestNode, type TestNode } from '../testing/test-node.ts';
import { longestTurnMs, longestTurnOfTriesMs, TURN_MS_MAX } from '../testing/turns.ts';

const MiB = 1024 * 1024;
let node: TestNode;
beforeAll(async () => {
  node = await openTestNode();
  await send('PUT', '/long', { headers: { 'x-ebb-preset': 'ephemeral' } });
});
afterAll(async () => await node[Symbol.asyncDispose]());

interface Sent {
  readonly body?: string | Buffer;
  readonly headers?: Record<string, string>;
}
async function send(method: string, path: string, sent: Sent = {}): Promise<RawAnswer> {
  const { body = '', headers = {} } = sent;
  return await sendRaw({ method, url: new URL(path, node.node.s3Url as string), body, headers });
}

/** Many small changes of the store, in groups. */
async function inGroups(count: number, work: (n: number) => Promise<unknown>): Promise<void> {
  for (let from = 1; from <= count; from += 500)
    await Promise.all(
      Array.from({ length: Math.min(500, count - from + 1) }, (_, i) => work(from + i)),
    );
}

test('a thousand deletions in one request hold nothing up', async () => {
  const { store } = node.node.services;
  await send('PUT', '/long/source', { body: 'x' });
  const source = { bucket: 'long', key: 'source' };
  const name = (n: number): string => `d/${String(n).padStart(4, '0')}`;
  const objects = Array.from(
    { length: 1000 },
    (_, i) => `<Object><Key>${name(i + 1)}</Key></Object>`,
  );
  let answer = '';
  const body = `<Delete>${objects.join('')}</Delete>`;
  const longest = await longestTurnOfTriesMs(
    async () => {
      answer = (await send('POST', '/long?delete', { body })).body;
    },
    async () =>
      await inGroups(1000, async (n) => await store.copy(source, { bucket: 'long', key: name(n) })),
  );
  expect(answer.match(/<Deleted>/g)).toHaveLength(1000);
  expect(longest).toBeLessThan(TURN_MS_MAX);
});

test('a completion of ten thousand parts with checksums holds nothing up, and leaves no part', async () => {
  const { store } = node.node.services;
  await send('PUT', '/long/part', { body: Buffer.alloc(5 * MiB, 1) });
  const declared = { 'x-amz-checksum-algorithm': 'CRC32C', 'x-amz-checksum-type': 'FULL_OBJECT' };
  const begun = await send('POST', '/long/big?uploads', { headers: declared });
  const uploadId = /<UploadId>([^<]+)/.exec(begun.body)?.[1] as string;
  const path = `/long/big?uploadId=${uploadId}`;
  const copy = await send('PUT', `${path}&partNumber=1`, {
    headers: { 'x-amz-copy-source': '/long/part' },
  });
  const [, etag] = /<ETag>([^<]+)/.exec(copy.body) ?? [];
  const [, crc] = /<ChecksumCRC32C>([^<]+)/.exec(copy.body) ?? [];
  const hidden = { bucket: 'long!uploads' };
  const key = (n: number): string => `p/${uploadId}/${String(n).padStart(5, '0')}`;
  await inGroups(
    10_000,
    async (n) =>
      await store.compose({ ...hidden, key: key(n) }, [{ bucket: 'long', key: 'part' }], {}),
  );
  const parts = Array.from(
    { length: 10_000 },
    (_, i) =>
      `<Part><PartNumber>${i + 1}</PartNumber><ETag>${etag}</ETag><ChecksumCRC32C>${crc}</ChecksumCRC32C></Part>`,
  );
  const body = `<CompleteMultipartUpload>${parts.join('')}</CompleteMultipartUpload>`;
  let answer: RawAnswer | undefined;
  const longest = await longestTurnMs(async () => {
    answer = await send('POST', path, { body });
  });
  expect(answer?.body).toContain('<ChecksumType>FULL_OBJECT</ChecksumType>');
  // There is one try. All of it in one turn takes longer than this.
  expect(longest).toBeLessThan(5 * TURN_MS_MAX);
  const head = await send('HEAD', '/long/big?partNumber=10000');
  expect(head.headers).toMatchObject({ 'x-amz-mp-parts-count': '10000' });
  const left = await store.listRecords(hidden.bucket, {
    ...{ prefix: '', delimiter: '', startAfter: '', limit: 1 },
  });
  expect(left.objects).toEqual([]);
});
