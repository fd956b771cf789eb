/**
 * Clients that people use, as they come, against a real node with access keys: the AWS CLI, curl with links, rclone, and
 * MinIO's Go client. Those in Go are built when Go is on the machine, once (scripts/setup-peers.mjs).
 */
import { execFile, execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { S3 } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  cleanEnv,
  type NodeProcess,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';
import { signForm } from '../src/testing/sign-s3.ts';

const REPO = join(import.meta.dirname, '../../..');
const AWS = join(REPO, '.ebb/venv/bin/aws');
const KEY = { accessKeyId: 'EBBTESTKEY', secretAccessKey: 'a secret of the test' };
const MiB = 1024 * 1024;
const BUILD_MS = 900_000;
let node: NodeProcess;
let directory: string;

beforeAll(async () => {
  node = await startNodeProcess({
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
  directory = await mkdtemp(join(tmpdir(), 'ebb-clients-'));
});
afterAll(async () => {
  await node[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

function environment(): NodeJS.ProcessEnv {
  return {
    ...cleanEnv(),
    ...{ AWS_ACCESS_KEY_ID: KEY.accessKeyId, AWS_SECRET_ACCESS_KEY: KEY.secretAccessKey },
    ...{ AWS_DEFAULT_REGION: 'us-east-1', AWS_EC2_METADATA_DISABLED: 'true' },
    // No settings of whoever runs the test.
    AWS_CONFIG_FILE: join(directory, 'no-config'),
    AWS_SHARED_CREDENTIALS_FILE: join(directory, 'no-credentials'),
    ...{ AWS_ENDPOINT_URL: node.s3Url, S3_URL: node.s3Url, HOME: directory },
  };
}

async function run(
  command: string,
  args: readonly string[],
  more: NodeJS.ProcessEnv = {},
): Promise<string> {
  const { stdout } = await promisify(execFile)(command, args, {
    ...{ env: { ...environment(), ...more }, maxBuffer: 64 * MiB },
  });
  return stdout;
}

/** Files to send about, in a folder of their own: an empty one, a large one, and names that need care. */
async function makeFiles(name: string): Promise<ReadonlyMap<string, Buffer>> {
  const files = new Map([
    ['plain.txt', Buffer.from('plain')],
    ['empty', Buffer.alloc(0)],
    ['with space & +.bin', randomBytes(70_000)],
    ['ünï/日本/100%.dat', randomBytes(1000)],
    ['large.bin', randomBytes(20 * MiB)],
  ]);
  for (const [file, bytes] of files) {
    const path = join(directory, name, file);
    await mkdir(join(path, '..'), { recursive: true });
    await writeFile(path, bytes);
  }
  return files;
}

async function expectFiles(name: string, files: ReadonlyMap<string, Buffer>): Promise<void> {
  for (const [file, bytes] of files)
    expect((await readFile(join(directory, name, file))).equals(bytes), file).toBe(true);
}

describe('the AWS CLI', () => {
  const aws = async (...args: readonly string[]): Promise<string> => await run(AWS, args);

  test('copies, lists, synchronises, moves and removes', { timeout: 300_000 }, async () => {
    expect(existsSync(AWS), 'the Python environment is set up: node scripts/setup.mjs').toBe(true);
    const files = await makeFiles('cli');
    await aws('s3', 'mb', 's3://cli');
    expect(await aws('s3', 'ls')).toContain('cli');
    await aws('s3', 'cp', '--recursive', '--quiet', join(directory, 'cli'), 's3://cli/up/');
    const listed = await aws('s3', 'ls', '--recursive', 's3://cli/up/');
    expect(listed.trim().split('\n')).toHaveLength(files.size);
    expect(listed).toContain('up/ünï/日本/100%.dat');
    expect(await aws('s3', 'ls', 's3://cli/up/')).toContain('PRE ünï/');

    await aws('s3', 'sync', '--quiet', 's3://cli/up/', join(directory, 'cli-down'));
    await expectFiles('cli-down', files);
    // Nothing to do the second time.
    expect(await aws('s3', 'sync', 's3://cli/up/', join(directory, 'cli-down'))).toBe('');
    await rm(join(directory, 'cli', 'plain.txt'));
    const synced = await aws('s3', 'sync', '--delete', join(directory, 'cli'), 's3://cli/up/');
    expect(synced.match(/^(upload|delete): .*$/gm)).toEqual(['delete: s3://cli/up/plain.txt']);

    await aws('s3', 'cp', '--quiet', 's3://cli/up/large.bin', 's3://cli/copied.bin');
    await aws('s3', 'mv', '--quiet', '--recursive', 's3://cli/up/', 's3://cli/moved/');
    expect(await aws('s3', 'ls', '--recursive', 's3://cli/moved/')).toContain('large.bin');
    await aws('s3', 'mv', '--quiet', 's3://cli/copied.bin', join(directory, 'copied.bin'));
    const large = files.get('large.bin') as Buffer;
    expect((await readFile(join(directory, 'copied.bin'))).equals(large)).toBe(true);
    await expect(aws('s3', 'rb', 's3://cli')).rejects.toThrow('BucketNotEmpty');
    await aws('s3', 'rm', '--quiet', '--recursive', 's3://cli');
    expect(await aws('s3', 'ls', '--recursive', 's3://cli')).toBe('');
    await aws('s3', 'rb', 's3://cli');
  });

  test('its s3api sets and tells what is kept with objects and buckets', {
    timeout: 300_000,
  }, async () => {
    const api = async (...args: readonly string[]): Promise<Record<string, unknown>> => {
      const out = await aws('s3api', ...args, '--output', 'json');
      return out.trim() === '' ? {} : (JSON.parse(out) as Record<string, unknown>);
    };
    const at = ['--bucket', 'api', '--key', 'a b'];
    const file = join(directory, 'api.txt');
    await writeFile(file, 'of the api');
    await api('create-bucket', '--bucket', 'api');
    const put = await api(
      ...['put-object', ...at, '--body', file, '--metadata', 'who=cli'],
      ...['--checksum-algorithm', 'SHA256', '--tagging', 'a=1'],
    );
    expect(put).toMatchObject({ ChecksumType: 'FULL_OBJECT' });
    expect(await api('head-object', ...at, '--checksum-mode', 'ENABLED')).toMatchObject({
      ...{ Metadata: { who: 'cli' }, ChecksumSHA256: put['ChecksumSHA256'], ContentLength: 10 },
    });
    expect(await api('get-object-tagging', ...at)).toEqual({ TagSet: [{ Key: 'a', Value: '1' }] });
    await expect(api('put-object', ...at, '--body', file, '--if-none-match', '*')).rejects.toThrow(
      'PreconditionFailed',
    );
    const got = join(directory, 'api-got.txt');
    await api('get-object', ...at, '--range', 'bytes=3-5', got);
    expect(await readFile(got, 'utf8')).toBe('the');
    const rules = { CORSRules: [{ AllowedMethods: ['GET'], AllowedOrigins: ['*'] }] };
    await api('put-bucket-cors', '--bucket', 'api', '--cors-configuration', JSON.stringify(rules));
    expect(await api('get-bucket-cors', '--bucket', 'api')).toMatchObject(rules);
    await expect(api('put-bucket-policy', '--bucket', 'api', '--policy', '{}')).rejects.toThrow(
      'NotImplemented',
    );
    const { UploadId } = await api('create-multipart-upload', ...at);
    expect(await api('list-multipart-uploads', '--bucket', 'api')).toMatchObject({
      Uploads: [{ Key: 'a b', UploadId }],
    });
    await api('abort-multipart-upload', ...at, '--upload-id', UploadId as string);
  });

  test('makes links that curl follows, until they expire', { timeout: 120_000 }, async () => {
    const file = join(directory, 'link.txt');
    await writeFile(file, 'linked');
    await aws('s3', 'mb', 's3://links');
    await aws('s3', 'cp', '--quiet', file, 's3://links/ä +link.txt');
    // In us-east-1 this version of the CLI still makes links of signature version 2.
    const link = (
      await aws(
        's3',
        'presign',
        's3://links/ä +link.txt',
        '--expires-in',
        '60',
        '--region',
        'eu-central-1',
      )
    ).trim();
    const curl = async (url: string): Promise<string> =>
      await run('curl', ['--silent', '--write-out', '%{http_code}', url]);
    expect(await curl(link)).toBe('linked200');
    expect(await curl(link.replace('link.txt', 'other.txt'))).toMatch(
      /SignatureDoesNotMatch.*403$/s,
    );
    expect(await curl(link.replace(/X-Amz-Date=\d{4}/, 'X-Amz-Date=2020'))).toMatch(/403$/);
    expect(await curl(`${node.s3Url}/links/link.txt`)).toMatch(/AccessDenied.*403$/s);
  });
});

test('curl sends a form with a large file, which the node does not hold in memory', {
  timeout: 300_000,
}, async () => {
  const s3 = new S3({
    ...{ endpoint: node.s3Url, region: 'us-east-1', forcePathStyle: true, credentials: KEY },
  });
  await s3.createBucket({ Bucket: 'forms' });
  const [file, sizeBytes] = [join(directory, 'form file.bin'), 200 * MiB];
  const piece = randomBytes(MiB);
  const whole = Buffer.concat(Array.from({ length: 200 }, () => piece));
  await writeFile(file, whole);
  const fields = signForm(KEY, {
    conditions: [
      ...[{ bucket: 'forms' }, ['starts-with', '$key', 'in/']],
      ['content-length-range', sizeBytes, sizeBytes],
    ],
  });
  const form = Object.entries({ ...fields, key: 'in/${filename}' });
  const before = await peakMemoryBytes();
  const status = await run('curl', [
    ...['--silent', '--output', '/dev/null', '--write-out', '%{http_code}'],
    ...form.flatMap(([name, value]) => ['--form-string', `${name}=${value}`]),
    ...['--form', `file=@${file}`, `${node.s3Url}/forms`],
  ]);
  expect(status).toBe('204');
  expect((await peakMemoryBytes()) - before).toBeLessThan(sizeBytes / 2);
  const { Body, ContentLength } = await s3.getObject({ Bucket: 'forms', Key: 'in/form file.bin' });
  expect(ContentLength).toBe(sizeBytes);
  expect(whole.equals((await Body?.transformToByteArray()) as Uint8Array)).toBe(true);
  s3.destroy();
});

/** The most that the node held so far. */
async function peakMemoryBytes(): Promise<number> {
  const status = await readFile(`/proc/${node.pid}/status`, 'utf8');
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

const hasGo = canRun('go', 'version');
const noGo = hasGo ? '' : ' (skipped: no Go on this machine to build it with)';

describe.skipIf(!hasGo)(`clients in Go${noGo}`, () => {
  async function build(name: string): Promise<string> {
    const tool = join(REPO, '.ebb/tools', name);
    await promisify(execFile)(
      join(REPO, 'node_modules/.bin/node'),
      [join(REPO, 'scripts/setup-peers.mjs'), '--only', name],
      { maxBuffer: 64 * MiB },
    );
    return tool;
  }

  test("MinIO's", { timeout: BUILD_MS }, async () => {
    const out = await run(await build('minio-go'), []);
    expect(out.trim().split('\n').at(-1)).toBe('emptied and deleted');
  });

  test('rclone copies, checks, serves ranges, moves and purges', {
    timeout: BUILD_MS,
  }, async () => {
    const tool = await build('rclone');
    const config = {
      ...{ RCLONE_CONFIG: '/dev/null', RCLONE_CONFIG_EBB_TYPE: 's3' },
      ...{ RCLONE_CONFIG_EBB_PROVIDER: 'Other', RCLONE_CONFIG_EBB_ENV_AUTH: 'true' },
      RCLONE_CONFIG_EBB_ENDPOINT: node.s3Url,
      RCLONE_S3_UPLOAD_CUTOFF: '10M',
    };
    const rclone = async (...args: readonly string[]): Promise<string> =>
      await run(tool, args, config);
    const files = await makeFiles('rclone');
    const local = join(directory, 'rclone');
    await rclone('mkdir', 'ebb:rclone');
    await rclone('copy', local, 'ebb:rclone/up');
    const names = (await rclone('lsf', '--recursive', '--files-only', 'ebb:rclone/up')).trim();
    expect(names.split('\n').sort()).toEqual([...files.keys()].sort());
    // Reads every byte back.
    await rclone('check', '--download', local, 'ebb:rclone/up');
    expect(await rclone('cat', '--offset', '2', '--count', '2', 'ebb:rclone/up/plain.txt')).toBe(
      'ai',
    );
    await rclone('sync', 'ebb:rclone/up', 'ebb:rclone/copied');
    await rclone('moveto', 'ebb:rclone/up/large.bin', 'ebb:rclone/moved/large.bin');
    await rclone('copy', 'ebb:rclone/copied', join(directory, 'rclone-down'));
    await expectFiles('rclone-down', files);
    // Modification times are metadata: a second sync has nothing to do.
    const again = await promisify(execFile)(
      tool,
      ['sync', '--stats-one-line', '-v', local, 'ebb:rclone/copied'],
      { env: { ...environment(), ...config } },
    );
    expect(again.stderr).not.toMatch(/Copied|Deleted/);
    await rclone('purge', 'ebb:rclone');
    expect(await rclone('lsd', 'ebb:')).not.toContain('rclone');
  });
});

function canRun(command: string, ...args: readonly string[]): boolean {
  try {
    execFileSync(command, args, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
