/**
 * What every tier promises, as tests. Local tiers: `localTierConformance`; tier 2, whatever is behind: `remoteTierConformance`.
 * Differences are declared by the caller (`recycles`) or by the tier (`accepts`), and checked either way.
 */
import { existsSync } from 'node:fs';
import { mkdir, open, readFile, rename, stat, truncate, unlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { LocalTier, RemoteObject, RemoteRun, RemoteTier } from '@ebb/core';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { bytesOf } from '../bytes-of.ts';
import { codeOf } from '../code-of.ts';
import { tempDir } from '../temp-dir.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

interface LocalTierSetup {
  readonly root: string;
  readonly capacityBytes: number;
  readonly poolBytesMax: number;
}

export interface LocalTierHarness {
  /** Where the directories of the tests are made: it decides the file system. */
  readonly parent: string;
  readonly recycles: boolean;
  /** Opens a tier on a directory that is new or that another tier of this harness closed. */
  open(setup: LocalTierSetup): Promise<LocalTier>;
}

export function localTierConformance(name: string, harness: LocalTierHarness): void {
  const openTier = async (setup: Partial<LocalTierSetup> = {}): Promise<LocalTier> => {
    const root = setup.root ?? join(await tempDir(harness.parent), 'tier');
    const tier = await harness.open({
      capacityBytes: 8 * MiB,
      poolBytesMax: 8 * MiB,
      ...setup,
      root,
    });
    onTestFinished(async () => await tier.close());
    return tier;
  };

  describe(name, () => {
    test('what was written is read back, from any position, before and after sealing', async () => {
      const tier = await openTier();
      const content = bytesOf(300 * KiB, 1);
      await writeBlob(tier, 1, content, { seal: false });
      for (const sealed of [false, true]) {
        if (sealed) tier.seal(1, content.length);
        for (const [from, to] of [
          [0, 300 * KiB],
          [1, 2],
          [64 * KiB - 1, 192 * KiB + 1],
          [300 * KiB - 1, 300 * KiB],
        ] as const) {
          const target = Buffer.alloc(to - from);
          await tier.read(1, target, from);
          expect(target.equals(content.subarray(from, to))).toBe(true);
        }
      }
    });

    test('a single byte 0xFF is read as 0xFF and not taken for the end', async () => {
      const tier = await openTier();
      await writeBlob(tier, 1, Buffer.from([0x00, 0xff]));
      const target = Buffer.alloc(1);
      await tier.read(1, target, 1);
      expect(target[0]).toBe(0xff);
    });

    test('a read that ends at the end succeeds, one beyond it is refused, and an empty one at the end is fine', async () => {
      const tier = await openTier();
      await writeBlob(tier, 1, bytesOf(100, 1));
      await tier.read(1, Buffer.alloc(100), 0);
      await tier.read(1, Buffer.alloc(0), 100);
      await expectCode(tier.read(1, Buffer.alloc(1), 100), 'range_invalid');
      await expectCode(tier.read(1, Buffer.alloc(2), 99), 'range_invalid');
    });

    test('an empty blob can be sealed, found again and read', async () => {
      const root = join(await tempDir(harness.parent), 'tier');
      const tier = await openTier({ root });
      await writeBlob(tier, 1, Buffer.alloc(0));
      await tier.read(1, Buffer.alloc(0), 0);
      await tier.close();
      const again = await openTier({ root });
      expect(again.adopt(1, 0)?.blobId).toBe(1);
    });

    test('a client that writes the file by its path and not through the tier is seen', async () => {
      const tier = await openTier();
      const content = bytesOf(70 * KiB, 3);
      tier.create(1, content.length);
      await overwrite(tier.absolutePath(1), content);
      tier.seal(1, content.length);
      expect((await readBlob(tier, 1, content.length)).equals(content)).toBe(true);
      expect(tier.absolutePath(1)).toBe(join(tier.root, tier.find(1)?.path ?? ''));
    });

    test('the group may write a staged file and enter its directory, and makes no names there', async () => {
      const tier = await openTier();
      tier.create(1, 1);
      const file = tier.absolutePath(1);
      expect((await stat(file)).mode & 0o777).toBe(0o660);
      expect((await stat(dirname(file))).mode & 0o7777).toBe(0o2750);
    });

    test('reservations never pass the capacity, and room that was given back can be used', async () => {
      const tier = await openTier({ capacityBytes: MiB, poolBytesMax: 0 });
      expect(tier.create(1, 600 * KiB)).toBeDefined();
      expect(tier.create(2, 600 * KiB)).toBeUndefined();
      expect(tier.find(2)).toBeUndefined();
      expect(tier.extend(1, 1200 * KiB)).toBe(false);
      expect(tier.extend(1, 700 * KiB)).toBe(true);
      await tier.write(1, bytesOf(10 * KiB, 1), 0);
      expect(tier.seal(1, 10 * KiB)).toBe(12 * KiB);
      expect(tier.usage().usedBytes).toBe(12 * KiB);
      expect(tier.create(2, 1000 * KiB)).toBeDefined();
      tier.remove(1, { recycle: false });
      tier.remove(2, { recycle: true });
      expect(tier.usage()).toMatchObject({ usedBytes: 0, blobs: 0, capacityBytes: MiB });
    });

    test('a random life of blobs keeps the charges exact, and every sealed blob readable', async () => {
      const step = fc.record({
        kind: fc.constantFrom('create', 'create', 'extend', 'seal', 'seal', 'remove', 'trim'),
        bytes: fc.nat(200 * KiB),
        written: fc.double({ min: 0, max: 1, noNaN: true }),
        recycle: fc.boolean(),
        pick: fc.nat(),
      });
      const parent = await tempDir(harness.parent);
      let runs = 0;
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
          runs++;
          const root = join(parent, `run-${runs}`);
          const tier = await harness.open({
            root,
            capacityBytes: 512 * KiB,
            poolBytesMax: 256 * KiB,
          });
          const open = new Map<number, number>();
          const sealed = new Map<number, Buffer>();
          let lastId = 0;
          for (const s of steps) {
            const opened = [...open.keys()][s.pick % Math.max(1, open.size)];
            const all = [...open.keys(), ...sealed.keys()];
            const any = all[s.pick % Math.max(1, all.length)];
            if (s.kind === 'create') {
              lastId++;
              if (tier.create(lastId, s.bytes) !== undefined) open.set(lastId, s.bytes);
            } else if (s.kind === 'extend' && opened !== undefined) {
              if (tier.extend(opened, s.bytes))
                open.set(opened, Math.max(s.bytes, open.get(opened) ?? 0));
            } else if (s.kind === 'seal' && opened !== undefined) {
              const content = bytesOf(Math.floor((open.get(opened) ?? 0) * s.written), opened);
              await tier.write(opened, content, 0);
              expect(tier.seal(opened, content.length)).toBe(tier.find(opened)?.allocatedBytes);
              open.delete(opened);
              sealed.set(opened, content);
            } else if (s.kind === 'remove' && any !== undefined) {
              tier.remove(any, { recycle: s.recycle });
              open.delete(any);
              sealed.delete(any);
            } else if (s.kind === 'trim') {
              tier.trimPool(s.bytes);
              expect(tier.usage().pooledBytes).toBeLessThanOrEqual(s.bytes);
            }
            const { usedBytes, pooledBytes, capacityBytes, blobs } = tier.usage();
            let charged = 0;
            for (const id of [...open.keys(), ...sealed.keys()]) {
              const allocated = tier.find(id)?.allocatedBytes ?? -1;
              expect(allocated).toBeGreaterThanOrEqual(open.get(id) ?? sealed.get(id)?.length ?? 0);
              charged += allocated;
            }
            expect(usedBytes).toBe(charged + pooledBytes);
            expect(usedBytes).toBeLessThanOrEqual(capacityBytes);
            expect(blobs).toBe(open.size + sealed.size);
          }
          for (const [id, content] of sealed) {
            expect((await readBlob(tier, id, content.length)).equals(content)).toBe(true);
          }
          await tier.close();
        }),
        { numRuns: 15 },
      );
    });

    test('a blob that is shorter than announced cannot be sealed', async () => {
      const tier = await openTier();
      tier.create(1, 100);
      await tier.write(1, Buffer.alloc(10), 0);
      // A recycled or mapped file could be longer; this one is fresh.
      expect(() => tier.seal(1, 11)).toThrow(expect.objectContaining({ code: 'length_mismatch' }));
      expect(tier.seal(1, 10)).toBe(4 * KiB);
    });

    test('a blob is found again after a restart, with its bytes and its charge', async () => {
      const root = join(await tempDir(harness.parent), 'tier');
      const content = bytesOf(200 * KiB, 7);
      const before = await openTier({ root });
      await writeBlob(before, 0x1ff, content);
      await before.sync(0x1ff);
      const { usedBytes } = before.usage();
      await before.close();
      const after = await openTier({ root });
      expect(after.find(0x1ff)).toBeUndefined();
      const adopted = after.adopt(0x1ff, content.length);
      expect(adopted).toMatchObject({ blobId: 0x1ff, allocatedBytes: usedBytes });
      expect(after.adopt(0x1ff, content.length)).toEqual(adopted);
      expect(after.usage()).toMatchObject({ usedBytes, blobs: 1 });
      expect((await readBlob(after, 0x1ff, content.length)).equals(content)).toBe(true);
    });

    test('a missing file and one that is shorter than recorded are not adopted', async () => {
      const root = join(await tempDir(harness.parent), 'tier');
      const before = await openTier({ root });
      await writeBlob(before, 1, bytesOf(100 * KiB, 1));
      await truncate(before.absolutePath(1), 50 * KiB);
      await before.close();
      const after = await openTier({ root });
      expect(after.adopt(1, 100 * KiB)).toBeUndefined();
      expect(after.adopt(2, 0)).toBeUndefined();
      expect(after.usage()).toMatchObject({ usedBytes: 0, blobs: 0 });
    });

    test('what is found after a restart with a smaller capacity is kept, and nothing new granted until there is room', async () => {
      const root = join(await tempDir(harness.parent), 'tier');
      const before = await openTier({ root });
      await writeBlob(before, 1, bytesOf(MiB, 1));
      await writeBlob(before, 2, bytesOf(MiB, 2));
      await before.close();
      const after = await openTier({ root, capacityBytes: MiB });
      expect(after.adopt(1, MiB)).toBeDefined();
      expect(after.adopt(2, MiB)).toBeDefined();
      expect(after.create(3, 1)).toBeUndefined();
      after.remove(1, { recycle: true });
      expect(after.create(3, 1)).toBeUndefined();
      after.remove(2, { recycle: true });
      expect(after.create(3, 1)).toBeDefined();
    });

    test('a file that was lost gives data_lost, and so does one that was cut', async () => {
      const root = join(await tempDir(harness.parent), 'tier');
      const before = await openTier({ root });
      await writeBlob(before, 1, bytesOf(100 * KiB, 1));
      await writeBlob(before, 2, bytesOf(100 * KiB, 2));
      await before.close();
      const tier = await openTier({ root });
      tier.adopt(1, 100 * KiB);
      tier.adopt(2, 100 * KiB);
      await unlink(tier.absolutePath(1));
      await truncate(tier.absolutePath(2), 50 * KiB);
      await expectCode(tier.read(1, Buffer.alloc(1), 0), 'data_lost');
      await expectCode(tier.read(2, Buffer.alloc(60 * KiB), 0), 'data_lost');
      await tier.read(2, Buffer.alloc(10), 0);
      await expectCode(tier.read(99, Buffer.alloc(1), 0), 'data_lost');
      tier.remove(1, { recycle: true });
      expect(tier.usage().blobs).toBe(1);
    });

    test('files that no blob stands behind are removed and counted, and no other', async () => {
      const root = join(await tempDir(harness.parent), 'tier');
      const before = await openTier({ root });
      await writeBlob(before, 1, bytesOf(100 * KiB, 1));
      await writeBlob(before, 2, bytesOf(5 * MiB, 2));
      await writeBlob(before, 257, bytesOf(KiB, 3));
      await before.close();
      const after = await openTier({ root });
      after.adopt(1, 100 * KiB);
      after.create(3, 10);
      const removed = await after.removeOrphans();
      expect(removed).toEqual({ files: 2, bytes: 5 * MiB + 4 * KiB });
      expect(existsSync(after.absolutePath(2))).toBe(false);
      expect(existsSync(after.absolutePath(257))).toBe(false);
      expect(existsSync(after.absolutePath(1))).toBe(true);
      expect(existsSync(after.absolutePath(3))).toBe(true);
      expect(await after.removeOrphans()).toEqual({ files: 0, bytes: 0 });
    });

    test('the path of a removed blob leads nowhere, at once, and to no other blob later', async () => {
      const tier = await openTier();
      for (const [blobId, recycle] of [
        [1, true],
        [2, false],
      ] as const) {
        await writeBlob(tier, blobId, bytesOf(6 * MiB, blobId));
        const stale = tier.absolutePath(blobId);
        tier.remove(blobId, { recycle });
        expect(existsSync(stale)).toBe(false);
        await writeBlob(tier, blobId + 10, bytesOf(6 * MiB, 9));
        expect(existsSync(stale)).toBe(false);
        tier.remove(blobId + 10, { recycle: true });
      }
    });

    test('a late reader of a blob that was not to be recycled keeps the old bytes and never sees new ones', async () => {
      const tier = await openTier();
      const old = bytesOf(MiB, 1);
      await writeBlob(tier, 1, old);
      const late = await open(tier.absolutePath(1), 'r');
      onTestFinished(async () => await late.close());
      tier.remove(1, { recycle: false });
      for (const blobId of [2, 3, 4]) await writeBlob(tier, blobId, bytesOf(MiB, blobId));
      const target = Buffer.alloc(MiB);
      await late.read(target, 0, MiB, 0);
      expect(target.equals(old)).toBe(true);
    });

    test('a blob removed while it is being read still gives its own bytes to that read', async () => {
      const tier = await openTier();
      const content = bytesOf(4 * MiB, 1);
      await writeBlob(tier, 1, content);
      const target = Buffer.alloc(content.length);
      const reading = tier.read(1, target, 0);
      tier.remove(1, { recycle: false });
      await reading;
      expect(target.equals(content)).toBe(true);
    });

    test('many blobs are read at once with few descriptors', async () => {
      const tier = await openTier();
      const ids = Array.from({ length: 400 }, (_, index) => index + 1);
      for (const id of ids) await writeBlob(tier, id, bytesOf(KiB, id));
      const read = await Promise.all(ids.map(async (id) => await readBlob(tier, id, KiB)));
      for (const [index, content] of read.entries()) {
        expect(content.equals(bytesOf(KiB, index + 1))).toBe(true);
      }
    });

    if (harness.recycles) describeRecycling(openTier);
    else {
      test('declares that it does not recycle', async () => {
        const tier = await openTier();
        expect(tier.create(1, 1)?.slotId).toBe(0);
        tier.remove(1, { recycle: true });
        expect(tier.usage().pooledBytes).toBe(0);
        await expectCode(tier.populate({ fileBytes: MiB, files: 1 }), 'unsupported');
      });
    }
  });
}

