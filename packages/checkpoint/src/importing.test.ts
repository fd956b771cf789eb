/** A node that has tier 2 alone: what another one stored of its runs. Cites importing.ts. */
import { mkdir, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseKeyring, type RemoteTier, resolvePolicy } from '@ebb/core';
import { type Manifest, MiB, StoreError } from '@ebb/protocol';
import { codeOf, mirrored, override } from '@ebb/testkit';
import { afterEach, describe, expect, test } from 'vitest';
import { at, Bench, holdDisk, RUN, stateOf } from './testing/bench.ts';

const opened: Bench[] = [];
afterEach(async () => {
  for (const bench of opened.splice(0).reverse()) await bench[Symbol.asyncDispose]();
});
const keep = (bench: Bench): Bench => {
  opened.push(bench);
  return bench;
};

/** Of which one MiB changes with each step. */
const imageOf = (step: number): Buffer => stateOf(6, (block) => (block === step ? step : 0));
const STEPS = [1, 2, 3];
const LATEST = { ...RUN, step: 'latest' } as const;
const manifestOf = (step: number): string => `gpt/${String(step).padStart(12, '0')}/manifest.json`;
const dataOf = (step: number): string => manifestOf(step).replace('manifest.json', 'rank-00000');

/** A node on which the steps were saved, and came to tier 2. */
async function openFirst(): Promise<Bench> {
  const first = keep(await Bench.open());
  for (const step of STEPS) {
    await first.save(step, imageOf(step));
    await first.service.wait(at(step), 'remote');
  }
  return first;
}

async function expectWhole(bench: Bench, step: number, image = imageOf(step)): Promise<void> {
  const plan = await bench.service.plan(at(step));
  expect((await bench.read(plan, 0, 'runs')).equals(image), `step ${step}`).toBe(true);
}

const stepsOf = async (bench: Bench): Promise<number[]> =>
  (await bench.service.list(RUN)).map(({ step }) => step);

describe('a new node that has tier 2 alone', () => {
  test('goes on as if nothing had happened', async () => {
    const first = await openFirst();
    const before = await first.service.list(RUN);
    const next = keep(await first.openNext());
    expect(await next.service.importRuns({ bucket: 'checkpoints' })).toEqual({
      runs: [{ run: 'gpt', imported: 3, unchanged: 0, latestStep: 3 }],
      refused: [],
    });
    const gone = before.map((snapshot) => ({ ...snapshot, inMemory: false }));
    expect(await next.service.list(RUN)).toEqual(gone);
    expect(gone.map(({ durability }) => durability)).toEqual(['remote', 'remote', 'remote']);
    for (const step of STEPS) await expectWhole(next, step);
    expect(await next.service.verify(LATEST)).toMatchObject({ broken: [], fallback: 2 });
    const { storedBytes } = await next.service.getRun(RUN);
    expect(storedBytes).toBe((await first.service.getRun(RUN)).storedBytes);
    // The next life of the job: what it saves shares what was imported.
    await next.save(4, imageOf(4), { session: 's2' });
    const { newBytes } = await next.service.wait(at(4), 'remote');
    expect(newBytes).toBeLessThan(3 * MiB);
    await expectWhole(next, 4);
    // Retention counts all of them, and what goes here goes in tier 2.
    await next.service.putRun(RUN, { keepLast: 2 });
    await expect.poll(async () => await stepsOf(next)).toEqual([4, 3]);
    for (const step of [3, 4]) await expectWhole(next, step);
    await next.service.removeRun(RUN);
    await mirrored(next.at);
    const files = await readdir(next.remote, { recursive: true, withFileTypes: true });
    expect(files.filter((one) => one.isFile() && !one.parentPath.includes('.ebb'))).toEqual([]);
  });

  test('takes in one run, or those below a prefix, and again nothing', async () => {
    const first = await openFirst();
    const next = keep(await first.openNext());
    expect(await codeOf(next.service.importRuns({ bucket: 'checkpoints', run: 'a/b' }))).toBe(
      'name_invalid',
    );
    const other = { bucket: 'checkpoints', run: 'other' };
    expect(await next.service.importRuns(other)).toEqual({ runs: [], refused: [] });
    expect(await next.service.listRuns()).toEqual([]);
    expect(await next.service.importRuns(RUN)).toMatchObject({ runs: [{ imported: 3 }] });
    await next.service.setPinned(at(1), true);
    await next.service.setBad(at(3), 'loss is NaN');
    expect(await next.service.importRuns(RUN)).toEqual({
      runs: [{ run: 'gpt', imported: 0, unchanged: 3, latestStep: 2 }],
      refused: [],
    });
    expect(await next.service.get(at(1))).toMatchObject({ pinned: true });
  });

  test('has what it imported also after a crash that takes its memory', async () => {
    const first = await openFirst();
    const next = keep(await first.openNext());
    await next.service.importRuns(RUN);
    await next.crash({ loseMemory: true });
    expect(await stepsOf(next)).toEqual([3, 2, 1]);
    await expectWhole(next, 3);
    expect(next.errors).toEqual([]);
  });

  test('finds what was encrypted with its keys', async () => {
    const key = Buffer.alloc(32, 1).toString('base64');
    const keys = parseKeyring(JSON.stringify([{ id: 'k1', key }]));
    const policy = resolvePolicy({ preset: 'buffered', encrypted: true });
    const first = keep(await Bench.open({ encryptionKeys: keys }));
    await first.at.store.createBucket('checkpoints', policy);
    await first.save(1, imageOf(1));
    await first.service.wait(at(1), 'remote');
    const next = keep(await first.openNext({ encryptionKeys: keys }));
    await next.at.store.createBucket('checkpoints', policy);
    expect(await next.service.importRuns(RUN)).toMatchObject({ refused: [] });
    await expectWhole(next, 1);
    await next.save(2, imageOf(2), { session: 's2' });
    const { newBytes } = await next.service.wait(at(2), 'remote');
    expect(newBytes).toBeLessThan(4 * MiB);
  });
});

