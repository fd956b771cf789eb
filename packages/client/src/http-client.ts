/**
 * The HTTP surfaces of a node: control JSON, and object bytes for clients that do not see its files.
 *
 * I1  A body that breaks off is continued from where it stopped, under `If-Match`: the consumer sees one version, whole.
 * I2  A body never ends early without an error: the length that was announced is counted.
 * I3  A response that is not read to its end is destroyed, so that its connection is not held.
 * I4  A wait has no limit of its own but where `answerWithinMs` names one. It ends when the node shows no life any more.
 */
import type { Readable } from 'node:stream';
import { type Ack, HEADERS, isStoreError, objectPath, PATHS, StoreError } from '@ebb/protocol';
import { crc32c } from '@node-rs/crc32';
import { Client as Connection, type Dispatcher, Pool } from 'undici';
import {
  errorCode,
  errorFromHttp,
  headerText,
  silentNode,
  toStoreError,
  unreachable,
} from './errors.ts';
import {
  HTTP_CONNECTIONS,
  JSON_BYTES_MAX,
  PING_AFTER_MS,
  SILENCE_MS_MAX,
  STREAM_SILENCE_MS,
} from './limits.ts';
import { Liveness } from './liveness.ts';
import type { NodeAddress } from './node-address.ts';
import { changedWhileRead, type ObjectRef, type OpenInfo } from './object-info.ts';
import { abortedError, type RetryPolicy, withRetry } from './retry.ts';
import { type ClientTls, hangUpHint } from './tls.ts';

type Method = 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE';
type Query = Readonly<Record<string, string | number | boolean | undefined>>;

interface JsonRequest {
  readonly query?: Query;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** Repeating it changes nothing. Default: GET, HEAD, and PUT are. */
  readonly idempotent?: boolean;
  /** For what a node answers at once. Default: as long as it lives. */
  readonly answerWithinMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/** What a schema of the protocol offers. */
export interface Parser<T> {
  safeParse(value: unknown): { success: true; data: T } | { success: false; error: unknown };
}

/** A part of an object: from an offset, or its last bytes. */
export type ByteRange =
  | { readonly offset: number; readonly length?: number | undefined }
  | { readonly last: number };

interface PutRequest {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array | AsyncIterable<Uint8Array>;
  /** undefined: chunked. */
  readonly sizeBytes: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface HttpClient {
  json<T>(method: Method, path: string, parser: Parser<T>, request?: JsonRequest): Promise<T>;
  /** As json, where nothing is told but success. Returns the status. */
  plain(method: Method, path: string, request?: JsonRequest): Promise<number>;
  /** One attempt. The answer's ETag, version and durability. */
  put(ref: ObjectRef, request: PutRequest): Promise<PutAnswer>;
  /** One attempt. A body that is read as it comes, on a connection of its own; it has ended when the generator has. */
  stream(
    path: string,
    request: { readonly query?: Query; readonly signal?: AbortSignal | undefined },
  ): Promise<AsyncIterable<Uint8Array>>;
  /** One request that answers when the object is so durable, or `timed_out`. */
  wait(
    ref: ObjectRef,
    query: { readonly wait: Ack; readonly timeoutMs: number; readonly version: number },
    signal?: AbortSignal,
  ): Promise<{ readonly version: number; readonly durability: Ack }>;
  /** Raw bytes there or back, whole. @throws also `too_large` for an answer beyond JSON_BYTES_MAX */
  bytes(
    method: 'GET' | 'PUT',
    path: string,
    request: Pick<JsonRequest, 'query' | 'idempotent' | 'signal'> & { readonly body?: Uint8Array },
  ): Promise<Buffer>;
  headOpen(ref: ObjectRef, signal?: AbortSignal): Promise<OpenInfo>;
  /** Starts a GET; the body is read by the caller. */
  get(ref: ObjectRef, range: ByteRange | undefined, signal?: AbortSignal): Promise<HttpBody>;
  /** The bytes of this version, from `range`. */
  body(
    info: OpenInfo,
    range: { readonly offset: number; readonly length: number },
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array>;
  close(): Promise<void>;
}

interface PutAnswer {
  readonly version: number;
  readonly etag: string;
  readonly durability: string;
  readonly crc32c: string;
}

export interface HttpBody {
  readonly info: OpenInfo;
  readonly range: { readonly offset: number; readonly length: number };
  readonly chunks: AsyncIterable<Uint8Array>;
  cancel(): void;
}

export function createHttpClient(
  address: NodeAddress,
  options: {
    readonly retry: RetryPolicy;
    readonly pingAfterMs?: number;
    readonly silenceMsMax?: number;
  },
): HttpClient {
  return new Client(address, options);
}

function openPool(address: NodeAddress): Pool {
  return new Pool(address.origin, {
    connections: HTTP_CONNECTIONS,
    pipelining: 1,
    connect: connectOptions(address),
    headersTimeout: 0, // an acknowledgement from tier 2, `verify` and `gc` take their time (I4)
    bodyTimeout: 120_000,
  });
}

function connectOptions({
  socketPath,
  tls,
}: NodeAddress): { timeout: number; socketPath?: string } & ClientTls {
  return { timeout: 5_000, ...(socketPath === undefined ? {} : { socketPath }), ...tls };
}

class Client implements HttpClient {
  #pool: Pool;
  readonly #address: NodeAddress;
  readonly #retry: RetryPolicy;
  readonly #liveness: Liveness;
  readonly #streams = new Set<Connection>();

  constructor(address: NodeAddress, options: Parameters<typeof createHttpClient>[1]) {
    this.#pool = openPool(address);
    this.#address = address;
    this.#retry = options.retry;
    const { pingAfterMs = PING_AFTER_MS, silenceMsMax = SILENCE_MS_MAX } = options;
    this.#liveness = new Liveness({
      afterMs: pingAfterMs,
      withinMs: silenceMsMax - pingAfterMs,
      ask: async (signal) => await this.#askForLife(signal),
      onGivenUp: (silentMs, cause) => this.#giveUpNode(silentMs, cause),
    });
  }

