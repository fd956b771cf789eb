/**
 * Takes a request's body and hands it on in order, in pooled pieces, with its length and CRC32C.
 *
 * I1  At most one write is under way, and one more piece is being filled; when both are full the request is paused.
 * I2  When the promise settles, no write is under way any more and every piece is back in the pool.
 * I3  A body that ends too early (the client went away) rejects with `aborted`.
 */
import type { IncomingMessage } from 'node:http';
import { crc32c } from '@ebb/core';
import { StoreError } from '@ebb/protocol';
import type { BufferPool } from '../buffer-pool.ts';
import { freeNow } from '../free-now.ts';

export interface ReceivedBody {
  readonly sizeBytes: number;
  readonly crc32c: number;
}
type WriteOut = (bytes: Buffer, position: number) => Promise<void>;

export interface ReceiveOptions {
  /** Takes a framing off: called with what arrives, hands on data as views of it, and keeps none of it. */
  readonly unframe?: (arrived: Buffer, emit: (data: Buffer) => void) => void;
  /** See every byte of the data, in order. */
  readonly digests?: readonly { update(bytes: Uint8Array): void }[];
}

/** A body of `arrivingBytes` that fits one small buffer: gathered, written once. */
export async function receiveSmallBody(
  request: IncomingMessage,
  arrivingBytes: number,
  writeOut: WriteOut,
  { unframe, digests = [] }: ReceiveOptions = {},
): Promise<ReceivedBody> {
  const arrived = await gather(request, arrivingBytes);
  const body = unframe === undefined ? arrived : unframeAll(arrived, unframe);
  for (const digest of digests) digest.update(body);
  if (body.length > 0) await writeOut(body, 0);
  const received = { sizeBytes: body.length, crc32c: body.length === 0 ? 0 : crc32c(body) };
  freeNow(body);
  return received;
}

function unframeAll(arrived: Buffer, unframe: NonNullable<ReceiveOptions['unframe']>): Buffer {
  const parts: Buffer[] = [];
  unframe(arrived, (data) => parts.push(data));
  return parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts);
}

function gather(request: IncomingMessage, sizeBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.once('end', () =>
      resolve(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, sizeBytes)),
    );
    onEarlyEnd(request, reject);
  });
}

export async function receiveBody(
  request: IncomingMessage,
  pieces: BufferPool,
  writeOut: WriteOut,
  options: ReceiveOptions = {},
): Promise<ReceivedBody> {
  const first = await pieces.take();
  return await new Receiver(request, pieces, { ...options, writeOut }).run(first);
}

class Receiver {
  readonly #request: IncomingMessage;
  readonly #pieces: BufferPool;
  readonly #options: ReceiveOptions & { readonly writeOut: WriteOut };
  readonly #done = Promise.withResolvers<ReceivedBody>();
  /** Being filled. */
  #piece: Buffer | undefined;
  #filled = 0;
  /** Full, and waiting for the write under way. */
  #queued: Buffer | undefined;
  #writing: Promise<void> | undefined;
  /** Arrived while there was no piece to put it in. */
  #backlog: Buffer[] = [];
  #position = 0;
  #crc = 0;
  #ended = false;
  #failed = false;

  constructor(
    request: IncomingMessage,
    pieces: BufferPool,
    options: ReceiveOptions & { readonly writeOut: WriteOut },
  ) {
    this.#request = request;
    this.#pieces = pieces;
    this.#options = options;
  }

  async run(first: Buffer): Promise<ReceivedBody> {
    this.#piece = first;
    this.#request.on('data', this.#onData);
    this.#request.once('end', () => {
      this.#ended = true;
      this.#finishIfDone();
    });
    onEarlyEnd(this.#request, (error) => this.#fail(error));
    try {
      return await this.#done.promise;
    } finally {
      this.#request.removeListener('data', this.#onData);
      await this.#writing?.catch(() => undefined);
      for (const piece of [this.#piece, this.#queued])
        if (piece !== undefined) this.#pieces.give(piece);
    }
  }

  readonly #onData = (arrived: Buffer): void => {
    if (this.#failed) return;
    const { unframe } = this.#options;
    if (unframe === undefined) {
      this.#accept(arrived);
      return;
    }
    try {
      unframe(arrived, this.#accept);
    } catch (error) {
      this.#fail(error);
      return;
    }
    // Else views of it wait.
    if (this.#backlog.length === 0) freeNow(arrived);
  };

  readonly #accept = (data: Buffer): void => {
    if (this.#backlog.length > 0) this.#backlog.push(data);
    else this.#take(data);
  };

  #take(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      const piece = this.#piece;
      if (piece === undefined) {
        this.#backlog.push(at === 0 ? chunk : chunk.subarray(at));
        this.#request.pause();
        return;
      }
      const bytes = Math.min(piece.length - this.#filled, chunk.length - at);
      chunk.copy(piece, this.#filled, at, at + bytes);
      this.#filled += bytes;
      at += bytes;
      if (this.#filled === piece.length) this.#pieceIsFull(piece);
    }
    freeNow(chunk);
  }

  #pieceIsFull(piece: Buffer): void {
    this.#filled = 0;
    if (this.#writing !== undefined) {
      this.#queued = piece;
      this.#piece = undefined;
      return;
    }
    this.#piece = this.#pieces.tryTake();
    this.#write(piece, piece);
  }

  #write(bytes: Buffer, piece: Buffer): void {
    this.#crc = crc32c(bytes, this.#crc);
    for (const digest of this.#options.digests ?? []) digest.update(bytes);
    const position = this.#position;
    this.#position += bytes.length;
    const writing = this.#options.writeOut(bytes, position);
    this.#writing = writing;
    writing.then(
      () => {
        this.#writing = undefined;
        this.#written(piece);
      },
      (error: unknown) => {
        this.#writing = undefined;
        this.#pieces.give(piece);
        this.#fail(error);
      },
    );
  }

  #written(piece: Buffer): void {
    if (this.#piece === undefined && !this.#failed) this.#piece = piece;
    else this.#pieces.give(piece);
    if (this.#failed) return;
    const queued = this.#queued;
    if (queued !== undefined) {
      this.#queued = undefined;
      this.#write(queued, queued);
    }
    const backlog = this.#backlog;
    this.#backlog = [];
    for (const data of backlog) this.#accept(data);
    if (this.#backlog.length === 0) this.#request.resume();
    this.#finishIfDone();
  }

  #finishIfDone(): void {
    if (!this.#ended || this.#failed || this.#writing !== undefined || this.#backlog.length > 0)
      return;
    const piece = this.#piece;
    if (this.#filled > 0 && piece !== undefined) {
      const bytes = piece.subarray(0, this.#filled);
      this.#filled = 0;
      this.#piece = undefined;
      this.#write(bytes, piece);
      return;
    }
    this.#done.resolve({ sizeBytes: this.#position, crc32c: this.#crc });
  }

  #fail(error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    this.#backlog = [];
    this.#done.reject(error);
  }
}

function onEarlyEnd(request: IncomingMessage, reject: (error: StoreError) => void): void {
  const gone = (cause?: Error): void => {
    if (!request.complete)
      reject(
        new StoreError('aborted', 'the client went away in the middle of the body', {}, cause),
      );
  };
  if (request.destroyed) {
    gone();
    return;
  }
  request.once('error', gone);
  request.once('close', () => gone());
}
