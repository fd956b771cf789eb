/**
 * Changes of many objects: all below a prefix, or all of a job.
 *
 * - Each runs in one piece, about 30 µs an object, and nothing else meanwhile: callers bound the ones that have a limit.
 *   renamePrefix and copyPrefix have none, because they must be atomic.
 * - They work in batches: memory holds a batch of rows, and the blobs that were freed (S4).
 * - renamePrefix and copyPrefix check every new name before they write the first (S1).
 */
import { assert, StoreError } from '@ebb/protocol';
import { bucketOfVersions, keyProblem } from '../object-ref.ts';
import { assertObjectBytes } from '../object-size.ts';
import type { BlobRecord, Freed, VersionStamp } from './catalog.ts';
import { assertSameEncryption, type Bucket } from './sqlite-buckets.ts';
import {
  extentsOf,
  fromRow,
  type ObjectRow,
  type PlacedObject,
  type Seek,
  type StoredObject,
} from './sqlite-objects.ts';
import type { Tables } from './sqlite-tables.ts';
import * as versions from './sqlite-versions.ts';
import { rangeEnd } from './utf8-order.ts';
import { parseVersionKey } from './version-keys.ts';

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
  stamp?: VersionStamp,
): Deleted {
  assertLimit(limit);
  const { objects } = tables;
  const receipt = emptyReceipt();
  const bucket = tables.buckets.find(name);
  if (bucket === undefined) return { ...receipt, done: true };
  if (versions.keepsVersions(bucket))
    for (const [key] of objects.scanPrefix(bucket, prefix, limit))
      versions.assertStamp(tables, bucket, key, stamp);
  while (receipt.objects < limit) {
    const batch = objects.scanPrefix(bucket, prefix, nextBatch(receipt, limit));
    if (batch.length === 0) break;
    for (const row of batch) {
      const stored = fromRow(row);
      const { freed } = versions.removeCurrent(tables, { bucket, stored }, stamp);
      count(receipt, stored, freed);
    }
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
      const stored = objects.find(bucket, key);
      // An old version of the job may have come back in place of its newest, a moment ago: the next batch has it.
      if (stored === undefined) continue;
      count(receipt, stored, removeOfJob(tables, { bucket, stored }));
    }
  }
  return { ...receipt, done: counters.ofJob(jobId).objects === 0 };
}

export function renamePrefix(
  tables: Tables,
  from: PrefixName,
  to: PrefixName,
  options: { readonly overwrite: boolean },
  stamp?: VersionStamp,
): Freed & { readonly objects: number; readonly sizeBytes: number } {
  assertApart(from, to);
  const { objects } = tables;
  const source = tables.buckets.get(from.bucket);
  const target = tables.buckets.get(to.bucket);
  assertSameEncryption(source, target);
  const renamed = (key: string): string => to.prefix + key.slice(from.prefix.length);
  checkTargets(tables, { source, prefix: from.prefix }, { bucket: target, renamed, ...options });
  const receipt = emptyReceipt();
  const isPlain = !versions.keepsVersions(source) && !versions.keepsVersions(target);
  for (const [key] of isPlain ? [] : rowsUnder(tables, source, from.prefix)) {
    versions.assertStamp(tables, source, key, stamp);
    versions.assertStamp(tables, target, renamed(key), stamp);
  }
  // New names never start with the old prefix, so the range empties.
  for (;;) {
    const batch = objects.scanPrefix(source, from.prefix, BATCH_ROWS);
    if (batch.length === 0) return receipt;
    for (const row of batch) {
      const stored = fromRow(row);
      const key = renamed(stored.key);
      const old = objects.find(target, key);
      const placed = { bucket: source, stored };
      const to = { bucket: target, key, old, stamp };
      const freed = isPlain
        ? objects.move(placed, to)
        : versions.moveAsVersion(tables, placed, to).freed;
      count(receipt, stored, freed);
    }
  }
}

