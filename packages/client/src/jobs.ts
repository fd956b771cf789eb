/**
 * Jobs own objects, staged writes and shuffles; what a job owns vanishes when it ends, or when neither a heartbeat nor a
 * connection of it was seen for its time to live.
 *
 * I1  Each `open` begins a job of its own, or fails (`job_exists`): two that happen to choose one id never share a job. Whoever
 *     means the same job (another process of it, or itself after a restart) shows the token of the handle.
 * I2  A handle's heartbeat and end touch the job that it opened, and never a later one of the same id.
 */
import { randomUUID } from 'node:crypto';
import {
  isStoreError,
  type JobInfo,
  type JobOpened,
  type JobReceipt,
  jobInfoSchema,
  jobOpenedSchema,
  jobReceiptSchema,
  PATHS,
  type StoreError,
} from '@ebb/protocol';
import { toStoreError } from './errors.ts';
import type { HttpClient } from './http-client.ts';
import { listOf } from './lists.ts';

export interface JobOptions {
  /** The token of the job that is meant, to come back to it or to join it. Default: a new one. */
  readonly token?: string | undefined;
  readonly label?: string | undefined;
  readonly heartbeatTtlMs?: number | undefined;
  readonly budgetBytes?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** A heartbeat failed; the next one tries again. `job_not_found` is final: the job is gone. */
  readonly onHeartbeatError?: ((error: StoreError) => void) | undefined;
}

/** An open job with its heartbeat. Disposing ends the job, and frees what it owns. */
export interface JobHandle extends AsyncDisposable {
  readonly jobId: string;
  readonly info: JobInfo;
  /** Shown to `open` by whoever comes back to this job, or joins it. */
  readonly token: string;
  /** Stops the heartbeat and deletes all that the job owns. Ending twice gives the same receipt. */
  end(): Promise<JobReceipt>;
  /** Stops the heartbeat and leaves the job to others, or to its time to live. */
  detach(): void;
}

export interface Jobs {
  /**
   * Begins the job, or with its token joins it, and keeps it alive.
   * @throws `job_exists` when it is open under another token: somebody else chose the same id, or an earlier life of this one is
   * not over (`end` it, or wait for its time to live)
   */
  open(jobId: string, options?: JobOptions): Promise<JobHandle>;
  get(jobId: string, signal?: AbortSignal): Promise<JobInfo>;
  list(signal?: AbortSignal): Promise<JobInfo[]>;
  heartbeat(jobId: string, signal?: AbortSignal): Promise<void>;
  /** Whoever opened it. */
  end(jobId: string, signal?: AbortSignal): Promise<JobReceipt>;
}

/** Three heartbeats fit in a time to live, so that two may be lost. */
const HEARTBEATS_PER_TTL = 3;

export function createJobs(http: HttpClient): Jobs {
  const jobPath = (template: string, jobId: string): string =>
    template.replace('{job}', encodeURIComponent(jobId));
  const heartbeat = async (job: OfToken, signal?: AbortSignal): Promise<void> => {
    const request = { query: { token: job.token }, idempotent: true, signal };
    await http.plain('POST', jobPath(PATHS.jobHeartbeat, job.jobId), request);
  };
  // Ending a job that is gone gives zeros, so an end whose answer was lost may be repeated.
  const end = (job: OfToken, signal?: AbortSignal): Promise<JobReceipt> => {
    const request = { query: { token: job.token }, idempotent: true, signal };
    return http.json('DELETE', jobPath(PATHS.job, job.jobId), jobReceiptSchema, request);
  };

  return {
    async open(jobId, options = {}) {
      const { label, heartbeatTtlMs, budgetBytes, signal, onHeartbeatError } = options;
      // Chosen here, so that a request whose answer was lost may be repeated.
      const token = options.token ?? randomUUID();
      const opened = await http.json('PUT', jobPath(PATHS.job, jobId), jobOpenedSchema, {
        body: { token, label, heartbeatTtlMs, budgetBytes },
        signal,
      });
      return new OpenJob(opened, { heartbeat, end, onHeartbeatError });
    },
    get: (jobId, signal) => http.json('GET', jobPath(PATHS.job, jobId), jobInfoSchema, { signal }),
    list: (signal) => http.json('GET', PATHS.jobs, listOf('jobs', jobInfoSchema), { signal }),
    heartbeat: (jobId, signal) => heartbeat({ jobId }, signal),
    end: (jobId, signal) => end({ jobId }, signal),
  };
}

interface OfToken {
  readonly jobId: string;
  readonly token?: string;
}

class OpenJob implements JobHandle {
  readonly info: JobInfo;
  readonly token: string;
  readonly #end: (job: OfToken) => Promise<JobReceipt>;
  readonly #stop = new AbortController();
  #receipt: Promise<JobReceipt> | undefined;

  constructor(
    { token, ...info }: JobOpened,
    calls: {
      heartbeat: (job: OfToken, signal: AbortSignal) => Promise<void>;
      end: (job: OfToken) => Promise<JobReceipt>;
      onHeartbeatError: ((error: StoreError) => void) | undefined;
    },
  ) {
    this.info = info;
    this.token = token;
    this.#end = calls.end;
    let beating = false;
    const beat = async (): Promise<void> => {
      if (beating) return; // the one before still waits for the node
      beating = true;
      try {
        await calls.heartbeat(this, this.#stop.signal);
      } catch (thrown) {
        if (this.#stop.signal.aborted) return;
        const error = toStoreError(thrown);
        if (isStoreError(error, 'job_not_found')) this.detach();
        calls.onHeartbeatError?.(error);
      } finally {
        beating = false;
      }
    };
    const timer = setInterval(() => void beat(), info.heartbeatTtlMs / HEARTBEATS_PER_TTL).unref();
    this.#stop.signal.addEventListener('abort', () => clearInterval(timer), { once: true });
  }

  get jobId(): string {
    return this.info.jobId;
  }

  end(): Promise<JobReceipt> {
    this.detach();
    this.#receipt ??= this.#end(this);
    return this.#receipt;
  }

  detach(): void {
    this.#stop.abort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }
}
