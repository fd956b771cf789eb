/** A clock that stands still until a test moves it. Sleepers wake in order, each at its own time. */
import type { Clock } from '@ebb/core';

export interface TestClock extends Clock {
  /** Moves on to `ms` later, and lets what wakes on the way run. What that begins with real I/O may end later. */
  advance(ms: number): Promise<void>;
  /** Sets the time of day that much later, or earlier: nobody sleeps shorter or longer for it. */
  jump(ms: number): void;
}

interface Sleeper {
  readonly atMs: number;
  readonly wake: () => void;
}

/** Real turns of the event loop given to who woke, so that it can go to sleep again before time goes on. */
const TURNS = 20;

export function createTestClock(startMs = 1_700_000_000_000): TestClock {
  const sleepers = new Set<Sleeper>();
  let nowMs = startMs;
  let jumpedMs = 0;
  const next = (untilMs: number): Sleeper | undefined => {
    let first: Sleeper | undefined;
    for (const sleeper of sleepers)
      if (sleeper.atMs <= untilMs && sleeper.atMs < (first?.atMs ?? Number.POSITIVE_INFINITY))
        first = sleeper;
    return first;
  };
  return {
    now: () => nowMs + jumpedMs,
    monotonic: () => nowMs,
    jump: (ms) => {
      jumpedMs += ms;
    },
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted === true) {
          reject(signal.reason as Error);
          return;
        }
        const onAbort = (): void => {
          sleepers.delete(sleeper);
          reject(signal?.reason as Error);
        };
        const sleeper: Sleeper = {
          atMs: nowMs + ms,
          wake: () => {
            signal?.removeEventListener('abort', onAbort);
            resolve();
          },
        };
        signal?.addEventListener('abort', onAbort, { once: true });
        sleepers.add(sleeper);
      }),
    advance: async (ms) => {
      const untilMs = nowMs + ms;
      for (;;) {
        let sleeper = next(untilMs);
        for (let turn = 0; turn < TURNS; turn++) {
          await new Promise((resolve) => setImmediate(resolve));
          sleeper = next(untilMs);
        }
        if (sleeper === undefined) break;
        nowMs = Math.max(nowMs, sleeper.atMs);
        sleepers.delete(sleeper);
        sleeper.wake();
      }
      nowMs = untilMs;
    },
  };
}
