import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Candidate, pickVictims, RecencyIndex } from './evictor.ts';

const candidates = fc
  .array(fc.integer({ min: 1, max: 1000 }), { maxLength: 40 })
  .map((sizes) => sizes.map((allocatedBytes, blobId) => ({ blobId, allocatedBytes })));

describe('pickVictims', () => {
  test('takes the least recent that are free to go, just enough of them, and none that is held', () => {
    fc.assert(
      fc.property(candidates, fc.nat(10_000), fc.func(fc.boolean()), (all, wantedBytes, isHeld) => {
        const victims = pickVictims(all, wantedBytes, isHeld);
        const free = all.filter(({ blobId }) => !isHeld(blobId));
        expect(victims).toEqual(free.slice(0, victims.length).map(({ blobId }) => blobId));
        const sum = (some: readonly Candidate[]): number =>
          some.reduce((bytes, { allocatedBytes }) => bytes + allocatedBytes, 0);
        const taken = free.slice(0, victims.length);
        if (victims.length < free.length) expect(sum(taken)).toBeGreaterThanOrEqual(wantedBytes);
        if (victims.length > 0) expect(sum(taken.slice(0, -1))).toBeLessThan(wantedBytes);
      }),
    );
  });
});

describe('RecencyIndex', () => {
  test('keeps exactly the order of last use, whatever was added, touched and removed', () => {
    const step = fc.record({
      do: fc.constantFrom('add' as const, 'touch' as const, 'remove' as const),
      blobId: fc.nat(8),
      bytes: fc.nat(100),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const index = new RecencyIndex();
        let model: Candidate[] = [];
        for (const { do: what, blobId, bytes } of steps) {
          const known = model.find((entry) => entry.blobId === blobId);
          const others = model.filter((entry) => entry !== known);
          if (what === 'add') {
            index.add(blobId, bytes);
            model = [...others, { blobId, allocatedBytes: bytes }];
          } else if (what === 'touch') {
            index.touch(blobId);
            if (known !== undefined) model = [...others, known];
          } else {
            index.remove(blobId);
            model = others;
          }
        }
        expect([...index]).toEqual(model);
        expect(index.size).toBe(model.length);
      }),
    );
  });
});
