/**
 * Private names of tier 2 under which something may lie that no blob refers to: entered before a copy is made there, gone
 * with the change that records the copy. Nearly always empty.
 */
import type { SqliteTransactions } from './sqlite-transactions.ts';

/** A file that was made without it gets it when it is opened. A program of then leaves its rows alone. Persisted, keep stable. */
export const PRIVATE_COPIES_SCHEMA = `
  create table if not exists private_copies (name text primary key) strict, without rowid;
`;

export class PrivateCopyTable {
  readonly #tx: SqliteTransactions;
  readonly #sql: ReturnType<typeof prepareStatements>;

  constructor(tx: SqliteTransactions) {
    this.#tx = tx;
    this.#sql = prepareStatements(tx);
  }

  note(name: string): void {
    this.#tx.write(this.#sql.insert, name);
  }

  has(name: string): boolean {
    return this.#sql.find.get(name) !== undefined;
  }

  list({ after, limit }: { readonly after: string; readonly limit: number }): string[] {
    return (this.#sql.list.all(after, limit) as unknown as [string][]).map(([name]) => name);
  }

  drop(name: string): void {
    if (this.has(name)) this.#tx.write(this.#sql.delete, name);
  }
}

function prepareStatements(tx: SqliteTransactions) {
  return {
    insert: tx.prepare('insert or ignore into private_copies (name) values (?)'),
    find: tx.prepare('select 1 from private_copies where name = ?'),
    list: tx.prepare('select name from private_copies where name > ? order by name limit ?'),
    delete: tx.prepare('delete from private_copies where name = ?'),
  };
}
