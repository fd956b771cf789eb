/** Checkpoints while the object store is away, while nodes are killed, and when memory is full. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type EbbClient, openClient } from '@ebb/client';
import { type Manifest, MiB, manifestSchema, type SnapshotInfo } from '@ebb/protocol';
import { codeOf } from '@ebb/testkit';
import { afterEach, expect, test } from 'vitest';
import { buildImage } from '../../checkpoint/src/testing/build-image.ts';
import {
  type NodeProcess,
  type NodeProcessOptions,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';
import { runEbb } from './support/ebb-command.ts';
import { startTier2Store, type Tier2Store } from './support/tier2-store.ts';

const RUN = 'gpt';
const used: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of used.splice(0).reverse()) await one[Symbol.asyncDispose]();
});

async function open(
  options: NodeProcessOptions,
): Promise<{ node: NodeProcess; client: EbbClient }> {
  const node = await startNodeProcess({ memoryLimit: '256MiB', ...options });
  const client = await openClient({ node: node.unixUrl });
  used.push(node, { [Symbol.asyncDispose]: async () => await client.close() });
  return { node, client };
}

async function openStore(): Promise<Tier2Store> {
  const store = await startTier2Store();
  used.push(store);
  return store;
}

/** Of which a part changes with the step. */
function imageOf(step: number, mib = 12): Buffer {
  const fixed = Buffer.alloc((mib - 2) * MiB, 'weights that stay as they are ');
  return buildImage({ fixed, changing: Buffer.alloc(2 * MiB, `weights of step ${step} `) });
}

async function post<T>(node: NodeProcess, path: string, body: unknown): Promise<T> {
  const answer = await fetch(`${node.url}/v1/runs/${RUN}/snapshots/${path}`, {
    ...{ method: 'POST', headers: { 'content-type': 'application/json' } },
    body: JSON.stringify(body),
  });
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text) as T;
  throw new Error(`${answer.status} ${text}`);
}

async function save(
  { node, client }: { node: NodeProcess; client: EbbClient },
  step: number,
  image = imageOf(step),
  session = 'life',
): Promise<SnapshotInfo> {
  const part = 'rank-00000';
  const begin = { session, part, imageBytes: image.length };
  const begun = await post<{ bucket: string; key: string }>(node, `${step}/begin`, begin);
  await client.put(begun.bucket, begun.key, image);
  return await post(node, `${step}/commit`, { session, parts: [part] });
}

/** As the node gives it. */
async function expectImage(client: EbbClient, step: number, image: Buffer): Promise<void> {
  const plan = await client.snapshots.plan(RUN, step);
  await using reader = client.snapshots.openPart(plan, 'rank-00000');
  const found = Buffer.alloc(image.length);
  expect(await reader.read(found, 0)).toBe(image.length);
  expect(found.equals(image)).toBe(true);
}

/** As somebody who has the object store alone puts the image together. */
async function readFromStore(store: Tier2Store, step: number): Promise<Buffer> {
  const name = `checkpoints/${RUN}/${String(step).padStart(12, '0')}/manifest.json`;
  const manifest: Manifest = manifestSchema.parse(JSON.parse((await store.get(name)).toString()));
  const pieces: Buffer[] = [];
  for (const [, length, key, offset] of manifest.parts[0]?.runs ?? [])
    pieces.push((await store.get(`checkpoints/${key}`)).subarray(offset, offset + length));
  return Buffer.concat(pieces);
}

test('the object store is away: snapshots are made and stored as before, and all of them come to it afterwards', async () => {
  const store = await openStore();
  const at = await open(store.options());
  await save(at, 1);
  await at.client.snapshots.wait(RUN, 1);
  await store.node.kill();
  for (const step of [2, 3, 4]) {
    await save(at, step);
    const stored = await at.client.snapshots.wait(RUN, step, { for: 'disk', timeoutMs: 30_000 });
    expect(stored.durability).toBe('disk');
  }
  const waiting = at.client.snapshots.wait(RUN, 4, { timeoutMs: 500 });
  expect(await codeOf(waiting)).toBe('timed_out');
  // The node goes, too, with all that it has to send.
  await at.node.kill();
  await at.node.start();
  await store.node.start();
  for (const step of [2, 3, 4]) {
    await at.client.snapshots.wait(RUN, step, { timeoutMs: 60_000 });
    expect((await readFromStore(store, step)).equals(imageOf(step))).toBe(true);
  }
  const { newBytes } = await at.client.snapshots.get(RUN, 4);
  expect(newBytes).toBeLessThan(3 * MiB);
}, 180_000);

