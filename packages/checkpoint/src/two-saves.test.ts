/** Two saves of one step by one session at once: threads, forks, and jobs that were started twice (I6 to I8 of handing-over.ts). */
import { isStoreError, type RestorePlan } from '@ebb/protocol';
import { codeOf } from '@ebb/testkit';
import { afterEach, expect, test } from 'vitest';
import { at, Bench, holdDisk, RUN } from './testing/bench.ts';
import { buildImage } from './testing/build-image.ts';

const PART = 'rank-00000';

let bench: Bench;
afterEach(async () => {
  await bench[Symbol.asyncDispose]();
});

/** Two states of different sizes, so that a mixture of both fits neither. */
const LARGE = buildImage({ weights: Buffer.alloc(600_000, 'large') });
const SMALL = buildImage({ weights: Buffer.alloc(3000, 'small'), bias: Buffer.alloc(7, 1) });

/** One save of a client: three calls, of which each may come at any moment. */
class Saving {
  readonly step: number;
  readonly image: Buffer;
  readonly options: { readonly saysImages: boolean; readonly session: string };
  outcome = 'under way';
  #key = '';

  constructor(step: number, image: Buffer, { saysImages = true, session = 's1' } = {}) {
    this.step = step;
    this.image = image;
    this.options = { saysImages, session };
  }

  async begin(): Promise<void> {
    const { session } = this.options;
    const want = { session, part: PART, imageBytes: this.image.length };
    try {
      const begun = await bench.service.begin(at(this.step), want);
      if (begun.decision === 'go') this.#key = begun.key;
    } catch (error) {
      if (!isStoreError(error, 'already_committed')) throw error;
      this.outcome = 'told';
    }
  }

