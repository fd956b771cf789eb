/**
 * Random operation logs against a small model of what a store is: names to bytes. Tiers are tiny, so that bytes move all the
 * time; crashes come in between. The same log must read back the same bytes whatever the capacities.
 */

import { isStoreError, KiB, MiB } from '@ebb/protocol';
import { buffered, durable, ephemeral, openTestStore, type TestStore } from '@ebb/testkit';
import fc from 'fast-check';
import { expect, test, vi } from 'vitest';

const KEYS = ['a', 'ab', 'a/1', 'a/2', 'b/1', 'b/2/x', 'c'];
const BUCKETS = ['ephemeral', 'buffered', 'durable', 'kept'] as const;

const bucket = fc.constantFrom(...BUCKETS);
const key = fc.constantFrom(...KEYS);
const operation = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('put' as const),
      bucket,
      key,
      size: fc.integer({ min: 0, max: 48 * KiB }),
      seed: fc.nat(255),
      isNew: fc.boolean(),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('get' as const), bucket, key }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('delete' as const), bucket, key }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('deletePrefix' as const),
      bucket,
      prefix: fc.constantFrom('a/', 'b/', 'a'),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('copy' as const),
      bucket,
      key,
      toBucket: bucket,
      to: key,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('rename' as const),
      bucket,
      key,
      toBucket: bucket,
      to: key,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('renamePrefix' as const),
      bucket,
      from: fc.constantFrom('a/', 'b/'),
      to: fc.constantFrom('z/', 'y/'),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('copyPrefix' as const),
      bucket,
      from: fc.constantFrom('a/', 'b/'),
      toBucket: bucket,
      to: fc.constantFrom('z/', 'y/'),
      exact: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('relocate' as const),
      bucket,
      key,
      tier: fc.constantFrom(0 as const, 1 as const, 2 as const),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('stageOnly' as const),
      bucket,
      key,
      size: fc.integer({ min: 1, max: 16 * KiB }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('crash' as const) }) },
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;
type Model = Map<string, Buffer>;

function fill(size: number, seed: number): Buffer {
  const bytes = Buffer.alloc(size);
  for (let i = 0; i < size; i++) bytes[i] = (seed + i * 31 + (i >> 8)) & 0xff;
  return bytes;
}

async function prepare(test: TestStore): Promise<void> {
  await test.store.createBucket('ephemeral', ephemeral);
  await test.store.createBucket('buffered', buffered);
  await test.store.createBucket('durable', durable);
  await test.store.createBucket('kept', { ...buffered, versioning: 'enabled' });
}

