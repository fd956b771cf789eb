/** Copies whose source others replace meanwhile, on a real node. Fault: a write of the source just before the copy is made. */
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { type RawAnswer, sendRaw } from '../testing/sign-s3.ts';
import { openTestNode, type TestNode } from '../testing/test-node.ts';

let node: TestNode;
beforeAll(async () => {
  node = await openTestNode();
  await send('PUT', '/copies', { headers: { 'x-ebb-preset': 'ephemeral' } });
});
afterAll(async () => await node[Symbol.asyncDispose]());
beforeEach(async () => {
  await send('PUT', '/copies/source', { body: 'v0' });
});

interface Sent {
  readonly body?: string;
  readonly headers?: Record<string, string>;
}
async function send(method: string, path: string, sent: Sent = {}): Promise<RawAnswer> {
  const { body = '', headers = {} } = sent;
  return await sendRaw({ method, url: new URL(path, node.node.s3Url as string), body, headers });
}

async function copy(path: string, headers: Record<string, string>): Promise<RawAnswer> {
  return await send('PUT', path, {
    headers: { 'x-amz-copy-source': '/copies/source', ...headers },
  });
}

/** The source is replaced before each of the next copies, as often as told. */
async function replacing(times: number, work: () => Promise<void>): Promise<void> {
  const { store } = node.node.services;
  const compose = store.compose.bind(store);
  let replaced = 0;
  const spy = vi.spyOn(store, 'compose').mockImplementation(async (...args) => {
    if (replaced < times) await send('PUT', '/copies/source', { body: `v${++replaced}` });
    return await compose(...args);
  });
  try {
    await work();
  } finally {
    spy.mockRestore();
  }
}

async function beginUpload(): Promise<string> {
  const begun = await send('POST', '/copies/parts?uploads');
  const uploadId = /<UploadId>([^<]+)/.exec(begun.body)?.[1] as string;
  return `/copies/parts?partNumber=1&uploadId=${uploadId}`;
}

const SHA256 = { 'x-amz-checksum-algorithm': 'SHA256' };

describe.each([
  { what: 'CopyObject', target: () => Promise.resolve('/copies/target'), headers: {} },
  {
    what: 'CopyObject that reads',
    target: () => Promise.resolve('/copies/target'),
    headers: SHA256,
  },
  { what: 'UploadPartCopy', target: beginUpload, headers: {} },
])('$what', ({ target, headers }) => {
  test('copies what replaced its source meanwhile', async () => {
    const path = await target();
    await replacing(3, async () => {
      expect(await copy(path, headers)).toMatchObject({ status: 200 });
    });
    if (path === '/copies/target') expect((await send('GET', path)).body).toBe('v3');
  });

  test('says that the condition failed where it names the version that was replaced', async () => {
    const { etag } = (await send('HEAD', '/copies/source')).headers;
    const named = { ...headers, 'x-amz-copy-source-if-match': String(etag) };
    const path = await target();
    await replacing(1, async () => {
      expect(await copy(path, named)).toMatchObject({ status: 412 });
    });
  });

  test('ends with SlowDown where its source is replaced without a pause', async () => {
    const path = await target();
    await replacing(100, async () => {
      const answer = await copy(path, headers);
      expect(answer).toMatchObject({ status: 503 });
      expect(answer.body).toContain('<Code>SlowDown</Code>');
    });
  });
});

test('relocating what lies below a prefix passes over what goes meanwhile', async () => {
  const { store } = node.node.services;
  for (const name of ['a', 'b', 'c']) await send('PUT', `/copies/below/${name}`, { body: name });
  const relocate = store.relocate.bind(store);
  const spy = vi.spyOn(store, 'relocate').mockImplementation(async (ref, tier) => {
    if (ref.key === 'below/a') await store.delete({ bucket: 'copies', key: 'below/b' });
    return await relocate(ref, tier);
  });
  const answer = await fetch(`${node.node.url}/v1/relocate`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ bucket: 'copies', key: 'below/', tier: 'disk', prefix: true }),
  });
  spy.mockRestore();
  expect(await answer.json()).toEqual({ objects: 2, sizeBytes: 2 });
});
