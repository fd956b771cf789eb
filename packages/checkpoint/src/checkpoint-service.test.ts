import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { resolvePolicy } from '@ebb/core';
import { MiB, manifestSchema } from '@ebb/protocol';
import { codeOf, createTestClock } from '@ebb/testkit';
import { afterEach, describe, expect, test } from 'vitest';
import { at, Bench, holdDisk, RUN, stateOf } from './testing/bench.ts';
import { buildImage, tableAndFooter } from './testing/build-image.ts';

let bench: Bench;
afterEach(async () => {
  await bench[Symbol.asyncDispose]();
});

describe('a snapshot', () => {
  test('is not seen before all its parts are there, and then whole', async () => {
    bench = await Bench.open();
    const [one, two] = [stateOf(1, () => 1), stateOf(2, () => 1)];
    await bench.hand(7, 'rank-00000', one);
    const committing = bench.service.commit(at(7), {
      ...{
        session: 's1',
        parts: ['rank-00000', 'rank-00001'],
        metadata: { loss: '2.5' },
        overwrite: true,
      },
    });
    expect(await bench.service.list(RUN)).toEqual([]);
    expect(await codeOf(bench.service.get({ ...RUN, step: 'latest' }))).toBe('not_found');
    await bench.hand(7, 'rank-00001', two);
    expect(await committing).toMatchObject({ step: 7, metadata: { loss: '2.5' }, inMemory: true });
    const plan = await bench.service.plan({ ...RUN, step: 'latest' });
    expect((await bench.read(plan, 0)).equals(one)).toBe(true);
    expect((await bench.read(plan, 1)).equals(two)).toBe(true);
    expect(plan.parts[1]?.shards).toMatchObject([{ name: 'weights', dtype: 'uint8' }]);
  });

  test('of which a part never comes is no snapshot, and an abort throws away what came', async () => {
    bench = await Bench.open();
    const begun = await bench.hand(
      7,
      'rank-00000',
      stateOf(1, () => 1),
    );
    const missing = { session: 's1', parts: ['rank-00000', 'rank-00001'], metadata: {} };
    const commit = bench.service.commit(at(7), { ...missing, overwrite: true, waitMs: 30 });
    expect(await codeOf(commit)).toBe('busy');
    await bench.service.abort(at(7), 's1');
    expect(begun.decision === 'go' && (await bench.at.store.find(begun))).toBeUndefined();
    const late = bench.service.commit(at(7), { ...missing, overwrite: true, waitMs: 30 });
    expect(await codeOf(late)).toBe('superseded');
    expect(await bench.service.list(RUN)).toEqual([]);
  });

  test('is never made of parts of two sessions', async () => {
    bench = await Bench.open();
    await bench.hand(
      7,
      'rank-00000',
      stateOf(1, () => 1),
      'dead',
    );
    await bench.hand(
      7,
      'rank-00001',
      stateOf(1, () => 2),
      'alive',
    );
    const parts = ['rank-00000', 'rank-00001'];
    const commit = (session: string) =>
      codeOf(
        bench.service.commit(at(7), { session, parts, metadata: {}, overwrite: true, waitMs: 30 }),
      );
    expect(await commit('dead')).toBe('superseded');
    expect(await commit('alive')).toBe('busy');
  });

  test('with an image that is none is refused, and says which part', async () => {
    bench = await Bench.open();
    const shards = (more: object) => [{ name: 'a', offset: 0, length: 8, ...more }];
    const broken = {
      'no footer': Buffer.from('x'.repeat(100)),
      'cut table': stateOf(1, () => 1).subarray(0, -1),
      'shard beyond the end': Buffer.concat([Buffer.alloc(4), tableAndFooter(shards({}), 4)]),
      'length of another shape': Buffer.concat([
        Buffer.alloc(8),
        tableAndFooter(shards({ dtype: 'float32', shape: [3] }), 8),
      ]),
      'piece outside of its tensor': Buffer.concat([
        Buffer.alloc(8),
        tableAndFooter(
          shards({ dtype: 'float32', shape: [2], piece: { shape: [3], start: [2] } }),
          8,
        ),
      ]),
    };
    for (const [what, image] of Object.entries(broken)) {
      await bench.hand(7, 'rank-00000', image, 'bad');
      const options = { session: 'bad', parts: ['rank-00000'], metadata: {}, overwrite: true };
      expect(await codeOf(bench.service.commit(at(7), options)), what).toBe('data_corrupt');
      await bench.service.abort(at(7), 'bad');
    }
    expect(await bench.service.list(RUN)).toEqual([]);
  });

  test('that a job saves once more, after it went back, is another session of that job', async () => {
    bench = await Bench.open();
    const hand = (step: number, part: string, n: number, session: string) =>
      bench.hand(
        step,
        part,
        stateOf(1, () => n),
        session,
      );
    await bench.save(
      5,
      stateOf(1, () => 1),
    );
    // Its images are not written again under the names that they have.
    expect(await codeOf(hand(5, 'rank-00000', 2, 's1'))).toBe('already_committed');
    // What is on its way is not thrown away by a session of the same job.
    await hand(6, 'rank-00000', 3, 's1');
    await hand(5, 'rank-00000', 4, 's1~1');
    const options = { parts: ['rank-00000'], metadata: {}, overwrite: true };
    await bench.service.commit(at(6), { ...options, session: 's1' });
    await bench.service.commit(at(5), { ...options, session: 's1~1' });
    await hand(5, 'rank-00000', 5, 's1~2');
    await bench.service.commit(at(5), { ...options, session: 's1~2' });
    for (const [step, n] of [
      [6, 3],
      [5, 5],
    ] as const) {
      const found = await bench.read(await bench.service.plan(at(step)));
      expect(found.equals(stateOf(1, () => n))).toBe(true);
    }
    await hand(9, 'rank-00000', 7, 's1~2');
    await hand(10, 'rank-00000', 7, 's2');
    const late = { ...options, session: 's1~2', waitMs: 0 };
    const dropped = bench.service.commit(at(9), late);
    expect(await codeOf(dropped)).toBe('superseded');
  });

  test('committed again by the same session is the same; by another it replaces, unless that is forbidden', async () => {
    bench = await Bench.open();
    const first = await bench.save(
      7,
      stateOf(1, () => 1),
    );
    const again = { session: 's1', parts: ['rank-00000'], metadata: {}, overwrite: false };
    expect((await bench.service.commit(at(7), again)).committedAtMs).toBe(first.committedAtMs);
    const other = bench.save(
      7,
      stateOf(1, () => 2),
      { session: 's2', overwrite: false },
    );
    expect(await codeOf(other)).toBe('already_exists');
    await bench.save(
      7,
      stateOf(1, () => 3),
      { session: 's3' },
    );
    const plan = await bench.service.plan(at(7));
    expect((await bench.read(plan)).equals(stateOf(1, () => 3))).toBe(true);
    expect(await bench.service.list(RUN)).toHaveLength(1);
  });
});

