/**
 * Directories: a directory is there while an object's key starts with its path. An empty one is kept by a marker, an
 * empty object `path/`. Its entries are a listing with the delimiter `/`; it is renamed by its prefix.
 *
 * I1  What is removed is the marker alone: an object that comes under it meanwhile stays, and so does its directory.
 */
import { StoreError } from '@ebb/protocol';
import type { ObjectStore, ObjectView, Owner } from '../store/object-store.ts';

const MARKER_TYPE = 'application/x-directory';

export interface DirectoryRef {
  readonly bucket: string;
  /** With or without the `/` at its end. */
  readonly path: string;
}

/** Parents need not be there. @throws `already_exists` when there is a directory or an object of this name */
export async function makeDirectory(
  store: ObjectStore,
  owner: Owner,
  { bucket, path }: DirectoryRef,
): Promise<void> {
  const key = markerOf(path);
  const { found, others } = await look(store, bucket, key);
  const file = await store.find({ bucket, key: key.slice(0, -1) });
  if (found !== undefined || others || file !== undefined)
    throw new StoreError('already_exists', `${bucket}/${key.slice(0, -1)} exists`, { bucket, key });
  const { writeId } = await store.stage(owner, { bucket, key }, { reserveBytes: 0 });
  await store.commit(owner, writeId, {
    ...{ sizeBytes: 0, contentType: MARKER_TYPE },
    ifNoneMatch: true,
  });
}

/** @throws `not_found`, `directory_not_empty`, `precondition_failed` when somebody made it anew meanwhile */
export async function removeDirectory(
  store: ObjectStore,
  { bucket, path }: DirectoryRef,
): Promise<void> {
  const key = markerOf(path);
  const { found, others } = await look(store, bucket, key);
  if (others)
    throw new StoreError('directory_not_empty', `there are objects under ${bucket}/${key}`, {
      bucket,
      key,
    });
  if (found === undefined)
    throw new StoreError('not_found', `no directory ${bucket}/${key}`, { bucket, key });
  await store.delete({ bucket, key }, { ifMatch: found.object.etag });
}

async function look(
  store: ObjectStore,
  bucket: string,
  marker: string,
): Promise<{ found: ObjectView | undefined; others: boolean }> {
  const page = await store.list(bucket, {
    ...{ prefix: marker, delimiter: '', startAfter: '', limit: 2 },
  });
  const found = page.objects.find(({ object }) => object.key === marker);
  return { found, others: page.objects.length > (found === undefined ? 0 : 1) };
}

function markerOf(path: string): string {
  const key = path.endsWith('/') ? path : `${path}/`;
  if (key === '/') throw new StoreError('name_invalid', 'a directory needs a name');
  return key;
}
