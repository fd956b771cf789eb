/**
 * What the bytes of a blob are compared with when they are read: the CRC32C of each of its blocks. They are made where a copy of
 * the blob is made on disk anyway, in the pass that computes the blob's own CRC32C; for a blob that has none, one pass is made
 * when its first range is read.
 *
 * B1  They are of the blob, not of a copy: what lies in tier 2 alone is compared with them as well.
 * B2  Sums are kept only when they add up to the blob's own CRC32C: so they are no second truth, and can be made again.
 * B3  A blob of one block has no sums of its own: its CRC32C is the sum.
 * B4  A pass reads PASS_BYTES at a time, so that a commit that waits for the same worker waits for that much.
 *
 * How large a block is follows from the size of the blob. Persisted, keep stable.
 */
import { assert, KiB, MiB, StoreError } from '@ebb/protocol';
import type { Catalog } from '../catalog/catalog.ts';
import { combineCrc32c } from '../checksum.ts';
import type { BlockCollector, Mover } from '../tier/tier.ts';
import { RecentMap } from './recent-map.ts';

/** A range costs the blocks that it touches: 64 KiB are read and compared in 15 µs. */
const BLOCK_BYTES_MIN = 64 * KiB;
/** The sums of a blob of 1 TiB take 4 MiB with blocks of this size. */
const BLOCK_BYTES_MAX = MiB;
/** Blobs up to 1 GiB have the smallest blocks. */
const SMALL_BLOCKS_MAX = 16_384;
/** Sums in one row of the catalog. */
const ROW_SUMS = 4096;
const PASS_BYTES = 64 * MiB;
/** Rows of sums in memory, 16 KiB each at the most; and what is known of blobs. */
const ROWS_REMEMBERED_MIN = 256;
const BLOBS_REMEMBERED_MIN = 8192;

/** The sums of a blob that is whole: none of it ever changes. */
export interface BlobFacts {
  readonly blobId: number;
  readonly sizeBytes: number;
  readonly crc32c: number;
}

export interface BlockSumsParts {
  readonly catalog: Catalog;
  readonly mover: Mover;
}

export function blockBytesOf(sizeBytes: number): number {
  let blockBytes = BLOCK_BYTES_MIN;
  while (blockBytes < BLOCK_BYTES_MAX && sizeBytes > blockBytes * SMALL_BLOCKS_MAX) blockBytes *= 2;
  return blockBytes;
}

/** For a pass over a blob of this size, to be given to `keep` afterwards; undefined where the blob's CRC32C is all it takes. */
export function collectorFor(sizeBytes: number): BlockCollector | undefined {
  const blockBytes = blockBytesOf(sizeBytes);
  return sizeBytes > blockBytes ? { blockBytes, sums: [] } : undefined;
}

export class BlockSums {
  readonly #parts: BlockSumsParts;
  readonly #facts = new RecentMap<number, BlobFacts>(BLOBS_REMEMBERED_MIN);
  readonly #rows = new RecentMap<string, Uint32Array>(ROWS_REMEMBERED_MIN);
  /** By file. */
  readonly #making = new Map<string, Promise<void>>();

  constructor(parts: BlockSumsParts) {
    this.#parts = parts;
  }

  /** Undefined when nobody knows what the bytes are: of a blob that was found in tier 2, and not read whole yet. */
  async findFacts(blobId: number): Promise<BlobFacts | undefined> {
    const known = this.#facts.get(blobId);
    if (known !== undefined) return known;
    const blob = await this.#parts.catalog.findBlob(blobId);
    if (blob === undefined || blob.crc32c === null) return undefined;
    const facts = { blobId, sizeBytes: blob.sizeBytes, crc32c: blob.crc32c };
    this.#facts.set(blobId, facts);
    return facts;
  }

