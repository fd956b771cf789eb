/**
 * Buffers for small bodies, used again: a fresh one of this size costs more than the copy into it. They are not counted, and
 * nobody waits for one. A body of 16 KiB holds one of 64 KiB until its reader has taken it; some are kept when nobody needs them.
 */
import { assert } from '@ebb/protocol';
import { SMALL_BODY_BYTES } from '../limits.ts';

/** Below, Node's own pool is cheaper. */
const REUSED_BYTES_MIN = 16 * 1024;
const KEPT_MAX = 32;
const kept: Buffer[] = [];
/** Given to two at once, one would send the bytes of the other. */
const lent = new WeakSet<ArrayBufferLike>();

/** A buffer of this length, which is at most SMALL_BODY_BYTES, with whatever bytes were in it. */
export function takeSmallBuffer(bytes: number): Buffer {
  if (bytes < REUSED_BYTES_MIN) return Buffer.allocUnsafe(bytes);
  const whole = kept.pop() ?? Buffer.allocUnsafeSlow(SMALL_BODY_BYTES);
  lent.add(whole.buffer);
  return bytes === SMALL_BODY_BYTES ? whole : whole.subarray(0, bytes);
}

/** Nobody looks at it any more, nor at what it is a view of. One that never comes back is left to the collector. */
export function giveSmallBuffer(bytes: Buffer): void {
  if (bytes.length < REUSED_BYTES_MIN) return;
  assert(lent.delete(bytes.buffer), 'what comes back was lent, and comes back once');
  if (kept.length >= KEPT_MAX) return;
  kept.push(bytes.length === SMALL_BODY_BYTES ? bytes : Buffer.from(bytes.buffer));
}
