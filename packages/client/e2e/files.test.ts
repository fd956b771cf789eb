/** Objects opened as files, by the node's files and over HTTP, against a real daemon. */

import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type EbbClient, type FileHandle, openClient } from '@ebb/client';
import { KiB, MiB } from '@ebb/protocol';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { cleanEnv, type NodeProcess, startNodeProcess } from './support/node-process.ts';

let node: NodeProcess;
let local: EbbClient;
let http: EbbClient;

beforeAll(async () => {
  node = await startNodeProcess({ memoryLimit: '64MiB', diskLimit: '256MiB' });
  local = await openClient({ node: node.url });
  http = await openClient({ node: node.url, path: 'http' });
  await local.buckets.create('data', { preset: 'ephemeral' });
});
afterAll(async () => {
  await local?.close();
  await http?.close();
  await node?.[Symbol.asyncDispose]();
});

async function readAll(file: FileHandle, extraBytes = 10): Promise<Buffer> {
  const target = Buffer.alloc((await file.stat()).sizeBytes + extraBytes);
  return target.subarray(0, await file.read(target, 0));
}
async function object(key: string): Promise<Buffer> {
  return Buffer.from(await (await local.get('data', key)).bytes());
}
async function stagedBytes(): Promise<number> {
  const { tiers } = await local.status();
  return tiers.reduce((sum, tier) => sum + tier.stagedBytes, 0);
}
const ref = (key: string) => ({ bucket: 'data', key });

describe.each(['local', 'http'])('a file by %s', (path) => {
  const client = (): EbbClient => (path === 'local' ? local : http);
  const key = (name: string): string => `${path}/${name}`;

  test('is written at random places, read back, cut and grown, as an array of bytes would be', async () => {
    for (let run = 0; run < 5; run++) {
      const name = key(`random-${run}`);
      let model = Buffer.alloc(0);
      let file = await client().openFile(ref(name), 'w+');
      for (let step = 0; step < 25; step++) {
        const position = Math.floor(Math.random() * 600 * KiB);
        const dice = Math.random();
        if (dice < 0.5) {
          const source = randomBytes(1 + Math.floor(Math.random() * 300 * KiB));
          expect(await file.write(source, position)).toBe(position);
          const grown = Buffer.alloc(Math.max(model.length, position + source.length));
          model.copy(grown);
          source.copy(grown, position);
          model = grown;
        } else if (dice < 0.65) {
          await file.truncate(position);
          const cut = Buffer.alloc(position);
          model.copy(cut);
          model = cut;
        } else if (dice < 0.75) {
          await file.sync('memory');
          expect((await object(name)).equals(model)).toBe(true);
        } else if (dice < 0.85) {
          await file.close();
          file = await client().openFile(ref(name), 'r+');
        } else {
          const target = Buffer.alloc(100 * KiB);
          const got = target.subarray(0, await file.read(target, position));
          expect(got.equals(model.subarray(position, position + target.length))).toBe(true);
        }
        expect((await file.stat()).sizeBytes).toBe(model.length);
      }
      expect((await readAll(file)).equals(model)).toBe(true);
      await file.close();
      expect((await object(name)).equals(model)).toBe(true);
      expect((await local.verify({ bucket: 'data', prefix: name })).broken).toEqual([]);
    }
  });

  test('one byte 0xFF is a byte, and the end is the end', async () => {
    const file = await client().openFile(ref(key('ff')), 'w+');
    await file.write(Buffer.from([0xff]), 0);
    const target = Buffer.alloc(4);
    expect(await file.read(target, 0)).toBe(1);
    expect(target[0]).toBe(0xff);
    expect(await file.read(target, 1)).toBe(0);
    expect(await file.read(target, 99)).toBe(0);
    await file.close();
  });

  test('is not seen before it is published, and readers keep the version they opened', async () => {
    const old = randomBytes(2 * MiB);
    await local.put('data', key('k'), old);
    const reader = await client().openFile(ref(key('k')), 'r');
    const file = await client().openFile(ref(key('k')), 'r+');
    await file.write(Buffer.from('new'), MiB);
    expect((await object(key('k'))).equals(old)).toBe(true);
    expect(await file.close()).toMatchObject({ durability: 'memory' });
    const now = await object(key('k'));
    expect(now.subarray(MiB, MiB + 3).toString()).toBe('new');
    for (let i = 0; i < 5; i++) await local.put('data', key('other'), randomBytes(2 * MiB));
    expect((await readAll(reader)).equals(old)).toBe(true);
    expect(await reader.close()).toBeNull();
  });

  test('that was synced is read on, while the object is replaced', async () => {
    const bytes = randomBytes(MiB);
    const file = await client().openFile(ref(key('synced')), 'w+');
    await file.write(bytes, 0);
    const synced = await file.sync('disk');
    expect(synced?.durability).toBe('disk');
    expect(await file.stat()).toMatchObject({ version: synced?.version, etag: synced?.etag });
    await local.put('data', key('synced'), randomBytes(MiB));
    await local.put('data', key('other'), randomBytes(MiB));
    expect((await readAll(file)).equals(bytes)).toBe(true);
    await file.write(Buffer.from('x'), 0);
    await file.close();
    expect((await object(key('synced'))).subarray(1).equals(bytes.subarray(1))).toBe(true);
  });

  test('appends', async () => {
    const file = await client().openFile(ref(key('log')), 'a+');
    expect(await file.write(Buffer.from('one,'), 100)).toBe(0);
    expect(await file.write(Buffer.from('two'), 0)).toBe(4);
    await file.close();
    const more = await client().openFile(ref(key('log')), 'a');
    await Promise.all([1, 2, 3].map((n) => more.write(Buffer.from(`,${n}`), 0)));
    await more.close();
    expect((await object(key('log'))).toString()).toBe('one,two,1,2,3');
  });

  test('grows beyond tier 0', async () => {
    const bytes = randomBytes(8 * MiB);
    const file = await client().openFile(ref(key('large')), 'w+');
    for (let at = 0; at < 12; at++) await file.write(bytes, at * bytes.length);
    const target = Buffer.alloc(bytes.length);
    expect(await file.read(target, 5 * bytes.length)).toBe(bytes.length);
    expect(target.equals(bytes)).toBe(true);
    await file.close();
    expect((await local.head('data', key('large'))).sizeBytes).toBe(12 * bytes.length);
    await local.delete('data', key('large'));
  });

  test('opened by two with wx is one alone’s; a condition tells who was overtaken', async () => {
    const [first, second] = await Promise.all(
      [1, 2].map(() => client().openFile(ref(key('lock')), 'wx')),
    );
    const outcomes = await Promise.allSettled([first?.sync('memory'), second?.sync('memory')]);
    expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    await Promise.allSettled([first?.close(), second?.close()]);
    await expect(client().openFile(ref(key('lock')), 'wx')).rejects.toMatchObject({
      code: 'already_exists',
    });
    const { etag } = await local.head('data', key('lock'));
    const file = await client().openFile(ref(key('lock')), 'r+', { ifMatch: etag });
    await file.write(Buffer.from('mine'), 0);
    await local.put('data', key('lock'), Buffer.from('theirs'));
    await expect(file.close()).rejects.toMatchObject({ code: 'precondition_failed' });
    expect((await object(key('lock'))).toString()).toBe('theirs');
  });

  test('disposed without a close leaves nothing', async () => {
    {
      await using file = await client().openFile(ref(key('gone')), 'w');
      await file.write(Buffer.alloc(MiB), 0);
      expect(await stagedBytes()).toBeGreaterThan(0);
    }
    await expect(local.head('data', key('gone'))).rejects.toMatchObject({ code: 'not_found' });
    expect(await stagedBytes()).toBe(0);
  });

  test('refuses what its mode does not allow, and everything once it was closed', async () => {
    await local.put('data', key('mode'), Buffer.from('x'));
    const reader = await client().openFile(ref(key('mode')), 'r');
    await expect(reader.write(Buffer.from('y'), 0)).rejects.toMatchObject({
      code: 'request_invalid',
    });
    await reader.close();
    await expect(reader.read(Buffer.alloc(1), 0)).rejects.toMatchObject({ code: 'file_not_open' });
    await expect(client().openFile(ref(key('nowhere')), 'r+')).rejects.toMatchObject({
      code: 'not_found',
    });
    await expect(client().openFile(ref('k'), 'rw' as 'r')).rejects.toMatchObject({
      code: 'request_invalid',
    });
  });

  test('makes and removes directories', async () => {
    await client().makeDirectory('data', key('dir'));
    await local.put('data', key('dir/x'), Buffer.from('x'));
    await expect(client().removeDirectory('data', key('dir'))).rejects.toMatchObject({
      code: 'directory_not_empty',
    });
    await local.delete('data', key('dir/x'));
    await client().removeDirectory('data', key('dir/'));
  });
});