function describeRecycling(
  openTier: (setup?: Partial<LocalTierSetup>) => Promise<LocalTier>,
): void {
  test('a freed file is used again: same file, pages still present, another name', async () => {
    const tier = await openTier();
    await writeBlob(tier, 1, bytesOf(MiB, 1));
    const slotId = tier.find(1)?.slotId;
    expect(slotId).toBeGreaterThan(0);
    expect((await stat(tier.absolutePath(1))).ino).toBe(slotId);
    tier.remove(1, { recycle: true });
    expect(tier.usage()).toMatchObject({ usedBytes: MiB, pooledBytes: MiB, blobs: 0 });
    const blob = tier.create(2, 900 * KiB);
    expect(blob).toMatchObject({ slotId, allocatedBytes: MiB });
    expect(tier.usage()).toMatchObject({ usedBytes: MiB, pooledBytes: 0 });
    expect((await stat(tier.absolutePath(2))).blocks * 512).toBe(MiB);
  });

  test('a small blob in a recycled large file ends where it ends, and is charged what the file holds', async () => {
    const tier = await openTier();
    await writeBlob(tier, 1, bytesOf(MiB, 1));
    tier.remove(1, { recycle: true });
    const content = bytesOf(500 * KiB, 2);
    await writeBlob(tier, 2, content);
    expect(tier.find(2)?.allocatedBytes).toBe(MiB);
    expect((await readBlob(tier, 2, content.length)).equals(content)).toBe(true);
    await expectCode(tier.read(2, Buffer.alloc(1), content.length), 'range_invalid');
  });

  test('pooled files are given up when room is needed', async () => {
    const tier = await openTier({ capacityBytes: 2 * MiB, poolBytesMax: 2 * MiB });
    for (const blobId of [1, 2]) await writeBlob(tier, blobId, bytesOf(MiB, blobId));
    for (const blobId of [1, 2]) tier.remove(blobId, { recycle: true });
    expect(tier.usage()).toMatchObject({ usedBytes: 2 * MiB, pooledBytes: 2 * MiB });
    expect(tier.create(3, 2 * MiB + 1)).toBeUndefined();
    expect(tier.usage().pooledBytes).toBe(2 * MiB);
    expect(tier.create(3, 2 * MiB)).toBeDefined();
    expect(tier.usage()).toMatchObject({ usedBytes: 2 * MiB, pooledBytes: 0 });
  });

  test('the pool keeps to its bound, and trimming it gives bytes back', async () => {
    const tier = await openTier({ poolBytesMax: 2 * MiB });
    for (const blobId of [1, 2, 3]) await writeBlob(tier, blobId, bytesOf(MiB, blobId));
    for (const blobId of [1, 2, 3]) tier.remove(blobId, { recycle: true });
    expect(tier.usage()).toMatchObject({ usedBytes: 2 * MiB, pooledBytes: 2 * MiB });
    expect(tier.trimPool(MiB)).toBe(MiB);
    expect(tier.trimPool(MiB)).toBe(0);
    expect(tier.trimPool(0)).toBe(MiB);
    expect(tier.usage().usedBytes).toBe(0);
  });

  test('the pool is warm again after a restart, and gives way to blobs', async () => {
    const root = join(await tempDir('/dev/shm'), 'tier');
    const before = await openTier({ root, capacityBytes: 2 * MiB });
    for (const blobId of [1, 2]) await writeBlob(before, blobId, bytesOf(MiB, blobId));
    before.remove(1, { recycle: true });
    await before.close();
    const after = await openTier({ root, capacityBytes: 2 * MiB });
    expect(after.usage()).toMatchObject({ pooledBytes: MiB, usedBytes: MiB });
    expect(after.adopt(2, MiB)).toBeDefined();
    expect(after.create(3, MiB)).toBeDefined();
    await after.close();
    const smaller = await openTier({ root, capacityBytes: MiB });
    expect(smaller.adopt(2, MiB)).toBeDefined();
    expect(smaller.usage()).toMatchObject({ pooledBytes: 0, usedBytes: MiB });
  });

  test('a pooled file that somebody else removed is not missed', async () => {
    const tier = await openTier();
    await writeBlob(tier, 1, bytesOf(MiB, 1));
    tier.remove(1, { recycle: true });
    await rename(join(tier.root, 'p'), join(tier.root, 'gone'));
    await mkdir(join(tier.root, 'p'));
    const content = bytesOf(MiB, 2);
    await writeBlob(tier, 2, content);
    expect((await readBlob(tier, 2, MiB)).equals(content)).toBe(true);
    expect(tier.usage()).toMatchObject({ usedBytes: MiB, pooledBytes: 0 });
  });

  test('populated files are ready with their pages, as many as there is room for', async () => {
    const tier = await openTier({ capacityBytes: 4 * MiB, poolBytesMax: 3 * MiB });
    await tier.populate({ fileBytes: MiB, files: 2 });
    expect(tier.usage()).toMatchObject({ pooledBytes: 2 * MiB, usedBytes: 2 * MiB });
    await tier.populate({ fileBytes: MiB, files: 2 });
    expect(tier.usage().pooledBytes).toBe(2 * MiB);
    const blob = tier.create(1, MiB);
    expect(blob?.slotId).toBeGreaterThan(0);
    expect((await stat(tier.absolutePath(1))).blocks * 512).toBe(MiB);
    await tier.populate({ fileBytes: MiB, files: 99 });
    expect(tier.usage()).toMatchObject({ pooledBytes: 3 * MiB, usedBytes: 4 * MiB });
  });

  test('populating that was stopped leaves no half-made file and no room taken', async () => {
    const tier = await openTier();
    await expectCode(tier.populate({ fileBytes: MiB, files: 1 }, AbortSignal.abort()), 'aborted');
    expect(tier.usage()).toMatchObject({ usedBytes: 0, pooledBytes: 0 });
    const controller = new AbortController();
    const populating = tier.populate({ fileBytes: 2 * MiB, files: 4 }, controller.signal);
    controller.abort();
    await expectCode(populating, 'aborted');
    // Files that were ready before the worker saw it may stay.
    const { usedBytes, pooledBytes } = tier.usage();
    expect(usedBytes).toBe(pooledBytes);
    expect(pooledBytes % (2 * MiB)).toBe(0);
  });
}

