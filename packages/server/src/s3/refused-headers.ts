/** What S3 offers by header and this node does not: refused clearly, because ignoring it would break a promise. */
import type { IncomingHttpHeaders } from 'node:http';
import { S3Error } from './s3-error.ts';

const REFUSED: Readonly<Record<string, string>> = {
  'x-amz-object-lock-mode': 'Object Lock is not offered.',
  'x-amz-object-lock-retain-until-date': 'Object Lock is not offered.',
  'x-amz-object-lock-legal-hold': 'Object Lock is not offered.',
  'x-amz-server-side-encryption-customer-algorithm':
    'Server-side encryption with customer keys is not offered.',
  'x-amz-server-side-encryption-aws-kms-key-id': 'Server-side encryption with KMS is not offered.',
  'x-amz-write-offset-bytes': 'Appending to objects is not offered.',
  'x-amz-if-match-size': 'Conditions on the size are offered for directory buckets only.',
  'x-amz-if-match-last-modified-time':
    'Conditions on the time are offered for directory buckets only.',
};
const PRIVATE_ACLS = new Set(['private', 'bucket-owner-full-control', 'bucket-owner-read']);
const OTHER_ACLS = new Set([
  ...['public-read', 'public-read-write', 'authenticated-read'],
  ...['aws-exec-read', 'log-delivery-write'],
]);

/** @throws {S3Error} `NotImplemented`, `AccessControlListNotSupported`, `InvalidArgument` */
export function refuseUnoffered(headers: IncomingHttpHeaders): void {
  for (const name in headers) {
    const reason = REFUSED[name];
    if (reason !== undefined) throw new S3Error('NotImplemented', reason, { Header: name });
    if (name.startsWith('x-amz-grant-')) throw new S3Error('AccessControlListNotSupported');
  }
  const encryption = headers['x-amz-server-side-encryption'];
  if (encryption !== undefined)
    throw new S3Error('NotImplemented', 'Server-side encryption by header is not offered.', {
      Header: 'x-amz-server-side-encryption',
    });
  const acl = headers['x-amz-acl'];
  if (acl === undefined || PRIVATE_ACLS.has(String(acl))) return;
  if (OTHER_ACLS.has(String(acl))) throw new S3Error('AccessControlListNotSupported');
  throw new S3Error('InvalidArgument', undefined, {
    ArgumentName: 'x-amz-acl',
    ArgumentValue: String(acl),
  });
}
