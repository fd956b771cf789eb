/** Bytes that the calls of all connections hold, so that many connections together stay within bounds too. */
export interface Waiting {
  resumeIfRoom(): void;
}

export class ByteGate {
  readonly #bytesMax: number;
  readonly #waiting = new Set<Waiting>();
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get isFull(): boolean {
    return this.#bytes > this.#bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  hold(bytes: number): void {
    const wasFull = this.isFull;
    this.#bytes += bytes;
    if (wasFull && !this.isFull) for (const waiting of [...this.#waiting]) waiting.resumeIfRoom();
  }

  wait(waiting: Waiting): void {
    this.#waiting.add(waiting);
  }

  stopWaiting(waiting: Waiting): void {
    this.#waiting.delete(waiting);
  }
}
