/** What tier 2 looks like to somebody who has only tier 2: every object of a mirrored bucket, plain, under its own name. */
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StoreError } from '@ebb/protocol';
import {
  buffered,
  bytesOf,
  createTestClock,
  durable,
  ephemeral,
  mirrored,
  openStoreInTest,
  openTestStore,
  override,
  reopen,
  type TestStore,
  type TestStoreOptions,
} from '@ebb/testkit';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';

async function open(options: TestStoreOptions = {}): Promise<TestStore> {
  return await openStoreInTest({ buf: buffered, mem: ephemeral }, options);
}

/** Every name of tier 2 with its bytes, read without Ebb. */
async function plain(at: TestStore): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for await (const { name } of at.tiers.remote.list(''))
    found.set(name, (await readFile(join(at.root, 'remote', name))).toString('latin1'));
  return found;
}

describe('tier 2 without Ebb', () => {
  test('an object that was joined of parts is one plain object, and is read from there when the parts have gone', async () => {
    const at = await open();
    const parts = [bytesOf(70_000, 1), bytesOf(30_001, 2), bytesOf(5, 3)];
    for (const [index, part] of parts.entries()) await at.put('mem', `part${index}`, part);
    const whole = Buffer.concat([...parts, parts[0]?.subarray(100, 200) ?? Buffer.alloc(0)]);
    await at.store.compose(
      { bucket: 'buf', key: 'joined' },
      [
        ...parts.map((_, index) => ({ bucket: 'mem', key: `part${index}`, consume: index > 0 })),
        { bucket: 'mem', key: 'part0', offset: 100, length: 100, consume: true },
      ],
      {},
    );
    await mirrored(at);
    expect(readFileSync(join(at.root, 'remote/buf/joined')).equals(whole)).toBe(true);
    const view = await at.store.relocate({ bucket: 'buf', key: 'joined' }, 2);
    expect(view).toMatchObject({ durability: 'remote', tiers: [2] });
    expect((await at.get('buf', 'joined')).equals(whole)).toBe(true);
    expect([...(await plain(at)).keys()]).toEqual(['buf/joined']);
  });

  test('a copy and a renamed object are there under their own names, also when nothing of them is here', async () => {
    const at = await open();
    await at.put('buf', 'a', Buffer.from('first'));
    await mirrored(at);
    await at.store.relocate({ bucket: 'buf', key: 'a' }, 2);
    const { durability } = await at.store.copy(
      { bucket: 'buf', key: 'a' },
      { bucket: 'buf', key: 'copy' },
    );
    expect(durability).toBe('disk'); // its bytes are in tier 2, its name is not yet
    await at.store.rename({ bucket: 'buf', key: 'a' }, { bucket: 'buf', key: 'b/renamed' });
    await at.put('buf', 'a', Buffer.from('second'));
    await mirrored(at);
    // The name may have gone before the others were stored: then its bytes were kept beside.
    expect(Object.fromEntries(await plain(at))).toMatchObject({
      'buf/a': 'second',
      'buf/b/renamed': 'first',
      'buf/copy': 'first',
    });
    for (const key of ['copy', 'b/renamed']) {
      expect((await at.store.head({ bucket: 'buf', key })).durability).toBe('remote');
      expect((await at.get('buf', key)).toString()).toBe('first');
    }
  });

  test('bytes that a copy in another bucket needs outlive their name', async () => {
    const at = await open();
    await at.put('buf', 'a', Buffer.from('first'));
    await mirrored(at);
    await at.store.copy({ bucket: 'buf', key: 'a' }, { bucket: 'mem', key: 'copy' });
    await at.store.relocate({ bucket: 'mem', key: 'copy' }, 2);
    await at.put('buf', 'a', Buffer.from('second'));
    await mirrored(at);
    expect((await at.get('mem', 'copy')).toString()).toBe('first');
    await at.store.delete({ bucket: 'mem', key: 'copy' });
    await vi.waitFor(async () => expect([...(await plain(at)).keys()]).toEqual(['buf/a']));
  });

  test('an empty object is there too', async () => {
    const at = await open();
    await at.put('buf', '_SUCCESS', Buffer.alloc(0));
    expect((await at.store.head({ bucket: 'buf', key: '_SUCCESS' })).durability).toBe('disk');
    await mirrored(at);
    expect(Object.fromEntries(await plain(at))).toEqual({ 'buf/_SUCCESS': '' });
    expect((await at.store.head({ bucket: 'buf', key: '_SUCCESS' })).durability).toBe('remote');
  });

  test('a name that a directory cannot have is stored under a private one, and goes with its object', async () => {
    const at = await open();
    await at.put('buf', 'a', Buffer.from('file'));
    await mirrored(at);
    await at.put('buf', 'a/b', Buffer.from('below'));
    await at.put('buf', 'c//d', Buffer.from('empty segment'));
    await mirrored(at);
    for (const key of ['a/b', 'c//d']) {
      const view = await at.store.relocate({ bucket: 'buf', key }, 2);
      expect(view).toMatchObject({ durability: 'remote', tiers: [2] });
    }
    expect((await at.get('buf', 'a/b')).toString()).toBe('below');
    await at.store.delete({ bucket: 'buf', key: 'a/b' });
    await at.store.delete({ bucket: 'buf', key: 'c//d' });
    await mirrored(at);
    await vi.waitFor(async () => expect([...(await plain(at)).keys()]).toEqual(['buf/a']));
    expect((await at.get('buf', 'a')).toString()).toBe('file');
  });

  test('a bucket that nothing mirrors is not there, until room is needed', async () => {
    const at = await open();
    await at.put('mem', 'k', Buffer.from('x'));
    await mirrored(at);
    expect((await plain(at)).size).toBe(0);
  });
});

