import { describe, expect, test } from 'vitest';
import { chooseMemoryLimit } from './bench.ts';
import { aRun } from './run-samples.ts';

describe('room in memory', () => {
  const options = { memoryLimit: '2GiB', limitedMemory: undefined, scale: 1 };

  test('is what was asked for, but for the limited node', () => {
    expect(chooseMemoryLimit('ebb', options, [])).toBe('2GiB');
    expect(chooseMemoryLimit('ebb-limited', { ...options, limitedMemory: '5MiB' }, [])).toBe(
      '5MiB',
    );
  });

  test('is 3 % of the mean forced shuffle for the limited node, or of what it is known to be', () => {
    const runs = [100, 300].map((mebibytes) => aRun({ shuffleBytes: mebibytes * 2 ** 20 }));
    const stock = aRun({ mode: 'stock', shuffleBytes: 1 });
    expect(chooseMemoryLimit('ebb-limited', options, [...runs, stock])).toBe('6144KiB');
    expect(chooseMemoryLimit('ebb-limited', options, [])).toBe('2725KiB');
  });
});
