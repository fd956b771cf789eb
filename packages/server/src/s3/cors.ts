/**
 * Rules by which a bucket lets web pages of other origins in (Amazon S3 User Guide, "Elements of a CORS configuration").
 * Pure: which rule fits a request, and the headers that tell the browser.
 */
import type { XmlReader } from './read-xml.ts';
import { S3Error } from './s3-error.ts';
import type { XmlElement } from './xml.ts';

const RULES_MAX = 100;
const ID_CHARS_MAX = 255;
const METHODS = ['GET', 'PUT', 'POST', 'DELETE', 'HEAD'];

export interface CorsRule {
  readonly id?: string;
  readonly origins: readonly string[];
  readonly methods: readonly string[];
  readonly headers: readonly string[];
  readonly exposeHeaders: readonly string[];
  readonly maxAgeSeconds?: number;
}

/** What a browser asks for: in a preflight, or by the request itself, which names no headers. */
export interface CorsRequest {
  readonly origin: string;
  readonly method: string;
  readonly headers: readonly string[];
}

/** @throws {S3Error} `MalformedXML`, `InvalidRequest` */
export function parseCorsRules(root: XmlReader): readonly CorsRule[] {
  const rules = root.all('CORSRule').map(parseRule);
  if (rules.length === 0 || rules.length > RULES_MAX) throw new S3Error('MalformedXML');
  return rules;
}

function parseRule(rule: XmlReader): CorsRule {
  const texts = (name: string): string[] => rule.all(name).map((element) => element.plainText());
  const [origins, methods, headers] = [
    texts('AllowedOrigin'),
    texts('AllowedMethod'),
    texts('AllowedHeader'),
  ];
  if (origins.length === 0 || methods.length === 0) throw new S3Error('MalformedXML');
  for (const method of methods)
    if (!METHODS.includes(method))
      throw new S3Error(
        'InvalidRequest',
        `Found unsupported HTTP method in CORS config. Unsupported method is ${method}`,
      );
  for (const [name, patterns] of [
    ['AllowedOrigin', origins],
    ['AllowedHeader', headers],
  ] as const)
    for (const pattern of patterns)
      if (pattern.split('*').length > 2)
        throw new S3Error(
          'InvalidRequest',
          `${name} "${pattern}" can not have more than one wildcard.`,
        );
  const exposeHeaders = texts('ExposeHeader');
  for (const name of [...headers, ...exposeHeaders])
    if (!/^[\w!#$%&'*+.^`|~-]+$/.test(name)) throw new S3Error('MalformedXML');
  const id = rule.find('ID')?.plainText();
  if (id !== undefined && id.length > ID_CHARS_MAX) throw new S3Error('MalformedXML');
  const maxAge = rule.textOf('MaxAgeSeconds');
  if (maxAge !== undefined && !/^\d{1,9}$/.test(maxAge)) throw new S3Error('MalformedXML');
  return {
    ...{ origins, methods, headers, exposeHeaders },
    ...(id === undefined ? {} : { id }),
    ...(maxAge === undefined ? {} : { maxAgeSeconds: Number(maxAge) }),
  };
}

export function corsElement(rules: readonly CorsRule[]): XmlElement {
  return {
    CORSRule: rules.map((rule) => ({
      ...(rule.id === undefined ? {} : { ID: rule.id }),
      AllowedHeader: rule.headers,
      AllowedMethod: rule.methods,
      AllowedOrigin: rule.origins,
      ExposeHeader: rule.exposeHeaders,
      ...(rule.maxAgeSeconds === undefined ? {} : { MaxAgeSeconds: rule.maxAgeSeconds }),
    })),
  };
}

/** The headers of the first rule that allows the request; undefined when none does. */
export function corsHeaders(
  rules: readonly CorsRule[],
  { origin, method, headers }: CorsRequest,
): Readonly<Record<string, string>> | undefined {
  const rule = rules.find(
    (known) =>
      known.methods.includes(method) &&
      known.origins.some((pattern) => fits(pattern, origin)) &&
      headers.every((name) => known.headers.some((pattern) => fits(pattern, name))),
  );
  if (rule === undefined) return undefined;
  const isForAll = rule.origins.includes('*');
  return {
    'access-control-allow-origin': isForAll ? '*' : origin,
    'access-control-allow-methods': rule.methods.join(', '),
    ...(isForAll ? {} : { 'access-control-allow-credentials': 'true' }),
    ...(headers.length === 0 ? {} : { 'access-control-allow-headers': headers.join(', ') }),
    ...(rule.exposeHeaders.length === 0
      ? {}
      : { 'access-control-expose-headers': rule.exposeHeaders.join(', ') }),
    ...(rule.maxAgeSeconds === undefined
      ? {}
      : { 'access-control-max-age': String(rule.maxAgeSeconds) }),
    // A cache must not give one origin what was answered to another.
    vary: 'Origin, Access-Control-Request-Headers, Access-Control-Request-Method',
  };
}

/** One `*` stands for any characters. Origins and header names are compared without case. */
function fits(pattern: string, text: string): boolean {
  const [start = '', end] = pattern.toLowerCase().split('*');
  const given = text.toLowerCase();
  if (end === undefined) return given === start;
  return (
    given.length >= start.length + end.length && given.startsWith(start) && given.endsWith(end)
  );
}
