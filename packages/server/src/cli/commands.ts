/** All commands of `ebb`, in the order of the help. Each lives in a file of its own, loaded when it is called. */
import type { AnyCommand, CommandModule, WholeProgram } from './command.ts';

export interface CommandEntry {
  readonly name: string;
  readonly summary: string;
  load(program: WholeProgram): Promise<AnyCommand>;
}

function entry(name: string, summary: string, module: () => Promise<CommandModule>): CommandEntry {
  const load = async (program: WholeProgram): Promise<AnyCommand> =>
    (await module()).create(program).description(summary);
  return { name, summary, load };
}

export const COMMANDS: readonly CommandEntry[] = [
  entry('node', 'run a node in the foreground', () => import('./node.ts')),
  entry('doctor', 'look for what would keep a node from working well', () => import('./doctor.ts')),
  entry('status', 'show what a node holds and does', () => import('./status.ts')),
  entry('buckets', 'list, create and remove buckets', () => import('./buckets.ts')),
  entry('ls', 'list buckets or objects', () => import('./ls.ts')),
  entry('put', 'store a file, a directory or standard input', () => import('./put.ts')),
  entry('get', 'fetch an object, or with -r all under a prefix', () => import('./get.ts')),
  entry('cat', 'write objects to standard output', () => import('./cat.ts')),
  entry('cp', 'copy between objects, or between files and objects', () => import('./cp.ts')),
  entry('mv', 'rename an object or a prefix', () => import('./mv.ts')),
  entry('rm', 'delete objects', () => import('./rm.ts')),
  entry('stat', 'show all that is known of an object', () => import('./stat.ts')),
  entry('pin', 'keep objects in the memory tier', () => import('./pin.ts')),
  entry('unpin', 'let pinned objects leave the memory tier', () => import('./unpin.ts')),
  entry('relocate', 'move objects to a tier now', () => import('./relocate.ts')),
  entry('sync', 'take in what others put into the remote tier', () => import('./sync.ts')),
  entry('warm', 'fetch objects from the remote tier ahead of need', () => import('./warm.ts')),
  entry('jobs', 'list jobs, or end one', () => import('./jobs.ts')),
  entry(
    'checkpoint',
    'list, restore, export and keep checkpoints of training jobs',
    () => import('./checkpoint.ts'),
  ),
  entry('snapshot', 'keep objects as they are, and bring them back', () => import('./snapshot.ts')),
  entry('shuffles', 'list registered shuffles', () => import('./shuffles.ts')),
  entry('watch', 'print what happens to objects', () => import('./watch.ts')),
  entry('wait', 'wait until an object is durable', () => import('./wait.ts')),
  entry('why', 'tell the life of an object', () => import('./why.ts')),
  entry(
    'verify',
    'read stored bytes and compare them with their checksums',
    () => import('./verify.ts'),
  ),
  entry('gc', 'remove what nobody owns', () => import('./gc.ts')),
  entry(
    'spark-conf',
    'print the settings for a Spark application',
    () => import('./spark-conf.ts'),
  ),
  entry('completion', 'print a completion script for a shell', () => import('./completion.ts')),
];
