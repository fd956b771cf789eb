/**
 * A request's body into a staged write: room first, then the client is told to send, then its bytes are taken, then the
 * caller makes them visible. Whatever goes wrong, the staged bytes are gone before the answer is sent.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ObjectRef, StagedWrite } from '@ebb/core';
import { StoreError } from '@ebb/protocol';
import { UNKNOWN_LENGTH_RESERVE_BYTES } from '../../limits.ts';
import type { WriteCondition } from './conditions.ts';
import type { DataContext } from './data-context.ts';
import { type ReceivedBody, type ReceiveOptions, receiveBody } from './receive-body.ts';

export interface BodyRequest {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** The client sends its body once we say so. */
  readonly expectsContinue: boolean;
  /** Bytes that arrive, framing included; undefined: not announced. */
  readonly arrivingBytes: number | undefined;
  /** Bytes of the object; undefined: not announced. */
  readonly dataBytes: number | undefined;
  readonly receive?: ReceiveOptions;
  readonly jobId?: string;
  /** Told once, before the first byte is taken. */
  readonly onStaged?: ((writeId: number) => void) | undefined;
}

/** @param commit Checks what came, and commits it. */
export async function stageBody<T>(
  ref: ObjectRef,
  body: BodyRequest,
  { store, owner, pieces }: DataContext,
  commit: (staged: StagedWrite, received: ReceivedBody) => Promise<T>,
): Promise<T> {
  const { request, arrivingBytes, receive } = body;
  const gone = new AbortController();
  const onClose = (): void => gone.abort();
  request.once('close', onClose);
  const staged = await store.stage(owner, ref, {
    reserveBytes: body.dataBytes ?? UNKNOWN_LENGTH_RESERVE_BYTES,
    signal: gone.signal,
    ...(body.jobId === undefined ? {} : { jobId: body.jobId }),
  });
  try {
    request.removeListener('close', onClose);
    body.onStaged?.(staged.writeId);
    // Only now may the client send the body: every refusal that needs no bytes is behind us.
    if (body.expectsContinue) body.response.writeContinue();
    const writeOut = (bytes: Buffer, position: number): Promise<void> =>
      store.write(owner, staged.writeId, bytes, position);
    const received = await receiveBody(request, pieces, writeOut, {
      ...receive,
      arrivingBytes,
      sums: store.createBodySums(),
      // What was announced and does not come is others' to write into.
      onSilence: () => store.shrink(owner, staged.writeId),
    });
    return await commit(staged, received);
  } catch (error) {
    await store.abort(owner, staged.writeId);
    throw error;
  }
}

/** Saves a client the upload when the condition fails already. What counts is the check in the commit. */
export async function refuseEarly(
  ref: ObjectRef,
  condition: WriteCondition,
  { store }: DataContext,
): Promise<void> {
  const { ifMatch, ifNoneMatch } = condition;
  if (ifMatch === undefined && ifNoneMatch === undefined) return;
  const etag = (await store.find(ref))?.object.etag;
  const where = { bucket: ref.bucket, key: ref.key };
  if (ifNoneMatch === true && etag !== undefined)
    throw new StoreError('already_exists', `${ref.bucket}/${ref.key} exists`, where);
  const isOther = ifMatch === '*' ? etag === undefined : etag !== ifMatch;
  if ((ifMatch !== undefined && isOther) || (etag !== undefined && etag === ifNoneMatch))
    throw new StoreError(
      'precondition_failed',
      `${ref.bucket}/${ref.key} is not the version the request names`,
      ifMatch === undefined ? { ...where, unwanted: etag ?? '' } : { ...where, wanted: ifMatch },
    );
}
