/**
 * Growing pauses after failures, in which others get their turn: of a name that failed, and of a target that does not answer.
 *
 * W1  Each failure makes the next pause twice as long, up to a limit; a success ends it, and begins anew with the shortest.
 * W2  Each pause says when it is over: of several names that fail together none is forgotten, though they share a target.
 * W3  A target that was away for long ends, with its first answer, the pauses of all its names: nobody waits for a pause that
 *     the outage had brought about.
 */
import type { Clock } from '../clock.ts';

const PAUSE_MS_MIN = 250;
const NAME_PAUSE_MS_MAX = 30_000;
/** While a target does not answer, it is asked at least so often. */
const TARGET_PAUSE_MS_MAX = 10_000;
/** A pause of this length comes after some failures in a row with no success between them: not one name is the cause. */
const OUTAGE_PAUSE_MS = 1000;
const TIMER_SLACK_MS = 5;

/** What is tried: something under a name, in a target. */
export interface Subject {
  readonly name: string;
  readonly target: string;
}

export interface PausesParts {
  readonly clock: Clock;
  /** Ends the timers. */
  readonly signal: AbortSignal;
  /** A pause is over. */
  readonly onOver: () => void;
}

interface Pause {
  readonly target: string;
  readonly untilMs: number;
  readonly lengthMs: number;
}

export class Pauses {
  readonly #parts: PausesParts;
  readonly #names = new Map<string, Pause>();
  readonly #targets = new Map<string, Pause>();

  constructor(parts: PausesParts) {
    this.#parts = parts;
  }

  mayTry({ name, target }: Subject): boolean {
    const now = this.#parts.clock.monotonic();
    const pauses = [this.#names.get(name), this.#targets.get(target)];
    return pauses.every((pause) => pause === undefined || pause.untilMs <= now);
  }

  /** It did not answer when it was asked last, be its pause over or not. */
  isAway(target: string): boolean {
    return this.#targets.has(target);
  }

  /** When the first target may be asked again; in 30 s if none is away. */
  nextTargetMs(): number {
    const ends = [...this.#targets.values()].map(({ untilMs }) => untilMs);
    return Math.min(...ends, this.#parts.clock.monotonic() + NAME_PAUSE_MS_MAX);
  }

  /** `isAway`: the target is to blame. */
  failed({ name, target }: Subject, { isAway }: { readonly isAway: boolean }): void {
    this.#begin(this.#names, name, { target, maxMs: NAME_PAUSE_MS_MAX });
    if (isAway) this.#begin(this.#targets, target, { target, maxMs: TARGET_PAUSE_MS_MAX });
  }

  /** Returns whether an outage ended with it (W3). */
  succeeded({ name, target }: Subject): boolean {
    this.#names.delete(name);
    const pause = this.#targets.get(target);
    this.#targets.delete(target);
    if (pause === undefined || pause.lengthMs < OUTAGE_PAUSE_MS) return false;
    for (const [of, { target: its }] of this.#names) if (its === target) this.#names.delete(of);
    return true;
  }

  /** `onOver` after a pause of that length, whatever the cause. */
  later(pauseMs: number): void {
    const { clock, signal, onOver } = this.#parts;
    // A timer may be a little early.
    clock.sleep(pauseMs + TIMER_SLACK_MS, signal).then(onOver, () => undefined);
  }

  #begin(
    pauses: Map<string, Pause>,
    subject: string,
    { target, maxMs }: { readonly target: string; readonly maxMs: number },
  ): void {
    const lengthMs = Math.min((pauses.get(subject)?.lengthMs ?? PAUSE_MS_MIN / 2) * 2, maxMs);
    pauses.set(subject, { target, lengthMs, untilMs: this.#parts.clock.monotonic() + lengthMs });
    this.later(lengthMs);
  }
}