export interface RemoteTierHarness {
  /** A tier with nothing in it. */
  open(): Promise<RemoteTier>;
}

export function remoteTierConformance(name: string, harness: RemoteTierHarness): void {
  interface Setup {
    readonly tier: RemoteTier;
    /** A local file with this content, as a blob of tier 0 would be. */
    readonly local: (content: Uint8Array) => Promise<string>;
    readonly put: (name: string, content: Uint8Array) => Promise<RemoteObject>;
    readonly fetched: (name: string, content: Uint8Array) => Promise<Buffer>;
    readonly names: (prefix: string) => Promise<readonly string[]>;
  }
  const setUp = async (): Promise<Setup> => {
    const tier = await harness.open();
    onTestFinished(async () => await tier.close());
    const directory = await tempDir();
    let files = 0;
    const local = async (content: Uint8Array): Promise<string> => {
      files++;
      const file = join(directory, `file-${files}`);
      await writeFile(file, content);
      return file;
    };
    return {
      tier,
      local,
      put: async (key, content) => await putFile(tier, key, await local(content), facts(content)),
      fetched: async (key, content) => {
        const file = await local(Buffer.alloc(0));
        await tier.fetch(key, file, runOf(content));
        return await readFile(file);
      },
      names: async (prefix) => {
        const found: string[] = [];
        for await (const entry of tier.list(prefix)) found.push(entry.name);
        return found.sort();
      },
    };
  };

  describe(name, () => {
    test('what was put is read back whole, in ranges, and by fetch', async () => {
      const { tier, put, fetched } = await setUp();
      const content = bytesOf(3 * MiB + 7, 1);
      await put('bucket/deep/er/key', content);
      expect((await tier.head('bucket/deep/er/key'))?.sizeBytes).toBe(content.length);
      const target = Buffer.alloc(100);
      await tier.read('bucket/deep/er/key', target, MiB - 50);
      expect(target.equals(content.subarray(MiB - 50, MiB + 50))).toBe(true);
      expect((await fetched('bucket/deep/er/key', content)).equals(content)).toBe(true);
    });

    test('only the first sizeBytes of a longer file are stored: a recycled file has an old tail', async () => {
      const { tier, local } = await setUp();
      const content = bytesOf(MiB, 1);
      await putFile(tier, 'bucket/key', await local(content), facts(content.subarray(0, 1000)));
      expect((await tier.head('bucket/key'))?.sizeBytes).toBe(1000);
    });

    test('an empty object is an object', async () => {
      const { tier, put, fetched } = await setUp();
      await put('bucket/empty', Buffer.alloc(0));
      expect((await tier.head('bucket/empty'))?.sizeBytes).toBe(0);
      expect((await fetched('bucket/empty', Buffer.alloc(0))).length).toBe(0);
      await tier.read('bucket/empty', Buffer.alloc(0), 0);
      await expectCode(tier.read('bucket/empty', Buffer.alloc(1), 0), 'range_invalid');
    });

    test('a single byte 0xFF is read as 0xFF; a range up to the end succeeds and one beyond is refused', async () => {
      const { tier, put } = await setUp();
      await put('bucket/key', Buffer.from([1, 0xff]));
      const target = Buffer.alloc(1);
      await tier.read('bucket/key', target, 1);
      expect(target[0]).toBe(0xff);
      await expectCode(tier.read('bucket/key', Buffer.alloc(2), 1), 'range_invalid');
      await expectCode(tier.read('bucket/key', Buffer.alloc(1), 2), 'range_invalid');
    });

    test('putting again replaces the whole, also with something shorter', async () => {
      const { tier, put, fetched } = await setUp();
      await put('bucket/key', bytesOf(MiB, 1));
      const shorter = bytesOf(10, 2);
      await put('bucket/key', shorter);
      expect((await tier.head('bucket/key'))?.sizeBytes).toBe(10);
      expect((await fetched('bucket/key', shorter)).equals(shorter)).toBe(true);
    });

    test('a put whose bytes do not match the checksum is refused and leaves what was there', async () => {
      const { tier, local, put, fetched, names } = await setUp();
      const old = bytesOf(100, 1);
      await put('bucket/key', old);
      const file = await local(bytesOf(100, 2));
      await expectCode(putFile(tier, 'bucket/key', file, facts(old)), 'data_corrupt');
      await expectCode(putFile(tier, 'bucket/new/er', file, facts(old)), 'data_corrupt');
      expect((await fetched('bucket/key', old)).equals(old)).toBe(true);
      expect(await names('')).toEqual(['bucket/key']);
    });

    test('a local file that is missing or shorter than recorded is data_lost, and nothing is stored', async () => {
      const { tier, local, names } = await setUp();
      const content = bytesOf(100, 1);
      const torn = await local(content.subarray(0, 50));
      await expectCode(putFile(tier, 'bucket/key', torn, facts(content)), 'data_lost');
      await expectCode(putFile(tier, 'bucket/key', `${torn}-missing`, facts(content)), 'data_lost');
      expect(await names('')).toEqual([]);
    });

    test('a fetch verifies: stored bytes that do not match are data_corrupt', async () => {
      const { tier, local, put } = await setUp();
      const content = bytesOf(100, 1);
      await put('bucket/key', content);
      const target = await local(Buffer.alloc(0));
      const wrong = { ...runOf(content), crc32c: 1 };
      await expectCode(tier.fetch('bucket/key', target, wrong), 'data_corrupt');
    });

    test('an object shorter than recorded is not fetched as if it were whole', async () => {
      const { tier, local, put } = await setUp();
      const content = bytesOf(100, 1);
      await put('bucket/key', content.subarray(0, 60));
      const error = await codeOf(
        tier.fetch('bucket/key', await local(Buffer.alloc(0)), runOf(content)),
      );
      expect(['data_lost', 'data_corrupt', 'range_invalid']).toContain(error);
    });

    test('a name that is not there: head is undefined, read and fetch are data_lost, delete is fine', async () => {
      const { tier, local, put } = await setUp();
      await put('bucket/a/b', Buffer.from('x'));
      for (const missing of ['bucket/none', 'other/none', 'bucket/a', 'bucket/a/b/c']) {
        expect(await tier.head(missing)).toBeUndefined();
        await expectCode(tier.read(missing, Buffer.alloc(1), 0), 'data_lost');
        const target = await local(Buffer.alloc(0));
        await expectCode(tier.fetch(missing, target, runOf(Buffer.from('x'))), 'data_lost');
        await tier.delete(missing);
      }
      expect((await tier.head('bucket/a/b'))?.sizeBytes).toBe(1);
    });

    test('an object is made of runs of several files, each checked by itself', async () => {
      const { tier, local, fetched, names } = await setUp();
      const [first, second] = [bytesOf(2 * MiB, 1), bytesOf(MiB, 2)];
      const whole = Buffer.concat([first.subarray(100, MiB), second, first.subarray(0, 7)]);
      const files = { first: await local(first), second: await local(second) };
      const runs = [
        { file: files.first, offset: 100, length: MiB - 100, crc32c: null },
        { file: files.second, offset: 0, length: MiB, crc32c: crc32c(second) },
        { file: files.first, offset: 0, length: 7, crc32c: crc32c(first.subarray(0, 7)) },
      ];
      expect((await tier.put('bucket/joined', runs)).sizeBytes).toBe(whole.length);
      expect((await fetched('bucket/joined', whole)).equals(whole)).toBe(true);
      const wrong = runs.map((run, index) => (index === 1 ? { ...run, crc32c: 1 } : run));
      await expectCode(tier.put('bucket/wrong', wrong), 'data_corrupt');
      expect(await names('')).toEqual(['bucket/joined']);
    });

    test('a run out of the middle is fetched, and its checksum told where none was known', async () => {
      const { tier, local, put } = await setUp();
      const content = bytesOf(2 * MiB, 1);
      await put('bucket/key', content);
      const middle = content.subarray(MiB - 3, MiB + 1000);
      const file = await local(Buffer.alloc(0));
      const run = { offset: MiB - 3, length: middle.length, crc32c: null };
      expect(await tier.fetch('bucket/key', file, run)).toBe(crc32c(middle));
      expect((await readFile(file)).equals(middle)).toBe(true);
      const beyond = { offset: 2 * MiB - 1, length: 2, crc32c: null };
      await expectCode(tier.fetch('bucket/key', file, beyond), 'range_invalid');
    });

    test('an ETag names one content: put, head and list agree on it, and a read that names a former one is refused', async () => {
      const { tier, local, put } = await setUp();
      const old = await put('bucket/key', bytesOf(100, 1));
      expect((await tier.head('bucket/key'))?.etag).toBe(old.etag);
      for await (const entry of tier.list('bucket/')) expect(entry.etag).toBe(old.etag);
      await tier.read('bucket/key', Buffer.alloc(10), 0, { etag: old.etag });
      const next = await put('bucket/key', bytesOf(100, 2));
      expect(next.etag).not.toBe(old.etag);
      const stale = { etag: old.etag };
      await expectCode(tier.read('bucket/key', Buffer.alloc(10), 0, stale), 'precondition_failed');
      const run = { offset: 0, length: 100, crc32c: null, ...stale };
      const file = await local(Buffer.alloc(0));
      await expectCode(tier.fetch('bucket/key', file, run), 'precondition_failed');
      await expectCode(tier.copy('bucket/key', 'bucket/copy', run), 'precondition_failed');
      expect(await tier.head('bucket/copy')).toBeUndefined();
    });

    test('a delete that names an ETag deletes that object only, and no error where there is none', async () => {
      const { tier, put, names } = await setUp();
      const old = await put('bucket/key', bytesOf(100, 1));
      const next = await put('bucket/key', bytesOf(100, 2));
      const stale = tier.delete('bucket/key', { etag: old.etag });
      await expectCode(stale, 'precondition_failed');
      expect((await tier.head('bucket/key'))?.etag).toBe(next.etag);
      await tier.delete('bucket/key', { etag: next.etag });
      await tier.delete('bucket/key', { etag: next.etag });
      expect(await names('')).toEqual([]);
    });

    test('a put that says what it replaces replaces nothing else', async () => {
      const { tier, local, fetched, names } = await setUp();
      for (const sizeBytes of [100, 17 * MiB]) {
        const [first, second] = [bytesOf(sizeBytes, 1), bytesOf(sizeBytes, 2)];
        const put = async (content: Buffer, replaces: string | null): Promise<RemoteObject> =>
          await tier.put(
            'bucket/key',
            [{ file: await local(content), offset: 0, length: sizeBytes, crc32c: null }],
            { replaces },
          );
        await expectCode(put(first, 'none'), 'precondition_failed');
        expect(await names('')).toEqual([]);
        const { etag } = await put(first, null);
        await expectCode(put(second, null), 'precondition_failed');
        await expectCode(put(second, 'other'), 'precondition_failed');
        expect((await fetched('bucket/key', first)).equals(first)).toBe(true);
        await put(second, etag);
        expect((await fetched('bucket/key', second)).equals(second)).toBe(true);
        await tier.delete('bucket/key');
      }
    });

    test('a run of an object is copied to another name, and stays when the first goes', async () => {
      const { tier, put, fetched } = await setUp();
      const content = bytesOf(MiB, 1);
      await put('bucket/key', content);
      await tier.copy('bucket/key', 'bucket/.ebb/whole', { offset: 0, length: MiB });
      const part = await tier.copy('bucket/key', 'bucket/.ebb/part', { offset: 5, length: 1000 });
      expect(part.sizeBytes).toBe(1000);
      await tier.delete('bucket/key');
      expect((await fetched('bucket/.ebb/whole', content)).equals(content)).toBe(true);
      const slice = content.subarray(5, 1005);
      expect((await fetched('bucket/.ebb/part', slice)).equals(slice)).toBe(true);
      const run = { offset: 0, length: 1 };
      await expectCode(tier.copy('bucket/none', 'bucket/to', run), 'data_lost');
    });

    test('deleting leaves neighbours: a/b goes, a/bc and ab stay', async () => {
      const { tier, put, names } = await setUp();
      for (const key of ['k/a/b', 'k/a/bc', 'k/ab']) await put(key, Buffer.from(key));
      await tier.delete('k/a/b');
      await tier.delete('k/a/b');
      expect(await names('')).toEqual(['k/a/bc', 'k/ab']);
    });

    test('a listing has every name that starts with the prefix, with its size, and no other', async () => {
      const { tier, put, names } = await setUp();
      const keys = ['one/a', 'one/ab', 'one/b/c/d', 'one/b/cc', 'two/ä b+%', 'onetwo/x'];
      for (const key of keys) await put(key, Buffer.from(key));
      expect(await names('')).toEqual([...keys].sort());
      expect(await names('one/')).toEqual(['one/a', 'one/ab', 'one/b/c/d', 'one/b/cc']);
      expect(await names('one')).toEqual(['one/a', 'one/ab', 'one/b/c/d', 'one/b/cc', 'onetwo/x']);
      expect(await names('one/a')).toEqual(['one/a', 'one/ab']);
      expect(await names('one/b/c')).toEqual(['one/b/c/d', 'one/b/cc']);
      expect(await names('none/')).toEqual([]);
      for await (const { name: key, sizeBytes } of tier.list('two/')) {
        expect(sizeBytes).toBe(Buffer.byteLength(key));
      }
    });

    test('a put that was aborted before or half-way leaves nothing, and can be repeated', async () => {
      const { tier, local, put, names } = await setUp();
      const content = bytesOf(24 * MiB, 1);
      const file = await local(content);
      const before = { ...facts(content), signal: AbortSignal.abort() };
      await expectCode(putFile(tier, 'bucket/dir/key', file, before), 'aborted');
      const controller = new AbortController();
      const putting = putFile(tier, 'bucket/dir/key', file, {
        ...facts(content),
        signal: controller.signal,
      });
      setImmediate(() => controller.abort());
      await expectCode(putting, 'aborted');
      expect(await names('')).toEqual([]);
      await put('bucket/dir/key', content);
      expect(await names('')).toEqual(['bucket/dir/key']);
    });

    test('every name that is accepted can be stored beside all others; one that is not accepted is refused and harms none', async () => {
      const { tier, local, fetched } = await setUp();
      const stored = new Map<string, Buffer>();
      const long = 'x'.repeat(255);
      const keys = [
        'k/a',
        'k/a/b',
        'k/a/',
        'k/c/d',
        'k/c',
        'k//e',
        'k/f//g',
        'k/..',
        'k/../../escape',
        'k/./h',
        '/abs',
        'k',
        `k/${long}`,
        `k/${long}y`,
        'k/nul\0l',
        'k/.ebb/1f',
        'k/ümlaut',
        'k/\ud800',
        `k/${'long/'.repeat(180)}z`,
      ];
      for (const key of keys) {
        const content = Buffer.from(`content of ${JSON.stringify(key)}`);
        const code = await codeOf(putFile(tier, key, await local(content), facts(content)));
        if (code === 'none') stored.set(key, content);
        else expect([key, code]).toEqual([key, 'name_invalid']);
        if (!tier.accepts(key)) expect([key, code]).toEqual([key, 'name_invalid']);
      }
      expect(stored.size).toBeGreaterThan(4);
      for (const [key, content] of stored) {
        expect((await fetched(key, content)).equals(content)).toBe(true);
      }
    });

    test('puts and deletes of neighbours at the same time do not disturb each other', async () => {
      const { tier, put, names } = await setUp();
      const keys = Array.from({ length: 40 }, (_, index) => `k/d${index % 4}/e/${index}`);
      await Promise.all(
        keys.map(async (key, index) => {
          await put(key, Buffer.from(key));
          if (index % 2 === 0) await tier.delete(key);
        }),
      );
      expect(await names('')).toEqual(keys.filter((_, index) => index % 2 === 1).sort());
    });
  });
}

