import fc from 'fast-check';
import { expect, test } from 'vitest';
import { combineCrc32c, crc32c, createCrc32c, findCrc32c, formatCrc32c } from './checksum.ts';

const bytes = fc.uint8Array({ maxLength: 4096 });

test('the check value of CRC32C is the published one', () => {
  expect(formatCrc32c(crc32c(Buffer.from('123456789')))).toBe('e3069283');
  expect(crc32c(new Uint8Array())).toBe(0);
});

test('bytes fed in any pieces have the checksum of the whole', () => {
  fc.assert(
    fc.property(fc.array(bytes, { maxLength: 8 }), (pieces) => {
      const crc = createCrc32c();
      for (const piece of pieces) crc.update(piece);
      expect(crc.value()).toBe(crc32c(Buffer.concat(pieces)));
    }),
  );
});

test('checksums of two parts combine into the checksum of the whole', () => {
  fc.assert(
    fc.property(bytes, bytes, (a, b) => {
      expect(combineCrc32c(crc32c(a), crc32c(b), b.length)).toBe(crc32c(Buffer.concat([a, b])));
    }),
  );
});

test('combining is associative for lengths far beyond 4 GiB', () => {
  const crc = fc.integer({ min: 0, max: 0xffffffff });
  const length = fc.integer({ min: 0, max: 2 ** 50 });
  fc.assert(
    fc.property(crc, crc, crc, length, length, (a, b, c, lengthB, lengthC) => {
      const left = combineCrc32c(combineCrc32c(a, b, lengthB), c, lengthC);
      const right = combineCrc32c(a, combineCrc32c(b, c, lengthC), lengthB + lengthC);
      expect(left).toBe(right);
    }),
  );
});

test('the hex form is eight digits and reads back', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xffffffff }), (crc) => {
      expect(formatCrc32c(crc)).toMatch(/^[0-9a-f]{8}$/);
      expect(findCrc32c(formatCrc32c(crc))).toBe(crc);
    }),
  );
  for (const text of ['', '123', '123456789', '0x123456', 'g2345678', ' 1234567'])
    expect(findCrc32c(text)).toBeUndefined();
});
