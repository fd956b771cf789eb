import { combineCrc32c } from '../checksum.ts';
import type { BlobRecord, Extent, ObjectRecord, StoredContent } from './catalog.ts';

/** The first bytes of an object, as far as their checksum is known. */
export class JoinedContent {
  #crc32c: number | undefined = 0;

  /** False when it cannot be known any more: a blob without a checksum, or a part of one. */
  add(
    { offset, length }: Extent,
    blob: Pick<BlobRecord, 'crc32c' | 'sizeBytes'> | undefined,
  ): boolean {
    const isKnown = blob?.crc32c != null && offset === 0 && length === blob.sizeBytes;
    this.#crc32c =
      isKnown && this.#crc32c !== undefined
        ? combineCrc32c(this.#crc32c, blob.crc32c, length)
        : undefined;
    return this.#crc32c !== undefined;
  }

  of({ sizeBytes }: Pick<ObjectRecord, 'sizeBytes'>): StoredContent | undefined {
    return this.#crc32c === undefined ? undefined : { sizeBytes, crc32c: this.#crc32c };
  }
}
