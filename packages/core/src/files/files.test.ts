/** Open files of the store: what docs/files.md promises, against a real store. */
import { KiB, MiB } from '@ebb/protocol';
import {
  buffered,
  codeOf,
  createTestClock,
  durable,
  ephemeral,
  openStoreInTest,
  reopen,
  type TestStore,
  type TestStoreOptions,
} from '@ebb/testkit';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { crc32c } from '../checksum.ts';
import { makeDirectory, removeDirectory } from './directories.ts';
import type { FileOpenOptions } from './files.ts';

const RW = { read: true, write: true } as const;
const NEW = { ...RW, create: true } as const;

const BUCKETS = { mem: ephemeral, buf: buffered, dur: durable };

async function open(options: TestStoreOptions = {}): Promise<TestStore> {
  const settings = { roomWaitMs: 300, ...options.settings };
  return await openStoreInTest(BUCKETS, { ...options, settings });
}

function bytes(size: number, seed = 1): Buffer {
  const buffer = Buffer.alloc(size);
  for (let i = 0; i < size; i++) buffer[i] = (seed * 97 + i * 31 + (i >> 8)) & 0xff;
  return buffer;
}

/** A file with its owner's side kept short. */
async function openFile(at: TestStore, key: string, options: FileOpenOptions, owner = at.owner) {
  const { files } = at.store;
  const { fileId } = await files.open(owner, { bucket: 'mem', key }, options);
  return {
    fileId,
    stat: () => files.stat(owner, fileId),
    write: (source: Buffer, position = 0) => files.write(owner, fileId, source, position),
    truncate: (sizeBytes: number) => files.truncate(owner, fileId, sizeBytes),
    sync: (sync = {}) => files.sync(owner, fileId, sync),
    close: (sync = {}) => files.close(owner, fileId, sync),
    abort: () => files.abort(owner, fileId),
    stage: (reserveBytes: number, keepBytes: number) =>
      files.stage(owner, fileId, { reserveBytes, keepBytes }),
    async read(position = 0, length = 1 << 20) {
      const target = Buffer.alloc(length, 0xaa);
      return target.subarray(0, await files.read(owner, fileId, target, position));
    },
  };
}

/** What each tier holds without the pool, staged bytes included. */
async function use(at: TestStore): Promise<number[]> {
  await at.store.totals();
  return at.store.tiers().map((tier) => tier.usedBytes - tier.pooledBytes + tier.stagedBytes);
}

describe('open', () => {
  test('of a name that is not there is not_found, and with create an empty file that nobody else sees before it is published', async () => {
    const at = await open();
    expect(await codeOf(openFile(at, 'k', RW))).toBe('not_found');
    const file = await openFile(at, 'k', NEW);
    expect(await file.read()).toEqual(Buffer.alloc(0));
    expect(await at.store.find({ bucket: 'mem', key: 'k' })).toBeUndefined();
    await file.close();
    expect((await at.get('mem', 'k')).length).toBe(0);
  });

  test('exclusive refuses a name that is there, and one that came before its close', async () => {
    const at = await open();
    await at.put('mem', 'there', bytes(10));
    const exclusive = { ...NEW, exclusive: true };
    expect(await codeOf(openFile(at, 'there', exclusive))).toBe('already_exists');
    const file = await openFile(at, 'k', exclusive);
    await file.write(bytes(10, 2));
    await at.put('mem', 'k', bytes(10, 3));
    expect(await codeOf(file.close())).toBe('already_exists');
    expect(await at.get('mem', 'k')).toEqual(bytes(10, 3));
    expect(at.store.tiers()[0]?.stagedBytes).toBe(0);
  });

  test('of many that open one name exclusively and sync, exactly one goes on', async () => {
    const at = await open();
    const outcomes = await Promise.all(
      Array.from({ length: 20 }, async () => {
        const file = await openFile(at, 'lock', { ...NEW, exclusive: true }).catch(() => undefined);
        return file === undefined ? 'already_exists' : await codeOf(file.sync());
      }),
    );
    expect(outcomes.filter((code) => code === 'none')).toHaveLength(1);
    expect(new Set(outcomes)).toEqual(new Set(['none', 'already_exists']));
  });

  test.each([
    [{}, 'a file is opened for reading, writing, or both'],
    [{ read: true, truncate: true }, 'create, truncate and append need write'],
    [{ write: true, exclusive: true }, 'exclusive needs create'],
    [{ ...NEW, ifMatch: 'x' }, 'excludes create'],
  ])('with %j is refused', async (flags, message) => {
    const at = await open();
    await expect(openFile(at, 'k', flags)).rejects.toThrow(message);
  });

  test('for one way refuses the other', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(10));
    const reader = await openFile(at, 'k', { read: true });
    expect(await codeOf(reader.write(bytes(1)))).toBe('request_invalid');
    expect(await codeOf(reader.truncate(0))).toBe('request_invalid');
    const writer = await openFile(at, 'k', { write: true });
    expect(await codeOf(writer.read())).toBe('request_invalid');
  });

  test('with truncate starts empty, also where the bytes are lost', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(100_000));
    const next = await reopen(at, { loseMemory: true });
    expect(await codeOf(openFile(next, 'k', RW))).toBe('data_lost');
    const file = await openFile(next, 'k', { ...RW, truncate: true });
    await file.write(bytes(5));
    await file.close();
    expect(await next.get('mem', 'k')).toEqual(bytes(5));
  });
});

