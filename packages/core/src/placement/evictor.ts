/** Which blobs leave memory next. Pure: placement/spiller.ts moves them. */
export interface Candidate {
  readonly blobId: number;
  readonly allocatedBytes: number;
}

/**
 * Picks the least recently used blobs until `wantedBytes` are covered. `candidates` come least recent first; `isHeld` says
 * that a blob may not move now (leased, pinned, already moving).
 */
export function pickVictims(
  candidates: Iterable<Candidate>,
  wantedBytes: number,
  isHeld: (blobId: number) => boolean,
): number[] {
  const victims: number[] = [];
  let covered = 0;
  for (const candidate of candidates) {
    if (covered >= wantedBytes) break;
    if (isHeld(candidate.blobId)) continue;
    victims.push(candidate.blobId);
    covered += candidate.allocatedBytes;
  }
  return victims;
}

/** Exact least-recently-used order of the blobs in tier 0; bounded by what tier 0 holds. */
export class RecencyIndex implements Iterable<Candidate> {
  /** Bytes by blob: one entry for each file of tier 0, and no object beside it. */
  readonly #order = new Map<number, number>();

  get size(): number {
    return this.#order.size;
  }
  has(blobId: number): boolean {
    return this.#order.has(blobId);
  }
  add(blobId: number, allocatedBytes: number): void {
    this.#order.delete(blobId);
    this.#order.set(blobId, allocatedBytes);
  }
  touch(blobId: number): void {
    const allocatedBytes = this.#order.get(blobId);
    if (allocatedBytes !== undefined) this.add(blobId, allocatedBytes);
  }
  remove(blobId: number): void {
    this.#order.delete(blobId);
  }
  *[Symbol.iterator](): Generator<Candidate> {
    for (const [blobId, allocatedBytes] of this.#order) yield { blobId, allocatedBytes };
  }
}