describe('a plan with what can be read straight from an object store', () => {
  /** The second and third step share data with the first. */
  async function openNext(presign: (name: string) => Promise<string>): Promise<Bench> {
    const first = await openFirst();
    const remote = (tier: RemoteTier): RemoteTier => override(tier, { presign });
    const next = keep(await first.openNext({ faults: { remote } }));
    await next.service.importRuns(RUN);
    return next;
  }
  const directOf = async (bench: Bench, step: number) =>
    (await bench.service.plan(at(step), { direct: true })).parts[0]?.direct;

  test('has one URL for each data object that is there alone, if it was asked for', async () => {
    const next = await openNext((name) => Promise.resolve(`https://store/${name}`));
    const entryOf = async (step: number) => {
      const name = `checkpoints/${dataOf(step)}`;
      const { etag } = (await next.at.tiers.remote.head(name)) as { etag: string };
      return { key: dataOf(step), url: `https://store/${name}`, etag };
    };
    expect((await next.service.plan(at(3))).parts[0]?.direct).toEqual([]);
    const direct = (await directOf(next, 3)) ?? [];
    const sorted = direct.toSorted((a, b) => a.key.localeCompare(b.key));
    expect(sorted).toEqual(await Promise.all(STEPS.map(entryOf)));
    // What is here is read here.
    await next.at.store.relocate({ bucket: 'checkpoints', key: dataOf(1) }, 1);
    expect((await directOf(next, 2))?.map(({ key }) => key)).toEqual([dataOf(2)]);
  });

  test('has none while the image is in memory', async () => {
    const next = await openNext((name) => Promise.resolve(`https://store/${name}`));
    await next.save(4, imageOf(3), { session: 's2' });
    await next.service.wait(at(4), 'remote');
    const [part] = (await next.service.plan(at(4), { direct: true })).parts;
    expect(part?.image).not.toBeNull();
    expect(part?.runs?.map(([, , key]) => key)).toContain(dataOf(3));
    expect(part?.direct).toEqual([]);
  });

  test('is a plan without them when nothing can be signed', async () => {
    const refused = new StoreError('io_failed', 'there are no credentials');
    const next = await openNext(() => Promise.reject(refused));
    expect(await directOf(next, 3)).toEqual([]);
  });
});

