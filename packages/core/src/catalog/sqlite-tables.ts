/**
 * The tables of the catalog over one connection. Their methods are synchronous and run inside a change or a read of
 * sqlite-transactions.ts, which alone decides what is committed.
 */
import { shownSum } from './byte-sum.ts';
import type { CatalogTotals } from './catalog.ts';
import { BlobTable } from './sqlite-blobs.ts';
import { BlockSumTable } from './sqlite-block-sums.ts';
import { BucketTable } from './sqlite-buckets.ts';
import { Counters } from './sqlite-counters.ts';
import { EventLog, type EventLogOptions } from './sqlite-events.ts';
import { JobTable } from './sqlite-jobs.ts';
import { ObjectTable } from './sqlite-objects.ts';
import { PrivateCopyTable } from './sqlite-private-copies.ts';
import { RecordTable } from './sqlite-records.ts';
import { SpoolTable } from './sqlite-spool.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

export interface Tables {
  readonly counters: Counters;
  readonly buckets: BucketTable;
  readonly blobs: BlobTable;
  readonly blockSums: BlockSumTable;
  readonly objects: ObjectTable;
  readonly jobs: JobTable;
  readonly records: RecordTable;
  readonly spool: SpoolTable;
  readonly privateCopies: PrivateCopyTable;
  readonly events: EventLog;
}

/** Counts everything when the counters were not saved. */
export function loadTables(
  tx: SqliteTransactions,
  options: EventLogOptions & { readonly countersSaved: boolean },
): Tables {
  const counters = new Counters(tx, options.countersSaved);
  const buckets = new BucketTable(tx, counters);
  const blobs = new BlobTable(tx, counters);
  const spool = new SpoolTable(tx, { counters, clock: options.clock });
  const events = new EventLog(tx, options);
  const objects = new ObjectTable(tx, { counters, blobs, spool, events });
  return {
    counters,
    buckets,
    blobs,
    blockSums: new BlockSumTable(tx),
    objects,
    jobs: new JobTable(tx),
    records: new RecordTable(tx),
    spool,
    privateCopies: new PrivateCopyTable(tx),
    events,
  };
}

export function totalsOf({ buckets, counters }: Tables): CatalogTotals {
  const { blobs, memory, disk, remote } = counters;
  let objects = 0;
  for (const bucket of buckets.all()) objects += bucket.counter.count;
  return {
    buckets: buckets.count,
    objects,
    blobs: blobs.count,
    bytes: { 0: shownSum(memory), 1: shownSum(disk), 2: shownSum(remote) },
    blobsByTier: { 0: memory.count, 1: disk.count, 2: remote.count },
  };
}
