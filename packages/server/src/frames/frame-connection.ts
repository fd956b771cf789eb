/**
 * One client's connection: frames in, answers out, and what the client owns meanwhile.
 *
 * I1  Every request gets exactly one answer, unless the connection ends first.
 * I2  HELLO comes first; before it nothing else is answered.
 * I3  The connection is an owner in the store. When it ends, its staged writes and leases end: at once, and once more
 *     after the last call under way, which may have staged or opened something in the meantime.
 * I4  A connection that has too many calls or bytes under way, or does not take its answers, is not read from.
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
import { toStoreError } from '../http/error-response.ts';
import {
  FRAME_BYTES_INFLIGHT_MAX,
  FRAME_CALLS_INFLIGHT_MAX,
  FRAME_UNSENT_BYTES_MAX,
  HELLO_TIMEOUT_MS,
  REVOKE_BLOBS_MAX,
} from '../limits.ts';
import type { FrameMetrics } from '../metrics.ts';
import type { Services } from '../services.ts';
import type { ByteGate } from './byte-gate.ts';
import type { CallContext, Handler } from './call.ts';
import { FILE_CALLS } from './file-calls.ts';
import { JOB_CALLS } from './job-calls.ts';
import { NAME_CALLS } from './name-calls.ts';
import { OBJECT_CALLS } from './object-calls.ts';
import { Outbox } from './outbox.ts';
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
const NO_OP = 0;
const PUSH_ID = 0;

export interface FrameConnectionOptions {
  readonly socket: Socket;
  readonly services: Services;
  readonly gate: ByteGate;
  readonly name: string;
  readonly onClose: (connection: FrameConnection) => void;
}

export class FrameConnection {
  readonly #socket: Socket;
  readonly #services: Services;
  readonly #gate: ByteGate;
  readonly #metrics: FrameMetrics;
  readonly #log: Logger;
  readonly #context: CallContext;
  readonly #owner: Owner;
  readonly #outbox: Outbox;
  readonly #splitter: FrameSplitter;
  readonly #onClose: (connection: FrameConnection) => void;
  readonly #helloTimer: NodeJS.Timeout;
  #greeted = false;
  #calls = 0;
  #bytes = 0;
  #paused = false;
  #closed = false;
  #ending = false;

  constructor({ socket, services, gate, name, onClose }: FrameConnectionOptions) {
    this.#socket = socket;
    this.#services = services;
    this.#gate = gate;
    this.#metrics = services.metrics.frames;
    this.#log = services.log;
    this.#owner = services.store.createOwner(name);
    this.#outbox = new Outbox(socket);
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
      revoke: (blobIds) => this.#revoke(blobIds),
      hold: (bytes) => this.#hold(bytes),
    };
    this.#helloTimer = setTimeout(
      () => this.#refuse(new StoreError('request_invalid', 'no HELLO came')),
      HELLO_TIMEOUT_MS,
    );
    socket.setTimeout(0);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, 30_000);
    socket.on('data', this.#onData);
    socket.on('drain', () => this.#resumeIfRoom());
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
    if (this.#greeted)
      this.#outbox.add(PUSH_ID, OPS.goingAway, 0, messages.goingAway.encode({ reason }));
  }

  /** Sends what is ready, and ends. */
  end(): void {
    this.#outbox.flush();
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  resumeIfRoom(): void {
    this.#resumeIfRoom();
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.#ending) return;
    try {
      this.#splitter.push(chunk);
    } catch (error) {
      this.#refuse(toStoreError(error));
      return;
    }
    if (this.#isFull()) this.#pause();
  };

  #onFrame(header: FrameHeader, payload: Buffer): void {
    if (this.#ending) return;
    const { requestId, op } = header;
    const handler = HANDLERS[op];
    if (!this.#greeted && op !== OPS.hello) {
      this.#refuse(new StoreError('request_invalid', 'HELLO comes first'), header);
      return;
    }
    if (handler === undefined) {
      this.#answerError(
        requestId,
        op,
        new StoreError('unsupported', `this node knows no call ${op}`, { op }),
      );
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
    if (!(answer instanceof Promise)) {
      if (op === OPS.hello) this.#greet();
      this.#outbox.add(requestId, op, 0, answer);
      this.#metrics.end(op, startedMs);
      return;
    }
    const bytes = payload.length;
    this.#calls++;
    this.#hold(bytes);
    answer.then(
      (result) => {
        if (!this.#closed) this.#outbox.add(requestId, op, 0, result);
        this.#metrics.end(op, startedMs);
        this.#settled(bytes);
      },
      (thrown: unknown) => {
        this.#answerError(requestId, op, toStoreError(thrown));
        this.#settled(bytes);
      },
    );
  }

  #settled(bytes: number): void {
    this.#calls--;
    this.#hold(-bytes);
    if (this.#paused) this.#resumeIfRoom();
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
    this.#log.warn(
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
    if (this.#closed) return;
    for (let at = 0; at < blobIds.length; at += REVOKE_BLOBS_MAX)
      this.#outbox.add(
        PUSH_ID,
        OPS.revoke,
        0,
        messages.revoke.encode({ blobIds: blobIds.slice(at, at + REVOKE_BLOBS_MAX) }),
      );
  }

  #hold(bytes: number): void {
    this.#bytes += bytes;
    this.#gate.hold(bytes);
  }

  #isFull(): boolean {
    return (
      this.#calls >= FRAME_CALLS_INFLIGHT_MAX ||
      this.#bytes > FRAME_BYTES_INFLIGHT_MAX ||
      this.#gate.isFull ||
      this.#outbox.unsentBytes > FRAME_UNSENT_BYTES_MAX
    );
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#gate.wait(this);
    this.#socket.pause();
  }

  #resumeIfRoom(): void {
    if (!this.#paused || this.#closed || this.#isFull()) return;
    this.#paused = false;
    this.#gate.stopWaiting(this);
    this.#socket.resume();
  }

  #closeOnce(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#helloTimer);
    this.#gate.stopWaiting(this);
    this.#onClose(this);
    this.#giveUpOwned();
  }

  #giveUpOwned(): void {
    this.#services.store.dropOwner(this.#owner).catch((error: unknown) => {
      this.#log.error({ err: error, owner: this.#owner.name }, 'giving up what a connection owned');
    });
  }
}
