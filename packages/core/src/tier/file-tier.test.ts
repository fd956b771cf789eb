import { existsSync, readdirSync, statfsSync } from 'node:fs';
import { mkdir, open, readFile, rm, rmdir, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isStoreError } from '@ebb/protocol';
import { bytesOf, localTierConformance, smallTmpfs, tempDir } from '@ebb/testkit';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import type { Clock } from '../clock.ts';
import { type FileTierOptions, openFileTier } from './file-tier.ts';
import { createMover } from './mover.ts';
import type { LocalTier } from './tier.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const mover = createMover();
afterAll(async () => await mover.close());

localTierConformance('file-tier on tmpfs, recycling', {
  parent: '/dev/shm',
  recycles: true,
  open: async (setup) =>
    await openFileTier({ ...setup, name: 'memory', nodeId: 'node-1', recycle: true, mover }),
});

localTierConformance('file-tier on disk', {
  parent: tmpdir(),
  recycles: false,
  open: async (setup) =>
    await openFileTier({ ...setup, name: 'disk', nodeId: 'node-1', recycle: false, mover }),
});

localTierConformance('file-tier on tmpfs with one descriptor', {
  parent: '/dev/shm',
  recycles: true,
  open: async (setup) =>
    await openFileTier({
      ...setup,
      name: 'memory',
      nodeId: 'node-1',
      recycle: true,
      mover,
      handlesMax: 1,
    }),
});

async function openTier(options: Partial<FileTierOptions> & { root: string }): Promise<LocalTier> {
  const tier = await openFileTier({
    name: 'memory',
    nodeId: 'node-1',
    capacityBytes: 8 * MiB,
    recycle: true,
    poolBytesMax: 4 * MiB,
    mover,
    ...options,
  });
  onTestFinished(async () => await tier.close());
  return tier;
}

test('a capacity above what the file system has is refused with both sizes', async () => {
  const root = await tempDir('/dev/shm');
  const { blocks, bsize } = statfsSync(root);
  await expect(openTier({ root, capacityBytes: blocks * bsize + 1 })).rejects.toMatchObject({
    code: 'config_invalid',
    message: expect.stringMatching(/wants .* GiB, but the file system at .* has .* GiB in all/),
  });
});

test('a directory of another node, another tier or another use is refused and left as it is', async () => {
  const root = await tempDir('/dev/shm');
  await (await openTier({ root })).close();
  await expect(openTier({ root, nodeId: 'node-2' })).rejects.toMatchObject({
    code: 'data_directory_in_use',
    message: expect.stringContaining('node-1'),
  });
  await expect(openTier({ root, name: 'disk' })).rejects.toMatchObject({ code: 'config_invalid' });
  await writeFile(join(root, 'ebb-tier.json'), '{"format":2,"nodeId":"node-1","tier":"memory"}');
  await expect(openTier({ root })).rejects.toMatchObject({ code: 'version_unsupported' });
  await writeFile(join(root, 'ebb-tier.json'), '{"form');
  await expect(openTier({ root })).rejects.toMatchObject({ code: 'config_invalid' });
  const foreign = await tempDir('/dev/shm');
  await writeFile(join(foreign, 'thesis.doc'), 'x');
  await expect(openTier({ root: foreign })).rejects.toMatchObject({ code: 'config_invalid' });
  expect(readdirSync(foreign)).toEqual(['thesis.doc']);
});

test('after a reboot took the tmpfs away, the tier starts empty and adopts nothing', async () => {
  const root = join(await tempDir('/dev/shm'), 'tier');
  const before = await openTier({ root });
  await fill(before, 1, MiB);
  await before.close();
  await rm(root, { recursive: true });
  const after = await openTier({ root });
  expect(after.adopt(1, MiB)).toBeUndefined();
  expect(after.usage()).toMatchObject({ usedBytes: 0, blobs: 0 });
});

test('a client that raises the length to map the file is charged what it wrote and not that length', async () => {
  const tier = await openTier({ root: await tempDir('/dev/shm') });
  tier.create(1, MiB);
  await truncate(tier.absolutePath(1), MiB);
  await tier.write(1, bytesOf(10 * KiB, 1), 0);
  expect(tier.seal(1, 10 * KiB)).toBe(12 * KiB);
});

test('a writer beyond its reservation is charged when there is room, and cut to its size when there is none', async () => {
  const tier = await openTier({ root: await tempDir('/dev/shm'), capacityBytes: MiB });
  const overrun = async (blobId: number): Promise<void> => {
    tier.create(blobId, 100 * KiB);
    const file = await open(tier.absolutePath(blobId), 'r+');
    await file.write(bytesOf(600 * KiB, blobId), 0, 600 * KiB, 0);
    await file.close();
  };
  await overrun(1);
  expect(tier.seal(1, 100 * KiB)).toBe(600 * KiB);
  await overrun(2);
  expect(tier.seal(2, 100 * KiB)).toBe(100 * KiB);
  await overrun(3);
  expect(() => tier.seal(3, 600 * KiB)).toThrow(expect.objectContaining({ code: 'tier_full' }));
  expect(tier.usage().usedBytes).toBe(800 * KiB);
  tier.remove(3, { recycle: true });
  expect(tier.usage().usedBytes).toBeLessThanOrEqual(MiB);
});

