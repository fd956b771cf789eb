/**
 * The main thread's half of the S3 worker: one worker thread for all S3 targets of the process, so that neither the network
 * nor a checksum stalls the main one. It starts with the first call and ends with the last target.
 *
 * I1  A call settles after the worker has let go of files and connections, also when it was aborted; only closing waits no
 *     longer than `closeMs`.
 * I2  A worker that dies fails the calls that it had with `io_failed`; the next call starts another.
 * I3  Credentials go to the worker and nowhere else.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { StoreError } from '@ebb/protocol';
import { S3_CALLS_MAX, S3_CLOSE_MS, S3_WORKER_HEAP_MIB } from '../../limits.ts';
import type {
  S3CallKind,
  S3CallOf,
  S3Calls,
  S3Remark,
  S3Reply,
  S3Request,
  S3TargetConfig,
} from './s3-protocol.ts';

export interface S3Thread {
  /** To be given back by `forget`. */
  register(config: Omit<S3TargetConfig, 'targetId'>, onRemark?: (remark: S3Remark) => void): number;
  /** @throws what the tier's method throws; `busy`, `draining` */
  call<K extends S3CallKind>(
    targetId: number,
    call: S3CallOf<K>,
    signal?: AbortSignal,
  ): Promise<S3Calls[K]['result']>;
  /** Aborts the calls of a target, awaits their ends for a while, and stops the worker with the last target. */
  forget(targetId: number): Promise<void>;
}

interface S3ThreadOptions {
  readonly startWorker?: () => Worker;
  readonly closeMs?: number;
}

export function createS3Thread(options: S3ThreadOptions = {}): S3Thread {
  return new WorkerThread(options);
}

interface PendingCall {
  readonly targetId: number;
  readonly signal: AbortSignal | undefined;
  readonly onAbort: () => void;
  readonly settled: Promise<unknown>;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

interface RunningWorker {
  readonly worker: Worker;
  /** Targets that it knows. */
  readonly targets: Set<number>;
}

class WorkerThread implements S3Thread {
  readonly #startWorker: () => Worker;
  readonly #closeMs: number;
  readonly #configs = new Map<number, S3TargetConfig>();
  readonly #onRemark = new Map<number, (remark: S3Remark) => void>();
  readonly #pending = new Map<number, PendingCall>();
  #running: RunningWorker | undefined;
  #lastTargetId = 0;
  #lastCallId = 0;

  constructor({ startWorker = startS3Worker, closeMs = S3_CLOSE_MS }: S3ThreadOptions) {
    this.#startWorker = startWorker;
    this.#closeMs = closeMs;
  }

  register(
    config: Omit<S3TargetConfig, 'targetId'>,
    onRemark: (remark: S3Remark) => void = () => undefined,
  ): number {
    this.#lastTargetId++;
    this.#onRemark.set(this.#lastTargetId, onRemark);
    this.#configs.set(this.#lastTargetId, { ...config, targetId: this.#lastTargetId });
    return this.#lastTargetId;
  }

  async call<K extends S3CallKind>(
    targetId: number,
    call: S3CallOf<K>,
    signal?: AbortSignal,
  ): Promise<S3Calls[K]['result']> {
    const config = this.#configs.get(targetId);
    if (config === undefined) throw new StoreError('draining', 'this tier is closed');
    if (signal?.aborted === true) throw abortedBy(signal);
    if (this.#pending.size >= S3_CALLS_MAX) {
      const waiting = this.#pending.size;
      throw new StoreError('busy', `${waiting} calls wait for tier 2 already`, { waiting });
    }
    const { worker, targets } = this.#start();
    if (!targets.has(targetId)) {
      targets.add(targetId);
      post(worker, { kind: 'target', config });
    }
    this.#lastCallId++;
    const callId = this.#lastCallId;
    const settled = Promise.withResolvers<unknown>();
    const onAbort = (): void => this.#post({ kind: 'abort', callId });
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#pending.set(callId, { targetId, signal, onAbort, settled: settled.promise, ...settled });
    worker.ref();
    post(worker, { kind: 'call', callId, targetId, call: call as S3CallOf });
    return (await settled.promise) as S3Calls[K]['result'];
  }