describe('a manifest is refused, with the reason, and all others are taken in', () => {
  /** What is said of step 3, after somebody changed something in tier 2. */
  async function refusal(spoil: (next: Bench) => Promise<void>): Promise<string> {
    const first = await openFirst();
    const next = keep(await first.openNext());
    await spoil(next);
    const { refused } = await next.service.importRuns(RUN);
    expect(await stepsOf(next)).toEqual([2, 1]);
    expect(refused.map(({ key }) => key)).toEqual([manifestOf(3)]);
    for (const step of [1, 2]) await expectWhole(next, step);
    return refused[0]?.problem ?? '';
  }
  const path = (bench: Bench, key: string): string => join(bench.remote, 'checkpoints', key);
  const change =
    (edit: (manifest: Manifest) => object) =>
    async (bench: Bench): Promise<void> => {
      const file = path(bench, manifestOf(3));
      const manifest = JSON.parse(await readFile(file, 'utf8')) as Manifest;
      await writeFile(file, JSON.stringify({ ...manifest, ...edit(manifest) }));
    };
  const changePart = (edit: (part: Manifest['parts'][number]) => object) =>
    change(({ parts }) => ({ parts: parts.map((part) => ({ ...part, ...edit(part) })) }));
  const changeRun = (edit: (run: Manifest['parts'][number]['runs'][number]) => unknown[]) =>
    changePart(({ runs }) => ({ runs: runs.map((run, n) => (n === 0 ? edit(run) : run)) }));

  test.each([
    [
      'cut',
      async (b: Bench) => await truncate(path(b, manifestOf(3)), 900),
      /no JSON, or not whole/,
    ],
    ['of a newer format', change(() => ({ format: 'ebb-checkpoint/2' })), /ebb-checkpoint\/2/],
    ['without its parts', change(() => ({ parts: undefined })), /parts is not as it must be/],
    ['of no part', change(() => ({ parts: [] })), /names no part/],
    ['naming a part twice', change(({ parts: [a] }) => ({ parts: [a, a] })), /a part twice/],
    ['of another step', change(() => ({ step: 7 })), /step 7 of run gpt/],
    ['of another run', change(() => ({ run: 'copy' })), /step 3 of run copy/],
    ['short of digests', changePart(({ digests }) => ({ digests: digests.slice(64) })), /digests/],
    ['with other blocks', changePart(() => ({ blockBytes: 4096 })), /blocks of 4096 bytes/],
    ['with a gap', changePart(({ runs }) => ({ runs: runs.slice(1) })), /a gap/],
    ['short of runs', changePart(({ runs }) => ({ runs: runs.slice(0, -1) })), /are told/],
    [
      'naming what is not its run’s',
      changeRun(([from, length, , offset]) => [from, length, 'other/000000000001/x', offset]),
      /no data object of its run/,
    ],
    [
      'with shards beyond its end',
      changePart(({ shards }) => ({ shards: shards.map((one) => ({ ...one, offset: 9e9 })) })),
      /reaches beyond/,
    ],
    [
      'naming what is gone',
      async (b: Bench) => await rm(path(b, dataOf(3))),
      /gpt\/000000000003\/rank-00000, which is not there/,
    ],
    [
      'naming more than there is',
      async (b: Bench) => await truncate(path(b, dataOf(3)), 100_000),
      /which has 100000$/,
    ],
  ] as [string, (bench: Bench) => Promise<void>, RegExp][])('%s', async (_, spoil, problem) => {
    // Step 3 shares nothing with what is new in step 2.
    expect(await refusal(spoil)).toMatch(problem);
  });
});

