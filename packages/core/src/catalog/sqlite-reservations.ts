/**
 * What was reserved of ids, of objects and blobs, of buckets, and of events, as the file says when it is opened.
 *
 * R1  A reservation that is damaged (no whole number, more than ids go to, less than an id that is in use) does not keep the
 *     catalog from opening: the next id is far behind every one that is known here. What is known here is not all: ids were
 *     given to files and to names in tier 2 that are gone from the catalog. So the gap is larger than a node's life.
 */
import type { DatabaseSync } from 'node:sqlite';
import { EVENT_IDS_BLOCK } from './sqlite-events.ts';
import { readingAnyInteger } from './sqlite-integers.ts';

/** Bodies of objects have 48 bits for an id. */
const ID_MAX = 2 ** 48 - 1;
/** At a thousand ids a second it lasts a year. */
const GAP = 2 ** 35;

interface Reservation {
  readonly name: string;
  /** The highest id in use, as far as it is cheap to ask. */
  readonly inUse: string;
  /** What is reserved beyond it at the least. */
  readonly aheadMin: number;
  /** Every id that is known anywhere; asked after damage alone, since it reads all rows. */
  readonly known: string;
}

const RESERVATIONS: readonly Reservation[] = [
  {
    name: 'ids_reserved',
    inUse: 'select max(blob_id) from blobs',
    aheadMin: 0,
    known: `select blob_id as id from blobs union all select version from objects
      union all select version from spool union all select version from events`,
  },
  {
    name: 'bucket_ids_reserved',
    inUse: 'select max(id) from buckets',
    aheadMin: 0,
    known: 'select id from buckets union all select bucket from objects',
  },
  {
    name: 'event_ids_reserved',
    inUse: 'select max(event_id) from events',
    aheadMin: EVENT_IDS_BLOCK, // by the opening itself, a moment ago
    known: 'select event_id as id from events',
  },
];

/** Puts right what is damaged. Returns the reservations, in the order of RESERVATIONS. */
export function soundReservations(database: DatabaseSync): number[] {
  const number = (sql: string, ...values: string[]): unknown => {
    const statement = database.prepare(sql);
    statement.setReturnArrays(true);
    return (readingAnyInteger(statement).get(...values) as unknown as [unknown] | undefined)?.[0];
  };
  return RESERVATIONS.map(({ name, inUse, aheadMin, known }) => {
    const found = number('select value from meta where name = ?', name);
    if (isId(found) && found >= idOr0(number(inUse)) + aheadMin) return found;
    const highest = `select max(id) from (${known}) where id between 0 and ${ID_MAX - GAP}`;
    const sound = idOr0(number(highest)) + GAP;
    database.prepare('insert or replace into meta (name, value) values (?, ?)').run(name, sound);
    return sound;
  });
}

function isId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= ID_MAX - GAP;
}

function idOr0(value: unknown): number {
  return isId(value) ? value : 0;
}
