/**
 * A node on a host whose disks are full or fail: what it goes on with, and what it says. Real nodes, killed outright; the file
 * systems are small ones that "others" fill.
 */
import {
  appendFile,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { MiB, type NodeCondition, type Status } from '@ebb/protocol';
import { smallTmpfs, tempDir } from '@ebb/testkit';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import {
  type NodeProcess,
  type NodeProcessOptions,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';
import { type FailingDisk, openFailingDisk } from './support/campaign/failing-disk.ts';

const url = (node: NodeProcess, name: string): string =>
  `${node.url}/v1/buckets/${name.replace('/', '/objects/')}`;

async function call(method: string, at: string, body?: Buffer | string): Promise<Response> {
  return await fetch(at, {
    method,
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : new Uint8Array(body) }),
  });
}

async function createBucket(node: NodeProcess, name: string, preset: string): Promise<void> {
  const headers = { 'content-type': 'application/json' };
  const body = JSON.stringify({ preset, mirror: false });
  expect((await fetch(url(node, name), { method: 'PUT', headers, body })).status).toBe(201);
}

/** Until not a byte is left. */
async function fill(file: string): Promise<void> {
  for (const size of [MiB, 64 * 1024, 4096])
    while (
      await appendFile(file, Buffer.alloc(size)).then(
        () => true,
        () => false,
      )
    );
}

async function conditionsOf(node: NodeProcess): Promise<readonly NodeCondition[]> {
  return ((await (await fetch(`${node.url}/v1/status`)).json()) as Status).conditions;
}

/** Ended before the file system under it goes. */
async function start(options: NodeProcessOptions): Promise<NodeProcess> {
  const node = await startNodeProcess(options);
  onTestFinished(async () => await node[Symbol.asyncDispose]());
  return node;
}

const content = (i: number): Buffer => Buffer.alloc(300_000, i);

async function expectAll(
  node: NodeProcess,
  bucket: string,
  keys: readonly number[],
): Promise<void> {
  for (const i of keys) {
    const answer = await fetch(url(node, `${bucket}/k${i}`));
    expect([answer.status, Buffer.from(await answer.arrayBuffer()).equals(content(i))]).toEqual([
      200,
      true,
    ]);
  }
}

test('a node whose disk others filled serves reads and deletions, also after a kill, and takes data again when there is room', async ({
  skip,
}) => {
  const parent = await smallTmpfs(48 * MiB);
  if (parent === undefined) return skip('mounting a tmpfs is not permitted here');
  const others = join(parent, 'others');
  const node = await start({
    ...{ dataParent: parent, memoryLimit: '16MiB', diskLimit: '40MiB' },
  });
  await createBucket(node, 'data', 'buffered');
  for (let i = 0; i < 8; i++)
    expect((await call('PUT', url(node, `data/k${i}`), content(i))).status).toBe(201);
  await fill(others);
  const refused = await call('PUT', url(node, 'data/more'), content(9));
  expect(refused.status).toBe(507);
  expect(await refused.text()).toMatch(/the file system .* has \S+ [KM]?i?B left/);
  expect((await conditionsOf(node)).map(({ name, subject }) => `${name} ${subject}`)).toContain(
    'tier_without_room disk',
  );
  expect((await fetch(`${node.url}/readyz`)).status).toBe(200);
  expect((await call('DELETE', url(node, 'data/k0'))).status).toBe(204);
  await fill(others);
  await node.kill();
  await node.start();
  await expectAll(node, 'data', [1, 2, 3, 4, 5, 6, 7]);
  expect((await call('DELETE', url(node, 'data/k1'))).status).toBe(204);
  await rm(others);
  await vi.waitFor(
    async () => {
      expect((await call('PUT', url(node, 'data/again'), content(1))).status).toBe(201);
      expect(await conditionsOf(node)).toEqual([]);
    },
    { timeout: 60_000, interval: 200 },
  );
});

test('a node starts where others filled the file system of its memory, with what it had there', async ({
  skip,
}) => {
  const parent = await smallTmpfs(24 * MiB);
  if (parent === undefined) return skip('mounting a tmpfs is not permitted here');
  const others = join(parent, 'others');
  const memory = `--memory-dir=${join(parent, 'memory')}`;
  const node = await start({ memoryLimit: '16MiB', args: [memory] });
  await createBucket(node, 'data', 'ephemeral');
  for (let i = 0; i < 4; i++)
    expect((await call('PUT', url(node, `data/k${i}`), content(i))).status).toBe(201);
  await fill(others);
  await node.kill();
  await node.start();
  await expectAll(node, 'data', [0, 1, 2, 3]);
  expect(await conditionsOf(node)).toMatchObject([
    { name: 'tier_without_room', subject: 'memory' },
  ]);
  // What does not fit there goes to the disk.
  expect((await call('PUT', url(node, 'data/k9'), content(9))).status).toBe(201);
  await node.kill();
  // It is the state after a reboot, filled by others before the node came: not even its directories are there.
  await rm(join(parent, 'memory'), { recursive: true });
  await fill(others);
  await node.start();
  await expectAll(node, 'data', [9]);
  await rm(others);
  await vi.waitFor(async () => expect(await conditionsOf(node)).toEqual([]), {
    ...{ timeout: 60_000, interval: 200 },
  });
});

