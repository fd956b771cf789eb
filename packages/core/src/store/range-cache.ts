/**
 * Ranges of large blobs that lie in tier 2 only: what was read of them is kept on disk, chunk by chunk, so that reading a
 * footer of a large file fetches the footer, and reading it again fetches nothing.
 *
 * C1  The room of a cached blob is reserved in tier 1 whole, and given back when others need it, least recently read first.
 *     Without room, ranges are fetched and not kept.
 * C2  A chunk counts as present after it was written whole. Two readers of one chunk fetch it once.
 * C3  Every fetch names the ETag: chunks of two versions never come together. A blob that is complete is checked against its
 *     checksum; one that does not match is dropped. Of an encrypted blob it is the ciphertext that is kept, and each of its
 *     frames is checked when it is opened.
 *
 * Nothing of this outlives the process: the files are found as orphans at the next start.
 */
import { isStoreError, MiB, StoreError } from '@ebb/protocol';
import type { BlobRecord, Catalog, RemoteCopy } from '../catalog/catalog.ts';
import type { LocalTier, Mover, RemoteTier } from '../tier/tier.ts';

const CHUNK_BYTES = MiB;
/** Fetched at once when a blob is read from one chunk to the next. */
const CHUNKS_AHEAD = 8;

interface CachedBlob {
  readonly sizeBytes: number;
  /** Of the file in tier 1: not the blob's own, which stays free for a copy of it. */
  readonly fileId: number;
  readonly present: Uint8Array;
  missing: number;
  /** Fetches under way, by chunk. */
  readonly fetching: Map<number, Promise<void>>;
  lastChunk: number;
  /** Reads and fetches that use the file now. */
  users: number;
  isDropped: boolean;
}

export interface RangeCacheParts {
  readonly catalog: Catalog;
  readonly disk: LocalTier;
  readonly remote: RemoteTier;
  readonly mover: Mover;
  nextId(): Promise<number>;
  readonly onError: (error: unknown, subject: string) => void;
}

export class RangeCache {
  readonly #parts: RangeCacheParts;
  /** In order of use, oldest first. */
  readonly #blobs = new Map<number, CachedBlob>();
  #bytes = 0;

  constructor(parts: RangeCacheParts) {
    this.#parts = parts;
  }

  /** Reserved in tier 1. */
  get bytes(): number {
    return this.#bytes;
  }

  /** @throws as RemoteTier.read */
  async read(blob: BlobRecord, target: Uint8Array, position: number): Promise<void> {
    const remote = blob.remote as RemoteCopy;
    const cached = this.#blobs.get(blob.blobId) ?? (await this.#admit(blob));
    if (cached === undefined) {
      const { name, offset, etag } = remote;
      return await this.#parts.remote.read(name, target, offset + position, { etag });
    }
    this.#blobs.delete(blob.blobId);
    this.#blobs.set(blob.blobId, cached);
    cached.users++;
    try {
      await this.#fill(cached, blob, position, position + target.byteLength);
      await this.#parts.disk.read(cached.fileId, target, position);
    } catch (error) {
      this.#drop(blob.blobId, cached);
      throw error;
    } finally {
      cached.users--;
      if (cached.isDropped) this.#removeIfUnused(cached);
    }
  }

  forget(blobId: number): void {
    const cached = this.#blobs.get(blobId);
    if (cached !== undefined) this.#drop(blobId, cached);
  }

  /** Gives room back, least recently read first. Returns how many bytes that was. */
  shrink(bytes: number): number {
    let given = 0;
    for (const [blobId, cached] of this.#blobs) {
      if (given >= bytes) break;
      if (cached.users > 0) continue;
      this.#drop(blobId, cached);
      given += cached.sizeBytes;
    }
    return given;
  }

