/**
 * A request that is answered before its body has come.
 *
 * I1  Where the connection ends with the answer, the rest of the request is read first, and dropped: a socket that is closed
 *     while bytes of its peer wait unread sends a reset, and the peer may lose the answer that is on its way (RFC 9112,
 *     section 9.6). Node closes a connection by `destroySoon`, whatever answer it was, so this is the place.
 * I2  What is read so is bounded in bytes and time, also where the connection goes on.
 * I3  After the answer that ends a connection no further request of it is worked on.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { REFUSED_BODY_BYTES_MAX, REFUSED_BODY_MS_MAX } from '../limits.ts';

/** The latest request of each connection. */
const latest = new WeakMap<Socket, IncomingMessage>();
const ending = new WeakSet<Socket>();
/** Their clients wait for 100 before they send a body. */
const awaitingContinue = new WeakSet<IncomingMessage>();
const bounded = new WeakSet<IncomingMessage>();

/** I1, of a new connection. */
export function endWhenHeard(socket: Socket): void {
  const destroySoon = socket.destroySoon.bind(socket);
  socket.destroySoon = () => {
    ending.add(socket);
    const request = latest.get(socket);
    if (request === undefined || isHeard(request)) {
      destroySoon();
      return;
    }
    socket.end();
    request.once('end', destroySoon);
    boundRefusedBody(request);
    request.resume();
  };
}

/** I3, and what I1 has to know, of all requests of connections that `endWhenHeard` was given. */
export function heard(listener: RequestListener): RequestListener {
  return (request, response) => {
    const { socket } = request;
    if (ending.has(socket)) return; // I3
    latest.set(socket, request);
    listener(request, response);
  };
}

/** The same for requests with `Expect: 100-continue`. */
export function heardWhenAsked(listener: RequestListener): RequestListener {
  return heard((request: IncomingMessage, response: ServerResponse) => {
    awaitingContinue.add(request);
    const writeContinue = response.writeContinue.bind(response);
    response.writeContinue = (...args) => {
      awaitingContinue.delete(request);
      writeContinue(...args);
    };
    listener(request, response);
  });
}

/** Nothing more comes of it. */
function isHeard(request: IncomingMessage): boolean {
  if (request.complete || request.destroyed) return true;
  return awaitingContinue.has(request) || request.method === 'HEAD';
}

/** I2. Node reads what is left, so that the connection stays of use. */
export function boundRefusedBody(request: IncomingMessage): void {
  if (request.complete || request.destroyed || bounded.has(request)) return;
  bounded.add(request);
  let bytes = 0;
  const cut = (): void => {
    request.destroy();
  };
  const timer = setTimeout(cut, REFUSED_BODY_MS_MAX).unref();
  const stop = (): void => clearTimeout(timer);
  request.once('close', stop);
  request.socket.once('close', stop); // Node tells a request that was answered nothing of it
  request.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > REFUSED_BODY_BYTES_MAX) cut();
  });
}
