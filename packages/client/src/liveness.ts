/**
 * Whether a node that is waited for still lives. A call may rightly take long: it waits for tier 2, for room, or for a big
 * copy. A node that is paused, or whose machine hangs, takes connections and says nothing. So what tells them apart is
 * another question, that a living node answers at once.
 *
 * I1  The node is asked only while something waits and nothing was heard for `afterMs`.
 * I2  A node is given up when no question was answered for `withinMs`, and something waited all the time.
 */
import { sleep } from './retry.ts';

export interface LivenessOptions {
  readonly afterMs: number;
  readonly withinMs: number;
  /** Resolves when the node answered anything. */
  readonly ask: (signal: AbortSignal) => Promise<void>;
  /** `cause`: why the last question had no answer. */
  readonly onGivenUp: (silentMs: number, cause: unknown) => void;
}

/** Between questions that failed at once. */
const PAUSE_MS = 250;

export class Liveness {
  readonly #options: LivenessOptions;
  /** When each began to wait; the oldest first. */
  readonly #waiting = new Map<symbol, number>();
  #heardMs = 0;
  #timer: NodeJS.Timeout | undefined;
  readonly #closing = new AbortController();

  constructor(options: LivenessOptions) {
    this.#options = options;
  }

  /** Something waits for the node, until this is disposed. */
  wait(): Disposable {
    const id = Symbol();
    this.#waiting.set(id, performance.now());
    this.#schedule();
    return { [Symbol.dispose]: () => void this.#waiting.delete(id) };
  }

  /** A question that is under way ends, and nobody is given up any more. */
  close(): void {
    clearTimeout(this.#timer);
    this.#closing.abort();
  }

  /** The timer outlives the calls: one that ends soon costs none of its own. */
  #schedule(): void {
    const oldestMs = this.#oldestMs();
    if (this.#timer !== undefined || oldestMs === undefined || this.#closing.signal.aborted) return;
    const dueMs = Math.max(oldestMs, this.#heardMs) + this.#options.afterMs;
    this.#timer = setTimeout(
      () => void this.#look(),
      Math.max(0, dueMs - performance.now()),
    ).unref();
  }

  #oldestMs(): number | undefined {
    const [first] = this.#waiting.values();
    return first;
  }

  async #look(): Promise<void> {
    const { afterMs, withinMs } = this.#options;
    const nowMs = performance.now();
    const oldestMs = this.#oldestMs();
    if (oldestMs !== undefined && Math.max(oldestMs, this.#heardMs) + afterMs <= nowMs + 1) {
      const since = Math.max(oldestMs, this.#heardMs);
      const cause = await this.#ask(withinMs);
      if (cause === undefined) this.#heardMs = performance.now();
      else if ((this.#oldestMs() ?? nowMs) < nowMs && !this.#closing.signal.aborted)
        this.#options.onGivenUp(performance.now() - since, cause);
    }
    this.#timer = undefined;
    this.#schedule();
  }

  /** undefined: it answered. */
  async #ask(withinMs: number): Promise<unknown> {
    const signal = AbortSignal.any([AbortSignal.timeout(withinMs), this.#closing.signal]);
    for (;;) {
      try {
        await this.#options.ask(signal);
        return undefined;
      } catch (error) {
        if (signal.aborted || this.#waiting.size === 0) return error;
        try {
          await sleep(PAUSE_MS, signal);
        } catch {
          return error;
        }
      }
    }
  }
}