  async forget(targetId: number): Promise<void> {
    this.#configs.delete(targetId);
    this.#onRemark.delete(targetId);
    const calls = [...this.#pending].filter(([, pending]) => pending.targetId === targetId);
    for (const [callId] of calls) this.#post({ kind: 'abort', callId });
    await waitAtMost(Promise.allSettled(calls.map(([, { settled }]) => settled)), this.#closeMs);
    for (const [callId] of calls) this.#take(callId)?.reject(closedMeanwhile());
    if (this.#running?.targets.delete(targetId) === true) this.#post({ kind: 'forget', targetId });
    const { worker } = this.#running ?? {};
    if (worker === undefined || this.#configs.size > 0) return;
    this.#running = undefined;
    await worker.terminate();
  }

  #post(request: S3Request): void {
    if (this.#running !== undefined) post(this.#running.worker, request);
  }

  #start(): RunningWorker {
    if (this.#running !== undefined) return this.#running;
    const worker = this.#startWorker();
    const running: RunningWorker = { worker, targets: new Set() };
    worker.on('message', (reply: S3Reply) => this.#onReply(reply));
    worker.on('error', (error) => this.#onDeath(running, error));
    worker.on('exit', (status) => this.#onDeath(running, new Error(`it exited with ${status}`)));
    this.#running = running;
    return running;
  }

  #onReply(reply: S3Reply): void {
    if ('remark' in reply) {
      this.#onRemark.get(reply.targetId)?.(reply.remark);
      return;
    }
    const pending = this.#take(reply.callId);
    if (this.#pending.size === 0) this.#running?.worker.unref();
    // Of a tier that was closed meanwhile.
    if (pending === undefined) return;
    if ('result' in reply) {
      pending.resolve(reply.result);
      return;
    }
    const { code, message, details } = reply.failed;
    const cause: unknown = code === 'aborted' ? pending.signal?.reason : undefined;
    pending.reject(new StoreError(code, message, details, cause));
  }

  #take(callId: number): PendingCall | undefined {
    const pending = this.#pending.get(callId);
    pending?.signal?.removeEventListener('abort', pending.onAbort);
    this.#pending.delete(callId);
    return pending;
  }

  /** `error` comes before `exit`; the first of both ends the worker. */
  #onDeath(running: RunningWorker, cause: unknown): void {
    if (this.#running !== running) return;
    this.#running = undefined;
    for (const callId of [...this.#pending.keys()]) {
      const details = { status: 0, s3Code: '', retryable: true };
      const message = 'the worker of tier 2 stopped half-way';
      this.#take(callId)?.reject(new StoreError('io_failed', message, details, cause));
    }
  }
}

/** Of this process. */
export const sharedS3Thread: S3Thread = createS3Thread();

function post(worker: Worker, request: S3Request): void {
  worker.postMessage(request);
}

function closedMeanwhile(): StoreError {
  return new StoreError('aborted', 'the tier was closed before the store answered');
}

async function waitAtMost(work: Promise<unknown>, ms: number): Promise<void> {
  const done = new AbortController();
  const timeout = sleep(ms, undefined, { signal: done.signal }).catch(() => undefined);
  await Promise.race([work, timeout]);
  done.abort();
}

function abortedBy(signal: AbortSignal): StoreError {
  return new StoreError('aborted', 'the caller gave up', {}, signal.reason);
}

/** The worker file has the extension that this one has: `.ts` from source, `.js` from dist. */
export function startS3Worker(): Worker {
  const isSource = import.meta.url.endsWith('.ts');
  const worker = new Worker(new URL(`./s3-worker.${isSource ? 'ts' : 'js'}`, import.meta.url), {
    name: 'ebb-s3',
    // A test runner resolves `@ebb/*` to the source by itself; a thread of its own must be told.
    ...(isSource ? { execArgv: ['--conditions=source'] } : {}),
    resourceLimits: { maxOldGenerationSizeMb: S3_WORKER_HEAP_MIB, maxYoungGenerationSizeMb: 8 },
  });
  worker.unref();
  return worker;
}
