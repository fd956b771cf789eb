/**
 * CPU seconds of a process and everything below it, from Linux's `/proc`.
 *
 * A process's own time and the time of its dead, waited-for children are counted for every living member of the tree.
 * So an executor that was killed is still counted, by way of the driver that waited for it, and nothing is counted twice.
 */
import { readdirSync, readFileSync } from 'node:fs';

/** USER_HZ; 100 on every Linux that Node runs on, whatever the kernel's own tick is. */
const TICKS_PER_SECOND = 100;

export interface ProcessFacts {
  pid: number;
  parentPid: number;
  /** Own time, and that of children that ended and were waited for. */
  cpuTicks: number;
  /** When it started, since boot. With the pid it names a process for good; pids alone are used again. */
  startTicks: number;
}

/** `text` is the content of `/proc/PID/stat`. The name stands in parentheses and may itself hold some. */
export function parseStat(text: string): ProcessFacts | undefined {
  const nameEnd = text.lastIndexOf(')');
  const pid = Number.parseInt(text, 10);
  if (nameEnd < 0 || !Number.isInteger(pid)) return undefined;
  // After the name: state, ppid, …; utime, stime, cutime, cstime are fields 14 to 17 of the whole line.
  const fields = text.slice(nameEnd + 2).split(' ');
  const times = fields.slice(11, 15).map(Number);
  const startTicks = Number(fields[19]);
  if (times.length < 4 || [...times, startTicks].some(Number.isNaN)) return undefined;
  return {
    pid,
    parentPid: Number(fields[1]),
    cpuTicks: times.reduce((sum, ticks) => sum + ticks, 0),
    startTicks,
  };
}

/** The root and all its descendants. */
export function findTree(processes: readonly ProcessFacts[], rootPid: number): ProcessFacts[] {
  const childrenOf = Map.groupBy(processes, (process) => process.parentPid);
  const found = processes.filter((process) => process.pid === rootPid);
  for (const member of found) found.push(...(childrenOf.get(member.pid) ?? []));
  return found;
}

/** The root and all its descendants, as they are now. */
export function readTree(rootPid: number): ProcessFacts[] {
  return findTree(readProcesses(), rootPid);
}

/** Is it still there, and not only waiting to be waited for? */
export function isAlive({ pid, startTicks }: ProcessFacts): boolean {
  const text = readProcFile(pid, 'stat') ?? '';
  const isZombie = text.slice(text.lastIndexOf(')') + 2).startsWith('Z');
  return !isZombie && parseStat(text)?.startTicks === startTicks;
}

/** CPU seconds spent so far by the tree under `rootPid`; 0 where it is gone. */
export function readCpuSeconds(rootPid: number): number {
  return readTree(rootPid).reduce((sum, process) => sum + process.cpuTicks, 0) / TICKS_PER_SECOND;
}

/** Spark's executors below `rootPid`: executor id → process id. */
export function findExecutors(rootPid: number): Map<string, number> {
  const executors = new Map<string, number>();
  for (const { pid } of readTree(rootPid)) {
    const command = readProcFile(pid, 'cmdline')?.split('\0') ?? [];
    const at = command.indexOf('--executor-id');
    const isExecutor = command.includes('org.apache.spark.executor.CoarseGrainedExecutorBackend');
    if (isExecutor && at >= 0) executors.set(command[at + 1] ?? '', pid);
  }
  return executors;
}

function readProcesses(): ProcessFacts[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => parseStat(readProcFile(Number(name), 'stat') ?? ''))
    .filter((process) => process !== undefined);
}

/** `undefined` where the process ended meanwhile. */
function readProcFile(pid: number, name: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return undefined;
  }
}
