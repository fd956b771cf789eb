import { mkdir, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { tempDir } from '@ebb/testkit';
import { describe, expect, test } from 'vitest';
import { makeDirectories, makeDirectoriesSync } from './make-directories.ts';

const both = [
  ['at once', async (path: string, mode?: number) => makeDirectoriesSync(path, { mode })],
  ['later', async (path: string, mode?: number) => await makeDirectories(path, { mode })],
] as const;

describe.each(both)('%s', (_when, make) => {
  test('makes what is missing, with its mode, and takes what is there', async () => {
    const root = await tempDir();
    await make(join(root, 'a/b/c'), 0o700);
    expect((await stat(join(root, 'a/b/c'))).mode & 0o777).toBe(0o700);
    expect((await stat(join(root, 'a'))).mode & 0o777).toBe(0o700);
    await make(join(root, 'a/b/c'));
    await symlink(join(root, 'a'), join(root, 'link'));
    await make(join(root, 'link/d'));
    expect((await stat(join(root, 'a/d'))).isDirectory()).toBe(true);
  });

  test('many who make the same at once all have it', async () => {
    const root = await tempDir();
    await Promise.all(Array.from({ length: 20 }, async () => await make(join(root, 'x/y/z'))));
    expect((await stat(join(root, 'x/y/z'))).isDirectory()).toBe(true);
  });

  test('ends where nothing can be made', async () => {
    const root = await tempDir();
    await writeFile(join(root, 'file'), '');
    await mkdir(join(root, 'd'));
    await symlink(join(root, 'nowhere/x'), join(root, 'd/dangling'));
    await expect(make('/proc/ebb-test/a/b')).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(make(join(root, 'file/x'))).rejects.toMatchObject({ code: 'ENOTDIR' });
    await expect(make(join(root, 'd/dangling/x'))).rejects.toMatchObject({ code: 'EEXIST' });
  });
});
