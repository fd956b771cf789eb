/**
 * Encrypted buckets, through the whole store on real directories: what lies there is looked at, changed and cut, and
 * what readers get is compared.
 */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KiB, MiB } from '@ebb/protocol';
import {
  codeOf,
  openStoreInTest,
  reopen,
  type TestStore,
  type TestStoreOptions,
} from '@ebb/testkit';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { resolvePolicy } from '../placement/policy.ts';
import { FRAME_BYTES, frameStart, HEADER_BYTES, SEALED_FRAME_BYTES, sealedSize } from './frames.ts';
import { type Keyring, parseKeyring } from './keyring.ts';

const keyText = (): string => randomBytes(32).toString('base64');
const KEYS = [
  { id: 'k1', key: keyText() },
  { id: 'k2', key: keyText() },
];
const ring = (...keys: readonly { id: string; key: string }[]): Keyring =>
  parseKeyring(JSON.stringify(keys));
const K1 = ring(KEYS[0] as (typeof KEYS)[0]);

/** Buckets `enc` (disk), `men` (memory), `mir` (mirrored), all encrypted, and `plain`. */
async function open(options: TestStoreOptions = {}): Promise<TestStore> {
  const policy = { encrypted: true } as const;
  const buckets = {
    enc: resolvePolicy({ ...policy, mirror: false }),
    men: resolvePolicy({ ...policy, preset: 'ephemeral' }),
    mir: resolvePolicy({ ...policy, preset: 'durable' }),
    plain: resolvePolicy({ preset: 'durable' }),
  };
  return await openStoreInTest(buckets, { encryptionKeys: K1, ...options });
}

/** Every 16 bytes are a number behind at least nine tildes: each window of 16, wherever it begins, has five in a row. */
function marked(size: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(Math.ceil(size / 16) * 16);
  for (let at = 0; at < bytes.length; at += 16)
    bytes.write(
      `${(seed % 36).toString(36)}${(at / 16).toString(36).padStart(15, '~')}`,
      at,
      'latin1',
    );
  return bytes.subarray(0, size);
}

