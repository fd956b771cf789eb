import { StoreError } from '@ebb/protocol';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Conditions } from '../store/conditions.ts';
import { CatalogHealth } from './catalog-health.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const failure = new StoreError('io_failed', 'catalog: the disk of the catalog failed');

test('a disk that refuses writes is a condition until a change of nothing goes through', async () => {
  const conditions = new Conditions();
  let works = false;
  const health: CatalogHealth = new CatalogHealth(conditions, async () => {
    if (!works) throw failure;
    health.noteCommitted();
  });
  health.noteFailed(failure);
  await vi.advanceTimersByTimeAsync(3000);
  expect(conditions.list()).toMatchObject([
    { name: 'catalog_failed', effect: 'refuses_changes', lastError: 'io_failed' },
  ]);
  works = true;
  await vi.advanceTimersByTimeAsync(1000);
  expect(conditions.list()).toEqual([]);
  expect(vi.getTimerCount()).toBe(0);
});

test('a sync that failed is final: nothing ends the condition', async () => {
  const conditions = new Conditions();
  const health = new CatalogHealth(conditions, async () => undefined);
  health.noteFailed(failure);
  health.noteFinal(new StoreError('io_failed', 'the disk refused to sync the catalog'));
  health.noteCommitted();
  await vi.advanceTimersByTimeAsync(5000);
  expect(conditions.list()).toMatchObject([{ reason: 'The disk refused to sync the catalog.' }]);
});
