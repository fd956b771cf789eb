/**
 * One multiplexed connection to a node, speaking frames (protocol/frames.ts). Many calls are in flight at a time, answers
 * come in any order, and frames of one turn of the event loop leave in one system call.
 *
 * I1  Every call settles once: with its answer, its own timeout or abort, or the end of its session.
 * I2  An answer that nobody waits for any more is undone (`CallOptions.undo`): a lease or staged write that came too late
 *     is given back.
 * I3  Leases and staged writes belong to a *session*, the time between a HELLO and the end of its socket. What holds a
 *     session's things calls through that session, so that an id of a lost session is never sent to its successor.
 * I4  Nothing is sent twice from here. Who may repeat a call is decided in retry.ts.
 *
 * A lost connection is sought again when the next call needs it, for at most `reconnectMs`.
 */
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Socket } from 'node:net';
import {
  FRAME_FLAG_ERROR,
  FRAME_HEADER_BYTES,
  FRAMES_UPGRADE,
  type FrameHeader,
  FrameSplitter,
  isStoreError,
  messages,
  OPS,
  PATHS,
  PROTOCOL_VERSION,
  StoreError,
  writeFrameHeader,
} from '@ebb/protocol';
import { errorFromHttp, silentNode, toStoreError, unreachable } from './errors.ts';
import {
  CALL_TIMEOUT_MS,
  CALLS_INFLIGHT_MAX,
  CALLS_WAITING_MAX,
  CONNECT_TIMEOUT_MS,
  JOINED_WRITE_BYTES,
  PING_AFTER_MS,
  RECONNECT_MS,
  SILENCE_MS_MAX,
} from './limits.ts';
import { createChallenge, findLocalFiles, type LocalFiles } from './local-files.ts';
import type { NodeAddress } from './node-address.ts';
import { abortedError, backoffMs, DEFAULT_RETRY, isRestarting, orAborted, sleep } from './retry.ts';
import { hangUpHint } from './tls.ts';

/** The pair of codecs of a call, as `messages.stage`, `messages.mapCommit` … have it. */
export interface CallCodec<Request, Response> {
  readonly request: { encode(message: Request): Buffer };
  readonly response: { decode(payload: Buffer): Response };
}

export interface CallOptions<Response> {
  readonly signal?: AbortSignal | undefined;
  /** Without an answer for this long the call fails with `node_unreachable`. 0: as long as the node shows life. */
  readonly timeoutMs?: number;
  /** Called with an answer that came after the caller had given up. */
  readonly undo?: (late: Response) => void;
}

export interface FrameConnectionOptions {
  readonly address: NodeAddress;
  /** For logs of the node, such as `ebb-ts/0.1.0 worker-3`. */
  readonly clientName?: string;
  /** While the connection lives, this job is alive. */
  readonly jobId?: string | undefined;
  readonly connectTimeoutMs?: number;
  readonly reconnectMs?: number;
  readonly callTimeoutMs?: number;
  readonly pingAfterMs?: number;
  readonly silenceMsMax?: number;
  readonly callsInflightMax?: number;
  /** false: do not look for the node's directories; bytes go through `write` and `read`. */
  readonly localFiles?: boolean;
}

/** Pushes of the node. Without an `onRevoke` the connection answers `blobsReleased` itself: it holds nothing. */
export interface PushHandlers {
  onRevoke?: (blobIds: readonly number[], session: FrameSession) => void;
  onGoingAway?: (reason: string) => void;
  /** The session ended; its leases and staged writes are gone. */
  onSessionEnd?: (session: FrameSession, why: StoreError) => void;
}

/** From a HELLO to the end of its socket. */
export interface FrameSession {
  readonly hello: messages.HelloResponse;
  /** Direct access to the node's files; undefined when this process does not see them. */
  readonly files: LocalFiles | undefined;
  readonly alive: boolean;
  /** One attempt, one answer. Rejects with StoreError only. The payload of a decoded answer may be kept. */
  call<Request, Response>(
    op: number,
    codec: CallCodec<Request, Response>,
    message: Request,
    options?: CallOptions<Response>,
  ): Promise<Response>;
  /** Sends without waiting: for give-backs, where nobody can do anything about a failure. */
  send<Request, Response>(op: number, codec: CallCodec<Request, Response>, message: Request): void;
}

