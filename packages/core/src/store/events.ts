/**
 * Follows the log of events, for any number of readers.
 *
 * The log itself is the buffer: a reader has a cursor and takes pages at its own pace, so that a slow one costs no memory.
 * One that falls behind further than the log reaches back is told so (`events_gone`).
 *
 * F1  Each event after the cursor that the filter lets through comes once, in order; none is left out. A batch also says how
 *     far the log was looked at, so that a reader whose filter lets little through does not fall behind.
 * F2  New events wake readers by groups, not one by one. A reader that is at work is not woken.
 */
import { StoreError } from '@ebb/protocol';
import type { Catalog } from '../catalog/catalog.ts';
import type { CatalogEvent, EventFilter } from '../catalog/events.ts';
import { orAborted } from './or-aborted.ts';

export interface EventBatch {
  readonly events: readonly CatalogEvent[];
  /** Everything up to here was told: the place to go on from. */
  readonly throughEventId: number;
}
export interface FollowOptions {
  readonly filter?: EventFilter;
  /** Events after this id; undefined: from now on. */
  readonly afterEventId?: number;
  readonly signal: AbortSignal;
}

/** Entries looked at in one turn of the event loop: a millisecond at most. */
const PAGE_ENTRIES = 512;

export class EventFeed {
  readonly #catalog: Catalog;
  readonly #stopListening: () => void;
  #news = Promise.withResolvers<void>();
  #end: StoreError | undefined;

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
    this.#stopListening = catalog.onEvents(() => this.#wake());
  }

  /** The first batch comes at once, even if it is empty. @throws `events_gone`, `draining`, `aborted` */
  async *follow(options: FollowOptions): AsyncGenerator<EventBatch, never> {
    const { filter = {}, signal } = options;
    let after = options.afterEventId ?? (await this.#catalog.lastEventId());
    for (let isFirst = true; ; isFirst = false) {
      this.#assertOpen(signal);
      // Taken before the look: news that come while we look are not missed.
      const news = this.#news.promise;
      const page = await this.#catalog.listEvents({
        ...{ afterEventId: after, filter },
        limit: PAGE_ENTRIES,
      });
      const isNothing = page.throughEventId === after;
      after = page.throughEventId;
      if (!isNothing || isFirst) yield page;
      if (isNothing) await orAborted(news, signal);
    }
  }

  /** Every reader ends with `draining`. */
  close(): void {
    this.#end ??= new StoreError('draining', 'the node is stopping: go on where this ended');
    this.#stopListening();
    this.#wake();
  }

  #wake(): void {
    const { resolve } = this.#news;
    this.#news = Promise.withResolvers();
    resolve();
  }

  #assertOpen(signal: AbortSignal): void {
    if (signal.aborted) throw new StoreError('aborted', undefined, {}, signal.reason);
    if (this.#end !== undefined) throw this.#end;
  }
}
