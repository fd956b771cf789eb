/**
 * Hands a Node request to a fetch-style app and writes its answer, with bodies held whole: the control surface is JSON of
 * bounded size. Written here because the usual adapter has no bound for a body without a length.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { StoreError } from '@ebb/protocol';
import { JSON_BODY_BYTES_MAX } from '../limits.ts';
import { gatherBody } from './gather-body.ts';
import { holdAnswer } from './held-answer.ts';
import type { PeerMemory } from './peer-memory.ts';

type FetchApp = (request: Request) => Response | Promise<Response>;

export async function answerByFetch(
  app: FetchApp,
  request: IncomingMessage,
  response: ServerResponse,
  held: PeerMemory,
): Promise<void> {
  const method = request.method ?? 'GET';
  const body = await readBody(request, held);
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  const headers = new Headers();
  for (const [name, values] of Object.entries(request.headersDistinct))
    for (const value of values ?? []) headers.append(name, value);
  const answer = await app(
    new Request(new URL(`http://node${request.url ?? '/'}`), {
      ...{ method, headers, signal: gone.signal },
      ...(body.length === 0 || method === 'GET' || method === 'HEAD' ? {} : { body }),
    }),
  );
  const text = Buffer.from(await answer.arrayBuffer());
  holdAnswer(held, response, text.length);
  response.writeHead(answer.status, {
    ...Object.fromEntries(answer.headers),
    ...(answer.status === 204 ? {} : { 'content-length': text.length }),
  });
  response.end(text);
}

/** @throws {StoreError} `too_large`, `timed_out`, `busy`, `aborted` */
async function readBody(request: IncomingMessage, held: PeerMemory): Promise<Buffer<ArrayBuffer>> {
  const tooLarge = (): StoreError =>
    new StoreError('too_large', `a JSON body may have ${JSON_BODY_BYTES_MAX} bytes`, {
      limitBytes: JSON_BODY_BYTES_MAX,
    });
  if (Number(request.headers['content-length'] ?? 0) > JSON_BODY_BYTES_MAX) throw tooLarge();
  return (await gatherBody(request, {
    ...{ held, bytesMax: JSON_BODY_BYTES_MAX, tooLarge },
  })) as Buffer<ArrayBuffer>;
}
