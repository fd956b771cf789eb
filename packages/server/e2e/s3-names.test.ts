/** Every character that a key may hold, through the parsers of the clients that people use, against a real node. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { S3 } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  cleanEnv,
  type NodeProcess,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';

const REPO = join(import.meta.dirname, '../../..');
const RCLONE = join(REPO, '.ebb/tools/rclone');
const KEY = { accessKeyId: 'EBBTESTKEY', secretAccessKey: 'any secret' };
/** All of one byte in UTF-8, some of more, and those that parsers change or drop where they stand alone. */
const KEYS: readonly string[] = [
  ...Array.from({ length: 0x7f }, (_, code) => `k${code + 1} a${String.fromCharCode(code + 1)}b`),
  ...['\u0080', '\u0085', '\u00a0', 'é', '\u2028', '\ufeff', '\ufffd', '𝄞'].map((c) => `m ${c}`),
  ...['\r', '\n', '\r\n', ' ', '\t', '  a', 'a ', '\ra', 'a\n', '&#13;', '%0D', 'a+b', '\u0001'],
];
/** Arrow and rclone know directories, so a slash is no part of a name. */
const NAMES = KEYS.filter((key) => !key.includes('/'));
let node: NodeProcess;
let s3: S3;

beforeAll(async () => {
  node = await startNodeProcess();
  s3 = new S3({
    ...{ endpoint: node.s3Url, region: 'us-east-1', forcePathStyle: true, credentials: KEY },
  });
});
afterAll(async () => {
  s3?.destroy();
  await node?.[Symbol.asyncDispose]();
});

async function run(program: string, args: readonly string[], env: Record<string, string>) {
  const { stdout } = await promisify(execFile)(program, args, {
    env: {
      ...{ ...cleanEnv(), S3_URL: node.s3Url, AWS_EC2_METADATA_DISABLED: 'true' },
      ...{ AWS_ACCESS_KEY_ID: KEY.accessKeyId, AWS_SECRET_ACCESS_KEY: KEY.secretAccessKey },
      ...env,
    },
  });
  return stdout.trim();
}

async function python(environment: string, script: string, keys: readonly string[]) {
  const program = join(REPO, '.ebb', environment, 'bin/python');
  expect(existsSync(program), 'the Python environment is set up: node scripts/setup.mjs').toBe(
    true,
  );
  const path = join(import.meta.dirname, script);
  return await run(program, [path], { S3_KEYS: JSON.stringify(keys) });
}

/** Without a sync for each of its objects. */
async function createBucket(name: string): Promise<void> {
  const headers = { 'x-ebb-preset': 'ephemeral' };
  const { status } = await fetch(`${node.s3Url}/${name}`, { method: 'PUT', headers });
  expect(status).toBe(200);
}

async function listed(Bucket: string, EncodingType?: 'url'): Promise<string[]> {
  const keys: string[] = [];
  let ContinuationToken: string | undefined;
  do {
    const page = await s3.listObjectsV2({ Bucket, ContinuationToken, EncodingType, MaxKeys: 50 });
    keys.push(...(page.Contents ?? []).map(({ Key }) => Key as string));
    ContinuationToken = page.NextContinuationToken;
  } while (ContinuationToken !== undefined);
  if (EncodingType === undefined) return keys.sort();
  return keys.map((key) => decodeURIComponent(key.replaceAll('+', ' '))).sort();
}

test('every character of a key comes back through the AWS SDK for JavaScript, and deletes just its object', async () => {
  const Bucket = 'sdk';
  await createBucket(Bucket);
  await Promise.all(KEYS.map(async (Key) => await s3.putObject({ Bucket, Key, Body: Key })));
  expect(await listed(Bucket, 'url')).toEqual([...KEYS].sort());
  // Its parser drops a text of nothing but line feeds.
  const shown = KEYS.map((key) => (/^[\r\n]*\n$/.test(key) ? '' : key)).sort();
  expect(await listed(Bucket)).toEqual(shown);
  const versions = await s3.listObjectVersions({ Bucket });
  expect(versions.Versions?.map(({ Key }) => Key as string).sort()).toEqual(shown);
  const Prefix = '\r';
  const below = await s3.listObjectsV2({ Bucket, Prefix, StartAfter: '\r', Delimiter: 'a' });
  expect(below).toMatchObject({ Prefix, StartAfter: '\r', CommonPrefixes: [{ Prefix: '\ra' }] });
  for (const Key of KEYS) {
    const { Deleted } = await s3.deleteObjects({ Bucket, Delete: { Objects: [{ Key }] } });
    expect(Deleted).toEqual([{ Key: shown.includes(Key) ? Key : '' }]);
  }
  expect(await listed(Bucket)).toEqual([]);
});

test('every character of a key comes back through boto3, and deletes just its object', async () => {
  await createBucket('boto');
  expect(await python('venv', 's3_names.py', KEYS)).toBe('all gone');
});

test('every character of a name comes back through Arrow, with a key and without, and a directory is deleted whole', async () => {
  await createBucket('arrow');
  expect(await python('python-client', 's3_names_arrow.py', NAMES)).toBe('all gone');
});

describe.skipIf(!existsSync(RCLONE))('rclone, where it is built', () => {
  test('every character of a name comes through rclone from bucket to bucket, and is purged', async () => {
    const [from, to] = ['rclone-from', 'rclone-to'];
    const rclone = async (...args: readonly string[]): Promise<string> =>
      await run(RCLONE, args, {
        ...{ RCLONE_CONFIG: '/dev/null', RCLONE_CONFIG_EBB_TYPE: 's3' },
        ...{ RCLONE_CONFIG_EBB_PROVIDER: 'Other', RCLONE_CONFIG_EBB_ENV_AUTH: 'true' },
        RCLONE_CONFIG_EBB_ENDPOINT: node.s3Url,
      });
    await createBucket(from);
    await createBucket(to);
    await Promise.all(
      NAMES.map(async (Key) => await s3.putObject({ Bucket: from, Key, Body: Key })),
    );
    await rclone('sync', `ebb:${from}`, `ebb:${to}`);
    expect(await listed(to, 'url')).toEqual([...NAMES].sort());
    await rclone('purge', `ebb:${to}`);
    await expect(s3.headBucket({ Bucket: to })).rejects.toThrow();
  });
});
