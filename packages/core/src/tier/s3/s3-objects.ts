/** Objects of a target, without their content: found, deleted, listed. In the worker only. */
import {
  DeleteObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
} from '@aws-sdk/client-s3';
import { isStoreError, StoreError } from '@ebb/protocol';
import type { RemoteHeaders, RemoteObject } from '../tier.ts';
import type { S3Connection } from './s3-connection.ts';
import { connectionFailed, s3CodeOf } from './s3-failures.ts';
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
    return await connection.request({ doing, signal, isLookup: true }, async (attempt) => {
      const command = new HeadObjectCommand({ Bucket: bucket, Key: key });
      const output = await client.send(command, { abortSignal: attempt.signal });
      return {
        ...factsOf({ size: output.ContentLength, etag: output.ETag }, doing),
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
      if (!isStoreError(connection.toError(error, doing, true), 'data_lost')) throw error;
      throw Object.assign(error as Error, { name: 'NoSuchBucket' });
    }
  });
}

/** `etag`: only that object. @throws `precondition_failed`, `io_failed`, `aborted` */
export async function deleteObject(
  connection: S3Connection,
  { key, etag }: S3Calls['delete']['argument'],
  signal: AbortSignal,
): Promise<undefined> {
  if (etag !== undefined && !(await isThere(connection, { key, etag }, signal))) return undefined;
  try {
    if (etag === undefined) await sendDelete(connection, { key, condition: {} }, signal);
    else
      await connection.deleteConditions.use(async (isUsed) => {
        const condition = isUsed ? { IfMatch: quoteEtag(etag) } : {};
        await sendDelete(connection, { key, condition }, signal);
      });
  } catch (error) {
    if (isStoreError(error, 'data_lost')) return await assertGone(connection, key, signal);
    // A repeated request, of which the first was done: then it is gone.
    const isRefused = etag !== undefined && isStoreError(error, 'precondition_failed');
    if (!isRefused || (await isThere(connection, { key, etag }, signal))) throw error;
  }
  return undefined;
}

/** A proxy whose store is away says 404 of everything: that an object went is believed when a look says so as well. @throws `io_failed` */
export async function assertGone(
  connection: S3Connection,
  key: string,
  signal: AbortSignal,
): Promise<undefined> {
  const found = await headObject(connection, key, signal);
  if (found === undefined) return undefined;
  throw connectionFailed(`${key}: the store answered that there is none, and then that there is`);
}

/** False: there is none. @throws `precondition_failed` when it is another one */
async function isThere(
  connection: S3Connection,
  { key, etag }: { readonly key: string; readonly etag: string },
  signal: AbortSignal,
): Promise<boolean> {
  const found = await headObject(connection, key, signal);
  if (found !== undefined && found.etag !== etag) throw replaced(key, etag, found.etag);
  return found !== undefined;
}

async function sendDelete(
  connection: S3Connection,
  { key, condition }: { readonly key: string; readonly condition: { readonly IfMatch?: string } },
  signal: AbortSignal,
): Promise<void> {
  const doing = `deleting ${key}`;
  await connection.request({ doing, signal, isLookup: true }, async (attempt) => {
    const command = new DeleteObjectCommand({ Bucket: connection.bucket, Key: key, ...condition });
    await connection.client.send(command, { abortSignal: attempt.signal });
  });
}

/**
 * Asks once, with the first object that is read under a condition, whether the store keeps conditions: it must refuse an ETag that
 * nothing has. The caller does not wait for it, and what fails tells nothing.
 */
export function probeConditions(connection: S3Connection, key: string): void {
  if (connection.isProbed) return;
  connection.isProbed = true;
  const doing = `asking for ${key} under a condition`;
  void connection
    .request({ doing, signal: NEVER, attempts: 1 }, async (attempt) => {
      const asked = { Bucket: connection.bucket, Key: key, IfMatch: quoteEtag('ebb-none') };
      await connection.client.send(new HeadObjectCommand(asked), { abortSignal: attempt.signal });
    })
    .then(
      () => connection.remarks.add('ignores_conditions'),
      () => undefined,
    );
}

const NEVER = new AbortController().signal;

/** @throws `precondition_failed` when something else than `replaces` is there */
export async function assertReplaces(
  connection: S3Connection,
  { key, replaces }: { readonly key: string; readonly replaces: string | null },
  signal: AbortSignal,
): Promise<void> {
  const found = (await headObject(connection, key, signal))?.etag ?? null;
  if (found !== replaces) throw replaced(key, replaces, found);
}

export function replaced(key: string, expected: string | null, found: string | null): StoreError {
  const has = found === null ? 'does not exist' : `has the ETag ${found}`;
  const wanted = expected === null ? 'nothing was expected' : `expected ${expected}`;
  const message = `${key} ${has} in tier 2, ${wanted}: somebody replaced it there`;
  return new StoreError('precondition_failed', message, { key, expected, found });
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
      ...factsOf({ size: entry.Size, etag: entry.ETag }, doing),
      modifiedAtMs: entry.LastModified?.getTime() ?? 0,
    }));
    if (output.IsTruncated === true && output.NextContinuationToken === undefined)
      throw connectionFailed(`${doing}: the store says that there is more, and not where`);
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

/**
 * An answer without a length or an ETag is none of an object store: it comes from a proxy that compresses, or a page that
 * answers everything. Taking it for an empty object would lose one that is not.
 */
function factsOf(
  { size, etag }: { readonly size: number | undefined; readonly etag: string | undefined },
  doing: string,
): { readonly sizeBytes: number; readonly etag: string } {
  const plain = unquoteEtag(etag);
  if (size !== undefined && plain !== undefined && plain !== '')
    return { sizeBytes: size, etag: plain };
  const what = size === undefined ? 'length' : 'ETag';
  throw new StoreError(
    'io_failed',
    `${doing}: the answer has no ${what}, so it is none of an object store`,
  );
}

export function quoteEtag(etag: string): string {
  return `"${etag}"`;
}

export function unquoteEtag(etag: string | undefined): string | undefined {
  // A proxy that compresses answers calls the ETag weak.
  return etag?.replace(/^(?:W\/)?"(.*)"$/, '$1');
}

export function isNoSuchUpload(error: unknown): boolean {
  return s3CodeOf(error) === 'NoSuchUpload';
}
