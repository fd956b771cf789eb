/**
 * A web page in a browser on this host can name our port, under its own origin or under a host name of its own (DNS
 * rebinding). Where nobody is asked for credentials, a request must name this host, and not come from elsewhere.
 */
import type { IncomingMessage } from 'node:http';

/** Why a request is refused; undefined when it is not. */
export function foreignness(
  { headers, socket }: Pick<IncomingMessage, 'headers'> & { readonly socket?: object },
  isOurs: (hostName: string) => boolean,
): string | undefined {
  const { host = '', origin } = headers;
  const name = host
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1')
    .toLowerCase();
  if (!isOurs(name)) return 'the Host header must name this host, such as localhost';
  if (origin !== undefined && origin !== `${schemeOf({ socket })}://${host}`)
    return 'requests of web pages from elsewhere are refused';
  return undefined;
}

/** By which the request came. */
export function schemeOf({ socket }: { readonly socket?: object | undefined }): 'http' | 'https' {
  return socket !== undefined && 'encrypted' in socket ? 'https' : 'http';
}
