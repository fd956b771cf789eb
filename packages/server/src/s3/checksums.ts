/**
 * Checksums that S3 clients send and ask for (Amazon S3 User Guide, "Checking object integrity").
 *
 * A checksum of a whole object is FULL_OBJECT. That of a multipart object may be COMPOSITE: the checksum of its parts'
 * checksums, with `-N` behind it. CRCs of whole objects can also be combined from those of the parts.
 */
import { createHash } from 'node:crypto';
import { Crc64Nvme } from '@aws-sdk/crc64-nvme';
import { nextTurn } from '@ebb/core';
import { crc32, crc32c } from '@node-rs/crc32';
import { S3Error } from './s3-error.ts';

export const ALGORITHMS = [
  ...(['CRC32', 'CRC32C', 'CRC64NVME'] as const),
  ...(['SHA1', 'SHA256', 'SHA512', 'MD5'] as const),
] as const;
export type Algorithm = (typeof ALGORITHMS)[number];
export const CHECKSUM_TYPES = ['FULL_OBJECT', 'COMPOSITE'] as const;
export type ChecksumType = (typeof CHECKSUM_TYPES)[number];

export interface Checksum {
  readonly algorithm: Algorithm;
  readonly type: ChecksumType;
  /** Base64; of a composite one with `-N`. */
  readonly value: string;
}

const DIGEST_BYTES: Readonly<Record<Algorithm, number>> = {
  CRC32: 4,
  CRC32C: 4,
  CRC64NVME: 8,
  SHA1: 20,
  SHA256: 32,
  SHA512: 64,
  MD5: 16,
};

/** `x-amz-checksum-crc32` and so on. */
export function checksumHeader(algorithm: string): string {
  return `x-amz-checksum-${algorithm.toLowerCase()}`;
}

export function isAlgorithm(name: string): name is Algorithm {
  return ALGORITHMS.includes(name as Algorithm);
}

/** @throws {S3Error} `InvalidRequest` */
export function parseAlgorithm(name: string): Algorithm {
  const upper = name.toUpperCase();
  if (isAlgorithm(upper)) return upper;
  throw new S3Error(
    'InvalidRequest',
    `Checksum algorithm provided is unsupported. Please try again with any of the valid types: [${ALGORITHMS.join(', ')}]`,
  );
}

/** The checksum of an empty body. */
const OF_NOTHING: ReadonlySet<string> = new Set([
  ...[`${checksumHeader('CRC32')} AAAAAA==`, `${checksumHeader('CRC32C')} AAAAAA==`],
  `${checksumHeader('CRC64NVME')} AAAAAAAAAAA=`,
  ...(['SHA1', 'SHA256', 'SHA512', 'MD5'] as const).map(
    (name) =>
      `${checksumHeader(name)} ${createHash(name.toLowerCase()).update('').digest('base64')}`,
  ),
]);

/** @param header Its name, in lower case. */
export function isChecksumOfNothing(header: string, value: string): boolean {
  return OF_NOTHING.has(`${header} ${value}`);
}

/** A running digest over the bytes of a body. */
export interface Digest {
  update(bytes: Uint8Array): void;
  /** Once, at the end. */
  digest(): Promise<Buffer>;
}

export function createDigest(algorithm: Algorithm): Digest {
  switch (algorithm) {
    case 'CRC32':
      return new Crc32Digest(crc32);
    case 'CRC32C':
      return new Crc32Digest(crc32c);
    case 'CRC64NVME': {
      const crc = new Crc64Nvme();
      return {
        update: (bytes) => crc.update(bytes),
        digest: async () => Buffer.from(await crc.digest()),
      };
    }
    case 'SHA1':
    case 'SHA256':
    case 'SHA512':
    case 'MD5': {
      const hash = createHash(algorithm.toLowerCase());
      return {
        update: (bytes) => void hash.update(bytes),
        digest: async () => hash.digest(),
      };
    }
    default:
      return algorithm satisfies never;
  }
}

/** As S3 writes a CRC of 32 bits. */
export function crc32Bytes(crc: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(crc);
  return bytes;
}

class Crc32Digest implements Digest {
  readonly #step: (bytes: Uint8Array, seed: number) => number;
  #crc = 0;

  constructor(step: (bytes: Uint8Array, seed: number) => number) {
    this.#step = step;
  }

  update(bytes: Uint8Array): void {
    this.#crc = this.#step(bytes, this.#crc);
  }

