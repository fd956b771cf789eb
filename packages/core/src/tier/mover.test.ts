import { EventEmitter } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { stat, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { bytesOf, smallTmpfs, tempDir } from '@ebb/testkit';
import { expect, onTestFinished, test } from 'vitest';
import { crc32c } from '../checksum.ts';
import { createMover, type MoverOptions } from './mover.ts';
import type { Mover } from './tier.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

async function setUp(
  options: MoverOptions = {},
): Promise<{ mover: Mover; file: (name: string, content?: Uint8Array) => string }> {
  const mover = createMover(options);
  onTestFinished(async () => await mover.close());
  const directory = await tempDir();
  return {
    mover,
    file: (name, content) => {
      const path = join(directory, name);
      if (content !== undefined) writeFileSync(path, content);
      return path;
    },
  };
}

test('copies exactly the bytes asked for, and says their checksum', async () => {
  const { mover, file } = await setUp();
  for (const sizeBytes of [0, 1, MiB - 1, MiB, 3 * MiB + 5]) {
    const content = bytesOf(sizeBytes, sizeBytes);
    const from = file('from', Buffer.concat([content, Buffer.from('old tail')]));
    const to = file('to', Buffer.alloc(sizeBytes + 100, 7));
    for (const sync of [false, true]) {
      expect(await mover.copy({ from, to, sizeBytes, sync })).toBe(crc32c(content));
    }
    const copied = readFileSync(to);
    expect(copied.subarray(0, sizeBytes).equals(content)).toBe(true);
    expect(copied.subarray(sizeBytes).equals(Buffer.alloc(100, 7))).toBe(true);
    expect(await mover.checksum(from, sizeBytes)).toBe(crc32c(content));
  }
});

test('a copy is not done before the directory that has its name is synced', async () => {
  const { mover, file } = await setUp();
  const content = bytesOf(1000, 1);
  const from = file('from', content);
  const copy = { from, to: file('to', Buffer.alloc(0)), sizeBytes: 1000, sync: true };
  expect(await mover.copy({ ...copy, directory: dirname(from) })).toBe(crc32c(content));
  await expect(mover.copy({ ...copy, directory: file('no') })).rejects.toMatchObject({
    code: 'io_failed',
  });
});

test('a source that is missing or shorter is data_lost; a target that is missing is io_failed', async () => {
  const { mover, file } = await setUp();
  const from = file('from', bytesOf(100, 1));
  const to = file('to', Buffer.alloc(0));
  const copy = { from, to, sizeBytes: 100, sync: false };
  await expect(mover.copy({ ...copy, sizeBytes: 101 })).rejects.toMatchObject({
    code: 'data_lost',
  });
  await expect(mover.copy({ ...copy, from: file('no') })).rejects.toMatchObject({
    code: 'data_lost',
  });
  await expect(mover.copy({ ...copy, to: file('no') })).rejects.toMatchObject({
    code: 'io_failed',
  });
  await expect(mover.checksum(from, 101)).rejects.toMatchObject({ code: 'data_lost' });
  await expect(mover.checksum(file('no'), 0)).rejects.toMatchObject({ code: 'data_lost' });
  truncateSync(from, 50);
  await expect(mover.checksum(from, 100)).rejects.toMatchObject({
    code: 'data_lost',
    message: expect.stringContaining('ends at 50 of 100'),
  });
  await symlink(from, file('link'));
  await expect(mover.checksum(file('link'), 1)).rejects.toMatchObject({ code: 'io_failed' });
});

test('populating makes the pages present', async () => {
  const { mover } = await setUp();
  const path = join(await tempDir('/dev/shm'), 'slot');
  writeFileSync(path, '');
  await mover.populate(path, 2 * MiB + 1);
  expect(await stat(path)).toMatchObject({ size: 2 * MiB + 1, blocks: (2 * MiB + 4 * KiB) / 512 });
});

test('a full file system is tier_full', async () => {
  const { mover, file } = await setUp();
  const full = await smallTmpfs(MiB);
  if (full === undefined) return;
  const to = join(full, 'to');
  writeFileSync(to, '');
  const from = file('from', bytesOf(2 * MiB, 1));
  const copy = { from, to, sizeBytes: 2 * MiB, sync: true };
  await expect(mover.copy(copy)).rejects.toMatchObject({ code: 'tier_full' });
});

test('aborting ends a queued job at once and a running one soon; others go on', async () => {
  const { mover, file } = await setUp();
  const content = bytesOf(32 * MiB, 1);
  const from = file('from', content);
  const job = (name: string, signal?: AbortSignal): Promise<number> =>
    mover.copy({
      from,
      to: file(name, Buffer.alloc(0)),
      sizeBytes: content.length,
      sync: false,
      ...(signal === undefined ? {} : { signal }),
    });
  await expect(job('0', AbortSignal.abort())).rejects.toMatchObject({ code: 'aborted' });
  const [running, queued] = [new AbortController(), new AbortController()];
  const jobs = [job('1', running.signal), job('2', queued.signal), job('3')] as const;
  queued.abort();
  await expect(jobs[1]).rejects.toMatchObject({ code: 'aborted' });
  running.abort(new Error('lost interest'));
  await expect(jobs[0]).rejects.toMatchObject({
    code: 'aborted',
    cause: expect.objectContaining({ message: 'lost interest' }),
  });
  expect(await jobs[2]).toBe(crc32c(content));
});

test('small jobs that wait with the worker are stopped one by one', async () => {
  const { mover, file } = await setUp();
  const content = bytesOf(1000, 1);
  const from = file('from', content);
  const stops = Array.from({ length: 4 }, () => new AbortController());
  const jobs = stops.map(({ signal }) => mover.checksum(from, 1000, { signal }));
  const settled = Promise.allSettled(jobs);
  stops[1]?.abort();
  stops[2]?.abort();
  const [first, second, third, fourth] = await settled;
  const done = { status: 'fulfilled', value: crc32c(content) };
  const stopped = { status: 'rejected', reason: { code: 'aborted' } };
  expect([first, second, third, fourth]).toMatchObject([done, stopped, stopped, done]);
});

/** Holds its answers back until the gate is 1, and then answers in order: stopped where it was told so. */
const GATED_WORKER = `
  const { parentPort, workerData } = require('node:worker_threads');
  const cancelled = new Int32Array(workerData.cancel);
  parentPort.on('message', ({ jobId, place }) => {
    Atomics.wait(new Int32Array(workerData.gate), 0, 0);
    const isStopped = Atomics.load(cancelled, place) === jobId;
    const failed = { failed: 'aborted', message: '', errno: '', details: {} };
    parentPort.postMessage({ jobId, ...(isStopped ? failed : { sums: { crc32c: 0, blocks: [] } }) });
  });`;

test('each job that is told to stop stops, also one that hangs while others with its worker are stopped after it', async () => {
  const gate = new SharedArrayBuffer(4);
  const { mover } = await setUp({
    workers: 3,
    startWorker: (data) => new Worker(GATED_WORKER, { eval: true, workerData: { ...data, gate } }),
  });
  // The small ones are with one worker, the others with two more: so their numbers have gaps.
  const stops = [64, 1024, 64, 1024, 64, 64].map((size) => ({ size, stop: new AbortController() }));
  const jobs = stops.map(({ size, stop: { signal } }) =>
    mover.checksum('file', size * KiB, { signal }),
  );
  const settled = Promise.allSettled(jobs);
  for (const { stop } of stops) stop.abort();
  Atomics.store(new Int32Array(gate), 0, 1);
  Atomics.notify(new Int32Array(gate), 0);
  for (const result of await settled)
    expect(result).toMatchObject({ status: 'rejected', reason: { code: 'aborted' } });
});

test('a job tells its progress: that of what it waits for, then its own', async () => {
  const { mover, file } = await setUp();
  const from = file('from', bytesOf(100, 1));
  truncateSync(from, 256 * MiB);
  const to = file('to', Buffer.alloc(0));
  const seen: Set<number>[] = [new Set(), new Set()];
  const jobs = seen.map((values, n) =>
    mover.copy({
      ...{ from, to: n === 0 ? to : file('other', Buffer.alloc(0)), sizeBytes: 256 * MiB },
      sync: false,
      onAccepted: (progress) => {
        const looking = setInterval(() => values.add(progress()), 2);
        onTestFinished(() => clearInterval(looking));
      },
    }),
  );
  await Promise.all(jobs);
  for (const values of seen) expect(values.size).toBeGreaterThan(3);
});

test('large jobs leave a worker to small ones, which go past those that wait', async () => {
  const order: string[] = [];
  const { mover, file } = await setUp({ workers: 3 });
  const from = file('from', bytesOf(100, 1));
  truncateSync(from, 512 * MiB);
  const stop = new AbortController();
  const larges = [1, 2, 3, 4].map((number) =>
    mover
      .checksum(from, 512 * MiB, { signal: stop.signal })
      .catch(() => 0)
      .then(() => void order.push(`large ${number}`)),
  );
  for (const sizeBytes of [100, 8 * MiB]) {
    await mover.checksum(from, sizeBytes);
    order.push('small');
  }
  expect(order).toEqual(['small', 'small']);
  stop.abort();
  await Promise.all(larges);
});

test('many jobs at once all get their own answer, with more than one worker', async () => {
  const { mover, file } = await setUp({ workers: 2 });
  const contents = Array.from({ length: 50 }, (_, index) => bytesOf(index * 1000, index));
  const sums = await Promise.all(
    contents.map(async (content, index) =>
      mover.checksum(file(`${index}`, content), content.length),
    ),
  );
  expect(sums).toEqual(contents.map((content) => crc32c(content)));
});

test('a worker that dies fails its job, and the next job gets a new worker', async () => {
  let started = 0;
  const { mover, file } = await setUp({
    startWorker: (data) => {
      started++;
      return started === 1
        ? new Worker(
            `require('node:worker_threads').parentPort.once('message', () => process.exit(3))`,
            { eval: true },
          )
        : new Worker(new URL('./mover-worker.ts', import.meta.url), { workerData: data });
    },
  });
  const from = file('from', bytesOf(100, 1));
  const [first, second] = [mover.checksum(from, 100), mover.checksum(from, 100)];
  await expect(first).rejects.toMatchObject({ code: 'io_failed', cause: expect.any(Error) });
  expect(await second).toBe(crc32c(bytesOf(100, 1)));
  expect(started).toBe(2);
});

test('closing a mover whose worker does not end says of the job that runs that it may have been done', async () => {
  const stuck = Object.assign(new EventEmitter(), {
    ...{ postMessage: () => undefined, ref: () => undefined, unref: () => undefined },
    terminate: () => new Promise<number>(() => undefined),
  });
  const { mover } = await setUp({ startWorker: () => stuck as unknown as Worker });
  const settled = Promise.allSettled([mover.checksum('running', 1), mover.checksum('ahead', 1)]);
  await mover.close();
  expect(await settled).toMatchObject([
    { reason: { code: 'io_failed', retry: 'ambiguous' } },
    { reason: { code: 'draining', retry: 'safe' } },
  ]);
});

test('the queue is bounded, and closing refuses what waits and what comes', async () => {
  const { mover, file } = await setUp({ queueMax: 1 });
  const from = file('from', bytesOf(8 * MiB, 1));
  const running = mover.checksum(from, 8 * MiB);
  const waiting = mover.checksum(from, 1);
  await expect(mover.checksum(from, 1)).rejects.toMatchObject({ code: 'busy' });
  const settled = Promise.allSettled([running, waiting]);
  await mover.close();
  const [, second] = await settled;
  expect(second).toMatchObject({ status: 'rejected', reason: { code: 'draining' } });
  await expect(mover.checksum(from, 1)).rejects.toMatchObject({ code: 'draining' });
});
