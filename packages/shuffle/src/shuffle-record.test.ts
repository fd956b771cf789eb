import { isStoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAPS_MAX } from './limits.ts';
import {
  decodeGeneration,
  decodeShape,
  encodeGeneration,
  encodeMapOutputMetadata,
  encodeShape,
  mapOutputKey,
  parseMapOutputKey,
  parseMapOutputMetadata,
  parseShuffleName,
  shuffleName,
  shufflePrefix,
} from './shuffle-record.ts';

const u32 = fc.integer({ min: 0, max: 2 ** 32 - 1 });

describe('shuffle records', () => {
  it('come back as they were written', () => {
    fc.assert(
      fc.property(u32, u32, fc.nat(2 ** 31), (maps, partitions, createdAtMs) => {
        const shape = { maps, partitions, createdAtMs };
        expect(decodeShape(encodeShape(shape), 'j/1')).toEqual(shape);
        expect(decodeGeneration(encodeGeneration(maps))).toBe(maps);
        const metadata = { epoch: maps, indexBytes: partitions };
        expect(parseMapOutputMetadata(encodeMapOutputMetadata(metadata))).toEqual(metadata);
      }),
    );
  });

  it('are refused when a byte changed, as corrupt or as a later format', () => {
    const whole = encodeShape({ maps: 3, partitions: 4, createdAtMs: 5 });
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const broken = Buffer.from(whole);
        broken[at] = (broken[at] as number) ^ flip;
        try {
          decodeShape(broken, 'j/1');
          expect.unreachable();
        } catch (error) {
          expect(isStoreError(error, at === 0 ? 'version_unsupported' : 'data_corrupt')).toBe(true);
        }
      }),
    );
  });

  it('have names that are read back, and sort in map order', () => {
    fc.assert(
      fc.property(
        fc.nat(MAPS_MAX - 1),
        fc.nat(MAPS_MAX - 1),
        fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
        u32,
        (mapIndex, other, attemptId, shuffleId) => {
          const prefix = shufflePrefix({ jobId: 'app-1', shuffleId });
          const key = mapOutputKey(prefix, { mapIndex, attemptId });
          expect(parseMapOutputKey(prefix, key)).toEqual({ mapIndex, attemptId });
          const otherKey = mapOutputKey(prefix, { mapIndex: other, attemptId });
          expect(Math.sign(mapIndex - other)).toBe(key < otherKey ? -1 : key > otherKey ? 1 : 0);
        },
      ),
    );
    expect(parseShuffleName(shuffleName({ jobId: 'a', shuffleId: 7 }))).toEqual({
      jobId: 'a',
      shuffleId: 7,
    });
    expect(parseShuffleName('generation')).toBeUndefined();
    expect(parseMapOutputKey('a/1/', 'a/1/readme.txt')).toBeUndefined();
    expect(parseMapOutputKey('a/1/', 'a/11/0000001/2')).toBeUndefined();
  });
});
