/** Against the examples of AWS's documentation ("Signature Calculations…", bucket examplebucket, 24 May 2013). */
import { describe, expect, test } from 'vitest';
import { S3Error } from '../s3-error.ts';
import { AwsChunkedDecoder } from './aws-chunked.ts';
import { canonicalQuery, canonicalRequest, parseQuery, sha256Hex } from './canonical.ts';
import { KeyRing } from './key-ring.ts';
import { deriveSigningKey, hmacHex, type SignedRequest, Sigv4Verifier } from './sigv4.ts';

const SECRET = 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY';
const ID = 'AKIAIOSFODNN7EXAMPLE';
const EMPTY = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
const NOON = Date.UTC(2013, 4, 24, 0, 0, 0);
const keys = new KeyRing([{ accessKeyId: ID, secretAccessKey: SECRET }]);
const verifier = new Sigv4Verifier(keys, () => NOON);

function request(
  method: string,
  url: string,
  headers: Readonly<Record<string, string>>,
): SignedRequest {
  const [rawPath = '', rawQuery = ''] = url.split('?', 2);
  return {
    method,
    rawPath,
    query: parseQuery(rawQuery),
    headers: Object.fromEntries(Object.entries(headers).map(([k, v]) => [k.toLowerCase(), v])),
    rawHeaders: Object.entries(headers).flat(),
  };
}

function signed(signedHeaders: string, signature: string): string {
  return `AWS4-HMAC-SHA256 Credential=${ID}/20130524/us-east-1/s3/aws4_request,SignedHeaders=${signedHeaders},Signature=${signature}`;
}

const HOST = 'examplebucket.s3.amazonaws.com';
const GET = {
  Host: HOST,
  Range: 'bytes=0-9',
  'x-amz-content-sha256': EMPTY,
  'x-amz-date': '20130524T000000Z',
  Authorization: signed(
    'host;range;x-amz-content-sha256;x-amz-date',
    'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
  ),
};

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (error instanceof S3Error) return error.code;
    throw error;
  }
  return 'none';
}

describe('signed by header', () => {
  test('GET of an object', () => {
    expect(verifier.verify(request('GET', '/test.txt', GET)).accessKey?.accessKeyId).toBe(ID);
  });

  test('PUT of an object whose key has a $', () => {
    const put = request('PUT', '/test$file.text', {
      Host: HOST,
      Date: 'Fri, 24 May 2013 00:00:00 GMT',
      'x-amz-content-sha256': '44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072',
      'x-amz-date': '20130524T000000Z',
      'x-amz-storage-class': 'REDUCED_REDUNDANCY',
      Authorization: signed(
        'date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class',
        '98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd',
      ),
    });
    expect(verifier.verify(put).payload).toMatchObject({ kind: 'signed' });
  });

  test.each([
    ['?lifecycle', 'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543'],
    ['?max-keys=2&prefix=J', '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7'],
    ['?prefix=J&max-keys=2', '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7'],
  ])('GET of a bucket with %s', (query, signature) => {
    const list = request('GET', `/${query}`, {
      Host: HOST,
      'x-amz-content-sha256': EMPTY,
      'x-amz-date': '20130524T000000Z',
      Authorization: signed('host;x-amz-content-sha256;x-amz-date', signature),
    });
    expect(verifier.verify(list).accessKey?.accessKeyId).toBe(ID);
  });

  test.each([
    ['another path', () => request('GET', '/test2.txt', GET), 'SignatureDoesNotMatch'],
    ['another method', () => request('HEAD', '/test.txt', GET), 'SignatureDoesNotMatch'],
    [
      'another range',
      () => request('GET', '/test.txt', { ...GET, Range: 'bytes=0-8' }),
      'SignatureDoesNotMatch',
    ],
    ['a query', () => request('GET', '/test.txt?versionId=1', GET), 'SignatureDoesNotMatch'],
    ['no signature', () => request('GET', '/test.txt', { Host: HOST }), 'AccessDenied'],
    [
      'a header that is not signed',
      () => request('GET', '/test.txt', { ...GET, 'x-amz-acl': 'private' }),
      'AccessDenied',
    ],
    [
      'version 2',
      () => request('GET', '/test.txt', { ...GET, Authorization: 'AWS a:b' }),
      'InvalidRequest',
    ],
    [
      'a malformed header',
      () => request('GET', '/test.txt', { ...GET, Authorization: 'AWS4-HMAC-SHA256 x' }),
      'AuthorizationHeaderMalformed',
    ],
    [
      'an unknown key',
      () =>
        request('GET', '/test.txt', {
          ...GET,
          Authorization: GET.Authorization.replace(ID, 'AKIDNOBODY'),
        }),
      'InvalidAccessKeyId',
    ],
  ])('is refused with %s', (_what, make, code) => {
    expect(codeOf(() => verifier.verify(make()))).toBe(code);
  });

  test('is refused a quarter of an hour later, and earlier', () => {
    for (const offset of [-16, 16]) {
      const late = new Sigv4Verifier(keys, () => NOON + offset * 60_000);
      expect(codeOf(() => late.verify(request('GET', '/test.txt', GET)))).toBe(
        'RequestTimeTooSkewed',
      );
    }
  });

  test('no error tells the secret or the signature that would have been right', () => {
    try {
      verifier.verify(request('GET', '/test2.txt', GET));
      expect.unreachable();
    } catch (error) {
      const text = JSON.stringify([(error as S3Error).message, (error as S3Error).details]);
      expect(text).not.toContain(SECRET);
      expect(text).toContain('StringToSign');
    }
  });
});

