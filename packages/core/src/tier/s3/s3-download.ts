/**
 * Ranges of an object, read into memory, into a file, or only for their checksum. In the worker only.
 *
 * I1  What comes is counted: an answer that ends early, or is another range than asked for, is an error and never content.
 * I2  All ranges of one read or fetch are of one content: the first answer's ETag is a condition of the others, and the ETag of
 *     each answer is compared with it before a byte is used. A store that ignores conditions gives no other content for it.
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { GetObjectCommand, type GetObjectCommandOutput } from '@aws-sdk/client-s3';
import { isStoreError, StoreError } from '@ebb/protocol';
import { combineCrc32c, crc32c, formatCrc32c } from '../../checksum.ts';
import {
  S3_FETCH_RANGE_BYTES_MAX,
  S3_RANGE_BYTES,
  S3_TRANSFER_BYTES,
  S3_TRANSFERS_PER_OBJECT_MAX,
} from '../../limits.ts';
import { toStoreError } from '../fs-error.ts';
import type { RangeAnswer, SignedRequest } from './range-sockets.ts';
import type { Attempt, S3Connection } from './s3-connection.ts';
import { connectionFailed } from './s3-failures.ts';
import {
  assertGone,
  headObject,
  probeConditions,
  quoteEtag,
  replaced,
  unquoteEtag,
} from './s3-objects.ts';
import { runSideBySide } from './side-by-side.ts';

export interface KeyRange {
  readonly key: string;
  readonly offset: number;
  readonly length: number;
  readonly etag?: string;
}

type Content = Pick<RangeAnswer, 'pieces' | 'destroy'>;

/** Takes a piece of a range, and where it begins in it; the piece is overwritten afterwards. */
type Sink = (chunk: Uint8Array, at: number) => Promise<void> | void;

interface Received {
  readonly etag: string;
  readonly crc32c: number;
}

/** @throws `data_lost`, `range_invalid`, `precondition_failed`, `io_failed`, `aborted` */
export async function readRange(
  connection: S3Connection,
  range: KeyRange,
  signal: AbortSignal,
): Promise<{ readonly bytes: Uint8Array<ArrayBuffer>; readonly etag: string }> {
  let bytes: Uint8Array<ArrayBuffer> | undefined;
  const sink: Sink = (chunk, at) => {
    // Not before there is room for it.
    bytes ??= new Uint8Array(range.length);
    bytes.set(chunk, at);
  };
  const holdsBytes = Math.max(S3_TRANSFER_BYTES, range.length);
  const { etag } = await receive(connection, range, { signal, sink, holdsBytes });
  return { bytes: bytes ?? new Uint8Array(0), etag };
}

/** To the start of a file that exists. @throws as `readRange`; `data_corrupt` */
export async function fetchRange(
  connection: S3Connection,
  options: KeyRange & { readonly file: string; readonly crc32c: number | null },
  signal: AbortSignal,
): Promise<number> {
  const { file, crc32c: expected, ...range } = options;
  const handle = await openTarget(file);
  try {
    const sink: Sink = async (chunk, at) => await writeAll(handle, chunk, at);
    let received = await receiveRanges(connection, range, signal, sink);
    if (expected === null || received.crc32c === expected) return received.crc32c;
    // It may have gone wrong on the way. Corrupt is what is read wrong twice.
    received = await receiveRanges(connection, range, signal, sink);
    if (received.crc32c === expected) return received.crc32c;
    throw corrupt(range.key, expected, received.crc32c);
  } catch (error) {
    throw toStoreError(error, `writing ${file}`);
  } finally {
    await handle.close();
  }
}

/** Of a whole object. @throws as `readRange` */
export async function checksumOf(
  connection: S3Connection,
  range: KeyRange,
  signal: AbortSignal,
): Promise<number> {
  return (await receiveRanges(connection, range, signal, () => undefined)).crc32c;
}

