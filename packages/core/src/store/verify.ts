/** Checks stored bytes against their checksums: every copy of a blob, in every tier. */
import { isStoreError, StoreError, type TierIndex } from '@ebb/protocol';
import type { BlobRecord, Catalog } from '../catalog/catalog.ts';
import { createCrc32c } from '../checksum.ts';
import type { LocalTier, Mover, RemoteTier } from '../tier/tier.ts';
import type { BrokenBlob } from './object-store.ts';

const REMOTE_READ_BYTES = 1024 * 1024;

export interface VerifyParts {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly remote: RemoteTier;
  readonly mover: Mover;
}

/** The problem of each copy that is broken; an empty list when all are good. */
export async function verifyBlob(
  parts: VerifyParts,
  blob: BlobRecord,
  signal?: AbortSignal,
): Promise<readonly { tier: TierIndex; problem: string }[]> {
  const broken: { tier: TierIndex; problem: string }[] = [];
  const check = async (tier: TierIndex, checksum: () => Promise<number>): Promise<void> => {
    try {
      const found = await checksum();
      if (found !== blob.crc32c)
        broken.push({ tier, problem: `CRC32C is ${hex(found)}, recorded ${hex(blob.crc32c)}` });
    } catch (error) {
      if (!isStoreError(error) || error.code === 'aborted') throw error;
      broken.push({ tier, problem: error.message });
    }
  };
  if (blob.memoryBytes !== null) {
    await check(0, () =>
      parts.mover.checksum(parts.memory.absolutePath(blob.blobId), blob.sizeBytes, signal),
    );
  }
  if (blob.diskBytes !== null) {
    await check(1, () =>
      parts.mover.checksum(parts.disk.absolutePath(blob.blobId), blob.sizeBytes, signal),
    );
  }
  const remoteName = blob.remoteName;
  if (remoteName !== null)
    await check(2, () => remoteChecksum(parts.remote, remoteName, blob.sizeBytes, signal));
  return broken;
}

export async function verifyAll(
  parts: VerifyParts,
  blobs: AsyncIterable<BlobRecord>,
  signal?: AbortSignal,
): Promise<{ blobs: number; bytes: number; broken: readonly BrokenBlob[] }> {
  const broken: BrokenBlob[] = [];
  let count = 0;
  let bytes = 0;
  for await (const blob of blobs) {
    if (signal?.aborted === true) throw new StoreError('aborted', 'verification was given up');
    count++;
    bytes += blob.sizeBytes;
    const problems = await verifyBlob(parts, blob, signal);
    const isLost = blob.memoryBytes === null && blob.diskBytes === null && blob.remoteName === null;
    if (problems.length === 0 && !isLost) continue;
    // The blob may have been deleted or moved while it was read: only what still stands is reported.
    const now = await parts.catalog.findBlob(blob.blobId);
    if (now === undefined || now.refs === 0 || now.generation !== blob.generation) continue;
    const objects = (await parts.catalog.objectsOfBlob(blob.blobId, 16)).map(
      (object) => `${object.bucket}/${object.key}`,
    );
    if (isLost)
      broken.push({
        blobId: blob.blobId,
        tier: 0,
        objects,
        problem: 'no copy is left in any tier',
      });
    for (const found of problems) broken.push({ blobId: blob.blobId, objects, ...found });
  }
  return { blobs: count, bytes, broken };
}

async function remoteChecksum(
  remote: RemoteTier,
  name: string,
  sizeBytes: number,
  signal?: AbortSignal,
): Promise<number> {
  const crc = createCrc32c();
  const buffer = Buffer.allocUnsafe(Math.min(sizeBytes, REMOTE_READ_BYTES));
  for (let at = 0; at < sizeBytes; at += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, sizeBytes - at));
    await remote.read(name, part, at, signal);
    crc.update(part);
  }
  return crc.value();
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}
