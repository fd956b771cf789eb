/**
 * Copies and checks bytes in worker threads, so that spill, mirror and verification never stall the main one.
 *
 * I1  A worker runs one job at a time; the rest waits in one bounded queue, in order. A few small jobs are with a busy worker
 *     already (`ahead`), so that it does not wait for the main thread between them; they count as waiting.
 * I2  A job's promise settles after the worker has let go of the files, also when it was aborted. An exception is the end of a
 *     mover whose worker is in a call that does not return.
 * I3  A worker that dies fails its own job with `io_failed`, and the next job starts a new one. What was ahead is done then.
 * I4  A job that was told to stop stops before its next change: jobs that are with a worker never share a place in `cancel`.
 * I5  With more than one worker, one of them is kept for jobs of at most SMALL_MOVE_BYTES_MAX: those go past larger ones then.
 *
 * Workers start with the first job, and do not keep the process alive. Relied on by file-tier.ts (populate),
 * directory-tier.ts (put, fetch), placement/ (spill) and store/ (verify).
 */
import { Worker } from 'node:worker_threads';
import { assert, KiB, StoreError } from '@ebb/protocol';
import {
  MOVER_BUFFER_BYTES,
  MOVER_HEAP_MIB,
  MOVER_QUEUE_MAX,
  MOVER_SYNC_EVERY_BYTES,
  MOVER_YOUNG_HEAP_MIB,
  SMALL_MOVE_BYTES_MAX,
} from '../limits.ts';
import { settlesWithin } from '../settles-within.ts';
import { codeOfErrno } from './fs-error.ts';
import type { MoverReply, MoverRequest, MoverTask, MoverWorkerData, Sums } from './mover-tasks.ts';
import { beginThreadCall } from './stuck-threads.ts';
import type { BlockCollector, Mover, Progress } from './tier.ts';

export interface MoverOptions {
  readonly workers?: number;
  readonly queueMax?: number;
  readonly bufferBytes?: number;
  /** Tests put in a worker that fails. */
  readonly startWorker?: (data: MoverWorkerData) => Worker;
}

export function createMover(options: MoverOptions = {}): Mover {
  const pool = new MoverPool(options);
  return {
    copy: async ({ signal, blocks, onAccepted, ...task }) => {
      const copy = { kind: 'copy', ...task, ...wanted(blocks) } as const;
      return collect((await pool.run(copy, signal, onAccepted)).sums, blocks);
    },
    convert: async ({ signal, ...task }) =>
      collect((await pool.run({ kind: 'convert', ...task }, signal)).sums),
    checksum: async (file, sizeBytes, { signal, blocks, offset = 0 } = {}) => {
      const task = { kind: 'checksum', file, sizeBytes, offset, ...wanted(blocks) } as const;
      return collect((await pool.run(task, signal)).sums, blocks);
    },
    publish: async ({ signal, onAccepted, ...request }) => {
      let sizeBytes = 0;
      for (const { length } of request.sources) sizeBytes += length;
      const task = { kind: 'publish', ...request, sizeBytes } as const;
      const { made } = await pool.run(task, signal, onAccepted);
      assert(made !== undefined, 'a file that was published has an identity');
      return made;
    },
    populate: async (file, sizeBytes, signal) => {
      await pool.run({ kind: 'populate', file, sizeBytes }, signal);
    },
    close: async () => await pool.close(),
  };
}

function wanted(blocks: BlockCollector | undefined): { readonly blockBytes?: number } {
  return blocks === undefined ? {} : { blockBytes: blocks.blockBytes };
}

function collect(sums: Sums, into?: BlockCollector): number {
  for (const sum of into === undefined ? [] : sums.blocks) into?.sums.push(sum);
  return sums.crc32c;
}

type Done = Extract<MoverReply, { sums: Sums }>;

interface Job {
  readonly jobId: number;
  readonly task: MoverTask;
  readonly signal: AbortSignal | undefined;
  readonly resolve: (done: Done) => void;
  readonly reject: (error: unknown) => void;
  /** Once it is with a worker. */
  with?: { readonly thread: Thread; readonly place: number };
}

interface Thread {
  readonly worker: Worker;
  /** Says that the call that runs has ended. */
  endCall: (() => void) | undefined;
  /** The places of the job that runs and of those ahead (I4): they are taken in turn, and freed in that order. */
  readonly cancel: Int32Array<SharedArrayBuffer>;
  nextPlace: number;
  /** When it last took a step: nanoseconds of `process.hrtime`. */
  readonly lastStep: BigInt64Array<SharedArrayBuffer>;
  /** With the worker, which answers them in order: the first one runs. */
  jobs: Job[];
}

