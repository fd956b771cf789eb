/** Additional checksums, in headers and trailers, of objects and of parts. */
import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { ChecksumAlgorithm } from '@aws-sdk/client-s3';
import { Crc64Nvme } from '@aws-sdk/crc64-nvme';
import { crc32, crc32c } from '@node-rs/crc32';
import { expect } from 'vitest';
import { type Case, codeOf, type Group } from './suite.ts';

const ALGORITHMS = ['CRC32', 'CRC32C', 'CRC64NVME', 'SHA1', 'SHA256', 'SHA512', 'MD5'] as const;
type Algorithm = (typeof ALGORITHMS)[number];
const BODY = Buffer.from('the body of the object');
const MiB = 1024 * 1024;

async function valueOf(algorithm: Algorithm, bytes: Buffer): Promise<string> {
  if (algorithm.startsWith('SHA') || algorithm === 'MD5')
    return createHash(algorithm.toLowerCase()).update(bytes).digest('base64');
  if (algorithm === 'CRC64NVME') {
    const crc = new Crc64Nvme();
    crc.update(bytes);
    return Buffer.from(await crc.digest()).toString('base64');
  }
  const value = Buffer.alloc(4);
  value.writeUInt32BE(algorithm === 'CRC32' ? crc32(bytes) : crc32c(bytes));
  return value.toString('base64');
}

const headerOf = (algorithm: Algorithm): string => `x-amz-checksum-${algorithm.toLowerCase()}`;

