/** Multipart uploads, and copies of parts. */
import { randomBytes } from 'node:crypto';
import type {
  CompletedPart,
  CreateMultipartUploadCommandInput,
  ListMultipartUploadsCommandOutput,
} from '@aws-sdk/client-s3';
import { expect } from 'vitest';
import { type Case, codeOf, type Group, statusOf, type Tools } from './suite.ts';

const MiB = 1024 * 1024;
const FULL = randomBytes(5 * MiB);

interface Upload {
  readonly Key: string;
  readonly UploadId: string;
  readonly part: (PartNumber: number, Body: Uint8Array | string) => Promise<CompletedPart>;
  readonly complete: (Parts: readonly CompletedPart[], more?: object) => Promise<string>;
}

async function begin(
  { s3, Bucket, name }: Tools,
  more: Partial<CreateMultipartUploadCommandInput> = {},
): Promise<Upload> {
  const Key = more.Key ?? name();
  const { UploadId = '' } = await s3.createMultipartUpload({ Bucket, ...more, Key });
  return {
    ...{ Key, UploadId },
    part: async (PartNumber, Body) => {
      const { ETag } = await s3.uploadPart({ Bucket, Key, UploadId, PartNumber, Body });
      return { PartNumber, ETag };
    },
    complete: async (Parts, also = {}) =>
      await codeOf(
        s3.completeMultipartUpload({
          ...{ Bucket, Key, UploadId, MultipartUpload: { Parts: [...Parts] } },
          ...also,
        }),
      ),
  };
}

