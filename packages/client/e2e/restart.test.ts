/** The daemon is killed and started again under a client at work. */
import { randomBytes } from 'node:crypto';
import { type EbbClient, openClient } from '@ebb/client';
import { MiB } from '@ebb/protocol';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type NodeProcess, startNodeProcess } from './support/node-process.ts';

let node: NodeProcess;
beforeEach(async () => {
  node = await startNodeProcess();
});
afterEach(async () => {
  await node[Symbol.asyncDispose]();
});

describe.each(['auto', 'http'] as const)('by the path %s', (path) => {
  test('reads, puts and open handles go on after a kill -9 and a restart', async () => {
    await using client = await openClient({ node: node.unixUrl, path });
    await client.buckets.create('data', { preset: 'ephemeral' });
    const bytes = randomBytes(9 * MiB);
    await client.put('data', 'before', bytes);
    await using handle = await client.open('data', 'before');
    const got = await client.get('data', 'before');
    const body = got.body[Symbol.asyncIterator]();
    const chunks = [(await body.next()).value as Uint8Array];

    await node.kill();
    const putting = client.put('data', 'during', bytes); // nobody is there
    const starting = node.start();
    await putting;
    await starting;

    for (;;) {
      const { done, value } = await body.next();
      if (done === true) break;
      chunks.push(value);
    }
    expect(Buffer.compare(Buffer.concat(chunks), bytes)).toBe(0);
    const target = Buffer.alloc(bytes.length);
    await handle.read(target, 0);
    expect(Buffer.compare(target, bytes)).toBe(0);
    expect(Buffer.compare(await (await client.get('data', 'during')).bytes(), bytes)).toBe(0);
  });
});

test('a writer of the time before is told so, and its object never appears', async () => {
  await using client = await openClient({ node: node.unixUrl });
  await client.buckets.create('data', { preset: 'ephemeral' });
  await using writer = await client.stage('data', 'half', { reserveBytes: 8 * MiB });
  await writer.write(randomBytes(2 * MiB));
  await node.kill();
  await node.start();
  const rest = async (client: EbbClient): Promise<void> => {
    await client.status(); // the client has noticed
    await writer.write(randomBytes(MiB));
    await writer.commit();
  };
  await expect(rest(client)).rejects.toMatchObject({ code: 'node_unreachable' });
  await expect(client.head('data', 'half')).rejects.toMatchObject({ code: 'not_found' });
  expect((await client.status()).tiers.map(({ stagedBytes }) => stagedBytes)).toEqual([0, 0, 0]);
});

test('a node that stays away gives node_unreachable in bounded time', async () => {
  await using client = await openClient({ node: node.unixUrl, retry: { unreachableMs: 300 } });
  await node.kill();
  const startedMs = performance.now();
  await expect(client.status()).rejects.toMatchObject({ code: 'node_unreachable' });
  await expect(client.get('data', 'x')).rejects.toMatchObject({ code: 'node_unreachable' });
  expect(performance.now() - startedMs).toBeLessThan(20_000);
});
