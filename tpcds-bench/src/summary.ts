/** What the bench prints at the end. */
import type { BackEnd } from './back-ends.ts';
import type { Run } from './measure.ts';
import { pairRatios, summarise } from './statistics.ts';
import { formatMegabytes, formatRatio, formatSeconds, formatTable } from './text-table.ts';

export const RUN_HEADER = [
  'mode',
  'query',
  'back end',
  'wall s',
  'by base',
  'CPU s',
  'by base',
  'service',
  'shuffle',
  'equal',
];
/** The first columns are words, the rest are figures. */
export const RUN_WORDS = 3;

export function summaryRows(runs: readonly Run[], baseline: BackEnd): string[][] {
  return summarise(runs, baseline).map((line) => [
    line.mode,
    line.query,
    line.backend,
    formatSeconds(line.wallSeconds),
    formatRatio(line.wallRatio),
    formatSeconds(line.cpuSeconds),
    formatRatio(line.cpuRatio),
    formatSeconds(line.serviceCpuSeconds),
    formatMegabytes(line.shuffleBytes),
    line.resultEqual ? 'yes' : 'NO',
  ]);
}

export const PAIR_HEADER = ['mode', 'back end', 'by', 'wall', 'CPU'];

export function pairRows(runs: readonly Run[]): string[][] {
  return pairRatios(runs).map((pair) => [
    pair.mode,
    pair.backend,
    pair.baseline,
    formatRatio(pair.wallRatio),
    formatRatio(pair.cpuRatio),
  ]);
}

export function formatSummary(runs: readonly Run[], baseline: BackEnd): string {
  const parts = [
    formatTable(RUN_HEADER, summaryRows(runs, baseline), RUN_WORDS),
    '',
    `CPU is Spark plus service. Base: ${baseline}, in the same round; medians over ${countRounds(runs)} round(s).`,
  ];
  const pairs = pairRows(runs);
  // With two arms this would say the same again.
  if (pairs.length > 4)
    parts.push('', 'All queries, each arm by each other:', formatTable(PAIR_HEADER, pairs, 3));
  return parts.join('\n');
}

function countRounds(runs: readonly Run[]): number {
  return new Set(runs.map((run) => run.round)).size;
}