test('the example of docs/files.md does what it says', async () => {
  const page = readFileSync(join(import.meta.dirname, '../../../docs/files.md'), 'utf8');
  const script = (/```sh\n([\s\S]*?)```/.exec(page) as RegExpExecArray)[1] as string;
  await local.buckets.create('results');
  const output = execFileSync('sh', [
    '-ec',
    script.replaceAll('localhost:9700', new URL(node.url).host),
  ]);
  expect(output.toString()).toContain('ell{"published":{"version":');
  expect(Buffer.from(await (await local.get('results', 'log.txt')).bytes()).toString()).toBe(
    'hello',
  );
});

test('a process that is killed while it writes leaves nothing, and its room is free', async () => {
  const program = `
    import { openClient } from '@ebb/client';
    const client = await openClient({ node: process.argv[1] });
    const file = await client.openFile({ bucket: 'data', key: 'killed' }, 'w');
    await file.write(Buffer.alloc(5_000_000, 1), 0);
    console.log('written');
    setInterval(() => undefined, 1000);
  `;
  const own = join(import.meta.dirname, '../../../node_modules/.bin/node');
  const args = ['--conditions=source', '--input-type=module', '-e', program, node.unixUrl];
  const child = spawn(own, args, {
    ...{ stdio: ['ignore', 'pipe', 'inherit'], env: cleanEnv() },
    cwd: join(import.meta.dirname, '..'),
  });
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream });
  expect((await once(lines, 'line'))[0]).toBe('written');
  expect(await stagedBytes()).toBeGreaterThan(4_999_999);
  child.kill('SIGKILL');
  await vi.waitFor(async () => expect(await stagedBytes()).toBe(0), { timeout: 60_000 });
  await expect(local.head('data', 'killed')).rejects.toMatchObject({ code: 'not_found' });
});

test('after a restart of the daemon an open file is gone, and what it had published is there', async () => {
  const files = await Promise.all(
    [local, http].map((client, n) => client.openFile(ref(`restart-${n}`), 'w+')),
  );
  for (const file of files) {
    await file.write(Buffer.from('published'), 0);
    await file.sync('disk');
    await file.write(Buffer.from('lost'), 0);
  }
  await node.kill();
  await node.start();
  for (const [n, file] of files.entries()) {
    await expect(file.close()).rejects.toMatchObject({
      code: n === 0 ? 'node_unreachable' : 'file_not_open',
    });
    expect((await object(`restart-${n}`)).toString()).toBe('published');
  }
});
