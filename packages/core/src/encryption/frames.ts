/**
 * Frames: how plain bytes become ciphertext, 64 KiB at a time, so that a range is read without the rest. The layout of a
 * whole segment is in sealed-format.ts and docs/encryption.md.
 *
 * F1  A frame is AES-256-GCM under the segment's own data key, its tag behind it. The nonce is the segment's prefix and the
 *     frame's number: no two frames of one key share it, because a segment is written once.
 * F2  Number and "this is the last one" are authenticated with the frame: frames that were swapped, taken from another
 *     segment, or left out at the end do not open.
 *
 * Imports nothing of Ebb: the mover's worker uses it too.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';

export const FRAME_BYTES = 65_536;
const TAG_BYTES = 16;
export const HEADER_BYTES = 172;
export const SEALED_FRAME_BYTES = FRAME_BYTES + TAG_BYTES;

/** What opens and makes the frames of one segment. A secret. */
export interface FrameKey {
  readonly dataKey: Uint8Array;
  readonly noncePrefix: Uint8Array;
  /** Of the plain bytes; at least 1. */
  readonly sizeBytes: number;
}

/** Of a segment, with its header. */
export function sealedSize(sizeBytes: number): number {
  return HEADER_BYTES + sizeBytes + Math.ceil(sizeBytes / FRAME_BYTES) * TAG_BYTES;
}

/** Where a frame begins in its segment. */
export function frameStart(index: number): number {
  return HEADER_BYTES + index * SEALED_FRAME_BYTES;
}

/** Plain bytes of a frame. */
export function frameLength({ sizeBytes }: FrameKey, index: number): number {
  return Math.min(FRAME_BYTES, sizeBytes - index * FRAME_BYTES);
}

/** Writes the frame to the start of `target`, which is the caller's to use again, and returns that part of it. */
export function sealFrame(
  key: FrameKey,
  index: number,
  { plain, target }: { readonly plain: Uint8Array; readonly target: Uint8Array },
): Uint8Array {
  const cipher = createCipheriv('aes-256-gcm', key.dataKey, nonceOf(key, index));
  cipher.setAAD(associatedData(key, index));
  target.set(cipher.update(plain), 0);
  cipher.final(); // GCM keeps nothing back
  target.set(cipher.getAuthTag(), plain.length);
  return target.subarray(0, plain.length + TAG_BYTES);
}

/** Undefined when the frame is not what was sealed there. */
export function openFrame(key: FrameKey, index: number, sealed: Uint8Array): Buffer | undefined {
  const length = frameLength(key, index);
  const decipher = createDecipheriv('aes-256-gcm', key.dataKey, nonceOf(key, index), {
    authTagLength: TAG_BYTES,
  });
  decipher.setAAD(associatedData(key, index));
  decipher.setAuthTag(sealed.subarray(length, length + TAG_BYTES));
  const plain = decipher.update(sealed.subarray(0, length));
  try {
    decipher.final();
    return plain;
  } catch {
    return undefined;
  }
}

function nonceOf(key: FrameKey, index: number): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.set(key.noncePrefix, 0);
  nonce.writeBigUInt64BE(BigInt(index), 4);
  return nonce;
}

function associatedData({ sizeBytes }: FrameKey, index: number): Buffer {
  const data = Buffer.alloc(9);
  data.writeBigUInt64BE(BigInt(index), 0);
  data[8] = (index + 1) * FRAME_BYTES >= sizeBytes ? 1 : 0;
  return data;
}
