/**
 * put: runs of local files become one object. In the worker only.
 *
 * I1  All or nothing: one request, or a multipart upload that is completed only when every run was verified.
 * I2  What is in the store is what was read: the store verified it against a CRC32C that it repeats in its answer. Of one that
 *     repeats none, or takes none, the ETag is the MD5 of what arrived; where that is not what was sent, it is read back.
 *
 * Not lib-storage's `Upload`: it reads a stream from front to back into buffers, and checks what came out of them. Here each
 * part is read from its place in the files, when its turn comes and again when it is repeated, and nothing is buffered.
 */
import { createHash, type Hash } from 'node:crypto';
import {
  type CompletedPart,
  PutObjectCommand,
  type PutObjectCommandOutput,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import { isStoreError, MiB, StoreError } from '@ebb/protocol';
import { combineCrc32c, formatCrc32c } from '../../checksum.ts';
import {
  S3_PART_BYTES_MAX,
  S3_PARTS_MAX,
  S3_TRANSFER_BYTES,
  S3_TRANSFERS_PER_OBJECT_MAX,
} from '../../limits.ts';
import type { RemoteObject, RemoteSource } from '../tier.ts';
import { type Attempt, type S3Connection, stopIfAborted } from './s3-connection.ts';
import { checksumOf } from './s3-download.ts';
import { connectionFailed } from './s3-failures.ts';
import { toS3Headers } from './s3-headers.ts';
import type { UploadJournal } from './s3-journal.ts';
import { abortLeftovers, type Condition, type Multipart, runMultipart } from './s3-multipart.ts';
import { assertReplaces, deleteObject, headObject, quoteEtag, unquoteEtag } from './s3-objects.ts';
import type { S3Calls } from './s3-protocol.ts';
import { checkSources, combinedCrc32c, lengthOf, openBody, sliceSources } from './s3-source.ts';
import { runSideBySide } from './side-by-side.ts';

type Put = S3Calls['put']['argument'];

interface Content {
  readonly sizeBytes: number;
  readonly crc32c: number;
}

/** @throws as `RemoteTier.put`; `too_large` */
export async function putObject(
  connection: S3Connection,
  { journal, put }: { readonly journal: UploadJournal; readonly put: Put },
  signal: AbortSignal,
): Promise<RemoteObject> {
  // One that fails is among the leftovers still.
  await abortLeftovers(connection, journal);
  const sizeBytes = lengthOf(put.sources);
  const isSmall = sizeBytes <= connection.config.settings.singlePutBytesMax;
  const { key, replaces } = put;
  // Right before, for a store that takes no conditions, or does not keep them.
  if (replaces !== undefined) await assertReplaces(connection, { key, replaces }, signal);
  const { checksums, partChecksums } = connection;
  const send = async (isConditional: boolean): Promise<RemoteObject> => {
    const condition = isConditional ? conditionOf(replaces) : {};
    const sendWith = async (hasChecksums: boolean): Promise<RemoteObject> => {
      const how = { hasChecksums, condition };
      return isSmall
        ? await putWhole(connection, put, how, signal)
        : await putParts(connection, { journal, put, how }, signal);
    };
    if (checksums.isRefused) return await sendWith(false);
    return await (isSmall ? checksums : partChecksums).use(sendWith);
  };
  return replaces === undefined ? await send(false) : await connection.putConditions.use(send);
}

/** What goes with a request of this store. */
interface How {
  readonly hasChecksums: boolean;
  readonly condition: Condition;
}

function conditionOf(replaces: string | null | undefined): Condition {
  if (replaces === undefined) return {};
  return replaces === null ? { IfNoneMatch: '*' } : { IfMatch: quoteEtag(replaces) };
}

async function putWhole(
  connection: S3Connection,
  { key, sources, ...headers }: Put,
  how: How,
  signal: AbortSignal,
): Promise<RemoteObject> {
  const sizeBytes = lengthOf(sources);
  const known = combinedCrc32c(sources);
  const checked =
    known === undefined || sizeBytes === 0 ? await checkSources(sources, signal) : sources;
  const crc32c = combinedCrc32c(checked) as number;
  const doing = `putting ${key}`;
  const { object, isVerified } = await connection.request(
    { doing, signal, holdsBytes: S3_TRANSFER_BYTES },
    async (attempt) => {
      const checksum = checksumHeader(how, crc32c);
      const md5 = createMd5(connection, how);
      const answer = await sendBody<PutObjectCommandOutput>(
        { sources: checked, attempt, isObject: true, md5 },
        async (body) => {
          const command = new PutObjectCommand({
            ...{ Bucket: connection.bucket, Key: key, ...toS3Headers(headers) },
            ...{ ContentLength: sizeBytes, Body: body, ...checksum, ...how.condition },
          });
          return await connection.client.send(command, { abortSignal: attempt.signal });
        },
      );
      const etag = unquoteEtag(answer.ETag) ?? '';
      const modifiedAtMs = connection.dateOf(answer);
      const isVerified =
        isEchoed(connection, answer.ChecksumCRC32C, crc32c, doing) || isMd5(md5, etag);
      return { object: { sizeBytes, etag, modifiedAtMs }, isVerified };
    },
  );
  if (!isVerified) await verifyStored(connection, { key, object, crc32c }, signal);
  return object;
}

async function putParts(
  connection: S3Connection,
  { journal, put, how }: { readonly journal: UploadJournal; readonly put: Put; readonly how: How },
  signal: AbortSignal,
): Promise<RemoteObject> {
  const { key, sources, ...headers } = put;
  const sizeBytes = lengthOf(sources);
  let crc32c = 0;
  let isVerified = true;
  const object = await runMultipart(connection, journal, {
    ...{ key, headers, signal, ...how },
    send: async (upload) => {
      const sent = await sendParts(connection, { upload, sources, sizeBytes, how }, signal);
      crc32c = sent.crc32c;
      isVerified = sent.isVerified;
      return { parts: sent.parts, sizeBytes, crc32c: toBase64(crc32c) };
    },
    findWhole: async () => {
      const content = { sizeBytes, crc32c };
      return await findStored(connection, { key, content }, signal);
    },
  });
  if (!isVerified) await verifyStored(connection, { key, object, crc32c }, signal);
  return object;
}

async function sendParts(
  connection: S3Connection,
  {
    upload,
    sources,
    sizeBytes,
    how,
  }: {
    readonly upload: Multipart;
    readonly how: How;
    readonly sources: readonly RemoteSource[];
    readonly sizeBytes: number;
  },
  signal: AbortSignal,
): Promise<Content & { readonly parts: readonly CompletedPart[]; readonly isVerified: boolean }> {
  const partBytes = partBytesFor(sizeBytes, connection.config.settings.partBytes);
  const count = Math.ceil(sizeBytes / partBytes);
  const parts: CompletedPart[] = [];
  const read: (readonly (RemoteSource & { readonly crc32c: number })[])[] = [];
  let isVerified = true;
  await runSideBySide(count, S3_TRANSFERS_PER_OBJECT_MAX, signal, async (index, stop) => {
    const offset = index * partBytes;
    const length = Math.min(partBytes, sizeBytes - offset);
    // The header with the checksum goes before the bytes: they are read once for it, and once to be sent.
    const slices = await checkSources(sliceSources(sources, { offset, length }), stop);
    read[index] = slices;
    const crc32c = combinedCrc32c(slices) as number;
    const part = { number: index + 1, slices, content: { sizeBytes: length, crc32c } };
    const sent = await sendPart(connection, { upload, part, how }, stop);
    parts[index] = sent.part;
    isVerified &&= sent.isVerified;
  });
  const slices = read.flat();
  assertRunsMatch(sources, slices);
  return { sizeBytes, crc32c: combinedCrc32c(slices) as number, parts, isVerified };
}

async function sendPart(
  connection: S3Connection,
  {
    upload,
    part,
    how,
  }: {
    readonly upload: Multipart;
    readonly how: How;
    readonly part: {
      readonly number: number;
      readonly slices: readonly RemoteSource[];
      readonly content: Content;
    };
  },
  signal: AbortSignal,
): Promise<{ readonly part: CompletedPart; readonly isVerified: boolean }> {
  const { sizeBytes, crc32c } = part.content;
  const doing = `putting part ${part.number} of ${upload.key}`;
  return await connection.request(
    { doing, signal, holdsBytes: S3_TRANSFER_BYTES },
    async (attempt) => {
      const checksum = checksumHeader(how, crc32c);
      const md5 = createMd5(connection, how);
      const output = await sendBody(
        { sources: part.slices, attempt, isObject: false, md5 },
        async (body) => {
          const command = new UploadPartCommand({
            ...{ Bucket: upload.bucket, Key: upload.key, UploadId: upload.uploadId },
            ...{ PartNumber: part.number, ContentLength: sizeBytes, Body: body, ...checksum },
          });
          return await connection.client.send(command, { abortSignal: attempt.signal });
        },
      );
      const isVerified =
        isEchoed(connection, output.ChecksumCRC32C, crc32c, doing) ||
        isMd5(md5, unquoteEtag(output.ETag) ?? '');
      return { part: { PartNumber: part.number, ETag: output.ETag, ...checksum }, isVerified };
    },
  );
}

/** A body of files for one attempt, which are closed when it has ended, however it did. */
async function sendBody<T>(
  body: {
    readonly sources: readonly RemoteSource[];
    readonly attempt: Attempt;
    readonly isObject: boolean;
    readonly md5: Hash | undefined;
  },
  send: (stream: ReturnType<typeof openBody>['stream'] | Uint8Array) => Promise<T>,
): Promise<T> {
  const { sources, attempt, isObject, md5 } = body;
  if (lengthOf(sources) === 0) return await send(new Uint8Array(0));
  const opened = openBody(sources, attempt, { isObject, md5 });
  try {
    return await send(opened.stream);
  } finally {
    await opened.close();
  }
}

/** As small as asked, and as large as 10,000 of them must be; in whole MiB. @throws `too_large` */
export function partBytesFor(sizeBytes: number, partBytesMin: number): number {
  const needed = Math.ceil(sizeBytes / S3_PARTS_MAX / MiB) * MiB;
  const partBytes = Math.max(partBytesMin, needed);
  if (partBytes <= S3_PART_BYTES_MAX) return partBytes;
  const message = `${sizeBytes} bytes do not fit into ${S3_PARTS_MAX} parts`;
  throw new StoreError('too_large', message, { sizeBytes });
}

/** The runs that were cut into several parts. @throws `data_corrupt` */
function assertRunsMatch(
  sources: readonly RemoteSource[],
  slices: readonly (RemoteSource & { readonly crc32c: number })[],
): void {
  let next = 0;
  for (const { file, offset, length, crc32c: expected } of sources) {
    let crc = 0;
    for (let done = 0; done < length; next++) {
      const slice = slices[next] as (typeof slices)[number];
      crc = combineCrc32c(crc, slice.crc32c, slice.length);
      done += slice.length;
    }
    if (expected === null || crc === expected) continue;
    const sums = { file, expected: formatCrc32c(expected), found: formatCrc32c(crc) };
    const message = `${file} from ${offset} has CRC32C ${sums.found}, expected ${sums.expected}`;
    throw new StoreError('data_corrupt', message, sums);
  }
}

function checksumHeader(
  { hasChecksums }: How,
  crc32c: number,
): { readonly ChecksumCRC32C?: string } {
  return hasChecksums ? { ChecksumCRC32C: toBase64(crc32c) } : {};
}

/** Computed only where the store does not check a CRC32C: it costs more than all else that is done with the bytes. */
function createMd5({ repeatsChecksums }: S3Connection, { hasChecksums }: How): Hash | undefined {
  return hasChecksums && repeatsChecksums ? undefined : createHash('md5');
}

function isMd5(md5: Hash | undefined, etag: string): boolean {
  return md5 !== undefined && md5.digest('hex') === etag.toLowerCase();
}

/** False when the store repeats none. @throws `io_failed` when it took the bytes for others */
function isEchoed(
  connection: S3Connection,
  echo: string | undefined,
  crc32c: number,
  doing: string,
): boolean {
  connection.repeatsChecksums = echo !== undefined;
  if (echo === undefined) return false;
  if (echo === toBase64(crc32c)) return true;
  throw connectionFailed(`${doing}: the store got other bytes than were sent`);
}

/** I2, of a store without checksums. What is wrong there goes away. @throws `io_failed` */
async function verifyStored(
  connection: S3Connection,
  {
    key,
    object,
    crc32c,
  }: { readonly key: string; readonly object: RemoteObject; readonly crc32c: number },
  signal: AbortSignal,
): Promise<void> {
  const range = { key, offset: 0, length: object.sizeBytes, etag: object.etag };
  try {
    if ((await checksumOf(connection, range, signal)) === crc32c) return;
    await deleteObject(connection, { key, etag: object.etag }, signal);
  } catch (error) {
    // Others have replaced it since: what is there is theirs.
    if (isStoreError(error, 'precondition_failed')) return;
    if (isStoreError(error, 'data_lost'))
      throw connectionFailed(`putting ${key}: it is not there, though the store took it`);
    throw error;
  }
  throw connectionFailed(`putting ${key}: the store holds other bytes than were sent`);
}

async function findStored(
  connection: S3Connection,
  { key, content }: { readonly key: string; readonly content: Content },
  signal: AbortSignal,
): Promise<RemoteObject | undefined> {
  stopIfAborted(signal);
  const found = await headObject(connection, key, signal);
  if (found?.sizeBytes !== content.sizeBytes) return undefined;
  const range = { key, offset: 0, length: found.sizeBytes, etag: found.etag };
  const crc = await checksumOf(connection, range, signal);
  const { sizeBytes, etag, modifiedAtMs } = found;
  return crc === content.crc32c ? { sizeBytes, etag, modifiedAtMs } : undefined;
}

/** As S3 writes it: big-endian, in base64. */
function toBase64(crc: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(crc);
  return bytes.toString('base64');
}
