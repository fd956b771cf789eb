/**
 * Old versions: what a write or delete replaces in a bucket that keeps versions lies in the hidden bucket `NAME!versions`,
 * as an ordinary row, under a key of version-keys.ts. A bucket without versions costs one look at its policy.
 *
 * V1  Of all versions of a key the newest is the row in the bucket itself, unless it is a delete marker; all others, and
 *     every marker, are rows of the hidden bucket. So reads and listings of objects know nothing of versions.
 * V2  A row is written under its new name before the old one goes (N2), so that blobs keep a reference throughout.
 * V3  A key has one null version at most. A write or delete while versioning is suspended takes its place.
 * V4  Versions of a key are ordered by their numbers: a change whose number is lower than the newest is refused first (S1).
 */
import { assert, StoreError } from '@ebb/protocol';
import { versionsBucketOf } from '../object-ref.ts';
import { isMirrored } from './bucket-policy.ts';
import type {
  BlobRecord,
  Cause,
  Extent,
  Freed,
  ObjectRecord,
  VersionRecord,
  VersionStamp,
} from './catalog.ts';
import { encodeObjectBody, isVersionedBody, withVersioned } from './catalog-records.ts';
import type { Bucket } from './sqlite-buckets.ts';
import {
  decodeObject,
  extentsOf,
  fromRow,
  type PlacedObject,
  type StoredObject,
} from './sqlite-objects.ts';
import type { Tables } from './sqlite-tables.ts';
import { rangeEnd } from './utf8-order.ts';
import { nullVersionKey, versionKey, versionKeyPrefix } from './version-keys.ts';

/** An attribute of the row of a delete marker, and of nothing else: no surface gives it. Persisted, keep stable. */
const DELETE_MARKER = 'delete-marker';

export type Which = number | 'null' | 'latest';

export function keepsVersions({ record }: Bucket): boolean {
  return record.policy.versioning !== 'off';
}

// ── changes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** In a bucket that keeps versions: nothing newer than the stamp is there, be it a marker (V4). @throws `superseded` */
export function assertStamp(
  tables: Tables,
  bucket: Bucket,
  key: string,
  stamp: Pick<VersionStamp, 'version'> | undefined,
): void {
  if (!keepsVersions(bucket)) return;
  assert(stamp !== undefined, 'a change in a bucket that keeps versions has a stamp');
  const { version } = stamp;
  const newest = tables.objects.find(bucket, key) ?? newestArchived(tables, bucket, key);
  if (newest === undefined || newest.version <= version) return;
  const { name } = bucket.record;
  throw new StoreError(
    'superseded',
    `${name}/${key} has version ${newest.version}; version ${version} comes too late`,
    { bucket: name, key, version, newer: newest.version },
  );
}

/** Writes `incoming` as the object under its name. Returns it as it was written, and the blobs that are freed by it. */
export function putCurrent(
  tables: Tables,
  bucket: Bucket,
  change: {
    /** What is under the name now. */
    readonly old: StoredObject | undefined;
    readonly incoming: StoredObject;
    /** Extents of `incoming` whose references are not counted yet. */
    readonly after: readonly Extent[];
    /** It goes to tier 2 although its bucket is not mirrored. */
    readonly mirror?: boolean;
  },
): { readonly stored: StoredObject; readonly freed: BlobRecord[] } {
  const { old, after, mirror = false } = change;
  const { versioning } = bucket.record.policy;
  const body = withVersioned(change.incoming.body, versioning === 'enabled');
  const incoming = body === change.incoming.body ? change.incoming : { ...change.incoming, body };
  if (old !== undefined && isKept(bucket, old)) archive(tables, { bucket, stored: old });
  const freed = tables.objects.put(bucket, {
    old,
    before: extentsOf(old),
    incoming,
    after,
    mirror,
  });
  if (versioning === 'suspended') freed.push(...dropArchivedNull(tables, bucket, incoming.key));
  return { stored: incoming, freed };
}

/** Whether `old`, which is about to be replaced or deleted, becomes an old version: then its blobs keep their references. */
function isKept({ record }: Bucket, old: StoredObject): boolean {
  const { versioning } = record.policy;
  return versioning === 'enabled' || (versioning === 'suspended' && isVersionedBody(old.body));
}

/** A delete: in a bucket that keeps versions the object is archived, and a marker takes its place. */
export function removeCurrent(
  tables: Tables,
  placed: PlacedObject,
  stamp: VersionStamp | undefined,
  cause?: Cause,
): { readonly freed: BlobRecord[]; readonly marker?: ObjectRecord } {
  const { bucket, stored } = placed;
  const { objects } = tables;
  if (!keepsVersions(bucket)) return { freed: objects.remove(placed, extentsOf(stored), cause) };
  if (isKept(bucket, stored)) archive(tables, placed);
  const freed = objects.remove(placed, extentsOf(stored), cause);
  const marked = putMarker(tables, bucket, stored.key, stamp);
  freed.push(...marked.freed);
  return { freed, marker: marked.marker };
}

