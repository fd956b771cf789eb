/**
 * A node whose object store fails: a random schedule of faults between both (testkit's faulty-proxy.ts has the fault model), and a
 * disk that fills while the store is away. The store is the S3 surface of another node.
 */

import { randomInt } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { type EbbClient, openClient } from '@ebb/client';
import { isStoreError, MiB } from '@ebb/protocol';
import { type ProxiedRequest, type ProxyFault, smallTmpfs, startFaultyProxy } from '@ebb/testkit';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { createRandom, hashOf } from './support/crash-lane.ts';
import { mirrored } from './support/mirrored.ts';
import { startTier2Store, type Tier2Store } from './support/tier2-store.ts';

const STEPS = 40;
const LANES = 4;
const KEYS = 12;
const SIZES = [1, 5000, 100_000, 1_000_000] as const;
/** Takes several parts in tier 2. */
const LARGE_BYTES = 18 * MiB;
/** The node waits a minute for the next byte before it tries again: once is enough. */
const SILENT: ProxyFault = 'hang';
const LOUD: readonly ProxyFault[] = [
  ...(['refuse', 'full', 'cut-request', 'cut-response', 'lose-reply'] as const),
  ...(['corrupt-request', 'corrupt-response', 'slow', 'hide-checksums'] as const),
];
const WHEN: readonly ((request: ProxiedRequest) => boolean)[] = [
  ({ method }) => method === 'PUT',
  ({ method }) => method === 'GET',
  ({ method }) => method === 'POST' || method === 'DELETE',
  () => true,
];
/** What a caller may be told, by what was asked: docs/reference/errors.md says what to do then. */
const MAY_FAIL = {
  write: ['busy', 'tier_full'],
  'write to tier 2': ['busy', 'tier_full', 'io_failed', 'not_yet_durable'],
  eviction: ['busy', 'tier_full', 'io_failed', 'data_corrupt'],
  // An answer under way cannot say any more what went wrong: it is cut, so that nobody takes it for all.
  read: ['busy', 'tier_full', 'io_failed', 'data_corrupt', 'node_unreachable'],
} as const;

async function openNode(
  store: Tier2Store,
  options: { readonly url?: string; readonly dataDir?: string; readonly args?: string[] } & Partial<
    Record<'memoryLimit' | 'diskLimit', string>
  >,
): Promise<{ node: NodeProcess; client: EbbClient }> {
  const { url, dataDir, args = [], ...limits } = options;
  const tier2 = store.options(url);
  const all = [...tier2.args, ...args, ...(dataDir === undefined ? [] : [`--data=${dataDir}`])];
  const node = await startNodeProcess({ ...limits, env: tier2.env, args: all });
  onTestFinished(async () => await node[Symbol.asyncDispose]());
  const client = await openClient({ node: node.url, path: 'http', retry: { attemptsMax: 1 } });
  onTestFinished(async () => await client.close());
  return { node, client };
}

async function openStore(): Promise<Tier2Store> {
  const store = await startTier2Store();
  onTestFinished(async () => await store[Symbol.asyncDispose]());
  return store;
}

function content(sizeBytes: number, seed: number): Buffer<ArrayBuffer> {
  return Buffer.alloc(sizeBytes, `${seed} `);
}

async function read(client: EbbClient, key: string): Promise<string> {
  return hashOf(await (await client.get('data', key)).bytes());
}

