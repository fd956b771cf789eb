/** How fast a number of bytes grows, from samples of the last minute. */
const WINDOW_MS = 60_000;

export class GrowthRate {
  readonly #samples: { readonly atMs: number; readonly bytes: number }[] = [];

  note(bytes: number, atMs: number): void {
    this.#samples.push({ atMs, bytes });
    while ((this.#samples[0]?.atMs ?? atMs) < atMs - WINDOW_MS) this.#samples.shift();
  }

  /** Seconds until it is `limitBytes`; null while it does not grow. */
  secondsUntil(limitBytes: number): number | null {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    if (first === undefined || last === undefined) return null;
    const bytesPerMs = (last.bytes - first.bytes) / Math.max(1, last.atMs - first.atMs);
    if (bytesPerMs <= 0) return null;
    return Math.max(0, limitBytes - last.bytes) / bytesPerMs / 1000;
  }
}
