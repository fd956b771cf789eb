import { describe, expect, test } from 'vitest';
import { aRun } from './run-samples.ts';
import { median, pairRatios, summarise } from './statistics.ts';

test('the median of an even number of values lies between the two in the middle', () => {
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(median([9, 1, 2])).toBe(2);
  expect(median([])).toBeUndefined();
});

describe('summarise', () => {
  test('pairs arms inside a round, so that a slow minute weighs on both', () => {
    const runs = [
      aRun({ backend: 'vanilla', round: 1, wallSeconds: 10, cpuSeconds: 20 }),
      aRun({ backend: 'ebb', round: 1, wallSeconds: 9, cpuSeconds: 17, serviceCpuSeconds: 1 }),
      aRun({ backend: 'ebb', round: 2, wallSeconds: 90, cpuSeconds: 170, serviceCpuSeconds: 10 }),
      aRun({ backend: 'vanilla', round: 2, wallSeconds: 100, cpuSeconds: 200 }),
    ];
    const ebb = summarise(runs, 'vanilla').find((line) => line.backend === 'ebb');
    expect(ebb).toMatchObject({ rounds: 2, wallRatio: 0.9, cpuRatio: 0.9 });
  });

  test('adds queries up per round and leaves out a round that lacks one', () => {
    const runs = [
      aRun({ query: 'q5', round: 1, wallSeconds: 1 }),
      aRun({ query: 'q67', round: 1, wallSeconds: 2, resultEqual: false }),
      aRun({ query: 'q5', round: 2, wallSeconds: 100 }),
    ];
    const lines = summarise(runs, 'vanilla');
    expect(lines.map((line) => line.query)).toEqual(['q5', 'q67', 'all']);
    expect(lines.at(-1)).toMatchObject({
      wallSeconds: 3,
      rounds: 1,
      resultEqual: false,
      wallRatio: 1,
    });
  });

  test('gives no ratio where the baseline did not run', () => {
    const [line] = summarise([aRun({ backend: 'ebb' })], 'vanilla');
    expect(line?.cpuRatio).toBeUndefined();
  });

  test('keeps modes apart', () => {
    const runs = [aRun({ mode: 'forced' }), aRun({ mode: 'stock', wallSeconds: 2 })];
    expect(summarise(runs, 'vanilla').map((line) => [line.mode, line.wallSeconds])).toEqual([
      ['forced', 1],
      ['stock', 2],
    ]);
  });
});

test('every arm is compared with every other', () => {
  const runs = [
    aRun({ backend: 'vanilla', cpuSeconds: 4 }),
    aRun({ backend: 'vanilla-tuned', cpuSeconds: 2 }),
    aRun({ backend: 'ebb', cpuSeconds: 1 }),
  ];
  const pairs = pairRatios(runs).map(
    ({ backend, baseline, cpuRatio }) => `${backend}/${baseline} ${cpuRatio}`,
  );
  expect(pairs).toContain('ebb/vanilla 0.25');
  expect(pairs).toContain('ebb/vanilla-tuned 0.5');
  expect(pairs).toHaveLength(6);
});