  async hand(): Promise<void> {
    if (this.outcome !== 'told') await bench.at.put('checkpoint-images', this.#key, this.image);
  }

  async commit(): Promise<void> {
    if (this.outcome === 'told') return;
    const { session, saysImages } = this.options;
    const images = saysImages ? { [PART]: this.#key } : undefined;
    const parts = { parts: [PART], metadata: {}, overwrite: true };
    try {
      await bench.service.commit(at(this.step), { ...parts, session, images });
      this.outcome = 'committed';
    } catch (error) {
      if (!isStoreError(error, 'already_committed')) throw error;
      expect(error.details).toMatchObject({ nextSession: `${session}~1` });
      this.outcome = 'told';
    }
  }
}

/** All ways to put the calls of one between those of the other. */
function orders<T>(a: readonly T[], b: readonly T[]): readonly (readonly T[])[] {
  const [firstA, ...restA] = a;
  const [firstB, ...restB] = b;
  if (firstA === undefined) return [b];
  if (firstB === undefined) return [a];
  return [
    ...orders(restA, b).map((rest) => [firstA, ...rest]),
    ...orders(a, restB).map((rest) => [firstB, ...rest]),
  ];
}

const callsOf = (saving: Saving): readonly (() => Promise<void>)[] => [
  () => saving.begin(),
  () => saving.hand(),
  () => saving.commit(),
];

/** From the image, from what is stored, and by what the plan says of both. */
async function assertWhole(step: number, image: Buffer): Promise<void> {
  await bench.service.wait(at(step), 'disk');
  const plan = await bench.service.plan(at(step));
  expect(sizesOf(plan)).toEqual([image.length, image.length]);
  expect((await bench.read(plan)).equals(image)).toBe(true);
  expect((await bench.read(plan, 0, 'runs')).equals(image)).toBe(true);
  expect(await bench.service.verify(at(step))).toMatchObject({ broken: [] });
}

function sizesOf({ parts: [part] }: RestorePlan): readonly (number | undefined)[] {
  const [, length] = part?.runs?.[0] ?? [];
  return [part?.imageBytes, length];
}

test('of two saves at once, in whatever order their calls come, one is the snapshot and the other is told', async () => {
  bench = await Bench.open();
  await bench.service.putRun(RUN, { behind: 'spill' });
  const count = orders([1, 2, 3], [4, 5, 6]).length;
  expect(count).toBe(20);
  for (let step = 0; step < count; step++) {
    const savings = [new Saving(step, LARGE), new Saving(step, SMALL)] as const;
    for (const call of orders(callsOf(savings[0]), callsOf(savings[1]))[step] ?? []) await call();
    expect(savings.map(({ outcome }) => outcome).toSorted()).toEqual(['committed', 'told']);
    const kept = savings.find(({ outcome }) => outcome === 'committed');
    await assertWhole(step, kept?.image as Buffer);
  }
});

test('clients that do not say which image they commit have one of both, whole', async () => {
  bench = await Bench.open();
  await bench.service.putRun(RUN, { behind: 'spill' });
  for (let step = 0; step < 20; step++) {
    const old = { saysImages: false };
    const savings = [new Saving(step, LARGE, old), new Saving(step, SMALL, old)] as const;
    for (const call of orders(callsOf(savings[0]), callsOf(savings[1]))[step] ?? []) await call();
    const { imageBytes } = await bench.service.get(at(step));
    await assertWhole(step, imageBytes === LARGE.length ? LARGE : SMALL);
  }
});

test('two commits that are under way at once leave the image of the one that was first', async () => {
  bench = await Bench.open();
  await bench.service.putRun(RUN, { behind: 'spill' });
  for (let step = 0; step < 20; step++) {
    const saysImages = step % 2 === 0;
    const [a, b] = [
      new Saving(step, LARGE, { saysImages }),
      new Saving(step, SMALL, { saysImages }),
    ];
    await a.begin();
    await b.begin();
    await a.hand();
    const late = async (): Promise<void> => {
      await b.hand();
      await b.commit();
    };
    await Promise.all([a.commit(), late()]);
    const { imageBytes } = await bench.service.get(at(step));
    await assertWhole(step, imageBytes === LARGE.length ? LARGE : SMALL);
    if (saysImages) expect(a.outcome === 'told').toBe(imageBytes === SMALL.length);
  }
});

test('a node that is killed between any two calls of two saves keeps one of them whole', async () => {
  for (let killedAfter = 1; killedAfter < 6; killedAfter++) {
    const disk = holdDisk();
    bench = await Bench.open({ faults: disk });
    const [a, b] = [new Saving(1, LARGE), new Saving(1, SMALL)];
    const calls = [...callsOf(a).slice(0, 1), ...callsOf(b), ...callsOf(a).slice(1)];
    for (const [n, call] of calls.entries()) {
      if (n === killedAfter) await bench.crash({ release: disk.release });
      await call();
    }
    expect([a.outcome, b.outcome]).toEqual(['told', 'committed']);
    disk.release();
    await assertWhole(1, SMALL);
    if (killedAfter < 5) await bench[Symbol.asyncDispose]();
  }
});

test('another object in the place of a committed image is nobody’s snapshot: it counts as lost, and the one before is latest', async () => {
  const disk = holdDisk();
  bench = await Bench.open({ faults: disk });
  disk.release();
  await bench.save(1, SMALL);
  await bench.service.wait(at(1), 'disk');
  disk.hold();
  await bench.save(2, LARGE);
  const image = (await bench.service.plan(at(2))).parts[0]?.image;
  await bench.at.put(image?.bucket ?? '', image?.key ?? '', SMALL);
  expect((await bench.service.plan({ ...RUN, step: 'latest' })).snapshot.step).toBe(1);
  expect(await codeOf(bench.service.plan(at(2)))).toBe('data_lost');
  disk.release();
});

test('parts of two saves by one session never make a snapshot: it is given up, and the next save goes on', async () => {
  bench = await Bench.open();
  const options = { parts: [PART, 'rank-00001'], metadata: {}, overwrite: true, session: 's1' };
  await bench.hand(1, PART, LARGE);
  await bench.hand(1, 'rank-00001', LARGE);
  await bench.hand(1, PART, SMALL);
  await expect(bench.service.commit(at(1), options)).rejects.toMatchObject({
    ...{ code: 'superseded', message: expect.stringMatching(/more than once at a time/) },
  });
  await bench.hand(1, PART, SMALL);
  await bench.hand(1, 'rank-00001', SMALL);
  await bench.service.commit(at(1), options);
  await assertWhole(1, SMALL);
});

test('a save that ends after a later one of its job is the snapshot, and no session is named twice', async () => {
  bench = await Bench.open();
  const first = new Saving(1, LARGE);
  await first.begin();
  await first.hand();
  await bench.save(1, SMALL, { session: 's1~1' });
  await bench.service.wait(at(1), 'disk');
  await first.commit();
  expect((await bench.service.get(at(1))).session).toBe('s1');
  await bench.service.abort(at(1), 's1~1');
  await bench.crash();
  for (const session of ['s1', 's1~1'])
    await expect(
      bench.service.begin(at(1), { session, part: PART, imageBytes: 1 }),
    ).rejects.toMatchObject({
      ...{ code: 'already_committed', details: { nextSession: 's1~2' } },
    });
  await assertWhole(1, LARGE);
});

test('a commit says keys of its own images alone', async () => {
  bench = await Bench.open();
  const begun = await bench.hand(1, PART, SMALL);
  const options = { parts: [PART], metadata: {}, overwrite: true, session: 's1' };
  const key = begun.decision === 'go' ? begun.key : '';
  for (const images of [{ [PART]: key.replace('s1', 's2') }, { 'rank-00001': key }])
    expect(await codeOf(bench.service.commit(at(1), { ...options, images }))).toBe(
      'request_invalid',
    );
  await bench.service.commit(at(1), { ...options, images: { [PART]: key } });
});
