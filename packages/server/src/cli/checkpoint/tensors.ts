/**
 * The tensors of a snapshot, put together from pieces that lie in several parts. Pure, but for the reading.
 *
 * T1  A tensor's pieces do not overlap, and cover it. Equal places in several parts are replicas: one is taken, and the
 *     others must have the same bytes.
 * T2  Bytes leave in the order of the whole tensor, at most CHUNK_BYTES at a time. What a piece gives to such a chunk is one
 *     range of the piece, since both are row-major: it is read at once, then scattered.
 */
import { assert, type Shard, StoreError } from '@ebb/protocol';

const CHUNK_BYTES = 8 * 1024 * 1024;

type Dtype = NonNullable<Shard['dtype']>;

interface PlacedShard {
  readonly part: string;
  /** In the part's image. */
  readonly offset: number;
}
interface Piece extends PlacedShard {
  readonly start: readonly number[];
  readonly shape: readonly number[];
  readonly length: number;
  readonly replicas: readonly PlacedShard[];
}
export interface Tensor {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly itemBytes: number;
  readonly pieces: readonly Piece[];
}

export interface PartShards {
  readonly name: string;
  readonly shards: readonly Shard[];
}

/** What is a tensor and what is not. @throws `request_invalid` for pieces that do not make one */
export function gatherTensors(parts: readonly PartShards[]): {
  readonly tensors: readonly Tensor[];
  readonly others: readonly { readonly part: string; readonly shard: Shard }[];
} {
  const found = new Map<string, { part: string; shard: Shard }[]>();
  const others: { part: string; shard: Shard }[] = [];
  for (const { name: part, shards } of parts)
    for (const shard of shards) {
      if (shard.dtype === undefined || shard.shape === undefined) others.push({ part, shard });
      else found.set(shard.name, [...(found.get(shard.name) ?? []), { part, shard }]);
    }
  return { tensors: [...found].map(([name, shards]) => tensorOf(name, shards)), others };
}

function tensorOf(
  name: string,
  shards: readonly { readonly part: string; readonly shard: Shard }[],
): Tensor {
  const { shard: first } = shards[0] as { shard: Shard };
  const dtype = first.dtype as Dtype;
  const shape = first.piece?.shape ?? (first.shape as number[]);
  const pieces = new Map<string, Piece & { replicas: PlacedShard[] }>();
  for (const { part, shard } of shards) {
    const whole = shard.piece?.shape ?? (shard.shape as number[]);
    if (shard.dtype !== dtype || whole.join() !== shape.join())
      throw invalid(
        name,
        `is ${dtype} [${shape.join(', ')}] in one place and ${shard.dtype} [${whole.join(', ')}] in part ${part}`,
      );
    const start = shard.piece?.start ?? shape.map(() => 0);
    const at = { start, shape: shard.shape as number[], length: shard.length };
    const key = `${start.join()} ${at.shape.join()}`;
    const there = pieces.get(key);
    const placed = { part, offset: shard.offset };
    if (there === undefined) pieces.set(key, { ...placed, ...at, replicas: [] });
    else there.replicas.push(placed);
  }
  const list = [...pieces.values()].filter(({ length }) => length > 0);
  const elements = product(first.shape as number[]);
  const itemBytes = elements === 0 ? 0 : first.length / elements;
  checkCover(name, shape, list);
  return { name, dtype, shape, itemBytes, pieces: list };
}

/** T1 */
function checkCover(name: string, shape: readonly number[], pieces: readonly Piece[]): void {
  const covered = pieces.reduce((sum, piece) => sum + product(piece.shape), 0);
  const all = product(shape);
  if (covered < all)
    throw invalid(name, `has ${covered} of its ${all} elements here: parts of it are missing`);
  const sorted = pieces.toSorted((a, b) => (a.start[0] ?? 0) - (b.start[0] ?? 0));
  for (const [i, a] of sorted.entries())
    for (const b of sorted.slice(i + 1)) {
      if ((b.start[0] ?? 0) >= (a.start[0] ?? 0) + (a.shape[0] ?? 1)) break;
      if (overlaps(a, b))
        throw invalid(name, `has pieces in ${a.part} and ${b.part} that overlap in part`);
    }
}

function overlaps(a: Piece, b: Piece): boolean {
  return a.shape.every((_, d) => {
    const [aStart, bStart] = [a.start[d] as number, b.start[d] as number];
    return aStart < bStart + (b.shape[d] as number) && bStart < aStart + (a.shape[d] as number);
  });
}

