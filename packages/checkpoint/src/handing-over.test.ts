import { resolvePolicy } from '@ebb/core';
import { MiB } from '@ebb/protocol';
import { codeOf, createTestClock } from '@ebb/testkit';
import { afterEach, describe, expect, test } from 'vitest';
import { at, Bench, holdDisk, RUN, stateOf } from './testing/bench.ts';

const LATEST = { ...RUN, step: 'latest' } as const;
const IMAGES = 'checkpoint-images';

let bench: Bench;
afterEach(async () => {
  await bench[Symbol.asyncDispose]();
});

/** A state of 1 MiB that tells who saved it. */
const image = (n: number): Buffer => stateOf(1, () => n);
const options = { parts: ['rank-00000'], metadata: {}, overwrite: true };
const want = (session = 's1', part = 'rank-00000') => ({ session, part, imageBytes: MiB });
const commit = async (step: number, session = 's1', more: object = {}) =>
  await bench.service.commit(at(step), { ...options, session, ...more });
const messageOf = async (work: Promise<unknown>): Promise<string> =>
  await work.then(
    () => 'no error',
    (error: Error) => error.message,
  );
const stepsOf = async (): Promise<readonly number[]> =>
  (await bench.service.list(RUN)).map(({ step }) => step);

async function imagesLeft(): Promise<readonly string[]> {
  const all = { prefix: '', delimiter: '', startAfter: '', limit: 1000 };
  const { objects } = await bench.at.store.listRecords(IMAGES, all);
  return objects.map(({ key }) => key).filter((key) => !key.endsWith('.manifest'));
}

/** With a clock of its own, which moves when the test says so. */
async function openOnClock(options: Parameters<typeof Bench.open>[0] = {}) {
  const clock = createTestClock(Date.now());
  bench = await Bench.open(options);
  await bench.service.close();
  bench.service = await bench.openService(clock);
  return clock;
}

describe('two jobs in one run', () => {
  test('the one that began to save last goes on, and the other is told who took over, also after a restart', async () => {
    bench = await Bench.open();
    await bench.save(1, image(1), { session: 'old' });
    await bench.hand(2, 'rank-00000', image(2), 'old');
    await bench.save(2, image(3), { session: 'new' });
    const told = /session old.* session new took over at step 2/;
    expect(await messageOf(commit(2, 'old'))).toMatch(told);
    await bench.crash();
    for (const late of [
      bench.service.begin(at(3), want('old')),
      bench.service.begin(at(3), want('old~1')),
      commit(3, 'old'),
    ])
      expect(await messageOf(late)).toMatch(told);
    await bench.save(3, image(4), { session: 'new' });
    expect(await stepsOf()).toEqual([3, 2, 1]);
    expect((await bench.read(await bench.service.plan(at(2)))).equals(image(3))).toBe(true);
  });

  test('whoever is interrupted by whom: what is listed can be read, and the next save waits for nothing', async () => {
    bench = await Bench.open();
    const errors: string[] = [];
    const live = async (job: string, offset: number): Promise<void> => {
      for (let n = 0; n < 12; n++)
        try {
          await bench.save(2 * n + offset, image(offset), { session: `${job}-${n % 4}` });
        } catch (error) {
          errors.push((error as { code: string }).code);
        }
    };
    await Promise.all([live('a', 0), live('b', 1)]);
    expect(new Set(errors)).toEqual(new Set(['superseded']));
    for (const { step } of await bench.service.list(RUN)) {
      const found = await bench.read(await bench.service.plan(at(step)));
      expect(found.equals(image(step % 2))).toBe(true);
      await bench.service.wait(at(step), 'disk');
    }
    expect(await bench.service.begin(at(100), { ...want('c'), waitMs: 0 })).toMatchObject({
      decision: 'go',
    });
  });

  test('a commit that waits for parts when another job takes over ends at once', async () => {
    bench = await Bench.open();
    await bench.hand(1, 'rank-00000', image(1), 'old');
    const waiting = codeOf(commit(1, 'old', { parts: ['rank-00000', 'rank-00001'] }));
    await bench.service.begin(at(1), want('new'));
    expect(await waiting).toBe('superseded');
    expect(await imagesLeft()).toEqual([]);
  });
});

