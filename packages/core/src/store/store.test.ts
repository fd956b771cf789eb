/**
 * The promises of the object store on one node, each as a test. "Fault n" is number n of DESIGN §13, known faults of earlier
 * systems. Random logs are in store.model.test.ts.
 */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { isStoreError, KiB, MiB, StoreError } from '@ebb/protocol';
import {
  buffered,
  codeOf,
  createTestClock,
  durable,
  ephemeral,
  mirrored,
  openStoreInTest,
  override,
  reopen,
  type TestStore,
  type TestStoreOptions,
} from '@ebb/testkit';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import type { BucketPolicy } from '../catalog/catalog.ts';
import { crc32c } from '../checksum.ts';
import { OBJECT_BYTES_MAX } from '../limits.ts';
import { resolvePolicy } from '../placement/policy.ts';
import type { ComposeSource } from './object-store.ts';

const BUCKETS = { mem: ephemeral, buf: buffered, dur: durable };

/** A store with the buckets `mem` (ephemeral), `buf` (buffered) and `dur` (durable). */
async function open(options: TestStoreOptions = {}): Promise<TestStore> {
  const settings = { roomWaitMs: 300, ...options.settings };
  return await openStoreInTest(BUCKETS, { ...options, settings });
}

function bytes(size: number, seed = 1): Buffer {
  const buffer = Buffer.alloc(size);
  for (let i = 0; i < size; i++) buffer[i] = (seed * 97 + i * 31 + (i >> 8)) & 0xff;
  return buffer;
}

/** What each tier holds for blobs (without the pool), and what is staged. */
async function use(at: TestStore): Promise<number[]> {
  await at.store.totals();
  return at.store.tiers().map((tier) => tier.usedBytes - tier.pooledBytes + tier.stagedBytes);
}

const PAGE = { prefix: '', delimiter: '', startAfter: '', limit: 1000 };
async function keys(at: TestStore, bucket: string): Promise<string[]> {
  return (await at.store.list(bucket, PAGE)).objects.map(({ object }) => object.key);
}

async function tiersOf(at: TestStore, bucket: string, key: string): Promise<readonly number[]> {
  return (await at.store.head({ bucket, key })).tiers;
}

/** Decays as a disk does: the file's time stays, so nobody wrote it. */
function rotByte(file: string): void {
  const before = `${file}.before`;
  execFileSync('cp', ['-p', file, before]);
  flipByte(file);
  execFileSync('touch', ['-r', before, file]);
  rmSync(before);
}

function flipByte(file: string, position = 0): void {
  const fd = openSync(file, 'r+');
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, position);
  byte[0] = (byte[0] as number) ^ 0xff;
  writeSync(fd, byte, 0, 1, position);
  closeSync(fd);
}

async function blobOf(at: TestStore, bucket: string, key: string): Promise<number> {
  const { object } = await at.store.head({ bucket, key });
  return object.extents[0]?.blobId as number;
}

