/** The bench itself, end to end, at a tiny scale: real Spark executors, a real node, and the files that it writes. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import { PLACES } from '../src/places.ts';

const TIMEOUT_MS = 900_000;
const MAIN = path.join(PLACES.root, 'tpcds-bench', 'src', 'main.ts');

const reportDir = mkdtempSync(path.join(os.tmpdir(), 'ebb-bench-test-'));
afterEach(() => rmSync(reportDir, { recursive: true, force: true }));

async function runBench(
  ...args: string[]
): Promise<{ output: string; report: Record<string, never[]> }> {
  const command = ['--conditions=source', MAIN, '--scale', '0.05', '--report', reportDir, ...args];
  const { stdout } = await promisify(execFile)(process.execPath, command, { timeout: TIMEOUT_MS });
  return {
    output: stdout,
    report: JSON.parse(readFileSync(path.join(reportDir, 'report.json'), 'utf8')),
  };
}

test(
  'Ebb gives the results of vanilla in both modes, also with 3 % of the shuffle in memory',
  async () => {
    const backends = ['vanilla', 'ebb', 'ebb-limited'];
    const { output, report } = await runBench(
      '--queries',
      '67',
      '--warmups',
      '0',
      '--runs',
      '1',
      '--backends',
      backends.join(),
    );
    const cells = ['forced', 'stock'].flatMap((mode) => backends.map((backend) => [mode, backend]));
    expect(report.runs).toHaveLength(cells.length);
    for (const [mode, backend] of cells)
      expect(report.runs).toContainEqual(
        expect.objectContaining({
          query: 'q67',
          mode,
          backend,
          round: 1,
          rows: 100,
          resultEqual: true,
        }),
      );
    for (const run of report.runs ?? [])
      for (const figure of ['wallSeconds', 'cpuSeconds', 'shuffleBytes'])
        expect(run[figure]).toBeGreaterThan(0);
    expect(report.tierSamples?.length).toBeGreaterThan(0);
    expect(output).toContain('All 6 results are equal, row by row.');
    expect(readFileSync(path.join(reportDir, 'report.html'), 'utf8')).toContain(
      'All 6 results are equal',
    );
    expect(leftOvers()).toEqual([]);
  },
  TIMEOUT_MS,
);

test(
  'an executor killed in the middle of the largest reduce stage costs Ebb no map task, retry or fetch failure',
  async () => {
    const { report } = await runBench(
      '--fault',
      'executor-kill',
      '--backends',
      'ebb',
      '--warmups',
      '1',
      '--runs',
      '1',
    );
    const nothing = { recomputedMapTasks: 0, stageRetries: 0, fetchFailures: 0, resultEqual: true };
    expect(report.drill).toEqual(
      ['healthy', 'cold', 'control', 'killed'].map((kind) =>
        expect.objectContaining({ backend: 'ebb', case: kind, ...nothing }),
      ),
    );
    expect(leftOvers()).toEqual([]);
  },
  TIMEOUT_MS,
);

/** What other runs on this machine had left. */
const BEFORE = new Set(readdirSync('/dev/shm'));

/** Memory of nodes that this bench started and did not clear away. */
function leftOvers(): string[] {
  const dead = (name: string): boolean =>
    !readdirSync('/proc').includes(/^ebb-bench-(\d+)-/.exec(name)?.[1] ?? '');
  return readdirSync('/dev/shm').filter(
    (name) => name.startsWith('ebb-bench-') && !BEFORE.has(name) && dead(name),
  );
}
