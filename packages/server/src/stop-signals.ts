/**
 * One signal is one signal, however often it is delivered. A terminal, `timeout`, a supervisor or a shell sends it to the whole
 * process group, and the wrappers in that group (npm, npx, bin/ebb.mjs, an init in a container) pass it on besides. All of
 * that comes within moments; a person who asks again has seen that the first did not do it at once.
 *
 * I1  What comes within `ONE_SIGNAL_MS` of the first is the first. The time is generous, because a wrapper on a busy machine
 *     passes on late, and because taking two for one costs a third, and the other way round costs the drain.
 */
export const ONE_SIGNAL_MS = 2000;

const STOP_SIGNALS = ['SIGTERM', 'SIGINT'] as const;

export interface StopListener {
  onFirst(signal: NodeJS.Signals): void;
  onAgain(signal: NodeJS.Signals): void;
}

/** Returns what ends the listening. `also`: further signals that mean the same. */
export function listenForStop(
  { onFirst, onAgain }: StopListener,
  options: { readonly also?: readonly NodeJS.Signals[]; readonly now?: () => number } = {},
): () => void {
  const { also = [], now = () => performance.now() } = options;
  let firstAtMs: number | undefined;
  const onSignal = (signal: NodeJS.Signals): void => {
    const atMs = now();
    if (firstAtMs === undefined) {
      firstAtMs = atMs;
      onFirst(signal);
    } else if (atMs - firstAtMs >= ONE_SIGNAL_MS) onAgain(signal);
  };
  const signals = [...STOP_SIGNALS, ...also];
  for (const signal of signals) process.on(signal, onSignal);
  return () => {
    for (const signal of signals) process.removeListener(signal, onSignal);
  };
}
