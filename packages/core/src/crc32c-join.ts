/**
 * The arithmetic behind joining checksums: that of A followed by B, from those of A and of B and the length of B, in the
 * logarithm of that length. Imports nothing, for workers.
 *
 * A checksum is a polynomial over GF(2) modulo P. Appending n bytes multiplies what came before by x^(8n); the two
 * inversions that CRC32C adds (at the start and at the end) cancel out between A and B.
 */

/** `shift`: `shiftOf` the length of B. */
export function joinCrc32c(a: number, b: number, shift: number): number {
  return (multiplyModP(shift, a) ^ b) >>> 0;
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

/** x^(8n) mod P: what n bytes that follow make of a checksum. */
export function shiftOf(n: number): number {
  let power = X_TO_THE_0;
  let rest = n;
  // 8n bits: the lowest bit of n stands for 2^3. `rest` may pass 2^32, so no bit operators on it.
  for (let k = 3; rest > 0; k++) {
    if (rest % 2 === 1) power = multiplyModP(X_TO_THE_2_TO_THE_K[k] as number, power);
    rest = Math.floor(rest / 2);
  }
  return power;
}
