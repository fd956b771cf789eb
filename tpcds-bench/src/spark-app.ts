/**
 * One arm: a long-lived Spark application with two real executors (`local-cluster[2,1,…]`), measured from outside.
 *
 * Every application has its own SPARK_HOME, a folder of links to the installed one, so that Spark's `work` folder
 * (the executors' logs and scratch) belongs to this run and is removed with it.
 */
import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Result } from './compare.ts';
import { DriverProcess } from './driver-process.ts';
import { type Mode, modeSettings } from './modes.ts';
import { PLACES } from './places.ts';
import { findExecutors, readCpuSeconds } from './proc-tree.ts';

export const EXECUTORS = 2;

export interface SparkAppOptions {
  name: string;
  dir: string;
  /** Name of a view → folder of Parquet files. */
  tables: Record<string, string>;
  executorMemoryMiB: number;
  driverMemoryMiB: number;
  settings: Record<string, string>;
  /** Ends the application at once. */
  signal: AbortSignal;
}

/** One attempt of a stage, as Spark's status store tells it. Times in ms, except `executorCpuTime` and `shuffleWriteTime` (ns). */
export interface StageFacts {
  stageId: number;
  attemptId: number;
  numTasks: number;
  numCompleteTasks: number;
  numCompletedIndices: number;
  numFailedTasks: number;
  executorRunTime: number;
  executorCpuTime: number;
  jvmGcTime: number;
  shuffleFetchWaitTime: number;
  shuffleReadBytes: number;
  shuffleReadRecords: number;
  shuffleWriteBytes: number;
  shuffleWriteTime: number;
  memoryBytesSpilled: number;
  diskBytesSpilled: number;
  status: string;
  failures: string[];
}

export interface ActiveStage {
  stageId: number;
  attemptId: number;
  numTasks: number;
  numCompleteTasks: number;
  shuffleReadBytes: number;
}

export interface TimedResult extends Result {
  wallSeconds: number;
}

export class SparkApp implements AsyncDisposable {
  readonly #driver: DriverProcess;

  private constructor(driver: DriverProcess) {
    this.#driver = driver;
  }

  static async open(options: SparkAppOptions): Promise<SparkApp> {
    const home = makeSparkHome(options.dir);
    const driver = new DriverProcess({
      python: PLACES.python,
      script: PLACES.sparkDriver,
      logFile: path.join(options.dir, 'driver.log'),
      signal: options.signal,
      env: {
        ...process.env,
        SPARK_HOME: home,
        SPARK_CONF_DIR: path.join(home, 'conf'),
        SPARK_LOCAL_IP: '127.0.0.1',
        PYSPARK_PYTHON: PLACES.python,
        PYTHONUNBUFFERED: '1',
      },
    });
    const app = new SparkApp(driver);
    try {
      await driver.ask('open', { conf: commonSettings(options), tables: options.tables });
      return app;
    } catch (error) {
      await app[Symbol.asyncDispose]();
      throw error;
    }
  }

  setMode(mode: Mode, partitions: number): Promise<unknown> {
    return this.#driver.ask('configure', { conf: modeSettings(mode, partitions) });
  }

  runQuery(sql: string): Promise<TimedResult> {
    return this.#driver.ask('run', { sql });
  }

  runShuffle(shape: {
    rows: number;
    maps: number;
    partitions: number;
    check: boolean;
  }): Promise<TimedResult> {
    return this.#driver.ask('shuffle', shape);
  }

  /** The stages of the last `run…`, complete. */
  async readStages(): Promise<StageFacts[]> {
    return (await this.#driver.ask<{ stages: StageFacts[] }>('stages')).stages;
  }

  async readActiveStages(): Promise<ActiveStage[]> {
    return (await this.#driver.ask<{ stages: ActiveStage[] }>('active')).stages;
  }

  /** Executors that Spark counts as alive. */
  async readExecutorIds(): Promise<string[]> {
    return (await this.#driver.ask<{ ids: string[] }>('executors')).ids;
  }

  collectGarbage(): Promise<unknown> {
    return this.#driver.ask('collectGarbage');
  }

  /** CPU seconds so far of the whole application: Python, driver JVM, executors alive and dead. */
  readCpuSeconds(): number {
    return readCpuSeconds(this.#driver.pid);
  }

  /** Executor id → process id. */
  findExecutorProcesses(): Map<string, number> {
    return findExecutors(this.#driver.pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // `close` lets the plugin say good-bye; an application that does not answer ends with its stdin.
    await Promise.race([
      this.#driver.ask('close').catch(() => {}),
      new Promise((done) => setTimeout(done, 10_000)),
    ]);
    await this.#driver[Symbol.asyncDispose]();
  }
}

function commonSettings(options: SparkAppOptions): Record<string, string> {
  const { executorMemoryMiB } = options;
  return {
    'spark.master': `local-cluster[${EXECUTORS},1,${executorMemoryMiB}]`,
    'spark.app.name': options.name,
    'spark.executor.memory': `${executorMemoryMiB}m`,
    'spark.driver.memory': `${options.driverMemoryMiB}m`,
    'spark.driver.host': '127.0.0.1',
    'spark.driver.bindAddress': '127.0.0.1',
    'spark.local.dir': path.join(options.dir, 'local'),
    'spark.sql.warehouse.dir': path.join(options.dir, 'warehouse'),
    'spark.sql.session.timeZone': 'UTC',
    // Nobody looks at the pages; the figures are read from the store behind them.
    'spark.ui.enabled': 'false',
    'spark.ui.showConsoleProgress': 'false',
    ...options.settings,
  };
}

const LOGGING = `rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss.SSS} %p %c{1}: %m%n%ex
`;

function makeSparkHome(dir: string): string {
  const installed = findInstalledSpark();
  const home = path.join(dir, 'spark-home');
  mkdirSync(path.join(home, 'conf'), { recursive: true });
  mkdirSync(path.join(dir, 'local'), { recursive: true });
  for (const name of ['bin', 'jars'])
    symlinkSync(path.join(installed, name), path.join(home, name));
  writeFileSync(path.join(home, 'conf', 'log4j2.properties'), LOGGING);
  return home;
}

function findInstalledSpark(): string {
  const lib = path.join(PLACES.generated, 'venv', 'lib');
  const python = readdirSync(lib).find((name) => name.startsWith('python'));
  return path.join(lib, python ?? '', 'site-packages', 'pyspark');
}
