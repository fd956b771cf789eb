/** Files of the disk are shown after they were compared, and no client waits for that longer than a moment. */
import { closeSync, existsSync, openSync, readSync, writeSync } from 'node:fs';
import { MiB } from '@ebb/protocol';
import {
  buffered,
  bytesOf,
  codeOf,
  createTestClock,
  openStoreInTest,
  override,
  type TestStore,
} from '@ebb/testkit';
import { expect, onTestFinished, test, vi } from 'vitest';
import type { Mover } from '../tier/tier.ts';

const ref = { bucket: 'plain', key: 'k' };
const OPENERS = 24;
const LARGE_BYTES = 65 * MiB;

/** A pass over a file does not end until it is let go on: a disk that is slow, or stands still. */
class HeldPasses {
  /** Those that began. */
  count = 0;
  #release: (() => void) | undefined;
  #open: Promise<void> = Promise.resolve();

  hold(): void {
    this.#open = new Promise((resolve) => {
      this.#release = resolve;
    });
  }

  letGo(): void {
    this.#release?.();
  }

  wrap(mover: Mover): Mover {
    return override(mover, {
      checksum: async (file, length, options) => {
        if ((options?.offset ?? 0) === 0) this.count++;
        await this.#open;
        return await mover.checksum(file, length, options);
      },
    });
  }
}

/** An object on disk alone, and passes that do not end. */
async function openWithObject(sizeBytes: number) {
  const passes = new HeldPasses();
  const clock = createTestClock();
  const t = await openStoreInTest(
    { plain: { ...buffered, mirror: false } },
    {
      // So little memory that nothing is brought there.
      ...{ clock, memoryBytes: 4 * MiB, diskBytes: 400 * MiB },
      faults: { mover: (mover) => passes.wrap(mover) },
    },
  );
  const bytes = bytesOf(sizeBytes, 7);
  await t.put('plain', 'k', bytes);
  await t.store.relocate(ref, 1);
  passes.count = 0;
  passes.hold();
  onTestFinished(() => passes.letGo());
  return { t, passes, clock, bytes };
}

async function open(t: TestStore): Promise<{ leaseId: number; path: string }> {
  const { leaseId, extents } = await t.store.open(t.owner, ref);
  return { leaseId, path: extents[0]?.path as string };
}

async function read(t: TestStore, leaseId: number, from: number, to: number): Promise<Buffer> {
  const target = Buffer.alloc(to - from);
  await t.store.read(t.owner, leaseId, target, from);
  return target;
}

async function isShownSoon(t: TestStore): Promise<void> {
  await vi.waitFor(async () => expect((await open(t)).path).not.toBe(''));
}

test('many who open a large file at once are answered before it was compared, which happens once, and read right bytes', async () => {
  const { t, passes, bytes } = await openWithObject(LARGE_BYTES);
  const opened = await Promise.all(Array.from({ length: OPENERS }, () => open(t)));
  expect(opened.map(({ path }) => path)).toEqual(opened.map(() => ''));
  for (const { leaseId } of opened)
    expect(
      (await read(t, leaseId, 5 * MiB + 3, 6 * MiB)).equals(bytes.subarray(5 * MiB + 3, 6 * MiB)),
    ).toBe(true);
  expect(passes.count).toBe(1);
  passes.letGo();
  await isShownSoon(t);
  expect(passes.count).toBe(1);
});

test('what is read while a large file is compared is compared itself, and a bad file is never shown', async () => {
  const { t, passes, bytes } = await openWithObject(LARGE_BYTES);
  const { object } = await t.store.head(ref);
  const file = t.tiers.disk.absolutePath(object.extents[0]?.blobId as number);
  flip(file, MiB);
  const { leaseId, path } = await open(t);
  expect(path).toBe('');
  expect((await read(t, leaseId, 0, 9)).equals(bytes.subarray(0, 9))).toBe(true);
  passes.letGo();
  expect(await codeOf(read(t, leaseId, MiB, MiB + 1))).toBe('data_corrupt');
  await vi.waitFor(() => expect(passes.count).toBeGreaterThan(0));
  expect((await open(t)).path).toBe('');
});

test('a small file is waited for, for a moment: then who opened it reads through the node', async () => {
  const { t, passes, clock, bytes } = await openWithObject(5 * MiB);
  const opening = Promise.all(Array.from({ length: OPENERS }, () => open(t)));
  await vi.waitFor(() => expect(passes.count).toBe(1));
  await clock.advance(2000);
  const opened = await opening;
  expect(opened.map(({ path }) => path)).toEqual(opened.map(() => ''));
  expect((await open(t)).path).toBe(''); // at once: the moment is over
  const [first] = opened;
  expect((await read(t, first?.leaseId as number, 7, 99)).equals(bytes.subarray(7, 99))).toBe(true);
  passes.letGo();
  await isShownSoon(t);
  expect(passes.count).toBe(1);
});

test('a file that is deleted while it is compared stays until that has ended', async () => {
  const { t, passes } = await openWithObject(LARGE_BYTES);
  const { leaseId } = await open(t);
  await vi.waitFor(() => expect(passes.count).toBe(1));
  const { object } = await t.store.head(ref);
  const file = t.tiers.disk.absolutePath(object.extents[0]?.blobId as number);
  await t.store.delete(ref);
  t.store.release(t.owner, [leaseId]);
  expect(existsSync(file)).toBe(true);
  passes.letGo();
  await vi.waitFor(() => expect(existsSync(file)).toBe(false));
  expect(t.failures).toEqual([]);
});

function flip(file: string, at: number): void {
  const fd = openSync(file, 'r+');
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, at);
  byte[0] = (byte[0] as number) ^ 0x40;
  writeSync(fd, byte, 0, 1, at);
  closeSync(fd);
}
