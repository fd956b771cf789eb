/**
 * Names in order: pages of a listing, and what has expired.
 *
 * A page walks the names after `startAfter`; below a common prefix it reads one key, then seeks to the end of that prefix,
 * so the cost is that of the names that it returns, not of the names that it rolls up.
 *
 * - `next` is a name as `startAfter` takes it; one inside a common prefix means that this prefix has passed whole.
 * - A page holds at most its own names and one batch in memory (S4). Batches grow while objects come, and shrink to one row
 *   after a prefix.
 */
import { assert } from '@ebb/protocol';
import { bucketOfVersions } from '../object-ref.ts';
import type { ListOptions, ListPage, ObjectRecord } from './catalog.ts';
import type { Bucket } from './sqlite-buckets.ts';
import {
  decodeObject,
  fromRow,
  type ObjectRow,
  type ObjectTable,
  type Seek,
} from './sqlite-objects.ts';
import type { Tables } from './sqlite-tables.ts';
import { commonPrefix, compareUtf8, rangeEnd } from './utf8-order.ts';
import { parseVersionKey } from './version-keys.ts';

const BATCH_ROWS_MAX = 256;
/** With a delimiter the next name may well be a prefix. */
const FIRST_BATCH_ROWS = 8;

const NOTHING_LISTED: ListPage = { objects: [], prefixes: [], next: null };

export function listPage(
  objects: ObjectTable,
  bucket: Bucket | undefined,
  options: ListOptions,
): ListPage {
  const { prefix, delimiter, limit } = options;
  assert(Number.isInteger(limit) && limit >= 0, 'a page has a limit');
  if (bucket === undefined || limit === 0) return NOTHING_LISTED;
  const end = rangeEnd(prefix);
  const found: ObjectRecord[] = [];
  const prefixes: string[] = [];
  let last = '';
  let seek = firstSeek(options);
  let batch = delimiter === '' ? BATCH_ROWS_MAX : FIRST_BATCH_ROWS;
  while (seek !== undefined) {
    const asked = Math.min(batch, limit + 1);
    const rows = objects.scan(bucket, seek, end, asked);
    seek = rows.length < asked ? undefined : { after: (rows.at(-1) as ObjectRow)[0] };
    batch = Math.min(batch * 2, BATCH_ROWS_MAX);
    for (const row of rows) {
      const [key] = row;
      const rolledUp = commonPrefix(key, prefix, delimiter);
      if (found.length + prefixes.length === limit) return { objects: found, prefixes, next: last };
      last = rolledUp ?? key;
      if (rolledUp === undefined) {
        found.push(decodeObject(bucket.record.name, fromRow(row)));
        continue;
      }
      prefixes.push(rolledUp);
      const from = rangeEnd(rolledUp);
      seek = from === undefined ? undefined : { from };
      batch = 1;
      break;
    }
  }
  return { objects: found, prefixes, next: null };
}

/** The oldest objects of buckets with a TTL that are past it. */
export function listExpired(
  { buckets, objects }: Tables,
  nowMs: number,
  limit: number,
): { bucket: string; key: string; version: number }[] {
  const expired: { bucket: string; key: string; version: number }[] = [];
  for (const bucket of buckets.all()) {
    const { ttlMs } = bucket.record.policy;
    if (ttlMs === null || expired.length >= limit) continue;
    const owner = bucketOfVersions(bucket.record.name);
    for (const found of objects.listExpired(bucket, nowMs - ttlMs, limit - expired.length)) {
      if (owner === undefined) expired.push(found);
      else expired.push({ ...found, bucket: owner, key: parseVersionKey(found.key).key });
    }
  }
  return expired;
}

/** Where a page begins; undefined when nothing can come. */
function firstSeek({ prefix, startAfter, delimiter }: ListOptions): Seek | undefined {
  if (startAfter === '' || compareUtf8(startAfter, prefix) < 0) return { from: prefix };
  if (!startAfter.startsWith(prefix)) return undefined;
  const passed = commonPrefix(startAfter, prefix, delimiter);
  if (passed === undefined) return { after: startAfter };
  const from = rangeEnd(passed);
  return from === undefined ? undefined : { from };
}
