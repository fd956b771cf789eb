/** Log lines that strangers can cause, at a bounded rate: so many in a window, and then how many more there were. */
import type { Logger } from 'pino';

export interface LimitedLogOptions {
  readonly linesMax: number;
  readonly windowMs: number;
  /** @default performance.now */
  readonly now?: () => number;
}

export class LimitedLog {
  readonly #log: Pick<Logger, 'warn'>;
  readonly #options: LimitedLogOptions;
  readonly #now: () => number;
  #windowEndMs = Number.NEGATIVE_INFINITY;
  #lines = 0;
  #suppressed = 0;

  constructor(log: Pick<Logger, 'warn'>, options: LimitedLogOptions) {
    this.#log = log;
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  warn(fields: Readonly<Record<string, unknown>>, message: string): void {
    const nowMs = this.#now();
    if (nowMs >= this.#windowEndMs) {
      this.#windowEndMs = nowMs + this.#options.windowMs;
      this.#lines = 0;
    }
    if (this.#lines >= this.#options.linesMax) {
      this.#suppressed++;
      return;
    }
    this.#lines++;
    const suppressed = this.#suppressed;
    this.#suppressed = 0;
    this.#log.warn(suppressed === 0 ? fields : { ...fields, suppressed }, message);
  }
}
