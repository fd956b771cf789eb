/**
 * A bucket mounted as a directory: `rclone mount` on the S3 surface of a real node, and programs that know nothing of
 * S3 in it. The mount lies in a namespace of its own, which ends with rclone; the test looks into it through
 * `/proc/PID/root`.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import {
  appendFile,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { S3 } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import {
  cleanEnv,
  type NodeProcess,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';

const REPO = join(import.meta.dirname, '../../..');
const RCLONE = process.env['EBB_TEST_RCLONE'] ?? join(REPO, '.ebb/tools/rclone');
const KEY = { accessKeyId: 'MOUNTKEY', secretAccessKey: 'a secret under a mount' };
const MiB = 1024 * 1024;
const DIRECTORY = mkdtempSync(join(tmpdir(), 'ebb-mount-'));
/** rclone calls fusermount3 for its mount, and finds the stand-in. */
const BIN = join(DIRECTORY, 'bin');
mkdirSync(BIN);
symlinkSync(join(import.meta.dirname, 'support/fusermount3.py'), join(BIN, 'fusermount3'));
const PATH = `${BIN}:${process.env['PATH']}`;
/** Whoever is not root becomes it in a namespace of users. */
const UNSHARE = process.getuid?.() === 0 ? ['--mount'] : ['--map-root-user', '--mount'];

const whyNot = findObstacle();
if (whyNot !== undefined) {
  process.stderr.write(`skipped: S3 under a mount; ${whyNot}\n`);
  rmSync(DIRECTORY, { recursive: true });
}

/** Why nothing can be mounted here. */
function findObstacle(): string | undefined {
  if (!existsSync(RCLONE))
    return 'no rclone: `npm run setup:peers -- --only rclone` builds one, EBB_TEST_RCLONE names another';
  const directory = join(DIRECTORY, 'tried');
  mkdirSync(directory);
  // Mounted for nobody, and gone with its namespace. A pipe of Node is a socket, which takes the descriptor.
  const tried = spawnSync('unshare', [...UNSHARE, 'fusermount3', '-o', '', '--', directory], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    env: { ...process.env, PATH, _FUSE_COMMFD: '3' },
    timeout: 20_000,
  });
  if (tried.status === 0) return undefined;
  return tried.error?.message ?? (tried.stderr.toString().trim().split('\n').at(-1) || 'killed');
}

let node: NodeProcess;
let s3: S3;
/** Each ends with its test; where a test hangs in a mount, here. */
const started: ChildProcess[] = [];

beforeAll(async () => {
  node = await startNodeProcess({
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
  s3 = new S3({
    ...{ endpoint: node.s3Url, region: 'us-east-1', forcePathStyle: true, credentials: KEY },
  });
});
afterAll(async () => {
  for (const child of started) child.kill('SIGKILL');
  s3?.destroy();
  await node?.[Symbol.asyncDispose]();
  await rm(DIRECTORY, { recursive: true, force: true });
});

interface Mount extends AsyncDisposable {
  /** The directory, as this process sees it. */
  readonly path: string;
  untilLogged(text: string): Promise<void>;
  /** SIGTERM: rclone unmounts and ends; what it logged. */
  stop(): Promise<string>;
}

/** What others change over S3 is seen at once; as rclone comes, after five minutes. */
const UNCACHED_NAMES = ['--dir-cache-time=0s', '--attr-timeout=0s'];
const CACHED_FILES = ['--vfs-cache-mode=full', '--vfs-write-back=0s'];

async function openMount(bucket: string, ...flags: readonly string[]): Promise<Mount> {
  const directory = join(DIRECTORY, bucket);
  await mkdir(directory, { recursive: true });
  const command = [
    ...[RCLONE, 'mount', `ebb:${bucket}`, directory, '--cache-dir', join(DIRECTORY, 'cache')],
    ...['--s3-upload-cutoff', '10M', ...flags],
  ];
  const child = spawn('unshare', [...UNSHARE, ...command], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: {
      ...cleanEnv(),
      ...{ PATH, HOME: DIRECTORY, RCLONE_CONFIG: '/dev/null', RCLONE_CONFIG_EBB_TYPE: 's3' },
      ...{ RCLONE_CONFIG_EBB_PROVIDER: 'Other', RCLONE_CONFIG_EBB_ENDPOINT: node.s3Url },
      RCLONE_CONFIG_EBB_ACCESS_KEY_ID: KEY.accessKeyId,
      RCLONE_CONFIG_EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey,
    },
  });
  started.push(child);
  let log = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text;
  });
  const closed = once(child, 'close');
  const failed = closed.then(([code]) => {
    throw new Error(`rclone ended with ${code}:\n${log}`);
  });
  failed.catch(() => undefined); // it ends at last
  await Promise.race([failed, untilMounted(child, directory)]);
  return {
    path: join(`/proc/${child.pid}/root`, directory),
    untilLogged: (text) =>
      vi.waitFor(() => expect(log).toContain(text), { timeout: 60_000, interval: 10 }),
    async stop() {
      child.kill('SIGTERM');
      await closed;
      return log;
    },
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await closed;
    },
  };
}