  async digest(): Promise<Buffer> {
    return crc32Bytes(this.#crc);
  }
}

/** @throws {S3Error} `InvalidRequest` when it is no base64 of the right length */
export function parseChecksumValue(algorithm: Algorithm, value: string): string {
  const bytes = Buffer.from(value, 'base64');
  if (bytes.length === DIGEST_BYTES[algorithm] && bytes.toString('base64') === value) return value;
  throw new S3Error('InvalidRequest', `Value for ${checksumHeader(algorithm)} header is invalid.`);
}

/** Of the parts' checksums, in order. */
export async function compositeChecksum(
  algorithm: Algorithm,
  parts: readonly string[],
): Promise<Checksum> {
  const digest = createDigest(algorithm);
  for (const part of parts) digest.update(Buffer.from(part, 'base64'));
  const value = `${(await digest.digest()).toString('base64')}-${parts.length}`;
  return { algorithm, type: 'COMPOSITE', value };
}

/** Reflected polynomials, for combining, in two halves: bit 31 of `high` is x^0. CRCs of 32 bits have no low half. */
const POLYNOMIALS = {
  CRC32: { bits: 32, high: 0xedb88320, low: 0 },
  CRC32C: { bits: 32, high: 0x82f63b78, low: 0 },
  CRC64NVME: { bits: 64, high: 0x9a6c9329, low: 0xac4bc9b5 },
} as const;
type Polynomial = (typeof POLYNOMIALS)[CombinableAlgorithm];
export type CombinableAlgorithm = keyof typeof POLYNOMIALS;

export function isCombinable(algorithm: Algorithm): algorithm is CombinableAlgorithm {
  return Object.hasOwn(POLYNOMIALS, algorithm);
}

/**
 * The CRC of a whole from those of its parts, without the bytes: crc(A‖B) = crc(A)·x^(8·|B|) + crc(B) in GF(2)[x] modulo
 * the polynomial (as zlib's crc32_combine). A power takes some twenty times a product, and the parts of an upload are of
 * few sizes, so one is kept for each. Parts of ten thousand sizes are joined in several turns of the event loop.
 */
export async function combineCrcs(
  algorithm: CombinableAlgorithm,
  parts: readonly { readonly value: string; readonly sizeBytes: number }[],
): Promise<Checksum> {
  const polynomial = POLYNOMIALS[algorithm];
  const squares = squaresOf(polynomial);
  const powers = new Map<number, Element>();
  let crc: Element = { high: 0, low: 0 };
  for (const [at, { value, sizeBytes }] of parts.entries()) {
    if (at % TURN_PARTS === TURN_PARTS - 1) await nextTurn();
    const bytes = Buffer.from(value, 'base64');
    let power = powers.get(sizeBytes);
    if (power === undefined) {
      power = powerOfX(sizeBytes, polynomial, squares);
      powers.set(sizeBytes, power);
    }
    const moved = multiply(crc, power, polynomial);
    const low = polynomial.bits === 64 ? bytes.readUInt32BE(4) : 0;
    crc = { high: moved.high ^ bytes.readUInt32BE(0), low: moved.low ^ low };
  }
  const joined = Buffer.alloc(8);
  joined.writeUInt32BE(crc.high >>> 0, 0);
  joined.writeUInt32BE(crc.low >>> 0, 4);
  const value = joined.toString('base64', 0, polynomial.bits / 8);
  return { algorithm, type: 'FULL_OBJECT', value };
}

const TURN_PARTS = 200;
/** Sizes stay below 2^53. */
const SIZE_BITS = 53;

/** The product in GF(2)[x], with bits as the polynomials have them. */
interface Element {
  readonly high: number;
  readonly low: number;
}

/** a·b modulo the polynomial. */
function multiply(a: Element, b: Element, polynomial: Polynomial): Element {
  let [productHigh, productLow, high, low] = [0, 0, b.high, b.low];
  for (let at = 0; at < polynomial.bits; at++) {
    const bit = at < 32 ? (a.high >>> (31 - at)) & 1 : (a.low >>> (63 - at)) & 1;
    if (bit === 1) {
      productHigh ^= high;
      productLow ^= low;
    }
    const last = polynomial.bits === 64 ? low & 1 : high & 1;
    low = polynomial.bits === 64 ? (low >>> 1) | (high << 31) : 0;
    high >>>= 1;
    if (last === 1) {
      high ^= polynomial.high;
      low ^= polynomial.low;
    }
  }
  return { high: productHigh, low: productLow };
}

/** Entry k is x to the 8·2^k. */
function squaresOf(polynomial: Polynomial): readonly Element[] {
  const squares: Element[] = [{ high: 0x00800000, low: 0 }];
  for (let k = 1; k < SIZE_BITS; k++) {
    const root = squares[k - 1] as Element;
    squares.push(multiply(root, root, polynomial));
  }
  return squares;
}

/** x to the 8·sizeBytes. */
function powerOfX(sizeBytes: number, polynomial: Polynomial, squares: readonly Element[]): Element {
  let power: Element = { high: 0x80000000, low: 0 }; // x^0
  // A size may pass 2^32, so no bit operators on it.
  for (let k = 0, left = sizeBytes; left > 0; k++, left = Math.floor(left / 2))
    if (left % 2 === 1) power = multiply(power, squares[k] as Element, polynomial);
  return power;
}
