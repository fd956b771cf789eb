/** Walks through the catalog page by page: what is added or removed meanwhile may be seen or not. */
import type { BlobRecord, Catalog, ObjectRecord } from '../catalog/catalog.ts';
import { escapeKey } from '../catalog/version-keys.ts';
import { versionsBucketOf } from '../object-ref.ts';
import { blobIdsOf } from './extent-index.ts';
import { takesTurns } from './turns.ts';

const PAGE = 512;

/** Does `work` on each blob of an object, once. An object of ten thousand parts takes several turns of the event loop. */
export async function forEachBlob(
  object: Pick<ObjectRecord, 'extents'>,
  work: (blobId: number) => Promise<void>,
): Promise<void> {
  let step = 0;
  for (const blobId of await blobIdsOf(object)) {
    await work(blobId);
    const turn = takesTurns(step++);
    if (turn !== undefined) await turn;
  }
}

/** In the order of their ids. */
export async function* allBlobs(
  catalog: Pick<Catalog, 'listBlobs'>,
  where?: 'memory' | 'disk' | 'unmirrored' | 'freed',
): AsyncGenerator<BlobRecord> {
  for (let afterBlobId = 0; ; ) {
    const page = await catalog.listBlobs({
      ...{ afterBlobId, limit: PAGE },
      ...(where === undefined ? {} : { where }),
    });
    if (page.length === 0) return;
    yield* page;
    afterBlobId = (page[page.length - 1] as BlobRecord).blobId;
  }
}

/** Those of the objects under a prefix, old versions included. A blob that objects share may come more than once. */
export async function* blobsUnder(
  catalog: Catalog,
  bucket: string,
  prefix: string,
): AsyncGenerator<BlobRecord> {
  yield* blobsOfRows(catalog, bucket, prefix);
  yield* blobsOfRows(catalog, versionsBucketOf(bucket), escapeKey(prefix));
}

/** It means an object, or some that begin so; '' and what ends in a slash may hold nothing. */
export function isName(prefix: string): boolean {
  return prefix !== '' && !prefix.endsWith('/');
}

/** An object, or an old version of one. */
export async function isAnythingUnder(
  catalog: Catalog,
  bucket: string,
  prefix: string,
): Promise<boolean> {
  const first = { delimiter: '', startAfter: '', limit: 1 };
  const { objects } = await catalog.listObjects(bucket, { ...first, prefix });
  if (objects.length > 0) return true;
  const kept = { ...first, prefix: escapeKey(prefix) };
  return (await catalog.listObjects(versionsBucketOf(bucket), kept)).objects.length > 0;
}

/** In the order of their keys. */
export async function* objectsUnder(
  catalog: Catalog,
  bucket: string,
  prefix: string,
): AsyncGenerator<ObjectRecord> {
  for (let startAfter = ''; ; ) {
    const page = await catalog.listObjects(bucket, {
      ...{ prefix, startAfter, delimiter: '', limit: PAGE },
    });
    yield* page.objects;
    if (page.next === null) return;
    startAfter = page.next;
  }
}

async function* blobsOfRows(
  catalog: Catalog,
  bucket: string,
  prefix: string,
): AsyncGenerator<BlobRecord> {
  let last = 0; // neighbours share blobs after copies
  for await (const object of objectsUnder(catalog, bucket, prefix)) {
    for (const { blobId } of object.extents) {
      if (blobId === last) continue;
      last = blobId;
      const blob = await catalog.findBlob(blobId);
      if (blob !== undefined) yield blob;
    }
  }
}
