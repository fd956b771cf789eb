/**
 * Hands a Node request to a fetch-style app and writes its answer, with bodies held whole: the control surface is JSON of
 * bounded size. Written here because the usual adapter has no bound for a body without a length.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { StoreError } from '@ebb/protocol';
import { JSON_BODY_BYTES_MAX } from '../limits.ts';

type FetchApp = (request: Request) => Response | Promise<Response>;

export async function answerByFetch(
  app: FetchApp,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const method = request.method ?? 'GET';
  const body = await readBody(request);
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  const headers = new Headers();
  for (const [name, values] of Object.entries(request.headersDistinct))
    for (const value of values ?? []) headers.append(name, value);
  const answer = await app(
    new Request(new URL(request.url ?? '/', 'http://node'), {
      ...{ method, headers, signal: gone.signal },
      ...(body.length === 0 || method === 'GET' || method === 'HEAD' ? {} : { body }),
    }),
  );
  const text = Buffer.from(await answer.arrayBuffer());
  response.writeHead(answer.status, {
    ...Object.fromEntries(answer.headers),
    ...(answer.status === 204 ? {} : { 'content-length': text.length }),
  });
  response.end(text);
}

/** @throws {StoreError} `too_large`, `aborted` */
async function readBody(request: IncomingMessage): Promise<Buffer<ArrayBuffer>> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  const check = (): void => {
    if (bytes > JSON_BODY_BYTES_MAX)
      throw new StoreError('too_large', `a JSON body may have ${JSON_BODY_BYTES_MAX} bytes`, {
        limitBytes: JSON_BODY_BYTES_MAX,
      });
  };
  bytes = Number(request.headers['content-length'] ?? 0);
  check();
  bytes = 0;
  return await new Promise((resolve, reject) => {
    request.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      try {
        check();
        chunks.push(chunk);
      } catch (error) {
        chunks.length = 0;
        reject(error);
      }
    });
    request.once('end', () => resolve(Buffer.concat(chunks)));
    request.once('close', () => {
      if (!request.complete) reject(new StoreError('aborted', 'the client went away'));
    });
  });
}
