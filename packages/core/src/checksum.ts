/**
 * CRC32C (Castagnoli), the checksum of every blob: by the CPU's own instruction, through @node-rs/crc32.
 * Values are unsigned 32-bit numbers; in text they are eight lower-case hex digits.
 */

import { assert } from '@ebb/protocol';
import { crc32c as nativeCrc32c } from '@node-rs/crc32';
import { joinCrc32c, shiftOf } from './crc32c-join.ts';

/** Of all `bytes`, or, given the checksum of what came before, of both together. */
export function crc32c(bytes: Uint8Array, before = 0): number {
  return nativeCrc32c(bytes, before);
}

export interface Crc32c {
  update(bytes: Uint8Array): void;
  /** Of all bytes so far; more may follow. */
  value(): number;
}

export function createCrc32c(): Crc32c {
  let crc = 0;
  return {
    update: (bytes) => {
      crc = nativeCrc32c(bytes, crc);
    },
    value: () => crc,
  };
}

/**
 * The checksum of A followed by B, from the checksums of A and of B and the length of B, without the bytes. Joins parts of
 * an upload and pieces that were read in parallel.
 */
export function combineCrc32c(a: number, b: number, lengthB: number): number {
  assert(Number.isSafeInteger(lengthB) && lengthB >= 0, 'a length is a whole number of bytes');
  return joinCrc32c(a, b, shiftOf(lengthB));
}

export function formatCrc32c(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}

/** Undefined when `text` is not eight hex digits. */
export function findCrc32c(text: string): number | undefined {
  return /^[0-9a-f]{8}$/i.test(text) ? Number.parseInt(text, 16) : undefined;
}
