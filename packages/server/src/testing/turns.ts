/** How long the turns of the event loop are, in CPU time of this thread: other processes on the machine do not count. */

/** What one request may hold every other one up for. Twice that of an idle machine: a slow processor takes longer. */
export const TURN_MS_MAX = 40;
const TRIES = 5;

/** The longest turn of the best of a few tries: a collection of garbage or cold code makes one turn of one try long. */
export async function longestTurnOfTriesMs(
  work: () => Promise<void>,
  prepare: () => Promise<void> = async () => undefined,
): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let n = 0; n < TRIES && best >= TURN_MS_MAX; n++) {
    await prepare();
    best = Math.min(best, await longestTurnMs(work));
  }
  return best;
}

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
