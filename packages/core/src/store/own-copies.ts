/**
 * Whether something of this node lies, or lay, in its own tier 2: whoever opens that must find it there.
 *
 * O1  The first put there is noted before it is made, by the place: copies of which the catalog keeps no row of their own (an
 *     object whose bytes lie in parts of blobs, a deletion that was not answered) count by that.
 * O2  A catalog that is older than the note says it by its rows.
 */
import { isStoreError } from '@ebb/protocol';
import type { Catalog } from '../catalog/catalog.ts';
import type { RemoteTier } from '../tier/tier.ts';

/** Persisted, keep stable. The key is the place, as the configuration names it. */
const NAMESPACE = 'own-tier2';

type Facts = Pick<Catalog, 'findRecord' | 'putRecord' | 'hasOwnCopies'>;

export async function isOwnPlaceKnown(catalog: Facts, place: string): Promise<boolean> {
  if ((await catalog.findRecord(NAMESPACE, place)) !== undefined) return true;
  return await catalog.hasOwnCopies();
}

/** O1 */
export function noteOwnCopies(inner: RemoteTier, catalog: Facts, place: string): RemoteTier {
  let noted: Promise<void> | undefined;
  const note = async (): Promise<void> => {
    if ((await catalog.findRecord(NAMESPACE, place)) === undefined)
      await catalog.putRecord(NAMESPACE, place, new Uint8Array());
  };
  const before = async <T>(put: () => Promise<T>): Promise<T> => {
    noted ??= note().catch((error: unknown) => {
      noted = undefined;
      // A catalog without room takes no note. The put may be what makes room: it goes on, and the next one tries again.
      if (!isStoreError(error, 'tier_full')) throw error;
    });
    await noted;
    return await put();
  };
  return {
    location: inner.location,
    put: (...args) => before(() => inner.put(...args)),
    copy: (...args) => before(() => inner.copy(...args)),
    read: (...args) => inner.read(...args),
    fetch: (...args) => inner.fetch(...args),
    head: (...args) => inner.head(...args),
    delete: (...args) => inner.delete(...args),
    presign: (...args) => inner.presign(...args),
    accepts: (name) => inner.accepts(name),
    list: (...args) => inner.list(...args),
    close: () => inner.close(),
  };
}
