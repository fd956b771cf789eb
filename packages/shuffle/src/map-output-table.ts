/**
 * The rows of one shuffle: one per committed attempt, in columns of typed arrays, because a shuffle may have a million.
 *
 *   41 bytes a row in columns + 4 in `#winners` + 2 × 5.7 in the two hash indexes = 57 bytes, and no object per row.
 *
 * Pure: it knows no store and no clock. catalog-shuffle-service.ts decides who wins and asks where bytes lie.
 *
 * I1  A row, once added, keeps its number; rows are never removed, they go with the table.
 * I2  At most one row of a map index is its winner; a winner is only ever replaced by a later `add`.
 * I3  Every change of a row that a reader can see (added, lost its place, moved) gives it a version of its own, higher than
 *     all before. So "all rows above version v" is exact, and an answer may be cut at any row.
 */
import { assert, type TierIndex } from '@ebb/protocol';

export interface MapOutput {
  readonly mapIndex: number;
  readonly attemptId: number;
  readonly epoch: number;
  readonly blobId: number;
  readonly sizeBytes: number;
  readonly indexBytes: number;
  readonly tier: TierIndex;
}

const NONE = -1;
const TIER_MASK = 0b0011;
/** Its bytes were found to be gone. */
const LOST = 0b0100;
/** The store's lease guards know its blob (see catalog-shuffle-service.ts). */
const GUARDED = 0b1000;

export class MapOutputTable {
  readonly maps: number;
  #rows = 0;
  #version = 0;
  #sizeBytes = 0;

  #attemptIds = new Float64Array(0);
  #blobIds = new Float64Array(0);
  #sizes = new Float64Array(0);
  #mapIndexes = new Uint32Array(0);
  #epochs = new Uint32Array(0);
  #indexBytes = new Uint32Array(0);
  #versions = new Uint32Array(0);
  #flags = new Uint8Array(0);
  /** Row + 1 by map index, 0 for none. Grows with the highest index seen. */
  #winners = new Int32Array(0);
  readonly #byAttempt: RowIndex;
  readonly #byBlob: RowIndex;

  constructor(maps: number) {
    this.maps = maps;
    this.#byAttempt = new RowIndex((row) => this.#attemptIds[row] as number);
    this.#byBlob = new RowIndex((row) => this.#blobIds[row] as number);
  }

  get rows(): number {
    return this.#rows;
  }
  /** Of the last change; 0 before the first. */
  get version(): number {
    return this.#version;
  }
  /** Of all rows, winners or not. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }
  /** What the table holds beside a constant. */
  get allocatedBytes(): number {
    const columns = [
      this.#attemptIds,
      this.#blobIds,
      this.#sizes,
      this.#mapIndexes,
      this.#epochs,
      this.#indexBytes,
      this.#versions,
      this.#flags,
      this.#winners,
    ];
    const columnBytes = columns.reduce((sum, column) => sum + column.byteLength, 0);
    return columnBytes + this.#byAttempt.allocatedBytes + this.#byBlob.allocatedBytes;
  }

