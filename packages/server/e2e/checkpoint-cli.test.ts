/** `ebb checkpoint` and `ebb snapshot` against a real daemon; images are made as docs/checkpoint-format.md says. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type EbbClient, openClient } from '@ebb/client';
import { MiB, manifestSchema, type Shard, type SnapshotInfo } from '@ebb/protocol';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { tableAndFooter } from '../../checkpoint/src/testing/build-image.ts';
import {
  cleanEnv,
  type NodeProcess,
  startNodeProcess,
} from '../../client/e2e/support/node-process.ts';
import { type Ran, runEbb } from './support/ebb-command.ts';

let node: NodeProcess;
let client: EbbClient;
let dir: string;

beforeAll(async () => {
  node = await startNodeProcess({ memoryLimit: '1GiB' });
  client = await openClient({ node: node.url });
  dir = await mkdtemp(join(tmpdir(), 'ebb-checkpoint-cli-'));
});
afterAll(async () => {
  await client?.close();
  await node?.[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

async function ebb(...args: string[]): Promise<Ran> {
  return await runEbb(['checkpoint', ...args], { EBB_NODE: node.url });
}
async function ok(...args: string[]): Promise<string> {
  const ran = await ebb(...args);
  expect(ran, ran.stderr).toMatchObject({ code: 0 });
  return ran.stdout;
}
async function json<T = Record<string, unknown>>(...args: string[]): Promise<T> {
  return JSON.parse(await ok(...args, '--json')) as T;
}

type Made = Omit<Shard, 'offset' | 'length'> & { readonly bytes: Buffer };

/** Shards begin at multiples of 64 bytes, in this order. */
function imageOf(made: readonly Made[]): Buffer {
  const shards: Shard[] = [];
  let bytes = Buffer.alloc(0);
  for (const { bytes: own, ...shard } of made) {
    bytes = Buffer.concat([bytes, Buffer.alloc((64 - (bytes.length % 64)) % 64)]);
    shards.push({ ...shard, offset: bytes.length, length: own.length });
    bytes = Buffer.concat([bytes, own]);
  }
  return Buffer.concat([bytes, tableAndFooter(shards, bytes.length)]);
}

async function call<T>(path: string, bucket: string, body: unknown): Promise<T> {
  const url = `${node.url}/v1/runs/${path}?bucket=${bucket}`;
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
  expect(answer.status, await answer.clone().text()).toBe(200);
  return (await answer.json()) as T;
}

/** As a training job saves it. */
async function save(
  run: string,
  step: number,
  images: readonly Buffer[],
  { metadata = {}, bucket: of = 'checkpoints' } = {},
): Promise<SnapshotInfo> {
  const path = `${run}/snapshots/${step}`;
  const session = 'life-1';
  const parts = images.map((_, rank) => `rank-${String(rank).padStart(5, '0')}`);
  for (const [rank, image] of images.entries()) {
    const begun = { session, part: parts[rank], imageBytes: image.length };
    const go = await call<{ bucket: string; key: string }>(`${path}/begin`, of, begun);
    const { bucket, key } = go;
    await client.put(bucket, key, image);
  }
  return await call(`${path}/commit`, of, { session, parts, metadata });
}

const u8 = (name: string, bytes: Buffer): Made => ({
  ...{ name, dtype: 'uint8', shape: [bytes.length], bytes },
});

/** The format as it is told by its authors, read without our code. */
async function readSafetensors(file: string): Promise<{
  readonly metadata: Record<string, string>;
  readonly tensors: Map<string, { dtype: string; shape: number[]; bytes: Buffer }>;
}> {
  const bytes = await readFile(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as Record<string, unknown>;
  const tensors = new Map<string, { dtype: string; shape: number[]; bytes: Buffer }>();
  const data = bytes.subarray(8 + headerBytes);
  let behind = 0;
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const { dtype, shape, data_offsets } = entry as {
      dtype: string;
      shape: number[];
      data_offsets: [number, number];
    };
    expect(data_offsets[0], 'no gaps').toBe(behind);
    behind = data_offsets[1];
    tensors.set(name, { dtype, shape, bytes: data.subarray(...data_offsets) });
  }
  expect(behind).toBe(data.length);
  return { metadata: header['__metadata__'] as Record<string, string>, tensors };
}

