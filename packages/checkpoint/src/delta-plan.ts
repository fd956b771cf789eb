/**
 * Which blocks of an image are new, and where all the others lie already. Pure.
 *
 * I1  The runs cover the image, in order, without gaps. Each lies in a data object of the base, or in the new one.
 * I2  The new object holds the new blocks in the order of the image, each once: one that comes again in the image (a
 *     tensor of zeros) is stored once.
 * I3  A block goes by its digest alone, wherever the base has it: a tensor that moved in the image is found again when
 *     it moved by whole blocks.
 * I4  The objects that a snapshot names hold not much more than the snapshot: when their bytes pass `STORED_MAX` times the
 *     image's, blocks of the object that is used least are stored anew, a few with each snapshot.
 */
import type { ImageRun } from '@ebb/protocol';
import type { Digests } from './digest.ts';

const STORED_MAX = 2;
/** Share of an image that one snapshot stores anew so that old objects can go. */
const REWRITTEN_MAX = 1 / 64;

/** What an earlier snapshot stored of the same part. */
export interface DeltaBase {
  readonly imageBytes: number;
  readonly digests: Digests;
  readonly runs: readonly ImageRun[];
  /** Bytes of the data objects that `runs` name. */
  readonly objectBytes: ReadonlyMap<string, number>;
}

interface Piece {
  readonly offset: number;
  readonly length: number;
}
export interface DeltaPlan {
  readonly runs: readonly ImageRun[];
  /** Of the image, joined one behind the other in the new object. */
  readonly pieces: readonly Piece[];
  readonly newBytes: number;
}

/** @param newKey Of the object that is to hold the new blocks. */
export function planDelta(
  image: { readonly imageBytes: number; readonly digests: Digests; readonly blockBytes: number },
  newKey: string,
  base: DeltaBase | undefined,
): DeltaPlan {
  const known = new Map<string, { readonly key: string; readonly offset: number }>();
  if (base !== undefined) addBase(known, base, image.blockBytes);
  const runs: ImageRun[] = [];
  const pieces: { offset: number; length: number }[] = [];
  let newBytes = 0;
  for (let block = 0; block < image.digests.length; block++) {
    const offset = block * image.blockBytes;
    const length = Math.min(image.blockBytes, image.imageBytes - offset);
    // A last block that is short is no other's equal, whatever its digest.
    const digest = `${image.digests.at(block)}${length === image.blockBytes ? '' : length}`;
    let place = known.get(digest);
    if (place === undefined) {
      place = { key: newKey, offset: newBytes };
      known.set(digest, place);
      const last = pieces.at(-1);
      if (last !== undefined && last.offset + last.length === offset) last.length += length;
      else pieces.push({ offset, length });
      newBytes += length;
    }
    addRun(runs, offset, length, place);
  }
  return { runs, pieces, newBytes };
}

function addRun(
  runs: ImageRun[],
  offset: number,
  length: number,
  { key, offset: at }: { readonly key: string; readonly offset: number },
): void {
  const last = runs.at(-1);
  if (last !== undefined && last[2] === key && last[3] + last[1] === at) last[1] += length;
  else runs.push([offset, length, key, at]);
}

function addBase(
  known: Map<string, { readonly key: string; readonly offset: number }>,
  { imageBytes, digests, runs, objectBytes }: DeltaBase,
  blockBytes: number,
): void {
  const rewritten = blocksToRewrite({ imageBytes, digests, runs, objectBytes }, blockBytes);
  let block = 0;
  for (const [from, length, key, at] of runs)
    for (; block * blockBytes < from + length && block < digests.length; block++) {
      if (rewritten.has(block)) continue;
      const offset = block * blockBytes;
      const bytes = Math.min(blockBytes, imageBytes - offset);
      const digest = `${digests.at(block)}${bytes === blockBytes ? '' : bytes}`;
      known.set(digest, { key, offset: at + offset - from });
    }
}

/** I4: blocks of the base that count as unknown. */
function blocksToRewrite(base: DeltaBase, blockBytes: number): ReadonlySet<number> {
  const { imageBytes, runs, objectBytes } = base;
  const rewritten = new Set<number>();
  const stored = objectBytes.values().reduce((sum, bytes) => sum + bytes, 0);
  if (stored <= STORED_MAX * imageBytes) return rewritten;
  const used = new Map<string, number>();
  for (const [, length, key] of runs) used.set(key, (used.get(key) ?? 0) + length);
  const share = (key: string): number => (used.get(key) ?? 0) / (objectBytes.get(key) ?? 1);
  const blocksMax = Math.ceil((imageBytes * REWRITTEN_MAX) / blockBytes);
  for (const key of [...used.keys()].sort((a, b) => share(a) - share(b)))
    for (const [from, length, of] of runs)
      for (let at = from; of === key && at < from + length; at += blockBytes) {
        if (rewritten.size === blocksMax) return rewritten;
        rewritten.add(Math.floor(at / blockBytes));
      }
  return rewritten;
}
