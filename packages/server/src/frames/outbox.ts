/**
 * Frames on their way out of one connection. Those of one turn of the event loop leave in one system call; small payloads
 * are copied next to each other, large ones go as they are.
 */
import type { Socket } from 'node:net';
import { FRAME_HEADER_BYTES } from '@ebb/protocol';
import { FRAME_BATCH_BYTES, FRAME_JOINED_BYTES } from '../limits.ts';

export class Outbox {
  readonly #socket: Socket;
  /** Appended to until it is full, then a new one: what is on its way out is never written over. */
  #batch = Buffer.alloc(0);
  #sealedAt = 0;
  #at = 0;
  #ready: Buffer[] = [];
  #scheduled = false;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  get unsentBytes(): number {
    return this.#socket.writableLength;
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
      this.#ready.push(payload);
    }
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.flush);
  }

  readonly flush = (): void => {
    this.#scheduled = false;
    this.#seal();
    const ready = this.#ready;
    if (ready.length === 0) return;
    this.#ready = [];
    if (!this.#socket.writable) return;
    if (ready.length === 1) {
      this.#socket.write(ready[0] as Buffer);
      return;
    }
    this.#socket.cork();
    for (const chunk of ready) this.#socket.write(chunk);
    this.#socket.uncork();
  };

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
    if (this.#at > this.#sealedAt) this.#ready.push(this.#batch.subarray(this.#sealedAt, this.#at));
    this.#sealedAt = this.#at;
  }
}
