/**
 * What a tier knows of its finished files: some 50 bytes each in typed arrays, where an object and a map's entry take 170.
 * Of a million small objects it is the largest thing that the daemon keeps.
 *
 * I1  Rows are dense: the last one fills the place of one that goes, and a chunk without rows is given back.
 * I2  `#index` is an open-addressed table of row + 1 (0: empty), linear probing, half full at most; a delete shifts back
 *     what comes after it (Knuth, TAOCP 6.4, algorithm R), so there are no tombstones.
 */
import { assert } from '@ebb/protocol';
import { BLOCK_BYTES } from '../limits.ts';

export interface SealedFile {
  readonly blobId: number;
  readonly inode: number;
  readonly sizeBytes: number;
  /** Charged to the tier, in whole blocks. */
  readonly allocatedBytes: number;
  /** Pages in the inode, in whole blocks. */
  readonly presentBytes: number;
}

const CHUNK_ROWS = 4096;
const INDEX_LENGTH_MIN = 1024;

/** Columns of a run of rows. */
interface Chunk {
  readonly blobIds: Float64Array;
  readonly inodes: Float64Array;
  readonly sizes: Float64Array;
  readonly allocatedBlocks: Uint32Array;
  readonly presentBlocks: Uint32Array;
}

export class SealedFiles {
  readonly #chunks: Chunk[] = [];
  #size = 0;
  #index = new Int32Array(INDEX_LENGTH_MIN);

  get size(): number {
    return this.#size;
  }

  has(blobId: number): boolean {
    return this.#rowAt(this.#slotOf(blobId)) >= 0;
  }

  get(blobId: number): SealedFile | undefined {
    const row = this.#rowAt(this.#slotOf(blobId));
    return row < 0 ? undefined : this.#read(row);
  }

  /** Each blob once. */
  add(file: SealedFile): void {
    if ((this.#size + 1) * 2 > this.#index.length) this.#rebuildIndex(this.#index.length * 2);
    const slot = this.#slotOf(file.blobId);
    assert(this.#rowAt(slot) < 0, `blob ${file.blobId} is added once`);
    const row = this.#size++;
    if (row % CHUNK_ROWS === 0) this.#chunks.push(newChunk());
    this.#write(row, file);
    this.#index[slot] = row + 1;
  }

  /** Returns what it was. */
  delete(blobId: number): SealedFile | undefined {
    const slot = this.#slotOf(blobId);
    const row = this.#rowAt(slot);
    if (row < 0) return undefined;
    const file = this.#read(row);
    this.#emptySlot(slot);
    const last = --this.#size;
    if (row !== last) {
      const moved = this.#read(last);
      this.#write(row, moved);
      this.#index[this.#slotOf(moved.blobId)] = row + 1;
    }
    if (last % CHUNK_ROWS === 0) this.#chunks.pop();
    if (this.#index.length > INDEX_LENGTH_MIN && this.#size * 8 < this.#index.length)
      this.#rebuildIndex(this.#index.length / 2);
    return file;
  }

  #rowAt(slot: number): number {
    return (this.#index[slot] as number) - 1;
  }

  /** Where the blob is in the index, or else where it would be put. */
  #slotOf(blobId: number): number {
    const mask = this.#index.length - 1;
    let slot = hash(blobId) & mask;
    for (;;) {
      const row = this.#rowAt(slot);
      if (row < 0 || this.#blobIdAt(row) === blobId) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #emptySlot(slot: number): void {
    const mask = this.#index.length - 1;
    let empty = slot;
    for (let next = (empty + 1) & mask; ; next = (next + 1) & mask) {
      const row = this.#rowAt(next);
      if (row < 0) break;
      // It may come forward unless its own place lies behind the empty one.
      const home = hash(this.#blobIdAt(row)) & mask;
      if (((next - home) & mask) < ((next - empty) & mask)) continue;
      this.#index[empty] = row + 1;
      empty = next;
    }
    this.#index[empty] = 0;
  }

  #rebuildIndex(length: number): void {
    this.#index = new Int32Array(length);
    for (let row = 0; row < this.#size; row++)
      this.#index[this.#slotOf(this.#blobIdAt(row))] = row + 1;
  }

  #chunkOf(row: number): Chunk {
    return this.#chunks[Math.floor(row / CHUNK_ROWS)] as Chunk;
  }

  #blobIdAt(row: number): number {
    return this.#chunkOf(row).blobIds[row % CHUNK_ROWS] as number;
  }

  #read(row: number): SealedFile {
    const chunk = this.#chunkOf(row);
    const at = row % CHUNK_ROWS;
    return {
      blobId: chunk.blobIds[at] as number,
      inode: chunk.inodes[at] as number,
      sizeBytes: chunk.sizes[at] as number,
      allocatedBytes: (chunk.allocatedBlocks[at] as number) * BLOCK_BYTES,
      presentBytes: (chunk.presentBlocks[at] as number) * BLOCK_BYTES,
    };
  }

  #write(row: number, file: SealedFile): void {
    const chunk = this.#chunkOf(row);
    const at = row % CHUNK_ROWS;
    chunk.blobIds[at] = file.blobId;
    chunk.inodes[at] = file.inode;
    chunk.sizes[at] = file.sizeBytes;
    chunk.allocatedBlocks[at] = file.allocatedBytes / BLOCK_BYTES;
    chunk.presentBlocks[at] = file.presentBytes / BLOCK_BYTES;
  }
}

function newChunk(): Chunk {
  return {
    blobIds: new Float64Array(CHUNK_ROWS),
    inodes: new Float64Array(CHUNK_ROWS),
    sizes: new Float64Array(CHUNK_ROWS),
    allocatedBlocks: new Uint32Array(CHUNK_ROWS),
    presentBlocks: new Uint32Array(CHUNK_ROWS),
  };
}

/** Ids count up: multiplied by 2^32 / phi they are spread, and the high half is mixed in. */
function hash(blobId: number): number {
  const high = Math.floor(blobId / 2 ** 32);
  const mixed = Math.imul((blobId | 0) ^ Math.imul(high, 0x85ebca6b), 0x9e3779b1);
  return mixed ^ (mixed >>> 15);
}
