/** Listings: prefixes, delimiters, pages and their markers. */
import type {
  ListObjectsV2CommandInput,
  ListObjectVersionsCommandOutput,
} from '@aws-sdk/client-s3';
import { expect } from 'vitest';
import { type Case, codeOf, type Group, type Tools } from './suite.ts';

/** In the order of their bytes. */
const KEYS = [
  ...['A', 'a', 'b/1', 'b/2', 'b/c/1', 'b/c/2', 'c', 'd/', 'd/1'],
  ...['e--1', 'e--2', 'f&<x>', 'z', 'é', '日', '\u{ff5e}', '😀'],
];

type Page = { readonly keys: readonly string[]; readonly prefixes: readonly string[] };

async function page(
  { s3, Bucket }: Tools,
  more: Partial<ListObjectsV2CommandInput> = {},
): Promise<Page> {
  const answer = await s3.listObjectsV2({ Bucket, ...more });
  return {
    keys: (answer.Contents ?? []).map(({ Key }) => Key as string),
    prefixes: (answer.CommonPrefixes ?? []).map(({ Prefix }) => Prefix as string),
  };
}

/** All pages of this size, as one; each page tells its count and whether it is the last. */
async function allPages(
  { s3, Bucket }: Tools,
  more: Partial<ListObjectsV2CommandInput>,
): Promise<Page> {
  const [keys, prefixes]: [string[], string[]] = [[], []];
  let ContinuationToken: string | undefined;
  do {
    const answer = await s3.listObjectsV2({ Bucket, ...more, ContinuationToken });
    const here = (answer.Contents ?? []).length + (answer.CommonPrefixes ?? []).length;
    expect(answer.KeyCount).toBe(here);
    expect(here).toBeLessThanOrEqual(more.MaxKeys as number);
    expect(answer.ContinuationToken).toBe(ContinuationToken);
    keys.push(...(answer.Contents ?? []).map(({ Key }) => Key as string));
    prefixes.push(...(answer.CommonPrefixes ?? []).map(({ Prefix }) => Prefix as string));
    ContinuationToken = answer.NextContinuationToken;
    expect(answer.IsTruncated).toBe(ContinuationToken !== undefined);
  } while (ContinuationToken !== undefined);
  return { keys, prefixes };
}

const TOP: Page = {
  keys: ['A', 'a', 'c', 'e--1', 'e--2', 'f&<x>', 'z', 'é', '日', '\u{ff5e}', '😀'],
  prefixes: ['b/', 'd/'],
};

