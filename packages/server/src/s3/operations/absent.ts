/**
 * Configurations of S3 that this node has none of. Asked for one, it says what S3 says of a bucket without: clients look
 * before they act, and "there is none" is true. Setting one is refused, so that nobody counts on it; deleting what is not
 * there is no error, as everywhere in S3.
 */
import { type S3Call, sendEmpty, sendXml } from '../call.ts';
import { S3Error, type S3ErrorCode } from '../s3-error.ts';
import type { XmlElement } from '../xml.ts';

interface Absent {
  /** As a person calls it. */
  readonly what: string;
  /** What a GET is told: an error, or the document of a bucket that never had any. */
  readonly get: S3ErrorCode | { readonly root: string; readonly element: XmlElement };
  /** PUT says this instead of `NotImplemented`. */
  readonly put?: S3ErrorCode;
}

const NO_LOCK = 'Bucket is missing Object Lock Configuration';

export const ABSENT_OF_BUCKET: Readonly<Record<string, Absent>> = {
  accelerate: {
    what: 'Transfer acceleration',
    get: { root: 'AccelerateConfiguration', element: {} },
  },
  lifecycle: { what: 'Lifecycle', get: 'NoSuchLifecycleConfiguration' },
  logging: { what: 'Access logging', get: { root: 'BucketLoggingStatus', element: {} } },
  notification: {
    what: 'Notification',
    get: { root: 'NotificationConfiguration', element: {} },
  },
  'object-lock': { what: 'Object Lock', get: 'ObjectLockConfigurationNotFoundError' },
  ownershipControls: { what: 'Ownership controls', get: 'OwnershipControlsNotFoundError' },
  policy: { what: 'A bucket policy', get: 'NoSuchBucketPolicy' },
  policyStatus: { what: 'A bucket policy', get: 'NoSuchBucketPolicy' },
  publicAccessBlock: {
    what: 'A public access block',
    get: 'NoSuchPublicAccessBlockConfiguration',
  },
  replication: { what: 'Replication', get: 'ReplicationConfigurationNotFoundError' },
  requestPayment: {
    what: 'Requester pays',
    get: { root: 'RequestPaymentConfiguration', element: { Payer: 'BucketOwner' } },
  },
  tagging: { what: 'Tags of buckets', get: 'NoSuchTagSet' },
  website: { what: 'Website hosting', get: 'NoSuchWebsiteConfiguration' },
};

/** Both need Object Lock, which no bucket here has. */
export const ABSENT_OF_OBJECT: Readonly<Record<string, Absent>> = {
  retention: { what: NO_LOCK, get: 'InvalidRequest', put: 'InvalidRequest' },
  'legal-hold': { what: NO_LOCK, get: 'InvalidRequest', put: 'InvalidRequest' },
};

export async function getAbsent(call: S3Call, { what, get }: Absent): Promise<void> {
  await assertThere(call);
  if (typeof get !== 'string') sendXml(call, get.root, get.element);
  else
    throw new S3Error(
      get,
      get === 'InvalidRequest' ? what : undefined,
      call.key === '' ? { BucketName: call.bucket } : { Key: call.key },
    );
}

export async function putAbsent(call: S3Call, { what, put }: Absent): Promise<void> {
  await assertThere(call);
  if (put !== undefined) throw new S3Error(put, what);
  throw new S3Error('NotImplemented', `${what} is not offered.`);
}

export async function deleteAbsent(call: S3Call): Promise<void> {
  await assertThere(call);
  sendEmpty(call, 204);
}

async function assertThere({ bucket, key, context }: S3Call): Promise<void> {
  if (key === '') await context.store.getBucket(bucket);
  else await context.store.head({ bucket, key });
}
