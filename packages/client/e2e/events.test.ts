/** Events and waiting through the client, against a real daemon that is killed under it. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openClient } from '@ebb/client';
import type { ObjectEvent } from '@ebb/protocol';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type NodeProcess, startNodeProcess } from './support/node-process.ts';

const hello = Buffer.from('hello');
let node: NodeProcess;
beforeEach(async () => {
  node = await startNodeProcess();
});
afterEach(async () => {
  await node[Symbol.asyncDispose]();
});

async function take(
  events: AsyncIterable<ObjectEvent>,
  enough: (taken: readonly ObjectEvent[]) => boolean,
): Promise<ObjectEvent[]> {
  const taken: ObjectEvent[] = [];
  for await (const event of events) {
    taken.push(event);
    if (enough(taken)) break;
  }
  return taken;
}

describe('events', () => {
  test('come as they happen, with where the bytes are', async () => {
    await using client = await openClient({ node: node.unixUrl });
    await client.buckets.create('data');
    const events = client.events({ bucket: 'data', after: 0 });
    const { version } = await client.put('data', 'a', hello);
    const taken = await take(events, (so) => so.some(({ durability }) => durability === 'remote'));
    expect(taken).toEqual([
      expect.objectContaining({ type: 'created', bucket: 'data', key: 'a', version, sizeBytes: 5 }),
      expect.objectContaining({ type: 'tier', durability: 'remote', tiers: ['disk', 'remote'] }),
    ]);
    expect(events.lastId).toBe(taken[1]?.id);
  });

  test.each(['kill', 'stop'] as const)(
    'go on over a %s and a restart, without a gap',
    async (how) => {
      await using client = await openClient({ node: node.unixUrl, path: 'http' });
      await client.buckets.create('data');
      const seen = Promise.withResolvers<void>();
      const reading = take(client.events({ types: ['created'], after: 0 }), (taken) => {
        if (taken.length === 10) seen.resolve();
        return taken.some(({ key }) => key === 'last');
      });
      for (let i = 0; i < 10; i++) await client.put('data', `before/${i}`, hello);
      await seen.promise;
      await node[how]();
      await node.start();
      for (let i = 0; i < 10; i++) await client.put('data', `after/${i}`, hello);
      await client.put('data', 'last', hello);
      const expected = ['before', 'after'].flatMap((when) =>
        Array.from({ length: 10 }, (_, i) => `${when}/${i}`),
      );
      expect((await reading).map(({ key }) => key)).toEqual([...expected, 'last']);
    },
  );

  test('a consumer that comes back with the last id gets the rest', async () => {
    await using client = await openClient({ node: node.unixUrl });
    await client.buckets.create('data');
    for (const key of ['a', 'b', 'c']) await client.put('data', key, hello);
    const options = { bucket: 'data', types: ['created'] } as const;
    const first = client.events({ ...options, after: 0 });
    expect((await take(first, () => true)).map(({ key }) => key)).toEqual(['a']);
    const rest = client.events({ ...options, after: first.lastId });
    const taken = await take(rest, ({ length }) => length === 2);
    expect(taken.map(({ key }) => key)).toEqual(['b', 'c']);
  });

  test('more streams than a client has connections hold up nothing', async () => {
    await using client = await openClient({ node: node.unixUrl, path: 'http' });
    await client.buckets.create('data');
    const all = Array.from({ length: 40 }, () => take(client.events({ after: 0 }), () => true));
    await client.put('data', 'a', hello);
    for (const [event] of await Promise.all(all)) expect(event?.key).toBe('a');
  });

  test('what is wrong is thrown: an id that is gone, a bucket without events, an abort', async () => {
    await using client = await openClient({ node: node.unixUrl });
    await client.buckets.create('fast', { preset: 'ephemeral' });
    const first = (options: Parameters<typeof client.events>[0]): Promise<unknown> =>
      take(client.events(options), () => true);
    await expect(first({ after: 10 ** 9 })).rejects.toMatchObject({ code: 'events_gone' });
    await expect(first({ bucket: 'fast' })).rejects.toMatchObject({ code: 'unsupported' });
    await expect(first({ bucket: 'none' })).rejects.toMatchObject({ code: 'bucket_not_found' });
    const gaveUp = AbortSignal.timeout(50);
    await expect(first({ signal: gaveUp })).rejects.toMatchObject({ code: 'aborted' });
  });

  test('a node that stays away ends the stream in bounded time', async () => {
    await using client = await openClient({ node: node.unixUrl, retry: { unreachableMs: 300 } });
    const reading = take(client.events({ after: 0 }), () => false);
    const ended = expect(reading).rejects.toMatchObject({ code: 'node_unreachable' });
    await node.kill();
    await ended;
  });
});

describe('wait', () => {
  test('for disk and for remote, and for what will never be', async () => {
    await using client = await openClient({ node: node.unixUrl });
    await client.buckets.create('data');
    await client.buckets.create('fast', { preset: 'ephemeral' });
    const { version } = await client.put('data', 'a', hello);
    expect(await client.wait('data', 'a')).toEqual({ version, durability: 'remote' });
    const fast = await client.put('fast', 'a', hello);
    expect(await client.wait('fast', 'a', { for: 'disk' })).toEqual({
      version: fast.version,
      durability: 'disk',
    });
    const never = client.wait('fast', 'a', { for: 'remote' });
    await expect(never).rejects.toMatchObject({ code: 'not_mirrored' });
    await expect(client.wait('data', 'none')).rejects.toMatchObject({ code: 'not_found' });
  });

  test('goes on over a restart of the node, until its own time is up', async () => {
    await using client = await openClient({ node: node.unixUrl, path: 'http' });
    await client.buckets.create('data');
    const inTheWay = join(node.dataDir, 'remote/data');
    writeFileSync(inTheWay, 'no directory');
    const { version } = await client.put('data', 'a', hello);
    const short = client.wait('data', 'a', { timeoutMs: 50 });
    await expect(short).rejects.toMatchObject({ code: 'timed_out' });
    const waiting = client.wait('data', 'a', { version });
    await node.kill();
    rmSync(inTheWay);
    await node.start();
    expect(await waiting).toEqual({ version, durability: 'remote' });
  });
});
