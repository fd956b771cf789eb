/**
 * Signed GETs of ranges over plain HTTP, read from the socket into one large buffer that is used again and again. Node's
 * own HTTP client hands out 64 KiB at a time, each in memory of its own, and takes about five times the processor time for a
 * gigabyte. In the worker only.
 *
 * I1  What is not plainly content of a known length (an error, an answer in chunks, an interim answer, TLS) is not taken: it is
 *     asked for again the usual way, which knows all of HTTP.
 * I2  A connection is used again only when its answer was read to the end and nothing came after it.
 * I3  A piece is overwritten when the next is asked for.
 */
import { connect, isIP, type Socket } from 'node:net';
import { assert } from '@ebb/protocol';
import {
  S3_IDLE_SOCKET_MS,
  S3_RESPONSE_HEAD_BYTES_MAX,
  S3_SOCKET_BUFFER_BYTES,
} from '../../limits.ts';

/** As the SDK signed it. */
export interface SignedRequest {
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number | undefined;
  readonly path: string;
  readonly query?: Readonly<Record<string, string | string[] | null>> | undefined;
  readonly headers: Readonly<Record<string, string>>;
}

export interface RangeAnswer {
  readonly statusCode: number;
  /** By their names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  /** The content, once. @throws when the connection breaks, or the request was aborted */
  readonly pieces: AsyncIterable<Uint8Array>;
  /** What was not read is not wanted. */
  readonly destroy: () => void;
}

interface Head {
  readonly statusCode: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Undefined: this is no content of a known length. */
  readonly length: number | undefined;
  readonly keepsAlive: boolean;
}

const HEAD_END = Buffer.from('\r\n\r\n');
const NOTHING = Buffer.alloc(0);

export class RangeSockets {
  readonly #connectMs: number;
  readonly #idle = new Map<string, RangeSocket[]>();
  /** Places that answer in chunks: asking there is in vain. */
  readonly #others = new Set<string>();

  constructor({ connectMs }: { readonly connectMs: number }) {
    this.#connectMs = connectMs;
  }

  /** Undefined: it has to be asked for the usual way. @throws what the connection says; `AbortError` */
  async get(request: SignedRequest, signal: AbortSignal): Promise<RangeAnswer | undefined> {
    const target = formatTarget(request);
    const place = `${request.hostname}:${request.port ?? 80}`;
    if (request.protocol !== 'http:' || target === undefined) return undefined;
    if (this.#others.has(place)) return undefined;
    signal.throwIfAborted();
    const rested = this.#idle.get(place)?.pop();
    const socket = rested ?? new RangeSocket(request, this.#connectMs);
    socket.use(signal);
    try {
      socket.write(formatRequest(target, request.headers));
      const head = await readHead(socket);
      if (head?.length !== undefined) {
        const { statusCode, headers, length, keepsAlive } = head;
        let isRead = false;
        const onRead = (): void => {
          isRead = true;
          if (keepsAlive) this.#keep(place, socket);
          else socket.destroy();
        };
        const destroy = (): void => {
          if (!isRead) socket.destroy();
        };
        return { statusCode, headers, destroy, pieces: readPieces(socket, length, onRead) };
      }
      if (head !== undefined && head.statusCode < 300) this.#others.add(place);
    } catch (error) {
      socket.destroy();
      // The store may close a connection at rest at the very moment it is used.
      if (rested !== undefined && !signal.aborted) return await this.get(request, signal);
      throw error;
    }
    socket.destroy();
    return undefined;
  }

  destroy(): void {
    for (const sockets of this.#idle.values()) for (const socket of sockets) socket.destroy();
    this.#idle.clear();
  }

  #keep(place: string, socket: RangeSocket): void {
    const idle = this.#idle.get(place) ?? [];
    this.#idle.set(place, idle);
    idle.push(socket);
    socket.rest(() => {
      const index = idle.indexOf(socket);
      if (index >= 0) idle.splice(index, 1);
    });
  }
}

/** A connection, and the buffer that everything from it is read into. */
class RangeSocket {
  readonly #socket: Socket;
  readonly #connectTimer: NodeJS.Timeout;
  #unread: Uint8Array = NOTHING;
  #failure: unknown;
  #wake: (() => void) | undefined;
  #onLost: (() => void) | undefined;
  #signal: AbortSignal | undefined;
  readonly #onAbort = (): void => this.#fail(this.#signal?.reason);

  constructor({ hostname, port = 80 }: SignedRequest, connectMs: number) {
    const buffer = Buffer.allocUnsafeSlow(S3_SOCKET_BUFFER_BYTES);
    const host = hostname.startsWith('[') ? hostname.slice(1, -1) : hostname;
    this.#socket = connect({
      ...{ host, port, noDelay: true, autoSelectFamily: isIP(host) === 0 },
      onread: {
        buffer,
        callback: (count) => {
          this.#unread = buffer.subarray(0, count);
          this.#wake?.();
          // Nobody reads what comes to a connection at rest: it is out of step.
          if (this.#onLost !== undefined) this.destroy();
          return false;
        },
      },
    });
    this.#connectTimer = setTimeout(
      () => this.#fail(new Error(`no connection to ${host}:${port} within ${connectMs} ms`)),
      connectMs,
    );
    this.#socket.once('connect', () => clearTimeout(this.#connectTimer));
    this.#socket.on('error', (error) => this.#fail(error));
    this.#socket.on('timeout', () => this.destroy());
    this.#socket.on('close', () => this.#fail(new Error('the store closed the connection')));
  }

