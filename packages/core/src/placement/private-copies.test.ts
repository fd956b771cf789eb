/** A crash, an outage or a race at each point between a private copy in tier 2 and its record: what nobody refers to does not stay there. */
import { StoreError } from '@ebb/protocol';
import {
  buffered,
  createTestClock,
  ephemeral,
  openTestStore,
  override,
  type TestStore,
} from '@ebb/testkit';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import type { Catalog } from '../catalog/catalog.ts';
import type { RemoteTier } from '../tier/tier.ts';

type Options = NonNullable<Parameters<typeof openTestStore>[0]>;

async function open(options: Options = {}): Promise<TestStore> {
  const at = await openTestStore(options);
  closeAtEnd(at);
  await at.store.createBucket('mem', ephemeral);
  await at.store.createBucket('buf', buffered);
  return at;
}

function closeAtEnd(at: TestStore): void {
  onTestFinished(async () => await at.close().catch(() => undefined));
}

async function mirrored(at: TestStore): Promise<void> {
  await vi.waitFor(async () => expect((await at.store.spool()).entries).toBe(0), {
    timeout: 10_000,
  });
}

async function stored(at: TestStore): Promise<string[]> {
  const names = await Array.fromAsync(at.tiers.remote.list(''), ({ name }) => name);
  return names.toSorted();
}

async function storedBecomes(at: TestStore, names: readonly string[]): Promise<void> {
  await vi.waitFor(async () => expect(await stored(at)).toEqual(names), { timeout: 10_000 });
}

async function blobOf(at: TestStore, bucket: string, key: string): Promise<number> {
  const { object } = await at.store.head({ bucket, key });
  return object.extents[0]?.blobId as number;
}

/** A store that comes to a halt before it records a copy under a private name, as a killed process does there. */
async function openHalting(): Promise<{
  readonly at: TestStore;
  readonly copied: Promise<void>;
  crash(options?: Parameters<TestStore['crash']>[0]): Promise<TestStore>;
}> {
  const copied = Promise.withResolvers<void>();
  const killed = Promise.withResolvers<void>();
  let inner: Catalog | undefined;
  const at = await open({
    faults: {
      catalog: (catalog) => {
        inner = catalog;
        return override(catalog, {
          setBlobCopies: async (blobId, generation, copies) => {
            if (copies.remote?.name.includes('/.ebb/') === true) {
              copied.resolve();
              await killed.promise;
            }
            return await catalog.setBlobCopies(blobId, generation, copies);
          },
        });
      },
    },
  });
  return {
    ...{ at, copied: copied.promise },
    crash: async (options = {}) => {
      await inner?.close();
      killed.resolve();
      const next = await at.crash({ faults: {}, ...options });
      closeAtEnd(next);
      return next;
    },
  };
}