describe('a slot', () => {
  test('is given back by each of two snapshots that were committed in one millisecond', async () => {
    const clock = await openOnClock();
    for (const step of [1, 2]) await bench.save(step, image(step));
    for (const step of [1, 2]) await bench.service.wait(at(step), 'disk');
    await bench.save(3, image(3));
    await bench.service.wait(at(3), 'disk');
    expect(clock.now()).toBe((await bench.service.get(at(1))).committedAtMs);
    await expect
      .poll(async () => (await bench.service.list(RUN)).map(({ inMemory }) => inMemory))
      .toEqual([true, false, false]);
  });

  test('is not held by what was replaced, when steps are saved twice and the node sweeps', async () => {
    const clock = await openOnClock();
    for (const step of [1, 2, 3])
      for (const session of [`s1~${2 * step}`, `s1~${2 * step + 1}`])
        await bench.save(step, image(step), { session });
    for (const step of [1, 2, 3]) await bench.service.wait(at(step), 'remote');
    await clock.advance(61_000);
    expect(await bench.service.begin(at(4), { ...want('s1~7'), waitMs: 0 })).toMatchObject({
      decision: 'go',
    });
    await bench.service.removeRun(RUN);
    expect(await bench.at.store.bucketTotals(IMAGES)).toMatchObject({ objects: 0 });
    expect(await bench.at.store.bucketTotals(RUN.bucket)).toMatchObject({ objects: 0 });
  });

  test('that was given and not used is soon free when the same rank asks for another step', async () => {
    const clock = await openOnClock();
    await bench.service.putRun(RUN, { slots: 1 });
    await bench.service.begin(at(1), want());
    for (const step of [2, 3]) {
      expect(await codeOf(bench.service.begin(at(step), { ...want(), waitMs: 0 }))).toBe('busy');
      await clock.advance(1000);
      expect(await bench.service.begin(at(step), { ...want(), waitMs: 0 })).toMatchObject({
        decision: 'go',
      });
    }
  });

  test('that was given to a client that died is free after a moment, and not while one writes', async () => {
    const clock = await openOnClock();
    await bench.service.putRun(RUN, { slots: 1 });
    const begun = await bench.service.begin(at(1), want());
    const name = begun.decision === 'go' ? begun : { bucket: '', key: '' };
    const writer = bench.at.store.createOwner('writer');
    await bench.at.store.stage(writer, name, { reserveBytes: MiB });
    await clock.advance(11_000);
    const other = { ...want('s1', 'rank-00001'), waitMs: 0 };
    expect(await codeOf(bench.service.begin(at(2), other))).toBe('busy');
    await bench.at.store.dropOwner(writer);
    expect(await bench.service.begin(at(2), other)).toMatchObject({ decision: 'go' });
  });

  test('is had by a run of one slot as soon as the last snapshot is stored', async () => {
    bench = await Bench.open();
    await bench.service.putRun(RUN, { slots: 1 });
    for (const step of [1, 2, 3]) await bench.save(step, image(step));
    await bench.service.wait(at(3), 'disk');
    expect((await bench.service.list(RUN)).map(({ inMemory }) => inMemory)).toEqual([
      true,
      false,
      false,
    ]);
  });

  test('that does not come in time: the answer says who holds them, and why', async () => {
    const disk = holdDisk();
    bench = await Bench.open({ faults: disk });
    await bench.save(1, image(1));
    await bench.hand(2, 'rank-00000', image(2));
    const late = bench.service.begin(at(3), { ...want(), waitMs: 20 });
    expect(await messageOf(late)).toBe(
      'all 2 slots of run gpt are taken: step 2 is being handed over by session s1; step 1 is not stored yet',
    );
    disk.release();
  });

  test('is not held by a snapshot whose bytes are gone: it is lost at once, and latest is the one before', async () => {
    const disk = holdDisk();
    bench = await Bench.open({ faults: disk });
    disk.release();
    await bench.save(1, image(1));
    await bench.service.wait(at(1), 'disk');
    disk.hold();
    for (const step of [2, 3]) await bench.save(step, image(step));
    for (const key of await imagesLeft())
      if (!key.includes('000000000001')) await bench.at.store.delete({ bucket: IMAGES, key });
    expect((await bench.service.plan(LATEST)).snapshot.step).toBe(1);
    expect(await codeOf(bench.service.plan(at(3)))).toBe('data_lost');
    expect(await messageOf(bench.service.get(at(2)))).toMatch(
      'was in memory alone, and that is lost',
    );
    expect(await bench.service.begin(at(4), { ...want(), waitMs: 0 })).toMatchObject({
      decision: 'go',
    });
    disk.release();
  });
});

