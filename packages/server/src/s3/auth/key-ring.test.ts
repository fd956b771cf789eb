import { describe, expect, test } from 'vitest';
import { type AccessKey, type Action, keyFileSchema, mayDo } from './key-ring.ts';

const key = (grants: AccessKey['grants']): AccessKey => ({
  accessKeyId: 'some',
  secretAccessKey: 'long enough',
  grants,
});
const may = (grants: AccessKey['grants'], action: Action, bucket: string, name?: string): boolean =>
  mayDo(key(grants), action, name === undefined ? { bucket } : { bucket, key: name });

describe('a key may', () => {
  test('do everything without grants, and nothing with none', () => {
    for (const action of ['read', 'write', 'list', 'admin'] as const) {
      expect(may(undefined, action, 'any', 'k')).toBe(true);
      expect(may([], action, 'any', 'k')).toBe(false);
    }
  });

  test('do what is granted, in that bucket, below that prefix', () => {
    const grants = [{ bucket: 'b', prefix: 'in/', actions: ['read', 'list'] as Action[] }];
    expect(may(grants, 'read', 'b', 'in/x')).toBe(true);
    expect(may(grants, 'read', 'b', 'in')).toBe(false);
    expect(may(grants, 'read', 'b', 'inside')).toBe(false);
    expect(may(grants, 'write', 'b', 'in/x')).toBe(false);
    expect(may(grants, 'read', 'c', 'in/x')).toBe(false);
    // A listing is asked for by its prefix.
    expect(may(grants, 'list', 'b', 'in/sub')).toBe(true);
    expect(may(grants, 'list', 'b', '')).toBe(false);
  });

  test('create and delete a bucket only when it holds the whole of it', () => {
    expect(may([{ bucket: 'b', prefix: 'in/', actions: ['admin'] }], 'admin', 'b')).toBe(false);
    expect(may([{ bucket: '*', prefix: '', actions: ['admin'] }], 'admin', 'b')).toBe(true);
  });
});

test.each([
  ['a short secret', [{ accessKeyId: 'abc', secretAccessKey: 'short' }]],
  ['an id with a slash', [{ accessKeyId: 'a/c', secretAccessKey: 'long enough' }]],
  [
    'an unknown action',
    [
      {
        accessKeyId: 'abc',
        secretAccessKey: 'long enough',
        grants: [{ bucket: 'b', actions: ['own'] }],
      },
    ],
  ],
  ['an unknown field', [{ accessKeyId: 'abc', secretAccessKey: 'long enough', grant: [] }]],
])('a key file with %s is refused', (_what, file) => {
  const result = keyFileSchema.safeParse(file);
  expect(result.success).toBe(false);
  expect(JSON.stringify(result.error?.issues)).not.toContain('long enough');
});
