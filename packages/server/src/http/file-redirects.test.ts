import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { OpenedObject } from '@ebb/core';
import { createTestClock, tempDir } from '@ebb/testkit';
import { expect, test } from 'vitest';
import { FileRedirects } from './file-redirects.ts';

const SIZE = 300 * 1024;
const ASKS = { 'x-sendfile-type': 'X-Accel-Redirect' };

async function setUp() {
  const [memory, disk] = [await tempDir(), await tempDir()];
  for (const root of [memory, disk]) writeFileSync(join(root, 'blob'), Buffer.alloc(SIZE));
  const clock = createTestClock();
  const redirects = new FileRedirects({ prefix: '/files', roots: [memory, disk], clock });
  const opened = (extents: readonly Partial<OpenedObject['extents'][number]>[]): OpenedObject =>
    ({
      object: { sizeBytes: SIZE },
      extents: extents.map((extent) => ({ tier: 0, path: 'blob', offset: 0, ...extent })),
    }) as unknown as OpenedObject;
  return { memory, clock, redirects, opened };
}

test('a whole object in one local file is offered to a proxy that asks, and to nobody else', async () => {
  const { redirects, opened } = await setUp();
  expect(redirects.offer(ASKS, opened([{}]))?.location).toBe('/files/memory/blob');
  expect(redirects.offer(ASKS, opened([{ tier: 1 }]))?.location).toBe('/files/disk/blob');
  expect(redirects.offer({ ...ASKS, range: 'bytes=5-' }, opened([{}]))).toBeDefined();
  expect(redirects.offer({}, opened([{}]))).toBeUndefined();
});

test('what the proxy would answer wrongly goes through us', async () => {
  const { redirects, opened, memory } = await setUp();
  for (const extents of [[{ tier: 2 as const }], [{ path: '' }], [{ offset: 1 }], [{}, {}], []])
    expect(redirects.offer(ASKS, opened(extents))).toBeUndefined();
  for (const header of ['if-match', 'if-none-match', 'if-modified-since', 'if-range'])
    expect(redirects.offer({ ...ASKS, [header]: '"x"' }, opened([{}]))).toBeUndefined();
  expect(redirects.offer({ ...ASKS, range: 'bytes=0-1,5-6' }, opened([{}]))).toBeUndefined();
  expect(redirects.offer(ASKS, opened([{ path: 'gone' }]))).toBeUndefined();
  truncateSync(join(memory, 'blob'), SIZE + 1); // the file of a former blob, longer than this one
  expect(redirects.offer(ASKS, opened([{}]))).toBeUndefined();
});

test('one lease stands for a file, until half of its time is over', async () => {
  const { redirects, opened, clock } = await setUp();
  expect(redirects.offer(ASKS, opened([{}]))?.keepsLease).toBe(true);
  expect(redirects.offer(ASKS, opened([{}]))?.keepsLease).toBe(false);
  await clock.advance(5 * 60_000);
  expect(redirects.offer(ASKS, opened([{}]))?.keepsLease).toBe(true);
});

test('a file that is offered has a lease also after the clock of the host was set back', async () => {
  const { redirects, opened, clock } = await setUp();
  expect(redirects.offer(ASKS, opened([{}]))?.keepsLease).toBe(true);
  clock.jump(-3_600_000);
  await clock.advance(5 * 60_000);
  expect(redirects.offer(ASKS, opened([{}]))?.keepsLease).toBe(true);
});
