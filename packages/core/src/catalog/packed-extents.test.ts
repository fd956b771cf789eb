import { expect, test } from 'vitest';
import {
  EXTENT_BYTES,
  findPackedExtents,
  PackedExtents,
  withExtentsOf,
  withPackedExtents,
} from './packed-extents.ts';

function packed(count: number): PackedExtents {
  const bytes = Buffer.alloc(count * EXTENT_BYTES);
  for (let n = 0; n < count; n++) {
    bytes.writeUIntLE(n + 1, n * EXTENT_BYTES, 6);
    bytes.writeUIntLE(n * 10, n * EXTENT_BYTES + 6, 6);
    bytes.writeUIntLE(10, n * EXTENT_BYTES + 12, 6);
  }
  return new PackedExtents(bytes);
}

test.each([0, 1, 16, 17, 1000])(
  'a record, a record made of it and a changed copy have all %i extents',
  (count) => {
    const expected = Array.from({ length: count }, (_, n) => ({
      blobId: n + 1,
      offset: n * 10,
      length: 10,
    }));
    const record = withPackedExtents({ name: 'a' }, packed(count));
    const other = withExtentsOf({ name: 'b' }, record);
    for (const one of [record, other, { ...record, name: 'c' }])
      expect([...one.extents]).toEqual(expected);
    expect(Object.keys(other)).toEqual(['name', 'extents']);
    const isPacked = count > 16;
    expect([record, other].map((one) => findPackedExtents(one) !== undefined)).toEqual([
      isPacked,
      isPacked,
    ]);
  },
);
