/**
 * The plain bench: open all arms, warm up, then rounds in which every arm runs every query, arm after arm.
 *
 * Arms are compared within a round only (see statistics.ts), and take turns at going first. All applications stay
 * open throughout: an idle one costs next to nothing, a cold one would cost a minute of compilation.
 */
import { Arm } from './arm.ts';
import { type BackEnd, usesEbb } from './back-ends.ts';
import { findTables, prepareData, readQuery } from './data.ts';
import { type Run, totalShuffleBytes, totalTasks } from './measure.ts';
import { type TierSample, TierSampler } from './metrics.ts';
import type { Mode } from './modes.ts';
import type { BenchOptions } from './options.ts';
import type { Progress } from './progress.ts';
import { ResultBook } from './results.ts';
import type { RunDir } from './run-dir.ts';

const ROUNDS_MAX = 3;
/** The share of a mean shuffle that `ebb-limited` may keep in memory. */
const LIMITED_SHARE = 0.03;

export interface BenchContext {
  options: BenchOptions;
  progress: Progress;
  run: RunDir;
  signal: AbortSignal;
}

export interface BenchOutcome {
  runs: Run[];
  warmups: Run[];
  samples: TierSample[];
  /** Tier 0 of each node, as it was started. */
  memoryLimits: Partial<Record<BackEnd, string>>;
}

export async function runBench(context: BenchContext): Promise<BenchOutcome> {
  const { options, progress } = context;
  await using bench = await openBench(context);
  const { arms } = bench;
  const outcome = bench.outcome;
  for (const backend of openingOrder(options.backends)) {
    const arm = await bench.openArm(backend, chooseMemoryLimit(backend, options, outcome.warmups));
    for (let round = 1; round <= (options.warmups ?? 1); round++)
      for (const cell of bench.warmUpCells())
        outcome.warmups.push(await bench.runQuery(arm, cell, -round));
  }
  let roundSeconds = 0;
  for (let round = 1; hasTimeFor(round, roundSeconds, context); round++) {
    const roundStarted = progress.elapsedSeconds;
    for (const [i, cell] of bench.cells().entries()) {
      const first = (round + i) % arms.length;
      for (const arm of [...arms.slice(first), ...arms.slice(0, first)])
        outcome.runs.push(await bench.runQuery(arm, cell, round));
    }
    roundSeconds = progress.elapsedSeconds - roundStarted;
  }
  return outcome;
}

export interface Cell {
  query: string;
  sql: string;
  mode: Mode;
}

/** Everything that a round needs, opened; closed in the opposite order. */
export class OpenBench implements AsyncDisposable {
  readonly arms: Arm[] = [];
  readonly outcome: BenchOutcome = { runs: [], warmups: [], samples: [], memoryLimits: {} };
  readonly #context: BenchContext;
  readonly #queries: { query: string; sql: string }[];
  readonly #tables: Record<string, string>;
  readonly #results = new ResultBook();
  readonly #sampler: TierSampler;

  constructor(
    context: BenchContext,
    queries: { query: string; sql: string }[],
    tables: Record<string, string>,
  ) {
    this.#context = context;
    this.#queries = queries;
    this.#tables = tables;
    this.#sampler = new TierSampler(context.progress.started);
    this.outcome.samples = this.#sampler.samples;
  }

  async openArm(backend: BackEnd, memoryLimit: string): Promise<Arm> {
    const { options, progress, run, signal } = this.#context;
    signal.throwIfAborted();
    const done = progress.begin(`starting ${backend}`);
    const before = progress.elapsedSeconds;
    try {
      const executorMemoryMiB = options.executorMemory;
      const arm = await Arm.open({
        backend,
        run,
        tables: this.#tables,
        executorMemoryMiB,
        memoryLimit,
        signal,
      });
      this.arms.push(arm);
      if (arm.node !== undefined) {
        this.outcome.memoryLimits[backend] = memoryLimit;
        this.#sampler.watch(backend, arm.node);
      }
    } finally {
      done();
    }
    const seconds = (progress.elapsedSeconds - before).toFixed(1);
    progress.say(
      `${backend} is up, ${seconds} s${usesEbb(backend) ? ` (tier 0: ${memoryLimit})` : ''}`,
    );
    return this.arms.at(-1) as Arm;
  }

