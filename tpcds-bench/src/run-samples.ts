/** Made-up runs for tests. */
import { type Run, totalTasks } from './measure.ts';
import type { StageFacts } from './spark-app.ts';

export function aRun(facts: Partial<Run> = {}): Run {
  return {
    query: 'q67',
    mode: 'forced',
    backend: 'vanilla',
    round: 1,
    wallSeconds: 1,
    cpuSeconds: 2,
    serviceCpuSeconds: 0,
    shuffleBytes: 1_000_000,
    resultEqual: true,
    comparison: 'in order',
    rows: 100,
    serviceCpuSecondsBetween: 0,
    tasks: totalTasks([]),
    ...facts,
  };
}

export function aStage(facts: Partial<StageFacts> = {}): StageFacts {
  return {
    stageId: 0,
    attemptId: 0,
    numTasks: 4,
    numCompleteTasks: 4,
    numCompletedIndices: 4,
    numFailedTasks: 0,
    executorRunTime: 0,
    executorCpuTime: 0,
    jvmGcTime: 0,
    shuffleFetchWaitTime: 0,
    shuffleReadBytes: 0,
    shuffleReadRecords: 0,
    shuffleWriteBytes: 0,
    shuffleWriteTime: 0,
    memoryBytesSpilled: 0,
    diskBytesSpilled: 0,
    status: 'COMPLETE',
    failures: [],
    ...facts,
  };
}
