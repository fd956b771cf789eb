/**
 * Which snapshots of a run may go. Pure. What is older was committed earlier, whatever its step: a job that goes back saves
 * lower steps, and what it saves then is what it goes on from.
 *
 * I1  The newest snapshot that is not marked bad stays, and so does the newest of those that are durable as the run
 *     asks: what a training job would go on from after a crash, and after the loss of memory.
 * I2  What is pinned stays.
 * I3  The time of day orders nothing. An age is what the caller knows of it.
 */
import type { RunPolicy } from '@ebb/protocol';

export interface Retained {
  readonly step: number;
  readonly sequence: number;
  readonly ageMs: number;
  readonly pinned: boolean;
  readonly isBad: boolean;
  /** It outlives memory, or its bucket asks for no more. */
  readonly isSafe: boolean;
  /** Data objects that it names. */
  readonly objects: ReadonlyMap<string, number>;
  /** Of images in memory, when there is nothing else. */
  readonly imageBytes: number;
}

export type Retention = Pick<RunPolicy, 'keepLast' | 'keepEvery' | 'maxAgeMs' | 'maxBytes'>;

/** Steps, in no order. */
export function stepsToRemove(
  snapshots: readonly Retained[],
  policy: Retention,
): readonly number[] {
  const newestFirst = snapshots.toSorted((a, b) => b.sequence - a.sequence);
  const good = newestFirst.filter(({ isBad }) => !isBad);
  const kept = new Set([good[0]?.step, good.find(({ isSafe }) => isSafe)?.step]);
  const isKept = ({ step, pinned }: Retained): boolean =>
    pinned || kept.has(step) || (policy.keepEvery !== null && step % policy.keepEvery === 0);
  const removed = new Set<number>();
  const { keepLast, maxAgeMs, maxBytes } = policy;
  if (keepLast !== null) {
    // Bad ones do not count, so that they do not push the good ones out.
    const oldest = good.slice(0, keepLast).at(-1)?.sequence ?? 0;
    for (const one of newestFirst) if (!isKept(one) && one.sequence < oldest) removed.add(one.step);
  }
  if (maxAgeMs !== null)
    for (const one of newestFirst) if (!isKept(one) && one.ageMs > maxAgeMs) removed.add(one.step);
  if (maxBytes !== null)
    for (const one of newestFirst.toReversed()) {
      const left = newestFirst.filter(({ step }) => !removed.has(step));
      if (bytesOf(left) <= maxBytes) break;
      if (!isKept(one)) removed.add(one.step);
    }
  return [...removed];
}

/** What is shared counts once. */
export function bytesOf(snapshots: readonly Pick<Retained, 'objects' | 'imageBytes'>[]): number {
  const objects = new Map<string, number>();
  let bytes = 0;
  for (const one of snapshots) {
    if (one.objects.size === 0) bytes += one.imageBytes;
    for (const [key, size] of one.objects) objects.set(key, size);
  }
  return objects.values().reduce((sum, size) => sum + size, bytes);
}
