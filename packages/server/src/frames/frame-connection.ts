/**
 * One client's connection: frames in, answers out, and what the client owns meanwhile.
 *
 * I1  Every request gets exactly one answer, unless the connection ends first.
 * I2  HELLO comes first; before it nothing else is answered.
 * I3  The connection is an owner in the store. When it ends, its staged writes and leases end: at once, and once more
 *     after the last call under way, which may have staged or opened something in the meantime.
 * I4  A connection that has too many calls or bytes under way, or does not take its answers, is not read from; frames that
 *     were read already wait. So what it holds is counted before more is taken: see limits.ts for one and for all of them.
 * I5  No connection waits for another that stands still: each has a little of its own, and who holds what others need
 *     without moving is ended (peer-memory.ts). Large reads go through the pool of pieces (read-answer.ts).
 */
import type { Socket } from 'node:net';
import type { Owner } from '@ebb/core';
import {
  FRAME_FLAG_ERROR,
  type FrameHeader,
  FrameSplitter,
  messages,
  OPS,
  StoreError,
} from '@ebb/protocol';
import type { Logger } from 'pino';
import type { BufferPool } from '../http/buffer-pool.ts';
import { toStoreError } from '../http/error-response.ts';
import type { Hold, PeerMemory } from '../http/peer-memory.ts';
import type { LimitedLog } from '../limited-log.ts';
import {
  FRAME_BYTES_INFLIGHT_MAX,
  FRAME_CALLS_INFLIGHT_MAX,
  FRAME_OWN_BYTES,
  FRAME_PROGRESS_BYTES,
  FRAME_RETRY_MS,
  FRAME_UNSENT_BYTES_MAX,
  HELLO_PAYLOAD_BYTES_MAX,
  HELLO_TIMEOUT_MS,
  LARGE_CALLS_MAX,
  LARGE_CALLS_QUEUED_MAX,
  REVOKE_BLOBS_MAX,
  SMALL_BODY_BYTES,
} from '../limits.ts';
import type { FrameMetrics } from '../metrics.ts';
import type { Services } from '../services.ts';
import type { CallContext, Handler } from './call.ts';
import { FILE_CALLS } from './file-calls.ts';
import { JOB_CALLS } from './job-calls.ts';
import { NAME_CALLS } from './name-calls.ts';
import { OBJECT_CALLS } from './object-calls.ts';
import { Outbox, type OutboxTurn } from './outbox.ts';
import {
  parseRead,
  READ_PREFIX_BYTES,
  type ReadPlan,
  readWhole,
  streamRead,
} from './read-answer.ts';
import { SHUFFLE_CALLS } from './shuffle-calls.ts';

const HANDLERS: readonly (Handler | undefined)[] = (() => {
  const table: (Handler | undefined)[] = [];
  for (const [op, handler] of [
    ...JOB_CALLS,
    ...OBJECT_CALLS,
    ...FILE_CALLS,
    ...NAME_CALLS,
    ...SHUFFLE_CALLS,
  ])
    table[op] = handler;
  return table;
})();
/** How large their answers become shows when they are made. */
const LARGE_ANSWERS: ReadonlySet<number> = new Set([
  ...[OPS.listObjects, OPS.shuffleTable, OPS.mapResolve],
]);
const NO_OP = 0;
const PUSH_ID = 0;

export interface FrameConnectionOptions {
  readonly socket: Socket;
  readonly services: Services;
  /** The memory of all connections. */
  readonly memory: PeerMemory;
  readonly pieces: BufferPool;
  readonly name: string;
  /** For what clients cause. */
  readonly warnings: LimitedLog;
  readonly onClose: (connection: FrameConnection) => void;
}

export class FrameConnection {
  readonly #socket: Socket;
  readonly #services: Services;
  readonly #memory: PeerMemory;
  readonly #pieces: BufferPool;
  readonly #metrics: FrameMetrics;
  readonly #log: Logger;
  readonly #warnings: LimitedLog;
  readonly #context: CallContext;
  readonly #owner: Owner;
  readonly #outbox: Outbox;
  readonly #splitter: FrameSplitter;
  readonly #onClose: (connection: FrameConnection) => void;
  readonly #helloTimer: NodeJS.Timeout;
  #greeted = false;
  #calls = 0;
  /** Payloads of calls at work. */
  #callBytes = 0;
  /** Bytes of small reads at work: what their answers will have. */
  #readingBytes = 0;
  /** Calls with large answers: those that wait, and how many are at work. */
  readonly #large: (() => Promise<void>)[] = [];
  #largeAtWork = 0;
  readonly #arriving: Hold;
  #arrivedAtTouch = 0;
  readonly #atWork: Hold;
  readonly #unsent: Hold;
  #paused = false;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;
  #ending = false;

