/**
 * What RFC 9112 asks of a request and Node's parser leaves to us, on every listener: whose request is read in two ways by
 * two programs is refused, for behind a proxy one of them decides who may do what.
 */
import {
  type IncomingMessage,
  type RequestListener,
  type ServerResponse,
  STATUS_CODES,
} from 'node:http';
import type { Socket } from 'node:net';
import { HEADERS, type StoreErrorCode } from '@ebb/protocol';

interface Refusal {
  readonly status: 400 | 405 | 501 | 503;
  readonly reason: string;
  /** Methods, for 405. */
  readonly allow?: string;
}

/** The methods of all surfaces; what a path takes of them is the surface's to say. */
export const ALLOW = 'GET, HEAD, PUT, POST, DELETE, OPTIONS';

/** Why a request is refused; undefined when it is well. An absolute target (section 3.2.2) is made one of the usual form. */
export function refusalOf(request: IncomingMessage): Refusal | undefined {
  const { method = '', httpVersion } = request;
  // It would send back what came, also headers that were added on the way.
  if (method === 'TRACE' || method === 'CONNECT')
    return { status: 405, reason: `${method} is not offered`, allow: ALLOW };
  const codings = valuesOf(request, 'transfer-encoding');
  if (codings.length > 0) {
    if (httpVersion === '1.0') return { status: 400, reason: 'HTTP/1.0 has no transfer codings' };
    if (codings.length > 1 || codings[0]?.trim().toLowerCase() !== 'chunked')
      return { status: 501, reason: 'the only transfer coding is chunked' };
    if (valuesOf(request, 'content-length').length > 0)
      return { status: 400, reason: 'a body has a length or a transfer coding, not both' };
  }
  const hosts = valuesOf(request, 'host');
  if (hosts.length > 1) return { status: 400, reason: 'more than one Host header' };
  if (hosts[0] !== undefined && !isHost(hosts[0]))
    return { status: 400, reason: 'the Host header is no host' };
  return targetRefusal(request);
}

/** Lets through what is well. `OPTIONS *` asks for the whole node, and is answered here. */
export function wellFormed(listener: RequestListener): RequestListener {
  return (request: IncomingMessage, response: ServerResponse): void => {
    const refusal = refusalOf(request);
    if (refusal === undefined && request.url !== '*') {
      listener(request, response);
      return;
    }
    if (refusal === undefined) {
      response.writeHead(204, { allow: ALLOW });
      response.end();
      return;
    }
    refuse(response, refusal);
  };
}

/** Where a request's body ends may not be certain: so the connection ends with the answer. */
export function refuse(response: ServerResponse, { status, reason, allow }: Refusal): void {
  const body = Buffer.from(`${reason}\n`);
  response.writeHead(status, {
    'content-type': 'text/plain',
    'content-length': body.length,
    [HEADERS.errorCode]: CODES[status],
    ...(allow === undefined ? {} : { allow }),
    ...(status === 503 ? { 'retry-after': '1' } : {}),
    connection: 'close',
  });
  response.end(body);
}

const CODES = {
  400: 'request_invalid',
  405: 'unsupported',
  501: 'unsupported',
  503: 'busy',
} as const satisfies Record<Refusal['status'], StoreErrorCode>;

/** For a socket that is no longer HTTP's. */
export function refuseRaw(socket: Socket, status: Refusal['status'], allow?: string): void {
  socket.on('error', () => socket.destroy());
  const lines = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    ...(allow === undefined ? [] : [`Allow: ${allow}`]),
    ...['Connection: close', 'Content-Length: 0'],
  ];
  socket.end(`${lines.join('\r\n')}\r\n\r\n`, () => socket.destroySoon());
}

function targetRefusal(request: IncomingMessage): Refusal | undefined {
  const { url = '', method } = request;
  if (url.startsWith('/') || (url === '*' && method === 'OPTIONS')) return undefined;
  const match = /^https?:\/\/([^/?#]+)([/?].*)?$/i.exec(url);
  const host = match?.[1];
  if (host === undefined || !isHost(host))
    return { status: 400, reason: 'the target is neither a path nor an http URL' };
  const rest = match?.[2] ?? '/';
  request.url = rest.startsWith('/') ? rest : `/${rest}`;
  request.headers.host = host; // it goes before the header
  return undefined;
}

/** A name or an address, and perhaps a port; '' where there is none. */
function isHost(text: string): boolean {
  return /^(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?$/.test(text.trim());
}

function valuesOf({ rawHeaders }: IncomingMessage, name: string): readonly string[] {
  const values: string[] = [];
  for (let i = 0; i < rawHeaders.length; i += 2)
    if ((rawHeaders[i] as string).toLowerCase() === name) values.push(rawHeaders[i + 1] as string);
  return values;
}
