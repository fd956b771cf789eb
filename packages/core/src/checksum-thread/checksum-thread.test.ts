import { Worker } from 'node:worker_threads';
import { MiB } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { crc32c } from '../checksum.ts';
import { createChecksumThread } from './checksum-thread.ts';

function filled(bytes: Uint8Array): Uint8Array {
  for (let at = 0; at < bytes.length; at += 7) bytes[at] = at % 251;
  return bytes;
}

const shared = (length: number): Uint8Array =>
  filled(new Uint8Array(new SharedArrayBuffer(length)));
const owned = (length: number): Uint8Array => filled(new Uint8Array(length));

test('a checksum is the same wherever it is computed: at once, in steps, by the worker', async () => {
  const thread = createChecksumThread();
  try {
    for (const bytes of [
      owned(0),
      owned(1000),
      owned(3 * MiB + 5),
      shared(1000),
      shared(3 * MiB + 5),
    ]) {
      expect(await thread.crc32c(bytes)).toBe(crc32c(bytes));
      expect(await thread.crc32c(bytes, 77)).toBe(crc32c(bytes, 77));
      const blocks = await thread.ofBlocks(bytes, 65_536);
      expect(blocks).toHaveLength(Math.ceil(bytes.length / 65_536));
      for (const [at, found] of blocks.entries())
        expect(found).toBe(crc32c(bytes.subarray(at * 65_536, (at + 1) * 65_536)));
    }
  } finally {
    await thread.close();
  }
});

test('what many ask at once is answered to each', async () => {
  const thread = createChecksumThread();
  try {
    const pieces = Array.from({ length: 16 }, (_, at) => shared(200_000 + at));
    const found = await Promise.all(pieces.map((piece) => thread.crc32c(piece)));
    expect(found).toEqual(pieces.map((piece) => crc32c(piece)));
  } finally {
    await thread.close();
  }
});

/** Fault model: each worker of these exits at the first batch it is given. */
test('a worker that dies delays a checksum and does not lose it', async () => {
  let started = 0;
  const thread = createChecksumThread({
    startWorker: () => {
      started++;
      const code = "require('node:worker_threads').parentPort.on('message', () => process.exit(1))";
      return new Worker(code, { eval: true });
    },
  });
  try {
    const piece = shared(300_000);
    expect(await thread.crc32c(piece)).toBe(crc32c(piece));
    expect(await thread.crc32c(piece)).toBe(crc32c(piece));
    expect(started).toBe(2);
  } finally {
    await thread.close();
  }
});

test('after close, and for what was asked before, checksums are computed here', async () => {
  const thread = createChecksumThread();
  const piece = shared(300_000);
  const asked = thread.crc32c(piece);
  await thread.close();
  expect(await asked).toBe(crc32c(piece));
  expect(await thread.crc32c(piece)).toBe(crc32c(piece));
});