function filesUnder(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** Files that hold a window of 16 bytes of anything that `marked` made; by chance one in 2^40 does. */
function plainIn(directory: string): string[] {
  return filesUnder(directory).filter((file) => readFileSync(file).includes('~~~~~'));
}

/** Compares at the speed of memory; what differs is told by where. */
function expectSame(found: Buffer, wanted: Buffer, what = ''): void {
  if (found.equals(wanted)) return;
  const at = found.findIndex((byte, n) => byte !== wanted[n]);
  expect.fail(
    `${what} ${found.length} bytes for ${wanted.length}, which differ from byte ${at} on`,
  );
}

async function readRange(
  at: TestStore,
  bucket: string,
  key: string,
  from: number,
  to: number,
): Promise<Buffer> {
  const opened = await at.store.open(at.owner, { bucket, key }, { ranges: true });
  try {
    const target = Buffer.alloc(to - from);
    await at.store.read(at.owner, opened.leaseId, target, from);
    return target;
  } finally {
    at.store.release(at.owner, [opened.leaseId]);
  }
}

const diskFiles = (at: TestStore): string[] => filesUnder(join(at.root, 'disk', 'b'));
const onDiskOnly = async (at: TestStore, bucket: string, key: string): Promise<void> => {
  await at.store.relocate({ bucket, key }, 1);
};

describe('what lies in the tiers', () => {
  test('no 16 bytes of an object stand in any file of disk or tier 2, and reads give the object', async () => {
    const at = await open();
    const bytes = marked(300 * KiB + 5);
    for (const bucket of ['enc', 'men', 'mir']) await at.put(bucket, 'k', bytes);
    await at.store.relocate({ bucket: 'men', key: 'k' }, 1);
    await at.store.relocate({ bucket: 'enc', key: 'k' }, 2);
    expect(diskFiles(at).length).toBeGreaterThan(1);
    expect(filesUnder(join(at.root, 'remote')).length).toBeGreaterThan(1);
    expect(plainIn(join(at.root, 'disk'))).toEqual([]);
    expect(plainIn(join(at.root, 'remote'))).toEqual([]);
    for (const bucket of ['enc', 'men', 'mir']) expectSame(await at.get(bucket, 'k'), bytes);
    expect((await at.store.verify({})).broken).toEqual([]);
    // The search finds what is there.
    await at.put('plain', 'k', bytes);
    expect(plainIn(join(at.root, 'remote'))).toHaveLength(1);
  });

  test('from memory straight to tier 2, and back, with nothing left behind on the way', async () => {
    const at = await open();
    const bytes = marked(200 * KiB);
    await at.put('men', 'k', bytes);
    await at.store.relocate({ bucket: 'men', key: 'k' }, 2);
    expect(diskFiles(at)).toEqual([]);
    expect((await at.store.head({ bucket: 'men', key: 'k' })).tiers).toEqual([2]);
    expect(plainIn(join(at.root, 'remote'))).toEqual([]);
    expectSame(await at.get('men', 'k'), bytes);
    expect((await at.store.head({ bucket: 'men', key: 'k' })).tiers).toEqual([0, 2]);
    expect(diskFiles(at)).toEqual([]);
  });

  test('spilled by pressure, mirrored, evicted and read back', async () => {
    const at = await open({ memoryBytes: 4 * MiB, diskBytes: 6 * MiB });
    const objects = Array.from({ length: 12 }, (_, n) => marked(MiB - n, n + 1));
    for (const [n, bytes] of objects.entries()) await at.put('men', `k${n}`, bytes);
    for (const [n, bytes] of objects.entries()) expectSame(await at.get('men', `k${n}`), bytes);
    expect(filesUnder(join(at.root, 'remote')).length).toBeGreaterThan(0);
    expect((await at.store.verify({})).broken).toEqual([]);
    expect(plainIn(join(at.root, 'disk'))).toEqual([]);
    expect(plainIn(join(at.root, 'remote'))).toEqual([]);
  });

  test('a client is never given a file on disk', async () => {
    const at = await open();
    const bytes = marked(100 * KiB);
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'enc', key: 'a' },
      { reserveBytes: 10, tier: 1 },
    );
    expect(staged.tier).toBe(0);
    await at.store.abort(at.owner, staged.writeId);
    await at.put('enc', 'k', bytes);
    await onDiskOnly(at, 'enc', 'k');
    const opened = await at.store.open(at.owner, { bucket: 'enc', key: 'k' });
    expect(opened.extents.map(({ tier }) => tier)).toEqual([0]); // brought up for it
    at.store.release(at.owner, [opened.leaseId]);
    // Without room in memory it is read through the daemon.
    const small = await reopen(at, { memoryBytes: 4 * KiB, loseMemory: true });
    const again = await small.store.open(small.owner, { bucket: 'enc', key: 'k' });
    expect(again.extents).toMatchObject([{ tier: 2, path: '' }]);
    const target = Buffer.alloc(bytes.length);
    await small.store.read(small.owner, again.leaseId, target, 0);
    expect(target).toEqual(bytes);
  });

  test('parts that are joined, and ranges of them, read back from tier 2 alone', async () => {
    const at = await open();
    const parts = [marked(200 * KiB, 3), marked(70 * KiB + 1, 4)];
    for (const [n, part] of parts.entries()) await at.put('enc', `p${n}`, part);
    const sources = [
      { bucket: 'enc', key: 'p0' },
      { bucket: 'enc', key: 'p1', offset: 100, length: 66 * KiB },
    ];
    await at.store.compose({ bucket: 'mir', key: 'joined' }, sources, {});
    await at.store.relocate({ bucket: 'mir', key: 'joined' }, 2);
    const whole = Buffer.concat([
      parts[0] as Buffer,
      (parts[1] as Buffer).subarray(100, 100 + 66 * KiB),
    ]);
    expect(plainIn(join(at.root, 'remote'))).toEqual([]);
    const next = await reopen(at, { loseMemory: true });
    expectSame(await next.get('mir', 'joined'), whole);
    expectSame(
      await readRange(next, 'mir', 'joined', 199 * KiB, 202 * KiB),
      whole.subarray(199 * KiB, 202 * KiB),
    );
  });
});

