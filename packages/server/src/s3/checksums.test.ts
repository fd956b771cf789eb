import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { longestTurnOfTriesMs, TURN_MS_MAX } from '../testing/turns.ts';
import {
  ALGORITHMS,
  type Algorithm,
  combineCrcs,
  compositeChecksum,
  createDigest,
  isCombinable,
  parseAlgorithm,
  parseChecksumValue,
} from './checksums.ts';

async function digestOf(algorithm: Algorithm, ...pieces: readonly Uint8Array[]): Promise<string> {
  const digest = createDigest(algorithm);
  for (const piece of pieces) digest.update(piece);
  return (await digest.digest()).toString('base64');
}

/** The check values of the CRC catalogue ("123456789"), and of the hashes of "123456789". */
test.each([
  ['CRC32', 'cbf43926'],
  ['CRC32C', 'e3069283'],
  ['CRC64NVME', 'ae8b14860a799888'],
  ['SHA1', 'f7c3bc1d808e04732adf679965ccc34ca7ae3441'],
  ['SHA256', '15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225'],
  ['MD5', '25f9e794323b453885f5181f1b624d0b'],
  [
    'SHA512',
    'd9e6762dd1c8eaf6d61b3c6192fc408d4d6d5f1176d0c29169bc24e71c3f274ad27fcd5811b313d681f7e55ec02d73d499c95455b6b5bb503acf574fba8ffe85',
  ],
] as const)('%s has its check value', async (algorithm, hex) => {
  const value = await digestOf(algorithm, Buffer.from('1234'), Buffer.from('56789'));
  expect(Buffer.from(value, 'base64').toString('hex')).toBe(hex);
  expect(parseChecksumValue(algorithm, value)).toBe(value);
});

describe('of parts', () => {
  const parts = fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 6 });

  test.each(ALGORITHMS.filter(isCombinable))(
    '%s combined is that of the whole',
    async (algorithm) => {
      await fc.assert(
        fc.asyncProperty(parts, async (pieces) => {
          const each = await Promise.all(
            pieces.map(async (piece) => ({
              value: await digestOf(algorithm, piece),
              sizeBytes: piece.length,
            })),
          );
          const { value } = await combineCrcs(algorithm, each);
          expect(value).toBe(await digestOf(algorithm, ...pieces));
        }),
        { numRuns: 60 },
      );
    },
  );

  test('ten thousand parts, of ten thousand sizes too, are combined without holding anything up', async () => {
    const full = Buffer.alloc(1000, 'a');
    const value = await digestOf('CRC64NVME', full);
    const equal = Array.from({ length: 10_000 }, () => ({ value, sizeBytes: 1000 }));
    const joined = await combineCrcs('CRC64NVME', equal);
    expect(joined.value).toBe(await digestOf('CRC64NVME', ...equal.map(() => full)));
    const all = equal.map((part, i) => ({ ...part, sizeBytes: 5 * 2 ** 30 - i }));
    const longest = await longestTurnOfTriesMs(
      async () => void (await combineCrcs('CRC64NVME', all)),
    );
    expect(longest).toBeLessThan(TURN_MS_MAX);
  });

  test('a composite one is that of the digests, with their number', async () => {
    const [a, b] = [
      await digestOf('SHA256', Buffer.from('a')),
      await digestOf('SHA256', Buffer.from('b')),
    ];
    const both = Buffer.concat([Buffer.from(a, 'base64'), Buffer.from(b, 'base64')]);
    expect(await compositeChecksum('SHA256', [a, b])).toEqual({
      algorithm: 'SHA256',
      type: 'COMPOSITE',
      value: `${await digestOf('SHA256', both)}-2`,
    });
  });
});

test('names and values that are none are refused', () => {
  expect(parseAlgorithm('crc64nvme')).toBe('CRC64NVME');
  expect(() => parseAlgorithm('MD4')).toThrow('unsupported');
  for (const value of ['', 'AAA=', 'AAAAAA', 'not base64!', 'AAAAAAAA'])
    expect(() => parseChecksumValue('CRC32', value)).toThrow('x-amz-checksum-crc32');
});
