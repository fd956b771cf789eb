import type { Owner } from '@ebb/core';
import {
  EPOCH_NONE,
  indexBlockBytes,
  isStoreError,
  type MapOutputRow,
  TIER_BY_POLICY,
} from '@ebb/protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FakeRecords, FakeStore } from '../test/fake-store.ts';
import { openShuffleService } from './catalog-shuffle-service.ts';
import type { ShuffleService } from './shuffle-service.ts';

const PARTITIONS = 3;
const DATA_BYTES = 100;
const INDEX_BYTES = indexBlockBytes(PARTITIONS, DATA_BYTES);
const REF = { jobId: 'app', shuffleId: 1 };
const clock = { now: () => 1_700_000_000_000 };
const ignoreRevoke = (): void => undefined;

interface Node {
  readonly store: FakeStore;
  readonly records: FakeRecords;
  service: ShuffleService;
}

async function openNode(pause?: () => Promise<void>): Promise<Node> {
  const store = new FakeStore(pause);
  store.jobs.add('app');
  const records = new FakeRecords();
  return { store, records, service: await openShuffleService({ store, records, clock }) };
}

async function restart(node: Node): Promise<void> {
  node.store.restart();
  node.service = await openShuffleService({ store: node.store, records: node.records, clock });
}

interface Attempt {
  readonly mapIndex: number;
  readonly attemptId: number;
  readonly epoch: number;
}

async function stage(node: Node, owner: Owner, attempt: Attempt): Promise<number> {
  const request = { ...REF, ...attempt, reserveBytes: 1000, tier: TIER_BY_POLICY };
  return (await node.service.stageMap(owner, request)).writeId;
}

function commit(node: Node, owner: Owner, writeId: number) {
  const sizeBytes = DATA_BYTES + INDEX_BYTES;
  return node.service.commitMap(owner, { writeId, sizeBytes, crc32c: 1, indexBytes: INDEX_BYTES });
}

async function put(node: Node, owner: Owner, attempt: Attempt) {
  return await commit(node, owner, await stage(node, owner, attempt));
}

function table(node: Node, owner: Owner, since = 0) {
  return node.service.table(owner, REF, since, ignoreRevoke);
}

/** By attempt, as a client that refreshes by version keeps them. */
function byAttempt(rows: Iterable<MapOutputRow>): Map<number, MapOutputRow> {
  return new Map([...rows].map((row) => [row.attemptId, row]));
}

describe('attempts without an epoch', () => {
  const attemptOf = (mapIndex: number, attemptId: number): Attempt => ({
    ...{ mapIndex, attemptId },
    epoch: EPOCH_NONE,
  });

  it('all stand, in whatever order they commit, are lost, or are found again after a restart', async () => {
    const node = await openNode();
    const owner = node.store.createOwner('executor');
    await node.service.register(REF, { maps: 1, partitions: PARTITIONS });
    // 7 began before 9 and commits after it, as the late attempt of an older stage does.
    const late = await stage(node, owner, attemptOf(0, 7));
    const writeIds: number[] = [];
    for (const attemptId of [9, 8, 11]) {
      const writeId = await stage(node, owner, attemptOf(0, attemptId));
      writeIds.push(writeId);
      expect(await commit(node, owner, writeId)).toMatchObject({
        won: true,
        winner: { attemptId },
      });
    }
    expect(await commit(node, owner, late)).toMatchObject({ won: true, winner: { attemptId: 7 } });
    const attempts = (rows: readonly MapOutputRow[]) =>
      rows.map((row) => row.attemptId).sort((a, b) => a - b);
    expect(attempts((await table(node, owner)).rows)).toEqual([7, 8, 9, 11]);
    node.store.loseBlob(late); // the one that holds the place: it is in nobody's way
    expect(await put(node, owner, attemptOf(0, 10))).toMatchObject({ won: true });
    expect(
      attempts(await node.service.resolve(REF, [7, 8, 9, 10, 11], { suspect: false })),
    ).toEqual([8, 9, 10, 11]);
    await restart(node);
    expect(attempts((await table(node, node.store.createOwner('reader'))).rows)).toEqual([
      8, 9, 10, 11,
    ]);
    expect((await node.service.list())[0]).toMatchObject({ committedMaps: 1 });
  });

  it('are not mixed with attempts that have one', async () => {
    const node = await openNode();
    const owner = node.store.createOwner('executor');
    await node.service.register(REF, { maps: 2, partitions: PARTITIONS });
    await put(node, owner, attemptOf(0, 1));
    await put(node, owner, { mapIndex: 1, attemptId: 2, epoch: 3 });
    for (const mixed of [{ mapIndex: 0, attemptId: 3, epoch: 4 }, attemptOf(1, 4)])
      await expect(put(node, owner, mixed)).rejects.toMatchObject({ code: 'request_invalid' });
  });
});

