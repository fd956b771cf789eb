/**
 * Checksums of a body that comes in pieces, in the one pass that is made over it: the CRC32C of all of it, and that of each of
 * its blocks, with which reads from disk are compared later (block-sums.ts).
 *
 * S1  Sums of blocks are there only for a body whose pieces began and ended where blocks do: others get theirs by another pass.
 * S2  The sum of the whole is joined from those of the blocks, so the one cannot differ from the others.
 * S3  A body that turns out too long for blocks of this size gives them up: what is held of one has a bound.
 */
import { crc32c } from '../checksum.ts';
import type { ChecksumThread } from '../checksum-thread/checksum-thread.ts';
import { joinCrc32c, shiftOf } from '../crc32c-join.ts';
import type { BlockCollector } from '../tier/tier.ts';
import { blockBytesOf } from './block-sums.ts';

/** The size of blocks in every body but the largest: those are read once more. */
const BLOCK_BYTES = blockBytesOf(0);
const BLOCK_SHIFT = shiftOf(BLOCK_BYTES);

export interface BodySums {
  /** Nobody changes `bytes` until it resolves; what is large and lies in shared memory takes a worker's time. One at a time. */
  add(bytes: Uint8Array): Promise<void>;
  addNow(bytes: Uint8Array): void;
  /** The CRC32C of all that was added. */
  crc32c(): number;
  /** S1. */
  blocks(): BlockCollector | undefined;
}

/** Without a thread, all is computed at once. */
export function createBodySums(thread?: Pick<ChecksumThread, 'ofBlocks'>): BodySums {
  let crc = 0;
  let sizeBytes = 0;
  let sums: number[] | undefined = [];
  const note = (found: readonly number[], length: number): void => {
    for (const [at, sum] of found.entries()) {
      const bytes = Math.min(BLOCK_BYTES, length - at * BLOCK_BYTES);
      crc = joinCrc32c(crc, sum, bytes === BLOCK_BYTES ? BLOCK_SHIFT : shiftOf(bytes));
    }
    if (sizeBytes % BLOCK_BYTES === 0) sums?.push(...found);
    else sums = undefined;
    sizeBytes += length;
    if (blockBytesOf(sizeBytes) !== BLOCK_BYTES) sums = undefined; // S3
  };
  const addNow = (bytes: Uint8Array): void => {
    const isBlock = bytes.length <= BLOCK_BYTES && sums !== undefined;
    if (isBlock && sizeBytes % BLOCK_BYTES === 0) return note([crc32c(bytes)], bytes.length);
    crc = crc32c(bytes, crc);
    sizeBytes += bytes.length;
    sums = undefined;
  };
  return {
    add: async (bytes) => {
      if (thread === undefined) addNow(bytes);
      else note(await thread.ofBlocks(bytes, BLOCK_BYTES), bytes.length);
    },
    addNow,
    crc32c: () => crc,
    blocks: () => sums && { blockBytes: BLOCK_BYTES, sums },
  };
}
