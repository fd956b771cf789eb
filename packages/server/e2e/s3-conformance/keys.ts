/** Keys: any UTF-8 of 1 to 1024 bytes, whatever it means to a URL, a form, an XML document or a file system. */
import { expect } from 'vitest';
import { type Case, codeOf, type Group } from './suite.ts';

const KEYS: readonly string[] = [
  ...['plain', 'with space', ' leading space', 'trailing space ', 'two  spaces'],
  ...['plus+plus', 'percent%41', '%', '%2F', '%zz', 'a%2Fb', '100%'],
  ...[
    'a/b/c',
    'a/',
    'a//b',
    'a///',
    '/leading slash',
    '//',
    'dir/.hidden',
    '.hidden',
    '...',
    'a..b',
  ],
  ...['ünïcödé', 'e\u0301 combined', '日本語/キー', '😀 emoji', '\u{10ffff}', 'עברית'],
  ...['amp&amp;', '<tag>', '"quotes"', "'apostrophe'", ']]>', '&#x26;'],
  ...['semi;colon', 'comma,', 'hash#fragment', 'question?mark=1', 'star*', 'paren(s)', 'bang!'],
  ...['colon:', 'equals=', 'at@', 'dollar$', 'back\\slash', 'pipe|', 'tilde~', 'curly{}'],
  ...['square[]', 'caret^', 'back`tick', 'tab\tinside', 'line\nbreak', 'con', 'nul.txt'],
  ...['CamelCase', 'camelcase', 'k'.repeat(1024), `${'é'.repeat(511)}xx`],
  'd/'.repeat(500),
];

const show = (key: string): string =>
  JSON.stringify(key.length > 30 ? `${key.slice(0, 10)}… of ${Buffer.byteLength(key)} bytes` : key);

const CASES: readonly Case[] = [
  ...KEYS.map(
    (key, i): Case => [
      `Keys: ${show(key)} is put, read, listed, copied and deleted`,
      async ({ s3, Bucket, put, bytes }) => {
        const Key = key;
        const body = `body ${i}`;
        await put(Key, body);
        expect((await bytes(Key)).toString()).toBe(body);
        expect((await s3.headObject({ Bucket, Key })).ContentLength).toBe(body.length);
        // A form's encoding: `+` is a blank.
        const { Contents = [] } = await s3.listObjectsV2({
          Bucket,
          Prefix: Key,
          EncodingType: 'url',
        });
        const listed = Contents.map((entry) =>
          decodeURIComponent((entry.Key as string).replaceAll('+', ' ')),
        );
        expect(listed).toContain(Key);
        const CopySource = `${Bucket}/${encodeURIComponent(Key)}`;
        await s3.copyObject({ Bucket, Key: `copied/${i}`, CopySource });
        expect((await bytes(`copied/${i}`)).toString()).toBe(body);
        const { Deleted } = await s3.deleteObjects({ Bucket, Delete: { Objects: [{ Key }] } });
        // A line break in XML is read as it was written.
        expect(Deleted).toEqual([{ Key }]);
        expect(await codeOf(s3.getObject({ Bucket, Key }))).toBe('NoSuchKey');
      },
    ],
  ),
  [
    'Keys: a key of 1025 bytes is too long',
    async (t) => expect(await codeOf(t.put('k'.repeat(1025), ''))).toBe('KeyTooLongError'),
  ],
  [
    'Keys: bytes count, not characters',
    async (t) => expect(await codeOf(t.put('é'.repeat(513), ''))).toBe('KeyTooLongError'),
  ],
  [
    'Keys: upper and lower case are different objects',
    async (t) => {
      await t.put('case/A', 'upper');
      await t.put('case/a', 'lower');
      expect((await t.bytes('case/A')).toString()).toBe('upper');
    },
  ],
  [
    'Keys: an object and what looks like a directory of its name live side by side',
    async (t) => {
      await t.put('both', 'object');
      await t.put('both/', 'slash');
      await t.put('both/below', 'below');
      expect((await t.bytes('both')).toString()).toBe('object');
      expect((await t.bytes('both/')).toString()).toBe('slash');
      expect((await t.bytes('both/below')).toString()).toBe('below');
    },
  ],
  [
    'Keys: composed and decomposed characters are different objects',
    async (t) => {
      await t.put('norm/\u00e9', 'composed');
      await t.put('norm/e\u0301', 'decomposed');
      expect((await t.bytes('norm/\u00e9')).toString()).toBe('composed');
    },
  ],
  [
    'Keys: a segment .. is part of the name',
    async (t) => {
      await t.put('a/../b', 'dots');
      expect((await t.bytes('a/../b')).toString()).toBe('dots');
    },
  ],
  [
    'Keys: bytes that are no UTF-8 are refused',
    async ({ key, url }) => {
      const { sendRaw } = await import('../../src/testing/sign-s3.ts');
      expect(key.accessKeyId).toBeTruthy();
      const answer = await sendRaw({ method: 'GET', url: url('/%ff%fe') });
      expect(answer.status).toBe(400);
    },
  ],
];

export const keys: Group = { title: 'keys', cases: CASES };