  async json<T>(
    method: Method,
    path: string,
    parser: Parser<T>,
    request: JsonRequest = {},
  ): Promise<T> {
    const { text } = await this.#control(method, path, request);
    const parsed = parser.safeParse(parseJson(text));
    if (parsed.success) return parsed.data;
    throw new StoreError(
      'version_unsupported',
      `${method} ${path}: the answer has another form`,
      {},
      parsed.error,
    );
  }

  async plain(method: Method, path: string, request: JsonRequest = {}): Promise<number> {
    return (await this.#control(method, path, request)).status;
  }

  async put(ref: ObjectRef, request: PutRequest): Promise<PutAnswer> {
    const response = await this.#send('PUT', objectPath(ref.bucket, ref.key), {
      headers: {
        ...request.headers,
        ...(request.sizeBytes === undefined ? {} : { 'content-length': String(request.sizeBytes) }),
      },
      body: request.body as Uint8Array | Readable, // undici takes any async iterable
      signal: request.signal,
    });
    await response.body.dump();
    return {
      version: Number(headerText(response.headers[HEADERS.version])),
      etag: unquote(headerText(response.headers['etag'])),
      durability: headerText(response.headers[HEADERS.durability]),
      crc32c: headerText(response.headers[HEADERS.crc32c]),
    };
  }

