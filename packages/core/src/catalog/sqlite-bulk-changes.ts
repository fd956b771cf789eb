/**
 * Changes of many objects: all below a prefix, or all of a job.
 *
 * - Each runs in one piece, about 30 µs an object, and nothing else meanwhile: callers bound the ones that have a limit.
 *   renamePrefix has none, because it must be atomic.
 * - They work in batches: memory holds a batch of rows, and the blobs that were freed (S4).
 * - renamePrefix checks every new name before it writes the first (S1).
 */
import { assert, StoreError } from '@ebb/protocol';
import { keyProblem } from '../object-ref.ts';
import type { BlobRecord, Freed } from './catalog.ts';
import type { Bucket } from './sqlite-buckets.ts';
import {
  extentsOf,
  fromRow,
  type ObjectRow,
  type PlacedObject,
  type Seek,
  type StoredObject,
} from './sqlite-objects.ts';
import type { Tables } from './sqlite-tables.ts';
import { rangeEnd } from './utf8-order.ts';

/** Rows that a change holds at a time. */
const BATCH_ROWS = 256;

interface PrefixName {
  readonly bucket: string;
  readonly prefix: string;
}

/** What was moved or deleted so far. */
interface Receipt {
  readonly freed: BlobRecord[];
  objects: number;
  sizeBytes: number;
}

type Deleted = Freed & {
  readonly objects: number;
  readonly sizeBytes: number;
  readonly done: boolean;
};

export function deletePrefix(
  tables: Tables,
  { bucket: name, prefix }: PrefixName,
  limit: number,
): Deleted {
  assertLimit(limit);
  const { objects } = tables;
  const receipt = emptyReceipt();
  const bucket = tables.buckets.find(name);
  if (bucket === undefined) return { ...receipt, done: true };
  while (receipt.objects < limit) {
    const batch = objects.scanPrefix(bucket, prefix, nextBatch(receipt, limit));
    if (batch.length === 0) break;
    for (const row of batch) remove(tables, { bucket, stored: fromRow(row) }, receipt);
  }
  return { ...receipt, done: objects.scanPrefix(bucket, prefix, 1).length === 0 };
}

export function deleteJobObjects(tables: Tables, jobId: string, limit: number): Deleted {
  assertLimit(limit);
  const { objects, buckets, counters } = tables;
  const receipt = emptyReceipt();
  while (receipt.objects < limit) {
    const names = objects.namesOfJob(jobId, nextBatch(receipt, limit));
    if (names.length === 0) break;
    for (const { bucket: id, key } of names) {
      const bucket = buckets.withId(id);
      const stored = objects.find(bucket, key) as StoredObject;
      remove(tables, { bucket, stored }, receipt);
    }
  }
  return { ...receipt, done: counters.ofJob(jobId).objects === 0 };
}

export function renamePrefix(
  tables: Tables,
  from: PrefixName,
  to: PrefixName,
  options: { readonly overwrite: boolean },
): Freed & { readonly objects: number; readonly sizeBytes: number } {
  assertApart(from, to);
  const { objects } = tables;
  const source = tables.buckets.get(from.bucket);
  const target = tables.buckets.get(to.bucket);
  const renamed = (key: string): string => to.prefix + key.slice(from.prefix.length);
  checkTargets(tables, { source, prefix: from.prefix }, { bucket: target, renamed, ...options });
  const receipt = emptyReceipt();
  // New names never start with the old prefix, so the range empties.
  for (;;) {
    const batch = objects.scanPrefix(source, from.prefix, BATCH_ROWS);
    if (batch.length === 0) return receipt;
    for (const row of batch) {
      const stored = fromRow(row);
      const key = renamed(stored.key);
      const old = objects.find(target, key);
      const freed = objects.move({ bucket: source, stored }, { bucket: target, key, old });
      count(receipt, stored, freed);
    }
  }
}

function remove({ objects }: Tables, object: PlacedObject, receipt: Receipt): void {
  const { stored } = object;
  count(receipt, stored, objects.remove(object, extentsOf(stored)));
}

function count(receipt: Receipt, stored: StoredObject, freed: readonly BlobRecord[]): void {
  for (const blob of freed) receipt.freed.push(blob);
  receipt.objects++;
  receipt.sizeBytes += stored.sizeBytes;
}

function emptyReceipt(): Receipt {
  return { freed: [], objects: 0, sizeBytes: 0 };
}

function nextBatch(receipt: Receipt, limit: number): number {
  return Math.min(BATCH_ROWS, limit - receipt.objects);
}

function assertLimit(limit: number): void {
  assert(Number.isInteger(limit) && limit >= 1, 'a deletion has a limit');
}

/** @throws {StoreError} `request_invalid` */
function assertApart(from: PrefixName, to: PrefixName): void {
  if (from.bucket !== to.bucket) return;
  if (!from.prefix.startsWith(to.prefix) && !to.prefix.startsWith(from.prefix)) return;
  throw new StoreError(
    'request_invalid',
    `one of the prefixes ${JSON.stringify(from.prefix)} and ${JSON.stringify(to.prefix)} contains the other`,
    { from: from.prefix, to: to.prefix },
  );
}

/** Every new name of a prefix rename. @throws {StoreError} `name_invalid`, `already_exists` */
function checkTargets(
  { objects }: Tables,
  from: { readonly source: Bucket; readonly prefix: string },
  to: {
    readonly bucket: Bucket;
    readonly renamed: (key: string) => string;
    readonly overwrite: boolean;
  },
): void {
  const end = rangeEnd(from.prefix);
  let seek: Seek | undefined = { from: from.prefix };
  while (seek !== undefined) {
    const batch: ObjectRow[] = objects.scan(from.source, seek, end, BATCH_ROWS);
    seek = batch.length < BATCH_ROWS ? undefined : { after: (batch.at(-1) as ObjectRow)[0] };
    for (const [key] of batch) {
      const name = to.renamed(key);
      const problem = keyProblem(name);
      if (problem !== undefined) {
        throw new StoreError('name_invalid', `${JSON.stringify(key)}: its new name ${problem}`);
      }
      if (!to.overwrite && objects.find(to.bucket, name) !== undefined) {
        const { name: bucket } = to.bucket.record;
        throw new StoreError('already_exists', `${bucket}/${name} exists`, { bucket, key: name });
      }
    }
  }
}