describe('one winner per map', () => {
  it('follows a model of one line: highest epoch, then first commit, whatever is staged, aborted or restarted between', async () => {
    const step = fc.oneof(
      {
        weight: 5,
        arbitrary: fc.record({
          op: fc.constant('stage' as const),
          map: fc.nat(2),
          epoch: fc.nat(2),
        }),
      },
      { weight: 6, arbitrary: fc.record({ op: fc.constant('commit' as const), pick: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ op: fc.constant('abort' as const), pick: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ op: fc.constant('restart' as const) }) },
      { weight: 2, arbitrary: fc.record({ op: fc.constant('move' as const), pick: fc.nat() }) },
      { weight: 2, arbitrary: fc.record({ op: fc.constant('lose' as const), pick: fc.nat() }) },
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 60 }), async (steps) => {
        const node = await openNode();
        let owner = node.store.createOwner('executor');
        await node.service.register(REF, { maps: 3, partitions: PARTITIONS });
        const staged: (Attempt & { writeId: number })[] = [];
        // The model: what is committed, in order, and which of it is lost.
        const committed: (Attempt & { writeId: number; lost: boolean })[] = [];
        const holder = (map: number) =>
          committed
            .filter((one) => one.mapIndex === map)
            .reduce<(typeof committed)[number] | undefined>(
              (best, one) => (best === undefined || one.epoch >= best.epoch ? one : best),
              undefined,
            );
        let attemptId = 100;
        let known = new Map<number, MapOutputRow>();
        let version = 0;
        for (const action of steps) {
          if (action.op === 'stage') {
            const attempt = { mapIndex: action.map, attemptId: attemptId++, epoch: action.epoch };
            staged.push({ ...attempt, writeId: await stage(node, owner, attempt) });
          } else if (action.op === 'commit' && staged.length > 0) {
            const [mine] = staged.splice(action.pick % staged.length, 1) as [
              (typeof staged)[number],
            ];
            const before = holder(mine.mapIndex);
            const wins =
              before === undefined ||
              mine.epoch > before.epoch ||
              (before.lost && mine.epoch === before.epoch);
            const result = await commit(node, owner, mine.writeId).catch((error: unknown) => error);
            if (wins) {
              expect(result).toMatchObject({
                won: true,
                winner: { attemptId: mine.attemptId, winner: true },
              });
              committed.push({ ...mine, lost: false });
            } else if (before.lost) {
              expect(isStoreError(result, 'superseded')).toBe(true);
            } else {
              expect(result).toMatchObject({
                won: false,
                winner: { attemptId: before.attemptId, winner: true },
              });
            }
            if (!wins) expect(node.store.tiers.has(mine.writeId)).toBe(false);
            expect(node.store.staged.has(mine.writeId)).toBe(false);
          } else if (action.op === 'abort' && staged.length > 0) {
            const [mine] = staged.splice(action.pick % staged.length, 1) as [
              (typeof staged)[number],
            ];
            await node.store.abort(owner, mine.writeId);
          } else if (action.op === 'restart') {
            await restart(node);
            staged.length = 0;
            owner = node.store.createOwner('executor');
          } else if (action.op === 'move' && committed.length > 0) {
            const { writeId } = committed[action.pick % committed.length] as { writeId: number };
            const tier = node.store.tiers.get(writeId);
            if (tier === 0) node.store.spill(writeId);
            else node.store.promote(writeId);
          } else if (action.op === 'lose' && committed.length > 0) {
            const one = committed[action.pick % committed.length] as (typeof committed)[number];
            node.store.loseBlob(one.writeId);
            one.lost = true;
          }
          // A client that only ever asks for what changed knows what the model knows.
          const answer = await table(node, owner, version);
          known = new Map([...known, ...byAttempt(answer.rows)]);
          version = answer.version;
        }
        const alive = committed.filter((one) => !one.lost);
        const full = byAttempt((await table(node, owner)).rows);
        expect(new Set(full.keys())).toEqual(new Set(alive.map((one) => one.attemptId)));
        for (const one of alive) {
          const row = full.get(one.attemptId) as MapOutputRow;
          const wins = holder(one.mapIndex) === one;
          expect(row).toMatchObject({ mapIndex: one.mapIndex, epoch: one.epoch, winner: wins });
          expect(known.get(one.attemptId)).toMatchObject({ winner: wins });
          if (row.location.tier !== 0 || known.get(one.attemptId)?.location.tier !== 1)
            expect(known.get(one.attemptId)?.location).toEqual(row.location);
        }
        const resolved = await node.service.resolve(
          REF,
          committed.map((one) => one.attemptId),
          { suspect: false },
        );
        expect(resolved.map((row) => row.attemptId)).toEqual(alive.map((one) => one.attemptId));
      }),
      { numRuns: 300 },
    );
  });

  it('holds when attempts race, in any order of their steps', async () => {
    const attempts = fc.array(fc.record({ mapIndex: fc.nat(1), epoch: fc.nat(2) }), {
      minLength: 2,
      maxLength: 8,
    });
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), attempts, async (scheduler, list) => {
        let racing = false;
        const pause = (): Promise<void> =>
          racing ? scheduler.schedule(Promise.resolve()) : Promise.resolve();
        const node = await openNode(pause);
        const owner = node.store.createOwner('executor');
        await node.service.register(REF, { maps: 2, partitions: PARTITIONS });
        racing = true;
        const runs = list.map((attempt, i) => put(node, owner, { ...attempt, attemptId: i }));
        const all = Promise.all(runs);
        await scheduler.waitFor(all);
        racing = false;
        const results = await all;
        const rows = byAttempt((await table(node, owner)).rows);
        for (const mapIndex of [0, 1]) {
          const own = list
            .map((attempt, i) => ({
              ...attempt,
              attemptId: i,
              ...(results[i] as (typeof results)[0]),
            }))
            .filter((one) => one.mapIndex === mapIndex);
          const won = own.filter((one) => one.won);
          for (const epoch of [0, 1, 2])
            expect(won.filter((one) => one.epoch === epoch).length).toBeLessThanOrEqual(1);
          const top = Math.max(...own.map((one) => one.epoch));
          for (const one of own) {
            const object = node.store.objects.has(
              `shuffle/app/1/000000${mapIndex}/${one.attemptId}`,
            );
            expect(object).toBe(one.won);
            expect(rows.has(one.attemptId)).toBe(one.won);
            expect(rows.get(one.attemptId)?.winner ?? false).toBe(one.won && one.epoch === top);
            expect(one.winner.epoch).toBeGreaterThanOrEqual(one.epoch);
            expect(won.some((other) => other.attemptId === one.winner.attemptId)).toBe(true);
          }
          expect(own.length === 0 || won.some((one) => one.epoch === top)).toBe(true);
        }
        expect(node.store.staged.size).toBe(0);
      }),
      { numRuns: 300 },
    );
  });

  it('leaves nothing when a removal or the end of the job races with commits', async () => {
    const plan = fc.record({ attempts: fc.nat(6), endJob: fc.boolean() });
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), plan, async (scheduler, { attempts, endJob }) => {
        let racing = false;
        const pause = (): Promise<void> =>
          racing ? scheduler.schedule(Promise.resolve()) : Promise.resolve();
        const node = await openNode(pause);
        const owner = node.store.createOwner('executor');
        await node.service.register(REF, { maps: 7, partitions: PARTITIONS });
        racing = true;
        const runs: Promise<unknown>[] = [];
        for (let i = 0; i <= attempts; i++)
          runs.push(put(node, owner, { mapIndex: i, attemptId: i, epoch: 0 }));
        runs.push(table(node, owner));
        runs.push(endJob ? node.store.endJob('app') : node.service.remove(REF));
        const all = Promise.allSettled(runs);
        await scheduler.waitFor(all);
        racing = false;
        for (const result of await all)
          if (result.status === 'rejected')
            expect(isStoreError(result.reason, 'shuffle_not_found')).toBe(true);
        expect(node.store.objects.size).toBe(0);
        expect([...node.records.records.keys()]).toEqual(['shuffle:generation']);
        expect(node.store.staged.size).toBe(0);
        node.service.release(owner, REF);
        expect(node.store.guards.groups.size).toBe(0);
      }),
      { numRuns: 200 },
    );
  });
});

