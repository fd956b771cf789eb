import { expect, test } from 'vitest';
import { GrowthRate } from './growth-rate.ts';

test('what grows by 10 bytes a second reaches a limit that is 100 away in 10 seconds', () => {
  const rate = new GrowthRate();
  expect(rate.secondsUntil(1000)).toBeNull();
  for (let second = 0; second <= 120; second++) rate.note(second * 10, second * 1000);
  expect(rate.secondsUntil(1300)).toBeCloseTo(10);
  expect(rate.secondsUntil(1000)).toBe(0);
});

test('what shrinks or stands is never full, and what was before the last minute is forgotten', () => {
  const rate = new GrowthRate();
  rate.note(0, 0);
  for (let second = 10; second <= 80; second++) rate.note(500, second * 1000);
  expect(rate.secondsUntil(1000)).toBeNull();
  rate.note(400, 81_000);
  expect(rate.secondsUntil(1000)).toBeNull();
});
