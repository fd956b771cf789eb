import { expect, test } from 'vitest';
import { errorFromHttp } from './errors.ts';

test('an answer of an S3 address names the control address', () => {
  const answer = { status: 403, body: '<Error/>', request: 'GET /v1/status' };
  const headers = { 'x-amz-request-id': '0A', server: 'Ebb', 'content-type': 'application/xml' };
  for (const status of [400, 403, 404, 503]) {
    const error = errorFromHttp({ ...answer, status, headers });
    expect(error).toMatchObject({ code: 'request_invalid', retry: 'never' });
    expect(error.message).toMatch(/S3 address of a node.*--node.*9700/);
  }
  // Something in between that answers for the node.
  expect(errorFromHttp({ ...answer, headers: {} }).message).not.toContain('S3');
});
