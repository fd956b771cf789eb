/**
 * What happened to objects lately, for `ebb why`. Kept in memory, bounded in number: a log for people, not a source of truth.
 * Events are keyed by blob, because bytes move by blob; an object's life is that of its blobs and of its name.
 */
import type { WhyEvent } from './object-store.ts';

export class LifeLog {
  readonly #subjectsMax: number;
  readonly #eventsMax: number;
  readonly #now: () => number;
  readonly #events = new Map<string, WhyEvent[]>();

  constructor(options: {
    readonly subjectsMax: number;
    readonly eventsMax: number;
    readonly now: () => number;
  }) {
    this.#subjectsMax = options.subjectsMax;
    this.#eventsMax = options.eventsMax;
    this.#now = options.now;
  }

  add(
    subject: string | number,
    what: string,
    details: Readonly<Record<string, string | number>> = {},
  ): void {
    const key = String(subject);
    const events = this.#events.get(key) ?? [];
    // The first events (created, acknowledged) stay; of the later ones the oldest give way.
    if (events.length >= this.#eventsMax) events.splice(this.#eventsMax >> 2, 1);
    events.push({ atMs: this.#now(), what, details });
    this.#events.delete(key);
    this.#events.set(key, events);
    if (this.#events.size > this.#subjectsMax) {
      for (const oldest of this.#events.keys()) {
        this.#events.delete(oldest);
        break;
      }
    }
  }

  of(subject: string | number): readonly WhyEvent[] {
    return this.#events.get(String(subject)) ?? [];
  }

  forget(subject: string | number): void {
    this.#events.delete(String(subject));
  }
}
