/** Bytes of an opened object go from the tier through pooled pieces to the socket, with back-pressure. */
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { OpenedObject } from '@ebb/core';
import { StoreError } from '@ebb/protocol';
import { SMALL_BODY_BYTES } from '../../limits.ts';
import { freeNow } from '../free-now.ts';
import type { DataContext } from './data-context.ts';

interface Sent {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  readonly opened: OpenedObject;
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
}

/** Head and body of the answer. The lease stays the caller's. */
export async function sendRange(
  response: ServerResponse,
  what: Sent,
  context: DataContext,
): Promise<void> {
  const { status, headers, opened, start, end } = what;
  if (end - start > SMALL_BODY_BYTES) {
    await sendPieces(response, what, context);
    return;
  }
  const body = Buffer.allocUnsafe(end - start);
  if (body.length > 0) await context.store.read(context.owner, opened.leaseId, body, start);
  response.writeHead(status, headers);
  response.end(body, () => freeNow(body));
}

/** Reads the next piece while the one before is on its way out; holds two at most. */
async function sendPieces(
  response: ServerResponse,
  what: Sent,
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
