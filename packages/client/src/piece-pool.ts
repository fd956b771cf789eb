/** Recycled 1 MiB pieces: fresh memory of this size costs a page fault per 4 KiB at its first use. */
import { PIECE_BYTES, POOLED_PIECES_MAX } from './limits.ts';

const idle: Buffer[] = [];

/** The caller owns the piece until it gives it back. Contents are arbitrary. */
export function takePiece(): Buffer {
  return idle.pop() ?? Buffer.allocUnsafeSlow(PIECE_BYTES);
}

/** Nothing may use the piece afterwards. */
export function givePiece(piece: Buffer): void {
  if (idle.length < POOLED_PIECES_MAX) idle.push(piece);
}
