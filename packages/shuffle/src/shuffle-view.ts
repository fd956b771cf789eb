/**
 * One shuffle as this process sees it: the table of map outputs, refreshed by version, their index blocks, and their bytes.
 *
 * I1  Bytes are handed out only after their partition's CRC32C was right.
 * I2  Bytes that are not to be had, or are wrong, are sought once more where the node says they are now. What then still
 *     fails is a StoreError that names the map and the attempt; never fewer bytes.
 * I3  The table belongs to a session: with a new one it is fetched anew, which also takes the lease on the files again.
 * I4  Reads of tier-0 files are synchronous: the copy is shorter than a trip to the thread pool, and a revoke never meets
 *     one under way (shuffle-client.ts).
 */
import { closeSync, readSync } from 'node:fs';
import { type FrameSession, type LocalFiles, withRetry } from '@ebb/client';
import {
  assert,
  decodeIndexBlock,
  type ErrorDetails,
  type ExtentLocation,
  INDEX_TRAILER_BYTES,
  type IndexBlock,
  isStoreError,
  type MapOutputRow,
  messages,
  OPS,
  READ_BYTES_MAX,
  StoreError,
  type StoreErrorCode,
} from '@ebb/protocol';
import { crc32c } from '@node-rs/crc32';
import { TABLE_ANSWER_BYTES_MAX } from './limits.ts';
import type { IndexRange, PlannedRange, RemoteBatch } from './reduce-plan.ts';
import type { ShuffleCalls } from './shuffle-calls.ts';

/** A map output whose index block was verified. */
export interface LoadedOutput {
  readonly row: MapOutputRow;
  readonly index: IndexBlock;
  readonly offsets: ArrayLike<number>;
}

/** The bytes of one partition of one map output, verified. */
export interface PartitionBytes {
  readonly output: LoadedOutput;
  readonly partition: number;
  readonly bytes: Buffer;
}

export interface ShuffleViewOptions {
  readonly shuffleId: number;
  readonly indexCacheBytes: number;
}

/** Index blocks read from disk at a time. */
const INDEXES_PARALLEL = 8;

interface Table {
  readonly session: FrameSession;
  version: number;
  maps: number;
  partitions: number;
  readonly rows: Map<number, MapOutputRow>;
}

export class ShuffleView {
  readonly shuffleId: number;
  readonly #calls: ShuffleCalls;
  readonly #indexes: IndexCache;
  #table: Table | undefined;
  #refreshing: Promise<Table> | undefined;
  readonly #moved = new Set<number>();

  constructor(calls: ShuffleCalls, options: ShuffleViewOptions) {
    this.#calls = calls;
    this.shuffleId = options.shuffleId;
    this.#indexes = new IndexCache(options.indexCacheBytes);
  }

  /** Whether this process sees the node's files. */
  get localFiles(): boolean {
    return this.#table?.session.files !== undefined;
  }

