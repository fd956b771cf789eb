/**
 * One object: find, commit, delete, copy, rename, pin. Each runs inside one read or change of sqlite-transactions.ts.
 *
 * S1  Every check comes before the first write: a change that is refused fails alone and leaves nothing behind, where one
 *     that fails later takes its whole group with it.
 *
 * The order of the checks is the order of the answers: bucket, condition, version, blobs.
 */
import { assert, StoreError } from '@ebb/protocol';
import { assertObjectBytes } from '../object-size.ts';
import type {
  BlobRecord,
  Cause,
  Condition,
  Freed,
  ObjectCommit,
  ObjectRecord,
  VersionRecord,
  VersionStamp,
} from './catalog.ts';
import { decodeObjectBody, isFoundBody, withFound } from './catalog-records.ts';
import { assertEncryptedAs, assertSameEncryption, type Bucket } from './sqlite-buckets.ts';
import {
  decodeObject,
  encodeObject,
  extentsOf,
  type PlacedObject,
  type StoredObject,
} from './sqlite-objects.ts';
import type { Tables } from './sqlite-tables.ts';
import * as versions from './sqlite-versions.ts';

/** An object's name, as callers have it. */
interface ObjectName {
  readonly bucket: string;
  readonly key: string;
}

const NOTHING_FREED: Freed = { freed: [] };

export function findObject(tables: Tables, name: ObjectName): ObjectRecord | undefined {
  const found = findPlaced(tables, name);
  return found === undefined ? undefined : decodeObject(name.bucket, found.stored);
}

export function commitObject(
  tables: Tables,
  commit: ObjectCommit,
): Freed & { readonly object: ObjectRecord } {
  const { object, newBlobs, condition } = commit;
  const { key } = object;
  const { objects, blobs } = tables;
  assertObjectBytes(object.sizeBytes, object);
  const born = assertCommit(commit);
  const encoded = encodeObject(object);
  const incoming = { ...encoded, body: withFound(encoded.body, commit.found !== undefined) };
  const bucket = tables.buckets.get(object.bucket);
  const old = objects.find(bucket, key);
  checkTarget(object, old, { condition, version: object.version });
  if (commit.requires !== undefined) getAt(tables, commit.requires);
  versions.assertStamp(tables, bucket, key, object);
  if (commit.found !== undefined) assertNothingWaits(tables, object, commit.found.overSpooled);
  const after = object.extents.filter((extent) => !born.has(extent.blobId));
  for (const blob of blobs.assertLive(after)) assertEncryptedAs(bucket, blob);
  const leaving = (commit.removes ?? []).map((name) => getAt(tables, name));
  const isPlain = leaving.every((placed) => !versions.keepsVersions(placed.bucket));
  assert(isPlain, 'what is joined away lies in a bucket without versions');
  for (const blob of newBlobs) {
    const { blobId } = blob;
    assertEncryptedAs(bucket, blob);
    // The first insert of a change checks by itself that the id is new, and leaves nothing behind (S1).
    if (newBlobs.length > 1) blobs.assertUnknown(blobId);
  }
  const bornFreed: BlobRecord[] = [];
  for (const blob of newBlobs) {
    const refs = born.get(blob.blobId)?.refs ?? 0;
    const record = blobs.insert(blob, refs, { bucket: bucket.id, key });
    if (refs === 0) bornFreed.push(record);
  }
  const mirror = commit.mirror === true;
  const { freed, stored } = versions.putCurrent(tables, bucket, { old, incoming, after, mirror });
  // After the put, so that what was joined keeps a reference throughout (N2).
  for (const placed of leaving) freed.push(...objects.remove(placed, extentsOf(placed.stored)));
  const asStored = stored === incoming ? object : decodeObject(object.bucket, stored);
  return { freed: bornFreed.length === 0 ? freed : [...bornFreed, ...freed], object: asStored };
}

export function deleteObject(
  tables: Tables,
  name: ObjectName,
  condition: Condition,
  stamp?: VersionStamp & { readonly marksAbsent?: boolean; readonly cause?: Cause },
): Freed & { readonly object: ObjectRecord | undefined; readonly marker?: ObjectRecord } {
  const found = findPlaced(tables, name);
  checkCondition(condition, found?.stored, { ...name, ifExists: 'precondition_failed' });
  const bucket = found?.bucket ?? tables.buckets.find(name.bucket);
  if (bucket === undefined) return { ...NOTHING_FREED, object: undefined };
  if (found !== undefined) {
    versions.assertStamp(tables, found.bucket, name.key, stamp);
    if (stamp?.cause === 'gone') assertNothingWaits(tables, name);
    const object = decodeObject(name.bucket, found.stored);
    return { ...versions.removeCurrent(tables, found, stamp, stamp?.cause), object };
  }
  if (stamp?.marksAbsent !== true || !versions.keepsVersions(bucket))
    return { ...NOTHING_FREED, object: undefined };
  versions.assertStamp(tables, bucket, name.key, stamp);
  return { ...versions.putMarker(tables, bucket, name.key, stamp), object: undefined };
}