const CASES: readonly Case[] = [
  [
    'ListObjectsV2: all keys, in the order of their UTF-8 bytes',
    async (t) => expect(await page(t)).toEqual({ keys: KEYS, prefixes: [] }),
  ],
  [
    'ListObjectsV2: a prefix chooses',
    async (t) =>
      expect((await page(t, { Prefix: 'b/' })).keys).toEqual(['b/1', 'b/2', 'b/c/1', 'b/c/2']),
  ],
  [
    'ListObjectsV2: a prefix need not end at a delimiter',
    async (t) => expect((await page(t, { Prefix: 'b/c' })).keys).toEqual(['b/c/1', 'b/c/2']),
  ],
  [
    'ListObjectsV2: a prefix that nothing has gives an empty list',
    async (t) => {
      const answer = await t.s3.listObjectsV2({ Bucket: t.Bucket, Prefix: 'none/' });
      expect(answer).toMatchObject({ KeyCount: 0, IsTruncated: false });
      expect(answer.Contents).toBeUndefined();
    },
  ],
  [
    'ListObjectsV2: a delimiter rolls up what lies below',
    async (t) => expect(await page(t, { Delimiter: '/' })).toEqual(TOP),
  ],
  [
    'ListObjectsV2: prefix and delimiter are one level',
    async (t) =>
      expect(await page(t, { Prefix: 'b/', Delimiter: '/' })).toEqual({
        keys: ['b/1', 'b/2'],
        prefixes: ['b/c/'],
      }),
  ],
  [
    'ListObjectsV2: a prefix without its slash is rolled up to the slash',
    async (t) =>
      expect(await page(t, { Prefix: 'b', Delimiter: '/' })).toEqual({
        keys: [],
        prefixes: ['b/'],
      }),
  ],
  [
    'ListObjectsV2: a key that is the prefix itself is no common prefix',
    async (t) =>
      expect(await page(t, { Prefix: 'd/', Delimiter: '/' })).toEqual({
        keys: ['d/', 'd/1'],
        prefixes: [],
      }),
  ],
  [
    'ListObjectsV2: a delimiter of two characters',
    async (t) =>
      expect(await page(t, { Prefix: 'e', Delimiter: '--' })).toEqual({
        keys: [],
        prefixes: ['e--'],
      }),
  ],
  [
    'ListObjectsV2: a delimiter that is a letter',
    async (t) =>
      expect(await page(t, { Prefix: 'b/', Delimiter: 'c' })).toEqual({
        keys: ['b/1', 'b/2'],
        prefixes: ['b/c'],
      }),
  ],
  ...[1, 2, 3, 5, 1000].flatMap((MaxKeys): Case[] => [
    [
      `ListObjectsV2: pages of ${MaxKeys} give each key once`,
      async (t) => expect(await allPages(t, { MaxKeys })).toEqual({ keys: KEYS, prefixes: [] }),
    ],
    [
      `ListObjectsV2: pages of ${MaxKeys} with a delimiter give each name once`,
      async (t) => expect(await allPages(t, { MaxKeys, Delimiter: '/' })).toEqual(TOP),
    ],
  ]),
  [
    'ListObjectsV2: pages with a prefix and a delimiter',
    async (t) =>
      expect(await allPages(t, { MaxKeys: 1, Prefix: 'b/', Delimiter: '/' })).toEqual({
        keys: ['b/1', 'b/2'],
        prefixes: ['b/c/'],
      }),
  ],
  [
    'ListObjectsV2: start-after begins behind a key',
    async (t) => expect((await page(t, { StartAfter: 'c' })).keys[0]).toBe('d/'),
  ],
  [
    'ListObjectsV2: start-after need not be a key',
    async (t) => expect((await page(t, { StartAfter: 'b/15' })).keys[0]).toBe('b/2'),
  ],
  [
    'ListObjectsV2: start-after is told back',
    async ({ s3, Bucket }) =>
      expect((await s3.listObjectsV2({ Bucket, StartAfter: 'c' })).StartAfter).toBe('c'),
  ],
  [
    'ListObjectsV2: a continuation token counts, not start-after',
    async (t) => {
      const { s3, Bucket } = t;
      const first = await s3.listObjectsV2({ Bucket, MaxKeys: 3 });
      const ContinuationToken = first.NextContinuationToken as string;
      expect((await page(t, { ContinuationToken, StartAfter: 'z' })).keys[0]).toBe(KEYS[3]);
    },
  ],
  [
    'ListObjectsV2: no keys are asked for, none come',
    async ({ s3, Bucket }) => {
      const answer = await s3.listObjectsV2({ Bucket, MaxKeys: 0 });
      expect(answer).toMatchObject({ KeyCount: 0, IsTruncated: false, MaxKeys: 0 });
    },
  ],
  [
    'ListObjectsV2: at most a thousand keys a page',
    async ({ s3, Bucket }) => {
      const answer = await s3.listObjectsV2({ Bucket, MaxKeys: 5000 });
      expect(answer.MaxKeys).toBe(1000);
    },
  ],
  ...['-1', 'many', '99999999999'].map(
    (value): Case => [
      `ListObjectsV2: max-keys=${value} is invalid`,
      async (t) =>
        expect((await t.raw({ method: 'GET', path: `?list-type=2&max-keys=${value}` })).code).toBe(
          'InvalidArgument',
        ),
    ],
  ),
  [
    'ListObjectsV2: a continuation token that is none is invalid',
    async (t) =>
      expect(await codeOf(page(t, { ContinuationToken: 'not a token!' }))).toBe('InvalidArgument'),
  ],
  [
    'ListObjectsV2: an encoding that S3 has not is invalid',
    async (t) =>
      expect((await t.raw({ method: 'GET', path: '?list-type=2&encoding-type=hex' })).code).toBe(
        'InvalidArgument',
      ),
  ],
  [
    'ListObjectsV2: encoding-type=url encodes every name of the answer',
    async ({ s3, Bucket }) => {
      const answer = await s3.listObjectsV2({
        ...{ Bucket, EncodingType: 'url', Prefix: 'f&', Delimiter: '<' },
      });
      expect(answer).toMatchObject({ EncodingType: 'url', Prefix: 'f%26', Delimiter: '%3C' });
      expect(answer.CommonPrefixes).toEqual([{ Prefix: 'f%26%3C' }]);
    },
  ],
  [
    'ListObjectsV2: slashes stay in encoded names',
    async ({ s3, Bucket }) => {
      const answer = await s3.listObjectsV2({ Bucket, EncodingType: 'url', Prefix: 'b/c/' });
      expect(answer.Contents?.map(({ Key }) => Key)).toEqual(['b/c/1', 'b/c/2']);
    },
  ],
  [
    'ListObjectsV2: owners come when they are asked for',
    async ({ s3, Bucket }) => {
      const without = await s3.listObjectsV2({ Bucket, MaxKeys: 1 });
      expect(without.Contents?.[0]?.Owner).toBeUndefined();
      const fetched = await s3.listObjectsV2({ Bucket, MaxKeys: 1, FetchOwner: true });
      expect(fetched.Contents?.[0]?.Owner?.ID).toBeTruthy();
    },
  ],
  [
    'ListObjectsV2: sizes and dates are told',
    async ({ s3, Bucket }) => {
      const { Contents } = await s3.listObjectsV2({ Bucket, Prefix: '日' });
      expect(Contents?.[0]?.Size).toBe(Buffer.byteLength('日'));
      expect(Contents?.[0]?.LastModified?.getTime()).toBeGreaterThan(Date.now() - 600_000);
    },
  ],
  [
    'ListObjectsV2: what was put is listed, what was deleted is not, at once',
    async (t) => {
      await t.put('now/a', '');
      expect((await page(t, { Prefix: 'now/' })).keys).toEqual(['now/a']);
      await t.s3.deleteObject({ Bucket: t.Bucket, Key: 'now/a' });
      expect((await page(t, { Prefix: 'now/' })).keys).toEqual([]);
    },
  ],
  [
    'ListObjectsV2: of no bucket',
    async ({ s3, Bucket }) =>
      expect(await codeOf(s3.listObjectsV2({ Bucket: `${Bucket}-no` }))).toBe('NoSuchBucket'),
  ],
  [
    'ListObjects: goes on behind its marker',
    async ({ s3, Bucket }) => {
      const seen: string[] = [];
      let Marker: string | undefined;
      do {
        const answer = await s3.listObjects({ Bucket, MaxKeys: 4, Marker });
        seen.push(...(answer.Contents ?? []).map(({ Key }) => Key as string));
        Marker = answer.IsTruncated === true ? seen.at(-1) : undefined;
      } while (Marker !== undefined);
      expect(seen).toEqual(KEYS);
    },
  ],
  [
    'ListObjects: with a delimiter the next marker is told',
    async ({ s3, Bucket }) => {
      const [keys, prefixes]: [string[], string[]] = [[], []];
      let Marker: string | undefined;
      do {
        const answer = await s3.listObjects({ Bucket, MaxKeys: 1, Delimiter: '/', Marker });
        keys.push(...(answer.Contents ?? []).map(({ Key }) => Key as string));
        prefixes.push(...(answer.CommonPrefixes ?? []).map(({ Prefix }) => Prefix as string));
        Marker = answer.NextMarker;
        expect(answer.IsTruncated).toBe(Marker !== undefined);
      } while (Marker !== undefined);
      expect({ keys, prefixes }).toEqual(TOP);
    },
  ],
  [
    'ListObjects: prefix, marker and owner are told',
    async ({ s3, Bucket }) => {
      const answer = await s3.listObjects({ Bucket, Prefix: 'b/', Marker: 'b/1', MaxKeys: 1 });
      expect(answer).toMatchObject({ Name: Bucket, Prefix: 'b/', Marker: 'b/1', MaxKeys: 1 });
      expect(answer.Contents).toMatchObject([{ Key: 'b/2', Owner: { ID: expect.anything() } }]);
    },
  ],
  [
    'ListObjectVersions: without versioning each object has one, the latest, null',
    async ({ s3, Bucket }) => {
      const { Versions = [], DeleteMarkers } = await s3.listObjectVersions({ Bucket });
      expect(Versions.map(({ Key }) => Key)).toEqual(KEYS);
      for (const version of Versions)
        expect(version).toMatchObject({ VersionId: 'null', IsLatest: true });
      expect(DeleteMarkers).toBeUndefined();
    },
  ],
  [
    'ListObjectVersions: pages go on behind their markers',
    async ({ s3, Bucket }) => {
      const seen: string[] = [];
      let markers: { KeyMarker?: string; VersionIdMarker?: string } | undefined = {};
      while (markers !== undefined) {
        const answer: ListObjectVersionsCommandOutput = await s3.listObjectVersions({
          Bucket,
          MaxKeys: 5,
          ...markers,
        });
        seen.push(...(answer.Versions ?? []).map(({ Key }) => Key as string));
        markers =
          answer.IsTruncated === true
            ? {
                KeyMarker: answer.NextKeyMarker as string,
                VersionIdMarker: answer.NextVersionIdMarker as string,
              }
            : undefined;
      }
      expect(seen).toEqual(KEYS);
    },
  ],
];

export const lists: Group = {
  title: 'lists',
  prepare: async ({ put }) => {
    for (const key of KEYS) await put(key, key);
  },
  cases: CASES,
};
