/** Bytes that change behind the store's back, on disk and in tier 2: nobody is given them. */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { KiB, MiB } from '@ebb/protocol';
import {
  buffered,
  codeOf,
  ephemeral,
  mirrored,
  openStoreInTest,
  override,
  reopen,
  type TestStore,
} from '@ebb/testkit';
import { describe, expect, test } from 'vitest';
import { blockBytesOf } from './block-sums.ts';

const BUCKETS = { plain: { ...buffered, mirror: false }, buf: buffered, mem: ephemeral };
const BLOCK = 64 * KiB;

const bytesOf = (length: number, seed = 1): Buffer => {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; at += 13) bytes[at] = (at * 31 + seed) % 251;
  return bytes;
};

async function diskFile(t: TestStore, bucket: string, key: string): Promise<string> {
  const { object } = await t.store.head({ bucket, key });
  return t.tiers.disk.absolutePath(object.extents[0]?.blobId as number);
}

function flip(file: string, at: number): void {
  const bytes = readFileSync(file);
  bytes[at] = (bytes[at] as number) ^ 0x40;
  writeFileSync(file, bytes);
}

/** Through the daemon, as HTTP, S3 and frames read. */
async function read(
  t: TestStore,
  ref: { bucket: string; key: string },
  from: number,
  to: number,
): Promise<Buffer> {
  const opened = await t.store.open(t.owner, ref, { ranges: true });
  try {
    const target = Buffer.alloc(to - from);
    await t.store.read(t.owner, opened.leaseId, target, from);
    return target;
  } finally {
    t.store.release(t.owner, [opened.leaseId]);
  }
}

/** On disk alone. */
async function putOnDisk(t: TestStore, bucket: string, key: string, bytes: Buffer): Promise<void> {
  await t.put(bucket, key, bytes);
  await t.store.relocate({ bucket, key }, 1);
}

describe.each([1, 1000, BLOCK, BLOCK + 1, 5 * MiB + 77])('%i bytes on disk', (length) => {
  test('any byte that changed is given to nobody, and what it does not touch is', async () => {
    const t = await openStoreInTest(BUCKETS);
    const bytes = bytesOf(length);
    const ref = { bucket: 'plain', key: 'k' };
    await putOnDisk(t, 'plain', 'k', bytes);
    expect(await read(t, ref, 0, length)).toEqual(bytes);
    for (const at of new Set([0, Math.floor(length / 2), length - 1])) {
      const file = await diskFile(t, 'plain', 'k');
      flip(file, at);
      expect(await codeOf(read(t, ref, 0, length))).toBe('data_corrupt');
      expect(await codeOf(read(t, ref, at, at + 1))).toBe('data_corrupt');
      const from = Math.max(0, at - 10);
      expect(await codeOf(read(t, ref, from, Math.min(length, at + 10)))).toBe('data_corrupt');
      const clear = Math.floor(at / BLOCK) > 0 ? 0 : BLOCK;
      if (clear < length && clear !== Math.floor(at / BLOCK) * BLOCK)
        expect(await read(t, ref, clear, clear + 1)).toEqual(bytes.subarray(clear, clear + 1));
      flip(file, at);
      expect(await read(t, ref, 0, length)).toEqual(bytes);
    }
  });
});

test('ranges of whatever bounds are the bytes that were written', async () => {
  const t = await openStoreInTest(BUCKETS);
  const bytes = bytesOf(9 * BLOCK + 123);
  await putOnDisk(t, 'plain', 'k', bytes);
  const edges = [
    0,
    1,
    BLOCK - 1,
    BLOCK,
    BLOCK + 1,
    4 * BLOCK,
    5 * BLOCK + 7,
    9 * BLOCK,
    bytes.length,
  ];
  for (const from of edges)
    for (const to of edges)
      if (from <= to)
        expect(await read(t, { bucket: 'plain', key: 'k' }, from, to)).toEqual(
          bytes.subarray(from, to),
        );
});

