/** Where the bench finds and puts things. All it makes lies under `.ebb/`, which scripts/setup.mjs has filled before. */
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const GENERATED = path.join(ROOT, '.ebb');

export const PLACES = {
  root: ROOT,
  generated: GENERATED,
  python: path.join(GENERATED, 'venv', 'bin', 'python'),
  dataGenerator: path.join(GENERATED, 'venv', 'bin', 'tpcgen-cli'),
  queries: path.join(GENERATED, 'queries'),
  data: path.join(GENERATED, 'tpcds'),
  runs: path.join(GENERATED, 'run'),
  report: path.join(GENERATED, 'report'),
  sparkDriver: path.join(ROOT, 'tpcds-bench', 'driver', 'driver.py'),
  ebbCommand: path.join(ROOT, 'packages', 'server', 'src', 'main.ts'),
} as const;

/** As people type it. */
export function shown(file: string): string {
  const relative = path.relative(process.cwd(), file);
  return relative.startsWith('..') ? file : relative || '.';
}
