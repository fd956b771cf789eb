/**
 * What an object store or the way to it answers, in the codes of the protocol. In the worker only.
 *
 * `io_failed` carries `status` (0: no answer), `s3Code` and `retryable`. Texts of the store are passed on only where no
 * hint of ours says more, and without the credentials that they may repeat.
 *
 * I1  404 says that there is no object only where an object was asked for (`isLookup`). To a write it is the answer of somebody
 *     who is no object store, such as a proxy whose store is away: `io_failed`, and the write is tried again.
 */
import { StoreError, type StoreErrorCode } from '@ebb/protocol';
import { errnoOf } from '../fs-error.ts';

interface ServiceFailure {
  readonly status: number;
  readonly s3Code: string;
  readonly message: string;
}

const NAME_CODES = new Set([
  'KeyTooLongError',
  'InvalidObjectName',
  'XMinioInvalidObjectName',
  'XMinioObjectExistsAsDirectory',
  'XMinioParentIsObject',
  'InvalidURI',
]);
const FULL_CODES = new Set([
  'StorageFull',
  'InsufficientStorage',
  'XMinioStorageFull',
  'QuotaExceeded',
  'XMinioAdminBucketQuotaExceeded',
  'AccountQuotaExceeded',
  'InsufficientCapacity',
]);
const SIZE_CODES = new Set(['EntityTooLarge', 'MetadataTooLarge']);
/** Beside 5xx and 429. The last ones: the bytes did not arrive as they were sent, or not all of them. */
const RETRYABLE_CODES = new Set([
  'RequestTimeout',
  'RequestTimeTooSkewed',
  'SlowDown',
  'Throttling',
  'ThrottlingException',
  'InternalError',
  'ServiceUnavailable',
  'OperationAborted',
  'BadDigest',
  'IncompleteBody',
  'XAmzContentChecksumMismatch',
  'XAmzContentSHA256Mismatch',
]);
const HINTS: Readonly<Record<string, string>> = {
  InvalidAccessKeyId: 'the store does not know this access key; check which credentials are given',
  SignatureDoesNotMatch: 'the secret key does not belong to the access key, or the region is wrong',
  AccessDenied:
    'access denied; check that these credentials may read, write, list and delete there',
  ExpiredToken: 'the session token has expired; check what renews it',
  InvalidToken: 'the session token is not valid; check what provides it',
  RequestTimeTooSkewed: 'the clock of this host is wrong; check its time',
  AuthorizationHeaderMalformed: 'the region is wrong; check `region` in the location',
  PermanentRedirect: 'the bucket lies elsewhere; check `region` and `endpoint` in the location',
};

/** Of OpenSSL and Node, for a certificate that is of an unknown CA, of another host, or out of date. */
const UNTRUSTED = /CERT|SELF_SIGNED|UNABLE_TO_(?:VERIFY|GET_ISSUER)/;

interface Subject {
  /** `putting KEY`: the beginning of the message. */
  readonly doing: string;
  readonly bucket: string;
  /** An object is asked for, which need not be there. */
  readonly isLookup: boolean;
  /** Takes credentials out of a text. */
  readonly hide: (text: string) => string;
}

export function toS3Error(error: unknown, subject: Subject): StoreError {
  if (error instanceof StoreError) return error;
  const failure = findServiceFailure(error);
  if (failure === undefined) return toConnectionError(error, subject);
  const { doing, bucket, hide, isLookup } = subject;
  const { status, s3Code } = failure;
  const code = findCode(failure, isLookup);
  const isRetryable =
    code === 'io_failed' && (status >= 500 || status === 429 || RETRYABLE_CODES.has(s3Code));
  return new StoreError(code, `${doing}: ${hide(explain(failure, code, bucket))}`, {
    status,
    s3Code,
    retryable: isRetryable && status !== 501,
  });
}

export function s3CodeOf(error: unknown): string {
  if (error instanceof StoreError) return String(error.details['s3Code'] ?? '');
  return findServiceFailure(error)?.s3Code ?? '';
}

export function isRetryable(error: unknown): boolean {
  return error instanceof StoreError && error.details['retryable'] === true;
}

/** What arrived is not what the store announced, or not in time. */
export function connectionFailed(message: string): StoreError {
  return new StoreError('io_failed', message, { status: 0, s3Code: '', retryable: true });
}

function findServiceFailure(error: unknown): ServiceFailure | undefined {
  if (!(error instanceof Error)) return undefined;
  const { $metadata, message, name } = error as Error & {
    $metadata?: { httpStatusCode?: number };
  };
  const status = $metadata?.httpStatusCode;
  return status === undefined ? undefined : { status, s3Code: name, message };
}

function findCode({ status, s3Code }: ServiceFailure, isLookup: boolean): StoreErrorCode {
  if (s3Code === 'NoSuchBucket' || s3Code === 'NoSuchUpload') return 'io_failed';
  if (status === 507 || FULL_CODES.has(s3Code)) return 'tier_full';
  if (NAME_CODES.has(s3Code)) return 'name_invalid';
  if (SIZE_CODES.has(s3Code)) return 'too_large';
  if (status === 404) return isLookup ? 'data_lost' : 'io_failed'; // I1
  if (status === 412) return 'precondition_failed';
  if (status === 416) return 'range_invalid';
  return 'io_failed';
}

function explain(failure: ServiceFailure, code: StoreErrorCode, bucket: string): string {
  const { status, s3Code, message } = failure;
  const answered = `the store answered ${status} ${s3Code}`;
  if (s3Code === 'NoSuchBucket') {
    return `there is no bucket ${bucket}; create it, or correct the location (${answered})`;
  }
  if (code === 'data_lost') return `no such object in tier 2 (${answered})`;
  if (status === 404) {
    return `nothing there takes it; see that the endpoint is the object store, and that it runs (${answered})`;
  }
  if (code === 'precondition_failed') return `somebody replaced it in tier 2 (${answered})`;
  const hint =
    HINTS[s3Code] ?? (status === 401 || status === 403 ? HINTS['AccessDenied'] : undefined);
  return hint === undefined ? `${answered}: ${message.slice(0, 300)}` : `${hint} (${answered})`;
}

/** No answer: DNS, refused, reset, timed out, cut, or no credentials to ask with. */
function toConnectionError(error: unknown, { doing, hide }: Subject): StoreError {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  const details = { status: 0, s3Code: '', errno: errnoOf(error), retryable: true };
  if (/Credentials|TokenProvider/.test(name)) {
    const found =
      'no credentials found; give an access key, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role of this machine';
    return new StoreError('io_failed', `${doing}: ${found}`, details);
  }
  if (message.startsWith('Region is missing')) {
    return new StoreError('io_failed', `${doing}: no region; name it in the location`, details);
  }
  const tlsCode = (error as { code?: unknown } | undefined)?.code;
  if (typeof tlsCode === 'string' && UNTRUSTED.test(tlsCode)) {
    const advice = 'name its CA (caFile of the remote, or NODE_EXTRA_CA_CERTS), or have it renewed';
    const refused = `the certificate of the store is not trusted (${tlsCode}); ${advice}`;
    return new StoreError('io_failed', `${doing}: ${refused}`, details);
  }
  // The SDK adds to what it could not parse an advice on how to print it.
  const reason = hide(message.split('\n')[0]?.slice(0, 300) ?? '');
  return new StoreError('io_failed', `${doing}: ${reason === '' ? name : reason}`, details);
}
