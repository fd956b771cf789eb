/** The digest of a block: docs/checkpoint-format.md, ADR 6. */
import { createCipheriv } from 'node:crypto';

export const DIGEST_BYTES = 16;
const KEY = Buffer.from('ebb-checkpoint/1');
const NONCE = Buffer.alloc(12);

/** 16 bytes. */
export function digestOf(block: Uint8Array): Buffer {
  const mac = createCipheriv('aes-128-gcm', KEY, NONCE);
  mac.setAAD(block);
  mac.final();
  return mac.getAuthTag();
}

/** All digests of an image, one behind the other. */
export class Digests {
  readonly bytes: Buffer;

  constructor(bytes: Uint8Array) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get length(): number {
    return this.bytes.length / DIGEST_BYTES;
  }

  /** As a key for maps. */
  at(block: number): string {
    return this.bytes.toString('latin1', block * DIGEST_BYTES, (block + 1) * DIGEST_BYTES);
  }
}
