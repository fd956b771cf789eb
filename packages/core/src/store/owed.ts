/**
 * What a change still owes once others see it: the sync of the catalog, the copy in tier 2, the files that it set free.
 *
 * I1  A failure from there on never says that nothing was changed, nor leaves it open: a caller who repeats what "certainly was
 *     not applied" would do it twice. It says `not_yet_durable`, with the cause; what is owed goes on in the background.
 */
import { isStoreError, StoreError, type StoreErrorCode } from '@ebb/protocol';

/** They say more: that the bytes themselves are gone, or that somebody has said it all already. */
const SAY_MORE: readonly StoreErrorCode[] = ['data_lost', 'data_corrupt', 'not_yet_durable'];

/** @throws {StoreError} `not_yet_durable` (I1), `data_lost`, `data_corrupt` */
export async function payOwed<T>(
  { bucket, key }: { readonly bucket: string; readonly key: string },
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (isStoreError(error) && SAY_MORE.includes(error.code)) throw error;
    const why = isStoreError(error) ? `${error.code}: ${error.message}` : String(error);
    const message = `${bucket}/${key} is changed and seen, but what was asked for does not hold yet: ${why}`;
    const cause = isStoreError(error) ? error.code : 'internal';
    throw new StoreError('not_yet_durable', message, { bucket, key, cause }, error);
  }
}
