import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseRange } from './range.ts';

const size = fc.integer({ min: 0, max: 50 });
const position = fc.integer({ min: 0, max: 60 });

/** The bytes that the RFC's words select, found by looking at every byte. */
function select(sizeBytes: number, wanted: (at: number) => boolean): number[] {
  return Array.from({ length: sizeBytes }, (_, at) => at).filter(wanted);
}
function bytesOf(header: string, sizeBytes: number): number[] | 'unsatisfiable' | 'whole' {
  const range = parseRange(header, sizeBytes);
  if (range.kind !== 'part') return range.kind;
  return Array.from({ length: range.end - range.start }, (_, at) => range.start + at);
}

test('bytes=a-b gives the bytes from a to b, as far as there are any', () => {
  fc.assert(
    fc.property(size, position, position, (sizeBytes, a, b) => {
      const expected = select(sizeBytes, (at) => at >= a && at <= b);
      const found = bytesOf(`bytes=${a}-${b}`, sizeBytes);
      if (b < a) expect(found).toBe('whole');
      else expect(found).toEqual(expected.length === 0 ? 'unsatisfiable' : expected);
    }),
  );
});

test('bytes=a- gives the bytes from a on', () => {
  fc.assert(
    fc.property(size, position, (sizeBytes, a) => {
      const expected = select(sizeBytes, (at) => at >= a);
      expect(bytesOf(`bytes=${a}-`, sizeBytes)).toEqual(
        expected.length === 0 ? 'unsatisfiable' : expected,
      );
    }),
  );
});

test('bytes=-n gives the last n bytes', () => {
  fc.assert(
    fc.property(size, position, (sizeBytes, n) => {
      const expected = select(sizeBytes, (at) => at >= sizeBytes - n);
      expect(bytesOf(`bytes=-${n}`, sizeBytes)).toEqual(
        expected.length === 0 ? 'unsatisfiable' : expected,
      );
    }),
  );
});

test.each([
  '',
  'bytes',
  'bytes=',
  'bytes=-',
  'bytes=a-b',
  'bytes=0-1,3-4',
  'items=0-1',
  'bytes=--5',
  'bytes=1-2-3',
  'bytes=0x1-2',
])('%j is ignored, as the RFC allows', (header) =>
  expect(parseRange(header, 10)).toEqual({ kind: 'whole' }),
);

test('numbers beyond any object do no harm', () => {
  expect(parseRange(`bytes=0-${'9'.repeat(40)}`, 10)).toEqual({ kind: 'part', start: 0, end: 10 });
  expect(parseRange(`bytes=${'9'.repeat(400)}-`, 10)).toEqual({ kind: 'unsatisfiable' });
});
