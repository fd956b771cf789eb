/** Versions of objects over S3: the AWS SDK for JavaScript, as it comes, against a real node, which is also killed. */
import { execFile } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import {
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  DeleteBucketCommand,
  type DeletedObject,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  DeleteObjectTaggingCommand,
  GetBucketVersioningCommand,
  GetObjectAttributesCommand,
  GetObjectCommand,
  GetObjectTaggingCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  type ListObjectVersionsCommandInput,
  type ObjectVersion,
  PutBucketVersioningCommand,
  PutObjectCommand,
  PutObjectTaggingCommand,
  S3Client,
  UploadPartCommand,
  UploadPartCopyCommand,
} from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  cleanEnv,
  type NodeProcess,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';

const PYTHON = join(import.meta.dirname, '../../../.ebb/venv/bin/python');

const SECRET = 'at least eight';
let node: NodeProcess;
let s3: S3Client;
let buckets = 0;

function connect(to: NodeProcess, accessKeyId = 'any'): S3Client {
  return new S3Client({
    ...{ endpoint: to.s3Url, region: 'us-east-1', forcePathStyle: true },
    credentials: { accessKeyId, secretAccessKey: SECRET },
    // A retry of a write whose answer was lost would be another version.
    maxAttempts: 1,
  });
}

beforeAll(async () => {
  node = await startNodeProcess();
  s3 = connect(node);
});
afterAll(async () => {
  s3.destroy();
  await node[Symbol.asyncDispose]();
});

type Status = 'Enabled' | 'Suspended';

async function setVersioning(Bucket: string, Status: Status): Promise<void> {
  await s3.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status } }));
}

/** A bucket of its own; without a status versions were never kept there. */
async function newBucket(status?: Status): Promise<string> {
  const Bucket = `versions-${++buckets}`;
  await s3.send(new CreateBucketCommand({ Bucket }));
  if (status !== undefined) await setVersioning(Bucket, status);
  return Bucket;
}

async function put(Bucket: string, Key: string, Body: string): Promise<string | undefined> {
  return (await s3.send(new PutObjectCommand({ Bucket, Key, Body }))).VersionId;
}

async function textOf(Bucket: string, Key: string, VersionId?: string): Promise<string> {
  const { Body } = await s3.send(
    new GetObjectCommand({ Bucket, Key, ...(VersionId === undefined ? {} : { VersionId }) }),
  );
  return await (Body as NonNullable<typeof Body>).transformToString();
}

/** Versions and markers, newest first in each key, as lines. */
async function listed(
  Bucket: string,
  more: Partial<ListObjectVersionsCommandInput> = {},
): Promise<string[]> {
  const page = await s3.send(new ListObjectVersionsCommand({ Bucket, ...more }));
  return [...(page.Versions ?? []), ...(page.DeleteMarkers ?? [])].map(
    ({ Key, VersionId, IsLatest, ...rest }) =>
      `${Key} ${VersionId} ${'ETag' in rest ? 'version' : 'marker'}${IsLatest === true ? ' latest' : ''}`,
  );
}

async function refusal(
  work: Promise<unknown>,
): Promise<{ code: string; status: number; headers: Record<string, string> }> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown as SdkError,
  );
  if (error === undefined) throw new Error('it was not refused');
  return {
    code: error.name,
    status: error.$metadata?.httpStatusCode ?? 0,
    headers: error.$response?.headers ?? {},
  };
}
interface SdkError extends Error {
  readonly $metadata?: { readonly httpStatusCode?: number };
  readonly $response?: { readonly headers: Record<string, string> };
}