describe('known faults of earlier systems (DESIGN §13)', () => {
  test('fault 1: a refused create leaves the existing object untouched', async () => {
    const at = await open();
    await at.put('buf', 'k', bytes(1000, 1));
    const before = await at.store.head({ bucket: 'buf', key: 'k' });
    expect(await codeOf(at.put('buf', 'k', bytes(2000, 2), { ifNoneMatch: true }))).toBe(
      'already_exists',
    );
    expect(await at.store.head({ bucket: 'buf', key: 'k' })).toMatchObject({
      object: before.object,
    });
    expect(await at.get('buf', 'k')).toEqual(bytes(1000, 1));
    expect(at.store.tiers()[1]?.stagedBytes).toBe(0);
    expect((await at.store.totals()).blobs).toBe(1);
  });

  test('fault 2: overwrite and delete while bytes are on their way to another tier: the old bytes never come back', async () => {
    const gate = Promise.withResolvers<void>();
    const reached = Promise.withResolvers<void>();
    const at = await open({
      faults: {
        remote: (remote) =>
          override(remote, {
            put: async (...args) => {
              reached.resolve();
              await gate.promise;
              return await remote.put(...args);
            },
          }),
      },
    });
    await at.put('mem', 'overwritten', bytes(10_000, 1));
    await at.put('mem', 'deleted', bytes(10_000, 2));
    const moves = ['overwritten', 'deleted'].map((key) =>
      codeOf(at.store.relocate({ bucket: 'mem', key }, 2)),
    );
    await reached.promise;
    const overwrite = at.put('mem', 'overwritten', bytes(5000, 3));
    const gone = at.store.delete({ bucket: 'mem', key: 'deleted' });
    await vi.waitFor(async () => expect(await keys(at, 'mem')).toEqual(['overwritten']));
    gate.resolve();
    await Promise.all([overwrite, gone]);
    expect((await Promise.all(moves)).sort()).toEqual(['none', 'not_found']);
    expect(await at.get('mem', 'overwritten')).toEqual(bytes(5000, 3));
    expect(await codeOf(at.get('mem', 'deleted'))).toBe('not_found');
    const left: string[] = [];
    for await (const { name } of at.tiers.remote.list('')) left.push(name);
    expect(left).toEqual([]);
    expect((await at.store.verify({})).broken).toEqual([]);
    expect((await at.store.totals()).blobs).toBe(1);
  });

  test('fault 2: two versions of one key mirrored at once: neither deletes what the other put into tier 2', async () => {
    const at = await open();
    for (let round = 0; round < 30; round++)
      await Promise.all([1, 2, 3].map((n) => at.put('buf', 'k', bytes(3000 + n, n + round))));
    await mirrored(at);
    const blobId = await blobOf(at, 'buf', 'k');
    const last = await at.get('buf', 'k');
    expect(await tiersOf(at, 'buf', 'k')).toContain(2);
    await at.store.relocate({ bucket: 'buf', key: 'k' }, 2);
    const copy = Buffer.alloc(last.length);
    await at.store.readBlob(blobId, copy, 0);
    expect(copy).toEqual(last);
    expect((await at.store.totals()).blobs).toBe(1);
  });

  test('fault 3: staged, never committed data is never published, and a writer that went away frees its space', async () => {
    const at = await open();
    const start = await use(at);
    const writer = at.store.createOwner('writer');
    for (const bucket of ['mem', 'buf']) {
      const staged = await at.store.stage(writer, { bucket, key: 'k' }, { reserveBytes: 1 * MiB });
      writeFileSync(staged.absolutePath, bytes(100_000));
      expect(await keys(at, bucket)).toEqual([]);
    }
    await at.store.dropOwner(writer);
    expect(await use(at)).toEqual(start);
    const after = await reopen(at);
    expect(await keys(after, 'mem')).toEqual([]);
    expect(await use(after)).toEqual(start);
  });

  test('fault 3: what was staged when the daemon was killed is gone after the restart, file and room', async () => {
    const at = await open();
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'buf', key: 'k' },
      { reserveBytes: 1 * MiB },
    );
    writeFileSync(staged.absolutePath, bytes(100_000));
    const after = await reopen(at);
    expect(after.recovery.orphanFiles).toBe(1);
    expect(existsSync(staged.absolutePath)).toBe(false);
    expect(await use(after)).toEqual([0, 0, 0]);
  });

  test('fault 5: deleting or renaming the prefix `a/` leaves `ab`', async () => {
    const at = await open();
    for (const key of ['a/1', 'a/2', 'ab', 'a']) await at.put('mem', key, bytes(10));
    await at.store.renamePrefix(
      { bucket: 'mem', prefix: 'a/' },
      { bucket: 'mem', prefix: 'z/' },
      { overwrite: false },
    );
    expect(await keys(at, 'mem')).toEqual(['a', 'ab', 'z/1', 'z/2']);
    expect(await at.store.deletePrefix('mem', 'z/')).toEqual({ objects: 2, sizeBytes: 20 });
    expect(await keys(at, 'mem')).toEqual(['a', 'ab']);
  });

  test('fault 7: on a full disk writers are refused clearly, nothing acknowledged is lost, and they go on when there is room', async () => {
    const at = await open({
      diskBytes: 1 * MiB,
      faults: {
        remote: (remote) =>
          override(remote, {
            put: () => Promise.reject(new StoreError('io_failed', 'tier 2 is away')),
          }),
      },
    });
    const written: number[] = [];
    let refusal: StoreError | undefined;
    for (let i = 0; refusal === undefined; i++) {
      try {
        await at.put('buf', `k${i}`, bytes(100_000, i));
        written.push(i);
      } catch (error) {
        if (!isStoreError(error)) throw error;
        refusal = error;
      }
    }
    expect(['busy', 'tier_full']).toContain(refusal.code);
    expect(refusal.details).toMatchObject({ tier: 1, needBytes: 100_000, capacityBytes: 1 * MiB });
    expect(refusal.details['retryAfterMs']).toBeGreaterThan(0);
    expect(written.length).toBe(10);
    for (const i of written) expect(await at.get('buf', `k${i}`)).toEqual(bytes(100_000, i));
    await at.store.delete({ bucket: 'buf', key: 'k0' });
    await at.put('buf', 'again', bytes(100_000, 77));
    expect(await at.get('buf', 'again')).toEqual(bytes(100_000, 77));
  });

  test('fault 7: on a full disk writers are told to wait while tier 2 may still take something, and that there is no room when it does not; all drains when it does', async () => {
    const silence = Promise.withResolvers<void>();
    let isAway = true;
    const at = await open({
      diskBytes: 1 * MiB,
      faults: {
        remote: (remote) =>
          override(remote, {
            put: async (...args) => {
              if (!isAway) return await remote.put(...args);
              await silence.promise;
              throw new StoreError('io_failed', 'tier 2 is away');
            },
          }),
      },
    });
    const kept = new Map<string, Buffer>();
    const write = async (key: string, seed: number): Promise<string> => {
      try {
        await at.put('buf', key, bytes(100_000, seed));
        kept.set(key, bytes(100_000, seed));
        return 'done';
      } catch (error) {
        if (!isStoreError(error)) throw error;
        expect(error.details['retryAfterMs']).toBeGreaterThan(0);
        return error.code;
      }
    };
    for (let i = 0; i < 10; i++) expect(await write(`k${i}`, i)).toBe('done');
    // The spiller waits for an answer, and so may they.
    for (let i = 0; i < 3; i++) expect(await write('more', i)).toBe('busy');
    silence.resolve();
    await vi.waitFor(async () => expect(await write('more', 4)).toBe('tier_full'), 20_000);
    for (let i = 0; i < 3; i++) expect(await write('more', i)).toBe('tier_full');
    for (const [key, content] of kept) expect(await at.get('buf', key)).toEqual(content);
    isAway = false;
    await vi.waitFor(async () => expect(await write('k3', 33)).toBe('done'), 20_000);
    await vi.waitFor(async () => expect((await at.store.spool()).entries).toBe(0), 20_000);
    expect(kept.size).toBe(10);
    for (const [key, content] of kept) {
      expect(await at.get('buf', key)).toEqual(content);
      expect(readFileSync(join(at.root, 'remote/buf', key)).equals(content)).toBe(true);
    }
  });

  test('fault 7: a writer that waits for room gets it when somebody deletes', async () => {
    const at = await open({
      memoryBytes: 256 * KiB,
      settings: { roomWaitMs: 10_000 },
    });
    await at.put('mem', 'pinned', bytes(200_000), {});
    await at.store.setPinned({ bucket: 'mem', key: 'pinned' }, true);
    const waiting = at.store.stage(
      at.owner,
      { bucket: 'mem', key: 'k' },
      { reserveBytes: 200_000, tier: 0 },
    );
    await new Promise((resolve) => setImmediate(resolve));
    await at.store.delete({ bucket: 'mem', key: 'pinned' });
    expect((await waiting).tier).toBe(0);
  });

  test('fault 8: 0xFF is a byte like others, ranges at the end are exact, and reads beyond it are refused', async () => {
    const at = await open();
    for (const bucket of ['mem', 'buf']) {
      await at.put(bucket, 'ff', Buffer.alloc(3, 0xff));
      const { leaseId } = await at.store.open(at.owner, { bucket, key: 'ff' });
      const one = Buffer.alloc(1);
      for (let i = 0; i < 3; i++) {
        await at.store.read(at.owner, leaseId, one, i);
        expect(one[0]).toBe(0xff);
      }
      await at.store.read(at.owner, leaseId, Buffer.alloc(0), 3);
      for (const position of [3, -1, 0.5, Number.NaN])
        expect(await codeOf(at.store.read(at.owner, leaseId, one, position))).toBe('range_invalid');
      expect(await codeOf(at.store.read(at.owner, leaseId, Buffer.alloc(4), 0))).toBe(
        'range_invalid',
      );
    }
  });

  test('fault 8: a reader whose lease ran out never sees reused bytes', async () => {
    const clock = createTestClock();
    const at = await open({ clock, settings: { leaseTtlMs: 5000 } });
    const old = bytes(64 * KiB, 5);
    await at.put('mem', 'k', old);
    const opened = await at.store.open(at.owner, { bucket: 'mem', key: 'k' });
    const path = join(at.tiers.memory.root, opened.extents[0]?.path as string);
    const late = openSync(path, 'r');
    onTestFinished(() => closeSync(late));
    await clock.advance(7000);
    expect(await codeOf(at.store.read(at.owner, opened.leaseId, Buffer.alloc(1), 0))).toBe(
      'lease_not_found',
    );
    await at.store.delete({ bucket: 'mem', key: 'k' });
    for (let i = 0; i < 8; i++) await at.put('mem', `new${i}`, bytes(64 * KiB, 200 + i));
    const seen = Buffer.alloc(old.length);
    readSync(late, seen, 0, seen.length, 0);
    expect(seen).toEqual(old);
  });

  test('fault 9: a late commit of an older attempt is refused; the newer one stands', async () => {
    const at = await open();
    const first = await at.put('mem', 'k', bytes(10, 1));
    const late = await at.store.stage(at.owner, { bucket: 'mem', key: 'k' }, { reserveBytes: 10 });
    await at.put('mem', 'k', bytes(10, 2), { ifMatch: first });
    await at.store.write(at.owner, late.writeId, bytes(10, 3), 0);
    expect(
      await codeOf(at.store.commit(at.owner, late.writeId, { sizeBytes: 10, ifMatch: first })),
    ).toBe('precondition_failed');
    expect(await at.get('mem', 'k')).toEqual(bytes(10, 2));
  });

  test('fault 9: of racing creates one wins, and the others are told', async () => {
    const at = await open();
    const codes = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        codeOf(at.put('mem', 'k', bytes(10, i), { ifNoneMatch: true })),
      ),
    );
    expect(codes.filter((code) => code === 'none')).toHaveLength(1);
    expect(codes.filter((code) => code === 'already_exists')).toHaveLength(19);
    expect((await at.store.totals()).blobs).toBe(1);
  });
});

