/** The stream of events as a client sees it on the wire (V1 to V3 of events.ts), and `?wait=` on the data path. */
import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import {
  type ObjectEvent,
  objectEventSchema,
  objectPath,
  PATHS,
  type StoreError,
} from '@ebb/protocol';
import { buffered, openTestStore } from '@ebb/testkit';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { openTestNode, type TestNode } from '../testing/test-node.ts';
import { sendError } from './error-response.ts';
import { EventStreams, type EventStreamTimes } from './events.ts';

async function openNode(): Promise<TestNode> {
  const node = await openTestNode();
  onTestFinished(async () => await node[Symbol.asyncDispose]());
  for (const [name, preset] of Object.entries({ data: 'buffered', fast: 'ephemeral' }))
    await node.json('PUT', `/v1/buckets/${name}`, { preset });
  return node;
}

interface Stream {
  readonly answer: IncomingMessage;
  /** Resolves when what came so far, or comes, is enough. */
  until(enough: (text: string) => boolean): Promise<string>;
  readonly ended: Promise<string>;
  close(): void;
}

async function openStream(
  where: { readonly socketPath?: string; readonly port?: number },
  query: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<Stream> {
  const call = request({ ...where, path: `${PATHS.events}${query}`, headers, agent: false });
  call.end();
  const [answer] = (await once(call, 'response')) as [IncomingMessage];
  let text = '';
  const waiting = new Set<() => void>();
  answer.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    for (const look of waiting) look();
  });
  const ended = once(answer, 'end').then(() => text);
  ended.catch(() => undefined);
  onTestFinished(() => void call.destroy());
  return {
    answer,
    ended,
    until: (enough) =>
      new Promise((resolve) => {
        const look = (): void => {
          if (!enough(text)) return;
          waiting.delete(look);
          resolve(text);
        };
        waiting.add(look);
        look();
      }),
    close: () => call.destroy(),
  };
}

/** The events of a text; blocks that have an id only are left out, and one that has not come whole. */
function eventsOf(text: string): ObjectEvent[] {
  return text
    .split('\n\n')
    .slice(0, -1)
    .filter((block) => block.includes('\ndata: ') && !block.startsWith('event: end'))
    .map((block) => {
      const [id, type, data] = block.split('\n').map((line) => line.slice(line.indexOf(': ') + 2));
      const event = objectEventSchema.parse(JSON.parse(data as string));
      expect([String(event.id), event.type]).toEqual([id, type]);
      return event;
    });
}
const told = (text: string): string[] => eventsOf(text).map(({ type, key }) => `${type} ${key}`);

const put = (node: TestNode, key: string, bucket = 'data'): ReturnType<TestNode['http']> =>
  node.http('PUT', objectPath(bucket, key), { body: 'hello' });
const remove = (node: TestNode, key: string): ReturnType<TestNode['http']> =>
  node.http('DELETE', objectPath('data', key));

