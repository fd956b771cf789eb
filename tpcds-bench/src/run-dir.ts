/**
 * One folder per run of the bench, `.ebb/run/<pid>-<time>/`: logs, Spark's scratch files, the nodes' disks.
 *
 * It goes away when the run ends well, and stays for a look at the logs when it does not. What a killed run left (folders, memory
 * on /dev/shm, a node that nobody stops) is cleared by the next run: each run writes down what it owns before it makes it.
 */
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { PLACES } from './places.ts';

const OWNED_FILE = 'owned.jsonl';
const KEPT_FAILED_RUNS = 3;

export interface RunDir {
  path: string;
  /** Notes a folder outside the run folder, or a process, that must not outlive this run. */
  own(thing: Owned): void;
  remove(): void;
}

type Owned = { dir: string } | { pid: number; commandHas: string };

export function openRunDir(): RunDir {
  clearDeadRuns();
  const dir = path.join(PLACES.runs, `${process.pid}-${Date.now()}`);
  mkdirSync(dir, { recursive: true });
  return {
    path: dir,
    own: (thing) => appendFileSync(path.join(dir, OWNED_FILE), `${JSON.stringify(thing)}\n`),
    remove: () => {
      clearOwned(dir);
      // A JVM may still be on its way out, and write.
      rmSync(dir, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 });
    },
  };
}

function clearDeadRuns(): void {
  if (!existsSync(PLACES.runs)) return;
  const dead = readdirSync(PLACES.runs)
    .filter((name) => !existsSync(`/proc/${name.split('-')[0]}`))
    .sort((left, right) => startedAt(right) - startedAt(left));
  for (const [age, name] of dead.entries()) {
    const dir = path.join(PLACES.runs, name);
    clearOwned(dir);
    if (age >= KEPT_FAILED_RUNS) rmSync(dir, { recursive: true, force: true });
  }
}

function startedAt(runName: string): number {
  return Number(runName.split('-')[1]) || 0;
}

function clearOwned(dir: string): void {
  for (const thing of readOwned(path.join(dir, OWNED_FILE))) {
    if ('dir' in thing) rmSync(thing.dir, { recursive: true, force: true });
    else if (commandOf(thing.pid).includes(thing.commandHas)) process.kill(thing.pid, 'SIGKILL');
  }
}

function readOwned(file: string): Owned[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, 'utf8').split('\n');
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as Owned);
}

/** Process ids are used again: a process is ours only if its command line says so. */
function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}
