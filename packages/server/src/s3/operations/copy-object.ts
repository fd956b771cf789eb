/** CopyObject: another name for the same bytes, with the source's properties or new ones. No bytes move. */
import { type ObjectRecord, type ObjectRef, parseBucketName } from '@ebb/core';
import { HEADERS, isStoreError, StoreError } from '@ebb/protocol';
import { parseWriteCondition } from '../../http/data/conditions.ts';
import {
  checksumOf,
  DEFAULT_CONTENT_TYPE,
  formatChecksum,
  parseAttributes,
  parseMetadata,
} from '../attributes.ts';
import { mayDo } from '../auth/key-ring.ts';
import { headerOf, type S3Call, sendXml } from '../call.ts';
import { type Algorithm, createDigest, parseAlgorithm } from '../checksums.ts';
import { S3Error } from '../s3-error.ts';
import { assertKeyLength } from '../target.ts';
import type { XmlElement } from '../xml.ts';
import { assertTargetThere, parseAck } from './put-object.ts';
import { tellVersion, toldVersion } from './versions.ts';

/** A source that is replaced so often while it is copied is written by others without a pause. */
const TRIES_MAX = 8;

export async function copyObject(call: S3Call): Promise<void> {
  const { object } = await copyingFrom(call, async (source) => await copyFrom(call, source));
  await tellVersion(call, object);
  sendXml(call, 'CopyObjectResult', copyResult(object));
}

/**
 * Work on one version of the source, which has no effect where another one took its place meanwhile. Then the work begins again
 * with what is there, unless the caller asked for just this version.
 * @throws {S3Error} `PreconditionFailed` when that was replaced, `SlowDown` when each version was
 */
export async function copyingFrom<T>(
  call: S3Call,
  work: (source: ObjectRecord) => Promise<T>,
): Promise<T> {
  for (let tries = 1; ; tries++) {
    const source = await findCopySource(call);
    try {
      return await work(source);
    } catch (error) {
      if (!wasReplaced(error, source)) throw error;
      if (namesVersion(call)) throw new S3Error('PreconditionFailed');
      if (tries === TRIES_MAX) throw new S3Error('SlowDown');
    }
  }
}

function wasReplaced(error: unknown, { version }: ObjectRecord): boolean {
  if (isStoreError(error, 'superseded')) return true;
  return isStoreError(error, 'precondition_failed') && error.details['version'] === version;
}

/** By its id, or by a condition on the source. */
function namesVersion(call: S3Call): boolean {
  const headers = Object.keys(call.request.headers);
  const isConditional = headers.some((name) => name.startsWith('x-amz-copy-source-if-'));
  return isConditional || parseCopySource(call).versionId !== undefined;
}

async function copyFrom(call: S3Call, source: ObjectRecord): Promise<{ object: ObjectRecord }> {
  const { request, context } = call;
  const replaces = directive(call, 'x-amz-metadata-directive') === 'REPLACE';
  const replacesTags = directive(call, 'x-amz-tagging-directive') === 'REPLACE';
  // An old version over the object is how it is restored.
  const isOld = parseCopySource(call).versionId !== undefined;
  const isSame = !isOld && source.bucket === call.bucket && source.key === call.key;
  if (isSame && !replaces && !replacesTags && headerOf(call, 'x-amz-storage-class') === undefined)
    throw new S3Error(
      'InvalidRequest',
      'This copy request is illegal because it is trying to copy an object to itself without changing the object’s metadata, storage class, website redirect location or encryption attributes.',
    );
  const ack = parseAck(headerOf(call, HEADERS.ack));
  const condition = parseWriteCondition({
    'if-match': request.headers['if-match'],
    'if-none-match': request.headers['if-none-match'],
  });
  await assertTargetThere(call, condition);
  const sent = headerOf(call, 'content-type') || DEFAULT_CONTENT_TYPE;
  const contentType = replaces ? sent : source.contentType;
  return await context.store.compose(
    { bucket: call.bucket, key: call.key },
    [{ bucket: source.bucket, key: source.key, version: source.version }],
    {
      metadata: replaces ? parseMetadata(request.headers) : source.metadata,
      attributes: {
        ...copiedAttributes(call, source, { replaces, replacesTags }),
        ...(await askedChecksum(call, source)),
      },
      contentType,
      ...(ack === undefined ? {} : { ack }),
      ...condition,
    },
  );
}