test('ranges at every border of a frame are those of the plain bytes, from disk and from tier 2', async () => {
  const at = await open({ memoryBytes: 2 * MiB });
  const sizes = [1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, 9 * MiB + 7];
  for (const size of sizes.slice(0, -1)) {
    await at.put('enc', `disk${size}`, marked(size));
    await onDiskOnly(at, 'enc', `disk${size}`);
    await at.put('enc', `remote${size}`, marked(size));
    await at.store.relocate({ bucket: 'enc', key: `remote${size}` }, 2);
  }
  const next = await reopen(at, { memoryBytes: 32 * MiB });
  const large = sizes.at(-1) as number;
  await next.put('enc', `remote${large}`, marked(large));
  await next.store.relocate({ bucket: 'enc', key: `remote${large}` }, 2);
  const tiny = await reopen(next, { memoryBytes: 4 * KiB, loseMemory: true });
  const contents = new Map(sizes.map((size) => [size, marked(size)]));
  const border = fc
    .tuple(fc.nat(150), fc.integer({ min: -2, max: 2 }))
    .map(([frame, near]) => frame * FRAME_BYTES + near);
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...sizes),
      fc.constantFrom('disk', 'remote'),
      border,
      border,
      async (size, tier, a, b) => {
        const key = `${size === large ? 'remote' : tier}${size}`;
        const [from, to] = [a, b].map((n) => Math.min(Math.max(n, 0), size)).sort((x, y) => x - y);
        expectSame(
          await readRange(tiny, 'enc', key, from as number, to as number),
          (contents.get(size) as Buffer).subarray(from, to),
        );
      },
    ),
    { numRuns: 150 },
  );
});

describe('what was changed is found, and never read', () => {
  const SIZE = 3 * FRAME_BYTES + 100;

  /** One object on disk alone, in a store that cannot bring it to memory. */
  async function onDisk(): Promise<{ at: TestStore; file: string }> {
    const first = await open();
    await first.put('enc', 'k', marked(SIZE));
    await onDiskOnly(first, 'enc', 'k');
    const at = await reopen(first, { memoryBytes: 4 * KiB, loseMemory: true });
    const [file] = diskFiles(at);
    return { at, file: file as string };
  }

  test('a flipped bit anywhere: an error where it matters, the right bytes elsewhere', async () => {
    const { at, file } = await onDisk();
    const good = readFileSync(file);
    expect(good).toHaveLength(sealedSize(SIZE));
    const places = [
      0,
      9,
      15,
      21,
      37,
      41,
      48,
      50,
      60,
      113,
      125,
      160,
      HEADER_BYTES,
      frameStart(1) + 5,
    ];
    places.push(frameStart(2) - 1, frameStart(3), good.length - 1);
    for (const place of places) {
      const bad = Buffer.from(good);
      bad[place] = (bad[place] as number) ^ 1;
      writeFileSync(file, bad);
      const fresh = await at.crash();
      const code = await codeOf(fresh.get('enc', 'k'));
      expect(['data_corrupt', 'key_unavailable', 'version_unsupported'], `at ${place}`).toContain(
        code,
      );
      const { broken } = await fresh.store.verify({});
      expect(broken, `at ${place}`).toHaveLength(1);
      if (place >= HEADER_BYTES) {
        const frame = Math.floor((place - HEADER_BYTES) / SEALED_FRAME_BYTES);
        const other = (frame + 1) % 4;
        const [from, to] = [other * FRAME_BYTES, Math.min((other + 1) * FRAME_BYTES, SIZE)];
        expectSame(await readRange(fresh, 'enc', 'k', from, to), marked(SIZE).subarray(from, to));
      }
      Object.assign(at, fresh);
    }
    writeFileSync(file, good);
    expectSame(await at.get('enc', 'k'), marked(SIZE));
  });

  test('frames that were swapped, and a file cut at a frame', async () => {
    const { at, file } = await onDisk();
    const good = readFileSync(file);
    const bad = Buffer.from(good);
    good.copy(bad, frameStart(0), frameStart(1), frameStart(2));
    good.copy(bad, frameStart(1), frameStart(0), frameStart(1));
    writeFileSync(file, bad);
    expect(await codeOf(at.get('enc', 'k'))).toBe('data_corrupt');
    writeFileSync(file, good);
    truncateSync(file, frameStart(3));
    expect(await codeOf(at.get('enc', 'k'))).toBe('data_lost');
    const next = await reopen(at);
    expect(next.recovery.lostCopies).toBe(1);
    expect(await codeOf(next.get('enc', 'k'))).toBe('data_lost');
  });

  test('two whole files of one size that changed places', async () => {
    const first = await open();
    for (const n of [1, 2]) {
      await first.put('enc', `k${n}`, marked(SIZE, n));
      await onDiskOnly(first, 'enc', `k${n}`);
      await first.put('mir', `k${n}`, marked(SIZE, n));
      await first.store.relocate({ bucket: 'mir', key: `k${n}` }, 2);
    }
    const files = diskFiles(first);
    const [a, b] = files.map((file) => readFileSync(file));
    expect(files).toHaveLength(2);
    writeFileSync(files[0] as string, b as Buffer);
    writeFileSync(files[1] as string, a as Buffer);
    const at = await reopen(first, { memoryBytes: 4 * KiB, loseMemory: true });
    for (const n of [1, 2]) expect(await codeOf(at.get('enc', `k${n}`))).toBe('data_corrupt');
    expect((await at.store.verify({})).broken).toHaveLength(2);
  });

  test('a broken copy on disk is passed over while tier 2 has a good one', async () => {
    const first = await open();
    await first.put('mir', 'k', marked(SIZE));
    await onDiskOnly(first, 'mir', 'k');
    const [file] = diskFiles(first);
    const bad = readFileSync(file as string);
    bad[frameStart(1) + 9] = (bad[frameStart(1) + 9] as number) ^ 4;
    writeFileSync(file as string, bad);
    const at = await reopen(first, { memoryBytes: 4 * KiB, loseMemory: true });
    expectSame(await at.get('mir', 'k'), marked(SIZE));
  });
});

