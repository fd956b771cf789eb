/**
 * Memory that waits for one peer and cannot be given back before that peer moves: an answer that is held whole until it is
 * taken, a request that is gathered before it can be read. Counted before it is taken, until it is free again.
 *
 * I1  Holds above `ownBytes` stay within `bytesMax` together. What is smaller is always granted, and is no part of that: a
 *     peer that asks for little is served whatever others do. So all is bounded by `bytesMax`, and `ownBytes` a connection.
 *     One that is larger than all of it is granted when it is alone.
 * I2  Who finds no room does not wait for a stopped peer: the hold that has stood still for longest is ended, once it is
 *     older than `patienceMs`.
 */
import { StoreError } from '@ebb/protocol';

export interface PeerMemoryOptions {
  readonly bytesMax: number;
  readonly ownBytes: number;
  readonly patienceMs: number;
  /** @default performance.now */
  readonly now?: () => number;
  /** A peer was ended to make room. */
  readonly onEnded?: () => void;
}

/** Changed by PeerMemory alone. */
export interface Hold {
  bytes: number;
  /** When it moved last; Infinity for what waits for us, not for the peer. */
  sinceMs: number;
  readonly end: () => void;
}

export class PeerMemory {
  readonly #options: PeerMemoryOptions;
  readonly #now: () => number;
  /** Those above `ownBytes`; what moved last comes last. */
  readonly #large = new Set<Hold>();
  #bytes = 0;

  constructor(options: PeerMemoryOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
  }

  /** What large holds take now. */
  get bytes(): number {
    return this.#bytes;
  }

  get isFull(): boolean {
    return this.#bytes >= this.#options.bytesMax;
  }

  /**
   * @param end Ends the peer, so that its memory is free soon after. By then the hold is over.
   * @throws {StoreError} `busy` when others hold all of it, and none of them is to be ended yet
   */
  hold(bytes: number, end: () => void): Hold {
    const hold = { bytes: 0, sinceMs: this.#now(), end };
    this.resize(hold, bytes);
    return hold;
  }

  /** For what waits for us, such as a call at work: it is counted, and nobody is ended for it. */
  holdOurs(): Hold {
    return { bytes: 0, sinceMs: Number.POSITIVE_INFINITY, end: () => undefined };
  }

  /** @throws {StoreError} `busy`, and the hold stays as it was */
  resize(hold: Hold, bytes: number): void {
    const more = this.#shared(bytes) - this.#shared(hold.bytes);
    if (more > 0) this.#makeRoom(more, hold);
    this.#set(hold, bytes, more);
  }

  /** For what is there already: makes room if it can, and counts it in any case. */
  charge(hold: Hold, bytes: number): void {
    try {
      this.resize(hold, bytes);
    } catch {
      this.#set(hold, bytes, this.#shared(bytes) - this.#shared(hold.bytes));
    }
  }

  /** It moved. */
  touch(hold: Hold): void {
    hold.sinceMs = this.#now();
    if (this.#large.delete(hold)) this.#large.add(hold);
  }

  release(hold: Hold): void {
    this.resize(hold, 0);
  }

  /** Before something is made of which nobody knows yet how large it becomes. @throws {StoreError} `busy` */
  assertRoom(): void {
    this.#makeRoom(1, undefined);
  }

  #set(hold: Hold, bytes: number, more: number): void {
    hold.bytes = bytes;
    this.#bytes += more;
    if (this.#shared(bytes) === 0) {
      if (more < 0) this.#large.delete(hold);
    } else if (!this.#large.has(hold)) {
      if (Number.isFinite(hold.sinceMs)) hold.sinceMs = this.#now(); // it begins to be in the way
      this.#large.add(hold);
    }
  }

  #shared(bytes: number): number {
    return bytes > this.#options.ownBytes ? bytes : 0;
  }

  #makeRoom(bytes: number, own: Hold | undefined): void {
    const { bytesMax, patienceMs } = this.#options;
    while (this.#bytes + bytes > bytesMax) {
      if (this.#large.size === (own !== undefined && this.#large.has(own) ? 1 : 0)) return;
      const stopped = this.#findStopped(own, this.#now() - patienceMs);
      if (stopped === undefined)
        throw new StoreError(
          'busy',
          `${this.#bytes} bytes wait for peers who do not take or send them, of at most ${bytesMax}`,
          { heldBytes: this.#bytes, limitBytes: bytesMax },
        );
      this.release(stopped);
      this.#options.onEnded?.();
      stopped.end();
    }
  }

  #findStopped(own: Hold | undefined, sinceMsMax: number): Hold | undefined {
    for (const hold of this.#large) if (hold !== own && hold.sinceMs <= sinceMsMax) return hold;
    return undefined;
  }
}