describe('bad input', () => {
  test('a write id is good for its owner alone, once, and until its time is up', async () => {
    const clock = createTestClock();
    const at = await open({ clock, settings: { stagingTtlMs: 60_000 } });
    const other = at.store.createOwner('other');
    const ref = { bucket: 'mem', key: 'k' };
    const staged = await at.store.stage(at.owner, ref, { reserveBytes: 10 });
    await at.store.write(at.owner, staged.writeId, bytes(10), 0);
    expect(await codeOf(at.store.commit(other, staged.writeId, { sizeBytes: 10 }))).toBe(
      'write_not_found',
    );
    expect(await codeOf(at.store.write(other, staged.writeId, bytes(10), 0))).toBe(
      'write_not_found',
    );
    await at.store.abort(other, staged.writeId); // not theirs: no effect
    await at.store.commit(at.owner, staged.writeId, { sizeBytes: 10 });
    expect(await codeOf(at.store.commit(at.owner, staged.writeId, { sizeBytes: 10 }))).toBe(
      'already_committed',
    );
    expect(await codeOf(at.store.commit(other, staged.writeId, { sizeBytes: 10 }))).toBe(
      'write_not_found',
    );
    expect(await codeOf(at.store.commit(at.owner, 999_999, { sizeBytes: 10 }))).toBe(
      'write_not_found',
    );

    const expiring = await at.store.stage(at.owner, ref, { reserveBytes: 10 });
    await clock.advance(59_000);
    await at.store.write(at.owner, expiring.writeId, bytes(10), 0); // a sign of life
    await clock.advance(59_000);
    expect(at.store.tiers()[0]?.stagedBytes).toBe(10);
    await clock.advance(3000);
    expect(await codeOf(at.store.commit(at.owner, expiring.writeId, { sizeBytes: 10 }))).toBe(
      'write_not_found',
    );
    expect(at.store.tiers()[0]?.stagedBytes).toBe(0);
    expect(await at.get('mem', 'k')).toEqual(bytes(10));
  });

  test('of two commits at once one wins and the other is told', async () => {
    const at = await open();
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'buf', key: 'k' },
      { reserveBytes: 10 },
    );
    await at.store.write(at.owner, staged.writeId, bytes(10), 0);
    const commit = (): Promise<string> =>
      codeOf(at.store.commit(at.owner, staged.writeId, { sizeBytes: 10 }));
    expect((await Promise.all([commit(), commit()])).sort()).toEqual(['already_committed', 'none']);
  });

  test('a commit of more than was written is refused, also on a recycled file, and the write is gone', async () => {
    const at = await open();
    for (const bucket of ['mem', 'buf']) {
      // So that the next file is an old one, longer than what will be written.
      await at.put(bucket, 'old', bytes(64 * KiB));
      await mirrored(at); // a file that is being read is not handed on
      await at.store.delete({ bucket, key: 'old' });
      const staged = await at.store.stage(
        at.owner,
        { bucket, key: 'k' },
        { reserveBytes: 64 * KiB },
      );
      await at.store.write(at.owner, staged.writeId, bytes(100), 0);
      expect(await codeOf(at.store.commit(at.owner, staged.writeId, { sizeBytes: 101 }))).toBe(
        'length_mismatch',
      );
      expect(await codeOf(at.store.commit(at.owner, staged.writeId, { sizeBytes: 100 }))).toBe(
        'write_not_found',
      );
    }
    expect(await use(at)).toEqual([0, 0, 0]);
  });

  test('bytes between two writes are zeros, and never those of the file that was recycled', async () => {
    const at = await open();
    await at.put('mem', 'secret', Buffer.alloc(64 * KiB, 0x5e));
    await at.store.delete({ bucket: 'mem', key: 'secret' });
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'mem', key: 'k' },
      { reserveBytes: 64 * KiB },
    );
    await at.store.write(at.owner, staged.writeId, Buffer.from('end'), 60_000);
    await at.store.write(at.owner, staged.writeId, Buffer.from('begin'), 0);
    await at.store.commit(at.owner, staged.writeId, { sizeBytes: 60_003 });
    const expected = Buffer.alloc(60_003);
    expected.write('begin', 0);
    expected.write('end', 60_000);
    expect((await at.get('mem', 'k')).equals(expected)).toBe(true);
  });

  test('names and sizes that are not allowed are refused before anything is reserved', async () => {
    const at = await open();
    const stage = (bucket: string, key: string, reserveBytes = 1): Promise<string> =>
      codeOf(at.store.stage(at.owner, { bucket, key }, { reserveBytes }));
    for (const key of ['', '..', 'a/../b', 'x'.repeat(1025), 'nul\0', '\ud800'])
      expect(await stage('mem', key), JSON.stringify(key)).toBe('name_invalid');
    for (const bucket of ['', '..', 'A/b', 'x'.repeat(300)])
      expect(await stage(bucket, 'k'), bucket).toBe('name_invalid');
    expect(await stage('absent', 'k')).toBe('bucket_not_found');
    expect(await stage('mem', 'k', OBJECT_BYTES_MAX + 1)).toBe('too_large');
    for (const size of [-1, 1.5, Number.NaN])
      expect(await stage('mem', 'k', size)).toBe('request_invalid');
    expect(
      await codeOf(
        at.store.stage(
          at.owner,
          { bucket: 'mem', key: 'k' },
          { reserveBytes: 1, jobId: 'no-such-job' },
        ),
      ),
    ).toBe('job_not_found');
    expect(await use(at)).toEqual([0, 0, 0]);
  });

  test('a commit with a wrong size, level or checksum is refused', async () => {
    const at = await open();
    const commit = async (
      options: Parameters<TestStore['store']['commit']>[2],
      bucket = 'mem',
    ): Promise<string> => {
      const staged = await at.store.stage(
        at.owner,
        { bucket, key: 'k' },
        { reserveBytes: 10, tier: 0 },
      );
      await at.store.write(at.owner, staged.writeId, bytes(10), 0);
      return await codeOf(at.store.commit(at.owner, staged.writeId, options));
    };
    expect(await commit({ sizeBytes: -1 })).toBe('request_invalid');
    expect(await commit({ sizeBytes: 1.5 })).toBe('request_invalid');
    expect(await commit({ sizeBytes: 10, ack: 'peer' as never })).toBe('request_invalid');
    expect(await commit({ sizeBytes: 10, crc32c: 12345 }, 'buf')).toBe('checksum_mismatch');
    expect(await commit({ sizeBytes: 0, crc32c: 12345 })).toBe('checksum_mismatch');
    expect(await keys(at, 'mem')).toEqual([]);
    expect(await use(at)).toEqual([0, 0, 0]);
  });
});

describe('writing through the daemon', () => {
  test('writes sent without waiting are done in order, across the move to disk, and the commit waits for them', async () => {
    const at = await open({ memoryBytes: 256 * KiB });
    const whole = bytes(1 * MiB, 9);
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'mem', key: 'k' },
      { reserveBytes: 1000 },
    );
    const writes: Promise<void>[] = [];
    for (let position = 0; position < whole.length; position += 100_000)
      writes.push(
        at.store.write(
          at.owner,
          staged.writeId,
          whole.subarray(position, position + 100_000),
          position,
        ),
      );
    const committed = await at.store.commit(at.owner, staged.writeId, { sizeBytes: whole.length });
    await Promise.all(writes);
    expect(committed.object.sizeBytes).toBe(whole.length);
    expect((await at.get('mem', 'k')).equals(whole)).toBe(true);
    expect(at.store.tiers().map((tier) => tier.stagedBytes)).toEqual([0, 0, 0]);
  });

  test('a commit after a write that failed is refused; after that write was repeated it holds', async () => {
    let failing = 0;
    const at = await open({
      faults: {
        disk: (disk) =>
          override(disk, {
            write: (...args) =>
              failing-- > 0
                ? Promise.reject(new StoreError('io_failed', 'the disk has a bad day'))
                : disk.write(...args),
          }),
      },
    });
    const put = async (repeat: boolean): Promise<string> => {
      const staged = await at.store.stage(
        at.owner,
        { bucket: 'buf', key: 'k' },
        { reserveBytes: 20 },
      );
      await at.store.write(at.owner, staged.writeId, bytes(10), 0);
      failing = 1;
      expect(await codeOf(at.store.write(at.owner, staged.writeId, bytes(10), 10))).toBe(
        'io_failed',
      );
      if (repeat) await at.store.write(at.owner, staged.writeId, bytes(10), 10);
      else await at.store.write(at.owner, staged.writeId, bytes(5), 15);
      return await codeOf(at.store.commit(at.owner, staged.writeId, { sizeBytes: 20 }));
    };
    expect(await put(false)).toBe('io_failed');
    expect(await put(true)).toBe('none');
  });

  test('an abort in the middle of a move to disk gives back all room in both tiers', async () => {
    const gate = Promise.withResolvers<void>();
    const at = await open({
      memoryBytes: 128 * KiB,
      faults: {
        mover: (mover) =>
          override(mover, {
            copy: async (options) => {
              await gate.promise;
              return await mover.copy(options);
            },
          }),
      },
    });
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'mem', key: 'k' },
      { reserveBytes: 1000 },
    );
    await at.store.write(at.owner, staged.writeId, bytes(1000), 0);
    const growing = codeOf(at.store.write(at.owner, staged.writeId, bytes(200_000), 1000));
    await vi.waitFor(() => expect(at.tiers.disk.usage().usedBytes).toBeGreaterThan(0));
    await at.store.abort(at.owner, staged.writeId);
    gate.resolve();
    expect(await growing).toBe('write_not_found');
    expect(await use(at)).toEqual([0, 0, 0]);
  });

  test('a writer that goes away while it waits for room gets none, and leaves none taken', async () => {
    const at = await open({ memoryBytes: 256 * KiB, settings: { roomWaitMs: 10_000 } });
    await at.put('mem', 'pinned', bytes(200_000));
    await at.store.setPinned({ bucket: 'mem', key: 'pinned' }, true);
    const owner = at.store.createOwner('impatient');
    const gone = new AbortController();
    const waiting = [
      codeOf(
        at.store.stage(owner, { bucket: 'mem', key: '1' }, { reserveBytes: 200_000, tier: 0 }),
      ),
      codeOf(
        at.store.stage(
          at.owner,
          { bucket: 'mem', key: '2' },
          { reserveBytes: 200_000, tier: 0, signal: gone.signal },
        ),
      ),
    ];
    await at.store.dropOwner(owner);
    gone.abort();
    await at.store.delete({ bucket: 'mem', key: 'pinned' });
    expect(await Promise.all(waiting)).toEqual(['aborted', 'aborted']);
    expect(await use(at)).toEqual([0, 0, 0]);
  });
});

