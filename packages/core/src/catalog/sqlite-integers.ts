/**
 * Integers on their way out of SQLite, whose 64 bits are more than a number of JavaScript holds exactly.
 *
 * I1  An integer beyond 2^53 fails no read. Nothing of ours writes one, so it is damage: it is read as the nearest number that
 *     is exact, and whoever meets it finds a size that no file has, or an id that nothing has.
 *
 * The usual read pays nothing for it: only one that failed is repeated with BigInts.
 */
import type { SQLInputValue, SQLOutputValue, StatementSync } from 'node:sqlite';

type Row = Record<string, SQLOutputValue>;

/** Makes `get` and `all` of the statement keep I1. */
export function readingAnyInteger(statement: StatementSync): StatementSync {
  const get = statement.get.bind(statement);
  const all = statement.all.bind(statement);
  const again = <T>(read: () => T): T => {
    statement.setReadBigInts(true);
    try {
      return read();
    } finally {
      statement.setReadBigInts(false);
    }
  };
  // Values are bound by position, never by name.
  const getAny = (...values: SQLInputValue[]): Row | undefined => {
    try {
      return get(...values);
    } catch (error) {
      if (!isOutOfRange(error)) throw error;
      const row = again(() => get(...values));
      return row === undefined ? undefined : nearest(row);
    }
  };
  const allAny = (...values: SQLInputValue[]): Row[] => {
    try {
      return all(...values);
    } catch (error) {
      if (!isOutOfRange(error)) throw error;
      return again(() => all(...values)).map(nearest);
    }
  };
  return Object.assign(statement, { get: getAny, all: allAny });
}

function isOutOfRange(error: unknown): boolean {
  return error instanceof RangeError && 'code' in error && error.code === 'ERR_OUT_OF_RANGE';
}

/** Rows are arrays or objects, as the statement gives them. */
function nearest(row: Row): Row {
  for (const [name, value] of Object.entries(row))
    if (typeof value === 'bigint') row[name] = nearestInteger(value);
  return row;
}

function nearestInteger(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) return Number.MAX_SAFE_INTEGER;
  if (value < BigInt(Number.MIN_SAFE_INTEGER)) return Number.MIN_SAFE_INTEGER;
  return Number(value);
}
