/**
 * The log of events: rows of `events`, written in the very change that they tell of.
 *
 * E1  An event is recorded where the row of an object is written or removed (N1), so in the same transaction: a crash leaves
 *     both or neither.
 * E2  Ids grow by one, and after a crash go on behind a reserved block; they never come twice. The first block is reserved
 *     when the file is opened, others ahead of need, inside a change. An event is shown only when the block of its id is
 *     durable, since after a power cut the same id would else be given again.
 * E3  At most `eventsMax` events and one batch are kept. `events_trimmed` is the highest id that is gone: who has seen all up
 *     to there, or further, misses nothing.
 * E4  An event costs one INSERT at the end of a tree that commits of one group share; nothing is held in memory.
 */
import type { StatementSync } from 'node:sqlite';
import { assert, EVENT_TYPES, StoreError, type TierIndex } from '@ebb/protocol';
import type { Clock } from '../clock.ts';
import {
  type CatalogEvent,
  type EventFilter,
  type EventPage,
  type EventPlace,
  matchesEvent,
  recordsEvents,
} from './events.ts';
import type { Bucket } from './sqlite-buckets.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

/** Ids of events that are reserved together. */
export const EVENT_IDS_BLOCK = 65_536;

/** Runs at every opening, in its first transaction. Made where it is missing: a table that stands beside the others, and that none of them knows. */
export const EVENTS_SCHEMA = `
  create table if not exists events (
    event_id integer primary key, at integer not null, type integer not null, bucket text not null, key text not null,
    version integer not null, size integer not null, durability integer, tiers integer
  ) strict;
  insert or ignore into meta (name, value) values ('event_ids_reserved', 0), ('events_trimmed', 0);
  update meta set value = value + ${EVENT_IDS_BLOCK} where name = 'event_ids_reserved';
`;

export const EVENTS_MAX = 100_000;
/** Rows removed together: often enough to take no time, rarely enough to cost nothing. */
const TRIM_BATCH = 512;
/** Codes of events.durability. Persisted, keep stable; events.tiers has the bits of PLACE, events.type is an index of EVENT_TYPES. */
const DURABILITY = ['memory', 'disk', 'remote'] as const;
const LOST = 3;
const TIERS: readonly TierIndex[] = [0, 1, 2];

type EventRow = readonly [
  eventId: number,
  atMs: number,
  type: number,
  bucket: string,
  key: string,
  version: number,
  sizeBytes: number,
  durability: number | null,
  tiers: number | null,
];

interface State {
  readonly last: number;
  readonly reserved: number;
  readonly trimmed: number;
  readonly count: number;
}

export interface EventLogOptions {
  readonly clock: Clock;
  readonly eventsMax: number;
}

export class EventLog {
  readonly #tx: SqliteTransactions;
  readonly #options: EventLogOptions;
  readonly #sql: ReturnType<typeof prepareStatements>;
  readonly #listeners = new Set<() => void>();
  #state: State;
  #committed: State;
  /** Ids up to here are given once, whatever happens (E2). */
  #durable: number;

