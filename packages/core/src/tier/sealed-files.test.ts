import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BLOCK_BYTES } from '../limits.ts';
import { type SealedFile, SealedFiles } from './sealed-files.ts';

function fileOf(blobId: number): SealedFile {
  return {
    blobId,
    inode: blobId * 3 + 1,
    sizeBytes: blobId * 5,
    allocatedBytes: (blobId % 97) * BLOCK_BYTES,
    presentBytes: (blobId % 89) * BLOCK_BYTES,
  };
}

test('it is a map, in every order of adds and deletes', () => {
  // Few ids, so that they meet; some far above 32 bits.
  const anyId = fc.oneof(
    fc.nat(40),
    fc.nat(40).map((n) => 2 ** 40 + n * 2 ** 32),
  );
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.boolean(), anyId), { maxLength: 200 }), (steps) => {
      const files = new SealedFiles();
      const model = new Map<number, SealedFile>();
      for (const [isAdd, blobId] of steps) {
        if (isAdd && !model.has(blobId)) {
          model.set(blobId, fileOf(blobId));
          files.add(fileOf(blobId));
        } else if (!isAdd) {
          expect(files.delete(blobId)).toEqual(model.get(blobId));
          model.delete(blobId);
        }
        expect(files.size).toBe(model.size);
      }
      for (const [, blobId] of steps) {
        expect(files.get(blobId)).toEqual(model.get(blobId));
        expect(files.has(blobId)).toBe(model.has(blobId));
      }
    }),
  );
});

test('it grows over many chunks and shrinks again without losing one', () => {
  const files = new SealedFiles();
  const count = 50_000;
  for (let n = 0; n < count; n++) files.add(fileOf(n * 7));
  // Those that stay are spread over all chunks.
  for (let n = 0; n < count; n++) if (n % 100 !== 0) files.delete(n * 7);
  expect(files.size).toBe(count / 100);
  for (let n = 0; n < count; n++)
    expect(files.get(n * 7)).toEqual(n % 100 === 0 ? fileOf(n * 7) : undefined);
});

test('sizes beyond 32 bits come back whole', () => {
  const files = new SealedFiles();
  const file = {
    blobId: Number.MAX_SAFE_INTEGER,
    inode: 2 ** 40 + 1,
    sizeBytes: 5 * 2 ** 40,
    allocatedBytes: 5 * 2 ** 40,
    presentBytes: 2 ** 43,
  };
  files.add(file);
  expect(files.get(file.blobId)).toEqual(file);
});
