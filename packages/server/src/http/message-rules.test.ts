/** A real node, both listeners and the socket, raw text. Faults: requests that no client of ours sends. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { Writable } from 'node:stream';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openTestNode, type TestNode } from '../testing/test-node.ts';

let node: TestNode;
const errors: string[] = [];
const log = pino(
  { level: 'error' },
  new Writable({
    write(line: Buffer, _encoding, done) {
      errors.push(line.toString());
      done();
    },
  }),
);

beforeAll(async () => {
  node = await openTestNode({ s3Listen: '127.0.0.1:0' }, { log });
  await node.json('PUT', '/v1/buckets/bkt', { preset: 'ephemeral' });
});
afterAll(async () => await node[Symbol.asyncDispose]());

type Where = 'tcp' | 'socket' | 's3';

/** The status line, or why there is none. */
async function ask(where: Where, text: string): Promise<{ status: number; text: string }> {
  const { url, s3Url } = node.node;
  const socket =
    where === 'socket'
      ? connect(node.socketPath)
      : connect(Number(new URL((where === 'tcp' ? url : s3Url) as string).port), '127.0.0.1');
  let answer = '';
  socket.on('data', (chunk: Buffer) => {
    answer += chunk.toString('latin1');
    if (answer.includes('\r\n\r\n')) socket.end();
  });
  socket.on('error', () => undefined);
  socket.write(Buffer.from(text, 'latin1'));
  await once(socket, 'close');
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 0), text: answer };
}

const host = 'Host: localhost\r\n';
const both: readonly (readonly [what: string, text: string, statuses: readonly number[]])[] = [
  ['TRACE', `TRACE /v1/status HTTP/1.1\r\n${host}\r\n`, [405]],
  ['CONNECT', `CONNECT localhost:80 HTTP/1.1\r\n${host}\r\n`, [405]],
  ['two Host headers', `GET /v1/status HTTP/1.1\r\n${host}Host: other\r\n\r\n`, [400]],
  [
    'a second Host header behind thousands of others',
    `GET /x HTTP/1.1\r\n${host}${'a:\r\n'.repeat(3_000)}Host: other\r\n\r\n`,
    [400],
  ],
  ['no Host header', 'GET /v1/status HTTP/1.1\r\n\r\n', [400]],
  ['a Host header that is no host', 'GET /x HTTP/1.1\r\nHost: a/b@c\r\n\r\n', [400]],
  [
    'an unknown transfer coding',
    `PUT /bkt/k HTTP/1.1\r\n${host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`,
    [501],
  ],
  [
    'a transfer coding that is not the last one',
    `PUT /bkt/k HTTP/1.1\r\n${host}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n`,
    [400, 501],
  ],
  [
    'a length and a transfer coding',
    `PUT /bkt/k HTTP/1.1\r\n${host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    [400],
  ],
  [
    'two transfer codings in two headers',
    `PUT /bkt/k HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    [400, 501],
  ],
  [
    'two lengths',
    `PUT /bkt/k HTTP/1.1\r\n${host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`,
    [400],
  ],
  ['a length that is no number', `PUT /bkt/k HTTP/1.1\r\n${host}Content-Length: -1\r\n\r\n`, [400]],
  ['a folded header', `GET /x HTTP/1.1\r\n${host}X-A: b\r\n c\r\n\r\n`, [400]],
  ['a space before the colon', `GET /x HTTP/1.1\r\n${host}X-A : b\r\n\r\n`, [400]],
  ['a control character in a header', `GET /x HTTP/1.1\r\n${host}X-A: b\x01\r\n\r\n`, [400]],
  ['a method nobody knows', `BREW /x HTTP/1.1\r\n${host}\r\n`, [400, 501]],
  ['headers without an end', `GET /x HTTP/1.1\r\n${host}X-A: ${'a'.repeat(40_000)}\r\n\r\n`, [431]],
  ['a target without an end', `GET /${'a'.repeat(40_000)} HTTP/1.1\r\n${host}\r\n`, [414, 431]],
  ['a target that is neither path nor URL', `GET ftp://localhost/x HTTP/1.1\r\n${host}\r\n`, [400]],
  ['a star that is no OPTIONS', `GET * HTTP/1.1\r\n${host}\r\n`, [400]],
  ['another version', `GET /x HTTP/2.7\r\n${host}\r\n`, [400, 505]],
];