  async #admit({ blobId, sizeBytes }: BlobRecord): Promise<CachedBlob | undefined> {
    const { disk } = this.#parts;
    const fileId = await this.#parts.nextId();
    const known = this.#blobs.get(blobId); // since we waited
    if (known !== undefined) return known;
    let file = disk.create(fileId, sizeBytes);
    if (file === undefined && this.shrink(sizeBytes) > 0) file = disk.create(fileId, sizeBytes);
    if (file === undefined) return undefined;
    const chunks = Math.ceil(sizeBytes / CHUNK_BYTES);
    const cached: CachedBlob = {
      ...{
        sizeBytes,
        fileId,
        present: new Uint8Array(chunks),
        missing: chunks,
        fetching: new Map(),
      },
      ...{ lastChunk: -2, users: 0, isDropped: false },
    };
    this.#blobs.set(blobId, cached);
    this.#bytes += sizeBytes;
    return cached;
  }

  async #fill(cached: CachedBlob, blob: BlobRecord, from: number, to: number): Promise<void> {
    if (from >= to) return;
    const first = Math.floor(from / CHUNK_BYTES);
    const last = Math.floor((to - 1) / CHUNK_BYTES);
    const isInOrder = first === cached.lastChunk || first === cached.lastChunk + 1;
    cached.lastChunk = last;
    for (let chunk = first; chunk <= last; ) {
      if (cached.present[chunk] === 1) {
        chunk++;
        continue;
      }
      const running = cached.fetching.get(chunk);
      if (running !== undefined) {
        await running;
        continue;
      }
      const wanted = isInOrder ? Math.max(last + 1, chunk + CHUNKS_AHEAD) : last + 1;
      await this.#fetch(cached, blob, chunk, Math.min(wanted, cached.present.length));
    }
  }

  /** Chunks from `first` up to before `end`, or to the first that is present or being fetched. */
  async #fetch(cached: CachedBlob, blob: BlobRecord, first: number, end: number): Promise<void> {
    let last = first;
    while (last + 1 < end && cached.present[last + 1] === 0 && !cached.fetching.has(last + 1))
      last++;
    const run = this.#fetchRun(cached, blob, first, last);
    for (let chunk = first; chunk <= last; chunk++) cached.fetching.set(chunk, run);
    try {
      await run;
    } finally {
      for (let chunk = first; chunk <= last; chunk++) cached.fetching.delete(chunk);
    }
  }

  async #fetchRun(
    cached: CachedBlob,
    blob: BlobRecord,
    first: number,
    last: number,
  ): Promise<void> {
    const { disk, remote } = this.#parts;
    const { name, offset, etag } = blob.remote as RemoteCopy;
    const start = first * CHUNK_BYTES;
    const bytes = Buffer.allocUnsafe(Math.min((last + 1) * CHUNK_BYTES, blob.sizeBytes) - start);
    await remote.read(name, bytes, offset + start, { etag });
    await disk.write(cached.fileId, bytes, start);
    cached.present.fill(1, first, last + 1);
    cached.missing -= last - first + 1;
    if (cached.missing === 0) await this.#check(cached, blob);
  }

  /** C3 */
  async #check(cached: CachedBlob, blob: BlobRecord): Promise<void> {
    const { blobId, sizeBytes, crc32c, sealId } = blob;
    if (sealId !== undefined) return;
    const { catalog, disk, mover, onError } = this.#parts;
    try {
      const found = await mover.checksum(disk.absolutePath(cached.fileId), sizeBytes);
      if (crc32c === null) await catalog.setBlobChecksum(blobId, found);
      else if (found !== crc32c) {
        const message = `blob ${blobId} as read from tier 2 does not match its checksum`;
        throw new StoreError('data_corrupt', message, { blobId });
      }
    } catch (error) {
      if (isStoreError(error, 'data_corrupt')) throw error;
      onError(error, `blob ${blobId}`); // it could not be checked just now
    }
  }

  #drop(blobId: number, cached: CachedBlob): void {
    if (this.#blobs.get(blobId) !== cached) return;
    this.#blobs.delete(blobId);
    this.#bytes -= cached.sizeBytes;
    cached.isDropped = true;
    this.#removeIfUnused(cached);
  }

  #removeIfUnused(cached: CachedBlob): void {
    if (cached.users === 0) this.#parts.disk.remove(cached.fileId, { recycle: false });
  }
}
