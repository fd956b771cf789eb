/**
 * Frames: the protocol for calls that are too frequent for HTTP (stage, commit, shuffle tables, batched ranges).
 *
 * A client sends an HTTP/1.1 `Upgrade: ebb-frames/1` on `/v1/frames` (Unix socket or TCP); after the `101` both
 * sides speak frames on that connection. Every request gets exactly one response with its id; responses may come
 * in any order. The server pushes with request id 0. Leases and staged writes belong to the connection.
 *
 *   0        4          8        10       12
 *   | length | request  | op     | flags  | payload (length bytes)
 *   | u32    | u32      | u16    | u16    |
 *
 * All numbers are little-endian. `str` is u16 length + UTF-8; `bytes` is u32 length + raw; u64 values stay below
 * 2^53. Persisted by no one, but spoken by clients of other versions and languages: keep stable (vectors/frames.json).
 */
import { isUtf8 } from 'node:buffer';
import { StoreError } from './errors.ts';

export const FRAME_HEADER_BYTES = 12;
/** Longest payload. Batched reads are cut to fit; a longer frame ends the connection. */
export const FRAME_PAYLOAD_BYTES_MAX = 16 * 1024 * 1024 + 64 * 1024;
export const FRAME_FLAG_ERROR = 1;

export interface FrameHeader {
  readonly payloadBytes: number;
  readonly requestId: number;
  readonly op: number;
  readonly flags: number;
}

export function encodeFrame(
  requestId: number,
  op: number,
  flags: number,
  payload: Uint8Array,
): Buffer {
  const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + payload.byteLength);
  writeFrameHeader(frame, { payloadBytes: payload.byteLength, requestId, op, flags });
  frame.set(payload, FRAME_HEADER_BYTES);
  return frame;
}

export function writeFrameHeader(target: Buffer, header: FrameHeader): void {
  target.writeUInt32LE(header.payloadBytes, 0);
  target.writeUInt32LE(header.requestId, 4);
  target.writeUInt16LE(header.op, 8);
  target.writeUInt16LE(header.flags, 10);
}

/** @throws {StoreError} `request_invalid` when the announced payload is longer than allowed. */
export function readFrameHeader(source: Buffer, at: number): FrameHeader {
  const payloadBytes = source.readUInt32LE(at);
  if (payloadBytes > FRAME_PAYLOAD_BYTES_MAX) {
    throw new StoreError(
      'request_invalid',
      `frame of ${payloadBytes} bytes, at most ${FRAME_PAYLOAD_BYTES_MAX} allowed`,
    );
  }
  return {
    payloadBytes,
    requestId: source.readUInt32LE(at + 4),
    op: source.readUInt16LE(at + 8),
    flags: source.readUInt16LE(at + 10),
  };
}

interface FramePart {
  readonly header: FrameHeader;
  readonly payload: Buffer;
  /** Bytes of the payload that are there. */
  bytes: number;
}

/**
 * Cuts a byte stream into frames. `onFrame` is called for each whole frame; the payload is a view that is valid only during
 * the call when it lay whole in the pushed chunk, so copy what is kept. A frame that comes in parts is gathered in one
 * buffer of its own length.
 */
export class FrameSplitter {
  readonly #onFrame: (header: FrameHeader, payload: Buffer) => unknown;
  readonly #head = Buffer.alloc(FRAME_HEADER_BYTES);
  #headBytes = 0;
  #part: FramePart | undefined;
  /** What was not looked at because `onFrame` said so. */
  #rest: Buffer | undefined;

  /** @param onFrame Returns `false` to be called no more before `resume`. */
  constructor(onFrame: (header: FrameHeader, payload: Buffer) => unknown) {
    this.#onFrame = onFrame;
  }

  /** Payload bytes of the frame of which a part is there; 0 when there is none. */
  get announcedBytes(): number {
    return this.#part?.header.payloadBytes ?? 0;
  }

  /** The part of those bytes that is there. */
  get gatheredBytes(): number {
    return this.#part?.bytes ?? 0;
  }

  /** @throws {StoreError} `request_invalid` when a frame is longer than allowed */
  push(chunk: Buffer): void {
    const bytes = this.#rest === undefined ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#rest = undefined;
    let at = 0;
    const part = this.#part;
    if (part !== undefined) {
      at = this.#gather(part, bytes, 0);
      if (part.bytes < part.payload.length) return;
      this.#part = undefined;
      if (this.#onFrame(part.header, part.payload) === false) {
        this.#keepRest(bytes, at);
        return;
      }
    }
    while (at < bytes.length) {
      const headAt = at;
      if (this.#headBytes > 0 || bytes.length - at < FRAME_HEADER_BYTES) {
        at += this.#gatherHead(bytes, at);
        if (this.#headBytes < FRAME_HEADER_BYTES) return;
        this.#headBytes = 0;
      } else at += FRAME_HEADER_BYTES;
      const isInChunk = at - headAt === FRAME_HEADER_BYTES;
      const header = isInChunk ? readFrameHeader(bytes, headAt) : readFrameHeader(this.#head, 0);
      const end = at + header.payloadBytes;
      if (end > bytes.length) {
        const payload = Buffer.allocUnsafeSlow(header.payloadBytes);
        this.#part = { header, payload, bytes: 0 };
        this.#gather(this.#part, bytes, at);
        return;
      }
      const goesOn = this.#onFrame(header, bytes.subarray(at, end)) !== false;
      at = end;
      if (goesOn) continue;
      this.#keepRest(bytes, at);
      return;
    }
  }

  /** Goes on after a stop. */
  resume(): void {
    const rest = this.#rest;
    this.#rest = undefined;
    if (rest !== undefined) this.push(rest);
  }

  #gatherHead(bytes: Buffer, at: number): number {
    const taken = bytes.copy(this.#head, this.#headBytes, at);
    this.#headBytes += taken;
    return taken;
  }

  /** Returns where it ends. */
  #gather(part: FramePart, bytes: Buffer, at: number): number {
    const taken = bytes.copy(part.payload, part.bytes, at);
    part.bytes += taken;
    return at + taken;
  }

  #keepRest(bytes: Buffer, at: number): void {
    if (at < bytes.length) this.#rest = bytes.subarray(at);
  }
}