describe('stored behind the back of the job', () => {
  test('a snapshot is in the bucket as data objects and a manifest that any reader can use', async () => {
    bench = await Bench.open();
    const image = stateOf(5, () => 1);
    await bench.save(1, image);
    await bench.service.wait(at(1), 'remote');
    const remote = join(bench.at.root, 'remote', 'checkpoints');
    const text = await readFile(join(remote, 'gpt/000000000001/manifest.json'), 'utf8');
    const [part] = manifestSchema.parse(JSON.parse(text)).parts;
    const pieces = (part?.runs ?? []).map(async ([, length, key, offset]) =>
      (await readFile(join(remote, key))).subarray(offset, offset + length),
    );
    expect(Buffer.concat(await Promise.all(pieces)).equals(image)).toBe(true);
    expect(await bench.service.verify(at(1))).toMatchObject({ broken: [] });
  });

  test('only what changed is stored, and every snapshot is read back whole', async () => {
    bench = await Bench.open();
    const images = [1, 2, 3, 4].map((step) => stateOf(10, (block) => (block === step ? step : 0)));
    for (const [n, image] of images.entries()) {
      await bench.save(n + 1, image);
      await bench.service.wait(at(n + 1), 'disk');
    }
    const infos = (await bench.service.list(RUN)).toReversed();
    expect(infos.map(({ newBytes }) => (newBytes ?? 0) / MiB).map(Math.floor)).toEqual([
      10, 2, 2, 2,
    ]);
    expect(infos.map(({ inMemory }) => inMemory)).toEqual([false, false, false, true]);
    for (const [n, image] of images.entries())
      expect((await bench.read(await bench.service.plan(at(n + 1)), 0, 'runs')).equals(image)).toBe(
        true,
      );
  });

  test('a snapshot that shares its blocks may go: the others stay whole, and in the end nothing is left', async () => {
    bench = await Bench.open();
    const images = [1, 2, 3].map((step) => stateOf(6, (block) => (block === step ? step : 0)));
    for (const [n, image] of images.entries()) {
      await bench.save(n + 1, image);
      await bench.service.wait(at(n + 1), 'remote');
    }
    await bench.service.remove(at(1));
    await bench.service.remove(at(2));
    const plan = await bench.service.plan(at(3));
    expect((await bench.read(plan, 0, 'runs')).equals(images[2] as Buffer)).toBe(true);
    await bench.service.removeRun(RUN);
    const left = await bench.at.store.bucketTotals('checkpoints');
    expect(left).toMatchObject({ objects: 0 });
    expect(await bench.at.store.bucketTotals('checkpoint-images')).toMatchObject({ objects: 0 });
  });

  test('a step that is saved anew while others share the old one’s blocks leaves them whole', async () => {
    bench = await Bench.open();
    const [first, second, anew] = [
      stateOf(4, () => 1),
      stateOf(4, (b) => (b === 2 ? 2 : 1)),
      stateOf(4, () => 3),
    ];
    await bench.save(1, first);
    await bench.service.wait(at(1), 'disk');
    await bench.save(2, second);
    await bench.service.wait(at(2), 'disk');
    await bench.save(1, anew, { session: 's2' });
    await bench.service.wait(at(1), 'disk');
    expect((await bench.read(await bench.service.plan(at(1)), 0, 'runs')).equals(anew)).toBe(true);
    expect((await bench.read(await bench.service.plan(at(2)), 0, 'runs')).equals(second)).toBe(
      true,
    );
  });

  test('parts that are called as others’ objects are keep bytes of their own', async () => {
    bench = await Bench.open();
    const save = async (step: number, session: string, images: Record<string, Buffer>) => {
      const parts = Object.keys(images);
      for (const part of parts) await bench.hand(step, part, images[part] as Buffer, session);
      const options = { session, parts, metadata: {}, overwrite: true };
      await bench.service.commit(at(step), options);
      await bench.service.wait(at(step), 'disk');
    };
    const image = (text: string): Buffer => buildImage({ weights: Buffer.alloc(2 * MiB, text) });
    const first = image('of step 1 ');
    await save(1, 's1', { a: first });
    await save(2, 's1', { a: first });
    const anew = { a: image('a, once more '), 'a.1': image('a.1, once more ') };
    await save(1, 's2', anew);
    const plan = await bench.service.plan(at(1));
    expect((await bench.read(plan, 0, 'runs')).equals(anew.a)).toBe(true);
    expect((await bench.read(plan, 1, 'runs')).equals(anew['a.1'])).toBe(true);
    expect(await codeOf(bench.hand(3, 'manifest.json', image('x')))).toBe('name_invalid');
  });

  test('the run’s policy keeps the last ones', async () => {
    bench = await Bench.open();
    await bench.service.putRun(RUN, { keepLast: 2, keepEvery: 4 });
    for (let step = 1; step <= 7; step++) {
      await bench.save(
        step,
        stateOf(2, () => step),
      );
      await bench.service.wait(at(step), 'disk');
    }
    await expect
      .poll(async () => (await bench.service.list(RUN)).map(({ step }) => step))
      .toEqual([7, 6, 4]);
  });

  test('when it is behind: a snapshot waits for a slot, or is left out, as the run says', async () => {
    const disk = holdDisk();
    bench = await Bench.open({ faults: disk });
    await bench.save(
      1,
      stateOf(1, () => 1),
    );
    await bench.save(
      2,
      stateOf(1, () => 2),
    );
    const want = { session: 's1', part: 'rank-00000', imageBytes: MiB };
    expect(await codeOf(bench.service.begin(at(3), { ...want, waitMs: 20 }))).toBe('busy');
    await bench.service.putRun(RUN, { behind: 'skip' });
    expect(await bench.service.begin(at(3), want)).toMatchObject({ decision: 'skip' });
    await bench.service.putRun(RUN, { behind: 'spill' });
    // The other ranks are told what the first one was.
    const other = { ...want, part: 'rank-00001' };
    expect(await bench.service.begin(at(3), other)).toMatchObject({ decision: 'skip' });
    expect(await bench.service.begin(at(5), want)).toMatchObject({ decision: 'go' });
    await bench.service.abort(at(5), 's1');
    await bench.service.putRun(RUN, { behind: 'wait' });
    const waiting = bench.service.begin(at(4), want);
    disk.release();
    expect(await waiting).toMatchObject({ decision: 'go' });
  });
});

