/**
 * Takes aws-chunked framing off a body and checks what is signed in it (Amazon S3 API Reference, "Signature Calculations
 * for the Authorization Header: Transferring Payload in Multiple Chunks", with and without trailing headers).
 *
 *   hex-size [;chunk-signature=…] CRLF  data CRLF  …  0 [;chunk-signature=…] CRLF
 *   [name:value CRLF …  [x-amz-trailer-signature:… CRLF]]  CRLF
 *
 * I1  Data is handed on as it comes, before its chunk's signature can be checked: nothing may become visible before `end`.
 * I2  Every bound is small: a size line, the trailer. A body that breaks one is refused, never buffered.
 */
import { createHash, type Hash } from 'node:crypto';
import { S3Error } from '../s3-error.ts';
import { sha256Hex } from './canonical.ts';
import { equalHex, hmacHex, type SignatureSeed } from './sigv4.ts';

const LINE_BYTES_MAX = 1024;
const TRAILER_BYTES_MAX = 8 * 1024;
const EMPTY_SHA256 = sha256Hex('');
const CR = 0x0d;
const LF = 0x0a;

export interface AwsChunkedOptions {
  /** Chunk signatures are checked against this; undefined: framing without signatures, or nobody to check. */
  readonly seed: SignatureSeed | undefined;
  /** Trailing headers may follow. */
  readonly trailer: boolean;
}

type State = 'size' | 'data' | 'data-end' | 'trailer' | 'done';

export class AwsChunkedDecoder {
  readonly #options: AwsChunkedOptions;
  #state: State = 'size';
  #line: Buffer[] = [];
  #lineBytes = 0;
  #left = 0;
  #isLast = false;
  #signature = '';
  #previous: string;
  #hash: Hash | undefined;
  readonly #trailerLines: string[] = [];
  #trailerBytes = 0;

  constructor(options: AwsChunkedOptions) {
    this.#options = options;
    this.#previous = options.seed?.signature ?? '';
  }

  /** Data comes out as views of `bytes`, of which nothing is kept. @throws {S3Error} */
  push(bytes: Buffer, emit: (data: Buffer) => void): void {
    for (let at = 0; at < bytes.length; ) {
      at = this.#state === 'data' ? this.#takeData(bytes, at, emit) : this.#takeLine(bytes, at);
    }
  }