test('a bucket says whether it keeps versions; it can be suspended, and never turned off', async () => {
  const Bucket = await newBucket();
  const status = async (): Promise<unknown> =>
    (await s3.send(new GetBucketVersioningCommand({ Bucket }))).Status;
  expect(await status()).toBeUndefined();
  expect(await put(Bucket, 'a', '1')).toBeUndefined();
  await setVersioning(Bucket, 'Enabled');
  expect(await status()).toBe('Enabled');
  await setVersioning(Bucket, 'Suspended');
  expect(await status()).toBe('Suspended');
  const configure = (VersioningConfiguration: object): Promise<unknown> =>
    s3.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration }));
  expect(await refusal(configure({ Status: 'Off' }))).toMatchObject({
    ...{ code: 'IllegalVersioningConfigurationException', status: 400 },
  });
  expect(await refusal(configure({ Status: 'Enabled', MFADelete: 'Enabled' }))).toMatchObject({
    ...{ code: 'NotImplemented', status: 501 },
  });
  expect(await status()).toBe('Suspended');
});

test('every write is a version of its own, read by its id with what belongs to it', async () => {
  const Bucket = await newBucket('Enabled');
  const Key = 'dir/ключ 😀';
  const ids: string[] = [];
  for (const Body of ['first', 'second', '']) {
    const made = await s3.send(
      new PutObjectCommand({ Bucket, Key, Body, Metadata: { body: Body }, Tagging: `t=${Body}` }),
    );
    ids.push(made.VersionId as string);
  }
  expect(new Set(ids).size).toBe(3);
  for (const [i, Body] of ['first', 'second', ''].entries()) {
    const VersionId = ids[i] as string;
    expect(await textOf(Bucket, Key, VersionId)).toBe(Body);
    const head = await s3.send(new HeadObjectCommand({ Bucket, Key, VersionId }));
    expect(head).toMatchObject({ VersionId, ContentLength: Body.length, Metadata: { body: Body } });
    const tags = await s3.send(new GetObjectTaggingCommand({ Bucket, Key, VersionId }));
    expect(tags).toMatchObject({ VersionId, TagSet: [{ Key: 't', Value: Body }] });
    const attributes = await s3.send(
      new GetObjectAttributesCommand({ Bucket, Key, VersionId, ObjectAttributes: ['ObjectSize'] }),
    );
    expect(attributes).toMatchObject({ VersionId, ObjectSize: Body.length });
  }
  expect((await s3.send(new HeadObjectCommand({ Bucket, Key }))).VersionId).toBe(ids[2]);
  const ranged = await s3.send(
    new GetObjectCommand({ Bucket, Key, VersionId: ids[1] as string, Range: 'bytes=1-3' }),
  );
  expect(await ranged.Body?.transformToString()).toBe('eco');
  expect(await refusal(textOf(Bucket, Key, 'ffffffffffff'))).toMatchObject({
    ...{ code: 'NoSuchVersion', status: 404 },
  });
  expect(await refusal(textOf(Bucket, Key, 'null'))).toMatchObject({ code: 'NoSuchVersion' });

  const TagSet = [{ Key: 'changed', Value: 'yes' }];
  const old = { Bucket, Key, VersionId: ids[0] as string };
  await s3.send(new PutObjectTaggingCommand({ ...old, Tagging: { TagSet } }));
  expect((await s3.send(new GetObjectTaggingCommand(old))).TagSet).toEqual(TagSet);
  expect((await s3.send(new GetObjectTaggingCommand({ Bucket, Key }))).TagSet).toEqual([
    { Key: 't', Value: '' },
  ]);
  await s3.send(new DeleteObjectTaggingCommand(old));
  expect((await s3.send(new GetObjectTaggingCommand(old))).TagSet).toEqual([]);
});

