/** A real node. Faults: peers who announce and send nothing, who ask and take nothing, who ask for much at once. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { KiB, MiB } from '@ebb/protocol';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { openTestNode, type TestNode } from '../testing/test-node.ts';

let node: TestNode;
const sockets: Socket[] = [];

beforeAll(async () => {
  node = await openTestNode({ memoryLimit: 256 * MiB });
  await node.json('PUT', '/v1/buckets/bkt', { preset: 'ephemeral' });
  await node.http('PUT', at('large'), { body: Buffer.alloc(8 * MiB, 7) });
});
afterAll(async () => await node[Symbol.asyncDispose]());
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
});

function at(key: string): string {
  return `/v1/buckets/bkt/objects/${key}`;
}

/** Takes nothing of what it is sent. */
async function rawConnection(text: string): Promise<Socket> {
  const socket = connect(node.socketPath);
  sockets.push(socket);
  socket.on('error', () => undefined);
  socket.pause();
  await once(socket, 'connect');
  socket.write(text);
  return socket;
}

async function metric(name: string): Promise<number> {
  const text = (await node.http('GET', '/metrics')).body.toString();
  return Number(new RegExp(`^${name.replaceAll(/[{}]/g, '\\$&')} (.*)$`, 'm').exec(text)?.[1]);
}

/** Bodies above what a connection has of its own, both ways. */
async function expectServed(): Promise<void> {
  const body = Buffer.alloc(3 * MiB, 5);
  expect((await node.http('PUT', at('p'), { body })).status).toBe(201);
  expect((await node.http('GET', at('p'))).body.equals(body)).toBe(true);
}

test('a hundred senders who stop in the middle hold up nobody', async () => {
  const head = (n: number): string =>
    `PUT ${at(`x${n}`)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n`;
  for (let n = 0; n < 100; n++)
    await rawConnection(head(n) + (n % 2 === 0 ? 'a' : 'a'.repeat(100 * KiB)));
  await expectServed();
  await expect.poll(() => metric('ebb_body_pieces{use="body"}')).toBe(0);
});

test('a hundred readers who take nothing hold up nobody', async () => {
  for (let n = 0; n < 100; n++)
    await rawConnection(`GET ${at('large')} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  await expect.poll(() => metric('ebb_body_pieces{use="answer"}')).toBeGreaterThan(20);
  await expectServed();
  expect(await metric('ebb_body_pieces{use="answer"}')).toBeLessThanOrEqual(48);
});

test('requests that are sent ahead on one connection are worked on one by one', async () => {
  const ask = `GET ${at('large')} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
  const socket = await rawConnection(ask.repeat(20));
  await expect.poll(() => metric('ebb_body_pieces{use="answer"}')).toBe(1);
  let bytes = 0;
  const all = new Promise<void>((resolve) => {
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > 20 * 8 * MiB) resolve();
    });
  });
  socket.resume();
  await all;
});
