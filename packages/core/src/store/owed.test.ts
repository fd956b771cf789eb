import { StoreError } from '@ebb/protocol';
import { ephemeral, openStoreInTest, override, type TestStore } from '@ebb/testkit';
import { expect, test } from 'vitest';
import { resolvePolicy } from '../placement/policy.ts';

const bytes = Buffer.from('bytes');
/** What a store of objects and a stopping node say: most of it means that nothing was changed. */
const REFUSALS = ['tier_full', 'busy', 'draining', 'timed_out', 'io_failed'] as const;

async function open(refusal: (typeof REFUSALS)[number]): Promise<TestStore & { heal: () => void }> {
  let isBad = true;
  const at = await openStoreInTest(
    { durable: resolvePolicy({ preset: 'durable' }), fast: ephemeral },
    {
      faults: {
        remote: (remote) =>
          override(remote, {
            put: (...args) =>
              isBad ? Promise.reject(new StoreError(refusal)) : remote.put(...args),
          }),
      },
    },
  );
  return Object.assign(at, {
    heal: () => {
      isBad = false;
    },
  });
}

test.each(REFUSALS)(
  'a write that is seen and owes its copy in tier 2 never says that nothing was changed, though tier 2 says %s',
  async (refusal) => {
    const at = await open(refusal);
    const owed = { code: 'not_yet_durable', retry: 'ambiguous', details: { cause: refusal } };
    await expect(at.put('durable', 'k', bytes)).rejects.toMatchObject(owed);
    expect((await at.store.head({ bucket: 'durable', key: 'k' })).object.sizeBytes).toBe(5);
    await at.put('fast', 'k', bytes);
    const from = { bucket: 'fast', key: 'k' };
    for (const change of [
      () => at.store.copy(from, { bucket: 'durable', key: 'copied' }),
      () => at.store.compose({ bucket: 'durable', key: 'joined' }, [from], {}),
      () => at.store.rename(from, { bucket: 'durable', key: 'renamed' }),
    ])
      await expect(change()).rejects.toMatchObject(owed);
    for (const key of ['copied', 'joined', 'renamed'])
      expect((await at.store.head({ bucket: 'durable', key })).object.sizeBytes).toBe(5);
    at.heal();
  },
);