export function deleteVersion(
  tables: Tables,
  name: ObjectName,
  which: number | 'null',
  options: { readonly condition: Condition; readonly cause?: Cause | undefined },
): Freed & { readonly removed: VersionRecord | undefined } {
  const { condition, cause } = options;
  const check = (found: StoredObject | undefined): void =>
    checkCondition(condition, found, { ...name, ifExists: 'precondition_failed' });
  return versions.deleteVersion(tables, name, which, { check, ...(cause && { cause }) });
}

export function copyObject(
  tables: Tables,
  from: ObjectName,
  to: ObjectName & { readonly version: number; readonly createdAtMs: number },
  condition: Condition,
): Freed & { readonly object: ObjectRecord } {
  assertKey(to.key);
  const { key, version, createdAtMs } = to;
  const { stored, bucket: source } = getPlaced(tables, from);
  const { bucket, old } = findTarget(tables, to);
  assertObjectBytes(stored.sizeBytes, to);
  assertSameEncryption(source, bucket);
  checkTarget(to, old, { condition, version });
  versions.assertStamp(tables, bucket, key, to);
  const moved = { key, version, createdAtMs };
  const incoming = { ...stored, ...moved, jobId: null, pinned: false, remoteEtag: null };
  const put = versions.putCurrent(tables, bucket, { old, incoming, after: extentsOf(incoming) });
  return { freed: put.freed, object: decodeObject(to.bucket, put.stored) };
}

export function renameObject(
  tables: Tables,
  from: ObjectName,
  to: ObjectName,
  condition: Condition,
  stamp?: VersionStamp,
): Freed & { readonly object: ObjectRecord } {
  assertKey(to.key);
  const source = getPlaced(tables, from);
  const { bucket, old } = findTarget(tables, to);
  assertSameEncryption(source.bucket, bucket);
  checkCondition(condition, old, { ...to, ifExists: 'already_exists' });
  if (from.bucket === to.bucket && from.key === to.key)
    return { ...NOTHING_FREED, object: decodeObject(to.bucket, source.stored) };
  if (!versions.keepsVersions(source.bucket) && !versions.keepsVersions(bucket)) {
    const moved = { ...source.stored, key: to.key, remoteEtag: null };
    const object = decodeObject(to.bucket, moved);
    return { freed: tables.objects.move(source, { bucket, key: to.key, old }), object };
  }
  versions.assertStamp(tables, source.bucket, from.key, stamp);
  versions.assertStamp(tables, bucket, to.key, stamp);
  const moved = versions.moveAsVersion(tables, source, { bucket, key: to.key, old, stamp });
  return { freed: moved.freed, object: decodeObject(to.bucket, moved.stored) };
}

export function setPinned(tables: Tables, name: ObjectName, pinned: boolean): ObjectRecord {
  const found = findPlaced(tables, name);
  if (found === undefined) throw notFound(name);
  if (found.stored.pinned !== pinned) tables.objects.setPinned(found, pinned);
  return decodeObject(name.bucket, { ...found.stored, pinned });
}

export function setAttributes(
  tables: Tables,
  name: ObjectName & { readonly version: number },
  change: {
    readonly from: ObjectRecord['attributes'];
    readonly to: ObjectRecord['attributes'];
  },
): ObjectRecord | undefined {
  const found = findPlaced(tables, name);
  const bucket = tables.buckets.find(name.bucket);
  const meant =
    found?.stored.version === name.version
      ? found
      : bucket && versions.findArchived(tables, bucket, name);
  if (found === undefined && meant === undefined) throw notFound(name);
  if (meant === undefined) return undefined;
  const object = decodeObject(name.bucket, { ...meant.stored, key: name.key });
  if (!equalMaps(object.attributes, change.from)) return undefined;
  const changed = { ...object, attributes: change.to };
  const { body } = encodeObject(changed);
  tables.objects.setBody(meant, withFound(body, isFoundBody(meant.stored.body)));
  return changed;
}

function equalMaps(
  a: Readonly<Record<string, string>>,
  b: Readonly<Record<string, string>>,
): boolean {
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => a[name] === b[name]);
}

// ── look-ups ────────────────────────────────────────────────────────────────────────────────────────────────────────

function findPlaced(tables: Tables, { bucket: name, key }: ObjectName): PlacedObject | undefined {
  const bucket = tables.buckets.find(name);
  const stored = bucket === undefined ? undefined : tables.objects.find(bucket, key);
  return bucket === undefined || stored === undefined ? undefined : { bucket, stored };
}