test('a symbolic link in the place of a blob is not followed', async () => {
  const root = await tempDir('/dev/shm');
  const tier = await openTier({ root });
  const secret = join(await tempDir(), 'secret');
  await writeFile(secret, 'secret');
  await symlink(secret, tier.absolutePath(5));
  tier.adopt(5, 6);
  const target = Buffer.alloc(6);
  await expect(tier.read(5, target, 0)).rejects.toSatisfy((error) => isStoreError(error));
  expect(target.toString()).not.toBe('secret');
  expect(() => tier.create(6, 1)).not.toThrow();
});

test('what has a name of the tier and is a link is removed as a link, and what has another name stays', async () => {
  const root = await tempDir('/dev/shm');
  await (await openTier({ root })).close();
  const victim = join(await tempDir(), 'victim');
  await writeFile(victim, 'precious');
  for (const link of ['t/1', 'p/7', 'b/05/5']) await symlink(victim, join(root, link));
  await mkdir(join(root, 'b/06/6'));
  for (const foreign of ['t/notes.txt', 'p/notes.txt', 'b/07/notes.txt'])
    await writeFile(join(root, foreign), 'mine');
  const tier = await openTier({ root });
  expect(tier.adopt(5, 1)).toBeUndefined();
  await tier.removeOrphans();
  expect(await readFile(victim, 'utf8')).toBe('precious');
  expect(readdirSync(join(root, 't'))).toEqual(['notes.txt']);
  expect(readdirSync(join(root, 'p'))).toEqual(['notes.txt']);
  expect(readdirSync(join(root, 'b/05'))).toEqual([]);
  expect(readdirSync(join(root, 'b/06'))).toEqual(['6']);
  expect(readdirSync(join(root, 'b/07'))).toEqual(['notes.txt']);
});

test('a tier in which a link stands for one of its directories is refused, and nothing behind it is touched', async () => {
  const root = await tempDir('/dev/shm');
  await (await openTier({ root })).close();
  const victim = await tempDir();
  await writeFile(join(victim, '1'), 'precious');
  for (const name of ['t', 'p', 'b/07']) {
    await rmdir(join(root, name));
    await symlink(victim, join(root, name));
    await expect(openTier({ root })).rejects.toMatchObject({
      code: 'config_invalid',
      message: expect.stringContaining('links are not followed here'),
    });
    await rm(join(root, name));
    await mkdir(join(root, name));
  }
  expect(readdirSync(victim)).toEqual(['1']);
  await openTier({ root });
});

test('a tier opens where its file system has no room for its directories, and takes data when there is some', async () => {
  const parent = await smallTmpfs(4 * MiB, { inodes: 400 });
  if (parent === undefined) return;
  const others = join(parent, 'others');
  await mkdir(others);
  for (let i = 0; i < 300; i++) await writeFile(join(others, `${i}`), '');
  const root = join(parent, 'tier');
  const tier = await openTier({ root, capacityBytes: 2 * MiB, poolBytesMax: 0 });
  expect(tier.availableBytes()).toBe(0);
  expect(tier.create(1, 1)).toBeUndefined();
  expect(await tier.removeOrphans()).toEqual({ files: 0, bytes: 0 });
  await rm(others, { recursive: true });
  expect(tier.create(1, 1)).toBeDefined();
  expect(tier.availableBytes()).toBeGreaterThan(0);
});

test('large files are out of the way at once, and off the disk when the tier is closed', async () => {
  const root = await tempDir('/dev/shm');
  const tier = await openTier({ root, capacityBytes: 64 * MiB, poolBytesMax: 0 });
  for (const blobId of [1, 2, 3]) await fill(tier, blobId, 16 * MiB);
  for (const blobId of [1, 2, 3]) tier.remove(blobId, { recycle: true });
  expect(tier.usage().usedBytes).toBe(0);
  expect(existsSync(tier.absolutePath(1))).toBe(false);
  await tier.close();
  expect(readdirSync(join(root, 't'))).toEqual([]);
});

test('a file system without room is noticed when room is asked for, also when others filled it', async () => {
  const root = await smallTmpfs(8 * MiB);
  if (root === undefined) return;
  const tier = await openTier({ root, clock: impatientClock() });
  // Promised bytes count before they are written.
  expect(tier.create(1, 5 * MiB)).toBeDefined();
  await writeFile(join(root, 'others'), Buffer.alloc(2 * MiB));
  expect(tier.create(2, 2 * MiB)).toBeUndefined();
  expect(tier.extend(1, 7 * MiB)).toBe(false);
  expect(tier.create(3, 900 * KiB)).toBeDefined();
  // Written bytes are no longer a promise: they are not counted twice.
  await tier.write(1, bytesOf(5 * MiB, 1), 0);
  expect(tier.create(4, 64 * KiB)).toBeDefined();
  expect(tier.create(5, 900 * KiB)).toBeUndefined();
  await rm(join(root, 'others'));
  expect(tier.create(5, MiB)).toBeDefined();
});