export interface FrameConnection extends AsyncDisposable {
  /** The living session; connects anew if there is none. */
  session(signal?: AbortSignal): Promise<FrameSession>;
  readonly currentSession: FrameSession | undefined;
  /** As FrameSession.call, on the living session. */
  call<Request, Response>(
    op: number,
    codec: CallCodec<Request, Response>,
    message: Request,
    options?: CallOptions<Response>,
  ): Promise<Response>;
  setHandlers(handlers: PushHandlers): void;
  /** Fails what is in flight, and ends the connection. */
  close(): Promise<void>;
}

/** @throws {StoreError} `node_unreachable`, `version_unsupported`, `unsupported` when the other side speaks no frames */
export async function openFrameConnection(
  options: FrameConnectionOptions,
  signal?: AbortSignal,
): Promise<FrameConnection> {
  const connection = new Connection(options);
  await connection.connectOnce(signal);
  return connection;
}

class Connection implements FrameConnection {
  readonly #options: FrameConnectionOptions;
  #session: Session | undefined;
  #connecting: Promise<Session> | undefined;
  #closed = false;
  readonly #closing = new AbortController();
  #handlers: PushHandlers = {};

  constructor(options: FrameConnectionOptions) {
    this.#options = options;
  }

  get currentSession(): FrameSession | undefined {
    return this.#session;
  }

  setHandlers(handlers: PushHandlers): void {
    this.#handlers = handlers;
  }

  async session(signal?: AbortSignal): Promise<FrameSession> {
    return this.#session ?? (await this.#reconnected(signal));
  }