const CASES: readonly Case[] = [
  [
    'CompleteMultipartUpload: parts become one object, in the order of their numbers',
    async (t) => {
      const upload = await begin(t);
      const last = await upload.part(7, 'the end');
      const first = await upload.part(2, FULL);
      expect(await upload.complete([first, last])).toBe('none');
      const whole = await t.bytes(upload.Key);
      expect(whole.equals(Buffer.concat([FULL, Buffer.from('the end')]))).toBe(true);
    },
  ],
  [
    'CompleteMultipartUpload: the ETag ends with the number of parts',
    async (t) => {
      const upload = await begin(t);
      expect(await upload.complete([await upload.part(1, FULL), await upload.part(2, 'x')])).toBe(
        'none',
      );
      const { ETag } = await t.s3.headObject({ Bucket: t.Bucket, Key: upload.Key });
      expect(ETag).toMatch(/-2"$/);
    },
  ],
  [
    'CompleteMultipartUpload: one small part is an upload too',
    async (t) => {
      const upload = await begin(t);
      expect(await upload.complete([await upload.part(1, 'small')])).toBe('none');
      expect((await t.bytes(upload.Key)).toString()).toBe('small');
    },
  ],
  [
    'CompleteMultipartUpload: properties are those of its beginning',
    async (t) => {
      const upload = await begin(t, {
        ...{ ContentType: 'a/b', CacheControl: 'no-store', Metadata: { m: '1' }, Tagging: 't=1' },
      });
      await upload.complete([await upload.part(1, 'x')]);
      const head = await t.s3.headObject({ Bucket: t.Bucket, Key: upload.Key });
      expect(head).toMatchObject({
        ...{ ContentType: 'a/b', CacheControl: 'no-store', Metadata: { m: '1' }, TagCount: 1 },
      });
    },
  ],
  [
    'CompleteMultipartUpload: nothing is visible before',
    async (t) => {
      const upload = await begin(t);
      await upload.part(1, FULL);
      expect(await statusOf(t.s3.headObject({ Bucket: t.Bucket, Key: upload.Key }))).toBe(404);
      const { Contents } = await t.s3.listObjectsV2({ Bucket: t.Bucket, Prefix: upload.Key });
      expect(Contents).toBeUndefined();
    },
  ],
  [
    'CompleteMultipartUpload: what was there stays until then, and is replaced',
    async (t) => {
      const Key = t.name();
      await t.put(Key, 'old');
      const upload = await begin(t, { Key });
      const part = await upload.part(1, 'new');
      expect((await t.bytes(Key)).toString()).toBe('old');
      await upload.complete([part]);
      expect((await t.bytes(Key)).toString()).toBe('new');
    },
  ],
  [
    'CompleteMultipartUpload: asked again, it succeeds again',
    async (t) => {
      const upload = await begin(t);
      const part = await upload.part(1, 'x');
      expect(await upload.complete([part])).toBe('none');
      expect(await upload.complete([part])).toBe('none');
    },
  ],
  [
    'CompleteMultipartUpload: parts that are not listed are left out',
    async (t) => {
      const upload = await begin(t);
      const first = await upload.part(1, FULL);
      await upload.part(2, FULL);
      const third = await upload.part(3, 'x');
      expect(await upload.complete([first, third])).toBe('none');
      expect((await t.bytes(upload.Key)).length).toBe(FULL.length + 1);
    },
  ],
  [
    'CompleteMultipartUpload: a part that was sent twice is the later',
    async (t) => {
      const upload = await begin(t);
      const before = await upload.part(1, 'before');
      const after = await upload.part(1, 'after');
      expect(await upload.complete([before])).toBe('InvalidPart');
      expect(await upload.complete([after])).toBe('none');
      expect((await t.bytes(upload.Key)).toString()).toBe('after');
    },
  ],
  [
    'CompleteMultipartUpload: a part but the last of less than 5 MiB is too small',
    async (t) => {
      const upload = await begin(t);
      const parts = [await upload.part(1, FULL.subarray(1)), await upload.part(2, 'x')];
      expect(await upload.complete(parts)).toBe('EntityTooSmall');
    },
  ],
  [
    'CompleteMultipartUpload: parts in the wrong order, or one twice',
    async (t) => {
      const upload = await begin(t);
      const [first, second] = [await upload.part(1, FULL), await upload.part(2, 'x')];
      expect(await upload.complete([second, first])).toBe('InvalidPartOrder');
      expect(await upload.complete([first, first])).toBe('InvalidPartOrder');
    },
  ],
  [
    'CompleteMultipartUpload: a part that was never sent, or has another ETag',
    async (t) => {
      const upload = await begin(t);
      const { ETag } = await upload.part(1, 'x');
      expect(await upload.complete([{ PartNumber: 2, ETag }])).toBe('InvalidPart');
      expect(await upload.complete([{ PartNumber: 1, ETag: '"another"' }])).toBe('InvalidPart');
    },
  ],
  [
    'CompleteMultipartUpload: a list of nothing is malformed',
    async (t) => expect(await (await begin(t)).complete([])).toBe('MalformedXML'),
  ],
  [
    'CompleteMultipartUpload: If-None-Match * finds an object that came meanwhile',
    async (t) => {
      const upload = await begin(t);
      const part = await upload.part(1, 'x');
      await t.put(upload.Key, 'meanwhile');
      expect(await upload.complete([part], { IfNoneMatch: '*' })).toBe('PreconditionFailed');
      expect((await t.bytes(upload.Key)).toString()).toBe('meanwhile');
    },
  ],
  [
    'CompleteMultipartUpload: If-Match replaces that version, and no other',
    async (t) => {
      const Key = t.name();
      const IfMatch = await t.put(Key, 'x');
      const upload = await begin(t, { Key });
      const part = await upload.part(1, 'new');
      expect(await upload.complete([part], { IfMatch: '"another"' })).toBe('PreconditionFailed');
      expect(await upload.complete([part], { IfMatch })).toBe('none');
    },
  ],
  [
    'CompleteMultipartUpload: a size that was announced is checked',
    async (t) => {
      const upload = await begin(t);
      const part = await upload.part(1, 'x');
      expect(await upload.complete([part], { MpuObjectSize: 2 })).toBe('InvalidRequest');
      expect(await upload.complete([part], { MpuObjectSize: 1 })).toBe('none');
    },
  ],
  ...([0, -1, 10_001] as const).map(
    (PartNumber): Case => [
      `UploadPart: ${PartNumber} is no part number`,
      async (t) => {
        const upload = await begin(t);
        expect(await codeOf(upload.part(PartNumber, 'x'))).toBe('InvalidArgument');
      },
    ],
  ),
  [
    'UploadPart: 10000 is the last part number',
    async (t) => {
      const upload = await begin(t);
      expect(await upload.complete([await upload.part(10_000, 'x')])).toBe('none');
    },
  ],
  [
    'UploadPart: into no upload, and into that of another key',
    async (t) => {
      const { UploadId } = await begin(t);
      const part = (Key: string, id: string) =>
        t.s3.uploadPart({ Bucket: t.Bucket, Key, UploadId: id, PartNumber: 1, Body: 'x' });
      expect(await codeOf(part(t.name(), UploadId))).toBe('NoSuchUpload');
      expect(await codeOf(part(t.name(), 'bm9uZQ'))).toBe('NoSuchUpload');
    },
  ],
  [
    'UploadPart: a wrong Content-MD5 leaves no part',
    async (t) => {
      const { Key, UploadId } = await begin(t);
      const part = t.s3.uploadPart({
        ...{ Bucket: t.Bucket, Key, UploadId, PartNumber: 1, Body: 'x' },
        ContentMD5: 'rL0Y20zC+Fzt72VPzMSk2A==',
      });
      expect(await codeOf(part)).toBe('BadDigest');
      const { Parts } = await t.s3.listParts({ Bucket: t.Bucket, Key, UploadId });
      expect(Parts).toBeUndefined();
    },
  ],
  [
    'AbortMultipartUpload: 204, and the upload is gone',
    async (t) => {
      const upload = await begin(t);
      const part = await upload.part(1, 'x');
      const { Key, UploadId } = upload;
      const abort = () => t.s3.abortMultipartUpload({ Bucket: t.Bucket, Key, UploadId });
      expect(await statusOf(abort())).toBe(204);
      expect(await codeOf(abort())).toBe('NoSuchUpload');
      expect(await upload.complete([part])).toBe('NoSuchUpload');
      expect(await codeOf(t.s3.listParts({ Bucket: t.Bucket, Key, UploadId }))).toBe(
        'NoSuchUpload',
      );
    },
  ],
  [
    'ListParts: in order, with sizes and ETags, in pages',
    async (t) => {
      const upload = await begin(t);
      for (const number of [3, 1, 2]) await upload.part(number, 'x'.repeat(number));
      const { Key, UploadId } = upload;
      const asked = { Bucket: t.Bucket, Key, UploadId, MaxParts: 2 };
      const first = await t.s3.listParts(asked);
      expect(first).toMatchObject({
        ...{ IsTruncated: true, MaxParts: 2, NextPartNumberMarker: '2' },
        Parts: [
          { PartNumber: 1, Size: 1 },
          { PartNumber: 2, Size: 2 },
        ],
      });
      const PartNumberMarker = first.NextPartNumberMarker as string;
      const second = await t.s3.listParts({ ...asked, PartNumberMarker });
      expect(second).toMatchObject({ IsTruncated: false, Parts: [{ PartNumber: 3, Size: 3 }] });
      expect(second.Parts?.[0]?.ETag).toMatch(/^"[^"]+"$/);
    },
  ],
  [
    'ListMultipartUploads: those under way, by key, in pages',
    async (t) => {
      for (const Key of ['list/b', 'list/a', 'list/c']) await begin(t, { Key });
      const seen: string[] = [];
      let markers: { KeyMarker?: string; UploadIdMarker?: string } | undefined = {};
      while (markers !== undefined) {
        const answer: ListMultipartUploadsCommandOutput = await t.s3.listMultipartUploads({
          ...{ Bucket: t.Bucket, Prefix: 'list/', MaxUploads: 1 },
          ...markers,
        });
        seen.push(...(answer.Uploads ?? []).map(({ Key }) => Key as string));
        markers =
          answer.IsTruncated === true
            ? {
                KeyMarker: answer.NextKeyMarker as string,
                UploadIdMarker: answer.NextUploadIdMarker as string,
              }
            : undefined;
      }
      expect(seen).toEqual(['list/a', 'list/b', 'list/c']);
    },
  ],
  [
    'ListMultipartUploads: several of one key are all told',
    async (t) => {
      const ids = [
        (await begin(t, { Key: 'same' })).UploadId,
        (await begin(t, { Key: 'same' })).UploadId,
      ];
      const { Uploads = [] } = await t.s3.listMultipartUploads({
        Bucket: t.Bucket,
        Prefix: 'same',
      });
      expect(Uploads.map(({ UploadId }) => UploadId).sort()).toEqual(ids.sort());
    },
  ],
  [
    'ListMultipartUploads: a delimiter rolls up, over pages too',
    async (t) => {
      for (const Key of ['up/a/1', 'up/a/2', 'up/b/1', 'up/c']) await begin(t, { Key });
      const asked = { Bucket: t.Bucket, Prefix: 'up/', Delimiter: '/' };
      const whole = await t.s3.listMultipartUploads(asked);
      expect(whole.CommonPrefixes).toEqual([{ Prefix: 'up/a/' }, { Prefix: 'up/b/' }]);
      expect(whole.Uploads?.map(({ Key }) => Key)).toEqual(['up/c']);
      const first = await t.s3.listMultipartUploads({ ...asked, MaxUploads: 1 });
      expect(first.CommonPrefixes).toEqual([{ Prefix: 'up/a/' }]);
      const second = await t.s3.listMultipartUploads({
        ...{ ...asked, MaxUploads: 1, KeyMarker: first.NextKeyMarker as string },
      });
      expect(second.CommonPrefixes).toEqual([{ Prefix: 'up/b/' }]);
    },
  ],
  [
    'ListMultipartUploads: names are encoded on demand',
    async (t) => {
      await begin(t, { Key: 'enc/a b&c' });
      const { Uploads, EncodingType } = await t.s3.listMultipartUploads({
        ...{ Bucket: t.Bucket, Prefix: 'enc/', EncodingType: 'url' },
      });
      expect(EncodingType).toBe('url');
      expect(Uploads?.[0]?.Key).toBe('enc/a+b%26c');
    },
  ],
  [
    'GetObject: parts by number, with their count',
    async (t) => {
      const upload = await begin(t);
      await upload.complete([await upload.part(1, FULL), await upload.part(2, 'second')]);
      const asked = { Bucket: t.Bucket, Key: upload.Key };
      const got = await t.s3.getObject({ ...asked, PartNumber: 2 });
      expect(got).toMatchObject({
        ...{ PartsCount: 2, ContentLength: 6 },
        ContentRange: `bytes ${FULL.length}-${FULL.length + 5}/${FULL.length + 6}`,
      });
      expect(await got.Body?.transformToString()).toBe('second');
      expect(await statusOf(t.s3.headObject({ ...asked, PartNumber: 1 }))).toBe(206);
      expect(await statusOf(t.s3.headObject({ ...asked, PartNumber: 3 }))).toBe(416);
      expect((await t.s3.headObject(asked)).PartsCount).toBeUndefined();
    },
  ],
  [
    'GetObjectAttributes: parts in pages',
    async (t) => {
      const upload = await begin(t, { ChecksumAlgorithm: 'SHA256' });
      const parts: CompletedPart[] = [];
      for (const [i, Body] of [FULL, FULL, Buffer.from('end')].entries())
        parts.push({
          ...(await t.s3.uploadPart({
            ...{ Bucket: t.Bucket, Key: upload.Key, UploadId: upload.UploadId },
            ...{ PartNumber: i + 1, Body, ChecksumAlgorithm: 'SHA256' },
          })),
          PartNumber: i + 1,
        });
      expect(
        await upload.complete(
          parts.map(({ PartNumber, ETag, ChecksumSHA256 }) => ({
            PartNumber,
            ETag,
            ChecksumSHA256,
          })),
        ),
      ).toBe('none');
      const asked = { Bucket: t.Bucket, Key: upload.Key, MaxParts: 2 };
      const first = await t.s3.getObjectAttributes({ ...asked, ObjectAttributes: ['ObjectParts'] });
      expect(first.ObjectParts).toMatchObject({ TotalPartsCount: 3, IsTruncated: true });
      expect(first.ObjectParts?.Parts?.map(({ Size }) => Size)).toEqual([5 * MiB, 5 * MiB]);
      const PartNumberMarker = first.ObjectParts?.NextPartNumberMarker as string;
      const second = await t.s3.getObjectAttributes({
        ...{ ...asked, PartNumberMarker, ObjectAttributes: ['ObjectParts'] },
      });
      expect(second.ObjectParts?.Parts).toMatchObject([{ PartNumber: 3, Size: 3 }]);
    },
  ],
  [
    'UploadPartCopy: a range of an object becomes a part',
    async (t) => {
      const source = t.name();
      await t.put(source, '0123456789');
      const { Key, UploadId, complete } = await begin(t);
      const { CopyPartResult } = await t.s3.uploadPartCopy({
        ...{ Bucket: t.Bucket, Key, UploadId, PartNumber: 1 },
        ...{ CopySource: `${t.Bucket}/${source}`, CopySourceRange: 'bytes=2-4' },
      });
      expect(await complete([{ PartNumber: 1, ETag: CopyPartResult?.ETag }])).toBe('none');
      expect((await t.bytes(Key)).toString()).toBe('234');
    },
  ],
  [
    'UploadPartCopy: a whole object becomes a part',
    async (t) => {
      const source = t.name();
      await t.put(source, FULL);
      const { Key, UploadId, complete, part } = await begin(t);
      const { CopyPartResult } = await t.s3.uploadPartCopy({
        ...{ Bucket: t.Bucket, Key, UploadId, PartNumber: 1, CopySource: `${t.Bucket}/${source}` },
      });
      const parts = [{ PartNumber: 1, ETag: CopyPartResult?.ETag }, await part(2, 'end')];
      expect(await complete(parts)).toBe('none');
      expect((await t.bytes(Key)).length).toBe(FULL.length + 3);
    },
  ],
  ...(
    [
      ['beyond the end', 'bytes=2-10'],
      ['without an end', 'bytes=2-'],
      ['backwards', 'bytes=4-2'],
      ['of another unit', 'bits=1-2'],
    ] as const
  ).map(
    ([what, CopySourceRange]): Case => [
      `UploadPartCopy: a range ${what} is invalid`,
      async (t) => {
        const source = t.name();
        await t.put(source, '0123456789');
        const { Key, UploadId } = await begin(t);
        const copy = t.s3.uploadPartCopy({
          ...{ Bucket: t.Bucket, Key, UploadId, PartNumber: 1 },
          ...{ CopySource: `${t.Bucket}/${source}`, CopySourceRange },
        });
        expect(await codeOf(copy)).toMatch(/^(InvalidArgument|InvalidRange)$/);
      },
    ],
  ),
  [
    'UploadPartCopy: conditions on the source hold',
    async (t) => {
      const source = t.name();
      const etag = await t.put(source, 'x');
      const { Key, UploadId } = await begin(t);
      const copy = (CopySourceIfMatch: string) =>
        t.s3.uploadPartCopy({
          ...{ Bucket: t.Bucket, Key, UploadId, PartNumber: 1 },
          ...{ CopySource: `${t.Bucket}/${source}`, CopySourceIfMatch },
        });
      expect(await codeOf(copy('"another"'))).toBe('PreconditionFailed');
      expect(await codeOf(copy(etag))).toBe('none');
    },
  ],
  [
    'CreateMultipartUpload: into no bucket',
    async (t) =>
      expect(await codeOf(t.s3.createMultipartUpload({ Bucket: `${t.Bucket}-no`, Key: 'a' }))).toBe(
        'NoSuchBucket',
      ),
  ],
];

export const multipart: Group = { title: 'multipart uploads', cases: CASES };