/** A rename from or into a bucket that keeps versions: a new version there, and a delete here. The name is another one. */
export function moveAsVersion(
  tables: Tables,
  source: PlacedObject,
  to: {
    readonly bucket: Bucket;
    readonly key: string;
    readonly old: StoredObject | undefined;
    readonly stamp: VersionStamp | undefined;
  },
): { readonly stored: StoredObject; readonly freed: BlobRecord[] } {
  const { bucket, key, old, stamp } = to;
  assert(stamp !== undefined, 'a rename in a bucket that keeps versions has a stamp');
  const incoming = { ...source.stored, key, version: stamp.version, remoteEtag: null };
  const after = extentsOf(incoming);
  const { stored, freed } = putCurrent(tables, bucket, { old, incoming, after });
  return { stored, freed: [...freed, ...removeCurrent(tables, source, stamp).freed] };
}

/** Where there is no object. */
export function putMarker(
  tables: Tables,
  bucket: Bucket,
  key: string,
  stamp: VersionStamp | undefined,
): { readonly freed: BlobRecord[]; readonly marker: ObjectRecord } {
  assert(stamp !== undefined, 'a delete in a bucket that keeps versions has a stamp');
  const { version, createdAtMs } = stamp;
  const isNull = bucket.record.policy.versioning === 'suspended';
  const hidden = versionsOf(tables, bucket);
  const name = isNull ? nullVersionKey(key) : versionKey(key, version);
  const body = encodeObjectBody({
    ...{ etag: '', crc32c: null, contentType: '', metadata: {}, extents: [] },
    attributes: { [DELETE_MARKER]: '' },
    ...(isNull ? {} : { versioned: true }),
  });
  const incoming: StoredObject = {
    ...{ key: name, version, createdAtMs, body },
    ...{ sizeBytes: 0, jobId: null, pinned: false, remoteEtag: null },
  };
  const old = isNull ? tables.objects.find(hidden, name) : undefined;
  const freed = tables.objects.put(hidden, { old, before: extentsOf(old), incoming, after: [] });
  return { freed, marker: decodeObject(bucket.record.name, { ...incoming, key }) };
}

/** Removes the object for good. What is the newest version then takes its place, unless it is a marker (V1). */
export function removeForGood(tables: Tables, placed: PlacedObject, cause?: Cause): BlobRecord[] {
  const freed = tables.objects.remove(placed, extentsOf(placed.stored), cause);
  if (keepsVersions(placed.bucket)) bringBack(tables, placed.bucket, placed.stored.key);
  return freed;
}

/** Removes an archived row for good; `archived.key` is the hidden one. */
export function removeArchived(
  tables: Tables,
  bucket: Bucket,
  version: { readonly key: string; readonly archived: StoredObject },
): BlobRecord[] {
  const { key, archived } = version;
  const hidden = versionsOf(tables, bucket);
  const freed = tables.objects.remove({ bucket: hidden, stored: archived }, extentsOf(archived));
  bringBack(tables, bucket, key);
  return freed;
}

export function deleteVersion(
  tables: Tables,
  name: { readonly bucket: string; readonly key: string },
  which: number | 'null',
  options: { readonly check: (found: StoredObject | undefined) => void; readonly cause?: Cause },
): Freed & { readonly removed: VersionRecord | undefined } {
  const bucket = tables.buckets.find(name.bucket);
  const found = bucket === undefined ? undefined : locate(tables, bucket, name.key, which);
  options.check(found?.stored);
  if (bucket === undefined || found === undefined) return { freed: [], removed: undefined };
  const removed = toVersion(tables, bucket, { key: name.key, ...found });
  const { stored } = found;
  const freed = found.isArchived
    ? removeArchived(tables, bucket, { key: name.key, archived: stored })
    : removeForGood(tables, { bucket, stored }, options.cause);
  return { freed, removed };
}

function archive(tables: Tables, { bucket, stored }: PlacedObject): void {
  const hidden = versionsOf(tables, bucket);
  const key = isVersionedBody(stored.body)
    ? versionKey(stored.key, stored.version)
    : nullVersionKey(stored.key);
  const incoming = { ...stored, key, pinned: false, remoteEtag: null };
  const after = extentsOf(stored);
  // What tier 2 has of it already stays there under a private name, when the object's own is taken by its successor.
  const mirror = isMirrored(bucket.record.policy) && stored.remoteEtag === null;
  const change = { old: undefined, before: [], incoming, after, mirror, onlyOverSeen: true };
  const freed = tables.objects.put(hidden, change);
  assert(freed.length === 0, 'an archived object keeps its blobs');
}

