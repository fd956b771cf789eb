/**
 * Versions as callers of the store know them, by ids: an object reference may name one, and then it means that version,
 * wherever the catalog keeps it. What the rules are is in catalog/sqlite-versions.ts.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import type { Catalog, ObjectRecord, VersionRecord, VersionStamp } from '../catalog/catalog.ts';
import { formatVersionId, parseVersionId } from '../catalog/version-keys.ts';
import type { ObjectRef, VersionListed, VersionListing } from './object-store.ts';
import type { StoreParts } from './parts.ts';

const TRIES = 4;

/** `null` for the null version. */
export function versionIdOf({
  version,
  versioned,
}: Pick<ObjectRecord, 'version' | 'versioned'>): string {
  return formatVersionId(versioned === true ? version : 'null');
}

/** The object that the reference means. Undefined also for a delete marker. */
export async function findReferenced(
  catalog: Catalog,
  ref: ObjectRef,
): Promise<ObjectRecord | undefined> {
  if (ref.versionId === undefined) return await catalog.findObject(ref.bucket, ref.key);
  const found = await findVersion(catalog, ref);
  return found === undefined || found.isDeleteMarker ? undefined : found.object;
}

/** The version that the reference names; without a name the latest. */
export async function findVersion(
  catalog: Catalog,
  { bucket, key, versionId }: ObjectRef,
): Promise<VersionRecord | undefined> {
  if (versionId === undefined) return await catalog.findVersion(bucket, key, 'latest');
  const which = parseVersionId(versionId);
  if (which === undefined) return undefined;
  const found = await catalog.findVersion(bucket, key, which);
  // The number of a null version is no id.
  return found !== undefined && versionIdOf(found.object) === versionId ? found : undefined;
}

/** A marker that is no version of its key, any more or ever, means the whole key: nothing is left out. */
export async function listVersions(
  catalog: Catalog,
  bucket: string,
  options: VersionListing,
): Promise<VersionListed> {
  const { key, versionId } = options.startAfter;
  const which = versionId === undefined ? undefined : parseVersionId(versionId);
  const version =
    which === 'null' ? (await catalog.findVersion(bucket, key, which))?.object.version : which;
  const startAfter =
    versionId === undefined ? { key } : { key, version: version ?? Number.MAX_SAFE_INTEGER };
  const page = await catalog.listVersions(bucket, { ...options, startAfter });
  const last = page.versions.at(-1);
  const next =
    page.next === null || page.next.version === undefined || last === undefined
      ? page.next
      : { key: page.next.key, versionId: versionIdOf(last.object) };
  return { ...page, next };
}

/** Why there is no object: a delete marker says so with its id and its time. */
export async function absenceOf(catalog: Catalog, ref: ObjectRef): Promise<StoreError> {
  const { bucket, key } = ref;
  const record = await catalog.findBucket(bucket);
  if (record === undefined)
    return new StoreError('bucket_not_found', `no bucket "${bucket}"`, { bucket });
  const found = record.policy.versioning === 'off' ? undefined : await findVersion(catalog, ref);
  if (found?.isDeleteMarker !== true)
    return new StoreError('not_found', `no object ${bucket}/${key}`, { bucket, key });
  return new StoreError('not_found', `${bucket}/${key} is deleted`, {
    bucket,
    key,
    deleteMarker: versionIdOf(found.object),
    deletedAtMs: found.object.createdAtMs,
  });
}

/** Gives a change the version and time of what it leaves where versions are kept; anew when a newer version came first. */
export async function stamped<T>(
  parts: Pick<StoreParts, 'clock' | 'takeId' | 'nextId'>,
  change: (stamp: VersionStamp) => Promise<T>,
): Promise<T> {
  for (let left = TRIES; ; left--) {
    const version = parts.takeId() ?? (await parts.nextId());
    try {
      return await change({ version, createdAtMs: parts.clock.now() });
    } catch (error) {
      if (!isStoreError(error, 'superseded') || left === 1) throw error;
    }
  }
}
