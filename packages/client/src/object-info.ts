/** What every path to an object knows of it, whether it goes over files, frames or HTTP. */
import { StoreError } from '@ebb/protocol';

export interface ObjectRef {
  readonly bucket: string;
  readonly key: string;
}

/** What is known of an open object; `client.head` tells the rest. */
export interface OpenInfo extends ObjectRef {
  readonly version: number;
  readonly etag: string;
  readonly sizeBytes: number;
}

/** A reader that had to ask again found `version`: bytes of two versions are never mixed. */
export function changedWhileRead(info: OpenInfo, version: number): StoreError {
  return new StoreError('precondition_failed', 'the object was replaced while it was read', {
    bucket: info.bucket,
    key: info.key,
    readVersion: info.version,
    version,
  });
}