test('a small write that waits for tier 2 is not behind large objects on their way there', async () => {
  const { promise: until, resolve: goOn } = Promise.withResolvers<void>();
  let held = 0;
  const at = await openStoreInTest(
    { buf: buffered, dur: durable },
    {
      faults: {
        remote: (remote) =>
          override(remote, {
            put: async (name, ...rest) => {
              if (name.startsWith('buf/')) held++;
              if (name.startsWith('buf/')) await until;
              return await remote.put(name, ...rest);
            },
          }),
      },
    },
  );
  for (let index = 0; index < 8; index++) await at.put('buf', `large${index}`, bytesOf(100, index));
  await vi.waitFor(() => expect(held).toBe(4));
  await at.put('dur', 'small', Buffer.from('small'));
  expect((await at.store.head({ bucket: 'dur', key: 'small' })).durability).toBe('remote');
  expect(held).toBe(4);
  goOn();
  await mirrored(at);
});

describe('an outage of tier 2', () => {
  test('writes go on, reads go on, and everything drains afterwards; of many versions only the last is sent', async () => {
    let isAway = true;
    const sent: string[] = [];
    const at = await open({
      faults: {
        remote: (remote) =>
          override(remote, {
            put: async (name, ...rest) => {
              if (isAway) throw new StoreError('io_failed', 'away');
              sent.push(name);
              return await remote.put(name, ...rest);
            },
            delete: async (name) => {
              if (isAway) throw new StoreError('io_failed', 'away');
              await remote.delete(name);
            },
          }),
      },
    });
    for (let round = 0; round < 3; round++)
      for (let i = 0; i < 20; i++) await at.put('buf', `k${i}`, Buffer.from(`${round} ${i}`));
    await at.store.delete({ bucket: 'buf', key: 'k7' });
    expect((await at.get('buf', 'k3')).toString()).toBe('2 3');
    expect(await at.store.spool()).toMatchObject({ entries: 20 });
    await vi.waitFor(() => expect(at.failures.length).toBeGreaterThan(1), { timeout: 5000 });
    // Few ask for all: not every write brings about a failing request.
    expect(at.failures.length).toBeLessThan(20);
    isAway = false;
    await mirrored(at);
    expect(sent.toSorted()).toEqual(
      Array.from({ length: 20 }, (_, i) => `buf/k${i}`)
        .filter((name) => name !== 'buf/k7')
        .toSorted(),
    );
    expect((await plain(at)).get('buf/k19')).toBe('2 19');
  });

  test('writers of mirrored buckets are told to wait when too much or too old a backlog waits, and go on when it is sent', async () => {
    let isAway = true;
    const clock = createTestClock();
    const at = await open({
      clock,
      settings: { spoolBytesMax: 100_000, spoolAgeMsMax: 60_000 },
      faults: {
        remote: (remote) =>
          override(remote, {
            put: (...args) =>
              isAway ? Promise.reject(new StoreError('io_failed', 'away')) : remote.put(...args),
          }),
      },
    });
    await at.put('buf', 'a', bytesOf(60_000, 1));
    await at.put('buf', 'b', bytesOf(60_000, 2));
    const refused = { code: 'busy', details: { bucket: 'buf', retryAfterMs: expect.any(Number) } };
    await expect(at.put('buf', 'c', Buffer.from('x'))).rejects.toMatchObject(refused);
    await at.put('mem', 'c', Buffer.from('others go on'));
    await at.store.delete({ bucket: 'buf', key: 'b' });
    await clock.advance(2000);
    await at.put('buf', 'c', Buffer.from('x'));
    await clock.advance(60_000);
    await expect(at.put('buf', 'd', Buffer.from('x'))).rejects.toMatchObject(refused);
    isAway = false;
    await clock.advance(60_000);
    await mirrored(at);
    await clock.advance(2000);
    await at.put('buf', 'd', Buffer.from('x'));
  });

  test('after a long outage all goes on within seconds of the first answer', async () => {
    let isAway = true;
    const clock = createTestClock();
    const at = await open({
      clock,
      faults: {
        remote: (remote) =>
          override(remote, {
            put: (...args) =>
              isAway ? Promise.reject(new StoreError('io_failed', 'away')) : remote.put(...args),
          }),
      },
    });
    for (let i = 0; i < 40; i++) await at.put('buf', `k${i}`, Buffer.from(`${i}`));
    for (let minute = 0; minute < 10; minute++) await clock.advance(60_000);
    isAway = false;
    let seconds = 0;
    await vi.waitFor(
      async () => {
        if ((await at.store.spool()).entries === 0) return;
        await clock.advance(1000);
        seconds++;
        expect((await at.store.spool()).entries).toBe(0);
      },
      { timeout: 60_000, interval: 20 },
    );
    // The clock goes on while what it woke still works. A pause that grew with the outage is far longer.
    expect(seconds).toBeLessThan(60);
  });

  test('what failed together is sent when tier 2 is back, though nobody writes any more', async () => {
    const clock = createTestClock();
    const together = Promise.withResolvers<void>();
    let isAway = true;
    let asked = 0;
    const at = await open({
      clock,
      faults: {
        remote: (remote) =>
          override(remote, {
            put: async (...args) => {
              if (!isAway) return await remote.put(...args);
              if (++asked === 4) together.resolve();
              await together.promise;
              throw new StoreError('io_failed', 'away');
            },
          }),
      },
    });
    for (let i = 0; i < 8; i++) await at.put('buf', `k${i}`, Buffer.from(`${i}`));
    await vi.waitFor(() => expect(at.failures.length).toBeGreaterThanOrEqual(4));
    isAway = false;
    await clock.advance(60_000);
    await mirrored(at);
    expect((await plain(at)).size).toBe(8);
  });

  test('one that begins while many wait in the queue is met by those under way, not by all of them', async () => {
    let isAway = true;
    let puts = 0;
    const clock = createTestClock(); // so that no pause is over
    const at = await open({
      clock,
      faults: {
        remote: (remote) =>
          override(remote, {
            put: async (...args) => {
              puts++;
              if (isAway) throw new StoreError('io_failed', 'nobody answers');
              return await remote.put(...args);
            },
          }),
      },
    });
    const keys = Array.from({ length: 100 }, (_, n) => `k/${n}`);
    await Promise.all(keys.map((key) => at.put('buf', key, Buffer.from(key))));
    await vi.waitFor(() => expect(puts).toBeGreaterThan(0));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(puts).toBeLessThanOrEqual(4);
    isAway = false;
    await clock.advance(60_000);
    await mirrored(at);
    expect((await plain(at)).size).toBe(100);
  });

  test('what waits is sent after a crash', async () => {
    let isAway = true;
    const faults: TestStoreOptions['faults'] = {
      remote: (remote) =>
        override(remote, {
          put: (...args) =>
            isAway ? Promise.reject(new StoreError('io_failed', 'away')) : remote.put(...args),
        }),
    };
    const first = await open({ faults });
    await first.put('buf', 'k', Buffer.from('kept'));
    const at = await reopen(first, { faults });
    expect((await at.store.spool()).entries).toBe(1);
    isAway = false;
    await mirrored(at);
    expect(Object.fromEntries(await plain(at))).toEqual({ 'buf/k': 'kept' });
  });

  test('a put whose reply was lost is sent again and is there once', async () => {
    let lost = 2;
    const at = await open({
      faults: {
        remote: (remote) =>
          override(remote, {
            put: async (...args) => {
              const made = await remote.put(...args);
              if (lost-- > 0) throw new StoreError('io_failed', 'the reply was lost');
              return made;
            },
          }),
      },
    });
    await at.put('buf', 'k', Buffer.from('once'));
    await mirrored(at);
    expect(Object.fromEntries(await plain(at))).toEqual({ 'buf/k': 'once' });
    expect((await at.store.head({ bucket: 'buf', key: 'k' })).durability).toBe('remote');
  });
});

