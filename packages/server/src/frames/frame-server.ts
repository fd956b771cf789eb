/** All frame connections of a node: the upgrade that begins one, heartbeats of the jobs they work for, and their end. */
import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { FRAMES_UPGRADE, HEADERS, PATHS, StoreError } from '@ebb/protocol';
import type { BufferPool } from '../http/buffer-pool.ts';
import { errorAnswer } from '../http/error-response.ts';
import { PeerMemory } from '../http/peer-memory.ts';
import { LimitedLog } from '../limited-log.ts';
import {
  CONNECTED_HEARTBEAT_MS,
  FRAME_BYTES_INFLIGHT_TOTAL_MAX,
  FRAME_OWN_BYTES,
  FRAME_PATIENCE_MS,
  STRANGER_LINES_MAX,
  STRANGER_WINDOW_MS,
} from '../limits.ts';
import type { Services } from '../services.ts';
import { FrameConnection } from './frame-connection.ts';

export class FrameServer {
  readonly #connections = new Set<FrameConnection>();
  readonly #memory: PeerMemory;
  readonly #pieces: BufferPool;
  #services: Services | undefined;
  #warnings: LimitedLog | undefined;
  #heartbeats: NodeJS.Timeout | undefined;
  #lastId = 0;

  /** @param onEnded A connection was ended because others needed what it held. */
  constructor({ pieces, onEnded }: { readonly pieces: BufferPool; readonly onEnded: () => void }) {
    this.#pieces = pieces;
    this.#memory = new PeerMemory({
      ...{ bytesMax: FRAME_BYTES_INFLIGHT_TOTAL_MAX, ownBytes: FRAME_OWN_BYTES },
      ...{ patienceMs: FRAME_PATIENCE_MS, onEnded },
    });
  }

  /** Payloads and answers of all connections, beyond what each has of its own. */
  get heldBytes(): number {
    return this.#memory.bytes;
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** From here on connections are taken. */
  attach(services: Services): void {
    this.#services = services;
    this.#warnings = new LimitedLog(services.log, {
      ...{ linesMax: STRANGER_LINES_MAX, windowMs: STRANGER_WINDOW_MS },
    });
    this.#heartbeats = setInterval(() => this.#beat(services), CONNECTED_HEARTBEAT_MS);
    this.#heartbeats.unref();
  }

  /** Takes over a socket whose request asked for an upgrade. */
  upgrade(
    request: IncomingMessage,
    socket: Socket,
    head: Buffer,
    admit: (request: IncomingMessage) => void,
  ): void {
    socket.on('error', () => socket.destroy());
    try {
      admit(request);
      const services = this.#checkUpgrade(request);
      const headers = ['Connection: Upgrade', `Upgrade: ${FRAMES_UPGRADE}`];
      const { socketPath } = services.node;
      // A path that is no plain text cannot travel in a header; then clients do without.
      if (socketPath !== null && /^[\x20-\x7e]+$/.test(socketPath))
        headers.push(`${HEADERS.socket}: ${socketPath}`);
      socket.write(`HTTP/1.1 101 Switching Protocols\r\n${headers.join('\r\n')}\r\n\r\n`);
      const connection = new FrameConnection({
        ...{ socket, services, memory: this.#memory, pieces: this.#pieces },
        warnings: this.#warnings as LimitedLog,
        name: `frames-${++this.#lastId}`,
        onClose: (closed) => this.#connections.delete(closed),
      });
      this.#connections.add(connection);
      connection.start(head);
    } catch (thrown) {
      if (!(thrown instanceof StoreError)) throw thrown;
      const { status, headers, body } = errorAnswer(thrown);
      const lines = Object.entries({
        ...headers,
        connection: 'close',
        'content-length': Buffer.byteLength(body),
      });
      socket.end(
        `HTTP/1.1 ${status} Refused\r\n${lines.map(([name, value]) => `${name}: ${value}`).join('\r\n')}\r\n\r\n${body}`,
      );
    }
  }

  sayGoingAway(reason: string): void {
    for (const connection of this.#connections) connection.sayGoingAway(reason);
  }

  /** Ends every connection, and what they own. */
  close(): void {
    clearInterval(this.#heartbeats);
    for (const connection of this.#connections) connection.end();
  }

  destroy(): void {
    for (const connection of this.#connections) connection.destroy();
  }

  #checkUpgrade(request: IncomingMessage): Services {
    const path = (request.url ?? '/').split('?', 1)[0];
    if (path !== PATHS.frames || request.headers.upgrade?.toLowerCase() !== FRAMES_UPGRADE)
      throw new StoreError(
        'request_invalid',
        `the only upgrade is GET ${PATHS.frames} with Upgrade: ${FRAMES_UPGRADE}`,
      );
    const services = this.#services;
    if (services === undefined) throw new StoreError('starting');
    if (services.node.state() === 'draining') throw new StoreError('draining');
    return services;
  }

  /** A job lives while a connection works for it. */
  #beat({ store }: Services): void {
    const jobIds = new Set<string>();
    for (const { jobId } of this.#connections) if (jobId !== '') jobIds.add(jobId);
    for (const jobId of jobIds) {
      try {
        store.heartbeat(jobId);
      } catch {
        // Not open yet, or ended: the client learns it from its own calls.
      }
    }
  }
}
