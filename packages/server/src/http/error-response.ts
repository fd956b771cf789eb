/** The one place where error codes become HTTP. A new code does not compile until it is mapped here. */
import type { ServerResponse } from 'node:http';
import { HEADERS, isStoreError, StoreError, type StoreErrorCode } from '@ebb/protocol';

interface HttpMapping {
  readonly status: number;
  /** Seconds for `Retry-After`, where the error itself names no time. */
  readonly retryAfterSeconds?: number;
}

export const HTTP_ERRORS = {
  request_invalid: { status: 400 },
  config_invalid: { status: 400 },
  name_invalid: { status: 400 },
  not_found: { status: 404 },
  bucket_not_found: { status: 404 },
  bucket_exists: { status: 409 },
  job_exists: { status: 409 },
  bucket_not_empty: { status: 409 },
  job_not_found: { status: 404 },
  shuffle_not_found: { status: 404 },
  write_not_found: { status: 404 },
  lease_not_found: { status: 404 },
  file_not_open: { status: 404 },
  directory_not_empty: { status: 409 },
  already_committed: { status: 409 },
  already_exists: { status: 412 },
  precondition_failed: { status: 412 },
  superseded: { status: 409 },
  range_invalid: { status: 416 },
  length_mismatch: { status: 400 },
  checksum_mismatch: { status: 400 },
  data_corrupt: { status: 500 },
  key_unavailable: { status: 500 },
  data_lost: { status: 410 },
  too_large: { status: 413 },
  quota_exceeded: { status: 403 },
  tier_full: { status: 507, retryAfterSeconds: 5 },
  busy: { status: 429, retryAfterSeconds: 1 },
  starting: { status: 503, retryAfterSeconds: 1 },
  draining: { status: 503, retryAfterSeconds: 5 },
  events_gone: { status: 410 },
  not_mirrored: { status: 409 },
  not_yet_durable: { status: 503 },
  timed_out: { status: 504, retryAfterSeconds: 1 },
  data_directory_in_use: { status: 409 },
  version_unsupported: { status: 400 },
  unsupported: { status: 501 },
  io_failed: { status: 500 },
  node_unreachable: { status: 502 },
  aborted: { status: 499 },
  internal: { status: 500 },
} as const satisfies Record<StoreErrorCode, HttpMapping>;

/** `unsupported` with the methods that are: `details.allow`. */
const METHOD_NOT_ALLOWED = 405;

type HttpErrorStatus = (typeof HTTP_ERRORS)[StoreErrorCode]['status'] | typeof METHOD_NOT_ALLOWED;

/** Operating errors as they are; anything else is a fault of ours, whose words stay in the log. */
export function toStoreError(thrown: unknown): StoreError {
  return isStoreError(thrown) ? thrown : new StoreError('internal', undefined, {}, thrown);
}

export interface ErrorAnswer {
  readonly status: HttpErrorStatus;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

export function errorAnswer(error: StoreError): ErrorAnswer {
  const mapping: HttpMapping = HTTP_ERRORS[error.code];
  const { retryAfterMs } = error.details;
  const seconds =
    typeof retryAfterMs === 'number' ? Math.ceil(retryAfterMs / 1000) : mapping.retryAfterSeconds;
  const { code, message, retry, details } = error;
  const { sizeBytes, allow } = details;
  const isMethod = code === 'unsupported' && typeof allow === 'string';
  return {
    status: isMethod ? METHOD_NOT_ALLOWED : HTTP_ERRORS[code].status,
    headers: {
      'content-type': 'application/json',
      [HEADERS.errorCode]: code,
      ...(isMethod ? { allow } : {}),
      ...(mapping.retryAfterSeconds === undefined || seconds === undefined || retry === 'never'
        ? {}
        : { 'retry-after': String(Math.max(1, seconds)) }),
      ...(code === 'range_invalid' && typeof sizeBytes === 'number'
        ? { 'content-range': `bytes */${sizeBytes}` }
        : {}),
    },
    body: JSON.stringify({ error: { code, message, retry, details } }),
  };
}

/** A method that a path does not have: answered with 405 and the ones that it has. */
export function wrongMethod(method: string | undefined, allow: string): StoreError {
  return new StoreError('unsupported', `${method} is not offered here, only ${allow}`, { allow });
}

/** On a raw response. When the head is out already, the connection is cut: the peer must see that the body is not whole. */
export function sendError(response: ServerResponse, error: StoreError): void {
  if (response.destroyed || response.writableEnded) return;
  if (response.headersSent) {
    response.destroy(error);
    return;
  }
  const answer = errorAnswer(error);
  for (const name of response.getHeaderNames()) response.removeHeader(name);
  const body = Buffer.from(answer.body);
  response.writeHead(answer.status, { ...answer.headers, 'content-length': body.length });
  response.end(body);
}
