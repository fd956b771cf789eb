/** Images as clients write them, for tests. */
import type { Shard } from '@ebb/protocol';
import { crc32 } from '@node-rs/crc32';
import { FOOTER_BYTES } from '../image.ts';

const ALIGNMENT = 64;

/** Shards by name: bytes, which become `uint8` tensors. */
export function buildImage(tensors: Readonly<Record<string, Uint8Array>>): Buffer {
  const shards: Shard[] = [];
  const pieces: Buffer[] = [];
  let at = 0;
  const add = (bytes: Uint8Array): void => {
    pieces.push(Buffer.from(bytes));
    at += bytes.length;
  };
  for (const [name, bytes] of Object.entries(tensors)) {
    add(Buffer.alloc((ALIGNMENT - (at % ALIGNMENT)) % ALIGNMENT));
    shards.push({ name, dtype: 'uint8', shape: [bytes.length], offset: at, length: bytes.length });
    add(bytes);
  }
  return Buffer.concat([...pieces, tableAndFooter(shards, at)]);
}

export function tableAndFooter(shards: readonly unknown[], tableOffset: number): Buffer {
  const table = Buffer.from(JSON.stringify({ shards }));
  const footer = Buffer.alloc(FOOTER_BYTES);
  footer.writeBigUInt64LE(BigInt(tableOffset), 0);
  footer.writeBigUInt64LE(BigInt(table.length), 8);
  footer.writeUInt32LE(crc32(table), 16);
  footer.writeUInt32LE(1, 20);
  footer.write('EBBCKPT1', 24, 'latin1');
  return Buffer.concat([table, footer]);
}