test('a node whose disk refuses to sync serves reads, refuses changes, and says so everywhere', async () => {
  const hook = new URL('./support/failing-sync.mjs', import.meta.url);
  const node = await start({ nodeFlags: [`--import=${hook.href}`] });
  await createBucket(node, 'data', 'buffered');
  expect((await call('PUT', url(node, 'data/k1'), content(1))).status).toBe(201);
  process.kill(node.pid, 'SIGUSR2');
  await vi.waitFor(
    async () => {
      const headers = { 'x-ebb-ack': 'disk' };
      await fetch(url(node, 'data/k2'), { method: 'PUT', headers, body: 'synced' });
      expect((await fetch(`${node.url}/readyz`)).status).toBe(503);
    },
    { timeout: 60_000 },
  );
  expect(await (await fetch(`${node.url}/readyz`)).json()).toMatchObject({
    state: 'read_only',
    conditions: [{ name: 'catalog_failed', effect: 'refuses_changes', lastError: 'io_failed' }],
  });
  expect((await fetch(`${node.url}/healthz`)).status).toBe(200);
  await expectAll(node, 'data', [1]);
  expect((await call('DELETE', url(node, 'data/k1'))).status).toBe(500);
  expect(await (await fetch(`${node.url}/metrics`)).text()).toContain(
    'ebb_condition{name="catalog_failed",subject="catalog",effect="refuses_changes"} 1',
  );
  expect(node.log().match(/condition catalog_failed began/g)).toHaveLength(1);
  // It could not write what a clean end writes.
  expect(await node.stop()).toBe(1);
  await node.start();
  await expectAll(node, 'data', [1]);
  expect((await fetch(`${node.url}/readyz`)).status).toBe(200);
});

describe('a directory as tier 2 whose file system does not answer', () => {
  /** A node with objects in memory and on disk, and some that tier 2 alone has. */
  async function startBeside(disk: FailingDisk): Promise<NodeProcess> {
    const node = await start({ env: disk.env, args: ['--drain-deadline', '3s'] });
    await createBucket(node, 'local', 'buffered');
    expect((await call('PUT', url(node, 'local/kept'), content(1))).status).toBe(201);
    const lake = join(node.dataDir, 'remote', 'lake');
    await mkdir(lake, { recursive: true });
    const headers = { 'content-type': 'application/json' };
    await fetch(url(node, 'lake'), { method: 'PUT', headers, body: '{}' });
    for (let i = 0; i < 8; i++) await writeFile(join(lake, `f${i}`), Buffer.alloc(9 * MiB, i));
    const sync = `${node.url}/v1/buckets/lake/sync`;
    expect((await fetch(sync, { method: 'POST', headers, body: '{}' })).status).toBe(200);
    return node;
  }

  async function expectServed(node: NodeProcess, key: string): Promise<void> {
    const signal = AbortSignal.timeout(10_000);
    const got = await fetch(url(node, 'local/kept'), { signal });
    expect(Buffer.from(await got.arrayBuffer())).toEqual(content(1));
    const body = new Uint8Array(3 * MiB);
    expect((await fetch(url(node, `local/${key}`), { method: 'PUT', body, signal })).status).toBe(
      201,
    );
    expect((await fetch(`${node.url}/readyz`, { signal })).status).toBeLessThan(504);
  }

  async function stopsWithin(node: NodeProcess, ms: number): Promise<boolean> {
    const late = new Promise<boolean>((resolve) => setTimeout(resolve, ms, false));
    return await Promise.race([node.stop().then(() => true), late]);
  }

  test.each([['reads'], ['syncs']] as const)(
    'holds up nothing else when its %s hang, is told as a condition, and lets the node stop in its time',
    async (calls) => {
      using disk = openFailingDisk();
      if (disk === undefined) return; // said by campaign.test.ts: no compiler
      const node = await startBeside(disk);
      disk.fail({ calls: [calls], error: 'hang', path: '/remote/', oneIn: 1 });
      for (let i = 0; i < 8; i++) void fetch(url(node, `lake/f${i}`)).catch(() => undefined);
      void call('PUT', url(node, 'lake/new'), content(2)).catch(() => undefined);
      await expect.poll(() => disk.failed()).toBeGreaterThan(0);
      await expectServed(node, 'first');
      if (calls === 'reads') {
        const codes = async (): Promise<string[]> =>
          (await conditionsOf(node)).map(({ name }) => name);
        await expect.poll(codes, { timeout: 60_000 }).toContain('remote_unreachable');
        await expectServed(node, 'second');
      }
      expect(await stopsWithin(node, 15_000)).toBe(true);
      disk.heal();
    },
  );
});

