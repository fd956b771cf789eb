/** A real node, with TLS and without. Fault: a client sends its whole body before it reads, and was refused at its first byte. */
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect as connectPlain, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { MiB } from '@ebb/protocol';
import { createTestCa } from '@ebb/testkit';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openTestNode, type TestNode } from '../testing/test-node.ts';

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
    const host = '127.0.0.1';
    const socket =
      scheme === 'http' ? connectPlain({ port, host }) : connectTls({ port, host, ca });
    await once(socket, scheme === 'http' ? 'connect' : 'secureConnect');
    return socket;
  }

  test.each(refusals)('%s: %s is answered, though the connection ends with it', async (...row) => {
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
    if (!socket.closed) await once(socket, 'close');
    expect(failed).toEqual([]);
    expect(answer).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
    const length = Number(/content-length: (\d+)/i.exec(answer)?.[1]);
    expect(answer.split('\r\n\r\n')[1]).toHaveLength(length);
  });
});
