/** How long the turns of the event loop are, in CPU time of this thread: other processes on the machine do not count. */

/** What one request may hold every other one up for. */
export const TURN_MS_MAX = 20;

/** The longest turn while `work` ran. */
export async function longestTurnMs(work: () => Promise<void>): Promise<number> {
  let longest = 0;
  let before = cpuMs();
  let isDone = false;
  const look = (): void => {
    const now = cpuMs();
    longest = Math.max(longest, now - before);
    before = now;
    if (!isDone) setImmediate(look);
  };
  setImmediate(look);
  try {
    await work();
  } finally {
    isDone = true;
  }
  await new Promise((resolve) => setImmediate(resolve));
  return longest;
}

function cpuMs(): number {
  const { user, system } = process.threadCpuUsage();
  return (user + system) / 1000;
}