describe('a stream', () => {
  test('begins now, and tells each change as it comes', async () => {
    const node = await openNode();
    await put(node, 'before');
    const stream = await openStream(node, '?types=created,updated,deleted');
    expect(stream.answer.headers['content-type']).toBe('text/event-stream; charset=utf-8');
    expect(await stream.until((text) => text !== '')).toMatch(/^id: \d+\n\n$/);
    await put(node, 'dir/ключ\n2');
    const version = Number((await put(node, 'dir/ключ\n2')).headers['x-ebb-version']);
    await remove(node, 'dir/ключ\n2');
    const events = eventsOf(await stream.until((text) => text.includes('event: deleted')));
    expect(events.map(({ type, key }) => [type, key])).toEqual([
      ['created', 'dir/ключ\n2'],
      ['updated', 'dir/ключ\n2'],
      ['deleted', 'dir/ключ\n2'],
    ]);
    expect(events.at(-1)).toMatchObject({ bucket: 'data', version, sizeBytes: 5 });
  });

  test('goes on after an id, by query or header; the header goes first', async () => {
    const node = await openNode();
    for (const key of ['a', 'b', 'c']) await put(node, key);
    const filter = 'types=created';
    const isWhole = (text: string): boolean => told(text).includes('created c');
    const whole = await openStream(node, `?${filter}&after=0`);
    const events = eventsOf(await whole.until(isWhole));
    expect(events.map(({ key }) => key)).toEqual(['a', 'b', 'c']);
    const [first, second] = events.map(({ id }) => String(id)) as [string, string];
    const rest = await openStream(node, `?${filter}&after=${first}`);
    expect(told(await rest.until(isWhole))).toEqual(['created b', 'created c']);
    const header = { 'last-event-id': second };
    const last = await openStream(node, `?${filter}&after=${first}`, header);
    expect(told(await last.until(isWhole))).toEqual(['created c']);
  });

  test('shows one object, or a prefix, or a bucket; a/ never shows ab', async () => {
    const node = await openNode();
    await node.json('PUT', '/v1/buckets/other', {});
    for (const key of ['a', 'a/x', 'ab']) await put(node, key);
    await put(node, 'a/y', 'other');
    await put(node, 'a/last');
    const shown = async (query: string, last: string): Promise<string[]> => {
      const stream = await openStream(node, `?after=0&types=created${query}`);
      return told(await stream.until((text) => told(text).includes(`created ${last}`)));
    };
    expect(await shown('&bucket=data&prefix=a/', 'a/last')).toEqual([
      'created a/x',
      'created a/last',
    ]);
    expect(await shown('&bucket=data&key=a', 'a')).toEqual(['created a']);
    expect(await shown('&bucket=other', 'a/y')).toEqual(['created a/y']);
  });

  test('tells when the bytes are in tier 2', async () => {
    const node = await openNode();
    const stream = await openStream(node, '?bucket=data&types=tier');
    await put(node, 'a');
    const [event] = eventsOf(await stream.until((text) => text.includes('"remote"')));
    expect(event).toMatchObject({ key: 'a', durability: 'remote', tiers: ['disk', 'remote'] });
  });

  test('ends when the node drains, and says so', async () => {
    const node = await openNode();
    const stream = await openStream(node, '');
    await stream.until((text) => text !== '');
    await node.node.drain('test');
    const text = await stream.ended;
    const end = text.slice(text.indexOf('event: end'));
    expect(JSON.parse(end.slice(end.indexOf('{')))).toMatchObject({ error: { code: 'draining' } });
  });

  test('what is asked wrongly is told at once', async () => {
    const node = await openNode();
    const ask = async (query: string): Promise<[number, string]> => {
      const answer = await node.http('GET', `${PATHS.events}${query}`);
      return [answer.status, answer.code];
    };
    expect(await ask('?after=x')).toEqual([400, 'request_invalid']);
    expect(await ask('?types=created,moved')).toEqual([400, 'request_invalid']);
    expect(await ask('?prefix=a')).toEqual([400, 'request_invalid']);
    expect(await ask('?bucket=data&prefix=a&key=a')).toEqual([400, 'request_invalid']);
    expect(await ask('?colour=red')).toEqual([400, 'request_invalid']);
    expect(await ask('?bucket=none')).toEqual([404, 'bucket_not_found']);
    expect(await ask('?bucket=fast')).toEqual([501, 'unsupported']);
    expect(await ask('?after=99999999')).toEqual([410, 'events_gone']);
    expect((await node.http('POST', PATHS.events)).code).toBe('unsupported');
  });

  test('an ephemeral bucket tells when its policy asks for it', async () => {
    const node = await openNode();
    const made = await node.json('PUT', '/v1/buckets/loud', { preset: 'ephemeral', events: true });
    expect(made.value).toMatchObject({ policy: { preset: 'ephemeral', events: true } });
    const stream = await openStream(node, '?bucket=loud');
    await stream.until((text) => text !== '');
    await put(node, 'a', 'fast');
    await put(node, 'b', 'loud');
    expect(told(await stream.until((text) => text.includes('created')))).toEqual(['created b']);
  });
});

