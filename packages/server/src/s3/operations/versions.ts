/**
 * Versions of objects: the setting of a bucket, which version a request names, what answers say of it, and the list of all.
 *
 * A delete marker is told by headers: 404 where the object was asked for, 405 where the marker itself was.
 */
import type { ObjectRecord, ObjectRef, VersionRecord } from '@ebb/core';
import { versionIdOf } from '@ebb/core';
import { isStoreError } from '@ebb/protocol';
import { readBody } from '../body.ts';
import { parameter, type S3Call, sendEmpty, sendXml, sendXmlText } from '../call.ts';
import { parseXml } from '../read-xml.ts';
import { S3Error } from '../s3-error.ts';
import { buildXml, type XmlElement } from '../xml.ts';
import { commonElements, contents, readAsked } from './lists.ts';
import { ownerElement } from './owner.ts';

const XML_BYTES_MAX = 64 * 1024;

// ── the setting of a bucket ─────────────────────────────────────────────────────────────────────────────────────────

/** A bucket that never kept versions has an empty document. */
export async function getBucketVersioning(call: S3Call): Promise<void> {
  const { policy } = await call.context.store.getBucket(call.bucket);
  const status = { off: undefined, enabled: 'Enabled', suspended: 'Suspended' }[policy.versioning];
  sendXml(call, 'VersioningConfiguration', status === undefined ? {} : { Status: status });
}

export async function putBucketVersioning(call: S3Call): Promise<void> {
  const { store } = call.context;
  await store.getBucket(call.bucket);
  const root = await parseXml(await readBody(call, XML_BYTES_MAX), 'VersioningConfiguration');
  if (root.textOf('MfaDelete') === 'Enabled')
    throw new S3Error('NotImplemented', 'MFA delete is not offered.');
  const status = root.textOf('Status');
  if (status !== 'Enabled' && status !== 'Suspended')
    throw new S3Error('IllegalVersioningConfigurationException');
  await store.setVersioning(call.bucket, status === 'Enabled' ? 'enabled' : 'suspended');
  sendEmpty(call, 200);
}

// ── one version ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** What the request names, with `versionId` if it is there. @throws {S3Error} `InvalidArgument` */
export function namedObject(call: S3Call): ObjectRef {
  const { bucket, key } = call;
  const versionId = parameter(call, 'versionId');
  if (versionId === undefined) return { bucket, key };
  if (versionId === '')
    throw new S3Error('InvalidArgument', 'Version id cannot be the empty string', {
      ArgumentName: 'versionId',
      ArgumentValue: '',
    });
  return { bucket, key, versionId };
}

/** The id, where the bucket keeps versions or once did; undefined where it never has. */
export async function toldVersion(
  { context }: S3Call,
  object: Pick<ObjectRecord, 'bucket' | 'version' | 'versioned'>,
): Promise<string | undefined> {
  if (object.versioned === true) return versionIdOf(object);
  return (await context.store.versioningOf(object.bucket)) === 'off' ? undefined : 'null';
}

/** Sets `x-amz-version-id`. */
export async function tellVersion(call: S3Call, object: ObjectRecord): Promise<void> {
  const versionId = await toldVersion(call, object);
  if (versionId !== undefined) call.response.setHeader('x-amz-version-id', versionId);
}

/**
 * Does `work` on what the request names.
 * @throws {S3Error} `NoSuchVersion`, `NoSuchKey`; `MethodNotAllowed` for a delete marker
 */
export async function withNamed<T>(call: S3Call, work: (ref: ObjectRef) => Promise<T>): Promise<T> {
  const ref = namedObject(call);
  try {
    return await work(ref);
  } catch (error) {
    throw absence(call, ref, error);
  }
}

/** Looks it up, and sets the header of its version. @throws as withNamed */
export async function headNamed(call: S3Call): Promise<ObjectRecord> {
  const { object } = await withNamed(call, (ref) => call.context.store.head(ref));
  await tellVersion(call, object);
  return object;
}

function absence(call: S3Call, { key, versionId }: ObjectRef, error: unknown): unknown {
  if (!isStoreError(error, 'not_found')) return error;
  const { deleteMarker, deletedAtMs } = error.details;
  if (deleteMarker === undefined)
    return versionId === undefined
      ? error
      : new S3Error('NoSuchVersion', undefined, { Key: key, VersionId: versionId });
  call.response.setHeader('x-amz-delete-marker', 'true');
  call.response.setHeader('x-amz-version-id', String(deleteMarker));
  if (versionId === undefined) return new S3Error('NoSuchKey', undefined, { Key: key });
  call.response.setHeader('allow', 'DELETE');
  call.response.setHeader('last-modified', new Date(Number(deletedAtMs)).toUTCString());
  const Method = call.request.method ?? '';
  return new S3Error('MethodNotAllowed', undefined, { Method, ResourceType: 'DeleteMarker' });
}

// ── the list ────────────────────────────────────────────────────────────────────────────────────────────────────────

export async function listObjectVersions(call: S3Call): Promise<void> {
  const asked = readAsked(call);
  const { prefix, delimiter, maxKeys, encode } = asked;
  const keyMarker = parameter(call, 'key-marker') ?? '';
  const idMarker = parameter(call, 'version-id-marker') ?? '';
  if (idMarker !== '' && keyMarker === '')
    throw new S3Error(
      'InvalidArgument',
      'A version-id marker cannot be specified without a key marker.',
      { ArgumentName: 'version-id-marker', ArgumentValue: idMarker },
    );
  const { versions, prefixes, next } = await call.context.store.listVersions(call.bucket, {
    ...{ prefix, delimiter, limit: maxKeys },
    startAfter: idMarker === '' ? { key: keyMarker } : { key: keyMarker, versionId: idMarker },
  });
  const head: XmlElement = {
    ...commonElements(call, asked, { prefixes, next }),
    KeyMarker: encode(keyMarker),
    VersionIdMarker: idMarker,
    ...(next === null ? {} : { NextKeyMarker: encode(next.key) }),
    ...(next?.versionId === undefined ? {} : { NextVersionIdMarker: next.versionId }),
  };
  // Versions and markers of a key come in their order, so not each kind by itself.
  const entries = versions.map((version) => versionEntry(call, version, encode));
  sendXmlText(call, buildXml('ListVersionsResult', head, entries));
}

function versionEntry(
  call: S3Call,
  { object, isLatest, isDeleteMarker }: VersionRecord,
  encode: (name: string) => string,
): readonly [name: string, element: XmlElement] {
  const id = { VersionId: versionIdOf(object), IsLatest: isLatest };
  if (!isDeleteMarker)
    return ['Version', { ...contents(call, object, encode, { owner: true }), ...id }];
  return [
    'DeleteMarker',
    {
      Key: encode(object.key),
      LastModified: new Date(object.createdAtMs).toISOString(),
      Owner: ownerElement(call),
      ...id,
    },
  ];
}
