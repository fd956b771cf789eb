/**
 * Checks AWS Signature Version 4: in the Authorization header, in the query (presigned), and as the seed of a body that is
 * signed chunk by chunk (aws-chunked.ts). Source: Amazon S3 API Reference, "Authenticating Requests".
 *
 * I1  Signatures are compared in constant time, and an error names ids and what was signed, never a secret or the
 *     signature that would have been right.
 * I2  What was not signed is not trusted: `host` and every `x-amz-*` header must be in SignedHeaders, of a presigned request
 *     too. A presigned PUT would else become a copy by a header that whoever holds the link adds. `x-amz-content-sha256` may
 *     be missing there: it says how the body comes, and is part of what is signed by its value.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { S3Error } from '../s3-error.ts';
import {
  canonicalHeaders,
  canonicalPath,
  canonicalQuery,
  canonicalRequest,
  type Query,
  sha256Hex,
} from './canonical.ts';
import type { AccessKey, KeyRing } from './key-ring.ts';

const ALGORITHM = 'AWS4-HMAC-SHA256';
const SKEW_MS_MAX = 15 * 60_000;
const EXPIRES_SECONDS_MAX = 7 * 24 * 3600;
/** Signing keys are good for a day; a few callers share the node. */
const SIGNING_KEYS_MAX = 256;

export interface SignedRequest {
  readonly method: string;
  /** As sent, without the query. */
  readonly rawPath: string;
  readonly query: Query;
  readonly rawHeaders: readonly string[];
  /** Lower-case names, as Node gives them. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

/** What `x-amz-content-sha256` says of the body. */
export type PayloadPolicy =
  | { readonly kind: 'unsigned' }
  | { readonly kind: 'signed'; readonly sha256: string }
  /** aws-chunked framing; `seed`: each chunk carries a signature. */
  | { readonly kind: 'chunked'; readonly signed: boolean; readonly trailer: boolean };

/** What a chunk-signed body goes on from. */
export interface SignatureSeed {
  readonly signature: string;
  readonly signingKey: Buffer;
  readonly amzDate: string;
  readonly scope: string;
}

export interface Authenticated {
  /** Undefined: nobody was asked to sign. */
  readonly accessKey: AccessKey | undefined;
  readonly payload: PayloadPolicy;
  readonly seed: SignatureSeed | undefined;
}

/** Of values that a client sends again and again. */
const PARSED_KEPT = 64;
/** Longer ones are no client's usual ones, and would fill memory. */
const PARSED_CHARACTERS_MAX = 1024;

export class Sigv4Verifier {
  readonly #keys: KeyRing;
  readonly #now: () => number;
  readonly #signingKeys = new Map<string, Buffer>();

  constructor(keys: KeyRing, now: () => number) {
    this.#keys = keys;
    this.#now = now;
  }