// ── a random life ───────────────────────────────────────────────────────────────────────────────────────────────────

const key = fc.constantFrom('a', 'b', 'd/x', 'd/y', 'e/x');
const bucket = fc.constantFrom('buf', 'mem');
const step = fc.oneof(
  { weight: 5, arbitrary: fc.record({ op: fc.constant('put' as const), bucket, key }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('delete' as const), bucket, key }) },
  fc.record({ op: fc.constant('copy' as const), bucket, key, toBucket: bucket, to: key }),
  fc.record({ op: fc.constant('rename' as const), bucket, key, toBucket: bucket, to: key }),
  fc.record({ op: fc.constant('append' as const), bucket, key, to: key }),
  fc.record({ op: fc.constant('renamePrefix' as const) }),
  fc.record({
    op: fc.constant('copyPrefix' as const),
    bucket,
    toBucket: bucket,
    exact: fc.boolean(),
  }),
  fc.record({ op: fc.constant('evict' as const), bucket, key }),
  fc.record({ op: fc.constant('settle' as const) }),
  fc.record({ op: fc.constant('crash' as const) }),
);

test('after any life, crashes included, tier 2 holds exactly the objects of the mirrored bucket, whole, and no bytes of nobody', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async (steps) => {
      let at = await openTestStore();
      await at.store.createBucket('buf', buffered);
      await at.store.createBucket('mem', ephemeral);
      const expected = new Map<string, string>();
      let versions = 0;
      const name = (b: string, k: string): string => `${b}/${k}`;
      for (const now of steps) {
        if (now.op === 'settle') await mirrored(at);
        else if (now.op === 'crash') at = await at.crash();
        else if (now.op === 'renamePrefix') {
          await at.store.renamePrefix(
            { bucket: 'buf', prefix: 'd/' },
            { bucket: 'mem', prefix: 'e/' },
            { overwrite: true },
          );
          for (const k of ['x', 'y']) {
            const content = expected.get(`buf/d/${k}`);
            if (content === undefined) continue;
            expected.delete(`buf/d/${k}`);
            expected.set(`mem/e/${k}`, content);
          }
        } else if (now.op === 'copyPrefix') {
          await at.store.copyPrefix(
            { bucket: now.bucket, prefix: 'd/' },
            { bucket: now.toBucket, prefix: 'e/' },
            { overwrite: true, exact: now.exact },
          );
          for (const k of ['x', 'y']) {
            const content = expected.get(`${now.bucket}/d/${k}`);
            if (content !== undefined) expected.set(`${now.toBucket}/e/${k}`, content);
            else if (now.exact) expected.delete(`${now.toBucket}/e/${k}`);
          }
        } else {
          const from = name(now.bucket, now.key);
          const content = expected.get(from);
          if (now.op === 'put') {
            const text = `${versions++} `.repeat(1 + (versions % 50));
            await at.put(now.bucket, now.key, Buffer.from(text));
            expected.set(from, text);
          } else if (now.op === 'delete') {
            await at.store.delete({ bucket: now.bucket, key: now.key });
            expected.delete(from);
          } else if (content === undefined) continue;
          else if (now.op === 'evict')
            await at.store.relocate({ bucket: now.bucket, key: now.key }, 2);
          else if (now.op === 'append') {
            const source = { bucket: now.bucket, key: now.key };
            const target = { bucket: now.bucket, key: now.to };
            const tail = expected.get(name(now.bucket, now.to));
            const sources = tail === undefined ? [source, source] : [target, source];
            await at.store.compose(target, sources, {});
            expected.set(name(now.bucket, now.to), (tail ?? content) + content);
          } else {
            const to = { bucket: now.toBucket, key: now.to };
            await at.store[now.op]({ bucket: now.bucket, key: now.key }, to);
            if (now.op === 'rename') expected.delete(from);
            expected.set(name(to.bucket, to.key), content);
          }
        }
      }
      await mirrored(at);
      for (const [at_, content] of expected) {
        const [b, ...rest] = at_.split('/') as [string, ...string[]];
        expect((await at.get(b, rest.join('/'))).toString()).toBe(content);
      }
      const own = [...(await plain(at))].filter(([n]) => !n.includes('/.ebb/'));
      const wanted = [...expected].filter(([n]) => n.startsWith('buf/'));
      expect(new Map(own.toSorted())).toEqual(new Map(wanted.toSorted()));
      for (const b of ['buf', 'mem']) await at.store.deletePrefix(b, '');
      await mirrored(at);
      await vi.waitFor(async () => expect(await plain(at)).toEqual(new Map()));
      expect(at.failures).toEqual([]);
      await at.close();
    }),
    { numRuns: 30 },
  );
}, 240_000);
