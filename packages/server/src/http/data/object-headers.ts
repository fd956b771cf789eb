/** An object's properties as headers, and back. Metadata values are UTF-8 bytes on the wire. */
import type { IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import { findCrc32c, formatCrc32c, type ObjectRecord, type ObjectView } from '@ebb/core';
import { ACKS, type Ack, HEADERS, StoreError, type TierIndex } from '@ebb/protocol';
import { decodeHeader, encodeHeader } from '../header-text.ts';
import { formatETag } from './conditions.ts';

export const TIER_NAMES = ['memory', 'disk', 'remote'] as const;

/** Without length, range and status, which are the request's. */
export function objectHeaders(object: ObjectRecord): OutgoingHttpHeaders {
  const headers: OutgoingHttpHeaders = {
    'content-type': encodeHeader(object.contentType) || 'application/octet-stream',
    etag: formatETag(object.etag),
    'last-modified': new Date(object.createdAtMs).toUTCString(),
    'accept-ranges': 'bytes',
    [HEADERS.version]: String(object.version),
  };
  if (object.crc32c !== null) headers[HEADERS.crc32c] = formatCrc32c(object.crc32c);
  if (object.jobId !== null) headers[HEADERS.job] = encodeHeader(object.jobId);
  for (const name in object.metadata) {
    if (/^[a-z0-9!#$&'*+.^_`|~-]+$/i.test(name))
      headers[HEADERS.metaPrefix + name] = encodeHeader(object.metadata[name] as string);
  }
  return headers;
}

export function viewHeaders(view: ObjectView): OutgoingHttpHeaders {
  return {
    ...objectHeaders(view.object),
    [HEADERS.durability]: view.durability,
    ...(view.tiers[0] === undefined ? {} : { [HEADERS.tier]: tierName(view.tiers[0]) }),
  };
}

export function tierName(tier: TierIndex): (typeof TIER_NAMES)[number] {
  return TIER_NAMES[tier];
}

export interface PutHeaders {
  readonly contentType?: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly ack?: Ack;
  readonly jobId?: string;
  readonly crc32c?: number;
  /** Undefined for a chunked body. */
  readonly sizeBytes?: number;
}

/** @throws {StoreError} `request_invalid` */
export function parsePutHeaders({ headers }: IncomingMessage): PutHeaders {
  const metadata: Record<string, string> = {};
  for (const name in headers) {
    if (name.startsWith(HEADERS.metaPrefix) && name.length > HEADERS.metaPrefix.length)
      metadata[name.slice(HEADERS.metaPrefix.length)] = decodeHeader(String(headers[name]));
  }
  if (headers['content-encoding'] !== undefined || headers['content-range'] !== undefined)
    throw new StoreError(
      'unsupported',
      'Content-Encoding and Content-Range are not offered on PUT',
    );
  const ack = headers[HEADERS.ack];
  if (ack !== undefined && !ACKS.includes(ack as Ack))
    throw new StoreError('request_invalid', `${HEADERS.ack} must be one of ${ACKS.join(', ')}`);
  const crcText = headers[HEADERS.crc32c];
  const crc = crcText === undefined ? undefined : findCrc32c(String(crcText));
  if (crcText !== undefined && crc === undefined)
    throw new StoreError('request_invalid', `${HEADERS.crc32c} must be 8 hex digits`);
  const length = headers['content-length'];
  const contentType = headers['content-type'];
  const jobId = headers[HEADERS.job];
  return {
    metadata,
    ...(contentType === undefined ? {} : { contentType }),
    ...(ack === undefined ? {} : { ack: ack as Ack }),
    ...(jobId === undefined ? {} : { jobId: decodeHeader(String(jobId)) }),
    ...(crc === undefined ? {} : { crc32c: crc }),
    // Without either header there is no body.
    ...(length === undefined && headers['transfer-encoding'] !== undefined
      ? {}
      : { sizeBytes: Number(length ?? 0) }),
  };
}
