/**
 * That a listing comes to its end: a store, or who answers for it, may give the same page for ever, or empty ones.
 *
 * I1  A continuation token that comes a second time is found: each is compared with the one of the last page whose number is a power
 *     of two, so nothing is kept of all the others.
 */
import { connectionFailed } from './s3-failures.ts';
import type { S3Calls } from './s3-protocol.ts';

/** How many empty pages a store may give, for deleted versions. */
const EMPTY_PAGES_MAX = 100;

export class PageGuard {
  readonly #doing: string;
  readonly #pagesMax: number;
  #pages = 0;
  #empty = 0;
  #mark: string | undefined;

  constructor(doing: string, pagesMax = Number.POSITIVE_INFINITY) {
    this.#doing = doing;
    this.#pagesMax = pagesMax;
  }

  /** @throws `io_failed` when the listing does not end */
  check({ entries, next }: S3Calls['list']['result']): void {
    this.#pages++;
    if (next === undefined) return;
    this.#empty = entries.length === 0 ? this.#empty + 1 : 0;
    if (next === this.#mark) throw this.#endless('the store gives the same page again');
    if (this.#empty > EMPTY_PAGES_MAX)
      throw this.#endless(`${this.#empty} pages in a row were empty`);
    if (this.#pages >= this.#pagesMax)
      throw this.#endless(`${this.#pages} pages were looked through, and that was not all`);
    if (Number.isInteger(Math.log2(this.#pages))) this.#mark = next;
  }

  #endless(problem: string): Error {
    return connectionFailed(`${this.#doing}: the listing does not end: ${problem}`);
  }
}
