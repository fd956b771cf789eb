/** Which operation a request asks for: by method, by what it names (service, bucket, object), and by sub-resource in the query. */
import type { IncomingMessage } from 'node:http';
import type { Action } from './auth/key-ring.ts';
import type { Operation } from './call.ts';
import * as absent from './operations/absent.ts';
import * as buckets from './operations/buckets.ts';
import { completeMultipartUpload } from './operations/complete-upload.ts';
import { copyObject } from './operations/copy-object.ts';
import * as cors from './operations/cors.ts';
import { deleteObject, deleteObjects } from './operations/delete-objects.ts';
import * as encryption from './operations/encryption.ts';
import { getObject, headObject } from './operations/get-object.ts';
import * as lists from './operations/lists.ts';
import * as multipart from './operations/multipart.ts';
import { getObjectAttributes } from './operations/object-attributes.ts';
import { isForm, postObject } from './operations/post-object.ts';
import { putObject } from './operations/put-object.ts';
import * as subresources from './operations/subresources.ts';
import * as versions from './operations/versions.ts';
import { S3Error } from './s3-error.ts';
import type { S3Target } from './target.ts';

export interface Route {
  /** As the S3 API Reference calls it. */
  readonly name: string;
  /** Undefined: the operation itself looks what the key may see. */
  readonly action: Action | undefined;
  /** It lists names below the prefix in the query: that prefix must be granted. */
  readonly listsPrefix: boolean;
  readonly run: Operation;
}

type Level = 'service' | 'bucket' | 'object';

interface Rule extends Route {
  readonly level: Level;
  readonly method: string;
  /** Query parameter that must be there. */
  readonly with?: string;
  readonly header?: string;
}

/** The first that fits counts. */
const RULES: readonly Rule[] = [
  rule('ListBuckets', 'service', 'GET', undefined, buckets.listBuckets),

  rule('GetBucketLocation', 'bucket', 'GET', 'list', buckets.getBucketLocation, {
    with: 'location',
  }),
  rule('GetBucketVersioning', 'bucket', 'GET', 'list', versions.getBucketVersioning, {
    with: 'versioning',
  }),
  rule('GetBucketAcl', 'bucket', 'GET', 'list', subresources.getBucketAcl, { with: 'acl' }),
  rule('GetBucketCors', 'bucket', 'GET', 'list', cors.getBucketCors, { with: 'cors' }),
  rule('ListObjectVersions', 'bucket', 'GET', 'list', versions.listObjectVersions, {
    with: 'versions',
  }),
  rule('ListMultipartUploads', 'bucket', 'GET', 'list', multipart.listMultipartUploads, {
    with: 'uploads',
  }),
  rule('ListObjectsV2', 'bucket', 'GET', 'list', lists.listObjectsV2, { with: 'list-type' }),
  rule('ListObjects', 'bucket', 'GET', 'list', lists.listObjects),
  rule('HeadBucket', 'bucket', 'HEAD', 'list', buckets.headBucket),
  rule('PutBucketVersioning', 'bucket', 'PUT', 'admin', versions.putBucketVersioning, {
    with: 'versioning',
  }),
  rule('PutBucketAcl', 'bucket', 'PUT', 'admin', subresources.putAcl, { with: 'acl' }),
  rule('PutBucketCors', 'bucket', 'PUT', 'admin', cors.putBucketCors, { with: 'cors' }),
  rule('CreateBucket', 'bucket', 'PUT', 'admin', buckets.createBucket),
  rule('DeleteBucketCors', 'bucket', 'DELETE', 'admin', cors.deleteBucketCors, { with: 'cors' }),
  rule('DeleteBucket', 'bucket', 'DELETE', 'admin', buckets.deleteBucket),
  rule('DeleteObjects', 'bucket', 'POST', undefined, deleteObjects, { with: 'delete' }),

  rule('GetObjectTagging', 'object', 'GET', 'read', subresources.getObjectTagging, {
    with: 'tagging',
  }),
  rule('GetObjectAcl', 'object', 'GET', 'read', subresources.getObjectAcl, { with: 'acl' }),
  rule('ListParts', 'object', 'GET', 'read', multipart.listParts, { with: 'uploadId' }),
  rule('GetObjectAttributes', 'object', 'GET', 'read', getObjectAttributes, { with: 'attributes' }),
  rule('GetObject', 'object', 'GET', 'read', getObject),
  rule('HeadObject', 'object', 'HEAD', 'read', headObject),
  rule('PutObjectTagging', 'object', 'PUT', 'write', subresources.putObjectTagging, {
    with: 'tagging',
  }),
  rule('PutObjectAcl', 'object', 'PUT', 'write', subresources.putAcl, { with: 'acl' }),
  rule('UploadPartCopy', 'object', 'PUT', 'write', multipart.uploadPartCopy, {
    with: 'uploadId',
    header: 'x-amz-copy-source',
  }),
  rule('UploadPart', 'object', 'PUT', 'write', multipart.uploadPart, { with: 'uploadId' }),
  rule('CopyObject', 'object', 'PUT', 'write', copyObject, { header: 'x-amz-copy-source' }),
  rule('PutObject', 'object', 'PUT', 'write', putObject),
  rule('CreateMultipartUpload', 'object', 'POST', 'write', multipart.createMultipartUpload, {
    with: 'uploads',
  }),
  rule('CompleteMultipartUpload', 'object', 'POST', 'write', completeMultipartUpload, {
    with: 'uploadId',
  }),
  rule('DeleteObjectTagging', 'object', 'DELETE', 'write', subresources.deleteObjectTagging, {
    with: 'tagging',
  }),
  rule('AbortMultipartUpload', 'object', 'DELETE', 'write', multipart.abortMultipartUpload, {
    with: 'uploadId',
  }),
  rule('DeleteObject', 'object', 'DELETE', 'write', deleteObject),
];