  constructor(options: FrameConnectionOptions) {
    const { socket, services, memory, pieces, name, onClose } = options;
    this.#warnings = options.warnings;
    this.#socket = socket;
    this.#services = services;
    this.#memory = memory;
    this.#pieces = pieces;
    this.#arriving = memory.hold(0, () => this.#endForMemory('sends the rest of a frame'));
    this.#atWork = memory.holdOurs();
    this.#unsent = memory.hold(0, () => this.#endForMemory('takes its answers'));
    this.#metrics = services.metrics.frames;
    this.#log = services.log;
    this.#owner = services.store.createOwner(name);
    this.#outbox = new Outbox(socket, () => this.#onMoved());
    this.#splitter = new FrameSplitter((header, payload) => this.#onFrame(header, payload));
    this.#onClose = onClose;
    this.#context = {
      ...{
        store: services.store,
        shuffles: services.shuffles,
        node: services.node,
        hostProofs: services.hostProofs,
      },
      owner: this.#owner,
      jobId: '',
      mayShareHost: false,
      revoke: (blobIds) => this.#revoke(blobIds),
    };
    this.#helloTimer = setTimeout(
      () => this.#refuse(new StoreError('request_invalid', 'no HELLO came')),
      HELLO_TIMEOUT_MS,
    );
    socket.setTimeout(0);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 30_000);
    socket.on('data', this.#onData);
    socket.on('end', () => socket.end());
    socket.on('error', () => undefined); // 'close' follows, and says all that matters here
    socket.once('close', () => this.#closeOnce());
  }

  /** '' before HELLO, or when it named none. */
  get jobId(): string {
    return this.#context.jobId;
  }

  /** Bytes that came with the upgrade request. */
  start(head: Buffer): void {
    if (head.length > 0) this.#onData(head);
  }

  sayGoingAway(reason: string): void {
    if (this.#greeted) this.#push(OPS.goingAway, messages.goingAway.encode({ reason }));
  }

  /** Sends what is ready, and ends. */
  end(): void {
    this.#outbox.flush();
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.#ending) return;
    try {
      this.#splitter.push(chunk);
      if (!this.#greeted && this.#splitter.announcedBytes > HELLO_PAYLOAD_BYTES_MAX)
        throw new StoreError('request_invalid', 'HELLO comes first, and is short');
    } catch (error) {
      this.#refuse(toStoreError(error));
      return;
    }
    const { gatheredBytes } = this.#splitter;
    if (gatheredBytes < this.#arrivedAtTouch) this.#arrivedAtTouch = 0;
    if (gatheredBytes - this.#arrivedAtTouch >= FRAME_PROGRESS_BYTES) {
      this.#arrivedAtTouch = gatheredBytes;
      this.#memory.touch(this.#arriving);
    }
    if (!this.#hasRoom()) this.#pause();
  };

  /** Returns false when no more frames are to come for now. */
  #onFrame(header: FrameHeader, payload: Buffer): boolean {
    if (this.#ending) return true;
    this.#begin(header, payload);
    if (this.#hasRoom()) return true;
    this.#pause();
    return false;
  }

  #begin(header: FrameHeader, payload: Buffer): void {
    const { requestId, op } = header;
    if (!this.#greeted && op !== OPS.hello) {
      this.#refuse(new StoreError('request_invalid', 'HELLO comes first'), header);
      return;
    }
    if (op === OPS.read) {
      this.#read(header, payload);
      return;
    }
    const handler = HANDLERS[op];
    if (handler === undefined) {
      this.#answerError(
        requestId,
        op,
        new StoreError('unsupported', `this node knows no call ${op}`, { op }),
      );
      return;
    }
    if (LARGE_ANSWERS.has(op)) {
      const kept = Buffer.from(payload); // it may wait
      this.#startLarge(header, kept.length, async () => await handler(this.#context, kept));
      return;
    }
    const startedMs = this.#metrics.start(op);
    let answer: Buffer | Promise<Buffer>;
    try {
      answer = handler(this.#context, payload);
    } catch (thrown) {
      this.#answerError(requestId, op, toStoreError(thrown));
      if (op === OPS.hello) this.#endSoon();
      return;
    }
    if (answer instanceof Promise) {
      void this.#settle({ header, startedMs, payloadBytes: payload.length }, answer);
      return;
    }
    if (op === OPS.hello) this.#greet();
    this.#outbox.add(requestId, op, 0, answer);
    this.#metrics.end(op, startedMs);
  }

  #read(header: FrameHeader, payload: Buffer): void {
    let plan: ReadPlan;
    try {
      plan = parseRead(payload);
    } catch (thrown) {
      this.#metrics.start(header.op);
      this.#answerError(header.requestId, header.op, toStoreError(thrown));
      return;
    }
    if (plan.totalBytes > SMALL_BODY_BYTES) {
      this.#startLarge(header, payload.length, () => this.#stream(header, plan));
      return;
    }
    const startedMs = this.#metrics.start(header.op);
    this.#readingBytes += plan.totalBytes;
    const reader = { store: this.#services.store, owner: this.#owner };
    const answer = readWhole(reader, plan).finally(() => {
      this.#readingBytes -= plan.totalBytes;
    });
    void this.#settle({ header, startedMs, payloadBytes: payload.length }, answer);
  }

  /** The answer goes out in parts; undefined is what is left to say. */
  async #stream({ requestId, op }: FrameHeader, plan: ReadPlan): Promise<undefined> {
    const parts = { store: this.#services.store, owner: this.#owner, pieces: this.#pieces };
    let turn: OutboxTurn | undefined;
    let isBegun = false;
    try {
      await streamRead(parts, plan, () => {
        const mine = this.#outbox.takeTurn();
        turn = mine;
        return {
          ready: mine.ready,
          begin: () => {
            const prefix = Buffer.alloc(READ_PREFIX_BYTES);
            prefix.writeUInt32LE(plan.totalBytes, 0);
            const payloadBytes = READ_PREFIX_BYTES + plan.totalBytes;
            isBegun = true;
            mine.begin({ requestId, op, payloadBytes }, prefix);
          },
          write: (bytes) => mine.write(bytes),
        };
      });
      return undefined;
    } catch (error) {
      if (!isBegun) throw error;
      if (!this.#closed)
        this.#warnings.warn(
          { err: error, owner: this.#owner.name },
          'an answer could not be completed',
        );
      this.#socket.destroy();
      return undefined;
    } finally {
      turn?.end();
    }
  }

  /** Begins a call whose answer may be large, or lets it wait while others of the connection are at work or not taken. */
  #startLarge(
    header: FrameHeader,
    payloadBytes: number,
    work: () => Promise<Buffer | undefined>,
  ): void {
    this.#callBytes += payloadBytes;
    this.#large.push(async () => {
      const startedMs = this.#metrics.start(header.op);
      await this.#settle({ header, startedMs, payloadBytes: 0 }, work());
      this.#callBytes -= payloadBytes;
    });
    this.#beginLarge();
  }

  #beginLarge(): void {
    if (this.#closed) return;
    while (this.#largeAtWork < LARGE_CALLS_MAX && this.#mayBeginLarge()) {
      const begin = this.#large.shift();
      if (begin === undefined) return;
      this.#largeAtWork++;
      void begin().finally(() => {
        this.#largeAtWork--;
        this.#beginLarge();
        this.#resumeIfRoom();
      });
    }
    if (this.#large.length > 0) this.#lookAgain();
  }

  #mayBeginLarge(): boolean {
    if (this.#unsentBytes() > FRAME_UNSENT_BYTES_MAX) return false;
    try {
      this.#memory.assertRoom();
      return true;
    } catch {
      return false;
    }
  }

  /** Answers with what comes of a call. */
  async #settle(
    call: {
      readonly header: FrameHeader;
      readonly startedMs: number;
      readonly payloadBytes: number;
    },
    answer: Promise<Buffer | undefined>,
  ): Promise<void> {
    const { requestId, op } = call.header;
    this.#calls++;
    this.#callBytes += call.payloadBytes;
    try {
      const result = await answer;
      if (!this.#closed && result !== undefined) this.#outbox.add(requestId, op, 0, result);
      this.#metrics.end(op, call.startedMs);
    } catch (thrown) {
      this.#answerError(requestId, op, toStoreError(thrown));
    }
    this.#calls--;
    this.#callBytes -= call.payloadBytes;
    if (this.#paused) this.#resumeIfRoom();
    else this.#count();
    if (this.#closed && this.#calls === 0) this.#giveUpOwned(); // I3
  }

  #answerError(requestId: number, op: number, error: StoreError): void {
    if (error.code === 'internal')
      this.#log.error({ err: error.cause ?? error, op, owner: this.#owner.name }, 'call failed');
    this.#metrics.failed(op, error.code);
    if (!this.#closed)
      this.#outbox.add(requestId, op, FRAME_FLAG_ERROR, messages.errorPayload.encode(error));
  }

  #greet(): void {
    this.#greeted = true;
    clearTimeout(this.#helloTimer);
  }

  /** The other side does not speak our language: says so once, and ends. */
  #refuse(error: StoreError, header?: FrameHeader): void {
    this.#warnings.warn(
      { owner: this.#owner.name, code: error.code, reason: error.message },
      'connection refused',
    );
    this.#answerError(header?.requestId ?? PUSH_ID, header?.op ?? NO_OP, error);
    this.#endSoon();
  }

  #endSoon(): void {
    this.#ending = true;
    this.end();
    this.#socket.destroySoon();
  }

  #revoke(blobIds: readonly number[]): void {
    for (let at = 0; at < blobIds.length && !this.#closed; at += REVOKE_BLOBS_MAX)
      this.#push(
        OPS.revoke,
        messages.revoke.encode({ blobIds: blobIds.slice(at, at + REVOKE_BLOBS_MAX) }),
      );
  }

  /** Nobody asked for it: so a client that takes none would let it grow without end. */
  #push(op: number, payload: Buffer): void {
    if (this.#unsentBytes() > 2 * FRAME_UNSENT_BYTES_MAX) this.#socket.destroy();
    else this.#outbox.add(PUSH_ID, op, 0, payload);
  }

  // ---- what it holds ----------------------------------------------------------------------------------------------

  #unsentBytes(): number {
    return this.#outbox.unsentBytes + this.#readingBytes;
  }

  /** Counts what there is. Returns false when there was no room for the frame on its way in. */
  #count(): boolean {
    if (this.#closed) return true; // its holds are over, and calls that end after it hold nothing
    this.#memory.charge(this.#atWork, this.#callBytes);
    this.#memory.charge(this.#unsent, this.#unsentBytes());
    try {
      this.#memory.resize(this.#arriving, this.#splitter.announcedBytes);
      return true;
    } catch {
      return false;
    }
  }

  #hasRoom(): boolean {
    if (this.#closed) return true;
    const isCounted = this.#count();
    // A frame that was counted may come in, though it fills the memory: else all would wait for each other.
    const { isFull } = this.#memory;
    return (
      isCounted &&
      this.#calls < FRAME_CALLS_INFLIGHT_MAX &&
      this.#large.length < LARGE_CALLS_QUEUED_MAX &&
      this.#callBytes + this.#splitter.announcedBytes <= FRAME_BYTES_INFLIGHT_MAX &&
      this.#callBytes <= (isFull ? FRAME_OWN_BYTES : FRAME_BYTES_INFLIGHT_MAX) &&
      this.#unsent.bytes <= (isFull ? FRAME_OWN_BYTES : FRAME_UNSENT_BYTES_MAX)
    );
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#socket.pause();
    this.#lookAgain();
  }

  #resumeIfRoom(): void {
    if (!this.#paused || this.#closed || !this.#hasRoom()) return;
    this.#paused = false;
    try {
      this.#splitter.resume();
    } catch (error) {
      this.#refuse(toStoreError(error));
      return;
    }
    if (!this.#isPaused() && this.#hasRoom()) this.#socket.resume();
    else this.#pause();
  }

  /** A frame that was begun may have paused it again. */
  #isPaused(): boolean {
    return this.#paused;
  }

  /** The room may be others' to give. */
  #lookAgain(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#beginLarge();
      this.#resumeIfRoom();
      if (this.#paused && !this.#closed) this.#lookAgain();
    }, FRAME_RETRY_MS);
  }

  #onMoved(): void {
    if (this.#closed) return;
    this.#memory.touch(this.#unsent);
    this.#count();
    this.#beginLarge();
    this.#resumeIfRoom();
  }

  #endForMemory(what: string): void {
    this.#warnings.warn(
      { owner: this.#owner.name },
      `connection ended: others need the memory that it holds, and it no longer ${what}`,
    );
    this.#socket.destroy();
  }

  #closeOnce(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#helloTimer);
    clearTimeout(this.#retry);
    for (const hold of [this.#arriving, this.#atWork, this.#unsent]) this.#memory.release(hold);
    this.#large.length = 0;
    this.#onClose(this);
    this.#giveUpOwned();
  }

  #giveUpOwned(): void {
    this.#services.store.dropOwner(this.#owner).catch((error: unknown) => {
      this.#log.error({ err: error, owner: this.#owner.name }, 'giving up what a connection owned');
    });
  }
}
