/** DeleteObject and DeleteObjects. Deleting what is not there is no error. */
import { nextTurn, type ObjectRef } from '@ebb/core';
import { isStoreError } from '@ebb/protocol';
import { parseWriteCondition } from '../../http/data/conditions.ts';
import { mayDo } from '../auth/key-ring.ts';
import { readBody } from '../body.ts';
import { headerOf, type S3Call, sendEmpty, sendXml } from '../call.ts';
import { parseXml, type XmlReader } from '../read-xml.ts';
import { S3Error, toS3Error } from '../s3-error.ts';
import { assertKeyLength } from '../target.ts';
import type { XmlElement } from '../xml.ts';
import { namedObject } from './versions.ts';

const OBJECTS_MAX = 1000;
/** A thousand keys of 1,024 bytes, each byte written as a reference, and what stands beside them. */
const XML_BYTES_MAX = 10 * 1024 * 1024;
/** Deletions that are begun in one turn of the event loop: a few milliseconds of it. */
const BATCH = 50;
const ROOT_ELEMENTS: ReadonlySet<string> = new Set(['Object', 'Quiet']);
const OBJECT_ELEMENTS: ReadonlySet<string> = new Set([
  ...['Key', 'VersionId', 'ETag', 'LastModifiedTime', 'Size'],
]);

export async function deleteObject(call: S3Call): Promise<void> {
  const ref = namedObject(call);
  const { store } = call.context;
  await store.getBucket(call.bucket);
  const { headers } = call.request;
  const { ifMatch } = parseWriteCondition(headers);
  const { versionId, isMarker } = await deleteOne(call, ref, ifMatch);
  sendEmpty(call, 204, {
    ...(isMarker ? { 'x-amz-delete-marker': 'true' } : {}),
    ...(versionId === undefined ? {} : { 'x-amz-version-id': versionId }),
  });
}

export async function deleteObjects(call: S3Call): Promise<void> {
  const { store } = call.context;
  await store.getBucket(call.bucket);
  const hasChecksum =
    headerOf(call, 'content-md5') !== undefined ||
    Object.keys(call.request.headers).some((name) =>
      /^x-amz-(checksum-|sdk-checksum|trailer)/.test(name),
    ) ||
    call.auth.payload.kind === 'signed';
  if (!hasChecksum && !call.context.keys.isOpen)
    throw new S3Error(
      'InvalidRequest',
      'Missing required header for this request: Content-MD5 OR x-amz-checksum-*',
    );
  const root = await parseXml(await readBody(call, XML_BYTES_MAX), 'Delete');
  root.assertOnly(ROOT_ELEMENTS);
  const objects = root.all('Object').map(readListed);
  if (objects.length === 0 || objects.length > OBJECTS_MAX) throw new S3Error('MalformedXML');
  const quiet = root.booleanOf('Quiet');
  const deletions: Promise<Result>[] = [];
  for (const object of objects) {
    deletions.push(deleteListed(call, object));
    if (deletions.length % BATCH === 0) await nextTurn();
  }
  const results = await Promise.all(deletions);
  sendXml(call, 'DeleteResult', {
    Deleted: quiet
      ? []
      : results.filter(({ name }) => name === 'Deleted').map(({ element }) => element),
    Error: results.filter(({ name }) => name === 'Error').map(({ element }) => element),
  });
}

/** One object as the list names it. Nothing is deleted before all of the list was read. */
interface Listed {
  readonly key: string;
  readonly versionId: string | undefined;
  readonly etag: string | undefined;
  /** A condition that is offered for directory buckets only. */
  readonly refused: string | undefined;
}
interface Result {
  readonly name: 'Deleted' | 'Error';
  readonly element: XmlElement;
}

/** @throws {S3Error} `MalformedXML` */
function readListed(object: XmlReader): Listed {
  object.assertOnly(OBJECT_ELEMENTS);
  const key = object.child('Key').text();
  if (key === '') throw new S3Error('MalformedXML');
  return {
    key,
    versionId: object.textOf('VersionId'),
    etag: object.textOf('ETag')?.replaceAll('"', '').trim(),
    refused: ['LastModifiedTime', 'Size'].find((name) => object.find(name) !== undefined),
  };
}

async function deleteListed(call: S3Call, object: Listed): Promise<Result> {
  const { key, versionId, etag, refused } = object;
  const named = { Key: key, ...(versionId === undefined ? {} : { VersionId: versionId }) };
  try {
    assertKeyLength(key);
    if (refused !== undefined)
      throw new S3Error('NotImplemented', `${refused} is no condition that is offered.`);
    if (versionId === '')
      throw new S3Error('InvalidArgument', 'Version id cannot be the empty string');
    const { accessKey } = call.auth;
    if (accessKey !== undefined && !mayDo(accessKey, 'write', { bucket: call.bucket, key }))
      throw new S3Error('AccessDenied');
    const ref = { bucket: call.bucket, key, ...(versionId === undefined ? {} : { versionId }) };
    const deleted = await deleteOne(call, ref, etag);
    const marker = { DeleteMarker: true, DeleteMarkerVersionId: deleted.versionId };
    return { name: 'Deleted', element: deleted.isMarker ? { ...named, ...marker } : named };
  } catch (error) {
    const { code, message } = toS3Error(error);
    return { name: 'Error', element: { ...named, Code: code, Message: message } };
  }
}

/** What the answer says: the version that is gone for good, or the delete marker that came (or went: `isMarker`). */
interface Deleted {
  readonly versionId: string | undefined;
  readonly isMarker: boolean;
}

/** @param ifMatch An ETag, or `*`: there must be an object. */
async function deleteOne(
  call: S3Call,
  ref: ObjectRef,
  ifMatch: string | undefined,
): Promise<Deleted> {
  const { store } = call.context;
  const { key, versionId } = ref;
  const condition = ifMatch === undefined ? {} : { ifMatch };
  try {
    if (versionId !== undefined) {
      const removed = await store.deleteVersion({ ...ref, versionId }, condition);
      return { versionId, isMarker: removed?.isDeleteMarker === true };
    }
    // As S3 does it, also where there is nothing to delete.
    const { markerId } = await store.delete(ref, condition, { marksAbsent: true });
    return { versionId: markerId, isMarker: markerId !== undefined };
  } catch (error) {
    // An ETag names an object; `*` asks whether there is one.
    const namesOne = ifMatch !== '*' && isStoreError(error, 'precondition_failed');
    if (namesOne && (await store.find(ref)) === undefined)
      throw new S3Error('NoSuchKey', undefined, { Key: key });
    throw error;
  }
}
