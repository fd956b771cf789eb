/**
 * Reads that are compared with what the bytes should be (block-sums.ts) before anybody sees them. A read takes in the whole
 * of each block that it touches: what it does not want of the first and the last one goes into a buffer beside.
 */
import type { ChecksumThread } from '../checksum-thread/checksum-thread.ts';
import { type BlobFacts, type BlockSums, blockBytesOf } from './block-sums.ts';

/** Fills `part` from `position` of the blob. */
export type ReadRaw = (part: Uint8Array, position: number) => Promise<void>;

/** `unknown`: the blob has no sums of these blocks; nothing was read. */
export type Compared = 'right' | 'wrong' | 'unknown';

/** Up to so many blocks are read at once beside the target; of more, those in the middle go straight into it. */
const BLOCKS_BESIDE_MAX = 3;

export class CheckedReads {
  readonly #sums: BlockSums;
  readonly #checksums: ChecksumThread;

  constructor(sums: BlockSums, checksums: ChecksumThread) {
    this.#sums = sums;
    this.#checksums = checksums;
  }

  /** When it is not `right`, what is in `target` is of no use. @throws what `readRaw` throws */
  async read(
    facts: BlobFacts,
    target: Uint8Array,
    position: number,
    readRaw: ReadRaw,
  ): Promise<Compared> {
    if (target.length === 0) return 'right';
    const blockBytes = blockBytesOf(facts.sizeBytes);
    const end = position + target.length;
    const first = Math.floor(position / blockBytes);
    const last = Math.floor((end - 1) / blockBytes);
    const start = first * blockBytes;
    const stop = Math.min(facts.sizeBytes, (last + 1) * blockBytes);
    const sums = await this.#sums.findRun(facts, first, last - first + 1);
    if (sums === undefined) return 'unknown';
    const isRight = async (bytes: Uint8Array, block: number): Promise<boolean> => {
      const found = await this.#checksums.ofBlocks(bytes, blockBytes);
      return found.every((sum, at) => sum === sums[block - first + at]);
    };
    if (start === position && stop === end) {
      await readRaw(target, position);
      return (await isRight(target, first)) ? 'right' : 'wrong';
    }
    /** Some blocks, of which a part lies in the target. */
    const readBeside = async (from: number, to: number): Promise<boolean> => {
      const beside = Buffer.allocUnsafe(to - from);
      await readRaw(beside, from);
      if (!(await isRight(beside, from / blockBytes))) return false;
      const wanted = beside.subarray(Math.max(0, position - from), Math.min(to, end) - from);
      target.set(wanted, Math.max(0, from - position));
      return true;
    };
    if (last - first < BLOCKS_BESIDE_MAX)
      return (await readBeside(start, stop)) ? 'right' : 'wrong';
    const innerStart = start === position ? start : start + blockBytes;
    const innerStop = stop === end ? stop : last * blockBytes;
    const inner = target.subarray(innerStart - position, innerStop - position);
    await readRaw(inner, innerStart);
    if (!(await isRight(inner, innerStart / blockBytes))) return 'wrong';
    if (innerStart > start && !(await readBeside(start, innerStart))) return 'wrong';
    if (innerStop < stop && !(await readBeside(innerStop, stop))) return 'wrong';
    return 'right';
  }
}
