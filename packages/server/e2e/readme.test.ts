/** The README's commands, run as they stand; only the port and the data directory are a test's own. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const REPO = join(import.meta.dirname, '../../..');
const MARK = 'The block below is run by packages/server/e2e/readme.test.ts';

function markedBlock(): string {
  const text = readFileSync(join(REPO, 'README.md'), 'utf8');
  const block = /```sh\n([\s\S]*?)```/.exec(text.slice(text.indexOf(MARK)));
  if (block?.[1] === undefined) throw new Error(`README.md has no sh block after "${MARK}"`);
  return block[1];
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
  const address = `127.0.0.1:${await freePort()}`;
  const script = markedBlock()
    .replaceAll('127.0.0.1:9700', address)
    .replaceAll('./ebb-data', join(dir, 'data'));
  try {
    const { stdout } = await promisify(execFile)('bash', ['-ec', `${script}\nwait`], {
      cwd: REPO,
      timeout: 60_000,
      env: {
        ...process.env,
        EBB_LISTEN: address,
        EBB_NODE: `http://${address}`,
        EBB_MEMORY_DIR: mkdtempSync('/dev/shm/ebb-readme-'),
      },
    });
    expect(stdout.match(/^hello$/gm), 'cat and curl both print the object').toHaveLength(2);
    expect(stdout).toContain('results/greeting.txt');
    expect(stdout).toContain('committed');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