describe('the table', () => {
  it('is answered in full to a version of another instance, or of a shuffle that was removed meanwhile', async () => {
    const node = await openNode();
    let owner = node.store.createOwner('executor');
    await node.service.register(REF, { maps: 4, partitions: PARTITIONS });
    for (let i = 0; i < 4; i++) await put(node, owner, { mapIndex: i, attemptId: i, epoch: 0 });
    const first = await table(node, owner);
    expect(first.rows).toHaveLength(4);
    expect((await table(node, owner, first.version)).rows).toHaveLength(0);
    await restart(node);
    owner = node.store.createOwner('executor');
    const second = await table(node, owner, first.version);
    expect(second.rows).toHaveLength(4);
    expect(second.version).toBeGreaterThan(first.version);

    await node.service.remove(REF);
    await node.service.register(REF, { maps: 4, partitions: PARTITIONS });
    for (let i = 0; i < 3; i++)
      await put(node, owner, { mapIndex: i, attemptId: 10 + i, epoch: 0 });
    const third = await table(node, owner, second.version);
    expect(third.rows.map((row) => row.attemptId)).toEqual([10, 11, 12]);
    expect(third.version).toBeGreaterThan(second.version);
  });

  it('tells of a row that was spilled, and of one that came back from tier 2', async () => {
    const node = await openNode();
    const owner = node.store.createOwner('executor');
    await node.service.register(REF, { maps: 2, partitions: PARTITIONS });
    const { winner } = await put(node, owner, { mapIndex: 0, attemptId: 5, epoch: 0 });
    await put(node, owner, { mapIndex: 1, attemptId: 6, epoch: 0 });
    const revoked: number[] = [];
    const answer = await node.service.table(owner, REF, 0, (ids) => revoked.push(...ids));
    node.store.spill(winner.location.blobId, 2);
    expect(revoked).toEqual([winner.location.blobId]);
    // The service let go at once; the file waits for the executor alone.
    expect(node.store.guards.awaiting.get(winner.location.blobId)).toEqual(
      new Set([owner.ownerId]),
    );
    const moved = await table(node, owner, answer.version);
    expect(moved.rows).toMatchObject([{ attemptId: 5, location: { tier: 2, path: '' } }]);
    const [row] = await node.service.resolve(REF, [5], { suspect: false });
    expect(row?.location.tier).toBe(1);
    const back = await table(node, owner, moved.version);
    expect(back.rows).toMatchObject([{ attemptId: 5, location: { tier: 1 } }]);
  });

  it('comes in several answers when it does not fit a frame, and asks the store once per row', async () => {
    const node = await openNode();
    const owner = node.store.createOwner('executor');
    const maps = 60_000;
    await node.service.register(REF, { maps, partitions: 1 });
    const indexBytes = indexBlockBytes(1, 0);
    for (let i = 0; i < maps; i++) {
      node.store.objects.set(`shuffle/app/1/${i}`, {
        bucket: 'shuffle',
        key: `app/1/${String(i).padStart(7, '0')}/${i}`,
        version: i + 1,
        sizeBytes: indexBytes,
        etag: '',
        crc32c: 0,
        contentType: '',
        metadata: { epoch: '0', indexBytes: String(indexBytes) },
        attributes: {},
        createdAtMs: 0,
        jobId: 'app',
        pinned: false,
        remoteEtag: null,
        extents: [{ blobId: i + 1, offset: 0, length: indexBytes }],
      });
      node.store.tiers.set(i + 1, 1);
    }
    const objects = [...node.store.objects.values()];
    node.store.list = async (_bucket, options) => {
      await Promise.resolve();
      const from = options.startAfter === '' ? 0 : Number(options.startAfter.slice(6, 13)) + 1;
      const page = objects.slice(from, from + options.limit);
      return {
        objects: page.map((object) => ({
          object,
          durability: 'memory',
          isLost: false,
          tiers: [1],
        })),
        prefixes: [],
        next: from + page.length < objects.length ? (page.at(-1)?.key ?? null) : null,
      };
    };
    const path = 'p'.repeat(600);
    const locate = node.store.locate.bind(node.store);
    node.store.locate = async (blobId, length) => ({ ...(await locate(blobId, length)), path });
    await restart(node);
    const seen = new Set<number>();
    let version = 0;
    let answers = 0;
    for (; ; answers++) {
      const answer = await table(node, owner, version);
      if (answer.rows.length === 0) break;
      const pathBytes = Buffer.byteLength(answer.rows[0]?.location.path ?? '');
      expect(answer.rows.length * (48 + pathBytes)).toBeLessThan(16 * 1024 * 1024);
      for (const row of answer.rows) seen.add(row.mapIndex);
      version = answer.version;
    }
    expect(seen.size).toBe(maps);
    expect(answers).toBeGreaterThan(1);
    expect(node.store.located).toBe(maps);
  });
});

