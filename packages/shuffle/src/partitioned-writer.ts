/**
 * Writes one attempt's map output: records in any order, out comes one file sorted by partition, with its index block.
 *
 *   write ──▶ RecordArena ──(full)──▶ spill file: chunks by partition, spill after spill
 *                  │                        │
 *                  └────── commit ──────────┴──▶ staged file: p0 | p1 | … | index block ──▶ mapCommit
 *
 * Records stay in memory up to `memoryBytes`; what does not fit goes to one temporary file, which has no name, so that it
 * vanishes with the process. At the commit the parts of each partition are joined end to end, straight into the node's
 * staged file: spilled chunks are not decoded again, and what never spilled is written once.
 *
 * I1  Nothing is staged before `commit`, and then with room for all: a writer that waits for its input holds none of tier 0.
 * I2  Records of one partition come out in the order they went in.
 * I3  Memory held: `memoryBytes`, one output buffer, one chunk; at a merge one window per spill, together `memoryBytes` but
 *     each at least 4 KiB; and 8 bytes per spill and partition.
 * I4  A commit whose answer was lost is looked for by attempt id before it is done again.
 * I5  A writer that is disposed without a commit leaves nothing behind.
 */
import { randomUUID } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openStagedFile, type StagedFile, withRetry } from '@ebb/client';
import {
  assert,
  encodeIndexBlock,
  FRAMING,
  indexBlockBytes,
  KiB,
  type MapOutputRow,
  MiB,
  messages,
  OPS,
  StoreError,
  TIER_BY_POLICY,
} from '@ebb/protocol';
import { crc32c } from '@node-rs/crc32';
import {
  assertCompressionOffered,
  type ChunkCompression,
  chunkedBytesMax,
  encodeChunk,
} from './chunk-framing.ts';
import {
  CHUNK_BYTES_DEFAULT,
  CHUNK_RAW_BYTES_MAX,
  WRITER_MEMORY_BYTES_DEFAULT,
  WRITER_MEMORY_BYTES_MIN,
} from './limits.ts';
import { RecordArena } from './record-arena.ts';
import { framedRecordBytes } from './record-framing.ts';
import { bytesSerializer, type Serializer } from './serializer.ts';
import type { ShuffleCalls } from './shuffle-calls.ts';
import { throwIfAborted } from './shuffle-view.ts';

export interface WriterOptions<K, V> {
  readonly shuffleId: number;
  readonly mapIndex: number;
  /** Unique among all attempts of the shuffle. */
  readonly attemptId: number;
  /** Among attempts at one map the higher epoch wins. Default: 0. */
  readonly epoch?: number;
  readonly partitions: number;
  /** Default: bytes as they are. */
  readonly keySerializer?: Serializer<K>;
  readonly valueSerializer?: Serializer<V>;
  /** Default: by hash of the key's bytes. */
  readonly partitionOf?: (key: Uint8Array, partitions: number) => number;
  /** Records held in memory; beyond, they are spilled. */
  readonly memoryBytes?: number;
  /** For the spill file. Default: the system's. */
  readonly spillDirectory?: string;
  readonly compression?: ChunkCompression;
  /** Raw bytes of a chunk. */
  readonly chunkBytes?: number;
  readonly signal?: AbortSignal;
}

export interface WriterResult {
  /** Whether this attempt is the map's output; else `winner` is another's. */
  readonly won: boolean;
  readonly winner: MapOutputRow;
  readonly records: number;
  /** Of each partition, as stored. */
  readonly partitionBytes: Float64Array;
  readonly spills: number;
}

export interface PartitionedWriter<K, V> extends AsyncDisposable {
  /** One call at a time. Resolves at once unless memory is full. The bytes are copied. */
  write(key: K, value: V): Promise<void>;
  writeTo(partition: number, key: K, value: V): Promise<void>;
  /** As `write` for each, without a promise per record. */
  writeAll(records: Iterable<readonly [key: K, value: V]>): Promise<void>;
  /** Nothing is visible before it resolves. */
  commit(): Promise<WriterResult>;
  /** Throws everything away. */
  abort(): Promise<void>;
}

