/** Where a node listens: `http://host:port`, `https://host:port` or `unix:///path/to/socket`. */
import { StoreError } from '@ebb/protocol';
import type { ClientTls } from './tls.ts';

export const DEFAULT_NODE = 'http://127.0.0.1:9700';

export interface NodeAddress {
  /** As given, for messages. */
  readonly text: string;
  /** Origin for HTTP; a Unix socket has a name that only fills the Host header. */
  readonly origin: string;
  readonly socketPath: string | undefined;
  /** With an `https:` origin. */
  readonly tls: ClientTls | undefined;
}

/** @throws {StoreError} `request_invalid` */
export function parseNodeAddress(text: string, tls: ClientTls = {}): NodeAddress {
  if (text.startsWith('unix://')) {
    const socketPath = decodeURIComponent(text.slice('unix://'.length));
    if (!socketPath.startsWith('/')) throw badAddress(text, 'a Unix socket needs an absolute path');
    return { text, origin: 'http://localhost', socketPath, tls: undefined };
  }
  const url = URL.parse(text);
  if (url === null) throw badAddress(text, 'it is not a URL');
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw badAddress(text, `the scheme ${url.protocol}// is not known`);
  if (url.pathname !== '/' || url.search !== '') throw badAddress(text, 'it has a path');
  if (url.username !== '' || url.password !== '')
    throw badAddress('(hidden)', 'it has credentials');
  return {
    text,
    origin: url.origin,
    socketPath: undefined,
    tls: url.protocol === 'https:' ? tls : undefined,
  };
}

function badAddress(text: string, why: string): StoreError {
  return new StoreError(
    'request_invalid',
    `"${text}" is not the address of a node, such as ${DEFAULT_NODE} or unix:///run/ebb.sock: ${why}`,
  );
}