const CRC32C_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 0 ? crc >>> 1 : (crc >>> 1) ^ 0x82f63b78;
  return crc;
});

/** Computed here and not with core's: what a tier verifies by is checked by something else. */
function crc32c(content: Uint8Array): number {
  let crc = 0xffffffff;
  for (let at = 0; at < content.length; at++) {
    crc = (CRC32C_TABLE[(crc ^ (content[at] as number)) & 0xff] as number) ^ (crc >>> 8);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

function facts(content: Uint8Array): { sizeBytes: number; crc32c: number } {
  return { sizeBytes: content.length, crc32c: crc32c(content) };
}

/** Stores the first `sizeBytes` of a file. */
export async function putFile(
  tier: RemoteTier,
  name: string,
  file: string,
  { sizeBytes, crc32c: crc, signal }: ReturnType<typeof facts> & { signal?: AbortSignal },
): Promise<RemoteObject> {
  const source = { file, offset: 0, length: sizeBytes, crc32c: crc };
  return await tier.put(name, [source], signal === undefined ? {} : { signal });
}

/** All of it. */
function runOf(content: Uint8Array): RemoteRun {
  return { offset: 0, length: content.length, crc32c: crc32c(content) };
}

async function writeBlob(
  tier: LocalTier,
  blobId: number,
  content: Buffer,
  { seal }: { seal: boolean } = { seal: true },
): Promise<void> {
  expect(tier.create(blobId, content.length)).toBeDefined();
  await tier.write(blobId, content, 0);
  if (seal) tier.seal(blobId, content.length);
}

async function readBlob(tier: LocalTier, blobId: number, sizeBytes: number): Promise<Buffer> {
  const target = Buffer.alloc(sizeBytes);
  await tier.read(blobId, target, 0);
  return target;
}

async function overwrite(file: string, content: Uint8Array): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    await handle.write(content, 0, content.length, 0);
  } finally {
    await handle.close();
  }
}

async function expectCode(promise: Promise<unknown>, code: string): Promise<void> {
  expect(await codeOf(promise)).toBe(code);
}
