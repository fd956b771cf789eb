/** The S3 benchmark works: every server that is at hand answers every workload. Times are not looked at. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const BENCH = join(import.meta.dirname, '../bench/s3.ts');
const run = promisify(execFile);

test('the S3 benchmark asks every server every workload in the same round, and every answer is right', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'ebb-s3-bench-'));
  const json = join(directory, 'figures.json');
  try {
    const { stdout } = await run(process.execPath, [
      ...['--conditions=source', BENCH, '--quick'],
      ...['--json', json],
    ]);
    const figures = JSON.parse(await readFile(json, 'utf8')) as {
      server: string;
      workload: string;
      operations: number;
    }[];
    const servers = [...new Set(figures.map(({ server }) => server))];
    const workloads = [...new Set(figures.map(({ workload }) => workload))];
    expect(servers).toEqual(expect.arrayContaining(['ebb', 'ebb-buffered']));
    expect(workloads).toHaveLength(10);
    expect(figures).toHaveLength(servers.length * workloads.length);
    expect(figures.every(({ operations }) => operations > 0)).toBe(true);
    for (const peer of ['minio', 'versitygw'])
      expect(stdout).toContain(servers.includes(peer) ? `${peer} ` : `no ${peer}`);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});