test('a delete leaves a marker; taking the marker away brings the object back', async () => {
  const Bucket = await newBucket('Enabled');
  const Key = 'a';
  const id = (await put(Bucket, Key, 'kept')) as string;
  const { DeleteMarker, VersionId: markerId } = await s3.send(
    new DeleteObjectCommand({ Bucket, Key }),
  );
  expect(DeleteMarker).toBe(true);
  const plain = await refusal(s3.send(new GetObjectCommand({ Bucket, Key })));
  expect(plain).toMatchObject({
    ...{ code: 'NoSuchKey', status: 404 },
    headers: { 'x-amz-delete-marker': 'true', 'x-amz-version-id': markerId },
  });
  const heads = await refusal(s3.send(new HeadObjectCommand({ Bucket, Key })));
  expect(heads).toMatchObject({ status: 404, headers: { 'x-amz-delete-marker': 'true' } });
  for (const Command of [GetObjectCommand, HeadObjectCommand]) {
    const named = new Command({ Bucket, Key, VersionId: markerId as string });
    expect(await refusal(s3.send(named as GetObjectCommand))).toMatchObject({
      status: 405,
      headers: { 'x-amz-delete-marker': 'true', 'x-amz-version-id': markerId, allow: 'DELETE' },
    });
  }
  expect(await textOf(Bucket, Key, id)).toBe('kept');
  expect((await s3.send(new ListObjectsV2Command({ Bucket }))).KeyCount).toBe(0);
  expect(await listed(Bucket)).toEqual([`a ${id} version`, `a ${markerId} marker latest`]);

  const undone = await s3.send(
    new DeleteObjectCommand({ Bucket, Key, VersionId: markerId as string }),
  );
  expect(undone).toMatchObject({ DeleteMarker: true, VersionId: markerId });
  expect(await textOf(Bucket, Key)).toBe('kept');
});

test('a version that is deleted by its id is gone for good, and the one before is the object', async () => {
  const Bucket = await newBucket('Enabled');
  const [first, second] = [await put(Bucket, 'a', '1'), await put(Bucket, 'a', '2')];
  const gone = { Bucket, Key: 'a', VersionId: second as string };
  const deleted = await s3.send(new DeleteObjectCommand(gone));
  expect(deleted.VersionId).toBe(second);
  expect(deleted.DeleteMarker).toBeUndefined();
  expect(await textOf(Bucket, 'a')).toBe('1');
  expect(await listed(Bucket)).toEqual([`a ${first} version latest`]);
  expect(await refusal(s3.send(new GetObjectCommand(gone)))).toMatchObject({
    code: 'NoSuchVersion',
  });
  await s3.send(new DeleteObjectCommand(gone)); // again is no error
});

test('DeleteObjects deletes keys and versions, and tells the markers that came and went', async () => {
  const Bucket = await newBucket('Enabled');
  const id = (await put(Bucket, 'a', '1')) as string;
  await put(Bucket, 'b', '1');
  const send = async (Objects: { Key: string; VersionId?: string }[]): Promise<DeletedObject[]> => {
    const { Deleted = [], Errors = [] } = await s3.send(
      new DeleteObjectsCommand({ Bucket, Delete: { Objects } }),
    );
    expect(Errors).toEqual([]);
    return Deleted;
  };
  const [a, b, absent] = await send([{ Key: 'a', VersionId: id }, { Key: 'b' }, { Key: 'absent' }]);
  expect(a).toEqual({ Key: 'a', VersionId: id });
  expect(b).toMatchObject({ Key: 'b', DeleteMarker: true });
  // As S3 does it: also where nothing was.
  expect(absent).toMatchObject({ Key: 'absent', DeleteMarker: true });
  const VersionId = b?.DeleteMarkerVersionId as string;
  expect(await send([{ Key: 'b', VersionId }])).toEqual([
    { Key: 'b', VersionId, DeleteMarker: true, DeleteMarkerVersionId: VersionId },
  ]);
  expect(await textOf(Bucket, 'b')).toBe('1');
});

test('a copy takes a version as its source, also over the object itself', async () => {
  const Bucket = await newBucket('Enabled');
  const Key = 'dir/a b';
  const old = (await put(Bucket, Key, 'old')) as string;
  const current = await put(Bucket, Key, 'new');
  const CopySource = `${Bucket}/${encodeURIComponent(Key)}?versionId=${old}`;
  const copy = await s3.send(new CopyObjectCommand({ Bucket, Key, CopySource }));
  expect(copy.CopySourceVersionId).toBe(old);
  expect(await textOf(Bucket, Key)).toBe('old');
  expect(await listed(Bucket)).toEqual([
    `${Key} ${copy.VersionId} version latest`,
    `${Key} ${current} version`,
    `${Key} ${old} version`,
  ]);
  const marker = await s3.send(new DeleteObjectCommand({ Bucket, Key }));
  const sourceOf = (id: string): string => `${Bucket}/${encodeURIComponent(Key)}?versionId=${id}`;
  const ofMarker = { Bucket, Key: 'x', CopySource: sourceOf(marker.VersionId as string) };
  expect(await refusal(s3.send(new CopyObjectCommand(ofMarker)))).toMatchObject({
    ...{ code: 'InvalidRequest', status: 400 },
  });
  const ofNone = { Bucket, Key: 'x', CopySource: sourceOf('000000000001') };
  expect(await refusal(s3.send(new CopyObjectCommand(ofNone)))).toMatchObject({
    code: 'NoSuchVersion',
  });
});

