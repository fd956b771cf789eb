/** Buckets: list, create, head, delete, location. */
import { resolvePolicy } from '@ebb/core';
import { mayDo } from '../auth/key-ring.ts';
import { readBody } from '../body.ts';
import { headerOf, parameter, type S3Call, sendEmpty, sendXml } from '../call.ts';
import { refuseUnoffered } from '../refused-headers.ts';
import { S3Error } from '../s3-error.ts';
import { parseXml } from '../xml.ts';
import { ownerElement } from './owner.ts';

const XML_BYTES_MAX = 64 * 1024;
/** A node is no region: every region that a client signs for is taken. */
const REGION = 'us-east-1';
const PRESETS = ['ephemeral', 'buffered', 'durable'] as const;

export async function listBuckets(call: S3Call): Promise<void> {
  const { accessKey } = call.auth;
  const prefix = parameter(call, 'prefix') ?? '';
  const buckets = await call.context.store.listBuckets();
  const shown = buckets.filter(
    ({ name }) =>
      name.startsWith(prefix) &&
      (accessKey === undefined ||
        mayDo(accessKey, 'list', { bucket: name }) ||
        mayDo(accessKey, 'read', { bucket: name })),
  );
  sendXml(call, 'ListAllMyBucketsResult', {
    Owner: ownerElement(call),
    Buckets: {
      Bucket: shown.map(({ name, createdAtMs }) => ({
        Name: name,
        CreationDate: new Date(createdAtMs).toISOString(),
      })),
    },
  });
}

/** `x-ebb-preset` chooses the policy of a new bucket; default `buffered`. */
export async function createBucket(call: S3Call): Promise<void> {
  refuseUnoffered(call.request.headers);
  if (headerOf(call, 'x-amz-bucket-object-lock-enabled')?.toLowerCase() === 'true')
    throw new S3Error('NotImplemented', 'Object Lock is not offered.');
  const asked = headerOf(call, 'x-ebb-preset');
  const preset = PRESETS.find((name) => name === (asked ?? 'buffered'));
  if (preset === undefined)
    throw new S3Error('InvalidArgument', `x-ebb-preset must be one of ${PRESETS.join(', ')}`);
  const body = await readBody(call, XML_BYTES_MAX);
  if (body.trim() !== '') parseXml(body, 'CreateBucketConfiguration');
  const { store } = call.context;
  const { created } = await store.createBucket(call.bucket, resolvePolicy({ preset }));
  if (!created)
    throw new S3Error('BucketAlreadyOwnedByYou', undefined, { BucketName: call.bucket });
  sendEmpty(call, 200, { location: `/${call.bucket}` });
}

export async function headBucket(call: S3Call): Promise<void> {
  await call.context.store.getBucket(call.bucket);
  sendEmpty(call, 200, { 'x-amz-bucket-region': REGION });
}

export async function deleteBucket(call: S3Call): Promise<void> {
  await call.context.store.deleteBucket(call.bucket);
  sendEmpty(call, 204);
}

export async function getBucketLocation(call: S3Call): Promise<void> {
  await call.context.store.getBucket(call.bucket);
  // An empty element means us-east-1, as it does at Amazon.
  sendXml(call, 'LocationConstraint', {});
}
