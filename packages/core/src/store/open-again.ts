import { isStoreError } from '@ebb/protocol';

const TRIES_MAX = 4;

/**
 * Work that opens an object, reads it, and has no effect before it has read it all. A version that went meanwhile
 * (`superseded`) is no reason to fail: what the name has now is opened. @throws `superseded` when each version went
 */
export async function openingAgain<T>(work: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++)
    try {
      return await work();
    } catch (error) {
      if (!isStoreError(error, 'superseded') || tries === TRIES_MAX) throw error;
    }
}
