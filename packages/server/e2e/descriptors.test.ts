/** A real process with few file descriptors. Fault: clients who connect and say nothing. */
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';

let node: NodeProcess;
beforeAll(async () => {
  node = await startNodeProcess({ descriptors: 256 });
  await fetch(`${node.url}/v1/buckets/bkt`, { method: 'PUT' });
}, 60_000);
afterAll(async () => await node[Symbol.asyncDispose]());

const at = (key: string): string => `${node.url}/v1/buckets/bkt/objects/${key}`;
const descriptors = (): number => readdirSync(`/proc/${node.pid}/fd`).length;

test('files that are kept open leave descriptors for connections', async () => {
  for (let n = 0; n < 300; n++)
    await fetch(at(`k${n}`), { method: 'PUT', body: 'x' }).then((answer) => answer.text());
  for (let n = 0; n < 300; n++) await fetch(at(`k${n}`)).then((answer) => answer.text());
  expect(descriptors()).toBeLessThan(110);
}, 60_000);

test('probes, reads and writes are answered beside 3,000 connections on which nobody speaks', async () => {
  const port = Number(new URL(node.url).port);
  const silent: Socket[] = [];
  for (let n = 0; n < 3_000; n++) {
    const socket = connect(port, '127.0.0.1').on('error', () => undefined);
    silent.push(socket);
    if (n % 100 === 99) await once(socket, 'connect');
  }
  try {
    expect((await fetch(`${node.url}/healthz`)).status).toBe(200);
    expect((await fetch(`${node.url}/readyz`)).status).toBe(200);
    expect((await fetch(at('new'), { method: 'PUT', body: 'x'.repeat(300_000) })).status).toBe(201);
    expect((await (await fetch(at('new'))).text()).length).toBe(300_000);
    expect(descriptors()).toBeLessThan(256);
  } finally {
    for (const socket of silent) socket.destroy();
  }
}, 60_000);