describe('keys', () => {
  test('without its key a node refuses by name of the key, and keeps the bytes', async () => {
    const at = await open();
    const bytes = marked(200 * KiB);
    await at.put('mir', 'k', bytes);
    await onDiskOnly(at, 'mir', 'k');
    const { encryptionKeys: _, ...without } = { encryptionKeys: K1 };
    for (const encryptionKeys of [
      ring(KEYS[1] as (typeof KEYS)[1]),
      ring({ id: 'k1', key: keyText() }),
    ]) {
      const other = await reopen(at, { ...without, encryptionKeys, loseMemory: true });
      const failure = await other.get('mir', 'k').catch((error: unknown) => error);
      expect(failure).toMatchObject({ code: 'key_unavailable', details: { keyId: 'k1' } });
      expect((await other.store.verify({})).broken.map(({ tier }) => tier)).toEqual([1, 2]);
      const location = await other.store.head({ bucket: 'mir', key: 'k' });
      const { blobId } = location.object.extents[0] as { blobId: number };
      await codeOf(other.store.resolve(blobId, bytes.length, { suspect: true }));
      expect((await other.store.head({ bucket: 'mir', key: 'k' })).tiers).toEqual([1, 2]);
      Object.assign(at, other);
    }
    const back = await reopen(at, { encryptionKeys: K1 });
    expectSame(await back.get('mir', 'k'), bytes);
  });

  test('after a rotation new writes use the new key, and both are read', async () => {
    const first = await open();
    await first.put('mir', 'old', marked(100 * KiB, 1));
    await onDiskOnly(first, 'mir', 'old');
    const [one, two] = KEYS as [(typeof KEYS)[0], (typeof KEYS)[0]];
    const at = await reopen(first, { encryptionKeys: ring(two, one), loseMemory: true });
    await at.put('mir', 'new', marked(100 * KiB, 2));
    await onDiskOnly(at, 'mir', 'new');
    expectSame(await at.get('mir', 'old'), marked(100 * KiB, 1));
    expectSame(await at.get('mir', 'new'), marked(100 * KiB, 2));
    const only = await reopen(at, { encryptionKeys: ring(two), loseMemory: true });
    expectSame(await only.get('mir', 'new'), marked(100 * KiB, 2));
    expect(await codeOf(only.get('mir', 'old'))).toBe('key_unavailable');
  });

  test('a node without keys makes no encrypted bucket', async () => {
    const at = await openStoreInTest({});
    expect(await codeOf(at.store.createBucket('enc', resolvePolicy({ encrypted: true })))).toBe(
      'key_unavailable',
    );
  });

  test('a key is in no error about the keys, and in nothing that the node wrote', async () => {
    const key = keyText();
    for (const text of [
      `[{"id":"a","key":"${key}`,
      `[{"id":"a b","key":"${key}"}]`,
      `{"key":"${key}"}`,
    ]) {
      const error = (() => {
        try {
          return parseKeyring(text);
        } catch (thrown) {
          return thrown;
        }
      })() as Error;
      expect(error).toMatchObject({ code: 'config_invalid' });
      expect(`${error.stack}${JSON.stringify(error)}`).not.toContain(key.slice(0, 8));
    }
    const at = await open();
    await at.put('mir', 'k', marked(70 * KiB));
    const raw = Buffer.from((KEYS[0] as (typeof KEYS)[0]).key, 'base64');
    for (const file of filesUnder(at.root)) {
      expect(readFileSync(file).includes(raw)).toBe(false);
      expect(readFileSync(file).includes((KEYS[0] as (typeof KEYS)[0]).key)).toBe(false);
    }
  });
});