  /**
   * @throws {S3Error} `AccessDenied` (unsigned, expired), `InvalidAccessKeyId`, `SignatureDoesNotMatch`,
   * `RequestTimeTooSkewed`, `AuthorizationHeaderMalformed`, `AuthorizationQueryParametersError`, `InvalidRequest`
   */
  verify(request: SignedRequest): Authenticated {
    const payload = payloadOf(request, header(request, 'x-amz-content-sha256'));
    if (this.#keys.isOpen) return { accessKey: undefined, payload, seed: undefined };
    const authorization = header(request, 'authorization');
    const isPresigned = request.query.some(([name]) => name.toLowerCase() === 'x-amz-algorithm');
    if (authorization !== undefined && isPresigned)
      throw new S3Error(
        'InvalidArgument',
        'Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter or the Authorization header should be specified',
        { ArgumentName: 'Authorization' },
      );
    if (authorization !== undefined) return this.#verifyHeader(request, authorization, payload);
    if (isPresigned) return this.#verifyQuery(request);
    if (request.query.some(([name]) => name === 'AWSAccessKeyId')) throw versionTwo();
    throw new S3Error('AccessDenied');
  }

  /**
   * A POST form's policy, which is signed as it stands.
   * @throws {S3Error} as `verify`
   */
  verifyPolicy(form: {
    readonly policy: string;
    readonly credential: string;
    readonly signature: string;
  }): AccessKey {
    const credential = parseCredential(form.credential, 'AuthorizationQueryParametersError');
    const accessKey = this.#find(credential.accessKeyId);
    const key = this.#signingKey(accessKey, credential);
    if (!equalHex(hmacHex(key, form.policy), form.signature))
      throw mismatch(accessKey, form.policy);
    return accessKey;
  }

  #verifyHeader(
    request: SignedRequest,
    authorization: string,
    payload: PayloadPolicy,
  ): Authenticated {
    if (authorization.startsWith('AWS ')) throw versionTwo();
    const parsed = parseAuthorization(authorization);
    const amzDate = header(request, 'x-amz-date') ?? isoBasic(header(request, 'date'));
    if (amzDate === undefined)
      throw new S3Error(
        'AccessDenied',
        'AWS authentication requires a valid Date or x-amz-date header',
      );
    const hash = header(request, 'x-amz-content-sha256');
    if (hash === undefined)
      throw new S3Error(
        'InvalidRequest',
        'Missing required header for this request: x-amz-content-sha256',
      );
    this.#assertFresh(amzDate);
    assertScopeDate(parsed.credential, amzDate);
    assertAllSigned(request, parsed.signedHeaders);
    const accessKey = this.#find(parsed.credential.accessKeyId);
    const seed = this.#check(request, {
      ...parsed,
      accessKey,
      amzDate,
      payloadHash: hash,
      query: canonicalQuery(request.query),
    });
    return { accessKey, payload, seed };
  }

  #verifyQuery(request: SignedRequest): Authenticated {
    const parameters = new Map(request.query.map(([name, value]) => [name.toLowerCase(), value]));
    const need = (name: string): string => {
      const value = parameters.get(name.toLowerCase());
      if (value !== undefined && value !== '') return value;
      throw new S3Error(
        'AuthorizationQueryParametersError',
        'Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.',
      );
    };
    if (need('X-Amz-Algorithm') !== ALGORITHM)
      throw new S3Error(
        'AuthorizationQueryParametersError',
        `X-Amz-Algorithm only supports "${ALGORITHM}"`,
      );
    const credential = parseCredential(
      need('X-Amz-Credential'),
      'AuthorizationQueryParametersError',
    );
    const amzDate = need('X-Amz-Date');
    const expires = Number(need('X-Amz-Expires'));
    if (!Number.isInteger(expires) || expires < 0 || expires > EXPIRES_SECONDS_MAX)
      throw new S3Error(
        'AuthorizationQueryParametersError',
        `X-Amz-Expires must be from 0 to ${EXPIRES_SECONDS_MAX} seconds`,
      );
    const signedAtMs = parseAmzDate(amzDate);
    if (signedAtMs === undefined)
      throw new S3Error(
        'AuthorizationQueryParametersError',
        "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"",
      );
    const now = this.#now();
    if (signedAtMs > now + SKEW_MS_MAX)
      throw new S3Error('AccessDenied', 'Request is not valid yet');
    if (now > signedAtMs + expires * 1000) throw new S3Error('AccessDenied', 'Request has expired');
    assertScopeDate(credential, amzDate);
    const signedHeaders = parseHeaderList(need('X-Amz-SignedHeaders'));
    assertAllSigned(request, [...signedHeaders, 'x-amz-content-sha256']);
    const payloadHash =
      header(request, 'x-amz-content-sha256') ??
      parameters.get('x-amz-content-sha256') ??
      'UNSIGNED-PAYLOAD';
    const accessKey = this.#find(credential.accessKeyId);
    const seed = this.#check(request, {
      credential,
      accessKey,
      amzDate,
      signedHeaders,
      signature: need('X-Amz-Signature'),
      payloadHash,
      query: canonicalQuery(request.query, 'X-Amz-Signature'),
    });
    return { accessKey, payload: payloadOf(request, payloadHash), seed };
  }

  #check(
    request: SignedRequest,
    signed: {
      readonly accessKey: AccessKey;
      readonly credential: Credential;
      readonly amzDate: string;
      readonly signedHeaders: readonly string[];
      readonly signature: string;
      readonly payloadHash: string;
      readonly query: string;
    },
  ): SignatureSeed {
    const { accessKey, credential, amzDate, signedHeaders, signature } = signed;
    const canonical = canonicalRequest({
      method: request.method,
      path: canonicalPath(request.rawPath),
      query: signed.query,
      headers: canonicalHeaders(signedHeaders, request.rawHeaders),
      signedHeaders,
      payloadHash: signed.payloadHash,
    });
    const toSign = `${ALGORITHM}\n${amzDate}\n${credential.scope}\n${sha256Hex(canonical)}`;
    const signingKey = this.#signingKey(accessKey, credential);
    if (!equalHex(hmacHex(signingKey, toSign), signature))
      throw mismatch(accessKey, toSign, canonical);
    return { signature, signingKey, amzDate, scope: credential.scope };
  }

  #find(accessKeyId: string): AccessKey {
    const key = this.#keys.find(accessKeyId);
    if (key === undefined)
      throw new S3Error('InvalidAccessKeyId', undefined, { AWSAccessKeyId: accessKeyId });
    return key;
  }

  #assertFresh(amzDate: string): void {
    const atMs = parseAmzDate(amzDate);
    if (atMs === undefined)
      throw new S3Error(
        'AccessDenied',
        'AWS authentication requires a valid Date or x-amz-date header',
      );
    const now = this.#now();
    if (Math.abs(now - atMs) <= SKEW_MS_MAX) return;
    throw new S3Error('RequestTimeTooSkewed', undefined, {
      RequestTime: amzDate,
      ServerTime: new Date(now).toISOString(),
      MaxAllowedSkewMilliseconds: SKEW_MS_MAX,
    });
  }

  #signingKey(accessKey: AccessKey, { date, region, service }: Credential): Buffer {
    const name = `${accessKey.accessKeyId}/${date}/${region}/${service}`;
    const known = this.#signingKeys.get(name);
    if (known !== undefined) return known;
    const key = deriveSigningKey(accessKey.secretAccessKey, { date, region, service });
    if (this.#signingKeys.size >= SIGNING_KEYS_MAX) this.#signingKeys.clear();
    this.#signingKeys.set(name, key);
    return key;
  }
}

