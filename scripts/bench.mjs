/**
 * `npm run bench -- NAME …`: sets up, then runs one benchmark with Ebb's own Node, or the Python of the Python client.
 *
 *   npm run bench                          lists what there is
 *   npm run bench -- tpcds --scale 1       as `npm start --`
 *   npm run bench -- grid --cells 50x50    the synthetic shuffle
 *   npm run bench -- client/local-path     packages/client/bench/local-path.ts
 *   npm run bench -- s3                    packages/server/bench/s3.ts; the package may be left out
 *   npm run bench -- python/checkpoints    clients/python/bench/checkpoints.py
 *
 * What follows the name is the benchmark's own: `npm run bench -- python/tiers --help`.
 */
import { findBench, findBenches } from './lib/benches.mjs';
import { runForeground } from './lib/own-node.mjs';
import { say, sayFailure } from './lib/steps.mjs';
import { SPARK_STEPS, setUp } from './setup.mjs';

const benches = findBenches();
const [name, ...args] = process.argv.slice(2);
const bench = findBench(benches, name);

if (bench === undefined) {
  const isAsked = name === undefined || name === '--help';
  say(isAsked ? 'Benchmarks:' : `There is no benchmark ${name}. There are:`);
  for (const [known, { title }] of Object.entries(benches)) say(`  ${known.padEnd(24)} ${title}`);
  process.exitCode = isAsked ? 0 : 1;
} else {
  try {
    await setUp({ only: bench.steps ?? SPARK_STEPS });
    const command = [...bench.args, ...args];
    process.exitCode = await runForeground(bench.program, command, { cwd: process.cwd() });
  } catch (error) {
    sayFailure(error);
    process.exitCode = 1;
  }
}
