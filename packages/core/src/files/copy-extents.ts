/**
 * Fills the start of a staged file with bytes of an object, off the main thread where that pays.
 *
 * I1  The copy is of one version: its caller holds a lease on it.
 * I2  Bytes that do not match the object's checksum are not passed on: a new checksum would make them look good.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import type { Extent } from '../catalog/catalog.ts';
import { FILE_COPY_PIECE_BYTES } from '../limits.ts';
import type { OpenedObject, StagedWrite } from '../store/object-store.ts';
import type { StoreParts } from '../store/parts.ts';

type Parts = Pick<StoreParts, 'memory' | 'disk' | 'mover' | 'placement' | 'vault'>;

/** Reads from a blob wherever it is. */
type ReadBlob = (blobId: number, target: Uint8Array, position: number) => Promise<void>;

interface Copy {
  readonly extent: Extent;
  readonly length: number;
  readonly to: StagedWrite;
  readonly toOffset: number;
}

/** The first `bytes` of the object. @throws `data_corrupt`, `data_lost`, `tier_full`, `io_failed` */
export async function copyExtents(
  parts: Parts,
  readBlob: ReadBlob,
  { object }: OpenedObject,
  { bytes, to }: { readonly bytes: number; readonly to: StagedWrite },
): Promise<void> {
  let toOffset = 0;
  for (const extent of object.extents) {
    const length = Math.min(extent.length, bytes - toOffset);
    if (length <= 0) return;
    const copy = { extent, length, to, toOffset };
    const crc32c = length > FILE_COPY_PIECE_BYTES ? await tryMover(parts, copy) : undefined;
    if (crc32c === undefined) await copyInPieces(parts, readBlob, copy);
    else if (length === object.sizeBytes && object.crc32c !== null && object.crc32c !== crc32c)
      throw new StoreError(
        'data_corrupt',
        `the bytes of ${object.bucket}/${object.key} do not match their checksum`,
        { bucket: object.bucket, key: object.key, version: object.version },
      );
    toOffset += length;
  }
}

/** Undefined when there is no local file of plain bytes, or no longer. */
async function tryMover(
  { memory, disk, mover, placement, vault }: Parts,
  { extent, length, to, toOffset }: Copy,
): Promise<number | undefined> {
  for (const tier of [memory, disk]) {
    if (placement.readableIn(tier.name, extent.blobId) === undefined) continue;
    if (tier === disk && vault.isSealedOnDisk(extent.blobId)) continue;
    try {
      return await mover.copy({
        from: tier.absolutePath(extent.blobId),
        to: to.absolutePath,
        sizeBytes: length,
        fromOffset: extent.offset,
        toOffset,
        sync: false,
      });
    } catch (error) {
      if (!isStoreError(error, 'data_lost')) throw error;
    }
  }
  return undefined;
}

async function copyInPieces(
  parts: Parts,
  readBlob: ReadBlob,
  { extent, length, to, toOffset }: Copy,
): Promise<void> {
  const tier = to.tier === 0 ? parts.memory : parts.disk;
  const piece = Buffer.allocUnsafeSlow(Math.min(FILE_COPY_PIECE_BYTES, length));
  for (let at = 0; at < length; at += piece.length) {
    const view = piece.subarray(0, Math.min(piece.length, length - at));
    await readBlob(extent.blobId, view, extent.offset + at);
    await tier.write(to.blobId, view, toOffset + at);
  }
}