describe('room', () => {
  test('full memory goes to disk: writers notice nothing', async () => {
    const at = await open({ memoryBytes: 512 * KiB });
    const tiers = new Set<number>();
    for (let i = 0; i < 40; i++) {
      const staged = await at.store.stage(
        at.owner,
        { bucket: 'mem', key: `k${i}` },
        { reserveBytes: 50_000 },
      );
      tiers.add(staged.tier);
      await at.store.write(at.owner, staged.writeId, bytes(50_000, i), 0);
      await at.store.commit(at.owner, staged.writeId, { sizeBytes: 50_000 });
    }
    expect(tiers).toContain(0);
    for (let i = 0; i < 40; i++) expect(await at.get('mem', `k${i}`)).toEqual(bytes(50_000, i));
    expect(at.store.tiers()[1]?.blobs).toBeGreaterThan(20);
    expect(at.failures).toEqual([]);
  });

  test('a write that can never fit is refused at once', async () => {
    const at = await open({
      memoryBytes: 1 * MiB,
      diskBytes: 1 * MiB,
      settings: { roomWaitMs: 60_000 },
    });
    await expect(
      at.store.stage(at.owner, { bucket: 'buf', key: 'k' }, { reserveBytes: 2 * MiB }),
    ).rejects.toMatchObject({ code: 'tier_full', retry: 'never' });
    const disk = { reserveBytes: 1000, tier: 1 } as const;
    const { writeId } = await at.store.stage(at.owner, { bucket: 'buf', key: 'k' }, disk);
    expect(() => at.store.extend(at.owner, writeId, 2 * MiB)).toThrow(
      expect.objectContaining({ code: 'tier_full', retry: 'never' }),
    );
    // A write in memory may go on to disk.
    const inMemory = await at.store.stage(
      at.owner,
      { bucket: 'mem', key: 'k' },
      { reserveBytes: 9 },
    );
    expect(inMemory.tier).toBe(0);
    expect(() => at.store.extend(at.owner, inMemory.writeId, 2 * MiB)).toThrow(
      expect.objectContaining({ code: 'tier_full', retry: 'safe' }),
    );
  });

  test('an object that is larger than a tier is not moved there, and nothing makes room for it', async () => {
    const at = await open({ memoryBytes: 256 * KiB, diskBytes: 4 * MiB });
    await at.put('mem', 'small', bytes(100_000, 1));
    await at.put('buf', 'large', bytes(400_000, 2));
    await expect(at.store.relocate({ bucket: 'buf', key: 'large' }, 0)).rejects.toMatchObject({
      code: 'tier_full',
      retry: 'never',
    });
    expect((await at.store.head({ bucket: 'mem', key: 'small' })).tiers).toEqual([0]);
    expect(await at.get('buf', 'large')).toEqual(bytes(400_000, 2));
  });

  test('a disk full of mirrored objects takes new ones: the old copies are evicted', async () => {
    // Room comes when the mirror has sent something: on a busy machine that takes its time.
    const at = await open({ diskBytes: 1 * MiB, settings: { roomWaitMs: 60_000 } });
    for (let i = 0; i < 40; i++) await at.put('buf', `k${i}`, bytes(100_000, i));
    await mirrored(at);
    for (let i = 0; i < 40; i++) expect(await at.get('buf', `k${i}`)).toEqual(bytes(100_000, i));
    expect(at.store.tiers()[1]?.usedBytes).toBeLessThanOrEqual(1 * MiB);
    expect((await at.store.verify({})).broken).toEqual([]);
    expect(at.failures).toEqual([]);
  });

  test('pinned objects stay in memory, and are not evicted from disk', async () => {
    const at = await open({
      memoryBytes: 512 * KiB,
      diskBytes: 1 * MiB,
      settings: { roomWaitMs: 60_000 },
    });
    await at.put('mem', 'pinned', bytes(50_000, 1));
    await at.put('buf', 'pinned', bytes(50_000, 2));
    for (const bucket of ['mem', 'buf']) await at.store.setPinned({ bucket, key: 'pinned' }, true);
    for (let i = 0; i < 40; i++) {
      await at.put('mem', `k${i}`, bytes(50_000, i));
      await at.put('buf', `k${i}`, bytes(50_000, i));
    }
    await mirrored(at);
    expect(await tiersOf(at, 'mem', 'pinned')).toEqual([0]);
    expect(await tiersOf(at, 'buf', 'pinned')).toEqual([1, 2]);
  });

  test('an object on disk comes back to memory with its second read', async () => {
    const at = await open();
    await at.put('buf', 'k', bytes(50_000));
    await at.get('buf', 'k');
    expect(await tiersOf(at, 'buf', 'k')).not.toContain(0);
    await at.get('buf', 'k');
    await vi.waitFor(async () => expect(await tiersOf(at, 'buf', 'k')).toContain(0));
    expect(await at.get('buf', 'k')).toEqual(bytes(50_000));
  });

  test('relocate brings an object to the tier that was named, and says where it is', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(50_000));
    const ref = { bucket: 'mem', key: 'k' };
    for (const [tier, tiers, durability] of [
      [1, [1], 'memory'], // a copy on disk that was never synced
      [2, [2], 'remote'],
      [1, [1, 2], 'remote'],
      [0, [0, 1, 2], 'remote'],
      [2, [2], 'remote'],
    ] as const) {
      expect(await at.store.relocate(ref, tier)).toMatchObject({ tiers, durability });
      const target = Buffer.alloc(50_000);
      await at.store.readBlob(await blobOf(at, 'mem', 'k'), target, 0);
      expect(target).toEqual(bytes(50_000));
    }
    expect(await use(at)).toEqual([0, 0, 50_000]);
  });

  test('what waits for its readers counts as free: the spiller pushes nothing else out, and a writer is told `busy`', async () => {
    const at = await open({ memoryBytes: 512 * KiB, settings: { roomWaitMs: 100 } });
    await at.put('mem', 'read', bytes(400_000));
    const { leaseId } = await at.store.open(at.owner, { bucket: 'mem', key: 'read' });
    await at.store.delete({ bucket: 'mem', key: 'read' });
    await at.put('mem', 'small', bytes(4000));
    expect(
      await codeOf(
        at.store.stage(at.owner, { bucket: 'mem', key: 'k' }, { reserveBytes: 400_000, tier: 0 }),
      ),
    ).toBe('busy');
    expect(await tiersOf(at, 'mem', 'small')).toEqual([0]);
    at.store.release(at.owner, [leaseId]);
    await at.put('mem', 'k', bytes(400_000), { tier: 0 });
  });
});

