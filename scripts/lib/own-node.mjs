/** Running things with Ebb's own Node, in the foreground. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import { OWN_NODE, ROOT } from './paths.mjs';

/** Environment in which `node` means Ebb's own Node. */
function ownNodeEnv() {
  const bin = path.join(ROOT, 'node_modules', '.bin');
  return { ...process.env, PATH: `${bin}${path.delimiter}${process.env.PATH ?? ''}` };
}

/** Runs to the end with this terminal, passes signals on, and resolves to an exit code. */
export function runForeground(command, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: ROOT,
      env: ownNodeEnv(),
      stdio: 'inherit',
      ...options,
    });
    // Ctrl-C in a terminal reaches the child by itself, and some programs take a second one for "at once".
    const passOn = (signal) => {
      if (signal !== 'SIGINT' || !process.stdin.isTTY) child.kill(signal);
    };
    for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, passOn);
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      for (const name of ['SIGINT', 'SIGTERM']) process.off(name, passOn);
      resolve(code ?? (signal === 'SIGINT' ? 130 : 1));
    });
  });
}

export function runOwnNode(args, options) {
  return runForeground(OWN_NODE, args, options);
}