/** A new null version takes the place of the old one, wherever that is (V3). */
function dropArchivedNull(tables: Tables, bucket: Bucket, key: string): BlobRecord[] {
  const hidden = versionsOf(tables, bucket);
  const stored = tables.objects.find(hidden, nullVersionKey(key));
  if (stored === undefined) return [];
  return tables.objects.remove({ bucket: hidden, stored }, extentsOf(stored));
}

/** Keeps V1 after a version went. */
function bringBack(tables: Tables, bucket: Bucket, key: string): void {
  if (tables.objects.find(bucket, key) !== undefined) return;
  const stored = newestArchived(tables, bucket, key);
  if (stored === undefined || isMarker(decodeObject('', stored))) return;
  const source = { bucket: versionsOf(tables, bucket), stored };
  const freed = tables.objects.move(source, { bucket, key, old: undefined, onlyOverSeen: true });
  assert(freed.length === 0, 'nothing was in its place');
}

// ── look-ups ────────────────────────────────────────────────────────────────────────────────────────────────────────

export function findVersion(
  tables: Tables,
  name: { readonly bucket: string; readonly key: string },
  which: Which,
): VersionRecord | undefined {
  const bucket = tables.buckets.find(name.bucket);
  const found = bucket === undefined ? undefined : locate(tables, bucket, name.key, which);
  if (bucket === undefined || found === undefined) return undefined;
  return toVersion(tables, bucket, { key: name.key, ...found });
}

/** The archived row of exactly this version. */
export function findArchived(
  tables: Tables,
  bucket: Bucket,
  { key, version }: { readonly key: string; readonly version: number },
): PlacedObject | undefined {
  const found = keepsVersions(bucket) ? locate(tables, bucket, key, version) : undefined;
  if (found?.isArchived !== true) return undefined;
  return { bucket: versionsOf(tables, bucket), stored: found.stored };
}

/** The hidden bucket of one that keeps versions. */
function versionsOf(tables: Tables, bucket: Bucket): Bucket {
  return tables.buckets.get(versionsBucketOf(bucket.record.name));
}

export function isMarker({ attributes }: Pick<ObjectRecord, 'attributes'>): boolean {
  return attributes[DELETE_MARKER] !== undefined;
}

interface Located {
  readonly stored: StoredObject;
  readonly isArchived: boolean;
}

function locate(tables: Tables, bucket: Bucket, key: string, which: Which): Located | undefined {
  const current = tables.objects.find(bucket, key);
  if (current !== undefined && isMeant(current, which))
    return { stored: current, isArchived: false };
  if (!keepsVersions(bucket)) return undefined;
  const stored = locateArchived(tables, bucket, key, which);
  return stored === undefined ? undefined : { stored, isArchived: true };
}

function isMeant({ version, body }: StoredObject, which: Which): boolean {
  return which === 'latest' || (which === 'null' ? !isVersionedBody(body) : version === which);
}

function locateArchived(
  tables: Tables,
  bucket: Bucket,
  key: string,
  which: Which,
): StoredObject | undefined {
  if (which === 'latest') return newestArchived(tables, bucket, key);
  const hidden = versionsOf(tables, bucket);
  const found = which === 'null' ? undefined : tables.objects.find(hidden, versionKey(key, which));
  if (found !== undefined) return found;
  const nullVersion = tables.objects.find(hidden, nullVersionKey(key));
  return nullVersion !== undefined && isMeant(nullVersion, which) ? nullVersion : undefined;
}

function newestArchived(tables: Tables, bucket: Bucket, key: string): StoredObject | undefined {
  const { objects } = tables;
  const hidden = versionsOf(tables, bucket);
  const prefix = versionKeyPrefix(key);
  const [row] = objects.scan(hidden, { from: prefix }, rangeEnd(prefix), 1);
  const newest = row === undefined ? undefined : fromRow(row);
  const nullVersion = objects.find(hidden, nullVersionKey(key));
  if (newest === undefined || nullVersion === undefined) return newest ?? nullVersion;
  return newest.version > nullVersion.version ? newest : nullVersion;
}

function toVersion(
  tables: Tables,
  bucket: Bucket,
  { key, stored, isArchived }: Located & { readonly key: string },
): VersionRecord {
  const object = decodeObject(bucket.record.name, { ...stored, key });
  const isLatest =
    !isArchived ||
    (tables.objects.find(bucket, key) === undefined &&
      newestArchived(tables, bucket, key)?.version === stored.version);
  return { object, isLatest, isDeleteMarker: isMarker(object) };
}
