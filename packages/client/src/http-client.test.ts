/** Against a node of a few lines. Fault model: it takes connections, and answers late, never, or only what is cheap. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { PATHS } from '@ebb/protocol';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createHttpClient, type HttpClient } from './http-client.ts';
import { parseNodeAddress } from './node-address.ts';
import { NO_RETRY } from './retry.ts';

const LIMITS = { pingAfterMs: 50, silenceMsMax: 400 };
/** Much longer than a silent node is waited for. */
const LONG_MS = 1200;
const anything = { safeParse: (data: unknown) => ({ success: true as const, data }) };

let server: Server;
let answer: (request: IncomingMessage, response: ServerResponse) => void;
let asked: number;
let http: HttpClient;

beforeEach(async () => {
  asked = 0;
  server = createServer((request, response) => {
    if (request.url === PATHS.healthz) asked++;
    answer(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const address = parseNodeAddress(`http://127.0.0.1:${port}`);
  http = createHttpClient(address, { retry: NO_RETRY, ...LIMITS });
});
afterEach(async () => {
  await http.close();
  server.closeAllConnections();
  server.close();
});

function isQuestion({ url }: IncomingMessage): boolean {
  return url === PATHS.healthz;
}

test('a call that takes long is waited for as long as the node lives', async () => {
  answer = (request, response) => {
    if (isQuestion(request)) response.end('ok');
    else void sleep(LONG_MS).then(() => response.end('"done"'));
  };
  expect(await http.json('POST', '/v1/verify', anything)).toBe('done');
  expect(asked).toBeGreaterThan(1);
});

test('a node that takes connections and answers nothing is given up: what waits ends as ambiguous, and says why', async () => {
  answer = () => undefined;
  const startedMs = performance.now();
  const calls = ['/v1/verify', '/v1/gc'].map((path) => http.json('POST', path, anything));
  for (const result of await Promise.allSettled(calls))
    expect(result).toMatchObject({
      status: 'rejected',
      reason: {
        code: 'node_unreachable',
        retry: 'ambiguous',
        message: expect.stringMatching(
          /takes connections and has not answered for \d+ s; is it paused/,
        ),
      },
    });
  expect(performance.now() - startedMs).toBeLessThan(LONG_MS * 5);

  answer = (_request, response) => void response.end('"again"');
  expect(await http.json('GET', '/v1/status', anything)).toBe('again');
});

test('a pause that is shorter is ridden out', async () => {
  const held: (() => void)[] = [];
  answer = (_request, response) => void held.push(() => response.end('"late"'));
  const call = http.json('POST', '/v1/verify', anything);
  await sleep(200);
  answer = (_request, response) => void response.end('"ok"');
  for (const go of held) go();
  expect(await call).toBe('late');
});

test('a body that stands still is given up with the node', async () => {
  const head = { 'content-length': 8, etag: '"e"', 'x-ebb-version': 1 };
  answer = (request, response) => {
    if (isQuestion(request)) return;
    response.writeHead(200, head);
    response.write('half');
  };
  const { chunks } = await http.get({ bucket: 'b', key: 'k' }, undefined);
  await expect(
    (async () => {
      for await (const _chunk of chunks);
    })(),
  ).rejects.toMatchObject({ code: 'node_unreachable' });
});

test('what a node answers at once is waited for no longer than that', async () => {
  answer = (request, response) => {
    if (isQuestion(request)) response.end('ok');
  };
  const call = http.json('GET', '/v1/status', anything, { answerWithinMs: 100 });
  await expect(call).rejects.toMatchObject({
    code: 'node_unreachable',
    message: expect.stringContaining('takes connections and has not answered'),
  });
});

test('closing ends what waits, and the question', async () => {
  answer = () => undefined;
  const call = http.json('GET', '/v1/status', anything).catch((error: unknown) => error);
  await sleep(100);
  await http.close();
  expect(await call).toMatchObject({ code: 'node_unreachable' });
});
