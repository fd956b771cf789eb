/**
 * Requests that a client sends without waiting for the answers before them (pipelining) are worked on one by one: their
 * answers can only leave in order, and until then each would hold memory. Node would begin all of them at once.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { PIPELINED_REQUESTS_MAX } from '../limits.ts';

export function inTurn(listener: RequestListener): RequestListener {
  const waiting = new WeakMap<Socket, number>();
  return (request: IncomingMessage, response: ServerResponse): void => {
    // Node gives an answer its socket when it is the next one to leave.
    if (response.socket !== null) {
      listener(request, response);
      return;
    }
    const { socket } = request;
    const others = waiting.get(socket) ?? 0;
    if (others >= PIPELINED_REQUESTS_MAX) {
      socket.destroy();
      return;
    }
    waiting.set(socket, others + 1);
    response.once('socket', () => {
      waiting.set(socket, (waiting.get(socket) as number) - 1);
      listener(request, response);
    });
  };
}
