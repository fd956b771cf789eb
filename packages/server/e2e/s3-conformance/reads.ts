/** Ranges and conditions of reads, writes, copies and deletions. */
import { expect } from 'vitest';
import { type Case, codeOf, type Group, statusOf, type Tools, textOf } from './suite.ts';

const DIGITS = '0123456789';
const RANGES: readonly (readonly [range: string, body: string, contentRange: string])[] = [
  ['bytes=0-0', '0', 'bytes 0-0/10'],
  ['bytes=2-4', '234', 'bytes 2-4/10'],
  ['bytes=0-9', DIGITS, 'bytes 0-9/10'],
  ['bytes=9-9', '9', 'bytes 9-9/10'],
  ['bytes=5-', '56789', 'bytes 5-9/10'],
  ['bytes=0-', DIGITS, 'bytes 0-9/10'],
  ['bytes=8-100', '89', 'bytes 8-9/10'],
  ['bytes=-1', '9', 'bytes 9-9/10'],
  ['bytes=-10', DIGITS, 'bytes 0-9/10'],
  ['bytes=-100', DIGITS, 'bytes 0-9/10'],
];
const UNSATISFIABLE = ['bytes=10-', 'bytes=10-20', 'bytes=-0'];
const IGNORED = ['bytes=abc', 'bytes=5-2', 'bits=0-1', 'bytes=0-1,3-4', 'bytes='];

const RANGE_CASES: readonly Case[] = [
  ...RANGES.map(
    ([Range, body, ContentRange]): Case => [
      `GetObject: Range ${Range} is a part`,
      async ({ s3, Bucket }) => {
        const got = await s3.getObject({ Bucket, Key: 'digits', Range });
        expect(got).toMatchObject({ ContentRange, ContentLength: body.length });
        expect(got.$metadata.httpStatusCode).toBe(206);
        expect(await textOf(Promise.resolve(got))).toBe(body);
      },
    ],
  ),
  ...UNSATISFIABLE.map(
    (Range): Case => [
      `GetObject: Range ${Range} of ten bytes cannot be satisfied`,
      async ({ s3, Bucket }) => {
        const get = s3.getObject({ Bucket, Key: 'digits', Range });
        expect(await statusOf(get)).toBe(416);
        expect(await codeOf(get)).toBe('InvalidRange');
      },
    ],
  ),
  ...IGNORED.map(
    (Range): Case => [
      `GetObject: Range ${Range} is none, and ignored`,
      async ({ s3, Bucket }) => {
        const got = await s3.getObject({ Bucket, Key: 'digits', Range });
        expect(got.$metadata.httpStatusCode).toBe(200);
        expect(await textOf(Promise.resolve(got))).toBe(DIGITS);
      },
    ],
  ),
  [
    'GetObject: any range of an empty object cannot be satisfied',
    async ({ s3, Bucket, put }) => {
      await put('empty', '');
      expect(await codeOf(s3.getObject({ Bucket, Key: 'empty', Range: 'bytes=0-' }))).toBe(
        'InvalidRange',
      );
    },
  ],
  [
    'HeadObject: a range tells the length of the part',
    async (t) => {
      const answer = await t.raw({
        ...{ method: 'HEAD', path: '/digits', headers: { range: 'bytes=2-4' } },
      });
      expect(answer.status).toBe(206);
      expect(answer.headers).toMatchObject({
        'content-length': '3',
        'content-range': 'bytes 2-4/10',
      });
    },
  ],
  [
    'GetObject: a part by number of an object that was put whole is the whole',
    async ({ s3, Bucket }) =>
      expect(await textOf(s3.getObject({ Bucket, Key: 'digits', PartNumber: 1 }))).toBe(DIGITS),
  ],
  [
    'GetObject: a part that the object has not cannot be satisfied',
    async ({ s3, Bucket }) =>
      expect(await statusOf(s3.getObject({ Bucket, Key: 'digits', PartNumber: 2 }))).toBe(416),
  ],
  [
    'GetObject: a range and a part number exclude each other',
    async ({ s3, Bucket }) =>
      expect(
        await codeOf(s3.getObject({ Bucket, Key: 'digits', PartNumber: 1, Range: 'bytes=0-1' })),
      ).toBe('InvalidRequest'),
  ],
];

