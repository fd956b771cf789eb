/**
 * Jobs from their opening to their end, which deletes what they made.
 *
 * I1  A job is one life: whoever begins it chooses a token, and whoever comes back to it shows that token. Another token, or
 *     none, never gets a share in a job that is open: its opener is refused (`job_exists`).
 * I2  A heartbeat or an end that shows a token touches the job of that token, and never a later one of the same id. Without a
 *     token they are an administrator's, and mean whichever is open.
 */
import { randomUUID } from 'node:crypto';
import { StoreError } from '@ebb/protocol';
import { parseJobId } from '../object-ref.ts';
import { Serial } from '../serial.ts';
import type { Deletions } from './deletions.ts';
import type { JobOpening, JobReceipt, JobView } from './object-store.ts';
import type { StoreParts } from './parts.ts';
import type { WritePath } from './write-path.ts';

type JobEndListener = (jobId: string) => void | Promise<void>;

export class JobLife {
  readonly #parts: StoreParts;
  readonly #writes: WritePath;
  readonly #deletions: Deletions;
  readonly #endListeners: JobEndListener[] = [];
  readonly #ending = new Map<string, Promise<JobReceipt>>();
  readonly #openings = new Serial<string>();

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

  async open(job: JobOpening): Promise<JobView> {
    parseJobId(job.jobId);
    return await this.#openings.run(job.jobId, () => this.#open(job)); // I1: look and entry are one step
  }

  async #open({ token = randomUUID(), ...job }: JobOpening): Promise<JobView> {
    const { jobId } = job;
    const { catalog, clock, awake, jobs } = this.#parts;
    const existing = jobs.find(jobId);
    if (existing?.isEnding === true)
      throw new StoreError('job_not_found', `job "${jobId}" is ending; take another id`, { jobId });
    if (existing !== undefined && existing.record.token !== token) {
      const heardAgoMs = Math.round(awake.now() - existing.lastHeartbeatMs);
      throw new StoreError(
        'job_exists',
        `job "${jobId}" is open, and somebody else's: it was heard of ${heardAgoMs} ms ago, and ends after ${existing.record.heartbeatTtlMs} ms without a heartbeat. Take another id, end it (\`ebb jobs end ${jobId}\`), or show the token it was opened with`,
        { jobId, heardAgoMs, heartbeatTtlMs: existing.record.heartbeatTtlMs },
      );
    }
    const record = { ...job, token, createdAtMs: existing?.record.createdAtMs ?? clock.now() };
    await catalog.putJob(record);
    jobs.open(record, awake.now());
    return await this.get(jobId);
  }

  heartbeat(jobId: string, token?: string): void {
    this.#parts.jobs.beat(jobId, this.#parts.awake.now(), token);
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
  async end(jobId: string, token?: string): Promise<JobReceipt> {
    parseJobId(jobId);
    const open = this.#parts.jobs.find(jobId);
    if (open !== undefined && token !== undefined && open.record.token !== token)
      return { jobId, objects: 0, freedBytes: 0, stagedWrites: 0 }; // I2: that life is over, and this is another
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