describe('quotas and budgets', () => {
  const limited: BucketPolicy = resolvePolicy({ preset: 'ephemeral', quotaBytes: 100_000 });

  test('a bucket never holds more than its quota, however many write at once, and takes exactly that much', async () => {
    const at = await open();
    await at.store.createBucket('limited', limited);
    const codes = await Promise.all(
      Array.from({ length: 15 }, (_, i) => codeOf(at.put('limited', `k${i}`, bytes(10_000, i)))),
    );
    expect(codes.filter((code) => code === 'none')).toHaveLength(10);
    expect(codes.filter((code) => code === 'quota_exceeded')).toHaveLength(5);
    await at.store.delete({ bucket: 'limited', key: (await keys(at, 'limited'))[0] as string });
    await at.put('limited', 'again', bytes(10_000));
    expect((await at.store.bucketTotals('limited')).sizeBytes).toBe(100_000);
  });

  test('room that a writer reserved and does not use is given to others, and asked for again when it is', async () => {
    const at = await open();
    const ref = { bucket: 'mem', key: 'slow' };
    const { memory } = { memory: at.store.tiers()[0] as { capacityBytes: number } };
    const reserveBytes = Math.floor(memory.capacityBytes * 0.9);
    const slow = await at.store.stage(at.owner, ref, { reserveBytes, tier: 0 });
    await at.store.write(at.owner, slow.writeId, bytes(10_000), 0);
    at.store.shrink(at.owner, slow.writeId);
    expect(at.store.tiers()[0]?.stagedBytes).toBe(10_000);
    const other = { bucket: 'mem', key: 'other' };
    const staged = await at.store.stage(at.owner, other, {
      reserveBytes: Math.floor(reserveBytes / 2),
      tier: 0,
    });
    await at.store.write(at.owner, slow.writeId, bytes(10_000), 10_000);
    await at.store.commit(at.owner, slow.writeId, { sizeBytes: 20_000 });
    await at.store.abort(at.owner, staged.writeId);
    expect(at.store.tiers()[0]?.stagedBytes).toBe(0);
  });

  test('a writer that reserves little and writes much is caught', async () => {
    const at = await open();
    await at.store.createBucket('limited', limited);
    const ref = { bucket: 'limited', key: 'k' };
    const through = await at.store.stage(at.owner, ref, { reserveBytes: 0 });
    expect(await codeOf(at.store.write(at.owner, through.writeId, bytes(100_001), 0))).toBe(
      'quota_exceeded',
    );
    const itself = await at.store.stage(at.owner, ref, { reserveBytes: 0 });
    writeFileSync(itself.absolutePath, bytes(100_001));
    at.store.extend(at.owner, itself.writeId, 100_001);
    expect(await codeOf(at.store.commit(at.owner, itself.writeId, { sizeBytes: 100_001 }))).toBe(
      'quota_exceeded',
    );
    await at.store.abort(at.owner, through.writeId);
    expect(await use(at)).toEqual([0, 0, 0]);
    await at.put('limited', 'k', bytes(100_000));
  });

  test("a job's budget counts staged and committed bytes in every bucket", async () => {
    const at = await open();
    await at.store.openJob({
      jobId: 'job',
      label: '',
      heartbeatTtlMs: 60_000,
      budgetBytes: 50_000,
    });
    await at.put('mem', 'a', bytes(20_000), { jobId: 'job' });
    await at.put('buf', 'buf', bytes(20_000), { jobId: 'job' });
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'mem', key: 'c' },
      { reserveBytes: 10_000, jobId: 'job' },
    );
    expect(await codeOf(at.put('mem', 'dur', bytes(1), { jobId: 'job' }))).toBe('quota_exceeded');
    await at.store.abort(at.owner, staged.writeId);
    await at.put('mem', 'dur', bytes(10_000), { jobId: 'job' });
    await at.put('mem', 'free', bytes(100_000)); // no job, no budget
  });
});

describe('joining objects', () => {
  const body = (ref: string, from = 0, length = 2 ** 20): ComposeSource => ({
    bucket: 'mem',
    key: ref,
    offset: from,
    length,
  });

  async function contents(at: TestStore, bucket: string, key: string): Promise<Buffer> {
    return await at.get(bucket, key);
  }

  test('ranges of several become one without a new blob, and outlive them, also a crash', async () => {
    const at = await open();
    const [a, b] = [bytes(2 ** 20, 1), bytes(2 ** 20, 2)];
    await at.put('mem', 'a', a);
    await at.put('mem', 'b', b);
    const { blobs } = await at.store.totals();
    const sources = [body('a', 10, 1000), body('a', 1010, 90), body('b', 5, 7), body('a', 0, 3)];
    const view = await at.store.compose({ bucket: 'mem', key: 'c' }, sources, {
      metadata: { m: '1' },
      attributes: { x: 'y' },
    });
    expect(view.object).toMatchObject({ sizeBytes: 1100, metadata: { m: '1' }, crc32c: null });
    expect(view.object.extents).toHaveLength(3); // neighbours are one
    expect((await at.store.totals()).blobs).toBe(blobs);
    await at.store.deletePrefix('mem', 'a');
    await at.store.deletePrefix('mem', 'b');
    const wanted = Buffer.concat([a.subarray(10, 1100), b.subarray(5, 12), a.subarray(0, 3)]);
    expect((await contents(at, 'mem', 'c')).equals(wanted)).toBe(true);
    const next = await reopen(at);
    expect((await contents(next, 'mem', 'c')).equals(wanted)).toBe(true);
    expect((await next.store.head({ bucket: 'mem', key: 'c' })).object.attributes).toEqual({
      x: 'y',
    });
    await next.store.delete({ bucket: 'mem', key: 'c' });
    expect((await use(next)).slice(0, 2)).toEqual([0, 0]);
  });

  test('of whole objects the checksum follows, and what is consumed is gone', async () => {
    const at = await open();
    const [a, b] = [bytes(70_000, 3), bytes(11, 4)];
    await at.put('mem', 'a', a);
    await at.put('mem', 'b', b);
    const sources = ['a', 'b'].map((key) => ({ bucket: 'mem', key, consume: true }));
    const { object } = await at.store.compose({ bucket: 'mem', key: 'ab' }, sources, {});
    expect(object.crc32c).toBe(crc32c(Buffer.concat([a, b])));
    expect(await keys(at, 'mem')).toEqual(['ab']);
    expect(await codeOf(at.store.compose({ bucket: 'mem', key: 'x' }, sources, {}))).toBe(
      'not_found',
    );
    const beyond = [{ bucket: 'mem', key: 'ab', offset: 70_000, length: 12 }];
    expect(await codeOf(at.store.compose({ bucket: 'mem', key: 'x' }, beyond, {}))).toBe(
      'range_invalid',
    );
    const stale = [{ bucket: 'mem', key: 'ab', version: 1 }];
    expect(await codeOf(at.store.compose({ bucket: 'mem', key: 'x' }, stale, {}))).toBe(
      'precondition_failed',
    );
  });

  test('what the bucket promises holds for the joined object too', async () => {
    const at = await open();
    await at.put('mem', 'a', bytes(5000));
    const { durability } = await at.store.compose(
      { bucket: 'buf', key: 'a' },
      [{ bucket: 'mem', key: 'a' }],
      {},
    );
    expect(durability).not.toBe('memory');
    const next = await reopen(at, { loseMemory: true });
    expect((await contents(next, 'buf', 'a')).equals(bytes(5000))).toBe(true);
  });

  test('the bucket of uploads is hidden, and goes with its bucket', async () => {
    const at = await open();
    await at.store.createBucket('tmp', ephemeral);
    const uploads = await at.store.uploadsOf('tmp');
    await at.put(uploads, 'u/1', bytes(5000));
    expect((await at.store.listBuckets()).map(({ name }) => name)).not.toContain(uploads);
    expect(await codeOf(at.store.uploadsOf('none'))).toBe('bucket_not_found');
    expect(await codeOf(at.store.createBucket('x!uploads', ephemeral))).toBe('name_invalid');
    expect(await codeOf(at.store.deleteBucket(uploads))).toBe('name_invalid');
    await at.store.deleteBucket('tmp');
    expect(await codeOf(at.store.find({ bucket: uploads, key: 'u/1' }))).toBe('none');
    expect(await at.store.find({ bucket: uploads, key: 'u/1' })).toBeUndefined();
    expect((await use(at)).slice(0, 2)).toEqual([0, 0]);
  });
});

