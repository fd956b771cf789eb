/**
 * Events of a real daemon that is killed in the middle of its work, and the commands that watch and wait.
 *
 * The log is compared with what was acknowledged: each lane of the test changes names of its own, one change after the other,
 * so that the events of its names have one right order.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type EbbClient, openClient } from '@ebb/client';
import { isStoreError, type ObjectEvent } from '@ebb/protocol';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  cleanEnv,
  type NodeProcess,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';
import { EBB_BIN } from './support/ebb-command.ts';

async function openNode(): Promise<NodeProcess> {
  const node = await startNodeProcess({ memoryLimit: '64MiB' });
  onTestFinished(async () => await node[Symbol.asyncDispose]());
  return node;
}

/** All events from an id to the last one there is now. */
async function replay(client: EbbClient, after: number): Promise<ObjectEvent[]> {
  await client.put('data', 'mark', Buffer.from('end'));
  const { version } = await client.head('data', 'mark');
  const events: ObjectEvent[] = [];
  for await (const event of client.events({ after })) {
    if (event.key === 'mark' && event.version === version) return events;
    if (event.type !== 'tier' && event.key !== 'mark') events.push(event);
  }
  throw new Error('a stream of events does not end');
}

// ── replay ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** `type key version`, the events of one change. */
type Told = readonly string[];

/** Changes names below its own prefix, and knows which events each change makes. */
class Lane {
  readonly #client: EbbClient;
  readonly #prefix: string;
  readonly #objects = new Map<string, number>();
  readonly acknowledged: string[] = [];
  /** What the change without an answer would tell; versions are unknown. */
  unanswered: Told = [];

  constructor(client: EbbClient, prefix: string) {
    this.#client = client;
    this.#prefix = prefix;
  }

  /** Changes until the node is gone. */
  async run(): Promise<number> {
    for (let changes = 0; ; changes++) {
      try {
        await this.#change();
      } catch (error) {
        if (isStoreError(error, 'node_unreachable')) return changes;
        throw error;
      }
    }
  }

  async #change(): Promise<void> {
    const key = `${this.#prefix}${randomInt(6)}`;
    const other = `${this.#prefix}${randomInt(6)}`;
    const version = this.#objects.get(key);
    const what = randomInt(10);
    if (version === undefined || what < 5) await this.#put(key);
    else if (what < 7) await this.#delete(key, version);
    else if (what < 9 && key !== other) await this.#rename(key, other, version);
    else if (what === 9) await this.#deleteAll();
  }

  async #put(key: string): Promise<void> {
    const type = this.#objects.has(key) ? 'updated' : 'created';
    this.unanswered = [`${type} ${key}`];
    const { version } = await this.#client.put('data', key, Buffer.alloc(randomInt(3000), 1));
    this.#objects.set(key, version);
    this.#answered([`${type} ${key} ${version}`]);
  }

  async #delete(key: string, version: number): Promise<void> {
    this.unanswered = [`deleted ${key}`];
    await this.#client.delete('data', key);
    this.#objects.delete(key);
    this.#answered([`deleted ${key} ${version}`]);
  }

  async #rename(key: string, to: string, version: number): Promise<void> {
    const type = this.#objects.has(to) ? 'updated' : 'created';
    this.unanswered = [`deleted ${key}`, `${type} ${to}`];
    await this.#client.rename({ bucket: 'data', key }, { bucket: 'data', key: to });
    this.#objects.delete(key);
    this.#objects.set(to, version);
    this.#answered([`deleted ${key} ${version}`, `${type} ${to} ${version}`]);
  }

  /** In one change of the catalog: so few names are one batch. */
  async #deleteAll(): Promise<void> {
    const names = [...this.#objects].toSorted(([a], [b]) => (a < b ? -1 : 1));
    this.unanswered = names.map(([key]) => `deleted ${key}`);
    await this.#client.deletePrefix('data', this.#prefix);
    this.#objects.clear();
    this.#answered(names.map(([key, version]) => `deleted ${key} ${version}`));
  }

  #answered(told: Told): void {
    this.acknowledged.push(...told);
    this.unanswered = [];
  }
}

describe('replay', () => {
  const ROUNDS = 5;
  const LANES = 6;

  test(`after kill -9, ${ROUNDS} times: from any id, exactly what was acknowledged, in order`, {
    timeout: 120_000,
  }, async () => {
    const node = await openNode();
    const setUp = await openClient({ node: node.unixUrl });
    await setUp.buckets.create('data');
    await setUp.close();
    let after = 0;
    const all: ObjectEvent[] = [];
    for (let round = 1; round <= ROUNDS; round++) {
      const impatient = await openClient({
        ...{ node: node.unixUrl, path: round % 2 === 0 ? 'http' : 'auto' },
        retry: { unreachableMs: 0 },
      });
      const lanes = Array.from(
        { length: LANES },
        (_, at) => new Lane(impatient, `${round}/${at}/`),
      );
      const running = Promise.all(lanes.map((lane) => lane.run()));
      // In the middle of it: as soon as the log has grown by some hundreds.
      let left = 300 + randomInt(300);
      for await (const _ of eventsOf(node, after)) if (--left === 0) break;
      await node.kill();
      const changes = await running;
      expect(Math.min(...changes)).toBeGreaterThan(10);
      await impatient.close();
      await node.start();

      await using client = await openClient({ node: node.unixUrl });
      const events = await replay(client, after);
      for (const [at, lane] of lanes.entries()) {
        const own = events.filter(({ key }) => key.startsWith(`${round}/${at}/`));
        const told = own.map(({ type, key, version }) => `${type} ${key} ${version}`);
        expect(told.slice(0, lane.acknowledged.length)).toEqual(lane.acknowledged);
        // The change that the kill left without an answer is there as a whole, or not at all.
        const more = told.slice(lane.acknowledged.length).map((text) => text.replace(/ \d+$/, ''));
        if (more.length > 0) expect(more).toEqual(lane.unanswered);
      }
      await expectSameNames(client, [...all, ...events]);
      all.push(...events);
      after = events.at(-1)?.id as number;
    }
    // Once more, from the beginning and from somewhere: the same events under the same ids.
    await using client = await openClient({ node: node.unixUrl });
    expect(await replay(client, 0)).toEqual(all);
    const from = randomInt(all.length);
    expect(await replay(client, all[from]?.id as number)).toEqual(all.slice(from + 1));
    const ids = all.map(({ id }) => id);
    expect(ids).toEqual([...new Set(ids)].toSorted((a, b) => a - b));
  });

  async function* eventsOf(node: NodeProcess, after: number): AsyncGenerator<ObjectEvent> {
    await using client = await openClient({ node: node.unixUrl, path: 'http' });
    yield* client.events({ after });
  }

  /** Who applies the events from the beginning has what a listing tells. */
  async function expectSameNames(client: EbbClient, events: readonly ObjectEvent[]): Promise<void> {
    const names = new Map<string, number>();
    for (const { type, key, version } of events)
      if (type === 'deleted') names.delete(key);
      else names.set(key, version);
    const listed = new Map<string, number>();
    for await (const { key, version } of client.listAll('data'))
      if (key !== 'mark') listed.set(key, version);
    expect(names).toEqual(listed);
  }
});

// ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────

describe('ebb watch', () => {
  function watch(node: NodeProcess, ...args: string[]): { child: ChildProcess; lines: Lines } {
    const child = spawn(process.execPath, [EBB_BIN, 'watch', ...args], {
      env: { ...cleanEnv(), EBB_NODE: node.unixUrl },
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const exited = once(child, 'exit');
    onTestFinished(async () => {
      child.kill('SIGINT');
      await exited;
    });
    const reader = createInterface({ input: child.stdout as NodeJS.ReadableStream });
    return { child, lines: reader[Symbol.asyncIterator]() };
  }
  type Lines = AsyncIterator<string>;
  const next = async (lines: Lines): Promise<string> => (await lines.next()).value as string;

  test('prints changes, goes on over a restart of the node, and ends by an interrupt', async () => {
    const node = await openNode();
    await using client = await openClient({ node: node.unixUrl, path: 'http' });
    await client.buckets.create('data');
    const bytes = Buffer.from('hello');
    const { child, lines } = watch(
      node,
      ...['ebb://data/a/', '--types', 'created,deleted', '--after', '0', '--json'],
    );
    await client.put('data', 'ab', bytes);
    await client.put('data', 'a/1', bytes);
    expect(JSON.parse(await next(lines))).toMatchObject({ type: 'created', key: 'a/1' });
    await node.stop();
    await node.start();
    await client.put('data', 'a/2', bytes);
    expect(JSON.parse(await next(lines))).toMatchObject({ type: 'created', key: 'a/2' });
    await node.kill();
    await node.start();
    await client.delete('data', 'a/1');
    expect(JSON.parse(await next(lines))).toMatchObject({ type: 'deleted', key: 'a/1' });
    child.kill('SIGINT');
    expect((await once(child, 'exit'))[0]).toBe(130);
  });

  test('shows people when, what, how much and where', async () => {
    const node = await openNode();
    await using client = await openClient({ node: node.unixUrl });
    await client.buckets.create('data');
    await client.put('data', 'a', Buffer.alloc(3 * 1024));
    await client.wait('data', 'a');
    const { lines } = watch(node, 'data', '--after', '0');
    expect(await next(lines)).toMatch(
      /^\d+ {2}\d{4}-\S+ \S+ {2}created {2}3\.0 KiB +ebb:\/\/data\/a$/,
    );
    expect(await next(lines)).toMatch(/tier +remote: disk\+remote +ebb:\/\/data\/a$/);
  });
});

test('ebb wait: 0 when it holds, 4 when it does not in time or never will', async () => {
  const node = await openNode();
  await using client = await openClient({ node: node.unixUrl });
  await client.buckets.create('data');
  await client.buckets.create('fast', { preset: 'ephemeral' });
  await client.put('fast', 'a', Buffer.from('hello'));
  const wait = async (...args: string[]): Promise<{ code: number; out: string; err: string }> => {
    const child = spawn(process.execPath, [EBB_BIN, 'wait', ...args], {
      env: { ...cleanEnv(), EBB_NODE: node.unixUrl },
    });
    let [out, err] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    const [code] = (await once(child, 'close')) as [number];
    return { code, out, err };
  };
  const inTheWay = join(node.dataDir, 'remote/data');
  writeFileSync(inTheWay, 'no directory');
  await client.put('data', 'a', Buffer.from('hello'));
  expect(await wait('data/a', '--timeout', '100ms')).toMatchObject({
    code: 4,
    err: expect.stringContaining('timed_out') as string,
  });
  rmSync(inTheWay);
  expect(await wait('ebb://data/a')).toMatchObject({
    code: 0,
    out: expect.stringMatching(/^ebb:\/\/data\/a, version \d+: remote\n$/) as string,
  });
  const disk = await wait('fast/a', '--for', 'disk', '--json');
  expect(JSON.parse(disk.out)).toMatchObject({ bucket: 'fast', key: 'a', durability: 'disk' });
  expect(await wait('fast/a')).toMatchObject({
    code: 4,
    err: expect.stringContaining('not_mirrored') as string,
  });
  expect((await wait('fast/none')).code).toBe(3);
});
