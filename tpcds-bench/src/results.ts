/** Keeps the first result of each query as the one that all others must equal: vanilla's, where vanilla takes part. */
import { type Comparison, compareResults, parseOrder, type Result } from './compare.ts';

export class ResultBook {
  readonly #first = new Map<string, { result: Result; from: string }>();

  /** Compares with the query's first result; that one is itself, and equal. */
  check(query: string, sql: string, result: Result, from: string): Comparison {
    const first = this.#first.get(query);
    if (first === undefined) {
      this.#first.set(query, { result, from });
      return { equal: true, how: `the result that others must equal (${from})` };
    }
    const comparison = compareResults(first.result, result, parseOrder(sql, result.columns));
    return { ...comparison, how: `${comparison.how}, with ${first.from}` };
  }
}