describe('jobs', () => {
  const job = { jobId: 'job', label: 'test', heartbeatTtlMs: 10_000, budgetBytes: null };

  test("the end of a job gives every tier's use back to what it was", async () => {
    const at = await open({ memoryBytes: 512 * KiB });
    await at.put('buf', 'kept', bytes(10_000));
    await mirrored(at);
    const before = await use(at);
    await at.store.openJob(job);
    for (let i = 0; i < 30; i++)
      await at.put((['mem', 'buf', 'dur'] as const)[i % 3] as string, `k${i}`, bytes(50_000, i), {
        jobId: 'job',
      });
    await at.store.stage(
      at.owner,
      { bucket: 'mem', key: 'staged' },
      { reserveBytes: 50_000, jobId: 'job' },
    );
    const receipt = await at.store.endJob('job');
    expect(receipt).toEqual({ jobId: 'job', objects: 30, freedBytes: 1_500_000, stagedWrites: 1 });
    expect(await use(at)).toEqual(before);
    expect(await codeOf(at.store.getJob('job'))).toBe('job_not_found');
    expect(await at.store.endJob('job')).toMatchObject({ objects: 0, freedBytes: 0 });
    expect(at.failures).toEqual([]);
  });

  test('two that choose one job id never share the job: the second is refused, and comes in when the first is over', async () => {
    const at = await open();
    const [first, second, nobody] = ['first', 'second', undefined].map((token) =>
      at.store.openJob({ ...job, label: `of ${token}`, token }).catch((error: unknown) => error),
    );
    expect(await first).toMatchObject({ job: { token: 'first', label: 'of first' } });
    for (const refused of [second, nobody])
      expect(await refused).toMatchObject({
        code: 'job_exists',
        message: expect.stringMatching(/"job" .*ebb jobs end job/),
      });
    await at.put('mem', 'of-first', bytes(10), { jobId: 'job' });
    // Who comes back shows the token, and may change the job.
    expect((await at.store.openJob({ ...job, token: 'first', label: 'again' })).job.label).toBe(
      'again',
    );
    expect((await at.store.getJob('job')).objects).toBe(1);
    // The heartbeat and the end of another life do nothing to this one.
    expect(() => at.store.heartbeat('job', 'second')).toThrow(/somebody else/);
    expect(await at.store.endJob('job', 'second')).toMatchObject({ objects: 0 });
    expect(await keys(at, 'mem')).toEqual(['of-first']);
    expect(await at.store.endJob('job', 'first')).toMatchObject({ objects: 1 });
    await at.store.openJob({ ...job, token: 'second' });
    at.store.heartbeat('job', 'second');
    await at.put('mem', 'of-second', bytes(10), { jobId: 'job' });
    expect(await at.store.endJob('job', 'first')).toMatchObject({ objects: 0 });
    expect(await keys(at, 'mem')).toEqual(['of-second']);
  });

  test('after a restart a job is still the one it was: its token opens it, and no other does', async () => {
    const first = await open();
    await first.store.openJob({ ...job, token: 'mine' });
    const at = await reopen(first);
    expect(await codeOf(at.store.openJob({ ...job, token: 'other' }))).toBe('job_exists');
    expect((await at.store.openJob({ ...job, token: 'mine' })).job.token).toBe('mine');
  });

  test('a job whose heartbeat stops is ended; one that beats is not', async () => {
    const clock = createTestClock();
    const at = await open({ clock });
    await at.store.openJob(job);
    await at.store.openJob({ ...job, jobId: 'alive' });
    const ended: string[] = [];
    at.store.onJobEnd((jobId) => void ended.push(jobId));
    await at.put('mem', 'a', bytes(10), { jobId: 'job' });
    await at.put('mem', 'buf', bytes(10), { jobId: 'alive' });
    for (let i = 0; i < 4; i++) {
      await clock.advance(4000);
      at.store.heartbeat('alive');
    }
    await vi.waitFor(async () => expect(await keys(at, 'mem')).toEqual(['buf']));
    expect(ended).toEqual(['job']);
    expect(() => at.store.heartbeat('job')).toThrow(/not open/);
  });

  test('a daemon that was stopped for a while blames nobody for its silence', async () => {
    let jumpMs = 0;
    const clock = createTestClock();
    const at = await open({ clock: override(clock, { now: () => clock.now() + jumpMs }) });
    await at.store.openJob(job);
    await clock.advance(2000);
    jumpMs = 3_600_000;
    await clock.advance(5000);
    expect((await at.store.getJob('job')).job.jobId).toBe('job');
    await clock.advance(12_000);
    await vi.waitFor(async () =>
      expect(await codeOf(at.store.getJob('job'))).toBe('job_not_found'),
    );
  });

  test('the end of a job waits for its commits, refuses later ones, and leaves nothing', async () => {
    const at = await open();
    await at.store.openJob(job);
    const puts = Array.from({ length: 20 }, (_, i) =>
      codeOf(at.put(i % 2 === 0 ? 'mem' : 'buf', `k${i}`, bytes(1000), { jobId: 'job' })),
    );
    await new Promise((resolve) => setImmediate(resolve));
    const [receipt, again] = await Promise.all([at.store.endJob('job'), at.store.endJob('job')]);
    expect(again).toEqual(receipt);
    for (const code of await Promise.all(puts))
      expect(['none', 'job_not_found', 'write_not_found']).toContain(code);
    expect([...(await keys(at, 'mem')), ...(await keys(at, 'buf'))]).toEqual([]);
    await mirrored(at);
    expect(await use(at)).toEqual([0, 0, 0]);
  });

  test('an end that failed half-way is tried again', async () => {
    const clock = createTestClock();
    const at = await open({ clock });
    await at.store.openJob(job);
    await at.put('mem', 'k', bytes(10), { jobId: 'job' });
    let failures = 1;
    at.store.onJobEnd(() => {
      if (failures-- > 0) throw new StoreError('io_failed', 'a listener fails');
    });
    expect(await codeOf(at.store.endJob('job'))).toBe('io_failed');
    expect(await keys(at, 'mem')).toEqual(['k']);
    await clock.advance(15_000);
    await vi.waitFor(async () => expect(await keys(at, 'mem')).toEqual([]));
  });

  test('jobs and what they own are known after a restart, and expire then', async () => {
    const clock = createTestClock();
    const first = await open({ clock });
    await first.store.openJob(job);
    await first.put('mem', 'k', bytes(10), { jobId: 'job' });
    const at = await reopen(first);
    expect((await at.store.getJob('job')).objects).toBe(1);
    await clock.advance(15_000);
    await vi.waitFor(async () => expect(await keys(at, 'mem')).toEqual([]));
  });
});

describe('leases', () => {
  const change: Record<string, (at: TestStore) => Promise<unknown>> = {
    deleted: (at) => at.store.delete({ bucket: 'mem', key: 'k' }),
    overwritten: (at) => at.put('mem', 'k', bytes(70_000, 99)),
    'spilled to disk': (at) => at.store.relocate({ bucket: 'mem', key: 'k' }, 1),
    'moved to tier 2': (at) => at.store.relocate({ bucket: 'mem', key: 'k' }, 2),
    'renamed and deleted': async (at) => {
      await at.store.rename({ bucket: 'mem', key: 'k' }, { bucket: 'mem', key: 'n' });
      await at.store.delete({ bucket: 'mem', key: 'n' });
    },
  };
  for (const [name, apply] of Object.entries(change)) {
    test(`bytes stay readable, through the daemon and from the file, while the object is ${name}`, async () => {
      const at = await open();
      const old = bytes(70_000, 3);
      await at.put('mem', 'k', old);
      const opened = await at.store.open(at.owner, { bucket: 'mem', key: 'k' });
      const path = join(at.tiers.memory.root, opened.extents[0]?.path as string);
      const fd = openSync(path, 'r');
      onTestFinished(() => closeSync(fd));
      await apply(at);
      for (let i = 0; i < 5; i++) await at.put('mem', `next${i}`, bytes(70_000, 50 + i));
      const seen = Buffer.alloc(old.length);
      await at.store.read(at.owner, opened.leaseId, seen, 0);
      expect(seen.equals(old)).toBe(true);
      readSync(fd, seen, 0, seen.length, 0);
      expect(seen.equals(old)).toBe(true);
      at.store.release(at.owner, [opened.leaseId]);
      expect(existsSync(path)).toBe(false);
    });
  }

  test('a file is recycled when its lease was returned, and unlinked when its reader just went away', async () => {
    const at = await open();
    const life = async (
      key: string,
      end: (leaseId: number, reader: TestStore['owner']) => unknown,
    ): Promise<boolean> => {
      const reader = at.store.createOwner('reader');
      await at.put('mem', key, bytes(20_000));
      const opened = await at.store.open(reader, { bucket: 'mem', key });
      const pooledBefore = at.store.tiers()[0]?.pooledBytes as number;
      await at.store.delete({ bucket: 'mem', key });
      await end(opened.leaseId, reader);
      return (at.store.tiers()[0]?.pooledBytes as number) > pooledBefore;
    };
    expect(await life('returned', (id, reader) => at.store.release(reader, [id]))).toBe(true);
    expect(await life('lost', (_, reader) => at.store.dropOwner(reader))).toBe(false);
  });

  test('a batched read in flight keeps its file from being recycled under it', async () => {
    const gate = Promise.withResolvers<void>();
    let isGated = false;
    const at = await open({
      faults: {
        memory: (memory) =>
          override(memory, {
            read: async (...args) => {
              if (isGated) await gate.promise;
              await memory.read(...args);
            },
          }),
      },
    });
    const old = bytes(100_000, 1);
    await at.put('mem', 'k', old);
    const blobId = await blobOf(at, 'mem', 'k');
    isGated = true;
    const target = Buffer.alloc(old.length);
    const reading = at.store.readBlob(blobId, target, 0);
    await at.store.delete({ bucket: 'mem', key: 'k' });
    await at.put('mem', 'next', bytes(100_000, 2));
    gate.resolve();
    await reading;
    expect(target.equals(old)).toBe(true);
  });
});

