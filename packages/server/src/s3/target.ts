/**
 * Which bucket and key an S3 request names: in the path (`/bucket/key`) or in the host (`bucket.DOMAIN/key`).
 * Keys are percent-encoded UTF-8; `/` in them stays as it is, empty segments count.
 */
import { KEY_BYTES_MAX } from '@ebb/core';
import { parseQuery, type Query } from './auth/canonical.ts';
import { S3Error } from './s3-error.ts';

export interface S3Target {
  /** '': the service itself. */
  readonly bucket: string;
  /** '': the bucket itself. */
  readonly key: string;
  /** The bucket stands in the host, not in the path. */
  readonly isVirtualHost: boolean;
  /** As sent, for the signature. */
  readonly rawPath: string;
  readonly query: Query;
}

/** @throws {S3Error} `KeyTooLongError` */
export function assertKeyLength(key: string): void {
  const sizeBytes = Buffer.byteLength(key);
  if (sizeBytes > KEY_BYTES_MAX)
    throw new S3Error('KeyTooLongError', undefined, {
      Size: sizeBytes,
      MaxSizeAllowed: KEY_BYTES_MAX,
    });
}

/**
 * @param domains Hosts whose sub-domains are buckets, lower case, without port.
 * @throws {S3Error} `InvalidArgument` when path or query are not UTF-8, `KeyTooLongError`, `InvalidBucketName`
 */
export function parseTarget(
  url: string,
  host: string | undefined,
  domains: readonly string[],
): S3Target {
  const queryAt = url.indexOf('?');
  const rawPath = queryAt === -1 ? url : url.slice(0, queryAt);
  try {
    const query = parseQuery(queryAt === -1 ? '' : url.slice(queryAt + 1));
    const named = splitPath(rawPath, bucketOfHost(host, domains));
    assertKeyLength(named.key);
    return { ...named, rawPath, query };
  } catch (error) {
    if (error instanceof URIError)
      throw new S3Error('InvalidArgument', 'Path and query must be percent-encoded UTF-8.');
    throw error;
  }
}

function splitPath(rawPath: string, hostBucket: string | undefined) {
  if (hostBucket !== undefined)
    return { bucket: hostBucket, key: decode(rawPath.slice(1)), isVirtualHost: true };
  const slash = rawPath.indexOf('/', 1);
  const end = slash === -1 ? rawPath.length : slash;
  // A path that names a key names a bucket before it: `//bucket/key` is not the service.
  if (slash === 1) throw new S3Error('InvalidBucketName', undefined, { BucketName: '' });
  return {
    ...{ bucket: decode(rawPath.slice(1, end)), key: decode(rawPath.slice(end + 1)) },
    isVirtualHost: false,
  };
}

function decode(text: string): string {
  return text.includes('%') ? decodeURIComponent(text) : text;
}

function bucketOfHost(host: string | undefined, domains: readonly string[]): string | undefined {
  const name = host?.replace(/:\d+$/, '').toLowerCase();
  if (name === undefined) return undefined;
  for (const domain of domains)
    if (name.endsWith(`.${domain}`) && name.length > domain.length + 1)
      return name.slice(0, -domain.length - 1);
  return undefined;
}
