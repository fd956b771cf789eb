/**
 * The one table of error codes. Core throws them, the server maps them to HTTP and to frames, and every
 * client branches on them: on `code` and `retry`, never on a message.
 *
 * `retry`: `never`: the same request fails again; `safe`: certainly not applied, try again later;
 * `ambiguous`: may have been applied, so look first or retry under a condition.
 */
export type Retry = 'never' | 'safe' | 'ambiguous';

export const ERRORS = {
  request_invalid: {
    retry: 'never',
    means: 'The request is malformed; the details list every complaint.',
  },
  config_invalid: {
    retry: 'never',
    means: 'The configuration does not hold together; the details list every complaint.',
  },
  name_invalid: {
    retry: 'never',
    means: 'A bucket name, key or job id is not allowed; the message says which rule.',
  },
  not_found: { retry: 'never', means: 'No object under this key.' },
  bucket_not_found: { retry: 'never', means: 'No bucket of this name.' },
  bucket_exists: { retry: 'never', means: 'A bucket of this name exists with another policy.' },
  bucket_not_empty: { retry: 'never', means: 'The bucket still has objects.' },
  job_not_found: { retry: 'never', means: 'No such job: it ended, expired, or never began.' },
  shuffle_not_found: {
    retry: 'never',
    means: 'No such shuffle: it was removed with its job, or never registered.',
  },
  write_not_found: {
    retry: 'never',
    means:
      'No such staged write: it was committed, aborted, expired, or belongs to another client.',
  },
  lease_not_found: { retry: 'never', means: 'No such lease: it was returned or has expired.' },
  already_committed: { retry: 'never', means: 'This staged write was committed before.' },
  already_exists: {
    retry: 'never',
    means: 'The object exists, and the write asked for a new one (If-None-Match: *).',
  },
  precondition_failed: {
    retry: 'never',
    means: 'The object is not at the version the caller named (If-Match, epoch).',
  },
  superseded: {
    retry: 'never',
    means: 'A newer attempt holds this place; the late commit was refused.',
  },
  range_invalid: { retry: 'never', means: 'The range starts beyond the end, or is malformed.' },
  length_mismatch: {
    retry: 'never',
    means: 'The number of bytes differs from what was announced.',
  },
  checksum_mismatch: {
    retry: 'never',
    means: 'The bytes do not match the checksum the client sent.',
  },
  data_corrupt: { retry: 'never', means: 'Stored bytes no longer match their checksum.' },
  data_lost: {
    retry: 'never',
    means: 'The bytes were on a tier that is gone and existed nowhere else.',
  },
  too_large: { retry: 'never', means: 'Larger than a limit allows.' },
  quota_exceeded: { retry: 'never', means: 'The byte budget of the job or bucket is used up.' },
  tier_full: {
    retry: 'safe',
    means: 'No room in any tier that may take this write, and nothing can be moved now.',
  },
  busy: {
    retry: 'safe',
    means:
      'The node is close to full, or a queue is at its limit; try again after the time it names.',
  },
  draining: { retry: 'safe', means: 'The node is stopping and takes no new work.' },
  data_directory_in_use: { retry: 'never', means: 'Another node runs on this data directory.' },
  version_unsupported: {
    retry: 'never',
    means: 'The other side speaks a protocol or format version this one does not know.',
  },
  unsupported: { retry: 'never', means: 'This option is not offered here.' },
  io_failed: { retry: 'ambiguous', means: 'The file system or a tier failed.' },
  node_unreachable: { retry: 'ambiguous', means: 'No answer from the node.' },
  aborted: { retry: 'ambiguous', means: 'The caller gave up.' },
  internal: {
    retry: 'ambiguous',
    means: 'A fault of Ebb itself; the log of the node has the cause.',
  },
} as const satisfies Record<string, { retry: Retry; means: string }>;

export type StoreErrorCode = keyof typeof ERRORS;

export type ErrorDetails = Readonly<
  Record<string, string | number | boolean | null | readonly string[]>
>;

/** An operating error: expected, coded, with its subject and numbers in `details`; the original is `cause`. */
export class StoreError extends Error {
  readonly code: StoreErrorCode;
  readonly retry: Retry;
  readonly details: ErrorDetails;

  constructor(code: StoreErrorCode, message?: string, details: ErrorDetails = {}, cause?: unknown) {
    super(message ?? ERRORS[code].means, cause === undefined ? undefined : { cause });
    this.name = 'StoreError';
    this.code = code;
    this.retry = ERRORS[code].retry;
    this.details = details;
  }
}

export function isStoreErrorCode(code: string): code is StoreErrorCode {
  return Object.hasOwn(ERRORS, code);
}

export function isStoreError(error: unknown, code?: StoreErrorCode): error is StoreError {
  return error instanceof StoreError && (code === undefined || error.code === code);
}

/** Our own mistake: the request fails, and the fault is reported as a bug. */
export class InvariantError extends Error {
  override readonly name = 'InvariantError';
}

/** @throws {InvariantError} when `condition` does not hold. One condition a call. */
export function assert(condition: unknown, why: string): asserts condition {
  if (!condition) throw new InvariantError(why);
}