test('a stored snapshot whose objects somebody deleted is marked bad, and latest is the one before', async () => {
  bench = await Bench.open();
  for (const step of [1, 2, 3]) {
    await bench.save(step, image(step));
    await bench.service.wait(at(step), 'remote');
  }
  await bench.crash({ loseMemory: true });
  await bench.at.store.delete({ bucket: RUN.bucket, key: 'gpt/000000000003/rank-00000' });
  expect((await bench.service.plan(LATEST)).snapshot.step).toBe(2);
  expect((await bench.service.get(at(3))).bad).toMatch(/^lost: .*rank-00000/);
});

describe('who waits for a snapshot', () => {
  const wait = async (step: number, session: string) =>
    await bench.service.wait(at(step), 'memory', { session });

  test('waits while its parts are on their way, and has it when it is committed', async () => {
    bench = await Bench.open();
    await bench.save(1, image(1), { session: 's1' });
    await bench.hand(1, 'rank-00000', image(2), 's1~1');
    const waiting = wait(1, 's1~1');
    await commit(1, 's1~1');
    expect(await waiting).toMatchObject({ session: 's1~1' });
  });

  test('is told at once that it was given up, replaced, removed, or never begun', async () => {
    bench = await Bench.open();
    await bench.hand(1, 'rank-00000', image(1));
    const given = messageOf(wait(1, 's1'));
    await bench.service.abort(at(1), 's1');
    expect(await given).toBe('session s1 gave up its snapshot of step 1 of run gpt');
    await bench.save(2, image(1), { session: 's1~1' });
    await bench.save(2, image(1), { session: 's1~2' });
    expect(await codeOf(wait(2, 's1~1'))).toBe('precondition_failed');
    await bench.service.remove(at(2));
    expect(await messageOf(wait(2, 's1~2'))).toMatch('was removed');
    expect(await codeOf(wait(9, 's1'))).toBe('not_found');
  });

  test('is told when its parts were handed over and nobody commits them', async () => {
    const clock = await openOnClock();
    await bench.hand(1, 'rank-00001', image(1));
    const waiting = messageOf(wait(1, 's1'));
    await clock.advance(11 * 60_000);
    expect(await waiting).toMatch('did not commit them in 600 s');
    await expect.poll(imagesLeft).toEqual([]);
  });

  test('waits on while a part is being written for longer than that, also beside an encrypted bucket', async () => {
    const clock = await openOnClock();
    const begun = await bench.service.begin(at(1), want());
    const name = begun.decision === 'go' ? begun : { bucket: '', key: '' };
    const sealed = resolvePolicy({ preset: 'ephemeral' });
    await bench.at.store.createBucket('checkpoint-images-encrypted', sealed);
    const writer = bench.at.store.createOwner('writer');
    await bench.at.store.stage(writer, name, { reserveBytes: MiB });
    const waiting = wait(1, 's1');
    await clock.advance(11 * 60_000);
    await bench.at.store.dropOwner(writer);
    await bench.at.put(name.bucket, name.key, image(1));
    await commit(1);
    expect(await waiting).toMatchObject({ session: 's1' });
  });

  test('is told by which rule of the run it went', async () => {
    bench = await Bench.open();
    await bench.service.putRun(RUN, { keepLast: 1 });
    for (const step of [1, 2]) {
      await bench.save(step, image(step));
      await bench.service.wait(at(step), 'disk');
    }
    await expect.poll(stepsOf).toEqual([2]);
    expect(await messageOf(wait(1, 's1'))).toMatch(/removed since.*keep_last=1/);
  });
});

