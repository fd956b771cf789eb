import { MiB } from '@ebb/protocol';
import { buffered, bytesOf, mirrored, openStoreInTest } from '@ebb/testkit';
import { expect, test } from 'vitest';

test.each(['deleted', 'overwritten'])(
  'a reader of a version in tier 2 alone that is %s meanwhile is told that, and not that bytes were lost',
  async (how) => {
    const at = await openStoreInTest({ buf: buffered });
    const ref = { bucket: 'buf', key: 'n' };
    await at.put('buf', 'n', bytesOf(9 * MiB, 1)); // too long to be brought up for a range
    await mirrored(at);
    await at.store.relocate(ref, 2);
    const { leaseId } = await at.store.open(at.owner, ref, { ranges: true });
    if (how === 'deleted') await at.store.delete(ref);
    else await at.put('buf', 'n', Buffer.from('second'));
    await mirrored(at);
    const reading = at.store.read(at.owner, leaseId, Buffer.alloc(5), 0);
    await expect(reading).rejects.toMatchObject({ code: 'superseded' });
  },
);
