/**
 * Bytes of an opened object go from the tier through buffers to the socket, with back-pressure.
 *
 * I1  A reader who is quick has two pieces at most: one on its way out, the next one being read. Who has not taken the
 *     first after ANSWER_STALL_MS gives the second back, and has one buffer from then on until he is quick again.
 * I2  When there is no piece, a small buffer of the connection's own does: no reader waits for another.
 * I3  A reader who takes nothing of a buffer for BODY_WINDOW_MS is cut: the peer sees that the body is not whole.
 */
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { OpenedObject } from '@ebb/core';
import { StoreError } from '@ebb/protocol';
import { ANSWER_STALL_MS, BODY_WINDOW_MS, SMALL_BODY_BYTES } from '../../limits.ts';
import type { BufferPool } from '../buffer-pool.ts';
import { freeNow } from '../free-now.ts';
import { settlesWithin } from '../settles-within.ts';
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

interface Borrowed {
  readonly bytes: Buffer;
  giveBack(): void;
}

function borrowForAnswer(pieces: BufferPool, peer: string, isSlow: boolean): Borrowed {
  const piece = isSlow ? undefined : pieces.tryTakeForAnswer(peer);
  if (piece !== undefined) return { bytes: piece, giveBack: () => pieces.give(piece) };
  const own = Buffer.allocUnsafeSlow(SMALL_BODY_BYTES);
  return { bytes: own, giveBack: () => freeNow(own) };
}

async function sendPieces(
  response: ServerResponse,
  what: Sent,
  { store, owner, pieces }: DataContext,
): Promise<void> {
  const peer = response.socket?.remoteAddress ?? '';
  let sending: Promise<void> | undefined;
  let isSlow = false;
  const sent = async (): Promise<void> => {
    await sending;
    sending = undefined;
  };
  try {
    for (let at = what.start; at < what.end; ) {
      if (isSlow) await sent();
      const { bytes, giveBack } = borrowForAnswer(pieces, peer, isSlow);
      const view = bytes.subarray(0, Math.min(bytes.length, what.end - at));
      try {
        await store.read(owner, what.opened.leaseId, view, at);
        isSlow = sending !== undefined && !(await settlesWithin(sending, ANSWER_STALL_MS));
        if (!isSlow) await sent();
      } catch (error) {
        giveBack();
        throw error;
      }
      if (isSlow) {
        giveBack(); // I1: it is read again when it is wanted
        continue;
      }
      // After the first read, so that an object whose bytes are gone gets a status of its own.
      if (at === what.start) response.writeHead(what.status, what.headers);
      sending = send(response, view).finally(giveBack);
      sending.catch(() => undefined); // awaited on the next turn, or below
      at += view.length;
    }
  } finally {
    await sending;
  }
  response.end();
}

/** Resolves when the socket has taken the bytes, so that the memory may be used again. */
export function send(response: ServerResponse, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const onClose = (): void => {
      clearTimeout(cut);
      reject(new StoreError('aborted', 'the client went away'));
    };
    const cut = setTimeout(() => response.destroy(), BODY_WINDOW_MS); // I3
    if (response.destroyed) {
      onClose();
      return;
    }
    response.once('close', onClose);
    response.write(bytes, (error) => {
      response.removeListener('close', onClose);
      if (error) onClose();
      else {
        clearTimeout(cut);
        resolve();
      }
    });
  });
}
