import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MapOutputTable } from './map-output-table.ts';

function output(mapIndex: number, attemptId: number, epoch = 0) {
  return {
    mapIndex,
    attemptId,
    epoch,
    blobId: attemptId + 2 ** 40,
    sizeBytes: 1000 + attemptId,
    indexBytes: 60,
    tier: 0 as const,
  };
}

describe('MapOutputTable', () => {
  it('finds rows by attempt and by blob, whatever the ids are', () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER - 2 ** 41 }), {
          maxLength: 300,
        }),
        (attemptIds) => {
          const table = new MapOutputTable(16);
          for (const [i, id] of attemptIds.entries())
            table.add(output(i % 16, id), { winner: false });
          for (const [row, id] of attemptIds.entries()) {
            expect(table.findAttempt(id)).toBe(row);
            expect(table.findBlob(id + 2 ** 40)).toBe(row);
            expect(table.get(row)).toEqual({ ...output(row % 16, id), winner: false });
          }
          expect(table.findAttempt(Number.MAX_SAFE_INTEGER)).toBeUndefined();
        },
      ),
    );
  });

  it('says what changed since any version, each row once and in order', () => {
    const action = fc.record({
      row: fc.nat(20),
      what: fc.constantFrom('add', 'touch', 'tier', 'lost') as fc.Arbitrary<
        'add' | 'touch' | 'tier' | 'lost'
      >,
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 60 }), fc.nat(60), (actions, since) => {
        const table = new MapOutputTable(8);
        const lastChange = new Map<number, number>();
        for (const { row, what } of actions) {
          if (what === 'add' || table.rows === 0) {
            const mapIndex = row % 8;
            const before = table.winnerOf(mapIndex);
            const added = table.add(output(mapIndex, table.rows), { winner: true });
            if (before !== undefined) lastChange.set(before, table.versionOf(before));
            lastChange.set(added, table.versionOf(added));
            expect(table.winnerOf(mapIndex)).toBe(added);
          } else {
            const at = row % table.rows;
            if (what === 'touch') table.touch(at);
            if (what === 'tier') table.setTier(at, ((table.get(at).tier + 1) % 3) as 0 | 1 | 2);
            if (what === 'lost') table.setLost(at, !table.isLost(at));
            lastChange.set(at, table.version);
          }
        }
        const expected = [...lastChange]
          .filter(([, version]) => version > since)
          .sort(([, a], [, b]) => a - b)
          .map(([row]) => row);
        expect([...table.changedSince(since)]).toEqual(expected);
      }),
    );
  });

  it('keeps a row in at most 64 bytes, at any number of rows', () => {
    const maps = 1_000_000;
    const table = new MapOutputTable(maps);
    for (let i = 0; i < maps; i++) table.add(output(i, i * 7), { winner: true });
    expect(table.allocatedBytes / maps).toBeLessThanOrEqual(64);
    expect(table.findAttempt(999_999 * 7)).toBe(999_999);
    expect(table.countCommittedMaps()).toBe(maps);
  });

  it('keeps a place for the winner alone when more attempts come', () => {
    const table = new MapOutputTable(4);
    const first = table.add(output(2, 10, 0), { winner: true });
    const seen = table.version;
    const second = table.add(output(2, 11, 1), { winner: true });
    expect(table.get(first).winner).toBe(false);
    expect(table.get(second).winner).toBe(true);
    expect([...table.changedSince(seen)]).toEqual([first, second]);
  });
});
