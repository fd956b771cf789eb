/** Real files; close(2) fails as told, and has closed all the same, as with EIO on a file server. */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { openFileTier } from './file-tier.ts';
import { createMover } from './mover.ts';

const closed: number[] = [];
let isFailing = false;
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>();
  const closeSync = (fd: number): void => {
    if (isFailing) closed.push(fd);
    fs.closeSync(fd);
    if (isFailing) throw Object.assign(new Error('EIO: i/o error, close'), { code: 'EIO' });
  };
  return { ...fs, closeSync };
});

test('a descriptor whose closing failed is not closed again: its number may be another file’s by then', async () => {
  const root = mkdtempSync('/dev/shm/ebb-test-');
  const mover = createMover();
  onTestFinished(async () => {
    isFailing = false;
    await mover.close();
    rmSync(root, { recursive: true });
  });
  const [capacityBytes, poolBytesMax] = [2 ** 20, 2 ** 18];
  const tier = await openFileTier({
    ...{ name: 'memory', nodeId: 'n', root: join(root, 'memory'), recycle: true, mover },
    ...{ capacityBytes, poolBytesMax },
  });
  isFailing = true;
  expect(() => tier.create(1, 4096)).toThrow('EIO');
  expect(closed).toHaveLength(1);
});
