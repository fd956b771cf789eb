import type { Shard } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { otherNames } from './other-names.ts';

const shard = (name: string, offset: number, shape: number[]): Shard => ({
  ...{ name, offset, shape, dtype: 'float32' },
  length: shape.reduce((all, n) => all * n, 4),
});
const w = shard('wte', 0, [4, 6]);

test('tied tensors have the bytes of the shard that they are another name for', () => {
  const tree = {
    wte: ['array', 'wte', 'torch'],
    head: { weight: ['array', 'wte', 'torch'] },
    n: 3,
  };
  expect(otherNames(JSON.stringify(tree), [w])).toEqual({
    shards: [{ ...w, name: 'head.weight' }],
    leftOut: [],
  });
});

test('below every kind of container, and in each place of a shared one', () => {
  const leaf = ['array', 'wte', 'torch'];
  const tree = {
    wte: leaf,
    a: ['shared', 0, ['list', [leaf]]],
    b: ['again', 0],
    c: ['dict', [[1, ['tuple', [['ordered', [[null, leaf]]]]]]]],
  };
  const names = otherNames(JSON.stringify(tree), [w]).shards.map(({ name }) => name);
  expect(names).toEqual(['a.0', 'b.0', 'c.1.0.None']);
});

test('views that lie row by row are written, others are named', () => {
  const leaf = (name: string): unknown => ['array', name, 'torch'];
  const views = {
    wte: ['wte', 0, 'float32', [4, 6], [24, 4]],
    rows: ['wte', 24, '<f4', [2, 6], [24, 4]],
    bytes: ['wte', 0, '|u1', [96], [1]],
    column: ['wte', 4, 'float32', [4], [24]],
    swapped: ['wte', 0, '>f4', [24], [4]],
  };
  const root = Object.fromEntries(Object.keys(views).map((name) => [name, leaf(name)]));
  const found = otherNames(JSON.stringify(['views', views, root]), [w]);
  expect(found.shards).toEqual([
    { ...shard('rows', 24, [2, 6]) },
    { name: 'bytes', offset: 0, length: 96, dtype: 'uint8', shape: [96] },
  ]);
  expect(found.leftOut.map(({ name }) => name)).toEqual(['column', 'swapped']);
});

test('pieces of a tied tensor are pieces of each of its names', () => {
  const piece: Shard = { ...w, piece: { shape: [8, 6], start: [4, 0] } };
  const text = JSON.stringify({ head: ['array', 'wte', 'torch'] });
  expect(otherNames(text, [piece]).shards).toEqual([{ ...piece, name: 'head' }]);
});

test('what is no tree has no names', () => {
  expect(otherNames('a pickle', [w])).toEqual({ shards: [], leftOut: [] });
});