describe('beside what the node does', () => {
  test('what a session is saving now is left to it', async () => {
    const first = await openFirst();
    const next = keep(await first.openNext());
    await next.hand(
      2,
      'rank-00000',
      stateOf(6, () => 9),
      's2',
    );
    const { refused } = await next.service.importRuns(RUN);
    expect(refused).toEqual([
      { key: manifestOf(2), problem: 'session s2 is saving this step now' },
    ]);
    expect(await stepsOf(next)).toEqual([3, 1]);
    const options = { session: 's2', parts: ['rank-00000'], metadata: {}, overwrite: false };
    await next.service.commit(at(2), options);
    await next.service.wait(at(2), 'remote');
    await expectWhole(
      next,
      2,
      stateOf(6, () => 9),
    );
    await expectWhole(next, 3);
  });

  test('what it saved before the import stays, and nothing is imported that this took the place of', async () => {
    const first = await openFirst();
    const next = keep(await first.openNext());
    const own = stateOf(6, () => 9);
    await next.save(1, own, { session: 's2' });
    await next.service.wait(at(1), 'remote');
    const { runs, refused } = await next.service.importRuns(RUN);
    expect(runs).toEqual([{ run: 'gpt', imported: 0, unchanged: 1, latestStep: 1 }]);
    const problem = `it names ${dataOf(1)} as it was before this node saved step 1`;
    expect(refused).toEqual([2, 3].map((step) => ({ key: manifestOf(step), problem })));
    await expectWhole(next, 1, own);
  });

  test('an imported step may be saved anew: the new one is imported next, and a lost one gives the old one back', async () => {
    const first = await openFirst();
    const disk = holdDisk();
    disk.release();
    const next = keep(await first.openNext({ faults: disk }));
    await next.service.importRuns(RUN);
    const anew = stateOf(6, () => 9);
    disk.hold();
    await next.save(3, anew, { session: 's2' });
    await next.crash({ loseMemory: true, release: disk.release });
    expect(await next.service.get(at(3))).toMatchObject({ session: 's1', durability: 'remote' });
    await expectWhole(next, 3);
    await next.save(3, anew, { session: 's3' });
    await next.service.wait(at(3), 'remote');
    for (const step of [1, 2]) await expectWhole(next, step);
    const third = keep(await next.openNext());
    expect(await third.service.importRuns(RUN)).toMatchObject({ runs: [{ imported: 3 }] });
    await expectWhole(third, 3, anew);
    for (const step of [1, 2]) await expectWhole(third, step);
  });

  test('retention that is waiting takes nothing of which an imported snapshot has need', async () => {
    const first = await openFirst();
    const next = keep(await first.openNext());
    await next.service.putRun(RUN, { keepLast: 1, keepEvery: 2 });
    await next.service.importRuns(RUN);
    await expect.poll(async () => await stepsOf(next)).toEqual([3, 2]);
    for (const step of [2, 3]) await expectWhole(next, step);
  });

  test('what this node committed before the import is newer, and the imported keep their order', async () => {
    const first = await openFirst();
    // It went back: step 1 was committed after 2 and 3.
    await first.save(
      1,
      stateOf(6, () => 7),
      { session: 's1~1' },
    );
    await first.service.wait(at(1), 'remote');
    const next = keep(await first.openNext());
    await next.save(
      0,
      stateOf(1, () => 9),
      { session: 's2' },
    );
    await next.service.wait(at(0), 'disk');
    await next.service.importRuns(RUN);
    expect(await stepsOf(next)).toEqual([0, 1, 3, 2]);
    await next.save(
      2,
      stateOf(1, () => 9),
      { session: 's2' },
    );
    expect(await stepsOf(next)).toEqual([2, 0, 1, 3]);
  });

  test('a clock that is behind the lost node’s does not make older of what is saved next', async () => {
    const first = await openFirst();
    const file = join(first.remote, 'checkpoints', manifestOf(3));
    const manifest = JSON.parse(await readFile(file, 'utf8')) as Manifest;
    await writeFile(file, JSON.stringify({ ...manifest, committedAt: '2999-01-01T00:00:00.000Z' }));
    const next = keep(await first.openNext());
    await next.service.putRun(RUN, { superseded: 'drop' });
    await next.service.importRuns(RUN);
    await next.save(4, imageOf(4), { session: 's2' });
    await next.service.wait(at(4), 'remote');
    expect((await next.service.get(LATEST)).step).toBe(4);
  });

  test('objects beside the runs are nobody’s snapshots, and buckets that are not mirrored have none', async () => {
    const next = keep(await Bench.open());
    for (const key of ['a/manifest.json', 'a/12/manifest.json', 'a/b/000000000001/manifest.json']) {
      const file = join(next.remote, 'checkpoints', key);
      await mkdir(dirname(file), { recursive: true });
      await writeFile(file, '{}');
    }
    const nothing = { runs: [], refused: [] };
    expect(await next.service.importRuns({ bucket: 'checkpoints' })).toEqual(nothing);
    expect(await codeOf(next.service.importRuns({ bucket: 'lake' }))).toBe('bucket_not_found');
    await next.at.store.createBucket('fast', resolvePolicy({ preset: 'ephemeral' }));
    expect(await codeOf(next.service.importRuns({ bucket: 'fast' }))).toBe('not_mirrored');
    expect(await next.service.importSynced({ bucket: 'fast', prefix: '' })).toEqual(nothing);
  });
});

test('a node that is killed in the middle has no snapshot more than before, and imports all the next time', async () => {
  const first = await openFirst();
  const next = keep(await first.openNext());
  const killed = new Error('killed');
  await next.service.close();
  next.service = await next.openService(undefined, {
    ...next.at.catalog,
    putRecords: () => Promise.reject(killed),
  });
  await expect(next.service.importRuns(RUN)).rejects.toBe(killed);
  await next.crash();
  expect(await stepsOf(next).catch(() => [])).toEqual([]);
  expect(await codeOf(next.service.get(LATEST))).toBe('not_found');
  expect(await next.service.importRuns(RUN)).toMatchObject({ runs: [{ imported: 3 }] });
  for (const step of STEPS) await expectWhole(next, step);
});