  async bytes(
    method: 'GET' | 'PUT',
    path: string,
    { query, body, idempotent = true, signal }: Parameters<HttpClient['bytes']>[2],
  ): Promise<Buffer> {
    return await withRetry({ policy: this.#retry, idempotent, signal }, async () =>
      bytesOf(await this.#send(method, path, { query, body, signal })),
    );
  }

  async stream(
    path: string,
    request: { readonly query?: Query; readonly signal?: AbortSignal | undefined },
  ): Promise<AsyncIterable<Uint8Array>> {
    // Streams stay open: they must not use up the connections of other calls.
    const connection = new Connection(this.#address.origin, {
      connect: connectOptions(this.#address),
      headersTimeout: 30_000,
      bodyTimeout: STREAM_SILENCE_MS,
    });
    this.#streams.add(connection);
    const end = async (): Promise<void> => {
      this.#streams.delete(connection);
      await connection.destroy();
    };
    try {
      const response = await this.#send('GET', path, request, connection);
      return streamed(response, end);
    } catch (error) {
      await end();
      throw error;
    }
  }

  async wait(
    ref: ObjectRef,
    query: { readonly wait: Ack; readonly timeoutMs: number; readonly version: number },
    signal?: AbortSignal,
  ): Promise<{ readonly version: number; readonly durability: Ack }> {
    // `timed_out` is an answer: the caller decides whether to ask again.
    const answer = await withRetry({ policy: this.#retry, idempotent: true, signal }, async () => {
      try {
        return await this.#send('HEAD', objectPath(ref.bucket, ref.key), { query, signal });
      } catch (error) {
        if (isStoreError(error, 'timed_out')) return error;
        throw error;
      }
    });
    if (answer instanceof StoreError) throw answer;
    await answer.body.dump();
    return {
      version: Number(headerText(answer.headers[HEADERS.version])),
      durability: headerText(answer.headers[HEADERS.durability]) as Ack,
    };
  }

  async headOpen(ref: ObjectRef, signal?: AbortSignal): Promise<OpenInfo> {
    return await withRetry({ policy: this.#retry, idempotent: true, signal }, async () => {
      const response = await this.#send('HEAD', objectPath(ref.bucket, ref.key), { signal });
      await response.body.dump();
      const sizeBytes = Number(headerText(response.headers['content-length']));
      return openInfo(ref, response.headers, sizeBytes);
    });
  }

  async get(ref: ObjectRef, range: ByteRange | undefined, signal?: AbortSignal): Promise<HttpBody> {
    if (isNothing(range)) return await this.#nothing(ref, range, signal);
    return await withRetry({ policy: this.#retry, idempotent: true, signal }, async () => {
      const headers = range === undefined ? {} : { range: rangeHeader(range) };
      const response = await this.#send('GET', objectPath(ref.bucket, ref.key), {
        headers,
        signal,
      }).catch((error: unknown) => {
        // An empty object has no first byte to start a range at, but its empty rest is a fair question.
        if (range !== undefined && isEmptyObject(error, range)) return undefined;
        throw error;
      });
      if (response === undefined) return await this.#nothing(ref, range, signal);
      const place = answeredRange(response);
      const info = openInfo(ref, response.headers, place.sizeBytes);
      return {
        info,
        range: { offset: place.offset, length: place.length },
        chunks: this.#resumed(info, place, response, signal),
        cancel: () => destroy(response),
      };
    });
  }

  async *body(
    info: OpenInfo,
    range: { readonly offset: number; readonly length: number },
    signal?: AbortSignal,
  ): AsyncGenerator<Uint8Array> {
    if (range.length > 0) yield* this.#resumed(info, range, undefined, signal);
  }

  async close(): Promise<void> {
    this.#liveness.close();
    await Promise.all([...this.#streams].map((connection) => connection.destroy()));
    await this.#pool.destroy();
  }

  async #nothing(
    ref: ObjectRef,
    range: ByteRange | undefined,
    signal?: AbortSignal,
  ): Promise<HttpBody> {
    const info = await this.headOpen(ref, signal);
    const offset = range !== undefined && 'offset' in range ? range.offset : info.sizeBytes;
    if (offset > info.sizeBytes) throw beyondTheEnd(offset, info.sizeBytes);
    return { info, range: { offset, length: 0 }, chunks: none(), cancel: () => undefined };
  }

  /** Yields the range, beginning with `first` when there is one, and asks again where a body breaks off (I1, I2). */
  async *#resumed(
    info: OpenInfo,
    range: { readonly offset: number; readonly length: number },
    first: Dispatcher.ResponseData | undefined,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Uint8Array> {
    let done = 0;
    let response = first;
    let failures = 0;
    while (done < range.length || response !== undefined) {
      response ??= await this.#continue(
        info,
        { offset: range.offset + done, length: range.length - done },
        signal,
      );
      const before = done;
      try {
        using _waiting = this.#liveness.wait();
        for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
          done += chunk.byteLength;
          if (done > range.length)
            throw new StoreError('length_mismatch', 'the node sent more than it announced');
          yield chunk;
        }
        if (done < range.length) throw unreachable('the body ended early');
      } catch (thrown) {
        const error = toStoreError(thrown, signal);
        failures = done > before ? 1 : failures + 1;
        // One that was given up was waited for long enough.
        if ('silentMs' in error.details) throw error;
        if (error.code !== 'node_unreachable' || failures >= this.#retry.attemptsMax) throw error;
      } finally {
        destroy(response); // also when the consumer stops early (I3)
      }
      response = undefined;
    }
  }

