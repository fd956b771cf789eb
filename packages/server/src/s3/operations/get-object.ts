/** GetObject and HeadObject: ranges, parts, conditions, and headers that the request overrides. */
import type { OutgoingHttpHeaders } from 'node:http';
import type { ObjectRecord, OpenedObject } from '@ebb/core';
import { checkReadConditions, rangeApplies } from '../../http/data/conditions.ts';
import { parseRange } from '../../http/data/range.ts';
import { sendRange, untilSent } from '../../http/data/send-range.ts';
import type { FileRedirect } from '../../http/file-redirects.ts';
import { encodeHeader } from '../../http/header-text.ts';
import { checksumOf, objectHeaders, parsePartSums, parseParts } from '../attributes.ts';
import { headerOf, integerParameter, parameter, type S3Call } from '../call.ts';
import { checksumHeader } from '../checksums.ts';
import { S3Error } from '../s3-error.ts';
import { headNamed, tellVersion, withNamed } from './versions.ts';

const PARTS_MAX = 10_000;

/** Query parameters that replace headers of the answer. */
const OVERRIDES: Readonly<Record<string, string>> = {
  'response-content-type': 'content-type',
  'response-content-language': 'content-language',
  'response-expires': 'expires',
  'response-cache-control': 'cache-control',
  'response-content-disposition': 'content-disposition',
  'response-content-encoding': 'content-encoding',
};

export async function getObject(call: S3Call): Promise<void> {
  await untilSent(call.response, () => openAndAnswer(call));
}

async function openAndAnswer(call: S3Call): Promise<void> {
  const { store, owner } = call.context;
  // Only a proxy's own read of a file goes past us.
  const files = call.context.redirects?.isFor(call.request.headers) === true;
  const opened = await withNamed(call, (ref) => store.open(owner, ref, { ranges: true, files }));
  let keepsLease = false;
  try {
    await tellVersion(call, opened.object);
    const answer = planAnswer(call, opened.object);
    const redirect = findRedirect(call, opened, answer);
    if (redirect !== undefined) {
      keepsLease = redirect.keepsLease;
      // The proxy cuts ranges out of the whole, and says how long what it sends is.
      const { 'content-length': _, 'content-range': __, ...headers } = answer.headers;
      sendHead(call, {
        status: 200,
        headers: { ...headers, 'x-accel-redirect': redirect.location },
      });
    } else if (answer.status === 304) sendHead(call, answer);
    else await sendRange(call.response, { ...answer, opened }, call.context);
  } finally {
    if (!keepsLease) store.release(owner, [opened.leaseId]);
  }
}

/** Headers of unknown names would get lost on the way through a proxy. */
function findRedirect(
  call: S3Call,
  opened: OpenedObject,
  { status }: Answer,
): FileRedirect | undefined {
  const { redirects } = call.context;
  if (redirects === undefined || status === 304) return undefined;
  const isPart = parameter(call, 'partNumber') !== undefined;
  if (isPart || Object.keys(opened.object.metadata).length > 0) return undefined;
  return redirects.offer(call.request.headers, opened);
}

export async function headObject(call: S3Call): Promise<void> {
  sendHead(call, planAnswer(call, await headNamed(call)));
}

interface Answer {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  readonly start: number;
  /** Exclusive. */
  readonly end: number;
}

function sendHead(
  { response }: S3Call,
  { status, headers }: Pick<Answer, 'status' | 'headers'>,
): void {
  response.writeHead(status, headers);
  response.end();
}

function planAnswer(call: S3Call, object: ObjectRecord): Answer {
  const decision = checkReadConditions(call.request.headers, object);
  if (decision === 'failed') throw new S3Error('PreconditionFailed');
  const sizes = parameter(call, 'partNumber') === undefined ? [] : parseParts(object.attributes);
  const part = partRange(call, object, sizes);
  const range = part ?? requestedRange(call, object);
  const isWhole = range === undefined || (part !== undefined && sizes.length <= 1);
  const asksChecksums = headerOf(call, 'x-amz-checksum-mode')?.toUpperCase() === 'ENABLED';
  const headers = objectHeaders(object, {
    checksums: isWhole && asksChecksums,
  });
  if (sizes.length > 0) headers['x-amz-mp-parts-count'] = sizes.length;
  if (part !== undefined && asksChecksums) Object.assign(headers, partChecksum(call, object));
  for (const [name, header] of Object.entries(OVERRIDES)) {
    const value = parameter(call, name);
    if (value === undefined) continue;
    if (call.auth.accessKey === undefined && !call.context.keys.isOpen)
      throw new S3Error(
        'InvalidRequest',
        'Request specific response headers cannot be used for anonymous GET requests.',
      );
    headers[header] = encodeHeader(value);
  }
  if (decision === 'not-modified') return { status: 304, headers, start: 0, end: 0 };
  const { start, end } = range ?? { start: 0, end: object.sizeBytes };
  headers['content-length'] = end - start;
  if (range === undefined) return { status: 200, headers, start, end };
  headers['content-range'] = `bytes ${start}-${end - 1}/${object.sizeBytes}`;
  return { status: 206, headers, start, end };
}

/** The checksum of the part that is asked for, where the upload declared one. */
function partChecksum(call: S3Call, object: ObjectRecord): OutgoingHttpHeaders {
  const sum = parsePartSums(object.attributes)[Number(parameter(call, 'partNumber')) - 1];
  const checksum = checksumOf(object);
  if (sum === undefined || checksum === undefined) return {};
  return { [checksumHeader(checksum.algorithm)]: sum, 'x-amz-checksum-type': checksum.type };
}

interface Range {
  readonly start: number;
  readonly end: number;
}

function requestedRange(call: S3Call, object: ObjectRecord): Range | undefined {
  const applies = rangeApplies(headerOf(call, 'if-range'), object);
  const range = parseRange(applies ? call.request.headers.range : undefined, object.sizeBytes);
  if (range.kind === 'unsatisfiable')
    throw new S3Error('InvalidRange', undefined, {
      RangeRequested: call.request.headers.range ?? '',
      ActualObjectSize: object.sizeBytes,
    });
  return range.kind === 'part' ? range : undefined;
}

/** `?partNumber=N`; an object that was put whole has one part. Of an empty one there is no range to tell. */
function partRange(
  call: S3Call,
  object: ObjectRecord,
  sizes: readonly number[],
): Range | undefined {
  if (parameter(call, 'partNumber') === undefined) return undefined;
  if (call.request.headers.range !== undefined)
    throw new S3Error(
      'InvalidRequest',
      'Cannot specify both Range header and partNumber query parameter',
    );
  const number = integerParameter(call, 'partNumber', { otherwise: 1, min: 1, max: PARTS_MAX });
  const parts = sizes.length === 0 ? [object.sizeBytes] : sizes;
  const size = parts[number - 1];
  if (size === undefined)
    throw new S3Error('InvalidPartNumber', undefined, {
      ActualPartCount: parts.length,
      PartNumberRequested: number,
    });
  if (object.sizeBytes === 0) return undefined;
  const start = parts.slice(0, number - 1).reduce((sum, bytes) => sum + bytes, 0);
  return { start, end: start + size };
}
