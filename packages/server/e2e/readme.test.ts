/** The README's commands, run as they stand; only the port and the data directory are a test's own. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { startNodeProcess } from '../../client/e2e/support/node-process.ts';

const REPO = join(import.meta.dirname, '../../..');
const MARK = 'The block below is run by packages/server/e2e/readme.test.ts';

function markedBlock(language: 'sh' | 'ts'): string {
  const text = readFileSync(join(REPO, 'README.md'), 'utf8');
  for (const part of text.split(MARK).slice(1)) {
    const block = /^[^`]*```(\w+)\n([\s\S]*?)```/.exec(part);
    if (block?.[1] === language && block[2] !== undefined) return block[2];
  }
  throw new Error(`README.md has no ${language} block after "${MARK}"`);
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

test('a node of your own: the README block runs as it is written', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'ebb-readme-'));
  const memoryDir = mkdtempSync('/dev/shm/ebb-readme-');
  const address = `127.0.0.1:${await freePort()}`;
  const script = markedBlock('sh')
    .replaceAll('127.0.0.1:9700', address)
    .replaceAll('./ebb-data', join(dir, 'data'));
  try {
    const { stdout } = await promisify(execFile)('bash', ['-ec', `${script}\nwait`], {
      cwd: REPO,
      timeout: 60_000,
      env: {
        ...process.env,
        EBB_LISTEN: address,
        EBB_S3_LISTEN: '127.0.0.1:0',
        EBB_NODE: `http://${address}`,
        EBB_MEMORY_DIR: memoryDir,
      },
    });
    expect(stdout.match(/^hello$/gm), 'cat and curl both print the object').toHaveLength(2);
    expect(stdout).toContain('results/greeting.txt');
    expect(stdout).toContain('committed');
  } finally {
    for (const made of [dir, memoryDir]) rmSync(made, { recursive: true, force: true });
  }
});

test('from a program: the README block prints what it stored', async () => {
  await using node = await startNodeProcess();
  const dir = mkdtempSync(join(REPO, '.readme-'));
  try {
    const file = join(dir, 'example.ts');
    writeFileSync(file, markedBlock('ts').replaceAll('http://127.0.0.1:9700', node.url));
    const run = promisify(execFile)(process.execPath, ['--conditions=source', file], {
      timeout: 30_000,
    });
    expect((await run).stdout).toBe('hello\n');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
