/** GET and HEAD of an object: bytes go from the tier through pooled pieces to the socket, with back-pressure. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ObjectRef, OpenedObject } from '@ebb/core';
import { HEADERS, StoreError } from '@ebb/protocol';
import { SMALL_BODY_BYTES } from '../../limits.ts';
import { freeNow } from '../free-now.ts';
import { checkReadConditions, rangeApplies } from './conditions.ts';
import type { DataContext } from './data-context.ts';
import { objectHeaders, tierName, viewHeaders } from './object-headers.ts';
import { parseRange } from './range.ts';

export async function headObject(
  request: IncomingMessage,
  response: ServerResponse,
  ref: ObjectRef,
  { store }: DataContext,
): Promise<void> {
  const view = await store.head(ref);
  const decision = checkReadConditions(request.headers, view.object);
  if (decision === 'failed') throw conditionFailed(ref);
  const headers = viewHeaders(view);
  if (decision === 'proceed') headers['content-length'] = view.object.sizeBytes;
  response.writeHead(decision === 'proceed' ? 200 : 304, headers);
  response.end();
}

export async function getObject(
  request: IncomingMessage,
  response: ServerResponse,
  ref: ObjectRef,
  context: DataContext,
): Promise<void> {
  const { store, owner } = context;
  const opened = await store.open(owner, ref);
  try {
    await answer(request, response, opened, context);
  } finally {
    store.release(owner, [opened.leaseId]);
  }
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  opened: OpenedObject,
  context: DataContext,
): Promise<void> {
  const { object } = opened;
  const decision = checkReadConditions(request.headers, object);
  if (decision === 'failed') throw conditionFailed(object);
  const headers = objectHeaders(object);
  const nearest = opened.extents[0];
  if (nearest !== undefined) headers[HEADERS.tier] = tierName(nearest.tier);
  if (decision === 'not-modified') {
    response.writeHead(304, headers);
    response.end();
    return;
  }
  const range = parseRange(
    rangeApplies(header(request, 'if-range'), object) ? request.headers.range : undefined,
    object.sizeBytes,
  );
  if (range.kind === 'unsatisfiable') {
    throw new StoreError(
      'range_invalid',
      `"${request.headers.range}" of an object of ${object.sizeBytes} bytes`,
      {
        sizeBytes: object.sizeBytes,
      },
    );
  }
  const [start, end] = range.kind === 'part' ? [range.start, range.end] : [0, object.sizeBytes];
  headers['content-length'] = end - start;
  if (range.kind === 'part')
    headers['content-range'] = `bytes ${start}-${end - 1}/${object.sizeBytes}`;
  const status = range.kind === 'part' ? 206 : 200;

  if (end - start <= SMALL_BODY_BYTES) {
    const body = Buffer.allocUnsafe(end - start);
    if (body.length > 0) await context.store.read(context.owner, opened.leaseId, body, start);
    response.writeHead(status, headers);
    response.end(body, () => freeNow(body));
    return;
  }
  await sendPieces(response, { status, headers, opened, start, end }, context);
}

/** Reads the next piece while the one before is on its way out; holds two at most. */
async function sendPieces(
  response: ServerResponse,
  what: {
    status: number;
    headers: Parameters<ServerResponse['writeHead']>[1];
    opened: OpenedObject;
    start: number;
    end: number;
  },
  { store, owner, pieces }: DataContext,
): Promise<void> {
  let sending: Promise<void> | undefined;
  try {
    for (let at = what.start; at < what.end; ) {
      let piece = pieces.tryTake();
      if (piece === undefined) {
        await sending;
        sending = undefined;
        piece = await pieces.take();
      }
      const bytes = Math.min(piece.length, what.end - at);
      try {
        const view = piece.subarray(0, bytes);
        await store.read(owner, what.opened.leaseId, view, at);
        await sending;
        sending = undefined;
        // After the first read, so that an object whose bytes are gone gets a status of its own.
        if (at === what.start) response.writeHead(what.status, what.headers);
        sending = send(response, view);
      } catch (error) {
        pieces.give(piece);
        throw error;
      }
      const sent = piece;
      sending = sending.finally(() => pieces.give(sent));
      sending.catch(() => undefined); // awaited on the next turn, or below
      at += bytes;
    }
  } finally {
    await sending;
  }
  response.end();
}

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(', ') : value;
}

/** Resolves when the socket has taken the bytes, so that the piece may be used again. */
function send(response: ServerResponse, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const onClose = (): void => reject(new StoreError('aborted', 'the client went away'));
    if (response.destroyed) {
      onClose();
      return;
    }
    response.once('close', onClose);
    response.write(bytes, (error) => {
      response.removeListener('close', onClose);
      if (error) onClose();
      else resolve();
    });
  });
}

function conditionFailed(ref: ObjectRef): StoreError {
  return new StoreError(
    'precondition_failed',
    `${ref.bucket}/${ref.key} is not the version the request names`,
    {
      bucket: ref.bucket,
      key: ref.key,
    },
  );
}
