/**
 * Jobs own objects, staged writes and shuffles; what a job owns vanishes when it ends, or when neither a heartbeat nor a
 * connection of it was seen for its time to live.
 */
import {
  isStoreError,
  type JobInfo,
  type JobReceipt,
  jobInfoSchema,
  jobReceiptSchema,
  PATHS,
  type StoreError,
} from '@ebb/protocol';
import { toStoreError } from './errors.ts';
import type { HttpClient } from './http-client.ts';
import { listOf } from './lists.ts';

export interface JobOptions {
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
  /** Stops the heartbeat and deletes all that the job owns. Ending twice gives the same receipt. */
  end(): Promise<JobReceipt>;
  /** Stops the heartbeat and leaves the job to others, or to its time to live. */
  detach(): void;
}

export interface Jobs {
  /** Creates the job, or joins it if it exists, and keeps it alive. */
  open(jobId: string, options?: JobOptions): Promise<JobHandle>;
  get(jobId: string, signal?: AbortSignal): Promise<JobInfo>;
  list(signal?: AbortSignal): Promise<JobInfo[]>;
  heartbeat(jobId: string, signal?: AbortSignal): Promise<void>;
  end(jobId: string, signal?: AbortSignal): Promise<JobReceipt>;
}

/** Three heartbeats fit in a time to live, so that two may be lost. */
const HEARTBEATS_PER_TTL = 3;

export function createJobs(http: HttpClient): Jobs {
  const jobPath = (template: string, jobId: string): string =>
    template.replace('{job}', encodeURIComponent(jobId));
  const heartbeat = async (jobId: string, signal?: AbortSignal): Promise<void> => {
    await http.plain('POST', jobPath(PATHS.jobHeartbeat, jobId), { idempotent: true, signal });
  };
  // Ending a job that is gone gives zeros, so an end whose answer was lost may be repeated.
  const end = (jobId: string, signal?: AbortSignal): Promise<JobReceipt> =>
    http.json('DELETE', jobPath(PATHS.job, jobId), jobReceiptSchema, { idempotent: true, signal });

  return {
    async open(jobId, options = {}) {
      const { label, heartbeatTtlMs, budgetBytes, signal, onHeartbeatError } = options;
      const info = await http.json('PUT', jobPath(PATHS.job, jobId), jobInfoSchema, {
        body: { label, heartbeatTtlMs, budgetBytes },
        signal,
      });
      return new OpenJob(info, { heartbeat, end, onHeartbeatError });
    },
    get: (jobId, signal) => http.json('GET', jobPath(PATHS.job, jobId), jobInfoSchema, { signal }),
    list: (signal) => http.json('GET', PATHS.jobs, listOf('jobs', jobInfoSchema), { signal }),
    heartbeat,
    end,
  };
}

class OpenJob implements JobHandle {
  readonly info: JobInfo;
  readonly #end: (jobId: string) => Promise<JobReceipt>;
  readonly #stop = new AbortController();
  #receipt: Promise<JobReceipt> | undefined;

  constructor(
    info: JobInfo,
    calls: {
      heartbeat: (jobId: string, signal: AbortSignal) => Promise<void>;
      end: (jobId: string) => Promise<JobReceipt>;
      onHeartbeatError: ((error: StoreError) => void) | undefined;
    },
  ) {
    this.info = info;
    this.#end = calls.end;
    let beating = false;
    const beat = async (): Promise<void> => {
      if (beating) return; // the one before still waits for the node
      beating = true;
      try {
        await calls.heartbeat(info.jobId, this.#stop.signal);
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
    this.#receipt ??= this.#end(this.jobId);
    return this.#receipt;
  }

  detach(): void {
    this.#stop.abort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }
}
