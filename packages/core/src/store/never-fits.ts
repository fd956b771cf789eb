import { StoreError } from '@ebb/protocol';
import type { ObjectRef } from './object-store.ts';

/** The refusal of what is larger than its tier. No wait makes room for it, so its retry class is `never`. */
export function neverFits(
  { bucket, key }: ObjectRef,
  what: { readonly needBytes: number; readonly capacityBytes: number; readonly where: string },
): StoreError {
  const { needBytes, capacityBytes, where } = what;
  return new StoreError(
    'tier_full',
    `${bucket}/${key} needs ${needBytes} bytes, which can never fit: ${where} has ${capacityBytes}`,
    { needBytes, capacityBytes, neverFits: true },
  );
}