test(`a random schedule of ${STEPS} faults between node and object store: writes go on, reads give the right bytes or say why not, in the end all is here and there, once, and nothing is left when it is deleted`, async () => {
  const seed = randomInt(2 ** 31);
  const random = createRandom(seed);
  const below = (end: number): number => Math.floor(random() * end);
  const pick = <T>(from: readonly T[]): T => from[below(from.length)] as T;
  const store = await openStore();
  await using proxy = await startFaultyProxy(store.node.s3Url);
  const limits = { memoryLimit: '64MiB', diskLimit: '512MiB' };
  const { node, client } = await openNode(store, { url: proxy.url, ...limits });
  await client.buckets.create('data', { preset: 'buffered' });
  /** By key: what may be there. */
  const may = new Map<string, Set<string>>();
  const counts = { acknowledged: 0, evictions: 0, reads: 0 };
  const failed = new Map<string, number>();
  let seeds = 0;

  const tryTo = async (
    kind: keyof typeof MAY_FAIL,
    call: () => Promise<void>,
  ): Promise<boolean> => {
    try {
      await call();
      return true;
    } catch (error) {
      if (!isStoreError(error)) throw error;
      expect(MAY_FAIL[kind], `seed ${seed}: ${kind}: ${error.message}`).toContain(error.code);
      const name = `${kind} ${error.code}`;
      failed.set(name, (failed.get(name) ?? 0) + 1);
      return false;
    }
  };
  const write = async (key: string): Promise<void> => {
    const bytes = content(below(12) === 0 ? LARGE_BYTES : pick(SIZES) + below(100), ++seeds);
    const isRemote = below(6) === 0;
    const before = may.get(key) ?? new Set(['absent']);
    const hash = hashOf(bytes);
    // What was to be in tier 2 may have been made, and only its way there failed.
    may.set(key, new Set([...before, hash]));
    const ack = isRemote ? ({ ack: 'remote' } as const) : {};
    const isDone = await tryTo(isRemote ? 'write to tier 2' : 'write', async () => {
      await client.put('data', key, bytes, ack);
    });
    if (isDone) {
      counts.acknowledged++;
      may.set(key, new Set([hash]));
    } else if (!isRemote) may.set(key, before);
  };
  const remove = async (key: string): Promise<void> => {
    if ((may.get(key) ?? new Set(['absent'])).has('absent')) return;
    await client.delete('data', key);
    counts.acknowledged++;
    may.set(key, new Set(['absent']));
  };
  const look = async (key: string): Promise<void> => {
    const allowed = may.get(key);
    if (allowed === undefined || allowed.has('absent')) return;
    if (await tryTo('eviction', async () => void (await client.relocate('data', key, 'remote'))))
      counts.evictions++;
    const isRead = await tryTo('read', async () => {
      expect([...allowed], `seed ${seed}: ${key}`).toContain(await read(client, key));
    });
    if (isRead) counts.reads++;
  };

  for (let step = 0; step < STEPS; step++) {
    const isSilent = step === STEPS - 1;
    const fault = isSilent ? SILENT : pick(LOUD);
    proxy.harm(fault, { when: pick(WHEN), times: isSilent ? 1 : 1 + below(6) });
    await Promise.all(
      Array.from({ length: LANES }, async (_, lane) => {
        const key = `lane${lane}/k${below(KEYS)}`;
        const kind = below(4);
        if (kind === 3) await remove(key);
        await write(key);
        if (kind < 2 && !isSilent) await look(`lane${lane}/k${below(KEYS)}`);
      }),
    );
  }
  proxy.heal();
  await mirrored(client, 180_000);
  const kept = new Map<string, string>();
  for (const [key, allowed] of may) {
    const found = await read(client, key).catch((error: unknown) => {
      if (isStoreError(error, 'not_found')) return 'absent';
      throw error;
    });
    expect([...allowed], `seed ${seed}: ${key}`).toContain(found);
    if (found !== 'absent') kept.set(key, found);
  }
  expect((await store.names()).toSorted()).toEqual(
    [...kept.keys()].map((key) => `data/${key}`).toSorted(),
  );
  for (const [key, hash] of kept) expect(hashOf(await store.get(`data/${key}`))).toBe(hash);
  expect(await store.openParts()).toBe(0);
  expect((await client.verify()).broken).toEqual([]);
  // From tier 2 alone as well.
  await client.relocatePrefix('data', '', 'remote');
  for (const [key, hash] of kept) expect(await read(client, key)).toBe(hash);
  await client.deletePrefix('data', '');
  await vi.waitFor(
    async () => expect([...(await store.names()), ...(await store.privateNames())]).toEqual([]),
    { timeout: 60_000, interval: 250 },
  );
  const injected = [...proxy.harmedBy].map(([fault, count]) => `${fault} ${count}`);
  process.stdout.write(
    `object-store faults, seed ${seed}: ${injected.join(', ')}; ${counts.acknowledged} writes and deletes acknowledged, ` +
      `${counts.evictions} evictions, ${counts.reads} reads during faults; told: ${[...failed].map(([name, count]) => `${name} ${count}`).join(', ')}; ` +
      `${kept.size} of ${kept.size} objects right in the end, here and there; nothing left when they were deleted\n`,
  );
  const harmed = [...proxy.harmedBy.values()].reduce((sum, count) => sum + count, 0);
  expect(harmed).toBeGreaterThan(STEPS / 2);
  expect(node.log()).not.toContain('uncaught');
});

