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
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';

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
  const node = await startNodeProcess({ args: [`--remote=${pathToFileURL(remoteDir).href}`] });
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
  return { node, remoteDir };
}

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
    for (const name of await readdir(node.memoryDir))
      await rm(join(node.memoryDir, name), { recursive: true });
    await node.start();
    await using client = await openClient({ node: node.unixUrl });
    expect(await fates(client)).toEqual({
      memory: 'data_lost',
      'memory, waited to disk': 'kept',
      disk: 'kept',
      remote: 'kept',
      'disk, waited to remote': 'kept',
    });
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
