import { expect, test } from 'vitest';
import { openBody } from './body.ts';
import { errorFromHttp } from './errors.ts';
import { type GetContext, getObject } from './get.ts';

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

test('text as a body and offsets that are none are refused before the node is asked', async () => {
  await expect(openBody('text' as never)).rejects.toThrow('a body is bytes: Buffer.from(text)');
  const nobody = {} as GetContext;
  for (const range of [{ offset: -1 }, { offset: 0, length: -1 }, { offset: 0.5 }, { last: -1 }])
    await expect(getObject(nobody, { bucket: 'b', key: 'k' }, { range })).rejects.toMatchObject({
      code: 'range_invalid',
    });
});