const OUTPUT_BYTES = 1 * MiB;
const MERGE_WINDOW_BYTES_MIN = 4 * KiB;
const MERGE_WINDOW_BYTES_MAX = 256 * KiB;

/** @throws {StoreError} `request_invalid`, `unsupported` */
export async function openPartitionedWriter<K, V>(
  calls: ShuffleCalls,
  options: WriterOptions<K, V>,
): Promise<PartitionedWriter<K, V>> {
  const { memoryBytes, chunkBytes } = options;
  if (memoryBytes !== undefined && memoryBytes < WRITER_MEMORY_BYTES_MIN)
    throw new StoreError('request_invalid', `memoryBytes is below ${WRITER_MEMORY_BYTES_MIN}`);
  if (chunkBytes !== undefined && (chunkBytes < 1 || chunkBytes > CHUNK_RAW_BYTES_MAX))
    throw new StoreError('request_invalid', `chunkBytes is not in 1 to ${CHUNK_RAW_BYTES_MAX}`);
  assertCompressionOffered(options.compression ?? 'none');
  throwIfAborted(options.signal);
  return await Promise.resolve(new Writer(calls, options));
}

/** FNV-1a over the key's bytes: the same in every process and every run. */
export function hashPartition(key: Uint8Array, partitions: number): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ (key[i] as number), 0x01000193);
  hash ^= hash >>> 15;
  return (hash >>> 0) % partitions;
}

/** One spill: where each partition's chunks begin in the spill file. */
type Spill = Float64Array;
type State = 'open' | 'failed' | 'committed' | 'aborted';

class Writer<K, V> implements PartitionedWriter<K, V> {
  readonly #calls: ShuffleCalls;
  readonly #options: WriterOptions<K, V>;
  readonly #partitions: number;
  readonly #memoryBytes: number;
  readonly #chunkBytes: number;
  readonly #keys: Serializer<K>;
  readonly #values: Serializer<V>;
  readonly #partitionOf: (key: Uint8Array, partitions: number) => number;
  readonly #arena: RecordArena;
  readonly #spills: Spill[] = [];
  #spillFile: FileHandle | undefined;
  #spilledBytes = 0;
  #records = 0;
  #state: State = 'open';
  #busy = false;

  constructor(calls: ShuffleCalls, options: WriterOptions<K, V>) {
    this.#calls = calls;
    this.#options = options;
    this.#partitions = options.partitions;
    this.#memoryBytes = options.memoryBytes ?? WRITER_MEMORY_BYTES_DEFAULT;
    this.#chunkBytes = options.chunkBytes ?? CHUNK_BYTES_DEFAULT;
    this.#keys = options.keySerializer ?? (bytesSerializer as unknown as Serializer<K>);
    this.#values = options.valueSerializer ?? (bytesSerializer as unknown as Serializer<V>);
    this.#partitionOf = options.partitionOf ?? hashPartition;
    this.#arena = new RecordArena({ partitions: options.partitions, bytesMax: this.#memoryBytes });
  }

  async write(key: K, value: V): Promise<void> {
    const bytes = this.#keys.encode(key);
    await this.#tryAdd(this.#partitionOf(bytes, this.#partitions), bytes, value);
  }

  async writeTo(partition: number, key: K, value: V): Promise<void> {
    await this.#tryAdd(partition, this.#keys.encode(key), value);
  }

  async writeAll(records: Iterable<readonly [key: K, value: V]>): Promise<void> {
    for (const [key, value] of records) {
      const bytes = this.#keys.encode(key);
      const room = this.#tryAdd(this.#partitionOf(bytes, this.#partitions), bytes, value);
      if (room !== undefined) await room;
    }
  }

