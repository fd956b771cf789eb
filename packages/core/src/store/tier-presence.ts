/**
 * Sees when the directory of a tier is not there any more: it was removed or moved away, or its file system is not mounted. That
 * is the condition `tier_away`; it ends when the directory is back.
 *
 * P1  Nothing is given up meanwhile: that a file is not there is believed only while the directory is (tier/file-tier.ts, I7).
 * P2  A directory that was removed from a tmpfs is made anew, as after a reboot: nothing brings back what lay in it. Then what
 *     only it had is lost, and told so, before the condition ends.
 */
import { existsSync } from 'node:fs';
import type { Catalog } from '../catalog/catalog.ts';
import type { BlobPlacement } from '../placement/blob-placement.ts';
import type { LocalTier } from '../tier/tier.ts';
import type { Conditions } from './conditions.ts';
import type { LifeLog } from './life-log.ts';
import { allBlobs } from './scan.ts';

export interface TierPresenceParts {
  readonly catalog: Pick<Catalog, 'findBlob' | 'listBlobs' | 'setBlobCopies'>;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly placement: Pick<BlobPlacement, 'exclusively' | 'giveUp'>;
  readonly conditions: Conditions;
  readonly log: LifeLog;
}

export class TierPresence {
  readonly #parts: TierPresenceParts;
  /** The memory tier was made anew, and not all of its blobs were looked at since. */
  #isRenewed = false;

  constructor(parts: TierPresenceParts) {
    this.#parts = parts;
  }

  async sweep(): Promise<void> {
    const { memory, disk } = this.#parts;
    for (const tier of [memory, disk]) this.#look(tier);
    if (!this.#isRenewed) return;
    await this.#giveUpLost();
    this.#isRenewed = false;
    this.#look(memory);
  }

  #look(tier: LocalTier): void {
    const { conditions } = this.#parts;
    try {
      tier.assertThere();
      if (tier.name !== 'memory' || !this.#isRenewed) conditions.leave('tier_away', tier.name);
    } catch (error) {
      const what = error instanceof Error ? error.message : String(error);
      conditions.enter('tier_away', tier.name, { reason: `${what}.`, error });
      if (tier.renew()) this.#isRenewed = true;
    }
  }

  /** P2 */
  async #giveUpLost(): Promise<void> {
    const { catalog, memory, placement, log } = this.#parts;
    for await (const { blobId } of allBlobs(catalog, 'memory')) {
      await placement.exclusively(blobId, async () => {
        const blob = await catalog.findBlob(blobId);
        // One that nothing needs is being removed.
        if (blob === undefined || blob.refs === 0 || blob.memoryBytes === null) return;
        if (existsSync(memory.absolutePath(blobId))) return; // it was made after that
        const { diskBytes, remote } = blob;
        const left = { memoryBytes: null, diskBytes, remote };
        if (!(await catalog.setBlobCopies(blobId, blob.generation, left))) return;
        log.add(blobId, 'copy lost', { tier: 0, why: 'the directory of the tier was removed' });
        placement.giveUp('memory', blobId);
      });
    }
  }
}