/** @throws {StoreError} `bucket_not_found`, `not_found` */
function getPlaced(tables: Tables, name: ObjectName): PlacedObject {
  const bucket = tables.buckets.get(name.bucket);
  const stored = tables.objects.find(bucket, name.key);
  if (stored === undefined) throw notFound(name);
  return { bucket, stored };
}

/** @throws {StoreError} `bucket_not_found`, `not_found`, `precondition_failed` */
function getAt(tables: Tables, name: ObjectName & { readonly version: number }): PlacedObject {
  const placed = getPlaced(tables, name);
  if (placed.stored.version === name.version) return placed;
  const { bucket, key, version } = name;
  throw new StoreError(
    'precondition_failed',
    `${bucket}/${key} has version ${placed.stored.version}, ${version} was asked for`,
    { bucket, key, version, found: placed.stored.version },
  );
}

/** @throws {StoreError} `bucket_not_found` */
function findTarget(
  tables: Tables,
  to: ObjectName,
): { readonly bucket: Bucket; readonly old: StoredObject | undefined } {
  const bucket = tables.buckets.get(to.bucket);
  return { bucket, old: tables.objects.find(bucket, to.key) };
}

function notFound({ bucket, key }: ObjectName): StoreError {
  return new StoreError('not_found', `no object ${bucket}/${key}`, { bucket, key });
}

// ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Whether `version` may take the place of `old`. @throws {StoreError} those of the condition, `superseded` */
function checkTarget(
  { bucket, key }: ObjectName,
  old: StoredObject | undefined,
  asked: { readonly condition: Condition; readonly version: number },
): void {
  const { condition, version } = asked;
  checkCondition(condition, old, { bucket, key, ifExists: 'already_exists' });
  if (old === undefined || old.version <= version) return;
  throw new StoreError(
    'superseded',
    `${bucket}/${key} has version ${old.version}; version ${version} comes too late`,
    { bucket, key, version, newer: old.version },
  );
}

/** What this node still has to send wins over what it finds. @throws {StoreError} `superseded` */
function assertNothingWaits(
  { spool }: Tables,
  { bucket, key }: ObjectName,
  overSpooled?: number,
): void {
  const waiting = spool.find(bucket, key);
  if (waiting === undefined || waiting.version === overSpooled) return;
  const message = `${bucket}/${key} was changed here, and tier 2 does not know it yet`;
  throw new StoreError('superseded', message, { bucket, key });
}

function checkCondition(
  condition: Condition,
  old: StoredObject | undefined,
  subject: ObjectName & { readonly ifExists: 'already_exists' | 'precondition_failed' },
): void {
  const { bucket, key, ifExists } = subject;
  const { ifMatch, ifNoneMatch } = condition;
  if (ifNoneMatch === true && old !== undefined) {
    throw new StoreError(ifExists, `${bucket}/${key} exists`, { bucket, key });
  }
  if (ifMatch === undefined && typeof ifNoneMatch !== 'string') return;
  const found = old === undefined ? null : decodeObjectBody(old.body).etag;
  if (found !== null && found === ifNoneMatch)
    throw new StoreError('precondition_failed', `${bucket}/${key} has ETag ${found}`, {
      ...{ bucket, key, found, unwanted: found },
    });
  if (ifMatch === undefined || found === ifMatch || (ifMatch === '*' && found !== null)) return;
  throw new StoreError(
    'precondition_failed',
    `${bucket}/${key} ${found === null ? 'does not exist' : `has ETag ${found}`}, ${ifMatch} was asked for`,
    { bucket, key, found, wanted: ifMatch },
  );
}

/** Returns the new blobs by id, with the references that the object's extents give them. */
function assertCommit({
  object,
  newBlobs,
}: ObjectCommit): Map<number, { sizeBytes: number; refs: number }> {
  assertKey(object.key);
  const born = new Map<number, { sizeBytes: number; refs: number }>();
  for (const { blobId, sizeBytes } of newBlobs) born.set(blobId, { sizeBytes, refs: 0 });
  assert(born.size === newBlobs.length, 'each new blob is named once');
  let sizeBytes = 0;
  for (const extent of object.extents) {
    sizeBytes += extent.length;
    const blob = born.get(extent.blobId);
    if (blob === undefined) continue;
    blob.refs++;
    assert(extent.offset + extent.length <= blob.sizeBytes, 'an extent lies within its blob');
  }
  assert(sizeBytes === object.sizeBytes, 'the extents add up to the size of the object');
  return born;
}

/** The whole rule is parseKey's, at the entrance; this keeps what SQLite cannot store apart out of the tables. */
function assertKey(key: string): void {
  assert(key !== '', 'a key is not empty');
  assert(key.isWellFormed(), 'a key is well-formed Unicode');
}
