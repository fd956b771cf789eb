/**
 * What a node is in now: it lacks room, a disk refuses to sync, a place of tier 2 does not answer. Which conditions there are:
 * protocol/conditions.ts. Whoever finds out enters one; whoever sees that it is over leaves it.
 *
 * I1  A condition is entered once for each subject, however often it is found: `since` stays, the reason is that of the last time.
 * I2  `onChange` hears of each beginning and each end, and of nothing between. So one line of the log stands for a whole outage.
 * I3  There are at most as many as names and subjects (tiers, remotes): nothing that a caller chooses makes one.
 */
import {
  CONDITION_EFFECTS,
  CONDITIONS,
  type ConditionEffect,
  type ConditionName,
  isStoreError,
  type NodeCondition,
} from '@ebb/protocol';
import { type Clock, systemClock } from '../clock.ts';

export interface ConditionChange {
  readonly condition: NodeCondition;
  readonly began: boolean;
  /** How long it held; 0 when it began. */
  readonly tookMs: number;
}

const EFFECTS = Object.keys(CONDITION_EFFECTS);

export class Conditions {
  readonly #clock: Clock;
  readonly #held = new Map<string, { condition: NodeCondition; readonly beganAtMs: number }>();
  readonly #listeners = new Set<(change: ConditionChange) => void>();

  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** `reason`: a sentence with the numbers of this case; `error`: what showed it; `whatToDo`: where this case asks for another thing. */
  enter(
    name: ConditionName,
    subject: string,
    {
      reason,
      error,
      whatToDo = CONDITIONS[name].whatToDo,
    }: { readonly reason: string; readonly error?: unknown; readonly whatToDo?: string },
  ): void {
    const key = keyOf(name, subject);
    const held = this.#held.get(key);
    const lastError =
      error === undefined
        ? (held?.condition.lastError ?? null)
        : isStoreError(error)
          ? error.code
          : 'internal';
    if (held !== undefined) {
      held.condition = { ...held.condition, reason, whatToDo, lastError };
      return;
    }
    const { effect } = CONDITIONS[name];
    const sinceMs = this.#clock.now();
    const condition = { name, subject, effect, sinceMs, reason, whatToDo, lastError };
    this.#held.set(key, { condition, beganAtMs: this.#clock.monotonic() });
    this.#tell({ condition, began: true, tookMs: 0 });
  }

  /** No effect when it does not hold. */
  leave(name: ConditionName, subject: string): void {
    const key = keyOf(name, subject);
    const held = this.#held.get(key);
    if (held === undefined) return;
    this.#held.delete(key);
    const tookMs = this.#clock.monotonic() - held.beganAtMs;
    this.#tell({ condition: held.condition, began: false, tookMs });
  }

  has(name: ConditionName, subject: string): boolean {
    return this.#held.has(keyOf(name, subject));
  }

  /** The gravest first. */
  list(): readonly NodeCondition[] {
    return [...this.#held.values()]
      .map(({ condition }) => condition)
      .sort((a, b) => EFFECTS.indexOf(a.effect) - EFFECTS.indexOf(b.effect));
  }

  holds(effect: ConditionEffect): boolean {
    for (const { condition } of this.#held.values()) if (condition.effect === effect) return true;
    return false;
  }

  /** Returns what stops the calls. A listener must not throw. */
  onChange(listener: (change: ConditionChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell(change: ConditionChange): void {
    for (const listener of this.#listeners) listener(change);
  }
}

function keyOf(name: ConditionName, subject: string): string {
  return `${name} ${subject}`;
}