  cells(): Cell[] {
    return this.#context.options.modes.flatMap((mode) =>
      this.#queries.map((query) => ({ ...query, mode })),
    );
  }

  /** Unless warm-ups were asked for, one mode's will do: most of what is slow in a cold JVM is common to all. */
  warmUpCells(): Cell[] {
    const { modes, warmups } = this.#context.options;
    return this.cells().filter((cell) => warmups !== undefined || cell.mode === modes[0]);
  }

  /** Runs one query on one arm and compares its result. Rounds below 1 are warm-ups. */
  async runQuery(arm: Arm, cell: Cell, round: number): Promise<Run> {
    const { options, progress, signal } = this.#context;
    signal.throwIfAborted();
    const name = `${round < 1 ? 'warm-up' : `round ${round}`} · ${cell.mode} ${cell.query} · ${arm.backend}`;
    await arm.app.setMode(cell.mode, options.partitions);
    const done = progress.begin(name);
    const timed = await arm.stopwatch.time(() => arm.app.runQuery(cell.sql)).finally(done);
    const stages = await arm.app.readStages();
    // Both sides drop their shuffles now, outside the clocks, instead of at some later collection inside them.
    await arm.app.collectGarbage();
    const comparison = this.#results.check(cell.query, cell.sql, timed.result, arm.backend);
    const run: Run = {
      query: cell.query,
      mode: cell.mode,
      backend: arm.backend,
      round,
      wallSeconds: timed.result.wallSeconds,
      cpuSeconds: timed.cpuSeconds,
      serviceCpuSeconds: timed.serviceCpuSeconds,
      shuffleBytes: totalShuffleBytes(stages),
      resultEqual: comparison.equal,
      comparison: comparison.how,
      rows: timed.result.rows.length,
      serviceCpuSecondsBetween: timed.serviceCpuSecondsBetween,
      tasks: totalTasks(stages),
    };
    const cpu = `${(run.cpuSeconds + run.serviceCpuSeconds).toFixed(1)} s CPU`;
    const verdict = comparison.equal ? `${run.rows} rows, equal` : `DIFFERENT: ${comparison.how}`;
    progress.say(`${name}: ${run.wallSeconds.toFixed(1)} s, ${cpu}, ${verdict}`);
    return run;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sampler[Symbol.asyncDispose]();
    await Promise.all(this.arms.map((arm) => arm[Symbol.asyncDispose]()));
  }
}

export async function openBench(context: BenchContext): Promise<OpenBench> {
  const { options, progress } = context;
  const queries = options.queries.map((number) => ({
    query: `q${number}`,
    sql: readQuery(number),
  }));
  const dataDir = await prepareData(options.scale, (line) => progress.say(line));
  const texts = queries.map(({ sql }) => sql);
  return new OpenBench(context, queries, findTables(dataDir, texts));
}

/** Vanilla first: its results are what others must equal. The limited node last: its limit depends on what the others shuffled. */
function openingOrder(backends: readonly BackEnd[]): BackEnd[] {
  const rank = (backend: BackEnd): number =>
    backend === 'vanilla' ? 0 : backend === 'ebb-limited' ? 2 : 1;
  return backends.toSorted((left, right) => rank(left) - rank(right));
}

/** Until something was measured, `ebb-limited` is given what the mean query of this scale shuffles in forced mode: 93 MB at scale 1. */
const FORCED_MEAN_BYTES_AT_SCALE_1 = 93e6;

export function chooseMemoryLimit(
  backend: BackEnd,
  options: Pick<BenchOptions, 'memoryLimit' | 'limitedMemory' | 'scale'>,
  measured: readonly Run[],
): string {
  if (backend !== 'ebb-limited') return options.memoryLimit;
  if (options.limitedMemory !== undefined) return options.limitedMemory;
  const forced = measured.filter((run) => run.mode === 'forced');
  const known = forced.length > 0 ? forced : measured;
  const total = known.reduce((sum, run) => sum + run.shuffleBytes, 0);
  const mean =
    known.length > 0 ? total / known.length : FORCED_MEAN_BYTES_AT_SCALE_1 * options.scale;
  return `${Math.max(1, Math.round((mean * LIMITED_SHARE) / 1024))}KiB`;
}

/** Exactly `--runs` rounds; or at least one, and more while another one like the last would end in time. */
function hasTimeFor(
  round: number,
  lastRoundSeconds: number,
  { options, progress }: BenchContext,
): boolean {
  if (options.runs !== undefined) return round <= options.runs;
  if (round === 1) return true;
  return round <= ROUNDS_MAX && progress.elapsedSeconds + lastRoundSeconds < options.timeLimit;
}
