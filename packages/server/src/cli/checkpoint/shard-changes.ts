/** Which shards of two snapshots differ, by the digests of the blocks that they lie in. Pure. */
import type { RestorePart, RestorePlan, Shard } from '@ebb/protocol';

const DIGEST_BYTES = 16;

export interface ShardChange {
  readonly part: string;
  readonly name: string;
  /** Of a piece, in its tensor. */
  readonly start: readonly number[] | null;
  readonly length: number;
  /** `moved`: it is as long as it was, and lies elsewhere in its blocks, so they cannot be compared. */
  readonly change: 'same' | 'changed' | 'moved' | 'only in one';
  /** The snapshot that alone has it. */
  readonly step: number | null;
  /** That it lies in, in the second snapshot. */
  readonly blocks: { readonly changed: number; readonly all: number } | null;
}

/** In the order of the second snapshot; what only the first has comes last. Both are stored. */
export function diffSnapshots(first: RestorePlan, second: RestorePlan): readonly ShardChange[] {
  const before = shardsOf(first);
  const after = shardsOf(second);
  const changes: ShardChange[] = [];
  for (const [key, now] of after) {
    const then = before.get(key);
    if (then === undefined) changes.push(onlyIn(second.snapshot.step, now));
    else changes.push({ ...named(now), step: null, ...compare(then, now) });
  }
  for (const [key, then] of before)
    if (!after.has(key)) changes.push(onlyIn(first.snapshot.step, then));
  return changes;
}

interface Found {
  readonly part: RestorePart;
  readonly digests: Buffer;
  readonly shard: Shard;
}

function shardsOf({ parts }: RestorePlan): ReadonlyMap<string, Found> {
  return new Map(
    parts.flatMap((part) => {
      const digests = Buffer.from(part.digests ?? '', 'base64');
      return part.shards.map((shard) => [
        JSON.stringify([part.name, shard.name, shard.piece?.start ?? null]),
        { part, digests, shard },
      ]);
    }),
  );
}

function named({ part, shard }: Found): Pick<ShardChange, 'part' | 'name' | 'start' | 'length'> {
  const { name, piece, length } = shard;
  return { part: part.name, name, start: piece?.start ?? null, length };
}

function onlyIn(step: number, found: Found): ShardChange {
  return { ...named(found), change: 'only in one', step, blocks: null };
}

function compare(then: Found, now: Found): Pick<ShardChange, 'change' | 'blocks'> {
  const [a, b] = [then.shard, now.shard];
  const isSameTensor =
    a.dtype === b.dtype && a.length === b.length && a.shape?.join() === b.shape?.join();
  if (!isSameTensor) return { change: 'changed', blocks: null };
  if (b.length === 0) return { change: 'same', blocks: { changed: 0, all: 0 } };
  const { blockBytes } = now.part;
  if (then.part.blockBytes !== blockBytes || a.offset % blockBytes !== b.offset % blockBytes)
    return { change: 'moved', blocks: null };
  const [from, to] = [Math.floor(a.offset / blockBytes), Math.floor(b.offset / blockBytes)];
  const all = Math.floor((b.offset + b.length - 1) / blockBytes) - to + 1;
  let changed = 0;
  for (let i = 0; i < all; i++)
    if (!digestAt(then, from + i).equals(digestAt(now, to + i))) changed++;
  return { change: changed === 0 ? 'same' : 'changed', blocks: { changed, all } };
}

function digestAt({ digests }: Found, block: number): Buffer {
  return digests.subarray(block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES);
}