async function untilMounted({ pid }: ChildProcess, directory: string): Promise<void> {
  await vi.waitFor(
    () => expect(readFileSync(`/proc/${pid}/mountinfo`, 'utf8')).toContain(` ${directory} `),
    { timeout: 60_000 },
  );
}

async function run(command: string, ...args: readonly string[]): Promise<string> {
  return (await promisify(execFile)(command, args)).stdout;
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

async function objectsOf(bucket: string): Promise<Record<string, number | undefined>> {
  const { Contents = [] } = await s3.listObjectsV2({ Bucket: bucket });
  return Object.fromEntries(Contents.map(({ Key, Size }) => [Key, Size]));
}

async function objectOf(bucket: string, key: string): Promise<Uint8Array> {
  const { Body } = await s3.getObject({ Bucket: bucket, Key: key });
  return (await Body?.transformToByteArray()) as Uint8Array;
}

/** rclone calls that an error, and it is the only one. */
function expectUnmounted(log: string): void {
  const errors = log.split('\n').filter((line) => line.includes('ERROR'));
  expect(errors).toEqual([expect.stringContaining('Unmounted rclone mount')]);
}

/** With a cache, rclone answers `close` first and sends the file then. */
async function untilObjects(bucket: string, objects: Record<string, number>): Promise<void> {
  await vi.waitFor(async () => expect(await objectsOf(bucket)).toEqual(objects), {
    timeout: 60_000,
  });
}

describe.skipIf(whyNot !== undefined).each([
  ['as it comes, without a cache', 'plain', [] as string[]],
  ['with its cache of files', 'cached', CACHED_FILES],
])('a bucket that rclone mounts %s', (_, bucket, flags) => {
  test('takes files, lists, reads, renames and deletes them; each is an object', async () => {
    await s3.createBucket({ Bucket: bucket });
    await using mount = await openMount(bucket, ...flags);
    const files = new Map([
      ['small.txt', Buffer.from('small')],
      ['empty', Buffer.alloc(0)],
      ['in/ünï & 日本.bin', randomBytes(70_000)],
      ['in/large.bin', randomBytes(20 * MiB + 7)],
    ]);
    const local = join(DIRECTORY, `${bucket}-local`);
    await mkdir(join(local, 'in'), { recursive: true });
    for (const [name, bytes] of files) await writeFile(join(local, name), bytes);
    expect(await readdir(mount.path)).toEqual([]);

    await run('cp', '--recursive', '--preserve=timestamps', `${local}/.`, mount.path);
    await untilObjects(
      bucket,
      Object.fromEntries([...files].map(([k, { length }]) => [k, length])),
    );
    for (const [name, bytes] of files) {
      expect(sha256(await objectOf(bucket, name)), name).toBe(sha256(bytes));
      expect(await run('sha256sum', join(mount.path, name))).toContain(sha256(bytes));
      const [there, here] = await Promise.all([
        stat(join(mount.path, name)),
        stat(join(local, name)),
      ]);
      expect(there.size).toBe(bytes.length);
      expect(Math.abs(there.mtimeMs - here.mtimeMs), name).toBeLessThan(1);
    }
    expect((await run('ls', mount.path)).split('\n')).toEqual(['empty', 'in', 'small.txt', '']);
    await run('diff', '--recursive', local, mount.path);

    await run('mv', join(mount.path, 'small.txt'), join(mount.path, 'in/moved.txt'));
    await rename(join(mount.path, 'in'), join(mount.path, 'out'));
    await run('rm', join(mount.path, 'empty'));
    await expect(stat(join(mount.path, 'in'))).rejects.toMatchObject({ code: 'ENOENT' });
    const left = {
      'out/moved.txt': 5,
      'out/large.bin': 20 * MiB + 7,
      'out/ünï & 日本.bin': 70_000,
    };
    await untilObjects(bucket, left);
    const large = files.get('in/large.bin') as Buffer;
    expect(sha256(await readFile(join(mount.path, 'out/large.bin')))).toBe(sha256(large));

    // An end in order, and another mount: everything is in the bucket.
    expectUnmounted(await mount.stop());
    await using again = await openMount(bucket, ...flags);
    expect((await readdir(join(again.path, 'out'))).sort()).toEqual(
      Object.keys(left)
        .map((key) => key.slice('out/'.length))
        .sort(),
    );
    expect(sha256(await readFile(join(again.path, 'out/large.bin')))).toBe(sha256(large));
    await run('rm', '--recursive', join(again.path, 'out'));
    await untilObjects(bucket, {});
  });

  test('shows what is put, replaced and deleted over S3', async () => {
    const name = `${bucket}-shown`;
    await s3.createBucket({ Bucket: name });
    await using mount = await openMount(name, ...UNCACHED_NAMES, ...flags);
    const path = join(mount.path, 'from/s3.bin');
    const first = randomBytes(20 * MiB);
    await s3.putObject({ Bucket: name, Key: 'from/s3.bin', Body: first });
    expect(await readdir(mount.path)).toEqual(['from']);
    expect((await stat(path)).size).toBe(first.length);

    // Ranges, before anything has read the whole: forwards, backwards and over the end.
    await using file = await open(path);
    for (const at of [0, 9 * MiB + 1, 3 * MiB - 5, first.length - 10]) {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(100_000), 0, 100_000, at);
      const expected = first.subarray(at, at + 100_000);
      expect(buffer.subarray(0, bytesRead).equals(expected), `${at}`).toBe(true);
    }
    await file.close();
    expect(sha256(await readFile(path))).toBe(sha256(first));

    const second = randomBytes(100_000);
    await s3.putObject({ Bucket: name, Key: 'from/s3.bin', Body: second });
    expect(sha256(await readFile(path))).toBe(sha256(second));
    await s3.deleteObject({ Bucket: name, Key: 'from/s3.bin' });
    await expect(stat(path)).rejects.toMatchObject({ code: 'ENOENT' });
    expectUnmounted(await mount.stop());
  });
});

