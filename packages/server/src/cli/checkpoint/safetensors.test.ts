import { DTYPES } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { problemOf, safetensorsHeader } from './safetensors.ts';
import type { Tensor } from './tensors.ts';

const tensor = (name: string, rest: Partial<Tensor> = {}): Tensor => ({
  ...{ name, dtype: 'float32', shape: [2, 3], itemBytes: 4, pieces: [] },
  ...rest,
});

test('the header says where each tensor is: no gaps, larger items first, data at a multiple of 8', () => {
  const tensors = [
    tensor('b', { dtype: 'uint8', shape: [3], itemBytes: 1 }),
    tensor('12', { dtype: 'float32' }),
    tensor('__proto__', { dtype: 'bfloat16', shape: [], itemBytes: 2 }),
    tensor('d', { dtype: 'float64', shape: [0], itemBytes: 0 }),
  ];
  const { header, order, dataBytes } = safetensorsHeader(tensors, { format: 'pt', ü: '"' });
  expect(header.length % 8).toBe(0);
  expect(Number(header.readBigUInt64LE(0))).toBe(header.length - 8);
  const text = header.toString('utf8', 8);
  expect(order.map(({ name }) => name)).toEqual(['12', '__proto__', 'b', 'd']);
  expect(text.trimEnd()).toBe(
    `{"__metadata__":{"format":"pt","ü":"\\""},"12":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"__proto__":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},"b":{"dtype":"U8","shape":[3],"data_offsets":[26,29]},"d":{"dtype":"F64","shape":[0],"data_offsets":[29,29]}}`,
  );
  expect(dataBytes).toBe(29);
});

test('every dtype but complex128 has a name; one name is not to be had', () => {
  const refused = DTYPES.filter((dtype) => problemOf(tensor('a', { dtype })) !== undefined);
  expect(refused).toEqual(['complex128']);
  expect(problemOf(tensor('__metadata__'))).toMatch(/keeps that name/);
});