describe('a directory as tier 2 that does not answer at the start', () => {
  /** Stopped, with an object in its own tier 2 and on disk. */
  async function stoppedBeside(disk: FailingDisk, directory: string): Promise<NodeProcess> {
    const remote = directory === '' ? [] : ['--remote', `file://${directory}`];
    const node = await start({ env: disk.env, args: ['--drain-deadline', '3s', ...remote] });
    const headers = { 'content-type': 'application/json' };
    await fetch(url(node, 'buf'), { method: 'PUT', headers, body: '{}' });
    expect((await call('PUT', url(node, 'buf/old'), content(1))).status).toBe(201);
    expect((await call('HEAD', `${url(node, 'buf/old')}?wait=remote`)).status).toBe(200);
    expect(await node.stop()).toBe(0);
    return node;
  }
  const hang = { calls: ['looks'], error: 'hang', oneIn: 1 } as const;

  test.each(['among its own directories', 'elsewhere'])(
    '%s: the node is ready, serves what is here, says what is away, and stops in its time',
    async (where) => {
      using disk = openFailingDisk();
      if (disk === undefined) return; // said by campaign.test.ts: no compiler
      const elsewhere = where === 'elsewhere' ? join(await tempDir(), 'far') : '';
      const node = await stoppedBeside(disk, elsewhere);
      const path = elsewhere === '' ? join(node.dataDir, 'remote') : elsewhere;
      disk.fail({ ...hang, path });
      await node.start();
      expect(disk.failed()).toBeGreaterThan(0);
      const signal = AbortSignal.timeout(10_000);
      const got = await fetch(url(node, 'buf/old'), { signal });
      expect(Buffer.from(await got.arrayBuffer())).toEqual(content(1));
      expect((await call('PUT', url(node, 'buf/new'), content(2))).status).toBe(201);
      const names = async (): Promise<string[]> =>
        (await conditionsOf(node)).map(({ name }) => name);
      await expect.poll(names, { timeout: 60_000 }).toContain('remote_unreachable');
      disk.heal();
      await expect.poll(names, { timeout: 60_000 }).not.toContain('remote_unreachable');
      expect((await call('HEAD', `${url(node, 'buf/new')}?wait=remote`)).status).toBe(200);
      await node.stop();
      disk.fail({ ...hang, path });
      await node.start();
      const late = new Promise<string>((resolve) => setTimeout(resolve, 15_000, 'late'));
      expect(await Promise.race([node.stop(), late])).not.toBe('late');
      disk.heal();
    },
  );

  test('a signal that comes meanwhile ends the node', async () => {
    using disk = openFailingDisk();
    if (disk === undefined) return;
    const node = await stoppedBeside(disk, '');
    disk.fail({ ...hang, path: join(node.dataDir, 'remote') });
    const starting = node.start().then(
      () => 'ready',
      () => 'ended',
    );
    await expect.poll(() => disk.failed(), { timeout: 30_000 }).toBeGreaterThan(0);
    await node.stop();
    expect(await starting).toBe('ended');
    disk.heal();
    await node.start();
    expect((await call('GET', url(node, 'buf/old'))).status).toBe(200);
  });
});

