/**
 * Signs S3 requests for tests as a client would, header, link and form, where an SDK would not let a test say what it wants
 * to say. It shares no code with the side that checks.
 */
import { createHash, createHmac } from 'node:crypto';
import { type IncomingHttpHeaders, request as sendRequest } from 'node:http';

export interface TestKey {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}
export interface UnsignedRequest {
  readonly method: string;
  /** With host and port; key and query percent-encoded. */
  readonly url: URL;
  /** Lower-case names. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer | string;
}
export interface RawAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  /** Of an error document; '' otherwise. */
  readonly code: string;
}

const REGION = 'us-east-1';
const ALGORITHM = 'AWS4-HMAC-SHA256';

/** The headers of the request, with those of its signature. `x-amz-content-sha256` may be given. */
export function signHeaders(
  key: TestKey,
  { method, url, headers = {}, body = '' }: UnsignedRequest,
  now: Date = new Date(),
): Record<string, string> {
  const amzDate = basicDate(now);
  const signed: Record<string, string> = {
    host: url.host,
    'x-amz-date': amzDate,
    'x-amz-content-sha256': sha256(body),
    ...headers,
  };
  const signature = sign(key, amzDate, {
    method,
    url,
    headers: signed,
    payloadHash: signed['x-amz-content-sha256'] as string,
  });
  const names = Object.keys(signed).sort().join(';');
  return {
    ...signed,
    authorization: `${ALGORITHM} Credential=${key.accessKeyId}/${scopeOf(amzDate)}, SignedHeaders=${names}, Signature=${signature}`,
  };
}

/** A link; `headers` are bound to it, beside the host. */
export function presign(
  key: TestKey,
  { method, url, headers = {} }: UnsignedRequest,
  { expiresSeconds = 60, now = new Date() } = {},
): URL {
  const amzDate = basicDate(now);
  const signed = { host: url.host, ...headers };
  const link = new URL(url);
  const parameters = {
    'X-Amz-Algorithm': ALGORITHM,
    'X-Amz-Credential': `${key.accessKeyId}/${scopeOf(amzDate)}`,
    'X-Amz-Date': amzDate,
    'X-Amz-Expires': String(expiresSeconds),
    'X-Amz-SignedHeaders': Object.keys(signed).sort().join(';'),
  };
  for (const [name, value] of Object.entries(parameters)) link.searchParams.set(name, value);
  const signature = sign(key, amzDate, {
    ...{ method, url: link, headers: signed },
    payloadHash: 'UNSIGNED-PAYLOAD',
  });
  link.searchParams.set('X-Amz-Signature', signature);
  return link;
}

/** The fields of a form whose policy has these conditions beside those of the signature. */
export function signForm(
  key: TestKey,
  {
    conditions,
    expiration,
  }: { readonly conditions: readonly unknown[]; readonly expiration?: string },
): Record<string, string> {
  const now = new Date();
  const amzDate = basicDate(now);
  const fields = {
    'x-amz-algorithm': ALGORITHM,
    'x-amz-credential': `${key.accessKeyId}/${scopeOf(amzDate)}`,
    'x-amz-date': amzDate,
  };
  const policy = Buffer.from(
    JSON.stringify({
      expiration: expiration ?? new Date(now.getTime() + 60_000).toISOString(),
      conditions: [
        ...conditions,
        ...Object.entries(fields).map(([name, value]) => ({ [name]: value })),
      ],
    }),
  ).toString('base64');
  return {
    ...fields,
    policy,
    'x-amz-signature': hmac(signingKey(key, amzDate), policy).toString('hex'),
  };
}

/** What a signature goes on from, chunk by chunk. */
export interface ChunkSigner {
  readonly seed: string;
  sign(previous: string, data: Buffer): string;
  /** Of the trailing headers: lines of `name:value`, each with its line feed. */
  signTrailer(previous: string, lines: string): string;
}

export function chunkSigner(key: TestKey, headers: Readonly<Record<string, string>>): ChunkSigner {
  const amzDate = headers['x-amz-date'] as string;
  const seed = /Signature=([0-9a-f]+)/.exec(headers['authorization'] as string)?.[1] as string;
  return {
    seed,
    sign: (previous, data) =>
      hmac(
        signingKey(key, amzDate),
        `${ALGORITHM}-PAYLOAD\n${amzDate}\n${scopeOf(amzDate)}\n${previous}\n${sha256('')}\n${sha256(data)}`,
      ).toString('hex'),
    signTrailer: (previous, lines) =>
      hmac(
        signingKey(key, amzDate),
        `${ALGORITHM}-TRAILER\n${amzDate}\n${scopeOf(amzDate)}\n${previous}\n${sha256(lines)}`,
      ).toString('hex'),
  };
}

/** Exactly these headers and bytes on a connection of their own. */
export function sendRaw({ method, url, headers = {}, body }: UnsignedRequest): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { 'content-length': Buffer.byteLength(body) };
    const call = sendRequest(
      {
        ...{ host: url.hostname, port: url.port, path: url.pathname + url.search, method },
        headers: { ...length, ...headers },
        agent: false,
      },
      (answer) => {
        const chunks: Buffer[] = [];
        answer.on('data', (chunk: Buffer) => chunks.push(chunk));
        answer.once('error', reject);
        answer.once('end', () => {
          const text = Buffer.concat(chunks).toString('utf8');
          resolve({
            status: answer.statusCode ?? 0,
            headers: answer.headers,
            body: text,
            code: /<Error><Code>([^<]+)</.exec(text)?.[1] ?? '',
          });
        });
      },
    );
    call.once('error', reject);
    call.end(typeof body === 'string' ? Buffer.from(body) : body);
  });
}

function sign(
  key: TestKey,
  amzDate: string,
  parts: {
    readonly method: string;
    readonly url: URL;
    readonly headers: Readonly<Record<string, string>>;
    readonly payloadHash: string;
  },
): string {
  const names = Object.keys(parts.headers).sort();
  const query = [...parts.url.searchParams]
    .map(([name, value]) => `${encode(name)}=${encode(value)}`)
    .sort()
    .join('&');
  const canonical = [
    parts.method,
    parts.url.pathname
      .split('/')
      .map((part) => encode(decodeURIComponent(part)))
      .join('/'),
    query,
    ...names.map((name) => `${name}:${(parts.headers[name] as string).trim()}`),
    '',
    names.join(';'),
    parts.payloadHash,
  ].join('\n');
  const toSign = `${ALGORITHM}\n${amzDate}\n${scopeOf(amzDate)}\n${sha256(canonical)}`;
  return hmac(signingKey(key, amzDate), toSign).toString('hex');
}

function signingKey({ secretAccessKey }: TestKey, amzDate: string): Buffer {
  return [amzDate.slice(0, 8), REGION, 's3', 'aws4_request'].reduce<Buffer>(
    hmac,
    Buffer.from(`AWS4${secretAccessKey}`),
  );
}

function scopeOf(amzDate: string): string {
  return `${amzDate.slice(0, 8)}/${REGION}/s3/aws4_request`;
}

function basicDate(date: Date): string {
  return `${date.toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`;
}

function encode(text: string): string {
  return encodeURIComponent(text).replaceAll(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}

function sha256(data: Buffer | string): string {
  return createHash('sha256').update(data).digest('hex');
}
