/** What is written down about one query on one arm, and how it is taken. */
import type { BackEnd } from './back-ends.ts';
import type { Mode } from './modes.ts';
import type { StageFacts, TimedResult } from './spark-app.ts';

/** One line of `report.json`. Persisted for others: the first nine names stay stable. */
export interface Run {
  query: string;
  mode: Mode;
  backend: BackEnd;
  round: number;
  wallSeconds: number;
  /** Spark: driver and executors. */
  cpuSeconds: number;
  /** The Ebb daemon, while the query ran. 0 where there is none. */
  serviceCpuSeconds: number;
  /** What map tasks wrote for reduce tasks, as Spark counts it: compressed. */
  shuffleBytes: number;
  resultEqual: boolean;
  /** How the result was compared, or where it differs. */
  comparison: string;
  rows: number;
  /** The daemon, from the end of the query before to the start of this one: removing, spilling, being asked for figures. */
  serviceCpuSecondsBetween: number;
  tasks: TaskTotals;
  /** The case of a fault drill, where it was one. */
  drill?: string;
}

/** Sums over all task attempts of a query. */
export interface TaskTotals {
  tasks: number;
  failedTasks: number;
  runSeconds: number;
  cpuSeconds: number;
  gcSeconds: number;
  fetchWaitSeconds: number;
  shuffleReadBytes: number;
  shuffleWriteSeconds: number;
  diskBytesSpilled: number;
}

export function totalTasks(stages: readonly StageFacts[]): TaskTotals {
  const sum = (pick: (stage: StageFacts) => number): number =>
    stages.reduce((total, stage) => total + pick(stage), 0);
  return {
    tasks: sum((stage) => stage.numCompleteTasks),
    failedTasks: sum((stage) => stage.numFailedTasks),
    runSeconds: sum((stage) => stage.executorRunTime) / 1e3,
    cpuSeconds: sum((stage) => stage.executorCpuTime) / 1e9,
    gcSeconds: sum((stage) => stage.jvmGcTime) / 1e3,
    fetchWaitSeconds: sum((stage) => stage.shuffleFetchWaitTime) / 1e3,
    shuffleReadBytes: sum((stage) => stage.shuffleReadBytes),
    shuffleWriteSeconds: sum((stage) => stage.shuffleWriteTime) / 1e9,
    diskBytesSpilled: sum((stage) => stage.diskBytesSpilled),
  };
}

export function totalShuffleBytes(stages: readonly StageFacts[]): number {
  return stages.reduce((total, stage) => total + stage.shuffleWriteBytes, 0);
}

interface Clocks {
  readCpuSeconds(): number;
}

export interface Timed {
  result: TimedResult;
  cpuSeconds: number;
  serviceCpuSeconds: number;
  serviceCpuSecondsBetween: number;
}

/** Reads the clocks of an application and of its service around a piece of work. One per arm: it remembers when it read last. */
export class Stopwatch {
  readonly #app: Clocks;
  readonly #service: Clocks | undefined;
  #serviceBefore: number;

  constructor(app: Clocks, service: Clocks | undefined) {
    this.#app = app;
    this.#service = service;
    this.#serviceBefore = this.#readService();
  }

  async time(work: () => Promise<TimedResult>): Promise<Timed> {
    const appStart = this.#app.readCpuSeconds();
    const serviceStart = this.#readService();
    const result = await work();
    const serviceEnd = this.#readService();
    const timed = {
      result,
      cpuSeconds: this.#app.readCpuSeconds() - appStart,
      serviceCpuSeconds: serviceEnd - serviceStart,
      serviceCpuSecondsBetween: serviceStart - this.#serviceBefore,
    };
    this.#serviceBefore = serviceEnd;
    return timed;
  }

  #readService(): number {
    return this.#service?.readCpuSeconds() ?? 0;
  }
}
