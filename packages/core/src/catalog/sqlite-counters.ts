/**
 * Counts and sums of bytes, by bucket, by job, and of all blobs and copies.
 *
 * S3  Counters live in memory and follow each group: committed with it (`keep`), or taken back with it (`takeBack`). Writing
 *     them with every group would cost a fifth page in the log, a quarter of a commit. They are saved by `close`; after a
 *     crash `open` counts again (1 s for 1,000,000 objects), which meta.counters_saved decides.
 * S4  A job without objects has no counter, nor has a bucket that is gone; but neither is forgotten before the group that
 *     emptied it is committed, because the group may still be taken back.
 * S5  What was saved has a checksum. Rows that do not match it, or that no count can be, are counted again, as is a counter that
 *     fell below zero: it stays at zero until then, and is not saved. So a damaged counter keeps no catalog from opening.
 */
import { crc32c } from '../checksum.ts';
import {
  addBytes,
  type ByteSum,
  isNegativeSum,
  NO_BYTES,
  parseSum,
  shownSum,
  storedSum,
} from './byte-sum.ts';
import { COUNTER } from './sqlite-schema.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

interface Counted extends ByteSum {
  readonly count: number;
}

export interface Counter {
  readonly scope: number;
  readonly name: string;
  count: number;
  /** The bytes, as byte-sum.ts has them. */
  high: number;
  low: number;
  /** As of the last committed group. */
  committed: Counted;
  dirty: boolean;
  /** Its bucket was deleted in the open group. */
  retired: boolean;
}

const NOTHING_COUNTED: Counted = { count: 0, ...NO_BYTES };

export class Counters {
  readonly #tx: SqliteTransactions;
  readonly #sql: ReturnType<typeof prepareStatements>;
  readonly #counters = new Map<string, Counter>();
  #dirty: Counter[] = [];
  /** Something fell below zero: what is counted now is not saved. */
  #isDoubtful = false;
  readonly blobs: Counter;
  readonly memory: Counter;
  readonly disk: Counter;
  readonly remote: Counter;
  readonly spool: Counter;

  /** `saved`: whether the last process saved the rows of `counters`. */
  constructor(tx: SqliteTransactions, saved: boolean) {
    this.#tx = tx;
    this.#sql = prepareStatements(tx);
    for (const { scope, name, ...counted } of (saved ? this.#findSaved() : undefined) ??
      this.#recount())
      this.#insert(scope, name, counted);
    this.blobs = this.#get(COUNTER.blobs, '');
    this.memory = this.#get(COUNTER.memory, '');
    this.disk = this.#get(COUNTER.disk, '');
    this.remote = this.#get(COUNTER.remote, '');
    this.spool = this.#get(COUNTER.spool, '');
  }

  bucket(id: number): Counter {
    return this.#get(COUNTER.bucket, String(id));
  }

  job(jobId: string): Counter {
    return this.#get(COUNTER.job, jobId);
  }

  ofJob(jobId: string): { readonly objects: number; readonly sizeBytes: number } {
    return sums(this.#counters.get(counterId(COUNTER.job, jobId)));
  }

  add(counter: Counter, count: number, bytes: number): void {
    counter.count += count;
    addBytes(counter, bytes);
    if (counter.count < 0 || isNegativeSum(counter)) this.#doubt(counter);
    this.#touch(counter);
  }

  /** The counter of a bucket that this change deletes. */
  retire(counter: Counter): void {
    counter.retired = true;
    this.#touch(counter);
  }

  /** The open group was committed. */
  keep(): void {
    for (const counter of this.#dirty) {
      const { scope, count, high, low } = counter;
      counter.dirty = false;
      counter.committed = { count, high, low };
      if (counter.retired || (scope === COUNTER.job && count === 0)) this.#forget(counter);
    }
    this.#dirty = [];
  }

  /** The open group was undone. */
  takeBack(): void {
    for (const counter of this.#dirty) {
      const { count, high, low } = counter.committed;
      counter.count = count;
      counter.high = high;
      counter.low = low;
      counter.dirty = false;
      counter.retired = false;
      if (counter.scope === COUNTER.job && count === 0) this.#forget(counter);
    }
    this.#dirty = [];
  }

  /** Runs in the last change before the end. Without it the next start counts again. */
  save(): void {
    this.#tx.write(this.#sql.deleteAll);
    if (this.#isDoubtful) return;
    const rows: SavedRow[] = [];
    for (const counter of this.#counters.values()) {
      const bytes = storedSum(counter);
      if (bytes === undefined) return; // no integer of SQLite's holds it
      if (counter.count > 0) rows.push([counter.scope, counter.name, counter.count, bytes]);
    }
    for (const row of rows) this.#tx.write(this.#sql.put, ...row);
    this.#tx.write(this.#sql.setSum, checksumOf(rows));
    this.#tx.write(this.#sql.setSaved);
  }

  /** S5. Undefined when the rows are not those that were saved. */
  #findSaved(): (Counted & CounterName)[] | undefined {
    const rows = this.#sql.saved.all() as unknown as SavedRow[];
    const sum = (this.#sql.sum.get() as unknown as [unknown] | undefined)?.[0];
    // A program that knew of no checksum saved them.
    if (sum !== undefined && sum !== BigInt(checksumOf(rows))) return undefined;
    if (rows.some(([, , count, bytes]) => count < 0 || count > MAX_COUNT || bytes < 0n))
      return undefined;
    return rows.map(([scope, name, count, bytes]) => ({
      ...{ scope: Number(scope), name, count: Number(count) },
      ...parseSum(bytes),
    }));
  }

  #recount(): (Counted & CounterName)[] {
    const rows = this.#sql.recount.all() as unknown as [bigint, string, bigint, bigint, bigint][];
    return rows.map(([scope, name, count, upper, lower]) => {
      const sum = parseSum(lower, upper);
      const counted = isNegativeSum(sum) ? NO_BYTES : sum;
      return { scope: Number(scope), name, count: Number(count), ...counted };
    });
  }

  /** S5 */
  #doubt(counter: Counter): void {
    this.#isDoubtful = true;
    counter.count = Math.max(0, counter.count);
    if (isNegativeSum(counter)) Object.assign(counter, NO_BYTES);
  }

  #get(scope: number, name: string): Counter {
    return this.#counters.get(counterId(scope, name)) ?? this.#insert(scope, name, NOTHING_COUNTED);
  }

  #insert(scope: number, name: string, { count, high, low }: Counted): Counter {
    const committed = { count, high, low };
    const counter = { scope, name, ...committed, committed, dirty: false, retired: false };
    this.#counters.set(counterId(scope, name), counter);
    return counter;
  }