  async #continue(
    info: OpenInfo,
    range: { readonly offset: number; readonly length: number },
    signal: AbortSignal | undefined,
  ): Promise<Dispatcher.ResponseData> {
    return await withRetry({ policy: this.#retry, idempotent: true, signal }, async () => {
      const response = await this.#send('GET', objectPath(info.bucket, info.key), {
        headers: { range: rangeHeader(range), 'if-match': `"${info.etag}"` },
        signal,
      });
      const place = answeredRange(response);
      const found = openInfo(info, response.headers, place.sizeBytes);
      if (
        found.version === info.version &&
        place.offset === range.offset &&
        place.length === range.length
      ) {
        return response;
      }
      destroy(response);
      if (found.version !== info.version) throw changedWhileRead(info, found.version);
      throw new StoreError(
        'length_mismatch',
        'the node answered with another range than asked for',
      );
    });
  }

  async #control(
    method: Method,
    path: string,
    request: JsonRequest,
  ): Promise<{ status: number; text: string }> {
    const idempotent =
      request.idempotent ?? (method === 'GET' || method === 'HEAD' || method === 'PUT');
    const { signal } = request;
    return await withRetry({ policy: this.#retry, idempotent, signal }, async () => {
      const response = await this.#send(method, path, {
        query: request.query,
        headers: {
          accept: 'application/json',
          ...(request.body === undefined ? {} : { 'content-type': 'application/json' }),
          ...request.headers,
        },
        body: request.body === undefined ? undefined : Buffer.from(JSON.stringify(request.body)),
        answerWithinMs: request.answerWithinMs,
        signal,
      });
      return { status: response.statusCode, text: await textOf(response) };
    });
  }

  async #askForLife(signal: AbortSignal): Promise<void> {
    // All connections of the pool may wait for answers.
    const connection = new Connection(this.#address.origin, {
      connect: connectOptions(this.#address),
    });
    try {
      const answer = await connection.request({ method: 'GET', path: PATHS.healthz, signal });
      await answer.body.dump();
    } finally {
      await connection.destroy();
    }
  }

  /** Everything that waits ends, and the next calls try anew. */
  #giveUpNode(silentMs: number, cause: unknown): void {
    const lost = this.#pool;
    this.#pool = openPool(this.#address);
    void lost.destroy(silentNode(this.#address.text, silentMs, cause));
  }

  /** One attempt. @throws {StoreError} for every status of 400 and more */
  async #send(
    method: Method,
    path: string,
    request: {
      readonly query?: Query | undefined;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: Uint8Array | Readable | undefined;
      readonly answerWithinMs?: number | undefined;
      readonly signal?: AbortSignal | undefined;
    },
    dispatcher: Dispatcher = this.#pool,
  ): Promise<Dispatcher.ResponseData> {
    const { signal, answerWithinMs } = request;
    if (signal?.aborted === true) throw abortedError(signal);
    let response: Dispatcher.ResponseData;
    try {
      using _waiting = this.#liveness.wait();
      response = await dispatcher.request({
        method,
        path: path + queryText(request.query),
        headers: { ...request.headers },
        body: request.body ?? null,
        ...(signal === undefined ? {} : { signal }),
        ...(answerWithinMs === undefined ? {} : { headersTimeout: answerWithinMs }),
      });
    } catch (thrown) {
      if (answerWithinMs !== undefined && errorCode(thrown) === 'UND_ERR_HEADERS_TIMEOUT')
        throw silentNode(this.#address.text, answerWithinMs, thrown);
      const error = toStoreError(thrown, signal);
      if (error.code !== 'node_unreachable' || isStoreError(thrown)) throw error;
      throw unreachable(
        `no Ebb node answers at ${this.#address.text}: ${error.message}${hangUpHint(this.#address, error.message)}`,
        error.details,
        thrown,
      );
    }
    if (response.statusCode < 400) return response;
    const body = await textOf(response).catch(() => '');
    throw errorFromHttp({
      status: response.statusCode,
      headers: response.headers,
      body,
      request: `${method} ${path}`,
    });
  }
}

/** undefined, which no schema takes, for what is no JSON. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** @throws {StoreError} `node_unreachable` when it breaks off */
async function* streamed(
  response: Dispatcher.ResponseData,
  end: () => Promise<void>,
): AsyncGenerator<Uint8Array> {
  try {
    yield* response.body as AsyncIterable<Uint8Array>;
  } finally {
    destroy(response);
    await end();
  }
}