test('a tier that was opened on a full file system grows when others give back room, and only by its part', async () => {
  const root = await smallTmpfs(8 * MiB);
  if (root === undefined) return;
  await writeFile(join(root, '..others'), Buffer.alloc(7 * MiB));
  const small = { root: join(root, 'tier'), clock: impatientClock(), capacityBytes: 512 * KiB };
  const tier = await openTier({ ...small, growsToPart: 0.8 });
  expect(tier.create(1, 2 * MiB)).toBeUndefined();
  await rm(join(root, '..others'));
  tier.availableBytes(); // as each sweep asks
  expect(tier.create(1, 2 * MiB)).toBeDefined();
  const { capacityBytes } = tier.usage();
  expect(capacityBytes).toBeGreaterThan(6 * MiB);
  expect(capacityBytes).toBeLessThanOrEqual(0.8 * 8 * MiB);
  await tier.write(1, bytesOf(2 * MiB, 1), 0);
  tier.availableBytes();
  expect(tier.usage().capacityBytes - capacityBytes).toBeLessThan(256 * KiB); // its own files count as free
  await writeFile(join(root, '..others'), Buffer.alloc(2 * MiB));
  tier.availableBytes();
  expect(tier.usage().capacityBytes).toBeGreaterThanOrEqual(capacityBytes);
  const fixed = await openTier({ ...small, root: join(root, 'fixed') });
  fixed.availableBytes();
  expect(fixed.usage().capacityBytes).toBe(512 * KiB);
});

test('a full file system is tier_full for the writer, and writing goes on when there is room', async () => {
  const root = await smallTmpfs(8 * MiB);
  if (root === undefined) return;
  const tier = await openTier({ root, clock: impatientClock() });
  tier.create(1, 4 * MiB);
  await writeFile(join(root, 'others'), Buffer.alloc(6 * MiB));
  const content = bytesOf(4 * MiB, 1);
  await expect(tier.write(1, content, 0)).rejects.toMatchObject({ code: 'tier_full' });
  // Small writes are synchronous: the same code.
  await expect(
    (async () => {
      for (let at = 0; at < 4 * MiB; at += 64 * KiB)
        await tier.write(1, content.subarray(at, at + 64 * KiB), at);
    })(),
  ).rejects.toMatchObject({ code: 'tier_full' });
  await expect(tier.populate({ fileBytes: 2 * MiB, files: 1 })).resolves.toBeUndefined();
  await rm(join(root, 'others'));
  await tier.write(1, content, 0);
  tier.seal(1, content.length);
  const target = Buffer.alloc(content.length);
  await tier.read(1, target, 0);
  expect(target.equals(content)).toBe(true);
});

test('pooled files are given up when the file system and not the budget runs short', async () => {
  const root = await smallTmpfs(8 * MiB);
  if (root === undefined) return;
  const tier = await openTier({ root, poolBytesMax: 8 * MiB, clock: impatientClock() });
  for (const blobId of [1, 2, 3]) await fill(tier, blobId, MiB);
  for (const blobId of [1, 2, 3]) tier.remove(blobId, { recycle: true });
  await writeFile(join(root, 'others'), Buffer.alloc(4 * MiB - 64 * KiB));
  // 3 MiB in the pool, a little more than 1 MiB free: 3 MiB need two of the pooled.
  expect(tier.create(4, 3 * MiB)).toBeDefined();
  await tier.write(4, bytesOf(3 * MiB, 4), 0);
  expect(tier.usage().pooledBytes).toBe(MiB);
});

test('a file system out of inodes has no room for a blob', async () => {
  const root = await smallTmpfs(8 * MiB, { inodes: 400 });
  if (root === undefined) return;
  const tier = await openTier({ root, clock: impatientClock() });
  let created = 0;
  while (tier.create(created + 1, 0) !== undefined) created++;
  expect(created).toBeGreaterThan(100);
  tier.remove(1, { recycle: false });
  expect(tier.create(created + 2, 0)).toBeDefined();
});

/** Each look at it is a second later, so that what statfs said is never trusted for long. */
function impatientClock(): Clock {
  let nowMs = 0;
  const later = (): number => (nowMs += 1000);
  return { now: later, monotonic: later, sleep: async () => undefined };
}

async function fill(tier: LocalTier, blobId: number, sizeBytes: number): Promise<void> {
  tier.create(blobId, sizeBytes);
  await tier.write(blobId, bytesOf(sizeBytes, blobId), 0);
  tier.seal(blobId, sizeBytes);
}
