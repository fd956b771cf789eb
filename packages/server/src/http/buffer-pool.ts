/**
 * Pieces of memory for bodies on their way through: recycled, and bounded in number for all connections together.
 *
 * I1  A piece is lent while bytes move, never while somebody waits for a peer without end: a sender's piece comes back
 *     within a moment, full or not (receive-body.ts, I3).
 * I2  A reader may stop with a piece of his on its way out, and nobody can take that back. So answers have a part of the
 *     pieces only: senders always find some. An answer that finds none goes through a small buffer of its own
 *     (send-range.ts), and so waits for nobody.
 * I3  While several peers hold pieces of answers, none has more than half of that part.
 * I4  Senders are served in the order in which they came.
 * I5  Pieces that come back are kept for what goes on now, and beyond `piecesKept` not longer: a fresh piece costs more than
 *     the copy into it, and every second those that nobody needed in it are given up.
 *
 * Pieces lie in shared memory: a worker may compute on them while they wait for the disk.
 */
import { assert } from '@ebb/protocol';

export interface BufferPoolOptions {
  readonly pieceBytes: number;
  readonly piecesMax: number;
  /** When nothing goes on. */
  readonly piecesKept: number;
  /** The part of `piecesMax` that answers may hold. */
  readonly answerPiecesMax: number;
}

/** Who holds a piece: a sender of a body, or the peer who reads an answer. */
type Holder = { readonly use: 'body' } | { readonly use: 'answer'; readonly peer: string };
const SENDER: Holder = { use: 'body' };
/** From one look at what is of use to the next (I5). */
const TRIM_MS = 1000;

export class BufferPool {
  readonly #options: BufferPoolOptions;
  readonly #free: Buffer[] = [];
  readonly #lent = new Map<Buffer, Holder>();
  readonly #waiting: ((piece: Buffer) => void)[] = [];
  /** Pieces of answers, by the peer who reads them. */
  readonly #ofPeers = new Map<string, number>();
  #answers = 0;
  /** At once, since the last look. */
  #lentMost = 0;
  #trimTimer: NodeJS.Timeout | undefined;

  constructor(options: BufferPoolOptions) {
    assert(options.answerPiecesMax < options.piecesMax, 'senders have pieces of their own');
    this.#options = options;
  }

  get pieceBytes(): number {
    return this.#options.pieceBytes;
  }

  /** Now, by what they are lent for. */
  get lent(): { readonly body: number; readonly answer: number } {
    return { body: this.#lent.size - this.#answers, answer: this.#answers };
  }

  /** Senders in line. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** For a body that comes in: a piece now, or undefined. */
  tryTake(): Buffer | undefined {
    return this.#waiting.length > 0 ? undefined : this.#lend(SENDER);
  }

  /** For a body that comes in, of which there is something to put into it. */
  take(): Buffer | Promise<Buffer> {
    return this.tryTake() ?? new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** For an answer, when there is something to read into it: a piece now, or undefined. */
  tryTakeForAnswer(peer: string): Buffer | undefined {
    const { answerPiecesMax } = this.#options;
    const held = this.#ofPeers.get(peer) ?? 0;
    if (this.#answers >= answerPiecesMax || this.#waiting.length > 0) return undefined;
    const isAlone = this.#ofPeers.size === (held > 0 ? 1 : 0);
    if (!isAlone && held * 2 >= answerPiecesMax) return undefined; // I3
    const piece = this.#lend({ use: 'answer', peer });
    if (piece === undefined) return undefined;
    this.#answers++;
    this.#ofPeers.set(peer, held + 1);
    return piece;
  }

  /** `mayBeWritten`: a call that failed may still write into it, so nobody else gets it. */
  give(piece: Buffer, { mayBeWritten = false } = {}): void {
    const holder = this.#lent.get(piece);
    assert(holder !== undefined, 'what comes back was lent, and comes back once');
    this.#lent.delete(piece);
    if (holder.use === 'answer') this.#endAnswer(holder.peer);
    const next = this.#waiting.shift();
    if (next !== undefined) {
      const other = mayBeWritten ? this.#make() : piece;
      this.#lent.set(other, SENDER);
      next(other);
      return;
    }
    if (mayBeWritten) return;
    this.#free.push(piece);
    this.#trimLater();
  }

  /** I5 */
  #trimLater(): void {
    if (this.#free.length <= this.#options.piecesKept) return;
    this.#trimTimer ??= setTimeout(() => {
      this.#trimTimer = undefined;
      const kept = Math.max(this.#options.piecesKept, this.#lentMost - this.#lent.size);
      this.#lentMost = this.#lent.size;
      if (this.#free.length > kept) this.#free.length = kept;
      this.#trimLater();
    }, TRIM_MS).unref();
  }

  #lend(holder: Holder): Buffer | undefined {
    if (this.#lent.size >= this.#options.piecesMax) return undefined;
    const piece = this.#free.pop() ?? this.#make();
    this.#lent.set(piece, holder);
    this.#lentMost = Math.max(this.#lentMost, this.#lent.size);
    return piece;
  }

  #make(): Buffer {
    return Buffer.from(new SharedArrayBuffer(this.pieceBytes));
  }

  #endAnswer(peer: string): void {
    this.#answers--;
    const left = (this.#ofPeers.get(peer) as number) - 1;
    if (left === 0) this.#ofPeers.delete(peer);
    else this.#ofPeers.set(peer, left);
  }
}