test('who reads the object store alone never sees a manifest before all that it names', async () => {
  const store = await openStore();
  const at = await open(store.options());
  const seen: string[] = [];
  let isOver = false;
  const watching = (async () => {
    while (!isOver) {
      for (const name of (await store.names()).filter((one) => one.endsWith('manifest.json'))) {
        const step = Number(name.split('/')[2]);
        if (seen.includes(name)) continue;
        expect((await readFromStore(store, step)).equals(imageOf(step))).toBe(true);
        seen.push(name);
      }
    }
  })();
  for (let step = 1; step <= 5; step++) {
    await save(at, step);
    if (step === 3) {
      await at.node.kill();
      await at.node.start();
    }
  }
  await at.client.snapshots.wait(RUN, 5, { timeoutMs: 60_000 });
  for (let step = 1; step < 5; step++)
    await at.client.snapshots.wait(RUN, step, { timeoutMs: 60_000 });
  isOver = true;
  await watching;
  expect(seen.length).toBeGreaterThan(0);
}, 180_000);

test('an image that can never fit is refused with the sizes; one that does not fit now waits, and others stay as they are', async () => {
  const at = await open({ memoryLimit: '64MiB' });
  const large = { session: 'life', part: 'rank-00000', imageBytes: 80 * MiB };
  const refused = await post(at.node, '1/begin', large).catch(String);
  expect(refused).toContain('507');
  expect(refused).toContain(`${80 * MiB} bytes can never fit the memory tier of ${64 * MiB} bytes`);
  await save(at, 1, imageOf(1, 28));
  await save(at, 2, imageOf(2, 28));
  // Both slots are taken until the first is stored; then its image goes, and there is room for the third.
  await save(at, 3, imageOf(3, 28));
  for (const step of [1, 2, 3]) {
    await at.client.snapshots.wait(RUN, step, { for: 'disk' });
    await expectImage(at.client, step, imageOf(step, 28));
  }
}, 120_000);

test('a node that is stopped stores what is in memory alone, and it is there after a reboot', async () => {
  const store = await openStore();
  const at = await open(store.options());
  await save(at, 1);
  await at.node.stop();
  await rm(at.node.memoryDir, { recursive: true, force: true });
  await at.node.start();
  expect((await at.client.snapshots.get(RUN, 'latest')).step).toBe(1);
  await expectImage(at.client, 1, imageOf(1));
}, 120_000);

test.each(['a directory', 'an object store'])(
  'a node is lost with all that it had: a new one takes the run in from tier 2, and the job goes on (%s)',
  async (tier) => {
    const dir = await mkdtemp(join(tmpdir(), 'ebb-lost-node-'));
    used.push({
      [Symbol.asyncDispose]: async () => await rm(dir, { recursive: true, force: true }),
    });
    const options =
      tier === 'a directory'
        ? { args: [`--remote=file://${join(dir, 'remote')}`] }
        : (await openStore()).options();
    const lost = await open(options);
    for (const step of [1, 2, 3]) {
      await save(lost, step);
      await lost.client.snapshots.wait(RUN, step, { timeoutMs: 60_000 });
    }
    const before = await lost.client.snapshots.list(RUN);
    await lost.node.kill();
    await rm(lost.node.dataDir, { recursive: true, force: true });
    await rm(lost.node.memoryDir, { recursive: true, force: true });

    const at = await open(options);
    const ebb = async (...words: string[]): Promise<string> => {
      const ran = await runEbb(words, { EBB_NODE: at.node.url });
      expect(ran, ran.stderr).toMatchObject({ code: 0 });
      return ran.stdout;
    };
    await ebb('buckets', 'create', 'checkpoints', '--preset', 'buffered');
    expect(await ebb('sync', 'checkpoints')).toContain(
      'run gpt: 3 snapshots imported; the latest is step 3',
    );
    const imported = await at.client.snapshots.list(RUN);
    expect(imported).toEqual(before.map((one) => ({ ...one, inMemory: false })));
    expect((await ebb('checkpoint', 'latest', RUN)).trim()).toBe('3');
    await ebb('checkpoint', 'restore', RUN, '--to', join(dir, 'restored'));
    expect((await readFile(join(dir, 'restored/rank-00000.image'))).equals(imageOf(3))).toBe(true);
    for (const step of [1, 2]) await expectImage(at.client, step, imageOf(step));

    await save(at, 4, imageOf(4), 'next-life');
    const { newBytes } = await at.client.snapshots.wait(RUN, 4, { timeoutMs: 60_000 });
    expect(newBytes).toBeLessThan(3 * MiB);
    await at.client.runs.put(RUN, { keepLast: 2 });
    await expect
      .poll(async () => (await at.client.snapshots.list(RUN)).map(({ step }) => step))
      .toEqual([4, 3]);
    // Its records are its own from here on.
    await at.node.kill();
    await at.node.start();
    for (const step of [3, 4]) await expectImage(at.client, step, imageOf(step));
    expect(await ebb('checkpoint', 'verify', RUN)).toContain('0 broken ranges');
  },
  180_000,
);
