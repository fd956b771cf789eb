/**
 * The fields of a multipart/form-data body up to its file, whose bytes stay in the request (RFC 7578; Amazon S3 API
 * Reference, "POST Object"). The file must be the last field: what follows it is not looked at.
 *
 *   --boundary CRLF  Content-Disposition: form-data; name="key" CRLF CRLF  value CRLF
 *   --boundary CRLF  Content-Disposition: form-data; name="file"; filename="a.txt" CRLF …  CRLF  bytes CRLF
 *   --boundary--
 *
 * I1  At most FIELDS_BYTES_MAX are held. The file's bytes are handed on as they come, never gathered.
 */
import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { GATHERED_BODY_MS_MAX } from '../../limits.ts';
import { S3Error } from '../s3-error.ts';

/** As S3 has it: all that is not the file. */
const FIELDS_BYTES_MAX = 20 * 1024;
const HEAD_END = Buffer.from('\r\n\r\n');

export interface FormFields {
  /** By name in lower case. */
  readonly fields: ReadonlyMap<string, string>;
  /** As the browser calls it, without directories. */
  readonly fileName: string;
  readonly fileType: string | undefined;
  /** Bytes of the request before the file's. */
  readonly consumedBytes: number;
}

/** @throws {S3Error} `MalformedPOSTRequest` */
export function formBoundary(contentType: string | undefined): string {
  const match = /;\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)/i.exec(
    contentType ?? '',
  );
  const boundary = match?.[1] ?? match?.[2];
  if (boundary === undefined) throw new S3Error('MalformedPOSTRequest');
  return boundary;
}

/**
 * Afterwards the request gives the file's bytes, and the boundary behind them.
 * @throws {S3Error} `MalformedPOSTRequest`, `MaxPostPreDataLengthExceeded`, `IncorrectNumberOfFilesInPostRequest`
 */
export async function readFormFields(
  request: IncomingMessage,
  boundary: string,
): Promise<FormFields> {
  let bytes: Buffer = Buffer.alloc(0);
  const deadlineMs = performance.now() + GATHERED_BODY_MS_MAX;
  for (;;) {
    const parsed = parseFields(bytes, boundary);
    if (parsed !== undefined) {
      request.unshift(bytes.subarray(parsed.consumedBytes));
      return parsed;
    }
    if (bytes.length > FIELDS_BYTES_MAX) throw new S3Error('MaxPostPreDataLengthExceeded');
    const more = await readMore(request, deadlineMs);
    if (more === undefined) throw new S3Error('MalformedPOSTRequest');
    bytes = Buffer.concat([bytes, more]);
  }
}

/** Undefined at the end of the request, or when the client went away. @throws {S3Error} `RequestTimeout` */
async function readMore(request: IncomingMessage, deadlineMs: number): Promise<Buffer | undefined> {
  for (;;) {
    const chunk = request.read() as Buffer | null;
    if (chunk !== null) return chunk;
    if (request.readableEnded || request.destroyed) return undefined;
    const leftMs = deadlineMs - performance.now();
    if (leftMs <= 0) throw new S3Error('RequestTimeout');
    await new Promise<void>((resolve) => {
      const events = ['readable', 'end', 'close', 'error'] as const;
      const timer = setTimeout(() => done(), leftMs);
      const done = (): void => {
        clearTimeout(timer);
        for (const event of events) request.removeListener(event, done);
        resolve();
      };
      for (const event of events) request.on(event, done);
    });
  }
}

