/** Conditional requests (RFC 9110, 13). The store's ETags are bare; on the wire they are quoted. */
import type { IncomingHttpHeaders } from 'node:http';
import type { Condition } from '@ebb/core';
import { StoreError } from '@ebb/protocol';

export function formatETag(etag: string): string {
  return `"${etag}"`;
}

/** What the entity tags of a header are, without quotes; weak ones are kept apart, because If-Match never matches them. */
function parseETags(header: string): readonly { readonly etag: string; readonly weak: boolean }[] {
  return [...header.matchAll(/(W\/)?"([^"]*)"|([^\s,"]+)/g)].map((match) => ({
    etag: match[2] ?? (match[3] as string),
    weak: match[1] !== undefined,
  }));
}

interface Subject {
  readonly etag: string;
  readonly createdAtMs: number;
}
export type ReadDecision = 'proceed' | 'not-modified' | 'failed';

/** In the RFC's order of precedence. */
export function checkReadConditions(headers: IncomingHttpHeaders, subject: Subject): ReadDecision {
  const ifMatch = headers['if-match'];
  const seconds = Math.floor(subject.createdAtMs / 1000);
  if (ifMatch !== undefined) {
    const matches =
      ifMatch.trim() === '*' ||
      parseETags(ifMatch).some((tag) => !tag.weak && tag.etag === subject.etag);
    if (!matches) return 'failed';
  } else if (seconds > parseDateSeconds(headers['if-unmodified-since'], Number.POSITIVE_INFINITY))
    return 'failed';

  const ifNoneMatch = headers['if-none-match'];
  if (ifNoneMatch !== undefined) {
    const matches =
      ifNoneMatch.trim() === '*' ||
      parseETags(ifNoneMatch).some((tag) => tag.etag === subject.etag);
    return matches ? 'not-modified' : 'proceed';
  }
  return seconds <= parseDateSeconds(headers['if-modified-since'], Number.NEGATIVE_INFINITY)
    ? 'not-modified'
    : 'proceed';
}

/** If-Range: a range counts only when the object is still the one the client knows. */
export function rangeApplies(header: string | undefined, subject: Subject): boolean {
  if (header === undefined) return true;
  if (header.includes('"') || !header.includes(' '))
    return parseETags(header).some((tag) => !tag.weak && tag.etag === subject.etag);
  return Math.floor(subject.createdAtMs / 1000) === parseDateSeconds(header, Number.NaN);
}

export type WriteCondition = Pick<Condition, 'ifMatch' | 'ifNoneMatch'>;

/**
 * For PUT and DELETE: `If-None-Match` and `If-Match`, each with `*` or one ETag. What the store cannot check in the same step
 * as the change is refused rather than ignored.
 * @throws {StoreError} `unsupported`
 */
export function parseWriteCondition(headers: IncomingHttpHeaders): WriteCondition {
  const ifMatch = headers['if-match'];
  const ifNoneMatch = headers['if-none-match'];
  if (headers['if-unmodified-since'] !== undefined)
    throw new StoreError(
      'unsupported',
      'If-Unmodified-Since is not offered for writes: use If-Match',
    );
  if (ifMatch !== undefined && ifNoneMatch !== undefined)
    throw new StoreError('request_invalid', 'If-Match and If-None-Match exclude each other');
  if (ifMatch !== undefined) return { ifMatch: onlyETag('If-Match', ifMatch) };
  if (ifNoneMatch === undefined) return {};
  const etag = onlyETag('If-None-Match', ifNoneMatch);
  return { ifNoneMatch: etag === '*' ? true : etag };
}

/** `*`, or one ETag. @throws {StoreError} `unsupported` */
function onlyETag(name: string, header: string): string {
  if (header.trim() === '*') return '*';
  const tags = parseETags(header);
  const only = tags[0];
  if (tags.length === 1 && only !== undefined && !only.weak && only.etag !== '*') return only.etag;
  throw new StoreError('unsupported', `${name} of a write takes * or exactly one strong ETag`);
}

function parseDateSeconds(header: string | undefined, otherwise: number): number {
  const ms = header === undefined ? Number.NaN : Date.parse(header);
  return Number.isNaN(ms) ? otherwise : Math.floor(ms / 1000);
}
