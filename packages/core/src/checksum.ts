/**
 * CRC32C (Castagnoli), the checksum of every blob: by the CPU's own instruction, through @node-rs/crc32.
 * Values are unsigned 32-bit numbers; in text they are eight lower-case hex digits.
 */

import { assert } from '@ebb/protocol';
import { crc32c as nativeCrc32c } from '@node-rs/crc32';

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
 * The checksum of A followed by B, from the checksums of A and of B and the length of B: in the logarithm of that length,
 * without the bytes. Joins parts of an upload and pieces that were read in parallel.
 *
 * A checksum is a polynomial over GF(2) modulo P. Appending n bytes multiplies what came before by x^(8n); the two
 * inversions that CRC32C adds (at the start and at the end) cancel out between A and B.
 */
export function combineCrc32c(a: number, b: number, lengthB: number): number {
  assert(Number.isSafeInteger(lengthB) && lengthB >= 0, 'a length is a whole number of bytes');
  return (multiplyModP(xToThe8n(lengthB), a) ^ b) >>> 0;
}

export function formatCrc32c(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}

/** Undefined when `text` is not eight hex digits. */
export function findCrc32c(text: string): number | undefined {
  return /^[0-9a-f]{8}$/i.test(text) ? Number.parseInt(text, 16) : undefined;
}

/** P without its x^32, bit-reversed as everything here: bit 31 is x^0. */
const POLYNOMIAL = 0x82f63b78;
const X_TO_THE_0 = 0x80000000;

/** Entry k is x^(2^k) mod P. Lengths stay below 2^53 bytes, so below 2^56 bits. */
const X_TO_THE_2_TO_THE_K: readonly number[] = (() => {
  const powers = [0x40000000];
  for (let k = 1; k < 56; k++) {
    const root = powers[k - 1] as number;
    powers.push(multiplyModP(root, root));
  }
  return powers;
})();

function multiplyModP(a: number, b: number): number {
  let product = 0;
  let term = b;
  for (let bit = X_TO_THE_0; bit !== 0; bit >>>= 1) {
    if ((a & bit) !== 0) product ^= term;
    term = (term & 1) === 0 ? term >>> 1 : (term >>> 1) ^ POLYNOMIAL;
  }
  return product >>> 0;
}

function xToThe8n(n: number): number {
  let power = X_TO_THE_0;
  let rest = n;
  // 8n bits: the lowest bit of n stands for 2^3. `rest` may pass 2^32, so no bit operators on it.
  for (let k = 3; rest > 0; k++) {
    if (rest % 2 === 1) power = multiplyModP(X_TO_THE_2_TO_THE_K[k] as number, power);
    rest = Math.floor(rest / 2);
  }
  return power;
}