  call<Request, Response>(
    op: number,
    codec: CallCodec<Request, Response>,
    message: Request,
    options: CallOptions<Response> = {},
  ): Promise<Response> {
    const session = this.#session;
    if (session !== undefined) return session.call(op, codec, message, options);
    return this.#reconnected(options.signal).then((found) =>
      found.call(op, codec, message, options),
    );
  }

  async connectOnce(signal?: AbortSignal): Promise<Session> {
    if (this.#closed) throw unreachable('this client was closed', { notSent: true });
    const socket = await upgrade(this.#options, signal);
    const session = new Session(socket, this.#options, {
      onRevoke: (blobIds) => this.#onRevoke(session, blobIds),
      onGoingAway: (reason) => this.#handlers.onGoingAway?.(reason),
      onEnd: (why) => {
        if (this.#session === session) this.#session = undefined;
        this.#handlers.onSessionEnd?.(session, why);
      },
    });
    await session.introduce(signal);
    if (this.#closed) {
      session.end(unreachable('this client was closed'));
      throw unreachable('this client was closed', { notSent: true });
    }
    this.#session = session;
    return session;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#closing.abort(unreachable('this client was closed', { notSent: true }));
    const session = this.#session;
    this.#session = undefined;
    session?.end(unreachable('this client was closed'));
    await session?.ended;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** All callers share one search; each may leave it by its own signal. */
  async #reconnected(signal?: AbortSignal): Promise<Session> {
    this.#connecting ??= this.#reconnect().finally(() => {
      this.#connecting = undefined;
    });
    return await orAborted(this.#connecting, signal);
  }

  async #reconnect(): Promise<Session> {
    const reconnectMs = this.#options.reconnectMs ?? RECONNECT_MS;
    const startedMs = performance.now();
    for (let attempts = 1; ; attempts++) {
      try {
        return await this.connectOnce(this.#closing.signal);
      } catch (thrown) {
        const error = toStoreError(thrown, this.#closing.signal);
        const delayMs = backoffMs(attempts, DEFAULT_RETRY, Math.random());
        const late = performance.now() - startedMs + delayMs > reconnectMs;
        if (!isRestarting(error) || late || this.#closed) throw error;
        await sleep(delayMs, this.#closing.signal);
      }
    }
  }

  #onRevoke(session: Session, blobIds: readonly number[]): void {
    if (this.#handlers.onRevoke !== undefined) this.#handlers.onRevoke(blobIds, session);
    else session.send(OPS.blobsReleased, messages.blobsReleased, { blobIds });
  }
}

interface SessionEvents {
  onRevoke(blobIds: readonly number[]): void;
  onGoingAway(reason: string): void;
  onEnd(why: StoreError): void;
}

interface PendingCall {
  readonly op: number;
  readonly sentMs: number;
  /** 0: none. */
  deadlineMs: number;
  answer(payload: Buffer): void;
  fail(error: StoreError): void;
}

class Session implements FrameSession {
  readonly ended: Promise<void>;
  #hello: messages.HelloResponse | undefined;
  #files: LocalFiles | undefined;
  #alive = true;

  readonly #socket: Socket;
  readonly #options: FrameConnectionOptions;
  readonly #events: SessionEvents;
  readonly #callTimeoutMs: number;
  readonly #pingAfterMs: number;
  readonly #silenceMsMax: number;
  readonly #inflightMax: number;

  readonly #pending = new Map<number, PendingCall>();
  #lastId = 0;
  /** Calls that wait for a place in flight; in order. */
  readonly #waiting: (() => void)[] = [];

  #outgoing: Buffer[] = [];
  #outgoingBytes = 0;
  #flushScheduled = false;

  /** The beginning of a wait counts as heard. */
  #lastHeardMs = performance.now();
  #lastReceivedMs = 0;
  #watch: NodeJS.Timeout | undefined;

  constructor(socket: Socket, options: FrameConnectionOptions, events: SessionEvents) {
    this.#socket = socket;
    this.#options = options;
    this.#events = events;
    this.#callTimeoutMs = options.callTimeoutMs ?? CALL_TIMEOUT_MS;
    this.#pingAfterMs = options.pingAfterMs ?? PING_AFTER_MS;
    this.#silenceMsMax = options.silenceMsMax ?? SILENCE_MS_MAX;
    this.#inflightMax = options.callsInflightMax ?? CALLS_INFLIGHT_MAX;
    socket.setNoDelay(true);
    const splitter = new FrameSplitter((header, payload) => this.#onFrame(header, payload));
    socket.on('data', (chunk: Buffer) => {
      this.#lastReceivedMs = performance.now();
      this.#lastHeardMs = this.#lastReceivedMs;
      try {
        splitter.push(chunk);
      } catch (thrown) {
        this.end(unreachable('the node sent what is not a frame', {}, thrown));
      }
    });
    socket.on('error', (error) => this.end(unreachable('the connection broke', {}, error)));
    socket.on('end', () => this.end(unreachable('the node closed the connection')));
    this.ended = new Promise((resolve) => {
      socket.on('close', () => {
        this.end(unreachable('the connection was closed'));
        resolve();
      });
    });
  }

  get hello(): messages.HelloResponse {
    if (this.#hello === undefined) throw unreachable('no HELLO yet');
    return this.#hello;
  }
  get files(): LocalFiles | undefined {
    return this.#files;
  }
  get alive(): boolean {
    return this.#alive;
  }

  async introduce(signal?: AbortSignal): Promise<void> {
    try {
      this.#hello = await this.call(
        OPS.hello,
        messages.hello,
        {
          protocolVersion: PROTOCOL_VERSION,
          client: this.#options.clientName ?? `ebb-ts/0.1.0 pid-${process.pid}`,
          jobId: this.#options.jobId ?? '',
        },
        { signal, timeoutMs: this.#options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS },
      );
      if (this.#hello.protocolVersion !== PROTOCOL_VERSION) {
        throw new StoreError(
          'version_unsupported',
          `the node speaks protocol ${this.#hello.protocolVersion}, this client ${PROTOCOL_VERSION}`,
        );
      }
      if (this.#options.localFiles !== false) this.#files = await this.#findFiles(signal);
      this.#socket.unref(); // an idle connection does not keep the process alive; calls in flight do
    } catch (error) {
      this.end(unreachable('the node did not take the HELLO', {}, error));
      throw error;
    }
  }

  async #findFiles(signal: AbortSignal | undefined): Promise<LocalFiles | undefined> {
    if (this.hello.memoryDir === '' || this.hello.diskDir === '') return undefined;
    const challenge = createChallenge();
    const timeoutMs = this.#options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS;
    const message = { challenge };
    try {
      await this.call(OPS.proveHost, messages.proveHost, message, { signal, timeoutMs });
    } catch (error) {
      // A node that cannot prove it: bytes go through the connection.
      if (isStoreError(error, 'unsupported')) return undefined;
      throw error;
    }
    return await findLocalFiles(this.hello, challenge);
  }

  call<Request, Response>(
    op: number,
    codec: CallCodec<Request, Response>,
    message: Request,
    options: CallOptions<Response> = {},
  ): Promise<Response> {
    if (options.signal?.aborted === true) return Promise.reject(abortedError(options.signal));
    if (!this.#alive)
      return Promise.reject(unreachable('the connection is gone', { notSent: true }));
    if (this.#pending.size >= this.#inflightMax) {
      return this.#place(options.signal).then(() => this.call(op, codec, message, options));
    }
    return new Promise<Response>((resolve, reject) => {
      const { signal, undo } = options;
      let payload: Buffer;
      try {
        payload = codec.request.encode(message);
      } catch (thrown) {
        reject(new StoreError('request_invalid', String(thrown), {}, thrown));
        return;
      }
      let waited = true;
      const giveUp = (error: StoreError): void => {
        waited = false;
        signal?.removeEventListener('abort', onAbort);
        reject(error);
      };
      // The entry stays when the caller gives up, so that the late answer is recognised and undone (I2).
      const onAbort = (): void => giveUp(abortedError(signal));
      const timeoutMs = options.timeoutMs ?? this.#callTimeoutMs;
      const call: PendingCall = {
        op,
        sentMs: performance.now(),
        deadlineMs: timeoutMs === 0 ? 0 : performance.now() + timeoutMs,
        answer: (body) => {
          signal?.removeEventListener('abort', onAbort);
          let response: Response;
          try {
            response = codec.response.decode(body);
          } catch (thrown) {
            if (waited) reject(toStoreError(thrown));
            return;
          }
          if (waited) resolve(response);
          else undo?.(response);
        },
        fail: (error) => {
          if (waited) giveUp(error);
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#post(op, payload, call);
    });
  }

  send<Request, Response>(op: number, codec: CallCodec<Request, Response>, message: Request): void {
    if (!this.#alive) return;
    this.#post(op, codec.request.encode(message), SENT_AND_FORGOTTEN);
  }

  end(why: StoreError): void {
    if (!this.#alive) return;
    this.#alive = false;
    clearTimeout(this.#watch);
    this.#socket.destroy();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const call of pending) call.fail(why);
    for (const wake of this.#waiting.splice(0)) wake();
    this.#events.onEnd(why);
  }

  #post(op: number, payload: Buffer, call: PendingCall): void {
    const requestId = this.#nextId();
    if (this.#pending.size === 0) {
      this.#lastHeardMs = performance.now();
      this.#socket.ref();
      this.#watchLater();
    }
    this.#pending.set(requestId, call);
    const header = { payloadBytes: payload.length, requestId, op, flags: 0 };
    if (payload.length <= JOINED_WRITE_BYTES) {
      const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + payload.length);
      writeFrameHeader(frame, header);
      payload.copy(frame, FRAME_HEADER_BYTES);
      this.#outgoing.push(frame);
    } else {
      const head = Buffer.allocUnsafe(FRAME_HEADER_BYTES);
      writeFrameHeader(head, header);
      this.#outgoing.push(head, payload);
    }
    this.#outgoingBytes += FRAME_HEADER_BYTES + payload.length;
    if (!this.#flushScheduled) {
      this.#flushScheduled = true;
      process.nextTick(() => this.#flush());
    }
  }

  #flush(): void {
    this.#flushScheduled = false;
    const frames = this.#outgoing;
    const bytes = this.#outgoingBytes;
    this.#outgoing = [];
    this.#outgoingBytes = 0;
    if (!this.#alive) return;
    if (frames.length === 1) {
      this.#socket.write(frames[0] as Buffer);
    } else if (bytes <= JOINED_WRITE_BYTES) {
      this.#socket.write(Buffer.concat(frames, bytes));
    } else {
      this.#socket.cork();
      for (const frame of frames) this.#socket.write(frame);
      this.#socket.uncork();
    }
  }

  #onFrame(header: FrameHeader, payload: Buffer): void {
    if (header.requestId === 0) {
      this.#onPush(header.op, payload);
      return;
    }
    const call = this.#pending.get(header.requestId);
    if (call === undefined) return;
    this.#pending.delete(header.requestId);
    if ((header.flags & FRAME_FLAG_ERROR) !== 0) call.fail(messages.errorPayload.decode(payload));
    else call.answer(payload);
    this.#waiting.shift()?.();
    if (this.#pending.size === 0 && this.#hello !== undefined) this.#socket.unref();
  }

  #onPush(op: number, payload: Buffer): void {
    if (op === OPS.revoke) this.#events.onRevoke(messages.revoke.decode(payload).blobIds);
    else if (op === OPS.goingAway)
      this.#events.onGoingAway(messages.goingAway.decode(payload).reason);
    // Others come from newer nodes, and mean nothing to us.
  }

  async #place(signal: AbortSignal | undefined): Promise<void> {
    if (this.#waiting.length >= CALLS_WAITING_MAX) {
      throw new StoreError('busy', `${CALLS_WAITING_MAX} calls wait on this connection`);
    }
    await orAborted(new Promise<void>((resolve) => this.#waiting.push(resolve)), signal);
  }

  #nextId(): number {
    do {
      this.#lastId = this.#lastId === 0xffff_ffff ? 1 : this.#lastId + 1;
    } while (this.#pending.has(this.#lastId));
    return this.#lastId;
  }

  /** One timer for all calls: timeouts are coarse, and cost nothing per call. */
  #watchLater(): void {
    if (this.#watch !== undefined) return;
    this.#watch = setTimeout(() => {
      this.#watch = undefined;
      if (!this.#alive || this.#pending.size === 0) return;
      this.#expire(performance.now());
      if (this.#alive) this.#watchLater();
    }, 200).unref();
  }

  #expire(nowMs: number): void {
    const silenceMs = nowMs - this.#lastHeardMs;
    if (silenceMs > this.#silenceMsMax) {
      this.end(silentNode(this.#options.address.text, silenceMs));
      return;
    }
    for (const call of this.#pending.values()) {
      if (call.deadlineMs === 0 || call.deadlineMs > nowMs) continue;
      call.deadlineMs = 0; // the entry stays for the late answer (I2)
      call.fail(this.#unanswered(call, nowMs));
    }
    if (silenceMs > this.#pingAfterMs && ![...this.#pending.values()].includes(PING)) {
      this.#post(OPS.ping, Buffer.alloc(0), PING);
    }
  }

  /** A node that was heard meanwhile lives, and has not answered this call. */
  #unanswered(call: PendingCall, nowMs: number): StoreError {
    const op = opName(call.op);
    const { text } = this.#options.address;
    const waitedMs = nowMs - call.sentMs;
    if (this.#lastReceivedMs <= call.sentMs) return silentNode(text, waitedMs);
    return unreachable(
      `the node at ${text} lives, and has not answered "${op}" for ${Math.max(1, Math.round(waitedMs / 1000))} s`,
      { op, silentMs: Math.round(waitedMs) },
    );
  }
}

const SENT_AND_FORGOTTEN: PendingCall = {
  op: 0,
  sentMs: 0,
  deadlineMs: 0,
  answer: () => undefined,
  fail: () => undefined,
};
const PING: PendingCall = { ...SENT_AND_FORGOTTEN, op: OPS.ping };

function opName(op: number): string {
  return Object.entries(OPS).find(([, number]) => number === op)?.[0] ?? `op ${op}`;
}

/** HTTP/1.1 Upgrade; the socket speaks frames afterwards. */
function upgrade(
  options: FrameConnectionOptions,
  signal: AbortSignal | undefined,
): Promise<Socket> {
  const { address } = options;
  const url = new URL(PATHS.frames, address.origin);
  return new Promise((resolve, reject) => {
    const open = address.tls === undefined ? httpRequest : httpsRequest;
    const request = open({
      ...address.tls,
      ...(address.socketPath === undefined
        ? {
            host: url.hostname.replace(/^\[|\]$/g, ''),
            port: url.port === '' ? (address.tls === undefined ? 80 : 443) : Number(url.port),
          }
        : { socketPath: address.socketPath }),
      path: url.pathname,
      headers: { connection: 'Upgrade', upgrade: FRAMES_UPGRADE },
      timeout: options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS,
      agent: false,
      ...(signal === undefined ? {} : { signal }),
    });
    request.on('upgrade', (_response, socket, head) => {
      if (head.length > 0) socket.unshift(head);
      resolve(socket as Socket);
    });
    request.on('response', (response) => {
      response.resume();
      const answer = { status: response.statusCode ?? 0, headers: response.headers, body: '' };
      const error = errorFromHttp({ ...answer, request: 'GET /v1/frames' });
      reject(
        error.retry === 'never'
          ? new StoreError(
              'unsupported',
              `${address.text} speaks no frames (${answer.status})`,
              {},
              error,
            )
          : error,
      );
    });
    request.on('timeout', () => {
      const silent = silentNode(address.text, options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS);
      // Nothing was asked of it yet.
      reject(unreachable(silent.message, { ...silent.details, notSent: true }));
      request.destroy();
    });
    request.on('error', (thrown) => {
      try {
        const cause = toStoreError(thrown, signal);
        if (cause.code !== 'node_unreachable') reject(cause);
        else
          reject(
            unreachable(
              `no Ebb node answers at ${address.text}: ${cause.message}${hangUpHint(address, cause.message)}`,
              { ...cause.details, notSent: true },
              thrown,
            ),
          );
      } catch {
        reject(unreachable(`no Ebb node answers at ${address.text}`, { notSent: true }, thrown));
      }
    });
    request.end();
  });
}
