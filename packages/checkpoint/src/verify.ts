/** Reads a snapshot wherever its bytes lie, and names what does not match. */
import type { BrokenBlock, ManifestPart, RestorePart, RestorePlan, Shard } from '@ebb/protocol';
import { isStoreError, StoreError } from '@ebb/protocol';
import { DIGEST_BYTES, digestOf } from './digest.ts';
import type { CheckpointStore, Objects } from './objects.ts';

export interface VerifyParts {
  readonly objects: Objects;
  readonly store: Pick<CheckpointStore, 'find'>;
  readonly signal: AbortSignal;
}

export interface Verified {
  readonly bytes: number;
  readonly broken: BrokenBlock[];
}

/**
 * Images whose digests are not known yet are compared by the store alone, when it moves them.
 * @throws `aborted`
 */
export async function verifySnapshot(
  { snapshot: { bucket }, parts }: RestorePlan,
  use: VerifyParts,
): Promise<Verified> {
  const all: Verified = { bytes: 0, broken: [] };
  let bytes = 0;
  for (const part of parts) {
    const { digests, runs, image, imageBytes } = part;
    if (digests === null) continue;
    if (image !== null) {
      const whole = [[0, imageBytes, image.key, 0]] as const;
      all.broken.push(
        ...(await verifyRuns(part, digests, whole, {
          ...use,
          bucket: image.bucket,
          source: 'image',
        })),
      );
      bytes += imageBytes;
    }
    if (runs !== null) {
      all.broken.push(
        ...(await verifyRuns(part, digests, runs, { ...use, bucket, source: 'stored' })),
      );
      bytes += imageBytes;
    }
  }
  return { ...all, bytes };
}

async function verifyRuns(
  part: RestorePart,
  digests: string,
  runs: readonly (readonly [number, number, string, number])[],
  {
    objects,
    bucket,
    source,
    signal,
  }: VerifyParts & { readonly bucket: string; readonly source: BrokenBlock['source'] },
): Promise<BrokenBlock[]> {
  const expected = Buffer.from(digests, 'base64');
  const broken: BrokenBlock[] = [];
  // Runs begin and end with blocks.
  for (const [from, length, key, at] of runs) {
    const tell = (offset: number, bytes: number, problem: string): void => {
      const shards = shardsAt(part.shards, offset, bytes);
      broken.push({ part: part.name, source, offset, length: bytes, shards, problem });
    };
    try {
      await objects.using({ bucket, key }, async (opened) => {
        for (let done = 0; done < length; done += part.blockBytes) {
          if (signal.aborted) throw new StoreError('aborted', 'verification was stopped');
          const offset = from + done;
          const block = Buffer.allocUnsafe(Math.min(part.blockBytes, length - done));
          try {
            await objects.read(opened, block, at + done);
          } catch (error) {
            if (!isLoss(error)) throw error;
            tell(offset, block.length, `${bucket}/${key}: ${error.message}`);
            continue;
          }
          const slot = (offset / part.blockBytes) * DIGEST_BYTES;
          if (!digestOf(block).equals(expected.subarray(slot, slot + DIGEST_BYTES)))
            tell(offset, block.length, `${bucket}/${key} has other bytes at ${at + done}`);
        }
      });
    } catch (error) {
      if (!isLoss(error)) throw error;
      tell(from, length, `${bucket}/${key}: ${error.message}`);
    }
  }
  return broken;
}

function isLoss(error: unknown): error is StoreError {
  return (
    isStoreError(error, 'data_lost') ||
    isStoreError(error, 'data_corrupt') ||
    isStoreError(error, 'not_found') ||
    isStoreError(error, 'superseded')
  );
}

function shardsAt(
  shards: ManifestPart['shards'] | readonly Shard[],
  offset: number,
  length: number,
): string[] {
  return shards
    .filter((shard) => shard.offset < offset + length && shard.offset + shard.length > offset)
    .map(({ name }) => name);
}
