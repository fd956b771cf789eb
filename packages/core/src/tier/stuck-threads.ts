/**
 * Threads that are in calls of a file system. One whose call does not return cannot be ended, and a process of Node waits for its
 * threads when it ends: whoever ends the process asks here whether that wait would have an end.
 */
const begun = new Set<{ readonly atMs: number }>();

/** A thread begins a call; to be called when it has ended. */
export function beginThreadCall(): () => void {
  const call = { atMs: performance.now() };
  begun.add(call);
  return () => {
    begun.delete(call);
  };
}

/** A call of a file system that answers is over by then, or nearly: a piece of a copy, or a sync. */
const STUCK_MS = 200;

/** How many are in calls that began so long ago; a process that ends would wait for them. */
export function threadsInCalls(longerThanMs = STUCK_MS): number {
  const beforeMs = performance.now() - longerThanMs;
  let count = 0;
  for (const { atMs } of begun) if (atMs < beforeMs) count++;
  return count;
}
