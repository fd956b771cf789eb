/**
 * `--fault executor-kill`: what does the loss of an executor cost?
 *
 * Four cases, in turn, on each arm, each one a run of the same query in forced mode:
 *   healthy   nothing happens
 *   cold      one executor is killed while nothing runs, and replaced, before the query: nothing is lost, but one JVM is cold
 *   control   one executor is killed as the query begins: nothing is lost, but its replacement starts during the query
 *   killed    one executor is killed halfway through the stage that reads the largest shuffle
 * Most of what `killed` costs over `healthy` is the new JVM: that it starts, and that it is cold. `control` pays both, so what a
 * shuffle can do about the loss is seen against it.
 * A stage is known by what it reads, not by its id: ids change between runs.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Arm } from './arm.ts';
import {
  type BenchContext,
  type BenchOutcome,
  type Cell,
  type OpenBench,
  openBench,
} from './bench.ts';
import type { Run } from './measure.ts';
import { type ActiveStage, EXECUTORS, type StageFacts } from './spark-app.ts';

export const CASES = ['healthy', 'cold', 'control', 'killed'] as const;
export type Case = (typeof CASES)[number];

const POLL_MS = 30;
const REPLACEMENT_TIMEOUT_MS = 60_000;
/** How near to the largest read a stage's projected read must come to be that stage. */
const LIKENESS = 0.8;

/** What a loss did to the stages of a query. */
export interface Losses {
  recomputedMapTasks: number;
  stageRetries: number;
  fetchFailures: number;
}

/** One measured round of a case, as the table shows it. */
export interface DrillLine extends Losses {
  backend: string;
  case: Case;
  round: number;
  wallSeconds: number;
  cpuSeconds: number;
  resultEqual: boolean;
}

export async function runExecutorKill(
  context: BenchContext,
): Promise<BenchOutcome & { drill: DrillLine[] }> {
  const { options } = context;
  await using bench = await openBench({ ...context, options: { ...options, modes: ['forced'] } });
  const cell = bench.cells()[0] as Cell;
  const drill: DrillLine[] = [];
  for (const backend of options.backends) {
    const arm = await bench.openArm(backend, options.limitedMemory ?? options.memoryLimit);
    for (let round = 1; round <= (options.warmups ?? 1); round++)
      bench.outcome.warmups.push(await bench.runQuery(arm, cell, -round));
  }
  // A replaced executor stays cold for a query or two: after each loss both executors are warmed again, unmeasured.
  for (let round = 1; round <= (options.runs ?? 1); round++)
    for (const kind of CASES)
      for (const arm of bench.arms)
        drill.push(await runCase(bench, { arm, cell, kind, round, context }));
  return { ...bench.outcome, drill };
}

interface CaseInput {
  arm: Arm;
  cell: Cell;
  kind: Case;
  round: number;
  context: BenchContext;
}

async function runCase(
  bench: OpenBench,
  { arm, cell, kind, round, context }: CaseInput,
): Promise<DrillLine> {
  const { progress, signal } = context;
  const healthy = await bench.runQuery(arm, cell, 0);
  bench.outcome.warmups.push(healthy);
  const reference = largestRead(await arm.app.readStages());
  if (kind === 'cold' || kind === 'control') await killExecutor(arm);
  if (kind === 'cold') await waitForReplacement(arm, signal);
  const ended = new AbortController();
  const watching =
    kind === 'killed' ? killInLargestStage(arm, reference, ended.signal) : Promise.resolve(true);
  const run: Run = await bench.runQuery(arm, cell, round).finally(() => ended.abort());
  if (!(await watching))
    throw new Error('the stage that reads the largest shuffle was not seen; try a larger --scale');
  const stages = await arm.app.readStages();
  if (kind === 'control' || kind === 'killed') await waitForReplacement(arm, signal);
  bench.outcome.runs.push({ ...run, drill: kind });
  const line: DrillLine = {
    backend: arm.backend,
    case: kind,
    round,
    wallSeconds: run.wallSeconds,
    cpuSeconds: run.cpuSeconds + run.serviceCpuSeconds,
    resultEqual: run.resultEqual,
    ...countLosses(stages),
  };
  progress.say(
    `${arm.backend} ${kind}: ${line.recomputedMapTasks} map tasks recomputed, ${line.stageRetries} stage retries, ` +
      `${line.fetchFailures} fetch failures`,
  );
  return line;
}

export function largestRead(stages: readonly StageFacts[]): number {
  return Math.max(0, ...stages.map((stage) => stage.shuffleReadBytes));
}

/** Is this the stage that reads the largest shuffle, and is it half done? What it will read is projected from what it has. */
export function isLargestHalfDone(stage: ActiveStage, largestReadBytes: number): boolean {
  if (stage.numTasks < 2 || stage.numCompleteTasks * 2 < stage.numTasks) return false;
  const projected = (stage.shuffleReadBytes / stage.numCompleteTasks) * stage.numTasks;
  return stage.attemptId === 0 && projected >= LIKENESS * largestReadBytes;
}

/**
 * Map tasks that ran again, stages that were tried again, tasks that could not fetch. A map task ran again where a map stage
 * has a later attempt, or completed more tasks than it has partitions (Spark resubmits those of a lost executor).
 */
export function countLosses(stages: readonly StageFacts[]): Losses {
  const again = stages.filter((stage) => stage.attemptId > 0);
  const isMap = new Set(
    stages.filter((stage) => stage.shuffleWriteBytes > 0).map((stage) => stage.stageId),
  );
  const maps = stages.filter((stage) => isMap.has(stage.stageId));
  const recomputed = maps.map((stage) =>
    stage.attemptId > 0
      ? stage.numCompleteTasks
      : stage.numCompleteTasks - stage.numCompletedIndices,
  );
  return {
    recomputedMapTasks: recomputed.reduce((sum, tasks) => sum + tasks, 0),
    stageRetries: again.length,
    fetchFailures: stages
      .flatMap((stage) => stage.failures)
      .filter((text) => text.startsWith('FetchFailed')).length,
  };
}

/** Resolves to whether the stage was seen, and an executor killed, before the query ended. */
async function killInLargestStage(
  arm: Arm,
  largestReadBytes: number,
  ended: AbortSignal,
): Promise<boolean> {
  while (!ended.aborted) {
    const stages = await arm.app.readActiveStages();
    if (stages.some((stage) => isLargestHalfDone(stage, largestReadBytes))) {
      await killExecutor(arm);
      return true;
    }
    await sleep(POLL_MS);
  }
  return false;
}

async function killExecutor(arm: Arm): Promise<void> {
  const [victim] = arm.app.findExecutorProcesses().values();
  if (victim === undefined) throw new Error(`${arm.backend} has no executor to kill`);
  process.kill(victim, 'SIGKILL');
}

/** Waits until Spark counts as many live executors as before, all of them running processes. */
async function waitForReplacement(arm: Arm, signal: AbortSignal): Promise<void> {
  const deadline = Date.now() + REPLACEMENT_TIMEOUT_MS;
  while (Date.now() < deadline) {
    const processes = arm.app.findExecutorProcesses();
    const known = await arm.app.readExecutorIds();
    if (known.length === EXECUTORS && known.every((id) => processes.has(id))) return;
    await sleep(POLL_MS, undefined, { signal });
  }
  throw new Error(
    `${arm.backend}: the killed executor was not replaced in ${REPLACEMENT_TIMEOUT_MS / 1000} s`,
  );
}
