/** An S3 client that was given the control address of a node. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { buildPlainXml } from './xml.ts';

/** Tells it where S3 is, in the words that it shows to people. False for a request that is no S3 client's. */
export function answerAtWrongAddress(request: IncomingMessage, response: ServerResponse): boolean {
  if (!isSignedForS3(request)) return false;
  const body = Buffer.from(
    buildPlainXml('Error', {
      Code: 'InvalidRequest',
      Message:
        'This is the control address of an Ebb node. Its S3 address is another one: --s3-listen, port 9701 by default; the ready line in the log of the node tells it.',
    }),
  );
  response.writeHead(400, { 'content-type': 'application/xml', 'content-length': body.length });
  response.end(request.method === 'HEAD' ? undefined : body);
  return true;
}

/** In the header or in a link. A key may hold the same text, a query of ours does not. */
function isSignedForS3({ headers, url = '' }: IncomingMessage): boolean {
  if (headers.authorization?.startsWith('AWS4-HMAC-SHA256') === true) return true;
  const query = url.indexOf('?');
  return query >= 0 && url.includes('X-Amz-Signature=', query);
}
