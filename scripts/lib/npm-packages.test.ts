import { expect, test } from 'vitest';
import { lockMatches } from './npm-packages.mjs';

const lock = {
  packages: {
    '': {},
    'packages/core': { version: '0.1.0' },
    'node_modules/a': { version: '1.0.0' },
    'node_modules/b': { version: '2.0.0', optional: true },
  },
};

test('an installation matches its lock when every package is there in its version', () => {
  expect(lockMatches(lock, { packages: { 'node_modules/a': { version: '1.0.0' } } })).toBe(true);
  expect(lockMatches(lock, { packages: { 'node_modules/a': { version: '1.0.1' } } })).toBe(false);
  expect(lockMatches(lock, { packages: {} })).toBe(false);
});

test('an optional package may be missing, but not be another version', () => {
  const installed = {
    'node_modules/a': { version: '1.0.0' },
    'node_modules/b': { version: '1.9.0' },
  };
  expect(lockMatches(lock, { packages: installed })).toBe(false);
});
