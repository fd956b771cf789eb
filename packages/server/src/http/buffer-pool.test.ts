import { expect, onTestFinished, test, vi } from 'vitest';
import { BufferPool } from './buffer-pool.ts';

const create = (): BufferPool =>
  new BufferPool({ pieceBytes: 16, piecesMax: 6, piecesKept: 2, answerPiecesMax: 4 });

test('readers who stop leave pieces for those who send', () => {
  const pool = create();
  for (let n = 0; n < 4; n++) expect(pool.tryTakeForAnswer('a')).toBeDefined();
  expect(pool.tryTakeForAnswer('a')).toBeUndefined();
  expect([pool.tryTake(), pool.tryTake(), pool.tryTake()].map(Boolean)).toEqual([
    true,
    true,
    false,
  ]);
  expect(pool.lent).toEqual({ body: 2, answer: 4 });
});

test('a peer who reads beside others has half of the pieces of answers at most', () => {
  const pool = create();
  const first = pool.tryTakeForAnswer('a') as Buffer;
  expect(pool.tryTakeForAnswer('b')).toBeDefined();
  expect(pool.tryTakeForAnswer('a')).toBeDefined();
  expect(pool.tryTakeForAnswer('a')).toBeUndefined();
  expect(pool.tryTakeForAnswer('b')).toBeDefined();
  pool.give(first);
  expect(pool.tryTakeForAnswer('c')).toBeDefined();
});

test('senders get pieces in the order in which they came, and nobody takes one past them', async () => {
  const pool = create();
  const lent = Array.from({ length: 6 }, () => pool.tryTake() as Buffer);
  const order: string[] = [];
  const first = Promise.resolve(pool.take()).then(() => order.push('first'));
  const second = Promise.resolve(pool.take()).then(() => order.push('second'));
  expect([pool.tryTake(), pool.tryTakeForAnswer('a'), pool.waiting]).toEqual([
    undefined,
    undefined,
    2,
  ]);
  for (const piece of lent.slice(0, 2)) pool.give(piece);
  await Promise.all([first, second]);
  expect(order).toEqual(['first', 'second']);
});

test('pieces lie in shared memory, and come back once', () => {
  const pool = create();
  const piece = pool.tryTake() as Buffer;
  expect(piece.buffer).toBeInstanceOf(SharedArrayBuffer);
  pool.give(piece);
  expect(() => pool.give(piece)).toThrow('comes back once');
});

test('pieces are used again while much goes on, and given up a second after', () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
  const pool = create();
  const takeAll = (): Buffer[] => Array.from({ length: 6 }, () => pool.tryTake() as Buffer);
  const first = takeAll();
  for (const piece of first) pool.give(piece);
  vi.advanceTimersByTime(1000);
  const second = takeAll();
  expect(second.every((piece) => first.includes(piece))).toBe(true);
  for (const piece of second) pool.give(piece);
  vi.advanceTimersByTime(2000);
  expect(takeAll().filter((piece) => first.includes(piece))).toHaveLength(2);
});

test('a piece that a failed read may still write into goes to nobody else', async () => {
  const pool = new BufferPool({
    pieceBytes: 1024,
    piecesMax: 2,
    piecesKept: 2,
    answerPiecesMax: 1,
  });
  const piece = pool.tryTakeForAnswer('peer') as Buffer;
  const other = pool.tryTake() as Buffer;
  const waiting = pool.take() as Promise<Buffer>;
  pool.give(piece, { mayBeWritten: true });
  const next = await waiting;
  expect(next).not.toBe(piece);
  pool.give(next);
  pool.give(other, { mayBeWritten: true });
  expect([pool.tryTake(), pool.tryTake()]).not.toContain(other);
  expect(pool.lent).toEqual({ body: 2, answer: 0 });
});
