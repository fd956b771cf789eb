import type { RestorePlan, Shard } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { diffSnapshots } from './shard-changes.ts';

const BLOCK = 16;

/** One digit a block. */
function planOf(step: number, digits: string, shards: readonly Partial<Shard>[]): RestorePlan {
  const digests = Buffer.concat([...digits].map((digit) => Buffer.alloc(16, digit)));
  const snapshot = {
    ...{ bucket: 'checkpoints', run: 'gpt', step, session: 's', sequence: 1, committedAtMs: step },
    ...{ durability: 'disk' as const, inMemory: false, imageBytes: 99, newBytes: 0 },
    ...{ parts: [], pinned: false, bad: null, metadata: {} },
  };
  const part = {
    ...{ name: 'r', imageBytes: 99, image: null, blockBytes: BLOCK, runs: [], direct: [] },
    digests: digests.toString('base64'),
    shards: shards.map((shard) => ({
      ...{ name: '', dtype: 'uint8' as const, offset: 0, length: 0 },
      ...shard,
    })),
  };
  return { snapshot, parts: [part] };
}

const a = { name: 'a', offset: 0, length: 8 };
const b = { name: 'b', offset: 8, length: 8 };
const c = { name: 'c', offset: 16, length: 40 };

function told(first: RestorePlan, second: RestorePlan): string[] {
  return diffSnapshots(first, second).map(({ name, change, step, blocks }) =>
    [name, change, step, blocks && `${blocks.changed}/${blocks.all}`]
      .filter((word) => word !== null)
      .join(' '),
  );
}

test('a changed block marks every shard that lies in it, and no other', () => {
  const before = planOf(1, '1234', [a, b, c]);
  expect(told(before, planOf(2, '1234', [a, b, c]))).toEqual([
    ...['a same 0/1', 'b same 0/1', 'c same 0/3'],
  ]);
  expect(told(before, planOf(2, '9234', [a, b, c]))).toEqual([
    ...['a changed 1/1', 'b changed 1/1', 'c same 0/3'],
  ]);
  expect(told(before, planOf(2, '1299', [a, b, c]))).toEqual([
    ...['a same 0/1', 'b same 0/1', 'c changed 2/3'],
  ]);
});

test('a shard that moved by whole blocks is found again; by less, it cannot be compared', () => {
  const before = planOf(1, '1234', [a, c]);
  const whole = planOf(2, '15234', [a, { ...c, offset: 32 }]);
  expect(told(before, whole)).toEqual(['a same 0/1', 'c same 0/3']);
  const less = planOf(2, '1534', [a, { ...c, offset: 24 }]);
  expect(told(before, less)).toEqual(['a same 0/1', 'c moved']);
});

test('what one alone has is told with its step; another dtype or length is a change', () => {
  const before = planOf(1, '1234', [a, b]);
  const after = planOf(2, '1234', [{ ...a, dtype: 'int8' }, c]);
  expect(told(before, after)).toEqual(['a changed', 'c only in one 2', 'b only in one 1']);
});

test('pieces of one tensor are told apart', () => {
  const piece = (start: number, offset: number) => ({
    ...{ name: 't', shape: [8], offset, length: 8 },
    piece: { shape: [16], start: [start] },
  });
  const before = planOf(1, '12', [piece(0, 0), piece(8, 16)]);
  expect(told(before, planOf(2, '19', [piece(0, 0), piece(8, 16)]))).toEqual([
    ...['t same 0/1', 't changed 1/1'],
  ]);
});
