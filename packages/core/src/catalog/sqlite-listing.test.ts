import { expect, test } from 'vitest';
import type { Bucket } from './sqlite-buckets.ts';
import { listPage } from './sqlite-listing.ts';
import type { ObjectRow, ObjectTable, Seek } from './sqlite-objects.ts';

test('a page of common prefixes seeks over each instead of reading its keys', () => {
  const prefixes = Array.from({ length: 20 }, (_, i) => `dir-${String(i).padStart(2, '0')}/`);
  const keys = prefixes.flatMap((prefix) =>
    Array.from({ length: 1000 }, (_, i) => `${prefix}${String(i).padStart(3, '0')}`),
  );
  let rowsRead = 0;
  // Rows in order and nothing else: what the page does not ask for is not read.
  const objects = {
    scan: (_: Bucket, seek: Seek, end: string | undefined, limit: number): ObjectRow[] => {
      const first = keys.findIndex((key) => ('from' in seek ? key >= seek.from : key > seek.after));
      const found = (first === -1 ? [] : keys.slice(first, first + limit)).filter(
        (key) => end === undefined || key < end,
      );
      rowsRead += found.length;
      return found.map((key) => [key, 1, 0, null, 0, 0, new Uint8Array(), null]);
    },
  } as unknown as ObjectTable;
  const bucket = { record: { name: 'bucket' } } as Bucket;
  const options = { prefix: '', delimiter: '/', startAfter: '', limit: 1000 };
  expect(listPage(objects, bucket, options)).toEqual({ objects: [], prefixes, next: null });
  expect(rowsRead).toBeLessThan(prefixes.length * 10);
});
