/**
 * What S3 offers by header and this node does not: refused clearly, by whatever operation, because ignoring it would break
 * a promise. Headers that change nothing here are not refused: who pays for a request, what an MFA device says, that
 * governance is bypassed where nothing is governed.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { checksumHeader, isAlgorithm } from './checksums.ts';
import { S3Error } from './s3-error.ts';

const REFUSED: Readonly<Record<string, string>> = {
  'x-amz-write-offset-bytes': 'Appending to objects is not offered.',
  'x-amz-if-match-size': 'Conditions on the size are offered for directory buckets only.',
  'x-amz-if-match-last-modified-time':
    'Conditions on the time are offered for directory buckets only.',
  'x-amz-if-match-initiated-time': 'Conditions on the time are offered for directory buckets only.',
};
const REFUSED_PREFIXES: readonly (readonly [prefix: string, reason: string])[] = [
  ['x-amz-object-lock-', 'Object Lock is not offered.'],
  ['x-amz-server-side-encryption', 'Server-side encryption by header is not offered.'],
  ['x-amz-copy-source-server-side-encryption', 'Server-side encryption by header is not offered.'],
];
const CHECKSUM_PREFIX = checksumHeader('');
/** They begin as checksums do. */
const ABOUT_CHECKSUMS = new Set(['algorithm', 'mode', 'type'].map(checksumHeader));
const PRIVATE_ACLS = new Set(['private', 'bucket-owner-full-control', 'bucket-owner-read']);
const OTHER_ACLS = new Set([
  ...['public-read', 'public-read-write', 'authenticated-read'],
  ...['aws-exec-read', 'log-delivery-write'],
]);

/** @throws {S3Error} `NotImplemented`, `AccessControlListNotSupported`, `InvalidArgument` */
export function refuseUnoffered(headers: IncomingHttpHeaders): void {
  for (const name in headers) {
    if (!name.startsWith('x-amz-')) continue;
    const reason = reasonAgainst(name);
    if (reason !== undefined) throw new S3Error('NotImplemented', reason, { Header: name });
    if (name.startsWith('x-amz-grant-')) throw new S3Error('AccessControlListNotSupported');
  }
  const acl = headers['x-amz-acl'];
  if (acl === undefined || PRIVATE_ACLS.has(String(acl))) return;
  if (OTHER_ACLS.has(String(acl))) throw new S3Error('AccessControlListNotSupported');
  throw new S3Error('InvalidArgument', undefined, {
    ArgumentName: 'x-amz-acl',
    ArgumentValue: String(acl),
  });
}

function reasonAgainst(header: string): string | undefined {
  if (header.startsWith(CHECKSUM_PREFIX)) {
    const isKnown =
      ABOUT_CHECKSUMS.has(header) ||
      isAlgorithm(header.slice(CHECKSUM_PREFIX.length).toUpperCase());
    return isKnown ? undefined : 'This checksum algorithm is not offered.';
  }
  return REFUSED[header] ?? REFUSED_PREFIXES.find(([prefix]) => header.startsWith(prefix))?.[1];
}