describe('between buckets', () => {
  test('copies, joins and renames across encryption are written anew', async () => {
    const at = await open();
    const bytes = marked(150 * KiB);
    await at.put('plain', 'a', bytes, { contentType: 'text/x', metadata: { m: '1' } });
    const copied = await at.store.copy({ bucket: 'plain', key: 'a' }, { bucket: 'enc', key: 'b' });
    expect(copied.object).toMatchObject({ contentType: 'text/x', metadata: { m: '1' } });
    expect(plainIn(join(at.root, 'disk'))).toHaveLength(1); // of `plain` alone
    await at.store.rename({ bucket: 'plain', key: 'a' }, { bucket: 'mir', key: 'c' });
    expect(await codeOf(at.store.head({ bucket: 'plain', key: 'a' }))).toBe('not_found');
    expect(plainIn(join(at.root, 'disk'))).toEqual([]);
    const sources = [
      { bucket: 'enc', key: 'b', offset: 10, length: 100 },
      { bucket: 'mir', key: 'c', consume: true },
    ];
    await at.store.compose({ bucket: 'plain', key: 'd' }, sources, {});
    expectSame(await at.get('plain', 'd'), Buffer.concat([bytes.subarray(10, 110), bytes]));
    expect(await codeOf(at.store.head({ bucket: 'mir', key: 'c' }))).toBe('not_found');
    expect(
      await codeOf(
        at.store.copy(
          { bucket: 'enc', key: 'b' },
          { bucket: 'plain', key: 'd' },
          { ifNoneMatch: true },
        ),
      ),
    ).toBe('already_exists');
    const prefixes = [
      { bucket: 'enc', prefix: '' },
      { bucket: 'plain', prefix: 'x/' },
    ] as const;
    expect(await codeOf(at.store.renamePrefix(...prefixes, { overwrite: false }))).toBe(
      'unsupported',
    );
    expect((await at.store.verify({})).broken).toEqual([]);
  });

  test('within encryption blobs are shared, and a copy in tier 2 stays readable', async () => {
    const at = await open();
    const bytes = marked(150 * KiB);
    await at.put('mir', 'a', bytes);
    await at.store.relocate({ bucket: 'mir', key: 'a' }, 2);
    await at.store.copy({ bucket: 'mir', key: 'a' }, { bucket: 'mir', key: 'b' });
    await at.put('mir', 'a', marked(10));
    const next = await reopen(at, { loseMemory: true });
    expectSame(await next.get('mir', 'b'), bytes);
    expect((await next.store.verify({})).broken).toEqual([]);
  });

  test('whether a bucket is encrypted changes while it is empty, and not later', async () => {
    const at = await open();
    await at.store.setEncrypted('plain', true);
    await at.put('plain', 'k', marked(1000));
    expect(plainIn(join(at.root, 'remote'))).toEqual([]);
    expect(await codeOf(at.store.setEncrypted('plain', false))).toBe('bucket_not_empty');
    const staged = await at.store.stage(
      at.owner,
      { bucket: 'enc', key: 'k' },
      { reserveBytes: 10 },
    );
    await at.store.write(at.owner, staged.writeId, Buffer.alloc(10), 0);
    await at.store.setEncrypted('enc', false);
    expect(await codeOf(at.store.commit(at.owner, staged.writeId, { sizeBytes: 10 }))).toBe(
      'precondition_failed',
    );
  });

  test('old versions and uploads are encrypted as their bucket', async () => {
    const at = await open();
    await at.store.setVersioning('enc', 'enabled');
    await at.put('enc', 'k', marked(100 * KiB, 1));
    await at.put('enc', 'k', marked(100 * KiB, 2));
    const uploads = await at.store.uploadsOf('enc');
    await at.put(uploads, 'part', marked(100 * KiB, 3));
    expect(plainIn(join(at.root, 'disk'))).toEqual([]);
    expect(diskFiles(at)).toHaveLength(3);
  });
});

