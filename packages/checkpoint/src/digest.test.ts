/** The golden vectors, which every client passes. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { digestOf } from './digest.ts';

const VECTORS = new URL('../../protocol/vectors/block-digests.json', import.meta.url);
const { blocks } = JSON.parse(readFileSync(VECTORS, 'utf8')) as {
  readonly blocks: readonly { readonly length: number; readonly digest: string }[];
};

test.each(blocks)('a block of $length bytes', ({ length, digest }) => {
  const block = Uint8Array.from({ length }, (_, i) => (i * i) % 251);
  expect(digestOf(block).toString('hex')).toBe(digest);
});
