/** An Ebb node of the bench's own: started on a free port with empty folders, stopped and cleared away at the end. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { parseTierBytes, type TierBytes } from './metrics.ts';
import { PLACES } from './places.ts';
import { readCpuSeconds } from './proc-tree.ts';
import type { RunDir } from './run-dir.ts';

const READY_TIMEOUT_MS = 30_000;
const READY_POLL_MS = 50;
const STOP_TIMEOUT_MS = 20_000;
const COMMAND_TIMEOUT_MS = 60_000;

export interface EbbNodeOptions {
  name: string;
  run: RunDir;
  /** Tier 0, as the command line takes it: `2GiB`. */
  memoryLimit: string;
}

export class EbbNode implements AsyncDisposable {
  readonly url: string;
  readonly #child: ChildProcess;
  readonly #logFile: string;

  private constructor(url: string, child: ChildProcess, logFile: string) {
    this.url = url;
    this.#child = child;
    this.#logFile = logFile;
  }

  static async start({ name, run, memoryLimit }: EbbNodeOptions): Promise<EbbNode> {
    const dir = path.join(run.path, `node-${name}`);
    mkdirSync(dir, { recursive: true });
    const memoryDir = existsSync('/dev/shm')
      ? path.join('/dev/shm', `ebb-bench-${path.basename(run.path)}-${name}`)
      : path.join(dir, 'memory');
    run.own({ dir: memoryDir });
    const port = await findFreePort();
    const logFile = path.join(dir, 'node.log');
    const log = openSync(logFile, 'a');
    const flags = {
      data: path.join(dir, 'data'),
      'memory-dir': memoryDir,
      'memory-limit': memoryLimit,
      remote: `file://${path.join(dir, 'remote')}`,
      listen: `127.0.0.1:${port}`,
      's3-listen': 'off',
      socket: path.join(dir, 'ebb.sock'),
    };
    const args = Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, value]);
    const child = spawn(
      process.execPath,
      ['--conditions=source', PLACES.ebbCommand, 'node', ...args],
      {
        stdio: ['ignore', log, log],
      },
    );
    closeSync(log);
    if (child.pid !== undefined) run.own({ pid: child.pid, commandHas: memoryDir });
    const node = new EbbNode(`http://127.0.0.1:${port}`, child, logFile);
    try {
      await node.#waitUntilReady();
      return node;
    } catch (error) {
      await node[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** What Spark must be told, from the node's own command. */
  async readSparkSettings(): Promise<Record<string, string>> {
    const args = ['spark-conf', '--spark', '3.5', '--scala', '2.12', '--node', this.url];
    const command = ['--conditions=source', PLACES.ebbCommand, ...args];
    const { stdout } = await promisify(execFile)(process.execPath, command, {
      timeout: COMMAND_TIMEOUT_MS,
    });
    return parseProperties(stdout);
  }

  async readTierBytes(signal?: AbortSignal): Promise<TierBytes> {
    const response = await fetch(`${this.url}/metrics`, signal ? { signal } : {});
    return parseTierBytes(await response.text());
  }

  readCpuSeconds(): number {
    return readCpuSeconds(this.#child.pid ?? -1);
  }

  /** Resident memory of the daemon beside its tiers. */
  readRssBytes(): number {
    const pages = Number(readFileSync(`/proc/${this.#child.pid}/statm`, 'utf8').split(' ')[1]);
    return pages * 4096;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#hasEnded()) return;
    this.#child.kill('SIGTERM');
    const killer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await once(this.#child, 'exit');
    clearTimeout(killer);
  }

  async #waitUntilReady(): Promise<void> {
    const deadline = Date.now() + READY_TIMEOUT_MS;
    while (Date.now() < deadline) {
      if (this.#hasEnded())
        throw new Error(`the Ebb node ended while starting\n${this.#logTail()}`);
      const answer = await fetch(`${this.url}/readyz`).catch(() => undefined);
      if (answer?.status === 200) return;
      await sleep(READY_POLL_MS);
    }
    throw new Error(
      `the Ebb node was not ready after ${READY_TIMEOUT_MS / 1000} s\n${this.#logTail()}`,
    );
  }

  #hasEnded(): boolean {
    return (
      this.#child.exitCode !== null ||
      this.#child.signalCode !== null ||
      this.#child.pid === undefined
    );
  }

  #logTail(): string {
    const lines = readFileSync(this.#logFile, 'utf8').trimEnd().split('\n').slice(-20);
    return [...lines.map((line) => `    ${line}`), `  Its log: ${this.#logFile}`].join('\n');
  }
}

/** `key=value` lines; `#` starts a comment, as in a Java properties file. */
export function parseProperties(text: string): Record<string, string> {
  const lines = text.split('\n').filter((line) => line.trim() !== '' && !line.startsWith('#'));
  const entries = lines.map((line): [string, string] => {
    const at = line.indexOf('=');
    if (at <= 0) throw new Error(`not a key=value line: ${line}`);
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
  return Object.fromEntries(entries);
}

async function findFreePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return address.port;
}
