/**
 * The byte limits of buckets and jobs: what is committed and what is staged together stay below.
 *
 * I1  Staged bytes are counted before the look at what is committed, in one turn: of two writers at the edge the first gets
 *     the room, and never both.
 * I2  A commit under way may be counted twice for a moment, as staged and as committed. Nobody is refused for that: the
 *     check waits for it and looks again.
 *
 * Old versions of a bucket count as its objects do. Writes that no limit concerns are not counted, and cost nothing here.
 */
import { StoreError } from '@ebb/protocol';
import type { BucketRecord, Catalog, JobRecord } from '../catalog/catalog.ts';
import { versionsBucketOf } from '../object-ref.ts';

/** The part of one staged write in the counts. */
export interface QuotaHold {
  readonly bucket: BucketRecord;
  readonly job: JobRecord | undefined;
  countedBytes: number;
  /** Up to here the limits were checked. */
  checkedBytes: number;
}

/** A stream of commits may keep the counts moving: then they are taken as they are. */
const LOOKS_MAX = 8;

export function isLimited(bucket: BucketRecord, job: JobRecord | undefined): boolean {
  return bucket.policy.quotaBytes !== null || (job !== undefined && job.budgetBytes !== null);
}

export class Quotas {
  readonly #catalog: Catalog;
  readonly #bucketBytes = new Map<string, number>();
  readonly #jobBytes = new Map<string, number>();
  readonly #publishing = new Set<Promise<unknown>>();

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
  }

  /** @throws `quota_exceeded` */
  async take(bucket: BucketRecord, job: JobRecord | undefined, bytes: number): Promise<QuotaHold> {
    const hold: QuotaHold = { bucket, job, countedBytes: 0, checkedBytes: 0 };
    await this.raise(hold, bytes);
    return hold;
  }

  /** Counts up to `bytes`, and checks. After an error the hold is as before. @throws `quota_exceeded` */
  async raise(hold: QuotaHold, bytes: number): Promise<void> {
    if (bytes <= hold.checkedBytes) return;
    const before = hold.countedBytes;
    this.count(hold, Math.max(before, bytes));
    try {
      for (let look = 1; ; look++) {
        const excess = await this.#findExcess(hold);
        if (excess === undefined) break;
        if (!excess.isMoving || look === LOOKS_MAX) throw excess.error;
        await Promise.allSettled([...this.#publishing]);
      }
    } catch (error) {
      this.count(hold, before);
      throw error;
    }
    hold.checkedBytes = Math.max(hold.checkedBytes, bytes);
  }

  /** Counts without a check, for callers that cannot wait: the commit checks. */
  count(hold: QuotaHold, bytes: number): void {
    const more = bytes - hold.countedBytes;
    hold.countedBytes = bytes;
    if (hold.bucket.policy.quotaBytes !== null) add(this.#bucketBytes, hold.bucket.name, more);
    if (hold.job !== undefined && hold.job.budgetBytes !== null)
      add(this.#jobBytes, hold.job.jobId, more);
  }

  /** From here on what the hold stands for is counted by the catalog, or not at all. */
  async publish<T>(hold: QuotaHold, commit: Promise<T>): Promise<T> {
    this.#publishing.add(commit);
    try {
      return await commit;
    } finally {
      this.#publishing.delete(commit);
      this.release(hold);
    }
  }

  release(hold: QuotaHold): void {
    this.count(hold, 0);
    hold.checkedBytes = 0;
  }

  async #findExcess(
    hold: QuotaHold,
  ): Promise<{ readonly error: StoreError; readonly isMoving: boolean } | undefined> {
    const { bucket, job } = hold;
    const isMoving = this.#publishing.size > 0;
    const staged = {
      bucket: this.#bucketBytes.get(bucket.name) ?? 0,
      job: job === undefined ? 0 : (this.#jobBytes.get(job.jobId) ?? 0),
    };
    const needBytes = hold.countedBytes;
    const { quotaBytes } = bucket.policy;
    // Both are asked before either is awaited: the look at the catalog belongs to this turn (I1).
    const ofBucket = quotaBytes === null ? undefined : this.#catalog.bucketTotals(bucket.name);
    const ofVersions =
      quotaBytes === null || bucket.policy.versioning === 'off'
        ? undefined
        : this.#catalog.bucketTotals(versionsBucketOf(bucket.name));
    const ofJob =
      job === undefined || job.budgetBytes === null
        ? undefined
        : this.#catalog.jobTotals(job.jobId);
    const bucketBytes =
      ((await ofBucket)?.sizeBytes ?? 0) + ((await ofVersions)?.sizeBytes ?? 0) + staged.bucket;
    const jobBytes = ((await ofJob)?.sizeBytes ?? 0) + staged.job;
    if (quotaBytes !== null && bucketBytes > quotaBytes) {
      const heldBytes = bucketBytes - needBytes;
      const error = new StoreError(
        'quota_exceeded',
        `bucket ${bucket.name} holds ${heldBytes} bytes, its quota is ${quotaBytes}, this write needs ${needBytes}`,
        { bucket: bucket.name, needBytes, heldBytes, quotaBytes },
      );
      return { error, isMoving };
    }
    const budgetBytes = job?.budgetBytes ?? null;
    if (job !== undefined && budgetBytes !== null && jobBytes > budgetBytes) {
      const heldBytes = jobBytes - needBytes;
      const error = new StoreError(
        'quota_exceeded',
        `job ${job.jobId} holds ${heldBytes} bytes, its budget is ${budgetBytes}, this write needs ${needBytes}`,
        { jobId: job.jobId, needBytes, heldBytes, budgetBytes },
      );
      return { error, isMoving };
    }
    return undefined;
  }
}

function add(counts: Map<string, number>, name: string, bytes: number): void {
  const sum = (counts.get(name) ?? 0) + bytes;
  if (sum === 0) counts.delete(name);
  else counts.set(name, sum);
}
