/** The example against a real daemon: two kinds of process, real files, real sockets. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { openClient } from '@ebb/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const REPO = join(import.meta.dirname, '../../..');
const NODE = join(REPO, 'node_modules/.bin/node');
const EXAMPLE = join(REPO, 'packages/shuffle/examples/word-count.ts');

let dataDir: string;
let memoryDir: string;
let daemon: ChildProcess;
let url: string;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'ebb-shuffle-e2e-'));
  memoryDir = await mkdtemp('/dev/shm/ebb-shuffle-e2e-');
  const main = join(REPO, 'packages/server/src/main.ts');
  const flags = ['--data', dataDir, '--memory-dir', memoryDir, '--memory-limit', '64MiB'];
  daemon = spawn(
    NODE,
    [
      '--conditions=source',
      main,
      'node',
      ...flags,
      '--disk-limit',
      '1GiB',
      '--listen',
      '127.0.0.1:0',
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let log = '';
  url = await new Promise<string>((resolve, reject) => {
    daemon.once('exit', (code) => reject(new Error(`the node ended with ${code}:\n${log}`)));
    createInterface({ input: daemon.stderr as NodeJS.ReadableStream }).on('line', (line) => {
      log += `${line}\n`;
      const ready = /"url":"([^"]+)".*"msg":"ready"/.exec(line);
      if (ready !== null) resolve(ready[1] as string);
    });
  });
});

afterAll(async () => {
  if (daemon.exitCode === null && daemon.signalCode === null) {
    const exited = once(daemon, 'exit');
    daemon.kill('SIGKILL');
    await exited;
  }
  for (const dir of [dataDir, memoryDir]) await rm(dir, { recursive: true, force: true });
});

async function runExample(...args: string[]): Promise<{ code: number; output: string }> {
  const child = spawn(NODE, ['--conditions=source', EXAMPLE, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  const [code] = (await once(child, 'close')) as [number];
  return { code, output };
}

describe('word count', () => {
  it('in several processes equals a count in one, and leaves nothing on the node', async () => {
    const result = await runExample('--node', url, '--workers', '3', '--partitions', '7');
    expect(result.output).toContain('equal to the count of a single process');
    expect(result.code).toBe(0);
    await using client = await openClient({ node: url });
    expect(await client.shuffles()).toEqual([]);
    expect((await client.jobs.list()).filter((job) => job.label === 'word count')).toEqual([]);
    expect((await client.list('shuffle')).objects).toEqual([]);
  });

  it('is equal when maps spill, uncompressed, over a Unix socket, with more partitions than words', async () => {
    const folder = join(dataDir, 'texts');
    await mkdir(folder);
    const many = Array.from({ length: 2000 }, (_, i) => `w${i}`).join(' ');
    for (let i = 0; i < 6; i++)
      await writeFile(join(folder, `${i}.txt`), `${many} ${'word '.repeat(i)} über ${i}\n`);
    const result = await runExample(
      ...['--node', `unix://${join(dataDir, 'ebb.sock')}`, '--partitions', '3000'],
      ...['--compression', 'none', '--memory', '4096', folder],
    );
    expect(result.output).toContain('equal to the count of a single process');
    expect(result.output).toMatch(/15 {2}word\n/);
    expect(result.code).toBe(0);
  });

  it('says what is wrong when no node answers', async () => {
    const nobody = await runExample('--node', 'http://127.0.0.1:9');
    expect(nobody.output).toContain('no Ebb node answers at http://127.0.0.1:9');
    expect(nobody.code).toBe(1);
  });
});
