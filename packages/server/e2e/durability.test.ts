/**
 * The table of promises (ARCHITECTURE.md), row by row, with a real daemon that is killed and really loses what a host loses.
 *
 * What one host can show: the death of the daemon; the loss of memory, as a reboot loses it; the loss of the node's disk. Not
 * shown: that the disk itself kept what it said it had synced.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type EbbClient, openClient } from '@ebb/client';
import { isStoreError } from '@ebb/protocol';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  type NodeProcess,
  type NodeProcessOptions,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';
import { startTier2Store, type Tier2Store } from './support/tier2-store.ts';

/** Objects by what was promised. Nothing of these buckets leaves the node unless it was asked for. */
const PROMISES = {
  memory: { bucket: 'fast', key: 'memory' },
  'memory, waited to disk': { bucket: 'fast', key: 'waited' },
  disk: { bucket: 'kept', key: 'disk' },
  remote: { bucket: 'kept', key: 'remote' },
  'disk, waited to remote': { bucket: 'mirrored', key: 'waited' },
} as const;
type Promised = keyof typeof PROMISES;
const ALL = Object.keys(PROMISES) as Promised[];

const bytesOf = (promised: Promised): Buffer => Buffer.alloc(20_000, promised);

interface Written {
  readonly node: NodeProcess;
  readonly remoteDir: string;
}

/** A node with an object for each promise. Tier 2 is a directory elsewhere. */
async function openWritten(): Promise<Written> {
  const remoteDir = await mkdtemp(join(tmpdir(), 'ebb-remote-'));
  onTestFinished(async () => await rm(remoteDir, { recursive: true, force: true }));
  const args = [`--remote=${pathToFileURL(remoteDir).href}`];
  return { node: await startWritten({ args }), remoteDir };
}

async function startWritten(options: NodeProcessOptions): Promise<NodeProcess> {
  const node = await startNodeProcess(options);
  onTestFinished(async () => await node[Symbol.asyncDispose]());
  await using client = await openClient({ node: node.unixUrl });
  await client.buckets.create('fast', { preset: 'ephemeral' });
  await client.buckets.create('kept', { preset: 'buffered', mirror: false });
  await client.buckets.create('mirrored');
  for (const promised of ALL) {
    const { bucket, key } = PROMISES[promised];
    const ack = promised === 'remote' ? 'remote' : undefined;
    const { durability } = await client.put(bucket, key, bytesOf(promised), { ack });
    expect(durability).toBe(/^\w+/.exec(promised)?.[0]);
  }
  await client.wait('fast', 'waited', { for: 'disk' });
  await client.wait('mirrored', 'waited', { for: 'remote' });
  return node;
}

/** As the host loses what is in memory. */
async function loseMemory(node: NodeProcess): Promise<void> {
  for (const name of await readdir(node.memoryDir))
    await rm(join(node.memoryDir, name), { recursive: true });
}

const AFTER_REBOOT: Record<Promised, string> = {
  memory: 'data_lost',
  'memory, waited to disk': 'kept',
  disk: 'kept',
  remote: 'kept',
  'disk, waited to remote': 'kept',
};

/** `kept`, or the code that a reader gets. Other bytes than were written fail the test. */
async function fates(client: EbbClient): Promise<Record<Promised, string>> {
  const found: Partial<Record<Promised, string>> = {};
  for (const promised of ALL) {
    const { bucket, key } = PROMISES[promised];
    try {
      const bytes = await (await client.get(bucket, key)).bytes();
      expect(Buffer.compare(bytes, bytesOf(promised))).toBe(0);
      found[promised] = 'kept';
    } catch (error) {
      if (!isStoreError(error)) throw error;
      found[promised] = error.code;
    }
  }
  return found as Record<Promised, string>;
}

describe('what survives', () => {
  test('the death of the daemon (kill -9): everything', async () => {
    const { node } = await openWritten();
    await node.kill();
    await node.start();
    await using client = await openClient({ node: node.unixUrl });
    expect(await fates(client)).toEqual(Object.fromEntries(ALL.map((name) => [name, 'kept'])));
  });

  test('the loss of memory: all but what was promised memory alone, which is reported as lost', async () => {
    const { node } = await openWritten();
    await node.kill();
    await loseMemory(node);
    await node.start();
    await using client = await openClient({ node: node.unixUrl });
    expect(await fates(client)).toEqual(AFTER_REBOOT);
  });

  test('the loss of the node: what tier 2 was promised, as plain files under their own names', async () => {
    const { node, remoteDir } = await openWritten();
    await node.kill();
    await rm(node.dataDir, { recursive: true });
    await rm(node.memoryDir, { recursive: true });
    const file = (promised: Promised): string =>
      join(remoteDir, PROMISES[promised].bucket, PROMISES[promised].key);
    for (const promised of ['remote', 'disk, waited to remote'] as const)
      expect(Buffer.compare(readFileSync(file(promised)), bytesOf(promised))).toBe(0);
    for (const promised of ['memory', 'memory, waited to disk', 'disk'] as const)
      expect(existsSync(file(promised))).toBe(false);
  });
});

describe('what survives, with tier 2 on an object store', () => {
  const openStored = async (): Promise<{ node: NodeProcess; store: Tier2Store }> => {
    const store = await startTier2Store();
    onTestFinished(async () => await store[Symbol.asyncDispose]());
    return { node: await startWritten(store.options()), store };
  };

  test('daemon killed, in the middle of the answer to what it was asked last: everything', async () => {
    const { node } = await openStored();
    await using before = await openClient({ node: node.unixUrl });
    const unanswered = before.put('mirrored', 'last', Buffer.alloc(1_000_000), { ack: 'remote' });
    await Promise.all([unanswered.catch(() => undefined), node.kill().then(() => node.start())]);
    await using client = await openClient({ node: node.unixUrl });
    expect(await fates(client)).toEqual(Object.fromEntries(ALL.map((name) => [name, 'kept'])));
  });

  test('host reboot: all but what was promised memory alone, which is reported as lost', async () => {
    const { node } = await openStored();
    await node.kill();
    await loseMemory(node);
    await node.start();
    await using client = await openClient({ node: node.unixUrl });
    expect(await fates(client)).toEqual(AFTER_REBOOT);
  });

  test('host gone, and all of its region but the store: a new node takes in by sync exactly what tier 2 was promised', async () => {
    const { node, store } = await openStored();
    await node.kill();
    await rm(node.dataDir, { recursive: true });
    await rm(node.memoryDir, { recursive: true });
    const promised = (['remote', 'disk, waited to remote'] as const).map((name) => PROMISES[name]);
    const names = promised.map(({ bucket, key }) => `${bucket}/${key}`);
    expect((await store.names()).toSorted()).toEqual(names.toSorted());
    const next = await startNodeProcess(store.options());
    onTestFinished(async () => await next[Symbol.asyncDispose]());
    await using client = await openClient({ node: next.unixUrl });
    for (const bucket of ['fast', 'kept', 'mirrored']) await client.buckets.create(bucket);
    let added = 0;
    for (const bucket of ['kept', 'mirrored']) added += (await client.sync(bucket)).added;
    expect(added).toBe(promised.length);
    expect(await fates(client)).toEqual({
      memory: 'not_found',
      'memory, waited to disk': 'not_found',
      disk: 'not_found',
      remote: 'kept',
      'disk, waited to remote': 'kept',
    });
  });
});
