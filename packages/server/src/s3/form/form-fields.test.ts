import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FormFileDecoder, formBoundary } from './form-fields.ts';

describe('the file of a form', () => {
  const BOUNDARY = '-ab';
  /** Mostly of what the boundary is made of, so that beginnings of it come often. */
  const file = fc
    .array(fc.constantFrom('\r', '\n', '-', 'a', 'b', 'x', '\r\n--', '\r\n--a', '\r\n---a'), {
      maxLength: 60,
    })
    .map((pieces) => Buffer.from(pieces.join('')))
    .filter((bytes) => !bytes.includes(`\r\n--${BOUNDARY}`));
  const cuts = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 20 });

  function decode(body: Buffer, lengths: readonly number[]): { data: Buffer; end: () => void } {
    const decoder = new FormFileDecoder(BOUNDARY);
    const data: Buffer[] = [];
    for (let at = 0, i = 0; at < body.length; i++) {
      const arrived = Buffer.from(body.subarray(at, at + (lengths[i % lengths.length] as number)));
      decoder.push(arrived, (piece) => data.push(Buffer.from(piece)));
      at += arrived.length;
      arrived.fill(0xff); // it is used again
    }
    return { data: Buffer.concat(data), end: () => decoder.end() };
  }

  test('is what lies before the boundary, wherever the body is cut, whatever comes after', () => {
    fc.assert(
      fc.property(
        file,
        cuts,
        fc.constantFrom('--\r\n', '\r\n…another field', ''),
        (bytes, at, rest) => {
          const body = Buffer.concat([bytes, Buffer.from(`\r\n--${BOUNDARY}${rest}`)]);
          const { data, end } = decode(body, at);
          end();
          expect(data.equals(bytes)).toBe(true);
        },
      ),
      { numRuns: 500 },
    );
  });

  test('has not ended without its boundary', () => {
    fc.assert(
      fc.property(file, cuts, (bytes, at) => {
        expect(decode(bytes, at).end).toThrow();
      }),
    );
  });
});

test.each([
  ['multipart/form-data; boundary=abc', 'abc'],
  ['multipart/form-data; charset=utf-8; boundary="a b:c"', 'a b:c'],
  ['Multipart/Form-Data;Boundary=----x;more=1', '----x'],
])('the boundary of %s', (type, boundary) => {
  expect(formBoundary(type)).toBe(boundary);
});

test.each([undefined, 'multipart/form-data', `multipart/form-data; boundary=${'x'.repeat(71)}`])(
  'no boundary in %s',
  (type) => {
    expect(() => formBoundary(type)).toThrow();
  },
);