/** Applies one operation to both, and compares the answers. Returns the store that goes on. */
async function apply(at: TestStore, model: Model, op: Operation): Promise<TestStore> {
  const name = 'key' in op ? `${op.bucket}/${op.key}` : '';
  switch (op.do) {
    case 'put': {
      const bytes = fill(op.size, op.seed);
      const refused = op.isNew && model.has(name);
      try {
        await at.put(op.bucket, op.key, bytes, { ifNoneMatch: op.isNew });
        expect(refused, 'a refused create').toBe(false);
        model.set(name, bytes);
      } catch (error) {
        if (!isStoreError(error, 'already_exists')) throw error;
        expect(refused, 'a create that was refused').toBe(true);
      }
      return at;
    }
    case 'get':
      if (model.has(name)) expect(await at.get(op.bucket, op.key)).toEqual(model.get(name));
      else await expect(at.get(op.bucket, op.key)).rejects.toMatchObject({ code: 'not_found' });
      return at;
    case 'delete': {
      const { deleted } = await at.store.delete(op);
      expect(deleted).toBe(model.delete(name));
      return at;
    }
    case 'deletePrefix': {
      const doomed = [...model.keys()].filter((known) =>
        known.startsWith(`${op.bucket}/${op.prefix}`),
      );
      const { objects } = await at.store.deletePrefix(op.bucket, op.prefix);
      expect(objects).toBe(doomed.length);
      for (const known of doomed) model.delete(known);
      return at;
    }
    case 'copy':
    case 'rename': {
      const target = `${op.toBucket}/${op.to}`;
      const bytes = model.get(name);
      const run = at.store[op.do](
        { bucket: op.bucket, key: op.key },
        { bucket: op.toBucket, key: op.to },
      );
      if (bytes === undefined) {
        await expect(run).rejects.toMatchObject({ code: 'not_found' });
        return at;
      }
      await run;
      if (op.do === 'rename') model.delete(name);
      model.set(target, bytes);
      return at;
    }
    case 'renamePrefix': {
      await at.store.renamePrefix(
        { bucket: op.bucket, prefix: op.from },
        { bucket: op.bucket, prefix: op.to },
        { overwrite: true },
      );
      for (const known of [...model.keys()]) {
        const from = `${op.bucket}/${op.from}`;
        if (!known.startsWith(from)) continue;
        model.set(`${op.bucket}/${op.to}${known.slice(from.length)}`, model.get(known) as Buffer);
        model.delete(known);
      }
      return at;
    }
    case 'copyPrefix': {
      const [from, to] = [`${op.bucket}/${op.from}`, `${op.toBucket}/${op.to}`];
      const copies = [...model].filter(([known]) => known.startsWith(from));
      const names = new Set(copies.map(([known]) => to + known.slice(from.length)));
      const others = [...model.keys()].filter(
        (known) => op.exact && known.startsWith(to) && !names.has(known),
      );
      const copied = await at.store.copyPrefix(
        { bucket: op.bucket, prefix: op.from },
        { bucket: op.toBucket, prefix: op.to },
        { overwrite: true, exact: op.exact },
      );
      expect(copied).toMatchObject({ objects: copies.length, removed: others.length });
      for (const known of others) model.delete(known);
      for (const [known, bytes] of copies) model.set(to + known.slice(from.length), bytes);
      return at;
    }
    case 'relocate':
      try {
        await at.store.relocate(op, op.tier);
      } catch (error) {
        if (!isStoreError(error, 'not_found') && !isStoreError(error, 'tier_full')) throw error;
      }
      return at;
    case 'stageOnly':
      await at.store.stage(at.owner, op, { reserveBytes: op.size });
      return at;
    case 'crash':
      return await at.crash();
    default:
      return op satisfies never;
  }
}

async function compareAll(at: TestStore, model: Model): Promise<void> {
  for (const name of BUCKETS) {
    const page = await at.store.list(name, {
      prefix: '',
      delimiter: '',
      startAfter: '',
      limit: 1000,
    });
    const expected = [...model.keys()]
      .filter((known) => known.startsWith(`${name}/`))
      .map((known) => known.slice(name.length + 1));
    expect(page.objects.map((view) => view.object.key)).toEqual(expected.sort());
  }
  for (const [name, bytes] of model) {
    const slash = name.indexOf('/');
    expect(await at.get(name.slice(0, slash), name.slice(slash + 1)), name).toEqual(bytes);
  }
  const report = await at.store.verify({});
  expect(report.broken).toEqual([]);
}

for (const capacity of [
  { name: 'tiny memory, small disk', memoryBytes: 96 * KiB, diskBytes: 1 * MiB },
  { name: 'roomy tiers', memoryBytes: 16 * MiB, diskBytes: 64 * MiB },
]) {
  test(`any log of operations, moves and crashes reads back what was acknowledged: ${capacity.name}`, {
    timeout: 120_000,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { minLength: 5, maxLength: 50 }), async (log) => {
        let at = await openTestStore(capacity);
        const model: Model = new Map();
        try {
          await prepare(at);
          for (const op of log) at = await apply(at, model, op);
          await compareAll(at, model);
          at = await at.crash();
          await compareAll(at, model);
        } finally {
          await at.close();
        }
      }),
      { numRuns: 25, interruptAfterTimeLimit: 60_000 },
    );
  });
}

test('when all is deleted, every byte of every tier is given back', async () => {
  const at = await openTestStore({ memoryBytes: 1 * MiB, diskBytes: 8 * MiB });
  try {
    await prepare(at);
    for (let i = 0; i < 60; i++)
      await at.put(BUCKETS[i % BUCKETS.length] as string, `k/${i}`, fill(40 * KiB, i));
    for (const name of BUCKETS) await at.store.deleteAllVersions(name, '');
    // The mirror may hold a file that it was about to send, for a moment.
    await vi.waitFor(async () => {
      const [memory, disk] = at.store.tiers();
      expect((memory?.usedBytes ?? 0) - (memory?.pooledBytes ?? 0)).toBe(0);
      expect(disk?.usedBytes).toBe(0);
      expect((await at.store.totals()).blobs).toBe(0);
    });
    expect(at.failures).toEqual([]);
  } finally {
    await at.close();
  }
});
