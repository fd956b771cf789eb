/**
 * Framed records in memory, each with the partition it goes to; given out by partition, in order of arrival inside one.
 *
 * Records lie in blocks one after the other; an index of 12 bytes a record says where. A counting sort at the end orders the
 * index; the records themselves are copied once, into the chunk that leaves.
 */
import { assert } from '@ebb/protocol';
import { framedRecordBytes, writeRecord } from './record-framing.ts';

const INDEX_BYTES_PER_RECORD = 12;
/** While sorted: one more number a record. */
const SORT_BYTES_PER_RECORD = 4;

export class RecordArena {
  readonly #partitions: number;
  readonly #bytesMax: number;
  readonly #blockBytes: number;
  #blocks: Buffer[] = [];
  #blocksBytes = 0;
  #blockUsed = 0;
  #records = 0;
  #rawBytes = 0;
  #partitionOf = new Uint32Array(0);
  #blockOf = new Uint32Array(0);
  #offsetOf = new Uint32Array(0);

  constructor(options: { readonly partitions: number; readonly bytesMax: number }) {
    this.#partitions = options.partitions;
    this.#bytesMax = options.bytesMax;
    this.#blockBytes = Math.min(1024 * 1024, Math.max(1024, options.bytesMax >>> 3));
  }

  get records(): number {
    return this.#records;
  }
  /** Of all framed records. */
  get rawBytes(): number {
    return this.#rawBytes;
  }

  /** Whether a record of this framed length still fits. The first one always does, however long. */
  hasRoom(framedBytes: number): boolean {
    if (this.#records === 0) return true;
    const fitsBlock = this.#blockUsed + framedBytes <= (this.#blocks.at(-1)?.length ?? 0);
    const blocksBytes =
      this.#blocksBytes + (fitsBlock ? 0 : Math.max(this.#blockBytes, framedBytes));
    return blocksBytes + this.#indexBytes(this.#records + 1) <= this.#bytesMax;
  }

  add(partition: number, key: Uint8Array, value: Uint8Array): void {
    const bytes = framedRecordBytes(key, value);
    if (this.#blockUsed + bytes > (this.#blocks.at(-1)?.length ?? 0)) {
      const block = Buffer.allocUnsafeSlow(Math.max(this.#blockBytes, bytes));
      this.#blocks.push(block);
      this.#blocksBytes += block.length;
      this.#blockUsed = 0;
    }
    if (this.#records === this.#partitionOf.length) this.#growIndex();
    const row = this.#records++;
    this.#partitionOf[row] = partition;
    this.#blockOf[row] = this.#blocks.length - 1;
    this.#offsetOf[row] = this.#blockUsed;
    writeRecord(this.#blocks.at(-1) as Buffer, this.#blockUsed, key, value);
    this.#blockUsed += bytes;
    this.#rawBytes += bytes;
  }

  /** The order of the records by partition, and where each partition begins in it. */
  sorted(): { readonly order: Uint32Array; readonly starts: Uint32Array } {
    const starts = new Uint32Array(this.#partitions + 1);
    for (let row = 0; row < this.#records; row++) {
      const after = (this.#partitionOf[row] as number) + 1;
      starts[after] = (starts[after] as number) + 1;
    }
    for (let partition = 0; partition < this.#partitions; partition++)
      starts[partition + 1] = (starts[partition + 1] as number) + (starts[partition] as number);
    const next = starts.slice();
    const order = new Uint32Array(this.#records);
    for (let row = 0; row < this.#records; row++) {
      const partition = this.#partitionOf[row] as number;
      const place = next[partition] as number;
      order[place] = row;
      next[partition] = place + 1;
    }
    assert(starts[this.#partitions] === this.#records, 'every record has its place');
    return { order, starts };
  }

  /** The framed bytes of a record: a view. */
  record(row: number): Buffer {
    const block = this.#blocks[this.#blockOf[row] as number] as Buffer;
    const at = this.#offsetOf[row] as number;
    const end = at + 8 + block.readUInt32LE(at) + block.readUInt32LE(at + 4);
    return block.subarray(at, end);
  }

  /** Forgets the records; keeps one block of the usual size and the index for the next ones. */
  clear(): void {
    const kept = this.#blocks.find((block) => block.length === this.#blockBytes);
    this.#blocks = kept === undefined ? [] : [kept];
    this.#blocksBytes = kept?.length ?? 0;
    this.#blockUsed = 0;
    this.#records = 0;
    this.#rawBytes = 0;
  }

  #indexBytes(records: number): number {
    const capacity = Math.max(this.#partitionOf.length, records);
    return capacity * INDEX_BYTES_PER_RECORD + records * SORT_BYTES_PER_RECORD;
  }

  #growIndex(): void {
    const capacity = Math.max(64, this.#partitionOf.length + (this.#partitionOf.length >>> 1));
    const grow = (from: Uint32Array): Uint32Array<ArrayBuffer> => {
      const into = new Uint32Array(capacity);
      into.set(from);
      return into;
    };
    this.#partitionOf = grow(this.#partitionOf);
    this.#blockOf = grow(this.#blockOf);
    this.#offsetOf = grow(this.#offsetOf);
  }
}