describe('reading', () => {
  test('gives fewer bytes only at the end, nothing beyond it, and a byte 0xFF as a byte', async () => {
    const at = await open();
    await at.put('mem', 'k', Buffer.from([1, 2, 0xff]));
    const file = await openFile(at, 'k', { read: true });
    expect(await file.read(2, 1)).toEqual(Buffer.from([0xff]));
    expect(await file.read(1, 10)).toEqual(Buffer.from([2, 0xff]));
    expect(await file.read(3, 10)).toEqual(Buffer.alloc(0));
    expect(await file.read(1000, 10)).toEqual(Buffer.alloc(0));
  });

  test('through the daemon, a version that was replaced can be read for as long as its file is kept, and is superseded after that', async () => {
    const clock = createTestClock();
    const at = await open({ clock, settings: { limboMs: 30_000 } });
    await at.put('mem', 'k', bytes(1000, 1));
    const file = await openFile(at, 'k', { read: true });
    await at.put('mem', 'k', bytes(1000, 2));
    await clock.advance(29_000);
    expect(await file.read(0, 1000)).toEqual(bytes(1000, 1));
    for (let second = 0; second < 5; second++) await clock.advance(1000);
    await vi.waitFor(async () => expect(await codeOf(file.read(0, 1000))).toBe('superseded'));
  });

  test('a version in tier 2 alone, with no room above, is read from there, and goes with its replacement', async () => {
    const at = await open({ memoryBytes: 2 * MiB, diskBytes: 2 * MiB });
    await at.put('mem', 'k', bytes(MiB));
    await at.store.relocate({ bucket: 'mem', key: 'k' }, 2);
    for (const tier of [0, 1] as const) {
      const ref = { bucket: 'mem', key: 'filler' };
      await at.store.stage(at.owner, ref, { reserveBytes: 2 * MiB - 64 * KiB, tier });
    }
    const file = await openFile(at, 'k', { read: true });
    expect((await file.read(0, MiB)).equals(bytes(MiB))).toBe(true);
    await at.put('mem', 'k', bytes(10));
    expect(await codeOf(file.read(0, MiB))).toBe('superseded');
  });

  test('an open file shows the version it was opened at, whatever happens to the name', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(200_000, 1));
    const file = await openFile(at, 'k', { read: true });
    await at.put('mem', 'k', bytes(200_000, 2));
    expect(await file.read(0, 200_000)).toEqual(bytes(200_000, 1));
    await at.store.delete({ bucket: 'mem', key: 'k' });
    expect(await file.read(100_000, 100_000)).toEqual(bytes(200_000, 1).subarray(100_000));
  });
});

