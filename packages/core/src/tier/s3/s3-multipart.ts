/**
 * A multipart upload from its creation to its end: completed, or aborted with nothing left. In the worker only.
 *
 * I1  Nothing is visible under the key before `complete`, and no part stays after a failure: what cannot be aborted now is
 *     noted in the journal, and aborted before the next put.
 * I2  An answer to `complete` that was lost is not taken for a failure: the object is looked at, and is the answer when it is
 *     what was sent.
 */
import {
  AbortMultipartUploadCommand,
  type CompletedPart,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  type CreateMultipartUploadCommandOutput,
} from '@aws-sdk/client-s3';
import { S3_CLEANUP_MS } from '../../limits.ts';
import type { RemoteHeaders, RemoteObject } from '../tier.ts';
import { type S3Connection, stopIfAborted } from './s3-connection.ts';
import { connectionFailed } from './s3-failures.ts';
import { toS3Headers } from './s3-headers.ts';
import type { NotedUpload, UploadJournal } from './s3-journal.ts';
import { isNoSuchUpload, unquoteEtag } from './s3-objects.ts';

export interface Multipart extends NotedUpload {
  /** The store checks the whole object against a CRC32C of all of it, and not only each part. */
  readonly checksWhole: boolean;
}

export interface Condition {
  readonly IfMatch?: string;
  readonly IfNoneMatch?: string;
}

export interface MultipartWork {
  readonly key: string;
  readonly headers: RemoteHeaders;
  readonly signal: AbortSignal;
  /** Whether parts come with a CRC32C. */
  readonly hasChecksums: boolean;
  /** The ETag of the completion. */
  readonly condition?: Condition;
  /** Sends the parts. */
  send(upload: Multipart): Promise<{
    readonly parts: readonly CompletedPart[];
    readonly sizeBytes: number;
    /** Of the whole; undefined: not known. */
    readonly crc32c: string | undefined;
  }>;
  /** The object, when it is what was sent. Asked when the completion failed. */
  findWhole(): Promise<RemoteObject | undefined>;
}

/** @throws what `send` throws; `io_failed`, `tier_full`, `aborted` */
export async function runMultipart(
  connection: S3Connection,
  journal: UploadJournal,
  work: MultipartWork,
): Promise<RemoteObject> {
  const upload = await create(connection, work);
  let isSent = false;
  try {
    await journal.note(upload);
    const sent = await work.send(upload);
    stopIfAborted(work.signal);
    isSent = true;
    const completed = await complete(connection, upload, sent, work.condition ?? {});
    await journal.forget(upload);
    return completed;
  } catch (error) {
    await abortUpload(connection, journal, upload);
    const whole = isSent ? await work.findWhole().catch(() => undefined) : undefined;
    if (whole === undefined) throw error;
    return whole;
  }
}

/** Those of earlier processes and those that could not be aborted. Returns how many are gone now. @throws `io_failed` */
export async function abortLeftovers(
  connection: S3Connection,
  journal: UploadJournal,
): Promise<number> {
  let aborted = 0;
  for (const upload of await journal.leftovers()) {
    if (!(await abortUpload(connection, journal, upload))) break;
    aborted++;
  }
  return aborted;
}

/** Not aborted with its caller: an upload that was created must be known, so that it can be taken back. */
async function create(
  connection: S3Connection,
  { key, headers, signal, hasChecksums }: MultipartWork,
): Promise<Multipart> {
  const { bucket, client } = connection;
  stopIfAborted(signal);
  const output = await connection.request(
    // One try: a second would leave the first's upload behind, when only its answer was lost.
    { doing: `beginning the upload of ${key}`, signal: NEVER, attempts: 1 },
    async (attempt): Promise<CreateMultipartUploadCommandOutput> => {
      const command = new CreateMultipartUploadCommand({
        ...{ Bucket: bucket, Key: key, ...toS3Headers(headers) },
        ...(hasChecksums ? { ChecksumAlgorithm: 'CRC32C', ChecksumType: 'FULL_OBJECT' } : {}),
      });
      return await client.send(command, { abortSignal: attempt.signal });
    },
  );
  const { UploadId: uploadId } = output;
  if (uploadId === undefined || uploadId === '')
    throw connectionFailed(
      `beginning the upload of ${key}: the answer of ${connection.config.target.endpoint ?? 'the store'} names no upload, so it is none of an object store`,
    );
  const checksWhole = hasChecksums && output.ChecksumType === 'FULL_OBJECT';
  return { bucket, key, uploadId, checksWhole };
}

async function complete(
  connection: S3Connection,
  { bucket, key, uploadId, checksWhole }: Multipart,
  sent: Awaited<ReturnType<MultipartWork['send']>>,
  condition: Condition,
): Promise<RemoteObject> {
  const { client, config } = connection;
  const stallMs = config.settings.serverWorkMs;
  const doing = `completing the upload of ${key}`;
  return await connection.request({ doing, signal: NEVER, stallMs }, async (attempt) => {
    const command = new CompleteMultipartUploadCommand({
      ...{ Bucket: bucket, Key: key, UploadId: uploadId, ...condition },
      MultipartUpload: { Parts: [...sent.parts] },
      ...(checksWhole && sent.crc32c !== undefined
        ? { ChecksumCRC32C: sent.crc32c, ChecksumType: 'FULL_OBJECT' }
        : {}),
    });
    const output = await client.send(command, { abortSignal: attempt.signal });
    return {
      sizeBytes: sent.sizeBytes,
      etag: unquoteEtag(output.ETag) ?? '',
      modifiedAtMs: connection.dateOf(output),
    };
  });
}

/** False when the store did not answer: then it is tried again with the next put. */
async function abortUpload(
  connection: S3Connection,
  journal: UploadJournal,
  upload: NotedUpload,
): Promise<boolean> {
  const { bucket, key, uploadId } = upload;
  const options = { doing: `aborting the upload of ${key}`, signal: NEVER, stallMs: S3_CLEANUP_MS };
  try {
    await connection.request(options, async (attempt) => {
      const command = new AbortMultipartUploadCommand({
        ...{ Bucket: bucket, Key: key, UploadId: uploadId },
      });
      await connection.client.send(command, { abortSignal: attempt.signal });
    });
  } catch (error) {
    if (!isNoSuchUpload(error)) {
      journal.leave(upload);
      return false;
    }
  }
  await journal.forget(upload);
  return true;
}

const NEVER = new AbortController().signal;
