import { expect, test } from 'vitest';
import { corsElement, corsHeaders, parseCorsRules } from './cors.ts';
import { parseXml } from './read-xml.ts';
import { buildXml } from './xml.ts';

const parse = async (rules: string) =>
  parseCorsRules(
    await parseXml(`<CORSConfiguration>${rules}</CORSConfiguration>`, 'CORSConfiguration'),
  );
const RULES = await parse(`
  <CORSRule>
    <ID>app</ID>
    <AllowedOrigin>https://*.example.com</AllowedOrigin><AllowedOrigin>http://localhost:3000</AllowedOrigin>
    <AllowedMethod>PUT</AllowedMethod><AllowedMethod>GET</AllowedMethod>
    <AllowedHeader>x-amz-*</AllowedHeader><AllowedHeader>Content-Type</AllowedHeader>
    <ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>600</MaxAgeSeconds>
  </CORSRule>
  <CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule>`);

const asked = (origin: string, method: string, ...headers: string[]) =>
  corsHeaders(RULES, { origin, method, headers });

test('the first rule that allows origin, method and headers answers', () => {
  expect(asked('https://a.example.com', 'PUT', 'X-Amz-Date', 'content-type')).toEqual({
    'access-control-allow-origin': 'https://a.example.com',
    'access-control-allow-methods': 'PUT, GET',
    'access-control-allow-credentials': 'true',
    'access-control-allow-headers': 'X-Amz-Date, content-type',
    'access-control-expose-headers': 'ETag',
    'access-control-max-age': '600',
    vary: 'Origin, Access-Control-Request-Headers, Access-Control-Request-Method',
  });
  expect(asked('http://localhost:3000', 'GET')).toMatchObject({
    'access-control-allow-origin': 'http://localhost:3000',
  });
  // For everybody: no credentials go with it.
  const open = asked('https://elsewhere.net', 'GET');
  expect(open?.['access-control-allow-origin']).toBe('*');
  expect(open).not.toHaveProperty('access-control-allow-credentials');
});

test.each([
  ['another origin', 'https://elsewhere.net', 'PUT', []],
  ['an origin that only ends alike', 'https://evilexample.com', 'PUT', []],
  ['another scheme', 'http://a.example.com', 'PUT', []],
  ['another method', 'https://a.example.com', 'DELETE', []],
  ['another header', 'https://a.example.com', 'PUT', ['x-amz-date', 'authorization']],
])('%s is not allowed', (_what, origin, method, headers) => {
  expect(asked(origin, method, ...headers)).toBeUndefined();
});

test('rules are read as they were written', async () => {
  const xml = buildXml('CORSConfiguration', corsElement(RULES));
  expect(parseCorsRules(await parseXml(xml, 'CORSConfiguration'))).toEqual(RULES);
});

test.each([
  ['no rule', ''],
  ['no origin', '<CORSRule><AllowedMethod>GET</AllowedMethod></CORSRule>'],
  ['no method', '<CORSRule><AllowedOrigin>*</AllowedOrigin></CORSRule>'],
  [
    'a method that S3 has not',
    '<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>PATCH</AllowedMethod></CORSRule>',
  ],
  [
    'two wildcards',
    '<CORSRule><AllowedOrigin>http://*.*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule>',
  ],
  [
    'a header name with a line break',
    '<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod><ExposeHeader>a\r\nb</ExposeHeader></CORSRule>',
  ],
  [
    'an age that is no number',
    '<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod><MaxAgeSeconds>-1</MaxAgeSeconds></CORSRule>',
  ],
  [
    'more than a hundred rules',
    '<CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod></CORSRule>'.repeat(
      101,
    ),
  ],
])('a configuration with %s is refused', async (_what, rules) => {
  await expect(parse(rules)).rejects.toThrow();
});