describe('presigned', () => {
  const url = `/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=${ID}%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404`;

  test('holds until it expires', () => {
    const at = (ms: number): string =>
      codeOf(() =>
        new Sigv4Verifier(keys, () => NOON + ms).verify(request('GET', url, { Host: HOST })),
      );
    expect(at(0)).toBe('none');
    expect(at(86_400_000)).toBe('none');
    expect(at(86_400_001)).toBe('AccessDenied');
    expect(at(-20 * 60_000)).toBe('AccessDenied');
  });

  test.each([
    ['a longer life', url.replace('86400', '86401'), 'SignatureDoesNotMatch'],
    ['a life over a week', url.replace('86400', '604801'), 'AuthorizationQueryParametersError'],
    [
      'no date',
      url.replace('&X-Amz-Date=20130524T000000Z', ''),
      'AuthorizationQueryParametersError',
    ],
    ['version 2', '/test.txt?AWSAccessKeyId=x&Signature=y&Expires=1', 'InvalidRequest'],
  ])('is refused with %s', (_what, changed, code) => {
    expect(codeOf(() => verifier.verify(request('GET', changed, { Host: HOST })))).toBe(code);
  });
});

describe('a presigned PUT', () => {
  const scope = '20130524/us-east-1/s3/aws4_request';
  const key = deriveSigningKey(SECRET, { date: '20130524', region: 'us-east-1', service: 's3' });
  /** As an SDK makes it: `signedHeaders` and nothing else of the request is bound to the link. */
  function link(signedHeaders: Readonly<Record<string, string>>): string {
    const names = Object.keys(signedHeaders).sort();
    const query = parseQuery(
      `X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=${ID}/${scope}&X-Amz-Date=20130524T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=${names.join(';')}`,
    );
    const canonical = canonicalRequest({
      method: 'PUT',
      path: '/mine',
      query: canonicalQuery(query),
      headers: names.map((name) => `${name}:${signedHeaders[name]}\n`).join(''),
      signedHeaders: names,
      payloadHash: 'UNSIGNED-PAYLOAD',
    });
    const toSign = `AWS4-HMAC-SHA256\n20130524T000000Z\n${scope}\n${sha256Hex(canonical)}`;
    return `/mine?${canonicalQuery(query)}&X-Amz-Signature=${hmacHex(key, toSign)}`;
  }
  const put = (url: string, headers: Readonly<Record<string, string>>): string =>
    codeOf(() => verifier.verify(request('PUT', url, headers)));

  test('takes no x-amz header that its link does not bind: it would become a copy', () => {
    const plain = link({ host: HOST });
    expect(put(plain, { Host: HOST })).toBe('none');
    expect(put(plain, { Host: HOST, 'Content-Type': 'a/b' })).toBe('none');
    expect(put(plain, { Host: HOST, 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' })).toBe('none');
    for (const name of ['x-amz-copy-source', 'X-Amz-Acl', 'x-amz-meta-a', 'x-amz-tagging'])
      expect(put(plain, { Host: HOST, [name]: '/secret/object' })).toBe('AccessDenied');
    const bound = link({ host: HOST, 'x-amz-meta-a': '1' });
    expect(put(bound, { Host: HOST, 'x-amz-meta-a': '1' })).toBe('none');
    expect(put(bound, { Host: HOST, 'x-amz-meta-a': '2' })).toBe('SignatureDoesNotMatch');
  });

  test('must bind the host', () => {
    expect(put(link({ 'x-amz-meta-a': '1' }), { Host: HOST, 'x-amz-meta-a': '1' })).toBe(
      'AccessDenied',
    );
  });
});

describe('aws-chunked', () => {
  const seed = {
    signature: '4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9',
    signingKey: deriveSigningKey(SECRET, { date: '20130524', region: 'us-east-1', service: 's3' }),
    amzDate: '20130524T000000Z',
    scope: '20130524/us-east-1/s3/aws4_request',
  };
  const chunk = (data: Buffer, signature: string): Buffer =>
    Buffer.concat([
      Buffer.from(`${data.length.toString(16)};chunk-signature=${signature}\r\n`),
      data,
      Buffer.from('\r\n'),
    ]);
  const body = Buffer.concat([
    chunk(
      Buffer.alloc(65_536, 'a'),
      'ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648',
    ),
    chunk(
      Buffer.alloc(1024, 'a'),
      '0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497',
    ),
    chunk(Buffer.alloc(0), 'b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9'),
  ]);

  function decode(
    bytes: Buffer,
    cut: number,
    options = { seed, trailer: false } as ConstructorParameters<typeof AwsChunkedDecoder>[0],
  ) {
    const out: Buffer[] = [];
    const decoder = new AwsChunkedDecoder(options);
    for (let at = 0; at < bytes.length; at += cut)
      decoder.push(Buffer.from(bytes.subarray(at, at + cut)), (data) =>
        out.push(Buffer.from(data)),
      );
    return { trailers: decoder.end(), data: Buffer.concat(out) };
  }

  test.each([1, 7, 100, 65_621, 1_000_000])("AWS's example, cut every %i bytes", (cut) => {
    expect(decode(body, cut).data.equals(Buffer.alloc(66_560, 'a'))).toBe(true);
  });

  test('the PUT that begins it', () => {
    const put = request('PUT', '/examplebucket/chunkObject.txt', {
      Host: 's3.amazonaws.com',
      'x-amz-date': '20130524T000000Z',
      'x-amz-storage-class': 'REDUCED_REDUNDANCY',
      'Content-Encoding': 'aws-chunked',
      'x-amz-decoded-content-length': '66560',
      'Content-Length': '66824',
      'x-amz-content-sha256': 'STREAMING-AWS4-HMAC-SHA256-PAYLOAD',
      Authorization: signed(
        'content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class',
        seed.signature,
      ),
    });
    expect(verifier.verify(put)).toMatchObject({
      payload: { kind: 'chunked', signed: true },
      seed: { scope: seed.scope },
    });
  });

  test('a flipped byte, a cut body and more after the end are refused', () => {
    const flipped = Buffer.from(body);
    flipped[500] = 0x62;
    expect(codeOf(() => decode(flipped, 4096))).toBe('SignatureDoesNotMatch');
    expect(codeOf(() => decode(body.subarray(0, 70), 4096))).toBe('IncompleteBody');
    expect(codeOf(() => decode(body.subarray(0, 65_700), 4096))).toBe('IncompleteBody');
    expect(codeOf(() => decode(Buffer.concat([body, Buffer.from('x')]), 4096))).toBe(
      'MalformedTrailerError',
    );
    expect(codeOf(() => decode(Buffer.from(`zz\r\n`), 4096))).toBe('MalformedTrailerError');
    expect(codeOf(() => decode(Buffer.alloc(5000, '1'), 4096))).toBe('MalformedTrailerError');
    expect(codeOf(() => decode(Buffer.from('5\r\nhello\r\n0\r\n\r\n'), 4096))).toBe(
      'SignatureDoesNotMatch',
    );
  });

  test('without signatures, with a trailer, as the SDKs send it', () => {
    const text = '5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n';
    const options = { seed: undefined, trailer: true };
    for (const cut of [1, 3, 1000]) {
      const { data, trailers } = decode(Buffer.from(text), cut, options);
      expect(data.toString()).toBe('hello');
      expect(trailers.get('x-amz-checksum-crc32')).toBe('NhCmhg==');
    }
    expect(codeOf(() => decode(Buffer.from('5\r\nhello\r\n0\r\n'), 9, options))).toBe(
      'IncompleteBody',
    );
  });

  test("AWS's example of a signed trailer", () => {
    const trailerSeed = {
      ...seed,
      signature: '106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e',
    };
    const bytes = Buffer.concat([
      chunk(
        Buffer.alloc(65_536, 'a'),
        'b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2',
      ),
      chunk(
        Buffer.alloc(1024, 'a'),
        '1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7',
      ),
      Buffer.from(
        '0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n',
      ),
      Buffer.from('x-amz-checksum-crc32c:sOO8/Q==\n\r\n'),
      Buffer.from(
        'x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n',
      ),
    ]);
    for (const cut of [1, 5000]) {
      const { trailers } = decode(bytes, cut, { seed: trailerSeed, trailer: true });
      expect([...trailers]).toEqual([['x-amz-checksum-crc32c', 'sOO8/Q==']]);
    }
    const forged = Buffer.from(bytes.toString('latin1').replace('sOO8', 'sOO9'), 'latin1');
    expect(codeOf(() => decode(forged, 5000, { seed: trailerSeed, trailer: true }))).toBe(
      'SignatureDoesNotMatch',
    );
  });
});
