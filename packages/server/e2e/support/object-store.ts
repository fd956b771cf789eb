/** Object stores for tests: Ebb's own S3 surface, and MinIO where the environment variable EBB_TEST_MINIO names its binary. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { startNodeProcess } from '../../../client/e2e/support/node-process.ts';

const CREDENTIALS = { accessKeyId: 'TIERTESTKEY', secretAccessKey: 'a-secret-of-the-tier-test' };

export interface ObjectStore extends AsyncDisposable {
  readonly url: string;
  readonly credentials: typeof CREDENTIALS;
  /** Has the bucket `tier`. */
  readonly client: S3Client;
}

export interface ObjectStoreKind {
  readonly name: string;
  start(): Promise<ObjectStore>;
}

export function objectStores(): readonly ObjectStoreKind[] {
  const ebb = { name: "Ebb's S3 surface", start: startEbb };
  const minio = process.env['EBB_TEST_MINIO'];
  if (minio === undefined) {
    process.stderr.write('skipped: EBB_TEST_MINIO names no MinIO binary\n');
    return [ebb];
  }
  return [ebb, { name: 'MinIO', start: async () => await startMinio(minio) }];
}

async function startEbb(): Promise<ObjectStore> {
  const { accessKeyId, secretAccessKey } = CREDENTIALS;
  const node = await startNodeProcess({
    env: { EBB_ACCESS_KEY_ID: accessKeyId, EBB_SECRET_ACCESS_KEY: secretAccessKey },
  });
  return await withBucket(node.s3Url, async () => await node[Symbol.asyncDispose]());
}

async function startMinio(binary: string): Promise<ObjectStore> {
  const directory = await mkdtemp(join(tmpdir(), 'ebb-minio-'));
  const address = `127.0.0.1:${await freePort()}`;
  const child = spawn(
    binary,
    ['server', '--quiet', '--address', address, join(directory, 'data')],
    {
      stdio: 'ignore',
      env: {
        HOME: directory,
        MINIO_ROOT_USER: CREDENTIALS.accessKeyId,
        MINIO_ROOT_PASSWORD: CREDENTIALS.secretAccessKey,
        MINIO_BROWSER: 'off',
      },
    },
  );
  const exited = once(child, 'exit');
  return await withBucket(`http://${address}`, async () => {
    child.kill('SIGKILL');
    await exited;
    await rm(directory, { recursive: true, force: true });
  });
}

/** The SDK tries again until the store answers. */
async function withBucket(url: string, stop: () => Promise<void>): Promise<ObjectStore> {
  const client = new S3Client({
    ...{ endpoint: url, region: 'us-east-1', forcePathStyle: true, credentials: CREDENTIALS },
    maxAttempts: 20,
  });
  await client.send(new CreateBucketCommand({ Bucket: 'tier' }));
  return {
    ...{ url, credentials: CREDENTIALS, client },
    [Symbol.asyncDispose]: async () => {
      client.destroy();
      await stop();
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' ? (address?.port ?? 0) : 0;
}