export function copyResult(
  object: Pick<ObjectRecord, 'etag' | 'createdAtMs' | 'attributes' | 'crc32c'>,
): XmlElement {
  const checksum = checksumOf(object);
  return {
    LastModified: new Date(object.createdAtMs).toISOString(),
    ETag: `"${object.etag}"`,
    ...(checksum === undefined
      ? {}
      : { [checksumElement(checksum.algorithm)]: checksum.value, ChecksumType: checksum.type }),
  };
}

/** `ChecksumCRC32` and so on. */
export function checksumElement(algorithm: string): string {
  return `Checksum${algorithm}`;
}

function copiedAttributes(
  call: S3Call,
  source: ObjectRecord,
  { replaces, replacesTags }: { readonly replaces: boolean; readonly replacesTags: boolean },
): Record<string, string> {
  const sent = parseAttributes(call.request.headers);
  const kept = source.attributes;
  const attributes: Record<string, string> = replaces ? { ...sent } : { ...kept };
  const storageClass = sent['x-amz-storage-class'];
  if (storageClass === undefined) delete attributes['x-amz-storage-class'];
  else attributes['x-amz-storage-class'] = storageClass;
  const tagging = replacesTags ? sent['tagging'] : kept['tagging'];
  if (tagging === undefined) delete attributes['tagging'];
  else attributes['tagging'] = tagging;
  // These belong to the bytes. A copy is one object, whatever it was uploaded in.
  for (const name of Object.keys(attributes))
    if (/^(parts(\.\d+)?|part-sums|upload-id)$/.test(name)) delete attributes[name];
  if (kept['checksum'] !== undefined && !kept['checksum'].includes(' COMPOSITE '))
    attributes['checksum'] = kept['checksum'];
  else delete attributes['checksum'];
  return attributes;
}

/** A copy may ask for a checksum of another algorithm than its source has: only then are bytes read. */
async function askedChecksum(call: S3Call, source: ObjectRecord): Promise<Record<string, string>> {
  const name = headerOf(call, 'x-amz-checksum-algorithm');
  if (name === undefined) return {};
  const algorithm = parseAlgorithm(name);
  const known = checksumOf(source);
  const isKnown = known?.algorithm === algorithm && known.type === 'FULL_OBJECT';
  const value = isKnown ? known.value : await digestObject(call, source, algorithm);
  return { checksum: formatChecksum({ algorithm, type: 'FULL_OBJECT', value }) };
}

/** @throws `superseded` when the source was replaced meanwhile */
export async function digestObject(
  call: S3Call,
  { bucket, key, version }: ObjectRecord,
  algorithm: Algorithm,
  range?: { readonly offset: number; readonly length: number },
): Promise<string> {
  const { store, owner, pieces } = call.context;
  const opened = await store.open(owner, parseCopySource(call), { ranges: true });
  try {
    if (opened.object.version !== version)
      throw new StoreError('superseded', `${bucket}/${key} was replaced`, { bucket, key });
    const digest = createDigest(algorithm);
    const piece = await pieces.take();
    try {
      const { offset, length } = range ?? { offset: 0, length: opened.object.sizeBytes };
      for (let at = offset; at < offset + length; at += piece.length) {
        const view = piece.subarray(0, Math.min(piece.length, offset + length - at));
        await store.read(owner, opened.leaseId, view, at);
        digest.update(view);
      }
    } finally {
      pieces.give(piece);
    }
    return (await digest.digest()).toString('base64');
  } finally {
    store.release(owner, [opened.leaseId]);
  }
}

