/** Small records of feature packages: rows of `records`. A namespace is a package's own; values are its bytes. */
import type { SqliteTransactions } from './sqlite-transactions.ts';
import { rangeEnd } from './utf8-order.ts';

export class RecordTable {
  readonly #tx: SqliteTransactions;
  readonly #sql: ReturnType<typeof prepareStatements>;

  constructor(tx: SqliteTransactions) {
    this.#tx = tx;
    this.#sql = prepareStatements(tx);
  }

  put(namespace: string, key: string, value: Uint8Array): void {
    this.#tx.write(this.#sql.put, namespace, key, value);
  }

  find(namespace: string, key: string): Uint8Array | undefined {
    return (this.#sql.find.get(namespace, key) as unknown as [Uint8Array] | undefined)?.[0];
  }

  list(namespace: string, prefix: string): { key: string; value: Uint8Array }[] {
    const end = rangeEnd(prefix);
    const rows =
      end === undefined
        ? this.#sql.listFrom.all(namespace, prefix)
        : this.#sql.listBetween.all(namespace, prefix, end);
    return (rows as unknown as [string, Uint8Array][]).map(([key, value]) => ({ key, value }));
  }

  delete(namespace: string, key: string): void {
    this.#tx.write(this.#sql.delete, namespace, key);
  }
}

function prepareStatements(tx: SqliteTransactions) {
  const list = (condition: string) =>
    tx.prepare(`select key, value from records where namespace = ? and ${condition} order by key`);
  return {
    put: tx.prepare('replace into records (namespace, key, value) values (?, ?, ?)'),
    find: tx.prepare('select value from records where namespace = ? and key = ?'),
    listFrom: list('key >= ?'),
    listBetween: list('key >= ? and key < ?'),
    delete: tx.prepare('delete from records where namespace = ? and key = ?'),
  };
}
