/** What every HTTP request gets, whatever surface answers it: it is measured, and its body is bounded once it was refused. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Metrics } from '../metrics.ts';
import { boundRefusedBody } from './refused-body.ts';

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
