/**
 * Multipart uploads as they lie in the store. An upload and its parts are objects of the bucket's hidden uploads bucket, so
 * they are stored, spilled, checked and recovered like any other.
 *
 *   u/<uploadId>              the upload: its properties are those the object will have
 *   p/<uploadId>/<00001>      its parts
 *
 * I1  A part becomes visible only while its upload is there: the step of the catalog that makes it visible demands the upload
 *     (`requires`). Whoever ends an upload takes `u/` away first and the parts after it, also those that came meanwhile. So
 *     nothing is left of an upload that ended, whichever came first; what a killed node left goes when it starts.
 * I2  A body that is on its way to an upload that ended is cut, so that its room is free at once.
 * I3  The ETag of a part follows from its bytes: a part that is sent again because an answer was lost has the same one. It is
 *     their number and their CRC32C, which the store computes of every body anyway. Two contents that a client sends for one
 *     part share it by chance once in four billion times, and by malice only to the harm of whoever sends them.
 */
import { createHash, randomBytes } from 'node:crypto';
import { nextTurn, type ObjectRecord, type ObjectStore, uploadsBucketOf } from '@ebb/core';
import { isStoreError } from '@ebb/protocol';
import { parameter, type S3Call } from './call.ts';
import { type Algorithm, type ChecksumType, parseAlgorithm } from './checksums.ts';
import { S3Error } from './s3-error.ts';

export const PARTS_MAX = 10_000;
const PAGE = 500;
/** Uploads under way in one bucket that a listing looks at. */
const UPLOADS_LISTED_MAX = 100_000;
/** The ETag of a part whose CRC32C is not known: a range of another object. Persisted, keep stable. */
const PART_ETAG = 'part-etag';

export interface Upload {
  readonly uploadId: string;
  readonly key: string;
  /** The hidden bucket. */
  readonly bucket: string;
  readonly record: ObjectRecord;
  readonly checksum: { readonly algorithm: Algorithm; readonly type: ChecksumType } | undefined;
}

export interface Part {
  readonly number: number;
  readonly record: ObjectRecord;
}

/** Nothing that a command line takes for an option. */
export function newUploadId(): string {
  return randomBytes(18).toString('hex');
}

export function uploadKey(uploadId: string): string {
  return `u/${uploadId}`;
}

export function partKey({ uploadId }: Upload, number: number): string {
  return `p/${uploadId}/${String(number).padStart(5, '0')}`;
}

/** I3. Bare, as the store's. */
export function partETag({ sizeBytes, crc32c, attributes, etag }: ObjectRecord): string {
  if (crc32c === null) return attributes[PART_ETAG] ?? etag;
  return `${sizeBytes.toString(16)}-${crc32c.toString(16).padStart(8, '0')}`;
}

/** For `partETag` of a range of `source`, which follows from what was copied. */
export function rangeETag(
  source: ObjectRecord,
  { offset, length }: { readonly offset: number; readonly length: number },
): Record<string, string> {
  const hash = createHash('sha256').update(`${source.etag} ${offset} ${length}`).digest('hex');
  return { [PART_ETAG]: `${length.toString(16)}-${hash.slice(0, 16)}` };
}

/** Whether a client that names this ETag means this part: a node of an earlier version told the store's own. */
export function isETagOf(etag: string, record: ObjectRecord): boolean {
  return etag === partETag(record) || etag === record.etag;
}

/** @throws {S3Error} `NoSuchUpload` */
export async function findUpload(call: S3Call): Promise<Upload> {
  const { store } = call.context;
  const uploadId = parameter(call, 'uploadId') ?? '';
  await store.getBucket(call.bucket);
  if (/^[\w-]{1,100}$/.test(uploadId)) {
    const bucket = await store.uploadsOf(call.bucket);
    const found = await store.find({ bucket, key: uploadKey(uploadId) });
    if (found !== undefined && found.object.attributes['upload-key'] === call.key)
      return toUpload(bucket, found.object);
  }
  throw new S3Error('NoSuchUpload', undefined, { UploadId: uploadId });
}

