/** `npm start -- …`: TPC-DS on real Spark, vanilla shuffle against Ebb. What it can do is in options.ts and in `--help`. */
import path from 'node:path';
import { type BenchOutcome, runBench } from './bench.ts';
import { formatDrill } from './drill-summary.ts';
import { type DrillLine, runExecutorKill } from './fault.ts';
import { formatGrid, runGrid, writeGrid } from './grid.ts';
import { describeMachine } from './machine.ts';
import { type BenchOptions, createProgram, type GridOptions } from './options.ts';
import { shown } from './places.ts';
import { Progress } from './progress.ts';
import { writeReport } from './report.ts';
import { openRunDir, type RunDir } from './run-dir.ts';
import { pairRatios } from './statistics.ts';
import { formatSummary } from './summary.ts';

const INTERRUPTED = 130;

/** Runs `work` with a run folder, and clears it away unless the work failed: then its logs are worth a look. */
async function withRun(
  work: (run: RunDir, signal: AbortSignal) => Promise<boolean>,
): Promise<void> {
  const interrupt = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.once(name, () => {
      process.stderr.write('\ninterrupted: stopping Spark …\n');
      interrupt.abort();
    });
  const run = openRunDir();
  try {
    const isGood = await work(run, interrupt.signal);
    run.remove();
    if (!isGood) process.exitCode = 1;
  } catch (error) {
    if (interrupt.signal.aborted) {
      run.remove();
      process.exitCode = INTERRUPTED;
      return;
    }
    process.stderr.write(
      `\n✗ ${error instanceof Error ? error.message : String(error)}\n  Logs of this run: ${shown(run.path)}\n`,
    );
    process.exitCode = 1;
  }
}

async function bench(options: BenchOptions): Promise<void> {
  await withRun(async (run, signal) => {
    const progress = new Progress();
    const startedAt = new Date().toISOString();
    // The drill is about the query with the one large shuffle.
    const settings = options.fault === undefined ? options : { ...options, queries: ['67'] };
    const context = { options: settings, progress, run, signal };
    const outcome: BenchOutcome & { drill?: DrillLine[] } =
      options.fault === undefined ? await runBench(context) : await runExecutorKill(context);
    const { runs, warmups, samples, memoryLimits, drill } = outcome;
    const baseline = options.backends.includes('vanilla')
      ? 'vanilla'
      : (options.backends[0] ?? 'vanilla');
    const files = writeReport(path.resolve(options.report), {
      machine: describeMachine(),
      startedAt,
      command: ['npm start --', ...process.argv.slice(2)].join(' '),
      baseline,
      settings: {
        scale: options.scale,
        partitions: options.partitions,
        executorMemoryMiB: options.executorMemory,
        memoryLimits,
      },
      runs,
      warmups,
      // A drill runs one query in three cases; its own table says what follows.
      ratios: drill === undefined ? pairRatios(runs) : [],
      tierSamples: samples,
      ...(drill && { drill }),
    });
    console.log(`\n${drill === undefined ? formatSummary(runs, baseline) : formatDrill(drill)}\n`);
    const wrong = [...runs, ...warmups].filter((result) => !result.resultEqual);
    for (const { query, mode, backend, round, comparison } of wrong)
      console.log(`DIFFERENT: ${mode} ${query} on ${backend}, round ${round}: ${comparison}`);
    if (wrong.length === 0)
      console.log(`All ${runs.length + warmups.length} results are equal, row by row.`);
    progress.say(`report: ${shown(files.json)}, ${shown(files.html)}`);
    return wrong.length === 0;
  });
}

async function grid(options: GridOptions): Promise<void> {
  await withRun(async (run, signal) => {
    const progress = new Progress();
    const runs = await runGrid({ options, progress, run, signal });
    console.log(
      `\n${formatGrid(runs)}\n\nCPU is Spark plus service; ratios are of CPU, inside each round.`,
    );
    progress.say(`report: ${writeGrid(path.resolve(options.report), options, runs)}`);
    return runs.every((result) => result.resultEqual);
  });
}

await createProgram({ bench, grid }).parseAsync();
