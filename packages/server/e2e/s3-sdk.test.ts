/** The AWS SDK for JavaScript, as it comes, against a real node with access keys. */
import { createHash, randomBytes } from 'node:crypto';
import { Agent } from 'node:http';
import { Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  DeleteBucketCommand,
  DeleteBucketCorsCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  GetBucketCorsCommand,
  GetBucketLocationCommand,
  GetObjectAttributesCommand,
  GetObjectCommand,
  GetObjectTaggingCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListBucketsCommand,
  ListMultipartUploadsCommand,
  ListObjectsCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  PutBucketCorsCommand,
  PutObjectCommand,
  PutObjectTaggingCommand,
  S3Client,
  type S3ClientConfig,
  UploadPartCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { codeOf } from './s3-conformance/suite.ts';

const KEY = { accessKeyId: 'EBBTESTKEY', secretAccessKey: 'a secret of the test' };
const MiB = 1024 * 1024;
let node: NodeProcess;
let s3: S3Client;

function connect(more: S3ClientConfig = {}): S3Client {
  return new S3Client({
    endpoint: node.s3Url,
    region: 'us-east-1',
    forcePathStyle: true,
    credentials: KEY,
    ...more,
  });
}

beforeAll(async () => {
  node = await startNodeProcess({
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
  s3 = connect();
  await s3.send(new CreateBucketCommand({ Bucket: 'sdk' }));
});
afterAll(async () => {
  s3.destroy();
  await node[Symbol.asyncDispose]();
});

async function bytesOf(
  Key: string,
  more: { Range?: string; PartNumber?: number } = {},
): Promise<Buffer> {
  const { Body } = await s3.send(new GetObjectCommand({ Bucket: 'sdk', Key, ...more }));
  return Buffer.from(await (Body as NonNullable<typeof Body>).transformToByteArray());
}

describe('buckets', () => {
  test('are created, found, located, listed and deleted', async () => {
    await s3.send(new CreateBucketCommand({ Bucket: 'another' }));
    expect(await codeOf(s3.send(new CreateBucketCommand({ Bucket: 'another' })))).toBe(
      'BucketAlreadyOwnedByYou',
    );
    await s3.send(new HeadBucketCommand({ Bucket: 'another' }));
    const { Buckets = [] } = await s3.send(new ListBucketsCommand({}));
    expect(Buckets.map(({ Name }) => Name)).toEqual(expect.arrayContaining(['another', 'sdk']));
    const location = await s3.send(new GetBucketLocationCommand({ Bucket: 'another' }));
    expect(location.LocationConstraint).toBeUndefined();
    await s3.send(new PutObjectCommand({ Bucket: 'another', Key: 'a', Body: 'x' }));
    expect(await codeOf(s3.send(new DeleteBucketCommand({ Bucket: 'another' })))).toBe(
      'BucketNotEmpty',
    );
    await s3.send(new DeleteObjectCommand({ Bucket: 'another', Key: 'a' }));
    await s3.send(new DeleteBucketCommand({ Bucket: 'another' }));
    expect(await codeOf(s3.send(new HeadBucketCommand({ Bucket: 'another' })))).toBe('NotFound');
    expect(await codeOf(s3.send(new GetObjectCommand({ Bucket: 'another', Key: 'a' })))).toBe(
      'NoSuchBucket',
    );
    expect(await codeOf(s3.send(new CreateBucketCommand({ Bucket: 'Bad_Name' })))).toBe(
      'InvalidBucketName',
    );
  });
});

describe('objects', () => {
  test.each([0, 1, 1000, 64 * 1024, 64 * 1024 + 1, 3 * MiB + 7])(
    'of %i bytes come back as they went',
    async (size) => {
      const body = randomBytes(size);
      const put = await s3.send(
        new PutObjectCommand({ Bucket: 'sdk', Key: `size/${size}`, Body: body }),
      );
      expect(put.ChecksumCRC32).toBeDefined(); // the SDK's default
      expect((await bytesOf(`size/${size}`)).equals(body)).toBe(true);
    },
  );

  test('properties travel: type, metadata, headers, tags, storage class', async () => {
    await s3.send(
      new PutObjectCommand({
        Bucket: 'sdk',
        Key: 'props/ü +%.txt',
        Body: 'text',
        ContentType: 'text/plain; charset=utf-8',
        CacheControl: 'max-age=60',
        ContentDisposition: 'attachment; filename="a b.txt"',
        ContentEncoding: 'identity',
        ContentLanguage: 'de',
        Metadata: { one: '1', two: 'zwei' },
        Tagging: 'a=1&b=zwei%20drei',
        StorageClass: 'STANDARD_IA',
      }),
    );
    const head = await s3.send(
      new HeadObjectCommand({ Bucket: 'sdk', Key: 'props/ü +%.txt', ChecksumMode: 'ENABLED' }),
    );
    expect(head).toMatchObject({
      ContentType: 'text/plain; charset=utf-8',
      CacheControl: 'max-age=60',
      ContentDisposition: 'attachment; filename="a b.txt"',
      ContentEncoding: 'identity',
      ContentLanguage: 'de',
      Metadata: { one: '1', two: 'zwei' },
      StorageClass: 'STANDARD_IA',
      ContentLength: 4,
      ChecksumType: 'FULL_OBJECT',
      TagCount: 2,
    });
    const tags = await s3.send(
      new GetObjectTaggingCommand({ Bucket: 'sdk', Key: 'props/ü +%.txt' }),
    );
    expect(tags.TagSet).toEqual([
      { Key: 'a', Value: '1' },
      { Key: 'b', Value: 'zwei drei' },
    ]);
    await s3.send(
      new PutObjectTaggingCommand({
        Bucket: 'sdk',
        Key: 'props/ü +%.txt',
        Tagging: { TagSet: [{ Key: 'c', Value: '<&>' }] },
      }),
    );
    expect(
      (await s3.send(new GetObjectTaggingCommand({ Bucket: 'sdk', Key: 'props/ü +%.txt' }))).TagSet,
    ).toEqual([{ Key: 'c', Value: '<&>' }]);
    expect(
      (await s3.send(new HeadObjectCommand({ Bucket: 'sdk', Key: 'props/ü +%.txt' }))).ETag,
    ).toBe(head.ETag);
  });

  test('ranges, and overrides of headers', async () => {
    await s3.send(new PutObjectCommand({ Bucket: 'sdk', Key: 'range', Body: '0123456789' }));
    expect((await bytesOf('range', { Range: 'bytes=2-4' })).toString()).toBe('234');
    expect((await bytesOf('range', { Range: 'bytes=-3' })).toString()).toBe('789');
    expect((await bytesOf('range', { Range: 'bytes=7-' })).toString()).toBe('789');
    expect(await codeOf(bytesOf('range', { Range: 'bytes=10-' }))).toBe('InvalidRange');
    const typed = await s3.send(
      new GetObjectCommand({ Bucket: 'sdk', Key: 'range', ResponseContentType: 'x/y' }),
    );
    expect(typed.ContentType).toBe('x/y');
  });

  test('conditions guard reads, writes and deletes', async () => {
    const first = await s3.send(
      new PutObjectCommand({ Bucket: 'sdk', Key: 'cond', Body: '1', IfNoneMatch: '*' }),
    );
    expect(
      await codeOf(
        s3.send(new PutObjectCommand({ Bucket: 'sdk', Key: 'cond', Body: '2', IfNoneMatch: '*' })),
      ),
    ).toBe('PreconditionFailed');
    expect(
      await codeOf(
        s3.send(
          new PutObjectCommand({ Bucket: 'sdk', Key: 'none', Body: '2', IfMatch: first.ETag }),
        ),
      ),
    ).toBe('NoSuchKey');
    const second = await s3.send(
      new PutObjectCommand({ Bucket: 'sdk', Key: 'cond', Body: '2', IfMatch: first.ETag }),
    );
    expect(
      await codeOf(
        s3.send(
          new PutObjectCommand({ Bucket: 'sdk', Key: 'cond', Body: '3', IfMatch: first.ETag }),
        ),
      ),
    ).toBe('PreconditionFailed');
    expect(
      await codeOf(
        s3.send(new GetObjectCommand({ Bucket: 'sdk', Key: 'cond', IfMatch: first.ETag })),
      ),
    ).toBe('PreconditionFailed');
    const unchanged = new GetObjectCommand({
      Bucket: 'sdk',
      Key: 'cond',
      IfNoneMatch: second.ETag,
    });
    await expect(s3.send(unchanged)).rejects.toMatchObject({ $metadata: { httpStatusCode: 304 } });
    expect((await bytesOf('cond')).toString()).toBe('2');
  });

  test('streams of known and unknown length, the latter by parts', async () => {
    const body = randomBytes(6 * MiB);
    const pieces = function* (): Generator<Buffer> {
      for (let at = 0; at < body.length; at += 100_000) yield body.subarray(at, at + 100_000);
    };
    await s3.send(
      new PutObjectCommand({
        Bucket: 'sdk',
        Key: 'stream',
        Body: Readable.from(pieces()),
        ContentLength: body.length,
      }),
    );
    expect((await bytesOf('stream')).equals(body)).toBe(true);
    await new Upload({
      client: s3,
      params: { Bucket: 'sdk', Key: 'upload', Body: Readable.from(pieces()) },
    }).done();
    expect((await bytesOf('upload')).equals(body)).toBe(true);
  });

  test('a copy is another object with the same bytes', async () => {
    const body = randomBytes(100_000);
    await s3.send(
      new PutObjectCommand({
        Bucket: 'sdk',
        Key: 'from/ä b',
        Body: body,
        Metadata: { a: '1' },
        ContentType: 'a/b',
      }),
    );
    await s3.send(
      new CopyObjectCommand({
        Bucket: 'sdk',
        Key: 'to',
        CopySource: `sdk/${encodeURIComponent('from/ä b')}`,
      }),
    );
    expect((await bytesOf('to')).equals(body)).toBe(true);
    expect(await s3.send(new HeadObjectCommand({ Bucket: 'sdk', Key: 'to' }))).toMatchObject({
      Metadata: { a: '1' },
      ContentType: 'a/b',
    });
    await s3.send(
      new CopyObjectCommand({
        Bucket: 'sdk',
        Key: 'to',
        CopySource: 'sdk/to',
        MetadataDirective: 'REPLACE',
        Metadata: { b: '2' },
        ContentType: 'c/d',
      }),
    );
    expect(await s3.send(new HeadObjectCommand({ Bucket: 'sdk', Key: 'to' }))).toMatchObject({
      Metadata: { b: '2' },
      ContentType: 'c/d',
    });
    expect(
      await codeOf(
        s3.send(new CopyObjectCommand({ Bucket: 'sdk', Key: 'to', CopySource: 'sdk/to' })),
      ),
    ).toBe('InvalidRequest');
    expect(
      await codeOf(
        s3.send(new CopyObjectCommand({ Bucket: 'sdk', Key: 'to', CopySource: 'sdk/none' })),
      ),
    ).toBe('NoSuchKey');
    await s3.send(new DeleteObjectCommand({ Bucket: 'sdk', Key: 'from/ä b' }));
    expect((await bytesOf('to')).equals(body)).toBe(true);
  });

  test('delete takes many at once, and what is not there', async () => {
    for (const Key of ['del/a', 'del/b & <c>'])
      await s3.send(new PutObjectCommand({ Bucket: 'sdk', Key, Body: 'x' }));
    const Objects = ['del/a', 'del/b & <c>', 'del/none'].map((Key) => ({ Key }));
    const { Deleted = [], Errors = [] } = await s3.send(
      new DeleteObjectsCommand({ Bucket: 'sdk', Delete: { Objects } }),
    );
    expect(Deleted.map(({ Key }) => Key)).toEqual(['del/a', 'del/b & <c>', 'del/none']);
    expect(Errors).toEqual([]);
    expect(await codeOf(s3.send(new HeadObjectCommand({ Bucket: 'sdk', Key: 'del/a' })))).toBe(
      'NotFound',
    );
    await s3.send(new DeleteObjectCommand({ Bucket: 'sdk', Key: 'del/none' }));
  });
});

describe('lists', () => {
  const keys = ['l/a', 'l/b/1', 'l/b/2', 'l/c', 'l/d/1', 'l/é & ü', 'l/z'];
  beforeAll(async () => {
    for (const Key of keys) await s3.send(new PutObjectCommand({ Bucket: 'sdk', Key, Body: Key }));
  });

  test.each([1, 2, 3, 1000])('version 2 pages of %i', async (MaxKeys) => {
    const seen: string[] = [];
    let ContinuationToken: string | undefined;
    do {
      const page = await s3.send(
        new ListObjectsV2Command({
          Bucket: 'sdk',
          Prefix: 'l/',
          Delimiter: '/',
          MaxKeys,
          ContinuationToken,
          EncodingType: 'url',
        }),
      );
      for (const { Key } of page.Contents ?? [])
        seen.push(decodeURIComponent((Key as string).replaceAll('+', ' ')));
      for (const { Prefix } of page.CommonPrefixes ?? []) seen.push(Prefix as string);
      expect(page.KeyCount).toBeLessThanOrEqual(MaxKeys);
      ContinuationToken = page.NextContinuationToken;
      expect(page.IsTruncated).toBe(ContinuationToken !== undefined);
    } while (ContinuationToken !== undefined);
    expect(seen.sort()).toEqual(['l/a', 'l/b/', 'l/c', 'l/d/', 'l/z', 'l/é & ü'].sort());
  });

  test('version 1 goes on from its marker', async () => {
    const seen: string[] = [];
    let Marker: string | undefined;
    do {
      const page = await s3.send(
        new ListObjectsCommand({ Bucket: 'sdk', Prefix: 'l/', MaxKeys: 2, Marker }),
      );
      for (const { Key } of page.Contents ?? []) seen.push(Key as string);
      Marker = page.IsTruncated === true ? (page.NextMarker ?? seen.at(-1)) : undefined;
    } while (Marker !== undefined);
    expect(seen.sort()).toEqual([...keys].sort());
  });

  test('start-after, sizes and tags of versions', async () => {
    const page = await s3.send(
      new ListObjectsV2Command({ Bucket: 'sdk', Prefix: 'l/', StartAfter: 'l/c' }),
    );
    expect(page.Contents?.[0]).toMatchObject({ Key: 'l/d/1', Size: 5, StorageClass: 'STANDARD' });
  });
});

describe('multipart uploads', () => {
  async function begin(
    Key: string,
    more: { ChecksumAlgorithm?: 'CRC32' | 'SHA256' | 'CRC64NVME' } = {},
  ): Promise<string> {
    const { UploadId } = await s3.send(
      new CreateMultipartUploadCommand({ Bucket: 'sdk', Key, Metadata: { m: '1' }, ...more }),
    );
    return UploadId as string;
  }

  test('parts in any order become one object, and are read by number', async () => {
    const Key = 'mp/three';
    const UploadId = await begin(Key);
    const bodies = [randomBytes(5 * MiB), randomBytes(5 * MiB + 3), randomBytes(10)];
    const etags: string[] = [];
    for (const number of [3, 1, 2]) {
      const Body = bodies[number - 1] as Buffer;
      const { ETag } = await s3.send(
        new UploadPartCommand({ Bucket: 'sdk', Key, UploadId, PartNumber: number, Body }),
      );
      etags[number - 1] = ETag as string;
    }
    const { Parts = [] } = await s3.send(new ListPartsCommand({ Bucket: 'sdk', Key, UploadId }));
    expect(Parts.map(({ PartNumber, Size }) => [PartNumber, Size])).toEqual(
      bodies.map((body, i) => [i + 1, body.length]),
    );
    const { Uploads = [] } = await s3.send(
      new ListMultipartUploadsCommand({ Bucket: 'sdk', Prefix: 'mp/' }),
    );
    expect(Uploads.map((upload) => upload.UploadId)).toContain(UploadId);
    const complete = new CompleteMultipartUploadCommand({
      Bucket: 'sdk',
      Key,
      UploadId,
      MultipartUpload: { Parts: etags.map((ETag, i) => ({ ETag, PartNumber: i + 1 })) },
    });
    const done = await s3.send(complete);
    expect(done.ETag).toMatch(/^"[0-9a-f]+-3"$/);
    expect((await bytesOf(Key)).equals(Buffer.concat(bodies))).toBe(true);
    expect((await bytesOf(Key, { PartNumber: 2 })).equals(bodies[1] as Buffer)).toBe(true);
    const head = await s3.send(new HeadObjectCommand({ Bucket: 'sdk', Key, PartNumber: 1 }));
    expect(head).toMatchObject({ PartsCount: 3, ContentLength: 5 * MiB, Metadata: { m: '1' } });
    const attributes = await s3.send(
      new GetObjectAttributesCommand({
        Bucket: 'sdk',
        Key,
        ObjectAttributes: ['ETag', 'ObjectParts', 'ObjectSize', 'StorageClass'],
        MaxParts: 2,
      }),
    );
    expect(attributes).toMatchObject({
      ETag: done.ETag?.replaceAll('"', ''),
      ObjectSize: 10 * MiB + 13,
      StorageClass: 'STANDARD',
      ObjectParts: { TotalPartsCount: 3, IsTruncated: true, NextPartNumberMarker: '2' },
    });
    expect(attributes.ObjectParts?.Parts?.map(({ Size }) => Size)).toEqual([5 * MiB, 5 * MiB + 3]);
    // An answer that was lost: asked again, it is the same.
    expect((await s3.send(complete)).ETag).toBe(done.ETag);
    expect(await codeOf(s3.send(new ListPartsCommand({ Bucket: 'sdk', Key, UploadId })))).toBe(
      'NoSuchUpload',
    );
  });

  test.each(['CRC32', 'SHA256', 'CRC64NVME'] as const)(
    '%s of the whole follows from the parts',
    async (ChecksumAlgorithm) => {
      const Key = `mp/${ChecksumAlgorithm}`;
      const UploadId = await begin(Key, { ChecksumAlgorithm });
      const bodies = [randomBytes(5 * MiB), randomBytes(77)];
      const Parts = [];
      for (const [i, Body] of bodies.entries()) {
        const part = await s3.send(
          new UploadPartCommand({
            Bucket: 'sdk',
            Key,
            UploadId,
            PartNumber: i + 1,
            Body,
            ChecksumAlgorithm,
          }),
        );
        Parts.push({ ...part, PartNumber: i + 1 });
      }
      const done = await s3.send(
        new CompleteMultipartUploadCommand({
          Bucket: 'sdk',
          Key,
          UploadId,
          MultipartUpload: { Parts },
        }),
      );
      expect(done.ChecksumType).toBe(
        ChecksumAlgorithm === 'CRC64NVME' ? 'FULL_OBJECT' : 'COMPOSITE',
      );
      if (ChecksumAlgorithm === 'SHA256') {
        const each = bodies.map((body) => createHash('sha256').update(body).digest());
        expect(done.ChecksumSHA256).toBe(
          `${createHash('sha256').update(Buffer.concat(each)).digest('base64')}-2`,
        );
      }
      expect((await bytesOf(Key)).equals(Buffer.concat(bodies))).toBe(true);
    },
  );

  test('parts are copied from ranges of objects, without moving bytes', async () => {
    const source = randomBytes(6 * MiB);
    await s3.send(new PutObjectCommand({ Bucket: 'sdk', Key: 'mp/source', Body: source }));
    const Key = 'mp/copied';
    const UploadId = await begin(Key);
    const ranges = [
      [0, 5 * MiB - 1],
      [100, 199],
    ] as const;
    const Parts = [];
    for (const [i, [first, last]] of ranges.entries()) {
      const { CopyPartResult } = await s3.send(
        new UploadPartCopyCommand({
          Bucket: 'sdk',
          Key,
          UploadId,
          PartNumber: i + 1,
          CopySource: 'sdk/mp/source',
          CopySourceRange: `bytes=${first}-${last}`,
        }),
      );
      Parts.push({ ETag: CopyPartResult?.ETag, PartNumber: i + 1 });
    }
    await s3.send(
      new CompleteMultipartUploadCommand({
        Bucket: 'sdk',
        Key,
        UploadId,
        MultipartUpload: { Parts },
      }),
    );
    const expected = Buffer.concat(ranges.map(([first, last]) => source.subarray(first, last + 1)));
    expect((await bytesOf(Key)).equals(expected)).toBe(true);
  });

  test('what does not fit together is refused, and an abort leaves nothing', async () => {
    const Key = 'mp/bad';
    const UploadId = await begin(Key);
    const small = await s3.send(
      new UploadPartCommand({ Bucket: 'sdk', Key, UploadId, PartNumber: 1, Body: 'small' }),
    );
    const last = await s3.send(
      new UploadPartCommand({ Bucket: 'sdk', Key, UploadId, PartNumber: 2, Body: 'last' }),
    );
    const complete = (Parts: { ETag: string | undefined; PartNumber: number }[]): Promise<string> =>
      codeOf(
        s3.send(
          new CompleteMultipartUploadCommand({
            Bucket: 'sdk',
            Key,
            UploadId,
            MultipartUpload: { Parts },
          }),
        ),
      );
    expect(
      await complete([
        { ETag: small.ETag, PartNumber: 1 },
        { ETag: last.ETag, PartNumber: 2 },
      ]),
    ).toBe('EntityTooSmall');
    expect(
      await complete([
        { ETag: last.ETag, PartNumber: 2 },
        { ETag: small.ETag, PartNumber: 1 },
      ]),
    ).toBe('InvalidPartOrder');
    expect(await complete([{ ETag: '"none"', PartNumber: 1 }])).toBe('InvalidPart');
    expect(await complete([{ ETag: small.ETag, PartNumber: 7 }])).toBe('InvalidPart');
    await s3.send(new AbortMultipartUploadCommand({ Bucket: 'sdk', Key, UploadId }));
    expect(await codeOf(s3.send(new ListPartsCommand({ Bucket: 'sdk', Key, UploadId })))).toBe(
      'NoSuchUpload',
    );
    expect(await codeOf(s3.send(new HeadObjectCommand({ Bucket: 'sdk', Key })))).toBe('NotFound');
    expect(
      (await s3.send(new ListBucketsCommand({}))).Buckets?.map(({ Name }) => Name),
    ).not.toContain('sdk!uploads');
  });

  test('an upload goes on after the node was killed', async () => {
    const Key = 'mp/killed';
    const UploadId = await begin(Key);
    const first = randomBytes(5 * MiB);
    const part = await s3.send(
      new UploadPartCommand({ Bucket: 'sdk', Key, UploadId, PartNumber: 1, Body: first }),
    );
    await node.kill();
    await node.start();
    const second = await s3.send(
      new UploadPartCommand({ Bucket: 'sdk', Key, UploadId, PartNumber: 2, Body: 'end' }),
    );
    const Parts = [
      { ETag: part.ETag, PartNumber: 1 },
      { ETag: second.ETag, PartNumber: 2 },
    ];
    await s3.send(
      new CompleteMultipartUploadCommand({
        Bucket: 'sdk',
        Key,
        UploadId,
        MultipartUpload: { Parts },
      }),
    );
    expect((await bytesOf(Key)).equals(Buffer.concat([first, Buffer.from('end')]))).toBe(true);
  });
});

test('rules for other origins that were acknowledged hold after the node was killed', async () => {
  const rule = { AllowedMethods: ['GET'], AllowedOrigins: ['https://app.example.com'] };
  await s3.send(
    new PutBucketCorsCommand({ Bucket: 'sdk', CORSConfiguration: { CORSRules: [rule] } }),
  );
  await node.kill();
  await node.start();
  const found = await s3.send(new GetBucketCorsCommand({ Bucket: 'sdk' }));
  expect(found.CORSRules).toEqual([rule]);
  await s3.send(new DeleteBucketCorsCommand({ Bucket: 'sdk' }));
});

describe('who may', () => {
  test('a wrong secret, an unknown key and no key are refused', async () => {
    const asked = (credentials: typeof KEY): Promise<string> =>
      codeOf(connect({ credentials }).send(new ListBucketsCommand({})));
    expect(await asked({ ...KEY, secretAccessKey: 'another secret' })).toBe(
      'SignatureDoesNotMatch',
    );
    expect(await asked({ ...KEY, accessKeyId: 'NOBODY' })).toBe('InvalidAccessKeyId');
    expect((await fetch(`${node.s3Url}/sdk`)).status).toBe(403);
  });

  test('a clock that is wrong by an hour is refused, and told the time here', async () => {
    const late = connect({ systemClockOffset: 3_600_000 });
    const error = await late.send(new ListBucketsCommand({})).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ name: 'RequestTimeTooSkewed' });
    const { ServerTime } = error as { ServerTime?: string };
    expect(Math.abs(Date.parse(String(ServerTime)) - Date.now())).toBeLessThan(60_000);
  });

  test('nothing that was refused is visible', async () => {
    const wrong = connect({ credentials: { ...KEY, secretAccessKey: 'another secret' } });
    expect(
      await codeOf(wrong.send(new PutObjectCommand({ Bucket: 'sdk', Key: 'refused', Body: 'x' }))),
    ).toBe('SignatureDoesNotMatch');
    expect(await codeOf(s3.send(new HeadObjectCommand({ Bucket: 'sdk', Key: 'refused' })))).toBe(
      'NotFound',
    );
  });
});

test('buckets in the host name', async () => {
  const url = new URL(node.s3Url);
  // Not every resolver knows sub-domains of localhost: every name leads to this node, and the Host header is the SDK's.
  const httpAgent = new Agent({
    lookup: (_host, options, done) =>
      options.all === true
        ? done(null, [{ address: url.hostname, family: 4 }])
        : done(null, url.hostname, 4),
  });
  const virtual = connect({
    forcePathStyle: false,
    endpoint: `http://localhost:${url.port}`,
    requestHandler: { httpAgent },
  });
  await virtual.send(new PutObjectCommand({ Bucket: 'sdk', Key: 'virtual/host', Body: 'v' }));
  expect((await bytesOf('virtual/host')).toString()).toBe('v');
  const { Contents } = await virtual.send(
    new ListObjectsV2Command({ Bucket: 'sdk', Prefix: 'virtual/' }),
  );
  expect(Contents?.map(({ Key }) => Key)).toEqual(['virtual/host']);
});
