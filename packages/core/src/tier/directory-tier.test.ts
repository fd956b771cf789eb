import { spawnSync } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { existsSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { link, mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import type { Worker } from 'node:worker_threads';
import { StoreError } from '@ebb/protocol';
import { bytesOf, putFile, remoteTierConformance, smallTmpfs, tempDir } from '@ebb/testkit';
import { afterAll, expect, onTestFinished, test, vi } from 'vitest';
import { crc32c } from '../checksum.ts';
import { type DirectoryFs, nodeDirectoryFs } from './directory-fs.ts';
import { type DirectoryTierOptions, openDirectoryTier } from './directory-tier.ts';
import { createMover } from './mover.ts';
import { type MoverRequest, MoverTasks } from './mover-tasks.ts';
import { PatientCalls } from './patient-calls.ts';
import { nodePublishCalls, type PublishCalls } from './publish.ts';
import type { Mover, RemoteTier } from './tier.ts';

const mover = createMover();
afterAll(async () => await mover.close());

remoteTierConformance('directory-tier', {
  open: async () => await openDirectoryTier({ root: await tempDir(), nodeId: 'node-1', mover }),
});

async function openTier(
  options: Partial<DirectoryTierOptions> & { root: string },
): Promise<RemoteTier> {
  const given = { nodeId: 'node-1', mover, ...options };
  const tier = await openDirectoryTier(given);
  onTestFinished(async () => await tier.close());
  return tier;
}

const content = bytesOf(1000, 1);
const facts = { sizeBytes: content.length, crc32c: crc32c(content) };

async function localFile(bytes: Uint8Array = content): Promise<string> {
  const file = join(await tempDir(), 'local');
  await writeFile(file, bytes);
  return file;
}

/** All that is below, directories with a `/`; the place for temporary files left out, but not what is in it. */
function everythingIn(root: string): readonly string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .map(
      (entry) =>
        relative(root, join(entry.parentPath, entry.name)) + (entry.isDirectory() ? '/' : ''),
    )
    .filter((path) => path !== '.ebb-tmp/' && path !== '.ebb-tmp/node-1/')
    .sort();
}

test('an object is a plain file under its own name, for any other tool', async () => {
  const root = await tempDir();
  const tier = await openTier({ root });
  await putFile(tier, 'bucket/a/b.bin', await localFile(), facts);
  expect(everythingIn(root)).toEqual(['bucket/', 'bucket/a/', 'bucket/a/b.bin']);
  expect((await readFile(join(root, 'bucket/a/b.bin'))).equals(content)).toBe(true);
  expect(tier.location).toBe(`file://${root}`);
});

test('deleting takes away directories that became empty, and no others', async () => {
  const root = await tempDir();
  const tier = await openTier({ root });
  for (const name of ['k/a/b/c', 'k/a/d']) await putFile(tier, name, await localFile(), facts);
  await tier.delete('k/a/b/c');
  expect(everythingIn(root)).toEqual(['k/', 'k/a/', 'k/a/d']);
  await tier.delete('k/a/d');
  expect(everythingIn(root)).toEqual([]);
});

test('a directory deeper than any path of the system is passed over, and what lies beside it is listed', async () => {
  const root = await tempDir();
  const tier = await openTier({ root });
  await putFile(tier, 'k/z', await localFile(), facts);
  const deep = Array.from({ length: 10 }, () => 'd'.repeat(250)).join('/');
  const [above, below] = [join(root, 'k', deep), join(await tempDir(), deep)];
  for (const directory of [above, below]) await mkdir(directory, { recursive: true });
  await writeFile(join(above, 'file'), '');
  const [top, moved] = [below.slice(0, -deep.length), join(above, 'moved')];
  await rename(join(top, 'd'.repeat(250)), moved);
  const names: string[] = [];
  try {
    for await (const { name } of tier.list('')) names.push(name);
  } finally {
    await rename(moved, join(top, 'd'.repeat(250))); // else nothing removes it
  }
  expect(names.sort()).toEqual([`k/${deep}/file`, 'k/z']);
});

test.each(['is not there', 'is empty, as a place where nothing is mounted'])(
  'a known directory that %s is away: nothing is made there, and it is back when it is mounted',
  async (how) => {
    const parent = await tempDir();
    const [root, kept] = [join(parent, 'remote'), join(parent, 'kept')];
    await putFile(await openTier({ root }), 'k/a', await localFile(), facts);
    await rename(root, kept);
    if (how !== 'is not there') await mkdir(root);
    const tier = await openTier({ root, isKnown: true });
    const away = { code: 'io_failed', message: expect.stringContaining('mounted') as string };
    await expect(tier.head('k/a')).rejects.toMatchObject(away);
    await expect(tier.read('k/a', Buffer.alloc(4), 0)).rejects.toMatchObject(away);
    await expect(putFile(tier, 'k/b', await localFile(), facts)).rejects.toMatchObject(away);
    await expect(tier.delete('k/a')).rejects.toMatchObject(away);
    expect(how === 'is not there' ? readdirSync(parent) : readdirSync(root)).toEqual(
      how === 'is not there' ? ['kept'] : [],
    );
    if (how !== 'is not there') rmdirSync(root);
    await rename(kept, root);
    expect((await tier.head('k/a'))?.sizeBytes).toBe(content.length);
    await putFile(tier, 'k/b', await localFile(), facts);
    await tier.delete('k/a');
    expect(everythingIn(root)).toEqual(['k/', 'k/b']);
  },
);

/** Calls of which none is answered until `answer`. */
function silentCalls(): { calls: PatientCalls; answer: () => void } {
  const calls = new PatientCalls({ atOnce: 1, patienceMs: 50 });
  const { promise, resolve } = Promise.withResolvers<void>();
  void calls.call('hanging', () => promise, { within: true });
  return { calls, answer: resolve };
}

test('a directory that does not answer at the start is opened all the same, and made and used when it does', async () => {
  const root = join(await tempDir(), 'remote');
  const { calls, answer } = silentCalls();
  const tier = await openTier({ root, calls, openMs: 10 });
  const silent = { code: 'io_failed', message: expect.stringContaining('answer') as string };
  await expect(tier.head('k/a')).rejects.toMatchObject(silent);
  await expect(tier.delete('k/a')).rejects.toMatchObject(silent);
  await expect(putFile(tier, 'k/a', await localFile(), facts)).rejects.toMatchObject(silent);
  expect(existsSync(root)).toBe(false);
  answer();
  await putFile(tier, 'k/a', await localFile(), facts);
  expect(everythingIn(root)).toEqual(['k/', 'k/a']);
});

test('what an earlier life left in a directory that is mounted late fails no put, and goes', async () => {
  const parent = await tempDir();
  const [root, kept] = [join(parent, 'remote'), join(parent, 'kept')];
  await openTier({ root });
  await writeFile(join(root, '.ebb-tmp/node-1/1'), 'half');
  await writeFile(join(root, '.ebb-tmp/node-1/2'), 'half');
  await rename(root, kept);
  const tier = await openTier({ root, isKnown: true });
  await expect(tier.head('k/a')).rejects.toMatchObject({ code: 'io_failed' });
  await rename(kept, root);
  const file = await localFile();
  await Promise.all(
    ['k/a', 'k/b', 'k/c'].map(async (name) => await putFile(tier, name, file, facts)),
  );
  expect(everythingIn(root)).toEqual(['k/', 'k/a', 'k/b', 'k/c']);
});

test('after any failed put there is neither a temporary file nor an empty directory', async () => {
  const root = await tempDir();
  const tier = await openTier({ root });
  const file = await localFile();
  const wrong = { ...facts, crc32c: 1 };
  await expect(putFile(tier, 'k/a/b', file, wrong)).rejects.toMatchObject({ code: 'data_corrupt' });
  const longer = { ...facts, sizeBytes: 1001 };
  await expect(putFile(tier, 'k/a/b', file, longer)).rejects.toMatchObject({ code: 'data_lost' });
  const aborted = { ...facts, signal: AbortSignal.abort() };
  await expect(putFile(tier, 'k/a/b', file, aborted)).rejects.toMatchObject({ code: 'aborted' });
  expect(everythingIn(root)).toEqual([]);
});

/** The message of an error with which the worker dies. */
const KILLED = 'killed';

/** A mover that publishes on this thread, by these calls. */
function publishingBy(calls: PublishCalls): Mover {
  const tasks = new MoverTasks(
    {
      ...{ bufferBytes: 1024, syncEveryBytes: 4096 },
      ...{ cancel: new SharedArrayBuffer(16), lastStep: new SharedArrayBuffer(8) },
    },
    calls,
  );
  const here = createMover({ startWorker: () => new WorkerHere(tasks) as unknown as Worker });
  onTestFinished(async () => await here.close());
  return { ...mover, publish: here.publish };
}

/** A mover that does something else before each file that it publishes. */
function publishingAfter(work: () => Promise<void>): Mover {
  const publish: Mover['publish'] = async (request) => {
    await work();
    return await mover.publish(request);
  };
  return { ...mover, publish };
}

class WorkerHere extends EventEmitter {
  readonly #tasks: MoverTasks;
  constructor(tasks: MoverTasks) {
    super();
    this.#tasks = tasks;
  }
  postMessage(request: MoverRequest): void {
    setImmediate(() => {
      const reply = this.#tasks.answer(request);
      if ('failed' in reply && reply.message === KILLED) this.emit('exit', 1);
      else this.emit('message', reply);
    });
  }
  ref(): void {}
  unref(): void {}
  async terminate(): Promise<void> {}
}

for (const call of [
  'createFile',
  'syncFile',
  'makeDirectory',
  'rename',
  'syncDirectory',
] as const) {
  test(`when ${call} fails, put fails and leaves nothing, and works when tried again`, async () => {
    const root = await tempDir();
    let fail = true;
    const calls: PublishCalls = {
      ...nodePublishCalls,
      [call]: (...args: [never, never]) => {
        if (fail) throw Object.assign(new Error('EIO: the disk is sad'), { code: 'EIO' });
        return nodePublishCalls[call](...args);
      },
    };
    const tier = await openTier({ root, mover: publishingBy(calls) });
    const putting = putFile(tier, 'k/a/b', await localFile(), facts);
    await expect(putting).rejects.toMatchObject({ code: 'io_failed', details: { errno: 'EIO' } });
    expect(everythingIn(root)).toEqual([]);
    fail = false;
    await putFile(tier, 'k/a/b', await localFile(), facts);
    expect(everythingIn(root)).toEqual(['k/', 'k/a/', 'k/a/b']);
  });
}

test('what stands in the way of a put makes it name_invalid, so that the fallback name is taken', async () => {
  const root = await tempDir();
  let before: (() => Promise<void>) | undefined;
  const slowMover = publishingAfter(async () => await before?.());
  const tier = await openTier({ root, mover: slowMover });
  const file = await localFile();
  before = async () => {
    await mkdir(join(root, 'k'));
    await writeFile(join(root, 'k/a'), 'in the way');
  };
  await expect(putFile(tier, 'k/a/b', file, facts)).rejects.toMatchObject({ code: 'name_invalid' });
  before = async () => {
    await mkdir(join(root, 'k/dir'));
    await writeFile(join(root, 'k/dir/b'), 'in the way');
  };
  await expect(putFile(tier, 'k/dir', file, facts)).rejects.toMatchObject({ code: 'name_invalid' });
  expect(everythingIn(root)).toEqual(['k/', 'k/a', 'k/dir/', 'k/dir/b']);
  before = undefined;
});

test('a directory that a delete takes away under a put is made again', async () => {
  const root = await tempDir();
  let raced = 0;
  const calls: PublishCalls = {
    ...nodePublishCalls,
    rename: (from, to) => {
      raced++;
      if (raced <= 2) rmdirSync(join(root, 'k/a'));
      nodePublishCalls.rename(from, to);
    },
  };
  const tier = await openTier({ root, mover: publishingBy(calls) });
  await putFile(tier, 'k/a/b', await localFile(), facts);
  expect(raced).toBe(3);
  expect(everythingIn(root)).toEqual(['k/', 'k/a/', 'k/a/b']);
});

test('directories that another node took away are made again, and synced up to the root', async () => {
  const root = await tempDir();
  const synced: string[] = [];
  const calls: PublishCalls = {
    ...nodePublishCalls,
    syncDirectory: (path) => {
      synced.push(`/${relative(root, path)}`);
      nodePublishCalls.syncDirectory(path);
    },
  };
  const tier = await openTier({ root, mover: publishingBy(calls) });
  await putFile(tier, 'k/a/b', await localFile(), facts);
  const other = await openTier({ root, nodeId: 'node-2' });
  await other.delete('k/a/b');
  expect(everythingIn(root)).toEqual(['.ebb-tmp/node-2/']);
  synced.length = 0;
  await putFile(tier, 'k/a/c', await localFile(), facts);
  expect(synced).toEqual(['/k/a', '/k', '/']);
});

test.each([
  {
    what: 'whose directories could not be synced',
    error: Object.assign(new Error('EIO: the disk is sad'), { code: 'EIO' }),
  },
  {
    what: 'of which a sync had no answer',
    error: new StoreError('io_failed', 'no answer', { patienceMs: 30_000 }),
  },
])('a name $what in the end is taken back', async ({ error }) => {
  const root = await tempDir();
  let isFailing = false;
  let before = async (): Promise<void> => undefined;
  const slow = publishingAfter(() => before());
  const fs: DirectoryFs = {
    ...nodeDirectoryFs,
    syncDirectory: async (path) => {
      if (isFailing) throw error;
      await nodeDirectoryFs.syncDirectory(path);
    },
  };
  const tier = await openTier({ root, fs, mover: slow });
  await putFile(tier, 'k/a/b', await localFile(), facts);
  before = async () => {
    await tier.delete('k/a/b'); // takes the directories along, which the put relied on
    isFailing = true;
  };
  const putting = putFile(tier, 'k/a/c', await localFile(), facts);
  await expect(putting).rejects.toMatchObject({ code: 'io_failed' });
  expect(everythingIn(root)).toEqual([]);
});

test('an error of a put says once what it was about', async () => {
  const root = await tempDir();
  const calls = new PatientCalls({ patienceMs: 20 });
  const tier = await openTier({ root, calls });
  const { promise, resolve } = Promise.withResolvers<void>();
  await calls.during(join(root, 'k/a'), 'changing k/a', () => promise).catch(() => undefined);
  const error: unknown = await putFile(tier, 'k/a', await localFile(), facts).catch(
    (caught: unknown) => caught,
  );
  expect((error as Error).message.match(/putting k\/a into tier 2/g)).toHaveLength(1);
  resolve();
});

test('a copy whose source is replaced while it waits for the mover is refused', async () => {
  const root = await tempDir();
  let before = async (): Promise<void> => undefined;
  const slow = publishingAfter(() => before());
  const tier = await openTier({ root, mover: slow });
  const { etag } = await putFile(tier, 'k/from', await localFile(), facts);
  before = async () => {
    await writeFile(join(root, 'theirs'), bytesOf(content.length, 9));
    await rename(join(root, 'theirs'), join(root, 'k/from'));
  };
  const run = { offset: 0, length: content.length, etag };
  await expect(tier.copy('k/from', 'k/to', run)).rejects.toMatchObject({
    code: 'precondition_failed',
  });
  expect(everythingIn(root)).toEqual(['k/', 'k/from']);
});

test('a file that others replace, write in place or cut off before it is fetched is refused, and not taken for the old one', async () => {
  const root = await tempDir();
  const path = join(root, 'k/a');
  let before = async (): Promise<void> => undefined;
  const copy: Mover['copy'] = async (job) => {
    await before();
    return await mover.copy(job);
  };
  const tier = await openTier({ root, mover: { ...mover, copy } });
  const theirs = bytesOf(content.length, 9);
  for (const change of [
    async () => {
      await writeFile(join(root, 'theirs'), theirs);
      await rename(join(root, 'theirs'), path);
    },
    async () => await writeFile(path, theirs, { flag: 'r+' }),
    async () => await writeFile(path, theirs.subarray(0, 10)),
  ]) {
    const { etag } = await putFile(tier, 'k/a', await localFile(), facts);
    before = change;
    const run = { offset: 0, length: content.length, crc32c: null, etag };
    await expect(tier.fetch('k/a', await localFile(), run)).rejects.toMatchObject({
      code: 'precondition_failed',
      details: { name: 'k/a', expected: etag },
    });
  }
});

for (const bytes of [bytesOf(content.length, 9), Buffer.alloc(10)])
  test(`a file that others overwrite with ${bytes.length} bytes while it is read is refused`, async () => {
    const root = await tempDir();
    const tier = await openTier({ root });
    const { etag } = await putFile(tier, 'k/a', await localFile(), facts);
    let looks = 0;
    const signal = Object.defineProperty(new AbortController().signal, 'aborted', {
      get: () => {
        looks++;
        // The second look is right before the first byte.
        const flag = bytes.length < content.length ? 'w' : 'r+';
        if (looks === 2) writeFileSync(join(root, 'k/a'), bytes, { flag });
        return false;
      },
    });
    const reading = tier.read('k/a', Buffer.alloc(content.length), 0, { etag, signal });
    await expect(reading).rejects.toMatchObject({ code: 'precondition_failed' });
  });

test('a file that others write in place while it is fetched is refused', async () => {
  const root = await tempDir();
  const tier = await openTier({ root });
  const { etag } = await putFile(tier, 'k/a', await localFile(), facts);
  const same = join(root, 'same'); // each byte that is fetched is written into the file itself
  await link(join(root, 'k/a'), same);
  const run = { offset: 0, length: content.length, crc32c: null, etag };
  await expect(tier.fetch('k/a', same, run)).rejects.toMatchObject({ code: 'precondition_failed' });
});

test('a worker that dies while it fills a file leaves none', async () => {
  const root = await tempDir();
  let dies = true;
  const calls: PublishCalls = {
    ...nodePublishCalls,
    syncFile: (fd) => {
      if (dies) throw new Error(KILLED);
      nodePublishCalls.syncFile(fd);
    },
    unlink: () => undefined, // a dead one removes nothing
  };
  const tier = await openTier({ root, mover: publishingBy(calls) });
  const putting = putFile(tier, 'k/a/b', await localFile(), facts);
  await expect(putting).rejects.toMatchObject({ code: 'io_failed' });
  expect(everythingIn(root)).toEqual([]);
  dies = false;
  await putFile(tier, 'k/a/b', await localFile(), facts);
});

test('what is there under the name of a temporary file is no conflict of the object, and stays', async () => {
  const root = await tempDir();
  const tier = await openTier({ root });
  await writeFile(join(root, '.ebb-tmp/node-1/1'), 'theirs');
  const first = putFile(tier, 'k/a', await localFile(), facts);
  await expect(first).rejects.toMatchObject({ code: 'io_failed', details: { errno: 'EAGAIN' } });
  await putFile(tier, 'k/a', await localFile(), facts);
  expect(everythingIn(root)).toEqual(['.ebb-tmp/node-1/1', 'k/', 'k/a']);
});

test('a deletion leaves what others put under the names of temporary files, and goes on', async () => {
  const root = await tempDir();
  const tier = await openTier({ root });
  const [directory, file] = [join(root, '.ebb-tmp/node-1/2'), join(root, '.ebb-tmp/node-1/3')];
  const { etag } = await putFile(tier, 'k/a', await localFile(), facts);
  await mkdir(directory);
  await writeFile(file, 'theirs');
  await tier.delete('k/a', { etag });
  expect(everythingIn(root)).toEqual(['.ebb-tmp/node-1/2/', '.ebb-tmp/node-1/3']);
  expect(await readFile(file, 'utf8')).toBe('theirs');
});

test('a name that could not be taken away is not taken for one that is gone', async () => {
  const root = await tempDir();
  const fs: DirectoryFs = {
    ...nodeDirectoryFs,
    rename: async (from, to) => {
      await mkdir(to); // others were faster
      await nodeDirectoryFs.rename(from, to);
    },
  };
  const tier = await openTier({ root, fs });
  const { etag } = await putFile(tier, 'k/a', await localFile(), facts);
  await expect(tier.delete('k/a', { etag })).rejects.toMatchObject({
    code: 'io_failed',
    details: { errno: 'EISDIR' },
  });
  expect((await tier.head('k/a'))?.etag).toBe(etag);
});

test('no name and no link leads outside the root, for any method', async () => {
  const outside = await tempDir();
  await writeFile(join(outside, 'secret'), 'secret');
  const root = join(outside, 'root');
  const tier = await openTier({ root });
  await mkdir(join(root, 'k'));
  await symlink(outside, join(root, 'k/out'));
  await symlink(join(outside, 'secret'), join(root, 'k/link'));
  const file = await localFile();
  const target = Buffer.alloc(6);
  for (const name of [
    '../secret',
    'k/../../secret',
    'k/out/secret',
    'k/link',
    '.ebb-tmp/node-1/x',
    '/secret',
  ]) {
    await expect(putFile(tier, name, file, facts)).rejects.toMatchObject({ code: 'name_invalid' });
    await expect(tier.read(name, target, 0)).rejects.toHaveProperty('code');
    await expect(
      tier.fetch(name, file, { offset: 0, length: 6, crc32c: 0 }),
    ).rejects.toHaveProperty('code');
    expect(await tier.head(name).catch(() => undefined)).toBeUndefined();
    if (name !== 'k/link') await tier.delete(name).catch(() => undefined);
  }
  expect(target.equals(Buffer.alloc(6))).toBe(true);
  expect(readFileSync(join(outside, 'secret'), 'utf8')).toBe('secret');
  for (const prefix of ['', '../', 'k/', 'k/out/']) {
    const listing = (async () => {
      const names: string[] = [];
      for await (const { name } of tier.list(prefix)) names.push(name);
      return names;
    })();
    expect(await listing.catch(() => [])).toEqual([]);
  }
});

test('a pipe that others put in the place of an object keeps nobody waiting', async () => {
  const root = await tempDir();
  const tier = await openTier({ root });
  await mkdir(join(root, 'k'));
  expect(spawnSync('mkfifo', [join(root, 'k/pipe')]).status).toBe(0);
  const etag = 'whatever';
  await expect(tier.read('k/pipe', Buffer.alloc(10), 0)).rejects.toMatchObject({
    code: 'data_lost',
  });
  const target = join(root, 'target');
  await writeFile(target, '');
  const run = { offset: 0, length: 10, crc32c: null, etag };
  await expect(tier.fetch('k/pipe', target, run)).rejects.toBeInstanceOf(StoreError);
  expect(await tier.head('k/pipe')).toBeUndefined();
}, 60_000);

test('a file of the mover that is a pipe keeps nobody waiting', async () => {
  const root = await tempDir();
  expect(spawnSync('mkfifo', [join(root, 'pipe')]).status).toBe(0);
  await writeFile(join(root, 'to'), '');
  const copy = { from: join(root, 'pipe'), to: join(root, 'to'), sizeBytes: 10, sync: false };
  await expect(mover.copy(copy)).rejects.toBeInstanceOf(StoreError);
}, 60_000);

test('temporary files of a crash are removed at the next start, those of another node are not', async () => {
  const root = await tempDir();
  await openTier({ root });
  await openTier({ root, nodeId: 'node-2' });
  await writeFile(join(root, '.ebb-tmp/node-1/7'), 'half');
  await writeFile(join(root, '.ebb-tmp/node-2/7'), 'half');
  const tier = await openTier({ root });
  expect(readdirSync(join(root, '.ebb-tmp/node-1'))).toEqual([]);
  expect(readdirSync(join(root, '.ebb-tmp/node-2'))).toEqual(['7']);
  await putFile(tier, 'k/a', await localFile(), facts);
});

test('a link where the temporary files of a node lie is refused, and what lies behind it stays', async () => {
  const victim = await tempDir();
  await writeFile(join(victim, '7'), 'precious');
  for (const link of ['.ebb-tmp', '.ebb-tmp/node-1']) {
    const root = await tempDir();
    if (link !== '.ebb-tmp') await mkdir(join(root, '.ebb-tmp'));
    if (link === '.ebb-tmp') await mkdir(join(victim, 'node-1'));
    await writeFile(join(victim, 'node-1/7'), 'precious');
    await symlink(victim, join(root, link));
    await expect(openTier({ root })).rejects.toMatchObject({ code: 'config_invalid' });
    expect(readdirSync(victim).sort()).toEqual(['7', 'node-1']);
    expect(readdirSync(join(victim, 'node-1'))).toEqual(['7']);
  }
});

test('a full file system is tier_full and leaves nothing', async () => {
  const root = await smallTmpfs(1024 * 1024);
  if (root === undefined) return;
  const tier = await openTier({ root });
  const large = bytesOf(2 * 1024 * 1024, 1);
  const putting = putFile(tier, 'k/a', await localFile(large), {
    sizeBytes: large.length,
    crc32c: crc32c(large),
  });
  await expect(putting).rejects.toMatchObject({ code: 'tier_full' });
  expect(everythingIn(root)).toEqual([]);
  await putFile(tier, 'k/a', await localFile(), facts);
});

/** Writes down what is done to the tier, in order, and then does it. */
async function tracedTier(): Promise<{ tier: RemoteTier; trace: string[] }> {
  const root = await tempDir();
  const trace: string[] = [];
  const short = (path: string): string =>
    path.startsWith(root) ? `/${relative(root, path)}` : '<local file>';
  const traced =
    <A extends string[]>(name: string, call: (...paths: A) => Promise<void>) =>
    async (...paths: A): Promise<void> => {
      const line = trace.push(`${name} ${paths.map(short).join(' -> ')}`) - 1;
      try {
        await call(...paths);
      } catch (error) {
        trace[line] += `: ${(error as { code?: string }).code}`;
        throw error;
      }
    };
  const fs = Object.fromEntries(
    Object.entries(nodeDirectoryFs).map(([name, call]) => [name, traced(name, call)]),
  ) as unknown as DirectoryFs;
  const tracedNow =
    <A extends (string | number)[], R>(name: string, call: (...args: A) => R) =>
    (...args: A): R => {
      const shown = args.map((arg) => (typeof arg === 'string' ? short(arg) : '<temporary file>'));
      trace.push(`${name} ${shown.join(' -> ')}`);
      return call(...args);
    };
  const calls = Object.fromEntries(
    Object.entries(nodePublishCalls).map(([name, call]) => [name, tracedNow(name, call)]),
  ) as unknown as PublishCalls;
  const tier = await openTier({
    root,
    fs,
    mover: {
      ...publishingBy(calls),
      copy: async (options) => {
        trace.push(
          `copy ${short(options.from)} -> ${short(options.to)}${options.sync ? ', fdatasync' : ''}`,
        );
        return await mover.copy(options);
      },
    },
  });
  return { tier, trace };
}

test('put writes, verifies, syncs and only then shows the name; delete syncs what stays', async () => {
  const { tier, trace } = await tracedTier();
  const step = async (title: string, work: () => Promise<unknown>): Promise<void> => {
    trace.push(`# ${title}`);
    await work();
  };
  const file = await localFile();
  await step(
    'put bucket/a/b: the first in its directories',
    async () => await putFile(tier, 'bucket/a/b', file, facts),
  );
  await step(
    'put bucket/a/c: beside it',
    async () => void (await putFile(tier, 'bucket/a/c', file, facts)),
  );
  await step(
    'put bucket/a/c again: replaced',
    async () => await putFile(tier, 'bucket/a/c', file, facts),
  );
  await step('put bucket/z/d with another checksum', async () => {
    await expect(putFile(tier, 'bucket/z/d', file, { ...facts, crc32c: 1 })).rejects.toThrow();
  });
  await step('fetch bucket/a/c', async () => {
    const run = { offset: 0, length: facts.sizeBytes, crc32c: facts.crc32c };
    await tier.fetch('bucket/a/c', await localFile(), run);
  });
  await step('delete bucket/a/c', async () => await tier.delete('bucket/a/c'));
  await step('delete bucket/a/b: the last one', async () => await tier.delete('bucket/a/b'));
  await step('delete bucket/a/b: not there', async () => await tier.delete('bucket/a/b'));
  await expect(`${trace.join('\n')}\n`).toMatchFileSnapshot('./directory-tier.trace.txt');
});

test('a file server that gives all files to another user is a tier all the same', async () => {
  const root = await tempDir();
  vi.spyOn(process, 'geteuid').mockReturnValue(4_000_000);
  onTestFinished(() => void vi.restoreAllMocks());
  const tier = await openTier({ root });
  await putFile(tier, 'k/a', await localFile(), facts);
  expect(everythingIn(root)).toEqual(['k/', 'k/a']);
});

test('what others put in the place of an object that is deleted goes back, also without hard links', async () => {
  const root = await tempDir();
  const fs: DirectoryFs = {
    ...nodeDirectoryFs,
    link: async () => await Promise.reject(Object.assign(new Error('no links'), { code: 'EPERM' })),
    rename: async (from, to) => {
      if (from === join(root, 'b/k')) {
        await nodeDirectoryFs.unlink(from);
        await writeFile(from, 'theirs');
      }
      await nodeDirectoryFs.rename(from, to);
    },
  };
  const tier = await openTier({ root, fs });
  const { etag } = await putFile(tier, 'b/k', await localFile(), facts);
  await expect(tier.delete('b/k', { etag })).rejects.toMatchObject({ code: 'precondition_failed' });
  expect(await readFile(join(root, 'b/k'), 'utf8')).toBe('theirs');
  expect(everythingIn(root)).toEqual(['b/', 'b/k']);
});

test.each([
  ['', nodeDirectoryFs.link],
  [
    ', without hard links',
    async () => await Promise.reject(Object.assign(new Error('no links'), { code: 'ENOTSUP' })),
  ],
] as const)(
  'what others put in the place of an object goes back when they took its directory away%s',
  async (_how, link) => {
    const root = await tempDir();
    const fs: DirectoryFs = {
      ...nodeDirectoryFs,
      link,
      rename: async (from, to) => {
        const isTaking = from === join(root, 'b/c/k');
        if (isTaking) {
          await nodeDirectoryFs.unlink(from);
          await writeFile(from, 'theirs');
        }
        await nodeDirectoryFs.rename(from, to);
        if (isTaking) await rm(join(root, 'b'), { recursive: true });
      },
    };
    const tier = await openTier({ root, fs });
    const { etag } = await putFile(tier, 'b/c/k', await localFile(), facts);
    await expect(tier.delete('b/c/k', { etag })).rejects.toMatchObject({
      code: 'precondition_failed',
    });
    expect(everythingIn(root)).toEqual(['b/', 'b/c/', 'b/c/k']);
    expect(await readFile(join(root, 'b/c/k'), 'utf8')).toBe('theirs');
  },
);

test('what cannot go back now is put over nothing, and the deletion says where it lies', async () => {
  const root = await tempDir();
  const path = join(root, 'b/k');
  const fs: DirectoryFs = {
    ...nodeDirectoryFs,
    link: async () => {
      await writeFile(path, 'newest');
      throw new StoreError('io_failed', 'no thread is left');
    },
    rename: async (from, to) => {
      if (from === path) {
        await nodeDirectoryFs.unlink(from);
        await writeFile(from, 'theirs');
      }
      await nodeDirectoryFs.rename(from, to);
    },
  };
  const tier = await openTier({ root, fs });
  const { etag } = await putFile(tier, 'b/k', await localFile(), facts);
  await expect(tier.delete('b/k', { etag })).rejects.toMatchObject({
    code: 'io_failed',
    message: expect.stringContaining(join(root, '.ebb-tmp/node-1/')) as string,
  });
  expect(await readFile(path, 'utf8')).toBe('newest');
});
