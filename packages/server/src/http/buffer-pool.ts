/**
 * Pieces of memory for bodies on their way through, recycled, and bounded in number: who finds none waits in line.
 * One transfer holds at most two, and takes the second only when it is free at once, so that transfers never wait for each other in a ring.
 */
import { assert } from '@ebb/protocol';

export class BufferPool {
  readonly pieceBytes: number;
  readonly #piecesMax: number;
  readonly #piecesKept: number;
  readonly #free: Buffer[] = [];
  readonly #waiting: ((piece: Buffer) => void)[] = [];
  #lent = 0;

  constructor(options: {
    readonly pieceBytes: number;
    readonly piecesMax: number;
    readonly piecesKept: number;
  }) {
    this.pieceBytes = options.pieceBytes;
    this.#piecesMax = options.piecesMax;
    this.#piecesKept = options.piecesKept;
  }

  get lent(): number {
    return this.#lent;
  }

  /** A piece now, or undefined. */
  tryTake(): Buffer | undefined {
    if (this.#lent >= this.#piecesMax) return undefined;
    this.#lent++;
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(this.pieceBytes);
  }

  take(): Buffer | Promise<Buffer> {
    return this.tryTake() ?? new Promise((resolve) => this.#waiting.push(resolve));
  }

  give(piece: Buffer): void {
    assert(piece.length === this.pieceBytes, 'a whole piece comes back');
    const next = this.#waiting.shift();
    if (next !== undefined) {
      next(piece);
      return;
    }
    this.#lent--;
    if (this.#free.length < this.#piecesKept) this.#free.push(piece);
  }
}
