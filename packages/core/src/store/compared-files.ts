/**
 * Files of tier 1 that readers outside are shown: each was compared whole before.
 *
 * F1  A file counts as compared as long as it is the same file, unchanged by its inode's time of change, and for COMPARED_MS
 *     at most: a disk that gives other bytes changes no time.
 * F2  What is read of it right after it was compared comes from the page cache, so the disk is read once.
 * F3  There is one pass over a file at a time: who asks while it goes on has its result.
 */
import { stat } from 'node:fs/promises';
import { isStoreError, StoreError } from '@ebb/protocol';
import type { Clock } from '../clock.ts';
import { isMissing, toStoreError } from '../tier/fs-error.ts';
import type { BlobFacts, BlockSums } from './block-sums.ts';
import { RecentMap } from './recent-map.ts';

const COMPARED_MS = 3_600_000;
const FILES_REMEMBERED_MIN = 16_384;

interface SeenFile {
  readonly inode: number;
  readonly changedAtMs: number;
  readonly sizeBytes: number;
  readonly comparedAtMs: number;
}

export class ComparedFiles {
  readonly #sums: BlockSums;
  readonly #clock: Pick<Clock, 'monotonic'>;
  readonly #seen = new RecentMap<number, SeenFile>(FILES_REMEMBERED_MIN);
  /** By file. */
  readonly #running = new Map<string, Promise<void>>();

  constructor(sums: BlockSums, clock: Pick<Clock, 'monotonic'>) {
    this.#sums = sums;
    this.#clock = clock;
  }

  /** Whether it counts as compared. */
  async has({ blobId }: BlobFacts, file: string): Promise<boolean> {
    const seen = this.#seen.get(blobId);
    if (seen === undefined) return false;
    try {
      return this.#isSame(seen, await look(file));
    } catch (error) {
      if (isStoreError(error)) return false; // a pass says what is wrong
      throw error;
    }
  }

  /**
   * F3
   * @throws `data_corrupt` when the file is not the blob's; `data_lost`, `io_failed`
   */
  async compare(facts: BlobFacts, file: string): Promise<void> {
    const running = this.#running.get(file);
    if (running !== undefined) return await running;
    const pass = this.#compare(facts, file).finally(() => this.#running.delete(file));
    this.#running.set(file, pass);
    await pass;
  }

  async #compare(facts: BlobFacts, file: string): Promise<void> {
    const before = await look(file);
    const seen = this.#seen.get(facts.blobId);
    if (seen !== undefined && this.#isSame(seen, before)) return;
    const comparedAtMs = this.#clock.monotonic();
    await this.#sums.compare(facts, file);
    this.#seen.set(facts.blobId, { ...before, comparedAtMs });
  }

  #isSame(seen: SeenFile, now: Omit<SeenFile, 'comparedAtMs'>): boolean {
    return (
      seen.inode === now.inode &&
      seen.changedAtMs === now.changedAtMs &&
      seen.sizeBytes === now.sizeBytes &&
      this.#clock.monotonic() - seen.comparedAtMs < COMPARED_MS
    );
  }
}

async function look(file: string): Promise<Omit<SeenFile, 'comparedAtMs'>> {
  try {
    const { ino, ctimeMs, size } = await stat(file);
    return { inode: ino, changedAtMs: ctimeMs, sizeBytes: size };
  } catch (error) {
    if (isMissing(error)) throw new StoreError('data_lost', `no file ${file}`, {}, error);
    throw toStoreError(error, `looking at ${file}`);
  }
}