describe('a run with two snapshots', () => {
  const weights = randomBytes(4 * MiB);
  const changed = Buffer.from(weights);
  changed.fill(7, 2 * MiB, 2 * MiB + 10);
  const small = randomBytes(64);
  const imageBefore = imageOf([u8('weights', weights), u8('small', small)]);
  const imageAfter = imageOf([u8('weights', changed), u8('small', small)]);

  beforeAll(async () => {
    await save('gpt', 100, [imageBefore], { metadata: { loss: '2.5' } });
    await ok('wait', 'gpt', '100', '--for', 'remote', '--timeout', '60s');
    await save('gpt', 200, [imageAfter], { metadata: { loss: '2.25' } });
    await ok('wait', 'gpt', '--timeout', '60s');
  });

  test('is listed, with what was saved and what holds', async () => {
    const listed = await json<{ runs: unknown[] }>('ls');
    expect(listed.runs).toMatchObject([{ run: 'gpt', snapshots: 2, latestStep: 200 }]);
    const { snapshots } = await json<{ snapshots: SnapshotInfo[] }>('ls', 'gpt');
    expect(snapshots.map(({ step }) => step)).toEqual([200, 100]);
    // One block.
    expect(snapshots[0]).toMatchObject({ durability: 'remote', inMemory: true, newBytes: MiB / 4 });
    const table = await ok('ls', 'gpt');
    expect(table).toMatch(/STEP .*SIZE .*NEW .*SAVED .*IN MEMORY .*DURABLE/);
    expect(table).toMatch(/200 .* 256 KiB +93% +yes +remote/);
    expect(table).toMatch(/100 .* 0% +no +remote/);
    const shown = await ok('show', 'gpt', '--shards');
    expect(shown).toMatch(/meta loss +2\.25/);
    expect(shown).toMatch(/rank-00000 .*checkpoint-images\/checkpoints\/gpt\/.* 2 data objects/);
    expect(shown).toMatch(/uint8 +\[4194304\] .*weights/);
    expect(await ok('latest', 'gpt')).toBe('200\n');
    expect(await ebb('latest', 'none')).toMatchObject({ code: 3 });
    expect(await ebb('show', 'gpt', '150')).toMatchObject({ code: 3 });
    expect(await ebb('ls', 'gpt', '--bucket', 'other')).toMatchObject({ code: 3 });
  });

  test('is compared shard by shard', async () => {
    const { shards } = await json<{ shards: unknown[] }>('diff', 'gpt', '100', '200');
    expect(shards).toMatchObject([
      { name: 'weights', change: 'changed', blocks: { changed: 1, all: 16 } },
      { name: 'small', change: 'same' },
    ]);
    const out = await ok('diff', 'gpt', '100', '200');
    expect(out).toMatch(/changed +rank-00000 +4\.0 MiB +1 of 16 +weights/);
    expect(out).toMatch(/2 shards: 1 the same, 1 changed/);
  });

  test.each([
    ['that is in memory', 200, imageAfter],
    ['of which the image is given up', 100, imageBefore],
  ])('one %s is restored to files, whole', async (_what, step, image) => {
    const to = join(dir, `restored-${step}`);
    await ok('restore', 'gpt', String(step), '--to', to);
    expect((await readdir(to)).sort()).toEqual(['manifest.json', 'rank-00000.image']);
    expect((await readFile(join(to, 'rank-00000.image'))).equals(image)).toBe(true);
    const manifest = manifestSchema.parse(
      JSON.parse(await readFile(join(to, 'manifest.json'), 'utf8')),
    );
    expect(manifest).toMatchObject({ run: 'gpt', step });
    const [part] = manifest.parts;
    expect(part?.runs).toEqual([[0, image.length, 'rank-00000.image', 0]]);
    const plan = await client.snapshots.plan('gpt', step);
    expect(part?.digests).toBe(plan.parts[0]?.digests);
    await using elsewhere = await openClient({ node: node.url, path: 'http' });
    await using reader = elsewhere.snapshots.openPart(plan, 'rank-00000');
    const bytes = Buffer.alloc(image.length);
    expect(await reader.read(bytes, 0)).toBe(image.length);
    expect(bytes.equals(image)).toBe(true);
    expect(reader.source).toBe(step === 200 ? 'image' : 'stored');
    expect(await ebb('restore', 'gpt', '--to', to)).toMatchObject({ code: 4 });
    await ok('restore', 'gpt', '--to', to, '--overwrite');
  });

  test('marks change what is latest, and what goes', async () => {
    await ok('bad', 'gpt', '200', '--why', 'loss is NaN');
    expect(await ok('latest', 'gpt')).toBe('100\n');
    expect(await ok('ls', 'gpt')).toContain('bad: loss is NaN');
    await ok('good', 'gpt', '200');
    await ok('pin', 'gpt', '100');
    await ok('policy', 'gpt', '--keep-last', '1', '--max-age', '7d');
    expect(await ok('policy', 'gpt')).toMatch(/keep last +1\n[^]*max age +7 d/);
    expect((await json<{ snapshots: unknown[] }>('ls', 'gpt')).snapshots).toHaveLength(2);
    await ok('unpin', 'gpt', '100');
    await expect
      .poll(async () => (await client.snapshots.list('gpt')).map(({ step }) => step))
      .toEqual([200]);
    await ok('policy', 'gpt', '--keep-last', 'all', '--max-age', 'none');
    expect(await json('policy', 'gpt')).toMatchObject({
      policy: { keepLast: null, maxAgeMs: null },
    });
    expect(await ebb('rm', 'gpt')).toMatchObject({ code: 2 });
    await ok('rm', 'gpt', '200');
    expect(await ebb('latest', 'gpt')).toMatchObject({ code: 3 });
    expect(await ok('rm', 'gpt', '--all')).toBe('removed run gpt and 0 snapshots\n');
    expect((await json<{ runs: unknown[] }>('ls')).runs).toEqual([]);
  });
});

