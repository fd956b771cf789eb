/** The CORS configuration of a bucket, and the preflight that a browser asks before it sends the request itself. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { isStoreError } from '@ebb/protocol';
import { readBody } from '../body.ts';
import type { BucketSettings, BucketSettingsTable } from '../bucket-settings.ts';
import { type S3Call, sendEmpty, sendXml } from '../call.ts';
import { corsElement, corsHeaders, parseCorsRules } from '../cors.ts';
import { parseXml } from '../read-xml.ts';
import { S3Error } from '../s3-error.ts';

const XML_BYTES_MAX = 64 * 1024;

export async function getBucketCors(call: S3Call): Promise<void> {
  const { cors } = await call.context.settings.get(call.bucket);
  if (cors === undefined)
    throw new S3Error('NoSuchCORSConfiguration', undefined, { BucketName: call.bucket });
  sendXml(call, 'CORSConfiguration', corsElement(cors));
}

export async function putBucketCors(call: S3Call): Promise<void> {
  const { settings } = call.context;
  const before = await settings.get(call.bucket);
  const body = await readBody(call, XML_BYTES_MAX);
  const cors = parseCorsRules(await parseXml(body, 'CORSConfiguration'));
  await settings.set(call.bucket, { ...before, cors });
  sendEmpty(call, 200);
}

export async function deleteBucketCors(call: S3Call): Promise<void> {
  const { settings } = call.context;
  const { cors: _, ...rest } = await settings.get(call.bucket);
  await settings.set(call.bucket, rest);
  sendEmpty(call, 204);
}

/**
 * Puts the headers on the answer that let a page of another origin read it; false when no rule does. Nothing is said
 * about a bucket that does not exist.
 */
export async function grantOrigin(
  request: IncomingMessage,
  response: ServerResponse,
  bucket: string,
  settings: BucketSettingsTable,
): Promise<boolean> {
  const { origin } = request.headers;
  const { cors } = origin === undefined ? {} : await findSettings(settings, bucket);
  if (origin === undefined || cors === undefined) return false;
  const isPreflight = request.method === 'OPTIONS';
  const headers = corsHeaders(cors, {
    origin,
    method: (isPreflight ? request.headers['access-control-request-method'] : request.method) ?? '',
    headers: isPreflight ? requestedHeaders(request) : [],
  });
  for (const name in headers) response.setHeader(name, headers[name] as string);
  return headers !== undefined;
}

async function findSettings(
  settings: BucketSettingsTable,
  bucket: string,
): Promise<BucketSettings> {
  try {
    return await settings.get(bucket);
  } catch (error) {
    // The request itself is told, once it is known who asks.
    if (isStoreError(error, 'bucket_not_found') || isStoreError(error, 'name_invalid')) return {};
    throw error;
  }
}

/** @throws {S3Error} `BadRequest`, `AccessForbidden` */
export async function answerPreflight(
  request: IncomingMessage,
  response: ServerResponse,
  { bucket, isGranted }: { readonly bucket: string; readonly isGranted: boolean },
  settings: BucketSettingsTable,
): Promise<void> {
  const { origin } = request.headers;
  const method = request.headers['access-control-request-method'];
  if (origin === undefined)
    throw new S3Error('BadRequest', 'Insufficient information. Origin request header needed.');
  if (method === undefined)
    throw new S3Error('BadRequest', 'Invalid Access-Control-Request-Method: null');
  if (!isGranted) {
    const { cors } = await findSettings(settings, bucket);
    throw new S3Error(
      'AccessForbidden',
      cors === undefined
        ? 'CORSResponse: CORS is not enabled for this bucket.'
        : 'CORSResponse: This CORS request is not allowed. This is usually because the evaluation of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource’s CORS spec.',
      { Method: method, ResourceType: 'OBJECT' },
    );
  }
  response.writeHead(200, { 'content-length': '0' });
  response.end();
}

function requestedHeaders({ headers }: IncomingMessage): readonly string[] {
  return (headers['access-control-request-headers'] ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== '');
}
