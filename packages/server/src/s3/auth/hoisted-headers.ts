/**
 * Headers of a presigned request that its signer put into the query: SDKs do that with `x-amz-*` ones, so that whoever holds
 * the link need not send them. They are signed there, and mean what they mean as headers.
 *
 * I1  A checksum in a link binds the body, but for that of no bytes: an SDK that makes a link has no body yet, and the one for
 *     JavaScript sums up the empty one by default, so that its link would be good for empty objects alone. It binds nothing.
 *     What comes as a header or a trailer, with the body, is checked whatever it is.
 */
import type { IncomingHttpHeaders } from 'node:http';
import { encodeHeader } from '../../http/header-text.ts';
import { isChecksumOfNothing } from '../checksums.ts';
import type { Query } from './canonical.ts';

/** Those that are the signature, or say how the body comes. */
const OF_THE_SIGNATURE = new Set([
  'x-amz-algorithm',
  'x-amz-credential',
  'x-amz-date',
  'x-amz-expires',
  'x-amz-signedheaders',
  'x-amz-signature',
  'x-amz-security-token',
  'x-amz-content-sha256',
]);

/** Adds them to `headers`; one that came as a header too stays as it came. Only for a request whose query is signed. */
export function takeHoistedHeaders(headers: IncomingHttpHeaders, query: Query): void {
  if (!query.some(([name]) => name.toLowerCase() === 'x-amz-algorithm')) return;
  for (const [name, value] of query) {
    const header = name.toLowerCase();
    if (!header.startsWith('x-amz-') || OF_THE_SIGNATURE.has(header)) continue;
    if (!isChecksumOfNothing(header, value)) headers[header] ??= encodeHeader(value);
  }
}
