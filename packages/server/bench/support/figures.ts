/** Work with many requests under way, and what is told of its times. */

/** Runs `operations` times, `lanes` at once. Ends with the first failure. */
export async function inFlight(
  lanes: number,
  operations: number,
  run: (n: number) => Promise<void>,
): Promise<void> {
  let started = 0;
  const lane = async (): Promise<void> => {
    while (started < operations) await run(started++);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

/** @returns How long it took, in ms. */
export async function timed(run: () => Promise<unknown>): Promise<number> {
  const startedMs = performance.now();
  await run();
  return performance.now() - startedMs;
}

export function quantile(values: ArrayLike<number>, share: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export function verdict(found: number, most: number): string {
  return `target ${most} ${found <= most ? 'holds' : 'DOES NOT HOLD'}`;
}

/** As bin/ebb.mjs starts the daemon. */
export const HEAP_FLAGS = ['--max-semi-space-size=8', '--heap-growing-percent=50'];
