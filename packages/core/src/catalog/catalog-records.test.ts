import { isStoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { BucketPolicy } from './catalog.ts';
import {
  decodeObjectBody,
  decodePolicy,
  encodeObjectBody,
  encodePolicy,
  isVersionedBody,
  type ObjectBody,
  withVersioned,
} from './catalog-records.ts';

const text = fc.string({ unit: 'grapheme', maxLength: 40 });
const u48 = fc.nat({ max: 2 ** 48 - 1 });
const body: fc.Arbitrary<ObjectBody> = fc.record({
  etag: text,
  crc32c: fc.option(fc.nat({ max: 2 ** 32 - 1 })),
  contentType: text,
  metadata: fc.dictionary(fc.oneof(text, fc.constant('__proto__')), text, {
    noNullPrototype: true,
  }),
  attributes: fc.dictionary(text, text, { noNullPrototype: true }),
  extents: fc.array(fc.record({ blobId: u48, offset: u48, length: u48 })),
});
const withFlag = fc
  .tuple(body, fc.boolean())
  .map(([value, versioned]): ObjectBody => (versioned ? { ...value, versioned: true } : value));

describe('object body', () => {
  test('what was encoded is decoded', () => {
    fc.assert(
      fc.property(withFlag, (value) => {
        expect(decodeObjectBody(encodeObjectBody(value))).toEqual(value);
      }),
    );
  });

  test('the flag of a version is read and changed without the rest', () => {
    fc.assert(
      fc.property(withFlag, fc.boolean(), (value, versioned) => {
        const bytes = encodeObjectBody(value);
        expect(isVersionedBody(bytes)).toBe(value.versioned === true);
        const { versioned: _, ...rest } = value;
        expect(decodeObjectBody(withVersioned(bytes, versioned))).toEqual(
          versioned ? { ...rest, versioned: true } : rest,
        );
        expect(decodeObjectBody(bytes)).toEqual(value);
      }),
    );
  });

  test('a body that was cut, grown or scrambled in length is refused as corrupt', () => {
    fc.assert(
      fc.property(body, fc.nat(), (value, at) => {
        const bytes = encodeObjectBody(value);
        const cut = bytes.subarray(0, at % bytes.length);
        const grown = Buffer.concat([bytes, Buffer.of(0)]);
        for (const broken of [cut, grown]) {
          expect(codeOf(() => decodeObjectBody(broken))).toBe('data_corrupt');
        }
      }),
    );
  });

  test('damage inside is refused with a code, or changes a value, but never throws anything else', () => {
    fc.assert(
      fc.property(body, fc.nat(), fc.integer({ min: 0, max: 255 }), (value, at, byte) => {
        const bytes = Buffer.from(encodeObjectBody(value));
        bytes[at % bytes.length] = byte;
        expect([undefined, 'data_corrupt', 'version_unsupported']).toContain(
          codeOf(() => decodeObjectBody(bytes)),
        );
      }),
    );
  });

  test('a number or a string beyond the layout is refused before it is written', () => {
    const fine: ObjectBody = {
      etag: 'e',
      crc32c: 0,
      contentType: '',
      metadata: {},
      attributes: {},
      extents: [],
    };
    expect(() => encodeObjectBody({ ...fine, etag: 'x'.repeat(65_536) })).toThrow(/65535/);
    for (const blobId of [-1, 1.5, 2 ** 48, Number.NaN]) {
      const extents = [{ blobId, offset: 0, length: 0 }];
      expect(() => encodeObjectBody({ ...fine, extents })).toThrow(/u48/);
    }
  });

  test('the layout is kept: a body written by format 1 reads the same', () => {
    const golden =
      '3600000001017856341203006574610600' +
      '6170702f7a73' + // content type
      '010001006b02007635' + // metadata
      '01000000' +
      '010000000000' +
      '0a0000000000' +
      'ff0000000000';
    const value = {
      etag: 'eta',
      crc32c: 0x12345678,
      contentType: 'app/zs',
      metadata: { k: 'v5' },
      attributes: {},
      extents: [{ blobId: 1, offset: 10, length: 255 }],
    };
    expect(encodeObjectBody(value).toString('hex')).toBe(golden);
    expect(decodeObjectBody(Buffer.from(golden, 'hex'))).toEqual(value);

    const withAttributes =
      '4000000002017856341203006574610600' +
      '6170702f7a73' +
      '010001006b02007635' +
      '01000100610300626364' + // attributes
      '01000000' +
      '010000000000' +
      '0a0000000000' +
      'ff0000000000';
    const more = { ...value, attributes: { a: 'bcd' } };
    expect(encodeObjectBody(more).toString('hex')).toBe(withAttributes);
    expect(decodeObjectBody(Buffer.from(withAttributes, 'hex'))).toEqual(more);
  });
});

describe('bucket policy', () => {
  const PLAIN: BucketPolicy = {
    preset: 'durable',
    ack: 'disk',
    mirror: true,
    ttlMs: 1,
    quotaBytes: null,
    remote: null,
    revalidateMs: null,
    versioning: 'off',
  };
  const limit = fc.option(fc.nat({ max: Number.MAX_SAFE_INTEGER }));
  const policy: fc.Arbitrary<BucketPolicy> = fc.record(
    {
      preset: fc.constantFrom('ephemeral', 'buffered', 'durable'),
      ack: fc.constantFrom('memory', 'disk', 'remote'),
      mirror: fc.boolean(),
      ttlMs: limit,
      quotaBytes: limit,
      remote: fc.option(fc.constantFrom('archive', 's3://bucket/prefix')),
      revalidateMs: limit,
      versioning: fc.constantFrom('off', 'enabled', 'suspended'),
      events: fc.boolean(),
      encrypted: fc.constant(true),
    },
    {
      requiredKeys: [
        ...(['preset', 'ack', 'mirror', 'ttlMs', 'quotaBytes'] as const),
        ...(['remote', 'revalidateMs', 'versioning'] as const),
      ],
    },
  );

  test('what was encoded is decoded', () => {
    fc.assert(
      fc.property(policy, (value) => {
        expect(decodePolicy(encodePolicy(value))).toEqual(value);
      }),
    );
  });

  test('an encrypted one has a format of its own, so that a program that does not know it writes nothing plain there', () => {
    expect(JSON.parse(encodePolicy({ ...PLAIN, encrypted: true }))).toMatchObject({ format: 3 });
    expect(JSON.parse(encodePolicy(PLAIN))).toMatchObject({ format: 1 });
  });

  test('one that was written before there were versions reads as without', () => {
    const old =
      '{"format":1,"preset":"durable","ack":"disk","mirror":true,"ttlMs":1,"quotaBytes":null}';
    expect(decodePolicy(old)).toEqual(PLAIN);
    // A program that does not know versions must not write where they are kept.
    expect(encodePolicy({ ...PLAIN, versioning: 'suspended' })).toContain('"format":2');
  });

  test('anything else is refused', () => {
    const fine = JSON.parse(encodePolicy(PLAIN)) as object;
    for (const broken of [
      '',
      'null',
      '7',
      JSON.stringify({ ...fine, ack: 'tape' }),
      JSON.stringify({ ...fine, format: 2 }),
      JSON.stringify({ ...fine, events: 1 }),
    ]) {
      expect(codeOf(() => decodePolicy(broken))).toBe('data_corrupt');
    }
    expect(codeOf(() => decodePolicy(JSON.stringify({ ...fine, format: 4 })))).toBe(
      'version_unsupported',
    );
  });
});

function codeOf(work: () => unknown): unknown {
  try {
    work();
    return undefined;
  } catch (error) {
    return isStoreError(error) ? error.code : error;
  }
}
