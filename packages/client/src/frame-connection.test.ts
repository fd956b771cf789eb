/** Against a node of a few lines that answers as each test tells it. Fault model: it may stay silent, answer late, or go. */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  encodeFrame,
  FRAME_FLAG_ERROR,
  FrameSplitter,
  messages,
  OPS,
  PROTOCOL_VERSION,
  StoreError,
} from '@ebb/protocol';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type FrameConnection,
  type FrameConnectionOptions,
  openFrameConnection,
} from './frame-connection.ts';
import { CALL_TIMEOUT_MS } from './limits.ts';
import { parseNodeAddress } from './node-address.ts';

type Answer = (
  op: number,
  payload: Buffer,
  reply: (payload: Buffer, flags?: number) => void,
) => void;

let dir: string;
let server: Server;
let answer: Answer;
let sockets: Socket[];
let seen: { op: number; payload: Buffer }[];
let connection: FrameConnection | undefined;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'ebb-frames-'));
  sockets = [];
  seen = [];
  answer = (_op, payload, reply) => reply(payload);
  await listen();
});
afterEach(async () => {
  await connection?.close();
  connection = undefined;
  for (const socket of sockets) socket.destroy();
  server.close();
  await rm(dir, { recursive: true });
});

const UPGRADED =
  'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ebb-frames/1\r\n\r\n';

async function listen(): Promise<void> {
  server = createServer();
  server.on('upgrade', (_request, stream) => {
    const socket = stream as Socket;
    sockets.push(socket);
    socket.on('error', () => undefined);
    socket.write(UPGRADED);
    const splitter = new FrameSplitter(({ requestId, op }, payload) => {
      const reply = (body: Buffer, flags = 0): void => {
        if (!socket.destroyed) socket.write(encodeFrame(requestId, op, flags, body));
      };
      const kept = Buffer.from(payload);
      if (op !== OPS.hello) {
        seen.push({ op, payload: kept });
        answer(op, kept, reply);
        return;
      }
      const hello = {
        protocolVersion: PROTOCOL_VERSION,
        nodeId: 'n',
        instanceId: sockets.length,
        memoryDir: '',
        diskDir: '',
        probeName: '',
        probeNonce: '',
      };
      reply(messages.hello.response.encode(hello));
    });
    socket.on('data', (chunk: Buffer) => splitter.push(chunk));
  });
  server.listen(join(dir, 's'));
  await once(server, 'listening');
}

async function open(
  options: Pick<
    FrameConnectionOptions,
    'callTimeoutMs' | 'callsInflightMax' | 'reconnectMs' | 'pingAfterMs' | 'silenceMsMax'
  > = {},
) {
  connection = await openFrameConnection({
    address: parseNodeAddress(`unix://${join(dir, 's')}`),
    ...options,
  });
  return connection;
}

/** Echoes bytes. */
const raw = {
  request: { encode: (payload: Buffer) => payload },
  response: { decode: (payload: Buffer) => payload },
};
const ECHO = 1000;

test('answers are matched by id, in whatever order they come', async () => {
  const held: (() => void)[] = [];
  answer = (_op, payload, reply) => {
    held.push(() => reply(payload));
    if (held.length === 100) for (const go of held.reverse()) go();
  };
  const { call } = await bound();
  const texts = Array.from({ length: 100 }, (_, at) => `call ${at} ${'x'.repeat(at * 37)}`);
  const answers = await Promise.all(texts.map((text) => call(Buffer.from(text))));
  expect(answers.map(String)).toEqual(texts);
});

test('a refusal arrives as a StoreError with code and details', async () => {
  answer = (_op, _payload, reply) =>
    reply(
      messages.errorPayload.encode(new StoreError('tier_full', 'no room', { needBytes: 5 })),
      FRAME_FLAG_ERROR,
    );
  const { call } = await bound();
  await expect(call(Buffer.from('x'))).rejects.toMatchObject({
    code: 'tier_full',
    retry: 'safe',
    details: { needBytes: 5 },
  });
});

test('payloads beyond one write travel whole', async () => {
  const { call } = await bound();
  const body = Buffer.alloc(5 * 1024 * 1024 + 3, 0xff);
  expect((await call(body)).equals(body)).toBe(true);
});

test('a late answer to a caller that gave up is undone', async () => {
  let late: (() => void) | undefined;
  answer = (_op, payload, reply) => {
    late = () => reply(payload);
  };
  const live = await open();
  const stop = new AbortController();
  const undone = Promise.withResolvers<string>();
  const options = { signal: stop.signal, undo: (body: Buffer) => undone.resolve(String(body)) };
  const failing = live.call(ECHO, raw, Buffer.from('a lease'), options);
  await until(() => late !== undefined);
  stop.abort();
  await expect(failing).rejects.toMatchObject({ code: 'aborted' });
  late?.();
  expect(await undone.promise).toBe('a lease');
});

test('a call without an answer fails in time, and the connection stays', async () => {
  answer = (op, payload, reply) => {
    if (op !== ECHO) reply(payload);
  };
  const live = await open({ callTimeoutMs: 50 });
  await expect(live.call(ECHO, raw, Buffer.from('x'))).rejects.toMatchObject({
    code: 'node_unreachable',
  });
  expect(String(await live.call(ECHO + 1, raw, Buffer.from('y')))).toBe('y');
  expect(sockets.length).toBe(1);
});

