/**
 * A small object store over HTTP for tests of what real ones do unlike S3. It keeps one flat set of keys in memory, knows GET
 * and HEAD (whole or one range), PUT, DELETE, ListObjectsV2 of one page and multipart uploads, and asks for no signature.
 * Fault model, each as told:
 *
 *   ignores       conditions (If-Match, If-None-Match) or ranges, as if they had not been sent
 *   refuses       requests with a header like this, with a status and a code
 *   md5           false: ETags are no MD5 of the content
 *   hides         the answer to HEAD lacks this header, as behind a proxy that compresses
 *   isAway        404 in plain text to everything, as a proxy whose store is away
 *   lists         one page, or without an end: the same page (`again`), empty ones with ever new tokens (`empty`), ever new names that
 *                 are none of a node's (`strange`), or more without saying where (`untold`)
 *   losesUploads  the answer to the begin of an upload names none
 *   corrupts      what is put is stored with its first byte changed
 */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

interface Refusal {
  readonly header: RegExp;
  /** Default: all. */
  readonly methods?: readonly string[];
  readonly status: number;
  readonly code: string;
}

export interface Carelessness {
  ignores: 'nothing' | 'conditions' | 'ranges';
  refuses: readonly Refusal[];
  md5: boolean;
  hides: 'nothing' | 'content-length' | 'etag';
  isAway: boolean;
  losesUploads: boolean;
  lists: 'one' | 'again' | 'empty' | 'strange' | 'untold';
  corrupts: boolean;
}

export interface CarelessStore extends AsyncDisposable {
  readonly url: string;
  readonly objects: Map<string, { readonly bytes: Buffer; readonly etag: string }>;
  /** `METHOD key`, and the names of headers that may matter. */
  readonly requests: { readonly line: string; readonly headers: readonly string[] }[];
  readonly is: Carelessness;
  /** Puts an object as another client does. */
  put(key: string, bytes: Buffer): string;
  /** Called with each request before it is answered. */
  onRequest: (line: string) => void;
}

