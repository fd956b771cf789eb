/**
 * The bytes of an opened object as the body of an answer: small ones at once, others in pieces (send-through.ts).
 *
 * I1  A reader who takes nothing of a buffer for BODY_WINDOW_MS is cut: the peer sees that the body is not whole.
 */
import type { OutgoingHttpHeaders, ServerResponse } from 'node:http';
import type { OpenedObject } from '@ebb/core';
import { isStoreError, StoreError } from '@ebb/protocol';
import { BODY_WINDOW_MS, SMALL_BODY_BYTES } from '../../limits.ts';
import { cutAfter } from '../cut-after.ts';
import { sendThrough } from '../send-through.ts';
import { giveSmallBuffer, takeSmallBuffer } from '../small-buffers.ts';
import type { DataContext } from './data-context.ts';

interface Sent {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  readonly opened: OpenedObject;
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
}

const OPENS_MAX = 5;

/**
 * Opens and answers. A version that went to a newer one, or was deleted, before the head of the answer was out is opened
 * again: the answer is what is there now, and has none of the headers that were set for the other version.
 * @throws `busy` when each version goes before it was read
 */
export async function untilSent(
  response: ServerResponse,
  openAndAnswer: () => Promise<void>,
): Promise<void> {
  const before = response.getHeaders();
  for (let opens = 1; ; opens++) {
    try {
      await openAndAnswer();
      return;
    } catch (error) {
      if (!isStoreError(error, 'superseded') || response.headersSent) throw error;
      resetHeaders(response, before);
      if (opens < OPENS_MAX) continue;
      const message = `the object was replaced ${opens} times while its first bytes were read`;
      throw new StoreError('busy', message, { opens }, error);
    }
  }
}

function resetHeaders(response: ServerResponse, headers: OutgoingHttpHeaders): void {
  for (const name of response.getHeaderNames())
    if (headers[name] === undefined) response.removeHeader(name);
  for (const [name, value] of Object.entries(headers))
    if (value !== undefined) response.setHeader(name, value);
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
  const body = takeSmallBuffer(end - start);
  if (body.length > 0) await context.store.read(context.owner, opened.leaseId, body, start);
  response.writeHead(status, headers);
  response.end(body, () => giveSmallBuffer(body));
}

async function sendPieces(
  response: ServerResponse,
  { status, headers, opened, start, end }: Sent,
  { store, owner, pieces }: DataContext,
): Promise<void> {
  await sendThrough(
    {
      pieces,
      peer: response.socket?.remoteAddress ?? '',
      fill: (target, at) => store.read(owner, opened.leaseId, target, at),
      write: (bytes, at) => {
        // After the first read, so that an object whose bytes are gone gets a status of its own.
        if (at === start) response.writeHead(status, headers);
        return send(response, bytes);
      },
    },
    { start, end },
  );
  response.end();
}

/** Resolves when the socket has taken the bytes, so that the memory may be used again. */
export function send(response: ServerResponse, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const onClose = (): void => {
      stop();
      reject(new StoreError('aborted', 'the client went away'));
    };
    const stop = cutAfter(BODY_WINDOW_MS, () => response.destroy()); // I1
    if (response.destroyed) {
      onClose();
      return;
    }
    response.once('close', onClose);
    response.write(bytes, (error) => {
      response.removeListener('close', onClose);
      if (error) onClose();
      else {
        stop();
        resolve();
      }
    });
  });
}