  /** Files of these blobs are given up: where they are now is asked before they are read again. */
  markMoved(blobIds: readonly number[]): void {
    const given = new Set(blobIds);
    for (const { location } of this.#table?.rows.values() ?? [])
      if (given.has(location.blobId)) this.#moved.add(location.blobId);
  }

  /** The table as of now. Readers that ask at the same time share one call. */
  async refresh(signal?: AbortSignal): Promise<{
    readonly maps: number;
    readonly partitions: number;
    readonly rows: Iterable<MapOutputRow>;
  }> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined;
    });
    const table = await this.#refreshing;
    throwIfAborted(signal);
    return { maps: table.maps, partitions: table.partitions, rows: table.rows.values() };
  }

  /** The rows with their index blocks, in the same order. Brings outputs that lie in tier 2 near first. */
  async load(rows: readonly MapOutputRow[], signal?: AbortSignal): Promise<LoadedOutput[]> {
    const current = await this.#near(rows, signal);
    const missing = current.filter((row) => this.#indexes.find(row.attemptId) === undefined);
    const remote = missing.filter((row) => !this.#isLocal(row));
    const blocks = new Map<number, Buffer | undefined>();
    for (const batch of blockBatches(remote)) {
      const bytes = await this.#readRanges(batch.map(blockRange), signal).catch(() => undefined);
      let at = 0;
      for (const row of batch) {
        blocks.set(row.attemptId, bytes?.subarray(at, at + row.indexBytes));
        at += row.indexBytes;
      }
    }
    const loaded: LoadedOutput[] = [];
    for (let from = 0; from < current.length; from += INDEXES_PARALLEL) {
      const part = current.slice(from, from + INDEXES_PARALLEL).map(async (row) => {
        const known = this.#indexes.find(row.attemptId);
        if (known !== undefined) return { row, index: known, offsets: known.offsets };
        return await this.#loadIndex(row, blocks.get(row.attemptId), signal);
      });
      await Promise.allSettled(part); // nothing of it goes on after a failure
      loaded.push(...(await Promise.all(part)));
    }
    return loaded;
  }

  /** A range of whole partitions, from the file or from the node. */
  async readRange(
    output: LoadedOutput,
    range: PlannedRange,
    signal?: AbortSignal,
  ): Promise<PartitionBytes[]> {
    const start = output.offsets[range.partitions.from] as number;
    const read = (row: MapOutputRow): Promise<Buffer> =>
      this.#readAt(row, start, range.length, signal);
    return await this.#twice(output, signal, async (row) =>
      verified(output, range.partitions, await read(row)),
    );
  }

  /** All ranges of a batch that holds only whole ranges. */
  async readBatch(
    batch: RemoteBatch,
    outputOf: (range: PlannedRange) => LoadedOutput,
    signal?: AbortSignal,
  ): Promise<PartitionBytes[]> {
    const requests = batch.ranges.map(({ range, length }) => ({
      blobId: range.blobId,
      offset: range.offset,
      length,
    }));
    const bytes = await this.#readRanges(requests, signal).catch((error: unknown) => {
      throwIfAborted(signal);
      if (!isStoreError(error)) throw error;
      return undefined; // some blob of the batch is the reason; range by range shows which
    });
    const parts: PartitionBytes[] = [];
    let at = 0;
    for (const { range } of batch.ranges) {
      const output = outputOf(range);
      const own = bytes?.subarray(at, at + range.length);
      at += range.length;
      let whole = own === undefined ? undefined : tryVerify(output, range.partitions, own);
      whole ??= await this.readRange(output, range, signal);
      parts.push(...whole);
    }
    return parts;
  }

  /**
   * One partition that is too long to hold, in pieces. Its checksum is made in a first pass, and once more on the way, so
   * that nothing is handed out before all of it was seen to be right.
   */
  async *streamPartition(
    output: LoadedOutput,
    partition: number,
    pieceBytes: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Buffer, void, undefined> {
    const extent = {
      start: output.offsets[partition] as number,
      end: output.offsets[partition + 1] as number,
    };
    const expected = output.index.crc32cs[partition] as number;
    const pieces = (row: MapOutputRow) => this.#pieces(row, { ...extent, pieceBytes }, signal);
    const row = await this.#twice(output, signal, async (candidate) => {
      let crc = 0;
      for await (const piece of pieces(candidate)) crc = crc32c(piece, crc);
      if (crc !== expected) throw corrupt(output.row, `partition ${partition}`);
      return candidate;
    });
    let crc = 0;
    for await (const piece of pieces(row)) {
      crc = crc32c(piece, crc);
      yield piece;
    }
    if (crc !== expected) throw this.#named('data_corrupt', row, `partition ${partition} changed`);
  }

  async *#pieces(
    row: MapOutputRow,
    extent: { readonly start: number; readonly end: number; readonly pieceBytes: number },
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Buffer, void, undefined> {
    const { start, end, pieceBytes } = extent;
    for (let at = start; at < end; at += pieceBytes)
      yield await this.#readAt(row, at, Math.min(pieceBytes, end - at), signal);
  }

  /** An error about a map output: names job, shuffle, map and attempt. */
  #named(code: StoreErrorCode, row: MapOutputRow, why: string, cause?: unknown): StoreError {
    const { mapIndex, attemptId } = row;
    const details: ErrorDetails = {
      jobId: this.#calls.jobId,
      shuffleId: this.shuffleId,
      mapIndex,
      attemptId,
    };
    const text = `map output ${mapIndex} (attempt ${attemptId}) of shuffle ${this.shuffleId}: ${why}`;
    return new StoreError(code, text, details, cause);
  }

  /** Names the map in whatever went wrong with its bytes further up (chunks, records). */
  nameError(error: unknown, row: MapOutputRow): unknown {
    if (!isStoreError(error) || 'mapIndex' in error.details || error.code === 'aborted')
      return error;
    return this.#named(error.code, row, error.message, error);
  }

  /** I2 */
  async #twice<T>(
    output: { readonly row: MapOutputRow },
    signal: AbortSignal | undefined,
    work: (row: MapOutputRow) => Promise<T>,
  ): Promise<T> {
    let row = this.#current(output.row);
    let failure: unknown;
    if (this.#moved.has(row.location.blobId)) {
      row = await this.#resolveOne(row, { suspect: false, signal });
    }
    try {
      return await work(row);
    } catch (error) {
      throwIfAborted(signal);
      failure = error;
    }
    const suspect = isStoreError(failure, 'data_corrupt');
    const again = await this.#resolveOne(row, { suspect, signal }, failure);
    try {
      return await work(again);
    } catch (error) {
      throwIfAborted(signal);
      throw this.nameError(error, row);
    }
  }

  async #resolveOne(
    row: MapOutputRow,
    options: { readonly suspect: boolean; readonly signal: AbortSignal | undefined },
    failure?: unknown,
  ): Promise<MapOutputRow> {
    const [found] = await this.#calls.resolve(this.shuffleId, [row.attemptId], options);
    if (found !== undefined) return this.#adopt(found);
    this.#table?.rows.delete(row.attemptId);
    if (options.suspect)
      throw this.#named('data_corrupt', row, 'its bytes were wrong, and are dropped', failure);
    throw this.#named('data_lost', row, 'its bytes are gone', failure);
  }

  #adopt(row: MapOutputRow): MapOutputRow {
    this.#moved.delete(row.location.blobId);
    this.#table?.rows.set(row.attemptId, row);
    return row;
  }

  #current(row: MapOutputRow): MapOutputRow {
    return this.#table?.rows.get(row.attemptId) ?? row;
  }

  /** Where files are visible, outputs in tier 2 are brought to a local tier first, many to a call. */
  async #near(
    rows: readonly MapOutputRow[],
    signal: AbortSignal | undefined,
  ): Promise<MapOutputRow[]> {
    const current = rows.map((row) => this.#current(row));
    const far = current.filter(
      (row) => this.#moved.has(row.location.blobId) || (this.localFiles && row.location.tier === 2),
    );
    if (far.length === 0) return current;
    const attemptIds = far.map((row) => row.attemptId);
    const found = await this.#calls.resolve(this.shuffleId, attemptIds, { suspect: false, signal });
    for (const row of found) this.#adopt(row);
    const lost = far.find((row) => !found.some((other) => other.attemptId === row.attemptId));
    if (lost !== undefined) this.#table?.rows.delete(lost.attemptId);
    if (lost !== undefined) throw this.#named('data_lost', lost, 'its bytes are gone');
    return rows.map((row) => this.#current(row));
  }

  async #loadIndex(
    row: MapOutputRow,
    fetched: Buffer | undefined,
    signal: AbortSignal | undefined,
  ): Promise<LoadedOutput> {
    const decode = (bytes: Buffer): IndexBlock => {
      const index = decodeIndexBlock(bytes, crc32c);
      const mine = index.mapIndex === row.mapIndex && index.attemptId === row.attemptId;
      if (!mine || index.shuffleId !== this.shuffleId)
        throw corrupt(row, `the index block (it is another's, map ${index.mapIndex})`);
      const dataBytes = index.offsets[index.crc32cs.length] as number;
      if (dataBytes + row.indexBytes !== row.location.length)
        throw corrupt(row, 'the index block (it speaks of another length)');
      return index;
    };
    let index: IndexBlock | undefined;
    try {
      index = fetched === undefined ? undefined : decode(fetched);
    } catch {
      // read again below, where a suspect output is looked into
    }
    index ??= await this.#twice({ row }, signal, async (current) => {
      const { location, indexBytes } = current;
      return decode(await this.#readAt(current, location.length - indexBytes, indexBytes, signal));
    });
    this.#indexes.add(row.attemptId, index);
    return { row: this.#current(row), index, offsets: index.offsets };
  }

  #isLocal(row: MapOutputRow): boolean {
    return this.localFiles && row.location.tier !== 2;
  }

  /** `position` is relative to the extent. Exactly `length` bytes, in memory of their own. */
  async #readAt(
    row: MapOutputRow,
    position: number,
    length: number,
    signal: AbortSignal | undefined,
  ): Promise<Buffer> {
    throwIfAborted(signal);
    const { tier, path, offset, blobId } = row.location;
    const files = this.#table?.session.files;
    if (files !== undefined && tier !== 2) {
      const target = Buffer.allocUnsafeSlow(length);
      const read = tier === 0 ? readFileSync : readFileAsync;
      try {
        await read(files, row.location, target, offset + position);
      } catch (error) {
        if (isStoreError(error)) throw error;
        throw new StoreError('io_failed', `reading ${path} failed`, { path, tier }, error);
      }
      return target;
    }
    const ranges: { blobId: number; offset: number; length: number }[] = [];
    for (let at = 0; at < length; at += READ_BYTES_MAX) {
      const bytes = Math.min(READ_BYTES_MAX, length - at);
      ranges.push({ blobId, offset: offset + position + at, length: bytes });
    }
    const parts: Buffer[] = [];
    for (const range of ranges) parts.push(await this.#readRanges([range], signal));
    return parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts);
  }

  async #readRanges(
    ranges: readonly messages.ReadRange[],
    signal: AbortSignal | undefined,
  ): Promise<Buffer> {
    const wanted = ranges.reduce((sum, range) => sum + range.length, 0);
    const { data } = await withRetry({ idempotent: true, signal }, () =>
      this.#calls.connection.call(OPS.read, messages.read, { ranges }, { signal }),
    );
    if (data.length !== wanted)
      throw new StoreError('length_mismatch', `asked for ${wanted} bytes, got ${data.length}`);
    return data;
  }

  async #refresh(): Promise<Table> {
    return await withRetry({ idempotent: true }, async () => {
      const session = await this.#calls.connection.session();
      let table = this.#table;
      if (table === undefined || table.session !== session) {
        table = { session, version: 0, maps: 0, partitions: 0, rows: new Map() };
      }
      let answerBytes: number;
      do {
        const request = {
          jobId: this.#calls.jobId,
          shuffleId: this.shuffleId,
          sinceVersion: table.version,
        };
        const answer = await session.call(OPS.shuffleTable, messages.shuffleTable, request);
        answerBytes = 0;
        for (const row of answer.rows) {
          table.rows.set(row.attemptId, row);
          this.#moved.delete(row.location.blobId);
          answerBytes += 48 + row.location.path.length;
        }
        table.version = answer.version;
        table.maps = answer.maps;
        table.partitions = answer.partitions;
      } while (answerBytes > TABLE_ANSWER_BYTES_MAX / 4); // it may have been cut: ask for the rest
      this.#table = table;
      return table;
    });
  }
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  const reason: unknown = signal.reason;
  throw isStoreError(reason) ? reason : new StoreError('aborted', undefined, {}, reason);
}