const PAST = new Date('2001-01-01T00:00:00Z');
const future = (): Date => new Date(Date.now() + 3_600_000);
type Condition = {
  readonly IfMatch?: string;
  readonly IfNoneMatch?: string;
  readonly IfModifiedSince?: Date;
  readonly IfUnmodifiedSince?: Date;
};
/** With the object's own ETag. */
const READ_CONDITIONS: readonly (readonly [
  what: string,
  status: number,
  condition: (etag: string) => Condition,
])[] = [
  ['If-Match with its ETag', 200, (IfMatch) => ({ IfMatch })],
  ['If-Match with its ETag, unquoted', 200, (etag) => ({ IfMatch: etag.replaceAll('"', '') })],
  ['If-Match with another', 412, () => ({ IfMatch: '"another"' })],
  ['If-None-Match with its ETag', 304, (IfNoneMatch) => ({ IfNoneMatch })],
  ['If-None-Match with another', 200, () => ({ IfNoneMatch: '"another"' })],
  ['If-Modified-Since long ago', 200, () => ({ IfModifiedSince: PAST })],
  ['If-Unmodified-Since long ago', 412, () => ({ IfUnmodifiedSince: PAST })],
  ['If-Unmodified-Since later', 200, () => ({ IfUnmodifiedSince: future() })],
  [
    'If-Match that holds over If-Unmodified-Since that does not',
    200,
    (IfMatch) => ({ IfMatch, IfUnmodifiedSince: PAST }),
  ],
  [
    'If-None-Match that fails over If-Modified-Since that holds',
    304,
    (IfNoneMatch) => ({ IfNoneMatch, IfModifiedSince: PAST }),
  ],
];