describe('export', () => {
  const matrix = randomBytes(6 * 10 * 2);
  /** Columns 0 to 3, and 4 to 9. */
  const columns = (from: number, to: number): Buffer =>
    Buffer.concat(
      Array.from({ length: 6 }, (_, row) =>
        matrix.subarray((row * 10 + from) * 2, (row * 10 + to) * 2),
      ),
    );
  const piece = (from: number, to: number): Made => ({
    ...{ name: 'split', dtype: 'bfloat16', shape: [6, to - from], bytes: columns(from, to) },
    piece: { shape: [6, 10], start: [0, from] },
  });
  const large = randomBytes(20 * MiB);
  const shared = randomBytes(40);
  const wanted = {
    split: { dtype: 'BF16', shape: [6, 10], bytes: matrix },
    large: { dtype: 'F32', shape: [5, MiB], bytes: large },
    shared: { dtype: 'F64', shape: [5], bytes: shared },
    scalar: { dtype: 'I64', shape: [], bytes: Buffer.alloc(8, 3) },
  };
  let file: string;

  beforeAll(async () => {
    const replica: Made = { name: 'shared', dtype: 'float64', shape: [5], bytes: shared };
    const scalar: Made = { name: 'scalar', dtype: 'int64', shape: [], bytes: Buffer.alloc(8, 3) };
    const first: Made[] = [
      { name: 'large', dtype: 'float32', shape: [5, MiB], bytes: large },
      ...[piece(0, 4), replica, scalar],
      { name: '', bytes: Buffer.from('a pickle') },
    ];
    await save('exported', 1, [imageOf(first), imageOf([piece(4, 10), replica])], {
      metadata: { lr: '0.1' },
    });
    file = join(dir, 'exported.safetensors');
  });

  test('tensors are whole in the file, pieces of several parts put together; the rest is named', async () => {
    const ran = await ebb('export', 'exported', '--to', file);
    expect(ran, ran.stderr).toMatchObject({ code: 0 });
    expect(ran.stdout).toMatch(/^step 1 of run exported: 4 tensors \(20\.0 MiB\)/);
    expect(ran.stderr).toMatch(/left out: \(what is no tensor\) of part rank-00000: 8 B of plain/);
    const { metadata, tensors } = await readSafetensors(file);
    expect(metadata).toEqual({ format: 'pt', lr: '0.1', 'ebb.run': 'exported', 'ebb.step': '1' });
    expect([...tensors.keys()].sort()).toEqual(Object.keys(wanted).sort());
    for (const [name, { dtype, shape, bytes }] of Object.entries(wanted)) {
      expect(tensors.get(name)).toMatchObject({ dtype, shape });
      expect(tensors.get(name)?.bytes.equals(bytes), name).toBe(true);
    }
    const piped = await promisify(execFile)(
      process.execPath,
      [
        ...[join(import.meta.dirname, '../bin/ebb.mjs'), 'checkpoint', 'export', 'exported'],
        ...['--prefix', 's', '--to', '-'],
      ],
      { env: { ...cleanEnv(), EBB_NODE: node.url }, encoding: 'buffer' },
    );
    expect(piped.stdout.readBigUInt64LE(0)).toBeGreaterThan(0n);
    expect(piped.stdout.includes(matrix)).toBe(true);
  });

  test('the package safetensors reads it', async (context) => {
    const python = await pythonWithSafetensors();
    if (python === undefined) {
      const reason = 'no Python here has the package safetensors: .ebb/venv, or EBB_TEST_PYTHON';
      process.stderr.write(`skipped: ${reason}\n`);
      return context.skip(reason);
    }
    const script = `
import hashlib, json, safetensors, sys
with open(sys.argv[1], "rb") as file: found = safetensors.deserialize(file.read())
print(json.dumps({name: [t["dtype"], t["shape"], hashlib.sha256(t["data"]).hexdigest()] for name, t in found}))`;
    const { stdout } = await promisify(execFile)(python, ['-c', script, file]);
    const { createHash } = await import('node:crypto');
    const hashed = Object.entries(wanted).map(([name, { dtype, shape, bytes }]) => [
      ...[name, [dtype, shape, createHash('sha256').update(bytes).digest('hex')]],
    ]);
    expect(JSON.parse(stdout)).toEqual(Object.fromEntries(hashed));
  });

  test('what does not make a whole tensor is refused, and leaves no file', async () => {
    const to = join(dir, 'half.safetensors');
    const half = await ebb('export', 'exported', '--part', 'rank-00001', '--to', to);
    expect(half).toMatchObject({ code: 2 });
    expect(half.stderr).toMatch(/"split" has 36 of its 60 elements/);
    expect(await ebb('export', 'exported', '--prefix', 'x', '--to', to)).toMatchObject({ code: 3 });
    await save('differs', 1, [
      imageOf([u8('same', Buffer.from('abc'))]),
      imageOf([u8('same', Buffer.from('abd'))]),
    ]);
    const differs = await ebb('export', 'differs', '--to', to);
    expect(differs.stderr).toMatch(/"same" is not the same in rank-00000 and rank-00001/);
    expect((await readdir(dir)).filter((name) => name.includes('half'))).toEqual([]);
    await ok('export', 'differs', '--part', 'rank-00001', '--to', to);
  });
});