describe('requests', () => {
  it('register is idempotent for equal numbers, and refuses others and unknown jobs', async () => {
    const node = await openNode();
    const shape = { maps: 2, partitions: PARTITIONS };
    await node.service.register(REF, shape);
    await node.service.register(REF, shape);
    await restart(node);
    await node.service.register(REF, shape);
    await expect(node.service.register(REF, { ...shape, maps: 3 })).rejects.toMatchObject({
      code: 'request_invalid',
    });
    const other = { jobId: 'nobody', shuffleId: 1 };
    await expect(node.service.register(other, shape)).rejects.toMatchObject({
      code: 'job_not_found',
    });
    await expect(
      node.service.register({ jobId: 'a/1', shuffleId: 1 }, shape),
    ).rejects.toMatchObject({ code: 'name_invalid' });
    await expect(node.service.register(REF, { maps: 2, partitions: 0 })).rejects.toMatchObject({
      code: 'request_invalid',
    });
    expect([...node.records.records.keys()].sort()).toEqual([
      'shuffle:app/1',
      'shuffle:generation',
    ]);
  });

  it('a write id is good for one commit by its owner', async () => {
    const node = await openNode();
    const owner = node.store.createOwner('executor');
    const stranger = node.store.createOwner('stranger');
    await node.service.register(REF, { maps: 2, partitions: PARTITIONS });
    const writeId = await stage(node, owner, { mapIndex: 0, attemptId: 1, epoch: 0 });
    await expect(commit(node, stranger, writeId)).rejects.toMatchObject({
      code: 'write_not_found',
    });
    await commit(node, owner, writeId);
    await expect(commit(node, owner, writeId)).rejects.toMatchObject({ code: 'already_committed' });
    await expect(stage(node, owner, { mapIndex: 0, attemptId: 1, epoch: 1 })).rejects.toMatchObject(
      { code: 'already_committed' },
    );
    await expect(stage(node, owner, { mapIndex: 1, attemptId: 1, epoch: 1 })).rejects.toMatchObject(
      { code: 'request_invalid' },
    );
    await expect(stage(node, owner, { mapIndex: 2, attemptId: 2, epoch: 0 })).rejects.toMatchObject(
      { code: 'request_invalid' },
    );
  });

  it('of one attempt id that is committed at several maps at once, one commit holds and the others leave nothing', async () => {
    const node = await openNode(() => new Promise((resolve) => setImmediate(resolve)));
    const owner = node.store.createOwner('executor');
    await node.service.register(REF, { maps: 4, partitions: PARTITIONS });
    const writes = await Promise.all(
      [0, 1, 2, 3].map((mapIndex) => stage(node, owner, { mapIndex, attemptId: 7, epoch: 0 })),
    );
    const answers = await Promise.allSettled(writes.map((id) => commit(node, owner, id)));
    const told = answers.map((one) =>
      one.status === 'fulfilled' ? one.value.won : (one.reason as { code: string }).code,
    );
    expect(told.toSorted()).toEqual([
      ...['request_invalid', 'request_invalid', 'request_invalid'],
      true,
    ]);
    expect((await table(node, owner)).rows).toHaveLength(1);
    await restart(node);
    expect((await table(node, owner)).rows).toHaveLength(1);
    expect((await node.service.list())[0]).toMatchObject({ committedMaps: 1 });
  });

  it('an answer to a resolve always fits a frame: more attempts are refused', async () => {
    const node = await openNode();
    await node.service.register(REF, { maps: 2, partitions: PARTITIONS });
    const attempts = Array.from({ length: 65_537 }, (_, i) => i);
    await expect(node.service.resolve(REF, attempts, { suspect: false })).rejects.toMatchObject({
      code: 'request_invalid',
    });
  });

  it('an index block of another length is refused, and its bytes are given up', async () => {
    const node = await openNode();
    const owner = node.store.createOwner('executor');
    await node.service.register(REF, { maps: 2, partitions: PARTITIONS });
    const writeId = await stage(node, owner, { mapIndex: 0, attemptId: 1, epoch: 0 });
    const request = { writeId, sizeBytes: 1000, crc32c: 0, indexBytes: 10 };
    await expect(node.service.commitMap(owner, request)).rejects.toMatchObject({
      code: 'request_invalid',
    });
    expect(node.store.staged.size).toBe(0);
  });

  it('shuffles of a job that ended while nobody listened are forgotten at the start', async () => {
    const node = await openNode();
    const owner = node.store.createOwner('executor');
    await node.service.register(REF, { maps: 2, partitions: PARTITIONS });
    await put(node, owner, { mapIndex: 0, attemptId: 1, epoch: 0 });
    node.store.jobs.clear();
    await restart(node);
    expect(node.store.objects.size).toBe(0);
    expect(await node.service.list()).toEqual([]);
    await expect(table(node, owner)).rejects.toMatchObject({ code: 'shuffle_not_found' });
  });

  it('list tells maps and bytes, of shuffles not yet asked for too', async () => {
    const node = await openNode();
    const owner = node.store.createOwner('executor');
    await node.service.register(REF, { maps: 2, partitions: PARTITIONS });
    await put(node, owner, { mapIndex: 0, attemptId: 1, epoch: 0 });
    await put(node, owner, { mapIndex: 0, attemptId: 2, epoch: 1 });
    await restart(node);
    const sizeBytes = 2 * (DATA_BYTES + INDEX_BYTES);
    const info = { ...REF, maps: 2, partitions: PARTITIONS, committedMaps: 1, sizeBytes };
    expect(await node.service.list()).toEqual([info]);
    expect(await node.service.remove(REF)).toEqual({ freedBytes: sizeBytes });
    expect(await node.service.remove(REF)).toEqual({ freedBytes: 0 });
    expect(await node.service.list()).toEqual([]);
  });

  it('staged writes that were aborted elsewhere are not remembered for ever', async () => {
    const node = await openNode();
    const owner = node.store.createOwner('executor');
    await node.service.register(REF, { maps: 2, partitions: PARTITIONS });
    let probes = 0;
    const extend = node.store.extend.bind(node.store);
    node.store.extend = (...args) => {
      probes++;
      return extend(...args);
    };
    for (let i = 0; i < 2000; i++)
      await node.store.abort(
        owner,
        await stage(node, owner, { mapIndex: 0, attemptId: i, epoch: 0 }),
      );
    // Each is asked about once and then dropped: had they been kept, the questions would grow with the square.
    expect(probes).toBeLessThanOrEqual(2000);
    expect(probes).toBeGreaterThan(1800);
  });
});
