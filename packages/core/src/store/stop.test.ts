/** A tier 2 that takes a call and never answers, and a node that is to stop. */
import {
  buffered,
  createTestClock,
  durable,
  mirrored,
  openTestStore,
  override,
  reopen,
  type TestStore,
} from '@ebb/testkit';
import { describe, expect, test } from 'vitest';
import type { Clock } from '../clock.ts';

const NEVER = new Promise<never>(() => undefined);

async function open(options: { readonly clock?: Clock } = {}): Promise<TestStore> {
  const at = await openTestStore({
    ...options,
    faults: {
      remote: (remote) =>
        override(remote, { put: () => NEVER, head: () => NEVER, delete: () => NEVER }),
    },
  });
  await at.store.createBucket('buf', buffered);
  await at.store.createBucket('dur', durable);
  return at;
}

/** Resolves when they are committed here and wait for tier 2; what comes of each is in the array. */
async function putDurably(at: TestStore, keys: readonly string[]): Promise<Promise<unknown>[]> {
  const { entries } = await at.store.spool();
  const puts = keys.map(
    async (key) => await at.put('dur', key, Buffer.from('kept')).catch((error: unknown) => error),
  );
  await expect.poll(async () => (await at.store.spool()).entries).toBe(entries + keys.length);
  return puts;
}

describe('a tier 2 that hangs', () => {
  test('holds up a drain no longer than its deadline, and who waits for it is told what is ambiguous', async () => {
    const at = await open();
    for (const key of ['a', 'b', 'c', 'd', 'e']) await at.put('buf', key, Buffer.from('x'));
    const pending = await putDurably(at, ['k', 'l', 'm', 'n', 'o', 'p']);
    await at.store.drain({ persist: true, deadlineMs: 200 });
    for (const put of pending) {
      const message = expect.stringContaining('the node stops') as string;
      expect(await put).toMatchObject({ code: 'not_yet_durable', message });
    }
    await at.close();
  }, 60_000);

  test('whose drain ends before the alarm of its deadline: who waits is told all the same', async () => {
    const at = await open({ clock: createTestClock() }); // which never strikes
    const [pending] = await putDurably(at, ['k']);
    await at.store.drain({ persist: false, deadlineMs: 100 });
    expect(await pending).toMatchObject({ code: 'not_yet_durable' });
    await at.close();
  }, 60_000);

  test('holds up no close', async () => {
    const at = await open();
    const [pending] = await putDurably(at, ['k']);
    await at.close();
    expect(await pending).toMatchObject({ code: 'not_yet_durable' });
  }, 60_000);

  test('loses nothing: what was cut is sent after the next start', async () => {
    const at = await open();
    const [pending] = await putDurably(at, ['k']);
    await at.store.drain({ persist: false, deadlineMs: 100 });
    await pending;
    const next = await reopen(at, { faults: {} });
    await mirrored(next);
    expect((await next.get('dur', 'k')).toString()).toBe('kept');
    expect((await next.store.head({ bucket: 'dur', key: 'k' })).durability).toBe('remote');
  }, 60_000);
});
