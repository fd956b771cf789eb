/**
 * Takes a request's body and hands it on in order, with its length and CRC32C. Little of it waits in the chunks in which it
 * arrived; more goes into pooled pieces.
 *
 * I1  At most one write is under way, and one more piece is being filled; when both are full the request is paused.
 * I2  When the promise settles, no write is under way any more and every piece is back in the pool.
 * I3  A sender who stops holds nothing: a piece is asked for only when there is something to fill it with, and what has
 *     come is written out a moment later (`flushMs`), however little it is.
 * I4  The checksum of a piece is computed beside its write, by a worker (core's checksum-thread.ts): a large body takes little of
 *     the main thread. What is not in a piece is summed up at once.
 * I5  A body that ends too early (the client went away) rejects with `aborted`; one that comes too slowly with `timed_out`.
 */
import type { IncomingMessage } from 'node:http';
import { type BlockCollector, type BodySums, createBodySums } from '@ebb/core';
import { StoreError } from '@ebb/protocol';
import {
  BODY_FLUSH_MS,
  BODY_SILENCE_MS,
  BODY_WINDOW_BYTES_MIN,
  BODY_WINDOW_MS,
  SMALL_BODY_BYTES,
} from '../../limits.ts';
import type { BufferPool } from '../buffer-pool.ts';
import { cutAfter } from '../cut-after.ts';
import { freeNow } from '../free-now.ts';
import { giveSmallBuffer, takeSmallBuffer } from '../small-buffers.ts';

export interface ReceivedBody {
  readonly sizeBytes: number;
  readonly crc32c: number;
  /** The sum of each block, where the pieces began and ended with blocks. */
  readonly blocks: BlockCollector | undefined;
}
type WriteOut = (bytes: Buffer, position: number) => Promise<void>;

export interface ReceiveOptions {
  /** Takes a framing off: called with what arrives, hands on data as views of it, and keeps none of it. */
  readonly unframe?: (arrived: Buffer, emit: (data: Buffer) => void) => void;
  /** See every byte of the data, in order. */
  readonly digests?: readonly { update(bytes: Uint8Array): void }[];
  /** Default: those that are computed at once. */
  readonly sums?: BodySums;
  /** Bytes that arrive, framing included; undefined: not announced. */
  readonly arrivingBytes?: number | undefined;
  /** The sender has been silent for a while; no write is under way. Called once for each silence. */
  readonly onSilence?: () => void;
  /** Time that data may wait for more; and in what time how much must come. For tests. */
  readonly times?: BodyTimes;
}

interface BodyTimes {
  readonly flushMs: number;
  readonly silenceMs: number;
  readonly windowMs: number;
  readonly windowBytesMin: number;
}

const TIMES: BodyTimes = {
  flushMs: BODY_FLUSH_MS,
  silenceMs: BODY_SILENCE_MS,
  windowMs: BODY_WINDOW_MS,
  windowBytesMin: BODY_WINDOW_BYTES_MIN,
};
/** Chunks that wait are joined beyond so many: each costs more than its bytes when they are few. */
const HELD_CHUNKS_MAX = 16;

export async function receiveBody(
  request: IncomingMessage,
  pieces: BufferPool,
  writeOut: WriteOut,
  options: ReceiveOptions = {},
): Promise<ReceivedBody> {
  return await new Receiver(request, pieces, { ...options, writeOut }).run();
}

class Receiver {
  readonly #request: IncomingMessage;
  readonly #pieces: BufferPool;
  readonly #options: ReceiveOptions & { readonly writeOut: WriteOut };
  readonly #times: BodyTimes;
  readonly #done = Promise.withResolvers<ReceivedBody>();
  /** Arrived, and not in a piece: up to SMALL_BODY_BYTES while there is none, more while the request is being paused. */
  #held: Buffer[] = [];
  #heldBytes = 0;
  /** Bytes of the first of them that are in a piece already. */
  #taken = 0;
  /** Being filled. */
  #piece: Buffer | undefined;
  #filled = 0;
  #awaitsPiece = false;
  #writing: Promise<void> | undefined;
  #flushTimer: NodeJS.Timeout | undefined;
  /** What is there has waited long enough. */
  #isDue = false;
  #stopWindow: () => void = () => undefined;
  #windowBytes = 0;
  #silenceTimer: NodeJS.Timeout | undefined;
  #arrivedBytes = 0;
  #isPaused = false;
  /** By us, so that its length says nothing of the sender. */
  #windowHadPause = false;
  #position = 0;
  readonly #sums: BodySums;
  #ended = false;
  #settled = false;