test('a byte that went wrong on disk is found, with the shards that it is in and the step to go back to', async () => {
  // Of a mirrored one the node may bring the bytes of tier 2 to memory in their place.
  const bucket = 'unmirrored';
  await client.buckets.create(bucket, { mirror: false });
  const marked = Buffer.alloc(2 * MiB, 'bytes that nobody else has; ');
  const last = ['--bucket', bucket, '--for', 'disk', '--timeout', '60s'];
  await save('broken', 1, [imageOf([u8('fine', randomBytes(MiB))])], { bucket });
  const image = imageOf([u8('fine', randomBytes(MiB)), u8('marked', marked)]);
  await save('broken', 2, [image], { bucket });
  await ok('wait', 'broken', ...last);
  await breakFile(join(node.dataDir, 'disk'), marked.subarray(0, 100));
  // Not read before: what was read may have come up to memory, whole.
  const found = await ebb('verify', 'broken', '2', '--bucket', bucket);
  expect(found).toMatchObject({ code: 7 });
  expect(found.stdout).toMatch(/rank-00000 +stored +1048576 +256 KiB .* marked\n/);
  expect(found.stdout).toMatch(/The good one before is step 1/);
  // What memory has is whole; when that is given up, a restore stops.
  const to = join(dir, 'broken');
  await ok('restore', 'broken', '2', '--bucket', bucket, '--to', to);
  await save('broken', 3, [imageOf([u8('fine', randomBytes(MiB))])], { bucket });
  await ok('wait', 'broken', ...last);
  await expect
    .poll(async () => (await client.snapshots.get('broken', 2, { bucket })).inMemory)
    .toBe(false);
  const again = ['--bucket', bucket, '--to', to, '--overwrite'];
  expect(await ebb('restore', 'broken', '2', ...again)).toMatchObject({ code: 7 });
  await client.runs.remove('broken', { bucket });
});

