/** Names of a directory as tier 2: which can be paths below its root, and the errors that tell of one. */
import type { BigIntStats } from 'node:fs';
import { isStoreError, StoreError } from '@ebb/protocol';
import { formatCrc32c } from '../checksum.ts';
import { REMOTE_NAME_BYTES_MAX, REMOTE_SEGMENT_BYTES_MAX } from '../limits.ts';
import { identityOf } from './file-identity.ts';
import { errnoOf } from './fs-error.ts';

/** The directory of temporary files, below the root. */
export const TEMPORARY = '.ebb-tmp';

/** Undefined when the name cannot be a path below the root (I2 of directory-tier.ts), or would not fit into one. */
export function findSegments(name: string): readonly string[] | undefined {
  const segments = name.split('/');
  const isPlain =
    segments.length >= 2 &&
    segments[0] !== TEMPORARY &&
    // A lone surrogate would be stored as U+FFFD, and two names become one.
    name.isWellFormed() &&
    !name.includes('\0') &&
    Buffer.byteLength(name) <= REMOTE_NAME_BYTES_MAX &&
    segments.every(isSegment);
  return isPlain ? segments : undefined;
}

function isSegment(segment: string): boolean {
  if (segment === '' || segment === '.' || segment === '..') return false;
  return Buffer.byteLength(segment) <= REMOTE_SEGMENT_BYTES_MAX;
}

/** @throws `name_invalid` */
export function parseName(name: string): readonly string[] {
  const segments = findSegments(name);
  if (segments === undefined) throw nameError(name, 'a segment is empty, . or .., or too long');
  return segments;
}

export function nameError(name: string, why: string, cause?: unknown): StoreError {
  const message = `${JSON.stringify(name)} cannot be a file of tier 2: ${why}`;
  return new StoreError('name_invalid', message, { name }, cause);
}

export function conflictError(name: string, conflict: string, cause?: unknown): StoreError {
  return nameError(name, `${conflict} is a file or directory already`, cause);
}

/** @throws `precondition_failed` */
export function assertUnchanged(name: string, stats: BigIntStats, etag: string): void {
  const found = identityOf(stats).etag;
  if (found !== etag) throw replacedError(name, etag, found);
}

export function replacedError(
  name: string,
  expected: string | null,
  found: string | null,
): StoreError {
  const has = found === null ? 'does not exist' : `has the ETag ${found}`;
  const wanted = expected === null ? 'nothing was expected' : `expected ${expected}`;
  const message = `${name} ${has} in tier 2, ${wanted}: somebody replaced it there`;
  return new StoreError('precondition_failed', message, { name, expected, found });
}

export function mismatch(name: string, { expected, found }: Record<'expected' | 'found', number>) {
  const sums = { name, expected: formatCrc32c(expected), found: formatCrc32c(found) };
  const message = `${name} has CRC32C ${sums.found}, expected ${sums.expected}`;
  return new StoreError('data_corrupt', message, sums);
}

export function endsBefore(name: string, end: number): StoreError {
  return new StoreError('range_invalid', `${name} ends before ${end}`, { name, end });
}

export function noSuchName(name: string, cause?: unknown): StoreError {
  return new StoreError('data_lost', `no object ${name} in tier 2`, { name }, cause);
}

/** A link is no object either: O_NOFOLLOW gives ELOOP. */
export function isNoSuchName(error: unknown): boolean {
  if (isStoreError(error, 'data_lost')) return true;
  return ['ENOENT', 'ENOTDIR', 'EISDIR', 'ELOOP'].includes(errnoOf(error));
}