test('a copy on disk that is bad is set aside, another one is read, and it is told once', async () => {
  const corrupt: number[] = [];
  const t = await openStoreInTest(BUCKETS, { observer: { corrupt: (tier) => corrupt.push(tier) } });
  const bytes = bytesOf(3 * MiB);
  const ref = { bucket: 'buf', key: 'k' };
  await putOnDisk(t, 'buf', 'k', bytes);
  await mirrored(t);
  const file = await diskFile(t, 'buf', 'k');
  flip(file, 100);
  expect(await read(t, ref, 0, bytes.length)).toEqual(bytes);
  expect((await t.store.head(ref)).tiers).not.toContain(1);
  expect(corrupt).toEqual([1]);
  const { events } = await t.store.why(ref);
  expect(events.map(({ what }) => what)).toContain('a copy is corrupt');
  const [kept] = readdirSync(join(t.root, 'disk', 'x'));
  const aside = readFileSync(join(t.root, 'disk', 'x', kept as string));
  expect(aside.length).toBe(bytes.length);
  expect(aside.equals(bytes)).toBe(false);
  expect((await t.store.verify({})).broken).toEqual([]);
  // It is no orphan to be removed, and no copy after a restart.
  const next = await reopen(t);
  expect(readdirSync(join(next.root, 'disk', 'x'))).toEqual([kept]);
  expect(await read(next, ref, 0, bytes.length)).toEqual(bytes);
});

test('the last copy is never removed for being bad', async () => {
  const corrupt: number[] = [];
  const t = await openStoreInTest(BUCKETS, { observer: { corrupt: (tier) => corrupt.push(tier) } });
  const bytes = bytesOf(2 * MiB);
  await putOnDisk(t, 'plain', 'k', bytes);
  const file = await diskFile(t, 'plain', 'k');
  flip(file, MiB);
  for (let i = 0; i < 3; i++)
    expect(await codeOf(read(t, { bucket: 'plain', key: 'k' }, MiB, MiB + 5))).toBe('data_corrupt');
  expect(corrupt).toEqual([1]);
  expect(readFileSync(file).length).toBe(bytes.length);
  expect((await t.store.gc()).lostObjects).toBe(0);
  expect((await t.store.verify({})).broken).toMatchObject([{ tier: 1 }]);
  flip(file, MiB); // somebody repaired it
  expect(await read(t, { bucket: 'plain', key: 'k' }, 0, bytes.length)).toEqual(bytes);
});

test('a client is shown no file of the disk that is not right as a whole', async () => {
  const t = await openStoreInTest(BUCKETS);
  const bytes = bytesOf(2 * MiB);
  for (const key of ['good', 'bad', 'turned']) await putOnDisk(t, 'plain', key, bytes);
  flip(await diskFile(t, 'plain', 'bad'), MiB);
  const shown = async (key: string): Promise<string> => {
    const { leaseId, extents } = await t.store.open(t.owner, { bucket: 'plain', key });
    t.store.release(t.owner, [leaseId]);
    return extents[0]?.path as string;
  };
  expect(await shown('good')).not.toBe('');
  expect(await shown('bad')).toBe('');
  expect(await shown('turned')).not.toBe('');
  flip(await diskFile(t, 'plain', 'turned'), 5);
  expect(await shown('turned')).toBe('');
  expect(await read(t, { bucket: 'plain', key: 'turned' }, MiB, MiB + 9)).toEqual(
    bytes.subarray(MiB, MiB + 9),
  );
});

test('what lies in tier 2 alone is compared, whole and in ranges, small and large', async () => {
  const t = await openStoreInTest(BUCKETS, { diskBytes: 24 * MiB });
  for (const [key, length] of [
    ['small', 3 * MiB],
    ['large', 12 * MiB],
  ] as const) {
    const ref = { bucket: 'buf', key };
    const bytes = bytesOf(length);
    await t.put('buf', key, bytes);
    await mirrored(t);
    await t.store.relocate(ref, 2);
    expect((await t.store.head(ref)).tiers).toEqual([2]);
    const file = join(t.root, 'remote', 'buf', key);
    const { object } = await t.store.head(ref);
    const blobId = object.extents[0]?.blobId as number;
    const target = Buffer.alloc(10);
    await t.store.readBlob(blobId, target, 2 * MiB);
    expect(target).toEqual(bytes.subarray(2 * MiB, 2 * MiB + 10));
    expect(file).toBeDefined();
  }
});

test('of a last copy in tier 2 that turned bad, a local client and one far away read what is right', async () => {
  const corrupt: number[] = [];
  const t = await openStoreInTest(BUCKETS, { observer: { corrupt: (tier) => corrupt.push(tier) } });
  const bytes = bytesOf(2 * MiB);
  const ref = { bucket: 'buf', key: 'k' };
  await t.put('buf', 'k', bytes);
  await mirrored(t);
  await t.store.relocate(ref, 2);
  const file = join(t.root, 'remote', 'buf', 'k');
  // A disk that gives other bytes changes no time: to the nanosecond, for the ETag tells.
  const times = join(t.root, 'times');
  execFileSync('touch', ['-r', file, times]);
  flip(file, MiB);
  execFileSync('touch', ['-r', times, file]);
  for (const ranges of [false, true]) {
    const { leaseId, extents } = await t.store.open(t.owner, ref, { ranges });
    expect(extents).toMatchObject([{ tier: 2, path: '' }]);
    const target = Buffer.alloc(BLOCK);
    await t.store.read(t.owner, leaseId, target, 3 * BLOCK);
    expect(target).toEqual(bytes.subarray(3 * BLOCK, 4 * BLOCK));
    expect(await codeOf(t.store.read(t.owner, leaseId, target, MiB))).toBe('data_corrupt');
    t.store.release(t.owner, [leaseId]);
  }
  expect(corrupt).toEqual([2]);
});

