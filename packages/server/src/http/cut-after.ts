/**
 * Ends a peer after a time, unless the function that is returned is called before. A process that was stopped meanwhile
 * finds its timers due before it has looked at its sockets; what comes with that look still counts.
 */
export function cutAfter(ms: number, cut: () => void): () => void {
  let look: NodeJS.Immediate | undefined;
  const timer = setTimeout(() => {
    look = setImmediate(cut);
  }, ms);
  return () => {
    clearTimeout(timer);
    if (look !== undefined) clearImmediate(look);
  };
}
