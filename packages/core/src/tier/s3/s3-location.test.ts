import { isStoreError } from '@ebb/protocol';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatS3Location, parseS3Location } from './s3-location.ts';

const operator = { allowsEndpoint: true };
const client = { allowsEndpoint: false };

function complaintOf(text: string, options = operator): string {
  try {
    parseS3Location(text, options);
  } catch (error) {
    if (isStoreError(error, 'config_invalid')) return error.message;
    throw error;
  }
  return 'none';
}

test('a location names bucket, prefix, endpoint, region and style', () => {
  expect(parseS3Location('s3://bucket', client)).toEqual({
    bucket: 'bucket',
    prefix: '',
    endpoint: undefined,
    region: undefined,
    pathStyle: false,
  });
  const full =
    's3://my.bucket-1/a/b c/?endpoint=http://127.0.0.1:9000/&region=eu-west-1&pathStyle=false';
  expect(parseS3Location(full, operator)).toEqual({
    bucket: 'my.bucket-1',
    prefix: 'a/b c',
    endpoint: 'http://127.0.0.1:9000',
    region: 'eu-west-1',
    pathStyle: false,
  });
  expect(parseS3Location('s3://bucket?endpoint=https://h', operator).pathStyle).toBe(true);
});

test('what is formatted is parsed as the same target', () => {
  const segment = fc.stringMatching(/^[\w +%&=üé-]{1,9}$/);
  const target = fc.record({
    bucket: fc.stringMatching(/^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/),
    prefix: fc.array(segment, { maxLength: 3 }).map((segments) => segments.join('/')),
    endpoint: fc.constantFrom(undefined, 'http://127.0.0.1:9000', 'https://h.example/storage/v1'),
    region: fc.constantFrom(undefined, 'eu-west-1'),
    pathStyle: fc.boolean(),
  });
  fc.assert(
    fc.property(target, (made) => {
      expect(parseS3Location(formatS3Location(made), operator)).toEqual(made);
    }),
  );
});

test('credentials are refused wherever they stand, and no complaint repeats them', () => {
  const locations = [
    's3://AKIAKEY:hunter2@bucket/prefix',
    's3://bucket?secretAccessKey=hunter2',
    's3://bucket?accessKeyId=AKIAKEY&secret=hunter2',
    's3://bucket?endpoint=https://AKIAKEY:hunter2@host',
    's3://bucket?hunter2=AKIAKEY',
    's3://bucket?region=hunter2 AKIAKEY',
    's3://bucket?pathStyle=hunter2',
    's3://hunter2_AKIAKEY',
    's3://bucket#hunter2',
    'https://AKIAKEY:hunter2@bucket',
  ];
  for (const location of locations) {
    const complaint = complaintOf(location);
    expect(complaint).toContain('this is no location of an object store');
    expect(complaint).not.toContain('AKIAKEY');
    if (!location.includes('?hunter2=')) expect(complaint).not.toContain('hunter2');
  }
  expect(complaintOf(locations[0] as string)).toContain('credentials do not belong into it');
});

test('an endpoint is taken from the configuration only', () => {
  const location = 's3://bucket?endpoint=http://127.0.0.1:9000';
  expect(complaintOf(location, client)).toContain('only the configuration of the node');
  expect(complaintOf(location, operator)).toBe('none');
});

test('a region cannot lead to another host, nor a prefix out of itself', () => {
  for (const location of [
    's3://bucket?region=evil.example/',
    's3://bucket?region=a@b',
    's3://bucket?region=',
    's3://bucket/a/../b',
    's3://bucket/a//b',
    's3://bucket/./b',
    's3://bucket/nul\0l',
    's3://Bucket',
    's3://b',
    's3://a..b',
    's3:///prefix',
    's3://bucket?endpoint=ftp://host',
    's3://bucket?endpoint=http://host/?x=y',
    's3://bucket?region=a&region=b',
    'bucket/prefix',
  ]) {
    expect([location, complaintOf(location)]).not.toEqual([location, 'none']);
  }
});
