import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseNodeAddress } from './node-address.ts';
import { formatObjectName, parseObjectKey, parseObjectName, toPrefix } from './object-name.ts';
import { normalizeMetadata } from './put.ts';

describe('object names', () => {
  test('with and without scheme mean the same', () => {
    expect(parseObjectName('ebb://bkt/a/b c')).toEqual({ bucket: 'bkt', key: 'a/b c' });
    expect(parseObjectName('bkt/a/b c')).toEqual({ bucket: 'bkt', key: 'a/b c' });
    expect(parseObjectName('bkt')).toEqual({ bucket: 'bkt', key: '' });
    expect(parseObjectName('bkt//x')).toEqual({ bucket: 'bkt', key: '/x' });
  });

  test('what names no bucket, or no object where one is needed, is refused', () => {
    expect(() => parseObjectName('ebb:///x')).toThrow(
      expect.objectContaining({ code: 'name_invalid' }),
    );
    expect(() => parseObjectName('')).toThrow(expect.objectContaining({ code: 'name_invalid' }));
    expect(() => parseObjectKey('bkt/')).toThrow(expect.objectContaining({ code: 'name_invalid' }));
  });

  test('what is formatted parses to the same', () => {
    const bucket = fc.stringMatching(/^[a-z0-9-]{3,10}$/);
    fc.assert(
      fc.property(bucket, fc.string({ unit: 'binary' }), (bucket, key) => {
        expect(parseObjectName(formatObjectName({ bucket, key }))).toEqual({ bucket, key });
      }),
    );
  });

  test('a prefix ends at a slash, so that "a" never means "ab"', () => {
    expect(toPrefix('a')).toBe('a/');
    expect(toPrefix('a/')).toBe('a/');
    expect(toPrefix('')).toBe('');
  });
});

describe('node addresses', () => {
  test('TCP and Unix sockets', () => {
    expect(parseNodeAddress('http://127.0.0.1:9700')).toMatchObject({
      origin: 'http://127.0.0.1:9700',
      socketPath: undefined,
    });
    expect(parseNodeAddress('http://[::1]:9700/')).toMatchObject({ origin: 'http://[::1]:9700' });
    expect(parseNodeAddress('unix:///run/e%20b.sock')).toMatchObject({
      socketPath: '/run/e b.sock',
    });
  });

  test.each(['', 'localhost:9700', 'ftp://x', 'unix://relative', 'http://x/path', 's3://b'])(
    '%j is refused',
    (text) => {
      expect(() => parseNodeAddress(text)).toThrow(
        expect.objectContaining({ code: 'request_invalid' }),
      );
    },
  );

  test('credentials in an address are not repeated in the message', () => {
    expect(() => parseNodeAddress('http://me:secret@x')).toThrow(
      expect.not.objectContaining({ message: expect.stringContaining('secret') }),
    );
  });
});

test('metadata has lower-case names on both paths, and nothing a header cannot carry', () => {
  expect(normalizeMetadata({ 'Content-Owner': 'Jürg' })).toEqual({ 'content-owner': 'Jürg' });
  expect(() => normalizeMetadata({ 'a b': '' })).toThrow(
    expect.objectContaining({ code: 'request_invalid' }),
  );
  expect(() => normalizeMetadata({ a: 'x\r\ny: z' })).toThrow(
    expect.objectContaining({ code: 'request_invalid' }),
  );
});
