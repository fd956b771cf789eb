/**
 * Calls of a file system that may not answer: a network file system whose server is away. Node runs them on a few threads
 * that all files share, and a call that hangs keeps its thread until the system gives up.
 *
 * Q1  `AT_ONCE` of those threads at most are with such calls; the others go on for the tiers of this node.
 * Q2  A call that has no answer within its patience is `io_failed` for whoever asked, and so is one that found no thread within
 *     that time. The thread stays counted until the call ends.
 * Q3  What ended for its caller may still happen. So a late result is handed to `late`, which gives it back; nothing is given a
 *     buffer of the caller's; and a name on which a change is late takes no other one before it has ended (`during`).
 */
import { StoreError } from '@ebb/protocol';
import { settlesWithin } from '../settles-within.ts';
import { beginThreadCall } from './stuck-threads.ts';
import type { Progress } from './tier.ts';

/** The process has four such threads, unless UV_THREADPOOL_SIZE says otherwise: with two of them, Q1 leaves none. */
const AT_ONCE = 2;
const PATIENCE_MS = 30_000;
const CLOSE_MS = 500;

export interface PatientOptions {
  readonly atOnce?: number;
  readonly patienceMs?: number;
}

interface CallOptions<T> {
  readonly late?: (result: T) => unknown;
  readonly within?: boolean;
}

interface DuringOptions {
  readonly patienceMs?: number;
  readonly progress?: Progress;
}

export class PatientCalls {
  readonly #atOnce: number;
  readonly #patienceMs: number;
  #taken = 0;
  readonly #running = new Set<Promise<unknown>>();
  readonly #waiting = new Set<() => void>();
  /** Changes whose callers were told that they failed, by name. */
  readonly #late = new Map<string, Promise<unknown>>();

  constructor({ atOnce = AT_ONCE, patienceMs = PATIENCE_MS }: PatientOptions = {}) {
    this.#atOnce = atOnce;
    this.#patienceMs = patienceMs;
  }

  /**
   * One call. `within`: a change of a name, which has the patience for all of its calls.
   * @throws what the call throws; `io_failed` when there is no answer (Q2)
   */
  async call<T>(
    doing: string,
    work: () => Promise<T>,
    { late = () => undefined, within = false }: CallOptions<T> = {},
  ): Promise<T> {
    await this.#takeThread(doing);
    const end = beginThreadCall();
    // Also what throws at once ends, and gives its thread back.
    const running = (async () => await work())();
    this.#running.add(running);
    const over = (): void => {
      end();
      this.#running.delete(running);
      this.#taken--;
      this.#wakeNext();
    };
    running.then(over, over);
    if (within || (await settlesWithin(running, this.#patienceMs))) return await running;
    void running.then(late).catch(() => undefined);
    throw noAnswer(doing, this.#patienceMs);
  }

  /**
   * A change of a name: waits for one of the same name that is late (Q3), and ends within `patienceMs` after that. With
   * `progress`, it ends when there was none for so long.
   * @throws what the change throws; `io_failed`
   */
  async during<T>(
    name: string,
    doing: string,
    work: () => Promise<T>,
    { patienceMs = this.#patienceMs, progress }: DuringOptions = {},
  ): Promise<T> {
    const before = this.#late.get(name);
    if (before !== undefined && !(await settlesWithin(before, this.#patienceMs)))
      throw noAnswer(doing, this.#patienceMs);
    const running = work();
    for (let before = progress?.(), now = before; ; before = now) {
      if (await settlesWithin(running, patienceMs)) return await running;
      now = progress?.();
      if (now === before) break;
    }
    this.#late.set(name, running);
    const over = (): void => {
      if (this.#late.get(name) === running) this.#late.delete(name);
    };
    running.then(over, over);
    throw noAnswer(doing, patienceMs);
  }

  /** What does not end soon is not waited for. */
  async close(): Promise<void> {
    await settlesWithin(Promise.allSettled(this.#running), CLOSE_MS);
  }

  async #takeThread(doing: string): Promise<void> {
    const untilMs = performance.now() + this.#patienceMs;
    while (this.#taken >= this.#atOnce) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#waiting.add(resolve);
      if (await settlesWithin(promise, untilMs - performance.now())) continue;
      if (!this.#waiting.delete(resolve)) this.#wakeNext(); // it was woken too late for itself
      throw noAnswer(doing, this.#patienceMs);
    }
    this.#taken++;
  }

  #wakeNext(): void {
    for (const next of this.#waiting) {
      this.#waiting.delete(next);
      next();
      return;
    }
  }
}

/** The threads are of the process: all directories share what is theirs. */
export const patientCalls = new PatientCalls();

function noAnswer(doing: string, ms: number): StoreError {
  const message = `${doing}: the file system has not answered for ${Math.round(ms / 1000)} s; is its server away?`;
  return new StoreError('io_failed', message, { patienceMs: ms });
}
