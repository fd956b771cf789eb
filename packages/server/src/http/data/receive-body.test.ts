/** The request is a stream that says `complete` as Node's does. Faults: a sender who stops, who is slow, who goes away. */
import type { IncomingMessage } from 'node:http';
import { PassThrough } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { crc32c, createBodySums } from '@ebb/core';
import { StoreError } from '@ebb/protocol';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { BufferPool } from '../buffer-pool.ts';
import { type ReceiveOptions, receiveBody } from './receive-body.ts';

const KiB = 1024;
const times = { flushMs: 100, silenceMs: 1_000, windowMs: 10_000, windowBytesMin: 64 * KiB };

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }));
afterEach(() => void vi.useRealTimers());

function start(piecesMax = 3, options: ReceiveOptions = {}) {
  const pool = new BufferPool({
    ...{ pieceBytes: 256 * KiB, piecesMax, piecesKept: 1, answerPiecesMax: 1 },
  });
  const stream = new PassThrough({ highWaterMark: 1024 * KiB });
  const request = Object.assign(stream, { complete: false }) as unknown as IncomingMessage;
  const written: Buffer[] = [];
  /** How much was written when the sender was found silent. */
  const silences: number[] = [];
  const received = receiveBody(
    request,
    pool,
    async (bytes, position) => {
      expect(position).toBe(written.reduce((sum, { length }) => sum + length, 0));
      written.push(Buffer.from(bytes));
    },
    { times, onSilence: () => void silences.push(written.length), ...options },
  );
  received.catch(() => undefined);
  const send = async (bytes: Buffer): Promise<void> => {
    stream.write(Buffer.from(bytes)); // what arrives is given back by hand
    for (let turn = 0; turn < 5; turn++) await setImmediate();
  };
  const end = (): void => {
    (request as { complete: boolean }).complete = true;
    stream.end();
  };
  return { pool, stream, received, written, silences, send, end };
}

describe('a sender who stops', () => {
  test('holds no piece for what is little', async () => {
    const { pool, send, written, received, end } = start();
    await send(Buffer.alloc(60 * KiB, 1));
    expect(pool.lent.body).toBe(0);
    await vi.advanceTimersByTimeAsync(100);
    expect(written.map(({ length }) => length)).toEqual([60 * KiB]);
    end();
    expect((await received).sizeBytes).toBe(60 * KiB);
  });

  test('has what came written out, and its piece is back a moment later', async () => {
    const { pool, send, written } = start();
    await send(Buffer.alloc(200 * KiB, 1));
    expect(pool.lent.body).toBe(1);
    await vi.advanceTimersByTimeAsync(100);
    expect([pool.lent.body, written.map(({ length }) => length)]).toEqual([0, [200 * KiB]]);
  });

  test('byte by byte gets the same bytes, length and checksum as one who sends at once', async () => {
    const { send, received, written, end } = start();
    const body = Buffer.from(Array.from({ length: 300 }, (_, n) => n % 251));
    for (let at = 0; at < body.length; at++) {
      await send(body.subarray(at, at + 1));
      if (at % 50 === 0) await vi.advanceTimersByTimeAsync(100);
    }
    end();
    expect(await received).toMatchObject({ sizeBytes: 300, crc32c: crc32c(body) });
    expect(Buffer.concat(written).equals(body)).toBe(true);
    expect(written.length).toBeLessThan(10);
  });
});

test('a sender who is silent is found so once, with all that he sent written', async () => {
  const { send, silences, received, end } = start();
  await vi.advanceTimersByTimeAsync(1_000);
  await send(Buffer.alloc(10 * KiB));
  await vi.advanceTimersByTimeAsync(100 + 3_000);
  expect(silences).toEqual([0, 1]);
  end();
  expect((await received).sizeBytes).toBe(10 * KiB);
});

test('a silent sender whose write is gone is told so, and nothing else ends', async () => {
  const gone = new StoreError('write_not_found');
  const { pool, send, received } = start(3, {
    onSilence: () => {
      throw gone;
    },
  });
  await send(Buffer.alloc(10 * KiB));
  await vi.advanceTimersByTimeAsync(100 + 3_000);
  await expect(received).rejects.toBe(gone);
  expect(pool.lent.body).toBe(0);
});

test('a body without a free piece waits for one, and for nothing else', async () => {
  const { pool, send, received, written, end } = start(2);
  const lent = [pool.tryTake(), pool.tryTake()] as [Buffer, Buffer];
  const body = Buffer.alloc(700 * KiB, 3);
  await send(body);
  expect([pool.waiting, written.length]).toEqual([1, 0]);
  pool.give(lent[0]);
  end();
  expect(await received).toMatchObject({ sizeBytes: body.length, crc32c: crc32c(body) });
  pool.give(lent[1]);
  expect(pool.lent.body).toBe(0);
});

test('a body that comes too slowly is ended, and one that keeps the least pace is not', async () => {
  const slow = start();
  await slow.send(Buffer.alloc(60 * KiB));
  const steady = start();
  await steady.send(Buffer.alloc(64 * KiB));
  await vi.advanceTimersByTimeAsync(10_000);
  await setImmediate();
  await expect(slow.received).rejects.toMatchObject({ code: 'timed_out' });
  await steady.send(Buffer.alloc(64 * KiB));
  await vi.advanceTimersByTimeAsync(10_000);
  await setImmediate();
  steady.end();
  expect((await steady.received).sizeBytes).toBe(128 * KiB);
});

test('a client that goes away in the middle leaves every piece in the pool', async () => {
  const { pool, send, received, stream } = start();
  await send(Buffer.alloc(200 * KiB));
  stream.destroy();
  await expect(received).rejects.toMatchObject({ code: 'aborted' });
  expect(pool.lent.body).toBe(0);
});

test('a piece is summed up beside its write, and is back in the pool when both are over', async () => {
  const sums: (() => void)[] = [];
  const computed = createBodySums();
  const { pool, send, received, written, end } = start(3, {
    sums: {
      ...computed,
      add: async (piece) => {
        await new Promise<void>((resolve) => sums.push(resolve));
        await computed.add(piece);
      },
    },
  });
  const body = Buffer.from(Array.from({ length: 600 * KiB }, (_, n) => n % 251));
  await send(body);
  end();
  for (const [pieces, lent] of [
    [1, 2],
    [2, 2],
    [3, 1],
  ] as const) {
    await vi.waitUntil(() => sums.length === pieces);
    expect([written.length, pool.lent.body]).toEqual([pieces, lent]);
    sums.at(-1)?.();
  }
  expect(await received).toMatchObject({ sizeBytes: body.length, crc32c: crc32c(body) });
  expect(pool.lent.body).toBe(0);
});
