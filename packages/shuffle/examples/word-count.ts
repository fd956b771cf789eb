/**
 * Word count over a directory of text, in several worker processes that shuffle through an Ebb node.
 *
 *   node --conditions=source packages/shuffle/examples/word-count.ts --node http://127.0.0.1:9700 --workers 3 docs
 *
 * A map task counts the words of some files and writes (word, count), partitioned by word. A reduce task reads its
 * partitions of all map outputs and adds up. This process hands out the tasks, prints the result, and compares it with a
 * count of its own. It starts workers and nothing else: the node must run.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { DEFAULT_NODE, openClient } from '@ebb/client';
import {
  createShuffleClient,
  type IndexRange,
  type Serializer,
  stringSerializer,
} from '@ebb/shuffle';

const HELP = `word-count [--node URL] [--workers N] [--partitions N] [--compression none|zstd] [DIR]

Counts the words of all text files under DIR (default: this repository's docs and sources of packages/).
  --node         address of the Ebb node (default ${DEFAULT_NODE})
  --workers      worker processes (default 2)
  --partitions   partitions of the shuffle (default 8)
  --compression  of the shuffled bytes (default zstd)
  --memory       bytes of records a map task holds before it spills (default 67108864)`;

const SHUFFLE_ID = 0;
const TEXT_FILE = /\.(md|txt|ts|js|mjs|json|java|py|html|csv)$/;
const TOP_WORDS = 10;

interface JobSettings {
  readonly node: string;
  readonly jobId: string;
  readonly partitions: number;
  readonly compression: 'none' | 'zstd';
  readonly memoryBytes: number;
}
type Task =
  | { readonly kind: 'map'; readonly mapIndex: number; readonly files: readonly string[] }
  | { readonly kind: 'reduce'; readonly partitions: IndexRange };
type Counts = readonly (readonly [word: string, count: number])[];
interface TaskResult {
  readonly counts?: Counts;
  readonly bytes?: number;
  readonly error?: string;
}

const countSerializer: Serializer<number> = {
  encode(count) {
    const bytes = Buffer.allocUnsafe(4);
    bytes.writeUInt32LE(count);
    return bytes;
  },
  decode: (bytes) => bytes.readUInt32LE(0),
};
const serializers = { keySerializer: stringSerializer, valueSerializer: countSerializer };

function countWords(text: string, into: Map<string, number>): void {
  for (const [word] of text.toLowerCase().matchAll(/[\p{L}\p{N}]+/gu))
    into.set(word, (into.get(word) ?? 0) + 1);
}

/* The worker */

async function runWorker(settings: JobSettings): Promise<void> {
  const name = `word-count worker ${process.pid}`;
  await using client = await openClient({ node: settings.node, job: settings.jobId, name });
  await using shuffle = createShuffleClient(client.connection, { jobId: settings.jobId });
  const { partitions, compression, memoryBytes } = settings;

  const map = async (mapIndex: number, files: readonly string[]): Promise<TaskResult> => {
    await using writer = await shuffle.openWriter({
      ...{ shuffleId: SHUFFLE_ID, mapIndex, attemptId: mapIndex },
      ...{ partitions, compression, memoryBytes, ...serializers },
    });
    for (const file of files) {
      const counts = new Map<string, number>();
      countWords(await readFile(file, 'utf8'), counts);
      await writer.writeAll(counts);
    }
    const { partitionBytes } = await writer.commit();
    return { bytes: partitionBytes.reduce((sum, bytes) => sum + bytes, 0) };
  };
  const reduce = async (range: IndexRange): Promise<TaskResult> => {
    const counts = new Map<string, number>();
    const options = { shuffleId: SHUFFLE_ID, partitions: range, ...serializers };
    const reader = await shuffle.openReader(options);
    for await (const { records } of reader.batches())
      for (const { key, value } of records) counts.set(key, (counts.get(key) ?? 0) + value);
    return { counts: [...counts] };
  };

  const stopped = once(process, 'disconnect');
  process.on('message', (task: Task) => {
    const work = task.kind === 'map' ? map(task.mapIndex, task.files) : reduce(task.partitions);
    void work
      .catch((error: unknown): TaskResult => ({ error: String(error) }))
      .then((result) => process.send?.(result));
  });
  process.send?.({}); // ready
  await stopped;
}

/* The parent */

