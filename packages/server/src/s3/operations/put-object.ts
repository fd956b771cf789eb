/** PutObject: stage, fill, check everything that was claimed, commit. */
import type { ObjectRef, StagedWrite } from '@ebb/core';
import { ACKS, type Ack, HEADERS } from '@ebb/protocol';
import { parseWriteCondition, type WriteCondition } from '../../http/data/conditions.ts';
import type { ReceivedBody } from '../../http/data/receive-body.ts';
import { refuseEarly, stageBody } from '../../http/data/stage-body.ts';
import {
  DEFAULT_CONTENT_TYPE,
  formatChecksum,
  parseAttributes,
  parseMetadata,
} from '../attributes.ts';
import { planBody } from '../body.ts';
import { headerOf, type S3Call, sendEmpty } from '../call.ts';
import { type Algorithm, type Checksum, checksumHeader } from '../checksums.ts';
import { S3Error } from '../s3-error.ts';
import { tellVersion } from './versions.ts';

export async function putObject(call: S3Call): Promise<void> {
  const { request, context } = call;
  const ref = { bucket: call.bucket, key: call.key };
  const condition = parseWriteCondition(request.headers);
  await assertTargetThere(call, condition);
  await refuseEarly(ref, condition, context);
  const attributes = parseAttributes(request.headers);
  const metadata = parseMetadata(request.headers);
  const contentType = headerOf(call, 'content-type') || DEFAULT_CONTENT_TYPE;
  const ack = parseAck(headerOf(call, HEADERS.ack));
  const { committed, checksum } = await storeBody(call, ref, async (received) => {
    const found = received.checksum;
    return await context.store.commit(context.owner, received.staged.writeId, {
      sizeBytes: received.sizeBytes,
      crc32c: received.crc32c,
      blocks: received.blocks,
      metadata,
      attributes:
        found === undefined ? attributes : { ...attributes, checksum: formatChecksum(found) },
      ...condition,
      ...(ack === undefined ? {} : { ack }),
      contentType,
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

/** If-Match names an object that must be there: S3 tells one that is missing from one that is another. */
export async function assertTargetThere(
  { context, bucket, key }: S3Call,
  { ifMatch }: WriteCondition,
): Promise<void> {
  if (ifMatch !== undefined && (await context.store.find({ bucket, key })) === undefined)
    throw new S3Error('NoSuchKey', undefined, { Key: key });
}

export interface StoredBody {
  readonly staged: StagedWrite;
  readonly sizeBytes: number;
  readonly crc32c: number;
  readonly blocks: ReceivedBody['blocks'];
  readonly checksum: Checksum | undefined;
}

interface StoreBodyOptions {
  /** The algorithm of the checksum that is computed where the client asks for none. */
  readonly algorithm?: Algorithm;
  /** Told once, before the first byte is taken. */
  readonly onStaged?: (writeId: number) => void;
}

/** Receives the body into a staged write under `ref`, checks it, and lets `commit` make it visible. Aborts on any failure. */
export async function storeBody<T>(
  call: S3Call,
  ref: ObjectRef,
  commit: (body: StoredBody) => Promise<T>,
  { algorithm, onStaged }: StoreBodyOptions = {},
): Promise<{ readonly committed: T; readonly checksum: Checksum | undefined }> {
  const { request, response, expectsContinue, context } = call;
  // S3 takes no object of which neither a length nor an encoding tells where it ends.
  const { 'content-length': length, 'transfer-encoding': coding } = request.headers;
  if (length === undefined && coding === undefined) throw new S3Error('MissingContentLength');
  const plan = planBody({ headers: request.headers, auth: call.auth, algorithm });
  const body = { request, response, expectsContinue, ...plan, onStaged };
  return await stageBody(ref, body, context, async (staged, received) => {
    const checksum = await plan.finish(received);
    return { committed: await commit({ ...received, staged, checksum }), checksum };
  });
}

export function parseAck(text: string | undefined): Ack | undefined {
  if (text === undefined) return undefined;
  if (ACKS.includes(text as Ack)) return text as Ack;
  throw new S3Error('InvalidArgument', `${HEADERS.ack} must be one of ${ACKS.join(', ')}`, {
    ArgumentName: HEADERS.ack,
    ArgumentValue: text,
  });
}
