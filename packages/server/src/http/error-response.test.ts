import { ERRORS, errorBodySchema, StoreError, type StoreErrorCode } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { errorAnswer, HTTP_ERRORS, toStoreError } from './error-response.ts';

const codes = Object.keys(ERRORS) as StoreErrorCode[];

test.each(codes)('%s has an error status, and a body that clients understand', (code) => {
  const answer = errorAnswer(new StoreError(code, 'why', { subject: 'a' }));
  expect(answer.status).toBe(HTTP_ERRORS[code].status);
  expect(answer.status).toBeGreaterThanOrEqual(400);
  expect(answer.status).toBeLessThan(600);
  expect(answer.headers['x-ebb-error-code']).toBe(code);
  expect(errorBodySchema.parse(JSON.parse(answer.body)).error).toEqual({
    ...{ code, message: 'why', retry: ERRORS[code].retry },
    details: { subject: 'a' },
  });
});

test('what may be tried again says when; nothing else does', () => {
  for (const code of codes) {
    const { headers } = errorAnswer(new StoreError(code, undefined, { retryAfterMs: 2500 }));
    expect(headers['retry-after']).toBe(ERRORS[code].retry === 'safe' ? '3' : undefined);
  }
  expect(Number(errorAnswer(new StoreError('tier_full')).headers['retry-after'])).toBeGreaterThan(
    0,
  );
});

test('our own mistakes keep their words to themselves', () => {
  const error = toStoreError(new TypeError('secret is not a function'));
  expect(error.code).toBe('internal');
  expect(errorAnswer(error).body).not.toContain('secret');
});

test('a range beyond the end tells the size', () => {
  const { headers } = errorAnswer(new StoreError('range_invalid', undefined, { sizeBytes: 11 }));
  expect(headers['content-range']).toBe('bytes */11');
});
