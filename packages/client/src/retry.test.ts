import { StoreError, type StoreErrorCode } from '@ebb/protocol';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { backoffMs, DEFAULT_RETRY, decideRetry, withRetry } from './retry.ts';

const fail = (
  code: StoreErrorCode,
  more: {
    attempts?: number;
    elapsedMs?: number;
    idempotent?: boolean;
    details?: Record<string, number | boolean>;
  } = {},
) => ({
  error: new StoreError(code, undefined, more.details ?? {}),
  attempts: more.attempts ?? 1,
  elapsedMs: more.elapsedMs ?? 0,
  idempotent: more.idempotent ?? false,
});
const again = (failure: Parameters<typeof decideRetry>[0]) =>
  decideRetry(failure, DEFAULT_RETRY, 0.5).again;

describe('decideRetry', () => {
  test('what may have been applied is repeated only when repeating it changes nothing', () => {
    expect(again(fail('node_unreachable'))).toBe(false);
    expect(again(fail('node_unreachable', { idempotent: true }))).toBe(true);
    expect(again(fail('internal', { idempotent: true }))).toBe(true);
  });

  test('what was certainly not applied is repeated', () => {
    expect(again(fail('busy'))).toBe(true);
    expect(again(fail('tier_full'))).toBe(true);
    // What no wait will make room for is no such refusal.
    expect(again(fail('tier_full', { details: { neverFits: true } }))).toBe(false);
    expect(again(fail('node_unreachable', { details: { notSent: true } }))).toBe(true);
  });

  test('what fails again is not repeated, idempotent or not', () => {
    for (const code of ['not_found', 'precondition_failed', 'already_exists', 'data_lost'] as const)
      expect(again(fail(code, { idempotent: true }))).toBe(false);
  });

  test('a caller that gave up is never overruled', () => {
    expect(again(fail('aborted', { idempotent: true, details: { notSent: true } }))).toBe(false);
  });

  test('refusals are bounded in number, an absent node in time', () => {
    expect(again(fail('busy', { attempts: DEFAULT_RETRY.attemptsMax }))).toBe(false);
    expect(again(fail('node_unreachable', { idempotent: true, attempts: 1000 }))).toBe(true);
    expect(again(fail('starting', { attempts: 1000 }))).toBe(true);
    expect(
      again(fail('node_unreachable', { idempotent: true, elapsedMs: DEFAULT_RETRY.unreachableMs })),
    ).toBe(false);
  });

  test('the time the node names is a minimum', () => {
    const decision = decideRetry(
      fail('busy', { details: { retryAfterMs: 5000 } }),
      DEFAULT_RETRY,
      0,
    );
    expect(decision).toEqual({ again: true, delayMs: 5000 });
  });

  test('the back-off stays between half its step and its maximum', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 5000 }),
        fc.double({ min: 0, max: 0.999, noNaN: true }),
        (attempts, random) => {
          const delayMs = backoffMs(attempts, DEFAULT_RETRY, random);
          expect(delayMs).toBeGreaterThanOrEqual(DEFAULT_RETRY.backoffMinMs / 2);
          expect(delayMs).toBeLessThanOrEqual(DEFAULT_RETRY.backoffMaxMs);
        },
      ),
    );
  });
});

describe('withRetry', () => {
  const policy = { ...DEFAULT_RETRY, backoffMinMs: 0, backoffMaxMs: 0 };

  test('gives the first success, and counts attempts', async () => {
    const seen: number[] = [];
    const value = await withRetry({ policy, idempotent: false }, async (attempt) => {
      seen.push(attempt);
      if (attempt < 3) throw new StoreError('busy');
      return 'done';
    });
    expect(value).toBe('done');
    expect(seen).toEqual([1, 2, 3]);
  });

  test('throws the last error when attempts are used up', async () => {
    let attempts = 0;
    const failing = withRetry({ policy, idempotent: true }, async () => {
      attempts++;
      throw new StoreError('tier_full');
    });
    await expect(failing).rejects.toMatchObject({ code: 'tier_full' });
    expect(attempts).toBe(policy.attemptsMax);
  });

  test('an abort during the back-off ends it', async () => {
    const stop = new AbortController();
    const slow = { ...policy, backoffMinMs: 60_000, backoffMaxMs: 60_000, unreachableMs: 1e9 };
    const failing = withRetry({ policy: slow, idempotent: true, signal: stop.signal }, async () => {
      queueMicrotask(() => stop.abort());
      throw new StoreError('busy');
    });
    await expect(failing).rejects.toMatchObject({ code: 'aborted' });
  });

  test('our own mistakes pass through as they are', async () => {
    const mistake = new TypeError('undefined is not a function');
    await expect(
      withRetry({ policy, idempotent: true }, () => Promise.reject(mistake)),
    ).rejects.toBe(mistake);
  });
});
