/**
 * copy: within the store, by CopyObject for a whole object and by parts for a run of one, or for more than one request
 * copies. In the worker only.
 */
import { CopyObjectCommand, UploadPartCopyCommand } from '@aws-sdk/client-s3';
import { isStoreError, StoreError } from '@ebb/protocol';
import { S3_PART_BYTES_MAX, S3_TRANSFERS_PER_OBJECT_MAX } from '../../limits.ts';
import type { RemoteHeaders, RemoteObject } from '../tier.ts';
import type { S3Connection } from './s3-connection.ts';
import { endsBefore } from './s3-download.ts';
import { connectionFailed } from './s3-failures.ts';
import type { UploadJournal } from './s3-journal.ts';
import { type Multipart, runMultipart } from './s3-multipart.ts';
import { deleteObject, headObject, quoteEtag, replaced, unquoteEtag } from './s3-objects.ts';
import type { S3Calls } from './s3-protocol.ts';
import { putObject } from './s3-upload.ts';
import { runSideBySide } from './side-by-side.ts';

type Copy = S3Calls['copy']['argument'];

/** @throws as `RemoteTier.copy` */
export async function copyObject(
  connection: S3Connection,
  { journal, copy }: { readonly journal: UploadJournal; readonly copy: Copy },
  signal: AbortSignal,
): Promise<RemoteObject> {
  const { from, to, offset, length } = copy;
  const found = await headObject(connection, from, signal);
  if (found === undefined) {
    throw new StoreError('data_lost', `copying ${from}: no such object in tier 2`);
  }
  if (copy.etag !== undefined && copy.etag !== found.etag) {
    throw replaced(from, copy.etag, found.etag);
  }
  if (offset + length > found.sizeBytes) throw endsBefore(from, offset + length);
  const { contentType, metadata } = found;
  if (length === 0) {
    return await putObject(
      connection,
      { journal, put: { key: to, sources: [], contentType, metadata } },
      signal,
    );
  }
  const source = { ...copy, etag: found.etag };
  const isWhole = length === found.sizeBytes && length <= S3_PART_BYTES_MAX;
  try {
    const made = isWhole
      ? await copyWhole(connection, source, signal)
      : await copyParts(connection, { journal, source, headers: found }, signal);
    await assertUnreplaced(connection, { source, made }, signal);
    return made;
  } catch (error) {
    // The caller asked for any content, and this one was replaced since.
    const isMixed = copy.etag === undefined && isStoreError(error, 'precondition_failed');
    throw isMixed ? connectionFailed(`${from} was replaced while it was copied`) : error;
  }
}

type Source = Copy & { readonly etag: string };

/** A store that ignores the condition copies whatever is there: what was there before and is after was so in between. */
async function assertUnreplaced(
  connection: S3Connection,
  { source, made }: { readonly source: Source; readonly made: RemoteObject },
  signal: AbortSignal,
): Promise<void> {
  const { from, to, etag } = source;
  if (made.etag === etag) return; // of what is no multipart upload it is the content's
  const now = await headObject(connection, from, signal);
  if (now?.etag === etag) return;
  await deleteObject(connection, { key: to, etag: made.etag }, signal);
  throw replaced(from, etag, now?.etag ?? null);
}

async function copyWhole(
  connection: S3Connection,
  source: Source,
  signal: AbortSignal,
): Promise<RemoteObject> {
  const { from, to, length, etag } = source;
  const stallMs = connection.config.settings.serverWorkMs;
  const doing = `copying ${from} to ${to}`;
  return await connection.request({ doing, signal, stallMs }, async (attempt) => {
    const command = new CopyObjectCommand({
      ...{ Bucket: connection.bucket, Key: to, CopySource: sourceOf(connection, from) },
      CopySourceIfMatch: quoteEtag(etag),
    });
    const output = await connection.client.send(command, { abortSignal: attempt.signal });
    return {
      sizeBytes: length,
      etag: unquoteEtag(output.CopyObjectResult?.ETag) ?? '',
      modifiedAtMs: output.CopyObjectResult?.LastModified?.getTime() ?? connection.dateOf(output),
    };
  });
}

async function copyParts(
  connection: S3Connection,
  {
    journal,
    source,
    headers,
  }: {
    readonly journal: UploadJournal;
    readonly source: Source;
    readonly headers: RemoteHeaders;
  },
  signal: AbortSignal,
): Promise<RemoteObject> {
  const { to, length } = source;
  const { contentType, metadata } = headers;
  return await runMultipart(connection, journal, {
    ...{ key: to, headers: { contentType, metadata }, signal, hasChecksums: false },
    send: async (upload) => {
      const parts: { PartNumber: number; ETag: string | undefined }[] = [];
      const count = Math.ceil(length / S3_PART_BYTES_MAX);
      await runSideBySide(count, S3_TRANSFERS_PER_OBJECT_MAX, signal, async (index, stop) => {
        const etag = await copyPart(connection, { source, upload, index }, stop);
        parts[index] = { PartNumber: index + 1, ETag: etag };
      });
      return { parts, sizeBytes: length, crc32c: undefined };
    },
    // Nothing here tells the copy from what was there before.
    findWhole: () => Promise.resolve(undefined),
  });
}

async function copyPart(
  connection: S3Connection,
  {
    source,
    upload,
    index,
  }: { readonly source: Source; readonly upload: Multipart; readonly index: number },
  signal: AbortSignal,
): Promise<string | undefined> {
  const { from, offset, length, etag } = source;
  const first = offset + index * S3_PART_BYTES_MAX;
  const last = Math.min(first + S3_PART_BYTES_MAX, offset + length) - 1;
  const stallMs = connection.config.settings.serverWorkMs;
  const doing = `copying ${from} from ${first}`;
  return await connection.request({ doing, signal, stallMs }, async (attempt) => {
    const command = new UploadPartCopyCommand({
      ...{ Bucket: upload.bucket, Key: upload.key, UploadId: upload.uploadId },
      ...{ PartNumber: index + 1, CopySource: sourceOf(connection, from) },
      ...{ CopySourceRange: `bytes=${first}-${last}`, CopySourceIfMatch: quoteEtag(etag) },
    });
    const output = await connection.client.send(command, { abortSignal: attempt.signal });
    return output.CopyPartResult?.ETag;
  });
}

function sourceOf({ bucket }: S3Connection, key: string): string {
  return `${bucket}/${key.split('/').map(encodeURIComponent).join('/')}`;
}