test('a node without runs lists no bucket that nobody made', async () => {
  bench = await Bench.open();
  const names = async (): Promise<readonly string[]> =>
    (await bench.at.store.listBuckets()).map(({ name }) => name);
  expect(await names()).not.toContain('checkpoint-images');
  await bench.service.putRun(RUN, {});
  expect(await names()).toContain('checkpoint-images');
  await bench.crash();
  expect(await names()).toContain('checkpoint-images');
});

test('what a client had made ready and did not give back is gone after a restart', async () => {
  bench = await Bench.open();
  await bench.service.putRun(RUN, {});
  await bench.at.put('checkpoint-images', '.prepared/s1/0/0', Buffer.alloc(1));
  const begun = await bench.hand(
    1,
    'rank-00000',
    stateOf(1, () => 1),
  );
  await bench.crash();
  const { objects } = await bench.at.store.listRecords('checkpoint-images', {
    ...{ prefix: '', delimiter: '', startAfter: '', limit: 10 },
  });
  expect(objects.map(({ key }) => key)).toEqual([begun.decision === 'go' ? begun.key : '']);
});

test('a part that comes after its snapshot was given up goes with the next sweep, and takes no slot', async () => {
  const clock = createTestClock(Date.now());
  bench = await Bench.open();
  await bench.service.close();
  bench.service = await bench.openService(clock);
  const image = stateOf(1, () => 1);
  const part = { session: 's1', part: 'rank-00000', imageBytes: image.length };
  const begun = await bench.service.begin(at(1), part);
  await bench.service.abort(at(1), 's1');
  const name = begun.decision === 'go' ? begun : { bucket: '', key: '' };
  await bench.at.put(name.bucket, name.key, image);
  await clock.advance(61_000);
  await expect.poll(async () => await bench.at.store.find(name)).toBeUndefined();
});

