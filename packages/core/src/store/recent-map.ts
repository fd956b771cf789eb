/**
 * A map that forgets. It keeps at least the last `keepMin` keys that were set, and at most twice as many.
 *
 * Two generations instead of one map with its oldest key deleted at each insertion: V8 keeps deleted entries in place until
 * a rehash, so finding the oldest key walks over all of them, and that showed up as a tenth of the cost of a commit.
 */
export class RecentMap<K, V> {
  readonly #keepMin: number;
  #young = new Map<K, V>();
  #old = new Map<K, V>();

  constructor(keepMin: number) {
    this.#keepMin = keepMin;
  }

  get(key: K): V | undefined {
    return this.#young.get(key) ?? this.#old.get(key);
  }

  set(key: K, value: V): void {
    this.#young.set(key, value);
    if (this.#young.size < this.#keepMin) return;
    this.#old = this.#young;
    this.#young = new Map();
  }

  delete(key: K): void {
    this.#young.delete(key);
    this.#old.delete(key);
  }
}
