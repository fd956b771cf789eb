/**
 * What happened to objects lately, for `ebb why`. Kept in memory, bounded in number: a log for people, not a source of truth.
 * Events are keyed by blob, because bytes move by blob; an object's life is that of its blobs and of its name.
 */
import type { WhyEvent } from './object-store.ts';
import { RecentMap } from './recent-map.ts';

export class LifeLog {
  readonly #eventsMax: number;
  readonly #now: () => number;
  readonly #events: RecentMap<string | number, WhyEvent[]>;
  #lastSequence = 0;

  constructor(options: {
    readonly subjectsMax: number;
    readonly eventsMax: number;
    readonly now: () => number;
  }) {
    this.#events = new RecentMap(options.subjectsMax / 2);
    this.#eventsMax = options.eventsMax;
    this.#now = options.now;
  }

  add(
    subject: string | number,
    what: string,
    details: Readonly<Record<string, string | number>> = {},
  ): void {
    const event = { sequence: ++this.#lastSequence, atMs: this.#now(), what, details };
    const events = this.#events.get(subject);
    if (events === undefined) {
      this.#events.set(subject, [event]);
      return;
    }
    // The first events (created, acknowledged) stay; of the later ones the oldest give way.
    if (events.length >= this.#eventsMax) events.splice(this.#eventsMax >> 2, 1);
    events.push(event);
    this.#events.set(subject, events);
  }

  of(subject: string | number): readonly WhyEvent[] {
    return this.#events.get(subject) ?? [];
  }

  forget(subject: string | number): void {
    this.#events.delete(subject);
  }
}