describe('a crash between a private copy and its record', () => {
  test('of bytes that leave the node for want of room: the copy goes, and they can be copied again', async () => {
    const { at, copied, crash } = await openHalting();
    await at.put('mem', 'k', Buffer.from('here'));
    const name = `mem/.ebb/${at.store.nodeId}-${await blobOf(at, 'mem', 'k')}`;
    const move = at.store.relocate({ bucket: 'mem', key: 'k' }, 2).catch(() => undefined);
    await copied;
    expect(await stored(at)).toEqual([name]);
    const next = await crash();
    await move;
    await storedBecomes(next, []);
    expect((await next.get('mem', 'k')).toString()).toBe('here');
    await next.store.relocate({ bucket: 'mem', key: 'k' }, 2);
    expect(await stored(next)).toEqual([name]);
    expect((await next.get('mem', 'k')).toString()).toBe('here');
  });

  test('of bytes that outlive their name: the copy is made again, or goes with them', async () => {
    for (const isDeleted of [false, true]) {
      const { at, copied, crash } = await openHalting();
      await at.put('buf', 'a', Buffer.from('first'));
      await mirrored(at);
      await at.store.copy({ bucket: 'buf', key: 'a' }, { bucket: 'mem', key: 'copy' });
      const name = `buf/.ebb/${at.store.nodeId}-${await blobOf(at, 'mem', 'copy')}`;
      await at.put('buf', 'a', Buffer.from('second'));
      await copied;
      expect(await stored(at)).toEqual([name, 'buf/a']);
      const next = await crash();
      if (isDeleted) await next.store.delete({ bucket: 'mem', key: 'copy' });
      await mirrored(next);
      if (!isDeleted) {
        await next.store.relocate({ bucket: 'mem', key: 'copy' }, 2);
        expect((await next.get('mem', 'copy')).toString()).toBe('first');
        await next.store.delete({ bucket: 'mem', key: 'copy' });
      }
      await storedBecomes(next, ['buf/a']);
      expect((await next.get('buf', 'a')).toString()).toBe('second');
    }
  });

  test('and tier 2 does not answer at the next start: it goes when it is back, also after further crashes', async () => {
    const { at, copied, crash } = await openHalting();
    await at.put('mem', 'k', Buffer.from('here'));
    const move = at.store.relocate({ bucket: 'mem', key: 'k' }, 2).catch(() => undefined);
    await copied;
    const clock = createTestClock();
    let isAway = true;
    let asked = 0;
    const remote = (tier: RemoteTier): RemoteTier =>
      override(tier, {
        delete: async (name) => {
          asked++;
          if (isAway) throw new StoreError('io_failed', 'away');
          await tier.delete(name);
        },
      });
    let next = await crash({ clock, faults: { remote } });
    await move;
    await next.store.delete({ bucket: 'mem', key: 'k' });
    await vi.waitFor(() => expect(next.failures).toHaveLength(1));
    // Asked less and less often.
    for (let minute = 0; minute < 10; minute++) await clock.advance(60_000);
    expect(asked).toBeGreaterThan(3);
    expect(asked).toBeLessThan(80);
    next = await next.crash();
    closeAtEnd(next);
    expect(await stored(next)).toHaveLength(1);
    isAway = false;
    await vi.waitFor(async () => {
      await clock.advance(10_000);
      expect(await stored(next)).toEqual([]);
    });
  });

  test('but after the record: the copy stays', async () => {
    const at = await open();
    await at.put('mem', 'k', Buffer.from('there'));
    await at.store.relocate({ bucket: 'mem', key: 'k' }, 2);
    const names = await stored(at);
    const next = await at.crash({ loseMemory: true });
    closeAtEnd(next);
    expect((await next.get('mem', 'k')).toString()).toBe('there');
    expect(await stored(next)).toEqual(names);
  });

  test('of another copy under the name: what a blob refers to is not removed', async () => {
    let inner: Catalog | undefined;
    const at = await open({ faults: { catalog: (catalog) => (inner = catalog) } });
    await at.put('mem', 'k', Buffer.from('there'));
    await at.store.relocate({ bucket: 'mem', key: 'k' }, 2);
    const [name] = await stored(at);
    await inner?.notePrivateCopy(name as string);
    const next = await at.crash({
      faults: { catalog: (catalog) => (inner = catalog) },
    });
    closeAtEnd(next);
    await vi.waitFor(async () =>
      expect(await inner?.listPrivateCopies({ after: '', limit: 1 })).toEqual([]),
    );
    expect(await stored(next)).toEqual([name]);
  });
});

test('a copy that is made anew while the former one is removed stays', async () => {
  const { at, copied, crash } = await openHalting();
  await at.put('mem', 'k', Buffer.from('here'));
  const first = at.store.relocate({ bucket: 'mem', key: 'k' }, 2).catch(() => undefined);
  await copied;
  const gate = Promise.withResolvers<void>();
  const removing = Promise.withResolvers<void>();
  const next = await crash({
    faults: {
      remote: (tier) =>
        override(tier, {
          delete: async (name) => {
            removing.resolve();
            await gate.promise;
            await tier.delete(name);
          },
        }),
    },
  });
  await first;
  await removing.promise;
  const again = next.store.relocate({ bucket: 'mem', key: 'k' }, 2);
  gate.resolve();
  expect((await again).tiers).toEqual([2]);
  expect(await stored(next)).toHaveLength(1);
  expect((await next.get('mem', 'k')).toString()).toBe('here');
});

