/** Objects: what is kept with them, how they are read and deleted. */
import { createHash, randomBytes } from 'node:crypto';
import { expect } from 'vitest';
import { type Case, codeOf, type Group, statusOf, textOf } from './suite.ts';

const PROPERTIES = {
  CacheControl: 'max-age=60, private',
  ContentDisposition: 'attachment; filename="a b.txt"',
  ContentEncoding: 'gzip',
  ContentLanguage: 'de, en',
  ContentType: 'text/plain; charset=utf-8',
  WebsiteRedirectLocation: '/elsewhere',
} as const;

const OVERRIDES = {
  ResponseCacheControl: 'CacheControl',
  ResponseContentDisposition: 'ContentDisposition',
  ResponseContentEncoding: 'ContentEncoding',
  ResponseContentLanguage: 'ContentLanguage',
  ResponseContentType: 'ContentType',
} as const;

const tagsOf = (count: number) =>
  Array.from({ length: count }, (_, i) => ({ Key: `k${i}`, Value: `v${i}` }));

const CASES: readonly Case[] = [
  ...[0, 1, 65_535, 65_536, 65_537, 1_048_577, 6_000_000].map(
    (size): Case => [
      `PutObject: ${size} bytes come back as they went`,
      async (t) => {
        const [Key, body] = [t.name(), randomBytes(size)];
        await t.put(Key, body);
        expect((await t.bytes(Key)).equals(body)).toBe(true);
        expect((await t.s3.headObject({ Bucket: t.Bucket, Key })).ContentLength).toBe(size);
      },
    ],
  ),
  [
    'PutObject: the ETag is quoted, and the one that GET, HEAD and lists tell',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      const etag = await put(Key, 'a');
      expect(etag).toMatch(/^"[^"]+"$/);
      expect((await s3.headObject({ Bucket, Key })).ETag).toBe(etag);
      expect((await s3.getObject({ Bucket, Key })).ETag).toBe(etag);
      const { Contents = [] } = await s3.listObjectsV2({ Bucket, Prefix: Key });
      expect(Contents.find((entry) => entry.Key === Key)?.ETag).toBe(etag);
    },
  ],
  [
    'PutObject: replaces what was there as a whole',
    async ({ s3, Bucket, put, bytes, name }) => {
      const Key = name();
      await s3.putObject({ Bucket, Key, Body: 'longer', Metadata: { a: '1' }, Tagging: 'a=1' });
      await put(Key, 'new');
      expect((await bytes(Key)).toString()).toBe('new');
      expect((await s3.headObject({ Bucket, Key })).Metadata).toEqual({});
      expect((await s3.getObjectTagging({ Bucket, Key })).TagSet).toEqual([]);
    },
  ],
  [
    'PutObject: without a content type it is binary/octet-stream',
    async (t) => {
      const path = `/${t.name()}`;
      await t.raw({ method: 'PUT', path, body: 'x' });
      const { headers } = await t.raw({ method: 'HEAD', path });
      expect(headers['content-type']).toBe('binary/octet-stream');
    },
  ],
  ...Object.entries(PROPERTIES).map(
    ([name, value]): Case => [
      `PutObject: ${name} is kept`,
      async ({ s3, Bucket, ...t }) => {
        const Key = t.name();
        await s3.putObject({ Bucket, Key, Body: 'x', [name]: value });
        const head = await s3.headObject({ Bucket, Key });
        expect(head[name as keyof typeof PROPERTIES]).toBe(value);
      },
    ],
  ),
  [
    'PutObject: Expires is kept',
    async ({ s3, Bucket, name }) => {
      const [Key, Expires] = [name(), new Date('2030-01-02T03:04:05Z')];
      await s3.putObject({ Bucket, Key, Body: 'x', Expires });
      expect((await s3.headObject({ Bucket, Key })).ExpiresString).toBe(
        'Wed, 02 Jan 2030 03:04:05 GMT',
      );
    },
  ],
  [
    'PutObject: aws-chunked is no content encoding of the object',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      await s3.putObject({ Bucket, Key, Body: 'x', ContentEncoding: 'aws-chunked,gzip' });
      expect((await s3.headObject({ Bucket, Key })).ContentEncoding).toBe('gzip');
    },
  ],
  [
    'PutObject: metadata is kept, its names in lower case',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      await s3.putObject({ Bucket, Key, Body: 'x', Metadata: { Camel: 'Case', 'a-b_c.d': '1' } });
      expect((await s3.headObject({ Bucket, Key })).Metadata).toEqual({
        camel: 'Case',
        'a-b_c.d': '1',
      });
    },
  ],
  [
    'PutObject: metadata of more than 2 KB is too large',
    async ({ s3, Bucket, name }) => {
      const put = s3.putObject({ Bucket, Key: name(), Metadata: { a: 'x'.repeat(2048) } });
      expect(await codeOf(put)).toBe('MetadataTooLarge');
    },
  ],
  [
    'PutObject: a right Content-MD5 is accepted',
    async ({ s3, Bucket, name }) => {
      const ContentMD5 = createHash('md5').update('body').digest('base64');
      expect(await statusOf(s3.putObject({ Bucket, Key: name(), Body: 'body', ContentMD5 }))).toBe(
        200,
      );
    },
  ],
  [
    'PutObject: a wrong Content-MD5 leaves nothing',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      const ContentMD5 = createHash('md5').update('another').digest('base64');
      const put = s3.putObject({ Bucket, Key, Body: 'body', ContentMD5 });
      expect(await codeOf(put)).toBe('BadDigest');
      expect(await codeOf(s3.headObject({ Bucket, Key }))).toBe('NotFound');
    },
  ],
  [
    'PutObject: a Content-MD5 that is none is invalid',
    async ({ s3, Bucket, name }) => {
      const put = s3.putObject({ Bucket, Key: name(), Body: 'body', ContentMD5: 'none' });
      expect(await codeOf(put)).toBe('InvalidDigest');
    },
  ],
  [
    'PutObject: a storage class is kept and shown',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      await s3.putObject({ Bucket, Key, Body: 'x', StorageClass: 'REDUCED_REDUNDANCY' });
      expect((await s3.headObject({ Bucket, Key })).StorageClass).toBe('REDUCED_REDUNDANCY');
      const { Contents } = await s3.listObjectsV2({ Bucket, Prefix: Key });
      expect(Contents?.[0]?.StorageClass).toBe('REDUCED_REDUNDANCY');
    },
  ],
  [
    'PutObject: STANDARD is shown in lists, and not by HEAD',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      expect((await s3.headObject({ Bucket, Key })).StorageClass).toBeUndefined();
      const { Contents } = await s3.listObjectsV2({ Bucket, Prefix: Key });
      expect(Contents?.[0]?.StorageClass).toBe('STANDARD');
    },
  ],
  [
    'PutObject: a storage class that S3 has not is invalid',
    async ({ s3, Bucket, name }) => {
      const put = s3.putObject({ Bucket, Key: name(), StorageClass: 'COLD' as 'STANDARD' });
      expect(await codeOf(put)).toBe('InvalidStorageClass');
    },
  ],
  [
    'PutObject: the ACL private is accepted',
    async ({ s3, Bucket, name }) =>
      expect(await statusOf(s3.putObject({ Bucket, Key: name(), ACL: 'private' }))).toBe(200),
  ],
  [
    'PutObject: a public ACL is refused where ACLs are disabled',
    async ({ s3, Bucket, name }) =>
      expect(await codeOf(s3.putObject({ Bucket, Key: name(), ACL: 'public-read' }))).toBe(
        'AccessControlListNotSupported',
      ),
  ],
  [
    'PutObject: Object Lock is refused in a bucket without',
    async ({ s3, Bucket, name }) => {
      const put = s3.putObject({
        ...{ Bucket, Key: name(), Body: 'x', ObjectLockMode: 'GOVERNANCE' },
        ObjectLockRetainUntilDate: new Date(Date.now() + 86_400_000),
      });
      expect(await codeOf(put)).toMatch(/^(InvalidRequest|NotImplemented)$/);
    },
  ],
  [
    'GetObject: of no object, by its key',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      const error = await s3.getObject({ Bucket, Key }).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ name: 'NoSuchKey', Key });
    },
  ],
  [
    'HeadObject: of no object is 404, without a document',
    async (t) => {
      const answer = await t.raw({ method: 'HEAD', path: `/${t.name()}` });
      expect(answer).toMatchObject({ status: 404, body: '' });
    },
  ],
  [
    'GetObject: LastModified is now, in whole seconds',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      const { LastModified } = await s3.getObject({ Bucket, Key });
      const ms = LastModified?.getTime() ?? 0;
      expect(Math.abs(ms - Date.now())).toBeLessThan(60_000);
      expect(ms % 1000).toBe(0);
    },
  ],
  [
    'GetObject: ranges are accepted',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      expect((await s3.getObject({ Bucket, Key })).AcceptRanges).toBe('bytes');
    },
  ],
  ...Object.entries(OVERRIDES).map(
    ([override, property]): Case => [
      `GetObject: ${override} replaces a header of the answer`,
      async ({ s3, Bucket, name }) => {
        const Key = name();
        await s3.putObject({ Bucket, Key, Body: 'x', ...PROPERTIES, ContentEncoding: 'x-own' });
        const got = await s3.getObject({ Bucket, Key, [override]: 'x-replaced' });
        expect(got[property]).toBe('x-replaced');
        expect((await s3.headObject({ Bucket, Key }))[property]).not.toBe('x-replaced');
      },
    ],
  ),
  [
    'HeadObject: takes overrides too',
    async (t) => {
      const Key = t.name();
      await t.put(Key, 'x');
      const { headers } = await t.raw({
        ...{ method: 'HEAD', path: `/${Key}?response-content-type=a%2Fb` },
      });
      expect(headers['content-type']).toBe('a/b');
    },
  ],
  [
    'DeleteObject: 204, and it is gone',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      expect(await statusOf(s3.deleteObject({ Bucket, Key }))).toBe(204);
      expect(await codeOf(s3.getObject({ Bucket, Key }))).toBe('NoSuchKey');
    },
  ],
  [
    'DeleteObject: of no object is 204 too',
    async ({ s3, Bucket, name }) =>
      expect(await statusOf(s3.deleteObject({ Bucket, Key: name() }))).toBe(204),
  ],
  [
    'DeleteObjects: tells each, there or not, in the order asked',
    async ({ s3, Bucket, put }) => {
      await put('many/b', 'x');
      const Objects = ['many/z', 'many/b', 'many/a'].map((Key) => ({ Key }));
      const { Deleted = [] } = await s3.deleteObjects({ Bucket, Delete: { Objects } });
      expect(Deleted.map(({ Key }) => Key)).toEqual(['many/z', 'many/b', 'many/a']);
    },
  ],
  [
    'DeleteObjects: quiet tells nothing of what went well',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      const { Deleted } = await s3.deleteObjects({
        ...{ Bucket, Delete: { Objects: [{ Key }], Quiet: true } },
      });
      expect(Deleted).toBeUndefined();
      expect(await codeOf(s3.headObject({ Bucket, Key }))).toBe('NotFound');
    },
  ],
  [
    'DeleteObjects: a thousand at once',
    async ({ s3, Bucket }) => {
      const Objects = Array.from({ length: 1000 }, (_, i) => ({ Key: `thousand/${i}` }));
      const { Deleted = [] } = await s3.deleteObjects({ Bucket, Delete: { Objects } });
      expect(Deleted).toHaveLength(1000);
    },
  ],
  [
    'DeleteObjects: a thousand and one are too many',
    async ({ s3, Bucket }) => {
      const Objects = Array.from({ length: 1001 }, (_, i) => ({ Key: `thousand/${i}` }));
      expect(await codeOf(s3.deleteObjects({ Bucket, Delete: { Objects } }))).toBe('MalformedXML');
    },
  ],
  [
    'DeleteObjects: XML that is none, and a list of nothing, are malformed',
    async (t) => {
      for (const body of ['<Delete', '<Delete></Delete>', '<Other/>']) {
        const md5 = createHash('md5').update(body).digest('base64');
        const answer = await t.raw({
          ...{ method: 'POST', path: '?delete', body, headers: { 'content-md5': md5 } },
        });
        expect(answer.code).toBe('MalformedXML');
      }
    },
  ],
  [
    'PutObjectTagging: replaces the tags, and leaves the object',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      const put = await s3.putObject({ Bucket, Key, Body: 'x', Tagging: 'a=1&b=zwei%20drei' });
      expect((await s3.getObjectTagging({ Bucket, Key })).TagSet).toEqual([
        { Key: 'a', Value: '1' },
        { Key: 'b', Value: 'zwei drei' },
      ]);
      await s3.putObjectTagging({
        Bucket,
        Key,
        Tagging: { TagSet: [{ Key: 'c', Value: 'x+y=z/1' }] },
      });
      expect((await s3.getObjectTagging({ Bucket, Key })).TagSet).toEqual([
        { Key: 'c', Value: 'x+y=z/1' },
      ]);
      const head = await s3.headObject({ Bucket, Key });
      expect(head).toMatchObject({ ETag: put.ETag, TagCount: 1 });
    },
  ],
  [
    'DeleteObjectTagging: takes all away, with 204',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      await s3.putObject({ Bucket, Key, Body: 'x', Tagging: 'a=1' });
      expect(await statusOf(s3.deleteObjectTagging({ Bucket, Key }))).toBe(204);
      expect((await s3.getObjectTagging({ Bucket, Key })).TagSet).toEqual([]);
    },
  ],
  [
    'PutObjectTagging: ten tags at most',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      await s3.putObjectTagging({ Bucket, Key, Tagging: { TagSet: tagsOf(10) } });
      const many = s3.putObjectTagging({ Bucket, Key, Tagging: { TagSet: tagsOf(11) } });
      expect(await codeOf(many)).toBe('BadRequest');
    },
  ],
  [
    'PutObjectTagging: no key twice, no key of more than 128 characters',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      for (const TagSet of [
        [...tagsOf(1), ...tagsOf(1)],
        [{ Key: 'k'.repeat(129), Value: '' }],
        [{ Key: 'k', Value: 'v'.repeat(257) }],
      ])
        expect(await codeOf(s3.putObjectTagging({ Bucket, Key, Tagging: { TagSet } }))).toBe(
          'InvalidTag',
        );
    },
  ],
  [
    'GetObjectTagging: of no object',
    async ({ s3, Bucket, name }) =>
      expect(await codeOf(s3.getObjectTagging({ Bucket, Key: name() }))).toBe('NoSuchKey'),
  ],
  [
    'GetObjectAcl: the owner has full control',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      const { Grants } = await s3.getObjectAcl({ Bucket, Key });
      expect(Grants).toMatchObject([{ Permission: 'FULL_CONTROL' }]);
    },
  ],
  [
    'PutObjectAcl: private, as a word and as the document that was read, is what it is',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      expect(await statusOf(s3.putObjectAcl({ Bucket, Key, ACL: 'private' }))).toBe(200);
      const { Owner, Grants } = await s3.getObjectAcl({ Bucket, Key });
      const AccessControlPolicy = { Owner, Grants };
      expect(await statusOf(s3.putObjectAcl({ Bucket, Key, AccessControlPolicy }))).toBe(200);
    },
  ],
  [
    'PutObjectAcl: public, by a word, a header or a document, is refused where ACLs are disabled',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      const { Owner } = await s3.getObjectAcl({ Bucket, Key });
      const all = {
        Type: 'Group' as const,
        URI: 'http://acs.amazonaws.com/groups/global/AllUsers',
      };
      for (const acl of [
        { ACL: 'public-read' as const },
        { GrantRead: `uri="${all.URI}"` },
        { AccessControlPolicy: { Owner, Grants: [{ Grantee: all, Permission: 'READ' as const }] } },
      ])
        expect(await codeOf(s3.putObjectAcl({ Bucket, Key, ...acl }))).toBe(
          'AccessControlListNotSupported',
        );
    },
  ],
  [
    'PutObjectAcl: a document that is none, and a word that S3 has not',
    async (t) => {
      const Key = t.name();
      await t.put(Key, 'x');
      const path = `/${Key}?acl`;
      expect((await t.raw({ method: 'PUT', path, body: '<Access' })).code).toBe(
        'MalformedACLError',
      );
      const headers = { 'x-amz-acl': 'everyone' };
      expect((await t.raw({ method: 'PUT', path, headers })).code).toBe('InvalidArgument');
    },
  ],
  [
    'GetObjectAttributes: what is asked for, and no more',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      const etag = await put(Key, 'twelve bytes');
      const found = await s3.getObjectAttributes({
        ...{ Bucket, Key, ObjectAttributes: ['ETag', 'ObjectSize', 'StorageClass'] },
      });
      expect(found).toMatchObject({ ObjectSize: 12, StorageClass: 'STANDARD' });
      expect(found.ETag).toBe(etag.replaceAll('"', ''));
      expect(found.Checksum).toBeUndefined();
      expect(found.ObjectParts).toBeUndefined();
    },
  ],
  [
    'GetObjectAttributes: an attribute that S3 has not is invalid',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      const ask = s3.getObjectAttributes({ Bucket, Key, ObjectAttributes: ['Color' as 'ETag'] });
      expect(await codeOf(ask)).toBe('InvalidArgument');
    },
  ],
  [
    'CopyObject: bytes, type, metadata and tags travel',
    async ({ s3, Bucket, name }) => {
      const [from, to] = [name(), name()];
      await s3.putObject({
        ...{
          Bucket,
          Key: from,
          Body: 'x',
          ContentType: 'a/b',
          Metadata: { m: '1' },
          Tagging: 't=1',
        },
      });
      const copy = await s3.copyObject({ Bucket, Key: to, CopySource: `${Bucket}/${from}` });
      const head = await s3.headObject({ Bucket, Key: to });
      expect(copy.CopyObjectResult?.ETag).toBe(head.ETag);
      expect(head).toMatchObject({ ContentType: 'a/b', Metadata: { m: '1' }, TagCount: 1 });
    },
  ],
  [
    'CopyObject: REPLACE takes type and metadata of the request',
    async ({ s3, Bucket, name }) => {
      const [from, to] = [name(), name()];
      await s3.putObject({
        Bucket,
        Key: from,
        Body: 'x',
        ContentType: 'a/b',
        Metadata: { m: '1' },
      });
      await s3.copyObject({
        ...{ Bucket, Key: to, CopySource: `${Bucket}/${from}`, MetadataDirective: 'REPLACE' },
        ...{ ContentType: 'c/d', Metadata: { n: '2' } },
      });
      const head = await s3.headObject({ Bucket, Key: to });
      expect(head).toMatchObject({ ContentType: 'c/d', Metadata: { n: '2' } });
    },
  ],
  [
    'CopyObject: metadata of the request is ignored without REPLACE',
    async ({ s3, Bucket, name }) => {
      const [from, to] = [name(), name()];
      await s3.putObject({ Bucket, Key: from, Body: 'x', Metadata: { m: '1' } });
      await s3.copyObject({
        ...{ Bucket, Key: to, CopySource: `${Bucket}/${from}`, Metadata: { n: '2' } },
      });
      expect((await s3.headObject({ Bucket, Key: to })).Metadata).toEqual({ m: '1' });
    },
  ],
  [
    'CopyObject: tags of the request with the tagging directive REPLACE',
    async ({ s3, Bucket, name }) => {
      const [from, to] = [name(), name()];
      await s3.putObject({ Bucket, Key: from, Body: 'x', Tagging: 'a=1' });
      await s3.copyObject({
        ...{ Bucket, Key: to, CopySource: `${Bucket}/${from}` },
        ...{ TaggingDirective: 'REPLACE', Tagging: 'b=2' },
      });
      expect((await s3.getObjectTagging({ Bucket, Key: to })).TagSet).toEqual([
        { Key: 'b', Value: '2' },
      ]);
    },
  ],
  [
    'CopyObject: onto itself without a change is illegal',
    async ({ s3, Bucket, put, name }) => {
      const Key = name();
      await put(Key, 'x');
      const copy = s3.copyObject({ Bucket, Key, CopySource: `${Bucket}/${Key}` });
      expect(await codeOf(copy)).toBe('InvalidRequest');
    },
  ],
  [
    'CopyObject: onto itself with new metadata changes it',
    async ({ s3, Bucket, put, bytes, name }) => {
      const Key = name();
      await put(Key, 'kept');
      await s3.copyObject({
        ...{ Bucket, Key, CopySource: `${Bucket}/${Key}`, MetadataDirective: 'REPLACE' },
        Metadata: { now: 'there' },
      });
      expect((await bytes(Key)).toString()).toBe('kept');
      expect((await s3.headObject({ Bucket, Key })).Metadata).toEqual({ now: 'there' });
    },
  ],
  [
    'CopyObject: a leading slash of the source does not matter',
    async ({ s3, Bucket, put, bytes, name }) => {
      const [from, to] = [name(), name()];
      await put(from, 'slash');
      await s3.copyObject({ Bucket, Key: to, CopySource: `/${Bucket}/${from}` });
      expect((await bytes(to)).toString()).toBe('slash');
    },
  ],
  [
    'CopyObject: from no object, from no bucket',
    async ({ s3, Bucket, name }) => {
      const copy = (CopySource: string) => s3.copyObject({ Bucket, Key: name(), CopySource });
      expect(await codeOf(copy(`${Bucket}/none`))).toBe('NoSuchKey');
      expect(await codeOf(copy(`${Bucket}-no/none`))).toBe('NoSuchBucket');
    },
  ],
  [
    'CopyObject: a source without a key, and an unknown directive, are invalid',
    async (t) => {
      await t.put('directive', 'x');
      for (const headers of [
        { 'x-amz-copy-source': 'bucketonly' },
        { 'x-amz-copy-source': `${t.Bucket}/directive`, 'x-amz-metadata-directive': 'KEEP' },
      ])
        expect((await t.raw({ method: 'PUT', path: '/copied', headers })).code).toBe(
          'InvalidArgument',
        );
    },
  ],
  [
    'CopyObject: the source may go afterwards',
    async ({ s3, Bucket, put, name }) => {
      const [from, to] = [name(), name()];
      await put(from, 'stays');
      await s3.copyObject({ Bucket, Key: to, CopySource: `${Bucket}/${from}` });
      await s3.deleteObject({ Bucket, Key: from });
      expect(await textOf(s3.getObject({ Bucket, Key: to }))).toBe('stays');
    },
  ],
];

export const objects: Group = { title: 'objects', cases: CASES };