/** Appends primitives to a growing buffer. */
export class PayloadWriter {
  #buffer: Buffer;
  #at = 0;

  constructor(initialBytes = 128) {
    this.#buffer = Buffer.allocUnsafe(initialBytes);
  }

  u8(value: number): this {
    this.#room(1);
    this.#at = this.#buffer.writeUInt8(value, this.#at);
    return this;
  }
  u16(value: number): this {
    this.#room(2);
    this.#at = this.#buffer.writeUInt16LE(value, this.#at);
    return this;
  }
  u32(value: number): this {
    this.#room(4);
    this.#at = this.#buffer.writeUInt32LE(value, this.#at);
    return this;
  }
  u64(value: number): this {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new RangeError(`u64 out of range: ${value}`);
    this.#room(8);
    this.#buffer.writeUInt32LE(value % 0x1_0000_0000, this.#at);
    this.#buffer.writeUInt32LE(Math.floor(value / 0x1_0000_0000), this.#at + 4);
    this.#at += 8;
    return this;
  }
  bool(value: boolean): this {
    return this.u8(value ? 1 : 0);
  }
  str(value: string): this {
    const bytes = Buffer.byteLength(value);
    if (bytes > 0xffff) throw new RangeError(`string of ${bytes} bytes, at most 65535`);
    this.u16(bytes);
    this.#room(bytes);
    this.#at += this.#buffer.write(value, this.#at);
    return this;
  }
  bytes(value: Uint8Array): this {
    this.u32(value.byteLength);
    this.#room(value.byteLength);
    this.#buffer.set(value, this.#at);
    this.#at += value.byteLength;
    return this;
  }
  /** The bytes so far, as a view. */
  done(): Buffer {
    return this.#buffer.subarray(0, this.#at);
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#buffer.length) return;
    const grown = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#at + bytes));
    grown.set(this.#buffer.subarray(0, this.#at));
    this.#buffer = grown;
  }
}

/** What decoding puts where bytes are not UTF-8. */
const REPLACEMENT = '\uFFFD';

/** Reads primitives; every read checks the end. @throws {StoreError} `request_invalid` on a short payload. */
export class PayloadReader {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  u8(): number {
    return this.#buffer.readUInt8(this.#take(1));
  }
  u16(): number {
    return this.#buffer.readUInt16LE(this.#take(2));
  }
  u32(): number {
    return this.#buffer.readUInt32LE(this.#take(4));
  }
  u64(): number {
    const at = this.#take(8);
    const value = this.#buffer.readUInt32LE(at) + this.#buffer.readUInt32LE(at + 4) * 0x1_0000_0000;
    if (!Number.isSafeInteger(value))
      throw new StoreError('request_invalid', 'number beyond 2^53 in frame');
    return value;
  }
  bool(): boolean {
    return this.u8() !== 0;
  }
  /** @throws {StoreError} `request_invalid` on bytes that are not UTF-8: replaced characters would make two names one. */
  str(): string {
    const length = this.u16();
    const at = this.#take(length);
    const text = this.#buffer.toString('utf8', at, at + length);
    if (text.includes(REPLACEMENT) && !isUtf8(this.#buffer.subarray(at, at + length)))
      throw new StoreError('request_invalid', 'text in a frame is not UTF-8');
    return text;
  }
  /** A view into the frame: copy it if it is kept. */
  bytes(): Buffer {
    const length = this.u32();
    const at = this.#take(length);
    return this.#buffer.subarray(at, at + length);
  }
  /** Where a field may follow that earlier versions of a message do not have. */
  get isAtEnd(): boolean {
    return this.#at === this.#buffer.length;
  }
  /** @throws {StoreError} when bytes are left over: sender and receiver disagree about the message. */
  end(): void {
    if (this.#at !== this.#buffer.length) {
      throw new StoreError(
        'request_invalid',
        `${this.#buffer.length - this.#at} bytes left over in frame`,
      );
    }
  }

  #take(bytes: number): number {
    const at = this.#at;
    if (at + bytes > this.#buffer.length)
      throw new StoreError('request_invalid', 'frame ends too early');
    this.#at = at + bytes;
    return at;
  }
}
