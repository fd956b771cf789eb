/**
 * Copies between a bucket that is encrypted and one that is not. Blobs cannot be shared there, so bytes are read and written
 * again, by the way of every other reader and writer.
 *
 * W1  The sources are held as they were opened; the target becomes visible with its commit, under the caller's conditions.
 * W2  It is no single step with the removal of sources: a crash in between leaves both.
 */
import { MiB, StoreError } from '@ebb/protocol';
import type { Catalog, Condition, ObjectRecord } from '../catalog/catalog.ts';
import type {
  CommitOptions,
  ComposeOptions,
  ComposeSource,
  ObjectRef,
  ObjectStore,
  ObjectView,
  OpenedObject,
  Owner,
} from './object-store.ts';
import { versionIdOf } from './versions.ts';

const PIECE_BYTES = MiB;

interface Run {
  readonly opened: OpenedObject;
  readonly offset: number;
  readonly length: number;
}

export class Rewriting {
  readonly #store: ObjectStore;
  readonly #catalog: Catalog;

  constructor(store: ObjectStore, catalog: Catalog) {
    this.#store = store;
    this.#catalog = catalog;
  }

  async copy(
    from: ObjectRef,
    to: ObjectRef,
    condition: Condition,
  ): Promise<{ readonly view: ObjectView; readonly source: ObjectRecord }> {
    return await this.#asOwner(async (owner) => {
      const opened = await this.#store.open(owner, from, { ranges: true });
      const source = opened.object;
      const { contentType, metadata, attributes } = source;
      const run = { opened, offset: 0, length: source.sizeBytes };
      const options = { ...condition, contentType, metadata, attributes };
      return { view: await this.#write(owner, to, [run], options), source };
    });
  }

  async compose(
    to: ObjectRef,
    sources: readonly ComposeSource[],
    options: ComposeOptions,
  ): Promise<ObjectView> {
    return await this.#asOwner(async (owner) => {
      const runs: Run[] = [];
      for (const source of sources) runs.push(await this.#open(owner, source));
      const view = await this.#write(owner, to, runs, options);
      for (const [at, { bucket, key, consume }] of sources.entries()) {
        const { etag } = (runs[at] as Run).opened.object;
        if (consume === true) await this.#store.delete({ bucket, key }, { ifMatch: etag });
      }
      return view;
    });
  }

  async #open(owner: Owner, source: ComposeSource): Promise<Run> {
    const { bucket, key, version } = source;
    const found =
      version === undefined ? undefined : await this.#catalog.findVersion(bucket, key, version);
    const versionId = found === undefined ? undefined : versionIdOf(found.object);
    const ref = { bucket, key, ...(versionId !== undefined && { versionId }) };
    const opened = await this.#store.open(owner, ref, { ranges: true });
    const { sizeBytes } = opened.object;
    if (version !== undefined && opened.object.version !== version)
      throw new StoreError('precondition_failed', `${bucket}/${key} is not at version ${version}`, {
        ...{ bucket, key, version, found: opened.object.version },
      });
    const offset = source.offset ?? 0;
    const length = source.length ?? sizeBytes - offset;
    if (offset < 0 || length < 0 || offset + length > sizeBytes)
      throw new StoreError(
        'range_invalid',
        `${length} bytes from ${offset} of ${bucket}/${key}, which has ${sizeBytes}`,
        { bucket, key, offset, length, sizeBytes },
      );
    return { opened, offset, length };
  }

  async #write(
    owner: Owner,
    to: ObjectRef,
    runs: readonly Run[],
    options: Omit<CommitOptions, 'sizeBytes'>,
  ): Promise<ObjectView> {
    const store = this.#store;
    const sizeBytes = runs.reduce((sum, { length }) => sum + length, 0);
    const { writeId } = await store.stage(owner, to, { reserveBytes: sizeBytes });
    const piece = Buffer.allocUnsafe(Math.min(PIECE_BYTES, sizeBytes));
    let position = 0;
    for (const { opened, offset, length } of runs)
      for (let at = 0; at < length; at += piece.length) {
        const part = piece.subarray(0, Math.min(piece.length, length - at));
        await store.read(owner, opened.leaseId, part, offset + at);
        await store.write(owner, writeId, part, position);
        position += part.length;
      }
    const { object } = await store.commit(owner, writeId, { ...options, sizeBytes });
    return await store.head({ bucket: object.bucket, key: object.key });
  }

  /** What it holds and stages goes with it, however the work ends. */
  async #asOwner<T>(work: (owner: Owner) => Promise<T>): Promise<T> {
    const owner = this.#store.createOwner('copy between buckets');
    try {
      return await work(owner);
    } finally {
      await this.#store.dropOwner(owner);
    }
  }
}
