/**
 * The answer to `read`: ranges of blobs, one after the other. A small one is held whole. A large one goes out through pieces
 * of the pool, as an HTTP body does; its frame's length is known beforehand.
 *
 *   | frame header | u32 bytes of all ranges | range | range | …
 *
 * I1  Before the header is out, every range was read, or its last byte was: a blob that is gone is an error answer. What
 *     fails after that ends the connection, for the frame cannot be completed.
 * I2  What was read ahead and cannot be sent yet is given back; it is read again when its turn comes (send-through.ts).
 */
import { type ObjectStore, type Owner, settlesWithin } from '@ebb/core';
import { messages, READ_BYTES_MAX, StoreError } from '@ebb/protocol';
import type { BufferPool } from '../http/buffer-pool.ts';
import { type Loaded, loadAhead, type Outlet, sendThrough } from '../http/send-through.ts';
import { ANSWER_STALL_MS, READ_RANGES_MAX, READ_RANGES_PARALLEL } from '../limits.ts';

export interface ReadPlan {
  readonly ranges: readonly messages.ReadRange[];
  readonly totalBytes: number;
}

/** The part of the answer's payload before the ranges. */
export const READ_PREFIX_BYTES = 4;

/** @throws {StoreError} `request_invalid` */
export function parseRead(payload: Buffer): ReadPlan {
  const countMax = payload.length / RANGE_BYTES;
  if (countMax > READ_RANGES_MAX + 1)
    throw new StoreError('request_invalid', `one read has at most ${READ_RANGES_MAX} ranges`);
  const { ranges } = messages.read.request.decode(payload);
  const totalBytes = ranges.reduce((sum, range) => sum + range.length, 0);
  if (totalBytes > READ_BYTES_MAX)
    throw new StoreError(
      'request_invalid',
      `${totalBytes} bytes in one read, at most ${READ_BYTES_MAX}`,
      { totalBytes },
    );
  return { ranges, totalBytes };
}
const RANGE_BYTES = 20;

/** Whose leases name the blobs. */
interface Reader {
  readonly store: ObjectStore;
  readonly owner: Owner;
}

/** Held whole: for what is small. */
export async function readWhole(reader: Reader, { ranges, totalBytes }: ReadPlan): Promise<Buffer> {
  const answer = Buffer.allocUnsafeSlow(READ_PREFIX_BYTES + totalBytes);
  answer.writeUInt32LE(totalBytes, 0);
  await fill(reader, ranges, answer.subarray(READ_PREFIX_BYTES), 0);
  return answer;
}

/** What the connection gives for one answer. */
export interface AnswerTurn {
  /** Resolves when nothing else is being sent on the connection; then the frame's header may go. */
  readonly ready: Promise<void>;
  begin(): void;
  write(bytes: Buffer): Promise<void>;
}

export async function streamRead(
  { pieces, ...reader }: Reader & { readonly pieces: BufferPool },
  { ranges, totalBytes }: ReadPlan,
  takeTurn: () => AnswerTurn,
): Promise<void> {
  const range = { start: 0, end: totalBytes };
  const outlet: Outlet = {
    ...{ pieces, peer: reader.owner.name },
    fill: (target, at) => fill(reader, ranges, target, at),
    write: (bytes) => turn.write(bytes),
  };
  const loaded = await loadAhead(outlet, range);
  try {
    await assertThere(reader, ranges, bytesOf(loaded));
  } catch (error) {
    giveBack(loaded);
    throw error;
  }
  const turn = takeTurn();
  if (!(await settlesWithin(turn.ready, ANSWER_STALL_MS))) giveBack(loaded); // I2
  try {
    await turn.ready;
    turn.begin();
  } catch (error) {
    giveBack(loaded);
    throw error;
  }
  await sendThrough(outlet, range, loaded);
}

function bytesOf(loaded: readonly Loaded[]): number {
  return loaded.reduce((sum, { bytes }) => sum + bytes.length, 0);
}

function giveBack(loaded: Loaded[]): void {
  for (const part of loaded.splice(0)) part.giveBack();
}

/** I1. @throws those of `readBlob` */
async function assertThere(
  { store, owner }: Reader,
  ranges: readonly messages.ReadRange[],
  readBytes: number,
): Promise<void> {
  const last = Buffer.alloc(1);
  let end = 0;
  for (const { blobId, offset, length } of ranges) {
    end += length;
    if (end > readBytes && length > 0)
      await store.readBlob(blobId, last, offset + length - 1, owner);
  }
}

/** All settle before it does: nobody writes into the target after it is gone. */
async function fill(
  { store, owner }: Reader,
  ranges: readonly messages.ReadRange[],
  target: Buffer,
  from: number,
): Promise<void> {
  const parts: { blobId: number; offset: number; target: Buffer }[] = [];
  const to = from + target.length;
  let at = 0;
  for (const { blobId, offset, length } of ranges) {
    const [start, end] = [Math.max(at, from), Math.min(at + length, to)];
    if (start < end)
      parts.push({
        blobId,
        offset: offset + start - at,
        target: target.subarray(start - from, end - from),
      });
    at += length;
    if (at >= to) break;
  }
  let next = 0;
  let failure: { readonly error: unknown } | undefined;
  const lane = async (): Promise<void> => {
    for (
      let part = parts[next++];
      part !== undefined && failure === undefined;
      part = parts[next++]
    ) {
      try {
        await store.readBlob(part.blobId, part.target, part.offset, owner);
      } catch (error) {
        failure ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(READ_RANGES_PARALLEL, parts.length) }, lane));
  if (failure !== undefined) throw failure.error;
}
