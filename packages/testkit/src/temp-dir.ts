/** Directories that go away with the test that asked for them. */
import { execFile } from 'node:child_process';
import { mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { onTestFinished } from 'vitest';

const run = promisify(execFile);

/** A fresh directory under `parent` (on disk: the default; on tmpfs: `/dev/shm`). Call it inside a test. */
export async function tempDir(parent: string = tmpdir()): Promise<string> {
  const path = await realpath(await mkdtemp(join(parent, 'ebb-test-')));
  onTestFinished(async () => await rm(path, { recursive: true, force: true }));
  return path;
}

/** A tmpfs of its own, to fill. Undefined, with the reason printed, where mounting is not permitted. */
export async function smallTmpfs(
  sizeBytes: number,
  { inodes }: { readonly inodes?: number } = {},
): Promise<string | undefined> {
  const path = await tempDir();
  try {
    const options = `size=${sizeBytes}${inodes === undefined ? '' : `,nr_inodes=${inodes}`}`;
    await run('mount', ['-t', 'tmpfs', '-o', options, 'ebb-test', path]);
  } catch (error) {
    const reason = (error as Error).message.trim();
    process.stderr.write(`skipped: cannot mount a tmpfs here (${reason})\n`);
    return undefined;
  }
  // Registered after the removal of the directory, and hooks run last first: unmounted before it is removed.
  onTestFinished(async () => {
    await run('umount', ['--lazy', path]);
  });
  return path;
}
