import { StoreError } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { type ConditionChange, Conditions } from './conditions.ts';

function openConditions(): {
  conditions: Conditions;
  changes: ConditionChange[];
  clock: { at: number };
} {
  const clock = { at: 1000 };
  const conditions = new Conditions({
    now: () => clock.at,
    monotonic: () => clock.at,
    sleep: async () => undefined,
  });
  const changes: ConditionChange[] = [];
  conditions.onChange((change) => changes.push(change));
  return { conditions, changes, clock };
}

test('a condition that is found again and again begins once and ends once, with the last reason', () => {
  const { conditions, changes, clock } = openConditions();
  conditions.enter('remote_unreachable', 's3://a', { reason: 'refused' });
  clock.at = 3000;
  const error = new StoreError('io_failed', 'refused');
  conditions.enter('remote_unreachable', 's3://a', { reason: 'refused again', error });
  expect(conditions.list()).toMatchObject([
    {
      ...{ name: 'remote_unreachable', subject: 's3://a', effect: 'unprotected' },
      ...{ sinceMs: 1000, reason: 'refused again', lastError: 'io_failed' },
    },
  ]);
  clock.at = 6000;
  conditions.leave('remote_unreachable', 's3://a');
  conditions.leave('remote_unreachable', 's3://a');
  expect(changes.map(({ began, tookMs }) => [began, tookMs])).toEqual([
    [true, 0],
    [false, 5000],
  ]);
  expect(conditions.list()).toEqual([]);
});

test('conditions of several subjects stand side by side, the gravest first', () => {
  const { conditions } = openConditions();
  conditions.enter('remote_unreachable', 'remote', { reason: 'away' });
  conditions.enter('tier_without_room', 'disk', { reason: 'no room' });
  conditions.enter('catalog_failed', 'catalog', { reason: 'no sync' });
  conditions.enter('tier_without_room', 'memory', { reason: 'no room' });
  expect(conditions.list().map(({ name, subject }) => `${name} ${subject}`)).toEqual([
    'catalog_failed catalog',
    'tier_without_room disk',
    'tier_without_room memory',
    'remote_unreachable remote',
  ]);
  conditions.leave('tier_without_room', 'disk');
  expect(conditions.has('tier_without_room', 'memory')).toBe(true);
  expect(conditions.holds('refuses_changes')).toBe(true);
});
