/**
 * When a failed call may be made again.
 *
 * I1  A call that may have been applied is repeated only if repeating it changes nothing (`idempotent`).
 * I2  A caller that gave up is never overruled: `aborted` ends it.
 * I3  Refusals (`busy`, `tier_full`) are repeated a bounded number of times; a node that does not answer is sought for a
 *     bounded time. The time the node names (`retryAfterMs`) is respected as a minimum, up to RETRY_AFTER_MS_MAX.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import { toStoreError } from './errors.ts';

export interface RetryPolicy {
  /** How often a call that the node refused is made in all. */
  readonly attemptsMax: number;
  /** For how long a node that does not answer is tried again. */
  readonly unreachableMs: number;
  readonly backoffMinMs: number;
  readonly backoffMaxMs: number;
}

export const DEFAULT_RETRY: RetryPolicy = {
  attemptsMax: 6,
  unreachableMs: 30_000,
  backoffMinMs: 20,
  backoffMaxMs: 2_000,
};
export const NO_RETRY: RetryPolicy = { ...DEFAULT_RETRY, attemptsMax: 1, unreachableMs: 0 };

const RETRY_AFTER_MS_MAX = 30_000;

export interface Failure {
  readonly error: StoreError;
  /** Attempts made so far, this one included. */
  readonly attempts: number;
  /** Since the first attempt began. */
  readonly elapsedMs: number;
  readonly idempotent: boolean;
}
export type RetryDecision =
  | { readonly again: true; readonly delayMs: number }
  | { readonly again: false };

const NO: RetryDecision = { again: false };

/** Pure: `random` in [0, 1) spreads callers that failed together. */
export function decideRetry(failure: Failure, policy: RetryPolicy, random: number): RetryDecision {
  const { error, attempts, elapsedMs, idempotent } = failure;
  if (error.code === 'aborted') return NO;
  const notApplied = error.retry === 'safe' || error.details['notSent'] === true;
  if (!notApplied && !(error.retry === 'ambiguous' && idempotent)) return NO;

  const delayMs = Math.max(backoffMs(attempts, policy, random), retryAfterMs(error));
  const allowed = isRestarting(error)
    ? elapsedMs + delayMs <= policy.unreachableMs
    : attempts < policy.attemptsMax;
  return allowed ? { again: true, delayMs } : NO;
}

/** A node that does not answer, or says that it stops or starts, is on its way back: what counts is time, not tries. */
export function isRestarting({ code }: StoreError): boolean {
  return code === 'node_unreachable' || code === 'draining' || code === 'starting';
}

/** Doubles from the minimum to the maximum; the upper half is random. */
export function backoffMs(attempts: number, policy: RetryPolicy, random: number): number {
  const full = Math.min(policy.backoffMaxMs, policy.backoffMinMs * 2 ** Math.min(attempts - 1, 30));
  return full / 2 + (full / 2) * random;
}

function retryAfterMs(error: StoreError): number {
  const value = error.details['retryAfterMs'];
  return typeof value === 'number' ? Math.min(Math.max(value, 0), RETRY_AFTER_MS_MAX) : 0;
}

export interface RetryOptions {
  readonly policy?: RetryPolicy;
  readonly idempotent: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** Runs `attempt` until it succeeds or decideRetry says stop; then throws the last error. */
export async function withRetry<T>(
  options: RetryOptions,
  attempt: (attempts: number) => Promise<T>,
): Promise<T> {
  const policy = options.policy ?? DEFAULT_RETRY;
  const startedMs = performance.now();
  for (let attempts = 1; ; attempts++) {
    try {
      return await attempt(attempts);
    } catch (thrown) {
      const error = toStoreError(thrown, options.signal);
      const elapsedMs = performance.now() - startedMs;
      const decision = decideRetry(
        { error, attempts, elapsedMs, idempotent: options.idempotent },
        policy,
        Math.random(),
      );
      if (!decision.again) throw error;
      await sleep(decision.delayMs, options.signal);
    }
  }
}

export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted === true) throw abortedError(signal);
  await new Promise<void>((resolve, reject) => {
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(abortedError(signal));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}

export function abortedError(signal: AbortSignal | undefined): StoreError {
  const reason: unknown = signal?.reason;
  if (isStoreError(reason)) return reason;
  return new StoreError('aborted', undefined, {}, reason);
}

/** The promise, or the abort, whichever is first; the work behind the promise goes on for others. */
export async function orAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await work;
  if (signal.aborted) throw abortedError(signal);
  return await new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(abortedError(signal));
    signal.addEventListener('abort', onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
