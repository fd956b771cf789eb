import { expect, test } from 'vitest';
import { formatDrill, lossRatio } from './drill-summary.ts';
import type { Case, DrillLine } from './fault.ts';

const line = (kind: Case, round: number, wallSeconds: number): DrillLine => ({
  backend: 'ebb',
  case: kind,
  round,
  wallSeconds,
  cpuSeconds: 2 * wallSeconds,
  resultEqual: true,
  recomputedMapTasks: 0,
  stageRetries: 0,
  fetchFailures: 0,
});

test('a loss is compared with the control of its own round', () => {
  const lines = [
    line('healthy', 1, 5),
    line('control', 1, 10),
    line('killed', 1, 11),
    line('control', 2, 20),
    line('killed', 2, 22),
  ];
  expect(lossRatio(lines, { backend: 'ebb', base: 'control' }, (of) => of.wallSeconds)).toBeCloseTo(
    1.1,
  );
  expect(lossRatio(lines, { backend: 'ebb', base: 'healthy' }, (of) => of.wallSeconds)).toBeCloseTo(
    2.2,
  );
  expect(
    lossRatio(lines, { backend: 'vanilla', base: 'control' }, (of) => of.wallSeconds),
  ).toBeUndefined();
  expect(formatDrill(lines)).toMatch(/ebb +control +1\.10 ×/);
});
