/** Reads an object, or a part of it, as a stream of chunks or as one buffer. */
import { StoreError } from '@ebb/protocol';
import type { FrameConnection } from './frame-connection.ts';
import { type ByteRange, type HttpBody, type HttpClient, resolveRange } from './http-client.ts';
import { BODY_CHUNK_BYTES } from './limits.ts';
import type { ObjectRef, OpenInfo } from './object-info.ts';
import { type ObjectHandle, openLocalObject } from './object-reader.ts';
import type { RetryPolicy } from './retry.ts';

export interface GetOptions {
  readonly range?: ByteRange | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Read `body` or `bytes()` once, to the end or until a `break`; a result that is not read is disposed. */
export interface GetResult extends AsyncDisposable {
  readonly info: OpenInfo;
  /** The part of the object that this is. */
  readonly range: { readonly offset: number; readonly length: number };
  /** Chunks belong to the consumer. */
  readonly body: AsyncIterable<Uint8Array>;
  /** All of it in memory: for what is known to be small enough. */
  bytes(): Promise<Uint8Array>;
}

export interface GetContext {
  readonly connection: FrameConnection | undefined;
  readonly http: HttpClient;
  readonly retry: RetryPolicy;
}

export async function getObject(
  context: GetContext,
  ref: ObjectRef,
  options: GetOptions,
): Promise<GetResult> {
  assertRange(options.range);
  if (context.connection === undefined) {
    return fromHttp(await context.http.get(ref, options.range, options.signal));
  }
  const handle = await openLocalObject(context.connection, ref, {
    retry: context.retry,
    signal: options.signal,
  });
  try {
    return fromHandle(handle, resolveRange(options.range, handle.info.sizeBytes), options.signal);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** The same on both paths, before anything is asked. @throws {StoreError} `range_invalid` */
function assertRange(range: ByteRange | undefined): void {
  for (const [name, value] of Object.entries(range ?? {}) as [string, number | undefined][]) {
    if (value === undefined || (Number.isSafeInteger(value) && value >= 0)) continue;
    throw new StoreError('range_invalid', `${name} is ${value}: a whole number from 0 on is meant`);
  }
}

function fromHandle(
  handle: ObjectHandle,
  range: { readonly offset: number; readonly length: number },
  signal: AbortSignal | undefined,
): GetResult {
  return {
    info: handle.info,
    range,
    body: { [Symbol.asyncIterator]: () => chunksOf(handle, range, signal) },
    async bytes() {
      try {
        const target = Buffer.allocUnsafeSlow(range.length);
        await handle.read(target, range.offset, { signal });
        return target;
      } finally {
        await handle.close();
      }
    },
    [Symbol.asyncDispose]: () => handle.close(),
  };
}

/** The next chunk is read while the consumer works on this one. */
async function* chunksOf(
  handle: ObjectHandle,
  range: { readonly offset: number; readonly length: number },
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  const end = range.offset + range.length;
  const next = async (position: number): Promise<Buffer> => {
    const chunk = Buffer.allocUnsafeSlow(Math.min(BODY_CHUNK_BYTES, end - position));
    await handle.read(chunk, position, { signal });
    return chunk;
  };
  try {
    let position = range.offset;
    let reading = position < end ? next(position) : undefined;
    while (reading !== undefined) {
      const chunk: Buffer = await reading;
      position += chunk.byteLength;
      reading = position < end ? next(position) : undefined;
      reading?.catch(() => undefined); // awaited in the next turn; `close` waits for it otherwise
      yield chunk;
    }
  } finally {
    await handle.close();
  }
}

function fromHttp(body: HttpBody): GetResult {
  return {
    info: body.info,
    range: body.range,
    body: body.chunks,
    async bytes() {
      const target = Buffer.allocUnsafeSlow(body.range.length);
      let done = 0;
      for await (const chunk of body.chunks) {
        target.set(chunk, done);
        done += chunk.byteLength;
      }
      return target;
    },
    async [Symbol.asyncDispose]() {
      body.cancel();
    },
  };
}