describe('writing', () => {
  test('changes a copy: readers keep the old version, the name has the new one after the close', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(500_000), { contentType: 'x/y', metadata: { a: 'b' } });
    const reader = await openFile(at, 'k', { read: true });
    const file = await openFile(at, 'k', RW);
    await file.write(Buffer.from('new'), 250_000);
    const want = bytes(500_000);
    want.write('new', 250_000);
    expect(await file.read(0, 500_000)).toEqual(want);
    expect(await at.get('mem', 'k')).toEqual(bytes(500_000));
    const published = await file.close();
    expect(published).toMatchObject({ sizeBytes: 500_000, durability: 'memory' });
    expect(await at.get('mem', 'k')).toEqual(want);
    expect(await reader.read(0, 500_000)).toEqual(bytes(500_000));
    const { object } = await at.store.head({ bucket: 'mem', key: 'k' });
    expect(object).toMatchObject({
      ...{ version: published?.version, contentType: 'x/y', metadata: { a: 'b' } },
      crc32c: crc32c(want),
    });
  });

  test('a file with bytes of its own does not hold the version it began with', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(400_000));
    const file = await openFile(at, 'k', RW);
    await file.write(Buffer.from('x'));
    const [before = 0] = await use(at);
    await at.store.delete({ bucket: 'mem', key: 'k' });
    const [after = 0] = await use(at);
    expect(before - after).toBeGreaterThanOrEqual(400_000);
    await file.abort();
  });

  test('an object that was joined of several extents is changed as a whole', async () => {
    const at = await open();
    for (const part of [1, 2, 3]) await at.put('mem', `part-${part}`, bytes(400_000, part));
    const sources = [1, 2, 3].map((part) => ({
      ...{ bucket: 'mem', key: `part-${part}`, offset: part * 1000, length: 300_000 },
    }));
    await at.store.compose({ bucket: 'mem', key: 'k' }, sources, {});
    const want = Buffer.concat(
      [1, 2, 3].map((p) => bytes(400_000, p).subarray(p * 1000, p * 1000 + 300_000)),
    );
    const file = await openFile(at, 'k', RW);
    expect(await file.read(299_990, 20)).toEqual(want.subarray(299_990, 300_010));
    await file.write(Buffer.from('X'), 599_999);
    want.write('X', 599_999);
    expect(await file.read(0, 900_000)).toEqual(want);
    await file.close();
    expect(await at.get('mem', 'k')).toEqual(want);
  });

  test('an object that lies in tier 2 alone is changed as well', async () => {
    const at = await open({ memoryBytes: 8 * MiB });
    await at.put('mem', 'k', bytes(MiB));
    await at.store.relocate({ bucket: 'mem', key: 'k' }, 2);
    const file = await openFile(at, 'k', RW);
    await file.write(Buffer.from('X'), 0);
    await file.close();
    expect(await at.get('mem', 'k')).toEqual(
      Buffer.concat([Buffer.from('X'), bytes(MiB).subarray(1)]),
    );
  });

  test('a gap reads as zeros, in a file that had other bytes before', async () => {
    const at = await open();
    await at.put('mem', 'old', Buffer.alloc(300_000, 0x55));
    await at.store.delete({ bucket: 'mem', key: 'old' });
    const file = await openFile(at, 'k', NEW);
    await file.write(Buffer.from('end'), 250_000);
    const want = Buffer.concat([Buffer.alloc(250_000), Buffer.from('end')]);
    expect(await file.read(0, 300_000)).toEqual(want);
    await file.close();
    expect(await at.get('mem', 'k')).toEqual(want);
  });

  test('append goes to the end, whatever position is named, and tells where that was', async () => {
    const at = await open();
    await at.put('mem', 'k', Buffer.from('abc'));
    const file = await openFile(at, 'k', { write: true, append: true });
    expect(await file.write(Buffer.from('de'), 0)).toBe(3);
    expect(await file.write(Buffer.from('f'), 1)).toBe(5);
    await file.close();
    expect((await at.get('mem', 'k')).toString()).toBe('abcdef');
  });

  test('without a condition the last close wins; with one, whoever was overtaken is told', async () => {
    const at = await open();
    const etag = await at.put('mem', 'k', Buffer.from('0'));
    const first = await openFile(at, 'k', { ...RW, ifMatch: etag });
    const second = await openFile(at, 'k', RW);
    await first.write(Buffer.from('1'));
    await second.write(Buffer.from('2'));
    await second.close();
    expect(await codeOf(first.close())).toBe('precondition_failed');
    expect((await at.get('mem', 'k')).toString()).toBe('2');
    expect(await codeOf(openFile(at, 'k', { ...RW, ifMatch: etag }))).toBe('precondition_failed');
    const third = await openFile(at, 'k', RW);
    const fourth = await openFile(at, 'k', RW);
    await third.write(Buffer.from('3'));
    await fourth.write(Buffer.from('4'));
    await fourth.close();
    await third.close();
    expect((await at.get('mem', 'k')).toString()).toBe('3');
  });

  test('a file that outgrows tier 0 goes on in tier 1 with what it has', async () => {
    const at = await open({ memoryBytes: 2 * MiB });
    const file = await openFile(at, 'k', NEW);
    for (let part = 0; part < 5; part++) await file.write(bytes(MiB, part), part * MiB);
    const want = Buffer.concat([0, 1, 2, 3, 4].map((part) => bytes(MiB, part)));
    expect((await file.read(0, 5 * MiB)).equals(want)).toBe(true);
    await file.close();
    expect((await at.get('mem', 'k')).equals(want)).toBe(true);
  });

  test('a write that found no room fails alone: cut back to what was written, the rest can be published', async () => {
    const at = await open({ memoryBytes: MiB, diskBytes: 2 * MiB });
    const file = await openFile(at, 'k', NEW);
    await file.write(bytes(1000));
    expect(await codeOf(file.write(bytes(100), 4 * MiB))).toBe('tier_full');
    expect(file.stat().sizeBytes).toBe(1000);
    await file.truncate(999);
    await file.close();
    expect(await at.get('mem', 'k')).toEqual(bytes(1000).subarray(0, 999));
  });

  test('a file that was not changed publishes nothing at its close', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(10));
    const before = (await at.store.head({ bucket: 'mem', key: 'k' })).object.version;
    const file = await openFile(at, 'k', RW);
    await file.read();
    expect(await file.close()).toBeUndefined();
    expect((await at.store.head({ bucket: 'mem', key: 'k' })).object.version).toBe(before);
  });
});