describe('time to live', () => {
  test('objects of a bucket with a TTL go when their time is up, each in its own time', async () => {
    const clock = createTestClock();
    const at = await open({ clock });
    await at.store.createBucket('short', resolvePolicy({ preset: 'ephemeral', ttlMs: 60_000 }));
    await at.put('short', 'old', bytes(10));
    await at.put('short', 'renewed', bytes(10));
    await clock.advance(30_000);
    await at.put('short', 'renewed', bytes(20));
    await at.put('mem', 'forever', bytes(10));
    await clock.advance(40_000);
    await vi.waitFor(async () => expect(await keys(at, 'short')).toEqual(['renewed']));
    await clock.advance(30_000);
    await vi.waitFor(async () => expect(await keys(at, 'short')).toEqual([]));
    expect(await keys(at, 'mem')).toEqual(['forever']);
  });
});

describe('durability (DESIGN §4)', () => {
  const acks = ['memory', 'disk', 'remote'] as const;
  async function filled(): Promise<TestStore> {
    const at = await open();
    for (const bucket of ['mem', 'buf', 'dur'])
      for (const ack of acks) {
        const staged = await at.store.stage(
          at.owner,
          { bucket, key: ack },
          { reserveBytes: 30_000 },
        );
        await at.store.write(at.owner, staged.writeId, bytes(30_000, 4), 0);
        const committed = await at.store.commit(at.owner, staged.writeId, {
          sizeBytes: 30_000,
          ack,
        });
        expect(committed.durability).toBe(ack);
      }
    return at;
  }

  test('daemon killed: everything acknowledged is kept', async () => {
    const at = await reopen(await filled());
    for (const bucket of ['mem', 'buf', 'dur'])
      for (const ack of acks) expect(await at.get(bucket, ack)).toEqual(bytes(30_000, 4));
    expect(at.recovery).toMatchObject({ lostCopies: 0, lostBlobs: 0, orphanFiles: 0 });
    expect((await at.store.verify({})).broken).toEqual([]);
  });

  test('host rebooted: what was acknowledged by disk or tier 2 is kept, what by memory alone is reported as lost', async () => {
    const at = await reopen(await filled(), { loseMemory: true });
    for (const bucket of ['mem', 'buf', 'dur'])
      for (const ack of ['disk', 'remote'])
        expect(await at.get(bucket, ack)).toEqual(bytes(30_000, 4));
    expect(at.recovery).toMatchObject({ lostBlobs: 1 });
    const ref = { bucket: 'mem', key: 'memory' };
    expect(await codeOf(at.store.head(ref))).toBe('data_lost');
    expect(await codeOf(at.get('mem', 'memory'))).toBe('data_lost');
    expect(await keys(at, 'mem')).toContain('memory');
    expect((await at.store.verify({})).broken).toMatchObject([{ objects: ['mem/memory'] }]);
    expect(await at.store.gc()).toMatchObject({ lostObjects: 1 });
    expect(await codeOf(at.get('mem', 'memory'))).toBe('not_found');
    expect((await at.store.verify({})).broken).toEqual([]);
    await at.put('mem', 'memory', bytes(10)); // and it can be written anew
  });

  test('disk and host gone: what tier 2 acknowledged is there, as plain files of the same name', async () => {
    const at = await filled();
    const seen: Buffer[] = [];
    for (const bucket of ['mem', 'buf', 'dur']) {
      const target = Buffer.alloc(30_000);
      await at.tiers.remote.read(`${bucket}/remote`, target, 0);
      seen.push(target);
    }
    for (const found of seen) expect(found).toEqual(bytes(30_000, 4));
  });

  test('an empty object exists as durably as others', async () => {
    const first = await open();
    for (const bucket of ['mem', 'buf', 'dur']) await first.put(bucket, 'empty', Buffer.alloc(0));
    const at = await reopen(first, { loseMemory: true });
    for (const bucket of ['mem', 'buf', 'dur'])
      expect(await at.get(bucket, 'empty')).toHaveLength(0);
  });

  test('a copy into a bucket that promises more gets what that bucket promises', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(30_000, 6));
    expect(
      (await at.store.copy({ bucket: 'mem', key: 'k' }, { bucket: 'buf', key: 'k' })).durability,
    ).toBe('disk');
    expect(
      (await at.store.copy({ bucket: 'mem', key: 'k' }, { bucket: 'dur', key: 'k' })).durability,
    ).toBe('remote');
    const after = await reopen(at, { loseMemory: true });
    expect(await after.get('buf', 'k')).toEqual(bytes(30_000, 6));
  });

  test('if tier 2 fails after the commit, the error is told, the object stays whole, and tier 2 has it later', async () => {
    let isAway = true;
    const at = await open({
      faults: {
        remote: (remote) =>
          override(remote, {
            put: (...args) =>
              isAway ? Promise.reject(new StoreError('io_failed', 'away')) : remote.put(...args),
          }),
      },
    });
    expect(await codeOf(at.put('dur', 'k', bytes(30_000, 8)))).toBe('not_yet_durable');
    expect(await at.get('dur', 'k')).toEqual(bytes(30_000, 8));
    isAway = false;
    await mirrored(at);
    expect(await tiersOf(at, 'dur', 'k')).toContain(2);
  });

  test('when the commit is refused after bytes were copied to disk, nothing stays', async () => {
    const at = await open();
    await at.put('buf', 'k', bytes(10));
    await mirrored(at);
    const before = await use(at);
    expect(await codeOf(at.put('buf', 'k', bytes(50_000), { tier: 0, ifNoneMatch: true }))).toBe(
      'already_exists',
    );
    expect(await codeOf(at.put('buf', 'k', bytes(50_000), { tier: 0, crc32c: 1 }))).toBe(
      'checksum_mismatch',
    );
    expect(await use(at)).toEqual(before);
  });

  test('a bucket that is deleted and made again with another policy is that other bucket', async () => {
    const at = await open();
    await at.store.createBucket('changing', ephemeral);
    await at.put('changing', 'k', bytes(10));
    expect(await codeOf(at.store.deleteBucket('changing'))).toBe('bucket_not_empty');
    await at.store.delete({ bucket: 'changing', key: 'k' });
    await at.store.deleteBucket('changing');
    expect(await codeOf(at.put('changing', 'k', bytes(10)))).toBe('bucket_not_found');
    await at.store.createBucket('changing', buffered);
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'changing', key: 'k' },
      { reserveBytes: 10 },
    );
    expect(staged.tier).toBe(1);
  });
});

describe('tier 2 that does not answer', () => {
  test('stops neither deletes nor a restart, and what could not be removed is removed later', async () => {
    let isAway = false;
    const clock = createTestClock();
    const first = await open({
      clock,
      faults: {
        remote: (remote) =>
          override(remote, {
            delete: (name) =>
              isAway ? Promise.reject(new StoreError('io_failed', 'away')) : remote.delete(name),
          }),
      },
    });
    await first.put('dur', 'k', bytes(1000));
    await first.put('mem', 'spilled', bytes(1000));
    await first.store.relocate({ bucket: 'mem', key: 'spilled' }, 2);
    isAway = true;
    for (const [bucket, key] of [
      ['dur', 'k'],
      ['mem', 'spilled'],
    ] as const) {
      await first.store.delete({ bucket, key });
      expect(await codeOf(first.get(bucket, key))).toBe('not_found');
    }
    await vi.waitFor(() => expect(first.failures.length).toBeGreaterThan(1));
    const at = await reopen(first);
    expect((await at.store.totals()).blobs).toBe(1);
    expect((await at.store.spool()).entries).toBe(1);
    const names = async (): Promise<string[]> => {
      const found: string[] = [];
      for await (const { name } of at.tiers.remote.list('')) found.push(name);
      return found.sort();
    };
    expect(await names()).toHaveLength(2);
    isAway = false;
    await clock.advance(60_000);
    await vi.waitFor(async () => expect(await names()).toEqual([]));
    await vi.waitFor(async () => expect((await at.store.totals()).blobs).toBe(0));
    expect((await at.store.spool()).entries).toBe(0);
  });

  test('does not keep one broken object from blocking the mirror for the others', async () => {
    const at = await open({ settings: { roomWaitMs: 100 } });
    const stuck: number[] = [];
    for (let i = 0; i < 3; i++) {
      const staged = await at.store.stage(
        at.owner,
        { bucket: 'buf', key: `broken${i}` },
        { reserveBytes: 1000 },
      );
      await at.store.write(at.owner, staged.writeId, bytes(1000), 0);
      // A writer that names a checksum its bytes do not have: found out when they change tier.
      await at.store.commit(at.owner, staged.writeId, {
        sizeBytes: 1000,
        crc32c: 7,
        ack: 'memory',
      });
      stuck.push(staged.blobId);
    }
    await at.put('buf', 'good', bytes(1000));
    await mirrored(at);
    expect(await tiersOf(at, 'buf', 'good')).toEqual([1, 2]);
    expect((await at.store.verify({})).broken.map(({ blobId }) => blobId)).toEqual(stuck);
  });
});

