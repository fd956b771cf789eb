/**
 * The canonical form of a request that both sides sign (AWS Signature Version 4 for S3, "Create a signed AWS API request").
 * S3 differs from other services: the path is encoded once, and dot segments stay.
 *
 * Header bytes reach us as Latin-1 characters, one a byte: hash these texts as Latin-1, and the bytes of the wire are signed.
 */
import { hash } from 'node:crypto';

/** Everything but A-Z a-z 0-9 - . _ ~ as %XX of its UTF-8, upper case. */
function uriEncode(text: string): string {
  return encodeURIComponent(text).replaceAll(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

/** Of a raw path as it was sent, with whatever encoding its client chose. @throws {URIError} when it is not UTF-8 */
export function canonicalPath(rawPath: string): string {
  if (/^[A-Za-z0-9\-._~/]*$/.test(rawPath)) return rawPath === '' ? '/' : rawPath;
  return rawPath
    .split('/')
    .map((segment) => uriEncode(decodeURIComponent(segment)))
    .join('/');
}

export type Query = readonly (readonly [name: string, value: string])[];

/** In the order sent; `+` is a blank, as S3 has it. @throws {URIError} when it is not UTF-8 */
export function parseQuery(rawQuery: string): Query {
  if (rawQuery === '') return [];
  return rawQuery
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair) => {
      const at = pair.indexOf('=');
      const [name, value] = at === -1 ? [pair, ''] : [pair.slice(0, at), pair.slice(at + 1)];
      return [decodeQueryPart(name), decodeQueryPart(value)] as const;
    });
}

function decodeQueryPart(text: string): string {
  return /[%+]/.test(text) ? decodeURIComponent(text.replaceAll('+', ' ')) : text;
}

export function canonicalQuery(query: Query, without?: string): string {
  return query
    .filter(([name]) => name !== without)
    .map(([name, value]) => [uriEncode(name), uriEncode(value)] as const)
    .sort(([a, av], [b, bv]) => (a < b ? -1 : a > b ? 1 : av < bv ? -1 : av > bv ? 1 : 0))
    .map(([name, value]) => `${name}=${value}`)
    .join('&');
}

/** Values of a header that came several times are joined by a comma; runs of blanks count as one. */
export function canonicalHeaders(
  signedHeaders: readonly string[],
  rawHeaders: readonly string[],
): string {
  const values = new Map<string, string>();
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = (rawHeaders[i] as string).toLowerCase();
    const value = (rawHeaders[i + 1] as string).trim().replaceAll(/ {2,}/g, ' ');
    const before = values.get(name);
    values.set(name, before === undefined ? value : `${before},${value}`);
  }
  return signedHeaders.map((name) => `${name}:${values.get(name) ?? ''}\n`).join('');
}

export interface CanonicalParts {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  readonly headers: string;
  readonly signedHeaders: readonly string[];
  readonly payloadHash: string;
}

export function canonicalRequest(parts: CanonicalParts): string {
  const { method, path, query, headers, signedHeaders, payloadHash } = parts;
  return `${method}\n${path}\n${query}\n${headers}\n${signedHeaders.join(';')}\n${payloadHash}`;
}

export function sha256Hex(data: string | Uint8Array): string {
  // In one call: an object of its own for each costs more than the hash.
  return hash('sha256', typeof data === 'string' ? Buffer.from(data, 'latin1') : data, 'hex');
}
