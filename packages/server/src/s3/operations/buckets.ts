/** Buckets: list, create, head, delete, location. */
import { resolvePolicy } from '@ebb/core';
import { mayDo } from '../auth/key-ring.ts';
import { isBlank, readBody } from '../body.ts';
import { headerOf, integerParameter, parameter, type S3Call, sendEmpty, sendXml } from '../call.ts';
import { decodeToken, encodeToken } from '../listing.ts';
import { parseXml } from '../read-xml.ts';
import { S3Error } from '../s3-error.ts';
import { ownerElement } from './owner.ts';

const XML_BYTES_MAX = 64 * 1024;
const BUCKETS_MAX = 10_000;
/** A node is no region: every region that a client signs for is taken. */
const REGION = 'us-east-1';
const PRESETS = ['ephemeral', 'buffered', 'durable'] as const;

export async function listBuckets(call: S3Call): Promise<void> {
  const { accessKey } = call.auth;
  const prefix = parameter(call, 'prefix') ?? '';
  const region = parameter(call, 'bucket-region') ?? REGION;
  const max = integerParameter(call, 'max-buckets', {
    ...{ otherwise: BUCKETS_MAX, min: 1, max: BUCKETS_MAX },
  });
  const token = parameter(call, 'continuation-token');
  const startAfter = token === undefined ? '' : decodeToken(token);
  const buckets = await call.context.store.listBuckets();
  const shown = buckets.filter(
    ({ name }) =>
      region === REGION &&
      name.startsWith(prefix) &&
      name > startAfter &&
      (accessKey === undefined ||
        mayDo(accessKey, 'list', { bucket: name }) ||
        mayDo(accessKey, 'read', { bucket: name })),
  );
  const page = shown.slice(0, max);
  const last = page.at(-1);
  sendXml(call, 'ListAllMyBucketsResult', {
    Owner: ownerElement(call),
    Buckets: {
      Bucket: page.map(({ name, createdAtMs }) => ({
        Name: name,
        CreationDate: new Date(createdAtMs).toISOString(),
        BucketRegion: REGION,
      })),
    },
    ...(prefix === '' ? {} : { Prefix: prefix }),
    ...(shown.length > page.length && last !== undefined
      ? { ContinuationToken: encodeToken(last.name) }
      : {}),
  });
}

/** `x-ebb-preset` chooses the policy of a new bucket; default `buffered`. */
export async function createBucket(call: S3Call): Promise<void> {
  if (headerOf(call, 'x-amz-bucket-object-lock-enabled')?.toLowerCase() === 'true')
    throw new S3Error('NotImplemented', 'Object Lock is not offered.');
  if ((headerOf(call, 'x-amz-bucket-namespace') ?? 'global') !== 'global')
    throw new S3Error('NotImplemented', 'Namespaces of buckets are not offered.');
  const ownership = headerOf(call, 'x-amz-object-ownership') ?? 'BucketOwnerEnforced';
  if (ownership !== 'BucketOwnerEnforced')
    throw new S3Error('NotImplemented', `Object ownership ${ownership} is not offered.`);
  const asked = headerOf(call, 'x-ebb-preset');
  const preset = PRESETS.find((name) => name === (asked ?? 'buffered'));
  if (preset === undefined)
    throw new S3Error('InvalidArgument', `x-ebb-preset must be one of ${PRESETS.join(', ')}`);
  const body = await readBody(call, XML_BYTES_MAX);
  if (!isBlank(body)) {
    const configuration = await parseXml(body, 'CreateBucketConfiguration');
    for (const name of ['Bucket', 'Location', 'Tags'])
      if (configuration.find(name) !== undefined)
        throw new S3Error('NotImplemented', `${name} of a new bucket is not offered.`);
  }
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
  const { store, settings } = call.context;
  await store.deleteBucket(call.bucket);
  await settings.forget(call.bucket);
  sendEmpty(call, 204);
}

export async function getBucketLocation(call: S3Call): Promise<void> {
  await call.context.store.getBucket(call.bucket);
  // An empty element means us-east-1, as it does at Amazon.
  sendXml(call, 'LocationConstraint', {});
}