test('a multipart upload makes one version, also of a part that is an old version', async () => {
  const Bucket = await newBucket('Enabled');
  const Key = 'mp';
  const old = (await put(Bucket, Key, 'x'.repeat(5 * 1024 * 1024))) as string;
  await put(Bucket, Key, 'small');
  const { UploadId } = await s3.send(new CreateMultipartUploadCommand({ Bucket, Key }));
  const at = { Bucket, Key, UploadId };
  const copied = await s3.send(
    new UploadPartCopyCommand({
      ...{ ...at, PartNumber: 1 },
      CopySource: `${Bucket}/${Key}?versionId=${old}`,
    }),
  );
  expect(copied.CopySourceVersionId).toBe(old);
  const sent = await s3.send(new UploadPartCommand({ ...at, PartNumber: 2, Body: 'end' }));
  const Parts = [
    { PartNumber: 1, ETag: copied.CopyPartResult?.ETag },
    { PartNumber: 2, ETag: sent.ETag },
  ];
  const done = await s3.send(
    new CompleteMultipartUploadCommand({ ...at, MultipartUpload: { Parts } }),
  );
  expect((await textOf(Bucket, Key, done.VersionId)).length).toBe(5 * 1024 * 1024 + 3);
  expect(await listed(Bucket)).toHaveLength(3);
});

test('what came before versions, or while they are suspended, is the null version, of which there is one', async () => {
  const Bucket = await newBucket();
  await put(Bucket, 'a', 'before');
  await setVersioning(Bucket, 'Enabled');
  const kept = await put(Bucket, 'a', 'kept');
  expect(await textOf(Bucket, 'a', 'null')).toBe('before');
  expect(await listed(Bucket)).toEqual([`a ${kept} version latest`, 'a null version']);
  await setVersioning(Bucket, 'Suspended');
  expect(await put(Bucket, 'a', 'suspended')).toBe('null');
  expect(await listed(Bucket)).toEqual(['a null version latest', `a ${kept} version`]);
  expect(await textOf(Bucket, 'a', 'null')).toBe('suspended');
  const gone = await s3.send(new DeleteObjectCommand({ Bucket, Key: 'a' }));
  expect(gone).toMatchObject({ DeleteMarker: true, VersionId: 'null' });
  expect(await listed(Bucket)).toEqual([`a ${kept} version`, 'a null marker latest']);
  await s3.send(new DeleteObjectCommand({ Bucket, Key: 'a', VersionId: 'null' }));
  expect(await textOf(Bucket, 'a')).toBe('kept');
});

