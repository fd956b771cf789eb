/**
 * The spool: names of which tier 2 does not have the last state yet, in the order in which they began to differ.
 *
 * P1  One row a name and target. A name that changes again keeps its place, and what was to be sent before is sent no more.
 * P2  A row goes only with the version it named: who sent an older state leaves the row to the newer one.
 */
import type { Clock } from '../clock.ts';
import { shownSum } from './byte-sum.ts';
import type { SpoolEntry } from './catalog.ts';
import type { Bucket } from './sqlite-buckets.ts';
import type { Counters } from './sqlite-counters.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

/** Version null: to be deleted. */
interface State {
  readonly key: string;
  readonly version: number | null;
  readonly sizeBytes: number;
}

type SpoolRow = [
  seq: number,
  target: string,
  bucket: string,
  key: string,
  version: number | null,
  sizeBytes: number,
  sinceMs: number,
];

export class SpoolTable {
  readonly #tx: SqliteTransactions;
  readonly #counters: Counters;
  readonly #clock: Clock;
  readonly #sql: ReturnType<typeof prepareStatements>;

  constructor(
    tx: SqliteTransactions,
    parts: { readonly counters: Counters; readonly clock: Clock },
  ) {
    this.#tx = tx;
    this.#counters = parts.counters;
    this.#clock = parts.clock;
    this.#sql = prepareStatements(tx);
  }

  note({ record }: Bucket, { key, version, sizeBytes }: State): void {
    const { name, policy } = record;
    const target = policy.remote ?? '';
    const old = this.#find(name, key, target);
    if (old === undefined) {
      const now = this.#clock.now();
      this.#tx.write(this.#sql.insert, target, name, key, version, sizeBytes, now);
    } else this.#tx.write(this.#sql.update, version, sizeBytes, old[0]);
    this.#counters.add(
      this.#counters.spool,
      old === undefined ? 1 : 0,
      sizeBytes - (old?.[5] ?? 0),
    );
  }

  /** Cheap while nothing is spooled. */
  has({ record }: Bucket, key: string): boolean {
    if (this.#counters.spool.count === 0) return false;
    return this.#find(record.name, key, record.policy.remote ?? '') !== undefined;
  }

  /** Tier 2 has the name's last state already. */
  forget({ record }: Bucket, key: string): void {
    if (this.#counters.spool.count === 0) return;
    const row = this.#find(record.name, key, record.policy.remote ?? '');
    if (row !== undefined) this.#delete(row);
  }

  find(bucket: string, key: string): SpoolEntry | undefined {
    if (this.#counters.spool.count === 0) return undefined;
    const row = this.#sql.findByName.get(bucket, key);
    return row === undefined ? undefined : toEntry(row as unknown as SpoolRow);
  }

  /** P2 */
  drop({ bucket, key, target, version }: SpoolEntry): void {
    const row = this.#find(bucket, key, target ?? '');
    if (row !== undefined && row[4] === version) this.#delete(row);
  }

  /** What was to be stored of a bucket; its deletions stay. */
  dropPuts(bucket: string): void {
    for (const row of this.#sql.putsOf.all(bucket) as unknown as SpoolRow[]) this.#delete(row);
  }

  list({ after, limit }: { readonly after: number; readonly limit: number }): SpoolEntry[] {
    if (this.#counters.spool.count === 0) return []; // asked after each commit that replaces something
    return (this.#sql.list.all(after, limit) as unknown as SpoolRow[]).map(toEntry);
  }

  totals(): { entries: number; bytes: number; oldestMs: number | null } {
    const { count } = this.#counters.spool;
    const oldest = count === 0 ? undefined : this.#sql.oldest.get();
    return {
      entries: count,
      bytes: shownSum(this.#counters.spool),
      oldestMs: (oldest as unknown as [number | null] | undefined)?.[0] ?? null,
    };
  }

  #find(bucket: string, key: string, target: string): SpoolRow | undefined {
    return this.#sql.find.get(bucket, key, target) as unknown as SpoolRow | undefined;
  }

  #delete(row: SpoolRow): void {
    this.#tx.write(this.#sql.delete, row[0]);
    this.#counters.add(this.#counters.spool, -1, -row[5]);
  }
}

function toEntry(row: SpoolRow): SpoolEntry {
  return {
    seq: row[0],
    target: row[1] === '' ? null : row[1],
    bucket: row[2],
    key: row[3],
    version: row[4],
    sizeBytes: row[5],
    sinceMs: row[6],
  };
}

const COLUMNS = 'seq, target, bucket, key, version, size, since';

function prepareStatements(tx: SqliteTransactions) {
  return {
    insert: tx.prepare(
      'insert into spool (target, bucket, key, version, size, since) values (?, ?, ?, ?, ?, ?)',
    ),
    update: tx.prepare('update spool set version = ?, size = ? where seq = ?'),
    delete: tx.prepare('delete from spool where seq = ?'),
    find: tx.prepare(`select ${COLUMNS} from spool where bucket = ? and key = ? and target = ?`),
    findByName: tx.prepare(`select ${COLUMNS} from spool where bucket = ? and key = ? limit 1`),
    putsOf: tx.prepare(`select ${COLUMNS} from spool where bucket = ? and version is not null`),
    list: tx.prepare(`select ${COLUMNS} from spool where seq > ? order by seq limit ?`),
    oldest: tx.prepare('select since from spool order by seq limit 1'),
  };
}
