/** Against the example of AWS's documentation ("Example: Browser-Based Upload using HTTP POST"). */
import { describe, expect, test } from 'vitest';
import { KeyRing } from '../auth/key-ring.ts';
import { Sigv4Verifier } from '../auth/sigv4.ts';
import { S3Error } from '../s3-error.ts';
import { assertPostPolicy, parsePostPolicy } from './post-policy.ts';

const LINES = [
  '{ "expiration": "2015-12-30T12:00:00.000Z",',
  '  "conditions": [',
  '    {"bucket": "sigv4examplebucket"},',
  '    ["starts-with", "$key", "user/user1/"],',
  '    {"acl": "public-read"},',
  '    {"success_action_redirect": "http://sigv4examplebucket.s3.amazonaws.com/successful_upload.html"},',
  '    ["starts-with", "$Content-Type", "image/"],',
  '    {"x-amz-meta-uuid": "14365123651274"},',
  '    {"x-amz-server-side-encryption": "AES256"},',
  '    ["starts-with", "$x-amz-meta-tag", ""],',
  '',
  '    {"x-amz-credential": "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request"},',
  '    {"x-amz-algorithm": "AWS4-HMAC-SHA256"},',
  '    {"x-amz-date": "20151229T000000Z" }',
  '  ]',
  '}',
];
const POLICY = Buffer.from(LINES.join('\r\n')).toString('base64');
const CREDENTIAL = 'AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request';
const FIELDS: Readonly<Record<string, string>> = {
  bucket: 'sigv4examplebucket',
  key: 'user/user1/a.jpg',
  acl: 'public-read',
  success_action_redirect: 'http://sigv4examplebucket.s3.amazonaws.com/successful_upload.html',
  'content-type': 'image/jpeg',
  'x-amz-meta-uuid': '14365123651274',
  'x-amz-server-side-encryption': 'AES256',
  'x-amz-meta-tag': '',
  'x-amz-credential': CREDENTIAL,
  'x-amz-algorithm': 'AWS4-HMAC-SHA256',
  'x-amz-date': '20151229T000000Z',
};
const THE_DAY = Date.UTC(2015, 11, 29);

const fill = (changes: Readonly<Record<string, string>> = {}, nowMs = THE_DAY): void =>
  assertPostPolicy(
    parsePostPolicy(POLICY),
    new Map(Object.entries({ ...FIELDS, ...changes })),
    nowMs,
  );

test('its signature is the one that AWS computes', () => {
  const key = {
    accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
    secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
  };
  const verifier = new Sigv4Verifier(new KeyRing([key]), () => THE_DAY);
  const signature = '8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e';
  const form = { policy: POLICY, credential: CREDENTIAL, signature };
  expect(verifier.verifyPolicy(form).accessKeyId).toBe(key.accessKeyId);
  const other = { ...form, signature: signature.replace('8', '9') };
  expect(() => verifier.verifyPolicy(other)).toThrow(S3Error);
});

describe('a form', () => {
  test('that meets every condition passes, until the policy expires', () => {
    fill();
    fill({}, Date.UTC(2015, 11, 30, 12));
    expect(() => fill({}, Date.UTC(2015, 11, 30, 12, 0, 1))).toThrow('expired');
  });

  test.each([
    ['another bucket', { bucket: 'other' }],
    ['a key elsewhere', { key: 'user/user2/a.jpg' }],
    ['another ACL', { acl: 'private' }],
    ['another type', { 'content-type': 'text/html' }],
    ['other metadata', { 'x-amz-meta-uuid': '1' }],
  ])('with %s fails a condition', (_what, changes) => {
    expect(() => fill(changes)).toThrow('Policy Condition failed');
  });

  test('has no field that the policy does not cover, but the policy itself and those to ignore', () => {
    fill({ policy: POLICY, 'x-amz-signature': 'x', 'x-ignore-this': 'x' });
    expect(() => fill({ 'cache-control': 'no-store' })).toThrow(
      'Extra input fields: cache-control',
    );
  });
});

test.each([
  ['no JSON', 'nope'],
  ['null', 'null'],
  ['no expiration', '{"conditions":[]}'],
  ['no conditions', '{"expiration":"2030-01-01T00:00:00Z"}'],
  [
    'an operator that S3 has not',
    '{"expiration":"2030-01-01T00:00:00Z","conditions":[["ends-with","$key","x"]]}',
  ],
  [
    'a size that is none',
    '{"expiration":"2030-01-01T00:00:00Z","conditions":[["content-length-range","a",1]]}',
  ],
  [
    'sizes backwards',
    '{"expiration":"2030-01-01T00:00:00Z","conditions":[["content-length-range",2,1]]}',
  ],
  ['a word for a condition', '{"expiration":"2030-01-01T00:00:00Z","conditions":["key"]}'],
])('a policy with %s is refused', (_what, text) => {
  expect(() => parsePostPolicy(Buffer.from(text).toString('base64'))).toThrow('Invalid Policy');
});
