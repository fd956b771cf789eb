import {
  chmodSync,
  chownSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  assertTrustedParent,
  assertTrustedPath,
  openOwnDirectory,
  writeOwnFile,
} from './own-paths.ts';

const STRANGER = 65_534;
let directory: string;
beforeEach(() => {
  directory = mkdtempSync('/dev/shm/ebb-test-');
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const isRoot = process.getuid?.() === 0;
const at = (...names: string[]): string => join(directory, ...names);
const check = (path: string) => () => assertTrustedPath({ path, setting: '--memory-dir' });

test('a directory of another user is refused, as the one that is meant and on the way to it', ({
  skip,
}) => {
  if (!isRoot) skip('only root can give a directory away');
  mkdirSync(at('theirs', 'ours'), { recursive: true });
  chownSync(at('theirs'), STRANGER, STRANGER);
  for (const path of [at('theirs'), at('theirs', 'ours'), at('theirs', 'not', 'yet')])
    expect(check(path)).toThrow(
      /^--memory-dir .*\/theirs belongs to uid 65534, .*; remove it, or name another$/,
    );
});

test('a link of another user is refused wherever it is on the way', ({ skip }) => {
  if (!isRoot) skip('only root can give a link away');
  mkdirSync(at('ours'));
  symlinkSync(at('ours'), at('link'));
  expect(check(at('link', 'tier'))).not.toThrow();
  lchownSync(at('link'), STRANGER, STRANGER);
  expect(check(at('link', 'tier'))).toThrow(/link belongs to uid 65534/);
});

test('a directory on the way that every user may write in is refused unless it is sticky', () => {
  mkdirSync(at('open'));
  chmodSync(at('open'), 0o777);
  expect(check(at('open', 'tier'))).toThrow(/every user may write in .*open \(mode 0777\)/);
  chmodSync(at('open'), 0o1777);
  expect(check(at('open', 'tier'))).not.toThrow();
});

test('a directory of our own that every user may write in is closed to them, a sticky one stays as it is', () => {
  for (const [mode, becomes] of [
    [0o777, 0o775],
    [0o1777, 0o1777],
  ] as const) {
    mkdirSync(at('data'));
    chmodSync(at('data'), mode);
    openOwnDirectory({ path: at('data'), setting: '--data' }, { mode: 0o750 });
    expect(lstatSync(at('data')).mode & 0o7777).toBe(becomes);
    rmSync(at('data'), { recursive: true });
  }
});

test('a link of our own on the way is followed and checked; the directory itself is none', () => {
  mkdirSync(at('open', 'deep'), { recursive: true });
  symlinkSync(at('open', 'deep'), at('link'));
  expect(check(at('link', 'tier'))).not.toThrow();
  expect(check(at('link'))).toThrow(/is a link to .*links are not followed here/);
  chmodSync(at('open'), 0o777);
  expect(check(at('link', 'tier'))).toThrow(/every user may write in .*open/);
});

test('a socket may lie in a sticky directory, and not in one where every user may replace it', () => {
  const parent = (): void => assertTrustedParent({ path: at('d', 'sock'), setting: '--socket' });
  mkdirSync(at('d'));
  chmodSync(at('d'), 0o1777);
  expect(parent).not.toThrow();
  chmodSync(at('d'), 0o777);
  expect(parent).toThrow(/every user may write in/);
});

test('a file of our own takes the place of a link of its name, and what that led to stays', () => {
  writeFileSync(at('victim'), 'precious');
  symlinkSync(at('victim'), at('probe'));
  symlinkSync(at('victim'), at('probe.new'));
  writeOwnFile(at('probe'), 'ours', { mode: 0o640 });
  expect(readFileSync(at('victim'), 'utf8')).toBe('precious');
  expect(lstatSync(at('probe')).isFile()).toBe(true);
  expect(readFileSync(at('probe'), 'utf8')).toBe('ours');
});
