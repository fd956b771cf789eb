/** Following the log of events (F1, F2 of events.ts) on a real store. What is in the log is told by the catalog's suite. */
import { buffered, ephemeral, openStoreInTest, reopen, type TestStore } from '@ebb/testkit';
import { expect, test } from 'vitest';
import type { CatalogEvent, EventFilter } from '../catalog/events.ts';

async function open(): Promise<TestStore> {
  return await openStoreInTest({ buf: buffered, mem: ephemeral });
}

/** Reads until `enough` says so. */
async function follow(
  at: TestStore,
  options: { readonly filter?: EventFilter; readonly afterEventId?: number },
  enough: (events: readonly CatalogEvent[]) => boolean,
): Promise<readonly CatalogEvent[]> {
  const events: CatalogEvent[] = [];
  const { signal } = new AbortController();
  for await (const batch of at.store.events({ ...options, signal })) {
    events.push(...batch.events);
    if (enough(events)) break;
  }
  return events;
}

const bytes = Buffer.alloc(5000, 3);

test('a reader from now on gets what comes, in order, with what the mirror does', async () => {
  const at = await open();
  await at.put('buf', 'before', bytes);
  await at.store.wait({ bucket: 'buf', key: 'before' }, 'remote');
  const reader = at.store.events({ signal: new AbortController().signal });
  const first = await reader.next();
  expect(first.value.events).toEqual([]);
  const reading = follow(at, { afterEventId: first.value.throughEventId }, (events) =>
    events.some(({ type }) => type === 'deleted'),
  );
  await at.put('mem', 'unseen', bytes);
  await at.put('buf', 'k', bytes);
  await at.store.wait({ bucket: 'buf', key: 'k' }, 'remote');
  await at.store.delete({ bucket: 'buf', key: 'k' });
  const told = (await reading).map(({ type, key, place }) => [type, key, place?.durability]);
  expect(told).toEqual([
    ['created', 'k', undefined],
    ['tier', 'k', 'remote'],
    ['deleted', 'k', undefined],
  ]);
});

test('readers of any pace and any filter get every event once, while writers write', async () => {
  const at = await open();
  const OBJECTS = 300;
  const isLast = (events: readonly CatalogEvent[]): boolean => events.at(-1)?.key === 'done/last';
  const readers = [
    follow(at, { afterEventId: 0, filter: { types: ['created'] } }, isLast),
    follow(at, { afterEventId: 0, filter: { prefix: 'done/', types: ['created'] } }, isLast),
  ];
  for (let i = 0; i < OBJECTS / 20; i++)
    await Promise.all(Array.from({ length: 20 }, (_, j) => at.put('buf', `${i}/${j}`, bytes)));
  await at.put('buf', 'done/last', bytes);
  const [whole, filtered] = await Promise.all(readers);
  expect(new Set(whole?.map(({ key }) => key)).size).toBe(OBJECTS + 1);
  expect(whole).toHaveLength(OBJECTS + 1);
  expect(filtered).toHaveLength(1);
});

test('a filter that lets nothing through still takes its reader on', async () => {
  const at = await open();
  const reader = at.store.events({
    filter: { key: 'never' },
    afterEventId: 0,
    signal: new AbortController().signal,
  });
  const from = (await reader.next()).value.throughEventId;
  await at.put('buf', 'k', bytes);
  const next = await reader.next();
  expect(next.value.events).toEqual([]);
  expect(next.value.throughEventId).toBeGreaterThan(from);
});

test('readers end with the reason: given up, draining, or gone', async () => {
  const at = await open();
  const givesUp = new AbortController();
  const idle = at.store.events({ signal: givesUp.signal });
  const other = at.store.events({ signal: new AbortController().signal });
  await idle.next();
  await other.next();
  const aborted = expect(idle.next()).rejects.toMatchObject({ code: 'aborted' });
  const drained = expect(other.next()).rejects.toMatchObject({ code: 'draining' });
  givesUp.abort();
  await aborted;
  await at.store.drain({ persist: false, deadlineMs: 1 });
  await drained;
  const late = at.store.events({ signal: new AbortController().signal });
  await expect(late.next()).rejects.toMatchObject({ code: 'draining' });
});

test('after a crash a reader goes on where it was, and gets what it missed', async () => {
  const at = await open();
  await at.put('buf', 'a', bytes);
  const seen = await follow(at, { afterEventId: 0 }, (events) => events.length >= 1);
  await at.put('buf', 'b', bytes);
  const next = await reopen(at);
  await next.put('buf', 'c', bytes);
  const afterEventId = seen[0]?.eventId as number;
  const rest = await follow(next, { afterEventId, filter: { types: ['created'] } }, (events) =>
    events.some(({ key }) => key === 'c'),
  );
  expect(rest.map(({ key }) => key)).toEqual(['b', 'c']);
});
