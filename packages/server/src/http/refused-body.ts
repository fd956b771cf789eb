/** A request that is answered before its body has come: what is left of it is read and dropped, within bounds. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { REFUSED_BODY_BYTES_MAX, REFUSED_BODY_MS_MAX } from '../limits.ts';

/**
 * Ends an answer; where the connection ends with it, after the rest of the request has come. A socket that is closed while
 * bytes of its peer wait unread sends a reset, and the peer may lose the answer that is on its way (RFC 9112, section 9.6).
 * The head is written already, with a content-length.
 */
export function endWhenHeard(
  response: ServerResponse,
  body: Buffer,
  { isLast = !response.shouldKeepAlive }: { readonly isLast?: boolean } = {},
): void {
  const { req: request } = response;
  if (!isLast || request.complete || request.destroyed) {
    response.end(body);
    return;
  }
  if (body.length > 0) response.write(body);
  else response.flushHeaders();
  request.once('end', () => response.end());
  boundRefusedBody(request);
  request.resume();
}

/** Node reads what is left, so that the connection stays of use. That must not go on for a body of many GiB. */
export function boundRefusedBody(request: IncomingMessage): void {
  if (request.complete || request.destroyed) return;
  let bytes = 0;
  const cut = (): void => {
    request.destroy();
  };
  const timer = setTimeout(cut, REFUSED_BODY_MS_MAX);
  request.once('close', () => clearTimeout(timer));
  request.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > REFUSED_BODY_BYTES_MAX) cut();
  });
}