test('the list of versions goes by key, then by age, in pages of any size, rolled up and encoded', async () => {
  const Bucket = await newBucket('Enabled');
  const keys = ['a', 'a b', 'd/1', 'd/2', 'e+é'];
  const lines: string[] = [];
  for (const key of keys) {
    const ids = [await put(Bucket, key, '1'), await put(Bucket, key, '2')];
    const marker =
      key === 'a' ? await s3.send(new DeleteObjectCommand({ Bucket, Key: key })) : undefined;
    const all = [...ids, ...(marker === undefined ? [] : [marker.VersionId])].reverse();
    lines.push(...all.map((id) => `${key} ${id}`));
  }
  for (const MaxKeys of [1, 2, 3, 100]) {
    const found: string[] = [];
    let from: { KeyMarker?: string; VersionIdMarker?: string } = {};
    for (let more = true; more; ) {
      const page = await s3.send(new ListObjectVersionsCommand({ Bucket, MaxKeys, ...from }));
      const entries = [...(page.DeleteMarkers ?? []), ...(page.Versions ?? [])];
      expect(entries.length).toBeLessThanOrEqual(MaxKeys);
      found.push(...entries.map(({ Key, VersionId }) => `${Key} ${VersionId}`));
      more = page.IsTruncated === true;
      from = {
        ...(page.NextKeyMarker === undefined ? {} : { KeyMarker: page.NextKeyMarker }),
        ...(page.NextVersionIdMarker === undefined
          ? {}
          : { VersionIdMarker: page.NextVersionIdMarker }),
      };
    }
    // The only marker is the first entry of all.
    expect(found, `pages of ${MaxKeys}`).toEqual(lines);
  }
  const rolled = await s3.send(
    new ListObjectVersionsCommand({ Bucket, Delimiter: '/', MaxKeys: 6 }),
  );
  expect(rolled.CommonPrefixes).toEqual([{ Prefix: 'd/' }]);
  expect(rolled).toMatchObject({ IsTruncated: true, NextKeyMarker: 'd/' });
  expect(await listed(Bucket, { Delimiter: '/', KeyMarker: 'd/' })).toHaveLength(2);
  expect(await listed(Bucket, { Prefix: 'd/', KeyMarker: 'd/1' })).toHaveLength(2);
  const encoded = await s3.send(
    new ListObjectVersionsCommand({ Bucket, Prefix: 'e+', EncodingType: 'url' }),
  );
  expect(encoded.Versions?.map(({ Key }) => Key)).toEqual(['e%2B%C3%A9', 'e%2B%C3%A9']);
  expect(await refusal(listed(Bucket, { VersionIdMarker: 'null' }))).toMatchObject({
    code: 'InvalidArgument',
  });
  const xml = await (await fetch(`${node.s3Url}/${Bucket}?versions&prefix=a`)).text();
  expect([...xml.matchAll(/<(Version|DeleteMarker)>/g)].map(([, name]) => name)).toEqual([
    ...['DeleteMarker', 'Version', 'Version', 'Version', 'Version'],
  ]);
});

test('a bucket with old versions is not deleted, and nobody reaches the place where they lie', async () => {
  const Bucket = await newBucket('Enabled');
  const id = await put(Bucket, 'a', '1');
  const marker = await s3.send(new DeleteObjectCommand({ Bucket, Key: 'a' }));
  expect((await refusal(s3.send(new DeleteBucketCommand({ Bucket })))).code).toBe('BucketNotEmpty');
  for (const method of ['GET', 'PUT', 'DELETE']) {
    const answer = await fetch(`${node.s3Url}/${Bucket}!versions/a%20n`, { method });
    expect(answer.status, await answer.text()).toBe(400);
  }
  const listing = await fetch(`${node.s3Url}/${Bucket}!versions`);
  expect(listing.status, await listing.text()).toBe(400);
  for (const VersionId of [id, marker.VersionId] as string[])
    await s3.send(new DeleteObjectCommand({ Bucket, Key: 'a', VersionId }));
  await s3.send(new DeleteBucketCommand({ Bucket }));
});