describe.each(['tcp', 'socket', 's3'] as const)('on %s', (where) => {
  test.each(both)(
    '%s is refused as HTTP says, and no error is logged',
    async (_what, text, statuses) => {
      const { status } = await ask(where, text);
      expect(statuses).toContain(status);
      expect(errors).toEqual([]);
    },
  );

  test('OPTIONS * tells the methods', async () => {
    const answer = await ask(where, `OPTIONS * HTTP/1.1\r\n${host}\r\n`);
    expect(answer.status).toBe(204);
    expect(answer.text.toLowerCase()).toContain('allow: get');
  });
});

describe('the node’s own paths', () => {
  const own: readonly (readonly [what: string, text: string, statuses: readonly number[]])[] = [
    [
      'another expectation, which S3 takes',
      `PUT /v1/buckets/bkt/objects/k HTTP/1.1\r\n${host}Expect: more\r\nContent-Length: 0\r\n\r\n`,
      [417],
    ],
    ['two slashes', `GET // HTTP/1.1\r\n${host}\r\n`, [404]],
    ['two slashes and a host', `GET //other/v1/status HTTP/1.1\r\n${host}\r\n`, [404]],
    ['a port that is none', `GET //a:b HTTP/1.1\r\n${host}\r\n`, [404]],
    ['a path with a URL in it', `GET /http://x:y:z HTTP/1.1\r\n${host}\r\n`, [404]],
    ['an escape that is none', `GET /v1/buckets/%zz HTTP/1.1\r\n${host}\r\n`, [400, 404]],
    [
      'an escape that is no UTF-8',
      `GET /v1/buckets/bkt/objects/%ff HTTP/1.1\r\n${host}\r\n`,
      [400],
    ],
    ['bytes that are no ASCII', `GET /v1/buckets/\xff\xfe HTTP/1.1\r\n${host}\r\n`, [400, 404]],
    [
      'a method that the path has not',
      `PATCH /v1/buckets/bkt/objects/k HTTP/1.1\r\n${host}\r\n`,
      [405],
    ],
    ['a change of a probe', `DELETE /healthz HTTP/1.1\r\n${host}\r\n`, [405]],
    [
      'events that are posted',
      `POST /v1/events HTTP/1.1\r\n${host}Content-Length: 0\r\n\r\n`,
      [405],
    ],
    ['a method of WebDAV', `PROPFIND /v1/status HTTP/1.1\r\n${host}\r\n`, [404, 405, 501]],
    ['an absolute target', `GET http://localhost/healthz HTTP/1.1\r\n${host}\r\n`, [200]],
    [
      'an absolute target elsewhere',
      `GET http://evil.example/v1/status HTTP/1.1\r\n${host}\r\n`,
      [400],
    ],
    [
      'JSON that is none',
      `POST /v1/buckets/bkt HTTP/1.1\r\n${host}Content-Type: application/json\r\nContent-Length: 1\r\n\r\n{`,
      [400],
    ],
    [
      'a body of another type',
      `PUT /v1/buckets/b2 HTTP/1.1\r\n${host}Content-Type: multipart/form-data\r\nContent-Length: 1\r\n\r\n{`,
      [400, 415],
    ],
    [
      'an upgrade to nothing',
      `GET /v1/frames HTTP/1.1\r\n${host}Connection: Upgrade\r\nUpgrade: x\r\n\r\n`,
      [400],
    ],
    [
      'an upgrade with two hosts',
      `GET /v1/frames HTTP/1.1\r\n${host}${host}Connection: Upgrade\r\nUpgrade: ebb-frames/1\r\n\r\n`,
      [400],
    ],
  ];
  test.each(own)(
    '%s: answered as HTTP says, and no error is logged',
    async (_what, text, statuses) => {
      const { status, text: answer } = await ask('tcp', text);
      expect([status, answer.slice(0, 300)]).toEqual([
        statuses.includes(status) ? status : statuses,
        answer.slice(0, 300),
      ]);
      expect(errors).toEqual([]);
    },
  );
});