describe('truncate', () => {
  test('cuts, and grows with zeros, before and after a write', async () => {
    const at = await open();
    await at.put('mem', 'k', Buffer.alloc(100_000, 0x11));
    const file = await openFile(at, 'k', RW);
    await file.truncate(50_000);
    await file.truncate(80_000);
    expect(await file.read(0, 100_000)).toEqual(
      Buffer.concat([Buffer.alloc(50_000, 0x11), Buffer.alloc(30_000)]),
    );
    await file.write(Buffer.alloc(10, 0x22), 79_990);
    await file.truncate(79_995);
    await file.truncate(80_000);
    await file.close();
    expect((await at.get('mem', 'k')).subarray(79_990)).toEqual(
      Buffer.concat([Buffer.alloc(5, 0x22), Buffer.alloc(5)]),
    );
  });

  test('to nothing takes no room and copies nothing', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(MiB));
    const file = await openFile(at, 'k', RW);
    await file.truncate(0);
    expect(at.store.tiers()[0]?.stagedBytes).toBe(0);
    await file.close();
    expect((await at.get('mem', 'k')).length).toBe(0);
  });

  test('to less, without a write, publishes the beginning', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(MiB));
    const file = await openFile(at, 'k', RW);
    await file.truncate(700_001);
    await file.close();
    expect((await at.get('mem', 'k')).equals(bytes(MiB).subarray(0, 700_001))).toBe(true);
  });
});