  /** From here on the signal ends it. */
  use(signal: AbortSignal): void {
    this.#onLost = undefined;
    this.#socket.ref();
    this.#socket.setTimeout(0);
    this.#signal = signal;
    signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** Until the next use; `onLost` is told when that will not be. */
  rest(onLost: () => void): void {
    this.#release();
    this.#onLost = onLost;
    this.#socket.unref();
    this.#socket.setTimeout(S3_IDLE_SOCKET_MS);
    if (this.#failure !== undefined) onLost();
    // Whether the store closes it is seen only by reading.
    else this.#socket.resume();
  }

  write(text: string): void {
    this.#socket.write(text, 'latin1');
  }

  /** What came next; never nothing. */
  async read(): Promise<Uint8Array> {
    assert(this.#wake === undefined, 'one read at a time');
    if (this.#unread.length === 0 && this.#failure === undefined) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        this.#socket.resume();
      });
      this.#wake = undefined;
    }
    const bytes = this.#unread;
    this.#unread = NOTHING;
    if (bytes.length === 0) throw this.#failure;
    return bytes;
  }

  /** Gives the next read the bytes of the last one that nobody wanted yet. */
  unread(bytes: Uint8Array): void {
    this.#unread = bytes;
  }

  destroy(): void {
    this.#fail(new Error('the connection was given up'));
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    clearTimeout(this.#connectTimer);
    this.#release();
    this.#socket.destroy();
    this.#wake?.();
    this.#onLost?.();
  }

  #release(): void {
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#signal = undefined;
  }
}

/** Undefined: not HTTP/1, or of no end. */
async function readHead(socket: RangeSocket): Promise<Head | undefined> {
  let head: Uint8Array = NOTHING;
  for (;;) {
    const bytes = await socket.read();
    const all =
      head.length === 0
        ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
        : Buffer.concat([head, bytes]);
    const end = all.indexOf(HEAD_END);
    if (end >= 0) {
      socket.unread(all.subarray(end + HEAD_END.length));
      return parseHead(all.toString('latin1', 0, end));
    }
    if (all.length > S3_RESPONSE_HEAD_BYTES_MAX) return undefined;
    head = Buffer.from(all);
  }
}

/** RFC 9112 §2 to §5, of an answer without folded lines. */
function parseHead(text: string): Head | undefined {
  const [statusLine = '', ...lines] = text.split('\r\n');
  const [, minor, status] = /^HTTP\/1\.([01]) (\d{3})(?: |$)/.exec(statusLine) ?? [];
  if (status === undefined) return undefined;
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const [, name, value] = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*$/.exec(line) ?? [];
    if (name === undefined || value === undefined) return undefined;
    const key = name.toLowerCase();
    headers[key] = headers[key] === undefined ? value : `${headers[key]}, ${value}`;
  }
  const statusCode = Number(status);
  const length = headers['content-length'];
  const isContent = statusCode === 200 || statusCode === 206;
  const isPlain = headers['transfer-encoding'] === undefined && /^\d{1,15}$/.test(length ?? '');
  const connection = headers['connection']?.toLowerCase() ?? (minor === '1' ? '' : 'close');
  return {
    ...{ statusCode, headers },
    length: isContent && isPlain ? Number(length) : undefined,
    keepsAlive: !connection.includes('close'),
  };
}

async function* readPieces(
  socket: RangeSocket,
  length: number,
  onRead: () => void,
): AsyncGenerator<Uint8Array, void, undefined> {
  for (let left = length; left > 0; ) {
    const bytes = await socket.read();
    if (bytes.length > left) throw new Error('the store sent more than it announced');
    left -= bytes.length;
    yield bytes;
  }
  onRead();
}

/** Undefined: a query that is not plain names and values. */
function formatTarget({ path, query = {} }: SignedRequest): string | undefined {
  const pairs: string[] = [];
  for (const [name, value] of Object.entries(query)) {
    if (typeof value !== 'string') return undefined;
    pairs.push(`${escapeQuery(name)}=${escapeQuery(value)}`);
  }
  return pairs.length === 0 ? path : `${path}?${pairs.join('&')}`;
}

/** As it was signed: RFC 3986. */
function escapeQuery(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function formatRequest(target: string, headers: Readonly<Record<string, string>>): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `GET ${target} HTTP/1.1\r\n${lines.join('')}\r\n`;
}