/** Undefined: the file has not begun yet. */
function parseFields(bytes: Buffer, boundary: string): FormFields | undefined {
  const opening = Buffer.from(`--${boundary}`);
  const closing = Buffer.from(`\r\n--${boundary}`);
  const fields = new Map<string, string>();
  const begin = bytes.indexOf(opening);
  if (begin === -1) return undefined;
  for (let at = begin + opening.length; ; ) {
    const mark = bytes.toString('latin1', at, at + 2);
    if (mark === '--') throw new S3Error('IncorrectNumberOfFilesInPostRequest');
    if (mark.length === 2 && mark !== '\r\n') throw new S3Error('MalformedPOSTRequest');
    const headEnd = bytes.indexOf(HEAD_END, at);
    if (headEnd === -1) return undefined;
    const head = parseHead(utf8Of(bytes, at + 2, headEnd));
    const valueAt = headEnd + HEAD_END.length;
    if (valueAt > FIELDS_BYTES_MAX) throw new S3Error('MaxPostPreDataLengthExceeded');
    if (head.name === 'file')
      return {
        ...{ fields, fileType: head.type, consumedBytes: valueAt },
        fileName: head.fileName.slice(Math.max(...lastSlashes(head.fileName)) + 1),
      };
    const valueEnd = bytes.indexOf(closing, valueAt);
    if (valueEnd === -1) return undefined;
    if (!fields.has(head.name)) fields.set(head.name, utf8Of(bytes, valueAt, valueEnd));
    at = valueEnd + closing.length;
  }
}

/** A key with bytes that are no UTF-8 must not become another one. @throws {S3Error} `MalformedPOSTRequest` */
function utf8Of(bytes: Buffer, start: number, end: number): string {
  const text = bytes.subarray(start, end);
  if (!isUtf8(text)) throw new S3Error('MalformedPOSTRequest', 'A field of the form is no UTF-8.');
  return text.toString('utf8');
}

function lastSlashes(name: string): readonly [number, number] {
  return [name.lastIndexOf('/'), name.lastIndexOf('\\')];
}

function parseHead(text: string): {
  readonly name: string;
  readonly fileName: string;
  readonly type: string | undefined;
} {
  const headers = new Map(
    text.split('\r\n').map((line) => {
      const at = line.indexOf(':');
      return [line.slice(0, at).trim().toLowerCase(), line.slice(at + 1).trim()] as const;
    }),
  );
  const disposition = headers.get('content-disposition') ?? '';
  const name = parameterOf(disposition, 'name');
  if (!/^form-data\b/i.test(disposition) || name === undefined)
    throw new S3Error('MalformedPOSTRequest');
  return {
    name: name.toLowerCase(),
    fileName: parameterOf(disposition, 'filename') ?? '',
    type: headers.get('content-type'),
  };
}

/** Quotes in names come as `\"` from curl and as `%22` from browsers. */
function parameterOf(disposition: string, name: string): string | undefined {
  const match = new RegExp(`;\\s*${name}=(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s;]+))`, 'i').exec(
    disposition,
  );
  const quoted = match?.[1];
  return quoted === undefined ? match?.[2] : quoted.replaceAll('\\"', '"').replaceAll('%22', '"');
}

/** Finds the end of the file in what comes after its head. */
export class FormFileDecoder {
  readonly #closing: Buffer;
  /** The end of what came, when it may be the beginning of the boundary: shorter than it. */
  #held: Buffer = Buffer.alloc(0);
  #isDone = false;

  constructor(boundary: string) {
    this.#closing = Buffer.from(`\r\n--${boundary}`);
  }

  push(arrived: Buffer, emit: (data: Buffer) => void): void {
    if (this.#isDone) return;
    const bytes = this.#held.length === 0 ? arrived : Buffer.concat([this.#held, arrived]);
    const at = bytes.indexOf(this.#closing);
    this.#isDone = at !== -1;
    const end = this.#isDone ? at : bytes.length - this.#beginningAtEnd(bytes);
    // The caller's buffer is used again.
    this.#held = this.#isDone ? Buffer.alloc(0) : Buffer.from(bytes.subarray(end));
    if (end > 0) emit(bytes.subarray(0, end));
  }

  /** How many bytes at the end of `bytes` are the beginning of the boundary. */
  #beginningAtEnd(bytes: Buffer): number {
    const from = Math.max(0, bytes.length - this.#closing.length + 1);
    for (let at = bytes.indexOf(0x0d, from); at !== -1; at = bytes.indexOf(0x0d, at + 1)) {
      const length = bytes.length - at;
      if (bytes.compare(this.#closing, 0, length, at) === 0) return length;
    }
    return 0;
  }

  /** @throws {S3Error} `MalformedPOSTRequest` when the file did not end */
  end(): void {
    if (!this.#isDone) throw new S3Error('MalformedPOSTRequest');
  }
}
