import { expect, test } from 'vitest';
import { formatGrid, type GridRun, gridRatio } from './grid.ts';

const run = (facts: Partial<GridRun>): GridRun => ({
  maps: 10,
  partitions: 20,
  backend: 'vanilla',
  round: 1,
  wallSeconds: 1,
  cpuSeconds: 2,
  serviceCpuSeconds: 0,
  shuffleBytes: 200_000,
  resultEqual: true,
  mapCpuSeconds: 1,
  reduceCpuSeconds: 1,
  ...facts,
});

test('a cell is compared by CPU of Spark plus service, inside each round', () => {
  const runs = [
    run({ cpuSeconds: 4 }),
    run({ backend: 'ebb', cpuSeconds: 1, serviceCpuSeconds: 1 }),
    run({ round: 2, cpuSeconds: 40 }),
    run({ round: 2, backend: 'ebb', cpuSeconds: 20 }),
  ];
  expect(gridRatio(runs, 'ebb', 'vanilla')).toBe(0.5);
  expect(gridRatio(runs, 'ebb', 'vanilla-tuned')).toBeUndefined();
  expect(formatGrid(runs)).toMatch(/10 × 20 +ebb +1\.00 .* 0\.50 × +– +yes/);
});
