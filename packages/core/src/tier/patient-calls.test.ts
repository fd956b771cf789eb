/** Calls that do not end until the test lets them. */
import { codeOf } from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';
import { PatientCalls } from './patient-calls.ts';
import { beginThreadCall, threadsInCalls } from './stuck-threads.ts';

const PATIENCE_MS = 40;

function hanging<T>() {
  const { promise, resolve } = Promise.withResolvers<T>();
  return { work: () => promise, end: resolve };
}

test('a call without an answer fails in time, keeps its thread, and gives it back when it ends', async () => {
  const calls = new PatientCalls({ atOnce: 2, patienceMs: PATIENCE_MS });
  const [one, two] = [hanging<number>(), hanging<number>()];
  const late: number[] = [];
  const options = { late: (result: number) => late.push(result) };
  const both = [calls.call('one', one.work, options), calls.call('two', two.work, options)];
  for (const call of both) expect(await codeOf(call)).toBe('io_failed');
  expect(await codeOf(calls.call('three', () => Promise.resolve(3)))).toBe('io_failed');
  expect(threadsInCalls(0)).toBeGreaterThanOrEqual(2);
  const next = calls.call('four', () => Promise.resolve(4));
  one.end(1);
  expect(await next).toBe(4);
  two.end(2);
  await expect.poll(() => late).toEqual([1, 2]);
  expect(threadsInCalls(0)).toBe(0);
});

test('a call that throws at once gives its thread back', async () => {
  const calls = new PatientCalls({ atOnce: 1, patienceMs: PATIENCE_MS });
  const throwing = calls.call('one', () => {
    throw new Error('at once');
  });
  await expect(throwing).rejects.toThrow('at once');
  expect(threadsInCalls(0)).toBe(0);
  expect(await calls.call('two', () => Promise.resolve(2))).toBe(2);
});

test('many calls that are quick all have their turn, and an error is the caller’s', async () => {
  const calls = new PatientCalls({ atOnce: 2, patienceMs: 5_000 });
  let running = 0;
  let most = 0;
  const work = async (i: number): Promise<number> => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setImmediate(resolve));
    running--;
    if (i % 7 === 0) throw new Error(`no ${i}`);
    return i;
  };
  const results = await Promise.allSettled(
    Array.from({ length: 100 }, (_, i) => calls.call('work', async () => await work(i))),
  );
  expect(most).toBe(2);
  expect(results.filter(({ status }) => status === 'rejected')).toHaveLength(15);
});

test('a change that is late keeps others from its name, and from no other, until it has ended', async () => {
  const calls = new PatientCalls({ patienceMs: PATIENCE_MS });
  const first = hanging<string>();
  const order: string[] = [];
  const change = (name: string, what: string): Promise<string> =>
    calls.during(name, what, () => {
      order.push(what);
      return Promise.resolve(what);
    });
  expect(await codeOf(calls.during('a', 'first', first.work))).toBe('io_failed');
  expect(await codeOf(change('a', 'second'))).toBe('io_failed');
  expect(await change('b', 'other')).toBe('other');
  const third = change('a', 'third');
  expect(order).toEqual(['other']);
  first.end('first');
  expect(await third).toBe('third');
});

test('a change ends when it came no further for its patience, however long it takes', async () => {
  const calls = new PatientCalls({ patienceMs: PATIENCE_MS });
  let steps = 0;
  const slow = hanging<string>();
  const stepping = setInterval(() => {
    if (++steps === 30) slow.end('done');
  }, PATIENCE_MS / 4);
  onTestFinished(() => clearInterval(stepping));
  expect(await calls.during('a', 'slow', slow.work, { progress: () => steps })).toBe('done');
  const stuck = hanging<string>();
  const progress = (): number => 1;
  expect(await codeOf(calls.during('a', 'stuck', stuck.work, { progress }))).toBe('io_failed');
  stuck.end('late');
});

test('a thread that comes on is in no call that could hold up the end', () => {
  const atNs = process.hrtime.bigint();
  const [comesOn, hangs] = [
    beginThreadCall(() => process.hrtime.bigint()),
    beginThreadCall(() => atNs - 1_000_000_000n),
  ];
  expect(threadsInCalls(500)).toBe(1);
  hangs();
  expect(threadsInCalls(500)).toBe(0);
  comesOn();
});

test('closing waits for no call that hangs', async () => {
  const calls = new PatientCalls({ patienceMs: 60_000 });
  const one = hanging<void>();
  void calls.call('one', one.work);
  await calls.close();
  one.end();
});