function invalid(tensor: string, problem: string): StoreError {
  return new StoreError('request_invalid', `tensor ${JSON.stringify(tensor)} ${problem}`, {
    tensor,
  });
}

export function tensorBytes({ shape, itemBytes }: Tensor): number {
  return product(shape) * itemBytes;
}

/** Fills the target with bytes of a part's image. */
export type ReadPart = (part: string, target: Uint8Array, position: number) => Promise<void>;

/** The bytes of a whole tensor, in order. A chunk is valid until the next one is asked for. */
export async function* tensorChunks(
  tensor: Tensor,
  read: ReadPart,
  chunkBytes: number = CHUNK_BYTES,
): AsyncGenerator<Buffer> {
  const sizeBytes = tensorBytes(tensor);
  const chunk = Buffer.allocUnsafe(Math.min(chunkBytes, sizeBytes));
  const scratch = Buffer.allocUnsafe(chunk.length);
  const other = Buffer.allocUnsafe(
    tensor.pieces.some(({ replicas }) => replicas.length > 0) ? chunk.length : 0,
  );
  for (let from = 0; from < sizeBytes; from += chunk.length) {
    const to = Math.min(sizeBytes, from + chunk.length);
    const into = chunk.subarray(0, to - from);
    let filled = 0;
    for (const piece of tensor.pieces) {
      const first = bytesBefore(tensor, piece, from);
      const bytes = bytesBefore(tensor, piece, to) - first;
      if (bytes === 0) continue;
      const source = bytes === into.length ? into : scratch.subarray(0, bytes);
      await read(piece.part, source, piece.offset + first);
      for (const { part, offset } of piece.replicas) {
        const replica = other.subarray(0, bytes);
        await read(part, replica, offset + first);
        if (replica.equals(source)) continue;
        throw invalid(
          tensor.name,
          `is not the same in ${piece.part} and ${part}: choose one of them`,
        );
      }
      if (source !== into) scatter(tensor, piece, { source, first, into, from });
      filled += bytes;
    }
    assert(filled === into.length, 'the pieces of a tensor cover it');
    yield into;
  }
}

/** How many bytes of the piece lie before this byte of the tensor. */
function bytesBefore({ shape, itemBytes }: Tensor, piece: Piece, at: number): number {
  let before = 0;
  let rest = at;
  let rowBytes = product(shape) * itemBytes;
  let pieceRowBytes = piece.length;
  for (const [d, size] of shape.entries()) {
    rowBytes /= size;
    const [start, length] = [piece.start[d] as number, piece.shape[d] as number];
    pieceRowBytes /= length;
    const index = Math.floor(rest / rowBytes);
    rest -= index * rowBytes;
    before += Math.min(Math.max(index - start, 0), length) * pieceRowBytes;
    if (index < start || index >= start + length) return before;
  }
  return before + rest;
}

/** Puts a range of a piece where it belongs in a chunk of the tensor. */
function scatter(
  tensor: Tensor,
  piece: Piece,
  {
    source,
    first,
    into,
    from,
  }: {
    readonly source: Buffer;
    /** Of the source, in the piece. */
    readonly first: number;
    readonly into: Buffer;
    /** Of the chunk, in the tensor. */
    readonly from: number;
  },
): void {
  const runBytes = contiguousBytes(tensor, piece);
  for (let done = 0; done < source.length; ) {
    const at = first + done;
    const skipped = at % runBytes;
    const bytes = Math.min(runBytes - skipped, source.length - done);
    const target = offsetInTensor(tensor, piece, at - skipped) + skipped - from;
    source.copy(into, target, done, done + bytes);
    done += bytes;
  }
}

/** Of a piece, as they follow one another in the tensor too. */
function contiguousBytes({ shape, itemBytes }: Tensor, piece: Piece): number {
  let bytes = itemBytes;
  for (let d = shape.length - 1; d >= 0; d--) {
    bytes *= piece.shape[d] as number;
    if (piece.shape[d] !== shape[d]) break;
  }
  return bytes;
}

function offsetInTensor({ shape, itemBytes }: Tensor, piece: Piece, at: number): number {
  let offset = 0;
  let rest = at / itemBytes;
  let stride = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    const length = piece.shape[d] as number;
    offset += ((rest % length) + (piece.start[d] as number)) * stride;
    rest = Math.floor(rest / length);
    stride *= shape[d] as number;
  }
  return offset * itemBytes;
}

function product(numbers: readonly number[]): number {
  return numbers.reduce((all, n) => all * n, 1);
}
