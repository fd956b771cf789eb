/** PutObject: stage, fill, check everything that was claimed, commit. */

import type { ObjectRef, StagedWrite } from '@ebb/core';
import { ACKS, type Ack, HEADERS } from '@ebb/protocol';
import { parseWriteCondition } from '../../http/data/conditions.ts';
import { receiveBody, receiveSmallBody } from '../../http/data/receive-body.ts';
import { SMALL_BODY_BYTES, UNKNOWN_LENGTH_RESERVE_BYTES } from '../../limits.ts';
import { formatChecksum, parseAttributes, parseMetadata } from '../attributes.ts';
import { type BodyPlan, planBody } from '../body.ts';
import { headerOf, type S3Call, sendEmpty } from '../call.ts';
import { type Checksum, checksumHeader } from '../checksums.ts';
import { refuseUnoffered } from '../refused-headers.ts';
import { S3Error } from '../s3-error.ts';
import { tellVersion } from './versions.ts';

export async function putObject(call: S3Call): Promise<void> {
  const { request, context } = call;
  refuseUnoffered(request.headers);
  const ref = { bucket: call.bucket, key: call.key };
  const condition = parseWriteCondition(request.headers);
  if (condition.ifMatch !== undefined && (await context.store.find(ref)) === undefined)
    throw new S3Error('NoSuchKey', undefined, { Key: call.key });
  const attributes = parseAttributes(request.headers);
  const metadata = parseMetadata(request.headers);
  const contentType = headerOf(call, 'content-type');
  const ack = parseAck(headerOf(call, HEADERS.ack));
  const { committed, checksum } = await storeBody(call, ref, async (received) => {
    const found = received.checksum;
    return await context.store.commit(context.owner, received.staged.writeId, {
      sizeBytes: received.sizeBytes,
      crc32c: received.crc32c,
      metadata,
      attributes:
        found === undefined ? attributes : { ...attributes, checksum: formatChecksum(found) },
      ...condition,
      ...(ack === undefined ? {} : { ack }),
      ...(contentType === undefined || contentType === '' ? {} : { contentType }),
    });
  });
  await tellVersion(call, committed.object);
  sendEmpty(call, 200, {
    etag: `"${committed.object.etag}"`,
    [HEADERS.durability]: committed.durability,
    ...(checksum === undefined
      ? {}
      : {
          [checksumHeader(checksum.algorithm)]: checksum.value,
          'x-amz-checksum-type': checksum.type,
        }),
  });
}

export interface StoredBody {
  readonly staged: StagedWrite;
  readonly sizeBytes: number;
  readonly crc32c: number;
  readonly checksum: Checksum | undefined;
}

/** Receives the body into a staged write under `ref`, checks it, and lets `commit` make it visible. Aborts on any failure. */
export async function storeBody<T>(
  call: S3Call,
  ref: ObjectRef,
  commit: (body: StoredBody) => Promise<T>,
): Promise<{ readonly committed: T; readonly checksum: Checksum | undefined }> {
  const { request, response, context } = call;
  const { store, owner } = context;
  const plan = planBody(call);
  const gone = new AbortController();
  const onClose = (): void => gone.abort();
  request.once('close', onClose);
  const staged = await store.stage(owner, ref, {
    reserveBytes: plan.dataBytes ?? UNKNOWN_LENGTH_RESERVE_BYTES,
    signal: gone.signal,
  });
  try {
    request.removeListener('close', onClose);
    if (call.expectsContinue) response.writeContinue();
    const received = await receive(call, plan, staged);
    const checksum = await plan.finish(received);
    return { committed: await commit({ ...received, staged, checksum }), checksum };
  } catch (error) {
    await store.abort(owner, staged.writeId);
    throw error;
  }
}

async function receive(
  { request, context }: S3Call,
  plan: BodyPlan,
  { writeId }: StagedWrite,
): ReturnType<typeof receiveBody> {
  const { store, owner, pieces } = context;
  const writeOut = (bytes: Buffer, position: number): Promise<void> =>
    store.write(owner, writeId, bytes, position);
  return plan.arrivingBytes !== undefined && plan.arrivingBytes <= SMALL_BODY_BYTES
    ? await receiveSmallBody(request, plan.arrivingBytes, writeOut, plan.receive)
    : await receiveBody(request, pieces, writeOut, plan.receive);
}

export function parseAck(text: string | undefined): Ack | undefined {
  if (text === undefined) return undefined;
  if (ACKS.includes(text as Ack)) return text as Ack;
  throw new S3Error('InvalidArgument', `${HEADERS.ack} must be one of ${ACKS.join(', ')}`, {
    ArgumentName: HEADERS.ack,
    ArgumentValue: text,
  });
}