test('who may read, write, list or administer objects may do so with their versions, and no more', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'ebb-keys-'));
  const keys = join(directory, 'keys.json');
  const key = (accessKeyId: string, ...actions: string[]): object => ({
    ...{ accessKeyId, secretAccessKey: SECRET },
    grants: [{ bucket: 'granted', prefix: 'mine/', actions }],
  });
  const all = { accessKeyId: 'all', secretAccessKey: SECRET };
  const each = ['read', 'write', 'list'].map((action) => key(action, action));
  await writeFile(keys, JSON.stringify([all, ...each]));
  await using guarded = await startNodeProcess({ args: [`--s3-keys=${keys}`] });
  const as = (name: string): S3Client => connect(guarded, name);
  const Bucket = 'granted';
  const VersioningConfiguration = { Status: 'Enabled' as const };
  await as('all').send(new CreateBucketCommand({ Bucket }));
  await as('all').send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration }));
  const made: Record<string, string> = {};
  for (const Key of ['mine/a', 'others/a']) {
    const { VersionId } = await as('all').send(new PutObjectCommand({ Bucket, Key, Body: '1' }));
    made[Key] = VersionId as string;
    await as('all').send(new PutObjectCommand({ Bucket, Key, Body: '2' }));
  }
  const outcome = async (work: Promise<unknown>): Promise<string> =>
    await work.then(
      () => 'done',
      (error: Error) => error.name,
    );
  const old = (Key: string): { Bucket: string; Key: string; VersionId: string } => ({
    ...{ Bucket, Key },
    VersionId: made[Key] as string,
  });
  for (const name of ['read', 'write', 'list'])
    for (const Key of ['mine/a', 'others/a']) {
      const isMine = Key === 'mine/a';
      const may = (action: string): string => (isMine && name === action ? 'done' : 'AccessDenied');
      const client = as(name);
      const Delete = {
        Objects: [old(Key)].map(({ Key: k, VersionId }) => ({ Key: k, VersionId })),
      };
      const listing = { Bucket, Prefix: isMine ? 'mine/' : '' };
      expect(await outcome(client.send(new GetObjectCommand(old(Key)))), name).toBe(may('read'));
      expect(await outcome(client.send(new ListObjectVersionsCommand(listing)))).toBe(may('list'));
      expect(
        await outcome(
          client.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration })),
        ),
      ).toBe('AccessDenied');
      if (name !== 'write' || !isMine)
        expect(await outcome(client.send(new DeleteObjectCommand(old(Key))))).toBe('AccessDenied');
      const { Deleted = [], Errors = [] } = await client.send(
        new DeleteObjectsCommand({ Bucket, Delete }),
      );
      expect([Deleted.length, Errors[0]?.Code]).toEqual(
        may('write') === 'done' ? [1, undefined] : [0, 'AccessDenied'],
      );
    }
  await rm(directory, { recursive: true });
});

test('boto3 enables, lists, restores and empties as its guides say', async () => {
  expect(existsSync(PYTHON), 'the Python environment is set up: node scripts/setup.mjs').toBe(true);
  const script = join(import.meta.dirname, 's3_versions.py');
  const credentials = { AWS_ACCESS_KEY_ID: 'any', AWS_SECRET_ACCESS_KEY: SECRET };
  const { stdout } = await promisify(execFile)(PYTHON, [script], {
    env: {
      ...cleanEnv(),
      ...credentials,
      ...{ S3_URL: node.s3Url, AWS_EC2_METADATA_DISABLED: 'true' },
    },
  });
  expect(stdout.trim()).toBe('emptied and deleted');
});

const ROUNDS = 6;

