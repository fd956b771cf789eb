/** Objects of a target, without their content: found, deleted, listed. In the worker only. */
import {
  DeleteObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
} from '@aws-sdk/client-s3';
import { isStoreError } from '@ebb/protocol';
import type { RemoteHeaders, RemoteObject } from '../tier.ts';
import type { S3Connection } from './s3-connection.ts';
import { s3CodeOf } from './s3-failures.ts';
import { fromS3Headers } from './s3-headers.ts';
import type { S3Calls } from './s3-protocol.ts';

/** @throws `io_failed`, `aborted` */
export async function headObject(
  connection: S3Connection,
  key: string,
  signal: AbortSignal,
): Promise<(RemoteObject & RemoteHeaders) | undefined> {
  const { bucket, client } = connection;
  try {
    const doing = `looking for ${key}`;
    return await connection.request({ doing, signal }, async (attempt) => {
      const command = new HeadObjectCommand({ Bucket: bucket, Key: key });
      const output = await client.send(command, { abortSignal: attempt.signal });
      return {
        sizeBytes: output.ContentLength ?? 0,
        etag: unquoteEtag(output.ETag) ?? '',
        modifiedAtMs: output.LastModified?.getTime() ?? 0,
        ...fromS3Headers(output),
      };
    });
  } catch (error) {
    if (!isStoreError(error, 'data_lost')) throw error;
    await assertBucket(connection, signal);
    return undefined;
  }
}

/** The answer to HEAD has no body, so a missing bucket looks like a missing object; and that is not the same at all. */
async function assertBucket(connection: S3Connection, signal: AbortSignal): Promise<void> {
  const { bucket, client } = connection;
  const doing = 'looking for the bucket';
  await connection.request({ doing, signal }, async (attempt) => {
    try {
      const command = new HeadBucketCommand({ Bucket: bucket });
      await client.send(command, { abortSignal: attempt.signal });
    } catch (error) {
      if (!isStoreError(connection.toError(error, doing), 'data_lost')) throw error;
      throw Object.assign(error as Error, { name: 'NoSuchBucket' });
    }
  });
}

/** @throws `io_failed`, `aborted` */
export async function deleteObject(
  connection: S3Connection,
  key: string,
  signal: AbortSignal,
): Promise<undefined> {
  const { bucket, client } = connection;
  try {
    await connection.request({ doing: `deleting ${key}`, signal }, async (attempt) => {
      const command = new DeleteObjectCommand({ Bucket: bucket, Key: key });
      await client.send(command, { abortSignal: attempt.signal });
    });
  } catch (error) {
    if (!isStoreError(error, 'data_lost')) throw error;
  }
  return undefined;
}

/** One page. @throws `io_failed`, `aborted` */
export async function listObjects(
  connection: S3Connection,
  { keyPrefix, after }: S3Calls['list']['argument'],
  signal: AbortSignal,
): Promise<S3Calls['list']['result']> {
  const { bucket, client } = connection;
  const doing = `listing ${keyPrefix}`;
  return await connection.request({ doing, signal }, async (attempt) => {
    const command = new ListObjectsV2Command({
      ...{ Bucket: bucket, Prefix: keyPrefix, MaxKeys: PAGE_ENTRIES },
      // XML has no place for some characters that a key may have.
      EncodingType: 'url',
      ...(after === undefined ? {} : { ContinuationToken: after }),
    });
    const output = await client.send(command, { abortSignal: attempt.signal });
    const isEncoded = output.EncodingType === 'url';
    const entries = (output.Contents ?? []).map((entry) => ({
      key: isEncoded ? decodeKey(entry.Key ?? '') : (entry.Key ?? ''),
      sizeBytes: entry.Size ?? 0,
      etag: unquoteEtag(entry.ETag) ?? '',
      modifiedAtMs: entry.LastModified?.getTime() ?? 0,
    }));
    return {
      entries,
      next: output.IsTruncated === true ? output.NextContinuationToken : undefined,
    };
  });
}

const PAGE_ENTRIES = 1000;

/** A blank is sent as `+`, and a plus encoded. */
function decodeKey(encoded: string): string {
  return decodeURIComponent(encoded.replaceAll('+', ' '));
}

export function quoteEtag(etag: string): string {
  return `"${etag}"`;
}

export function unquoteEtag(etag: string | undefined): string | undefined {
  return etag?.replace(/^"(.*)"$/, '$1');
}

export function isNoSuchUpload(error: unknown): boolean {
  return s3CodeOf(error) === 'NoSuchUpload';
}
