#!/usr/bin/env node
/**
 * The `ebb` command, for any Node from 20 on: hands over to a Node that Ebb runs on.
 *
 * In a checkout the repository's own Node (npm package `node`) runs the TypeScript sources, with no build. Installed from
 * a registry, dist/main.js runs. Like `exec`: same terminal, signals passed on, same exit code.
 */
import { spawn } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const NODE_MAJOR_MIN = 24;

const packageDir = dirname(dirname(realpathSync(fileURLToPath(import.meta.url))));
const sourceMain = join(packageDir, 'src', 'main.ts');
const isCheckout = !packageDir.includes('/node_modules/') && existsSync(sourceMain);

const node = findNode();
const main = isCheckout
  ? ['--conditions=source', '--disable-warning=ExperimentalWarning', sourceMain]
  : [join(packageDir, 'dist', 'main.js')];

/**
 * The daemon's memory is to stay below 200 MiB beside tier 0. Left alone, V8 lets garbage of many small calls grow to 250
 * MiB before it collects, with 30 MiB alive: it takes the machine for its own. Smaller steps cost about a tenth more CPU
 * when there are only calls and no bytes (packages/server/e2e/faults.test.ts measures the memory).
 */
const heap = ['--max-semi-space-size=8', '--heap-growing-percent=50'];

// Descriptor 3 closes when this process dies, however it dies: cli/parent.ts.
const child = spawn(node, [...heap, ...main, ...process.argv.slice(2)], {
  stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
  env: { ...process.env, _EBBCMD_PARENT_FD: '3' },
});

for (const signal of ['SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR2']) {
  process.on(signal, () => child.kill(signal));
}
// Ctrl-C reaches the child from the terminal. What reaches it twice, a signal to the whole group, it takes for one
// (src/stop-signals.ts), so nothing else needs to be known here of who got it.
const hasTerminal = process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY;
process.on('SIGINT', () => {
  if (!hasTerminal) child.kill('SIGINT');
});

child.on('error', (error) => {
  console.error(`ebb: cannot start ${node}: ${error.message}`);
  process.exit(1);
});
child.on('exit', (code, signal) => {
  if (signal === null) {
    process.exit(code ?? 1);
  }
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});

function findNode() {
  for (let at = packageDir; ; at = dirname(at)) {
    const own = join(at, 'node_modules', '.bin', 'node');
    if (existsSync(own)) return realpathSync(own);
    if (dirname(at) === at) break;
  }
  if (Number(process.versions.node.split('.')[0]) >= NODE_MAJOR_MIN) return process.execPath;
  console.error(
    `ebb: this is Node ${process.versions.node}, and Ebb needs ${NODE_MAJOR_MIN} or newer.\n` +
      (isCheckout
        ? '     Run `npm ci` in the repository: it installs a Node of its own.'
        : '     Install a newer Node, or the npm package `node` beside Ebb.'),
  );
  process.exit(1);
}
