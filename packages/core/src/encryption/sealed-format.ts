/**
 * A segment: the ciphertext of one blob, or of a run of one. It stands in a file of tier 1, and in objects of tier 2, one
 * behind the other where an object has several. Persisted, keep stable; docs/encryption.md shows it for other programs.
 *
 *   at   bytes
 *     0      8   magic "EBBSEAL" and the version, 1
 *     8      4   plain bytes of a frame: 65,536
 *    12      8   plain bytes of the segment
 *    20     16   seal id: the catalog names it with the blob
 *    36      4   prefix of the nonces
 *    40      8   check of the master key
 *    48     64   length of the key id (1 byte), key id, zeros
 *   112     12   nonce of the wrapped key
 *   124     48   data key, wrapped by AES-256-GCM under the master key, bytes 0 to 111 authenticated with it
 *   172      …   frames (frames.ts)
 *
 * Numbers are big-endian.
 *
 * S1  A header opens under its master key alone, and only as it was written: size and seal id are authenticated, so a segment
 *     cut at a frame, or one put in the place of another, is found before a byte of it is given out.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { assert, StoreError } from '@ebb/protocol';
import { FRAME_BYTES, type FrameKey, HEADER_BYTES } from './frames.ts';
import type { Keyring } from './keyring.ts';

const MAGIC = Buffer.from('EBBSEAL\x01', 'latin1');
const AT = {
  frameBytes: 8,
  sizeBytes: 12,
  sealId: 20,
  prefix: 36,
  check: 40,
  keyId: 48,
  nonce: 112,
  wrapped: 124,
  tag: 156,
};

export interface SealFacts {
  /** 32 hex digits. */
  readonly sealId: string;
  readonly sizeBytes: number;
}

export interface Seal {
  readonly header: Buffer;
  readonly key: FrameKey;
}

export function newSealId(): string {
  return randomBytes(16).toString('hex');
}

/** A fresh data key, and the header that carries it. */
export function createSeal(keyring: Keyring, { sealId, sizeBytes }: SealFacts): Seal {
  assert(sizeBytes > 0, 'a segment has bytes');
  const { keyId, key, check } = keyring.current;
  const header = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(header);
  header.writeUInt32BE(FRAME_BYTES, AT.frameBytes);
  header.writeBigUInt64BE(BigInt(sizeBytes), AT.sizeBytes);
  header.write(sealId, AT.sealId, 'hex');
  const noncePrefix = randomBytes(AT.check - AT.prefix);
  header.set(noncePrefix, AT.prefix);
  header.set(check, AT.check);
  header.writeUInt8(keyId.length, AT.keyId);
  header.write(keyId, AT.keyId + 1, 'latin1');
  const nonce = randomBytes(AT.wrapped - AT.nonce);
  header.set(nonce, AT.nonce);
  const dataKey = randomBytes(AT.tag - AT.wrapped);
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(header.subarray(0, AT.nonce));
  header.set(Buffer.concat([cipher.update(dataKey), cipher.final()]), AT.wrapped);
  header.set(cipher.getAuthTag(), AT.tag);
  return { header, key: { dataKey, noncePrefix, sizeBytes } };
}

function isSealed(header: Uint8Array): boolean {
  return MAGIC.equals(header.subarray(0, MAGIC.length));
}

/**
 * @throws `key_unavailable` when its master key is not here; `data_corrupt` when it is not what was written;
 * `version_unsupported`
 */
export function openSeal(
  keyring: Keyring | null,
  bytes: Uint8Array,
): SealFacts & { readonly key: FrameKey } {
  const header = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (header.length < HEADER_BYTES || !isSealed(header)) throw corrupt('no header is there');
  const keyIdBytes = header.readUInt8(AT.keyId);
  const keyId = header.toString(
    'latin1',
    AT.keyId + 1,
    Math.min(AT.keyId + 1 + keyIdBytes, AT.nonce),
  );
  const master = keyring?.find(keyId);
  if (master === undefined || !master.check.equals(header.subarray(AT.check, AT.keyId)))
    throw keyUnavailable(keyId, master !== undefined);
  const decipher = createDecipheriv(
    'aes-256-gcm',
    master.key,
    header.subarray(AT.nonce, AT.wrapped),
    {
      authTagLength: HEADER_BYTES - AT.tag,
    },
  );
  decipher.setAAD(header.subarray(0, AT.nonce));
  decipher.setAuthTag(header.subarray(AT.tag, HEADER_BYTES));
  const dataKey = decipher.update(header.subarray(AT.wrapped, AT.tag));
  try {
    decipher.final();
  } catch {
    throw corrupt(`the header does not open under key "${keyId}"`);
  }
  const frameBytes = header.readUInt32BE(AT.frameBytes);
  if (frameBytes !== FRAME_BYTES)
    throw new StoreError('version_unsupported', `encrypted bytes in frames of ${frameBytes}`);
  const sizeBytes = Number(header.readBigUInt64BE(AT.sizeBytes));
  const sealId = header.toString('hex', AT.sealId, AT.prefix);
  const noncePrefix = Buffer.from(header.subarray(AT.prefix, AT.check));
  return { sealId, sizeBytes, key: { dataKey, noncePrefix, sizeBytes } };
}

/** Of a key id that may come from damaged bytes: shown only as far as it is printable. */
function keyUnavailable(keyId: string, isOther: boolean): StoreError {
  const shown = keyId.replaceAll(/[^A-Za-z0-9._-]/g, '?');
  const why = isOther ? 'is another key here than the one that was used' : 'is not on this node';
  const message = `the bytes are encrypted under key "${shown}", which ${why}`;
  return new StoreError('key_unavailable', message, { keyId: shown });
}

function corrupt(why: string): StoreError {
  return new StoreError('data_corrupt', `the bytes cannot be decrypted: ${why}`);
}
