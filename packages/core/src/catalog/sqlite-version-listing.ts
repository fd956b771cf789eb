/**
 * Pages of all versions: the rows of a bucket and those of its hidden bucket, merged by key, in a key the newest first.
 *
 * - Below a common prefix one entry is read, then both scans begin anew at the end of the prefix: as in sqlite-listing.ts.
 * - A page may begin in the middle of a key. The rest of that key comes first, by version, whatever moved meanwhile.
 * - The null version of a key is the first of its rows in the hidden bucket; it is held back until its turn comes.
 */
import { assert } from '@ebb/protocol';
import { versionsBucketOf } from '../object-ref.ts';
import type { VersionListOptions, VersionPage, VersionRecord } from './catalog.ts';
import type { Bucket } from './sqlite-buckets.ts';
import {
  decodeObject,
  fromRow,
  type ObjectRow,
  type ObjectTable,
  type Seek,
  type StoredObject,
} from './sqlite-objects.ts';
import type { Tables } from './sqlite-tables.ts';
import { isMarker } from './sqlite-versions.ts';
import { commonPrefix, compareUtf8, rangeEnd } from './utf8-order.ts';
import {
  afterVersionsOf,
  escapeKey,
  nullVersionKey,
  parseVersionKey,
  VERSION_MAX,
  versionKey,
  versionKeyPrefix,
} from './version-keys.ts';

const FIRST_BATCH_ROWS = 8;
const BATCH_ROWS_MAX = 256;
const NOTHING_LISTED: VersionPage = { versions: [], prefixes: [], next: null };

interface Entry {
  /** Of the object, also where the row is in the hidden bucket. */
  readonly key: string;
  readonly stored: StoredObject;
}

/** A bucket, and its hidden bucket if it has one. */
interface Sources {
  readonly objects: ObjectTable;
  readonly bucket: Bucket;
  readonly hidden: Bucket | undefined;
}

export function listVersions(
  tables: Tables,
  bucket: Bucket | undefined,
  options: VersionListOptions,
): VersionPage {
  const { prefix, delimiter, limit } = options;
  assert(Number.isInteger(limit) && limit >= 0, 'a page has a limit');
  if (bucket === undefined || limit === 0) return NOTHING_LISTED;
  const { name } = bucket.record;
  const hidden = tables.buckets.find(versionsBucketOf(name));
  const sources = { objects: tables.objects, bucket, hidden };
  const found: VersionRecord[] = [];
  const prefixes: string[] = [];
  let last: VersionListOptions['startAfter'] = options.startAfter;
  // A page that begins within a key does not show the newest of it.
  let lastKey = last.version === undefined ? undefined : last.key;
  let start: Start | undefined = firstStart(options);
  while (start !== undefined) {
    let following: Start | undefined;
    for (const { key, stored } of entriesFrom(sources, start, rangeEnd(prefix))) {
      if (found.length + prefixes.length === limit)
        return { versions: found, prefixes, next: last };
      const rolledUp = commonPrefix(key, prefix, delimiter);
      if (rolledUp !== undefined) {
        prefixes.push(rolledUp);
        last = { key: rolledUp };
        const from = rangeEnd(rolledUp);
        following = from === undefined ? undefined : { from };
        break;
      }
      const object = decodeObject(name, { ...stored, key });
      const isLatest = key !== lastKey;
      found.push({ object, isLatest, isDeleteMarker: isMarker(object) });
      last = { key, version: stored.version };
      lastKey = key;
    }
    start = following;
  }
  return { versions: found, prefixes, next: null };
}

/** From a key on; after a key with all its versions; or after one version of a key. */
type Start = Seek | { readonly within: string; readonly below: number };

