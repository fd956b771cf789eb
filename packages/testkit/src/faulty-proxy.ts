/**
 * An HTTP proxy that harms the requests it is told to harm, for tests of what speaks HTTP to a store. Fault model:
 *
 *   refuse            503 with S3's SlowDown at once, whatever still comes; the store sees nothing
 *   full              507, when the request has been read; the store sees nothing
 *   cut-request       half of the request's body reaches the store, then both connections are reset
 *   cut-response      the store does its work; half of its answer's body arrives, then the connection is reset
 *   lose-reply        the store does its work; nothing of its answer arrives, and the connection is reset
 *   corrupt-request   one bit in the middle of the request's body is flipped
 *   corrupt-response  one bit in the middle of the answer's body is flipped
 *   hang              the store sees nothing, and no answer comes
 *   stall-response    half of the answer's body arrives, then nothing more
 *   slow              the answer's body arrives in pieces, with a pause before each
 *   hide-checksums    the answer lacks its x-amz-checksum headers, as of a store that knows none
 *
 * What is not harmed passes byte for byte. It does not speak TLS, and never reorders or invents an answer but the 5xx above.
 */
import { once } from 'node:events';
import {
  Agent,
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export type ProxyFault =
  | 'refuse'
  | 'full'
  | 'cut-request'
  | 'cut-response'
  | 'lose-reply'
  | 'corrupt-request'
  | 'corrupt-response'
  | 'hang'
  | 'stall-response'
  | 'slow'
  | 'hide-checksums';

export interface ProxiedRequest {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
}

interface HarmOptions {
  readonly when: (request: ProxiedRequest) => boolean;
  /** Default: every one. */
  readonly times?: number;
}

export interface FaultyProxy extends AsyncDisposable {
  readonly url: string;
  /** What came so far. */
  readonly requests: readonly ProxiedRequest[];
  /** How many requests each fault has harmed. */
  readonly harmedBy: ReadonlyMap<ProxyFault, number>;
  /** Of several that fit a request, the first that is not used up. */
  harm(fault: ProxyFault, options: HarmOptions): void;
  /** No faults from here on. */
  heal(): void;
  /** Resolves with the next request that is harmed. */
  harmed(): Promise<ProxiedRequest>;
}

const SLOW_PIECES = 8;
const SLOW_PAUSE_MS = 100;

export async function startFaultyProxy(upstream: string): Promise<FaultyProxy> {
  const proxy = new HarmingProxy(upstream);
  await proxy.listen();
  return proxy;
}

interface Rule {
  readonly fault: ProxyFault;
  readonly when: HarmOptions['when'];
  left: number;
}

class HarmingProxy implements FaultyProxy {
  readonly requests: ProxiedRequest[] = [];
  readonly harmedBy = new Map<ProxyFault, number>();
  readonly #upstream: URL;
  readonly #agent = new Agent({ keepAlive: true });
  readonly #server = createServer((incoming, answer) => void this.#serve(incoming, answer));
  readonly #waiting: ((request: ProxiedRequest) => void)[] = [];
  #rules: Rule[] = [];

  constructor(upstream: string) {
    this.#upstream = new URL(upstream);
  }

  async listen(): Promise<void> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  harm(fault: ProxyFault, { when, times = Number.POSITIVE_INFINITY }: HarmOptions): void {
    this.#rules.push({ fault, when, left: times });
  }

  heal(): void {
    this.#rules = [];
  }

  async harmed(): Promise<ProxiedRequest> {
    return await new Promise((resolve) => this.#waiting.push(resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    this.#agent.destroy();
    await closed;
  }

  async #serve(incoming: IncomingMessage, answer: ServerResponse): Promise<void> {
    const seen = toProxied(incoming);
    this.requests.push(seen);
    const fault = this.#take(seen);
    answer.on('error', ignore);
    incoming.on('error', ignore);
    if (fault !== undefined) for (const resolve of this.#waiting.splice(0)) resolve(seen);
    if (fault === 'hang') incoming.resume();
    else if (fault === 'refuse') refuse(answer, { status: 503, code: 'SlowDown' });
    else {
      try {
        if (fault === 'full') {
          for await (const _ of incoming);
          refuse(answer, { status: 507, code: 'InsufficientStorage' });
          return;
        }
        await this.#forward({ incoming, answer, fault });
      } catch {
        // One of both sides is gone: so is the other.
        answer.destroy();
      }
    }
  }

  #take(seen: ProxiedRequest): ProxyFault | undefined {
    const rule = this.#rules.find(({ left, when }) => left > 0 && when(seen));
    if (rule === undefined) return undefined;
    rule.left--;
    this.harmedBy.set(rule.fault, (this.harmedBy.get(rule.fault) ?? 0) + 1);
    return rule.fault;
  }

  async #forward({ incoming, answer, fault }: Exchange): Promise<void> {
    const { hostname, port } = this.#upstream;
    const { method, url: path, headers } = incoming;
    const outgoing = request({ hostname, port, method, path, headers, agent: this.#agent });
    const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
    answered.catch(ignore);
    outgoing.on('error', ignore);
    const sent = this.#send(incoming, { outgoing, answer, fault });
    sent.catch(ignore);
    const [upstream] = await answered;
    if (fault === 'lose-reply') {
      for await (const _ of upstream);
      answer.destroy();
      return;
    }
    answer.writeHead(upstream.statusCode ?? 502, answerHeaders(upstream, fault));
    answer.flushHeaders();
    await pass(upstream, { fault, answer });
  }

  async #send(
    incoming: IncomingMessage,
    {
      outgoing,
      answer,
      fault,
    }: Omit<Exchange, 'incoming'> & { outgoing: ReturnType<typeof request> },
  ): Promise<void> {
    const half = Math.floor(Number(incoming.headers['content-length'] ?? 0) / 2);
    let at = 0;
    for await (const chunk of incoming as AsyncIterable<Buffer>) {
      if (fault === 'cut-request' && at + chunk.length > half) {
        outgoing.write(chunk.subarray(0, half - at), () => outgoing.destroy());
        answer.destroy();
        return;
      }
      if (fault === 'corrupt-request') flipBit(chunk, half - at);
      at += chunk.length;
      if (!outgoing.write(chunk)) await once(outgoing, 'drain');
    }
    outgoing.end();
  }
}

interface Exchange {
  readonly incoming: IncomingMessage;
  readonly answer: ServerResponse;
  readonly fault: ProxyFault | undefined;
}

/** The body of an answer, harmed. */
async function pass(
  upstream: IncomingMessage,
  { fault, answer }: Pick<Exchange, 'fault' | 'answer'>,
): Promise<void> {
  const sizeBytes = Number(upstream.headers['content-length'] ?? 0);
  const half = Math.floor(sizeBytes / 2);
  let at = 0;
  for await (const chunk of upstream as AsyncIterable<Buffer>) {
    const isHalf = at + chunk.length > half;
    if ((fault === 'cut-response' || fault === 'stall-response') && isHalf) {
      answer.write(chunk.subarray(0, half - at), () => {
        if (fault === 'cut-response') answer.destroy();
      });
      upstream.destroy();
      return;
    }
    if (fault === 'corrupt-response') flipBit(chunk, half - at);
    at += chunk.length;
    if (fault === 'slow') await writeSlowly(answer, chunk, sizeBytes);
    else if (!answer.write(chunk)) await once(answer, 'drain');
  }
  answer.end();
}

async function writeSlowly(
  answer: ServerResponse,
  chunk: Buffer,
  sizeBytes: number,
): Promise<void> {
  const pieceBytes = Math.ceil(sizeBytes / SLOW_PIECES);
  for (let at = 0; at < chunk.length; at += pieceBytes) {
    await sleep((SLOW_PAUSE_MS * Math.min(pieceBytes, chunk.length - at)) / pieceBytes);
    answer.write(chunk.subarray(at, at + pieceBytes));
  }
}

function answerHeaders(
  { headers }: IncomingMessage,
  fault: ProxyFault | undefined,
): IncomingHttpHeaders {
  if (fault !== 'hide-checksums') return headers;
  const kept = Object.entries(headers).filter(([name]) => !name.startsWith('x-amz-checksum-'));
  return Object.fromEntries(kept);
}

/** Nothing where the chunk does not hold the place. */
function flipBit(chunk: Buffer, at: number): void {
  if (at >= 0 && at < chunk.length) chunk[at] = (chunk[at] as number) ^ 1;
}

function refuse(
  answer: ServerResponse,
  { status, code }: { readonly status: number; readonly code: string },
): void {
  const body = `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`;
  const head = { 'content-type': 'application/xml', 'content-length': Buffer.byteLength(body) };
  answer.writeHead(status, { ...head, connection: 'close' });
  answer.end(body);
}

function toProxied({ method = '', url = '', headers }: IncomingMessage): ProxiedRequest {
  return { method, path: url, headers };
}

function ignore(): void {}