test('kill -9 between commit and store loses nothing: the snapshot is read, and stored after the restart', async () => {
  const image = imageOf([u8('weights', randomBytes(192 * MiB))]);
  const committed = await save('killed', 7, [image]);
  const killing = node.kill();
  expect(committed).toMatchObject({ durability: 'memory', newBytes: null, inMemory: true });
  await killing;
  await node.start();
  expect(await ok('latest', 'killed')).toBe('7\n');
  const to = join(dir, 'killed');
  await ok('restore', 'killed', '--to', to);
  expect((await readFile(join(to, 'rank-00000.image'))).equals(image)).toBe(true);
  await ok('wait', 'killed', '--timeout', '120s');
  const stored = await json('show', 'killed');
  expect(stored).toMatchObject({ snapshot: { durability: 'remote', newBytes: image.length } });
  expect(await ok('verify', 'killed')).toMatch(/step 7 of run killed: 384 MiB read, 0 broken/);
});

test('ebb snapshot keeps a prefix or an object as it is, over kill -9, and brings it back', async () => {
  const snapshot = async (...args: string[]): Promise<Ran> =>
    await runEbb(['snapshot', ...args], { EBB_NODE: node.url });
  const listed = async (): Promise<string> =>
    (await client.list('data')).objects.map(({ key }) => key).join(' ');
  await client.buckets.create('data');
  for (const key of ['m/1', 'm/2', 'mm']) await client.put('data', key, Buffer.from(key));
  expect((await snapshot('create', 'data/m', 'before')).stdout).toBe(
    'snapshot before: 2 objects (6 B) of ebb://data/m/\n',
  );
  expect((await snapshot('create', 'data/mm', 'one', '--json')).stdout).toContain('"key":"mm"');
  expect(await snapshot('create', 'data/m/', 'before')).toMatchObject({ code: 4 });
  expect(await snapshot('create', 'data/none/', 'none')).toMatchObject({ code: 3 });
  await node.kill();
  await node.start();
  expect((await snapshot('ls')).stdout).toMatch(
    /before .* 2 +6 B +ebb:\/\/data\/m\/ +data-snapshots\/before\/\none .*ebb:\/\/data\/mm /,
  );
  await client.put('data', 'm/1', Buffer.from('changed'));
  await client.put('data', 'm/3', Buffer.from('new'));
  await client.delete('data', 'm/2');
  expect(await snapshot('restore', 'before')).toMatchObject({ code: 4 });
  expect((await snapshot('restore', 'before', '--exact')).stdout).toBe(
    'restored 2 objects (6 B) to ebb://data/m/, deleted 1\n',
  );
  expect(await listed()).toBe('m/1 m/2 mm');
  expect(await snapshot('restore', 'before', '--to', 'data/n')).toMatchObject({ code: 0 });
  expect(await snapshot('restore', 'one', '--to', 'data/n/')).toMatchObject({ code: 0 });
  expect(await listed()).toBe('m/1 m/2 mm n/1 n/2 n/mm');
  await using got = await client.get('data', 'n/1');
  expect(Buffer.concat(await Array.fromAsync(got.body)).toString()).toBe('m/1');
  expect(await snapshot('rm', 'before', 'one')).toMatchObject({ code: 0 });
  expect((await client.list('data-snapshots')).objects).toEqual([]);
  expect(await snapshot('restore', 'before')).toMatchObject({ code: 3 });
});

