/** One side of the comparison: a Spark application, and the Ebb node that it shuffles through, if any. */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { type BackEnd, usesEbb, vanillaSettings } from './back-ends.ts';
import { EbbNode } from './ebb-node.ts';
import { Stopwatch } from './measure.ts';
import type { RunDir } from './run-dir.ts';
import { SparkApp } from './spark-app.ts';

const DRIVER_MEMORY_MIB = 1024;

export interface ArmOptions {
  backend: BackEnd;
  run: RunDir;
  tables: Record<string, string>;
  executorMemoryMiB: number;
  /** Tier 0 of its node; unused without one. */
  memoryLimit: string;
  signal: AbortSignal;
}

export class Arm implements AsyncDisposable {
  readonly backend: BackEnd;
  readonly app: SparkApp;
  readonly node: EbbNode | undefined;
  readonly stopwatch: Stopwatch;

  private constructor(backend: BackEnd, app: SparkApp, node: EbbNode | undefined) {
    this.backend = backend;
    this.app = app;
    this.node = node;
    this.stopwatch = new Stopwatch(app, node);
  }

  static async open(options: ArmOptions): Promise<Arm> {
    const { backend, run, memoryLimit } = options;
    const dir = path.join(run.path, backend);
    mkdirSync(dir, { recursive: true });
    const node = usesEbb(backend)
      ? await EbbNode.start({ name: backend, run, memoryLimit })
      : undefined;
    try {
      const settings = (await node?.readSparkSettings()) ?? vanillaSettings(backend);
      const app = await SparkApp.open({
        name: `tpcds ${backend}`,
        dir,
        tables: options.tables,
        executorMemoryMiB: options.executorMemoryMiB,
        driverMemoryMiB: DRIVER_MEMORY_MIB,
        settings,
        signal: options.signal,
      });
      return new Arm(backend, app, node);
    } catch (error) {
      await node?.[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** First the application, so that it can say good-bye to the node. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.app[Symbol.asyncDispose]();
    await this.node?.[Symbol.asyncDispose]();
  }
}
