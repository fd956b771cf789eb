/**
 * The connections of all listeners together, bounded.
 *
 * I1  When there are as many as may be, the one that has been silent for longest makes place for a new one: a connection on
 *     which nobody asks for anything keeps nobody out.
 * I2  Requests at work have all but a few places. Probes and the next silent ones find the rest: so `/healthz` answers
 *     whatever clients hold.
 */
import type { Socket } from 'node:net';
import { StoreError } from '@ebb/protocol';

export interface ConnectionsOptions {
  readonly connectionsMax: number;
  /** The part of these that is never at work but for probes. */
  readonly reserved: number;
  readonly onEnded?: () => void;
}

export class Connections {
  readonly #options: ConnectionsOptions;
  /** Nothing is asked on these; silent for longest first. */
  readonly #silent = new Set<Socket>();
  /** With how many requests. */
  readonly #atWork = new Map<Socket, number>();

  constructor(options: ConnectionsOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#silent.size + this.#atWork.size;
  }

  add(socket: Socket): void {
    if (this.size >= this.#options.connectionsMax) {
      const [oldest = socket] = this.#silent;
      this.#silent.delete(oldest);
      this.#options.onEnded?.();
      oldest.destroy();
      if (oldest === socket) return;
    }
    this.#silent.add(socket);
    socket.once('close', () => {
      this.#silent.delete(socket);
      this.#atWork.delete(socket);
    });
  }

  /** A request, or a connection that was upgraded. @throws {StoreError} `busy` */
  begin(socket: Socket, { isProbe = false }: { readonly isProbe?: boolean } = {}): void {
    const requests = this.#atWork.get(socket) ?? 0;
    const { connectionsMax, reserved } = this.#options;
    if (requests === 0 && !isProbe && this.#atWork.size >= connectionsMax - reserved)
      throw new StoreError('busy', `${this.#atWork.size} connections are at work`, {
        connections: this.#atWork.size,
        limit: connectionsMax - reserved,
      });
    this.#silent.delete(socket);
    this.#atWork.set(socket, requests + 1);
  }

  end(socket: Socket): void {
    const requests = this.#atWork.get(socket);
    if (requests === undefined) return; // closed
    if (requests > 1) this.#atWork.set(socket, requests - 1);
    else {
      this.#atWork.delete(socket);
      if (!socket.destroyed) this.#silent.add(socket);
    }
  }
}
