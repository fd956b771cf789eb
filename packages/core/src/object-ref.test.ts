import { isStoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseBucketName, parseJobId, parseKey } from './object-ref.ts';

function messageOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (isStoreError(error, 'name_invalid')) return error.message;
    throw error;
  }
  return 'accepted';
}

describe('bucket names', () => {
  test.each(['abc', 'a-b.c', '0-0', '1.2.3', 'a'.repeat(63), 'my-bucket.2026'])(
    '%s is accepted',
    (name) => {
      expect(parseBucketName(name)).toBe(name);
    },
  );

  test.each([
    ['ab', 'use 3 to 63'],
    ['a'.repeat(64), 'use 3 to 63'],
    ['Upper', 'lowercase'],
    ['under_score', 'lowercase'],
    ['a/b', 'lowercase'],
    ['büc', 'lowercase'],
    ['-ab', 'begin and end'],
    ['ab.', 'begin and end'],
    ['a..b', 'two dots'],
    ['192.168.0.1', 'IP address'],
    ['xn--abc', 'reserves'],
    ['abc-s3alias', 'reserves'],
    ['abc--x-s3', 'reserves'],
    ['../..', 'lowercase'],
  ])('%s is refused, with the rule', (name, rule) => {
    expect(messageOf(() => parseBucketName(name))).toContain(rule);
  });
});

describe('keys', () => {
  test.each([
    'a',
    'a//b',
    'a/',
    '/',
    '/a',
    '...',
    'a/..b',
    'a/.b/c.',
    '.ebb',
    '.ebbs/a',
    'a/.ebb/b',
    'ключ 😀',
    ' ',
    '\n',
    'x'.repeat(1024),
  ])('%j is accepted', (key) => {
    expect(parseKey(key)).toBe(key);
  });

  test.each([
    ['', 'empty'],
    ['x'.repeat(1025), '1025 bytes'],
    ['é'.repeat(513), '1026 bytes'],
    ['a\0b', 'NUL'],
    ['a\ud800b', 'surrogate'],
    ['.', 'segment "."'],
    ['..', 'segment ".."'],
    ['a/../b', 'segment ".."'],
    ['a/./b', 'segment "."'],
    ['a/..', 'segment ".."'],
    ['.ebb/17', '.ebb/'],
  ])('%j is refused, with the rule', (key, rule) => {
    expect(messageOf(() => parseKey(key))).toContain(rule);
  });

  test('an accepted key survives UTF-8, and stays below any directory it is joined to', () => {
    const piece = fc.constantFrom('.', '..', '/', 'a', '\0', '\ud800', '😀', 'é');
    fc.assert(
      fc.property(fc.array(piece, { minLength: 1 }), (pieces) => {
        const key = pieces.join('');
        if (messageOf(() => parseKey(key)) !== 'accepted') return;
        expect(Buffer.from(key).toString()).toBe(key);
        expect(new URL(`http://host/bucket/${key.replaceAll('/', '/_')}`).pathname).toContain(
          '/bucket/',
        );
        expect(key.split('/').filter((segment) => segment === '..' || segment === '.')).toEqual([]);
      }),
    );
  });
});

describe('job ids', () => {
  test.each(['app-20261122041500-0000', 'local-1', 'run:7', 'a', 'A_b.c', 'x'.repeat(128)])(
    '%s is accepted',
    (jobId) => {
      expect(parseJobId(jobId)).toBe(jobId);
    },
  );

  test.each([
    ['', 'empty'],
    ['x'.repeat(129), 'at most 128'],
    ['a b', 'letters, digits'],
    ['a/b', 'letters, digits'],
    ['..', 'begin with a letter'],
    ['-a', 'begin with a letter'],
  ])('%j is refused, with the rule', (jobId, rule) => {
    expect(messageOf(() => parseJobId(jobId))).toContain(rule);
  });
});
