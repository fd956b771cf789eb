import type { Shard } from '@ebb/protocol';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { gatherTensors, type PartShards, type ReadPart, tensorChunks } from './tensors.ts';

/** Cuts of one dimension: where its pieces begin, and its end. */
const cuts = fc
  .tuple(fc.integer({ min: 1, max: 7 }), fc.array(fc.integer({ min: 1, max: 6 }), { maxLength: 2 }))
  .map(([size, at]) =>
    [...new Set([0, ...at.filter((cut) => cut < size), size])].sort((a, b) => a - b),
  );

/** Every way to take one cut of each dimension. */
function grid(dimensions: readonly (readonly number[])[]): { start: number[]; shape: number[] }[] {
  return dimensions.reduce<{ start: number[]; shape: number[] }[]>(
    (done, cut) =>
      done.flatMap(({ start, shape }) =>
        cut.slice(0, -1).map((from, i) => ({
          start: [...start, from],
          shape: [...shape, (cut[i + 1] as number) - from],
        })),
      ),
    [{ start: [], shape: [] }],
  );
}

function indices(shape: readonly number[]): number[][] {
  return shape.reduce<number[][]>(
    (done, n) => done.flatMap((at) => Array.from({ length: n }, (_, i) => [...at, i])),
    [[]],
  );
}

const ITEMS = { uint8: 1, float16: 2, float32: 4 } as const;

test('pieces cut in any way along any dimension, in any part, are the tensor again', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(cuts, { maxLength: 4 }),
      fc.constantFrom('uint8', 'float16', 'float32'),
      fc.integer({ min: 1, max: 70 }),
      fc.nat(),
      async (dimensions, dtype, chunkBytes, seed) => {
        const shape = dimensions.map((cut) => cut.at(-1) as number);
        const itemBytes = ITEMS[dtype];
        const all = indices(shape);
        const whole = Buffer.from(
          Array.from({ length: all.length * itemBytes }, (_, i) => (i * 7 + seed) % 251),
        );
        const images = new Map<string, Buffer>();
        const parts = new Map<string, Shard[]>();
        for (const [i, piece] of grid(dimensions).entries()) {
          const bytes = Buffer.concat(
            indices(piece.shape).map((at) => {
              const flat = at.reduce(
                (sum, n, d) => sum * (shape[d] as number) + n + (piece.start[d] as number),
                0,
              );
              return whole.subarray(flat * itemBytes, (flat + 1) * itemBytes);
            }),
          );
          // Some are replicated in a second part.
          for (const part of i % 3 === 0 ? ['r0', 'r1'] : [`r${i % 2}`]) {
            const image = images.get(part) ?? Buffer.from('pad');
            const place = { offset: image.length, length: bytes.length };
            const of = { shape, start: piece.start };
            const shard: Shard = { name: 't', dtype, shape: piece.shape, ...place, piece: of };
            parts.set(part, [...(parts.get(part) ?? []), shard]);
            images.set(part, Buffer.concat([image, bytes]));
          }
        }
        const { tensors } = gatherTensors([...parts].map(([name, shards]) => ({ name, shards })));
        const read: ReadPart = async (part, target, position) => {
          images.get(part)?.copy(target, 0, position, position + target.length);
        };
        const out: Buffer[] = [];
        for (const tensor of tensors)
          for await (const chunk of tensorChunks(tensor, read, chunkBytes))
            out.push(Buffer.from(chunk));
        expect(tensors).toHaveLength(1);
        expect(Buffer.concat(out).equals(whole)).toBe(true);
      },
    ),
  );
});

const shard = (name: string, rest: Partial<Shard> = {}): Shard => ({
  ...{ name, dtype: 'uint8', shape: [4], offset: 0, length: 4 },
  ...rest,
});
const half = (start: number, shape = [2]): Partial<Shard> => ({
  ...{ shape, length: shape[0] as number },
  piece: { shape: [4], start: [start] },
});
const part = (name: string, ...shards: Shard[]): PartShards => ({ name, shards });

test('what is no tensor is told apart', () => {
  const plain: Shard = { name: '', offset: 64, length: 3 };
  const { tensors, others } = gatherTensors([part('a', shard('t'), plain)]);
  expect(tensors.map(({ name }) => name)).toEqual(['t']);
  expect(others).toEqual([{ part: 'a', shard: plain }]);
});

test.each([
  ['that are missing', [part('a', shard('t', half(0)))], /has 2 of its 4 elements/],
  [
    'that overlap',
    [part('a', shard('t', half(0, [3]))), part('b', shard('t', half(2)))],
    /pieces in a and b that overlap/,
  ],
  [
    'of two shapes',
    [part('a', shard('t')), part('b', shard('t', { shape: [5], length: 5 }))],
    /is uint8 \[4\] in one place and uint8 \[5\] in part b/,
  ],
  [
    'of two dtypes',
    [part('a', shard('t')), part('b', shard('t', { dtype: 'int8' }))],
    /uint8 \[4\] in one place and int8/,
  ],
])('pieces %s are refused, and said where', (_what, parts, message) => {
  expect(() => gatherTensors(parts)).toThrow(message);
});

test('replicas with other bytes are refused', async () => {
  const { tensors } = gatherTensors([part('a', shard('t')), part('b', shard('t'))]);
  const read: ReadPart = async (name, target) => void target.fill(name.charCodeAt(0));
  const chunks = tensorChunks(tensors[0] as (typeof tensors)[number], read);
  await expect(chunks.next()).rejects.toThrow(/is not the same in a and b/);
});

test('a tensor of nothing has no bytes, one without dimensions has one item', async () => {
  const { tensors } = gatherTensors([
    part('a', shard('none', { shape: [0, 3], length: 0 }), shard('one', { shape: [], length: 1 })),
  ]);
  const read: ReadPart = async (_name, target) => void target.fill(9);
  const sizes: number[] = [];
  for (const tensor of tensors) {
    let bytes = 0;
    for await (const chunk of tensorChunks(tensor, read)) bytes += chunk.length;
    sizes.push(bytes);
  }
  expect(sizes).toEqual([0, 1]);
});
