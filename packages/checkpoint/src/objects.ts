/** What the service does with objects of the store: small ones whole, images by their files. */
import { type ObjectStore, type OpenedObject, type Owner, openingAgain } from '@ebb/core';
import type { Ack } from '@ebb/protocol';
import { isStoreError, READ_BYTES_MAX } from '@ebb/protocol';
import { crc32c } from '@node-rs/crc32';
import { DIGEST_BYTES, digestOf } from './digest.ts';
import type { ImageThread } from './image-thread.ts';

/** Of the store: no more than this. */
export type CheckpointStore = Pick<
  ObjectStore,
  | 'abort'
  | 'commit'
  | 'copy'
  | 'createBucket'
  | 'createOwner'
  | 'delete'
  | 'dropOwner'
  | 'find'
  | 'getBucket'
  | 'head'
  | 'isStagedUnder'
  | 'listBuckets'
  | 'listRecords'
  | 'open'
  | 'populate'
  | 'presignRead'
  | 'read'
  | 'release'
  | 'stage'
  | 'sync'
  | 'tiers'
  | 'wait'
  | 'write'
>;

export interface Name {
  readonly bucket: string;
  readonly key: string;
}

export class Objects {
  readonly #store: CheckpointStore;
  readonly #owner: Owner;

  constructor(store: CheckpointStore) {
    this.#store = store;
    this.#owner = store.createOwner('checkpoints');
  }

  async close(): Promise<void> {
    await this.#store.dropOwner(this.#owner);
  }

  async put(name: Name, bytes: Uint8Array, ack: Ack): Promise<void> {
    const sizeBytes = bytes.byteLength;
    const write = await this.#store.stage(this.#owner, name, { reserveBytes: sizeBytes });
    try {
      await this.#store.write(this.#owner, write.writeId, bytes, 0);
    } catch (error) {
      await this.#store.abort(this.#owner, write.writeId);
      throw error;
    }
    const sum = crc32c(bytes as Buffer);
    const contentType = 'application/json';
    await this.#store.commit(this.#owner, write.writeId, {
      sizeBytes,
      crc32c: sum,
      ack,
      contentType,
    });
  }

  /** What was replaced while it was read is opened again; what was deleted is `not_found` then. */
  async get(name: Name): Promise<Buffer> {
    return await openingAgain(() => this.using(name, (opened) => this.#readWhole(opened)));
  }

  async #readWhole({ object, leaseId }: OpenedObject): Promise<Buffer> {
    const bytes = Buffer.alloc(object.sizeBytes);
    for (let at = 0; at < bytes.length; at += READ_BYTES_MAX) {
      const piece = bytes.subarray(at, at + READ_BYTES_MAX);
      await this.#store.read(this.#owner, leaseId, piece, at);
    }
    return bytes;
  }

  async using<T>(name: Name, work: (opened: OpenedObject) => Promise<T>): Promise<T> {
    const opened = await this.#store.open(this.#owner, name, { ranges: true, files: 'waits' });
    try {
      return await work(opened);
    } finally {
      this.#store.release(this.#owner, [opened.leaseId]);
    }
  }

  async read({ leaseId }: OpenedObject, target: Uint8Array, position: number): Promise<void> {
    await this.#store.read(this.#owner, leaseId, target, position);
  }

  /** The file that holds the whole object, if it is one that may be read. */
  fileOf({ extents, object }: OpenedObject): string | undefined {
    const [extent] = extents;
    if (extents.length !== 1 || extent === undefined || extent.path === '') return undefined;
    if (extent.offset !== 0 || extent.length !== object.sizeBytes) return undefined;
    const tier = this.#store.tiers().find((one) => one.tier === extent.tier);
    return tier === undefined ? undefined : `${tier.location}/${extent.path}`;
  }

  /** Digests of all blocks of an object. */
  async digest(opened: OpenedObject, blockBytes: number, thread: ImageThread): Promise<Buffer> {
    const imageBytes = opened.object.sizeBytes;
    const file = this.fileOf(opened);
    if (file !== undefined)
      return Buffer.from(await thread.digest({ file, imageBytes, blockBytes }));
    const digests = Buffer.alloc(Math.ceil(imageBytes / blockBytes) * DIGEST_BYTES);
    const buffer = Buffer.alloc(blockBytes);
    for (let at = 0, to = 0; at < imageBytes; at += blockBytes, to += DIGEST_BYTES) {
      const block = buffer.subarray(0, Math.min(blockBytes, imageBytes - at));
      await this.read(opened, block, at);
      digests.set(digestOf(block), to);
    }
    return digests;
  }

  /** Makes an object of pieces of an opened one. */
  async gather(
    from: OpenedObject,
    pieces: readonly { readonly offset: number; readonly length: number }[],
    to: Name & { readonly sizeBytes: number; readonly ack: Ack },
    thread: ImageThread,
  ): Promise<void> {
    const { sizeBytes, ack } = to;
    const file = this.fileOf(from);
    const write = await this.#store.stage(this.#owner, to, { reserveBytes: sizeBytes });
    let sum: number | undefined;
    try {
      if (file !== undefined) sum = await thread.gather({ file, to: write.absolutePath, pieces });
      else await this.#gatherByReading(from, pieces, write.writeId);
    } catch (error) {
      await this.#store.abort(this.#owner, write.writeId);
      throw error;
    }
    const options = sum === undefined ? {} : { crc32c: sum };
    await this.#store.commit(this.#owner, write.writeId, { sizeBytes, ack, ...options });
  }

  async #gatherByReading(
    from: OpenedObject,
    pieces: readonly { readonly offset: number; readonly length: number }[],
    writeId: number,
  ): Promise<void> {
    let written = 0;
    for (const { offset, length } of pieces)
      for (let done = 0; done < length; ) {
        const piece = Buffer.alloc(Math.min(READ_BYTES_MAX, length - done));
        await this.read(from, piece, offset + done);
        await this.#store.write(this.#owner, writeId, piece, written);
        done += piece.length;
        written += piece.length;
      }
  }

  /** No error when it is gone. */
  async delete(name: Name): Promise<void> {
    try {
      await this.#store.delete(name);
    } catch (error) {
      if (!isStoreError(error, 'not_found') && !isStoreError(error, 'bucket_not_found'))
        throw error;
    }
  }

  /** All whose key begins so, in order. */
  async *list(bucket: string, prefix: string): AsyncGenerator<Listed> {
    for (let startAfter: string | null = ''; startAfter !== null; ) {
      const options = { prefix, delimiter: '', startAfter, limit: LIST_PAGE };
      const page: { objects: readonly Listed[]; next: string | null } =
        await this.#store.listRecords(bucket, options);
      yield* page.objects;
      startAfter = page.next;
    }
  }

  async deleteAll(bucket: string, prefix: string): Promise<void> {
    for await (const { key } of this.list(bucket, prefix)) await this.delete({ bucket, key });
  }
}

const LIST_PAGE = 1000;

interface Listed {
  readonly key: string;
  readonly createdAtMs: number;
  readonly sizeBytes: number;
  readonly version: number;
}