export async function startCarelessStore(is: Partial<Carelessness> = {}): Promise<CarelessStore> {
  const store = new Store({
    ignores: 'nothing',
    refuses: [],
    md5: true,
    hides: 'nothing',
    isAway: false,
    losesUploads: false,
    lists: 'one',
    corrupts: false,
    ...is,
  });
  const server = createServer((request, response) => void store.serve(request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  store.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  store.close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return store;
}

class Store implements CarelessStore {
  url = '';
  readonly objects: CarelessStore['objects'] = new Map();
  readonly requests: { line: string; headers: readonly string[] }[] = [];
  readonly is: Carelessness;
  onRequest: (line: string) => void = () => undefined;
  close: () => Promise<void> = () => Promise.resolve();
  readonly #uploads = new Map<string, Map<number, Buffer>>();
  #puts = 0;

  constructor(is: Carelessness) {
    this.is = is;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  put(key: string, bytes: Buffer): string {
    this.#puts++;
    const md5 = createHash('md5').update(bytes).digest('hex');
    const etag = this.is.md5 ? md5 : `etag-${this.#puts}-${md5.slice(0, 8)}`;
    const stored = Buffer.from(bytes);
    if (this.is.corrupts && stored.length > 0) stored[0] = (stored[0] as number) ^ 1;
    this.objects.set(key, { bytes: stored, etag });
    return etag;
  }

  async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk);
    const url = new URL(request.url ?? '/', this.url);
    const key = decodeURIComponent(url.pathname.split('/').slice(2).join('/'));
    const method = request.method ?? '';
    const line = `${method} ${key}`;
    this.requests.push({ line, headers: Object.keys(request.headers) });
    this.onRequest(line);
    if (this.is.isAway) {
      response.writeHead(404, { 'content-type': 'text/plain' }).end('404 page not found\n');
      return;
    }
    const refusal = this.is.refuses.find(
      ({ header, methods }) =>
        methods?.includes(method) !== false &&
        Object.keys(request.headers).some((name) => header.test(name)),
    );
    if (refusal !== undefined) return fail(response, refusal.status, refusal.code);
    const body = Buffer.concat(chunks);
    const query = url.searchParams;
    if (key === '') return this.#list(query.get('prefix') ?? '', response);
    if (query.has('uploads')) return this.#begin(response);
    const upload = query.get('uploadId');
    if (upload !== null) return this.#part({ method, key, upload, query, body }, response);
    const found = this.objects.get(key);
    if (!this.#holds(request, found?.etag)) return fail(response, 412, 'PreconditionFailed');
    if (method === 'PUT') {
      response.writeHead(200, { etag: `"${this.put(key, body)}"` }).end();
    } else if (method === 'DELETE') {
      this.objects.delete(key);
      response.writeHead(204).end();
    } else if (found === undefined) fail(response, 404, 'NoSuchKey');
    else this.#give(request, response, found);
  }

  #holds({ headers }: IncomingMessage, etag: string | undefined): boolean {
    if (this.is.ignores === 'conditions') return true;
    const match = headers['if-match'];
    if (match !== undefined && match !== `"${etag}"`) return false;
    return headers['if-none-match'] === undefined || etag === undefined;
  }

  #give(
    { method, headers }: IncomingMessage,
    response: ServerResponse,
    { bytes, etag }: { readonly bytes: Buffer; readonly etag: string },
  ): void {
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? [];
    const common = { etag: `"${etag}"`, 'last-modified': new Date(0).toUTCString() };
    if (first === undefined || last === undefined || this.is.ignores === 'ranges') {
      const all: Record<string, string | number> = { ...common, 'content-length': bytes.length };
      if (method === 'HEAD') delete all[this.is.hides];
      response.writeHead(200, all);
      response.end(method === 'HEAD' ? undefined : bytes);
      return;
    }
    if (Number(first) >= bytes.length) return fail(response, 416, 'InvalidRange');
    const part = bytes.subarray(Number(first), Number(last) + 1);
    const range = `bytes ${first}-${Number(first) + part.length - 1}/${bytes.length}`;
    const head = { ...common, 'content-length': part.length, 'content-range': range };
    response.writeHead(206, head).end(method === 'HEAD' ? undefined : part);
  }

  #begin(response: ServerResponse): void {
    const id = `upload-${this.#uploads.size + 1}`;
    this.#uploads.set(id, new Map());
    const named = this.is.losesUploads ? '' : `<UploadId>${id}</UploadId>`;
    xml(response, `<InitiateMultipartUploadResult>${named}</InitiateMultipartUploadResult>`);
  }

  #part(
    asked: {
      readonly method: string;
      readonly key: string;
      readonly upload: string;
      readonly query: URLSearchParams;
      readonly body: Buffer;
    },
    response: ServerResponse,
  ): void {
    const parts = this.#uploads.get(asked.upload);
    if (parts === undefined) fail(response, 404, 'NoSuchUpload');
    else if (asked.method === 'PUT') {
      parts.set(Number(asked.query.get('partNumber')), asked.body);
      const etag = createHash('md5').update(asked.body).digest('hex');
      response.writeHead(200, { etag: `"${etag}"` }).end();
    } else {
      this.#uploads.delete(asked.upload);
      if (asked.method === 'DELETE') {
        response.writeHead(204).end();
        return;
      }
      const ordered = [...parts].toSorted(([a], [b]) => a - b).map(([, bytes]) => bytes);
      const etag = `${this.put(asked.key, Buffer.concat(ordered))}`;
      xml(
        response,
        `<CompleteMultipartUploadResult><ETag>"${etag}"</ETag></CompleteMultipartUploadResult>`,
      );
    }
  }

  #listOn(prefix: string, response: ServerResponse): void {
    const { lists } = this.is;
    const count = this.requests.length;
    const names =
      lists === 'strange' ? [`${prefix}//${count}`] : lists === 'empty' ? [] : [`${prefix}x`];
    const rows = names.map(
      (name) =>
        `<Contents><Key>${encodeURIComponent(name)}</Key><ETag>"e"</ETag><Size>1</Size></Contents>`,
    );
    const token = lists === 'again' ? 'same' : `token-${count}`;
    const next = `<NextContinuationToken>${token}</NextContinuationToken>`;
    xml(
      response,
      `<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>${lists === 'untold' ? '' : next}${rows.join('')}</ListBucketResult>`,
    );
  }

  #list(prefix: string, response: ServerResponse): void {
    if (this.is.lists !== 'one') return this.#listOn(prefix, response);
    const rows = [...this.objects]
      .filter(([key]) => key.startsWith(prefix))
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, { bytes, etag }]) => {
        const name = `<Key>${encodeURIComponent(key)}</Key><ETag>"${etag}"</ETag>`;
        return `<Contents>${name}<Size>${bytes.length}</Size><LastModified>1970-01-01T00:00:00.000Z</LastModified></Contents>`;
      });
    xml(
      response,
      `<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>${rows.join('')}</ListBucketResult>`,
    );
  }
}

function xml(response: ServerResponse, body: string): void {
  response.writeHead(200, { 'content-type': 'application/xml' });
  response.end(`<?xml version="1.0"?>${body}`);
}

function fail(response: ServerResponse, status: number, code: string): void {
  response.writeHead(status, { 'content-type': 'application/xml' });
  response.end(
    `<?xml version="1.0"?><Error><Code>${code}</Code><Message>${code}</Message></Error>`,
  );
}
