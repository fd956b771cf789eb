import { DEFAULT_RUN_POLICY } from '@ebb/protocol';
import { createTestClock } from '@ebb/testkit';
import { expect, test } from 'vitest';
import { type CheckpointRecords, Runs } from './runs.ts';
import type { SnapshotRecord } from './snapshot-record.ts';

/** Keeps nothing, and never fails. */
const records: CheckpointRecords = {
  deleteRecord: async () => undefined,
  durable: async () => undefined,
  findRecord: async () => undefined,
  listRecords: async () => [],
  nextIds: async () => 1,
  putRecord: async () => undefined,
  putRecords: async () => undefined,
};

const by = (session: string, more: Partial<SnapshotRecord> = {}): SnapshotRecord => ({
  ...{ session, sequence: 1, committedAtMs: 0, parts: [], metadata: {}, pinned: false, bad: null },
  ...{ imagesGone: false, stored: null, previous: null, isRemoved: false, ...more },
});

test('a step that is saved anew many times has the ages of the sessions that its record names, and no others', async () => {
  const clock = createTestClock(0);
  const runs = new Runs(records, clock);
  const ref = { bucket: 'b', run: 'r', step: 7 };
  const run = await runs.setPolicy(ref, DEFAULT_RUN_POLICY);
  let previous: SnapshotRecord | null = null;
  for (let n = 0; n < 100; n++) {
    const record: SnapshotRecord = by(`s~${n}`, { previous, committedAtMs: clock.now() });
    await runs.put(ref, record, { durable: false });
    previous = by(`s~${n}`, { committedAtMs: clock.now() });
    await clock.advance(1000);
  }
  expect([...(run.bornMs.get(7)?.keys() ?? [])]).toEqual(['s~99', 's~98']);
  clock.jump(5_000_000);
  await runs.put(ref, by('s~98'), { durable: false }); // memory was lost: the one before is back
  expect(runs.ageMs(ref, by('s~98'))).toBe(2000);
  await runs.put(ref, by('s~98', { isRemoved: true }), { durable: false });
  await runs.drop(ref, by('s~98'));
  expect(run.bornMs.size).toBe(0);
});