function toUpload(bucket: string, record: ObjectRecord): Upload {
  const [algorithm, type] = record.attributes['upload-checksum']?.split(' ') ?? [];
  return {
    uploadId: record.key.slice(2),
    key: record.attributes['upload-key'] as string,
    bucket,
    record,
    checksum:
      algorithm === undefined
        ? undefined
        : {
            algorithm: parseAlgorithm(algorithm),
            type: type === 'FULL_OBJECT' ? type : 'COMPOSITE',
          },
  };
}

export async function allParts(
  { context: { store } }: S3Call,
  { bucket, uploadId }: Upload,
): Promise<readonly Part[]> {
  const records = await allRecords(store, bucket, `p/${uploadId}/`, PARTS_MAX);
  return records.map((record) => ({ number: Number(record.key.slice(-5)), record }));
}

/** In the order that S3 lists them: by key, then by id. */
export async function allUploads({
  context: { store },
  bucket,
}: S3Call): Promise<readonly Upload[]> {
  const hidden = await store.uploadsOf(bucket);
  const records = await allRecords(store, hidden, 'u/', UPLOADS_LISTED_MAX);
  return records
    .map((record) => toUpload(hidden, record))
    .sort((a, b) => compareKeys(a.key, b.key) || (a.uploadId < b.uploadId ? -1 : 1));
}

/** Compares as UTF-8, which is the order of every listing. */
export function compareKeys(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

async function allRecords(
  store: ObjectStore,
  bucket: string,
  prefix: string,
  max: number,
): Promise<ObjectRecord[]> {
  const records: ObjectRecord[] = [];
  let startAfter = '';
  while (records.length < max) {
    const page = await store.listRecords(bucket, {
      prefix,
      delimiter: '',
      startAfter,
      limit: PAGE,
    });
    records.push(...page.objects);
    if (page.next === null) break;
    startAfter = page.next;
    await nextTurn();
  }
  return records;
}

/** Bodies on their way to uploads (I2). */
export class PartsInFlight {
  readonly #writes = new Map<string, Set<number>>();

  add({ uploadId }: Upload, writeId: number): void {
    const known = this.#writes.get(uploadId);
    if (known === undefined) this.#writes.set(uploadId, new Set([writeId]));
    else known.add(writeId);
  }

  remove({ uploadId }: Upload, writeId: number): void {
    const known = this.#writes.get(uploadId);
    if (known?.delete(writeId) === true && known.size === 0) this.#writes.delete(uploadId);
  }

  of({ uploadId }: Upload): readonly number[] {
    return [...(this.#writes.get(uploadId) ?? [])];
  }
}

/** After its `u/` went: what is left of it goes (I1, I2). */
export async function dropParts({ context }: S3Call, upload: Upload): Promise<void> {
  const { store, owner, partsInFlight } = context;
  for (const writeId of partsInFlight.of(upload)) await store.abort(owner, writeId);
  await store.deletePrefix(upload.bucket, `p/${upload.uploadId}/`);
}

/** Parts of uploads that ended while the node was killed (I1). */
export async function sweepParts(store: ObjectStore): Promise<void> {
  for (const { name } of await store.listBuckets()) {
    const bucket = uploadsBucketOf(name);
    for (let startAfter: string | null = ''; startAfter !== null; ) {
      const page = await listPartPrefixes(store, bucket, startAfter);
      for (const prefix of page.prefixes)
        if ((await store.find({ bucket, key: uploadKey(prefix.slice(2, -1)) })) === undefined)
          await store.deletePrefix(bucket, prefix);
      startAfter = page.next;
    }
  }
}

async function listPartPrefixes(
  store: ObjectStore,
  bucket: string,
  startAfter: string,
): Promise<{ readonly prefixes: readonly string[]; readonly next: string | null }> {
  try {
    return await store.listRecords(bucket, {
      ...{ prefix: 'p/', delimiter: '/', startAfter, limit: PAGE },
    });
  } catch (error) {
    // Most buckets never had an upload.
    if (isStoreError(error, 'bucket_not_found')) return { prefixes: [], next: null };
    throw error;
  }
}
