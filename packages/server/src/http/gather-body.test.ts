/** The request is a stream that says `complete` as Node's does. Faults: a sender who is slow, who sends too much. */
import type { IncomingMessage } from 'node:http';
import { PassThrough } from 'node:stream';
import { StoreError } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { gatherBody } from './gather-body.ts';
import { PeerMemory } from './peer-memory.ts';

const KiB = 1024;
const tooLarge = (): StoreError => new StoreError('too_large');
const memory = (clock = { ms: 0 }): PeerMemory =>
  new PeerMemory({ bytesMax: 256 * KiB, ownBytes: KiB, patienceMs: 1_000, now: () => clock.ms });

function requestOf() {
  const stream = new PassThrough();
  return {
    stream,
    request: Object.assign(stream, { complete: false }) as unknown as IncomingMessage,
  };
}

test('a body that comes byte by byte is whole in the end, and no memory is held after it', async () => {
  const held = memory();
  const { stream, request } = requestOf();
  const gathered = gatherBody(request, { held, bytesMax: 64 * KiB, tooLarge });
  const body = Buffer.from(Array.from({ length: 9_000 }, (_, n) => n % 251));
  for (const byte of body) stream.write(Buffer.of(byte));
  stream.end();
  expect((await gathered).equals(body)).toBe(true);
  expect(held.bytes).toBe(0);
});

test('a body that is too large is refused when it becomes so', async () => {
  const held = memory();
  const { stream, request } = requestOf();
  const gathered = gatherBody(request, { held, bytesMax: 5 * KiB, tooLarge });
  stream.write(Buffer.alloc(5 * KiB + 1));
  await expect(gathered).rejects.toMatchObject({ code: 'too_large' });
  expect(held.bytes).toBe(0);
});

test('a body that does not come whole in its time is ended', async () => {
  const { stream, request } = requestOf();
  const gathered = gatherBody(request, {
    ...{ held: memory(), bytesMax: 64 * KiB, tooLarge, timeoutMs: 5 },
  });
  stream.write('{');
  await expect(gathered).rejects.toMatchObject({ code: 'timed_out' });
});

test('slow bodies together take no more than their bound, and the oldest makes place for a new one', async () => {
  const clock = { ms: 0 };
  const held = memory(clock);
  const options = { held, bytesMax: 128 * KiB, tooLarge };
  const [first, second, third] = [requestOf(), requestOf(), requestOf()];
  const slow = [first, second].map(({ request }) => gatherBody(request, options));
  for (const { stream } of [first, second]) stream.write(Buffer.alloc(100 * KiB));
  await expect.poll(() => held.bytes).toBe(200 * KiB);
  clock.ms = 1_001;
  const next = gatherBody(third.request, options);
  third.stream.end(Buffer.alloc(100 * KiB));
  expect((await next).length).toBe(100 * KiB);
  await expect(slow[0]).rejects.toMatchObject({ code: 'busy' });
  second.stream.end();
  expect((await slow[1])?.length).toBe(100 * KiB);
});
