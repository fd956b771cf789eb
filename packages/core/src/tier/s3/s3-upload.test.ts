import { GiB, MiB, TiB } from '@ebb/protocol';
import { expect, test } from 'vitest';
import { S3_PART_BYTES_MAX, S3_PARTS_MAX } from '../../limits.ts';
import { partBytesFor } from './s3-upload.ts';

test('parts are as small as asked, and never more than 10,000 up to 5 TiB and beyond', () => {
  expect(partBytesFor(17 * MiB, 8 * MiB)).toBe(8 * MiB);
  for (const sizeBytes of [80 * GiB, 5 * TiB, 5 * TiB - 1, S3_PARTS_MAX * S3_PART_BYTES_MAX]) {
    const partBytes = partBytesFor(sizeBytes, 8 * MiB);
    expect(Math.ceil(sizeBytes / partBytes)).toBeLessThanOrEqual(S3_PARTS_MAX);
    expect(partBytes).toBeLessThanOrEqual(S3_PART_BYTES_MAX);
  }
  expect(() => partBytesFor(S3_PARTS_MAX * S3_PART_BYTES_MAX + 1, 8 * MiB)).toThrow('do not fit');
});