test('a node that has the remote tier of another imports its runs, and names what is not whole', async () => {
  const run = 'imported';
  for (const step of [1, 2]) {
    await save(run, step, [imageOf([u8('w', Buffer.alloc(MiB, `step ${step} `))])]);
    await ok('wait', run, String(step));
  }
  const remote = join(dir, 'copy');
  await cp(join(node.dataDir, 'remote'), remote, { recursive: true });
  const other = await startNodeProcess({ args: [`--remote=file://${remote}`] });
  try {
    const there = async (...args: string[]): Promise<Ran> =>
      await runEbb(['checkpoint', ...args], { EBB_NODE: other.url });
    expect(await there('import', 'nobody')).toMatchObject({
      code: 3,
      stderr: expect.stringContaining('no snapshots of run nobody in checkpoints') as string,
    });
    expect(await there('import', run)).toMatchObject({
      ...{ code: 0, stdout: `run ${run}: 2 snapshots imported; the latest is step 2\n` },
    });
    expect(await there('import', run)).toMatchObject({
      stdout: `run ${run}: 0 snapshots imported, 2 as they were; the latest is step 2\n`,
    });
    const [first, second] = (await there('ls', run)).stdout.trim().split('\n').slice(1);
    expect(first).toMatch(/^ *2 .* no +remote/);
    expect(second).toMatch(/^ *1 .* no +remote/);
    const torn = join(remote, `checkpoints/${run}/000000000003/manifest.json`);
    await mkdir(join(torn, '..'));
    await writeFile(torn, '{"format": ');
    const refused = await there('import', run, '--json');
    expect(refused).toMatchObject({ code: 7 });
    expect(JSON.parse(refused.stdout)).toMatchObject({
      refused: [
        { key: `${run}/000000000003/manifest.json`, problem: 'it is no JSON, or not whole' },
      ],
    });
    expect((await there('latest', run)).stdout).toBe('2\n');
  } finally {
    await other[Symbol.asyncDispose]();
  }
}, 120_000);

/** Changes one byte of the file that holds these bytes, behind the node's back. */
async function breakFile(root: string, bytes: Buffer): Promise<void> {
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const at = (await readFile(path)).indexOf(bytes);
    if (at < 0) continue;
    const file = await open(path, 'r+');
    await file.write(Buffer.from('X'), 0, 1, at + 10);
    await file.close();
    return;
  }
  throw new Error(`no file in ${root} holds these bytes`);
}

async function pythonWithSafetensors(): Promise<string | undefined> {
  const own = join(import.meta.dirname, '../../../.ebb/venv/bin/python');
  for (const python of [process.env['EBB_TEST_PYTHON'], own]) {
    if (python === undefined || !existsSync(python)) continue;
    const works = await promisify(execFile)(python, ['-c', 'import safetensors']).then(
      () => true,
      () => false,
    );
    if (works) return python;
  }
  return undefined;
}