describe('order', () => {
  test('what a job saves after it went back is newest, whatever its step', async () => {
    bench = await Bench.open();
    await bench.service.putRun(RUN, { keepLast: 3 });
    const save = async (step: number, session: string): Promise<void> => {
      await bench.save(step, image(step), { session });
      await bench.service.wait(at(step), 'disk');
    };
    for (let step = 1; step <= 8; step++) await save(step, 's1');
    for (const step of [5, 6]) await save(step, 's1~1');
    expect((await bench.service.get(LATEST)).step).toBe(6);
    await expect.poll(stepsOf).toEqual([6, 5, 8]);
  });

  test('is of the commits, and not of the clock: what is saved after the clock was set back is newest', async () => {
    for (const superseded of ['store', 'drop'] as const) {
      const clock = await openOnClock();
      await bench.service.putRun(RUN, { superseded, keepLast: 3 });
      for (const step of [1, 2, 3, 4]) {
        if (step === 3) clock.jump(-3_600_000);
        await bench.save(step, image(step));
        await bench.service.wait(at(step), 'disk');
      }
      await expect.poll(stepsOf).toEqual([4, 3, 2]);
      expect((await bench.service.get(LATEST)).step).toBe(4);
      if (superseded === 'store') await bench[Symbol.asyncDispose]();
    }
  });

  test('an age is how long the node has had a snapshot, whatever the clock is set to', async () => {
    const clock = await openOnClock();
    await bench.service.putRun(RUN, { maxAgeMs: 3_600_000 });
    for (const step of [1, 2, 3]) {
      await bench.save(step, image(step));
      await bench.service.wait(at(step), 'disk');
    }
    clock.jump(400_000_000);
    await bench.service.putRun(RUN, {});
    await clock.advance(61_000);
    expect(await stepsOf()).toEqual([3, 2, 1]);
    await clock.advance(3_600_000);
    await expect.poll(stepsOf).toEqual([3]);
  });

  test('records of a catalog that counted nothing yet have the order of their times', async () => {
    const clock = await openOnClock();
    for (const step of [3, 1, 2]) {
      await bench.save(step, image(step));
      await bench.service.wait(at(step), 'disk');
      clock.jump(1);
    }
    await bench.service.close();
    const { catalog } = bench.at;
    for (const { key, value } of await catalog.listRecords('checkpoint-snapshots', '')) {
      const { sequence: _, ...old } = JSON.parse(Buffer.from(value).toString());
      await catalog.putRecord('checkpoint-snapshots', key, Buffer.from(JSON.stringify(old)));
    }
    bench.service = await bench.openService();
    expect(await stepsOf()).toEqual([2, 1, 3]);
    const sequences = (await bench.service.list(RUN)).map(({ sequence }) => sequence);
    await bench.crash();
    expect((await bench.service.list(RUN)).map(({ sequence }) => sequence)).toEqual(sequences);
    await bench.save(0, image(9), { session: 's2' });
    expect(await stepsOf()).toEqual([0, 2, 1, 3]);
  });
});

test('a session of a job that counts down is told the next one: no image is written under a name that was used', async () => {
  bench = await Bench.open();
  await bench.save(1, image(1), { session: 's1' });
  await bench.save(1, image(2), { session: 's1~3' });
  for (const session of ['s1', 's1~2', 's1~3'])
    await expect(bench.service.begin(at(1), want(session))).rejects.toMatchObject({
      ...{ code: 'already_committed', details: { nextSession: 's1~4' } },
    });
  await bench.save(1, image(3), { session: 's1~4' });
});

test('a snapshot that is removed while its step is saved anew leaves the new one’s parts', async () => {
  bench = await Bench.open();
  await bench.save(1, image(1));
  await bench.service.wait(at(1), 'disk');
  await bench.hand(1, 'rank-00000', image(2), 's1~1');
  await bench.service.remove(at(1));
  await commit(1, 's1~1');
  expect((await bench.read(await bench.service.plan(at(1)))).equals(image(2))).toBe(true);
});

test('a run that is removed while a job saves to it: that save is told, and leaves nothing', async () => {
  bench = await Bench.open();
  await bench.hand(1, 'rank-00000', image(1));
  const waiting = messageOf(commit(1, 's1', { parts: ['rank-00000', 'rank-00001'] }));
  await bench.service.removeRun(RUN);
  expect(await waiting).toBe('run gpt was removed');
  expect(await imagesLeft()).toEqual([]);
});

test('a snapshot that is replaced while it is being stored leaves no bytes behind', async () => {
  const disk = holdDisk();
  bench = await Bench.open({ faults: disk });
  await bench.save(1, image(1));
  const storing = { bucket: RUN.bucket, key: 'gpt/000000000001/' };
  await expect.poll(() => bench.at.store.isStagedUnder(storing)).toBe(true);
  await bench.save(1, image(2), { session: 's1~1' });
  disk.release();
  await bench.service.wait(at(1), 'remote');
  await bench.service.removeRun(RUN);
  expect(await bench.at.store.bucketTotals(RUN.bucket)).toMatchObject({ objects: 0 });
  expect(await bench.at.store.bucketTotals(IMAGES)).toMatchObject({ objects: 0 });
});
