import { createTestClock, type TestClock } from '@ebb/testkit';
import { expect, test } from 'vitest';
import { Pauses } from './pauses.ts';

const a = { name: 'a', target: 'store' };
const b = { name: 'b', target: 'store' };
const other = { name: 'c', target: 'other' };

function start(): { clock: TestClock; pauses: Pauses; over: number[]; stop: AbortController } {
  const clock = createTestClock(0);
  const stop = new AbortController();
  const over: number[] = [];
  const onOver = (): number => over.push(clock.monotonic());
  return { clock, stop, over, pauses: new Pauses({ clock, signal: stop.signal, onOver }) };
}

/** How long the subject has to wait now, in steps of 250 ms. */
async function waitFor(clock: TestClock, mayTry: () => boolean): Promise<number> {
  const from = clock.monotonic();
  while (!mayTry()) await clock.advance(250);
  return clock.monotonic() - from;
}

test('the pauses of a name double from a quarter of a second to half a minute, and others are tried meanwhile', async () => {
  const { clock, pauses } = start();
  const lengths: number[] = [];
  for (let i = 0; i < 9; i++) {
    pauses.failed(a, { isAway: false });
    expect(pauses.mayTry(b)).toBe(true);
    lengths.push(await waitFor(clock, () => pauses.mayTry(a)));
  }
  expect(lengths).toEqual([250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
  pauses.succeeded(a);
  pauses.failed(a, { isAway: false });
  expect(await waitFor(clock, () => pauses.mayTry(a))).toBe(250);
});

test('a target that is away is asked every ten seconds at least, and no other waits for it', async () => {
  const { clock, pauses } = start();
  const lengths: number[] = [];
  for (let i = 0; i < 8; i++) {
    pauses.failed({ ...a, name: `a${i}` }, { isAway: true });
    expect(pauses.mayTry(other)).toBe(true);
    expect(pauses.isAway('other')).toBe(false);
    lengths.push(await waitFor(clock, () => pauses.mayTry(b)));
    expect(pauses.isAway('store')).toBe(true); // until it has answered
  }
  expect(lengths).toEqual([250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
});

test('after an outage the first answer ends the pauses of all names of the target, and of no other', async () => {
  const { clock, pauses } = start();
  for (let i = 0; i < 4; i++) {
    pauses.failed(a, { isAway: true });
    pauses.failed(other, { isAway: false });
    await waitFor(clock, () => pauses.mayTry(b));
  }
  pauses.failed(a, { isAway: true });
  pauses.failed(other, { isAway: false });
  expect(pauses.succeeded(b)).toBe(true);
  expect(pauses.mayTry(a)).toBe(true);
  expect(pauses.mayTry(other)).toBe(false);
});

test('an answer after a short failure ends the pause of its own name alone', () => {
  const { pauses } = start();
  pauses.failed(a, { isAway: false });
  pauses.failed(b, { isAway: true });
  expect(pauses.succeeded(b)).toBe(false);
  expect(pauses.mayTry(b)).toBe(true);
  expect(pauses.mayTry(a)).toBe(false);
});

test('each pause says when it is over, until all is stopped', async () => {
  const { clock, pauses, over, stop } = start();
  pauses.failed(a, { isAway: true });
  pauses.failed(b, { isAway: true });
  expect(pauses.nextTargetMs()).toBe(500);
  await clock.advance(1000);
  // The names, and the target after each of them.
  expect(over).toEqual([255, 255, 255, 505]);
  pauses.failed(a, { isAway: false });
  stop.abort();
  await clock.advance(60_000);
  expect(over).toHaveLength(4);
});
