/** TPC-DS: tables as Parquet, generated once per scale, and the queries as Spark's own tests have them. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { PLACES, shown } from './places.ts';

/** Files per large table. Fixed, so that a scale is the same data everywhere. */
const PARTS = 4;

/** The folder of a scale's tables, generating them first where needed. It gets its name when it is complete. */
export async function prepareData(scale: number, say: (line: string) => void): Promise<string> {
  const dir = path.join(PLACES.data, `sf${scale}`);
  if (existsSync(dir)) return dir;
  say(`generating TPC-DS data at scale ${scale} into ${shown(dir)} …`);
  const started = Date.now();
  const unfinished = `${dir}.unfinished`;
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { recursive: true });
  const args = [
    'tpcds',
    'parquet',
    '-s',
    String(scale),
    `--parts=${PARTS}`,
    '-o',
    unfinished,
    '--quiet',
  ];
  const generator = spawn(PLACES.dataGenerator, args, { stdio: ['ignore', 'ignore', 'inherit'] });
  const [code] = (await once(generator, 'exit')) as [number | null];
  if (code !== 0) throw new Error(`tpcgen-cli ${args.join(' ')} ended with code ${code}`);
  renameSync(unfinished, dir);
  say(`generated in ${((Date.now() - started) / 1000).toFixed(1)} s`);
  return dir;
}

export function readQuery(number: string): string {
  const file = path.join(PLACES.queries, `q${number}.sql`);
  if (!existsSync(file))
    throw new Error(`there is no TPC-DS query ${number}: ${shown(file)} is missing`);
  return readFileSync(file, 'utf8');
}

/** The tables that these queries name, and their folders. Opening one costs Spark a job, so the others are left alone. */
export function findTables(dataDir: string, queries: readonly string[]): Record<string, string> {
  const words = new Set(queries.flatMap((sql) => sql.toLowerCase().match(/\w+/g) ?? []));
  const named = readdirSync(dataDir).filter((table) => words.has(table));
  return Object.fromEntries(named.map((table) => [table, path.join(dataDir, table)]));
}