test.skipIf(whyNot !== undefined)(
  "files are changed in place with rclone's cache, which stores a new object, and not without",
  async () => {
    await s3.createBucket({ Bucket: 'changed' });
    await s3.putObject({ Bucket: 'changed', Key: 'file', Body: 'abcdefgh' });
    {
      await using plain = await openMount('changed');
      const appended = appendFile(join(plain.path, 'file'), '-more');
      await expect(appended).rejects.toMatchObject({ code: 'ESPIPE' });
      expect(await readFile(join(plain.path, 'file'), 'utf8')).toBe('abcdefgh');
    }
    await using mount = await openMount('changed', ...CACHED_FILES);
    const path = join(mount.path, 'file');
    const holds = async (expected: string): Promise<void> => {
      expect(await readFile(path, 'utf8')).toBe(expected);
      await vi.waitFor(
        async () =>
          expect(Buffer.from(await objectOf('changed', 'file')).toString()).toBe(expected),
        { timeout: 60_000 },
      );
    };
    await appendFile(path, '-more');
    await holds('abcdefgh-more');
    {
      await using file = await open(path, 'r+');
      await file.write('XY', 2);
    }
    await holds('abXYefgh-more');
    await run('truncate', '--size=4', path);
    await holds('abXY');
    expectUnmounted(await mount.stop());
  },
);

test.skipIf(whyNot !== undefined)(
  'with its cache, what a killed rclone had queued is sent by the next mount',
  async () => {
    await s3.createBucket({ Bucket: 'late' });
    const bytes = randomBytes(MiB);
    {
      const flags = ['--vfs-cache-mode=full', '--vfs-write-back=1h', '--verbose'];
      await using mount = await openMount('late', ...flags);
      await writeFile(join(mount.path, 'file'), bytes);
      // Up to here, which is after the close, a kill can cost the file: rclone writes its notes of it in place.
      await mount.untilLogged('queuing for upload');
      expect(await objectsOf('late')).toEqual({});
    }
    await using mount = await openMount('late', ...CACHED_FILES);
    await untilObjects('late', { file: bytes.length });
    expect(sha256(await objectOf('late', 'file'))).toBe(sha256(bytes));
    expectUnmounted(await mount.stop());
  },
);

test.skipIf(whyNot !== undefined)(
  'an empty directory stays when rclone keeps directories as objects, and is gone otherwise',
  async () => {
    await s3.createBucket({ Bucket: 'directories' });
    const flags = ['--s3-directory-markers', ...UNCACHED_NAMES];
    {
      await using mount = await openMount('directories', ...flags);
      await mkdir(join(mount.path, 'kept/below'), { recursive: true });
      expect(await objectsOf('directories')).toEqual({ 'kept/': 0, 'kept/below/': 0 });
      await rmdir(join(mount.path, 'kept/below'));
      expectUnmounted(await mount.stop());
    }
    await using plain = await openMount('directories');
    expect(await readdir(plain.path)).toEqual(['kept']);
    await mkdir(join(plain.path, 'forgotten'));
    expectUnmounted(await plain.stop());
    await using mount = await openMount('directories', ...flags);
    expect(await readdir(mount.path)).toEqual(['kept']);
    await rmdir(join(mount.path, 'kept'));
    expect(await objectsOf('directories')).toEqual({});
    expectUnmounted(await mount.stop());
  },
);