test('a drain waits until what is in memory alone is stored', async () => {
  const disk = holdDisk();
  bench = await Bench.open({ faults: disk });
  await bench.save(
    1,
    stateOf(1, () => 1),
  );
  await bench.service.drain(50);
  expect((await bench.service.get(at(1))).durability).toBe('memory');
  const draining = bench.service.drain(30_000);
  disk.release();
  await draining;
  expect((await bench.service.get(at(1))).durability).not.toBe('memory');
});

describe('after a crash', () => {
  test('of the daemon: what was committed is there, is stored, and what was not is not', async () => {
    bench = await Bench.open();
    const image = stateOf(3, () => 1);
    await bench.save(1, image);
    await bench.hand(
      2,
      'rank-00000',
      stateOf(3, () => 2),
    );
    await bench.crash();
    expect((await bench.service.list(RUN)).map(({ step }) => step)).toEqual([1]);
    expect((await bench.read(await bench.service.plan(at(1)))).equals(image)).toBe(true);
    await bench.service.wait(at(1), 'remote');
    // The job lives, and goes on with what it had handed over.
    const options = { session: 's1', parts: ['rank-00000'], metadata: {}, overwrite: true };
    await bench.service.commit(at(2), options);
    expect((await bench.service.get({ ...RUN, step: 'latest' })).step).toBe(2);
  });

  test('of the host: what was in memory alone is gone, and said; what was stored is there', async () => {
    const disk = holdDisk();
    bench = await Bench.open({ faults: disk });
    disk.release();
    const image = stateOf(3, () => 1);
    await bench.save(1, image);
    await bench.service.wait(at(1), 'remote');
    disk.hold();
    await bench.save(
      2,
      stateOf(3, () => 2),
    );
    await bench.crash({ loseMemory: true, release: disk.release });
    const latest = await bench.service.plan({ ...RUN, step: 'latest' });
    expect(latest.snapshot).toMatchObject({ step: 1, inMemory: false });
    expect((await bench.read(latest, 0, 'runs')).equals(image)).toBe(true);
    expect(bench.errors.map(String).join()).toContain('gpt/000000000002 was in memory alone');
  });

  test('a snapshot that replaced another and was lost with memory gives that one back', async () => {
    const disk = holdDisk();
    bench = await Bench.open({ faults: disk });
    disk.release();
    const image = stateOf(3, () => 1);
    await bench.save(1, image);
    await bench.service.wait(at(1), 'remote');
    disk.hold();
    await bench.save(
      1,
      stateOf(3, () => 2),
      { session: 's2' },
    );
    await bench.crash({ loseMemory: true, release: disk.release });
    const plan = await bench.service.plan(at(1));
    expect(plan.snapshot.session).toBe('s1');
    expect((await bench.read(plan, 0, 'runs')).equals(image)).toBe(true);
    await bench.service.wait(at(1), 'remote');
  });
});

