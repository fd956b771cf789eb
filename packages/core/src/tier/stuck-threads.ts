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

/** How many are in calls that began longer ago than this. */
export function threadsInCalls(longerThanMs: number): number {
  const beforeMs = performance.now() - longerThanMs;
  let count = 0;
  for (const { atMs } of begun) if (atMs < beforeMs) count++;
  return count;
}
