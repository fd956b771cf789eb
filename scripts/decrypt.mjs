/**
 * Decrypts an object of tier 2, or a file of the disk tier, of an encrypted bucket: with the file of keys, and without Ebb.
 * It is also the short form of docs/encryption.md. Every frame is checked before it is written.
 *
 *   node scripts/decrypt.mjs KEYS.json ENCRYPTED > PLAIN
 */
import { createDecipheriv } from 'node:crypto';
import { readFileSync, writeSync } from 'node:fs';

const HEADER_BYTES = 172;
const TAG_BYTES = 16;

const [keysFile, file] = process.argv.slice(2);
if (file === undefined) {
  process.stderr.write('usage: node scripts/decrypt.mjs KEYS.json ENCRYPTED > PLAIN\n');
  process.exit(2);
}
const keys = new Map(JSON.parse(readFileSync(keysFile, 'utf8')).map(({ id, key }) => [id, key]));
const sealed = readFileSync(file);
try {
  // Several segments where the object was made of several parts.
  for (let at = 0; at < sealed.length; ) at = decryptSegment(sealed, at);
} catch (error) {
  process.stderr.write(`${file}: ${error.message}\n`);
  process.exit(1);
}

/** Writes the plain bytes of the segment that begins at `start`, and returns where the next one does. */
function decryptSegment(bytes, start) {
  const header = bytes.subarray(start, start + HEADER_BYTES);
  if (header.length < HEADER_BYTES || header.toString('latin1', 0, 8) !== 'EBBSEAL\x01')
    throw new Error(`no encrypted segment at byte ${start}`);
  const frameBytes = header.readUInt32BE(8);
  const sizeBytes = Number(header.readBigUInt64BE(12));
  const noncePrefix = header.subarray(36, 40);
  const keyId = header.toString('latin1', 49, 49 + header.readUInt8(48));
  const masterKey = keys.get(keyId);
  if (masterKey === undefined) throw new Error(`key "${keyId}" is not in ${keysFile}`);
  const dataKey = open(Buffer.from(masterKey, 'base64'), {
    nonce: header.subarray(112, 124),
    data: header.subarray(0, 112),
    sealed: header.subarray(124, 172),
    what: `the header at byte ${start}`,
  });
  let at = start + HEADER_BYTES;
  for (let index = 0; index * frameBytes < sizeBytes; index++) {
    const length = Math.min(frameBytes, sizeBytes - index * frameBytes);
    const nonce = Buffer.alloc(12);
    noncePrefix.copy(nonce);
    nonce.writeBigUInt64BE(BigInt(index), 4);
    const data = Buffer.alloc(9);
    data.writeBigUInt64BE(BigInt(index));
    data[8] = (index + 1) * frameBytes >= sizeBytes ? 1 : 0;
    const frame = bytes.subarray(at, at + length + TAG_BYTES);
    write(open(dataKey, { nonce, data, sealed: frame, what: `frame ${index}` }));
    at += length + TAG_BYTES;
  }
  return at;
}

function open(key, { nonce, data, sealed: input, what }) {
  const end = input.length - TAG_BYTES;
  try {
    const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG_BYTES });
    decipher.setAAD(data).setAuthTag(input.subarray(end));
    return Buffer.concat([decipher.update(input.subarray(0, end)), decipher.final()]);
  } catch {
    throw new Error(`${what} does not open: it was changed, cut, or is under another key`);
  }
}

function write(plain) {
  for (let done = 0; done < plain.length; ) done += writeSync(1, plain, done);
}