describe('sync', () => {
  test('publishes what was written so far, and the file goes on with a copy', async () => {
    const at = await open();
    const file = await openFile(at, 'k', NEW);
    await file.write(bytes(300_000, 1));
    const first = await file.sync({ ack: 'disk' });
    expect(first?.durability).toBe('disk');
    expect(await at.get('mem', 'k')).toEqual(bytes(300_000, 1));
    await file.write(Buffer.from('later'), 100);
    expect(await at.get('mem', 'k')).toEqual(bytes(300_000, 1));
    await file.close();
    const want = bytes(300_000, 1);
    want.write('later', 100);
    expect(await at.get('mem', 'k')).toEqual(want);
  });

  test('a synced file shows its own version on, though others replaced it before and after', async () => {
    const at = await open();
    const file = await openFile(at, 'k', NEW);
    await file.write(bytes(300_000, 1));
    await file.sync();
    await at.put('mem', 'k', bytes(300_000, 2));
    await at.put('mem', 'other', bytes(300_000, 3)); // would take a recycled file
    expect(await file.read(0, 300_000)).toEqual(bytes(300_000, 1));
    await file.write(Buffer.from('!'), 0);
    await file.close();
    expect((await at.get('mem', 'k')).subarray(1)).toEqual(bytes(300_000, 1).subarray(1));
  });

  test('of many files of one name at once leaves each with its own bytes', async () => {
    const at = await open();
    const files = await Promise.all(
      Array.from({ length: 8 }, async (_, n) => {
        const file = await openFile(at, 'k', NEW);
        await file.write(bytes(100_000, n));
        return file;
      }),
    );
    await Promise.all(files.map((file, n) => file.sync({ ack: n % 2 === 0 ? 'disk' : 'memory' })));
    await at.put('mem', 'other', bytes(100_000, 99));
    for (const [n, file] of files.entries())
      expect(await file.read(0, 100_000)).toEqual(bytes(100_000, n));
  });

  test('of an unchanged file sees to the durability of its version', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(1000));
    const file = await openFile(at, 'k', { read: true });
    expect(await file.sync({ ack: 'remote' })).toMatchObject({
      durability: 'remote',
      sizeBytes: 1000,
    });
    expect((await at.store.head({ bucket: 'mem', key: 'k' })).tiers).toContain(2);
  });

  test('says so when there is no room for what it is to make durable, and that nothing is left to do for a version that was replaced', async () => {
    const at = await open({ diskBytes: 64 * KiB });
    await at.put('mem', 'k', bytes(100_000));
    const file = await openFile(at, 'k', { read: true });
    expect(await codeOf(file.sync({ ack: 'disk' }))).toBe('tier_full');
    await at.put('mem', 'k', bytes(1000));
    expect(await file.sync({ ack: 'disk' })).toBeUndefined();
    const next = await openFile(at, 'k', { read: true });
    expect(await next.sync({ ack: 'disk' })).toMatchObject({ durability: 'disk' });
    expect((await at.store.head({ bucket: 'mem', key: 'k' })).tiers).toEqual([0, 1]);
  });

  test('with a condition follows its own versions', async () => {
    const at = await open();
    const etag = await at.put('mem', 'k', Buffer.from('0'));
    const file = await openFile(at, 'k', { ...RW, ifMatch: etag });
    await file.write(Buffer.from('1'));
    await file.sync();
    await file.write(Buffer.from('2'));
    await file.sync();
    await at.put('mem', 'k', Buffer.from('x'));
    await file.write(Buffer.from('3'));
    expect(await codeOf(file.sync())).toBe('precondition_failed');
    expect(await codeOf(file.write(Buffer.from('4')))).toBe('precondition_failed');
    expect(await codeOf(file.close())).toBe('precondition_failed');
    expect(await codeOf(file.close())).toBe('file_not_open');
    expect((await at.get('mem', 'k')).toString()).toBe('x');
  });
});

describe('an owner that writes the file itself', () => {
  test('gets a file that begins with what it keeps, and publishes by the size it tells', async () => {
    const at = await open();
    const { writeFileSync, readFileSync, openSync, writeSync, closeSync } = await import('node:fs');
    await at.put('mem', 'k', bytes(300_000));
    const file = await openFile(at, 'k', RW);
    const staged = await file.stage(400_000, 200_000);
    expect(readFileSync(staged.absolutePath).subarray(0, 200_000)).toEqual(
      bytes(300_000).subarray(0, 200_000),
    );
    const fd = openSync(staged.absolutePath, 'r+');
    writeSync(fd, bytes(100, 9), 0, 100, 200_000);
    closeSync(fd);
    const want = Buffer.concat([bytes(300_000).subarray(0, 200_000), bytes(100, 9)]);
    await file.sync({ sizeBytes: 200_100, crc32c: crc32c(want) });
    expect(await at.get('mem', 'k')).toEqual(want);
    const again = await file.stage(10, 10);
    expect(again.writeId).not.toBe(staged.writeId);
    writeFileSync(again.absolutePath, 'just this', { flag: 'r+' });
    await file.close({ sizeBytes: 9 });
    expect((await at.get('mem', 'k')).toString()).toBe('just this');
  });

  test('asks for more room, and finds its bytes in another file where tier 0 has none', async () => {
    const at = await open({ memoryBytes: 2 * MiB });
    const { writeFileSync } = await import('node:fs');
    const file = await openFile(at, 'k', NEW);
    const small = await file.stage(MiB, 0);
    writeFileSync(small.absolutePath, bytes(MiB), { flag: 'r+' });
    const large = await file.stage(5 * MiB, MiB);
    expect([small.tier, large.tier, large.writeId]).toEqual([0, 1, small.writeId]);
    writeFileSync(large.absolutePath, Buffer.concat([bytes(MiB), bytes(MiB)]), { flag: 'r+' });
    await file.close({ sizeBytes: 2 * MiB });
    expect((await at.get('mem', 'k')).equals(Buffer.concat([bytes(MiB), bytes(MiB)]))).toBe(true);
  });

  test('cannot keep more than there is', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(10));
    const file = await openFile(at, 'k', RW);
    expect(await codeOf(file.stage(100, 11))).toBe('range_invalid');
    expect(await codeOf(file.sync({ sizeBytes: 11 }))).toBe('range_invalid');
  });
});

