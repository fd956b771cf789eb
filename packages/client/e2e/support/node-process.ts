/** A real daemon in a process of its own, on temporary directories, for tests and benchmarks. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const REPO = join(import.meta.dirname, '../../../..');
const OWN_NODE = join(REPO, 'node_modules/.bin/node');

export interface NodeProcess extends AsyncDisposable {
  readonly url: string;
  /** Of the S3 surface. */
  readonly s3Url: string;
  readonly unixUrl: string;
  readonly socketPath: string;
  readonly dataDir: string;
  readonly memoryDir: string;
  readonly pid: number;
  /** What it wrote to standard error. */
  readonly log: () => string;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** SIGTERM; the exit code. */
  stop(): Promise<number>;
  /** On the same directories and address. */
  start(): Promise<void>;
}

export interface NodeProcessOptions {
  readonly memoryLimit?: string;
  readonly diskLimit?: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** The data directory is made in here; the system's own place for temporary files unless given. */
  readonly dataParent?: string;
  /** Limit of file descriptors. */
  readonly descriptors?: number;
  /** Of Node itself. */
  readonly nodeFlags?: readonly string[];
  /** Whose Ebb it is: another checkout than this one, to compare with. */
  readonly checkout?: string;
}

export async function startNodeProcess(options: NodeProcessOptions = {}): Promise<NodeProcess> {
  const dataDir = await mkdtemp(join(options.dataParent ?? tmpdir(), 'ebb-e2e-'));
  const memoryDir = await mkdtemp('/dev/shm/ebb-e2e-');
  const socketPath = join(dataDir, 'ebb.sock');
  let listen = '127.0.0.1:0';
  let child: ChildProcess | undefined;
  let url = '';
  let s3Url = '';
  let s3Listen: string | undefined;
  let log = '';

  const start = async (): Promise<void> => {
    const limit = options.descriptors;
    const [program, ...before] =
      limit === undefined
        ? ([OWN_NODE] as const)
        : (['sh', '-c', `ulimit -n ${limit}; exec "$@"`, 'sh', OWN_NODE] as const);
    const started = spawn(
      program,
      [
        ...before,
        ...(options.nodeFlags ?? []),
        '--conditions=source',
        join(options.checkout ?? REPO, 'packages/server/src/main.ts'),
        'node',
        `--data=${dataDir}`,
        `--memory-dir=${memoryDir}`,
        `--socket=${socketPath}`,
        `--listen=${listen}`,
        `--memory-limit=${options.memoryLimit ?? '256MiB'}`,
        `--disk-limit=${options.diskLimit ?? '2GiB'}`,
        ...(s3Listen === undefined ? [] : [`--s3-listen=${s3Listen}`]),
        ...(options.args ?? []),
      ],
      { stdio: ['ignore', 'ignore', 'pipe'], env: { ...cleanEnv(), ...options.env } },
    );
    child = started;
    url = await new Promise<string>((resolve, reject) => {
      started.once('exit', (code) => reject(new Error(`the node ended with ${code}:\n${log}`)));
      const lines = createInterface({ input: started.stderr as NodeJS.ReadableStream });
      lines.on('line', (line) => {
        log += `${line}\n`;
        const ready = /"url":"([^"]+)","s3Url":"([^"]+)".*"msg":"ready"/.exec(line);
        if (ready === null) return;
        s3Url = ready[2] as string;
        resolve(ready[1] as string);
      });
    });
    listen = new URL(url).host; // a restart takes the same ports
    s3Listen = new URL(s3Url).host;
  };
  const end = async (signal: NodeJS.Signals): Promise<number> => {
    const running = child;
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return 0;
    const exited = once(running, 'exit');
    running.kill(signal);
    const [code] = (await exited) as [number | null];
    return code ?? -1;
  };

  await start();
  return {
    get url() {
      return url;
    },
    get s3Url() {
      return s3Url;
    },
    unixUrl: `unix://${socketPath}`,
    socketPath,
    dataDir,
    memoryDir,
    get pid() {
      return child?.pid ?? -1;
    },
    log: () => log,
    start,
    kill: async () => {
      await end('SIGKILL');
    },
    stop: () => end('SIGTERM'),
    async [Symbol.asyncDispose]() {
      await end('SIGKILL');
      await rm(dataDir, { recursive: true, force: true });
      await rm(memoryDir, { recursive: true, force: true });
    },
  };
}

/** Without settings of the machine's own node. */
export function cleanEnv(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('EBB_')),
  );
}
