/** Which jobs are alive. The catalog keeps who they are; heartbeats are kept here alone, and start anew with the daemon. */
import { StoreError } from '@ebb/protocol';
import type { JobRecord } from '../catalog/catalog.ts';

interface LiveJob {
  readonly record: JobRecord;
  /** By AwakeTime. */
  lastHeartbeatMs: number;
  isEnding: boolean;
}

export class JobTable {
  readonly #jobs = new Map<string, LiveJob>();

  open(record: JobRecord, nowMs: number): void {
    this.#jobs.set(record.jobId, { record, lastHeartbeatMs: nowMs, isEnding: false });
  }

  /** @throws {StoreError} `job_not_found` also for one that is ending, or was opened under another token than the one given. */
  get(jobId: string, token?: string): LiveJob {
    const job = this.#jobs.get(jobId);
    const isAnother = token !== undefined && job !== undefined && job.record.token !== token;
    if (job === undefined || job.isEnding || isAnother) {
      throw new StoreError(
        'job_not_found',
        isAnother
          ? `job "${jobId}" has ended or expired on this node, and somebody else opened another of that id: take another id`
          : `job "${jobId}" is not open on this node: open it first; it may have ended or expired`,
        { jobId },
      );
    }
    return job;
  }

  find(jobId: string): LiveJob | undefined {
    return this.#jobs.get(jobId);
  }

  beat(jobId: string, nowMs: number, token?: string): void {
    this.get(jobId, token).lastHeartbeatMs = nowMs;
  }

  expired(nowMs: number): readonly string[] {
    const ids: string[] = [];
    for (const [jobId, job] of this.#jobs) {
      if (!job.isEnding && nowMs - job.lastHeartbeatMs > job.record.heartbeatTtlMs) ids.push(jobId);
    }
    return ids;
  }

  remove(jobId: string): void {
    this.#jobs.delete(jobId);
  }

  *[Symbol.iterator](): Iterator<LiveJob> {
    yield* this.#jobs.values();
  }
}
