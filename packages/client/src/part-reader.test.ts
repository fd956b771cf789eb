import type { ImageRun, RestorePlan } from '@ebb/protocol';
import { StoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ObjectHandle } from './object-reader.ts';
import { createPartReader } from './part-reader.ts';

const IMAGE = { bucket: 'checkpoint-images', key: 'i' };

/** Objects in memory; those that are taken away fail reads that are open, as a node over HTTP answers. */
class Objects {
  readonly bytes = new Map<string, Buffer>();
  open = 0;
  openMost = 0;

  parts(replan: () => Promise<RestorePlan> = () => Promise.reject(new Error('not asked'))) {
    return { open: this.#open.bind(this), replan, signal: undefined };
  }

  async #open(bucket: string, key: string): Promise<ObjectHandle> {
    const find = (): Buffer => {
      const found = this.bytes.get(`${bucket}/${key}`);
      if (found === undefined) throw new StoreError('not_found', `no ${bucket}/${key}`);
      return found;
    };
    const sizeBytes = find().length;
    this.open++;
    this.openMost = Math.max(this.openMost, this.open);
    let isOpen = true;
    const close = async (): Promise<void> => {
      if (isOpen) this.open--;
      isOpen = false;
    };
    return {
      info: { bucket, key, version: 1, etag: 'e', sizeBytes },
      read: async (target, position) => {
        await Promise.resolve();
        return find().copy(target, 0, position);
      },
      close,
      [Symbol.asyncDispose]: close,
    };
  }
}

function planOf(part: Partial<RestorePlan['parts'][number]> & { imageBytes: number }): RestorePlan {
  const snapshot = {
    ...{ bucket: 'checkpoints', run: 'gpt', step: 7, session: 's', sequence: 1, committedAtMs: 1 },
    ...{ durability: 'disk' as const, inMemory: true, imageBytes: part.imageBytes, newBytes: 0 },
    ...{ parts: [], pinned: false, bad: null, metadata: {} },
  };
  const rest = { name: 'rank-00000', blockBytes: 4, digests: null, direct: [], shards: [] };
  return { snapshot, parts: [{ ...rest, image: null, runs: null, ...part }] };
}

async function readAll(reader: ReturnType<typeof createPartReader>): Promise<string> {
  const bytes = Buffer.alloc(reader.part.imageBytes + 10);
  return bytes.subarray(0, await reader.read(bytes, 0)).toString();
}

test('any range of an image is read from the runs of data objects, and nothing stays open', async () => {
  const piece = fc.record({ key: fc.nat(60), length: fc.integer({ min: 1, max: 5 }) });
  await fc.assert(
    fc.asyncProperty(
      fc.array(piece, { minLength: 1, maxLength: 80 }),
      fc.array(fc.tuple(fc.nat(420), fc.nat(30)), { minLength: 1, maxLength: 10 }),
      async (pieces, ranges) => {
        const objects = new Objects();
        const runs: ImageRun[] = [];
        let image = Buffer.alloc(0);
        for (const { key, length } of pieces) {
          const name = `checkpoints/${key}`;
          const there = objects.bytes.get(name) ?? Buffer.alloc(0);
          const bytes = Buffer.from(Array.from({ length }, (_, i) => image.length + i));
          runs.push([image.length, length, String(key), there.length]);
          objects.bytes.set(name, Buffer.concat([there, bytes]));
          image = Buffer.concat([image, bytes]);
        }
        const plan = planOf({ imageBytes: image.length, runs });
        const reader = createPartReader(objects.parts(), plan, 'rank-00000');
        await Promise.all(
          ranges.map(async ([position, length]) => {
            const target = Buffer.alloc(length);
            const bytes = await reader.read(target, position);
            const wanted = image.subarray(position, position + length);
            expect(target.subarray(0, bytes).equals(wanted)).toBe(true);
          }),
        );
        expect(objects.open).toBeLessThanOrEqual(32);
        await reader.close();
        expect(objects.open).toBe(0);
      },
    ),
  );
});

test('an image that is given up in the middle is read on from data objects', async () => {
  const objects = new Objects();
  objects.bytes.set('checkpoint-images/i', Buffer.from('abcdef'));
  objects.bytes.set('checkpoints/d', Buffer.from('..abcdef'));
  const plan = planOf({ imageBytes: 6, image: IMAGE, runs: [[0, 6, 'd', 2]] });
  await using reader = createPartReader(objects.parts(), plan, 'rank-00000');
  const target = Buffer.alloc(3);
  await reader.read(target, 0);
  expect([reader.source, target.toString()]).toEqual(['image', 'abc']);
  objects.bytes.delete('checkpoint-images/i');
  await reader.read(target, 3);
  expect([reader.source, target.toString()]).toEqual(['stored', 'def']);
});

test('where the plan is older than what was stored, a new one is asked for, once', async () => {
  const objects = new Objects();
  objects.bytes.set('checkpoints/d', Buffer.from('abcdef'));
  const plan = planOf({ imageBytes: 6, image: IMAGE });
  let asked = 0;
  const replan = async (): Promise<RestorePlan> => {
    asked++;
    return planOf({ imageBytes: 6, runs: [[0, 6, 'd', 0]] });
  };
  await using reader = createPartReader(objects.parts(replan), plan, 'rank-00000');
  expect(await Promise.all([readAll(reader), readAll(reader)])).toEqual(['abcdef', 'abcdef']);
  expect(asked).toBe(1);
});

test('an image that is gone and was never stored is lost', async () => {
  const plan = planOf({ imageBytes: 6, image: IMAGE });
  const parts = new Objects().parts(async () => planOf({ imageBytes: 6 }));
  await using reader = createPartReader(parts, plan, 'rank-00000');
  await expect(readAll(reader)).rejects.toMatchObject({ code: 'data_lost' });
});

test('what is no loss of the image is told, and the image is asked again', async () => {
  const objects = new Objects();
  objects.bytes.set('checkpoint-images/i', Buffer.from('abcdef'));
  const plan = planOf({ imageBytes: 6, image: IMAGE, runs: [[0, 6, 'd', 0]] });
  const parts = objects.parts();
  let isAway = true;
  const open: typeof parts.open = async (bucket, key) => {
    if (isAway) throw new StoreError('node_unreachable', 'away');
    return await parts.open(bucket, key);
  };
  await using reader = createPartReader({ ...parts, open }, plan, 'rank-00000');
  await expect(readAll(reader)).rejects.toMatchObject({ code: 'node_unreachable' });
  isAway = false;
  expect([await readAll(reader), reader.source]).toEqual(['abcdef', 'image']);
});

test('a data object that is shorter than its run is corrupt; a part that is not there is not found', async () => {
  const objects = new Objects();
  objects.bytes.set('checkpoints/d', Buffer.from('abc'));
  const plan = planOf({ imageBytes: 6, runs: [[0, 6, 'd', 0]] });
  await using reader = createPartReader(objects.parts(), plan, 'rank-00000');
  await expect(readAll(reader)).rejects.toMatchObject({ code: 'data_corrupt' });
  expect(() => createPartReader(objects.parts(), plan, 'rank-00001')).toThrow(/no part rank-00001/);
  expect(objects.open).toBe(0);
});