describe('the end of a file', () => {
  test('abort leaves the object as it was, and gives the room back', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(100_000));
    const before = await use(at);
    const file = await openFile(at, 'k', RW);
    await file.write(bytes(200_000, 2));
    await file.abort();
    await file.abort();
    expect(await codeOf(file.read())).toBe('file_not_open');
    expect(await at.get('mem', 'k')).toEqual(bytes(100_000));
    expect(await use(at)).toEqual(before);
  });

  test('an owner that goes leaves nothing of its files', async () => {
    const at = await open();
    await at.put('mem', 'k', bytes(100_000));
    const before = await use(at);
    const owner = at.store.createOwner('gone');
    const file = await openFile(at, 'new', NEW, owner);
    await file.write(bytes(300_000));
    const other = await openFile(at, 'k', { read: true }, owner);
    await at.store.dropOwner(owner);
    expect(await codeOf(file.write(bytes(1)))).toBe('file_not_open');
    expect(await codeOf(other.read())).toBe('file_not_open');
    expect(await at.store.find({ bucket: 'mem', key: 'new' })).toBeUndefined();
    expect(await use(at)).toEqual(before);
  });

  test('a file of another owner is not open', async () => {
    const at = await open();
    const file = await openFile(at, 'k', NEW);
    const other = at.store.createOwner('other');
    expect(await codeOf(at.store.files.read(other, file.fileId, Buffer.alloc(1), 0))).toBe(
      'file_not_open',
    );
    await at.store.files.abort(other, file.fileId);
    expect(file.stat().isDirty).toBe(true);
  });

  test('an idle file is given up after its time, one without a time stays as long as its owner', async () => {
    const clock = createTestClock();
    const at = await open({ clock, settings: { stagingTtlMs: 60_000, leaseTtlMs: 60_000 } });
    await at.put('mem', 'k', bytes(1000));
    const idle = await openFile(at, 'a', { ...NEW, idleMs: 30_000 });
    await idle.write(bytes(100_000));
    const kept = await openFile(at, 'b', NEW);
    await kept.write(bytes(100));
    const reader = await openFile(at, 'k', { read: true });
    for (let minute = 0; minute < 5; minute++) await clock.advance(60_000);
    await vi.waitFor(async () => expect(await codeOf(idle.read())).toBe('file_not_open'));
    expect(await reader.read(0, 1000)).toEqual(bytes(1000));
    await kept.close();
    expect(await at.get('mem', 'b')).toEqual(bytes(100));
    expect(at.store.tiers()[0]?.stagedBytes).toBe(0);
  });

  test('a crash forgets what was not published', async () => {
    const at = await open();
    const file = await openFile(at, 'k', NEW);
    await file.write(bytes(100_000, 1));
    await file.sync();
    await file.write(bytes(100_000, 2));
    const next = await reopen(at);
    expect(await next.get('mem', 'k')).toEqual(bytes(100_000, 1));
    expect((await next.store.totals()).blobs).toBe(1);
  });
});

test('a file behaves as an array of bytes, whatever is done to it in whatever order', async () => {
  const at = await open();
  const position = fc.integer({ min: 0, max: 400 * KiB });
  const step = fc.oneof(
    fc.record({
      do: fc.constant('write' as const),
      position,
      length: fc.integer({ min: 0, max: 100 * KiB }),
    }),
    fc.record({ do: fc.constant('truncate' as const), position }),
    fc.record({
      do: fc.constant('read' as const),
      position,
      length: fc.integer({ min: 0, max: 100 * KiB }),
    }),
    fc.record({ do: fc.constantFrom('sync' as const, 'reopen' as const) }),
  );
  let run = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 20 }), async (steps) => {
      const key = `random-${++run}`;
      let model = Buffer.alloc(0);
      let file = await openFile(at, key, NEW);
      for (const [index, now] of steps.entries()) {
        if (now.do === 'write') {
          const source = bytes(now.length, index);
          await file.write(source, now.position);
          if (source.length > 0) {
            const grown = Buffer.alloc(Math.max(model.length, now.position + source.length));
            model.copy(grown);
            source.copy(grown, now.position);
            model = grown;
          }
        } else if (now.do === 'truncate') {
          await file.truncate(now.position);
          const cut = Buffer.alloc(now.position);
          model.copy(cut);
          model = cut;
        } else if (now.do === 'read') {
          const got = await file.read(now.position, now.length);
          expect(got.equals(model.subarray(now.position, now.position + now.length))).toBe(true);
        } else if (now.do === 'sync') await file.sync();
        else {
          await file.close();
          file = await openFile(at, key, RW);
        }
        expect(file.stat().sizeBytes).toBe(model.length);
      }
      await file.close();
      expect((await at.get('mem', key)).equals(model)).toBe(true);
      await at.store.delete({ bucket: 'mem', key });
    }),
    { numRuns: 40 },
  );
  expect(at.store.tiers()[0]?.stagedBytes).toBe(0);
});

