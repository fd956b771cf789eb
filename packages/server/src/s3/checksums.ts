/**
 * Checksums that S3 clients send and ask for (Amazon S3 User Guide, "Checking object integrity").
 *
 * A checksum of a whole object is FULL_OBJECT. That of a multipart object may be COMPOSITE: the checksum of its parts'
 * checksums, with `-N` behind it. CRCs of whole objects can also be combined from those of the parts.
 */
import { createHash } from 'node:crypto';
import { Crc64Nvme } from '@aws-sdk/crc64-nvme';
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

/** Reflected polynomials, for combining. */
const POLYNOMIALS = {
  CRC32: { width: 32n, polynomial: 0xedb88320n },
  CRC32C: { width: 32n, polynomial: 0x82f63b78n },
  CRC64NVME: { width: 64n, polynomial: 0x9a6c9329ac4bc9b5n },
} as const;
export type CombinableAlgorithm = keyof typeof POLYNOMIALS;

export function isCombinable(algorithm: Algorithm): algorithm is CombinableAlgorithm {
  return Object.hasOwn(POLYNOMIALS, algorithm);
}

/**
 * The CRC of a whole from those of its parts, without the bytes: crc(A‖B) = crc(A)·x^(8·|B|) + crc(B) in GF(2)[x] modulo
 * the polynomial (as zlib's crc32_combine). A power takes some hundred times a product, and the parts of an upload are of
 * few sizes: `powers` keeps one for each.
 */
export function combineCrcs(
  algorithm: CombinableAlgorithm,
  parts: readonly { readonly value: string; readonly sizeBytes: number }[],
  powers: Map<number, bigint> = new Map(),
): Checksum {
  const { width, polynomial } = POLYNOMIALS[algorithm];
  let crc = 0n;
  for (const { value, sizeBytes } of parts) {
    const next = BigInt(`0x${Buffer.from(value, 'base64').toString('hex')}`);
    let power = powers.get(sizeBytes);
    if (power === undefined) {
      power = powerOfX(BigInt(sizeBytes) * 8n, width, polynomial);
      powers.set(sizeBytes, power);
    }
    crc = multiply(crc, power, width, polynomial) ^ next;
  }
  const hex = crc.toString(16).padStart(Number(width / 4n), '0');
  return { algorithm, type: 'FULL_OBJECT', value: Buffer.from(hex, 'hex').toString('base64') };
}

/** a·b modulo the polynomial; bit `width - 1` is x^0. */
function multiply(a: bigint, b: bigint, width: bigint, polynomial: bigint): bigint {
  let product = 0n;
  let shifted = b;
  for (let bit = 1n << (width - 1n); bit > 0n; bit >>= 1n) {
    if ((a & bit) !== 0n) product ^= shifted;
    shifted = (shifted & 1n) === 0n ? shifted >> 1n : (shifted >> 1n) ^ polynomial;
  }
  return product;
}

function powerOfX(exponent: bigint, width: bigint, polynomial: bigint): bigint {
  let result = 1n << (width - 1n); // x^0
  let square = 1n << (width - 2n); // x^1
  for (let left = exponent; left > 0n; left >>= 1n) {
    if ((left & 1n) === 1n) result = multiply(result, square, width, polynomial);
    square = multiply(square, square, width, polynomial);
  }
  return result;
}
