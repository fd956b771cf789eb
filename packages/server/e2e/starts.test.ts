/**
 * Starts that cannot succeed and stops by signals, as supervisors, terminals and wrappers see them: the real command, real
 * processes and process groups.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { cleanEnv } from '../../client/e2e/support/node-process.ts';
import { EBB_BIN, runEbb } from './support/ebb-command.ts';

function directories(): { data: string; args: (changes?: Record<string, string>) => string[] } {
  const parent = mkdtempSync(join(tmpdir(), 'ebb-e2e-'));
  const memory = mkdtempSync('/dev/shm/ebb-e2e-');
  onTestFinished(() => {
    for (const path of [parent, memory]) rmSync(path, { recursive: true, force: true });
  });
  const data = join(parent, 'data');
  return {
    data,
    args: (changes = {}) => {
      const settings = {
        ...{ data, 'memory-dir': memory, 'memory-limit': '16MiB', 'disk-limit': '64MiB' },
        ...{ listen: '127.0.0.1:0', 's3-listen': 'off', ...changes },
      };
      return ['node', ...Object.entries(settings).map(([name, value]) => `--${name}=${value}`)];
    },
  };
}

/** The wrapper with its daemon, in a process group of their own. */
async function startGroup(
  data: string,
  args: readonly string[],
): Promise<{
  wrapper: ChildProcess;
  daemonPid: number;
  log: () => string;
}> {
  const wrapper = spawn(process.execPath, [EBB_BIN, ...args], {
    ...{ detached: true, env: cleanEnv(), stdio: ['ignore', 'ignore', 'pipe'] },
  });
  let log = '';
  wrapper.stderr?.on('data', (chunk) => (log += String(chunk)));
  onTestFinished(() => {
    if (wrapper.exitCode === null) process.kill(-(wrapper.pid as number), 'SIGKILL');
  });
  await vi.waitFor(() => expect(existsSync(join(data, 'ebb.pid'))).toBe(true), {
    ...{ timeout: 30_000, interval: 50 },
  });
  const daemonPid = Number(readFileSync(join(data, 'ebb.pid'), 'utf8'));
  return { wrapper, daemonPid, log: () => log };
}

test('a signal to the group drains as one to the daemon does: pid file and socket are gone, and the code is 0', async () => {
  const { data, args } = directories();
  const { wrapper, log } = await startGroup(data, args());
  process.kill(-(wrapper.pid as number), 'SIGTERM');
  expect(await once(wrapper, 'exit')).toEqual([0, null]);
  expect(log()).toContain('"msg":"stopped"');
  expect(existsSync(join(data, 'ebb.pid'))).toBe(false);
  expect(existsSync(join(data, 'ebb.sock'))).toBe(false);
});

test('a start that trying again does not mend ends with code 2, and says the setting, who is in the way and what to do', async () => {
  const { data, args } = directories();
  const { daemonPid } = await startGroup(data, args());
  const file = join(data, '..', 'file');
  writeFileSync(file, '');
  const other = join(data, '..', 'other');
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const { port } = server.address() as { port: number };
  const runs = await Promise.all(
    [
      {},
      { data: join(file, 'data') },
      { data: other, listen: `127.0.0.1:${port}` },
      // Found late: threads and listeners are there by then.
      {
        data: `${other}-late`,
        remote: `file://${file}/remote`,
        'memory-dir': '/dev/shm/ebb-e2e-starts',
      },
    ].map(async (changes) => {
      const { code, stderr } = await runEbb(args(changes), {});
      return [code, stderr] as const;
    }),
  );
  rmSync('/dev/shm/ebb-e2e-starts', { recursive: true, force: true });
  const line = (text: string): unknown => expect.stringContaining(text);
  expect(runs).toEqual([
    [2, line(`--data ${data} is in use by process ${daemonPid} (`)],
    [2, line(`--data ${file}/data: ${file} is no directory; remove it, or name another`)],
    [2, line(`somebody listens there already: process ${process.pid} (`)],
    [2, line(`--remote file:// ${file}/remote: a part of the path is no directory`)],
  ]);
});