  /** The sums of `count` blocks from `first` on; undefined when there are none yet. */
  async findRun(facts: BlobFacts, first: number, count: number): Promise<number[] | undefined> {
    const { blobId, sizeBytes, crc32c } = facts;
    if (sizeBytes <= blockBytesOf(sizeBytes)) return [crc32c];
    const run: number[] = [];
    for (let block = first; block < first + count; block++) {
      const at = block % ROW_SUMS;
      const row =
        this.#rows.get(`${blobId}/${block - at}`) ?? (await this.#load(blobId, block - at));
      const sum = row?.[at];
      if (sum === undefined) return undefined;
      run.push(sum);
    }
    return run;
  }

  async #load(blobId: number, firstBlock: number): Promise<Uint32Array | undefined> {
    const row = await this.#parts.catalog.findBlockSums(blobId, firstBlock);
    if (row !== undefined) this.#rows.set(`${blobId}/${firstBlock}`, row);
    return row;
  }

  /** Takes the sums of a pass over the whole blob, whose CRC32C was compared. */
  async keep(blobId: number, collected: BlockCollector | undefined): Promise<void> {
    if (collected === undefined) return;
    const { sums } = collected;
    for (let first = 0; first < sums.length; first += ROW_SUMS) {
      const row = sums.slice(first, first + ROW_SUMS);
      this.#rows.set(`${blobId}/${first}`, Uint32Array.from(row));
      // A catalog that takes no changes keeps nobody from reading: the sums are remembered, and made again when they are forgotten.
      await this.#parts.catalog.putBlockSums(blobId, first, row).catch(() => undefined);
    }
  }

  /** Whether all its blocks have sums. */
  async has(facts: BlobFacts): Promise<boolean> {
    const last = Math.ceil(facts.sizeBytes / blockBytesOf(facts.sizeBytes)) - 1;
    return (await this.findRun(facts, last, 1)) !== undefined;
  }

  /** Says what `has` says, without what is only remembered: what a later start finds. */
  async areStored({ blobId, sizeBytes }: BlobFacts): Promise<boolean> {
    const blockBytes = blockBytesOf(sizeBytes);
    if (sizeBytes <= blockBytes) return true;
    const last = Math.ceil(sizeBytes / blockBytes) - 1;
    const row = await this.#parts.catalog.findBlockSums(blobId, last - (last % ROW_SUMS));
    return row?.[last % ROW_SUMS] !== undefined;
  }

  /**
   * Compares a local file of the blob with its CRC32C, and makes its sums anew. Two callers do it once.
   * @throws `data_corrupt` when the file is not the blob's; `data_lost`, `io_failed`
   */
  async make(facts: BlobFacts, file: string): Promise<void> {
    const running = this.#making.get(file);
    if (running !== undefined) return await running;
    const making = this.#make(facts, file, collectorFor(facts.sizeBytes));
    this.#making.set(file, making);
    try {
      await making;
    } finally {
      this.#making.delete(file);
    }
  }

  /** Does what `make` does, without making sums that are there. */
  async compare(facts: BlobFacts, file: string): Promise<void> {
    if (await this.has(facts)) await this.#make(facts, file, undefined);
    else await this.make(facts, file);
  }

  async #make(
    { blobId, sizeBytes, crc32c }: BlobFacts,
    file: string,
    collected: BlockCollector | undefined,
  ): Promise<void> {
    let found = 0;
    for (let offset = 0; offset < sizeBytes; offset += PASS_BYTES) {
      const length = Math.min(PASS_BYTES, sizeBytes - offset);
      const blocks = collected === undefined ? {} : { blocks: collected };
      const crc = await this.#parts.mover.checksum(file, length, { offset, ...blocks });
      found = combineCrc32c(found, crc, length);
    }
    if (found !== crc32c) throw corrupt(blobId, found, crc32c);
    await this.keep(blobId, collected);
  }
}

function corrupt(blobId: number, found: number, recorded: number): StoreError {
  const message = `blob ${blobId} has CRC32C ${found}, recorded is ${recorded}`;
  return new StoreError('data_corrupt', message, { blobId });
}

assert(PASS_BYTES % BLOCK_BYTES_MAX === 0, 'a pass begins at a block');
