/** A fake tier 2 that fails as it is told, in `put`, `head` and `list`. */
import { StoreError } from '@ebb/protocol';
import { createTestClock, type TestClock } from '@ebb/testkit';
import { expect, test } from 'vitest';
import { type ConditionChange, Conditions } from '../store/conditions.ts';
import type { RemoteTier } from './tier.ts';
import { createWatchedTier } from './watched-tier.ts';

type Failing = Partial<Record<'put' | 'head', StoreError | undefined>>;

interface SetUp {
  readonly tier: RemoteTier;
  readonly failing: Failing;
  readonly conditions: Conditions;
  readonly changes: ConditionChange[];
  readonly clock: TestClock;
}

function setUp(): SetUp {
  const failing: Failing = {};
  const answer = (call: keyof Failing) => async () => {
    await Promise.resolve();
    if (failing[call] !== undefined) throw failing[call];
    return undefined as never;
  };
  const fake = {
    location: 's3://place',
    put: answer('put'),
    head: answer('head'),
    close: answer('head'),
  };
  const clock = createTestClock();
  const conditions = new Conditions(clock);
  const changes: ConditionChange[] = [];
  conditions.onChange((change) => changes.push(change));
  const inner = fake as unknown as RemoteTier;
  const tier = createWatchedTier(inner, { conditions, clock, subject: 'lake' });
  return { tier, failing, conditions, changes, clock };
}

const failed = (status: number): StoreError =>
  new StoreError('io_failed', `answered ${status}`, { status });
const put = async ({ tier }: SetUp): Promise<void> =>
  void (await tier.put('b/k', []).catch(() => undefined));
const head = async ({ tier }: SetUp): Promise<void> =>
  void (await tier.head('b/k').catch(() => undefined));

test('a place that does not answer is told once, with its last error, and once when it answers again', async () => {
  const at = setUp();
  for (const status of [0, 503, 0]) {
    at.failing.put = failed(status);
    await put(at);
  }
  expect(at.conditions.list()).toMatchObject([
    {
      name: 'remote_unreachable',
      subject: 'lake',
      reason: 's3://place: answered 0',
      lastError: 'io_failed',
    },
  ]);
  at.failing.put = undefined;
  await put(at);
  expect(at.changes.map(({ began }) => began)).toEqual([true, false]);
});

test('while nobody asks, it is asked from time to time, and the condition ends by itself', async () => {
  const at = setUp();
  at.failing.put = failed(0);
  at.failing.head = failed(0);
  await put(at);
  await at.clock.advance(60_000);
  expect(at.conditions.list()).toHaveLength(1);
  at.failing.head = undefined;
  await at.clock.advance(15_000);
  expect(at.conditions.list()).toEqual([]);
});

test('one object that may not be seen is no matter of the place; a place that refuses all is', async () => {
  const at = setUp();
  at.failing.head = failed(403);
  await head(at);
  await put(at);
  expect(at.changes).toEqual([]);
  for (let i = 0; i < 3; i++) await head(at);
  expect(at.conditions.list()).toMatchObject([{ reason: 's3://place: answered 403' }]);
});

test('a place that is full stays told while it answers to reads', async () => {
  const at = setUp();
  at.failing.put = new StoreError('tier_full', 'no room there');
  for (let i = 0; i < 3; i++) await put(at);
  await head(at);
  const full = { lastError: 'tier_full', whatToDo: expect.stringMatching(/^Make room/) as string };
  expect(at.conditions.list()).toMatchObject([full]);
  at.failing.put = undefined;
  await put(at);
  expect(at.conditions.list()).toEqual([]);
});

test('what is about one object says that the place answers', async () => {
  const at = setUp();
  at.failing.put = failed(0);
  await put(at);
  at.failing.put = new StoreError('precondition_failed', 'replaced');
  await put(at);
  expect(at.conditions.list()).toEqual([]);
});
