/** What a fault drill comes to: every round of every case, and what the loss cost by the cases without one. */
import type { Case, DrillLine } from './fault.ts';
import { median } from './statistics.ts';
import { formatRatio, formatSeconds, formatTable } from './text-table.ts';

export const DRILL_HEADER = [
  'back end',
  'case',
  'round',
  'wall s',
  'CPU s',
  'maps again',
  'stage retries',
  'fetch failures',
  'equal',
];
export const DRILL_WORDS = 2;

export function drillRows(lines: readonly DrillLine[]): string[][] {
  return lines.map((line) => [
    line.backend,
    line.case,
    String(line.round),
    formatSeconds(line.wallSeconds),
    formatSeconds(line.cpuSeconds),
    String(line.recomputedMapTasks),
    String(line.stageRetries),
    String(line.fetchFailures),
    line.resultEqual ? 'yes' : 'NO',
  ]);
}

export const LOSS_HEADER = ['back end', 'killed by', 'wall', 'CPU'];

/** `killed` by each other case, per round; medians. */
export function lossRows(lines: readonly DrillLine[]): string[][] {
  const backends = [...new Set(lines.map((line) => line.backend))];
  return backends.flatMap((backend) =>
    (['control', 'cold', 'healthy'] as const).map((base) => [
      backend,
      base,
      formatRatio(lossRatio(lines, { backend, base }, (line) => line.wallSeconds)),
      formatRatio(lossRatio(lines, { backend, base }, (line) => line.cpuSeconds)),
    ]),
  );
}

export function lossRatio(
  lines: readonly DrillLine[],
  { backend, base }: { backend: string; base: Exclude<Case, 'killed'> },
  pick: (line: DrillLine) => number,
): number | undefined {
  const find = (kind: string, round: number): DrillLine | undefined =>
    lines.find((line) => line.backend === backend && line.case === kind && line.round === round);
  const rounds = [...new Set(lines.map((line) => line.round))];
  const ratios = rounds.flatMap((round) => {
    const killed = find('killed', round);
    const other = find(base, round);
    return killed === undefined || other === undefined ? [] : [pick(killed) / pick(other)];
  });
  return median(ratios);
}

export function formatDrill(lines: readonly DrillLine[]): string {
  return [
    formatTable(DRILL_HEADER, drillRows(lines), DRILL_WORDS),
    '',
    formatTable(LOSS_HEADER, lossRows(lines), 2),
  ].join('\n');
}
