import { isStoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ByteBudget, type ByteReservation } from './byte-budget.ts';

test('the sum never passes the capacity, whatever the order of reserving, waiting, giving up and releasing', async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('try' as const), bytes: fc.nat(120) }),
    fc.record({ kind: fc.constant('wait' as const), bytes: fc.nat(100) }),
    fc.record({ kind: fc.constant('release' as const), pick: fc.nat() }),
    fc.record({ kind: fc.constant('abort' as const), pick: fc.nat() }),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const budget = new ByteBudget({ capacityBytes: 100 });
      const held: { bytes: number; release: () => void }[] = [];
      const waiting: { controller: AbortController; done: Promise<void> }[] = [];
      const check = (): void => {
        expect(budget.usedBytes).toBeLessThanOrEqual(100);
        expect(budget.freeBytes).toBe(100 - budget.usedBytes);
      };
      for (const s of steps) {
        if (s.kind === 'try' && budget.tryReserve(s.bytes)) {
          held.push({ bytes: s.bytes, release: () => budget.release(s.bytes) });
        } else if (s.kind === 'wait') {
          const controller = new AbortController();
          const done = budget.reserve(s.bytes, controller.signal).then(
            (room) => void held.push(room),
            (error: unknown) => expect(isStoreError(error, 'aborted')).toBe(true),
          );
          waiting.push({ controller, done });
        } else if (s.kind === 'release' && held.length > 0) {
          held.splice(s.pick % held.length, 1)[0]?.release();
        } else if (s.kind === 'abort' && waiting.length > 0) {
          waiting[s.pick % waiting.length]?.controller.abort();
        }
        check();
        await Promise.resolve();
        check();
      }
      // Everybody who waits is served in the end, and all bytes come back.
      while (budget.waiting > 0 || held.length > 0) {
        held.shift()?.release();
        await new Promise(setImmediate);
        check();
      }
      await Promise.all(waiting.map((w) => w.done));
      for (const room of held) room.release();
      expect(budget.usedBytes).toBe(0);
    }),
  );
});

test('those who wait are served in order, and a small request does not pass a large one', async () => {
  const budget = new ByteBudget({ capacityBytes: 10 });
  const first = await budget.reserve(8);
  const order: string[] = [];
  const large = budget.reserve(9).then((room) => (order.push('large'), room));
  const small = budget.reserve(1).then((room) => (order.push('small'), room));
  expect(budget.tryReserve(1)).toBe(false);
  first.release();
  for (const room of await Promise.all([large, small])) room.release();
  expect(order).toEqual(['large', 'small']);
  expect(budget.usedBytes).toBe(0);
});

test('giving up stops the wait, takes nothing, and lets the next one pass', async () => {
  const budget = new ByteBudget({ capacityBytes: 10 });
  const held = await budget.reserve(5);
  const controller = new AbortController();
  const large = budget.reserve(10, controller.signal);
  const small = budget.reserve(5);
  controller.abort();
  await expect(large).rejects.toMatchObject({ code: 'aborted' });
  (await small).release();
  held.release();
  expect(budget.usedBytes).toBe(0);
});

test('room is given back at the end of the block, once', async () => {
  const budget = new ByteBudget({ capacityBytes: 10 });
  let seen: ByteReservation | undefined;
  {
    using room = await budget.reserve(10);
    seen = room;
    expect(budget.usedBytes).toBe(10);
  }
  seen.release();
  expect(budget.usedBytes).toBe(0);
});

test('what can never fit is refused at once, and so is one waiter too many', async () => {
  const budget = new ByteBudget({ capacityBytes: 10, waitersMax: 1 });
  await expect(budget.reserve(11)).rejects.toMatchObject({ code: 'too_large' });
  const held = await budget.reserve(10);
  const waiting = budget.reserve(1);
  await expect(budget.reserve(1)).rejects.toMatchObject({ code: 'busy' });
  held.release();
  (await waiting).release();
});

test('bytes found at start count even above the capacity, and nothing is granted until they are gone', () => {
  const budget = new ByteBudget({ capacityBytes: 10 });
  budget.chargeFound(15);
  expect(budget.freeBytes).toBe(0);
  expect(budget.tryReserve(0)).toBe(false);
  expect(budget.tryReserve(1)).toBe(false);
  budget.release(6);
  expect(budget.tryReserve(1)).toBe(true);
});
