/** A real node, with TLS and without. Fault: a client sends its whole body before it reads, and was refused at its first byte. */
import { EventEmitter, once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { connect as connectPlain, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { MiB } from '@ebb/protocol';
import { createTestCa } from '@ebb/testkit';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { REFUSED_BODY_MS_MAX } from '../limits.ts';
import { openTestNode, type TestNode } from '../testing/test-node.ts';
import { boundRefusedBody } from './refused-body.ts';

const BODY_BYTES = 9 * MiB;

const refusals = [
  ['v1', 'a put into no bucket', 'PUT /v1/buckets/none/objects/k', 404],
  ['v1', 'JSON that is too long', 'PUT /v1/buckets/bkt', 413],
  ['v1', 'a method that is not offered', 'PATCH /v1/buckets/bkt/objects/k', 405],
  ['v1', 'a key that is none', 'PUT /v1/buckets/bkt/objects/..', 400],
  ['v1', 'what no path offers', 'TRACE /v1/status', 405],
  ['s3', 'a put into no bucket', 'PUT /none/k', 404],
  ['s3', 'a form without an end', 'POST /none', 400],
  ['s3', 'XML that is too long', 'PUT /bkt?versioning', 400],
  ['s3', 'what no path offers', 'TRACE /bkt', 405],
] as const;

const others = [
  ['v1', 'a probe', 'GET /healthz', 200],
  ['v1', 'the methods of the node', 'OPTIONS *', 204],
  ['s3', 'a listing', 'GET /bkt?list-type=2', 200],
  ['s3', 'a deletion', 'DELETE /bkt/none', 204],
] as const;

describe.each(['http', 'https'] as const)('over %s', (scheme) => {
  let node: TestNode;
  let ca: string;
  const directory = mkdtempSync(join(tmpdir(), 'ebb-refused-'));
  beforeAll(async () => {
    const authority = await createTestCa(directory);
    const { certFile, keyFile } = await authority.issue('node');
    ca = readFileSync(authority.certFile, 'utf8');
    const tls = scheme === 'https' ? { tlsCert: certFile, tlsKey: keyFile } : {};
    node = await openTestNode({ s3Listen: '127.0.0.1:0', listen: '127.0.0.1:0', ...tls });
    await node.json('PUT', '/v1/buckets/bkt', { preset: 'ephemeral' });
  });
  afterAll(async () => {
    await node[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  async function open(surface: 'v1' | 's3'): Promise<Socket> {
    const { url, s3Url } = node.node;
    const port = Number(new URL((surface === 'v1' ? url : s3Url) as string).port);
    const to = { port, host: '127.0.0.1', allowHalfOpen: true };
    const socket = scheme === 'http' ? connectPlain(to) : connectTls({ ...to, ca });
    await once(socket, scheme === 'http' ? 'connect' : 'secureConnect');
    return socket;
  }

  test.each([...refusals, ...others])(
    '%s: %s is answered, though the connection ends with it',
    async (...row) => {
      const [surface, , line, status] = row;
      const socket = await open(surface);
      socket.pause();
      const failed: Error[] = [];
      socket.on('error', (error) => failed.push(error));
      const lines = [`${line} HTTP/1.1`, 'Host: localhost', 'Connection: close'];
      const form = 'Content-Type: multipart/form-data; boundary=x';
      lines.push(line.startsWith('POST') ? form : 'Content-Type: application/json');
      socket.write(`${lines.join('\r\n')}\r\nContent-Length: ${BODY_BYTES}\r\n\r\n`);
      for (let sent = 0; sent < BODY_BYTES; sent += MiB) {
        await pause(5); // the refusal is out by now
        socket.write(Buffer.alloc(MiB, ' '));
      }
      let answer = '';
      socket.on('data', (chunk: Buffer) => {
        answer += chunk.toString('latin1');
      });
      socket.resume();
      if (!socket.readableEnded) await once(socket, 'end');
      socket.destroy();
      expect(failed).toEqual([]);
      expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
      const length = Number(/content-length: (\d+)/i.exec(answer)?.[1] ?? 0);
      const isChunked = /transfer-encoding: chunked/i.test(answer);
      if (isChunked) expect(answer.endsWith('\r\n0\r\n\r\n')).toBe(true);
      else expect(answer.split('\r\n\r\n')[1]).toHaveLength(length);
    },
  );

  test.each([
    ['v1', 'PUT /v1/buckets/none/objects/k', 'Expect: 100-continue'],
    ['s3', 'PUT /none/k', 'Expect: 100-continue'],
    ['v1', 'HEAD /v1/buckets/none/objects/k', 'X-Any: a'],
    ['s3', 'HEAD /none/k', 'X-Any: a'],
  ] as const)(
    '%s: %s with %s is refused at once, and its connection ends: no body comes',
    async (surface, line, header) => {
      const socket = await open(surface);
      socket.on('error', () => undefined);
      const lines = [`${line} HTTP/1.1`, 'Host: localhost', 'Connection: close', header];
      let answer = '';
      socket.on('data', (chunk: Buffer) => {
        answer += chunk.toString('latin1');
      });
      const startedMs = performance.now();
      socket.write(`${lines.join('\r\n')}\r\nContent-Length: ${BODY_BYTES}\r\n\r\n`);
      await once(socket, 'end');
      // Whoever reads what still comes says nothing; a socket that is closed resets.
      while (!socket.closed) {
        socket.write('x');
        await pause(5);
        expect(performance.now() - startedMs).toBeLessThan(REFUSED_BODY_MS_MAX / 2);
      }
      expect(answer).toMatch(/^HTTP\/1.1 404 /);
    },
  );
});

test('the bound of a refused body goes with its connection: a node that stops waits for none', () => {
  vi.useFakeTimers();
  try {
    const socket = new EventEmitter();
    const request = Object.assign(new EventEmitter(), { complete: false, socket });
    boundRefusedBody(request as unknown as IncomingMessage);
    expect(vi.getTimerCount()).toBe(1);
    socket.emit('close');
    expect(vi.getTimerCount()).toBe(0);
  } finally {
    vi.useRealTimers();
  }
});
