/**
 * Copies whose bytes turned out to be wrong when they were read.
 *
 * C1  A copy is bad when it does not match the blob's own CRC32C, whole; a block that does not match is a reason to look.
 * C2  A bad copy is set aside when the blob has another one: it is not read any more and does not count as a copy. The last
 *     copy stays where it is: what of it is right is still read, block by block, and what is not says `data_corrupt`.
 * C3  Each is told once: in the log, in `ebb why`, and in a metric.
 */
import type { TierIndex } from '@ebb/protocol';
import type { BlobRecord, Catalog } from '../catalog/catalog.ts';
import type { BlobPlacement } from '../placement/blob-placement.ts';
import type { Mirror } from '../placement/mirror.ts';
import type { PrivateCopies } from '../placement/private-copies.ts';
import { isPrivateName } from '../placement/remote-names.ts';
import type { LocalTier } from '../tier/tier.ts';
import type { LifeLog } from './life-log.ts';
import type { StoreObserver } from './parts.ts';
import { RecentMap } from './recent-map.ts';

const COPIES_REMEMBERED_MIN = 4096;
const OBJECTS_TOLD_MAX = 64;

export interface BadCopiesParts {
  readonly catalog: Catalog;
  readonly disk: LocalTier;
  readonly placement: BlobPlacement;
  readonly mirror: Mirror;
  readonly privateCopies: PrivateCopies;
  readonly log: LifeLog;
  readonly observer: StoreObserver;
}

export interface BadCopy {
  readonly tier: TierIndex;
  readonly problem: string;
}

export class BadCopies {
  readonly #parts: BadCopiesParts;
  /** Bad copies that stay, being the last: known, and not looked at whole again. */
  readonly #kept = new RecentMap<string, true>(COPIES_REMEMBERED_MIN);

  constructor(parts: BadCopiesParts) {
    this.#parts = parts;
  }

  isKept(tier: TierIndex, blobId: number): boolean {
    return this.#kept.get(`${tier}/${blobId}`) === true;
  }

  /** A copy was read and is bad. */
  async found(tier: 1 | 2, blobId: number, error: Error): Promise<void> {
    const { catalog, placement } = this.#parts;
    await placement.exclusively(blobId, async () => {
      const blob = await catalog.findBlob(blobId);
      if (blob === undefined || blob.refs === 0) {
        this.#kept.set(`${tier}/${blobId}`, true); // deleted, and still being read
        return;
      }
      if ((tier === 1 ? blob.diskBytes : blob.remote) === null) return; // set aside meanwhile
      const copies = [blob.memoryBytes, blob.diskBytes, blob.remote].filter(
        (copy) => copy !== null,
      );
      const isLast = copies.length === 1;
      if (!this.isKept(tier, blobId))
        this.#tell(blob, { tier, problem: error.message }, { isLast, error });
      if (isLast) this.#kept.set(`${tier}/${blobId}`, true);
      else await this.setAside(blob, [{ tier, problem: error.message }]);
    });
  }

  /** While nothing else moves the blob. */
  async setAside(blob: BlobRecord, bad: readonly BadCopy[]): Promise<void> {
    const { catalog, disk, placement, mirror, privateCopies, log } = this.#parts;
    const { blobId } = blob;
    const has = (tier: TierIndex): boolean => bad.some((copy) => copy.tier === tier);
    const left = {
      memoryBytes: has(0) ? null : blob.memoryBytes,
      diskBytes: has(1) ? null : blob.diskBytes,
      remote: has(2) ? null : blob.remote,
    };
    const change = (): Promise<boolean> => catalog.setBlobCopies(blobId, blob.generation, left);
    const name = has(2) ? blob.remote?.name : undefined;
    const isPrivate = name !== undefined && isPrivateName(name);
    if (!(await (isPrivate ? privateCopies.during(name, change) : change()))) return;
    for (const { tier, problem } of bad) {
      this.#kept.delete(`${tier}/${blobId}`);
      log.add(blobId, 'broken copy dropped', { tier, problem });
    }
    if (has(0)) placement.giveUp('memory', blobId);
    if (has(1)) {
      disk.setAside(blobId);
      placement.giveUp('disk', blobId);
    }
    if (name === undefined) return;
    // Its bucket wanted a copy there: from the good one, if there is.
    for (const ref of await catalog.objectsOfBlob(blobId, OBJECTS_TOLD_MAX)) {
      const object = await catalog.findObject(ref.bucket, ref.key);
      if (object !== undefined) await catalog.unsetMirrored(object);
    }
    mirror.wake();
  }

  #tell(
    { blobId }: BlobRecord,
    { tier, problem }: BadCopy,
    { isLast, error }: { readonly isLast: boolean; readonly error: Error },
  ): void {
    const { log, observer } = this.#parts;
    const then = isLast ? 'kept, for it is the last copy' : 'set aside';
    log.add(blobId, 'a copy is corrupt', { tier, problem, then });
    observer.corrupt(tier);
    observer.failed(error, 'verification', `the copy of blob ${blobId} in tier ${tier}: ${then}`);
  }
}
