/**
 * Reads a range of partitions of a range of maps: local files by positional reads, the rest by batched calls.
 *
 * I1  Every asked map is read, or the reader throws a StoreError that names a map: a missing, lost or corrupt output is
 *     never a short partition (shuffle-view.ts).
 * I2  Bytes fetched and not yet consumed are at most `prefetchBytes`, or one unit where one is all there is. A partition
 *     that is longer than a unit is streamed in pieces, verified in a first pass.
 * I3  When the iteration ends, in whatever way, nothing of it is under way any more.
 *
 * Maps are taken in windows, so that a reader of many maps holds few index blocks at a time.
 */
import { FRAMING, type MapOutputRow, READ_BYTES_MAX, StoreError } from '@ebb/protocol';
import { ChunkDecoder } from './chunk-framing.ts';
import { READER_PREFETCH_BYTES_DEFAULT, READER_PREFETCH_BYTES_MIN } from './limits.ts';
import { RecordDecoder, type ShuffleRecord } from './record-framing.ts';
import { type IndexRange, type PlannedRange, planReduce, selectWinners } from './reduce-plan.ts';
import { bytesSerializer, type Serializer } from './serializer.ts';
import type { ShuffleCalls } from './shuffle-calls.ts';
import {
  type LoadedOutput,
  type PartitionBytes,
  type ShuffleView,
  throwIfAborted,
} from './shuffle-view.ts';

export interface ReaderOptions<K, V> {
  readonly shuffleId: number;
  readonly partitions: IndexRange;
  /** Default: all. */
  readonly maps?: IndexRange;
  /** Default: bytes as they are. */
  readonly keySerializer?: Serializer<K>;
  readonly valueSerializer?: Serializer<V>;
  readonly prefetchBytes?: number;
  readonly signal?: AbortSignal;
}

export interface ReaderRecord<K, V> {
  readonly partition: number;
  readonly key: K;
  readonly value: V;
}

/** Records of one partition of one map output, or of a part of it. Take them before asking for the next batch. */
export interface RecordBatch<K, V> {
  readonly mapIndex: number;
  readonly attemptId: number;
  readonly partition: number;
  readonly records: Iterable<ReaderRecord<K, V>>;
}

/** To be iterated once. Keys and values may be kept: their memory is not used again. */
export interface PartitionedReader<K, V> extends AsyncIterable<ReaderRecord<K, V>> {
  /** As the iteration, without a promise per record. In order of partition inside a map output; maps in any order. */
  batches(): AsyncGenerator<RecordBatch<K, V>, void, undefined>;
}

const WINDOW_MAPS = 256;
/** Missing maps named in an error's message; the details have the first one. */
const MISSING_NAMED = 10;

/** @throws {StoreError} `shuffle_not_found`, `range_invalid`, `not_found` naming the maps that have no output */
export async function openPartitionedReader<K, V>(
  calls: ShuffleCalls,
  view: ShuffleView,
  options: ReaderOptions<K, V>,
): Promise<PartitionedReader<K, V>> {
  const prefetchBytes = options.prefetchBytes ?? READER_PREFETCH_BYTES_DEFAULT;
  if (prefetchBytes < READER_PREFETCH_BYTES_MIN)
    throw new StoreError('request_invalid', `prefetchBytes is below ${READER_PREFETCH_BYTES_MIN}`);
  const table = await view.refresh(options.signal);
  const maps = options.maps ?? { from: 0, to: table.maps };
  checkRange('partitions', options.partitions, table.partitions);
  checkRange('maps', maps, table.maps);
  const outputs = Array.from(table.rows, (row) => ({ row }));
  const { winners, missing } = selectWinners(outputs, maps);
  if (missing.length > 0) throw missingMaps(calls.jobId, view.shuffleId, missing);
  return new Reader({ view, options, prefetchBytes, rows: winners.map(({ row }) => row) });
}