/** Of the random test below: a file with the bytes it must show. */
interface Shown {
  readonly key: string;
  readonly file: Awaited<ReturnType<typeof openFile>>;
  bytes: Buffer;
}

test('many files on few names never see each other’s bytes, and a name has what was published last', async () => {
  const at = await open({ memoryBytes: 3 * MiB });
  const key = fc.constantFrom('a', 'b', 'c');
  const which = fc.nat(5);
  const size = fc.integer({ min: 1, max: 200 * KiB });
  const step = fc.oneof(
    fc.record({ do: fc.constantFrom('open' as const, 'put' as const), key, which, size }),
    fc.record({ do: fc.constantFrom('write' as const, 'truncate' as const), key, which, size }),
    fc.record({ do: fc.constantFrom('read' as const, 'sync' as const), key, which, size }),
    fc.record({
      do: fc.constantFrom('close' as const, 'abort' as const, 'delete' as const),
      ...{ key, which, size },
    }),
  );
  let seed = 0;
  const runOne = async (
    steps: readonly { do: string; key: string; which: number; size: number }[],
  ) => {
    const objects = new Map<string, Buffer>();
    const files: (Shown | undefined)[] = [];
    const publish = ({ key: name, file, bytes: now }: Shown): void => {
      if (file.stat().isDirty) objects.set(name, now);
    };
    for (const now of steps) {
      const shown = files[now.which];
      if (now.do === 'put') {
        objects.set(now.key, bytes(now.size, ++seed));
        await at.put('mem', now.key, bytes(now.size, seed));
      } else if (now.do === 'delete') {
        objects.delete(now.key);
        await at.store.delete({ bucket: 'mem', key: now.key });
      } else if (now.do === 'open') {
        await shown?.file.abort();
        const file = await openFile(at, now.key, NEW);
        files[now.which] = { key: now.key, file, bytes: objects.get(now.key) ?? Buffer.alloc(0) };
      } else if (shown === undefined) continue;
      else if (now.do === 'write') {
        const source = bytes(now.size, ++seed);
        const position = (now.size * 7919) % (200 * KiB);
        const grown = Buffer.alloc(Math.max(shown.bytes.length, position + source.length));
        shown.bytes.copy(grown);
        source.copy(grown, position);
        shown.bytes = grown;
        await shown.file.write(source, position);
      } else if (now.do === 'truncate') {
        const cut = Buffer.alloc(now.size);
        shown.bytes.copy(cut);
        shown.bytes = cut;
        await shown.file.truncate(now.size);
      } else if (now.do === 'read') {
        expect((await shown.file.read()).equals(shown.bytes)).toBe(true);
      } else if (now.do === 'sync') {
        publish(shown);
        await shown.file.sync();
      } else {
        if (now.do === 'close') publish(shown);
        await shown.file[now.do as 'close' | 'abort']();
        files[now.which] = undefined;
      }
    }
    for (const shown of files) {
      if (shown === undefined) continue;
      expect((await shown.file.read()).equals(shown.bytes)).toBe(true);
      await shown.file.abort();
    }
    for (const [name, want] of objects) {
      expect((await at.get('mem', name)).equals(want)).toBe(true);
      await at.store.delete({ bucket: 'mem', key: name });
    }
    expect((await at.store.totals()).objects).toBe(0);
  };
  await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 30, maxLength: 120 }), runOne), {
    numRuns: 25,
  });
  expect(at.store.tiers().map((tier) => tier.stagedBytes)).toEqual([0, 0, 0]);
  expect(at.failures).toEqual([]);
});

