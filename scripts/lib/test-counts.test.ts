import { describe, expect, test } from 'vitest';
import { addCounts, countJUnit, countVitest, judgeSuite } from './test-counts.mjs';

test('vitest: a file that cannot be loaded is a failure, though it has no failing test', () => {
  const report = {
    testResults: [
      {
        name: 'a.test.ts',
        status: 'passed',
        assertionResults: [
          { status: 'passed', fullName: 'x' },
          { status: 'skipped', fullName: 'y' },
        ],
      },
      { name: 'b.test.ts', status: 'failed', message: 'SyntaxError', assertionResults: [] },
    ],
  };
  expect(countVitest(report)).toEqual({
    passed: 1,
    failed: 1,
    skipped: 1,
    failures: ['b.test.ts: SyntaxError'],
  });
});

test('surefire: failures and errors both fail, and are named', () => {
  const xml = `<?xml version="1.0"?><testsuite name="T" time="1.5" tests="5" errors="1" skipped="1" failures="1">
    <testcase name="good" classname="T"/><testcase name="bad" classname="T"><failure message="no"/></testcase>
    <testcase name="worse" classname="T"><error message="no"/></testcase></testsuite>`;
  expect(countJUnit(xml)).toEqual({
    passed: 2,
    failed: 2,
    skipped: 1,
    failures: ['T: bad', 'T: worse'],
  });
  expect(() => countJUnit('<html>')).toThrow('no <testsuite>');
});

describe('judgeSuite', () => {
  const counts = (
    passed: number,
    failed = 0,
  ): { passed: number; failed: number; skipped: number; failures: string[] } => ({
    passed,
    failed,
    skipped: 0,
    failures: [],
  });

  test('a crash without a failing test, and a suite without tests, are failures', () => {
    expect(judgeSuite(counts(3), 1).failed).toBe(1);
    expect(judgeSuite(counts(0), 0).failed).toBe(1);
    expect(judgeSuite(counts(3), 0).failed).toBe(0);
    expect(judgeSuite(counts(3, 2), 1).failed).toBe(2);
  });

  test('sums add up', () => {
    expect(addCounts([counts(1, 2), counts(3)])).toMatchObject({ passed: 4, failed: 2 });
  });
});