test('an object that is deleted while it is uploaded, and the node killed: no part of it stays in the store', async () => {
  const store = await openStore();
  await using proxy = await startFaultyProxy(store.node.s3Url);
  const { node, client } = await openNode(store, { url: proxy.url });
  await client.buckets.create('data', { preset: 'buffered' });
  proxy.harm('hang', { when: ({ path }) => path.includes('partNumber=3&') });
  const harmed = proxy.harmed();
  await client.put('data', 'k', content(40 * MiB, 1));
  await harmed;
  await vi.waitFor(async () => expect(await store.openParts()).toBeGreaterThan(0));
  await client.delete('data', 'k');
  await node.kill();
  proxy.heal();
  await node.start();
  await mirrored(client, 60_000);
  await vi.waitFor(async () => expect(await store.openParts()).toBe(0), {
    ...{ timeout: 60_000, interval: 250 },
  });
  expect(await store.names()).toEqual([]);
});

describe('the object store is away', () => {
  test('and the disk fills: writers are slowed with 429 before it is full and told 507 in the end, each with the time to wait; reads and deletes go on, and all drains when it is back', async ({
    skip,
  }) => {
    const dataDir = await smallTmpfs(40 * MiB);
    if (dataDir === undefined) return skip('mounting a tmpfs is not permitted here');
    const store = await openStore();
    const limits = { memoryLimit: '4MiB', diskLimit: '36MiB' };
    const { node, client } = await openNode(store, {
      ...{ dataDir, ...limits, args: ['--disk-high=0.9', '--disk-low=0.8'] },
    });
    await client.buckets.create('data', { preset: 'buffered' });
    await store.node.stop();
    const kept = new Map<string, string>();
    const told: number[] = [];
    let seed = 0;
    const write = async (key: string): Promise<number> => {
      const bytes = content(400_000, ++seed);
      const { status, retryAfter } = await put(node, key, bytes);
      told.push(status);
      if (status === 201) kept.set(key, hashOf(bytes));
      else expect(retryAfter).toBeGreaterThan(0);
      return status;
    };
    const next = (): string => `k${kept.size}`;
    // Of a name that changes again and again the last state counts; one of the names is made anew after its deletion.
    for (let i = 0; i < 60; i++) expect(await write(i % 3 === 2 ? 'k0' : next())).toBe(201);
    await client.delete('data', 'k1');
    expect(await write('k1')).toBe(201);
    // While the disk fills, the node says when it is full.
    let wasForeseen = false;
    while (kept.size < 87) {
      expect(await write(next())).toBe(201);
      await setTimeout(100);
      wasForeseen ||= ((await client.status()).diskSecondsUntilFull ?? 0) > 0;
    }
    expect(wasForeseen).toBe(true);
    // Above its mark the node has tried to make room, and knows that there is none to be made.
    await vi.waitFor(async () => expect(await failures(node, 'spill')).toBeGreaterThan(7), {
      ...{ timeout: 60_000, interval: 100 },
    });
    told.length = 0;
    while (told.filter((status) => status === 507).length < 3) {
      expect(told.length).toBeLessThan(60);
      await write(next());
    }
    const first = { slowed: told.indexOf(429), full: told.indexOf(507) };
    expect(first.slowed).toBeGreaterThanOrEqual(0);
    expect(told.slice(first.slowed, first.full)).toContain(201); // slowed, and not stopped
    expect(told.slice(first.full)).toEqual([507, 507, 507]); // nothing to wait for but tier 2
    for (const [key, hash] of kept) expect(await read(client, key)).toBe(hash);
    await client.delete('data', 'k0');
    kept.delete('k0');
    // Killed in that state, it starts with all of it.
    await node.kill();
    await node.start();
    for (const [key, hash] of kept) expect(await read(client, key)).toBe(hash);
    await store.node.start();
    const again = content(400_000, 9999);
    await vi.waitFor(async () => expect((await put(node, 'again', again)).status).toBe(201), {
      ...{ timeout: 90_000, interval: 500 },
    });
    kept.set('again', hashOf(again));
    await mirrored(client, 90_000);
    expect((await store.names()).length).toBe(kept.size);
    for (const [key, hash] of kept) {
      expect(await read(client, key)).toBe(hash);
      expect(hashOf(await store.get(`data/${key}`))).toBe(hash);
    }
    expect((await client.verify()).broken).toEqual([]);
    process.stdout.write(
      `full disk, object store away: ${kept.size} objects kept, all of them in the store in the end; the last writes were told ${told.join(' ')}\n`,
    );
  });

  test('and --spool-limit is reached: writers of mirrored buckets are told 429 long before the disk is full, others go on, and all go on afterwards', async () => {
    const store = await openStore();
    const { node, client } = await openNode(store, { args: ['--spool-limit=4MiB'] });
    await client.buckets.create('data', { preset: 'buffered' });
    await client.buckets.create('fast', { preset: 'ephemeral' });
    await store.node.stop();
    const kept = new Map<string, string>();
    const told: number[] = [];
    for (let i = 0; told.length < 5; i++) {
      const bytes = content(400_000, i);
      const { status, retryAfter } = await put(node, `k${i}`, bytes);
      if (status === 201) kept.set(`k${i}`, hashOf(bytes));
      else {
        expect(status).toBe(429);
        expect(retryAfter).toBeGreaterThan(0);
        told.push(status);
      }
    }
    // The limit is passed by the write that reaches it, not by more.
    expect(kept.size).toBe(Math.floor((4 * MiB) / 400_000) + 1);
    await client.put('fast', 'k', content(400_000, 1));
    for (const [key, hash] of kept) expect(await read(client, key)).toBe(hash);
    await store.node.start();
    await mirrored(client, 90_000);
    await vi.waitFor(
      async () => expect((await put(node, 'again', content(10, 1))).status).toBe(201),
      {
        ...{ timeout: 60_000, interval: 250 },
      },
    );
    expect((await store.names()).length).toBeGreaterThanOrEqual(kept.size);
    for (const [key, hash] of kept) expect(hashOf(await store.get(`data/${key}`))).toBe(hash);
    process.stdout.write(
      `--spool-limit: ${kept.size} writes taken, then ${told.length} of ${told.length} told 429; all in the store in the end\n`,
    );
  });
});

async function failures(node: NodeProcess, work: string): Promise<number> {
  const metrics = await (await fetch(`${node.url}/metrics`)).text();
  const counted = new RegExp(`^ebb_background_failures_total\\{work="${work}"\\} (\\d+)`, 'm');
  return Number(counted.exec(metrics)?.[1] ?? 0);
}

async function put(
  node: NodeProcess,
  key: string,
  body: Buffer<ArrayBuffer>,
): Promise<{ status: number; retryAfter: number }> {
  const answer = await fetch(`${node.url}/v1/buckets/data/objects/${key}`, { method: 'PUT', body });
  await answer.arrayBuffer();
  return { status: answer.status, retryAfter: Number(answer.headers.get('retry-after')) };
}