  constructor(
    request: IncomingMessage,
    pieces: BufferPool,
    options: ReceiveOptions & { readonly writeOut: WriteOut },
  ) {
    this.#request = request;
    this.#pieces = pieces;
    this.#options = options;
    this.#times = options.times ?? TIMES;
    this.#sums = options.sums ?? createBodySums();
  }

  async run(): Promise<ReceivedBody> {
    this.#request.on('data', this.#onData);
    this.#request.once('end', () => {
      this.#ended = true;
      this.#step();
    });
    onEarlyEnd(this.#request, (error) => this.#fail(error));
    this.#stopWindow = cutAfter(this.#times.windowMs, this.#onWindow);
    this.#armSilence();
    try {
      return await this.#done.promise;
    } finally {
      this.#settled = true;
      this.#stopWindow();
      clearTimeout(this.#flushTimer);
      clearTimeout(this.#silenceTimer);
      this.#request.removeListener('data', this.#onData);
      if (this.#isPaused) this.#request.resume(); // what is left of it is dropped
      await this.#writing?.catch(() => undefined);
      if (this.#piece !== undefined) this.#pieces.give(this.#piece);
    }
  }

  readonly #onData = (arrived: Buffer): void => {
    if (this.#settled) return;
    this.#arrivedBytes += arrived.length;
    this.#windowBytes += arrived.length;
    const { unframe } = this.#options;
    try {
      if (unframe === undefined) this.#hold(arrived);
      else unframe(arrived, this.#hold);
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#fill();
    // Else views of it wait. Without a framing, `fill` has seen to it.
    if (unframe !== undefined && this.#heldBytes === 0) freeNow(arrived);
    this.#step();
  };

  readonly #hold = (data: Buffer): void => {
    this.#held.push(data);
    this.#heldBytes += data.length;
    if (this.#held.length <= HELD_CHUNKS_MAX || this.#heldBytes > SMALL_BODY_BYTES) return;
    const bytes = this.#takeHeld();
    this.#held = [bytes];
    this.#heldBytes = bytes.length;
  };

  /** Decides what happens next; called whenever anything has changed. */
  #step(): void {
    if (this.#settled) return;
    for (;;) {
      this.#fill();
      if (this.#piece !== undefined && this.#filled === this.#piece.length) {
        if (this.#writing !== undefined) break;
        this.#writePiece(this.#piece);
        this.#piece = undefined;
        continue;
      }
      if (this.#piece !== undefined || this.#heldBytes <= SMALL_BODY_BYTES) break;
      if (!this.#takePiece()) break;
    }
    if ((this.#ended || this.#isDue) && this.#writing === undefined) this.#writeRest();
    if (this.#settled) return;
    this.#armFlush();
    this.#armSilence();
    this.#pauseOrResume();
  }

  /** Moves what is held into the piece. */
  #fill(): void {
    const piece = this.#piece;
    if (piece === undefined) return;
    while (this.#heldBytes > 0 && this.#filled < piece.length) {
      const chunk = this.#held[0] as Buffer;
      const bytes = Math.min(piece.length - this.#filled, chunk.length - this.#taken);
      chunk.copy(piece, this.#filled, this.#taken, this.#taken + bytes);
      this.#filled += bytes;
      this.#heldBytes -= bytes;
      this.#taken += bytes;
      if (this.#taken < chunk.length) return;
      this.#taken = 0;
      this.#held.shift();
      if (this.#options.unframe === undefined) freeNow(chunk);
    }
  }

  #takeHeld(into?: Buffer): Buffer {
    const held = this.#held;
    const bytes = this.#heldBytes;
    const first = held[0] as Buffer;
    if (this.#taken > 0) held[0] = first.subarray(this.#taken);
    this.#held = [];
    this.#heldBytes = 0;
    this.#taken = 0;
    if (held.length === 1) return held[0] as Buffer;
    const joined = into ?? Buffer.allocUnsafe(bytes);
    let at = 0;
    for (const chunk of held) {
      at += chunk.copy(joined, at);
      if (this.#options.unframe === undefined) freeNow(chunk);
    }
    return joined;
  }

  /** The second piece only when it is free at once: so transfers never wait for each other in a ring. */
  #takePiece(): boolean {
    if (this.#awaitsPiece) return false;
    if (this.#writing !== undefined) {
      this.#piece = this.#pieces.tryTake();
      return this.#piece !== undefined;
    }
    const taken = this.#pieces.take();
    if (!(taken instanceof Promise)) {
      this.#piece = taken;
      return true;
    }
    this.#awaitsPiece = true;
    void taken.then((piece) => {
      this.#awaitsPiece = false;
      if (this.#settled) this.#pieces.give(piece);
      else {
        this.#piece = piece;
        this.#step();
      }
    });
    return false;
  }

  /** Asked by the sender's pace, or by the end: writes what is there, however little. */
  #writeRest(): void {
    this.#isDue = false;
    const piece = this.#piece;
    if (piece !== undefined) {
      this.#piece = undefined;
      if (this.#filled > 0) this.#writePiece(piece);
      else this.#pieces.give(piece);
    } else if (this.#heldBytes > 0 && !this.#awaitsPiece) {
      const isJoined = this.#held.length > 1 && this.#heldBytes <= SMALL_BODY_BYTES;
      const bytes = this.#takeHeld(isJoined ? takeSmallBuffer(this.#heldBytes) : undefined);
      this.#write(bytes, { isPiece: false }, () => {
        if (isJoined) giveSmallBuffer(bytes);
        else if (this.#options.unframe === undefined) freeNow(bytes);
      });
    }
    if (this.#ended && this.#writing === undefined && this.#heldBytes === 0)
      this.#settle(() =>
        this.#done.resolve({
          sizeBytes: this.#position,
          crc32c: this.#sums.crc32c(),
          blocks: this.#sums.blocks(),
        }),
      );
  }

  #writePiece(piece: Buffer): void {
    const bytes = this.#filled === piece.length ? piece : piece.subarray(0, this.#filled);
    this.#filled = 0;
    this.#write(bytes, { isPiece: true }, () => {
      // For what waits, at once: else it would go to the end of the line.
      const isOfUse = !this.#settled && this.#piece === undefined && !this.#awaitsPiece;
      if (isOfUse && this.#heldBytes > SMALL_BODY_BYTES) this.#piece = piece;
      else this.#pieces.give(piece);
    });
  }

  #write(bytes: Buffer, { isPiece }: { readonly isPiece: boolean }, done: () => void): void {
    for (const digest of this.#options.digests ?? []) digest.update(bytes);
    const position = this.#position;
    this.#position += bytes.length;
    let writing = this.#options.writeOut(bytes, position);
    if (isPiece)
      writing = both(writing, this.#sums.add(bytes)); // I4
    else this.#sums.addNow(bytes);
    this.#writing = writing;
    writing.then(
      () => {
        this.#writing = undefined;
        done();
        this.#step();
      },
      (error: unknown) => {
        this.#writing = undefined;
        this.#fail(error);
        done();
      },
    );
  }

  /** Nothing waits when the whole body is there: its end follows at once. */
  #armFlush(): void {
    const waits = this.#piece !== undefined || this.#heldBytes > 0;
    if (!waits || this.#ended || this.#arrivedBytes === this.#options.arrivingBytes) return;
    if (this.#isDue) return;
    this.#flushTimer ??= setTimeout(() => {
      this.#flushTimer = undefined;
      this.#isDue = true;
      try {
        this.#step();
      } catch (error) {
        this.#fail(error);
      }
    }, this.#times.flushMs);
  }

  /** From when all that came is written, until more comes. */
  #armSilence(): void {
    const { onSilence } = this.#options;
    const isIdle =
      this.#piece === undefined && this.#heldBytes === 0 && this.#writing === undefined;
    if (!isIdle || this.#ended || onSilence === undefined) {
      clearTimeout(this.#silenceTimer);
      this.#silenceTimer = undefined;
      return;
    }
    this.#silenceTimer ??= setTimeout(() => {
      try {
        onSilence();
      } catch (error) {
        // What is sent may be wanted no more, as when its upload was aborted.
        this.#fail(error);
      }
    }, this.#times.silenceMs);
  }

  #pauseOrResume(): void {
    const isFull = this.#heldBytes > SMALL_BODY_BYTES;
    if (isFull === this.#isPaused) return;
    this.#isPaused = isFull;
    if (isFull) {
      this.#windowHadPause = true;
      this.#request.pause();
    } else this.#request.resume();
  }

  readonly #onWindow = (): void => {
    const { windowMs, windowBytesMin } = this.#times;
    if (!this.#windowHadPause && !this.#ended && this.#windowBytes < windowBytesMin) {
      this.#fail(
        new StoreError(
          'timed_out',
          `${this.#windowBytes} bytes of the body came in ${windowMs} ms, at least ${windowBytesMin} must`,
          { receivedBytes: this.#windowBytes, windowMs },
        ),
      );
      return;
    }
    this.#windowHadPause = this.#isPaused;
    this.#windowBytes = 0;
    this.#stopWindow = cutAfter(windowMs, this.#onWindow);
  };

  #fail(error: unknown): void {
    this.#settle(() => this.#done.reject(error));
  }

  #settle(how: () => void): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#held = [];
    how();
  }
}

/** Settles when both have, since the piece goes back to the pool then. */
async function both(writing: Promise<void>, summing: Promise<void>): Promise<void> {
  for (const result of await Promise.allSettled([writing, summing]))
    if (result.status === 'rejected') throw result.reason;
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
