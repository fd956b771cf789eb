import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, test } from 'vitest';
import { findTree, isAlive, parseStat, readCpuSeconds, readTree } from './proc-tree.ts';

const stat = (pid: number, name: string, parent: number, times: string): string =>
  `${pid} (${name}) S ${parent} 1 1 0 -1 4194560 100 200 0 0 ${times} 20 0 1 0 12345 1000 100 184467440`;

describe('parseStat', () => {
  test('adds own time and that of dead children', () => {
    expect(parseStat(stat(42, 'java', 7, '100 20 3 4'))).toEqual({
      pid: 42,
      parentPid: 7,
      cpuTicks: 127,
      startTicks: 12345,
    });
  });

  test('is not misled by a process name with parentheses and spaces', () => {
    expect(parseStat(stat(42, 'a) S 99 (b', 7, '1 2 3 4'))).toMatchObject({
      parentPid: 7,
      cpuTicks: 10,
    });
  });

  test('refuses what is no stat line', () => {
    expect(parseStat('')).toBeUndefined();
    expect(parseStat('42 (half')).toBeUndefined();
    expect(parseStat('42 (half) S 1 2')).toBeUndefined();
  });
});

test('a tree holds the root, its children and theirs, and no stranger', () => {
  const processes = [
    [1, 0],
    [10, 1],
    [11, 10],
    [12, 11],
    [20, 1],
  ].map(([pid = 0, parentPid = 0]) => ({ pid, parentPid, cpuTicks: 1, startTicks: 1 }));
  expect(findTree(processes, 10).map((process) => process.pid)).toEqual([10, 11, 12]);
  expect(findTree(processes, 99)).toEqual([]);
});

test("a killed child's time stays counted, through the parent that waited for it", async () => {
  // The child burns half a second of CPU and kills itself; its parent waits for it, and then for us.
  const burn = `const end = process.cpuUsage().user + 5e5; while (process.cpuUsage().user < end); process.kill(process.pid, 'SIGKILL')`;
  const parent = spawn(
    process.execPath,
    [
      '-e',
      `require('child_process').spawnSync(process.execPath, ['-e', ${JSON.stringify(burn)}]); console.log('dead'); process.stdin.resume()`,
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  await once(parent.stdout, 'data');
  expect(readCpuSeconds(parent.pid as number)).toBeGreaterThan(0.45);
  parent.stdin.end();
  await once(parent, 'exit');
});

test('a process that ended is not alive, whoever has its number next', async () => {
  const child = spawn('sleep', ['60']);
  await once(child, 'spawn');
  const [facts] = readTree(child.pid as number);
  if (facts === undefined) throw new Error('the child is not in /proc');
  expect(isAlive(facts)).toBe(true);
  expect(isAlive({ ...facts, startTicks: facts.startTicks - 1 })).toBe(false);
  child.kill();
  await once(child, 'exit');
  expect(isAlive(facts)).toBe(false);
});
