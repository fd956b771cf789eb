/**
 * The time by which leases, staged writes, heartbeats and idle files end: how long this process could have heard from their
 * owners. Setting the clock of the host does not move it, and what is forgiven does not count: a time in which the process
 * was stopped, and what clients sent waits in sockets, unread.
 */
import type { Clock } from '../clock.ts';

export class AwakeTime {
  readonly #clock: Clock;
  #forgivenMs = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Milliseconds; only their differences mean something. */
  now(): number {
    return this.#clock.monotonic() - this.#forgivenMs;
  }

  /** We were not running for so long: nobody could have been heard, so nobody was late. */
  forgive(ms: number): void {
    this.#forgivenMs += ms;
  }
}
