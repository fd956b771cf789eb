/**
 * `npm run bench -- NAME …`: sets up, then runs one benchmark with Ebb's own Node.
 *
 *   npm run bench                          lists what there is
 *   npm run bench -- tpcds --scale 1       as `npm start --`
 *   npm run bench -- grid --cells 50x50    the synthetic shuffle
 *   npm run bench -- client/local-path     packages/client/bench/local-path.ts
 *   npm run bench -- s3                    packages/server/bench/s3.ts; the package may be left out
 */
import path from 'node:path';
import { runOwnNode } from './lib/own-node.mjs';
import { ROOT } from './lib/paths.mjs';
import { listFiles } from './lib/stamp.mjs';
import { say, sayFailure } from './lib/steps.mjs';
import { STEPS, setUp } from './setup.mjs';

const TPCDS = path.join(ROOT, 'tpcds-bench', 'src', 'main.ts');

const benches = findBenches();
const [name, ...args] = process.argv.slice(2);
const bench = benches[name] ?? findByShortName(name);

if (bench === undefined) {
  say(name === undefined ? 'Benchmarks:' : `There is no benchmark ${name}. There are:`);
  for (const [known, { title }] of Object.entries(benches)) say(`  ${known.padEnd(24)} ${title}`);
  process.exitCode = name === undefined ? 0 : 1;
} else {
  try {
    await setUp({ only: bench.steps });
    const command = ['--conditions=source', bench.file, ...bench.args, ...args];
    process.exitCode = await runOwnNode(command, { cwd: process.cwd() });
  } catch (error) {
    sayFailure(error);
    process.exitCode = 1;
  }
}

/** `s3` for `server/s3`, where no other package has one of that name. */
function findByShortName(short) {
  const named = Object.keys(benches).filter((known) => known.split('/')[1] === short);
  return named.length === 1 ? benches[named[0]] : undefined;
}

/** By name: the two that need Spark, and every `packages/PACKAGE/bench/FILE.ts`, which needs npm packages only. */
function findBenches() {
  const found = {
    tpcds: { file: TPCDS, args: [], steps: STEPS, title: 'TPC-DS queries, as `npm start`' },
    grid: {
      file: TPCDS,
      args: ['grid'],
      steps: STEPS,
      title: 'a synthetic shuffle, maps x partitions',
    },
  };
  const files = listFiles(path.join(ROOT, 'packages'), new Set(['node_modules', 'src', 'dist']));
  for (const file of files) {
    const match = /\/packages\/([^/]+)\/bench\/([^/]+)\.ts$/.exec(file);
    if (match === null) continue;
    const title = path.relative(ROOT, file);
    found[`${match[1]}/${match[2]}`] = { file, args: [], steps: ['npm'], title };
  }
  return found;
}
