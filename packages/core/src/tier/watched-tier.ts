/**
 * A tier 2 around a tier 2, which says in the node's conditions whether the place answers, and since when not.
 *
 * W1  A call that gets no answer, or 5xx, begins the condition; any answer ends it.
 * W2  A refusal (credentials, no room) begins it as well, when it comes several times in a row: one object that may not be seen is
 *     no matter of the place. Only a call of the same kind that succeeds ends it: a store that is full answers to reads.
 * W3  While nobody asks, the watch does, from time to time: so it ends by itself.
 */
import { isStoreError, type StoreError } from '@ebb/protocol';
import type { Clock } from '../clock.ts';
import type { Conditions } from '../store/conditions.ts';
import type { RemoteTier } from './tier.ts';

const REFUSALS_MIN = 3;
const LOOK_MS = 15_000;
const MAKE_ROOM =
  'Make room in that place, or raise its quota: delete objects, or what others put there. It ends by itself.';

type Kind = 'put' | 'delete' | 'read';

export interface WatchOptions {
  readonly conditions: Conditions;
  readonly clock: Clock;
  /** OWN_REMOTE, or as buckets name the place. */
  readonly subject: string;
}

export function createWatchedTier(inner: RemoteTier, options: WatchOptions): RemoteTier {
  const watch = new Watch(inner, options);
  const { location } = inner;
  return {
    location,
    put: (name, ...rest) => watch.call('put', name, () => inner.put(name, ...rest)),
    copy: (from, to, run) => watch.call('put', to, () => inner.copy(from, to, run)),
    read: (name, ...rest) => watch.call('read', name, () => inner.read(name, ...rest)),
    fetch: (name, ...rest) => watch.call('read', name, () => inner.fetch(name, ...rest)),
    head: (name) => watch.call('read', name, () => inner.head(name)),
    delete: (name, ...rest) => watch.call('delete', name, () => inner.delete(name, ...rest)),
    presign: (name, how) => inner.presign(name, how),
    accepts: (name) => inner.accepts(name),
    list: (...args) => watch.list(...args),
    close: async () => {
      watch.close();
      await inner.close();
    },
  };
}

class Watch {
  readonly #inner: RemoteTier;
  readonly #options: WatchOptions;
  readonly #stop = new AbortController();
  /** Kinds of calls that fail (W2); `any`: there is no answer at all. */
  readonly #failing = new Set<Kind | 'any'>();
  readonly #refusals = new Map<Kind, number>();
  /** The name that the last call without an answer asked for. */
  #name = '';
  #isLooking = false;

  constructor(inner: RemoteTier, options: WatchOptions) {
    this.#inner = inner;
    this.#options = options;
  }

  async call<T>(kind: Kind, name: string, work: () => Promise<T>): Promise<T> {
    try {
      const result = await work();
      this.#answered(kind);
      return result;
    } catch (error) {
      this.#failed(kind, name, error);
      throw error;
    }
  }

  async *list(...args: Parameters<RemoteTier['list']>): ReturnType<RemoteTier['list']> {
    try {
      yield* this.#inner.list(...args);
    } catch (error) {
      this.#failed('read', args[0], error);
      throw error;
    }
    this.#answered('read');
  }

  close(): void {
    this.#stop.abort();
  }

  #answered(kind: Kind): void {
    this.#refusals.delete(kind);
    if (this.#failing.size === 0) return;
    this.#failing.delete(kind);
    this.#failing.delete('any');
    this.#leaveIfWell();
  }

  #leaveIfWell(): void {
    const { conditions, subject } = this.#options;
    if (this.#failing.size === 0) conditions.leave('remote_unreachable', subject);
  }

  #failed(kind: Kind, name: string, error: unknown): void {
    if (this.#stop.signal.aborted || !isStoreError(error) || error.code === 'aborted') return;
    const why = findFailure(error);
    if (why === undefined) {
      this.#answered(kind); // about this object alone
      return;
    }
    if (why === 'refused') {
      this.#failing.delete('any');
      const refusals = (this.#refusals.get(kind) ?? 0) + 1;
      this.#refusals.set(kind, refusals);
      if (refusals < REFUSALS_MIN) return this.#leaveIfWell();
    }
    this.#failing.add(why === 'refused' ? kind : 'any');
    this.#name = name;
    const { conditions, subject } = this.#options;
    const reason = `${this.#inner.location}: ${error.message}`;
    const advice = error.code === 'tier_full' ? { whatToDo: MAKE_ROOM } : {};
    conditions.enter('remote_unreachable', subject, { reason, error, ...advice });
    if (why === 'silent') void this.#lookLater();
  }

  /** W3 */
  async #lookLater(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    const { clock } = this.#options;
    const { signal } = this.#stop;
    try {
      while (this.#failing.has('any') && !signal.aborted) {
        await clock.sleep(LOOK_MS, signal);
        if (!this.#failing.has('any')) return;
        await this.call('read', this.#name, () => this.#inner.head(this.#name)).catch(
          () => undefined,
        );
      }
    } catch {
      // Closed.
    } finally {
      this.#isLooking = false;
    }
  }
}

/** `silent`: no answer, that the store cannot now, or 404 from who is no store; `refused`: an answer, and a no. Undefined: it is about one object. */
function findFailure(error: StoreError): 'silent' | 'refused' | undefined {
  if (error.code === 'tier_full') return 'refused';
  if (error.code !== 'io_failed') return undefined;
  const { status } = error.details;
  if (status === 404) return 'silent';
  return typeof status === 'number' && status >= 400 && status < 500 ? 'refused' : 'silent';
}
