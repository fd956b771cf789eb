/** One S3 request on its way through: what it asks for, who asks, and the parts of the node that answer. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { DataContext } from '../http/data/data-context.ts';
import type { FileRedirects } from '../http/file-redirects.ts';
import { schemeOf } from '../http/foreign-request.ts';
import { decodeHeader } from '../http/header-text.ts';
import { holdAnswer } from '../http/held-answer.ts';
import type { Query } from './auth/canonical.ts';
import type { KeyRing } from './auth/key-ring.ts';
import type { Authenticated, Sigv4Verifier } from './auth/sigv4.ts';
import type { BucketSettingsTable } from './bucket-settings.ts';
import { S3Error } from './s3-error.ts';
import type { PartsInFlight } from './uploads.ts';
import { buildXml, type XmlElement } from './xml.ts';

export interface S3Context extends DataContext {
  readonly keys: KeyRing;
  readonly verifier: Sigv4Verifier;
  readonly settings: BucketSettingsTable;
  readonly partsInFlight: PartsInFlight;
  readonly now: () => number;
  /** Undefined: every byte goes through this process. */
  readonly redirects: FileRedirects | undefined;
  /** What ListBuckets and ACLs call the owner. */
  readonly ownerId: string;
}

export interface S3Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly bucket: string;
  readonly key: string;
  /** The bucket stands in the host, not in the path. */
  readonly isVirtualHost: boolean;
  readonly query: Query;
  readonly auth: Authenticated;
  readonly context: S3Context;
  /** The client sends its body once we say so. */
  readonly expectsContinue: boolean;
}

export type Operation = (call: S3Call) => Promise<void>;

/** The first value of a query parameter; '' for one without value. */
export function parameter({ query }: Pick<S3Call, 'query'>, name: string): string | undefined {
  return query.find(([known]) => known === name)?.[1];
}

/** A header with its bytes read as UTF-8. */
export function headerOf({ request }: Pick<S3Call, 'request'>, name: string): string | undefined {
  return decodeHeader(request.headers[name]);
}

/** @throws {S3Error} `InvalidArgument` */
export function integerParameter(
  call: Pick<S3Call, 'query'>,
  name: string,
  bounds: { readonly otherwise: number; readonly min: number; readonly max: number },
): number {
  const text = parameter(call, name);
  if (text === undefined || text === '') return bounds.otherwise;
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= bounds.min && value <= 0x7fffffff)
    return Math.min(value, bounds.max);
  throw new S3Error(
    'InvalidArgument',
    `Argument ${name} must be an integer from ${bounds.min} to 2147483647`,
    {
      ArgumentName: name,
      ArgumentValue: text,
    },
  );
}

/** Where an object of the bucket is, as its client asks for it. */
export function locationOf({ request, bucket, isVirtualHost }: S3Call, key: string): string {
  const path = encodeURIComponent(key).replaceAll('%2F', '/');
  const origin = `${schemeOf(request)}://${request.headers.host ?? 'localhost'}`;
  return isVirtualHost ? `${origin}/${path}` : `${origin}/${bucket}/${path}`;
}

export function sendXml(call: S3Call, root: string, element: XmlElement, status = 200): void {
  sendXmlText(call, buildXml(root, element), status);
}

export function sendXmlText(call: S3Call, text: string, status = 200): void {
  const body = Buffer.from(text);
  holdAnswer(call.context.held, call.response, body.length);
  call.response.writeHead(status, {
    'content-type': 'application/xml',
    'content-length': body.length,
  });
  call.response.end(body);
}

export function sendEmpty(
  call: S3Call,
  status = 200,
  headers: Readonly<Record<string, string>> = {},
): void {
  call.response.writeHead(status, status === 204 ? headers : { ...headers, 'content-length': '0' });
  call.response.end();
}