test('an encrypted object is edited as a file', async () => {
  const at = await open();
  const bytes = marked(2 * MiB);
  await at.put('enc', 'k', bytes);
  await onDiskOnly(at, 'enc', 'k');
  const file = await at.store.files.open(at.owner, { bucket: 'enc', key: 'k' }, { write: true });
  await at.store.files.write(at.owner, file.fileId, Buffer.from('changed'), MiB);
  await at.store.files.close(at.owner, file.fileId, {});
  Buffer.from('changed').copy(bytes, MiB);
  await onDiskOnly(at, 'enc', 'k');
  expectSame(await at.get('enc', 'k'), bytes);
  expect(plainIn(join(at.root, 'disk'))).toEqual([]);
});

test('crashes between any steps leave what was acknowledged, and no plain bytes', async () => {
  let at = await open({ memoryBytes: 3 * MiB, diskBytes: 8 * MiB });
  const known = new Map<string, Buffer>();
  for (let round = 0; round < 8; round++) {
    const writes = Array.from({ length: 4 }, async (_, n) => {
      const bytes = marked(200 * KiB + round, round * 4 + n);
      const bucket = n % 2 === 0 ? 'enc' : 'mir';
      await at.put(bucket, `k${round}-${n}`, bytes);
      known.set(`${bucket}/k${round}-${n}`, bytes);
    });
    // Some rounds end in the middle of it.
    await (round % 2 === 0 ? Promise.allSettled(writes) : Promise.race(writes));
    const settled = Promise.allSettled(writes);
    at = await reopen(at, { loseMemory: round % 3 === 0 });
    await settled;
    for (const [name, bytes] of known) {
      const [bucket, key] = name.split('/') as [string, string];
      expectSame(await at.get(bucket, key), bytes, name);
    }
  }
  expect(plainIn(join(at.root, 'disk'))).toEqual([]);
});

test('sync takes in what a key of this node opens, and refuses what others put under an encrypted bucket', async () => {
  const at = await open();
  const bytes = marked(150 * KiB);
  await at.put('mir', 'a', bytes);
  await at.store.relocate({ bucket: 'mir', key: 'a' }, 2);
  await at.tiers.remote.copy('mir/a', 'mir/again', {
    offset: 0,
    length: statSync(join(at.root, 'remote', 'mir', 'a')).size,
  });
  writeFileSync(join(at.root, 'remote', 'mir', 'foreign'), marked(1000));
  const report = await at.store.sync('mir', '', { remove: false });
  expect(report).toMatchObject({ added: 1, refused: [{ key: 'foreign' }] });
  expectSame(await at.get('mir', 'again'), bytes);
  expect(await codeOf(at.get('mir', 'foreign'))).toBe('not_found');
});

test('the stand-alone program decrypts objects of tier 2', async () => {
  const at = await open();
  const bytes = marked(150 * KiB);
  await at.put('mir', 'a', bytes);
  const sources = [0, 1].map(() => ({ bucket: 'mir', key: 'a' }));
  await at.store.compose({ bucket: 'mir', key: 'twice' }, sources, {});
  const keys = join(at.root, 'keys.json');
  writeFileSync(keys, JSON.stringify(KEYS));
  const script = join(import.meta.dirname, '../../../../scripts/decrypt.mjs');
  const decrypt = (file: string): Buffer =>
    execFileSync(process.execPath, [script, keys, file], {
      maxBuffer: 4 * MiB,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  expect(decrypt(join(at.root, 'remote', 'mir', 'a'))).toEqual(bytes);
  const twice = join(at.root, 'remote', 'mir', 'twice');
  expect(decrypt(twice)).toEqual(Buffer.concat([bytes, bytes]));
  const bad = readFileSync(twice);
  bad[bad.length - 20] = (bad.at(-20) as number) ^ 1;
  writeFileSync(twice, bad);
  expect(() => decrypt(twice)).toThrow('does not open');
});
