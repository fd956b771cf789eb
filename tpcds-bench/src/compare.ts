/**
 * Are two results of a query the same?
 *
 * Rows are compared one by one, as strings that only equal values share. Their order is compared too, as far as the
 * query's ORDER BY fixes it: rows that tie there may come in any order. One group of ties may differ in content, and lawfully so:
 * the last one of a result that LIMIT cut, where the query does not say which of the tied rows to keep. There, the rows' sort keys and
 * their number must be equal. Where the ORDER BY cannot be read off the text, rows are compared without order.
 */
export type Cell = string | null;
export interface Result {
  columns: readonly string[];
  rows: readonly (readonly Cell[])[];
}

export interface Comparison {
  equal: boolean;
  /** How the results were compared, and at which row they part. */
  how: string;
}

/** What a query text says about the order of its rows. `keys` are column numbers; `undefined` if they cannot be told. */
export interface Order {
  keys: readonly number[] | undefined;
  limit: number | undefined;
}

/** Reads the last ORDER BY and LIMIT of a query: names or ordinals of output columns, as TPC-DS writes them. */
export function parseOrder(sql: string, columns: readonly string[]): Order {
  const match = /\border\s+by\s+([^()]*?)(?:\blimit\s+(\d+)\s*)?;?\s*$/i.exec(sql);
  if (match === null) return { keys: undefined, limit: undefined };
  const keys = (match[1] ?? '').split(',').map((term) => {
    const name = term.trim().replace(/\s+(asc|desc)\b.*$/i, '');
    if (/^\d+$/.test(name)) return Number(name) - 1;
    return columns.findIndex((column) => column.toLowerCase() === name.toLowerCase());
  });
  const known = keys.every((key) => key >= 0 && key < columns.length);
  return {
    keys: known ? keys : undefined,
    limit: match[2] === undefined ? undefined : Number(match[2]),
  };
}

export function compareResults(expected: Result, actual: Result, order: Order): Comparison {
  if (expected.columns.join() !== actual.columns.join())
    return {
      equal: false,
      how: `columns differ: ${expected.columns.join()} and ${actual.columns.join()}`,
    };
  if (expected.rows.length !== actual.rows.length)
    return { equal: false, how: `${expected.rows.length} rows and ${actual.rows.length}` };
  if (order.keys === undefined) return compareGroup(expected.rows, actual.rows, 'without order', 0);

  const keys = order.keys;
  const keyOf = (row: readonly Cell[]): string => JSON.stringify(keys.map((key) => row[key]));
  const keysDifferAt = expected.rows.findIndex(
    (row, i) => keyOf(row) !== keyOf(actual.rows[i] as readonly Cell[]),
  );
  if (keysDifferAt >= 0)
    return { equal: false, how: `sort keys differ at row ${keysDifferAt + 1}` };
  const wasCut = expected.rows.length === order.limit;
  for (let start = 0, end = 0; start < expected.rows.length; start = end) {
    const key = keyOf(expected.rows[start] as readonly Cell[]);
    while (end < expected.rows.length && keyOf(expected.rows[end] as readonly Cell[]) === key)
      end++;
    if (wasCut && end === expected.rows.length) break;
    const group = compareGroup(
      expected.rows.slice(start, end),
      actual.rows.slice(start, end),
      'in order',
      start,
    );
    if (!group.equal) return group;
  }
  return { equal: true, how: 'in order' };
}

function compareGroup(
  expected: Result['rows'],
  actual: Result['rows'],
  how: string,
  firstRow: number,
): Comparison {
  const left = expected.map((row) => JSON.stringify(row)).sort();
  const right = actual.map((row) => JSON.stringify(row)).sort();
  const at = left.findIndex((row, i) => row !== right[i]);
  if (at < 0) return { equal: true, how };
  return {
    equal: false,
    how: `${how}: from row ${firstRow + at + 1}: ${left[at]} and ${right[at]}`,
  };
}
