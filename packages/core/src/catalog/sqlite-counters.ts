/**
 * Counts and sums of bytes, by bucket, by job, and of all blobs and copies.
 *
 * S3  Counters live in memory and follow each group: committed with it (`keep`), or taken back with it (`takeBack`). Writing
 *     them with every group would cost a fifth page in the log, a quarter of a commit. They are saved by `close`; after a
 *     crash `open` counts again (1 s for 1,000,000 objects), which meta.counters_saved decides.
 * S4  A job without objects has no counter, nor has a bucket that is gone; but neither is forgotten before the group that
 *     emptied it is committed, because the group may still be taken back.
 */
import type { StatementSync } from 'node:sqlite';
import { assert } from '@ebb/protocol';
import { COUNTER } from './sqlite-schema.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

export interface Counter {
  readonly scope: number;
  readonly name: string;
  count: number;
  bytes: number;
  /** As of the last committed group. */
  committed: { readonly count: number; readonly bytes: number };
  dirty: boolean;
  /** Its bucket was deleted in the open group. */
  retired: boolean;
}

const NOTHING_COUNTED = { count: 0, bytes: 0 };

export class Counters {
  readonly #tx: SqliteTransactions;
  readonly #sql: {
    readonly deleteAll: StatementSync;
    readonly put: StatementSync;
    readonly setSaved: StatementSync;
  };
  readonly #counters = new Map<string, Counter>();
  #dirty: Counter[] = [];
  readonly blobs: Counter;
  readonly memory: Counter;
  readonly disk: Counter;
  readonly remote: Counter;
  readonly spool: Counter;

  /** `saved`: whether the rows of `counters` are those of the tables. */
  constructor(tx: SqliteTransactions, saved: boolean) {
    this.#tx = tx;
    this.#sql = {
      deleteAll: tx.prepare('delete from counters'),
      put: tx.prepare('insert into counters (scope, name, count, bytes) values (?, ?, ?, ?)'),
      setSaved: tx.prepare("update meta set value = 1 where name = 'counters_saved'"),
    };
    const rows = tx.prepare(saved ? 'select scope, name, count, bytes from counters' : RECOUNT);
    for (const row of rows.all()) {
      const [scope, name, count, bytes] = row as unknown as [number, string, number, number];
      this.#insert(scope, name, { count, bytes });
    }
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
    counter.bytes += bytes;
    assert(counter.count >= 0 && counter.bytes >= 0, 'counters do not fall below zero');
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
      const { scope, count, bytes } = counter;
      counter.dirty = false;
      counter.committed = { count, bytes };
      if (counter.retired || (scope === COUNTER.job && count === 0)) this.#forget(counter);
    }
    this.#dirty = [];
  }

  /** The open group was undone. */
  takeBack(): void {
    for (const counter of this.#dirty) {
      const { count, bytes } = counter.committed;
      counter.count = count;
      counter.bytes = bytes;
      counter.dirty = false;
      counter.retired = false;
      if (counter.scope === COUNTER.job && count === 0) this.#forget(counter);
    }
    this.#dirty = [];
  }

  /** Runs in the last change before the end. */
  save(): void {
    this.#tx.write(this.#sql.deleteAll);
    for (const { scope, name, count, bytes } of this.#counters.values()) {
      if (count > 0) this.#tx.write(this.#sql.put, scope, name, count, bytes);
    }
    this.#tx.write(this.#sql.setSaved);
  }

  #get(scope: number, name: string): Counter {
    return this.#counters.get(counterId(scope, name)) ?? this.#insert(scope, name, NOTHING_COUNTED);
  }

  #insert(scope: number, name: string, committed: Counter['committed']): Counter {
    const { count, bytes } = committed;
    const counter = { scope, name, count, bytes, committed, dirty: false, retired: false };
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
  return { objects: counter?.count ?? 0, sizeBytes: counter?.bytes ?? 0 };
}

function counterId(scope: number, name: string): string {
  return `${scope}/${name}`;
}

/** Rows as `counters` has them, from the tables themselves. */
const RECOUNT = `
  with by_owner as materialized (select bucket, job, count(*) as count, sum(size) as bytes from objects group by bucket, job),
  by_copies as materialized (
    select count(*) as blobs, sum(size) as bytes,
      count(memory_bytes) as memory, total(memory_bytes) as memory_bytes,
      count(disk_bytes) as disk, total(disk_bytes) as disk_bytes,
      count(remote_name) as remote, total(iif(remote_name is null, 0, size)) as remote_bytes
    from blobs
  )
  select ${COUNTER.bucket} as scope, cast(bucket as text) as name, sum(count) as count, sum(bytes) as bytes from by_owner group by bucket
  union all select ${COUNTER.job}, job, sum(count), sum(bytes) from by_owner where job is not null group by job
  union all select ${COUNTER.blobs}, '', blobs, coalesce(bytes, 0) from by_copies
  union all select ${COUNTER.memory}, '', memory, memory_bytes from by_copies
  union all select ${COUNTER.disk}, '', disk, disk_bytes from by_copies
  union all select ${COUNTER.remote}, '', remote, remote_bytes from by_copies
  union all select ${COUNTER.spool}, '', count(*), coalesce(sum(size), 0) from spool
`;
