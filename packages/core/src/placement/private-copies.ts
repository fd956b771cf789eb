/**
 * Copies under private names in tier 2 (remote-names.ts) that no blob refers to, not yet or no more. A crash or an outage
 * between such a copy and its record would leave it there for ever, and nobody would know it.
 *
 * O1  Before a copy is made, or its last reference taken away, the catalog knows its name, and keeps it over a power cut. The
 *     change that records the copy forgets the name (Catalog.setBlobCopies).
 * O2  What lies under a name that the catalog still knows goes, unless a blob refers to it: when the work on it has ended, and
 *     after a start. What fails is tried again, after a growing pause (pauses.ts).
 * O3  One at a time works on a name: what is being made is not removed.
 *
 * The movers rely on it (blob-placement.ts, mirror.ts), and what drops broken copies (store/read-path.ts).
 */
import { isStoreError } from '@ebb/protocol';
import type { Catalog } from '../catalog/catalog.ts';
import type { Clock } from '../clock.ts';
import type { RemoteTier } from '../tier/tier.ts';
import { Pauses, type Subject } from './pauses.ts';
import { targetOf } from './remote-names.ts';

const PAGE = 256;
const LIST_FAILED_PAUSE_MS = 30_000;

export interface PrivateCopiesParts {
  readonly catalog: Catalog;
  readonly remote: RemoteTier;
  readonly clock: Clock;
  readonly onError: (error: unknown, subject: string) => void;
}

export class PrivateCopies {
  readonly #parts: PrivateCopiesParts;
  readonly #stop = new AbortController();
  readonly #pauses: Pauses;
  /** Names that are worked on (O3). */
  readonly #busy = new Map<string, Promise<unknown>>();
  #sweeping: Promise<void> | undefined;
  #isDirty = false;

  constructor(parts: PrivateCopiesParts) {
    this.#parts = parts;
    this.#pauses = new Pauses({
      clock: parts.clock,
      signal: this.#stop.signal,
      onOver: () => this.wake(),
    });
  }

  /**
   * Runs `work`, which makes and records a copy under the name, or takes the last reference to it away. Afterwards nothing lies
   * there that no blob refers to, or it goes later, if tier 2 does not answer.
   */
  during<T>(name: string, work: () => Promise<T>): Promise<T> {
    const { catalog } = this.#parts;
    return this.#exclusive(name, async () => {
      await catalog.notePrivateCopy(name);
      await catalog.durable();
      let result: T;
      try {
        result = await work();
      } catch (error) {
        // What does not answer now is not asked at once again. Of an outage the catalog knows the names, not this.
        if (isStoreError(error, 'io_failed'))
          this.#pauses.failed({ ...subjectOf(name), name: '' }, { isAway: true });
        else await this.#removeUnused(name);
        throw error;
      }
      await this.#removeUnused(name);
      return result;
    });
  }

  /** There may be copies of an earlier run, or a pause is over. */
  wake(): void {
    this.#isDirty = true;
    if (this.#stop.signal.aborted) return;
    this.#sweeping ??= this.#sweep().finally(() => {
      this.#sweeping = undefined;
      if (this.#isDirty) this.wake();
    });
  }

  /** What is left stays noted, for the next start. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#sweeping;
    await Promise.allSettled([...this.#busy.values()]);
  }

  async #sweep(): Promise<void> {
    const { catalog, onError } = this.#parts;
    this.#isDirty = false;
    try {
      for (let after = ''; ; ) {
        const page = await catalog.listPrivateCopies({ after, limit: PAGE });
        if (page.length === 0) return;
        for (const name of page) {
          after = name;
          if (this.#stop.signal.aborted) return;
          if (this.#busy.has(name) || !this.#pauses.mayTry(subjectOf(name))) continue;
          await this.#exclusive(name, () => this.#removeUnused(name));
        }
      }
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      onError(error, 'private copies');
      this.#pauses.later(LIST_FAILED_PAUSE_MS);
    }
  }

  /** Never rejects (O2). */
  async #removeUnused(name: string): Promise<void> {
    const { catalog, remote, onError } = this.#parts;
    try {
      if (!(await catalog.hasPrivateCopy(name))) return;
      if ((await catalog.listBlobsStoredAs(name)).length === 0) await remote.delete(name);
      await catalog.dropPrivateCopy(name);
      this.#pauses.succeeded(subjectOf(name));
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#pauses.failed(subjectOf(name), { isAway: isStoreError(error, 'io_failed') });
      onError(error, name);
    }
  }

  async #exclusive<T>(name: string, work: () => Promise<T>): Promise<T> {
    const before = this.#busy.get(name);
    const run = (async () => {
      if (before !== undefined) await before.catch(() => undefined);
      return await work();
    })();
    this.#busy.set(name, run);
    try {
      return await run;
    } finally {
      if (this.#busy.get(name) === run) this.#busy.delete(name);
    }
  }
}

function subjectOf(name: string): Subject {
  return { name, target: targetOf(name) };
}
