/**
 * Writes in progress. They live in memory alone: a crash forgets them, and recovery removes their files.
 *
 * I1  A write belongs to one owner and is fenced by its id; any other caller gets `write_not_found`.
 * I2  A write ends exactly once: committed, aborted, or expired.
 */
import { StoreError } from '@ebb/protocol';
import type { ObjectRef, Owner } from './object-store.ts';
import type { QuotaHold } from './quotas.ts';
import { RecentMap } from './recent-map.ts';

export interface Staging {
  readonly writeId: number;
  readonly blobId: number;
  readonly owner: Owner;
  readonly ref: ObjectRef;
  readonly jobId: string | null;
  /** Its bucket is encrypted: it stays in tier 0 until it is committed, and its blob has this id. */
  readonly sealId: string | undefined;
  tier: 0 | 1;
  reservedBytes: number;
  /** Highest byte written through `write`, for writers that cannot see the file. */
  writtenBytes: number;
  /** The last `write` under way, never rejecting: the next one waits for it, and so does the commit. */
  lastWrite: Promise<void> | undefined;
  /** Ranges that a `write` failed to bring, and that no later one has brought. */
  readonly missing: { readonly from: number; readonly to: number; readonly error: unknown }[];
  /** Its part in the byte limits of bucket and job; undefined where there are none. */
  readonly quota: QuotaHold | undefined;
  /** Set while a commit runs: neither expiry nor a second commit may touch it. */
  isCommitting: boolean;
  /** The commit that runs, for those who wait for it. */
  commit: Promise<unknown> | undefined;
  deadlineMs: number;
}

const COMMITTED_REMEMBERED_MIN = 4096;

export class StagingTable {
  readonly #writes = new Map<number, Staging>();
  readonly #byOwner = new Map<number, Set<number>>();
  /** Ids committed lately with their owner, so that a second commit is told apart from a foreign one. */
  readonly #committed = new RecentMap<number, number>(COMMITTED_REMEMBERED_MIN);
  #bytes: { 0: number; 1: number } = { 0: 0, 1: 0 };

  get size(): number {
    return this.#writes.size;
  }

  stagedBytes(tier: 0 | 1): number {
    return this.#bytes[tier];
  }

  add(staging: Staging): void {
    this.#writes.set(staging.writeId, staging);
    let owned = this.#byOwner.get(staging.owner.ownerId);
    if (owned === undefined) {
      owned = new Set();
      this.#byOwner.set(staging.owner.ownerId, owned);
    }
    owned.add(staging.writeId);
    this.#bytes[staging.tier] += staging.reservedBytes;
  }

  /** @throws {StoreError} `write_not_found`, `already_committed` */
  get(owner: Owner, writeId: number): Staging {
    const staging = this.#writes.get(writeId);
    if (staging !== undefined && staging.owner.ownerId === owner.ownerId && !staging.isCommitting)
      return staging;
    const isSecondCommit =
      this.#committed.get(writeId) === owner.ownerId ||
      (staging?.isCommitting === true && staging.owner.ownerId === owner.ownerId);
    throw isSecondCommit
      ? new StoreError('already_committed', `write ${writeId} was committed before`, { writeId })
      : new StoreError(
          'write_not_found',
          `write ${writeId} is not staged by this client: it was aborted, expired, or belongs to another`,
          { writeId },
        );
  }

  find(owner: Owner, writeId: number): Staging | undefined {
    const staging = this.#writes.get(writeId);
    return staging?.owner.ownerId === owner.ownerId ? staging : undefined;
  }

  /** Neither committed nor dropped since. */
  isOpen(staging: Staging): boolean {
    return this.#writes.get(staging.writeId) === staging;
  }

  grow(staging: Staging, reservedBytes: number): void {
    this.#bytes[staging.tier] += reservedBytes - staging.reservedBytes;
    staging.reservedBytes = reservedBytes;
  }

  moveTo(staging: Staging, tier: 0 | 1): void {
    this.#bytes[staging.tier] -= staging.reservedBytes;
    staging.tier = tier;
    this.#bytes[tier] += staging.reservedBytes;
  }

  /** False when it had ended before (I2). */
  end(staging: Staging, outcome: 'committed' | 'dropped'): boolean {
    if (!this.#writes.delete(staging.writeId)) return false;
    this.#bytes[staging.tier] -= staging.reservedBytes;
    const owned = this.#byOwner.get(staging.owner.ownerId);
    owned?.delete(staging.writeId);
    if (owned?.size === 0) this.#byOwner.delete(staging.owner.ownerId);
    if (outcome === 'committed') this.#committed.set(staging.writeId, staging.owner.ownerId);
    return true;
  }

  /** Whether somebody is writing an object whose key begins so. */
  isAnyUnder({ bucket, key: prefix }: ObjectRef): boolean {
    for (const { ref } of this.#writes.values())
      if (ref.bucket === bucket && ref.key.startsWith(prefix)) return true;
    return false;
  }

  ofOwner(owner: Owner): readonly Staging[] {
    return [...(this.#byOwner.get(owner.ownerId) ?? [])].map(
      (id) => this.#writes.get(id) as Staging,
    );
  }

  ofJob(jobId: string): readonly Staging[] {
    return [...this.#writes.values()].filter((staging) => staging.jobId === jobId);
  }

  expired(nowMs: number): readonly Staging[] {
    return [...this.#writes.values()].filter(
      (staging) => staging.deadlineMs <= nowMs && !staging.isCommitting,
    );
  }
}
