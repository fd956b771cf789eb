/**
 * Counts bytes against a limit. Room that a tier owns is taken with `tryReserve`; work in flight waits with `reserve`.
 *
 * I1  Nothing is granted that brings the sum above the capacity.
 * I2  Those who wait are served in order: a large request is not starved by small ones behind it, and `tryReserve` does
 *     not jump the queue.
 */
import { assert, StoreError } from '@ebb/protocol';

/** Room held; given back once, by `release` or at the end of the `using` block. */
export interface ByteReservation extends Disposable, AsyncDisposable {
  readonly bytes: number;
  release(): void;
}

interface Waiter {
  readonly bytes: number;
  readonly grant: () => void;
}

export interface ByteBudgetOptions {
  readonly capacityBytes: number;
  /** How many may wait; the next gets `busy`. */
  readonly waitersMax?: number;
}

export class ByteBudget {
  #capacityBytes: number;
  readonly #waitersMax: number;
  #usedBytes = 0;
  readonly #waiters = new Set<Waiter>();

  constructor({ capacityBytes, waitersMax = 1024 }: ByteBudgetOptions) {
    assertBytes(capacityBytes);
    this.#capacityBytes = capacityBytes;
    this.#waitersMax = waitersMax;
  }

  get capacityBytes(): number {
    return this.#capacityBytes;
  }

  /** Never less than it was: what was granted stays granted. */
  growTo(capacityBytes: number): void {
    assertBytes(capacityBytes);
    if (capacityBytes <= this.#capacityBytes) return;
    this.#capacityBytes = capacityBytes;
    this.#grantWaiting();
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Never negative, also while `chargeFound` has brought the sum above the capacity. */
  get freeBytes(): number {
    return Math.max(0, this.capacityBytes - this.#usedBytes);
  }

  get waiting(): number {
    return this.#waiters.size;
  }

  tryReserve(bytes: number): boolean {
    assertBytes(bytes);
    if (this.#waiters.size > 0 || bytes > this.capacityBytes - this.#usedBytes) return false;
    this.#usedBytes += bytes;
    return true;
  }

  /**
   * Counts bytes that are there already, whatever the capacity says: files found after a restart with a smaller one.
   * Until enough was released, nothing more is granted.
   */
  chargeFound(bytes: number): void {
    assertBytes(bytes);
    this.#usedBytes += bytes;
  }

  release(bytes: number): void {
    assertBytes(bytes);
    assert(bytes <= this.#usedBytes, 'no more bytes are released than were reserved');
    this.#usedBytes -= bytes;
    this.#grantWaiting();
  }

  /** Waits for room. @throws `too_large` for more than the capacity, `busy` when too many wait, `aborted`. */
  async reserve(bytes: number, signal?: AbortSignal): Promise<ByteReservation> {
    if (signal?.aborted === true) throw abortedWaiting(signal);
    if (bytes > this.capacityBytes) {
      const sizes = { needBytes: bytes, capacityBytes: this.capacityBytes };
      throw new StoreError(
        'too_large',
        `${bytes} bytes never fit into ${this.capacityBytes}`,
        sizes,
      );
    }
    if (!this.tryReserve(bytes)) await this.#waitFor(bytes, signal);
    return this.#reservation(bytes);
  }

  #waitFor(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    if (this.#waiters.size >= this.#waitersMax) {
      const waiting = this.#waiters.size;
      throw new StoreError('busy', `${waiting} others wait for room already`, { waiting });
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiters.delete(waiter);
        reject(abortedWaiting(signal as AbortSignal));
        // It may have been the large one at the head that held back smaller ones.
        this.#grantWaiting();
      };
      const waiter: Waiter = {
        bytes,
        grant: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve();
        },
      };
      this.#waiters.add(waiter);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  #grantWaiting(): void {
    for (const waiter of this.#waiters) {
      if (waiter.bytes > this.capacityBytes - this.#usedBytes) return;
      // Counted before the waiter runs, so that nobody takes the room in between.
      this.#usedBytes += waiter.bytes;
      this.#waiters.delete(waiter);
      waiter.grant();
    }
  }

  #reservation(bytes: number): ByteReservation {
    let isHeld = true;
    const release = (): void => {
      if (!isHeld) return;
      isHeld = false;
      this.release(bytes);
    };
    return {
      bytes,
      release,
      [Symbol.dispose]: release,
      [Symbol.asyncDispose]: async () => release(),
    };
  }
}

function assertBytes(bytes: number): void {
  assert(Number.isSafeInteger(bytes) && bytes >= 0, 'bytes are a whole number, not negative');
}

function abortedWaiting(signal: AbortSignal): StoreError {
  return new StoreError('aborted', 'the caller gave up waiting for room', {}, signal.reason);
}
