/** The objects are fakes: each read fails as told. */
import { type RestorePlan, StoreError, type StoreErrorCode } from '@ebb/protocol';
import { expect, test } from 'vitest';
import type { Objects } from './objects.ts';
import { verifySnapshot } from './verify.ts';

const plan = {
  snapshot: { bucket: 'b' },
  parts: [
    {
      ...{ name: 'p', image: null, imageBytes: 8, blockBytes: 4, shards: [] },
      digests: Buffer.alloc(64).toString('base64'),
      runs: [[0, 8, 'k', 0]],
    },
  ],
} as unknown as RestorePlan;

function verifyOver(code: StoreErrorCode): ReturnType<typeof verifySnapshot> {
  const objects = {
    using: (_: unknown, work: (opened: unknown) => Promise<void>) => work({}),
    read: async () => await Promise.reject(new StoreError(code, 'it went')),
  } as unknown as Objects;
  const use = { objects, store: { find: async () => await Promise.resolve(undefined) } };
  return verifySnapshot(plan, { ...use, signal: new AbortController().signal });
}

test.each(['superseded', 'data_lost', 'data_corrupt', 'not_found'] as const)(
  'a verification that meets %s names the blocks and goes on',
  async (code) => {
    const { broken } = await verifyOver(code);
    expect(broken.map(({ offset }) => offset)).toEqual([0, 4]);
  },
);

test('a verification that meets a store that is away fails', async () => {
  await expect(verifyOver('io_failed')).rejects.toMatchObject({ code: 'io_failed' });
});
