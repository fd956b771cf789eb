/**
 * Checks stored bytes against their checksums: every copy of a blob, in every tier.
 *
 * V1  A copy in tier 2 is certainly broken when it is read wrong twice, and certainly gone when two different questions say so
 *     (still-there.ts): the last copy is forgotten for nothing less.
 */
import { isStoreError, StoreError, type StoreErrorCode, type TierIndex } from '@ebb/protocol';
import type { BlobRecord, Catalog, RemoteCopy } from '../catalog/catalog.ts';
import { displayName } from '../catalog/version-keys.ts';
import { createCrc32c } from '../checksum.ts';
import { isSealedBlob, type SealedCopies } from '../placement/sealed-copies.ts';
import { isStillThere } from '../tier/still-there.ts';
import type { LocalTier, Mover, RemoteTier } from '../tier/tier.ts';
import type { BrokenBlob } from './object-store.ts';

const REMOTE_READ_BYTES = 1024 * 1024;

type ReadStored = (part: Uint8Array, at: number) => Promise<void>;

export interface VerifyParts {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly remote: RemoteTier;
  readonly mover: Mover;
  readonly sealed: SealedCopies;
}

export interface BrokenCopy {
  readonly tier: TierIndex;
  readonly problem: string;
  /** The bytes are wrong or missing; else they could not be read just now. */
  readonly isCertain: boolean;
}

interface Found extends BrokenCopy {
  readonly code: StoreErrorCode;
}

/** What says that the bytes are not there. Other errors may pass; some (a closed mover) say nothing about the copy at all. */
const CERTAIN: ReadonlySet<string> = new Set([
  'data_lost',
  'data_corrupt',
  'range_invalid',
  'precondition_failed',
]);
const REVERIFY_MAX = 4;

/** The problem of each copy that is broken; an empty list when all are good. @throws what says nothing about a copy */
export async function verifyBlob(
  parts: VerifyParts,
  blob: BlobRecord,
  signal?: AbortSignal,
): Promise<readonly BrokenCopy[]> {
  const broken: BrokenCopy[] = [];
  const cancel = signal === undefined ? {} : { signal };
  const check = async (
    tier: TierIndex,
    checksum: () => Promise<number>,
  ): Promise<Found | undefined> => {
    try {
      const found = await checksum();
      if (blob.crc32c === null || found === blob.crc32c) return undefined;
      const problem = `CRC32C is ${hex(found)}, recorded ${hex(blob.crc32c)}`;
      return { tier, problem, isCertain: true, code: 'data_corrupt' };
    } catch (error) {
      if (!isStoreError(error)) throw error;
      const isCertain = CERTAIN.has(error.code);
      if (!isCertain && error.code !== 'io_failed' && error.code !== 'key_unavailable') throw error;
      return { tier, problem: error.message, isCertain, code: error.code };
    }
  };
  const add = (found: Found | undefined): void => {
    if (found === undefined) return;
    const { tier, problem, isCertain } = found;
    broken.push({ tier, problem, isCertain });
  };
  if (blob.memoryBytes !== null) {
    add(
      await check(0, () =>
        parts.mover.checksum(parts.memory.absolutePath(blob.blobId), blob.sizeBytes, cancel),
      ),
    );
  }
  if (blob.diskBytes !== null) {
    add(
      await check(1, () =>
        isSealedBlob(blob)
          ? parts.sealed.checksumOnDisk(blob, signal)
          : parts.mover.checksum(parts.disk.absolutePath(blob.blobId), blob.sizeBytes, cancel),
      ),
    );
  }
  const { remote, sizeBytes } = blob;
  if (remote !== null) {
    const { name, offset, etag } = remote;
    const readStored: ReadStored = async (part, at) =>
      await parts.remote.read(name, part, offset + at, { etag, ...(signal && { signal }) });
    const read: ReadStored = isSealedBlob(blob)
      ? async (part, at) => await parts.sealed.readRemote(blob, part, at, readStored)
      : readStored;
    const look = (): ReturnType<typeof check> => check(2, () => checksumThrough(read, sizeBytes));
    const first = await look();
    const found = first?.isCertain === true ? await look() : first;
    const isCertain = found?.isCertain === true && (await isConfirmed(parts.remote, remote, found));
    add(found && { ...found, isCertain });
  }
  return broken;
}

/** V1 */
async function isConfirmed(
  remote: RemoteTier,
  copy: RemoteCopy,
  { code }: Pick<Found, 'code'>,
): Promise<boolean> {
  if (code === 'data_corrupt') return true;
  try {
    return !(await isStillThere(remote, copy));
  } catch (error) {
    if (!isStoreError(error)) throw error;
    return false;
  }
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
    broken.push(...(await findBroken(parts, blob, signal)));
  }
  return { blobs: count, bytes, broken };
}

/** A blob that moved while it was read is read again: only what still stands is reported. */
async function findBroken(
  parts: VerifyParts,
  first: BlobRecord,
  signal?: AbortSignal,
): Promise<readonly BrokenBlob[]> {
  let blob = first;
  for (let look = 1; ; look++) {
    const problems = await verifyBlob(parts, blob, signal);
    const isLost = blob.memoryBytes === null && blob.diskBytes === null && blob.remote === null;
    if (problems.length === 0 && !isLost) return [];
    const now = await parts.catalog.findBlob(blob.blobId);
    if (now === undefined || now.refs === 0) return [];
    if (now.generation !== blob.generation && look < REVERIFY_MAX) {
      blob = now;
      continue;
    }
    const { blobId } = blob;
    const objects = (await parts.catalog.objectsOfBlob(blobId, 16)).map(displayName);
    if (isLost) return [{ blobId, tier: 0, objects, problem: 'no copy is left in any tier' }];
    return problems.map(({ tier, problem }) => ({ blobId, objects, tier, problem }));
  }
}

async function checksumThrough(read: ReadStored, length: number): Promise<number> {
  const crc = createCrc32c();
  const buffer = Buffer.allocUnsafe(Math.min(length, REMOTE_READ_BYTES));
  for (let at = 0; at < length; at += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, length - at));
    await read(part, at);
    crc.update(part);
  }
  return crc.value();
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}