  async commit(): Promise<WriterResult> {
    return await this.#alone(async () => {
      const result = await this.#commitWithRetry();
      this.#state = 'committed';
      await this.#dropSpills();
      this.#arena.clear();
      return result;
    });
  }

  async abort(): Promise<void> {
    if (this.#state === 'committed' || this.#state === 'aborted') return;
    assert(!this.#busy, 'the call before has ended');
    this.#state = 'aborted';
    this.#arena.clear();
    await this.#dropSpills();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }

  /** A promise when memory had to be spilled first. */
  #tryAdd(partition: number, key: Uint8Array, value: V): Promise<void> | undefined {
    const valueBytes = this.#values.encode(value);
    if (!Number.isInteger(partition) || partition < 0 || partition >= this.#partitions)
      throw new StoreError('request_invalid', `partition ${partition} of ${this.#partitions}`);
    const framedBytes = framedRecordBytes(key, valueBytes);
    this.#assertOpen();
    if (!this.#arena.hasRoom(framedBytes))
      return this.#alone(() => this.#spill()).then(() => this.#place(partition, key, valueBytes));
    this.#place(partition, key, valueBytes);
    return undefined;
  }

  #place(partition: number, key: Uint8Array, value: Uint8Array): void {
    this.#arena.add(partition, key, value);
    this.#records++;
  }

  #assertOpen(): void {
    assert(!this.#busy, 'one call at a time on a partitioned writer');
    if (this.#state !== 'open')
      throw new StoreError('write_not_found', `this partitioned writer is ${this.#state}`);
  }

  async #alone<T>(work: () => Promise<T>): Promise<T> {
    this.#assertOpen();
    this.#busy = true;
    try {
      throwIfAborted(this.#options.signal);
      return await work();
    } catch (error) {
      this.#state = 'failed';
      throw error;
    } finally {
      this.#busy = false;
      if (this.#state === 'failed') await this.#dropSpills();
    }
  }

  async #spill(): Promise<void> {
    this.#spillFile ??= await openUnnamed(this.#options.spillDirectory ?? tmpdir());
    const file = this.#spillFile;
    let at = this.#spilledBytes;
    const output = new OutputBuffer(this.#chunkedBytesMax, async (bytes) => {
      throwIfAborted(this.#options.signal);
      await writeFully(file, bytes, at);
      at += bytes.length;
    });
    const starts = new Float64Array(this.#partitions + 1);
    for (const partition of this.#partitionsOfMemory()) {
      starts[partition.partition] = this.#spilledBytes + output.totalBytes;
      await this.#writeChunks(partition.rows, output);
    }
    await output.flush();
    this.#spilledBytes += output.totalBytes;
    starts[this.#partitions] = this.#spilledBytes;
    this.#spills.push(starts);
    this.#arena.clear();
  }

  *#partitionsOfMemory(): Generator<{ readonly partition: number; readonly rows: Uint32Array }> {
    const { order, starts } = this.#arena.sorted();
    for (let partition = 0; partition < this.#partitions; partition++)
      yield { partition, rows: order.subarray(starts[partition], starts[partition + 1]) };
  }

  /** The records of one partition as chunks. */
  async #writeChunks(rows: Uint32Array, output: OutputBuffer): Promise<void> {
    const chunk = this.#chunk;
    let used = 0;
    const emit = async (): Promise<void> => {
      const { header, stored } = encodeChunk(chunk.subarray(0, used), this.#compression);
      used = 0;
      await output.append(header);
      await output.append(stored);
    };
    for (const row of rows) {
      const record = this.#arena.record(row);
      for (let at = 0; at < record.length; ) {
        const copied = record.copy(chunk, used, at, at + chunk.length - used);
        at += copied;
        used += copied;
        if (used === chunk.length) await emit();
      }
    }
    if (used > 0) await emit();
  }

  #chunkBuffer = Buffer.alloc(0);
  /** As long as a chunk, or as all there is to write. */
  get #chunk(): Buffer {
    const bytes = Math.min(this.#chunkBytes, Math.max(1, this.#arena.rawBytes));
    if (this.#chunkBuffer.length < bytes) this.#chunkBuffer = Buffer.allocUnsafeSlow(bytes);
    return this.#chunkBuffer;
  }
  /** Longest that what is in memory can become. */
  get #chunkedBytesMax(): number {
    return chunkedBytesMax(this.#arena.rawBytes, this.#chunkBytes, this.#partitions);
  }
  get #compression(): ChunkCompression {
    return this.#options.compression ?? 'none';
  }

  async #commitWithRetry(): Promise<WriterResult> {
    const { signal } = this.#options;
    return await withRetry({ idempotent: true, signal }, async (attempts) => {
      const found = attempts > 1 ? await this.#findCommitted() : undefined; // I4
      if (found !== undefined) return this.#result(found.winner, found, this.#lastBytes);
      return await this.#commitOnce();
    });
  }

  /** The row of this attempt, when a commit whose answer was lost was applied. */
  async #findCommitted(): Promise<MapOutputRow | undefined> {
    const { shuffleId, attemptId, signal } = this.#options;
    const [row] = await this.#calls.resolve(shuffleId, [attemptId], { suspect: false, signal });
    return row;
  }

  #lastBytes = new Float64Array(0);

  async #commitOnce(): Promise<WriterResult> {
    await using staged = await this.#stage();
    const { offsets, crc32cs } = await this.#mergeInto(staged);
    const { shuffleId, mapIndex, attemptId } = this.#options;
    const index = encodeIndexBlock(
      { framing: FRAMING.chunks, shuffleId, mapIndex, attemptId, offsets, crc32cs },
      crc32c,
    );
    await staged.write(index);
    this.#lastBytes = offsets.subarray(1).map((end, i) => end - (offsets[i] as number));
    const { session, writeId, sizeBytes, crc32c: crc } = await staged.seal();
    const response = await session.call(OPS.mapCommit, messages.mapCommit, {
      writeId,
      sizeBytes,
      crc32c: crc,
      indexBytes: index.length,
    });
    staged.settled();
    return this.#result(response.won, response.winner, this.#lastBytes);
  }

  #result(won: boolean, winner: MapOutputRow, partitionBytes: Float64Array): WriterResult {
    return { won, winner, partitionBytes, records: this.#records, spills: this.#spills.length };
  }

  async #stage(): Promise<StagedFile> {
    const { shuffleId, mapIndex, attemptId, epoch = 0, signal } = this.#options;
    const dataBytesMax = this.#spilledBytes + this.#chunkedBytesMax;
    return await openStagedFile(
      async ({ reserveBytes, tier }) => {
        const session = await this.#calls.connection.session(signal);
        const staged = await session.call(
          OPS.mapStage,
          messages.mapStage,
          {
            jobId: this.#calls.jobId,
            shuffleId,
            mapIndex,
            attemptId,
            epoch,
            reserveBytes,
            tier,
          },
          {
            signal,
            undo: (late) => session.send(OPS.abort, messages.abort, { writeId: late.writeId }),
          },
        );
        return { session, staged };
      },
      {
        reserveBytes: dataBytesMax + indexBlockBytes(this.#partitions, dataBytesMax),
        tierByPolicy: TIER_BY_POLICY,
        signal,
      },
    );
  }

  async #mergeInto(staged: StagedFile): Promise<{ offsets: Float64Array; crc32cs: Uint32Array }> {
    const offsets = new Float64Array(this.#partitions + 1);
    const crc32cs = new Uint32Array(this.#partitions);
    const sizeBytesMax = this.#spilledBytes + this.#chunkedBytesMax;
    const output = new OutputBuffer(sizeBytesMax, (bytes) => staged.write(bytes));
    const windows = this.#openWindows();
    for (const { partition, rows } of this.#partitionsOfMemory()) {
      offsets[partition] = output.totalBytes;
      output.crc = 0;
      for (const [i, window] of windows.entries()) {
        const spill = this.#spills[i] as Spill;
        await window.copy(spill[partition] as number, spill[partition + 1] as number, output);
      }
      await this.#writeChunks(rows, output);
      crc32cs[partition] = output.crc;
    }
    await output.flush();
    offsets[this.#partitions] = output.totalBytes;
    return { offsets, crc32cs };
  }

  #openWindows(): SpillWindow[] {
    const file = this.#spillFile;
    if (file === undefined) return [];
    const share = Math.floor(this.#memoryBytes / this.#spills.length);
    const bytes = Math.min(MERGE_WINDOW_BYTES_MAX, Math.max(MERGE_WINDOW_BYTES_MIN, share));
    return this.#spills.map(
      (spill) => new SpillWindow(file, spill[this.#partitions] as number, bytes),
    );
  }

  async #dropSpills(): Promise<void> {
    const file = this.#spillFile;
    this.#spillFile = undefined;
    await file?.close();
  }
}

/** Gathers small pieces into few writes, and keeps the checksum of what passes. */
class OutputBuffer {
  readonly #sink: (bytes: Buffer) => Promise<void>;
  readonly #buffer: Buffer;
  #used = 0;
  totalBytes = 0;
  /** Of the bytes since it was last set to 0. */
  crc = 0;

  constructor(sizeBytesMax: number, sink: (bytes: Buffer) => Promise<void>) {
    this.#buffer = Buffer.allocUnsafe(Math.max(1, Math.min(OUTPUT_BYTES, sizeBytesMax)));
    this.#sink = sink;
  }

  async append(bytes: Uint8Array): Promise<void> {
    this.crc = crc32c(bytes, this.crc);
    this.totalBytes += bytes.byteLength;
    for (let at = 0; at < bytes.byteLength; ) {
      const part = bytes.subarray(at, at + this.#buffer.length - this.#used);
      this.#buffer.set(part, this.#used);
      this.#used += part.byteLength;
      at += part.byteLength;
      if (this.#used === this.#buffer.length) await this.flush();
    }
  }

  async flush(): Promise<void> {
    if (this.#used === 0) return;
    const bytes = this.#buffer.subarray(0, this.#used);
    this.#used = 0;
    await this.#sink(bytes);
  }
}

/** Reads one spill from front to back, a window at a time. */
class SpillWindow {
  readonly #file: FileHandle;
  readonly #end: number;
  readonly #buffer: Buffer;
  #from = 0;
  #to = 0;

  constructor(file: FileHandle, end: number, windowBytes: number) {
    this.#file = file;
    this.#end = end;
    this.#buffer = Buffer.allocUnsafeSlow(windowBytes);
  }

  async copy(from: number, to: number, output: OutputBuffer): Promise<void> {
    for (let at = from; at < to; ) {
      if (at >= this.#to || at < this.#from) await this.#fill(at);
      const end = Math.min(to, this.#to);
      await output.append(this.#buffer.subarray(at - this.#from, end - this.#from));
      at = end;
    }
  }

  async #fill(at: number): Promise<void> {
    const wanted = Math.min(this.#buffer.length, this.#end - at);
    const { bytesRead } = await this.#file.read(this.#buffer, 0, wanted, at);
    if (bytesRead === 0) throw new StoreError('io_failed', `the spill file ends at byte ${at}`);
    this.#from = at;
    this.#to = at + bytesRead;
  }
}

/** A file without a name: the system takes it back when the process ends, however it ends. */
async function openUnnamed(directory: string): Promise<FileHandle> {
  const path = join(directory, `ebb-spill-${process.pid}-${randomUUID()}`);
  try {
    const file = await open(path, 'wx+', 0o600);
    await unlink(path);
    return file;
  } catch (cause) {
    throw new StoreError('io_failed', `no spill file in ${directory}`, { directory }, cause);
  }
}

async function writeFully(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  try {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done);
      done += bytesWritten;
    }
  } catch (cause) {
    throw new StoreError('io_failed', 'writing the spill file failed', {}, cause);
  }
}
