/**
 * Default encryption of a bucket, SSE-S3 (AES256): the encryption of the bucket itself (docs/encryption.md), with the node's
 * keys. It is chosen while the bucket is empty; KMS keys and keys of customers are not offered.
 */
import { readBody } from '../body.ts';
import { type S3Call, sendEmpty, sendXml } from '../call.ts';
import { parseXml } from '../read-xml.ts';
import { S3Error } from '../s3-error.ts';

const XML_BYTES_MAX = 64 * 1024;
const ALGORITHM = 'AES256';

export async function getBucketEncryption(call: S3Call): Promise<void> {
  const { policy } = await call.context.store.getBucket(call.bucket);
  if (policy.encrypted !== true)
    throw new S3Error('ServerSideEncryptionConfigurationNotFoundError', undefined, {
      BucketName: call.bucket,
    });
  const byDefault = { SSEAlgorithm: ALGORITHM };
  sendXml(call, 'ServerSideEncryptionConfiguration', {
    Rule: { ApplyServerSideEncryptionByDefault: byDefault, BucketKeyEnabled: 'false' },
  });
}

export async function putBucketEncryption(call: S3Call): Promise<void> {
  const { store } = call.context;
  await store.getBucket(call.bucket);
  const body = await readBody(call, XML_BYTES_MAX);
  const root = await parseXml(body, 'ServerSideEncryptionConfiguration');
  const algorithm = root
    .child('Rule')
    .child('ApplyServerSideEncryptionByDefault')
    .textOf('SSEAlgorithm');
  if (algorithm === undefined) throw new S3Error('MalformedXML');
  if (algorithm !== ALGORITHM)
    throw new S3Error('NotImplemented', `Encryption by ${algorithm} is not offered, only AES256.`);
  await store.setEncrypted(call.bucket, true);
  sendEmpty(call, 200);
}

/** Encrypted objects are not decrypted for it: the bucket must be empty. */
export async function deleteBucketEncryption(call: S3Call): Promise<void> {
  await call.context.store.setEncrypted(call.bucket, false);
  sendEmpty(call, 204);
}
