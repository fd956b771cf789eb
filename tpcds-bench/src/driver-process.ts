/** Talking to a Spark application: JSON lines over the pipes of `driver/driver.py`. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { isAlive, type ProcessFacts, readTree } from './proc-tree.ts';

const CLOSE_TIMEOUT_MS = 15_000;
const POLL_MS = 50;

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class DriverProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #logFile: string;
  readonly #waiting = new Map<number, Waiting>();
  readonly #ended: Promise<void>;
  #nextId = 1;
  #hasEnded = false;
  /** Everything below the application at the moment when it was told to end: its JVMs outlive it for a while. */
  #family: ProcessFacts[] = [];

  constructor(options: {
    python: string;
    script: string;
    env: NodeJS.ProcessEnv;
    logFile: string;
    /** Ends the application at once, in the middle of a query if need be. */
    signal: AbortSignal;
  }) {
    this.#logFile = options.logFile;
    const log = openSync(options.logFile, 'a');
    this.#child = spawn(options.python, [options.script], {
      env: options.env,
      stdio: ['pipe', 'pipe', log],
    });
    closeSync(log);
    options.signal.addEventListener('abort', () => this.#interrupt(), { once: true });
    this.#ended = new Promise((resolve) => {
      this.#child.once('error', (error) => this.#fail(error.message, resolve));
      this.#child.once('exit', (code, signal) =>
        this.#fail(`it ended (${signal ?? `code ${code}`})`, resolve),
      );
    });
    // A write to a process that just died fails here too; the exit above says more.
    this.#child.stdin?.on('error', () => {});
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (line) =>
      this.#receive(line),
    );
  }

  get pid(): number {
    return this.#child.pid ?? -1;
  }

  /** One request, one reply. Requests may overlap; rejects when the application fails it, or ends. */
  ask<T>(op: string, args: Record<string, unknown> = {}): Promise<T> {
    if (this.#hasEnded) return Promise.reject(new Error('the Spark application is gone'));
    const id = this.#nextId++;
    return new Promise<T>((resolve, reject) => {
      this.#waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
      this.#child.stdin?.write(`${JSON.stringify({ ...args, id, op })}\n`);
    });
  }

  /** Returns when nothing of the application runs any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#hasEnded) this.#family = readTree(this.pid);
    this.#child.stdin?.end();
    const deadline = Date.now() + CLOSE_TIMEOUT_MS;
    while (this.#family.some(isAlive) && Date.now() < deadline) await sleep(POLL_MS);
    for (const { pid } of this.#family.filter(isAlive)) process.kill(pid, 'SIGKILL');
    await this.#ended;
  }

  #interrupt(): void {
    if (this.#hasEnded) return;
    this.#family = readTree(this.pid);
    this.#child.kill();
  }

  #receive(line: string): void {
    const reply = JSON.parse(line) as { id: number; ok?: unknown; error?: string };
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if (reply.error === undefined) waiting?.resolve(reply.ok);
    else
      waiting?.reject(
        new Error(`Spark: ${reply.error}\n  The application's log: ${this.#logFile}`),
      );
  }

  #fail(why: string, resolve: () => void): void {
    this.#hasEnded = true;
    const tail = readFileSync(this.#logFile, 'utf8')
      .trimEnd()
      .split('\n')
      .slice(-20)
      .join('\n    ');
    for (const waiting of this.#waiting.values())
      waiting.reject(
        new Error(
          `the Spark application is gone: ${why}\n    ${tail}\n  Its log: ${this.#logFile}`,
        ),
      );
    this.#waiting.clear();
    resolve();
  }
}