describe('slow readers', () => {
  /** The route on a server of its own, with a log and times that a test can pass in a moment. */
  async function openSmall(options: EventStreamTimes & { eventsMax: number }): Promise<{
    readonly at: Awaited<ReturnType<typeof openTestStore>>;
    readonly streams: EventStreams;
    readonly port: number;
    connections(): Promise<number>;
  }> {
    const at = await openTestStore({ eventsMax: options.eventsMax });
    await at.store.createBucket('data', buffered);
    const streams = new EventStreams(at.store, options);
    const server: Server = createServer((asked, response) => {
      streams
        .answer(asked, response)
        .catch((error: unknown) => sendError(response, error as StoreError));
    });
    await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve));
    onTestFinished(async () => {
      server.closeAllConnections();
      server.close();
      await at.close();
    });
    const connections = promisify(server.getConnections.bind(server)) as () => Promise<number>;
    return { at, streams, port: (server.address() as AddressInfo).port, connections };
  }
  type Small = Awaited<ReturnType<typeof openSmall>>;

  /** Renames make two events each and move no bytes. Keys of a KiB fill sockets soon. */
  async function makeEvents({ at }: Small, count: number): Promise<void> {
    const name = (i: number): string => `${i}-`.padEnd(1000, 'x');
    await at.put('data', name(0), Buffer.from('x'));
    for (let i = 0; i < count / 2; i++)
      await at.store.rename({ bucket: 'data', key: name(i) }, { bucket: 'data', key: name(i + 1) });
  }

  test('one that falls behind the log is told what is gone, and holds up nobody', async () => {
    const small = await openSmall({ stallMs: 60_000, keepAliveMs: 60_000, eventsMax: 1000 });
    const slow = await openStream(small, '?after=0');
    const quick = await openStream(small, '?after=0&types=created');
    slow.answer.pause();
    await makeEvents(small, 20_000);
    await quick.until((text) => text.includes('10000-x'));
    slow.answer.resume();
    const text = await slow.ended;
    const end = text.slice(text.indexOf('event: end'));
    expect(JSON.parse(end.slice(end.indexOf('{')))).toMatchObject({
      error: { code: 'events_gone' },
    });
    const ids = eventsOf(text).map(({ id }) => id);
    expect(ids).toEqual(ids.map((_, i) => (ids[0] as number) + i)); // whole up to the end
  });

  test('one that takes nothing for a while is cut with a last event, and goes on where it was', async () => {
    const small = await openSmall({ stallMs: 50, keepAliveMs: 60_000, eventsMax: 30_000 });
    const stream = await openStream(small, '?after=0');
    stream.answer.pause();
    await makeEvents(small, 20_000); // more than sockets hold
    await vi.waitFor(() => expect(small.streams.open).toBe(0), { timeout: 50_000 });
    stream.answer.resume();
    const text = await stream.ended;
    const end = text.slice(text.indexOf('event: end'));
    expect(JSON.parse(end.slice(end.indexOf('{')))).toMatchObject({ error: { code: 'busy' } });
    const last = eventsOf(text).at(-1)?.id as number;
    const next = await openStream(small, `?after=${last}`);
    const [first] = eventsOf(await next.until((come) => eventsOf(come).length > 0));
    expect(first?.id).toBe(last + 1);
  });

  test('one that does not take the last event either is cut, and what it was sent is free', async () => {
    const small = await openSmall({
      ...{ stallMs: 50, keepAliveMs: 60_000, endMs: 50, eventsMax: 30_000 },
    });
    const stream = await openStream(small, '?after=0');
    stream.answer.pause();
    await makeEvents(small, 20_000); // more than sockets hold
    await vi.waitFor(async () => expect(await small.connections()).toBe(0), { timeout: 50_000 });
  });

  test('a reader for whom nothing comes gets a sign of life, with the place to go on from', async () => {
    const small = await openSmall({ stallMs: 60_000, keepAliveMs: 20, eventsMax: 1000 });
    const stream = await openStream(small, '?bucket=data&key=never');
    const began = Number(/^id: (\d+)/.exec(await stream.until((text) => text !== ''))?.[1]);
    await makeEvents(small, 10);
    const reached = (text: string): number => Number(/(\d+)\n\n$/.exec(text)?.[1] ?? 0);
    const text = await stream.until((come) => reached(come) >= began + 11);
    expect(text).not.toContain('data:');
  });
});

describe('?wait', () => {
  test('answers when the object is so durable, with GET and with HEAD', async () => {
    const node = await openNode();
    const version = (await put(node, 'a')).headers['x-ebb-version'];
    const path = objectPath('data', 'a');
    const head = await node.http('HEAD', `${path}?wait=remote`);
    expect([head.status, head.headers['x-ebb-durability']]).toEqual([200, 'remote']);
    const read = await node.http('GET', `${path}?wait=disk&version=${version}&timeoutMs=5000`);
    expect([read.status, read.body.toString()]).toEqual([200, 'hello']);
    expect(read.headers['x-ebb-durability']).toBe('disk');
    await put(node, 'b', 'fast');
    const disk = await node.http('HEAD', `${objectPath('fast', 'b')}?wait=disk`);
    expect([disk.status, disk.headers['x-ebb-durability']]).toEqual([200, 'disk']);
  });

  test('ends after its time while tier 2 is away, and answers when it is back', async () => {
    const node = await openNode();
    const inTheWay = join(node.directory, 'data/remote/data');
    writeFileSync(inTheWay, 'no directory');
    await put(node, 'a');
    const path = objectPath('data', 'a');
    const late = await node.http('GET', `${path}?wait=remote&timeoutMs=30`);
    expect([late.status, late.code]).toEqual([504, 'timed_out']);
    const waiting = node.http('HEAD', `${path}?wait=remote`);
    rmSync(inTheWay);
    expect((await waiting).headers['x-ebb-durability']).toBe('remote');
  });

  test('says at once what will not be, and what was asked wrongly', async () => {
    const node = await openNode();
    await put(node, 'a', 'fast');
    const ask = async (query: string, key = 'a'): Promise<[number, string]> => {
      const answer = await node.http('HEAD', `${objectPath('fast', key)}?${query}`);
      return [answer.status, answer.code];
    };
    expect(await ask('wait=remote')).toEqual([409, 'not_mirrored']);
    expect(await ask('wait=disk', 'none')).toEqual([404, 'not_found']);
    expect(await ask('wait=disk&version=1')).toEqual([412, 'precondition_failed']);
    expect(await ask('wait=tape')).toEqual([400, 'request_invalid']);
    expect(await ask('wait=disk&timeoutMs=soon')).toEqual([400, 'request_invalid']);
    expect(await ask('wait=disk&timeoutMs=3600000')).toEqual([400, 'request_invalid']);
  });
});
