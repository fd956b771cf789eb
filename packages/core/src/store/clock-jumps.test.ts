/** The clock of the host set forward and back by hours, and the process stopped for minutes: what goes by time, and what does not. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StoreError } from '@ebb/protocol';
import {
  buffered,
  createTestClock,
  ephemeral,
  mirrored,
  openStoreInTest,
  override,
  type TestClock,
  type TestStore,
  type TestStoreOptions,
} from '@ebb/testkit';
import { describe, expect, test, vi } from 'vitest';

const HOUR_MS = 3_600_000;
const SECOND_MS = 1000;

async function open(options: TestStoreOptions = {}): Promise<{ at: TestStore; clock: TestClock }> {
  const clock = createTestClock();
  const buckets = { fast: ephemeral, kept: buffered };
  return { at: await openStoreInTest(buckets, { clock, ...options }), clock };
}

/** Several sweeps, a second apart. */
async function pass(clock: TestClock, seconds: number): Promise<void> {
  for (let i = 0; i < seconds; i++) await clock.advance(SECOND_MS);
}

describe.each([
  { jump: 'forward', hours: 5 },
  { jump: 'back', hours: -5 },
])('the clock of the host is set $jump by hours', ({ hours }) => {
  const jumpMs = hours * HOUR_MS;

  test('a staged write, a lease and a job go on as before, and end by their own time', async () => {
    const { at, clock } = await open({
      settings: { stagingTtlMs: 60_000, leaseTtlMs: 60_000 },
    });
    const { store, owner } = at;
    await store.openJob({ jobId: 'job', label: '', heartbeatTtlMs: 60_000, budgetBytes: null });
    await at.put('fast', 'read', Buffer.from('bytes'));
    const opened = await store.open(owner, { bucket: 'fast', key: 'read' });
    const ref = { bucket: 'fast', key: 'written' };
    const staged = await store.stage(owner, ref, { reserveBytes: 5, jobId: 'job' });
    const abandoned = await store.stage(owner, { ...ref, key: 'late' }, { reserveBytes: 5 });
    await store.write(owner, staged.writeId, Buffer.from('bytes'), 0);
    clock.jump(jumpMs);
    await pass(clock, 3);
    const target = Buffer.alloc(5);
    await store.read(owner, opened.leaseId, target, 0);
    expect(target.toString()).toBe('bytes');
    await store.commit(owner, staged.writeId, { sizeBytes: 5 });
    expect((await at.get('fast', 'written')).toString()).toBe('bytes');
    const job = await store.getJob('job');
    expect(Math.abs(job.lastHeartbeatMs - clock.now())).toBeLessThan(60_000);
    await vi.waitFor(async () => {
      await pass(clock, 5);
      await expect(store.getJob('job')).rejects.toMatchObject({ code: 'job_not_found' });
      await expect(store.commit(owner, abandoned.writeId, { sizeBytes: 0 })).rejects.toMatchObject({
        code: 'write_not_found',
      });
    });
  });

  test('what waits for tier 2 is tried again as soon as before', async () => {
    let isAway = true;
    const { at, clock } = await open({
      faults: {
        remote: (remote) =>
          override(remote, {
            put: (...args) =>
              isAway ? Promise.reject(new StoreError('io_failed', 'away')) : remote.put(...args),
          }),
      },
    });
    await at.put('kept', 'k', Buffer.from('bytes'));
    await vi.waitFor(() => expect(at.failures.length).toBeGreaterThan(0));
    clock.jump(jumpMs);
    isAway = false;
    await pass(clock, 2);
    await mirrored(at);
  });

  test('a writer that waits for room is answered within its own time', async () => {
    const { at, clock } = await open({
      ...{ memoryBytes: 1_000_000, diskBytes: 1_000_000, settings: { roomWaitMs: 2000 } },
    });
    const owner = at.store.createOwner('other');
    const ref = { bucket: 'fast', key: 'a' };
    for (const tier of [0, 1] as const)
      await at.store.stage(at.owner, ref, { reserveBytes: 900_000, tier });
    const waiting = at.store.stage(owner, { ...ref, key: 'b' }, { reserveBytes: 900_000 });
    let answer: unknown;
    waiting.catch((error: unknown) => {
      answer = error;
    });
    await clock.advance(500);
    clock.jump(jumpMs);
    expect(answer).toBeUndefined();
    await vi.waitFor(async () => {
      await clock.advance(500);
      expect(answer).toMatchObject({ code: 'tier_full' });
    });
  });

  test('ids of events and the order of versions go on; objects are there, and those with a TTL go by the new time', async () => {
    const { at, clock } = await open();
    const { store } = at;
    await store.createBucket('versions', { ...buffered, versioning: 'enabled' });
    await store.createBucket('short', { ...buffered, ttlMs: HOUR_MS });
    await at.put('short', 'k', Buffer.from('short'));
    const etags = [await at.put('versions', 'k', Buffer.from('0'))];
    for (let i = 1; i < 5; i++) {
      clock.jump(i % 2 === 1 ? jumpMs : -jumpMs);
      etags.unshift(await at.put('versions', 'k', Buffer.from(`${i}`)));
    }
    const { versions } = await store.listVersions('versions', {
      ...{ prefix: '', delimiter: '', startAfter: { key: '' }, limit: 100 },
    });
    expect(versions.map(({ object }) => object.etag)).toEqual(etags);
    const reader = store.events({ afterEventId: 0, signal: new AbortController().signal });
    const events = (await reader.next()).value.events.filter(
      ({ bucket, type }) => bucket === 'versions' && type !== 'tier',
    );
    expect(events).toHaveLength(5);
    const inOrder = events.map(({ eventId }) => eventId);
    expect(inOrder).toEqual(inOrder.toSorted((a, b) => a - b));
    clock.jump(jumpMs);
    await pass(clock, 3);
    const short = at.get('short', 'k');
    if (jumpMs > 0) await expect(short).rejects.toMatchObject({ code: 'not_found' });
    else expect((await short).toString()).toBe('short');
    expect((await at.get('versions', 'k')).toString()).toBe('4');
  });

  test('where others change tier 2, the next read looks there again', async () => {
    const { at, clock } = await open();
    const { store } = at;
    await store.createBucket('shared', { ...buffered, revalidateMs: 1000 });
    await at.put('shared', 'k', Buffer.from('ours'));
    await vi.waitFor(async () => expect((await store.spool()).entries).toBe(0));
    clock.jump(jumpMs);
    await writeFile(join(at.root, 'remote/shared/k'), 'theirs');
    expect((await at.get('shared', 'k')).toString()).toBe('theirs');
  });
});

test('why tells what happened in the order in which it did, whatever the clock of the host said', async () => {
  const clock = createTestClock();
  const at = await openStoreInTest({ mem: ephemeral }, { clock });
  for (const key of ['a', 'b', 'c']) {
    await at.put('mem', key, Buffer.from(key));
    clock.jump(-HOUR_MS);
  }
  const sources = ['c', 'a', 'b'].map((key) => ({ bucket: 'mem', key }));
  await at.store.compose({ bucket: 'mem', key: 'all' }, sources, {});
  const { events } = await at.store.why({ bucket: 'mem', key: 'all' });
  expect(events.map(({ details }) => details['object'])).toEqual(['mem/a', 'mem/b', 'mem/c']);
});