/** Undefined when nothing can come. */
function firstStart({ prefix, delimiter, startAfter }: VersionListOptions): Start | undefined {
  const { key, version } = startAfter;
  if (key === '' || compareUtf8(key, prefix) < 0) return { from: prefix };
  if (!key.startsWith(prefix)) return undefined;
  const passed = commonPrefix(key, prefix, delimiter);
  if (passed !== undefined) {
    const from = rangeEnd(passed);
    return from === undefined ? undefined : { from };
  }
  return version === undefined ? { after: key } : { within: key, below: version };
}

function* entriesFrom(sources: Sources, start: Start, end: string | undefined): Generator<Entry> {
  if ('within' in start) {
    yield* restOfKey(sources, start.within, start.below);
    yield* entriesFrom(sources, { after: start.within }, end);
    return;
  }
  const current = currentEntries(sources, start, end);
  const archived = archivedEntries(sources, start, end);
  let left = current.next();
  let right = archived.next();
  while (left.done !== true || right.done !== true) {
    const takesLeft =
      right.done === true ||
      (left.done !== true && compareUtf8(left.value.key, right.value.key) <= 0);
    if (takesLeft) {
      yield left.value as Entry;
      left = current.next();
    } else {
      yield right.value as Entry;
      right = archived.next();
    }
  }
}

/** What is older than `below`; an archived version may have become the object again since the page before. */
function* restOfKey(
  { objects, bucket, hidden }: Sources,
  key: string,
  below: number,
): Generator<Entry> {
  const current = objects.find(bucket, key);
  if (current !== undefined && current.version < below) yield { key, stored: current };
  if (hidden === undefined) return;
  const nullVersion = objects.find(hidden, nullVersionKey(key));
  const end = rangeEnd(versionKeyPrefix(key));
  const first: Seek =
    below > VERSION_MAX ? { from: versionKeyPrefix(key) } : { after: versionKey(key, below) };
  const older = rows(objects, hidden, first, end);
  yield* inOrder(
    older,
    nullVersion !== undefined && nullVersion.version < below ? nullVersion : undefined,
  );
}

function* currentEntries(
  { objects, bucket }: Sources,
  seek: Seek,
  end: string | undefined,
): Generator<Entry, undefined> {
  for (const stored of rows(objects, bucket, seek, end)) yield { key: stored.key, stored };
}

function* archivedEntries(
  { objects, hidden }: Sources,
  seek: Seek,
  end: string | undefined,
): Generator<Entry, undefined> {
  if (hidden === undefined) return;
  const from = 'from' in seek ? escapeKey(seek.from) : afterVersionsOf(seek.after);
  const hiddenEnd = end === undefined ? undefined : escapeKey(end);
  yield* inOrder(rows(objects, hidden, { from }, hiddenEnd));
}

/** `held` is the null version of the key at hand, until an older version or the next key comes. */
function* inOrder(archived: Iterable<StoredObject>, nullVersion?: StoredObject): Generator<Entry> {
  let held = nullVersion === undefined ? undefined : toEntry(nullVersion);
  for (const stored of archived) {
    const entry = toEntry(stored);
    if (held !== undefined && (held.key !== entry.key || held.stored.version > stored.version)) {
      yield held;
      held = undefined;
    }
    if (entry.isNull) held = entry;
    else yield entry;
  }
  if (held !== undefined) yield held;
}

function toEntry(stored: StoredObject): Entry & { readonly isNull: boolean } {
  const { key, version } = parseVersionKey(stored.key);
  return { key, stored, isNull: version === 'null' };
}

function* rows(
  objects: ObjectTable,
  bucket: Bucket,
  first: Seek,
  end: string | undefined,
): Generator<StoredObject> {
  let asked = FIRST_BATCH_ROWS;
  for (let seek: Seek | undefined = first; seek !== undefined; ) {
    const batch: ObjectRow[] = objects.scan(bucket, seek, end, asked);
    seek = batch.length < asked ? undefined : { after: (batch.at(-1) as ObjectRow)[0] };
    asked = Math.min(asked * 2, BATCH_ROWS_MAX);
    for (const row of batch) yield fromRow(row);
  }
}
