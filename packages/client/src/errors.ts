/** What the world throws at a client, in the protocol's words. */
import {
  ERRORS,
  type ErrorDetails,
  errorBodySchema,
  HEADERS,
  isStoreError,
  isStoreErrorCode,
  StoreError,
  type StoreErrorCode,
} from '@ebb/protocol';
import { findTlsProblem, tlsCodeOf } from './tls.ts';

/** Connection refused, reset, name not found: the node is not there, or went away. */
const UNREACHABLE = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ENOENT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ETIMEDOUT',
  'UND_ERR_SOCKET',
  'UND_ERR_CLOSED',
  'UND_ERR_DESTROYED',
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
  'HPE_INVALID_CONSTANT',
]);
/** Of these, the ones that fail before a byte of the request has left. */
const NOT_SENT = new Set([
  'ECONNREFUSED',
  'ENOENT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);

export function errorCode(thrown: unknown): string {
  if (typeof thrown !== 'object' || thrown === null) return '';
  const { code } = thrown as { code?: unknown };
  return typeof code === 'string' ? code : '';
}

/** Keeps a StoreError as it is; turns an abort and failures of the network into one; lets our own mistakes pass. */
export function toStoreError(thrown: unknown, signal?: AbortSignal): StoreError {
  if (isStoreError(thrown)) return thrown;
  if (signal?.aborted === true) return new StoreError('aborted', undefined, {}, thrown);
  if (thrown instanceof AggregateError && thrown.errors.length > 0) {
    return toStoreError(thrown.errors[0], signal);
  }
  const code = errorCode(thrown);
  const tlsCode = tlsCodeOf(code, (thrown as Error).message);
  const tlsProblem = findTlsProblem(tlsCode);
  if (tlsProblem !== undefined)
    return new StoreError('config_invalid', `${tlsProblem} (${tlsCode})`, { tlsCode }, thrown);
  if (code === 'EACCES' && isConnect(thrown)) {
    return unreachable(
      'not allowed to use the socket of the node: be a member of its group',
      { notSent: true },
      thrown,
    );
  }
  if (code === 'ENOENT' && !isConnect(thrown)) throw thrown; // a file of the caller's, not the node's socket
  if (UNREACHABLE.has(code))
    return unreachable(
      `no answer from the node (${code})`,
      { notSent: NOT_SENT.has(code) },
      thrown,
    );
  throw thrown;
}

function isConnect(thrown: unknown): boolean {
  return (thrown as { syscall?: unknown }).syscall === 'connect';
}

export function unreachable(
  message: string,
  details: ErrorDetails = {},
  cause?: unknown,
): StoreError {
  return new StoreError('node_unreachable', message, details, cause);
}

/** The kernel takes connections for a node that is paused or hung, and nobody answers them. */
export function silentNode(addressText: string, silentMs: number, cause?: unknown): StoreError {
  const seconds = Math.max(1, Math.round(silentMs / 1000));
  return unreachable(
    `the node at ${addressText} takes connections and has not answered for ${seconds} s; is it paused, or its machine?`,
    { silentMs: Math.round(silentMs) },
    cause,
  );
}

export interface ErrorAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** Text of the body; '' for HEAD. */
  readonly body: string;
  /** What was asked, for the message when the answer is not ours. */
  readonly request: string;
}

/** Codes of statuses, for answers without our body: HEAD, or a proxy in between. */
const CODE_OF_STATUS: Readonly<Record<number, StoreErrorCode>> = {
  400: 'request_invalid',
  404: 'not_found',
  409: 'already_exists',
  412: 'precondition_failed',
  413: 'too_large',
  416: 'range_invalid',
  429: 'busy',
  501: 'unsupported',
  502: 'node_unreachable',
  503: 'draining',
  504: 'node_unreachable',
  507: 'tier_full',
};

export function errorFromHttp(answer: ErrorAnswer): StoreError {
  const retryAfter = Number(headerText(answer.headers['retry-after']));
  const hint: ErrorDetails = retryAfter > 0 ? { retryAfterMs: retryAfter * 1000 } : {};
  const parsed = errorBodySchema.safeParse(parseJson(answer.body));
  if (parsed.success && isStoreErrorCode(parsed.data.error.code)) {
    const { code, message, details } = parsed.data.error;
    return new StoreError(code, message, { ...hint, ...(details as ErrorDetails) });
  }
  const named = headerText(answer.headers[HEADERS.errorCode]);
  if (named === '' && headerText(answer.headers['x-amz-request-id']) !== '')
    return new StoreError(
      'request_invalid',
      `${answer.request}: this looks like the S3 address of a node; name its control address (--node, EBB_NODE), which has port 9700 by default`,
    );
  const code = isStoreErrorCode(named) ? named : (CODE_OF_STATUS[answer.status] ?? 'internal');
  return new StoreError(code, `${answer.request}: ${answer.status}, ${ERRORS[code].means}`, hint);
}

export function headerText(value: string | string[] | undefined): string {
  return Array.isArray(value) ? (value[0] ?? '') : (value ?? '');
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
