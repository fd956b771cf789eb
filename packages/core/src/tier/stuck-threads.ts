/**
 * Threads that are in calls of a file system. One whose call does not return cannot be ended, and a process of Node waits for its
 * threads when it ends: whoever ends the process asks here whether that wait would have an end.
 *
 * Times are those of `process.hrtime`, nanoseconds, which all threads of a process have in common.
 */
const begun = new Set<() => bigint>();

/**
 * A thread begins a call; to be called when it has ended. `lastStep`: when it last came on, for a thread that makes many calls one
 * after the other.
 */
export function beginThreadCall(lastStep?: () => bigint): () => void {
  const atNs = process.hrtime.bigint();
  const since = lastStep ?? ((): bigint => atNs);
  begun.add(since);
  return () => {
    begun.delete(since);
  };
}

/** A call of a file system that answers is over by then, or nearly: a piece of a copy, or a sync. */
const STUCK_MS = 200;

/** How many are in calls that began so long ago; a process that ends would wait for them. */
export function threadsInCalls(longerThanMs = STUCK_MS): number {
  const beforeNs = process.hrtime.bigint() - BigInt(longerThanMs) * 1_000_000n;
  let count = 0;
  for (const since of begun) if (since() < beforeNs) count++;
  return count;
}
