import { describe, expect, test } from 'vitest';
import { type Cell, compareResults, parseOrder } from './compare.ts';

const columns = ['name', 'amount', 'note'];
const result = (...rows: Cell[][]): { columns: string[]; rows: Cell[][] } => ({ columns, rows });

describe('parseOrder', () => {
  test('reads names, ordinals, directions and the limit', () => {
    expect(parseOrder('SELECT … ORDER BY amount DESC, NAME\nLIMIT 100\n', columns)).toEqual({
      keys: [1, 0],
      limit: 100,
    });
    expect(parseOrder('SELECT … ORDER BY 1, 3', columns)).toEqual({
      keys: [0, 2],
      limit: undefined,
    });
  });

  test('takes the last ORDER BY, not that of a window', () => {
    const sql = 'SELECT rank() OVER (PARTITION BY a ORDER BY b) rk FROM t ORDER BY name LIMIT 5';
    expect(parseOrder(sql, columns)).toEqual({ keys: [0], limit: 5 });
  });

  test('says that it does not know where a key is an expression or no output column', () => {
    expect(parseOrder('SELECT 1 ORDER BY sum(x) LIMIT 5', columns).keys).toBeUndefined();
    expect(parseOrder('SELECT 1 ORDER BY other', columns).keys).toBeUndefined();
    expect(parseOrder('SELECT 1', columns).keys).toBeUndefined();
  });
});

describe('compareResults', () => {
  const byAmount = { keys: [1], limit: undefined };

  test('rows that tie in the sort key may come in any order', () => {
    const left = result(['a', '1', 'x'], ['b', '2', 'y'], ['c', '2', 'z']);
    const right = result(['a', '1', 'x'], ['c', '2', 'z'], ['b', '2', 'y']);
    expect(compareResults(left, right, byAmount).equal).toBe(true);
  });

  test('rows whose sort keys differ may not change places', () => {
    const left = result(['a', '1', 'x'], ['b', '2', 'y']);
    expect(compareResults(left, result(['b', '2', 'y'], ['a', '1', 'x']), byAmount).equal).toBe(
      false,
    );
  });

  test('a different cell is found, and null is not the word null', () => {
    expect(compareResults(result(['a', '1', 'x']), result(['a', '1', 'y']), byAmount).equal).toBe(
      false,
    );
    expect(
      compareResults(result(['a', '1', null]), result(['a', '1', 'null']), byAmount).equal,
    ).toBe(false);
  });

  test('a missing, an additional and a doubled row are found', () => {
    const one = result(['a', '1', 'x']);
    const two = result(['a', '1', 'x'], ['b', '1', 'x']);
    const doubled = result(['a', '1', 'x'], ['a', '1', 'x']);
    expect(compareResults(one, two, byAmount).equal).toBe(false);
    expect(compareResults(two, one, byAmount).equal).toBe(false);
    expect(compareResults(two, doubled, byAmount).equal).toBe(false);
  });

  test('only the tie that LIMIT cut may hold other rows', () => {
    const limited = { keys: [1], limit: 3 };
    const left = result(['a', '1', 'x'], ['b', '2', 'y'], ['c', '2', 'z']);
    const cut = result(['a', '1', 'x'], ['b', '2', 'y'], ['d', '2', 'z']);
    const wrong = result(['e', '1', 'x'], ['b', '2', 'y'], ['c', '2', 'z']);
    expect(compareResults(left, cut, limited).equal).toBe(true);
    expect(compareResults(left, wrong, limited).equal).toBe(false);
    expect(compareResults(left, cut, { keys: [1], limit: 100 }).equal).toBe(false);
  });

  test('without a known order rows are compared as a bag', () => {
    const order = { keys: undefined, limit: undefined };
    const left = result(['a', '1', 'x'], ['b', '2', 'y']);
    expect(compareResults(left, result(['b', '2', 'y'], ['a', '1', 'x']), order).equal).toBe(true);
    expect(compareResults(left, result(['b', '2', 'y'], ['b', '2', 'y']), order).equal).toBe(false);
  });
});