test('a copy whose reply was lost goes with its object, though no blob ever referred to it', async () => {
  const clock = createTestClock();
  const at = await open({
    clock,
    faults: {
      remote: (tier) =>
        override(tier, {
          put: async (...args) => {
            await tier.put(...args);
            throw new StoreError('io_failed', 'the reply was lost');
          },
        }),
    },
  });
  await at.put('mem', 'k', Buffer.from('here'));
  await expect(at.store.relocate({ bucket: 'mem', key: 'k' }, 2)).rejects.toMatchObject({
    code: 'io_failed',
  });
  expect(await stored(at)).toHaveLength(1);
  await at.store.delete({ bucket: 'mem', key: 'k' });
  await clock.advance(1000);
  await storedBecomes(at, []);
});

test('a bucket that nothing mirrors pays nothing, as long as its bytes are here', async () => {
  let noted = 0;
  const at = await open({
    faults: {
      catalog: (catalog) =>
        override(catalog, {
          notePrivateCopy: async (name) => {
            noted++;
            await catalog.notePrivateCopy(name);
          },
        }),
    },
  });
  for (let i = 0; i < 20; i++) await at.put('mem', `k${i}`, Buffer.alloc(1000, i));
  await at.store.relocate({ bucket: 'mem', key: 'k3' }, 1);
  for (let i = 0; i < 20; i++) await at.store.delete({ bucket: 'mem', key: `k${i}` });
  // Nor do objects that have their own names.
  await at.put('buf', 'k', Buffer.from('x'));
  await mirrored(at);
  expect(noted).toBe(0);
});

describe('an object whose name tier 2 cannot have', () => {
  test('leaves nothing there when it goes, be it empty, of parts of others, or of many', async () => {
    const at = await open();
    await at.put('mem', 'a', Buffer.from('0123456789'));
    await at.put('mem', 'b', Buffer.from('abc'));
    const part = { bucket: 'mem', key: 'a', offset: 2, length: 3, consume: false };
    const whole = { bucket: 'mem', key: 'b', consume: false };
    await at.store.compose({ bucket: 'buf', key: 'x//part' }, [part], {});
    await at.store.compose({ bucket: 'buf', key: 'x//many' }, [whole, part, whole], {});
    await at.put('buf', 'x//empty', Buffer.alloc(0));
    await mirrored(at);
    for (const key of ['x//part', 'x//many', 'x//empty'])
      expect((await at.store.head({ bucket: 'buf', key })).durability).toBe('remote');
    for (const key of ['x//part', 'x//many']) await at.store.relocate({ bucket: 'buf', key }, 2);
    expect((await at.get('buf', 'x//part')).toString()).toBe('234');
    expect((await at.get('buf', 'x//many')).toString()).toBe('abc234abc');
    for (const bucket of ['buf', 'mem']) await at.store.deletePrefix(bucket, '');
    await mirrored(at);
    await storedBecomes(at, []);
    expect(at.failures).toEqual([]);
  });

  test('is not taken for one that others deleted there', async () => {
    const at = await open();
    await at.put('buf', 'x//y', Buffer.from('kept'));
    await at.put('buf', 'z', Buffer.from('deleted there'));
    await mirrored(at);
    await at.tiers.remote.delete('buf/z');
    const report = await at.store.sync('buf', '', { remove: true });
    expect(report).toMatchObject({ removed: 1 });
    expect((await at.get('buf', 'x//y')).toString()).toBe('kept');
  });
});
