/** `npm start -- …`: sets up what is missing, then runs the TPC-DS bench with Ebb's own Node. */
import path from 'node:path';
import { runOwnNode } from './lib/own-node.mjs';
import { ROOT } from './lib/paths.mjs';
import { sayFailure } from './lib/steps.mjs';
import { SPARK_STEPS, setUp } from './setup.mjs';

const args = process.argv.slice(2);
// Help needs the npm packages only, and no set-up talk before it once they are there.
const onlyHelp = args.some((arg) => ['-h', '--help', 'help'].includes(arg));

try {
  await setUp({ only: onlyHelp ? ['npm'] : SPARK_STEPS, quiet: onlyHelp });
  // The shell's folder stays the current one, so that `--report DIR` means what was typed.
  const main = path.join(ROOT, 'tpcds-bench', 'src', 'main.ts');
  process.exitCode = await runOwnNode(['--conditions=source', main, ...args], {
    cwd: process.cwd(),
  });
} catch (error) {
  sayFailure(error);
  process.exitCode = 1;
}
