import { crc32c } from '@ebb/core';
import { messages, OPS } from '@ebb/protocol';
import { codeOf } from '@ebb/testkit';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { openTestNode, type TestFrames, type TestNode } from '../testing/test-node.ts';

let node: TestNode;
let frames: TestFrames;
beforeAll(async () => {
  node = await openTestNode();
  await node.json('PUT', '/v1/buckets/names', { preset: 'ephemeral' });
  frames = await node.frames();
});
afterAll(async () => {
  await frames.close();
  await node[Symbol.asyncDispose]();
});

const bucket = 'names';
const body = Buffer.from('ebb');
beforeEach(async () => {
  await frames.call(OPS.deletePrefix, messages.deletePrefix.request.encode({ bucket, prefix: '' }));
  for (const key of ['a', 'a/', 'a/1', 'a/b/2', 'a/c/3', 'ab/4'])
    await node.http('PUT', `/v1/buckets/${bucket}/objects/${key}`, { body });
});

const list = async (options: Partial<messages.ListRequest> = {}) =>
  messages.listObjects.response.decode(
    await frames.call(
      OPS.listObjects,
      messages.listObjects.request.encode({
        ...{ bucket, prefix: '', delimiter: '', startAfter: '', limit: 100 },
        ...options,
      }),
    ),
  );
const keys = async (prefix = ''): Promise<readonly string[]> =>
  (await list({ prefix })).objects.map(({ key }) => key);
const rename = async (
  op: typeof OPS.rename | typeof OPS.renamePrefix,
  from: string,
  to: string,
  overwrite = false,
) =>
  await frames.call(
    op,
    messages.rename.request.encode({ bucket, from, toBucket: bucket, to, overwrite }),
  );

test('head tells what a listing tells', async () => {
  const row = messages.head.response.decode(
    await frames.call(OPS.head, messages.head.request.encode({ bucket, key: 'a/1' })),
  );
  expect(row).toMatchObject({
    ...{ key: 'a/1', sizeBytes: body.length, crc32c: crc32c(body), durability: 'memory' },
  });
  expect((await list({ prefix: 'a/1' })).objects).toEqual([row]);
  const missing = messages.head.request.encode({ bucket, key: 'a/none' });
  expect(await codeOf(frames.call(OPS.head, missing))).toBe('not_found');
  const elsewhere = messages.head.request.encode({ bucket: 'no-bucket', key: 'a' });
  expect(await codeOf(frames.call(OPS.head, elsewhere))).toBe('bucket_not_found');
});

test('a listing comes in pages, and rolls names up to common prefixes', async () => {
  const first = await list({ prefix: 'a/', delimiter: '/', limit: 3 });
  expect(first.objects.map(({ key }) => key)).toEqual(['a/', 'a/1']);
  expect([first.prefixes, first.next]).toEqual([['a/b/'], 'a/b/']);
  const rest = await list({ prefix: 'a/', delimiter: '/', startAfter: 'a/b/' });
  expect([rest.objects, rest.prefixes, rest.next]).toEqual([[], ['a/c/'], undefined]);
  for (const limit of [0, 10_001]) expect(await codeOf(list({ limit }))).toBe('request_invalid');
});

test('a rename keeps the version, and takes no name that is taken unless it is told to', async () => {
  const before = (await list({ prefix: 'a/1' })).objects[0];
  expect(await codeOf(rename(OPS.rename, 'a/1', 'ab/4'))).toBe('already_exists');
  const renamed = messages.rename.response.decode(await rename(OPS.rename, 'a/1', 'ab/4', true));
  expect(renamed).toEqual({ ...before, key: 'ab/4' });
  expect(await codeOf(rename(OPS.rename, 'a/1', 'z'))).toBe('not_found');
});

test('a prefix is renamed whole or not at all', async () => {
  await node.http('PUT', `/v1/buckets/${bucket}/objects/z/c/3`, { body });
  expect(await codeOf(rename(OPS.renamePrefix, 'a/', 'z/'))).toBe('already_exists');
  expect(await keys('a/')).toEqual(['a/', 'a/1', 'a/b/2', 'a/c/3']);
  const answer = await rename(OPS.renamePrefix, 'a/', 'z/', true);
  expect(messages.renamePrefix.response.decode(answer).objects).toBe(4);
  expect(await keys()).toEqual(['a', 'ab/4', 'z/', 'z/1', 'z/b/2', 'z/c/3']);
});

test('a deletion says whether there was anything', async () => {
  const one = messages.deleteObject.request.encode({ bucket, key: 'a/', ifMatch: '' });
  for (const deleted of [true, false])
    expect(messages.deleteObject.response.decode(await frames.call(OPS.deleteObject, one))).toEqual(
      { deleted },
    );
  const all = messages.deletePrefix.request.encode({ bucket, prefix: 'a/' });
  expect(messages.deletePrefix.response.decode(await frames.call(OPS.deletePrefix, all))).toEqual({
    objects: 3,
    sizeBytes: 3 * body.length,
  });
  expect(await keys()).toEqual(['a', 'ab/4']);
  const elsewhere = messages.deletePrefix.request.encode({ bucket: 'no-bucket', prefix: '' });
  expect(await codeOf(frames.call(OPS.deletePrefix, elsewhere))).toBe('bucket_not_found');
});

test('a deletion under an ETag takes that object and no other', async () => {
  const remove = async (key: string, ifMatch: string) =>
    messages.deleteObject.response.decode(
      await frames.call(
        OPS.deleteObject,
        messages.deleteObject.request.encode({ bucket, key, ifMatch }),
      ),
    );
  const old = (await list({ prefix: 'a/1' })).objects[0]?.etag as string;
  await node.http('PUT', `/v1/buckets/${bucket}/objects/a/1`, { body: 'newer' });
  const newer = (await list({ prefix: 'a/1' })).objects[0]?.etag as string;
  expect(await codeOf(remove('a/1', old))).toBe('precondition_failed');
  expect(await keys('a/1')).toEqual(['a/1']);
  expect(await remove('a/1', newer)).toEqual({ deleted: true });
  expect(await keys('a/1')).toEqual([]);
});
