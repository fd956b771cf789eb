/**
 * Encrypted buckets on a real daemon: its own clients, the S3 surface, its log and files, and its death (kill -9).
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openClient } from '@ebb/client';
import { isStoreError, KiB } from '@ebb/protocol';
import { expect, onTestFinished, test } from 'vitest';
import { type NodeProcess, startNodeProcess } from '../../client/e2e/support/node-process.ts';

/** Every window of 16 bytes has this. */
const MARK = 'plain~';
const bytesOf = (size: number, seed: number): Buffer =>
  Buffer.alloc(size, `${MARK}${String(seed).padStart(4, '0')}`);

async function openNode(keys: unknown, env: Record<string, string> = {}): Promise<NodeProcess> {
  const directory = await mkdtemp(join(tmpdir(), 'ebb-keys-'));
  onTestFinished(async () => await rm(directory, { recursive: true, force: true }));
  const file = join(directory, 'keys.json');
  writeFileSync(file, JSON.stringify(keys ?? []));
  const args = keys === undefined ? [] : [`--encryption-keys=${file}`];
  const node = await startNodeProcess({ args, env, memoryLimit: '16MiB' });
  onTestFinished(async () => await node[Symbol.asyncDispose]());
  return node;
}

function filesWith(directory: string, text: string | Buffer): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((file) => readFileSync(file).includes(text));
}

test('objects outlive kill -9 again and again; neither their bytes nor the key are in files or log', async () => {
  const key = randomBytes(32);
  const node = await openNode([{ id: '2026-11', key: key.toString('base64') }]);
  const known = new Map<string, Buffer>();
  for (let round = 0; round < 4; round++) {
    {
      await using client = await openClient({ node: node.unixUrl });
      await client.buckets.create('enc', { encrypted: true });
      const writes = Array.from({ length: 8 }, async (_, n) => {
        const bytes = bytesOf(700 * KiB + n, round * 8 + n);
        const ack = n % 2 === 0 ? 'disk' : 'remote';
        await client.put('enc', `${round}-${n}`, bytes, { ack });
        known.set(`${round}-${n}`, bytes);
      });
      // What was not acknowledged when the daemon dies is nobody's to keep.
      const settled = Promise.allSettled(writes);
      await Promise.race([settled, writes[0]]);
      await node.kill();
      await node.start();
      await settled;
    }
    await using client = await openClient({ node: node.unixUrl });
    for (const [name, bytes] of known)
      expect(bytes.equals(await (await client.get('enc', name)).bytes()), name).toBe(true);
  }
  expect(known.size).toBeGreaterThan(3);
  expect(filesWith(node.dataDir, MARK)).toEqual([]);
  for (const secret of [key, key.toString('base64'), key.toString('hex')]) {
    expect(filesWith(node.dataDir, secret)).toEqual([]);
    expect(node.log()).not.toContain(secret.toString());
  }
});

test('over S3 a bucket is encrypted by PutBucketEncryption, and multipart parts with it', async () => {
  const { S3Client, ...sdk } = await import('@aws-sdk/client-s3');
  const credentials = { accessKeyId: 'ANY', secretAccessKey: 'any secret at all' };
  const env = { EBB_ENCRYPTION_KEY: randomBytes(32).toString('base64') };
  const keys = { EBB_ACCESS_KEY_ID: 'ANY', EBB_SECRET_ACCESS_KEY: 'any secret at all' };
  const node = await openNode(undefined, { ...env, ...keys });
  const s3 = new S3Client({
    ...{ endpoint: node.s3Url, region: 'us-east-1', forcePathStyle: true, credentials },
  });
  const Bucket = 'sealed';
  await s3.send(new sdk.CreateBucketCommand({ Bucket }));
  const before = s3.send(new sdk.GetBucketEncryptionCommand({ Bucket }));
  await expect(before).rejects.toMatchObject({
    name: 'ServerSideEncryptionConfigurationNotFoundError',
  });
  const encryption = (SSEAlgorithm: 'AES256' | 'aws:kms') =>
    new sdk.PutBucketEncryptionCommand({
      Bucket,
      ServerSideEncryptionConfiguration: {
        Rules: [{ ApplyServerSideEncryptionByDefault: { SSEAlgorithm } }],
      },
    });
  await expect(s3.send(encryption('aws:kms'))).rejects.toMatchObject({ name: 'NotImplemented' });
  await s3.send(encryption('AES256'));
  const { ServerSideEncryptionConfiguration: found } = await s3.send(
    new sdk.GetBucketEncryptionCommand({ Bucket }),
  );
  expect(found?.Rules?.[0]?.ApplyServerSideEncryptionByDefault?.SSEAlgorithm).toBe('AES256');
  const Key = 'large';
  const { UploadId } = await s3.send(new sdk.CreateMultipartUploadCommand({ Bucket, Key }));
  const bodies = [bytesOf(5 * 1024 * KiB, 1), bytesOf(300 * KiB, 2)];
  const Parts: { PartNumber: number; ETag: string | undefined }[] = [];
  for (const [n, Body] of bodies.entries()) {
    const part = { Bucket, Key, UploadId, PartNumber: n + 1, Body };
    const { ETag } = await s3.send(new sdk.UploadPartCommand(part));
    Parts.push({ PartNumber: n + 1, ETag });
  }
  const MultipartUpload = { Parts };
  await s3.send(new sdk.CompleteMultipartUploadCommand({ Bucket, Key, UploadId, MultipartUpload }));
  const whole = Buffer.concat(bodies);
  await using client = await openClient({ node: node.unixUrl });
  await client.wait(Bucket, Key, { for: 'remote' });
  await node.kill();
  await node.start();
  const got = await s3.send(new sdk.GetObjectCommand({ Bucket, Key }));
  expect(Buffer.from((await got.Body?.transformToByteArray()) as Uint8Array).equals(whole)).toBe(
    true,
  );
  const Range = 'bytes=5242000-5243500';
  const ranged = await s3.send(new sdk.GetObjectCommand({ Bucket, Key, Range }));
  const range = Buffer.from((await ranged.Body?.transformToByteArray()) as Uint8Array);
  expect(range.equals(whole.subarray(5_242_000, 5_243_501))).toBe(true);
  expect(filesWith(node.dataDir, MARK)).toEqual([]);
  const deleted = s3.send(new sdk.DeleteBucketEncryptionCommand({ Bucket }));
  await expect(deleted).rejects.toMatchObject({ name: 'BucketNotEmpty' });
});

