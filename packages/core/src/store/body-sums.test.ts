import { bytesOf } from '@ebb/testkit';
import { expect, test } from 'vitest';
import { crc32c } from '../checksum.ts';
import { createBodySums } from './body-sums.ts';

const KiB = 1024;
/** Answers a turn later, as the worker does. */
const thread = {
  ofBlocks: async (bytes: Uint8Array, blockBytes: number) =>
    Array.from({ length: Math.ceil(bytes.length / blockBytes) }, (_, at) =>
      crc32c(bytes.subarray(at * blockBytes, (at + 1) * blockBytes)),
    ),
};
const body = bytesOf(1000 * KiB + 5, 1);
const blocks = await thread.ofBlocks(body, 64 * KiB);

test('sums of pieces that begin where blocks do are those of the whole, and of each block', async () => {
  const sums = createBodySums(thread);
  await sums.add(body.subarray(0, 256 * KiB));
  sums.addNow(body.subarray(256 * KiB, 320 * KiB));
  await sums.add(body.subarray(320 * KiB));
  expect(sums.crc32c()).toBe(crc32c(body));
  expect(sums.blocks()).toEqual({ blockBytes: 64 * KiB, sums: blocks });
});

test('a body that came in odd pieces has the sum of the whole, and none of blocks', async () => {
  for (const cuts of [[100, 64 * KiB], [64 * KiB, 64 * KiB + 1], [640 * KiB + 1]]) {
    const sums = createBodySums(thread);
    for (const [at, from] of [0, ...cuts].entries()) await sums.add(body.subarray(from, cuts[at]));
    expect([sums.crc32c(), sums.blocks()]).toEqual([crc32c(body), undefined]);
  }
  const atOnce = createBodySums();
  atOnce.addNow(body);
  expect([atOnce.crc32c(), atOnce.blocks()]).toEqual([crc32c(body), undefined]);
});

test('a body too long for blocks of this size gives their sums up', async () => {
  /** Sums of nothing: what matters here is how much is kept. */
  const quick = {
    ofBlocks: async (bytes: Uint8Array, blockBytes: number) =>
      Array.from({ length: Math.ceil(bytes.length / blockBytes) }, () => 0),
  };
  const sums = createBodySums(quick);
  const piece = new Uint8Array(64 * 1024 * KiB);
  for (let at = 0; at < 16; at++) await sums.add(piece);
  expect(sums.blocks()?.sums).toHaveLength(16_384);
  await sums.add(piece);
  expect(sums.blocks()).toBeUndefined();
});