const CONDITION_CASES: readonly Case[] = [
  ...(['getObject', 'headObject'] as const).flatMap((operation) =>
    READ_CONDITIONS.map(
      ([what, status, condition]): Case => [
        `${operation === 'getObject' ? 'GetObject' : 'HeadObject'}: ${what} gives ${status}`,
        async ({ s3, Bucket }) => {
          const { ETag } = await s3.headObject({ Bucket, Key: 'digits' });
          const asked = { Bucket, Key: 'digits', ...condition(ETag as string) };
          expect(await statusOf(s3[operation](asked))).toBe(status);
        },
      ],
    ),
  ),
  [
    'GetObject: If-Modified-Since the second it was made gives 304',
    async ({ s3, Bucket }) => {
      const { LastModified } = await s3.headObject({ Bucket, Key: 'digits' });
      const IfModifiedSince = LastModified as Date;
      expect(await statusOf(s3.getObject({ Bucket, Key: 'digits', IfModifiedSince }))).toBe(304);
    },
  ],
  [
    'GetObject: a 304 has the ETag and no body',
    async (t) => {
      const { ETag } = await t.s3.headObject({ Bucket: t.Bucket, Key: 'digits' });
      const answer = await t.raw({
        ...{ method: 'GET', path: '/digits', headers: { 'if-none-match': ETag as string } },
      });
      expect(answer).toMatchObject({ status: 304, body: '' });
      expect(answer.headers.etag).toBe(ETag);
    },
  ],
  [
    'PutObject: If-None-Match * makes a new object, once',
    async ({ s3, Bucket, bytes, name }) => {
      const Key = name();
      const put = (Body: string) => s3.putObject({ Bucket, Key, Body, IfNoneMatch: '*' });
      expect(await codeOf(put('first'))).toBe('none');
      expect(await codeOf(put('second'))).toBe('PreconditionFailed');
      expect((await bytes(Key)).toString()).toBe('first');
    },
  ],
  [
    'PutObject: of many at once with If-None-Match * one wins',
    async ({ s3, Bucket, bytes, name }) => {
      const Key = name();
      const codes = await Promise.all(
        Array.from({ length: 8 }, async (_, i) => ({
          i,
          code: await codeOf(s3.putObject({ Bucket, Key, Body: `${i}`, IfNoneMatch: '*' })),
        })),
      );
      const winners = codes.filter(({ code }) => code === 'none');
      expect(winners).toHaveLength(1);
      expect((await bytes(Key)).toString()).toBe(`${winners[0]?.i}`);
    },
  ],
  [
    'PutObject: If-Match replaces that version, and no other',
    async ({ s3, Bucket, put, bytes, name }) => {
      const Key = name();
      const IfMatch = await put(Key, 'first');
      expect(await codeOf(s3.putObject({ Bucket, Key, Body: 'second', IfMatch }))).toBe('none');
      expect(await codeOf(s3.putObject({ Bucket, Key, Body: 'third', IfMatch }))).toBe(
        'PreconditionFailed',
      );
      expect((await bytes(Key)).toString()).toBe('second');
    },
  ],
  [
    'PutObject: If-Match of no object is NoSuchKey',
    async ({ s3, Bucket, name }) =>
      expect(await codeOf(s3.putObject({ Bucket, Key: name(), Body: 'x', IfMatch: '"a"' }))).toBe(
        'NoSuchKey',
      ),
  ],
  [
    'PutObject: If-None-Match with an ETag replaces every version but that one',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      const put = (more: object) => s3.putObject({ Bucket, Key, Body: 'x', ...more });
      const { ETag } = await put({ IfNoneMatch: '"a"' });
      expect(await codeOf(put({ IfNoneMatch: ETag }))).toBe('PreconditionFailed');
      expect(await codeOf(put({ IfNoneMatch: '"a"' }))).toBe('none');
    },
  ],
  [
    'PutObject: If-Match * replaces whatever is there, and needs something',
    async ({ s3, Bucket, name, put }) => {
      const Key = name();
      const replace = () => s3.putObject({ Bucket, Key, Body: 'x', IfMatch: '*' });
      expect(await codeOf(replace())).toBe('NoSuchKey');
      await put(Key, 'y');
      expect(await codeOf(replace())).toBe('none');
    },
  ],
  [
    'DeleteObject: If-Match deletes that version, and no other',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      const first = await put(Key, 'first');
      const second = await put(Key, 'second');
      expect(await codeOf(s3.deleteObject({ Bucket, Key, IfMatch: first }))).toBe(
        'PreconditionFailed',
      );
      expect(await statusOf(s3.deleteObject({ Bucket, Key, IfMatch: second }))).toBe(204);
    },
  ],
  [
    'DeleteObject: If-Match * needs an object',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      expect(await statusOf(s3.deleteObject({ Bucket, Key, IfMatch: '*' }))).toBe(412);
      await put(Key, 'x');
      expect(await statusOf(s3.deleteObject({ Bucket, Key, IfMatch: '*' }))).toBe(204);
      expect(await codeOf(s3.headObject({ Bucket, Key }))).toBe('NotFound');
    },
  ],
  [
    'DeleteObjects: an ETag is a condition on that object',
    async ({ s3, Bucket, put }) => {
      const right = await put('etag/right', 'x');
      await put('etag/wrong', 'x');
      const Objects = [
        { Key: 'etag/right', ETag: right },
        { Key: 'etag/wrong', ETag: '"another"' },
      ];
      const { Deleted, Errors } = await s3.deleteObjects({ Bucket, Delete: { Objects } });
      expect(Deleted?.map(({ Key }) => Key)).toEqual(['etag/right']);
      expect(Errors).toMatchObject([{ Key: 'etag/wrong', Code: 'PreconditionFailed' }]);
    },
  ],
  ...(
    [
      ['if-match with its ETag', 'none', (etag) => ({ CopySourceIfMatch: etag })],
      ['if-match with another', 'PreconditionFailed', () => ({ CopySourceIfMatch: '"a"' })],
      ['if-none-match with another', 'none', () => ({ CopySourceIfNoneMatch: '"a"' })],
      [
        'if-none-match with its ETag',
        'PreconditionFailed',
        (etag) => ({ CopySourceIfNoneMatch: etag }),
      ],
      ['if-modified-since long ago', 'none', () => ({ CopySourceIfModifiedSince: PAST })],
      [
        'if-unmodified-since long ago',
        'PreconditionFailed',
        () => ({ CopySourceIfUnmodifiedSince: PAST }),
      ],
      [
        'if-match that holds over if-unmodified-since that does not',
        'none',
        (etag) => ({ CopySourceIfMatch: etag, CopySourceIfUnmodifiedSince: PAST }),
      ],
    ] as readonly (readonly [string, string, (etag: string) => object])[]
  ).map(
    ([what, code, condition]): Case => [
      `CopyObject: copy-source-${what} gives ${code}`,
      async ({ s3, Bucket, name }) => {
        const { ETag } = await s3.headObject({ Bucket, Key: 'digits' });
        const copy = s3.copyObject({
          ...{ Bucket, Key: name(), CopySource: `${Bucket}/digits` },
          ...condition(ETag as string),
        });
        expect(await codeOf(copy)).toBe(code);
      },
    ],
  ),
  [
    'CopyObject: If-None-Match * makes a new object, once',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      const copy = () =>
        s3.copyObject({ Bucket, Key, CopySource: `${Bucket}/digits`, IfNoneMatch: '*' });
      expect(await codeOf(copy())).toBe('none');
      expect(await codeOf(copy())).toBe('PreconditionFailed');
    },
  ],
  [
    'CopyObject: If-Match replaces that version, and no other',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      const IfMatch = await put(Key, 'x');
      const copy = () => s3.copyObject({ Bucket, Key, CopySource: `${Bucket}/digits`, IfMatch });
      expect(await codeOf(copy())).toBe('none');
      expect(await codeOf(copy())).toBe('PreconditionFailed');
    },
  ],
];

export const reads: Group = {
  title: 'ranges and conditions',
  prepare: async ({ put }: Tools) => {
    await put('digits', DIGITS);
  },
  cases: [...RANGE_CASES, ...CONDITION_CASES],
};
