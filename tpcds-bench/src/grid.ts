/**
 * The synthetic grid: `repartition(R)` of M map tasks over the same rows, so that only the number of blocks changes.
 *
 * It shows how a shuffle's cost grows with maps × partitions; TPC-DS alone would hide it behind joins. The warm-up round of a cell
 * adds the moved rows up and compares the sums between arms; measured rounds throw them away, and must have read every row.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Arm } from './arm.ts';
import type { BackEnd } from './back-ends.ts';
import { describeMachine } from './machine.ts';
import { totalShuffleBytes, totalTasks } from './measure.ts';
import type { GridOptions } from './options.ts';
import { shown } from './places.ts';
import type { Progress } from './progress.ts';
import type { RunDir } from './run-dir.ts';
import type { StageFacts } from './spark-app.ts';
import { median } from './statistics.ts';
import { formatRatio, formatSeconds, formatTable } from './text-table.ts';

export interface GridRun {
  maps: number;
  partitions: number;
  backend: BackEnd;
  round: number;
  wallSeconds: number;
  cpuSeconds: number;
  serviceCpuSeconds: number;
  shuffleBytes: number;
  resultEqual: boolean;
  mapCpuSeconds: number;
  reduceCpuSeconds: number;
}

export interface GridContext {
  options: GridOptions;
  progress: Progress;
  run: RunDir;
  signal: AbortSignal;
}

export async function runGrid(context: GridContext): Promise<GridRun[]> {
  const { options, progress } = context;
  await using arms = new ArmList();
  for (const backend of options.backends) {
    const done = progress.begin(`starting ${backend}`);
    await arms.open(backend, context).finally(done);
    progress.say(`${backend} is up`);
  }
  const runs: GridRun[] = [];
  for (const cell of options.cells) {
    for (let round = 1; round <= options.warmups; round++) await warmUp(arms.list, cell, context);
    for (let round = 1; round <= options.runs; round++) {
      const first = round % arms.list.length;
      for (const arm of [...arms.list.slice(first), ...arms.list.slice(0, first)])
        runs.push(await runCell(arm, cell, round, context));
    }
  }
  return runs;
}

class ArmList implements AsyncDisposable {
  readonly list: Arm[] = [];

  async open(backend: BackEnd, { run, options, signal }: GridContext): Promise<void> {
    const { executorMemory, memoryLimit } = options;
    this.list.push(
      await Arm.open({
        backend,
        run,
        tables: {},
        executorMemoryMiB: executorMemory,
        memoryLimit,
        signal,
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.list.map((arm) => arm[Symbol.asyncDispose]()));
  }
}

interface GridCell {
  maps: number;
  partitions: number;
}

async function warmUp(
  arms: readonly Arm[],
  cell: GridCell,
  { options, progress, signal }: GridContext,
): Promise<void> {
  let expected: string | undefined;
  for (const arm of arms) {
    signal.throwIfAborted();
    const done = progress.begin(`warm-up ${cell.maps} × ${cell.partitions} · ${arm.backend}`);
    const { rows } = await arm.app
      .runShuffle({ rows: options.rows, ...cell, check: true })
      .finally(done);
    await arm.app.collectGarbage();
    const sums = JSON.stringify(rows);
    expected ??= sums;
    if (sums !== expected)
      throw new Error(
        `${cell.maps} × ${cell.partitions}: ${arm.backend} moved other rows: ${sums}, not ${expected}`,
      );
  }
}

async function runCell(
  arm: Arm,
  cell: GridCell,
  round: number,
  context: GridContext,
): Promise<GridRun> {
  const { options, progress, signal } = context;
  signal.throwIfAborted();
  const name = `${cell.maps} × ${cell.partitions} · ${arm.backend} · round ${round}`;
  const done = progress.begin(name);
  const work = (): ReturnType<Arm['app']['runShuffle']> =>
    arm.app.runShuffle({ rows: options.rows, ...cell, check: false });
  const timed = await arm.stopwatch.time(work).finally(done);
  const stages = await arm.app.readStages();
  await arm.app.collectGarbage();
  const isMap = (stage: StageFacts): boolean => stage.shuffleWriteBytes > 0;
  const readRows = stages.reduce((sum, stage) => sum + stage.shuffleReadRecords, 0);
  const run: GridRun = {
    ...cell,
    backend: arm.backend,
    round,
    wallSeconds: timed.result.wallSeconds,
    cpuSeconds: timed.cpuSeconds,
    serviceCpuSeconds: timed.serviceCpuSeconds,
    shuffleBytes: totalShuffleBytes(stages),
    resultEqual: readRows === options.rows,
    mapCpuSeconds: totalTasks(stages.filter(isMap)).cpuSeconds,
    reduceCpuSeconds: totalTasks(stages.filter((stage) => !isMap(stage))).cpuSeconds,
  };
  const cpu = (run.cpuSeconds + run.serviceCpuSeconds).toFixed(1);
  const missing = run.resultEqual ? '' : `, but ${readRows} of ${options.rows} rows were read`;
  progress.say(`${name}: ${run.wallSeconds.toFixed(1)} s, ${cpu} s CPU${missing}`);
  return run;
}

const HEADER = [
  'maps × partitions',
  'back end',
  'block kB',
  'wall s',
  'CPU s',
  'maps',
  'reduces',
  'service',
  'by vanilla',
  'by tuned',
  'equal',
];

/** Medians per cell and arm; ratios of CPU (Spark plus service) are taken inside each round. */
export function formatGrid(runs: readonly GridRun[]): string {
  const cells = Map.groupBy(runs, (run) => `${run.maps} × ${run.partitions}`);
  const rows = [...cells].flatMap(([name, ofCell]) =>
    [...new Set(ofCell.map((run) => run.backend))].map((backend) => gridRow(name, ofCell, backend)),
  );
  return formatTable(HEADER, rows, 2);
}

