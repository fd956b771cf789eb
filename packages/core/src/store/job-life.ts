/** Jobs from their opening to their end, which deletes what they made. */
import { StoreError } from '@ebb/protocol';
import type { JobRecord } from '../catalog/catalog.ts';
import { parseJobId } from '../object-ref.ts';
import type { Deletions } from './deletions.ts';
import type { JobReceipt, JobView } from './object-store.ts';
import type { StoreParts } from './parts.ts';
import type { WritePath } from './write-path.ts';

type JobEndListener = (jobId: string) => void | Promise<void>;

export class JobLife {
  readonly #parts: StoreParts;
  readonly #writes: WritePath;
  readonly #deletions: Deletions;
  readonly #endListeners: JobEndListener[] = [];
  readonly #ending = new Map<string, Promise<JobReceipt>>();

  constructor(parts: StoreParts, writes: WritePath, deletions: Deletions) {
    this.#parts = parts;
    this.#writes = writes;
    this.#deletions = deletions;
  }

  /** After a start: each has its whole time for a heartbeat. */
  async adopt(): Promise<void> {
    const { catalog, jobs, awake } = this.#parts;
    for (const job of await catalog.listJobs()) jobs.open(job, awake.now());
  }

  async open(job: Omit<JobRecord, 'createdAtMs'>): Promise<JobView> {
    parseJobId(job.jobId);
    const { catalog, clock, awake, jobs } = this.#parts;
    const existing = jobs.find(job.jobId);
    if (existing?.isEnding === true)
      throw new StoreError('job_not_found', `job "${job.jobId}" is ending; take another id`, {
        jobId: job.jobId,
      });
    const record = { ...job, createdAtMs: existing?.record.createdAtMs ?? clock.now() };
    await catalog.putJob(record);
    jobs.open(record, awake.now());
    return await this.get(job.jobId);
  }

  heartbeat(jobId: string): void {
    this.#parts.jobs.beat(jobId, this.#parts.awake.now());
  }

  async get(jobId: string): Promise<JobView> {
    const job = this.#parts.jobs.get(jobId);
    return {
      job: job.record,
      lastHeartbeatMs: this.#heardAtMs(job),
      ...(await this.#parts.catalog.jobTotals(jobId)),
    };
  }

  async list(): Promise<readonly JobView[]> {
    const views: JobView[] = [];
    for (const job of this.#parts.jobs) {
      const totals = await this.#parts.catalog.jobTotals(job.record.jobId);
      views.push({ job: job.record, lastHeartbeatMs: this.#heardAtMs(job), ...totals });
    }
    return views;
  }

  /** A second call while one runs gets the same receipt: it must not delete what a new job of this name makes. */
  async end(jobId: string): Promise<JobReceipt> {
    parseJobId(jobId);
    let ending = this.#ending.get(jobId);
    if (ending === undefined) {
      ending = this.#end(jobId).finally(() => this.#ending.delete(jobId));
      this.#ending.set(jobId, ending);
    }
    return await ending;
  }

  async endExpired(): Promise<void> {
    const { jobs, awake } = this.#parts;
    await Promise.all(jobs.expired(awake.now()).map((jobId) => this.end(jobId)));
  }

  onEnd(listener: JobEndListener): void {
    this.#endListeners.push(listener);
  }

  async #end(jobId: string): Promise<JobReceipt> {
    const { catalog, jobs } = this.#parts;
    const job = jobs.find(jobId);
    if (job !== undefined) job.isEnding = true; // no new writes: `stage` and `commit` refuse a job that is ending
    try {
      const stagedWrites = this.#writes.dropJob(jobId);
      await this.#writes.settledOf(jobId); // a commit under way either made its object before this line, or is refused
      for (const listener of this.#endListeners) await listener(jobId);
      const gone = await this.#deletions.deleteOfJob(jobId);
      await catalog.deleteJob(jobId);
      jobs.remove(jobId);
      return { jobId, objects: gone.objects, freedBytes: gone.sizeBytes, stagedWrites };
    } catch (error) {
      if (job !== undefined) job.isEnding = false; // so that its end is tried again when its heartbeat stops
      throw error;
    }
  }

  /** As a time of day, for people. */
  #heardAtMs({ lastHeartbeatMs }: { readonly lastHeartbeatMs: number }): number {
    const { clock, awake } = this.#parts;
    return Math.round(clock.now() - (awake.now() - lastHeartbeatMs));
  }
}