async function receiveRanges(
  connection: S3Connection,
  whole: KeyRange,
  signal: AbortSignal,
  sink: Sink,
): Promise<Received> {
  const rangeBytes = rangeBytesOf(whole.length);
  const count = Math.max(1, Math.ceil(whole.length / rangeBytes));
  const crcs: number[] = [];
  let { etag } = whole;
  const lengthAt = (index: number): number =>
    Math.min(rangeBytes, whole.length - index * rangeBytes);
  const receiveAt = async (index: number, stop: AbortSignal): Promise<void> => {
    const begin = index * rangeBytes;
    const range = {
      ...{ key: whole.key, offset: whole.offset + begin, length: lengthAt(index) },
      ...(etag === undefined ? {} : { etag }),
    };
    const put: Sink = (chunk, at) => sink(chunk, begin + at);
    const received = await receive(connection, range, { signal: stop, sink: put });
    crcs[index] = received.crc32c;
    etag ??= received.etag;
  };
  const isAny = etag === undefined;
  // The first says which content it is, unless the caller does.
  if (isAny) await receiveAt(0, signal);
  const done = isAny ? 1 : 0;
  await runSideBySide(count - done, S3_TRANSFERS_PER_OBJECT_MAX, signal, async (index, stop) => {
    await receiveAt(index + done, stop).catch((error: unknown) => {
      // The caller asked for any content, but not for two.
      const isMixed = isAny && isStoreError(error, 'precondition_failed');
      throw isMixed ? connectionFailed(`${whole.key} was replaced while it was read`) : error;
    });
  });
  const crc = crcs.reduce((sum, crc, index) => combineCrc32c(sum, crc, lengthAt(index)), 0);
  return { etag: etag ?? '', crc32c: crc };
}

function rangeBytesOf(length: number): number {
  const shareBytes = Math.ceil(length / S3_TRANSFERS_PER_OBJECT_MAX);
  return Math.min(Math.max(shareBytes, S3_RANGE_BYTES), S3_FETCH_RANGE_BYTES_MAX);
}

interface Receiving {
  readonly signal: AbortSignal;
  readonly sink: Sink;
  readonly holdsBytes?: number;
}

/** One range, tried again from its start when it is cut. */
async function receive(
  connection: S3Connection,
  range: KeyRange,
  receiving: Receiving,
): Promise<Received> {
  try {
    return await receiveRange(connection, range, receiving);
  } catch (error) {
    if (isStoreError(error, 'data_lost')) await assertGone(connection, range.key, receiving.signal);
    if (!isStoreError(error, 'range_invalid') || range.etag === undefined) throw error;
    // A store that ignores the condition says of a shorter successor that the range is beyond its end.
    const { key, etag } = range;
    const found = await headObject(connection, key, receiving.signal);
    if (found === undefined || found.etag === etag) throw error;
    connection.remarks.add('ignores_conditions');
    throw replaced(key, etag, found.etag);
  }
}

async function receiveRange(
  connection: S3Connection,
  range: KeyRange,
  { signal, sink, holdsBytes = S3_TRANSFER_BYTES }: Receiving,
): Promise<Received> {
  const options = { doing: `reading ${range.key}`, signal, holdsBytes, isLookup: true };
  if (range.length === 0) return await receiveNothing(connection, range, signal);
  return await connection.request(options, async (attempt) => {
    const { key, offset, length, etag } = range;
    const command = new GetObjectCommand({
      ...{ Bucket: connection.bucket, Key: key, Range: `bytes=${offset}-${offset + length - 1}` },
      ...(etag === undefined ? {} : { IfMatch: quoteEtag(etag) }),
    });
    let body: Content | undefined;
    // Signed and understood by the SDK, and carried past it: see range-sockets.ts.
    command.middlewareStack.add(
      (next) => async (args) => {
        const answer = await connection.ranges.get(args.request as SignedRequest, attempt.signal);
        if (answer === undefined) return await next(args);
        const { statusCode, headers } = answer;
        body = { pieces: answer.pieces, destroy: answer.destroy };
        return { response: { statusCode, headers, body: Readable.from([]) } };
      },
      { step: 'deserialize', priority: 'low', name: 'ebbRange' },
    );
    try {
      const output = await connection.client.send(command, { abortSignal: attempt.signal });
      body ??= toContent(output.Body as Readable);
      assertContent(connection, range, output);
      if (etag !== undefined) probeConditions(connection, key);
      assertRange(range, output);
      const crc = await drain(body.pieces, { range, attempt, sink });
      return { etag: unquoteEtag(output.ETag) ?? '', crc32c: crc };
    } finally {
      body?.destroy();
    }
  });
}

