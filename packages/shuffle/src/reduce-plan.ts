/**
 * What a reduce task reads: from a table of map outputs, a range of partitions and a range of maps to file ranges. Pure.
 *
 *   map output 7:  | p0 | p1 |  p2  | p3 | index |        partitions 1…3  →  one range: offset of p1, length of p1 + p2
 *
 * I1  Every byte of the asked partitions of every asked map is in exactly one range, and no other byte is.
 * I2  Neighbouring partitions of one map output are one range, cut only at `rangeBytesMax`, and then between partitions.
 * I3  A map in the range that has no output is named in `missing`; it is never just left out.
 * I4  A remote batch holds at most `batchBytesMax` bytes and RANGES_PER_BATCH_MAX ranges; only a single partition that is
 *     longer than a batch is cut inside, and its pieces come in order, each in a batch of its own.
 */
import { assert, type MapOutputRow, READ_BYTES_MAX, type TierIndex } from '@ebb/protocol';

/** From `from` up to and without `to`. */
export interface IndexRange {
  readonly from: number;
  readonly to: number;
}

/** Keeps a read request small: 20 bytes a range. */
const RANGES_PER_BATCH_MAX = 4096;

/** A map output and its partition offsets (index-block.ts), relative to the start of its extent. */
export interface IndexedOutput {
  readonly row: MapOutputRow;
  readonly offsets: ArrayLike<number>;
}

/** Whole partitions that lie side by side in one map output. */
export interface PlannedRange {
  readonly mapIndex: number;
  readonly attemptId: number;
  readonly partitions: IndexRange;
  readonly blobId: number;
  readonly tier: TierIndex;
  /** Relative to the tier's directory; '' in tier 2. */
  readonly path: string;
  /** In the blob's file. */
  readonly offset: number;
  readonly length: number;
}

export interface RemoteRange {
  readonly range: PlannedRange;
  /** Of the piece, within the range: 0 unless the range is cut (I4). */
  readonly position: number;
  readonly length: number;
}
export interface RemoteBatch {
  readonly bytes: number;
  readonly ranges: readonly RemoteRange[];
}

export interface ReducePlan {
  /** In order of map, then partition. */
  readonly local: readonly PlannedRange[];
  readonly remote: readonly RemoteBatch[];
  readonly missing: readonly number[];
}

export interface ReducePlanRequest {
  readonly outputs: Iterable<IndexedOutput>;
  readonly partitions: IndexRange;
  readonly maps: IndexRange;
  /** Whether this process sees the node's files; bytes in tier 2 are remote in any case. */
  readonly localFiles: boolean;
  readonly rangeBytesMax?: number;
  readonly batchBytesMax?: number;
}

export function planReduce(request: ReducePlanRequest): ReducePlan {
  const { partitions, maps, localFiles } = request;
  const rangeBytesMax = request.rangeBytesMax ?? Number.MAX_SAFE_INTEGER;
  const batchBytesMax = request.batchBytesMax ?? READ_BYTES_MAX;
  assert(batchBytesMax > 0 && batchBytesMax <= READ_BYTES_MAX, 'a batch fits a read call');
  const { winners, missing } = selectWinners(request.outputs, maps);
  const local: PlannedRange[] = [];
  const remote: PlannedRange[] = [];
  for (const output of winners) {
    const isLocal = localFiles && output.row.location.tier !== 2;
    for (const range of rangesOf(output, partitions, rangeBytesMax))
      (isLocal ? local : remote).push(range);
  }
  return { local, remote: batchesOf(remote, batchBytesMax), missing };
}

/** The outputs that hold their map's place, in map order, and the maps of the range that have none. */
export function selectWinners<T extends { readonly row: MapOutputRow }>(
  outputs: Iterable<T>,
  maps: IndexRange,
): { readonly winners: readonly T[]; readonly missing: readonly number[] } {
  const byMap = new Map<number, T>();
  for (const output of outputs) {
    const { mapIndex, winner, epoch } = output.row;
    if (!winner || mapIndex < maps.from || mapIndex >= maps.to) continue;
    // A table put together from several answers may hold an outdated winner beside the new one: of an older epoch, or,
    // when its bytes were lost, of the same; then the later row counts.
    const other = byMap.get(mapIndex);
    if (other === undefined || other.row.epoch <= epoch) byMap.set(mapIndex, output);
  }
  const winners: T[] = [];
  const missing: number[] = [];
  for (let mapIndex = maps.from; mapIndex < maps.to; mapIndex++) {
    const output = byMap.get(mapIndex);
    if (output === undefined) missing.push(mapIndex);
    else winners.push(output);
  }
  return { winners, missing };
}

function rangesOf(
  output: IndexedOutput,
  partitions: IndexRange,
  rangeBytesMax: number,
): PlannedRange[] {
  const { row, offsets } = output;
  assert(partitions.to < offsets.length, 'the partition range is within the map output');
  const ranges: PlannedRange[] = [];
  let from = partitions.from;
  while (from < partitions.to) {
    const start = offsets[from] as number;
    let to = from + 1;
    while (to < partitions.to && (offsets[to + 1] as number) - start <= rangeBytesMax) to++;
    const length = (offsets[to] as number) - start;
    if (length > 0) {
      ranges.push({
        mapIndex: row.mapIndex,
        attemptId: row.attemptId,
        partitions: { from, to },
        blobId: row.location.blobId,
        tier: row.location.tier,
        path: row.location.path,
        offset: row.location.offset + start,
        length,
      });
    }
    from = to;
  }
  return ranges;
}

function batchesOf(ranges: readonly PlannedRange[], batchBytesMax: number): RemoteBatch[] {
  const batches: RemoteBatch[] = [];
  let open: RemoteRange[] = [];
  let bytes = 0;
  const close = (): void => {
    if (open.length > 0) batches.push({ bytes, ranges: open });
    open = [];
    bytes = 0;
  };
  for (const range of ranges) {
    if (bytes + range.length > batchBytesMax || open.length === RANGES_PER_BATCH_MAX) close();
    for (let position = 0; position < range.length; position += batchBytesMax) {
      const length = Math.min(batchBytesMax, range.length - position);
      open.push({ range, position, length });
      bytes += length;
      if (range.length > batchBytesMax) close();
    }
  }
  close();
  return batches;
}