/** A worker gets so long to end. */
const CLOSE_MS = 1_000;
const AHEAD_MAX = 3;
/** The most bytes of a job that may wait with a busy worker, or be waited for: another worker would not do it much sooner. */
const AHEAD_BYTES_MAX = 256 * KiB;

class MoverPool {
  readonly #workersMax: number;
  readonly #largesMax: number;
  readonly #queueMax: number;
  readonly #bufferBytes: number;
  readonly #startWorker: (data: MoverWorkerData) => Worker;
  readonly #threads = new Set<Thread>();
  readonly #queue = new Set<Job>();
  #lastJobId = 0;
  #isClosed = false;

  constructor(options: MoverOptions) {
    this.#workersMax = options.workers ?? 1;
    this.#largesMax = Math.max(1, this.#workersMax - 1);
    this.#queueMax = options.queueMax ?? MOVER_QUEUE_MAX;
    this.#bufferBytes = options.bufferBytes ?? MOVER_BUFFER_BYTES;
    this.#startWorker = options.startWorker ?? startWorkerThread;
    assert(this.#workersMax > 0, 'a mover has at least one worker');
  }

  run(
    task: MoverTask,
    signal: AbortSignal | undefined,
    onAccepted?: (progress: Progress) => void,
  ): Promise<Done> {
    if (this.#isClosed) throw new StoreError('draining', 'the mover is closed');
    if (signal?.aborted === true) throw abortedBy(signal);
    const waiting = this.#waiting();
    if (waiting >= this.#queueMax) {
      throw new StoreError('busy', `${waiting} copies wait for the mover already`, { waiting });
    }
    return new Promise((resolve, reject) => {
      // Atomics compare the id as a 32-bit number, in which 0 means none.
      this.#lastJobId = (this.#lastJobId % 0x7fffffff) + 1;
      const job: Job = {
        jobId: this.#lastJobId,
        task,
        signal,
        resolve: (done) => {
          signal?.removeEventListener('abort', onAbort);
          resolve(done);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', onAbort);
          reject(error);
        },
      };
      const onAbort = (): void => this.#abort(job);
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#queue.add(job);
      this.#dispatch();
      onAccepted?.(() => this.#progressOf(job));
    });
  }

  /** A job that waits in the queue comes nearer with each step of those that it waits for: a large one for large ones. */
  #progressOf(job: Job): number {
    const before = isLarge(job) ? isBusyWithLarge : (): boolean => true;
    const threads = job.with === undefined ? [...this.#threads].filter(before) : [job.with.thread];
    let latest = 0n;
    for (const { lastStep } of threads) {
      const at = Atomics.load(lastStep, 0);
      if (at > latest) latest = at;
    }
    return Number(latest);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const job of this.#takeAll()) job.reject(closedError());
    await Promise.all(
      [...this.#threads].map(async (thread) => {
        // A worker whose file system does not answer cannot be ended.
        if (await settlesWithin(thread.worker.terminate(), CLOSE_MS)) return;
        thread.worker.unref();
        const [running, ...ahead] = thread.jobs.splice(0);
        running?.reject(
          new StoreError('io_failed', 'the mover was closed while this copy was under way', {
            task: running.task.kind,
          }),
        );
        for (const job of ahead) job.reject(closedError());
      }),
    );
  }

  #waiting(): number {
    let waiting = this.#queue.size;
    for (const { jobs } of this.#threads) waiting += Math.max(0, jobs.length - 1);
    return waiting;
  }

  #takeAll(): readonly Job[] {
    const jobs = [...this.#queue];
    this.#queue.clear();
    return jobs;
  }

  /** A queued job ends at once; a running one when its worker has seen the flag, within one buffer. */
  #abort(job: Job): void {
    if (this.#queue.delete(job)) {
      job.reject(abortedBy(job.signal));
      return;
    }
    if (job.with !== undefined) Atomics.store(job.with.thread.cancel, job.with.place, job.jobId);
  }

  #dispatch(): void {
    let larges = 0;
    for (const thread of this.#threads) if (isBusyWithLarge(thread)) larges++;
    for (const job of this.#queue) {
      if (isLarge(job) && larges >= this.#largesMax) continue;
      const thread = this.#findThread(job);
      if (thread === undefined) return;
      if (isLarge(job)) larges++;
      this.#queue.delete(job);
      if (thread.jobs.length === 0) Atomics.store(thread.lastStep, 0, process.hrtime.bigint());
      thread.jobs.push(job);
      thread.endCall ??= beginThreadCall(() => Atomics.load(thread.lastStep, 0));
      thread.worker.ref();
      const place = thread.nextPlace;
      thread.nextPlace = (place + 1) % thread.cancel.length;
      job.with = { thread, place };
      const { jobId, task } = job;
      thread.worker.postMessage({ jobId, place, task } satisfies MoverRequest);
    }
  }

  #findThread(job: Job): Thread | undefined {
    for (const thread of this.#threads) if (thread.jobs.length === 0) return thread;
    if (isBrief(job))
      for (const thread of this.#threads)
        if (thread.jobs.length <= AHEAD_MAX && thread.jobs.every(isBrief)) return thread;
    return this.#threads.size < this.#workersMax ? this.#start() : undefined;
  }

  #start(): Thread {
    const cancel = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT * (AHEAD_MAX + 1));
    const lastStep = new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT);
    const worker = this.#startWorker({
      bufferBytes: this.#bufferBytes,
      syncEveryBytes: MOVER_SYNC_EVERY_BYTES,
      cancel,
      lastStep,
    });
    const thread: Thread = {
      worker,
      endCall: undefined,
      cancel: new Int32Array(cancel),
      nextPlace: 0,
      lastStep: new BigInt64Array(lastStep),
      jobs: [],
    };
    this.#threads.add(thread);
    worker.on('message', (reply: MoverReply) => this.#onReply(thread, reply));
    worker.on('error', (error) => this.#onDeath(thread, error));
    worker.on('exit', (status) => this.#onDeath(thread, new Error(`it exited with ${status}`)));
    return thread;
  }

  #onReply(thread: Thread, reply: MoverReply): void {
    const job = thread.jobs.shift();
    assert(job?.jobId === reply.jobId, 'a worker answers the jobs it was given, in order');
    thread.endCall?.();
    thread.endCall =
      thread.jobs.length > 0 ? beginThreadCall(() => Atomics.load(thread.lastStep, 0)) : undefined;
    if (thread.jobs.length === 0) thread.worker.unref();
    if ('sums' in reply) job.resolve(reply);
    else job.reject(failureOf(reply, job));
    this.#dispatch();
  }

  /** `error` comes before `exit`; the first of both ends the thread. */
  #onDeath(thread: Thread, cause: unknown): void {
    if (!this.#threads.delete(thread)) return;
    thread.endCall?.();
    const [job, ...ahead] = thread.jobs;
    thread.jobs = [];
    job?.reject(
      new StoreError('io_failed', 'the mover stopped half-way', { task: job.task.kind }, cause),
    );
    if (this.#isClosed) {
      for (const { reject } of ahead) reject(closedError());
      return;
    }
    const later = this.#takeAll();
    for (const waiting of [...ahead, ...later]) {
      delete waiting.with;
      this.#queue.add(waiting);
    }
    this.#dispatch();
  }
}