async function* none(): AsyncGenerator<Uint8Array> {}

function destroy(response: Dispatcher.ResponseData): void {
  if (!response.body.readableEnded) response.body.on('error', () => undefined).destroy();
}

async function textOf(response: Dispatcher.ResponseData): Promise<string> {
  return (await bytesOf(response)).toString('utf8');
}

async function bytesOf(response: Dispatcher.ResponseData): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
    bytes += chunk.byteLength;
    if (bytes > JSON_BYTES_MAX)
      throw new StoreError('too_large', `an answer of more than ${JSON_BYTES_MAX} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, bytes);
}

function queryText(query: Query | undefined): string {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined) params.set(name, String(value));
  }
  return params.size === 0 ? '' : `?${params.toString()}`;
}

function rangeHeader(range: ByteRange): string {
  if ('last' in range) return `bytes=-${range.last}`;
  const { offset, length } = range;
  return `bytes=${offset}-${length === undefined ? '' : offset + length - 1}`;
}

/** HTTP cannot ask for zero bytes. */
function isNothing(range: ByteRange | undefined): boolean {
  if (range === undefined) return false;
  return 'last' in range ? range.last === 0 : range.length === 0;
}

function isEmptyObject(error: unknown, range: ByteRange): boolean {
  if (!(error instanceof StoreError) || error.code !== 'range_invalid') return false;
  return 'last' in range || range.offset === 0;
}

function beyondTheEnd(offset: number, sizeBytes: number): StoreError {
  return new StoreError('range_invalid', undefined, { offset, sizeBytes });
}

/**
 * Offsets of a range within an object of this size; what lies beyond the end is cut off.
 * @throws {StoreError} `range_invalid` when it starts beyond the end, or at the end of an object that is not empty
 */
export function resolveRange(
  range: ByteRange | undefined,
  sizeBytes: number,
): { offset: number; length: number } {
  if (range === undefined) return { offset: 0, length: sizeBytes };
  const numbers = 'last' in range ? [range.last] : [range.offset, range.length ?? 0];
  if (!numbers.every((value) => Number.isSafeInteger(value) && value >= 0)) {
    throw new StoreError('range_invalid', 'a range has whole numbers from 0');
  }
  if ('last' in range) {
    const length = Math.min(range.last, sizeBytes);
    return { offset: sizeBytes - length, length };
  }
  const { offset, length } = range;
  if (offset > sizeBytes || (offset === sizeBytes && sizeBytes > 0 && length !== 0)) {
    throw beyondTheEnd(offset, sizeBytes);
  }
  return { offset, length: Math.min(length ?? sizeBytes, sizeBytes - offset) };
}

function answeredRange(response: Dispatcher.ResponseData): {
  offset: number;
  length: number;
  sizeBytes: number;
} {
  const length = Number(headerText(response.headers['content-length']));
  const match = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(headerText(response.headers['content-range']));
  if (match === null) return { offset: 0, length, sizeBytes: length };
  return {
    offset: Number(match[1]),
    length: Number(match[2]) - Number(match[1]) + 1,
    sizeBytes: Number(match[3]),
  };
}

function openInfo(
  ref: ObjectRef,
  headers: Dispatcher.ResponseData['headers'],
  sizeBytes: number,
): OpenInfo {
  return {
    bucket: ref.bucket,
    key: ref.key,
    version: Number(headerText(headers[HEADERS.version])),
    etag: unquote(headerText(headers['etag'])),
    sizeBytes,
  };
}

function unquote(etag: string): string {
  return etag.replace(/^(W\/)?"(.*)"$/, '$2');
}

/** 8 hex digits, as the node writes them. */
export function crcText(value: number): string {
  return value.toString(16).padStart(8, '0');
}

/** Passes chunks on, and knows their CRC32C and count. */
export function createMeter(): {
  readonly pass: (chunks: AsyncIterable<Uint8Array>) => AsyncGenerator<Uint8Array>;
  readonly crc: () => number;
  readonly bytes: () => number;
} {
  let crc = 0;
  let bytes = 0;
  return {
    async *pass(chunks) {
      for await (const chunk of chunks) {
        crc = crc32c(chunk, crc);
        bytes += chunk.byteLength;
        yield chunk;
      }
    },
    crc: () => crc,
    bytes: () => bytes,
  };
}
