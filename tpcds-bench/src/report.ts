/** The report of a run: `report.json` for machines, `report.html` for people: one file, works offline, light and dark. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { BACK_ENDS, type BackEnd } from './back-ends.ts';
import { DRILL_HEADER, DRILL_WORDS, drillRows, LOSS_HEADER, lossRows } from './drill-summary.ts';
import { CASES, type DrillLine } from './fault.ts';
import type { Machine } from './machine.ts';
import type { Run } from './measure.ts';
import { TIERS, type TierSample } from './metrics.ts';
import { MODES, type Mode } from './modes.ts';
import { ALL_QUERIES, type Line, type RatioPair, summarise } from './statistics.ts';
import { PAIR_HEADER, pairRows, RUN_HEADER, RUN_WORDS, summaryRows } from './summary.ts';
import { type BarGroup, escapeHtml, renderBars, renderLegend, renderLines } from './svg.ts';
import { formatMegabytes } from './text-table.ts';

export interface Report {
  machine: Machine;
  startedAt: string;
  /** What a person would type to have this again. */
  command: string;
  baseline: BackEnd;
  /** The settings that decide what the figures mean. */
  settings: Record<string, unknown>;
  runs: Run[];
  warmups: Run[];
  ratios: RatioPair[];
  tierSamples: TierSample[];
  drill?: DrillLine[];
}

/** Writes both files and returns where they are. */
export function writeReport(dir: string, report: Report): { json: string; html: string } {
  mkdirSync(dir, { recursive: true });
  const json = path.join(dir, 'report.json');
  const html = path.join(dir, 'report.html');
  writeFileSync(json, `${JSON.stringify(report, null, 2)}\n`);
  writeFileSync(html, renderReport(report));
  return { json, html };
}

