/**
 * The one table of S3 error codes this face answers with, after the S3 API Reference, "Error responses". The store's own
 * codes are mapped onto them here; a new store code does not compile until it is.
 */
import { StoreError, type StoreErrorCode } from '@ebb/protocol';

const S3_ERRORS = {
  AccessDenied: { status: 403, message: 'Access Denied' },
  AccessForbidden: { status: 403, message: 'Access Forbidden' },
  AccessControlListNotSupported: { status: 400, message: 'The bucket does not allow ACLs' },
  AuthorizationHeaderMalformed: {
    status: 400,
    message: 'The authorization header that you provided is not valid.',
  },
  AuthorizationQueryParametersError: {
    status: 400,
    message: 'Query-string authentication parameters are not valid.',
  },
  BadDigest: {
    status: 400,
    message: 'The Content-MD5 or checksum value that you specified did not match what we received.',
  },
  BadRequest: { status: 400, message: 'Bad Request' },
  BucketAlreadyOwnedByYou: {
    status: 409,
    message: 'Your previous request to create the named bucket succeeded and you already own it.',
  },
  BucketNotEmpty: { status: 409, message: 'The bucket that you tried to delete is not empty.' },
  ConditionalRequestConflict: {
    status: 409,
    message: 'A conflicting conditional operation is in progress against this resource.',
  },
  IllegalVersioningConfigurationException: {
    status: 400,
    message: 'The versioning configuration needs a Status of Enabled or Suspended.',
  },
  EntityTooLarge: {
    status: 400,
    message: 'Your proposed upload exceeds the maximum allowed object size.',
  },
  EntityTooSmall: {
    status: 400,
    message: 'Your proposed upload is smaller than the minimum allowed object size.',
  },
  IncompleteBody: {
    status: 400,
    message: 'You did not provide the number of bytes specified by the Content-Length HTTP header.',
  },
  IncorrectNumberOfFilesInPostRequest: {
    status: 400,
    message: 'POST requires exactly one file upload per request.',
  },
  InternalError: { status: 500, message: 'An internal error occurred. Try again.' },
  InvalidAccessKeyId: {
    status: 403,
    message: 'The access key ID that you provided does not exist in our records.',
  },
  InvalidArgument: { status: 400, message: 'Invalid argument' },
  InvalidBucketName: { status: 400, message: 'The specified bucket is not valid.' },
  InvalidDigest: { status: 400, message: 'The Content-MD5 that you specified is not valid.' },
  InvalidPart: {
    status: 400,
    message:
      'One or more of the specified parts could not be found. The part might not have been uploaded, or the specified entity tag might not have matched the part’s entity tag.',
  },
  InvalidPartNumber: { status: 416, message: 'The requested partnumber is not satisfiable' },
  InvalidPartOrder: {
    status: 400,
    message:
      'The list of parts was not in ascending order. Parts list must be specified in order by part number.',
  },
  InvalidPolicyDocument: {
    status: 400,
    message:
      'The content of the form does not meet the conditions specified in the policy document.',
  },
  InvalidRange: { status: 416, message: 'The requested range is not satisfiable' },
  InvalidRequest: { status: 400, message: 'Invalid Request' },
  InvalidStorageClass: {
    status: 400,
    message: 'The storage class you specified is not valid',
  },
  InvalidTag: { status: 400, message: 'The tag provided was not a valid tag.' },
  KeyTooLongError: { status: 400, message: 'Your key is too long.' },
  MalformedACLError: { status: 400, message: 'The ACL that you provided was not well formed.' },
  MalformedPOSTRequest: {
    status: 400,
    message: 'The body of your POST request is not well-formed multipart/form-data.',
  },
  MalformedTrailerError: {
    status: 400,
    message:
      'The request contained trailing data that was not well-formed or did not conform to our published schema.',
  },
  MalformedXML: {
    status: 400,
    message:
      'The XML that you provided was not well-formed or did not validate against our published schema.',
  },
  MaxPostPreDataLengthExceeded: {
    status: 400,
    message: 'Your POST request fields preceding the upload file were too large.',
  },
  MetadataTooLarge: {
    status: 400,
    message: 'Your metadata headers exceed the maximum allowed metadata size.',
  },
  MethodNotAllowed: {
    status: 405,
    message: 'The specified method is not allowed against this resource.',
  },
  MissingContentLength: {
    status: 411,
    message: 'You must provide the Content-Length HTTP header.',
  },
  NoSuchBucketPolicy: { status: 404, message: 'The bucket policy does not exist' },
  NoSuchBucket: { status: 404, message: 'The specified bucket does not exist.' },
  NoSuchCORSConfiguration: {
    status: 404,
    message: 'The specified bucket does not have a CORS configuration.',
  },
  NoSuchLifecycleConfiguration: {
    status: 404,
    message: 'The lifecycle configuration does not exist',
  },
  NoSuchPublicAccessBlockConfiguration: {
    status: 404,
    message: 'The public access block configuration was not found',
  },
  NoSuchKey: { status: 404, message: 'The specified key does not exist.' },
  NoSuchTagSet: { status: 404, message: 'The TagSet does not exist' },
  NoSuchUpload: {
    status: 404,
    message:
      'The specified multipart upload does not exist. The upload ID might not be valid, or the multipart upload might have been aborted or completed.',
  },
  NoSuchVersion: {
    status: 404,
    message: 'The version ID specified in the request does not match an existing version.',
  },
  NoSuchWebsiteConfiguration: {
    status: 404,
    message: 'The specified bucket does not have a website configuration',
  },
  NotImplemented: {
    status: 501,
    message: 'A header or query that you provided implies functionality that is not implemented.',
  },
  ObjectLockConfigurationNotFoundError: {
    status: 404,
    message: 'Object Lock configuration does not exist for this bucket',
  },
  OperationAborted: {
    status: 409,
    message:
      'A conflicting conditional operation is currently in progress against this resource. Try again.',
  },
  OwnershipControlsNotFoundError: {
    status: 404,
    message: 'The bucket ownership controls were not found',
  },
  PreconditionFailed: {
    status: 412,
    message: 'At least one of the pre-conditions you specified did not hold',
  },
  QuotaExceeded: { status: 403, message: 'The byte budget of the bucket or job is used up.' },
  ReplicationConfigurationNotFoundError: {
    status: 404,
    message: 'The replication configuration was not found',
  },
  RequestTimeTooSkewed: {
    status: 403,
    message: 'The difference between the request time and the server’s time is too large.',
  },
  RequestTimeout: {
    status: 400,
    message: 'Your socket connection to the server was not read from or written to in time.',
  },
  ServerSideEncryptionConfigurationNotFoundError: {
    status: 404,
    message: 'The server side encryption configuration was not found',
  },
  SignatureDoesNotMatch: {
    status: 403,
    message:
      'The request signature that we calculated does not match the signature that you provided. Check your secret access key and signing method.',
  },
  SlowDown: { status: 503, message: 'Reduce your request rate.' },
  StorageFull: { status: 507, message: 'No tier of this node has room for the object.' },
  TooManyRequests: { status: 429, message: 'The node is close to full; try again later.' },
  XAmzContentSHA256Mismatch: {
    status: 400,
    message: "The provided 'x-amz-content-sha256' header does not match what was computed.",
  },
} as const satisfies Record<string, { readonly status: number; readonly message: string }>;