  /** Names in lower case. @throws {S3Error} `IncompleteBody`, `MalformedTrailerError`, `SignatureDoesNotMatch` */
  end(): ReadonlyMap<string, string> {
    // Some clients leave out the empty line after the last chunk when no trailer follows.
    const mayEndHere =
      this.#state === 'trailer' && this.#trailerLines.length === 0 && !this.#options.trailer;
    if (this.#state !== 'done' && !mayEndHere) throw new S3Error('IncompleteBody');
    return this.#trailers();
  }

  #takeData(bytes: Buffer, at: number, emit: (data: Buffer) => void): number {
    const end = Math.min(bytes.length, at + this.#left);
    const data = bytes.subarray(at, end);
    this.#hash?.update(data);
    this.#left -= data.length;
    emit(data);
    if (this.#left === 0) this.#state = 'data-end';
    return end;
  }

  #takeLine(bytes: Buffer, at: number): number {
    if (this.#state === 'done') throw malformed('there is more after the end of the body');
    const lf = bytes.indexOf(LF, at);
    const end = lf === -1 ? bytes.length : lf + 1;
    this.#lineBytes += end - at;
    if (this.#lineBytes > LINE_BYTES_MAX) throw malformed('a line is too long');
    this.#line.push(bytes.subarray(at, end));
    if (lf === -1) {
      // The caller's buffer is used again; what is left of a line is small.
      this.#line = [Buffer.from(Buffer.concat(this.#line))];
      return end;
    }
    const line = this.#line.length === 1 ? (this.#line[0] as Buffer) : Buffer.concat(this.#line);
    this.#line = [];
    this.#lineBytes = 0;
    const hasCr = line[line.length - 2] === CR;
    // AWS's own example of a signed trailer ends its headers with LF alone.
    if (!hasCr && this.#state !== 'trailer') throw malformed('a line does not end with CRLF');
    this.#onLine(line.toString('latin1', 0, line.length - (hasCr ? 2 : 1)));
    return end;
  }

  #onLine(line: string): void {
    if (this.#state === 'data-end') {
      if (line !== '') throw malformed('data is longer than its chunk');
      this.#finishChunk();
      this.#state = 'size';
    } else if (this.#state === 'size') this.#onSize(line);
    else this.#onTrailerLine(line);
  }

  #onSize(line: string): void {
    const match = /^([0-9a-fA-F]{1,13})(?:;chunk-signature=([0-9a-f]{64}))?$/.exec(line);
    if (match === null) throw malformed('a chunk has no readable size');
    const signature = match[2];
    if (this.#options.seed !== undefined && signature === undefined)
      throw new S3Error('SignatureDoesNotMatch', 'A chunk of the body is not signed.');
    this.#left = Number.parseInt(match[1] as string, 16);
    this.#signature = signature ?? '';
    this.#hash = this.#options.seed === undefined ? undefined : createHash('sha256');
    this.#isLast = this.#left === 0;
    if (this.#isLast) {
      this.#finishChunk();
      this.#state = 'trailer';
    } else this.#state = 'data';
  }

  #finishChunk(): void {
    const { seed } = this.#options;
    if (seed === undefined) return;
    const sha256 = this.#isLast ? EMPTY_SHA256 : (this.#hash as Hash).digest('hex');
    const toSign = `AWS4-HMAC-SHA256-PAYLOAD\n${seed.amzDate}\n${seed.scope}\n${this.#previous}\n${EMPTY_SHA256}\n${sha256}`;
    if (!equalHex(hmacHex(seed.signingKey, toSign), this.#signature))
      throw new S3Error('SignatureDoesNotMatch', 'The signature of a chunk of the body is wrong.');
    this.#previous = this.#signature;
  }

  #onTrailerLine(line: string): void {
    this.#trailerBytes += line.length;
    if (this.#trailerBytes > TRAILER_BYTES_MAX) throw malformed('the trailer is too long');
    if (line !== '') this.#trailerLines.push(line);
    else if (!this.#awaitsTrailerSignature()) this.#state = 'done';
  }

  /** It may stand behind an empty line. */
  #awaitsTrailerSignature(): boolean {
    const { seed, trailer } = this.#options;
    if (seed === undefined || !trailer) return false;
    return !this.#trailerLines.some((line) => /^x-amz-trailer-signature:/i.test(line));
  }

  #trailers(): ReadonlyMap<string, string> {
    const { seed, trailer } = this.#options;
    const headers = new Map<string, string>();
    for (const line of this.#trailerLines) {
      const at = line.indexOf(':');
      if (at <= 0 || !trailer) throw malformed('a trailing header is not "name:value"');
      headers.set(line.slice(0, at).trim().toLowerCase(), line.slice(at + 1).trim());
    }
    const signature = headers.get('x-amz-trailer-signature');
    headers.delete('x-amz-trailer-signature');
    if (seed === undefined || !trailer) return headers;
    const canonical = [...headers]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, value]) => `${name}:${value}\n`)
      .join('');
    const toSign = `AWS4-HMAC-SHA256-TRAILER\n${seed.amzDate}\n${seed.scope}\n${this.#previous}\n${sha256Hex(canonical)}`;
    if (signature === undefined || !equalHex(hmacHex(seed.signingKey, toSign), signature))
      throw new S3Error('SignatureDoesNotMatch', 'The signature of the trailing headers is wrong.');
    return headers;
  }
}

function malformed(what: string): S3Error {
  return new S3Error('MalformedTrailerError', `The aws-chunked body is malformed: ${what}.`);
}
