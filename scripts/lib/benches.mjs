/** Which benchmarks there are, which steps of the set-up each needs (unless said: those of Spark), and how it is run. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { CLIENT_VENV_PYTHON, OWN_NODE, PYTHON, ROOT, shown } from './paths.mjs';
import { listFiles } from './stamp.mjs';

const TPCDS = path.join(ROOT, 'tpcds-bench', 'src', 'main.ts');

/**
 * By name: the two that need Spark; every `packages/PACKAGE/bench/FILE.ts`, which needs npm packages only; and every
 * `clients/python/bench/FILE.py`, which needs the Python client too. Files that begin with `_` belong to others.
 */
export function findBenches() {
  const found = {
    tpcds: { ...onNode(TPCDS), title: 'TPC-DS queries, as `npm start`' },
    grid: { ...onNode(TPCDS, 'grid'), title: 'a synthetic shuffle, maps x partitions' },
  };
  const packages = path.join(ROOT, 'packages');
  for (const name of readdirSync(packages).sort()) {
    for (const file of listBenchFiles(path.join(packages, name), '.ts'))
      found[`${name}/${path.basename(file, '.ts')}`] = { ...onNode(file), steps: ['npm'] };
  }
  for (const file of listBenchFiles(PYTHON, '.py'))
    found[`python/${path.basename(file, '.py')}`] = {
      ...onPython(file),
      steps: ['npm', 'python-client'],
    };
  return found;
}

/** A bench by its name, or by the second half of it, where no other package has one of that name. */
export function findBench(benches, name) {
  if (name === undefined) return undefined;
  if (Object.hasOwn(benches, name)) return benches[name];
  const named = Object.keys(benches).filter((known) => known.split('/')[1] === name);
  return named.length === 1 ? benches[named[0]] : undefined;
}

function onNode(file, ...args) {
  return { title: shown(file), program: OWN_NODE, args: ['--conditions=source', file, ...args] };
}

function onPython(file) {
  return { title: shown(file), program: CLIENT_VENV_PYTHON, args: [file] };
}

/** Not every package has some. */
function listBenchFiles(folder, ending) {
  const bench = path.join(folder, 'bench');
  return listFiles(bench).filter(
    (file) =>
      path.dirname(file) === bench && file.endsWith(ending) && !path.basename(file).startsWith('_'),
  );
}