function corrupt(row: MapOutputRow, what: string): StoreError {
  return new StoreError(
    'data_corrupt',
    `map output ${row.mapIndex} (attempt ${row.attemptId}): ${what} does not match its checksum`,
  );
}

/** I1. Views of `bytes`, one for each partition that has any. @throws `data_corrupt` */
function verified(output: LoadedOutput, partitions: IndexRange, bytes: Buffer): PartitionBytes[] {
  const { index, offsets } = output;
  const start = offsets[partitions.from] as number;
  const parts: PartitionBytes[] = [];
  for (let partition = partitions.from; partition < partitions.to; partition++) {
    const from = (offsets[partition] as number) - start;
    const to = (offsets[partition + 1] as number) - start;
    assert(to <= bytes.length, 'the bytes of the whole range were read');
    const own = bytes.subarray(from, to);
    if (crc32c(own) !== index.crc32cs[partition])
      throw corrupt(output.row, `partition ${partition}`);
    if (to > from) parts.push({ output, partition, bytes: own });
  }
  return parts;
}

function tryVerify(
  output: LoadedOutput,
  partitions: IndexRange,
  bytes: Buffer,
): PartitionBytes[] | undefined {
  try {
    return verified(output, partitions, bytes);
  } catch (error) {
    if (isStoreError(error, 'data_corrupt')) return undefined;
    throw error;
  }
}

