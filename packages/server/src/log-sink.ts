/**
 * Where log lines go: a descriptor that is never waited for.
 *
 * I1  A reader who stops does not stop the node: what the descriptor does not take at once waits here, in a bounded queue,
 *     and is tried again soon.
 * I2  What does not fit is dropped, whole lines, and counted; the count is a line of its own when there is room again.
 * I3  Lines leave in order, none in parts with another in between.
 * I4  `flushSync` tries for a moment and gives up: it is for the end of the process, which must not hang.
 */
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';

interface LogSinkOptions {
  /** Writes what it can, and returns how much. @throws with `code` EAGAIN when that is nothing now */
  readonly write: (bytes: Buffer) => number;
  readonly queuedBytesMax?: number;
  readonly retryMs?: number;
  readonly flushMs?: number;
}

const QUEUED_BYTES_MAX = 1024 * 1024;
const RETRY_MS = 50;
const FLUSH_MS = 200;

export class LogSink {
  readonly #write: (bytes: Buffer) => number;
  readonly #queuedBytesMax: number;
  readonly #retryMs: number;
  readonly #flushMs: number;
  #queue: Buffer[] = [];
  #queuedBytes = 0;
  #dropped = 0;
  #droppedTotal = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: LogSinkOptions) {
    this.#write = options.write;
    this.#queuedBytesMax = options.queuedBytesMax ?? QUEUED_BYTES_MAX;
    this.#retryMs = options.retryMs ?? RETRY_MS;
    this.#flushMs = options.flushMs ?? FLUSH_MS;
  }

  /** Lines that nobody will see, since the start. */
  get dropped(): number {
    return this.#droppedTotal;
  }

  /** What pino calls, with one line. */
  write(line: string): void {
    const bytes = Buffer.from(line);
    if (this.#queuedBytes + bytes.length > this.#queuedBytesMax) {
      this.#dropped++;
      this.#droppedTotal++;
      return;
    }
    this.#queue.push(bytes);
    this.#queuedBytes += bytes.length;
    if (this.#timer === undefined) this.#drain();
  }

  flushSync(): void {
    const deadlineMs = performance.now() + this.#flushMs;
    const nap = new Int32Array(new SharedArrayBuffer(4));
    while (!this.#drainOnce() && performance.now() < deadlineMs) Atomics.wait(nap, 0, 0, 5);
  }

  #drain(): void {
    if (this.#drainOnce()) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#drain();
    }, this.#retryMs);
    this.#timer.unref();
  }

  /** Returns whether all is written. */
  #drainOnce(): boolean {
    while (this.#queue.length > 0) {
      const line = this.#queue[0] as Buffer;
      let written: number;
      try {
        written = this.#write(line);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return false;
        // Nobody can be told: the reader is gone, or the disk is full.
        this.#droppedTotal++;
        written = line.length;
      }
      this.#queuedBytes -= written;
      if (written < line.length) this.#queue[0] = line.subarray(written);
      else this.#queue.shift();
      if (this.#queue.length === 0 && this.#dropped > 0) this.#tellDropped();
    }
    return true;
  }

  #tellDropped(): void {
    const line = Buffer.from(
      `${JSON.stringify({
        level: 40,
        time: new Date().toISOString(),
        name: 'ebb',
        dropped: this.#dropped,
        msg: `${this.#dropped} lines of the log were dropped: nobody took them`,
      })}\n`,
    );
    this.#dropped = 0;
    this.#queue.push(line);
    this.#queuedBytes += line.length;
  }
}

/** Standard error, whatever it is: a pipe, a terminal, a socket or a file. */
export function openStderrSink(): LogSink {
  const fd = nonBlockingStderr();
  return new LogSink({ write: (bytes) => writeSync(fd, bytes) });
}

/**
 * A pipe or a terminal is opened once more, so that those who share it do not find it changed. A socket cannot be; Node makes
 * it non-blocking when it takes it over. A file takes what it is given.
 */
function nonBlockingStderr(): number {
  const stats = fstatSync(2);
  if (stats.isFile()) return 2;
  if (!stats.isSocket()) {
    try {
      const fd = openSync(
        '/proc/self/fd/2',
        constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY,
      );
      if (fstatSync(fd).ino === stats.ino) return fd;
      closeSync(fd);
    } catch {
      // It belongs to another user, or there is no such directory: the same as with a socket.
    }
  }
  try {
    new Socket({ fd: 2, readable: false, writable: true }).unref();
  } catch {
    // Then it blocks, as it did.
  }
  return 2;
}
