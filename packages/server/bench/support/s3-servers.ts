/**
 * S3 servers to measure side by side: each a process of its own with its data on tmpfs, on a port of 127.0.0.1, and each
 * verifies signatures with the same key. MinIO and versitygw are built by `npm run setup:peers`.
 *
 * `ebb` keeps what it is sent as versitygw does: once, with no sync. `ebb-buffered` is a bucket as S3's CreateBucket makes
 * it: each object is written to tier 0, copied to tier 1 and synced there before the answer, and copied to tier 2 after it.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { cleanEnv, startNodeProcess } from '../../../client/e2e/support/node-process.ts';
import { HEAP_FLAGS } from './figures.ts';

const TOOLS = join(import.meta.dirname, '../../../../.ebb/tools');
const TMPFS = '/dev/shm';

export const SERVER_NAMES = ['ebb', 'ebb-buffered', 'minio', 'versitygw'] as const;
export type ServerName = (typeof SERVER_NAMES)[number];

export const KEY = { accessKeyId: 'BENCHKEYID', secretAccessKey: 'a-secret-of-the-benchmark' };

export interface S3Server extends AsyncDisposable {
  readonly name: ServerName;
  readonly port: number;
  readonly pid: number;
  /** Makes a bucket where not S3's own call is what does it. */
  readonly createBucket?: (name: string) => Promise<void>;
}

/** Why a server cannot be measured here; undefined when it can. */
export function whyAbsent(name: ServerName): string | undefined {
  if (isEbb(name)) return undefined;
  try {
    accessSync(join(TOOLS, name), constants.X_OK);
    return undefined;
  } catch {
    return `no ${name}: \`npm run setup:peers -- --only ${name}\` builds it`;
  }
}

/** How Ebb's process is started. */
interface EbbOptions {
  /** Beside those that it always has: `--cpu-prof` and its like. */
  readonly nodeFlags?: readonly string[];
  /** The sources of another checkout than this one. */
  readonly checkout?: string;
}

/** `parent`: where the server's data is; on tmpfs unless given. */
export async function startServer(
  name: ServerName,
  { parent = TMPFS, ...options }: EbbOptions & { readonly parent?: string } = {},
): Promise<S3Server> {
  return isEbb(name) ? await startEbb(name, parent, options) : await startPeer(name, parent);
}

export function isEbb(name: ServerName): name is 'ebb' | 'ebb-buffered' {
  return name.startsWith('ebb');
}

async function startEbb(
  name: 'ebb' | 'ebb-buffered',
  dataParent: string,
  { nodeFlags = [], checkout }: EbbOptions,
): Promise<S3Server> {
  const node = await startNodeProcess({
    dataParent,
    memoryLimit: '4GiB',
    args: ['--log-level=info'],
    nodeFlags: [...HEAP_FLAGS, ...nodeFlags],
    ...(checkout === undefined ? {} : { checkout }),
    env: { EBB_ACCESS_KEY_ID: KEY.accessKeyId, EBB_SECRET_ACCESS_KEY: KEY.secretAccessKey },
  });
  return {
    ...{ name, pid: node.pid, port: Number(new URL(node.s3Url).port) },
    ...(name === 'ebb' ? { createBucket: (bucket) => createEphemeral(node.url, bucket) } : {}),
    [Symbol.asyncDispose]: async () => {
      await node.stop(); // so that a profile is written
      await node[Symbol.asyncDispose]();
    },
  };
}

/** Of an Ebb node: nothing in it is copied or synced. */
export async function createEphemeral(url: string, bucket: string): Promise<void> {
  const { ok, status } = await fetch(`${url}/v1/buckets/${bucket}`, {
    method: 'PUT',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ preset: 'ephemeral' }),
  });
  if (!ok) throw new Error(`bucket not made: ${status}`);
}

async function startPeer(name: 'minio' | 'versitygw', parent: string): Promise<S3Server> {
  const directory = await mkdtemp(join(parent, `ebb-bench-${name}-`));
  const port = await freePort();
  const address = `127.0.0.1:${port}`;
  const { accessKeyId, secretAccessKey } = KEY;
  const commands = {
    minio: {
      args: [
        'server',
        '--quiet',
        '--address',
        address,
        '--console-address',
        '127.0.0.1:0',
        directory,
      ],
      env: { MINIO_ROOT_USER: accessKeyId, MINIO_ROOT_PASSWORD: secretAccessKey },
    },
    versitygw: {
      args: ['--port', address, '--quiet', 'posix', directory],
      env: { ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
    },
  };
  const { args, env } = commands[name];
  const child = spawn(join(TOOLS, name), args, {
    stdio: 'ignore',
    env: { ...cleanEnv(), ...env },
  });
  const exited = once(child, 'exit');
  return {
    ...{ name, port, pid: child.pid as number },
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL');
      await exited;
      await rm(directory, { recursive: true, force: true });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' ? (address?.port ?? 0) : 0;
}