  /** Returns the row's number. A winner takes its map's place from whoever held it. */
  add(output: MapOutput, options: { readonly winner: boolean }): number {
    assert(output.mapIndex < this.maps, 'the map index is within the shuffle');
    assert(this.findAttempt(output.attemptId) === undefined, 'an attempt is added once');
    const row = this.#rows;
    if (row === this.#flags.length) this.#grow();
    this.#attemptIds[row] = output.attemptId;
    this.#blobIds[row] = output.blobId;
    this.#sizes[row] = output.sizeBytes;
    this.#mapIndexes[row] = output.mapIndex;
    this.#epochs[row] = output.epoch;
    this.#indexBytes[row] = output.indexBytes;
    this.#flags[row] = output.tier;
    this.#rows = row + 1;
    this.#sizeBytes += output.sizeBytes;
    this.#byAttempt.add(row, this.#rows, this.#flags.length);
    this.#byBlob.add(row, this.#rows, this.#flags.length);
    if (options.winner) {
      const before = this.winnerOf(output.mapIndex);
      if (before !== undefined) this.touch(before);
      this.#setWinner(output.mapIndex, row);
    }
    this.touch(row);
    return row;
  }

  findAttempt(attemptId: number): number | undefined {
    return this.#byAttempt.find(attemptId);
  }
  findBlob(blobId: number): number | undefined {
    return this.#byBlob.find(blobId);
  }
  winnerOf(mapIndex: number): number | undefined {
    const slot = this.#winners[mapIndex] ?? 0;
    return slot === 0 ? undefined : slot - 1;
  }

  get(row: number): MapOutput & { readonly winner: boolean } {
    assert(row >= 0 && row < this.#rows, 'the row exists');
    const mapIndex = this.#mapIndexes[row] as number;
    return {
      mapIndex,
      attemptId: this.#attemptIds[row] as number,
      epoch: this.#epochs[row] as number,
      blobId: this.#blobIds[row] as number,
      sizeBytes: this.#sizes[row] as number,
      indexBytes: this.#indexBytes[row] as number,
      tier: ((this.#flags[row] as number) & TIER_MASK) as TierIndex,
      winner: this.#winners[mapIndex] === row + 1,
    };
  }

  /** The row moved or changed its standing (I3). */
  touch(row: number): void {
    assert(this.#version < 0xffff_ffff, 'fewer than 2^32 changes in the life of a shuffle');
    this.#version++;
    this.#versions[row] = this.#version;
  }
  versionOf(row: number): number {
    return this.#versions[row] as number;
  }
  /** Remembers where the row's bytes were last seen; another tier than before counts as a change. */
  setTier(row: number, tier: TierIndex): void {
    const flags = this.#flags[row] as number;
    if ((flags & TIER_MASK) === tier) return;
    this.#flags[row] = (flags & ~TIER_MASK) | tier;
    this.touch(row);
  }
  isLost(row: number): boolean {
    return ((this.#flags[row] as number) & LOST) !== 0;
  }
  setLost(row: number, lost: boolean): void {
    if (this.isLost(row) === lost) return;
    this.#setFlag(row, LOST, lost);
    this.touch(row);
  }
  isGuarded(row: number): boolean {
    return ((this.#flags[row] as number) & GUARDED) !== 0;
  }
  setGuarded(row: number, guarded: boolean): void {
    this.#setFlag(row, GUARDED, guarded);
  }

  /** Rows whose version is above `version`, in order of version. */
  changedSince(version: number): Uint32Array {
    let count = 0;
    for (let row = 0; row < this.#rows; row++)
      if ((this.#versions[row] as number) > version) count++;
    const changed = new Uint32Array(count);
    let at = 0;
    let ordered = true;
    let last = 0;
    for (let row = 0; row < this.#rows; row++) {
      const own = this.#versions[row] as number;
      if (own <= version) continue;
      ordered &&= own > last;
      last = own;
      changed[at++] = row;
    }
    if (ordered) return changed;
    return changed.sort((a, b) => this.versionOf(a) - this.versionOf(b));
  }

  /** Maps that have a winner whose bytes are not known to be gone. */
  countCommittedMaps(): number {
    let count = 0;
    for (const slot of this.#winners) if (slot !== 0 && !this.isLost(slot - 1)) count++;
    return count;
  }

  #setFlag(row: number, flag: number, on: boolean): void {
    const flags = this.#flags[row] as number;
    this.#flags[row] = on ? flags | flag : flags & ~flag;
  }

  #setWinner(mapIndex: number, row: number): void {
    if (mapIndex >= this.#winners.length) {
      const length = Math.min(this.maps, Math.max(16, this.#winners.length * 2, mapIndex + 1));
      this.#winners = grown(this.#winners, new Int32Array(length));
    }
    this.#winners[mapIndex] = row + 1;
  }

  /** Doubles up to one row per map, which is the usual end, then grows slowly: exact fits waste nothing. */
  #grow(): void {
    const capacity = this.#flags.length;
    const rows =
      capacity < this.maps
        ? Math.min(this.maps, Math.max(16, capacity * 2))
        : capacity + Math.max(16, capacity >>> 3);
    this.#attemptIds = grown(this.#attemptIds, new Float64Array(rows));
    this.#blobIds = grown(this.#blobIds, new Float64Array(rows));
    this.#sizes = grown(this.#sizes, new Float64Array(rows));
    this.#mapIndexes = grown(this.#mapIndexes, new Uint32Array(rows));
    this.#epochs = grown(this.#epochs, new Uint32Array(rows));
    this.#indexBytes = grown(this.#indexBytes, new Uint32Array(rows));
    this.#versions = grown(this.#versions, new Uint32Array(rows));
    this.#flags = grown(this.#flags, new Uint8Array(rows));
  }
}

function grown<T extends Float64Array | Uint32Array | Int32Array | Uint8Array>(
  from: T,
  into: T,
): T {
  into.set(from);
  return into;
}

/** Open addressing with linear probing, at most 70 % full: 5.7 bytes a row. Holds row numbers; the keys stay in the column. */
class RowIndex {
  readonly #keyOf: (row: number) => number;
  /** Row + 1; 0 is free. */
  #slots = new Int32Array(0);

  constructor(keyOf: (row: number) => number) {
    this.#keyOf = keyOf;
  }

  get allocatedBytes(): number {
    return this.#slots.byteLength;
  }

  /** `rows` are in use with this one, of `capacity` in the columns. */
  add(row: number, rows: number, capacity: number): void {
    if (rows > this.#slots.length * 0.7) {
      this.#slots = new Int32Array(Math.ceil(capacity / 0.7) + 1);
      for (let other = 0; other < rows; other++) this.#place(other);
    } else {
      this.#place(row);
    }
  }

  find(key: number): number | undefined {
    if (this.#slots.length === 0) return undefined;
    let slot = this.#home(key);
    for (;;) {
      const row = (this.#slots[slot] as number) - 1;
      if (row === NONE) return undefined;
      if (this.#keyOf(row) === key) return row;
      slot = slot + 1 === this.#slots.length ? 0 : slot + 1;
    }
  }

  #place(row: number): void {
    let slot = this.#home(this.#keyOf(row));
    while (this.#slots[slot] !== 0) slot = slot + 1 === this.#slots.length ? 0 : slot + 1;
    this.#slots[slot] = row + 1;
  }

  #home(key: number): number {
    let hash = Math.imul(key >>> 0, 0x9e3779b1) ^ Math.imul((key / 2 ** 32) >>> 0, 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
    hash ^= hash >>> 13;
    return Math.floor(((hash >>> 0) / 2 ** 32) * this.#slots.length);
  }
}