export type S3ErrorCode = keyof typeof S3_ERRORS;

/** Elements beside Code and Message, as S3 names them: Key, BucketName, ArgumentName, ActualObjectSize… */
export type S3ErrorDetails = Readonly<Record<string, string | number>>;

export class S3Error extends Error {
  readonly code: S3ErrorCode;
  readonly status: number;
  readonly details: S3ErrorDetails;
  /** Seconds for `Retry-After`. */
  readonly retryAfterSeconds: number | undefined;

  constructor(
    code: S3ErrorCode,
    message?: string,
    details: S3ErrorDetails = {},
    options: { readonly cause?: unknown; readonly retryAfterSeconds?: number } = {},
  ) {
    super(message ?? S3_ERRORS[code].message, { cause: options.cause });
    this.name = 'S3Error';
    this.code = code;
    this.status = S3_ERRORS[code].status;
    this.details = details;
    this.retryAfterSeconds = options.retryAfterSeconds;
  }
}

const BY_STORE_CODE = {
  request_invalid: 'InvalidRequest',
  config_invalid: 'InvalidRequest',
  name_invalid: 'InvalidArgument',
  not_found: 'NoSuchKey',
  bucket_not_found: 'NoSuchBucket',
  bucket_exists: 'BucketAlreadyOwnedByYou',
  bucket_not_empty: 'BucketNotEmpty',
  job_not_found: 'InvalidArgument',
  job_exists: 'InternalError',
  shuffle_not_found: 'InternalError',
  write_not_found: 'InternalError',
  lease_not_found: 'InternalError',
  file_not_open: 'InternalError',
  directory_not_empty: 'InternalError',
  already_committed: 'InternalError',
  already_exists: 'PreconditionFailed',
  precondition_failed: 'PreconditionFailed',
  superseded: 'ConditionalRequestConflict',
  range_invalid: 'InvalidRange',
  length_mismatch: 'IncompleteBody',
  checksum_mismatch: 'BadDigest',
  data_corrupt: 'InternalError',
  key_unavailable: 'InternalError',
  data_lost: 'InternalError',
  too_large: 'EntityTooLarge',
  quota_exceeded: 'QuotaExceeded',
  tier_full: 'StorageFull',
  busy: 'TooManyRequests',
  starting: 'SlowDown',
  draining: 'SlowDown',
  events_gone: 'InternalError',
  not_mirrored: 'InternalError',
  not_yet_durable: 'InternalError',
  timed_out: 'RequestTimeout',
  data_directory_in_use: 'InternalError',
  version_unsupported: 'InternalError',
  unsupported: 'NotImplemented',
  io_failed: 'InternalError',
  node_unreachable: 'InternalError',
  aborted: 'RequestTimeout',
  internal: 'InternalError',
} as const satisfies Record<StoreErrorCode, S3ErrorCode>;

