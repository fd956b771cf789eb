/** What every HTTP request gets, whatever surface answers it: it is measured, and its body is bounded once it was refused. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { REFUSED_BODY_BYTES_MAX, REFUSED_BODY_MS_MAX } from '../limits.ts';
import type { Metrics } from '../metrics.ts';

const METHODS = new Set(['GET', 'HEAD', 'PUT', 'POST', 'DELETE']);

/** @param route Asked when the answer is out: a template or an operation, never a name that clients choose. */
export function watchRequest(
  request: IncomingMessage,
  response: ServerResponse,
  metrics: Pick<Metrics, 'observeHttp'>,
  route: () => string,
): void {
  const startedMs = performance.now();
  response.once('close', () => {
    boundRefusedBody(request);
    const { method = '' } = request;
    metrics.observeHttp({
      method: METHODS.has(method) ? method : 'other',
      route: route(),
      status: response.statusCode,
      seconds: (performance.now() - startedMs) / 1000,
    });
  });
}

/**
 * A request that was answered before its body had come: Node reads the rest and drops it, so that the answer arrives and
 * the connection stays of use. That must not go on for a body of many GiB.
 */
function boundRefusedBody(request: IncomingMessage): void {
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