function isBrief({ task: { sizeBytes } }: Job): boolean {
  return sizeBytes <= AHEAD_BYTES_MAX;
}

function isLarge({ task: { sizeBytes } }: Job): boolean {
  return sizeBytes > SMALL_MOVE_BYTES_MAX;
}

function isBusyWithLarge({ jobs }: Thread): boolean {
  return jobs.some(isLarge);
}

function closedError(): StoreError {
  return new StoreError('draining', 'the mover was closed before this copy began');
}

/** The worker file has the extension that this one has: `.ts` from source, `.js` from dist. */
function startWorkerThread(data: MoverWorkerData): Worker {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const worker = new Worker(new URL(`./mover-worker.${extension}`, import.meta.url), {
    name: 'ebb-mover',
    workerData: data,
    resourceLimits: {
      maxOldGenerationSizeMb: MOVER_HEAP_MIB,
      maxYoungGenerationSizeMb: MOVER_YOUNG_HEAP_MIB,
      stackSizeMb: 1,
    },
  });
  worker.unref();
  return worker;
}

function abortedBy(signal: AbortSignal | undefined): StoreError {
  return new StoreError('aborted', 'the caller stopped the copy', {}, signal?.reason);
}

function failureOf(reply: Extract<MoverReply, { failed: unknown }>, job: Job): StoreError {
  const { failed, message, errno } = reply;
  if (failed === 'aborted') return abortedBy(job.signal);
  const details = { task: job.task.kind, errno, ...reply.details };
  const code =
    failed === 'errno' || failed === 'unsynced' ? codeOfErrno(details.errno) : CODES[failed];
  return new StoreError(code, message, details);
}

const CODES = {
  short: 'data_lost',
  missing: 'data_lost',
  damaged: 'data_corrupt',
  mismatch: 'data_corrupt',
  replaced: 'precondition_failed',
  link: 'io_failed',
} as const;