/** Operating errors in S3's words; anything else is a fault of ours, whose words stay in the log. */
export function toS3Error(thrown: unknown): S3Error {
  if (thrown instanceof S3Error) return thrown;
  if (!(thrown instanceof StoreError))
    return new S3Error('InternalError', undefined, {}, { cause: thrown });
  // SDKs send again what got a 507. They give up on a 400, as is right where no wait makes room.
  const isTooLarge = thrown.code === 'tier_full' && thrown.retry === 'never';
  const code = isTooLarge ? 'EntityTooLarge' : BY_STORE_CODE[thrown.code];
  const { retryAfterMs, what } = thrown.details;
  if (thrown.code === 'name_invalid')
    return new S3Error(
      what === 'bucket name' ? 'InvalidBucketName' : 'InvalidArgument',
      thrown.message,
      {},
      { cause: thrown },
    );
  if (code === 'PreconditionFailed')
    return new S3Error(code, undefined, conditionOf(thrown), { cause: thrown });
  const isPlain = thrown.code === 'not_found' || thrown.code === 'bucket_not_found';
  return new S3Error(code, isPlain ? undefined : thrown.message, isPlain ? nameOf(thrown) : {}, {
    cause: thrown,
    ...(typeof retryAfterMs === 'number'
      ? { retryAfterSeconds: Math.max(1, Math.ceil(retryAfterMs / 1000)) }
      : {}),
  });
}

/** Which of the client's conditions did not hold, by the header that says it. */
function conditionOf({ code, details }: StoreError): S3ErrorDetails {
  if (code === 'already_exists') return { Condition: 'If-None-Match' };
  if ('wanted' in details) return { Condition: 'If-Match' };
  return 'unwanted' in details ? { Condition: 'If-None-Match' } : {};
}

/** Of what was sought; a part of an upload has no name that clients know. */
function nameOf({ details: { bucket, key } }: StoreError): S3ErrorDetails {
  if (typeof bucket !== 'string' || bucket.includes('!')) return {};
  return typeof key === 'string' ? { Key: key } : { BucketName: bucket };
}
