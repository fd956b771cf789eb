/** Which operation a request asks for: by method, by what it names (service, bucket, object), and by sub-resource in the query. */
import type { IncomingMessage } from 'node:http';
import type { Action } from './auth/key-ring.ts';
import type { Operation } from './call.ts';
import * as buckets from './operations/buckets.ts';
import { copyObject } from './operations/copy-object.ts';
import { deleteObject, deleteObjects } from './operations/delete-objects.ts';
import { getObject, headObject } from './operations/get-object.ts';
import * as lists from './operations/lists.ts';
import * as multipart from './operations/multipart.ts';
import { getObjectAttributes } from './operations/object-attributes.ts';
import { putObject } from './operations/put-object.ts';
import * as subresources from './operations/subresources.ts';
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
  rule('GetBucketVersioning', 'bucket', 'GET', 'list', subresources.getBucketVersioning, {
    with: 'versioning',
  }),
  rule('GetBucketAcl', 'bucket', 'GET', 'list', subresources.getBucketAcl, { with: 'acl' }),
  rule('ListObjectVersions', 'bucket', 'GET', 'list', lists.listObjectVersions, {
    with: 'versions',
  }),
  rule('ListMultipartUploads', 'bucket', 'GET', 'list', multipart.listMultipartUploads, {
    with: 'uploads',
  }),
  rule('ListObjectsV2', 'bucket', 'GET', 'list', lists.listObjectsV2, { with: 'list-type' }),
  rule('ListObjects', 'bucket', 'GET', 'list', lists.listObjects),
  rule('HeadBucket', 'bucket', 'HEAD', 'list', buckets.headBucket),
  rule('PutBucketVersioning', 'bucket', 'PUT', 'admin', subresources.putBucketVersioning, {
    with: 'versioning',
  }),
  rule('PutBucketAcl', 'bucket', 'PUT', 'admin', subresources.putAcl, { with: 'acl' }),
  rule('CreateBucket', 'bucket', 'PUT', 'admin', buckets.createBucket),
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
  rule('CompleteMultipartUpload', 'object', 'POST', 'write', multipart.completeMultipartUpload, {
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

/** Sub-resources that this node has nothing of: a request for one must not be taken for one of the whole. */
const NOT_OFFERED = new Set([
  ...[
    'accelerate',
    'analytics',
    'encryption',
    'intelligent-tiering',
    'inventory',
    'legal-hold',
    'lifecycle',
    'logging',
  ],
  ...[
    'metrics',
    'notification',
    'object-lock',
    'ownershipControls',
    'policy',
    'policyStatus',
    'publicAccessBlock',
  ],
  ...[
    'replication',
    'requestPayment',
    'restore',
    'retention',
    'select',
    'torrent',
    'website',
    'cors',
  ],
]);

/** @throws {S3Error} `NotImplemented`, `MethodNotAllowed` */
export function findRoute({ method = 'GET', headers }: IncomingMessage, target: S3Target): Route {
  const level: Level = target.bucket === '' ? 'service' : target.key === '' ? 'bucket' : 'object';
  const names = new Set(target.query.map(([name]) => name));
  for (const name of names)
    if (NOT_OFFERED.has(name) || (name === 'tagging' && level === 'bucket'))
      throw new S3Error('NotImplemented', `The sub-resource "${name}" is not offered.`);
  const found = RULES.find(
    (known) =>
      known.level === level &&
      known.method === method &&
      (known.with === undefined || names.has(known.with)) &&
      (known.header === undefined || headers[known.header] !== undefined),
  );
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
