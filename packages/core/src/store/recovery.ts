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
import type { BlobPlacement } from '../placement/blob-placement.ts';
import type { RecencyIndex } from '../placement/evictor.ts';
import type { LocalTier } from '../tier/tier.ts';
import type { LeaseTable } from './lease-table.ts';

export interface RecoveryReport {
  readonly blobs: number;
  readonly lostCopies: number;
  readonly lostBlobs: number;
  readonly retired: number;
  readonly orphanFiles: number;
  readonly orphanBytes: number;
}

const PAGE = 1024;

export async function recover(parts: {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly placement: BlobPlacement;
  readonly leases: LeaseTable;
  readonly recency: RecencyIndex;
}): Promise<RecoveryReport> {
  const { catalog, memory, disk, placement } = parts;
  const counts = { blobs: 0, lostCopies: 0, lostBlobs: 0, retired: 0 };
  for (let after = 0; ; ) {
    const page = await catalog.listBlobs({ afterBlobId: after, limit: PAGE });
    if (page.length === 0) break;
    for (const blob of page) {
      after = blob.blobId;
      counts.blobs++;
      const lost = await adoptBlob(parts, blob);
      counts.lostCopies += lost;
      if (lost > 0 && (await hasNoCopy(catalog, blob.blobId))) counts.lostBlobs++;
    }
  }
  for (;;) {
    const freed = await catalog.listBlobs({ afterBlobId: 0, limit: PAGE, where: 'freed' });
    if (freed.length === 0) break;
    for (const blob of freed) await placement.retire(blob);
    counts.retired += freed.length;
  }
  const orphans = [await memory.removeOrphans(), await disk.removeOrphans()];
  return {
    ...counts,
    orphanFiles: orphans.reduce((sum, found) => sum + found.files, 0),
    orphanBytes: orphans.reduce((sum, found) => sum + found.bytes, 0),
  };
}

/** Returns how many copy records were lost. */
async function adoptBlob(
  parts: {
    catalog: Catalog;
    memory: LocalTier;
    disk: LocalTier;
    leases: LeaseTable;
    recency: RecencyIndex;
  },
  blob: BlobRecord,
): Promise<number> {
  const { catalog, memory, disk, leases, recency } = parts;
  const inMemory =
    blob.memoryBytes === null ? undefined : memory.adopt(blob.blobId, blob.sizeBytes);
  const onDisk = blob.diskBytes === null ? undefined : disk.adopt(blob.blobId, blob.sizeBytes);
  if (inMemory !== undefined) {
    leases.taint(blob.blobId); // readers of the former daemon may still hold the file
    recency.add(blob.blobId, inMemory.allocatedBytes);
  }
  const copies = {
    memoryBytes: inMemory?.allocatedBytes ?? null,
    diskBytes: onDisk?.allocatedBytes ?? null,
    remoteName: blob.remoteName,
  };
  if (
    blob.refs > 0 &&
    (copies.memoryBytes !== blob.memoryBytes || copies.diskBytes !== blob.diskBytes)
  ) {
    await catalog.setBlobCopies(blob.blobId, blob.generation, copies);
  }
  return (
    (blob.memoryBytes !== null && inMemory === undefined ? 1 : 0) +
    (blob.diskBytes !== null && onDisk === undefined ? 1 : 0)
  );
}

async function hasNoCopy(catalog: Catalog, blobId: number): Promise<boolean> {
  const blob = await catalog.findBlob(blobId);
  return (
    blob !== undefined &&
    blob.refs > 0 &&
    blob.memoryBytes === null &&
    blob.diskBytes === null &&
    blob.remoteName === null
  );
}