function gridRow(name: string, ofCell: readonly GridRun[], backend: BackEnd): string[] {
  const ofArm = ofCell.filter((run) => run.backend === backend);
  const figure = (pick: (run: GridRun) => number): string =>
    formatSeconds(median(ofArm.map(pick)) ?? Number.NaN);
  return [
    name,
    backend,
    figure((run) => run.shuffleBytes / run.maps / run.partitions / 1e3),
    figure((run) => run.wallSeconds),
    figure(totalCpu),
    figure((run) => run.mapCpuSeconds),
    figure((run) => run.reduceCpuSeconds),
    figure((run) => run.serviceCpuSeconds),
    formatRatio(gridRatio(ofCell, backend, 'vanilla')),
    formatRatio(gridRatio(ofCell, backend, 'vanilla-tuned')),
    ofArm.every((run) => run.resultEqual) ? 'yes' : 'NO',
  ];
}

export function gridRatio(
  ofCell: readonly GridRun[],
  backend: BackEnd,
  baseline: BackEnd,
): number | undefined {
  const base = new Map(
    ofCell.filter((run) => run.backend === baseline).map((run) => [run.round, totalCpu(run)]),
  );
  const ratios = ofCell
    .filter((run) => run.backend === backend && base.has(run.round))
    .map((run) => totalCpu(run) / (base.get(run.round) as number));
  return median(ratios);
}

function totalCpu(run: GridRun): number {
  return run.cpuSeconds + run.serviceCpuSeconds;
}

export function writeGrid(dir: string, options: GridOptions, runs: readonly GridRun[]): string {
  mkdirSync(dir, { recursive: true });
  const file = path.join(dir, 'grid.json');
  const { rows, memoryLimit, executorMemory } = options;
  const content = {
    machine: describeMachine(),
    settings: { rows, memoryLimit, executorMemory },
    runs,
  };
  writeFileSync(file, `${JSON.stringify(content, null, 2)}\n`);
  return shown(file);
}