test('a directory as tier 2 that is not there at the start is away, and nothing is lost when it is back', async () => {
  const node = await start({});
  await createBucket(node, 'local', 'buffered');
  const headers = { 'content-type': 'application/json' };
  await fetch(url(node, 'buf'), { method: 'PUT', headers, body: '{}' });
  expect((await call('PUT', url(node, 'buf/old'), content(3))).status).toBe(201);
  expect((await call('HEAD', `${url(node, 'buf/old')}?wait=remote`)).status).toBe(200);
  const moved = await fetch(`${node.url}/v1/relocate`, {
    ...{ method: 'POST', headers },
    body: JSON.stringify({ bucket: 'buf', key: 'old', tier: 'remote' }),
  });
  expect(moved.status).toBe(200);
  await node.stop();
  const [remote, aside] = [join(node.dataDir, 'remote'), join(node.dataDir, 'aside')];
  await rename(remote, aside);
  await node.start();
  const names = async (): Promise<string[]> => (await conditionsOf(node)).map(({ name }) => name);
  await expect.poll(names).toContain('remote_unreachable');
  expect((await call('GET', url(node, 'buf/old'))).status).toBeGreaterThanOrEqual(500);
  expect((await call('PUT', url(node, 'buf/new'), content(4))).status).toBe(201);
  await rename(aside, remote);
  await expect.poll(names, { timeout: 60_000 }).not.toContain('remote_unreachable');
  const got = await call('GET', url(node, 'buf/old'));
  expect(Buffer.from(await got.arrayBuffer())).toEqual(content(3));
  expect((await call('HEAD', `${url(node, 'buf/new')}?wait=remote`)).status).toBe(200);
  expect(await readFile(join(remote, 'buf', 'new'))).toEqual(content(4));
});

test('a disk that is not there at the start is refused with code 2, and all that it has is there when it is back', async () => {
  const node = await start({});
  await createBucket(node, 'data', 'buffered');
  const keys = [1, 2, 3, 4];
  for (const key of keys) {
    expect((await call('PUT', url(node, `data/k${key}`), content(key))).status).toBe(201);
    expect((await call('HEAD', `${url(node, `data/k${key}`)}?wait=disk`)).status).toBe(200);
  }
  expect(await node.stop()).toBe(0);
  // What a host loses when it boots without a mount: memory, and sight of the disk.
  for (const part of ['ebb-tier.json', 'b', 'p', 't'])
    await rm(join(node.memoryDir, part), { recursive: true, force: true });
  const [disk, away] = [join(node.dataDir, 'disk'), join(node.dataDir, 'away')];
  await rename(disk, away);
  for (const place of [undefined, disk]) {
    if (place !== undefined) await mkdir(place); // where it is to be mounted
    await expect(node.start()).rejects.toThrow('the node ended with 2');
  }
  expect(await readdir(disk)).toEqual([]);
  expect(node.log()).toContain('nothing is mounted there. Mount that disk or move it back');
  await rmdir(disk);
  await rename(away, disk);
  await node.start();
  await expectAll(node, 'data', keys);
});

test('a directory of a tier that goes away while the node runs is told, costs what it had alone, and comes back', async () => {
  const node = await start({});
  await createBucket(node, 'mem', 'ephemeral');
  await createBucket(node, 'data', 'buffered');
  const names = async (): Promise<unknown[]> =>
    (await conditionsOf(node)).map(({ name, subject }) => [name, subject]);
  const codeOf = async (answer: Response): Promise<unknown> =>
    answer.ok ? 'done' : ((await answer.json()) as { error: { code: string } }).error.code;
  const put = async (name: string, i: number): Promise<unknown> =>
    await codeOf(await call('PUT', url(node, name), content(i)));
  expect(await put('mem/k1', 1)).toBe('done');
  expect(await put('data/k1', 1)).toBe('done');
  expect((await call('HEAD', `${url(node, 'data/k1')}?wait=disk`)).status).toBe(200);

  // systemd does this when the user of the node logs out.
  await rm(node.memoryDir, { recursive: true });
  const seen = new Set<unknown>();
  await expect
    .poll(async () => {
      const code = await put('mem/k2', 2);
      seen.add(code);
      return code;
    })
    .toBe('done');
  for (const code of seen) expect(['done', 'io_failed', 'data_lost']).toContain(code);
  await expectAll(node, 'mem', [2]);
  await expectAll(node, 'data', [1]);
  await expect
    .poll(async () => await codeOf(await call('GET', url(node, 'mem/k1'))))
    .toBe('data_lost');
  await expect.poll(names).toEqual([]);
  expect(node.log()).toContain('condition tier_away began');

  const [disk, away] = [join(node.dataDir, 'disk'), join(node.dataDir, 'away')];
  await rename(disk, away);
  await expect.poll(names).toContainEqual(['tier_away', 'disk']);
  const toDisk = async (): Promise<unknown> => {
    const headers = { 'x-ebb-ack': 'disk' };
    const body = new Uint8Array(content(2));
    return await codeOf(await fetch(url(node, 'data/k2'), { method: 'PUT', headers, body }));
  };
  expect(await toDisk()).toBe('io_failed');
  await rename(away, disk);
  await expect.poll(names).toEqual([]);
  expect(await toDisk()).toBe('done');
  await expectAll(node, 'data', [1, 2]);
  expect(node.log()).not.toContain('background work failed');
});
