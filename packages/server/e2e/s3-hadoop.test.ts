/** Hadoop's s3a file system, as Spark uses it, against a real node; what it does is in hadoop-s3a. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { S3 } from '@aws-sdk/client-s3';
import { expect, test } from 'vitest';
import { cleanEnv, startNodeProcess } from '../../client/e2e/support/node-process.ts';

const PROJECT = join(import.meta.dirname, 'hadoop-s3a');
const KEY = { accessKeyId: 'EBBTESTKEY', secretAccessKey: 'a secret of the test' };
const execute = promisify(execFile);

test('s3a makes, writes, lists, renames and deletes', { timeout: 600_000 }, async () => {
  // With Maven, as the Spark plugin; what it fetches stays in its repository.
  await execute('mvn', ['-q', '-B', '-ntp', 'package'], { cwd: PROJECT });
  await using node = await startNodeProcess({
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
  const s3 = new S3({
    ...{ endpoint: node.s3Url, region: 'us-east-1', forcePathStyle: true, credentials: KEY },
  });
  await s3.createBucket({ Bucket: 'hadoop' });
  const classpath = (await readFile(join(PROJECT, 'target/classpath'), 'utf8')).trim();
  const { stdout } = await execute(
    'java',
    ['-cp', `${join(PROJECT, 'target/classes')}:${classpath}`, 'ebb.S3aCheck', 'hadoop'],
    {
      env: {
        ...{ ...cleanEnv(), S3_URL: node.s3Url },
        ...{ AWS_ACCESS_KEY_ID: KEY.accessKeyId, AWS_SECRET_ACCESS_KEY: KEY.secretAccessKey },
      },
    },
  );
  expect(stdout.trim().split('\n').at(-1)).toBe('emptied and deleted');
  // Nor does it leave uploads or markers of directories behind.
  expect((await s3.listObjectsV2({ Bucket: 'hadoop' })).Contents).toBeUndefined();
  expect((await s3.listMultipartUploads({ Bucket: 'hadoop' })).Uploads).toBeUndefined();
  s3.destroy();
});
