import { isStoreError } from '@ebb/protocol';

/** The code that the call failed with, or `none`. @throws what is not a StoreError: that is a mistake of ours */
export async function codeOf(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return 'none';
  } catch (error) {
    if (isStoreError(error)) return error.code;
    throw error;
  }
}