export function copyPrefix(
  tables: Tables,
  from: PrefixName,
  to: PrefixName,
  options: { readonly overwrite: boolean; readonly exact: boolean },
  stamp: VersionStamp,
): Freed & { readonly objects: number; readonly sizeBytes: number; readonly removed: number } {
  const { overwrite, exact } = options;
  assert(overwrite || !exact, 'what is deleted may be overwritten as well');
  assertApart(from, to);
  const { objects } = tables;
  const source = tables.buckets.get(from.bucket);
  const target = tables.buckets.get(to.bucket);
  assertSameEncryption(source, target);
  const renamed = (key: string): string => to.prefix + key.slice(from.prefix.length);
  checkTargets(tables, { source, prefix: from.prefix }, { bucket: target, renamed, overwrite });
  for (const [key, , sizeBytes] of rowsUnder(tables, source, from.prefix)) {
    assertObjectBytes(sizeBytes, { bucket: to.bucket, key: renamed(key) });
    assertNewest(tables, target, renamed(key), stamp);
  }
  // The prefixes are apart, so neither loop meets what the other one writes.
  const removed = exact
    ? removeOthers(tables, { source, from, target, to }, stamp)
    : emptyReceipt();
  const receipt = emptyReceipt();
  for (const row of rowsUnder(tables, source, from.prefix)) {
    const stored = fromRow(row);
    const key = renamed(stored.key);
    const copy = { key, ...stamp, jobId: null, pinned: false, remoteEtag: null };
    const incoming = { ...stored, ...copy };
    const after = extentsOf(incoming);
    const old = objects.find(target, key);
    const { freed } = versions.putCurrent(tables, target, { old, incoming, after });
    count(receipt, stored, freed);
  }
  return { ...receipt, freed: [...removed.freed, ...receipt.freed], removed: removed.objects };
}

/** Deletes what is under the target's prefix and has no counterpart in the source. */
function removeOthers(
  tables: Tables,
  {
    source,
    from,
    target,
    to,
  }: {
    readonly source: Bucket;
    readonly from: PrefixName;
    readonly target: Bucket;
    readonly to: PrefixName;
  },
  stamp: VersionStamp,
): Receipt {
  const receipt = emptyReceipt();
  const isOther = ([key]: ObjectRow): boolean =>
    tables.objects.find(source, from.prefix + key.slice(to.prefix.length)) === undefined;
  for (const [key] of rowsUnder(tables, target, to.prefix).filter(isOther))
    versions.assertStamp(tables, target, key, stamp);
  for (const row of rowsUnder(tables, target, to.prefix).filter(isOther)) {
    const stored = fromRow(row);
    const { freed } = versions.removeCurrent(tables, { bucket: target, stored }, stamp);
    count(receipt, stored, freed);
  }
  return receipt;
}

/** Nothing newer than the stamp is under the name. @throws {StoreError} `superseded` */
function assertNewest(tables: Tables, bucket: Bucket, key: string, stamp: VersionStamp): void {
  versions.assertStamp(tables, bucket, key, stamp);
  const old = tables.objects.find(bucket, key);
  if (old === undefined || old.version <= stamp.version) return;
  const { name } = bucket.record;
  throw new StoreError(
    'superseded',
    `${name}/${key} has version ${old.version}; version ${stamp.version} comes too late`,
    { bucket: name, key, version: stamp.version, newer: old.version },
  );
}

/** For good: what a job wrote ends with it, and what it replaced comes back. */
function removeOfJob(tables: Tables, { bucket, stored }: PlacedObject): BlobRecord[] {
  const owner = bucketOfVersions(bucket.record.name);
  if (owner === undefined) return versions.removeForGood(tables, { bucket, stored }, 'policy');
  const { key } = parseVersionKey(stored.key);
  return versions.removeArchived(tables, tables.buckets.get(owner), { key, archived: stored });
}

function* rowsUnder({ objects }: Tables, bucket: Bucket, prefix: string): Generator<ObjectRow> {
  const end = rangeEnd(prefix);
  let seek: Seek | undefined = { from: prefix };
  while (seek !== undefined) {
    const batch: ObjectRow[] = objects.scan(bucket, seek, end, BATCH_ROWS);
    seek = batch.length < BATCH_ROWS ? undefined : { after: (batch.at(-1) as ObjectRow)[0] };
    yield* batch;
  }
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

/** Every new name of a prefix that is renamed or copied. @throws {StoreError} `name_invalid`, `already_exists` */
function checkTargets(
  tables: Tables,
  from: { readonly source: Bucket; readonly prefix: string },
  to: {
    readonly bucket: Bucket;
    readonly renamed: (key: string) => string;
    readonly overwrite: boolean;
  },
): void {
  for (const [key] of rowsUnder(tables, from.source, from.prefix)) {
    const name = to.renamed(key);
    const problem = keyProblem(name);
    if (problem !== undefined) {
      throw new StoreError('name_invalid', `${JSON.stringify(key)}: its new name ${problem}`);
    }
    if (!to.overwrite && tables.objects.find(to.bucket, name) !== undefined) {
      const { name: bucket } = to.bucket.record;
      throw new StoreError('already_exists', `${bucket}/${name} exists`, { bucket, key: name });
    }
  }
}
