/** An HTTP server that answers as a test says: for answers that no well-behaved store gives. */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export type HttpAnswer = (request: IncomingMessage, response: ServerResponse) => void;

export interface AnsweringServer extends AsyncDisposable {
  readonly url: string;
}

export async function startAnsweringServer(answer: HttpAnswer): Promise<AnsweringServer> {
  const server = createServer(answer).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
