import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LeaseTable } from './lease-table.ts';

function createTable(): {
  table: LeaseTable;
  removed: Map<number, boolean>;
  clock: { nowMs: number };
} {
  const removed = new Map<number, boolean>();
  const clock = { nowMs: 0 };
  const table = new LeaseTable({
    limboMs: 1000,
    now: () => clock.nowMs,
    remove: (blobId, { recycle }) => {
      expect(removed.has(blobId), `blob ${blobId} removed once`).toBe(false);
      removed.set(blobId, recycle);
    },
  });
  return { table, removed, clock };
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('a tier-0 file that was given up', () => {
  test('is recycled at once when nobody holds it', () => {
    const { table, removed } = createTable();
    table.giveUp(1);
    expect(removed.get(1)).toBe(true);
  });

  test('waits for every lease, then is recycled (I1)', () => {
    const { table, removed } = createTable();
    const [first, second] = [table.lease(1), table.lease(1)];
    table.giveUp(1);
    table.endLease(first, { returned: true });
    expect(removed.has(1)).toBe(false);
    expect(table.isInLimbo(1)).toBe(true);
    table.endLease(second, { returned: true });
    expect(removed.get(1)).toBe(true);
  });

  test('is unlinked when a lease ended without being returned, also before it was given up (I2)', () => {
    const { table, removed } = createTable();
    table.endLease(table.lease(1), { returned: false });
    table.giveUp(1);
    expect(removed.get(1)).toBe(false);
  });

  test('is unlinked when it outlived a restart (I2)', () => {
    const { table, removed } = createTable();
    table.taint(1);
    table.giveUp(1);
    expect(removed.get(1)).toBe(false);
  });

  test('waits for the holders of its group, asks each once, and is recycled when all have settled (I1, I4)', async () => {
    const { table, removed } = createTable();
    const [a, b] = [
      { ownerId: 1, name: 'a' },
      { ownerId: 2, name: 'b' },
    ];
    const asked: string[] = [];
    for (const blobId of [10, 11]) table.assign(blobId, 'shuffle-1');
    table.hold('shuffle-1', a, (ids) => asked.push(`a:${ids.join(',')}`));
    table.hold('shuffle-1', b, (ids) => asked.push(`b:${ids.join(',')}`));
    table.giveUp(10);
    table.giveUp(11);
    await nextTurn();
    expect(asked).toEqual(['a:10,11', 'b:10,11']);
    table.settled(a, [10, 11]);
    table.settled(b, [10]);
    expect([...removed]).toEqual([[10, true]]);
    table.settled(b, [11]);
    expect(removed.get(11)).toBe(true);
  });

  test('is unlinked when a holder of its group went away without an answer (I2)', () => {
    const { table, removed } = createTable();
    const owner = { ownerId: 1, name: 'a' };
    table.assign(10, 'g');
    table.assign(11, 'g');
    table.hold('g', owner, () => undefined);
    table.giveUp(10);
    table.dropOwner(owner);
    expect(removed.get(10)).toBe(false);
    table.giveUp(11); // the holder may have had this one mapped as well
    expect(removed.get(11)).toBe(false);
  });

  test('is unlinked after the limbo time, however long its readers stay (I3)', () => {
    const { table, removed, clock } = createTable();
    const lease = table.lease(1);
    table.giveUp(1);
    clock.nowMs = 999;
    table.sweep();
    expect(removed.has(1)).toBe(false);
    clock.nowMs = 1000;
    table.sweep();
    expect(removed.get(1)).toBe(false);
    table.endLease(lease, { returned: true }); // too late, and harmless
  });

  test('is not freed by a late lease on the file that the blob had before (I1)', () => {
    const { table, removed, clock } = createTable();
    const early = table.lease(1);
    table.giveUp(1);
    clock.nowMs = 1000;
    table.sweep();
    removed.clear(); // the blob comes back to this tier, in another file
    const late = table.lease(1);
    table.endLease(early, { returned: true });
    table.giveUp(1);
    expect(removed.has(1)).toBe(false);
    table.endLease(late, { returned: true });
    expect(removed.get(1)).toBe(true);
  });

  test('leaves nothing of its group behind when it had no file here', () => {
    const { table, removed } = createTable();
    table.assign(10, 'g');
    table.hold('g', { ownerId: 1, name: 'a' }, () => undefined);
    table.forget(10);
    table.giveUp(10); // of no group any more: nobody is waited for
    expect(removed.get(10)).toBe(true);
  });
});

test('whatever happens, a file is recycled only with every lease returned and every holder settled', () => {
  const step = fc.oneof(
    fc.record({ do: fc.constant('lease' as const), blob: fc.integer({ min: 0, max: 4 }) }),
    fc.record({
      do: fc.constant('end' as const),
      blob: fc.integer({ min: 0, max: 4 }),
      returned: fc.boolean(),
    }),
    fc.record({ do: fc.constant('giveUp' as const), blob: fc.integer({ min: 0, max: 4 }) }),
    fc.record({ do: fc.constant('hold' as const), owner: fc.integer({ min: 1, max: 2 }) }),
    fc.record({
      do: fc.constant('settle' as const),
      owner: fc.integer({ min: 1, max: 2 }),
      blob: fc.integer({ min: 0, max: 4 }),
    }),
    fc.record({ do: fc.constant('drop' as const), owner: fc.integer({ min: 1, max: 2 }) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { table, removed } = createTable();
      const leases = new Map<number, number>();
      const held = new Map<number, ReturnType<LeaseTable['lease']>[]>();
      const lost = new Set<number>();
      const holders = new Set<number>();
      const awaiting = new Map<number, Set<number>>();
      let isGroupLost = false;
      const gone = new Set<number>();
      for (let blob = 0; blob < 5; blob++) table.assign(blob, 'g');
      for (const s of steps) {
        if (s.do === 'lease' && !gone.has(s.blob)) {
          held.set(s.blob, [...(held.get(s.blob) ?? []), table.lease(s.blob)]);
          leases.set(s.blob, (leases.get(s.blob) ?? 0) + 1);
        } else if (s.do === 'end' && (leases.get(s.blob) ?? 0) > 0) {
          leases.set(s.blob, (leases.get(s.blob) as number) - 1);
          if (!s.returned) lost.add(s.blob);
          table.endLease(held.get(s.blob)?.pop() as never, { returned: s.returned });
        } else if (s.do === 'giveUp' && !gone.has(s.blob)) {
          gone.add(s.blob);
          awaiting.set(s.blob, new Set(holders));
          if (isGroupLost) lost.add(s.blob);
          table.giveUp(s.blob);
        } else if (s.do === 'hold' && gone.size < 5) {
          holders.add(s.owner);
          table.hold('g', { ownerId: s.owner, name: '' }, () => undefined);
        } else if (s.do === 'settle') {
          awaiting.get(s.blob)?.delete(s.owner);
          table.settled({ ownerId: s.owner, name: '' }, [s.blob]);
        } else if (s.do === 'drop') {
          if (holders.delete(s.owner)) isGroupLost = true;
          for (const [blob, owners] of awaiting)
            if (owners.delete(s.owner) && !removed.has(blob)) lost.add(blob);
          table.dropOwner({ ownerId: s.owner, name: '' });
        }
        for (const blob of gone) {
          const isFree =
            (leases.get(blob) ?? 0) === 0 && (awaiting.get(blob) as Set<number>).size === 0;
          expect(removed.has(blob)).toBe(isFree);
          if (isFree && removed.get(blob) === true) expect(lost.has(blob)).toBe(false);
        }
      }
    }),
  );
});
