import { StoreError } from '@ebb/protocol';
import { OBJECT_BYTES_MAX } from './limits.ts';

/** @throws {StoreError} `request_invalid` for what is no size at all, `too_large` */
export function assertObjectBytes(
  bytes: number,
  { bucket, key }: { readonly bucket: string; readonly key: string },
): void {
  if (!Number.isFinite(bytes) || bytes < 0 || !Number.isInteger(bytes))
    throw new StoreError('request_invalid', `${bytes} is no number of bytes`);
  if (bytes <= OBJECT_BYTES_MAX) return;
  throw new StoreError(
    'too_large',
    `${bytes} bytes for ${bucket}/${key}: an object has at most ${OBJECT_BYTES_MAX}`,
    { bucket, key, sizeBytes: bytes, sizeBytesMax: OBJECT_BYTES_MAX },
  );
}
