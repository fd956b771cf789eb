/** How long-waiting calls wait: for a change of their run, the end of their time, or whoever stops them. */
import type { Clock } from '@ebb/core';
import type { Run } from './runs.ts';

/** Resolves when something of the run changed, after `ms`, or when the signal is aborted: look again. */
export async function awaitChange(
  run: Run,
  {
    clock,
    ms,
    signal,
  }: { readonly clock: Clock; readonly ms?: number; readonly signal: AbortSignal },
): Promise<void> {
  if (signal.aborted) return;
  const over = new AbortController();
  try {
    await new Promise<void>((resolve) => {
      const look = (): void => {
        run.waiters.delete(look);
        signal.removeEventListener('abort', look);
        resolve();
      };
      run.waiters.add(look);
      signal.addEventListener('abort', look, { once: true });
      if (ms !== undefined) clock.sleep(ms, over.signal).then(look, () => undefined);
    });
  } finally {
    over.abort();
  }
}