export function renderReport(report: Report): string {
  const wrong = [...report.runs, ...report.warmups].filter((run) => !run.resultEqual);
  const verdict =
    wrong.length === 0
      ? `<p class="good">All ${report.runs.length + report.warmups.length} results are equal.</p>`
      : `<p class="bad">${wrong.length} results differ: ${escapeHtml(wrong.map((run) => `${run.query} ${run.backend} round ${run.round}`).join(', '))}</p>`;
  const sections = [
    '<h1>Ebb: TPC-DS on Spark</h1>',
    describe(report),
    verdict,
    report.drill === undefined ? comparisonSections(report) : drillSection(report.drill),
    tierSection(report.tierSamples),
  ];
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ebb: TPC-DS on Spark</title><style>${STYLE}</style></head>
<body><main>
${sections.filter((section) => section !== '').join('\n')}
</main></body></html>
`;
}

function comparisonSections({ runs, baseline }: Report): string {
  const lines = summarise(runs, baseline);
  const backends = BACK_ENDS.filter((backend) => runs.some((run) => run.backend === backend));
  const modes = MODES.filter((mode) => lines.some((line) => line.mode === mode));
  return `${modes.map((mode) => modeSection(mode, lines, backends)).join('\n')}
<h2>Figures</h2>
<p>CPU is Spark plus service. Ratios are by ${baseline}, taken inside each round; medians over rounds.</p>
${htmlTable(RUN_HEADER, summaryRows(runs, baseline), RUN_WORDS)}
<h2>Each arm by each other, all queries</h2>
${htmlTable(PAIR_HEADER, pairRows(runs), 3)}`;
}

function describe({ machine, startedAt, command, settings }: Report): string {
  const memory = `${Math.round(machine.memoryBytes / 2 ** 30)} GiB`;
  const facts = [
    `${machine.cores} cores (${machine.cpu}), ${memory}, ${machine.os}`,
    `Spark ${machine.spark}, Node ${machine.node}, ${machine.java}`,
    startedAt,
    Object.entries(settings)
      .map(
        ([name, value]) => `${name} ${typeof value === 'string' ? value : JSON.stringify(value)}`,
      )
      .join(', '),
  ];
  return `<p><code>${escapeHtml(command)}</code></p><p class="facts">${facts.map(escapeHtml).join('<br>')}</p>`;
}

function modeSection(mode: Mode, lines: readonly Line[], backends: readonly BackEnd[]): string {
  const ofMode = lines.filter((line) => line.mode === mode);
  const legend = renderLegend(backends.map((name, series) => ({ series, name })));
  const chart = (pick: (line: Line) => { value: number; part?: number }): string =>
    renderBars(groupByQuery(ofMode, backends, pick), (value) => `${value.toFixed(1)} s`);
  return `<h2>${mode} mode</h2>${legend}
<h3>Wall time</h3>${chart((line) => ({ value: line.wallSeconds }))}
<h3>CPU time of Spark and service <small>(the service is the part at the end)</small></h3>
${chart((line) => ({ value: line.cpuSeconds, part: line.serviceCpuSeconds }))}`;
}

function groupByQuery(
  lines: readonly Line[],
  backends: readonly BackEnd[],
  pick: (line: Line) => { value: number; part?: number },
): BarGroup[] {
  const queries = [...new Set(lines.map((line) => line.query))].filter(
    (query) => query !== ALL_QUERIES,
  );
  return queries.map((query) => ({
    label: query,
    bars: lines
      .filter((line) => line.query === query)
      .map((line) => ({
        series: backends.indexOf(line.backend),
        title: `${query} on ${line.backend}: ${pick(line).value.toFixed(2)} s`,
        ...pick(line),
      })),
  }));
}

function tierSection(samples: readonly TierSample[]): string {
  const backends = [...new Set(samples.map((sample) => sample.backend))];
  const charts = backends.map((backend) => {
    const lines = TIERS.map((tier, series) => ({
      series,
      name: tier,
      points: samples
        .filter((sample) => sample.backend === backend)
        .map((sample) => ({ x: sample.seconds, y: sample[tier] })),
    }));
    const chart = renderLines(lines, {
      formatX: (seconds) => `${Math.round(seconds)} s`,
      formatY: formatMegabytes,
    });
    return `<h3>${escapeHtml(backend)}</h3>${renderLegend(lines)}${chart}`;
  });
  return charts.length === 0 ? '' : `<h2>Bytes per tier over time</h2>${charts.join('')}`;
}

function drillSection(lines: readonly DrillLine[]): string {
  const backends = [...new Set(lines.map((line) => line.backend))];
  const groups: BarGroup[] = CASES.map((kind) => ({
    label: kind,
    bars: lines
      .filter((line) => line.case === kind)
      .map((line) => ({
        series: backends.indexOf(line.backend),
        value: line.wallSeconds,
        title: `${line.backend}, ${kind}, round ${line.round}`,
      })),
  }));
  return `<h2>An executor killed with kill -9</h2>
<p>healthy: nothing happens. cold: one executor was replaced by a cold one before the query. control: one executor is killed as the query
begins, nothing is lost, and its replacement starts meanwhile. killed: one executor dies halfway through the stage that reads the largest shuffle.</p>
${renderLegend(backends.map((name, series) => ({ series, name })))}<h3>Wall time</h3>
${renderBars(groups, (value) => `${value.toFixed(1)} s`)}
${htmlTable(DRILL_HEADER, drillRows(lines), DRILL_WORDS)}${htmlTable(LOSS_HEADER, lossRows(lines), 2)}`;
}

function htmlTable(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  words: number,
): string {
  const cells = (tag: string, row: readonly string[]): string =>
    row
      .map((cell, i) => `<${tag}${i < words ? '' : ' class="figure"'}>${escapeHtml(cell)}</${tag}>`)
      .join('');
  const body = rows.map((row) => `<tr>${cells('td', row)}</tr>`).join('\n');
  return `<div class="wide"><table><thead><tr>${cells('th', header)}</tr></thead><tbody>${body}</tbody></table></div>`;
}

const STYLE = `
:root { color-scheme: light dark; --text: #1d2430; --soft: #5b6675; --page: #fff; --line: #dde2e8;
  --c0: #8a94a3; --c1: #b9802d; --c2: #1f7a8c; --c3: #6b4fa0; --good: #1c7c44; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --soft: #9aa5b4; --page: #14181f; --line: #2c3440;
  --c0: #8d97a6; --c1: #d9a04e; --c2: #45b3c8; --c3: #a58be0; --good: #5fc98a; --bad: #ff8a80; } }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { font-size: 26px; } h2 { margin: 40px 0 8px; font-size: 20px; border-bottom: 1px solid var(--line); }
h3 { margin: 16px 0 4px; font-size: 15px; } small, .facts { color: var(--soft); font-weight: normal; font-size: 13px; }
code { font-size: 13px; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--text); font: 11px system-ui, sans-serif; } svg .value { fill: var(--soft); }
.s0 { fill: var(--c0); } .s1 { fill: var(--c1); } .s2 { fill: var(--c2); } .s3 { fill: var(--c3); }
.part { filter: brightness(.6); } .grid { stroke: var(--line); } .line { fill: none; stroke-width: 1.5; }
.l0 { stroke: var(--c0); } .l1 { stroke: var(--c1); } .l2 { stroke: var(--c2); }
.legend span { margin-right: 18px; font-size: 13px; } .legend i { display: inline-block; width: 11px; height: 11px; margin-right: 6px; border-radius: 2px; }
.b0 { background: var(--c0); } .b1 { background: var(--c1); } .b2 { background: var(--c2); } .b3 { background: var(--c3); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; } th, td { padding: 3px 12px 3px 0; text-align: left; }
th { color: var(--soft); font-weight: 600; } td { border-top: 1px solid var(--line); } .figure { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
`;