  constructor(tx: SqliteTransactions, options: EventLogOptions) {
    this.#tx = tx;
    this.#options = options;
    this.#sql = prepareStatements(tx);
    const meta = (name: string): number => first(this.#sql.meta, name);
    const reserved = meta('event_ids_reserved');
    const last = reserved - EVENT_IDS_BLOCK;
    const trimmed = meta('events_trimmed');
    const isSound = Number.isSafeInteger(trimmed) && trimmed >= 0 && trimmed <= last;
    this.#state = {
      last,
      reserved,
      trimmed: isSound ? trimmed : this.#firstEventId(last) - 1,
      count: first(this.#sql.count),
    };
    this.#committed = this.#state;
    this.#durable = reserved;
  }

  record(
    type: CatalogEvent['type'],
    bucket: Bucket,
    object: Pick<CatalogEvent, 'key' | 'version' | 'sizeBytes'>,
    place: EventPlace | null = null,
  ): void {
    if (!recordsEvents(bucket.record)) return;
    const { key, version, sizeBytes } = object;
    const eventId = this.#state.last + 1;
    this.#reserve(eventId);
    this.#tx.write(
      this.#sql.insert,
      eventId,
      this.#options.clock.now(),
      EVENT_TYPES.indexOf(type),
      bucket.record.name,
      key,
      version,
      sizeBytes,
      place === null ? null : durabilityCode(place.durability),
      place === null ? null : place.tiers.reduce<number>((bits, tier) => bits | (1 << tier), 0),
    );
    this.#state = { ...this.#state, last: eventId, count: this.#state.count + 1 };
    if (this.#state.count >= this.#options.eventsMax + TRIM_BATCH) this.#trim();
  }

  list(options: {
    readonly afterEventId: number;
    readonly limit: number;
    readonly filter?: EventFilter;
  }): EventPage {
    const { afterEventId, limit, filter = {} } = options;
    assert(Number.isInteger(limit) && limit >= 1, 'a page has a limit');
    const { trimmed, last } = this.#state;
    if (afterEventId < trimmed || afterEventId > last) throw this.#gone(afterEventId);
    const end = Math.max(afterEventId, this.lastShown);
    const rows = this.#sql.list.all(afterEventId, end, limit) as unknown as EventRow[];
    const events: CatalogEvent[] = [];
    for (const row of rows) {
      const event = fromRow(row);
      if (matchesEvent(filter, event)) events.push(event);
    }
    return { events, throughEventId: rows.length < limit ? end : (rows.at(-1) as EventRow)[0] };
  }

  /** Events to come have higher ids. */
  get last(): number {
    return this.#state.last;
  }

  /** Events up to here are shown. */
  get lastShown(): number {
    return Math.min(this.#state.last, this.#durable);
  }

  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The open group was committed. `durable` resolves when it survives a power cut. */
  keep(durable: () => Promise<void>): void {
    const before = this.#committed;
    if (before === this.#state) return;
    this.#committed = this.#state;
    const { reserved } = this.#state;
    if (reserved > before.reserved)
      durable().then(
        () => this.#show(reserved),
        () => undefined, // a disk that does not sync: no change is accepted any more
      );
    if (this.lastShown > Math.min(before.last, this.#durable)) this.#tell();
  }

  /** The open group was undone. */
  takeBack(): void {
    this.#state = this.#committed;
  }

  /** Runs in the last change before the end: then no id is left out. */
  save(): void {
    this.#tx.write(this.#sql.setMeta, this.#state.last, 'event_ids_reserved');
  }

  #show(reserved: number): void {
    const before = this.lastShown;
    this.#durable = Math.max(this.#durable, reserved);
    if (this.lastShown > before) this.#tell();
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }

  #reserve(eventId: number): void {
    const { reserved } = this.#state;
    if (eventId + EVENT_IDS_BLOCK / 2 <= reserved) return;
    this.#tx.write(this.#sql.setMeta, reserved + EVENT_IDS_BLOCK, 'event_ids_reserved');
    this.#state = { ...this.#state, reserved: reserved + EVENT_IDS_BLOCK };
  }

  #trim(): void {
    const trimmed = first(this.#sql.nth, TRIM_BATCH - 1);
    this.#tx.write(this.#sql.trim, trimmed);
    this.#tx.write(this.#sql.setMeta, trimmed, 'events_trimmed');
    this.#state = { ...this.#state, trimmed, count: this.#state.count - TRIM_BATCH };
  }

  /** The first id of those that are still there; the next one when there is none. */
  #firstEventId(last: number): number {
    const row = this.#sql.nth.get(0) as unknown as [number] | undefined;
    return row === undefined ? last + 1 : row[0];
  }

  #gone(afterEventId: number): StoreError {
    const { trimmed, last } = this.#state;
    const firstEventId = this.#firstEventId(last);
    const message =
      afterEventId > last
        ? `event ${afterEventId} was never given here: the last one is ${last}`
        : `events after ${afterEventId} are gone up to ${trimmed}; the first still there is ${firstEventId}`;
    return new StoreError('events_gone', message, { afterEventId, firstEventId });
  }
}

function durabilityCode(durability: EventPlace['durability']): number {
  return durability === null ? LOST : DURABILITY.indexOf(durability);
}

function fromRow(row: EventRow): CatalogEvent {
  const [eventId, atMs, type, bucket, key, version, sizeBytes, durability, tiers] = row;
  return {
    eventId,
    atMs,
    type: EVENT_TYPES[type] as CatalogEvent['type'],
    bucket,
    key,
    version,
    sizeBytes,
    place:
      durability === null || tiers === null
        ? null
        : {
            durability: DURABILITY[durability] ?? null,
            tiers: TIERS.filter((tier) => (tiers & (1 << tier)) !== 0),
          },
  };
}

function first(statement: StatementSync, ...values: (string | number)[]): number {
  return (statement.get(...values) as unknown as [number])[0];
}

function prepareStatements(tx: SqliteTransactions) {
  const columns = 'event_id, at, type, bucket, key, version, size, durability, tiers';
  return {
    insert: tx.prepare(`insert into events (${columns}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)`),
    list: tx.prepare(
      `select ${columns} from events where event_id > ? and event_id <= ? order by event_id limit ?`,
    ),
    nth: tx.prepare('select event_id from events order by event_id limit 1 offset ?'),
    trim: tx.prepare('delete from events where event_id <= ?'),
    count: tx.prepare('select count(*) from events'),
    meta: tx.prepare('select value from meta where name = ?'),
    setMeta: tx.prepare('update meta set value = ? where name = ?'),
  };
}
