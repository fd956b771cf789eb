import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { findBench, findBenches } from './benches.mjs';

describe('findBenches', () => {
  const benches = findBenches();

  test('finds those of the packages, and those of the Python client with its environment', () => {
    expect(benches['client/local-path']?.steps).toEqual(['npm']);
    expect(benches['python/tiers']?.steps).toEqual(['npm', 'python-client']);
    expect(benches['python/tiers']?.program).toMatch(/python$/);
  });

  test('every file is there, and none that belongs to another bench', () => {
    for (const { args } of Object.values(benches))
      expect(args.filter((arg) => arg.startsWith('/')).map((file) => existsSync(file))).toEqual([
        true,
      ]);
    expect(Object.keys(benches).filter((name) => name.includes('/_'))).toEqual([]);
    expect(benches['server/figures']).toBeUndefined();
  });
});

describe('findBench', () => {
  const [one, other, third] = ['one', 'other', 'third'].map((title) => ({ title }));
  const benches = { grid: one, 'a/x': other, 'b/x': third, 'b/y': one };

  test.each([
    ['grid', one],
    ['a/x', other],
    ['y', one],
    ['x', undefined],
    ['toString', undefined],
    [undefined, undefined],
  ])('%s', (name, wanted) => {
    expect(findBench(benches, name)).toBe(wanted);
  });
});
