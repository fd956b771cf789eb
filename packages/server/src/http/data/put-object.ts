/** PUT of an object: stage, fill, commit. Whatever goes wrong, the staged bytes are gone before the answer is sent. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type Committed, formatCrc32c, type ObjectRef, type StagedWrite } from '@ebb/core';
import { HEADERS, StoreError } from '@ebb/protocol';
import { SMALL_BODY_BYTES, UNKNOWN_LENGTH_RESERVE_BYTES } from '../../limits.ts';
import { formatETag, parseWriteCondition, type WriteCondition } from './conditions.ts';
import type { DataContext } from './data-context.ts';
import { type PutHeaders, parsePutHeaders } from './object-headers.ts';
import { type ReceivedBody, receiveBody, receiveSmallBody } from './receive-body.ts';

export async function putObject(
  request: IncomingMessage,
  response: ServerResponse,
  ref: ObjectRef,
  context: DataContext & { readonly expectsContinue: boolean },
): Promise<void> {
  const { store, owner } = context;
  const headers = parsePutHeaders(request);
  const condition = parseWriteCondition(request.headers);
  await refuseEarly(ref, condition, context);
  const gone = new AbortController();
  const onClose = (): void => gone.abort();
  request.once('close', onClose);
  const staged = await store.stage(owner, ref, {
    reserveBytes: headers.sizeBytes ?? UNKNOWN_LENGTH_RESERVE_BYTES,
    signal: gone.signal,
    ...(headers.jobId === undefined ? {} : { jobId: headers.jobId }),
  });
  try {
    request.removeListener('close', onClose);
    // Only now may the client send the body: every refusal that needs no bytes is behind us.
    if (context.expectsContinue) response.writeContinue();
    const committed = await fillAndCommit(request, { staged, headers, condition }, context);
    sendCommitted(response, committed);
  } catch (error) {
    await store.abort(owner, staged.writeId);
    throw error;
  }
}

/** Saves a client the upload when the condition fails already. What counts is the check in the commit. */
async function refuseEarly(
  ref: ObjectRef,
  condition: WriteCondition,
  { store }: DataContext,
): Promise<void> {
  if (condition.ifMatch === undefined && condition.ifNoneMatch !== true) return;
  const found = await store.find(ref);
  const where = { bucket: ref.bucket, key: ref.key };
  if (condition.ifNoneMatch === true && found !== undefined)
    throw new StoreError('already_exists', `${ref.bucket}/${ref.key} exists`, where);
  if (condition.ifMatch !== undefined && found?.object.etag !== condition.ifMatch)
    throw new StoreError(
      'precondition_failed',
      `${ref.bucket}/${ref.key} is not the version the request names`,
      where,
    );
}

async function fillAndCommit(
  request: IncomingMessage,
  what: {
    readonly staged: StagedWrite;
    readonly headers: PutHeaders;
    readonly condition: WriteCondition;
  },
  { store, owner, pieces }: DataContext,
): Promise<Committed> {
  const { staged, headers, condition } = what;
  const { writeId } = staged;
  const writeOut = (bytes: Buffer, position: number): Promise<void> =>
    store.write(owner, writeId, bytes, position);
  const body =
    headers.sizeBytes !== undefined && headers.sizeBytes <= SMALL_BODY_BYTES
      ? await receiveSmallBody(request, headers.sizeBytes, writeOut)
      : await receiveBody(request, pieces, writeOut);
  assertAsAnnounced(body, headers);
  return await store.commit(owner, writeId, {
    sizeBytes: body.sizeBytes,
    crc32c: body.crc32c,
    metadata: headers.metadata,
    ...condition,
    ...(headers.ack === undefined ? {} : { ack: headers.ack }),
    ...(headers.contentType === undefined ? {} : { contentType: headers.contentType }),
  });
}

function assertAsAnnounced(body: ReceivedBody, headers: PutHeaders): void {
  if (headers.sizeBytes !== undefined && body.sizeBytes !== headers.sizeBytes)
    throw new StoreError(
      'length_mismatch',
      `${headers.sizeBytes} bytes announced, ${body.sizeBytes} came`,
      {
        announcedBytes: headers.sizeBytes,
        receivedBytes: body.sizeBytes,
      },
    );
  if (headers.crc32c !== undefined && body.crc32c !== headers.crc32c)
    throw new StoreError(
      'checksum_mismatch',
      `${HEADERS.crc32c} says ${formatCrc32c(headers.crc32c)}, the bytes have ${formatCrc32c(body.crc32c)}`,
      {
        announced: formatCrc32c(headers.crc32c),
        received: formatCrc32c(body.crc32c),
      },
    );
}

function sendCommitted(response: ServerResponse, { object, durability }: Committed): void {
  response.writeHead(201, {
    'content-length': 0,
    etag: formatETag(object.etag),
    [HEADERS.version]: String(object.version),
    [HEADERS.durability]: durability,
    ...(object.crc32c === null ? {} : { [HEADERS.crc32c]: formatCrc32c(object.crc32c) }),
  });
  response.end();
}
