/**
 * Bytes from the tiers through pooled pieces to a socket, with back-pressure: for answers of HTTP and of frames.
 *
 * I1  A reader who is quick has a piece on its way out and the next one being read. Who has not taken the first after
 *     ANSWER_STALL_MS gives back what was read for him, and has one buffer from then on until he is quick again.
 * I2  When there is no piece, a small buffer of the connection's own does: no reader waits for another.
 * I3  When it settles, everything that was borrowed is back.
 */

import { settlesWithin } from '@ebb/core';
import { ANSWER_STALL_MS, SMALL_BODY_BYTES } from '../limits.ts';
import type { BufferPool } from './buffer-pool.ts';
import { giveSmallBuffer, takeSmallBuffer } from './small-buffers.ts';

export interface Outlet {
  readonly pieces: BufferPool;
  /** Who reads: others get their part of the pieces, too. */
  readonly peer: string;
  /** Reads what lies at this position. */
  fill(target: Buffer, at: number): Promise<void>;
  /** Resolves when the socket has taken the bytes; rejects when it is gone. */
  write(bytes: Buffer, at: number): Promise<void>;
}

export interface Loaded {
  readonly at: number;
  readonly bytes: Buffer;
  giveBack(): void;
}

/** @param loaded What was read already, from `start` on without a gap. */
export async function sendThrough(
  outlet: Outlet,
  { start, end }: { readonly start: number; readonly end: number },
  loaded: Loaded[] = [],
): Promise<void> {
  let sending: Promise<void> | undefined;
  let isSlow = false;
  try {
    for (let at = start; at < end; ) {
      if (isSlow) {
        for (const part of loaded.splice(0)) part.giveBack(); // I1: read again when it is wanted
        await sending;
        sending = undefined;
      }
      const next = loaded.shift() ?? (await load(outlet, { start: at, end }, isSlow));
      try {
        isSlow = sending !== undefined && !(await settlesWithin(sending, ANSWER_STALL_MS));
        if (!isSlow) await sending;
      } catch (error) {
        next.giveBack();
        throw error;
      }
      if (isSlow) {
        next.giveBack();
        continue;
      }
      sending = outlet.write(next.bytes, at).finally(next.giveBack);
      sending.catch(() => undefined); // awaited on the next turn, or below
      at += next.bytes.length;
    }
  } finally {
    for (const part of loaded.splice(0)) part.giveBack();
    await sending;
  }
}

/** Reads ahead what there are pieces for now. */
export async function loadAhead(
  outlet: Outlet,
  { start, end }: { readonly start: number; readonly end: number },
): Promise<Loaded[]> {
  const borrowed: (Loaded & { giveUp(): void })[] = [];
  for (let at = start; at < end; ) {
    const piece = outlet.pieces.tryTakeForAnswer(outlet.peer);
    if (piece === undefined) break;
    const bytes = piece.subarray(0, Math.min(piece.length, end - at));
    borrowed.push({
      ...{ at, bytes },
      giveBack: () => outlet.pieces.give(piece),
      giveUp: () => outlet.pieces.give(piece, { mayBeWritten: true }),
    });
    at += bytes.length;
  }
  const read = await Promise.allSettled(borrowed.map(({ at, bytes }) => outlet.fill(bytes, at)));
  const failed = read.find((result) => result.status === 'rejected');
  if (failed === undefined) return borrowed;
  for (const [index, part] of borrowed.entries())
    if (read[index]?.status === 'rejected') part.giveUp();
    else part.giveBack();
  throw failed.reason;
}

async function load(
  outlet: Outlet,
  { start: at, end }: { readonly start: number; readonly end: number },
  isSlow: boolean,
): Promise<Loaded> {
  const { bytes: whole, giveBack, giveUp } = borrow(outlet, isSlow);
  const bytes = whole.subarray(0, Math.min(whole.length, end - at));
  try {
    await outlet.fill(bytes, at);
  } catch (error) {
    giveUp();
    throw error;
  }
  return { at, bytes, giveBack };
}

/** `giveUp`: after a read that failed, which may have been given up and not have ended (core's cut-tier.ts). */
function borrow(
  { pieces, peer }: Outlet,
  isSlow: boolean,
): { bytes: Buffer; giveBack(): void; giveUp(): void } {
  const piece = isSlow ? undefined : pieces.tryTakeForAnswer(peer);
  if (piece !== undefined)
    return {
      bytes: piece,
      giveBack: () => pieces.give(piece),
      giveUp: () => pieces.give(piece, { mayBeWritten: true }),
    };
  const own = takeSmallBuffer(SMALL_BODY_BYTES);
  return { bytes: own, giveBack: () => giveSmallBuffer(own), giveUp: () => undefined };
}