test(`kill -9 in the middle of versioned writes, ${ROUNDS} times: every acknowledged version is listed and right, none is doubled`, async () => {
  await using killed = await startNodeProcess();
  const client = connect(killed);
  const Bucket = 'killed';
  await client.send(new CreateBucketCommand({ Bucket }));
  await client.send(
    new PutBucketVersioningCommand({ Bucket, VersioningConfiguration: { Status: 'Enabled' } }),
  );
  /** By version id: what was acknowledged. A marker has no body. */
  const acknowledged = new Map<string, { readonly key: string; readonly body: string | null }>();
  const removed = new Set<string>();
  const maybeRemoved = new Set<string>();
  const sent = { bodies: new Set<string>(), deletes: 0, acknowledgedDeletes: 0 };
  let writes = 0;
  for (let round = 1; round <= ROUNDS; round++) {
    let isKilled = false;
    const lane = async (number: number): Promise<void> => {
      while (!isKilled) {
        // Lanes share keys, so that versions of one key come from many at once.
        const Key = `key-${randomInt(5)}`;
        const body = `${number}-${++writes}-${'x'.repeat(randomInt(3000))}`;
        const own = [...acknowledged].filter(
          ([id, { key }]) => key === Key && !maybeRemoved.has(id),
        );
        try {
          if (randomInt(6) === 0) {
            sent.deletes++;
            const { VersionId } = await client.send(new DeleteObjectCommand({ Bucket, Key }));
            sent.acknowledgedDeletes++;
            acknowledged.set(VersionId as string, { key: Key, body: null });
          } else if (randomInt(8) === 0 && own.length > 0) {
            const [VersionId] = own[randomInt(own.length)] as [string, unknown];
            maybeRemoved.add(VersionId);
            await client.send(new DeleteObjectCommand({ Bucket, Key, VersionId }));
            removed.add(VersionId);
          } else {
            sent.bodies.add(body);
            const made = await client.send(new PutObjectCommand({ Bucket, Key, Body: body }));
            expect(acknowledged.has(made.VersionId as string)).toBe(false);
            acknowledged.set(made.VersionId as string, { key: Key, body });
          }
        } catch (error) {
          if (!isKilled) throw error;
        }
      }
    };
    const lanes = Promise.all(Array.from({ length: 6 }, (_, number) => lane(number)));
    // The moment of the kill is random; nothing waits for it.
    await new Promise((resolve) => setTimeout(resolve, randomInt(50, 500)));
    isKilled = true;
    await killed.kill();
    await lanes;
    await killed.start();

    const found = new Map<string, { readonly key: string; readonly isMarker: boolean }>();
    const latest = new Map<string, string>();
    const remember = (
      entry: Pick<ObjectVersion, 'Key' | 'VersionId' | 'IsLatest'>,
      isMarker: boolean,
    ): void => {
      const id = entry.VersionId as string;
      expect(found.has(`${id} ${entry.Key}`)).toBe(false);
      found.set(id, { key: entry.Key as string, isMarker });
      if (entry.IsLatest !== true) return;
      expect(latest.has(entry.Key as string)).toBe(false);
      latest.set(entry.Key as string, id);
    };
    let from: { KeyMarker?: string; VersionIdMarker?: string } = {};
    for (let more = true; more; ) {
      const page = await client.send(
        new ListObjectVersionsCommand({ Bucket, MaxKeys: 50, ...from }),
      );
      for (const version of page.Versions ?? []) remember(version, false);
      for (const marker of page.DeleteMarkers ?? []) remember(marker, true);
      more = page.IsTruncated === true;
      from = {
        KeyMarker: page.NextKeyMarker as string,
        ...(page.NextVersionIdMarker === undefined
          ? {}
          : { VersionIdMarker: page.NextVersionIdMarker }),
      };
    }
    for (const [id, { key, body }] of acknowledged) {
      if (removed.has(id)) expect(found.has(id), `removed ${id}`).toBe(false);
      if (maybeRemoved.has(id)) continue;
      expect(found.get(id), `round ${round}: ${key} ${id}`).toEqual({
        ...{ key, isMarker: body === null },
      });
    }
    const bodies = new Set<string>();
    let markers = 0;
    for (const [VersionId, { key, isMarker }] of found) {
      if (isMarker) {
        markers++;
        continue;
      }
      const { Body } = await client.send(new GetObjectCommand({ Bucket, Key: key, VersionId }));
      const body = await (Body as NonNullable<typeof Body>).transformToString();
      expect(sent.bodies.has(body), 'a body that was sent, whole').toBe(true);
      expect(bodies.has(body), 'a write is one version').toBe(false);
      bodies.add(body);
      const known = acknowledged.get(VersionId);
      if (known !== undefined) expect(body).toBe(known.body);
    }
    expect(markers).toBeLessThanOrEqual(sent.deletes);
    // The newest version is the object, and a marker hides it.
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket }));
    expect(Contents.map(({ Key }) => Key).sort()).toEqual(
      [...latest]
        .filter(([, id]) => found.get(id)?.isMarker === false)
        .map(([key]) => key)
        .sort(),
    );
    for (const [key, id] of latest) {
      const newest = [...found].filter(([, other]) => other.key === key).map(([other]) => other);
      expect(id).toBe(newest.sort().at(-1));
    }
  }
  expect(acknowledged.size).toBeGreaterThan(ROUNDS);
  process.stdout.write(`kill -9 × ${ROUNDS}: ${acknowledged.size} versions acknowledged\n`);
  client.destroy();
});
