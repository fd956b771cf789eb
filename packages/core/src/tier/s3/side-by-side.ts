/** Work in lanes: the parts of an upload, the ranges of a fetch. */
import { StoreError } from '@ebb/protocol';

/**
 * Runs `work` for 0 to `count - 1`, at most `lanes` at once. The first failure, or the abort, stops the others; all have ended
 * when it settles.
 * @throws the first failure; `aborted`
 */
export async function runSideBySide(
  count: number,
  lanes: number,
  signal: AbortSignal,
  work: (index: number, stop: AbortSignal) => Promise<void>,
): Promise<void> {
  const failed = new AbortController();
  const stop = AbortSignal.any([signal, failed.signal]);
  let next = 0;
  let failure: Error | undefined;
  const lane = async (): Promise<void> => {
    while (next < count && !stop.aborted) {
      const index = next;
      next++;
      try {
        await work(index, stop);
      } catch (error) {
        failure ??= error instanceof Error ? error : new Error(String(error));
        failed.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(lanes, count) }, lane));
  if (signal.aborted) throw new StoreError('aborted', 'the caller gave up');
  if (failure !== undefined) throw failure;
}
