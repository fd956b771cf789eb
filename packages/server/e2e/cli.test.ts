/** The `ebb` command as a user has it: bin/ebb.mjs started by any Node, against a real daemon. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  cleanEnv,
  type NodeProcess,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';
import { EBB_BIN } from './support/ebb-command.ts';

let node: NodeProcess;
let dir: string;

beforeAll(async () => {
  node = await startNodeProcess({ memoryLimit: '64MiB' });
  dir = mkdtempSync(join(tmpdir(), 'ebb-cli-'));
  expect(await ebb('buckets', 'create', 'data')).toMatchObject({ code: 0 });
});
afterAll(async () => {
  await node?.[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});

interface Ran {
  readonly code: number | null;
  readonly out: string;
  readonly bytes: Buffer;
  readonly err: string;
}

function start(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  return spawn(process.execPath, [EBB_BIN, ...args], {
    cwd: dir,
    env: { ...cleanEnv(), EBB_NODE: node.url, ...env },
  });
}

async function finish(child: ChildProcess, input?: Buffer): Promise<Ran> {
  const out: Buffer[] = [];
  const err: Buffer[] = [];
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => err.push(chunk));
  child.stdin?.end(input ?? '');
  const [code] = (await once(child, 'close')) as [number | null];
  const bytes = Buffer.concat(out);
  return { code, out: bytes.toString(), bytes, err: Buffer.concat(err).toString() };
}

const ebb = (...args: string[]): Promise<Ran> => finish(start(args));
const json = async (...args: string[]): Promise<Record<string, unknown>> => {
  const ran = await ebb(...args, '--json');
  expect(ran, ran.err).toMatchObject({ code: 0 });
  return JSON.parse(ran.out) as Record<string, unknown>;
};

describe('bytes', () => {
  const bytes = randomBytes(3 * 1024 * 1024 + 5);
  beforeAll(() => writeFileSync(join(dir, 'f.bin'), bytes));

  test('a file goes in and comes back, by put, get and cat', async () => {
    expect(await json('put', 'f.bin', 'data/sub/', '--meta', 'a=b', '--meta', 'c=d')).toEqual({
      objects: [{ bucket: 'data', key: 'sub/f.bin', sizeBytes: bytes.length }],
      sizeBytes: bytes.length,
    });
    expect(await ebb('get', 'data/sub/f.bin', 'g.bin')).toMatchObject({ code: 0 });
    expect(Buffer.compare(readFileSync(join(dir, 'g.bin')), bytes)).toBe(0);
    expect(Buffer.compare((await ebb('cat', 'ebb://data/sub/f.bin')).bytes, bytes)).toBe(0);
    expect(
      Buffer.compare(
        (await ebb('cat', 'data/sub/f.bin', '--range', '5-104')).bytes,
        bytes.subarray(5, 105),
      ),
    ).toBe(0);
    expect(await json('stat', 'data/sub/f.bin')).toMatchObject({
      sizeBytes: bytes.length,
      metadata: { a: 'b', c: 'd' },
    });
    expect(readdirSync(dir).filter((name) => name.includes('.part'))).toEqual([]);
  });

  test('standard input and output', async () => {
    expect(await finish(start(['put', '-', 'data/piped']), bytes)).toMatchObject({ code: 0 });
    expect(Buffer.compare((await ebb('get', 'data/piped', '-')).bytes, bytes)).toBe(0);
  });

  test('directories, both ways', async () => {
    mkdirSync(join(dir, 'tree/x/y'), { recursive: true });
    for (const name of ['a', 'x/b', 'x/y/c d']) writeFileSync(join(dir, 'tree', name), name);
    expect((await json('put', '-r', 'tree', 'data/tree')).objects).toHaveLength(3);
    expect(await ebb('get', '-r', 'data/tree', 'back')).toMatchObject({ code: 0 });
    for (const name of ['a', 'x/b', 'x/y/c d'])
      expect(readFileSync(join(dir, 'back', name), 'utf8')).toBe(name);
    expect((await json('ls', 'data/tree/')).prefixes).toEqual(['tree/x/']);
    expect((await json('ls', '-r', 'data/tree/')).objects).toHaveLength(3);
  });

  test('cp in all directions, mv, rm', async () => {
    expect(await ebb('cp', './f.bin', 'ebb://data/cp/one')).toMatchObject({ code: 0 });
    expect(await ebb('cp', 'data/cp/one', 'data/cp/two')).toMatchObject({ code: 0 });
    expect(await ebb('cp', 'ebb://data/cp/two', './two.bin')).toMatchObject({ code: 0 });
    expect(Buffer.compare(readFileSync(join(dir, 'two.bin')), bytes)).toBe(0);
    expect((await json('cp', '-r', 'data/cp', 'data/cq')).objects).toHaveLength(2);
    expect(await json('mv', '-r', 'data/cq', 'data/cr')).toMatchObject({ objects: 2 });
    expect(await json('mv', 'data/cr/one', 'data/cr/three')).toMatchObject({ objects: 1 });
    await finish(start(['put', '-', 'data/crx']), Buffer.from('beside'));
    expect(await json('rm', '-r', 'data/cr')).toMatchObject({ objects: 2 });
    expect((await ebb('cat', 'data/crx')).out).toBe('beside');
    expect(await ebb('rm', 'data/cp/one', 'data/cp/two')).toMatchObject({ code: 0 });
    expect(await ebb('cp', './a', './b')).toMatchObject({ code: 2 });
  });

  test('a reader that has enough ends cat quietly', async () => {
    await finish(start(['put', '-', 'data/long']), randomBytes(20_000_000));
    const command = `"${process.execPath}" "${EBB_BIN}" cat data/long | head -c 10 | wc -c; echo "\${PIPESTATUS[0]}"`;
    const shell = spawn('bash', ['-c', command], { env: { ...cleanEnv(), EBB_NODE: node.url } });
    const ran = await finish(shell);
    expect(ran.out.split(/\s+/).filter(Boolean)).toEqual(['10', '0']);
    expect(ran.err).toBe('');
  });

  test('an interrupt ends a put with 130, and nothing is left', async () => {
    const child = start(['put', '-', 'data/never']);
    child.stdin?.on('error', () => undefined);
    child.stdin?.write(randomBytes(5_000_000));
    await expect.poll(stagedBytes, { timeout: 60_000 }).toBeGreaterThan(0);
    child.kill('SIGINT'); // while it waits for more
    const [code] = (await once(child, 'exit')) as [number];
    expect(code).toBe(130);
    await expect.poll(stagedBytes, { timeout: 60_000 }).toBe(0);
    expect(await ebb('stat', 'data/never')).toMatchObject({ code: 3 });
  });
});

async function stagedBytes(): Promise<number> {
  const { tiers } = (await (await fetch(`${node.url}/v1/status`)).json()) as {
    tiers: { stagedBytes: number }[];
  };
  return tiers.reduce((sum, tier) => sum + tier.stagedBytes, 0);
}

test('a bucket that keeps old versions is made, changed, shown, and removed with all of them', async () => {
  expect(await ebb('buckets', 'create', 'kept', '--versioning', 'enabled')).toMatchObject({
    code: 0,
  });
  for (const text of ['1', '2']) await finish(start(['put', '-', 'kept/a']), Buffer.from(text));
  await ebb('rm', 'kept/a');
  expect(await ebb('cat', 'kept/a')).toMatchObject({ code: 3 });
  const table = (await ebb('buckets')).out;
  expect(table).toMatch(/VERSIONING +OLD VERSIONS +OLD SIZE/);
  expect(table).toMatch(/kept .* enabled +3 +2 B/);
  const set = await ebb('buckets', 'set', 'kept', '--versioning', 'suspended');
  expect(set.out).toBe('bucket kept (versioning suspended)\n');
  expect(await ebb('buckets', 'set', 'kept', '--versioning', 'off')).toMatchObject({ code: 2 });
  expect(await ebb('buckets', 'set', 'none', '--versioning', 'enabled')).toMatchObject({ code: 3 });
  expect(await ebb('buckets', 'rm', 'kept')).toMatchObject({ code: 4 });
  expect((await ebb('buckets', 'rm', '-r', 'kept')).out).toBe(
    'removed bucket kept and 3 objects\n',
  );
  expect((await ebb('buckets')).out).not.toContain('VERSIONING');
});

describe('what is told', () => {
  test('every read command has JSON, and a table with a head', async () => {
    await finish(start(['put', '-', 'data/told']), Buffer.from('x'));
    expect(await json('status')).toMatchObject({ state: 'ready' });
    expect((await json('buckets')).buckets).toEqual(
      expect.arrayContaining([expect.objectContaining({ name: 'data' })]),
    );
    expect(await json('ls')).toHaveProperty('buckets');
    expect(await json('jobs')).toEqual({ jobs: [] });
    expect(await json('shuffles')).toEqual({ shuffles: [] });
    expect(await json('why', 'data/told')).toHaveProperty('events');
    expect(await json('verify', 'data')).toMatchObject({ broken: [] });
    expect(await json('gc')).toHaveProperty('orphanFiles');
    for (const [args, head] of [
      [['status'], 'TIER'],
      [['buckets'], 'BUCKET'],
      [['ls', 'data'], 'SIZE'],
      [['jobs', 'ls'], 'JOB'],
      [['shuffles'], 'PARTITIONS'],
      [['why', 'data/told'], 'WHEN'],
    ] as const) {
      const ran = await ebb(...args);
      expect(ran, ran.err).toMatchObject({ code: 0, out: expect.stringContaining(head) });
    }
  });

  test.each([
    ['verify', 'nob'],
    ['verify', 'data/nope'],
    ['warm', 'nob'],
    ['warm', 'data/nope'],
    ['sync', 'nob'],
    ['pin', 'nob/x'],
    ['pin', 'data/nope'],
    ['relocate', '-r', 'nob', 'disk'],
    ['relocate', '-r', 'data/nope', 'disk'],
    ['checkpoint', 'import', 'nope'],
  ])('%s of what is not there says so: exit code 3', async (...command) => {
    const ran = await ebb(...command);
    expect(ran).toMatchObject({ code: 3, out: '' });
    expect(ran.err).toMatch(/\((?:bucket_)?not_found\)/);
  });

  test('pin, relocate, unpin', async () => {
    expect((await json('pin', 'data/told')).objects).toEqual([
      expect.objectContaining({ pinned: true }),
    ]);
    expect((await json('unpin', 'data/told')).objects).toEqual([
      expect.objectContaining({ pinned: false }),
    ]);
    expect(await json('relocate', 'data/told', 'disk')).toMatchObject({ objects: 1 });
  });

  test('a job is listed, and ended with a receipt', async () => {
    await fetch(`${node.url}/v1/jobs/job-1`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json' },
      body: '{"label":"cli"}',
    });
    await finish(start(['put', '-', 'data/owned', '--job', 'job-1']), Buffer.from('owned'));
    expect((await json('jobs')).jobs).toEqual([
      expect.objectContaining({ jobId: 'job-1', objects: 1 }),
    ]);
    expect(await json('jobs', 'end', 'job-1')).toMatchObject({ objects: 1 });
    expect(await ebb('jobs', 'end', 'job-1')).toMatchObject({ code: 3 });
  });

  test('spark-conf takes a jar, or says how to build it', async () => {
    writeFileSync(join(dir, 'plugin.jar'), '');
    const ran = await ebb(
      'spark-conf',
      '--plugin-jar',
      'plugin.jar',
      '--node',
      'unix:///run/ebb.sock',
    );
    expect(ran.out).toContain(`spark.executor.extraClassPath=${join(dir, 'plugin.jar')}\n`);
    expect(ran.out).toContain('spark.shuffle.ebb.node=unix:///run/ebb.sock\n');
    const built = existsSync(
      join(import.meta.dirname, '../../../clients/jvm/dist/ebb-spark-4_2.13.jar'),
    );
    const other = await ebb('spark-conf', '--spark', '4.0', '--scala', '2.13');
    if (built) expect(other.out).toContain('ebb-spark-4_2.13.jar');
    else expect(other).toMatchObject({ code: 3, err: expect.stringContaining('mvn') });
  });
});

describe('exit codes', () => {
  beforeAll(async () => {
    await finish(start(['put', '-', 'data/kept']), Buffer.from('kept'));
  });

  test.each([
    ['2: no such command', ['lss'], 2],
    ['2: no such option', ['ls', '--nope'], 2],
    ['2: a missing argument', ['put', 'f'], 2],
    ['2: a bad name', ['stat', 'data'], 2],
    ['2: a bad address', ['status', '--node', 'nonsense'], 2],
    ['3: no such object', ['stat', 'data/nope'], 3],
    ['3: no such bucket', ['ls', 'no-such-bucket'], 3],
    ['3: no such local file', ['put', './no-such-file', 'data/x'], 3],
    ['4: a bucket that is not empty', ['buckets', 'rm', 'data'], 4],
    ['6: no node', ['status', '--node', 'http://127.0.0.1:1'], 6],
    ['0: --help', ['ls', '--help'], 0],
    ['0: --version', ['--version'], 0],
  ] as const)('%s', async (_what, args, code) => {
    const ran = await ebb(...args);
    expect(ran.code, ran.err).toBe(code);
    if (code !== 0) expect(ran.err).not.toMatch(/\n\s+at /); // no stack
  });

  test('4: put --no-overwrite on an object that is there', async () => {
    await finish(start(['put', '-', 'data/once', '--no-overwrite']), Buffer.from('1'));
    expect(
      await finish(start(['put', '-', 'data/once', '--no-overwrite']), Buffer.from('2')),
    ).toMatchObject({ code: 4 });
    expect((await ebb('cat', 'data/once')).out).toBe('1');
  });

  test('5: a bucket whose quota is used up', async () => {
    expect(await ebb('buckets', 'create', 'small', '--quota', '1MiB')).toMatchObject({ code: 0 });
    writeFileSync(join(dir, 'two'), randomBytes(2_000_000));
    expect(await ebb('put', 'two', 'small/x')).toMatchObject({ code: 5 });
  });

  test('errors are JSON with --json', async () => {
    const { err } = await ebb('stat', 'data/nope', '--json');
    expect(JSON.parse(err)).toMatchObject({ error: { code: 'not_found', retry: 'never' } });
  });
});

describe('ebb node by the script', () => {
  const made: string[] = [];
  const temporary = (prefix: string): string => {
    const path = mkdtempSync(prefix);
    made.push(path);
    return path;
  };
  afterAll(() => {
    for (const path of made) rmSync(path, { recursive: true, force: true });
  });
  const startNode = async (): Promise<{ child: ChildProcess; url: string }> => {
    const data = temporary(join(tmpdir(), 'ebb-cli-node-'));
    const child = start([
      'node',
      `--data=${data}`,
      `--memory-dir=${temporary('/dev/shm/ebb-cli-')}`,
      '--listen=127.0.0.1:0',
      '--memory-limit=16MiB',
      '--disk-limit=64MiB',
    ]);
    let log = '';
    const url = await new Promise<string>((resolve, reject) => {
      child.once('exit', () => reject(new Error(log)));
      child.stderr?.on('data', (chunk: Buffer) => {
        log += chunk.toString();
        const ready = /"url":"([^"]+)"/.exec(log);
        if (ready !== null) resolve(ready[1] as string);
      });
    });
    return { child, url };
  };

  test('SIGTERM is passed on, and the node drains with 0', async () => {
    const { child, url } = await startNode();
    expect((await fetch(`${url}/readyz`)).status).toBe(200);
    child.kill('SIGTERM');
    expect(await once(child, 'exit')).toEqual([0, null]);
    await expect(fetch(`${url}/readyz`)).rejects.toThrow();
  });

  test('a script that is killed takes its node with it', async () => {
    const { child, url } = await startNode();
    child.kill('SIGKILL');
    await once(child, 'exit');
    await expect
      .poll(
        () =>
          fetch(`${url}/healthz`).then(
            () => 'up',
            () => 'down',
          ),
        { timeout: 60_000 },
      )
      .toBe('down');
  });

  test('2: every complaint about the configuration at once', async () => {
    const ran = await ebb('node', '--memory-limit', 'lots', '--listen', 'nowhere');
    expect(ran.code).toBe(2);
    expect(ran.err).toContain('memoryLimit');
    expect(ran.err).toContain('listen');
  });
});
