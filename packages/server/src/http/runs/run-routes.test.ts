/** Runs that another node left in tier 2, over HTTP, on real nodes. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB, type SnapshotBegun, type SnapshotInfo } from '@ebb/protocol';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { buildImage } from '../../../../checkpoint/src/testing/build-image.ts';
import { openTestNode, type TestNode } from '../../testing/test-node.ts';

const SNAPSHOTS = '/v1/runs/gpt/snapshots';
const IMAGE = buildImage({ weights: Buffer.alloc(MiB, 'weights ') });

let first: TestNode;
let next: TestNode;
let remote: string;

/** `first` is gone but for its tier 2, which holds steps 1 and 2. */
beforeEach(async () => {
  first = await openTestNode();
  remote = join(first.directory, 'data/remote');
  for (const step of [1, 2]) {
    const at = `${SNAPSHOTS}/${step}`;
    const part = { session: 's1', part: 'rank-00000' };
    const begin = { ...part, imageBytes: IMAGE.length };
    const begun = (await first.json('POST', `${at}/begin`, begin)).value as SnapshotBegun;
    if (begun.decision !== 'go') throw new Error(begun.reason);
    const path = `/v1/buckets/${begun.bucket}/objects/${begun.key}`;
    expect((await first.http('PUT', path, { body: IMAGE })).status).toBeLessThan(300);
    const commit = { session: 's1', parts: [part.part] };
    expect((await first.json('POST', `${at}/commit`, commit)).status).toBe(200);
    expect((await first.json('GET', `${at}/wait?for=remote`)).status).toBe(200);
  }
  await first.stop();
  next = await openTestNode({ remote: `file://${remote}` });
});
afterEach(async () => {
  await next[Symbol.asyncDispose]();
  await first[Symbol.asyncDispose]();
});

async function steps(): Promise<number[]> {
  const { snapshots = [] }: { snapshots?: SnapshotInfo[] } = (await next.json('GET', SNAPSHOTS))
    .value;
  return snapshots.map(({ step }) => step);
}

test('an import takes in the snapshots of a run, and says what it did', async () => {
  const runs = [{ run: 'gpt', imported: 2, unchanged: 0, latestStep: 2 }];
  expect(await next.json('POST', '/v1/runs/import', { run: 'gpt' })).toEqual({
    ...{ status: 200, value: { runs, refused: [] } },
  });
  expect(await steps()).toEqual([2, 1]);
  expect(await next.json('POST', '/v1/runs/import')).toMatchObject({
    value: { runs: [{ imported: 0, unchanged: 2 }] },
  });
});

test('a sync of the bucket imports them as well; what is not whole is named', async () => {
  await rm(join(remote, 'checkpoints/gpt/000000000001/rank-00000'));
  await next.json('PUT', '/v1/buckets/checkpoints', { preset: 'buffered' });
  const { value } = await next.json('POST', '/v1/buckets/checkpoints/sync');
  const problem = 'it names gpt/000000000001/rank-00000, which is not there';
  const keys = ['gpt/000000000001/manifest.json', 'gpt/000000000002/manifest.json'];
  expect(value).toMatchObject({
    ...{ added: 2, refused: [] },
    checkpoints: { runs: [], refused: keys.map((key) => ({ key, problem })) },
  });
  expect(await next.json('GET', SNAPSHOTS)).toMatchObject({ status: 404 });
});

test('names that cannot be, and buckets that have no tier 2, are refused', async () => {
  const imported = async (query: string, body?: object): Promise<unknown> =>
    await next.json('POST', `/v1/runs/import${query}`, body);
  expect(await imported('', { run: 'a/b' })).toMatchObject({ status: 400 });
  expect(await imported('?bucket=none')).toMatchObject({ status: 404 });
  await next.json('PUT', '/v1/buckets/mem', { preset: 'ephemeral' });
  expect(await imported('?bucket=mem')).toMatchObject({
    value: { error: { code: 'not_mirrored' } },
  });
});

test('a plan has room for URLs of an object store, and none for what lies in a directory', async () => {
  await next.json('POST', '/v1/runs/import');
  const plan = `${SNAPSHOTS}/2/plan`;
  for (const query of ['', '?direct=false', '?direct=true', '?direct=true&digests=false'])
    expect(await next.json('GET', plan + query)).toMatchObject({
      ...{ status: 200, value: { parts: [{ image: null, direct: [] }] } },
    });
  expect(await next.json('GET', `${plan}?direct=perhaps`)).toMatchObject({ status: 400 });
  const { headers } = await next.http('GET', `${plan}?direct=true`);
  expect(headers['cache-control']).toBe('no-store');
});
