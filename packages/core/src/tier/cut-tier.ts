/**
 * A tier 2 around a tier 2, whose calls can all be given up at once: a place that does not answer must not hold up who stops the
 * node. What was asked of the place may still happen there.
 *
 * C1  After `cut`, calls under way fail at once, and later ones before anything is asked. The error is ambiguous, and a `read`
 *     that failed so may still write into its target: nobody else may be given that memory.
 */
import { StoreError } from '@ebb/protocol';
import type { RemoteTier } from './tier.ts';

export interface CutTier {
  readonly tier: RemoteTier;
  readonly isCut: boolean;
  cut(): void;
}

export function createCutTier(inner: RemoteTier): CutTier {
  const waiting = new Set<(error: StoreError) => void>();
  let isCut = false;
  const call = async <T>(work: () => Promise<T>): Promise<T> => {
    if (isCut) throw given();
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    waiting.add(reject);
    work().then(resolve, reject);
    try {
      return await promise;
    } finally {
      waiting.delete(reject);
    }
  };
  const list = async function* list(
    ...args: Parameters<RemoteTier['list']>
  ): ReturnType<RemoteTier['list']> {
    const entries = inner.list(...args)[Symbol.asyncIterator]();
    try {
      for (;;) {
        const next = await call(async () => await entries.next());
        if (next.done === true) return;
        yield next.value;
      }
    } finally {
      // Not waited for: it may be what hangs.
      entries.return?.().catch(() => undefined);
    }
  };
  const tier: RemoteTier = {
    location: inner.location,
    put: (...args) => call(() => inner.put(...args)),
    copy: (...args) => call(() => inner.copy(...args)),
    read: (...args) => call(() => inner.read(...args)),
    fetch: (...args) => call(() => inner.fetch(...args)),
    head: (...args) => call(() => inner.head(...args)),
    delete: (...args) => call(() => inner.delete(...args)),
    presign: (...args) => call(() => inner.presign(...args)),
    accepts: (name) => inner.accepts(name),
    list,
    close: () => inner.close(),
  };
  return {
    tier,
    get isCut() {
      return isCut;
    },
    cut: () => {
      isCut = true;
      for (const reject of waiting) reject(given());
    },
  };
}

function given(): StoreError {
  const message =
    'the node stops, and tier 2 has not answered: what was written is kept here, and is sent after the next start';
  return new StoreError('io_failed', message, { retryable: true });
}