/** What S3 calls the operations on configurations that are never there. */
const ABSENT_RULES: readonly Rule[] = [
  ...absentRules('bucket', absent.ABSENT_OF_BUCKET, ['list', 'admin']),
  ...absentRules('object', absent.ABSENT_OF_OBJECT, ['read', 'write']),
];

function absentRules(
  level: 'bucket' | 'object',
  table: typeof absent.ABSENT_OF_BUCKET,
  [look, change]: readonly [Action, Action],
): readonly Rule[] {
  return Object.entries(table).flatMap(([subresource, known]) => {
    const only = { with: subresource };
    const title = subresource
      .replace(/^./, (first) => first.toUpperCase())
      .replaceAll(/-(.)/g, (_, letter: string) => letter.toUpperCase());
    const name = level === 'bucket' ? `Bucket${title}` : `Object${title}`;
    return [
      rule(`Get${name}`, level, 'GET', look, (call) => absent.getAbsent(call, known), only),
      rule(`Put${name}`, level, 'PUT', change, (call) => absent.putAbsent(call, known), only),
      rule(`Delete${name}`, level, 'DELETE', change, absent.deleteAbsent, only),
    ];
  });
}

/** Of buckets alone: of an object the same word is not offered. */
const ENCRYPTION_RULES: readonly Rule[] = [
  rule('GetBucketEncryption', 'bucket', 'GET', 'list', encryption.getBucketEncryption, {
    with: 'encryption',
  }),
  rule('PutBucketEncryption', 'bucket', 'PUT', 'admin', encryption.putBucketEncryption, {
    with: 'encryption',
  }),
  rule('DeleteBucketEncryption', 'bucket', 'DELETE', 'admin', encryption.deleteBucketEncryption, {
    with: 'encryption',
  }),
];

/** Sub-resources that this node has nothing of: a request for one must not be taken for one of the whole. */
const NOT_OFFERED = new Set([
  ...['analytics', 'intelligent-tiering', 'inventory', 'metrics', 'metadataConfiguration'],
  ...['metadataTable', 'abac', 'session', 'renameObject', 'encryption'],
  ...['restore', 'select', 'torrent'],
]);

/** Its signature, and what it may do, are in the form. */
const POST_OBJECT = rule('PostObject', 'bucket', 'POST', undefined, postObject);

/** A form that is sent to a bucket, and no other request that has a body of this type. */
export function namesForm(request: IncomingMessage, { bucket, key, query }: S3Target): boolean {
  const isOther = query.some(([name]) => name === 'delete');
  return bucket !== '' && key === '' && !isOther && isForm(request);
}

/** @throws {S3Error} `NotImplemented`, `MethodNotAllowed` */
export function findRoute(request: IncomingMessage, target: S3Target): Route {
  const { method = 'GET', headers } = request;
  if (namesForm(request, target)) return POST_OBJECT;
  const level: Level = target.bucket === '' ? 'service' : target.key === '' ? 'bucket' : 'object';
  const names = new Set(target.query.map(([name]) => name));
  const fits = (known: Rule): boolean =>
    known.level === level &&
    known.method === method &&
    (known.with === undefined || names.has(known.with)) &&
    (known.header === undefined || headers[known.header] !== undefined);
  const early = ENCRYPTION_RULES.find(fits) ?? ABSENT_RULES.find(fits);
  if (early !== undefined) return early;
  for (const name of names)
    if (NOT_OFFERED.has(name))
      throw new S3Error('NotImplemented', `The sub-resource "${name}" is not offered.`);
  const found = RULES.find(fits);
  if (found === undefined && level === 'bucket' && method === 'POST')
    throw new S3Error('NotImplemented', 'A POST to a bucket is a form, or deletes objects.');
  if (found === undefined)
    throw new S3Error('MethodNotAllowed', undefined, {
      Method: method,
      ResourceType: level.toUpperCase(),
    });
  return found;
}

function rule(
  name: string,
  level: Level,
  method: string,
  action: Action | undefined,
  run: Operation,
  more: { readonly with?: string; readonly header?: string } = {},
): Rule {
  const listsPrefix = level === 'bucket' && name.startsWith('List');
  return { name, level, method, action, listsPrefix, run, ...more };
}
