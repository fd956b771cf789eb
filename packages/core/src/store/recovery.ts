/**
 * After a start: makes the tiers and the catalog agree again, in this order.
 *
 *   1. every blob the catalog names in a local tier is looked up there; a missing or short file loses its copy record
 *   2. blobs whose references ended before the crash are removed to the end
 *   3. files that no blob stands behind (staged, never committed) are removed
 *
 * A blob that is left without any copy stays in the catalog: its objects answer `data_lost`, not `not_found`, until `ebb gc`.
 */
import type { BlobRecord, Catalog } from '../catalog/catalog.ts';
import { storedSize, type Vault } from '../encryption/vault.ts';
import type { BlobPlacement } from '../placement/blob-placement.ts';
import type { RecencyIndex } from '../placement/evictor.ts';
import { isSealedBlob } from '../placement/sealed-copies.ts';
import type { LocalTier } from '../tier/tier.ts';
import type { LeaseTable } from './lease-table.ts';
import type { StoreObserver } from './parts.ts';
import { allBlobs } from './scan.ts';

export interface RecoveryReport {
  readonly blobs: number;
  readonly lostCopies: number;
  readonly lostBlobs: number;
  readonly retired: number;
  readonly orphanFiles: number;
  readonly orphanBytes: number;
}

const PAGE = 512;

export async function recover(parts: {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly placement: BlobPlacement;
  readonly leases: LeaseTable;
  readonly recency: RecencyIndex;
  readonly vault: Vault;
  readonly observer: StoreObserver;
}): Promise<RecoveryReport> {
  const { catalog, memory, disk } = parts;
  const counts = { blobs: 0, lostCopies: 0, lostBlobs: 0, retired: 0 };
  for (let after = 0; ; ) {
    const page = await catalog.listBlobs({ afterBlobId: after, limit: PAGE });
    if (page.length === 0) break;
    after = (page[page.length - 1] as BlobRecord).blobId;
    counts.blobs += page.length;
    // Together: after a reboot each of them changes its record, and changes of one turn share a transaction.
    const lost = await Promise.all(page.map((blob) => adoptBlob(parts, blob)));
    for (const blob of lost) {
      counts.lostCopies += blob.lostCopies;
      if (blob.isLost) counts.lostBlobs++;
    }
  }
  counts.retired = (await retireFreed(parts)).retired;
  const orphans = [await memory.removeOrphans(), await disk.removeOrphans()];
  return {
    ...counts,
    orphanFiles: orphans.reduce((sum, found) => sum + found.files, 0),
    orphanBytes: orphans.reduce((sum, found) => sum + found.bytes, 0),
  };
}

/** Removes every freed blob to the end. One that fails (tier 2 does not answer) stays for the next time. */
export async function retireFreed(parts: {
  readonly catalog: Catalog;
  readonly placement: BlobPlacement;
  readonly observer: StoreObserver;
}): Promise<{ readonly retired: number; readonly failed: number }> {
  const { catalog, placement, observer } = parts;
  let retired = 0;
  let failed = 0;
  for await (const blob of allBlobs(catalog, 'freed')) {
    try {
      await placement.retire(blob);
      retired++;
    } catch (error) {
      failed++;
      observer.failed(error, 'removal', `blob ${blob.blobId}`);
    }
  }
  return { retired, failed };
}

async function adoptBlob(
  parts: {
    catalog: Catalog;
    memory: LocalTier;
    disk: LocalTier;
    leases: LeaseTable;
    recency: RecencyIndex;
    vault: Vault;
  },
  blob: BlobRecord,
): Promise<{ readonly lostCopies: number; readonly isLost: boolean }> {
  const { catalog, memory, disk, leases, recency } = parts;
  const inMemory =
    blob.memoryBytes === null ? undefined : memory.adopt(blob.blobId, blob.sizeBytes);
  const onDisk = blob.diskBytes === null ? undefined : disk.adopt(blob.blobId, storedSize(blob));
  if (onDisk !== undefined && isSealedBlob(blob)) parts.vault.note(blob.blobId, blob);
  if (inMemory !== undefined) {
    leases.taint(blob.blobId); // readers of the former daemon may still hold the file
    recency.add(blob.blobId, inMemory.allocatedBytes);
  }
  const copies = {
    memoryBytes: inMemory?.allocatedBytes ?? null,
    diskBytes: onDisk?.allocatedBytes ?? null,
    remote: blob.remote,
  };
  if (
    blob.refs > 0 &&
    (copies.memoryBytes !== blob.memoryBytes || copies.diskBytes !== blob.diskBytes)
  ) {
    await catalog.setBlobCopies(blob.blobId, blob.generation, copies);
  }
  const lostCopies =
    (blob.memoryBytes !== null && inMemory === undefined ? 1 : 0) +
    (blob.diskBytes !== null && onDisk === undefined ? 1 : 0);
  const hasCopy = inMemory !== undefined || onDisk !== undefined || blob.remote !== null;
  return { lostCopies, isLost: blob.refs > 0 && lostCopies > 0 && !hasCopy };
}