test('an object store has ciphertext alone, from which a node that lost all but its keys reads every byte', async () => {
  const { S3Client, ...sdk } = await import('@aws-sdk/client-s3');
  const credentials = { accessKeyId: 'STORE', secretAccessKey: 'the secret of the store' };
  const store = await openNode(undefined, {
    ...{ EBB_ACCESS_KEY_ID: 'STORE', EBB_SECRET_ACCESS_KEY: credentials.secretAccessKey },
  });
  const at = { endpoint: store.s3Url, region: 'us-east-1', forcePathStyle: true };
  const s3 = new S3Client({ ...at, credentials: { ...credentials } });
  await s3.send(new sdk.CreateBucketCommand({ Bucket: 'company' }));
  const directory = await mkdtemp(join(tmpdir(), 'ebb-keys-'));
  onTestFinished(async () => await rm(directory, { recursive: true, force: true }));
  const [keys, remotes, file] = ['keys', 'remotes', 'object'].map((name) => join(directory, name));
  const key = { id: 'k', key: randomBytes(32).toString('base64') };
  writeFileSync(keys as string, JSON.stringify([key]));
  const url = `s3://company/ebb?endpoint=${encodeURIComponent(store.s3Url)}`;
  const company = { url, layout: 'bucket/key', credentials };
  writeFileSync(remotes as string, JSON.stringify({ company }));
  const node = await startNodeProcess({
    args: [`--encryption-keys=${keys}`, `--remotes=${remotes}`, '--remote=company'],
    memoryLimit: '32MiB',
  });
  onTestFinished(async () => await node[Symbol.asyncDispose]());
  const bytes = bytesOf(12_000 * KiB + 11, 7);
  {
    await using client = await openClient({ node: node.unixUrl });
    await client.buckets.create('enc', { encrypted: true });
    await client.put('enc', 'k', bytes, { ack: 'remote' });
  }
  expect(filesWith(store.dataDir, MARK)).toEqual([]);
  for (const withCatalog of [true, false]) {
    await node.kill();
    for (const root of [join(node.dataDir, 'disk'), node.memoryDir])
      for (const name of readdirSync(root))
        await rm(join(root, name), { recursive: true, force: true });
    // Whoever runs the node says that the disk is gone for good, and not away.
    if (withCatalog) writeFileSync(join(node.dataDir, 'disk', 'ebb-disk-lost'), '');
    else await rm(join(node.dataDir, 'catalog'), { recursive: true });
    await node.start();
    await using client = await openClient({ node: node.unixUrl });
    await client.buckets.create('enc', { encrypted: true });
    if (!withCatalog) expect(await client.sync('enc')).toMatchObject({ added: 1 });
    const range = await client.get('enc', 'k', { range: { offset: 65_530, length: 20 } });
    expect(bytes.subarray(65_530, 65_550).equals(await range.bytes())).toBe(true);
    expect(bytes.equals(await (await client.get('enc', 'k')).bytes())).toBe(true);
    expect(filesWith(node.dataDir, MARK)).toEqual([]);
  }
  const raw = await s3.send(new sdk.GetObjectCommand({ Bucket: 'company', Key: 'ebb/enc/k' }));
  writeFileSync(file as string, (await raw.Body?.transformToByteArray()) as Uint8Array);
  const script = join(import.meta.dirname, '../../../scripts/decrypt.mjs');
  const options = { maxBuffer: 2 * bytes.length };
  const plain = execFileSync(process.execPath, [script, keys as string, file as string], options);
  expect(plain.equals(bytes)).toBe(true);
});

test('a writer that does not know its size gets room in tier 0 as far as there is any, and then is told', async () => {
  const node = await openNode([{ id: 'k', key: randomBytes(32).toString('base64') }]);
  await using client = await openClient({ node: node.unixUrl });
  await client.buckets.create('enc', { encrypted: true });
  const piece = bytesOf(1024 * KiB, 1);
  async function* pieces(count: number): AsyncGenerator<Uint8Array> {
    for (let n = 0; n < count; n++) yield await Promise.resolve(piece);
  }
  await client.put('enc', 'fits', pieces(6));
  const found = await (await client.get('enc', 'fits')).bytes();
  expect(Buffer.concat(Array.from({ length: 6 }, () => piece)).equals(found)).toBe(true);
  const refused = await client.put('enc', 'large', pieces(40)).catch((error: unknown) => error);
  expect(isStoreError(refused, 'tier_full')).toBe(true);
  expect(filesWith(node.dataDir, MARK)).toEqual([]);
});

test('a node without keys says so, by the command that makes the bucket', async () => {
  const node = await openNode(undefined);
  await using client = await openClient({ node: node.unixUrl });
  const refused = await client.buckets
    .create('enc', { encrypted: true })
    .catch((error: unknown) => error);
  expect(isStoreError(refused, 'key_unavailable')).toBe(true);
});
