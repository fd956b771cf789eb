/**
 * Frames on their way out of one connection. Those of one turn of the event loop leave in one system call; small payloads
 * are copied next to each other, large ones go as they are.
 *
 * I1  An answer that is sent in parts has the socket to itself from its header to its end: what is added meanwhile waits.
 */
import type { Socket } from 'node:net';
import { FRAME_HEADER_BYTES, StoreError } from '@ebb/protocol';
import { cutAfter } from '../http/cut-after.ts';
import { BODY_WINDOW_MS, FRAME_BATCH_BYTES, FRAME_JOINED_BYTES } from '../limits.ts';

interface FrameHead {
  readonly requestId: number;
  readonly op: number;
  readonly payloadBytes: number;
}

export interface OutboxTurn {
  readonly ready: Promise<void>;
  begin(head: FrameHead, prefix: Buffer): void;
  write(bytes: Buffer): Promise<void>;
  end(): void;
}

export class Outbox {
  readonly #socket: Socket;
  readonly #onMoved: () => void;
  /** Appended to until it is full, then a new one: what is on its way out is never written over. */
  #batch = Buffer.alloc(0);
  #sealedAt = 0;
  #at = 0;
  #ready: Buffer[] = [];
  #readyBytes = 0;
  #scheduled = false;
  /** The last answer in parts that has a turn. */
  #turns: Promise<void> = Promise.resolve();
  #isInParts = false;

  /** @param onMoved The socket took something. */
  constructor(socket: Socket, onMoved: () => void) {
    this.#socket = socket;
    this.#onMoved = onMoved;
  }

  /** Without those of an answer in parts, whose memory is counted where it is from. */
  get unsentBytes(): number {
    const waiting = this.#readyBytes + this.#at - this.#sealedAt;
    return this.#isInParts ? waiting : waiting + this.#socket.writableLength;
  }

  add(requestId: number, op: number, flags: number, payload: Buffer): void {
    const isJoined = payload.length <= FRAME_JOINED_BYTES;
    const batch = this.#room(FRAME_HEADER_BYTES + (isJoined ? payload.length : 0));
    let at = this.#at;
    at = batch.writeUInt32LE(payload.length, at);
    at = batch.writeUInt32LE(requestId, at);
    at = batch.writeUInt16LE(op, at);
    at = batch.writeUInt16LE(flags, at);
    if (isJoined) {
      if (payload.length > 0) at += payload.copy(batch, at);
      this.#at = at;
    } else {
      this.#at = at;
      this.#seal();
      this.#push(payload);
    }
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.flush);
  }

  readonly flush = (): void => {
    this.#scheduled = false;
    this.#seal();
    if (this.#isInParts || this.#ready.length === 0) return;
    const ready = this.#ready;
    this.#ready = [];
    this.#readyBytes = 0;
    if (!this.#socket.writable) return;
    this.#socket.cork();
    for (const [i, chunk] of ready.entries()) {
      if (i < ready.length - 1) this.#socket.write(chunk);
      else this.#socket.write(chunk, this.#onMoved);
    }
    this.#socket.uncork();
  };

  /** A turn for an answer in parts. Every turn that is taken is ended, also when nothing was sent. */
  takeTurn(): OutboxTurn {
    const before = this.#turns;
    const done = Promise.withResolvers<void>();
    this.#turns = done.promise;
    return {
      ready: before,
      begin: ({ requestId, op, payloadBytes }, prefix) => {
        this.flush();
        this.#isInParts = true;
        const head = Buffer.alloc(FRAME_HEADER_BYTES + prefix.length);
        head.writeUInt32LE(payloadBytes, 0);
        head.writeUInt32LE(requestId, 4);
        head.writeUInt16LE(op, 8);
        prefix.copy(head, FRAME_HEADER_BYTES);
        if (this.#socket.writable) this.#socket.write(head);
      },
      write: (bytes) => this.#write(bytes),
      end: () => {
        this.#isInParts = false;
        this.flush();
        done.resolve();
      },
    };
  }

  /** Resolves when the socket has taken the bytes. A peer who takes nothing of them for long is cut. */
  #write(bytes: Buffer): Promise<void> {
    const socket = this.#socket;
    return new Promise((resolve, reject) => {
      const onClose = (): void => {
        stop();
        reject(new StoreError('aborted', 'the client went away'));
      };
      const stop = cutAfter(BODY_WINDOW_MS, () => socket.destroy());
      if (!socket.writable) {
        onClose();
        return;
      }
      socket.once('close', onClose);
      socket.write(bytes, (error) => {
        socket.removeListener('close', onClose);
        if (error) {
          onClose();
          return;
        }
        stop();
        this.#onMoved();
        resolve();
      });
    });
  }

  #room(bytes: number): Buffer {
    if (this.#at + bytes > this.#batch.length) {
      this.#seal();
      this.#batch = Buffer.allocUnsafeSlow(FRAME_BATCH_BYTES);
      this.#sealedAt = 0;
      this.#at = 0;
    }
    return this.#batch;
  }

  #seal(): void {
    if (this.#at > this.#sealedAt) this.#push(this.#batch.subarray(this.#sealedAt, this.#at));
    this.#sealedAt = this.#at;
  }

  #push(bytes: Buffer): void {
    this.#ready.push(bytes);
    this.#readyBytes += bytes.length;
  }
}