test('a call that the node has not answered is waited for as long as it shows life, and then the message says that it lives', async () => {
  answer = (op, payload, reply) => {
    if (op === OPS.ping) reply(payload);
  };
  const live = await open({ pingAfterMs: 50, silenceMsMax: 300, callTimeoutMs: 1500 });
  await expect(live.call(OPS.open, raw, Buffer.from('x'))).rejects.toMatchObject({
    code: 'node_unreachable',
    message: expect.stringMatching(/^the node at unix:.* lives, and has not answered "open" for/),
  });
  expect(seen.filter(({ op }) => op === OPS.ping).length).toBeGreaterThan(1);
  expect(sockets.length).toBe(1);
  expect(CALL_TIMEOUT_MS).toBeGreaterThanOrEqual(300_000);
});

test('a node that takes connections and answers nothing is given up, and the message says so', async () => {
  answer = () => undefined;
  const live = await open({ pingAfterMs: 50, silenceMsMax: 300 });
  await expect(live.call(OPS.open, raw, Buffer.from('x'))).rejects.toMatchObject({
    code: 'node_unreachable',
    retry: 'ambiguous',
    message: expect.stringContaining('takes connections and has not answered'),
  });
  expect(live.currentSession).toBeUndefined();
});

test('an upgrade that nobody answers ends, and the message says so', async () => {
  server.removeAllListeners('upgrade');
  server.on('upgrade', (_request, stream) => void sockets.push(stream as Socket));
  const address = parseNodeAddress(`unix://${join(dir, 's')}`);
  const opening = async () => await openFrameConnection({ address, connectTimeoutMs: 100 });
  const silent = {
    code: 'node_unreachable',
    message: expect.stringContaining('takes connections and has not answered'),
  };
  await expect(opening()).rejects.toMatchObject({ ...silent, details: { notSent: true } });

  // The same for the greeting behind it.
  server.on('upgrade', (_request, stream) => void stream.write(UPGRADED));
  await expect(opening()).rejects.toMatchObject(silent);
});

test('when the node goes, calls in flight fail as ambiguous, and the next call finds the new node', async () => {
  answer = () => undefined;
  const live = await open({ reconnectMs: 5000 });
  const first = await live.session();
  const failing = live.call(ECHO, raw, Buffer.from('x'));
  await until(() => seen.length === 1);
  server.close();
  sockets[0]?.destroy();
  await expect(failing).rejects.toMatchObject({ code: 'node_unreachable', retry: 'ambiguous' });
  expect(first.alive).toBe(false);

  answer = (_op, payload, reply) => reply(payload);
  const next = live.call(ECHO, raw, Buffer.from('again')); // sent while nobody listens
  await listen();
  expect(String(await next)).toBe('again');
  await expect(first.call(ECHO, raw, Buffer.from('old'))).rejects.toMatchObject({
    details: { notSent: true },
  });
});

test('a node that stays away is given up in time', async () => {
  const live = await open({ reconnectMs: 100 });
  server.close();
  sockets[0]?.destroy();
  await until(() => live.currentSession === undefined);
  await expect(live.call(ECHO, raw, Buffer.from('x'))).rejects.toMatchObject({
    code: 'node_unreachable',
  });
});

test('at most so many calls are in flight; the others wait their turn', async () => {
  let open_ = 0;
  let most = 0;
  answer = (_op, payload, reply) => {
    most = Math.max(most, ++open_);
    setImmediate(() => {
      open_--;
      reply(payload);
    });
  };
  const live = await open({ callsInflightMax: 4 });
  await Promise.all(Array.from({ length: 50 }, () => live.call(ECHO, raw, Buffer.from('x'))));
  expect(most).toBeLessThanOrEqual(4);
});

test('a revoke nobody handles is answered: nothing is held', async () => {
  await open();
  sockets[0]?.write(encodeFrame(0, OPS.revoke, 0, messages.revoke.encode({ blobIds: [7, 8] })));
  await until(() => seen.some(({ op }) => op === OPS.blobsReleased));
  const released = seen.find(({ op }) => op === OPS.blobsReleased) as { payload: Buffer };
  expect(messages.blobsReleased.request.decode(released.payload).blobIds).toEqual([7, 8]);
});

test('pushes reach their handlers', async () => {
  const live = await open();
  const reason = Promise.withResolvers<string>();
  const revoked = Promise.withResolvers<readonly number[]>();
  live.setHandlers({ onGoingAway: reason.resolve, onRevoke: revoked.resolve });
  sockets[0]?.write(
    encodeFrame(0, OPS.goingAway, 0, messages.goingAway.encode({ reason: 'SIGTERM' })),
  );
  sockets[0]?.write(encodeFrame(0, OPS.revoke, 0, messages.revoke.encode({ blobIds: [1] })));
  expect(await reason.promise).toBe('SIGTERM');
  expect(await revoked.promise).toEqual([1]);
});

test('a server that speaks no frames is told apart from one that is not there', async () => {
  const plain = createServer((_request, response) => {
    response.writeHead(404);
    response.end();
  });
  plain.listen(join(dir, 'plain'));
  await once(plain, 'listening');
  const address = (name: string) => ({ address: parseNodeAddress(`unix://${join(dir, name)}`) });
  await expect(openFrameConnection(address('plain'))).rejects.toMatchObject({
    code: 'unsupported',
  });
  await expect(openFrameConnection(address('nobody'))).rejects.toMatchObject({
    code: 'node_unreachable',
  });
  plain.close();
});

async function bound() {
  const live = await open();
  return { call: (body: Buffer) => live.call(ECHO, raw, body) };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setImmediate(resolve));
}