describe('verify', () => {
  test('names the shard in which a byte was flipped, where it lies, and the snapshot before', async () => {
    bench = await Bench.open();
    await bench.save(
      1,
      stateOf(2, () => 1),
    );
    await bench.service.wait(at(1), 'disk');
    const bytes = Buffer.alloc(3 * MiB, 'first ');
    await bench.save(2, buildImage({ 'layer.0': bytes, 'layer.1': bytes.map((n) => n ^ 255) }));
    await bench.service.wait(at(2), 'disk');
    const plan = await bench.service.plan(at(2));
    const { bucket, key } = plan.parts[0]?.image ?? { bucket: '', key: '' };
    const view = await bench.at.store.head({ bucket, key });
    const blobId = view.object.extents[0]?.blobId ?? 0;
    const file = bench.at.tiers.memory.absolutePath(blobId);
    await using handle = await open(file, 'r+');
    await handle.write(Buffer.from([7]), 0, 1, 4 * MiB + 5);
    const found = await bench.service.verify(at(2));
    expect(found.broken).toMatchObject([
      { part: 'rank-00000', source: 'image', offset: 4 * MiB, shards: ['layer.1'] },
    ]);
    expect(found.fallback).toBe(1);
    await bench.service.setBad(at(2), 'a flipped byte');
    expect((await bench.service.get({ ...RUN, step: 'latest' })).step).toBe(1);
  });
});

test('names of runs and steps that cannot be are refused', async () => {
  bench = await Bench.open();
  const begin = { session: 's', part: 'p', imageBytes: 1 };
  expect(await codeOf(bench.service.begin({ ...at(1), run: 'a/b' }, begin))).toBe('name_invalid');
  expect(await codeOf(bench.service.begin(at(-1), begin))).toBe('request_invalid');
  expect(await codeOf(bench.service.begin(at(1), { ...begin, imageBytes: 1e12 }))).toBe(
    'tier_full',
  );
  await bench.at.store.createBucket('fast', resolvePolicy({ preset: 'ephemeral' }));
  await bench.service.putRun({ bucket: 'fast', run: 'x' }, {});
  expect(await bench.service.listRuns('fast')).toHaveLength(1);
});