function toContent(stream: Readable): Content {
  return {
    pieces: stream as AsyncIterable<Uint8Array>,
    destroy: () => void stream.destroy(),
  };
}

/** S3 has no empty range. */
async function receiveNothing(
  connection: S3Connection,
  { key, offset, etag }: KeyRange,
  signal: AbortSignal,
): Promise<Received> {
  const found = await headObject(connection, key, signal);
  if (found === undefined) {
    throw new StoreError('data_lost', `reading ${key}: no such object in tier 2`);
  }
  if (etag !== undefined && found.etag !== etag) throw replaced(key, etag, found.etag);
  if (offset > found.sizeBytes) throw endsBefore(key, offset);
  return { etag: found.etag, crc32c: 0 };
}

/** Returns the CRC32C of what came. */
async function drain(
  pieces: AsyncIterable<Uint8Array>,
  { range, attempt, sink }: { range: KeyRange; attempt: Attempt; sink: Sink },
): Promise<number> {
  let crc = 0;
  let at = 0;
  for await (const chunk of pieces) {
    attempt.progress();
    if (at + chunk.length > range.length) {
      throw connectionFailed(`reading ${range.key}: more came than the store announced`);
    }
    crc = crc32c(chunk, crc);
    await sink(chunk, at);
    at += chunk.length;
  }
  if (at === range.length) return crc;
  throw connectionFailed(`reading ${range.key}: the answer ended after ${at} of ${range.length}`);
}

/** I2. @throws `precondition_failed`; `io_failed` for an answer that does not say what it is of */
function assertContent(
  connection: S3Connection,
  { key, etag }: KeyRange,
  output: GetObjectCommandOutput,
): void {
  const found = unquoteEtag(output.ETag);
  if (found === undefined || found === '')
    throw new StoreError('io_failed', `reading ${key}: the store names no ETag`);
  if (etag === undefined || found === etag) return;
  connection.remarks.add('ignores_conditions');
  throw replaced(key, etag, found);
}

/** @throws `range_invalid`; `io_failed` for an answer to another question */
function assertRange({ key, offset, length }: KeyRange, output: GetObjectCommandOutput): void {
  const { ContentRange, ContentLength } = output;
  const [, first, last, size] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(ContentRange ?? '') ?? [];
  const end = offset + length;
  if (first === undefined) {
    // The whole object: a store may answer so where that is what was asked for.
    if (ContentLength !== undefined && ContentLength < end) throw endsBefore(key, end);
    if (offset === 0 && ContentLength === length) return;
    throw new StoreError('io_failed', `reading ${key}: the store gives no ranges`);
  }
  if (Number(size) < end) throw endsBefore(key, end);
  if (Number(first) !== offset || Number(last) !== end - 1) {
    throw connectionFailed(`reading ${key}: asked for ${offset}-${end - 1}, got ${ContentRange}`);
  }
}

async function openTarget(file: string): Promise<FileHandle> {
  try {
    return await open(file, constants.O_WRONLY | constants.O_NOFOLLOW);
  } catch (error) {
    throw toStoreError(error, `opening ${file}`);
  }
}

async function writeAll(handle: FileHandle, chunk: Uint8Array, at: number): Promise<void> {
  try {
    for (let done = 0; done < chunk.length; ) {
      done += (await handle.write(chunk, done, chunk.length - done, at + done)).bytesWritten;
    }
  } catch (error) {
    throw toStoreError(error, 'writing what was fetched');
  }
}

export function endsBefore(key: string, end: number): StoreError {
  return new StoreError('range_invalid', `${key} ends before ${end}`, { key, end });
}

function corrupt(key: string, expected: number, crc: number): StoreError {
  const sums = { key, expected: formatCrc32c(expected), found: formatCrc32c(crc) };
  const message = `${key} has CRC32C ${sums.found} in tier 2, expected ${sums.expected}`;
  return new StoreError('data_corrupt', message, sums);
}