async function run(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      node: { type: 'string', default: DEFAULT_NODE },
      workers: { type: 'string', default: '2' },
      partitions: { type: 'string', default: '8' },
      compression: { type: 'string', default: 'zstd' },
      memory: { type: 'string', default: String(64 * 1024 * 1024) },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return 0;
  }
  const workers = parseCount('--workers', values.workers);
  const partitions = parseCount('--partitions', values.partitions);
  const repository = resolve(import.meta.dirname, '../../..');
  const folders =
    positionals.length > 0 ? positionals : [join(repository, 'docs'), join(repository, 'packages')];
  const files = (await Promise.all(folders.map(listFiles))).flat().sort();
  if (files.length === 0) {
    console.error(`no text files under ${folders.join(', ')}`);
    return 2;
  }

  const jobId = `word-count-${process.pid}-${Date.now()}`;
  await using client = await openClient({ node: values.node });
  await using _job = await client.jobs.open(jobId, { label: 'word count' });
  await using shuffle = createShuffleClient(client.connection, { jobId });
  // A few maps a worker, so that none waits long for the slowest.
  const maps = Math.min(files.length, workers * 3);
  await shuffle.register({ shuffleId: SHUFFLE_ID, maps, partitions });

  const compression = values.compression === 'none' ? 'none' : 'zstd';
  const memoryBytes = parseCount('--memory', values.memory);
  const settings = { node: values.node, jobId, partitions, compression, memoryBytes } as const;
  const pool = await Promise.all(Array.from({ length: workers }, () => startWorker(settings)));
  try {
    const started = performance.now();
    const mapTasks = Array.from({ length: maps }, (_, mapIndex): Task => {
      return { kind: 'map', mapIndex, files: files.filter((_file, i) => i % maps === mapIndex) };
    });
    const mapped = await runTasks(pool, mapTasks);
    const mapMs = performance.now() - started;
    const share = Math.ceil(partitions / workers);
    const reduceTasks: Task[] = [];
    for (let from = 0; from < partitions; from += share)
      reduceTasks.push({
        kind: 'reduce',
        partitions: { from, to: Math.min(partitions, from + share) },
      });
    const reduced = await runTasks(pool, reduceTasks);
    const reduceMs = performance.now() - started - mapMs;

    const found = reduced.flatMap(({ counts = [] }) => counts);
    const bytes = mapped.reduce((sum, result) => sum + (result.bytes ?? 0), 0);
    const words = found.reduce((sum, [, count]) => sum + count, 0);
    console.log(
      `${files.length} files: ${words} words, ${found.length} of them different\n` +
        `${maps} maps and ${reduceTasks.length} reducers of ${partitions} partitions in ${workers} workers, ` +
        `${bytes} bytes shuffled (maps ${mapMs.toFixed(0)} ms, reducers ${reduceMs.toFixed(0)} ms)`,
    );
    for (const [word, count] of found.toSorted(byCount).slice(0, TOP_WORDS))
      console.log(`${String(count).padStart(8)}  ${word}`);
    const complaint = await compare(files, found);
    console.log(complaint ?? 'equal to the count of a single process');
    return complaint === undefined ? 0 : 1;
  } finally {
    for (const worker of pool) worker.disconnect();
    const running = pool.filter((worker) => worker.exitCode === null);
    await Promise.all(running.map((worker) => once(worker, 'exit')));
  }
}

async function startWorker(settings: JobSettings): Promise<ChildProcess> {
  const worker = fork(import.meta.filename, ['--worker', JSON.stringify(settings)]);
  const [ready] = (await Promise.race([
    once(worker, 'message'),
    once(worker, 'exit'),
  ])) as unknown[];
  if (typeof ready !== 'object') throw new Error('a worker ended at its start');
  return worker;
}

/** Each worker takes the next task when it is done with one. The first failure ends the run. */
async function runTasks(
  pool: readonly ChildProcess[],
  tasks: readonly Task[],
): Promise<TaskResult[]> {
  const results: TaskResult[] = [];
  const left = tasks.entries();
  const work = async (worker: ChildProcess): Promise<void> => {
    for (const [i, task] of left) {
      const answered = Promise.race([once(worker, 'message'), once(worker, 'exit')]);
      worker.send(task);
      const [result] = (await answered) as [TaskResult | number | null];
      if (result === null || typeof result === 'number')
        throw new Error(`a worker ended (${result})`);
      if (result.error !== undefined) throw new Error(`${task.kind} task ${i}: ${result.error}`);
      results[i] = result;
    }
  };
  await Promise.all(pool.map(work));
  return results;
}

/** What differs from a count in this process; undefined when nothing does. */
async function compare(files: readonly string[], found: Counts): Promise<string | undefined> {
  const expected = new Map<string, number>();
  for (const file of files) countWords(await readFile(file, 'utf8'), expected);
  if (found.length !== expected.size)
    return `DIFFERENT: ${found.length} words, a single process finds ${expected.size}`;
  for (const [word, count] of found)
    if (expected.get(word) !== count)
      return `DIFFERENT: "${word}" ${count} times, a single process counts ${expected.get(word)}`;
  return undefined;
}

async function listFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && TEXT_FILE.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => !/\/(node_modules|dist|target)\//.test(path));
}

function byCount(a: Counts[number], b: Counts[number]): number {
  return b[1] - a[1] || (a[0] < b[0] ? -1 : 1);
}

function parseCount(flag: string, text: string): number {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1) throw new Error(`${flag} ${text}: not a count`);
  return count;
}

if (process.argv[2] === '--worker') {
  await runWorker(JSON.parse(process.argv[3] as string) as JobSettings);
} else {
  try {
    process.exitCode = await run();
  } catch (error) {
    console.error(`word-count: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  }
}