function directive(call: S3Call, name: string): 'COPY' | 'REPLACE' {
  const value = headerOf(call, name) ?? 'COPY';
  if (value === 'COPY' || value === 'REPLACE') return value;
  throw new S3Error(
    'InvalidArgument',
    `Unknown ${name === 'x-amz-metadata-directive' ? 'metadata' : 'tagging'} directive.`,
    {
      ArgumentName: name,
      ArgumentValue: value,
    },
  );
}

/** The object that `x-amz-copy-source` names, if the conditions on it hold and the caller may read it. */
async function findCopySource(call: S3Call): Promise<ObjectRecord> {
  const ref = parseCopySource(call);
  const { bucket, key } = ref;
  const { accessKey } = call.auth;
  if (accessKey !== undefined && !mayDo(accessKey, 'read', { bucket, key }))
    throw new S3Error('AccessDenied');
  const object = await findSource(call, ref);
  const versionId = await toldVersion(call, object);
  call.response.removeHeader('x-amz-copy-source-version-id'); // an earlier try may have set it
  if (versionId !== undefined) call.response.setHeader('x-amz-copy-source-version-id', versionId);
  assertSourceConditions(call, object);
  return object;
}

async function findSource(call: S3Call, ref: ObjectRef): Promise<ObjectRecord> {
  try {
    return (await call.context.store.head(ref)).object;
  } catch (error) {
    if (!isStoreError(error, 'not_found') || ref.versionId === undefined) throw error;
    if (error.details['deleteMarker'] === undefined)
      throw new S3Error('NoSuchVersion', undefined, { Key: ref.key, VersionId: ref.versionId });
    throw new S3Error(
      'InvalidRequest',
      'The source of a copy request may not specifically refer to a delete marker by version id.',
    );
  }
}

function parseCopySource(call: S3Call): ObjectRef {
  const header = String(call.request.headers['x-amz-copy-source']);
  const invalid = (why: string): S3Error =>
    new S3Error('InvalidArgument', why, {
      ArgumentName: 'x-amz-copy-source',
      ArgumentValue: header,
    });
  const [rawPath = '', rawQuery] = header.split('?', 2);
  const [, versionId] = /^versionId=([^&]+)$/.exec(rawQuery ?? '') ?? [];
  if (rawQuery !== undefined && versionId === undefined)
    throw invalid('Copy Source must mention the source bucket and key: sourcebucket/sourcekey');
  let path: string;
  try {
    path = decodeURIComponent(rawPath.replaceAll('+', ' '));
  } catch {
    throw invalid('Copy Source must be percent-encoded UTF-8');
  }
  const [, bucket, key] = /^\/?([^/]+)\/(.+)$/s.exec(path) ?? [];
  if (bucket === undefined || key === undefined)
    throw invalid('Copy Source must mention the source bucket and key: sourcebucket/sourcekey');
  parseBucketName(bucket);
  assertKeyLength(key);
  return versionId === undefined ? { bucket, key } : { bucket, key, versionId };
}

function assertSourceConditions(call: S3Call, { etag, createdAtMs }: ObjectRecord): void {
  const bare = (name: string): string | undefined =>
    headerOf(call, name)?.replaceAll('"', '').trim();
  const seconds = (name: string): number =>
    Math.floor(Date.parse(headerOf(call, name) ?? '') / 1000);
  const modified = Math.floor(createdAtMs / 1000);
  const match = bare('x-amz-copy-source-if-match');
  const noneMatch = bare('x-amz-copy-source-if-none-match');
  const failed =
    (match !== undefined
      ? match !== '*' && match !== etag
      : modified >
        (seconds('x-amz-copy-source-if-unmodified-since') || Number.POSITIVE_INFINITY)) ||
    (noneMatch !== undefined
      ? noneMatch === '*' || noneMatch === etag
      : modified <= (seconds('x-amz-copy-source-if-modified-since') || Number.NEGATIVE_INFINITY));
  if (failed) throw new S3Error('PreconditionFailed');
}