/** HMAC chain over date (yyyyMMdd), region and service. */
export function deriveSigningKey(
  secretAccessKey: string,
  { date, region, service }: Pick<Credential, 'date' | 'region' | 'service'>,
): Buffer {
  let key: Buffer | string = `AWS4${secretAccessKey}`;
  for (const part of [date, region, service, 'aws4_request'])
    key = createHmac('sha256', key).update(part).digest();
  return key as Buffer;
}

/** `text` as Latin-1: see canonical.ts. */
export function hmacHex(key: Buffer, text: string): string {
  return createHmac('sha256', key).update(text, 'latin1').digest('hex');
}

export function equalHex(expected: string, given: string): boolean {
  const [a, b] = [Buffer.from(expected, 'latin1'), Buffer.from(given, 'latin1')];
  return a.length === b.length && timingSafeEqual(a, b);
}

interface Credential {
  readonly accessKeyId: string;
  readonly date: string;
  readonly region: string;
  readonly service: string;
  readonly scope: string;
}

const credentials = new Map<string, Credential>();
const headerLists = new Map<string, readonly string[]>();

function parseCredential(text: string, code: Parameters<typeof parseNewCredential>[1]): Credential {
  return recall(credentials, text, () => parseNewCredential(text, code));
}

function parseHeaderList(text: string): readonly string[] {
  return recall(headerLists, text, () => text.toLowerCase().split(';'));
}

function recall<T>(known: Map<string, T>, text: string, parse: () => T): T {
  const found = known.get(text);
  if (found !== undefined) return found;
  const parsed = parse();
  if (text.length > PARSED_CHARACTERS_MAX) return parsed;
  if (known.size >= PARSED_KEPT) known.clear();
  known.set(text, parsed);
  return parsed;
}

function parseNewCredential(
  text: string,
  code: 'AuthorizationHeaderMalformed' | 'AuthorizationQueryParametersError',
): Credential {
  const parts = text.split('/');
  const [date, region, service, end] = parts.slice(-4);
  const accessKeyId = parts.slice(0, -4).join('/');
  if (parts.length < 5 || accessKeyId === '' || end !== 'aws4_request')
    throw new S3Error(
      code,
      'The credential is malformed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".',
    );
  if (service !== 's3')
    throw new S3Error(code, `The service "${service}" is wrong; expecting "s3".`);
  if (!/^\d{8}$/.test(date as string))
    throw new S3Error(code, `The date "${date}" is wrong; expecting "yyyyMMdd".`);
  return {
    accessKeyId,
    date: date as string,
    region: region as string,
    service,
    scope: `${date}/${region}/${service}/aws4_request`,
  };
}