describe('what others do to the name', () => {
  test('a writer whose object was deleted or renamed publishes under the name it opened', async () => {
    const at = await open();
    await at.put('mem', 'deleted', Buffer.from('old'));
    await at.put('mem', 'renamed', Buffer.from('old'));
    const files = [await openFile(at, 'deleted', RW), await openFile(at, 'renamed', RW)];
    await at.store.delete({ bucket: 'mem', key: 'deleted' });
    await at.store.rename({ bucket: 'mem', key: 'renamed' }, { bucket: 'mem', key: 'elsewhere' });
    for (const file of files) {
      await file.write(Buffer.from('new'));
      await file.close();
    }
    expect((await at.get('mem', 'deleted')).toString()).toBe('new');
    expect((await at.get('mem', 'renamed')).toString()).toBe('new');
    expect((await at.get('mem', 'elsewhere')).toString()).toBe('old');
  });

  test('of two that append, the last close wins: they do not see each other', async () => {
    const at = await open();
    await at.put('mem', 'k', Buffer.from('0'));
    const first = await openFile(at, 'k', { write: true, append: true });
    const second = await openFile(at, 'k', { write: true, append: true });
    await first.write(Buffer.from('1'));
    await second.write(Buffer.from('2'));
    await first.close();
    await second.close();
    expect((await at.get('mem', 'k')).toString()).toBe('02');
  });

  test('an owner that goes in the middle of a close leaves the whole object or none, and no staged bytes', async () => {
    const at = await open();
    for (let round = 0; round < 20; round++) {
      const owner = at.store.createOwner('leaving');
      const file = await openFile(at, 'k', { ...NEW, truncate: true }, owner);
      await file.write(bytes(300_000, round));
      const closing = codeOf(file.close({ ack: 'disk' }));
      for (let turn = 0; turn < round; turn++) await Promise.resolve();
      if (round % 2 === 0) await at.store.dropOwner(owner);
      else await file.abort();
      const code = await closing;
      const found = await at.store.find({ bucket: 'mem', key: 'k' });
      if (code === 'none') expect(await at.get('mem', 'k')).toEqual(bytes(300_000, round));
      if (found !== undefined) expect((await at.get('mem', 'k')).length).toBe(300_000);
    }
    // Nor a lease: the owners of the aborted files are still there, and nothing waits for them.
    await at.store.delete({ bucket: 'mem', key: 'k' });
    await vi.waitFor(async () => expect((await use(at)).slice(0, 2)).toEqual([0, 0]));
  });
});

describe('directories', () => {
  const list = async (at: TestStore, prefix: string): Promise<unknown> => {
    const page = await at.store.list('mem', { prefix, delimiter: '/', startAfter: '', limit: 100 });
    return [...page.objects.map(({ object }) => object.key), ...page.prefixes];
  };

  test('one that was made is listed while it is empty, and removed', async () => {
    const at = await open();
    await makeDirectory(at.store, at.owner, { bucket: 'mem', path: 'a' });
    await makeDirectory(at.store, at.owner, { bucket: 'mem', path: 'a/b/' });
    expect(await list(at, '')).toEqual(['a/']);
    expect(await list(at, 'a/')).toEqual(['a/', 'a/b/']);
    expect(await codeOf(makeDirectory(at.store, at.owner, { bucket: 'mem', path: 'a' }))).toBe(
      'already_exists',
    );
    expect(await codeOf(removeDirectory(at.store, { bucket: 'mem', path: 'a' }))).toBe(
      'directory_not_empty',
    );
    await removeDirectory(at.store, { bucket: 'mem', path: 'a/b' });
    await removeDirectory(at.store, { bucket: 'mem', path: 'a' });
    expect(await codeOf(removeDirectory(at.store, { bucket: 'mem', path: 'a' }))).toBe('not_found');
  });

  test('one that exists by its objects alone is not empty, cannot be made, and leaves its neighbour alone', async () => {
    const at = await open();
    await at.put('mem', 'a/x', bytes(1));
    await at.put('mem', 'ab', bytes(1));
    expect(await codeOf(makeDirectory(at.store, at.owner, { bucket: 'mem', path: 'a' }))).toBe(
      'already_exists',
    );
    expect(await codeOf(removeDirectory(at.store, { bucket: 'mem', path: 'a/' }))).toBe(
      'directory_not_empty',
    );
    expect(await codeOf(makeDirectory(at.store, at.owner, { bucket: 'mem', path: 'ab' }))).toBe(
      'already_exists',
    );
    await at.store.renamePrefix(
      { bucket: 'mem', prefix: 'a/' },
      { bucket: 'mem', prefix: 'c/' },
      { overwrite: false },
    );
    expect(await list(at, '')).toEqual(['ab', 'c/']);
  });
});