describe('corruption', () => {
  test('verify names every broken copy: in memory, on disk, in tier 2', async () => {
    const at = await open();
    await at.put('mem', 'm', bytes(10_000, 1));
    await at.put('buf', 'dur', bytes(10_000, 2));
    await at.put('dur', 'r', bytes(10_000, 3));
    await at.put('mem', 'good', bytes(10_000, 4));
    await mirrored(at);
    flipByte(at.tiers.memory.absolutePath(await blobOf(at, 'mem', 'm')), 5000);
    flipByte(at.tiers.disk.absolutePath(await blobOf(at, 'buf', 'dur')), 9999);
    flipByte(join(at.root, 'remote', 'dur', 'r'));
    const report = await at.store.verify({});
    expect(report).toMatchObject({ blobs: 4, bytes: 40_000 });
    expect(report.broken.map(({ objects, tier }) => [objects, tier])).toEqual([
      [['mem/m'], 0],
      [['buf/dur'], 1],
      [['dur/r'], 2],
    ]);
    expect((await at.store.verify({ bucket: 'mem', prefix: 'g' })).broken).toEqual([]);
    expect(report.broken[0]?.problem).toMatch(/CRC32C is [0-9a-f]{8}, recorded [0-9a-f]{8}/);
  });

  test('a suspect copy is checked: the broken one goes, and the good one serves', async () => {
    const at = await open();
    const whole = bytes(10_000, 5);
    await at.put('buf', 'k', whole);
    await mirrored(at);
    await at.store.relocate({ bucket: 'buf', key: 'k' }, 0);
    const blobId = await blobOf(at, 'buf', 'k');
    flipByte(at.tiers.memory.absolutePath(blobId));
    expect((await at.store.resolve(blobId, whole.length, { suspect: false })).tier).toBe(0);
    expect((await at.store.resolve(blobId, whole.length, { suspect: true })).tier).toBe(1);
    expect(await tiersOf(at, 'buf', 'k')).toEqual([1, 2]);
    flipByte(at.tiers.disk.absolutePath(blobId), 77);
    const { tier } = await at.store.resolve(blobId, whole.length, { suspect: true });
    expect(tier).toBe(0); // brought up from tier 2
    expect(await at.get('buf', 'k')).toEqual(whole);
    expect((await at.store.verify({})).broken).toEqual([]);
  });

  test('a broken copy in tier 2 is replaced from the good one here', async () => {
    const at = await open();
    await at.put('buf', 'k', bytes(10_000, 5));
    await mirrored(at);
    rotByte(join(at.root, 'remote', 'buf', 'k'));
    await at.store.resolve(await blobOf(at, 'buf', 'k'), 10_000, { suspect: true });
    await mirrored(at);
    expect(await tiersOf(at, 'buf', 'k')).toEqual([1, 2]);
    expect((await at.store.verify({})).broken).toEqual([]);
  });

  test('when every copy is broken, the object is reported lost, and wrong bytes are not served', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(10_000, 5));
    const blobId = await blobOf(at, 'mem', 'k');
    flipByte(at.tiers.memory.absolutePath(blobId));
    expect(await codeOf(at.store.resolve(blobId, 10_000, { suspect: true }))).toBe('data_lost');
    expect(await codeOf(at.get('mem', 'k'))).toBe('data_lost');
  });

  test('a check that could not be made drops nothing', async () => {
    let isBusy = true;
    const at = await open({
      faults: {
        mover: (mover) =>
          override(mover, {
            checksum: (...args) =>
              isBusy
                ? Promise.reject(new StoreError('busy', 'queue full'))
                : mover.checksum(...args),
          }),
      },
    });
    await at.put('mem', 'k', bytes(10_000, 5), { crc32c: 1 });
    const blobId = await blobOf(at, 'mem', 'k');
    expect(await codeOf(at.store.resolve(blobId, 10_000, { suspect: true }))).toBe('busy');
    expect(await tiersOf(at, 'mem', 'k')).toEqual([0]);
    isBusy = false;
    expect((await at.store.verify({})).broken).toHaveLength(1);
  });

  test('a file that somebody removed is no reason to fail while another copy is there', async () => {
    const at = await open();
    await at.put('buf', 'k', bytes(100_000, 5));
    await mirrored(at);
    rmSync(at.tiers.disk.absolutePath(await blobOf(at, 'buf', 'k')));
    expect(await at.get('buf', 'k')).toEqual(bytes(100_000, 5));
  });

  test('bytes that do not match their checksum change no tier', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(10_000, 5));
    flipByte(at.tiers.memory.absolutePath(await blobOf(at, 'mem', 'k')));
    for (const tier of [1, 2] as const)
      expect(await codeOf(at.store.relocate({ bucket: 'mem', key: 'k' }, tier))).toBe(
        'data_corrupt',
      );
    expect(await tiersOf(at, 'mem', 'k')).toEqual([0]);
    expect((await use(at)).slice(1)).toEqual([0, 0]);
  });

  test('verification beside moves finds nothing wrong', async () => {
    const at = await open({ memoryBytes: 512 * KiB });
    for (let i = 0; i < 20; i++) await at.put('mem', `k${i}`, bytes(20_000, i));
    let isDone = false;
    const moving = (async () => {
      for (let round = 0; !isDone; round++)
        await at.store.relocate({ bucket: 'mem', key: `k${round % 20}` }, (round % 3) as 0 | 1 | 2);
    })();
    for (let i = 0; i < 5; i++) expect((await at.store.verify({})).broken).toEqual([]);
    isDone = true;
    await moving;
  });
});

describe('the end of a node', () => {
  test('a drain with persist brings all to tier 2, and refuses new writes', async () => {
    const first = await open();
    for (let i = 0; i < 5; i++) await first.put('mem', `k${i}`, bytes(10_000, i));
    await first.store.drain({ persist: true, deadlineMs: 10_000 });
    expect(await codeOf(first.put('mem', 'late', bytes(1)))).toBe('draining');
    const at = await reopen(first, { loseMemory: true });
    for (let i = 0; i < 5; i++) expect(await at.get('mem', `k${i}`)).toEqual(bytes(10_000, i));
  });

  test('a drain waits for staged writes, and no longer than its deadline', async () => {
    const at = await open();
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'mem', key: 'k' },
      { reserveBytes: 10 },
    );
    const drained = at.store.drain({ persist: false, deadlineMs: 10_000 });
    await at.store.write(at.owner, staged.writeId, bytes(10), 0);
    await at.store.commit(at.owner, staged.writeId, { sizeBytes: 10 });
    await drained;
    expect(await at.get('mem', 'k')).toEqual(bytes(10));

    const second = await open();
    await second.store.stage(second.owner, { bucket: 'mem', key: 'k' }, { reserveBytes: 10 });
    await second.store.drain({ persist: true, deadlineMs: 50 });
  });

  test('gc removes what nobody stands behind, and lets go of pooled files', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(10_000));
    await at.put('mem', 'gone', bytes(10_000));
    await at.store.delete({ bucket: 'mem', key: 'gone' });
    const stray = join(at.tiers.disk.root, 'b/00/ffffff00');
    writeFileSync(stray, bytes(5000));
    const report = await at.store.gc();
    expect(report).toMatchObject({ orphanFiles: 1, orphanBytes: 8192, lostObjects: 0 });
    expect(report.trimmedPoolBytes).toBeGreaterThan(0);
    expect(existsSync(stray)).toBe(false);
    expect(await at.get('mem', 'k')).toEqual(bytes(10_000));
  });

  test('figures of all three tiers follow by themselves', async () => {
    const clock = createTestClock();
    const at = await open({ clock });
    await at.put('dur', 'k', bytes(10_000));
    await clock.advance(1500);
    expect(at.store.tiers()[2]).toMatchObject({ blobs: 1, usedBytes: 10_000 });
  });

  test('the life of an object can be told', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(10_000));
    await at.store.relocate({ bucket: 'mem', key: 'k' }, 1);
    const { view, events } = await at.store.why({ bucket: 'mem', key: 'k' });
    expect(view?.tiers).toEqual([1]);
    expect(events.map(({ what }) => what)).toEqual(['committed', 'copied to disk']);
    expect(events[1]?.details).toMatchObject({ from: 'memory', why: 'relocated by request' });
  });
});
