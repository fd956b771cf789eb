import type { MapOutputRow } from '@ebb/protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type IndexedOutput, type PlannedRange, planReduce } from './reduce-plan.ts';

const partitionCount = fc.integer({ min: 1, max: 12 });
const shuffle = partitionCount.chain((partitions) =>
  fc.record({
    partitions: fc.constant(partitions),
    outputs: fc.array(
      fc.record({
        sizes: fc.array(fc.oneof(fc.constant(0), fc.nat(40)), {
          minLength: partitions,
          maxLength: partitions,
        }),
        present: fc.boolean(),
        tier: fc.constantFrom(0, 1, 2) as fc.Arbitrary<0 | 1 | 2>,
        offset: fc.nat(100),
        older: fc.boolean(),
      }),
      { minLength: 1, maxLength: 10 },
    ),
    localFiles: fc.boolean(),
    a: fc.nat(partitions),
    b: fc.nat(partitions),
    c: fc.nat(10),
    d: fc.nat(10),
    rangeBytesMax: fc.oneof(fc.constant(undefined), fc.integer({ min: 1, max: 60 })),
    batchBytesMax: fc.integer({ min: 1, max: 100 }),
  }),
);

function row(mapIndex: number, attemptId: number, more: Partial<MapOutputRow>): MapOutputRow {
  const location = {
    tier: 0 as const,
    blobId: attemptId,
    path: `blob-${attemptId}`,
    offset: 0,
    length: 0,
  };
  return { mapIndex, attemptId, epoch: 1, winner: true, indexBytes: 1, location, ...more };
}

describe('planReduce', () => {
  it('covers every byte of the asked partitions once, and names every map that is missing', () => {
    fc.assert(
      fc.property(shuffle, (input) => {
        const { outputs, localFiles, rangeBytesMax, batchBytesMax } = input;
        const partitions = { from: Math.min(input.a, input.b), to: Math.max(input.a, input.b) };
        const mapA = Math.min(input.c, outputs.length);
        const mapB = Math.min(input.d, outputs.length);
        const maps = { from: Math.min(mapA, mapB), to: Math.max(mapA, mapB) };
        const indexed: IndexedOutput[] = [];
        const wanted = new Set<string>();
        const missing: number[] = [];
        for (const [mapIndex, one] of outputs.entries()) {
          const offsets = [0];
          for (const size of one.sizes) offsets.push((offsets.at(-1) as number) + size);
          const asked = mapIndex >= maps.from && mapIndex < maps.to;
          if (one.older) {
            // A table put together from answers: the loser may still say that it won.
            indexed.push({ row: row(mapIndex, 500 + mapIndex, { epoch: 0 }), offsets });
            indexed.push({
              row: row(mapIndex, 600 + mapIndex, { epoch: 2, winner: false }),
              offsets,
            });
          }
          if (!one.present) {
            if (asked && !one.older) missing.push(mapIndex);
            if (!one.older) continue;
          }
          const attemptId = one.present ? mapIndex : 500 + mapIndex;
          const tier = one.present ? one.tier : 0;
          const offset = one.present ? one.offset : 0;
          const path = tier === 2 ? '' : `blob-${attemptId}`;
          const location = { tier, blobId: attemptId, path, offset, length: 0 };
          if (one.present) indexed.push({ row: row(mapIndex, attemptId, { location }), offsets });
          if (!asked) continue;
          for (
            let at = offsets[partitions.from] as number;
            at < (offsets[partitions.to] as number);
            at++
          )
            wanted.add(`${attemptId}@${offset + at}`);
        }
        const plan = planReduce({
          outputs: indexed,
          partitions,
          maps,
          localFiles,
          batchBytesMax,
          ...(rangeBytesMax === undefined ? {} : { rangeBytesMax }),
        });

        expect(plan.missing).toEqual(missing);
        const covered: string[] = [];
        const cover = (range: PlannedRange, position: number, length: number): void => {
          for (let at = 0; at < length; at++)
            covered.push(`${range.blobId}@${range.offset + position + at}`);
        };
        for (const range of plan.local) {
          expect(localFiles && range.tier !== 2).toBe(true);
          cover(range, 0, range.length);
        }
        for (const batch of plan.remote) {
          let bytes = 0;
          for (const { range, position, length } of batch.ranges) {
            cover(range, position, length);
            bytes += length;
            expect(!localFiles || range.tier === 2).toBe(true);
            if (length < range.length) expect(range.length).toBeGreaterThan(batchBytesMax);
          }
          expect(bytes).toBe(batch.bytes);
          expect(bytes).toBeLessThanOrEqual(batchBytesMax);
        }
        expect(covered).toHaveLength(wanted.size);
        expect(new Set(covered)).toEqual(wanted);
        if (rangeBytesMax === undefined) {
          // Neighbours are one range.
          const perMap = new Set(plan.local.map((range) => range.mapIndex));
          expect(perMap.size).toBe(plan.local.length);
        }
      }),
      { numRuns: 1000 },
    );
  });
});