/** Fault model: tier 2 answers reads with one byte changed while `isLying`. */
test.each([3 * MiB, 12 * MiB])(
  'a lying tier 2 is found out in a range of %i bytes',
  async (length) => {
    let isLying = false;
    const t = await openStoreInTest(BUCKETS, {
      faults: {
        remote: (remote) =>
          override(remote, {
            read: async (name, target, position, options) => {
              await remote.read(name, target, position, options);
              if (isLying) target[0] = (target[0] as number) ^ 1;
            },
          }),
      },
    });
    const ref = { bucket: 'buf', key: 'k' };
    const bytes = bytesOf(length);
    await t.put('buf', 'k', bytes);
    await mirrored(t);
    await t.store.relocate(ref, 2);
    const { object } = await t.store.head(ref);
    const target = Buffer.alloc(1000);
    const look = (): Promise<void> =>
      t.store.readBlob(object.extents[0]?.blobId as number, target, 2 * MiB + 5);
    isLying = true;
    expect(await codeOf(look())).toBe('data_corrupt');
    isLying = false;
    await look();
    expect(target).toEqual(bytes.subarray(2 * MiB + 5, 2 * MiB + 1005));
  },
);

test('sums of blocks that are damaged or missing are made again, and the bytes are right', async () => {
  let t = await openStoreInTest(BUCKETS);
  const bytes = bytesOf(3 * MiB);
  const ref = { bucket: 'plain', key: 'k' };
  await putOnDisk(t, 'plain', 'k', bytes);
  for (const change of [
    'delete from block_sums',
    "update block_sums set sums = x'00112233'",
    'update block_sums set sums = zeroblob(length(sums))',
  ]) {
    t = await reopen(t, {
      meanwhile: (root) => {
        const database = new DatabaseSync(join(root, 'catalog', 'catalog.sqlite'));
        expect(database.prepare('select * from block_sums').all().length).toBe(1);
        database.exec(change);
        database.close();
      },
    });
    expect(await read(t, ref, MiB + 1, MiB + 3)).toEqual(bytes.subarray(MiB + 1, MiB + 3));
    expect((await t.store.head(ref)).tiers).toContain(1);
  }
});

test('a body whose blocks were summed up as it came is not read once more, and is compared when it is read', async () => {
  let passes = 0;
  const t = await openStoreInTest(BUCKETS, {
    faults: {
      mover: (mover) =>
        override(mover, {
          checksum: async (...args) => {
            passes++;
            return await mover.checksum(...args);
          },
        }),
    },
  });
  const ref = { bucket: 'plain', key: 'k' };
  const bytes = bytesOf(3 * MiB + 77);
  const sums = t.store.createBodySums();
  const { writeId } = await t.store.stage(t.owner, ref, { reserveBytes: bytes.length });
  for (let at = 0; at < bytes.length; at += MiB) {
    await sums.add(bytes.subarray(at, at + MiB));
    await t.store.write(t.owner, writeId, bytes.subarray(at, at + MiB), at);
  }
  const body = { sizeBytes: bytes.length, crc32c: sums.crc32c(), blocks: sums.blocks() };
  await t.store.commit(t.owner, writeId, body);
  expect(await read(t, ref, 0, bytes.length)).toEqual(bytes);
  expect(passes).toBe(0);
  flip(await diskFile(t, 'plain', 'k'), 2 * MiB);
  expect(await codeOf(read(t, ref, 2 * MiB - 5, 2 * MiB + 5))).toBe('data_corrupt');
});

test('blocks are small, and of large blobs so few that their sums fit', () => {
  expect(blockBytesOf(1)).toBe(64 * KiB);
  expect(blockBytesOf(2 ** 30)).toBe(64 * KiB);
  expect(blockBytesOf(2 ** 30 + 1)).toBe(128 * KiB);
  expect(blockBytesOf(2 ** 46)).toBe(MiB);
});
