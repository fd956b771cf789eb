/** Runs work with the same key one after the other, in order of arrival; different keys run side by side. Keeps nothing when idle. */
export class Serial<K> {
  readonly #tails = new Map<K, Promise<unknown>>();

  get size(): number {
    return this.#tails.size;
  }

  async run<T>(key: K, work: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key);
    // A failure belongs to whoever asked for that work, not to the next in line.
    const own = before === undefined ? work() : before.then(work, work);
    this.#tails.set(key, own);
    try {
      return await own;
    } finally {
      if (this.#tails.get(key) === own) this.#tails.delete(key);
    }
  }

  /** Resolves when all that was started by now has ended, well or not. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#tails.values());
  }
}