function parseAuthorization(authorization: string): {
  readonly credential: Credential;
  readonly signedHeaders: readonly string[];
  readonly signature: string;
} {
  if (!authorization.startsWith(`${ALGORITHM} `))
    throw new S3Error(
      'InvalidRequest',
      `The authorization mechanism that you have provided is not supported. Please use ${ALGORITHM}.`,
    );
  let [credential, signedHeaders, signature] = ['', '', ''];
  for (const field of authorization.slice(ALGORITHM.length + 1).split(',')) {
    const at = field.indexOf('=');
    const value = field.slice(at + 1).trim();
    const name = field.slice(0, at).trim();
    if (name === 'Credential') credential = value;
    else if (name === 'SignedHeaders') signedHeaders = value;
    else if (name === 'Signature') signature = value;
  }
  if (credential === '' || signedHeaders === '' || signature === '')
    throw new S3Error(
      'AuthorizationHeaderMalformed',
      'The authorization header is malformed; it needs Credential, SignedHeaders and Signature.',
    );
  return {
    credential: parseCredential(credential, 'AuthorizationHeaderMalformed'),
    signedHeaders: parseHeaderList(signedHeaders),
    signature,
  };
}

/**
 * How the body comes. A client that signs nothing, or a link's holder, may send a framed body without saying so in
 * `x-amz-content-sha256`: then `Content-Encoding` and the length of the data say it.
 */
function payloadOf(request: SignedRequest, hash: string | undefined): PayloadPolicy {
  const named = payloadPolicy(hash);
  if (named.kind !== 'unsigned') return named;
  const isEncoded = /(?:^|[\s,])aws-chunked(?:$|[\s,])/i.test(
    header(request, 'content-encoding') ?? '',
  );
  const hasLength = header(request, 'x-amz-decoded-content-length') !== undefined;
  if (!hasLength && !(isEncoded && hash === undefined)) return named;
  const trailer = header(request, 'x-amz-trailer') !== undefined;
  return { kind: 'chunked', signed: false, trailer };
}

function payloadPolicy(hash: string | undefined): PayloadPolicy {
  switch (hash) {
    case undefined:
    case 'UNSIGNED-PAYLOAD':
      return { kind: 'unsigned' };
    case 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD':
      return { kind: 'chunked', signed: true, trailer: false };
    case 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER':
      return { kind: 'chunked', signed: true, trailer: true };
    case 'STREAMING-UNSIGNED-PAYLOAD-TRAILER':
      return { kind: 'chunked', signed: false, trailer: true };
    default:
      if (/^[0-9a-f]{64}$/.test(hash)) return { kind: 'signed', sha256: hash };
      throw new S3Error(
        'InvalidArgument',
        'x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.',
        { ArgumentName: 'x-amz-content-sha256', ArgumentValue: hash },
      );
  }
}

function assertAllSigned(request: SignedRequest, signedHeaders: readonly string[]): void {
  const missing = Object.keys(request.headers).filter(
    (name) => (name === 'host' || name.startsWith('x-amz-')) && !signedHeaders.includes(name),
  );
  if (missing.length === 0) return;
  throw new S3Error(
    'AccessDenied',
    'There were headers present in the request which were not signed',
    {
      HeadersNotSigned: missing.join(', '),
    },
  );
}

function assertScopeDate({ date }: Credential, amzDate: string): void {
  if (amzDate.startsWith(date)) return;
  throw new S3Error(
    'SignatureDoesNotMatch',
    `The date of the credential (${date}) is not that of the request (${amzDate}).`,
  );
}

let lastDate: { readonly text: string; readonly ms: number | undefined } = {
  text: '',
  ms: undefined,
};

/** `yyyyMMdd'T'HHmmss'Z'`, in ms. Requests of one second have the same. */
function parseAmzDate(text: string): number | undefined {
  if (text !== lastDate.text) lastDate = { text, ms: parseNewAmzDate(text) };
  return lastDate.ms;
}

function parseNewAmzDate(text: string): number | undefined {
  const match = /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/.exec(text);
  if (match === null) return undefined;
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  return Date.UTC(year, month - 1, day, hour, minute, second);
}

function isoBasic(httpDate: string | undefined): string | undefined {
  const ms = httpDate === undefined ? Number.NaN : Date.parse(httpDate);
  if (Number.isNaN(ms)) return undefined;
  return `${new Date(ms).toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`;
}

function header(request: SignedRequest, name: string): string | undefined {
  const value = request.headers[name];
  return Array.isArray(value) ? value.join(',') : value;
}

function versionTwo(): S3Error {
  return new S3Error(
    'InvalidRequest',
    `The authorization mechanism that you have provided is not supported. Please use ${ALGORITHM}.`,
  );
}

function mismatch(accessKey: AccessKey, stringToSign: string, canonical?: string): S3Error {
  return new S3Error('SignatureDoesNotMatch', undefined, {
    AWSAccessKeyId: accessKey.accessKeyId,
    StringToSign: stringToSign,
    ...(canonical === undefined ? {} : { CanonicalRequest: canonical }),
  });
}
