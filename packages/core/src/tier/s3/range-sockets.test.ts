/** Against sockets that send exactly what a test says; against real stores: server/e2e/s3-tier.test.ts. */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { type RangeAnswer, RangeSockets } from './range-sockets.ts';

type Answer = (socket: Socket, request: string) => void;

interface Bench {
  readonly sockets: RangeSockets;
  readonly requests: string[];
  readonly connections: Socket[];
  readonly get: (signal?: AbortSignal) => Promise<RangeAnswer | undefined>;
}

async function setUp(answer: Answer): Promise<Bench> {
  const requests: string[] = [];
  const connections: Socket[] = [];
  const server = createServer((socket) => {
    connections.push(socket);
    socket.on('error', () => undefined);
    let text = '';
    socket.on('data', (bytes) => {
      text += bytes.toString('latin1');
      if (!text.endsWith('\r\n\r\n')) return;
      requests.push(text);
      answer(socket, text);
      text = '';
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const sockets = new RangeSockets({ connectMs: 1000 });
  onTestFinished(() => {
    sockets.destroy();
    for (const socket of connections) socket.destroy();
    server.close();
  });
  const request = {
    ...{ protocol: 'http:', hostname: '127.0.0.1', port: (server.address() as AddressInfo).port },
    ...{ path: '/b/k%20k', query: { 'x-id': "It's (*)" }, headers: { range: 'bytes=0-4' } },
  };
  const get = async (signal = new AbortController().signal): Promise<RangeAnswer | undefined> =>
    await sockets.get(request, signal);
  return { sockets, requests, connections, get };
}

async function textOf(answer: RangeAnswer | undefined): Promise<string> {
  let text = '';
  for await (const piece of answer?.pieces ?? []) text += Buffer.from(piece).toString('latin1');
  return text;
}

const HELLO = 'HTTP/1.1 206 Partial Content\r\nETag: "e"\r\nContent-Length: 5\r\n\r\nhello';

test('the request is sent as it was signed, and the connection is used again', async () => {
  const { get, requests, connections } = await setUp((socket) => socket.write(HELLO));
  for (let round = 0; round < 3; round++) {
    const answer = await get();
    expect(answer).toMatchObject({ statusCode: 206, headers: { etag: '"e"' } });
    expect(await textOf(answer)).toBe('hello');
  }
  const sent = 'GET /b/k%20k?x-id=It%27s%20%28%2A%29 HTTP/1.1\r\nrange: bytes=0-4\r\n\r\n';
  expect(requests).toEqual([sent, sent, sent]);
  expect(connections.length).toBe(1);
});

test('an answer that comes byte by byte is the same', async () => {
  const { get } = await setUp((socket) => {
    socket.setNoDelay(true);
    void (async () => {
      for (const char of HELLO) {
        socket.write(char);
        await sleep(1);
      }
    })();
  });
  const answer = await get();
  expect(answer?.headers).toEqual({ etag: '"e"', 'content-length': '5' });
  expect(await textOf(answer)).toBe('hello');
});

test('content larger than the buffer arrives whole, and waits for who reads it', async () => {
  const content = Buffer.alloc(
    5 << 20,
    Uint8Array.from({ length: 251 }, (_, n) => n),
  );
  const { get } = await setUp((socket) => {
    socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${content.length}\r\n\r\n`);
    socket.write(content);
  });
  for (let round = 0; round < 2; round++) {
    let at = 0;
    for await (const piece of (await get())?.pieces ?? []) {
      await sleep(1);
      expect(content.subarray(at, at + piece.length).equals(piece)).toBe(true);
      at += piece.length;
    }
    expect(at).toBe(content.length);
  }
});

const NOT_CONTENT: readonly (readonly [string, string])[] = [
  ['an error', 'HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno'],
  ['an interim answer', `HTTP/1.1 100 Continue\r\n\r\n${HELLO}`],
  ['no length', 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello'],
  ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello'],
  ['a folded line', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\n c\r\n\r\nhello'],
  ['another protocol', '220 mail.example.org\r\n\r\n'],
  ['a head without an end', `HTTP/1.1 200 OK\r\nA: ${'a'.repeat(70_000)}`],
];
test.each(NOT_CONTENT)('%s is for the usual way', async (_, sent) => {
  const { get, connections } = await setUp((socket) => socket.write(sent));
  expect(await get()).toBeUndefined();
  // Whatever it was: the connection is not used again.
  expect(await get()).toBeUndefined();
  expect(connections.length).toBeLessThanOrEqual(2);
});

test('a store that answers in chunks is asked the usual way from then on', async () => {
  const { get, requests } = await setUp((socket) =>
    socket.write('HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n'),
  );
  expect(await get()).toBeUndefined();
  expect(await get()).toBeUndefined();
  expect(requests.length).toBe(1);
});

test.each(['HTTP/1.1 200 OK\r\nConnection: close', 'HTTP/1.0 200 OK'])(
  'after "%s" there is another connection',
  async (head) => {
    const { get, connections } = await setUp((socket) =>
      socket.write(`${head}\r\nContent-Length: 5\r\n\r\nhello`),
    );
    expect(await textOf(await get())).toBe('hello');
    expect(await textOf(await get())).toBe('hello');
    expect(connections.length).toBe(2);
  },
);

test('a connection that the store closes or writes to at rest is not used again', async () => {
  const { get, connections } = await setUp((socket) => socket.write(HELLO));
  await textOf(await get());
  connections[0]?.end();
  await once(connections[0] as Socket, 'close');
  expect(await textOf(await get())).toBe('hello');
  connections[1]?.write('?');
  await once(connections[1] as Socket, 'close');
  expect(await textOf(await get())).toBe('hello');
  expect(connections.length).toBe(3);
});

test('one that is closed instead of answering is asked again on a new connection, a new one is an error', async () => {
  const { get, connections } = await setUp((socket) => {
    if (connections.length > 1 || connections[0]?.bytesWritten === 0) socket.write(HELLO);
    else socket.destroy();
  });
  await textOf(await get());
  expect(await textOf(await get())).toBe('hello');
  expect(connections.length).toBe(2);
  const broken = await setUp((socket) => socket.destroy());
  await expect(broken.get()).rejects.toThrow(/closed|ECONNRESET/);
});

test('content that ends early or goes on is an error', async () => {
  const short = await setUp((socket) => socket.end(HELLO.slice(0, -2)));
  await expect(short.get().then(textOf)).rejects.toThrow('closed the connection');
  const long = await setUp((socket) => socket.write(`${HELLO}!`));
  await expect(long.get().then(textOf)).rejects.toThrow('more than it announced');
  await expect(long.get().then(textOf)).rejects.toThrow('more than it announced');
  expect(long.connections.length).toBe(2);
});

test('aborting ends it at once, before the answer and within the content', async () => {
  const { get, connections } = await setUp(() => undefined);
  const early = new AbortController();
  const waiting = get(early.signal);
  while (connections.length === 0) await sleep(1);
  early.abort();
  await expect(waiting).rejects.toThrow('aborted');
  await expect(get(early.signal)).rejects.toThrow('aborted');

  const half = await setUp((socket) => socket.write(HELLO.slice(0, -2)));
  const late = new AbortController();
  const answer = await half.get(late.signal);
  const reading = textOf(answer);
  late.abort();
  await expect(reading).rejects.toThrow('aborted');
  await once(half.connections[0] as Socket, 'close');
});

test('what is not read is given up, with its connection', async () => {
  const { get, connections } = await setUp((socket) => socket.write(HELLO));
  (await get())?.destroy();
  await once(connections[0] as Socket, 'close');
  expect(await textOf(await get())).toBe('hello');
});

test('nobody there is an error; TLS is for the usual way', async () => {
  const { sockets } = await setUp(() => undefined);
  const refused = sockets.get(
    { protocol: 'http:', hostname: '127.0.0.1', port: 1, path: '/', headers: {} },
    new AbortController().signal,
  );
  await expect(refused).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  expect(
    await sockets.get(
      { protocol: 'https:', hostname: '127.0.0.1', path: '/', headers: {} },
      new AbortController().signal,
    ),
  ).toBeUndefined();
});