  #touch(counter: Counter): void {
    if (counter.dirty) return;
    counter.dirty = true;
    this.#dirty.push(counter);
  }

  #forget({ scope, name }: Counter): void {
    this.#counters.delete(counterId(scope, name));
  }
}

export function sums(counter: Counter | undefined): { objects: number; sizeBytes: number } {
  return {
    objects: counter?.count ?? 0,
    sizeBytes: counter === undefined ? 0 : shownSum(counter),
  };
}

interface CounterName {
  readonly scope: number;
  readonly name: string;
}

type SavedRow = [scope: number | bigint, name: string, count: number | bigint, bytes: bigint];

const MAX_COUNT = BigInt(Number.MAX_SAFE_INTEGER);

function checksumOf(rows: readonly SavedRow[]): number {
  const lines = rows.map((row) => `${row.join('\0')}\n`);
  return crc32c(Buffer.from(lines.sort().join('')));
}

function counterId(scope: number, name: string): string {
  return `${scope}/${name}`;
}

function prepareStatements(tx: SqliteTransactions) {
  const exact = (sql: string) => {
    const statement = tx.prepare(sql);
    statement.setReadBigInts(true);
    return statement;
  };
  return {
    saved: exact('select scope, name, count, bytes from counters'),
    sum: exact("select value from meta where name = 'counters_crc32c'"),
    recount: exact(RECOUNT),
    deleteAll: tx.prepare('delete from counters'),
    put: tx.prepare('insert into counters (scope, name, count, bytes) values (?, ?, ?, ?)'),
    setSum: tx.prepare("insert or replace into meta (name, value) values ('counters_crc32c', ?)"),
    setSaved: tx.prepare("update meta set value = 1 where name = 'counters_saved'"),
  };
}

/** The upper and the lower half of many numbers, summed apart: neither sum passes the 64 bits of SQLite's integers. */
const halves = (column: string, as: string): string =>
  `coalesce(sum(${column} >> 32), 0) as ${as}_upper, coalesce(sum(${column} & 0xffffffff), 0) as ${as}_lower`;

/** Rows as `counters` has them, with the halves of their bytes, from the tables themselves. */
const RECOUNT = `
  with by_owner as materialized (select bucket, job, count(*) as count, ${halves('size', 'size')} from objects group by bucket, job),
  by_copies as materialized (
    select count(*) as blobs, count(memory_bytes) as memory, count(disk_bytes) as disk, count(remote_name) as remote,
      ${halves('size', 'blobs')}, ${halves('memory_bytes', 'memory')}, ${halves('disk_bytes', 'disk')},
      ${halves('iif(remote_name is null, 0, size)', 'remote')}
    from blobs
  )
  select ${COUNTER.bucket} as scope, cast(bucket as text) as name, sum(count), sum(size_upper), sum(size_lower) from by_owner group by bucket
  union all select ${COUNTER.job}, job, sum(count), sum(size_upper), sum(size_lower) from by_owner where job is not null group by job
  union all select ${COUNTER.blobs}, '', blobs, blobs_upper, blobs_lower from by_copies
  union all select ${COUNTER.memory}, '', memory, memory_upper, memory_lower from by_copies
  union all select ${COUNTER.disk}, '', disk, disk_upper, disk_lower from by_copies
  union all select ${COUNTER.remote}, '', remote, remote_upper, remote_lower from by_copies
  union all select ${COUNTER.spool}, '', count(*), ${halves('size', 'spool')} from spool
`;
