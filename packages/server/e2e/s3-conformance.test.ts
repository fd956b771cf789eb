/** The S3 conformance suite against Ebb, and against MinIO where a binary of it is at hand. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { cleanEnv, startNodeProcess } from '../../client/e2e/support/node-process.ts';
import { sendRaw, signHeaders } from '../src/testing/sign-s3.ts';
import { buckets } from './s3-conformance/buckets.ts';
import { checksums } from './s3-conformance/checksums.ts';
import { EBB, MINIO } from './s3-conformance/differences.ts';
import { keys } from './s3-conformance/keys.ts';
import { lists } from './s3-conformance/lists.ts';
import { multipart } from './s3-conformance/multipart.ts';
import { objects } from './s3-conformance/objects.ts';
import { reads } from './s3-conformance/reads.ts';
import { signing } from './s3-conformance/signing.ts';
import { type Endpoint, s3Conformance } from './s3-conformance/suite.ts';

const GROUPS = [buckets, keys, objects, reads, lists, multipart, checksums, signing];
const KEY = { accessKeyId: 'EBBTESTKEY', secretAccessKey: 'a secret of the test' };

s3Conformance(
  {
    name: 'Ebb',
    differences: EBB,
    open: async () => {
      const node = await startNodeProcess({
        env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
      });
      return {
        url: node.s3Url,
        key: KEY,
        [Symbol.asyncDispose]: async () => await node[Symbol.asyncDispose](),
      };
    },
  },
  GROUPS,
);

const minio = findMinio();
if (minio === undefined)
  test.skip('MinIO: there is no binary; `npm run setup:peers` builds one, EBB_TEST_MINIO names another', () =>
    undefined);
else s3Conformance({ name: 'MinIO', differences: MINIO, open: () => startMinio(minio) }, GROUPS);

function findMinio(): string | undefined {
  const built = join(import.meta.dirname, '../../../.ebb/tools/minio');
  const named = process.env['EBB_TEST_MINIO'];
  for (const path of named === undefined ? [built] : [named])
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      expect(named, 'EBB_TEST_MINIO names a program').toBeUndefined();
    }
  return undefined;
}

async function startMinio(binary: string): Promise<Endpoint> {
  const directory = await mkdtemp(join(tmpdir(), 'ebb-minio-'));
  const address = `127.0.0.1:${await freePort()}`;
  const child = spawn(
    binary,
    ['server', '--quiet', '--address', address, '--console-address', '127.0.0.1:0', directory],
    {
      stdio: 'ignore',
      env: {
        ...cleanEnv(),
        ...{ MINIO_ROOT_USER: KEY.accessKeyId, MINIO_ROOT_PASSWORD: KEY.secretAccessKey },
      },
    },
  );
  const url = `http://${address}`;
  await vi.waitFor(
    async () => {
      // It says that it is ready some time before it answers.
      const list = { method: 'GET', url: new URL(url) };
      const answer = await sendRaw({ ...list, headers: signHeaders(KEY, list) });
      expect(answer.status).toBe(200);
    },
    { timeout: 60_000 },
  );
  return {
    ...{ url, key: KEY },
    [Symbol.asyncDispose]: async () => {
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
      await rm(directory, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}