interface ReaderParts<K, V> {
  readonly view: ShuffleView;
  readonly options: ReaderOptions<K, V>;
  readonly prefetchBytes: number;
  readonly rows: readonly MapOutputRow[];
}

/** What is fetched at a time. */
type Unit =
  | { readonly bytes: number; readonly fetch: (signal: AbortSignal) => Promise<PartitionBytes[]> }
  | { readonly bytes: number; readonly large: LoadedOutput; readonly partition: number };

class Reader<K, V> implements PartitionedReader<K, V> {
  readonly #parts: ReaderParts<K, V>;
  readonly #unitBytes: number;
  readonly #keys: Serializer<K>;
  readonly #values: Serializer<V>;
  #started = false;

  constructor(parts: ReaderParts<K, V>) {
    this.#parts = parts;
    // Two units, so that one can be on its way while the other is consumed.
    this.#unitBytes = Math.min(READ_BYTES_MAX, parts.prefetchBytes >>> 1);
    this.#keys = parts.options.keySerializer ?? (bytesSerializer as unknown as Serializer<K>);
    this.#values = parts.options.valueSerializer ?? (bytesSerializer as unknown as Serializer<V>);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ReaderRecord<K, V>, void, undefined> {
    for await (const batch of this.batches()) yield* batch.records;
  }

  async *batches(): AsyncGenerator<RecordBatch<K, V>, void, undefined> {
    if (this.#started) throw new StoreError('request_invalid', 'a reader is iterated once');
    this.#started = true;
    const { view, options, prefetchBytes } = this.#parts;
    const stop = new AbortController();
    const signal =
      options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
    // Fetched ahead, in order. A failure shows when its turn comes.
    const ahead: { readonly unit: Unit; readonly fetched: Promise<PartitionBytes[]> }[] = [];
    let aheadBytes = 0;
    const units = this.#units(signal);
    let next = await units.next();
    try {
      for (;;) {
        while (
          next.done !== true &&
          (ahead.length === 0 || aheadBytes + next.value.bytes <= prefetchBytes)
        ) {
          const unit = next.value;
          const fetched = 'fetch' in unit ? unit.fetch(signal) : Promise.resolve([]);
          fetched.catch(() => undefined);
          ahead.push({ unit, fetched });
          aheadBytes += unit.bytes;
          next = await units.next();
        }
        const head = ahead.shift();
        if (head === undefined) return;
        throwIfAborted(signal);
        if ('large' in head.unit)
          yield* this.#streamed(head.unit.large, head.unit.partition, signal);
        else for (const part of await head.fetched) yield this.#batch(view, part);
        aheadBytes -= head.unit.bytes;
      }
    } finally {
      stop.abort(new StoreError('aborted', 'the reader was left'));
      await Promise.allSettled(ahead.map(({ fetched }) => fetched)); // I3
    }
  }

  /** Remote batches before local ranges, window by window: what takes longer is asked for first. */
  async *#units(signal: AbortSignal): AsyncGenerator<Unit, void, undefined> {
    const { view, options, rows } = this.#parts;
    for (let from = 0; from < rows.length; from += WINDOW_MAPS) {
      const window = rows.slice(from, from + WINDOW_MAPS);
      const outputs = await view.load(window, signal);
      const byAttempt = new Map(outputs.map((output) => [output.row.attemptId, output]));
      for (const output of outputs) checkReadable(view, output, options.partitions);
      const outputOf = (range: PlannedRange): LoadedOutput =>
        byAttempt.get(range.attemptId) as LoadedOutput;
      const plan = planReduce({
        outputs: outputs.map((output) => ({ ...output, row: { ...output.row, winner: true } })),
        partitions: options.partitions,
        maps: { from: window[0]?.mapIndex ?? 0, to: (window.at(-1)?.mapIndex ?? -1) + 1 },
        localFiles: view.localFiles,
        rangeBytesMax: this.#unitBytes,
        batchBytesMax: this.#unitBytes,
      });
      for (const batch of plan.remote) {
        const [first] = batch.ranges;
        if (first === undefined || first.position > 0) continue; // a later piece of a large partition
        if (first.range.length > this.#unitBytes)
          yield this.#large(outputOf(first.range), first.range);
        else yield { bytes: batch.bytes, fetch: (stop) => view.readBatch(batch, outputOf, stop) };
      }
      for (const range of plan.local) {
        const output = outputOf(range);
        if (range.length > this.#unitBytes) yield this.#large(output, range);
        else yield { bytes: range.length, fetch: (stop) => view.readRange(output, range, stop) };
      }
    }
  }

  /** A range is longer than a unit only when it is a single partition. */
  #large(output: LoadedOutput, range: PlannedRange): Unit {
    return { bytes: this.#unitBytes, large: output, partition: range.partitions.from };
  }

  #batch(view: ShuffleView, part: PartitionBytes): RecordBatch<K, V> {
    const { output, partition, bytes } = part;
    const { mapIndex, attemptId } = output.row;
    const decode = this.#decode.bind(this);
    const records = function* (): Generator<ReaderRecord<K, V>> {
      const chunks = new ChunkDecoder();
      const decoder = new RecordDecoder();
      try {
        for (const chunk of chunks.push(bytes))
          for (const record of decoder.push(chunk)) yield decode(partition, record);
        chunks.end();
        decoder.end();
      } catch (error) {
        throw view.nameError(error, output.row);
      }
    };
    return { mapIndex, attemptId, partition, records: { [Symbol.iterator]: records } };
  }

  async *#streamed(
    output: LoadedOutput,
    partition: number,
    signal: AbortSignal,
  ): AsyncGenerator<RecordBatch<K, V>, void, undefined> {
    const { view } = this.#parts;
    const { mapIndex, attemptId } = output.row;
    const chunks = new ChunkDecoder();
    const decoder = new RecordDecoder();
    try {
      for await (const piece of view.streamPartition(output, partition, this.#unitBytes, signal)) {
        for (const chunk of chunks.push(piece)) {
          const records = Array.from(decoder.push(chunk), (record) =>
            this.#decode(partition, record),
          );
          yield { mapIndex, attemptId, partition, records };
        }
      }
      chunks.end();
      decoder.end();
    } catch (error) {
      throw view.nameError(error, output.row);
    }
  }

  #decode(partition: number, record: ShuffleRecord): ReaderRecord<K, V> {
    return {
      partition,
      key: this.#keys.decode(record.key),
      value: this.#values.decode(record.value),
    };
  }
}