function blockRange(row: MapOutputRow): messages.ReadRange {
  const { blobId, offset, length } = row.location;
  return { blobId, offset: offset + length - row.indexBytes, length: row.indexBytes };
}

function* blockBatches(rows: readonly MapOutputRow[]): Generator<MapOutputRow[]> {
  let batch: MapOutputRow[] = [];
  let bytes = 0;
  for (const row of rows) {
    if (row.indexBytes > READ_BYTES_MAX) continue; // alone, in pieces
    if (bytes + row.indexBytes > READ_BYTES_MAX) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(row);
    bytes += row.indexBytes;
  }
  if (batch.length > 0) yield batch;
}

async function readFileSync(
  files: LocalFiles,
  { tier, path }: ExtentLocation,
  target: Buffer,
  position: number,
): Promise<void> {
  const file = files.openSync(tier, path, 'r');
  try {
    let done = 0;
    while (done < target.length) {
      const bytes = readSync(file, target, done, target.length - done, position + done);
      if (bytes === 0) throw tooShort(path, position + done);
      done += bytes;
    }
  } finally {
    closeSync(file);
  }
}

async function readFileAsync(
  files: LocalFiles,
  { tier, path }: ExtentLocation,
  target: Buffer,
  position: number,
): Promise<void> {
  await using file = await files.open(tier, path, 'r');
  let done = 0;
  while (done < target.length) {
    const { bytesRead } = await file.read(target, done, target.length - done, position + done);
    if (bytesRead === 0) throw tooShort(path, position + done);
    done += bytesRead;
  }
}

function tooShort(path: string, at: number): StoreError {
  return new StoreError('data_corrupt', `${path} ends at byte ${at}`, { path });
}

/** Least recently used index blocks go first; one block is kept however long it is. */
class IndexCache {
  readonly #bytesMax: number;
  readonly #blocks = new Map<number, IndexBlock>();
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  find(attemptId: number): IndexBlock | undefined {
    const block = this.#blocks.get(attemptId);
    if (block !== undefined) {
      this.#blocks.delete(attemptId);
      this.#blocks.set(attemptId, block);
    }
    return block;
  }

  add(attemptId: number, block: IndexBlock): void {
    if (this.#blocks.has(attemptId)) return;
    this.#blocks.set(attemptId, block);
    this.#bytes += bytesOf(block);
    for (const [oldest, other] of this.#blocks) {
      if (this.#bytes <= this.#bytesMax || oldest === attemptId) break;
      this.#blocks.delete(oldest);
      this.#bytes -= bytesOf(other);
    }
  }
}

function bytesOf(block: IndexBlock): number {
  return block.crc32cs.length * 12 + 8 + INDEX_TRAILER_BYTES;
}
