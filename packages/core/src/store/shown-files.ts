/**
 * Which files of tier 1 a reader outside is shown: those that were compared whole (compared-files.ts). Who is not shown a file
 * reads through us, and each block is compared then.
 *
 * W1  All who open a blob have the same pass over its file.
 * W2  No client waits for a pass longer than `MOMENT_MS` from its begin, nor at all for that over a large file: they read through
 *     us meanwhile, and have the file when they open it after the pass.
 * W3  A pass goes on when nobody waits for it. It holds the file as long as it takes. Those over large files take turns.
 */
import { isStoreError, MiB } from '@ebb/protocol';
import type { Clock } from '../clock.ts';
import type { LocalTier } from '../tier/tier.ts';
import type { BadCopies } from './bad-copies.ts';
import type { BlobFacts } from './block-sums.ts';
import type { ComparedFiles } from './compared-files.ts';
import type { LeaseTable } from './lease-table.ts';
import type { StoreObserver } from './parts.ts';

const MOMENT_MS = 2000;
const WAITED_FOR_BYTES_MAX = 64 * MiB;

export interface ShownFilesParts {
  readonly disk: Pick<LocalTier, 'absolutePath'>;
  readonly diskLeases: LeaseTable;
  readonly comparedFiles: Pick<ComparedFiles, 'has' | 'compare'>;
  readonly badCopies: Pick<BadCopies, 'found'>;
  readonly clock: Pick<Clock, 'sleep'>;
  readonly observer: Pick<StoreObserver, 'failed'>;
}

/** `not yet`: its pass goes on. `no`: the copy is bad; another may be there. */
export type MayShow = 'yes' | 'not yet' | 'no';

interface Pass {
  readonly ended: Promise<MayShow>;
  /** W2 */
  readonly soon: Promise<MayShow>;
}

export class ShownFiles {
  readonly #parts: ShownFilesParts;
  /** By blob. */
  readonly #passes = new Map<number, Pass>();
  #lastLarge: Promise<unknown> = Promise.resolve();

  constructor(parts: ShownFilesParts) {
    this.#parts = parts;
  }

  /** The caller holds the file. With `toItsEnd` it waits for the whole pass. */
  async mayShow(facts: BlobFacts, { toItsEnd }: { toItsEnd: boolean }): Promise<MayShow> {
    const { disk, comparedFiles } = this.#parts;
    const { blobId } = facts;
    const file = disk.absolutePath(blobId);
    if (!this.#passes.has(blobId) && (await comparedFiles.has(facts, file))) return 'yes';
    const pass = this.#passes.get(blobId) ?? this.#begin(facts, file);
    return await (toItsEnd ? pass.ended : pass.soon);
  }

  #begin(facts: BlobFacts, file: string): Pass {
    const { diskLeases, observer } = this.#parts;
    const { blobId } = facts;
    const isLarge = facts.sizeBytes > WAITED_FOR_BYTES_MAX;
    const lease = diskLeases.lease(blobId); // W3
    const compared = isLarge
      ? this.#lastLarge.then(() => this.#compare(facts, file))
      : this.#compare(facts, file);
    const ended = compared.finally(() => {
      this.#passes.delete(blobId);
      diskLeases.endLease(lease, { returned: true });
    });
    const settled = ended.catch((error: unknown) => observer.failed(error, 'verification'));
    if (isLarge) this.#lastLarge = settled;
    const soon = isLarge ? Promise.resolve('not yet' as const) : this.#withinMoment(ended);
    soon.catch(() => undefined); // told above
    const pass = { ended, soon };
    this.#passes.set(blobId, pass);
    return pass;
  }

  async #withinMoment(ended: Promise<MayShow>): Promise<MayShow> {
    const over = new AbortController();
    const moment = this.#parts.clock.sleep(MOMENT_MS, over.signal).then(
      () => 'not yet' as const,
      () => 'not yet' as const,
    );
    try {
      return await Promise.race([ended, moment]);
    } finally {
      over.abort();
    }
  }

  async #compare(facts: BlobFacts, file: string): Promise<MayShow> {
    const { comparedFiles, badCopies } = this.#parts;
    try {
      await comparedFiles.compare(facts, file);
      return 'yes';
    } catch (error) {
      // What is gone or cannot be read gives nobody wrong bytes: the reader finds out, and asks again.
      if (isStoreError(error, 'data_lost') || isStoreError(error, 'io_failed')) return 'yes';
      if (!isStoreError(error, 'data_corrupt')) throw error;
      await badCopies.found(1, facts.blobId, error);
      return 'no';
    }
  }
}
