/**
 * Committed snapshots whose bytes are gone: memory lost them, or somebody deleted them.
 *
 * I1  One that is found so is lost at once: it is seen no more, holds no slot, and `latest` is an older one. Where it had
 *     replaced a stored snapshot of its step, that one is back.
 * I2  One that is stored has lost its images alone, and goes on without them.
 * I3  One whose stored bytes are gone is marked bad, with what is missing: all ranks then go on from the same older one.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import { type SnapshotRef, snapshotKey } from './names.ts';
import type { CheckpointStore } from './objects.ts';
import { endedKey, type Runs, remember } from './runs.ts';
import {
  assertIsImage,
  imageKeyOf,
  lastSessionAfter,
  type SnapshotRecord,
} from './snapshot-record.ts';

export interface LossesParts {
  readonly store: Pick<CheckpointStore, 'find' | 'head'>;
  readonly runs: Runs;
  readonly imageBucketOf: (bucket: string) => Promise<string>;
  readonly onError: (error: unknown, subject: string) => void;
}

export class Losses {
  readonly #parts: LossesParts;

  constructor(parts: LossesParts) {
    this.#parts = parts;
  }

  /** Whether its images are there. If not, the record says so when this resolves (I1, I2). */
  async checkImages(ref: SnapshotRef, record: SnapshotRecord): Promise<boolean> {
    if (await this.#hasImages(ref, record)) return true;
    await this.#lose(ref, record);
    return false;
  }

  /** Whether the objects are there that hold its bytes. If not, it is bad when this resolves (I3). */
  async checkStored(
    ref: SnapshotRef,
    { session }: SnapshotRecord,
    keys: Iterable<string>,
  ): Promise<boolean> {
    const { store, runs } = this.#parts;
    for (const key of keys) {
      if ((await store.find({ bucket: ref.bucket, key })) !== undefined) continue;
      const bad = `lost: ${ref.bucket}/${key}, where its bytes were, is gone`;
      await runs.change({ ...ref, session }, { bad }, { durable: true });
      this.#tell(ref, `snapshot ${snapshotKey(ref)} is ${bad}`);
      return false;
    }
    return true;
  }

  async #lose(ref: SnapshotRef, record: SnapshotRecord): Promise<void> {
    const { runs } = this.#parts;
    const run = runs.find(ref);
    const now = run?.snapshots.get(ref.step);
    if (run === undefined || now?.session !== record.session || now.isRemoved) return;
    if (now.stored !== null) {
      await runs.put(ref, { ...now, imagesGone: true }, { durable: false });
      return;
    }
    const message = `snapshot ${snapshotKey(ref)} was in memory alone, and that is lost`;
    remember(run.ended, endedKey({ ...ref, session: now.session }), { code: 'data_lost', message });
    this.#tell(ref, message);
    const left =
      now.previous === null
        ? { ...now, isRemoved: true }
        : { ...now.previous, ...lastSessionAfter(now, now.previous.session) };
    await runs.put(ref, left, { durable: true });
  }

  #tell(ref: SnapshotRef, message: string): void {
    const error = new StoreError('data_lost', message, { step: ref.step });
    this.#parts.onError(error, snapshotKey(ref));
  }

  async #hasImages(ref: SnapshotRef, { session, parts }: SnapshotRecord): Promise<boolean> {
    const bucket = await this.#parts.imageBucketOf(ref.bucket);
    for (const part of parts)
      try {
        const key = imageKeyOf(ref, session, part);
        assertIsImage(part, (await this.#parts.store.head({ bucket, key })).object);
      } catch (error) {
        if (isStoreError(error, 'not_found') || isStoreError(error, 'data_lost')) return false;
        throw error;
      }
    return true;
  }
}
