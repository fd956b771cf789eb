/** Real files; the process's limit is a fake: opening says EMFILE as often as told. */
import { closeSync, fstatSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { FileHandles, withDescriptor } from './file-handles.ts';
import { toStoreError } from './fs-error.ts';

let directory = '';
const file = (n: number): string => join(directory, String(n));
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'ebb-handles-'));
  for (let n = 0; n < 4; n++) writeFileSync(file(n), 'x');
});
afterAll(() => rmSync(directory, { recursive: true }));

const none = (): Error =>
  Object.assign(new Error('EMFILE: too many open files'), { code: 'EMFILE' });

test('without a descriptor left, every cache gives up what nobody uses, and the file is opened once more', () => {
  const [first, second] = [new FileHandles<number>(8), new FileHandles<number>(8)];
  first.release(first.acquire(0, file(0)));
  const used = first.acquire(1, file(1));
  second.release(second.acquire(2, file(2)));
  let tries = 0;
  const opened = withDescriptor(() => {
    if (++tries === 1) throw none();
    return 'opened';
  });
  expect([opened, tries, first.size, second.size]).toEqual(['opened', 2, 1, 0]);
  first.release(used);
  for (const cache of [first, second]) cache.dropAll();
});

test('with none to be had, the call says busy: it may be tried again', () => {
  expect(() =>
    withDescriptor(() => {
      throw none();
    }),
  ).toThrow('EMFILE');
  expect(toStoreError(none(), 'opening a blob')).toMatchObject({ code: 'busy', retry: 'safe' });
});

test('a descriptor that is open already is kept as one that was opened here, and closed with it', () => {
  const handles = new FileHandles<number>(8);
  const fd = openSync(file(0), 'r+');
  handles.adopt(0, fd);
  const use = handles.acquire(0, file(0));
  expect(use.fd).toBe(fd);
  handles.release(use);
  handles.dropAll();
  expect(() => fstatSync(fd)).toThrow('EBADF');
});

test('a descriptor that fails to close leaves the one that takes its place alone', () => {
  const handles = new FileHandles<number>(1);
  const [first, second] = [openSync(file(0), 'r+'), openSync(file(1), 'r+')];
  handles.adopt(0, first);
  closeSync(first); // so that close(2) fails, as with EIO on a file server
  handles.adopt(1, second);
  const use = handles.acquire(1, file(1));
  expect(use.fd).toBe(second);
  expect(fstatSync(second).isFile()).toBe(true);
  handles.release(use);
  handles.dropAll();
});
