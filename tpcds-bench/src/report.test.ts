import { expect, test } from 'vitest';
import { type Report, renderReport } from './report.ts';
import { aRun } from './run-samples.ts';
import { formatSummary } from './summary.ts';

const runs = [
  aRun({ query: 'q5', backend: 'vanilla', wallSeconds: 8, cpuSeconds: 16 }),
  aRun({ query: 'q5', backend: 'ebb', wallSeconds: 6, cpuSeconds: 11, serviceCpuSeconds: 1 }),
];
const report: Report = {
  machine: {
    cores: 2,
    cpu: 'A <fast> one',
    memoryBytes: 2 ** 34,
    os: 'Linux',
    node: 'v26',
    java: '17',
    spark: '3.5.9',
  },
  startedAt: '2026-11-22T00:00:00Z',
  command: 'npm start -- --queries 5',
  baseline: 'vanilla',
  settings: { scale: 1 },
  runs,
  warmups: [],
  ratios: [],
  tierSamples: [
    { backend: 'ebb', seconds: 0, memory: 0, disk: 0, remote: 0 },
    { backend: 'ebb', seconds: 1, memory: 5e6, disk: 0, remote: 0 },
  ],
};

test('the page needs nothing from elsewhere, and text is text', () => {
  const html = renderReport(report);
  expect(html).not.toMatch(/<script|<link|@import|url\(|https?:/);
  expect(html).toContain('A &lt;fast&gt; one');
  expect(html).toContain('prefers-color-scheme: dark');
});

test('the page shows bars for every arm, tiers over time, and ratios', () => {
  const html = renderReport(report);
  expect(html).toContain('q5 on ebb: 12.00 s');
  expect(html).toContain('<path class="line l0"');
  expect(html).toContain('0.75 ×');
  expect(html).toContain('All 2 results are equal');
});

test('a wrong result cannot be overlooked', () => {
  const wrong = aRun({ query: 'q49', backend: 'ebb', resultEqual: false });
  expect(renderReport({ ...report, runs: [...runs, wrong] })).toContain(
    '1 results differ: q49 ebb round 1',
  );
  expect(formatSummary([...runs, wrong], 'vanilla')).toMatch(/q49 .* NO/);
});

test('the printed table holds the ratio of wall and CPU, service included', () => {
  const table = formatSummary(runs, 'vanilla');
  expect(table).toMatch(/q5 +ebb +6\.00 +0\.75 × +12\.00 +0\.75 × +1\.00/);
});