function checkRange(what: string, range: IndexRange, count: number): void {
  const { from, to } = range;
  if (Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= count)
    return;
  throw new StoreError('range_invalid', `${what} ${from} to ${to} of ${count}`, {
    from,
    to,
    count,
  });
}

function checkReadable(view: ShuffleView, output: LoadedOutput, partitions: IndexRange): void {
  if (output.index.framing !== FRAMING.chunks) {
    const error = new StoreError(
      'unsupported',
      "its partitions are streams of an engine's own serializer, which only that engine reads",
      { framing: output.index.framing },
    );
    throw view.nameError(error, output.row);
  }
  if (output.index.crc32cs.length < partitions.to) {
    const error = new StoreError(
      'data_corrupt',
      `it has ${output.index.crc32cs.length} partitions`,
    );
    throw view.nameError(error, output.row);
  }
}

function missingMaps(jobId: string, shuffleId: number, missing: readonly number[]): StoreError {
  const named = missing.slice(0, MISSING_NAMED).join(', ');
  const more = missing.length > MISSING_NAMED ? ` and ${missing.length - MISSING_NAMED} more` : '';
  return new StoreError(
    'not_found',
    `shuffle ${shuffleId} of job "${jobId}" has no output of map ${named}${more}`,
    { jobId, shuffleId, mapIndex: missing[0] ?? 0, missing: missing.length },
  );
}
