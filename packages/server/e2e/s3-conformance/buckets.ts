/** Buckets, and what is asked of them as a whole. */
import { expect } from 'vitest';
import { type Case, codeOf, type Group, statusOf, type Tools } from './suite.ts';

const INVALID_NAMES: readonly (readonly [string, string])[] = [
  ['two characters', 'ab'],
  ['64 characters', 'a'.repeat(64)],
  ['an upper-case letter', 'Upper-case'],
  ['an underscore', 'under_score'],
  ['a hyphen at its end', 'hyphen-'],
  ['a hyphen at its start', '-hyphen'],
  ['two dots in a row', 'two..dots'],
  ['the form of an IP address', '192.168.1.1'],
  ['a reserved prefix', 'xn--reserved'],
  ['an exclamation mark', 'hidden!uploads'],
];

async function fresh({ s3, Bucket }: Tools, suffix: string): Promise<string> {
  const name = `${Bucket}-${suffix}`;
  await s3.createBucket({ Bucket: name });
  return name;
}

const CASES: readonly Case[] = [
  [
    'CreateBucket: a new bucket is listed, with its date',
    async (t) => {
      const name = await fresh(t, 'new');
      const { Buckets = [], Owner } = await t.s3.listBuckets({});
      const found = Buckets.find(({ Name }) => Name === name);
      expect(Math.abs((found?.CreationDate?.getTime() ?? 0) - Date.now())).toBeLessThan(60_000);
      expect(Owner?.ID).toBeTruthy();
    },
  ],
  [
    'CreateBucket: the answer names its place',
    async (t) => {
      const { Location } = await t.s3.createBucket({ Bucket: `${t.Bucket}-place` });
      expect(Location).toContain(`${t.Bucket}-place`);
    },
  ],
  [
    'CreateBucket: one that its owner has already is a conflict',
    async (t) => {
      const again = t.s3.createBucket({ Bucket: t.Bucket });
      expect(await codeOf(again)).toBe('BucketAlreadyOwnedByYou');
    },
  ],
  ...INVALID_NAMES.map(
    ([what, name]): Case => [
      `CreateBucket: a name with ${what} is invalid`,
      async ({ key, url }) => {
        const { sendRaw, signHeaders } = await import('../../src/testing/sign-s3.ts');
        const request = { method: 'PUT', url: new URL(`/${name}`, url('')) };
        const answer = await sendRaw({ ...request, headers: signHeaders(key, request) });
        expect(answer).toMatchObject({ status: 400, code: 'InvalidBucketName' });
      },
    ],
  ),
  [
    'CreateBucket: XML that is none is malformed',
    async (t) => {
      const answer = await t.raw({ method: 'PUT', path: '-xml', body: '<Create' });
      expect(answer.code).toBe('MalformedXML');
    },
  ],
  [
    'HeadBucket: 200 for one that is there',
    async (t) => expect(await statusOf(t.s3.headBucket({ Bucket: t.Bucket }))).toBe(200),
  ],
  [
    'HeadBucket: the answer names the region',
    async (t) =>
      expect((await t.s3.headBucket({ Bucket: t.Bucket })).BucketRegion).toBe('us-east-1'),
  ],
  [
    'HeadBucket: 404 for one that is not',
    async (t) => expect(await statusOf(t.s3.headBucket({ Bucket: `${t.Bucket}-no` }))).toBe(404),
  ],
  [
    'GetBucketLocation: us-east-1 is an empty constraint',
    async (t) => {
      const { LocationConstraint } = await t.s3.getBucketLocation({ Bucket: t.Bucket });
      expect(LocationConstraint).toBeUndefined();
    },
  ],
  [
    'GetBucketLocation: of no bucket',
    async (t) =>
      expect(await codeOf(t.s3.getBucketLocation({ Bucket: `${t.Bucket}-no` }))).toBe(
        'NoSuchBucket',
      ),
  ],
  [
    'DeleteBucket: one that is empty goes, with 204',
    async (t) => {
      const name = await fresh(t, 'gone');
      expect(await statusOf(t.s3.deleteBucket({ Bucket: name }))).toBe(204);
      expect(await statusOf(t.s3.headBucket({ Bucket: name }))).toBe(404);
    },
  ],
  [
    'DeleteBucket: one with objects stays',
    async (t) => {
      const name = await fresh(t, 'full');
      await t.s3.putObject({ Bucket: name, Key: 'a', Body: 'a' });
      expect(await codeOf(t.s3.deleteBucket({ Bucket: name }))).toBe('BucketNotEmpty');
      await t.s3.deleteObject({ Bucket: name, Key: 'a' });
      expect(await codeOf(t.s3.deleteBucket({ Bucket: name }))).toBe('none');
    },
  ],
  [
    'DeleteBucket: one that is not there',
    async (t) =>
      expect(await codeOf(t.s3.deleteBucket({ Bucket: `${t.Bucket}-no` }))).toBe('NoSuchBucket'),
  ],
  [
    'ListBuckets: in order of their names',
    async (t) => {
      for (const suffix of ['zz', 'aa', 'mm']) await fresh(t, suffix);
      const { Buckets = [] } = await t.s3.listBuckets({});
      const names = Buckets.map(({ Name }) => Name as string);
      expect(names).toEqual([...names].sort());
    },
  ],
  [
    'ListBuckets: a prefix chooses',
    async (t) => {
      await fresh(t, 'prefix');
      const { Buckets = [], Prefix } = await t.s3.listBuckets({ Prefix: `${t.Bucket}-prefix` });
      expect(Buckets.map(({ Name }) => Name)).toEqual([`${t.Bucket}-prefix`]);
      expect(Prefix).toBe(`${t.Bucket}-prefix`);
    },
  ],
  [
    'ListBuckets: pages of MaxBuckets',
    async (t) => {
      const names = ['p1', 'p2', 'p3'].map((suffix) => `${t.Bucket}-page-${suffix}`);
      for (const name of names) await t.s3.createBucket({ Bucket: name });
      const Prefix = `${t.Bucket}-page-`;
      const first = await t.s3.listBuckets({ Prefix, MaxBuckets: 2 });
      expect(first.Buckets?.map(({ Name }) => Name)).toEqual(names.slice(0, 2));
      const ContinuationToken = first.ContinuationToken as string;
      const second = await t.s3.listBuckets({ Prefix, MaxBuckets: 2, ContinuationToken });
      expect(second.Buckets?.map(({ Name }) => Name)).toEqual(names.slice(2));
      expect(second.ContinuationToken).toBeUndefined();
    },
  ],
  [
    'PutObject: into no bucket',
    async (t) =>
      expect(await codeOf(t.s3.putObject({ Bucket: `${t.Bucket}-no`, Key: 'a', Body: 'a' }))).toBe(
        'NoSuchBucket',
      ),
  ],
  [
    'GetObject: from no bucket',
    async (t) =>
      expect(await codeOf(t.s3.getObject({ Bucket: `${t.Bucket}-no`, Key: 'a' }))).toBe(
        'NoSuchBucket',
      ),
  ],
  [
    'GetBucketAcl: the owner has full control',
    async (t) => {
      const { Owner, Grants = [] } = await t.s3.getBucketAcl({ Bucket: t.Bucket });
      expect(Grants).toMatchObject([{ Permission: 'FULL_CONTROL' }]);
      expect(Owner).toBeDefined();
    },
  ],
  [
    'PutBucketAcl: private is what it is',
    async (t) =>
      expect(await statusOf(t.s3.putBucketAcl({ Bucket: t.Bucket, ACL: 'private' }))).toBe(200),
  ],
  [
    'PutBucketAcl: public is refused where ACLs are disabled, as they are by default',
    async (t) =>
      expect(await codeOf(t.s3.putBucketAcl({ Bucket: t.Bucket, ACL: 'public-read' }))).toBe(
        'AccessControlListNotSupported',
      ),
  ],
  [
    'GetBucketVersioning: a new bucket has no status',
    async (t) =>
      expect((await t.s3.getBucketVersioning({ Bucket: t.Bucket })).Status).toBeUndefined(),
  ],
  ...(
    [
      ['GetBucketPolicy', 'NoSuchBucketPolicy', (t) => t.s3.getBucketPolicy({ Bucket: t.Bucket })],
      [
        'GetBucketLifecycleConfiguration',
        'NoSuchLifecycleConfiguration',
        (t) => t.s3.getBucketLifecycleConfiguration({ Bucket: t.Bucket }),
      ],
      ['GetBucketTagging', 'NoSuchTagSet', (t) => t.s3.getBucketTagging({ Bucket: t.Bucket })],
      [
        'GetBucketReplication',
        'ReplicationConfigurationNotFoundError',
        (t) => t.s3.getBucketReplication({ Bucket: t.Bucket }),
      ],
      [
        'GetObjectLockConfiguration',
        'ObjectLockConfigurationNotFoundError',
        (t) => t.s3.getObjectLockConfiguration({ Bucket: t.Bucket }),
      ],
      ['GetBucketCors', 'NoSuchCORSConfiguration', (t) => t.s3.getBucketCors({ Bucket: t.Bucket })],
      [
        'GetBucketWebsite',
        'NoSuchWebsiteConfiguration',
        (t) => t.s3.getBucketWebsite({ Bucket: t.Bucket }),
      ],
    ] as readonly (readonly [string, string, (t: Tools) => Promise<unknown>])[]
  ).map(
    ([operation, code, run]): Case => [
      `${operation}: of a bucket without one`,
      async (t) => expect(await codeOf(run(t))).toBe(code),
    ],
  ),
];

export const buckets: Group = { title: 'buckets', cases: CASES };