const CASES: readonly Case[] = [
  ...ALGORITHMS.flatMap((algorithm): Case[] => [
    [
      `PutObject: a right ${algorithm} is kept, and told when it is asked for`,
      async (t) => {
        const path = `/${t.name()}`;
        const value = await valueOf(algorithm, BODY);
        const headers = { [headerOf(algorithm)]: value };
        const put = await t.raw({ method: 'PUT', path, body: BODY, headers });
        expect(put.status).toBe(200);
        expect(put.headers[headerOf(algorithm)]).toBe(value);
        const asked = await t.raw({
          ...{ method: 'HEAD', path, headers: { 'x-amz-checksum-mode': 'ENABLED' } },
        });
        expect(asked.headers).toMatchObject({
          [headerOf(algorithm)]: value,
          'x-amz-checksum-type': 'FULL_OBJECT',
        });
        const silent = await t.raw({ method: 'HEAD', path });
        expect(silent.headers[headerOf(algorithm)]).toBeUndefined();
      },
    ],
    [
      `PutObject: a wrong ${algorithm} leaves nothing`,
      async (t) => {
        const path = `/${t.name()}`;
        const headers = { [headerOf(algorithm)]: await valueOf(algorithm, Buffer.from('another')) };
        const put = await t.raw({ method: 'PUT', path, body: BODY, headers });
        expect(put).toMatchObject({ status: 400, code: 'BadDigest' });
        expect((await t.raw({ method: 'GET', path })).code).toBe('NoSuchKey');
      },
    ],
    [
      `PutObject: a ${algorithm} that is none is invalid`,
      async (t) => {
        const headers = { [headerOf(algorithm)]: 'bm9uZQ==bm9uZQ==' };
        const put = await t.raw({ method: 'PUT', path: `/${t.name()}`, body: BODY, headers });
        expect(put.code).toBe('InvalidRequest');
      },
    ],
    [
      `GetObjectAttributes: the ${algorithm} of an object`,
      async (t) => {
        const Key = t.name();
        const value = await valueOf(algorithm, BODY);
        const headers = { [headerOf(algorithm)]: value };
        await t.raw({ method: 'PUT', path: `/${Key}`, body: BODY, headers });
        const { Checksum } = await t.s3.getObjectAttributes({
          ...{ Bucket: t.Bucket, Key, ObjectAttributes: ['Checksum'] },
        });
        expect(Checksum).toMatchObject({ [`Checksum${algorithm}`]: value });
      },
    ],
  ]),
  ...(['CRC32', 'SHA1', 'SHA256'] as const).map(
    (ChecksumAlgorithm): Case => [
      `PutObject: ${ChecksumAlgorithm} in the trailer of a stream`,
      async ({ s3, Bucket, name, bytes }) => {
        const Key = name();
        const Body = Readable.from([BODY.subarray(0, 5), BODY.subarray(5)]);
        const put = await s3.putObject({
          ...{ Bucket, Key, Body, ContentLength: BODY.length, ChecksumAlgorithm },
        });
        expect(put[`Checksum${ChecksumAlgorithm}`]).toBe(await valueOf(ChecksumAlgorithm, BODY));
        expect((await bytes(Key)).equals(BODY)).toBe(true);
      },
    ],
  ),
  [
    'PutObject: a wrong checksum in the trailer leaves nothing',
    async (t) => {
      const path = `/${t.name()}`;
      const body = `5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n`;
      const put = await t.raw({
        ...{ method: 'PUT', path, body },
        headers: {
          'x-amz-content-sha256': 'STREAMING-UNSIGNED-PAYLOAD-TRAILER',
          'x-amz-decoded-content-length': '5',
          'x-amz-trailer': 'x-amz-checksum-crc32',
          'content-encoding': 'aws-chunked',
        },
      });
      expect(put).toMatchObject({ status: 400, code: 'BadDigest' });
      expect((await t.raw({ method: 'GET', path })).code).toBe('NoSuchKey');
    },
  ],
  [
    'PutObject: two checksums are one too many',
    async (t) => {
      const put = await t.raw({
        ...{ method: 'PUT', path: `/${t.name()}`, body: BODY },
        headers: {
          [headerOf('CRC32')]: await valueOf('CRC32', BODY),
          [headerOf('SHA1')]: await valueOf('SHA1', BODY),
        },
      });
      expect(put.code).toBe('InvalidRequest');
    },
  ],
  [
    'PutObject: an algorithm that S3 has not is invalid',
    async ({ s3, Bucket, name }) => {
      const put = s3.putObject({
        ...{ Bucket, Key: name(), Body: 'x', ChecksumCRC32: await valueOf('CRC32', BODY) },
        ChecksumAlgorithm: 'MD4' as ChecksumAlgorithm,
      });
      expect(await codeOf(put)).not.toBe('none');
    },
  ],
  [
    'CopyObject: the checksum of the object travels',
    async (t) => {
      const [from, to] = [t.name(), t.name()];
      const value = await valueOf('SHA256', BODY);
      const headers = { [headerOf('SHA256')]: value };
      await t.raw({ method: 'PUT', path: `/${from}`, body: BODY, headers });
      await t.s3.copyObject({ Bucket: t.Bucket, Key: to, CopySource: `${t.Bucket}/${from}` });
      const head = await t.s3.headObject({ Bucket: t.Bucket, Key: to, ChecksumMode: 'ENABLED' });
      expect(head.ChecksumSHA256).toBe(value);
    },
  ],
  [
    'CopyObject: a checksum of another algorithm is computed when it is asked for',
    async (t) => {
      const [from, to] = [t.name(), t.name()];
      await t.put(from, BODY);
      const copy = await t.s3.copyObject({
        ...{ Bucket: t.Bucket, Key: to, CopySource: `${t.Bucket}/${from}` },
        ChecksumAlgorithm: 'SHA256',
      });
      const value = await valueOf('SHA256', BODY);
      expect(copy.CopyObjectResult?.ChecksumSHA256).toBe(value);
      const head = await t.s3.headObject({ Bucket: t.Bucket, Key: to, ChecksumMode: 'ENABLED' });
      expect(head.ChecksumSHA256).toBe(value);
    },
  ],
  [
    'CompleteMultipartUpload: another type of checksum than the upload was begun with',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      const { UploadId } = await s3.createMultipartUpload({
        ...{ Bucket, Key, ChecksumAlgorithm: 'CRC32', ChecksumType: 'FULL_OBJECT' },
      });
      const ChecksumCRC32 = await valueOf('CRC32', BODY);
      const { ETag } = await s3.uploadPart({
        ...{ Bucket, Key, UploadId, PartNumber: 1, Body: BODY, ChecksumCRC32 },
      });
      const complete = s3.completeMultipartUpload({
        ...{ Bucket, Key, UploadId, ChecksumType: 'COMPOSITE' },
        MultipartUpload: { Parts: [{ PartNumber: 1, ETag, ChecksumCRC32 }] },
      });
      expect(await codeOf(complete)).toBe('InvalidRequest');
    },
  ],
  ...(
    [
      ['CRC32', undefined, 'COMPOSITE'],
      ['SHA256', undefined, 'COMPOSITE'],
      ['SHA1', 'COMPOSITE', 'COMPOSITE'],
      ['CRC64NVME', undefined, 'FULL_OBJECT'],
      ['CRC32C', 'FULL_OBJECT', 'FULL_OBJECT'],
    ] as const
  ).map(
    ([algorithm, asked, ChecksumType]): Case => [
      `CompleteMultipartUpload: ${algorithm}${asked === undefined ? '' : ` as ${asked}`} is ${ChecksumType}`,
      async ({ s3, Bucket, name }) => {
        const Key = name();
        const bodies = [Buffer.alloc(5 * MiB, 'a'), BODY];
        const { UploadId } = await s3.createMultipartUpload({
          ...{ Bucket, Key, ChecksumAlgorithm: algorithm, ChecksumType: asked },
        });
        const Parts = [];
        for (const [i, Body] of bodies.entries()) {
          const value = await valueOf(algorithm, Body);
          const PartNumber = i + 1;
          const { ETag } = await s3.uploadPart({
            ...{ Bucket, Key, UploadId, PartNumber, Body, [`Checksum${algorithm}`]: value },
          });
          Parts.push({ ETag, PartNumber, [`Checksum${algorithm}`]: value });
        }
        const done = await s3.completeMultipartUpload({
          ...{ Bucket, Key, UploadId, MultipartUpload: { Parts }, ChecksumType: asked },
        });
        const each = await Promise.all(
          bodies.map(async (body) => Buffer.from(await valueOf(algorithm, body), 'base64')),
        );
        const expected =
          ChecksumType === 'COMPOSITE'
            ? `${await valueOf(algorithm, Buffer.concat(each))}-2`
            : await valueOf(algorithm, Buffer.concat(bodies));
        expect(done[`Checksum${algorithm}`]).toBe(expected);
        const head = await s3.headObject({ Bucket, Key, ChecksumMode: 'ENABLED' });
        expect(head).toMatchObject({ ChecksumType, [`Checksum${algorithm}`]: expected });
      },
    ],
  ),
  [
    'CreateMultipartUpload: SHA256 of the whole cannot be had from parts',
    async ({ s3, Bucket, name }) => {
      const begin = s3.createMultipartUpload({
        ...{ Bucket, Key: name(), ChecksumAlgorithm: 'SHA256', ChecksumType: 'FULL_OBJECT' },
      });
      expect(await codeOf(begin)).toBe('InvalidRequest');
    },
  ],
  [
    'CreateMultipartUpload: CRC64NVME of parts is none',
    async ({ s3, Bucket, name }) => {
      const begin = s3.createMultipartUpload({
        ...{ Bucket, Key: name(), ChecksumAlgorithm: 'CRC64NVME', ChecksumType: 'COMPOSITE' },
      });
      expect(await codeOf(begin)).toBe('InvalidRequest');
    },
  ],
  [
    'UploadPart: a checksum of another algorithm than the upload was begun with',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      const { UploadId } = await s3.createMultipartUpload({
        ...{ Bucket, Key, ChecksumAlgorithm: 'SHA256' },
      });
      const part = s3.uploadPart({
        ...{ Bucket, Key, UploadId, PartNumber: 1, Body: BODY },
        ChecksumCRC32: await valueOf('CRC32', BODY),
      });
      expect(await codeOf(part)).toBe('InvalidRequest');
    },
  ],
  [
    'CompleteMultipartUpload: a wrong checksum of the whole leaves the upload',
    async ({ s3, Bucket, name }) => {
      const Key = name();
      const { UploadId } = await s3.createMultipartUpload({
        ...{ Bucket, Key, ChecksumAlgorithm: 'CRC32', ChecksumType: 'FULL_OBJECT' },
      });
      const value = await valueOf('CRC32', BODY);
      const { ETag } = await s3.uploadPart({
        ...{ Bucket, Key, UploadId, PartNumber: 1, Body: BODY, ChecksumCRC32: value },
      });
      const complete = async (ChecksumCRC32: string) =>
        await codeOf(
          s3.completeMultipartUpload({
            ...{ Bucket, Key, UploadId, ChecksumCRC32, ChecksumType: 'FULL_OBJECT' },
            MultipartUpload: { Parts: [{ PartNumber: 1, ETag, ChecksumCRC32: value }] },
          }),
        );
      expect(await complete(await valueOf('CRC32', Buffer.from('another')))).toBe('BadDigest');
      expect(await complete(value)).toBe('none');
    },
  ],
];

export const checksums: Group = { title: 'checksums', cases: CASES };
