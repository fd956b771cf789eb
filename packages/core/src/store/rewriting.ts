/**
 * Copies that cannot share blobs: between a bucket that is encrypted and one that is not, and of what has too many extents. Bytes
 * are read and written again, by the way of every other reader and writer.
 *
 * W1  The sources are held as they were opened, or, where they are many, are at the same versions when their turn comes; the
 *     target becomes visible with its commit, under the caller's conditions.
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
import { openingAgain } from './open-again.ts';
import { versionIdOf } from './versions.ts';

const PIECE_BYTES = MiB;

/** More sources are opened one after the other, each as the version that it was at first. */
const SOURCES_HELD_MAX = 64;

interface Run {
  readonly source: ObjectRecord;
  readonly offset: number;
  readonly length: number;
  open(): Promise<OpenedObject>;
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
    return await openingAgain(() => this.#copyOnce(from, to, condition));
  }

  async #copyOnce(
    from: ObjectRef,
    to: ObjectRef,
    condition: Condition,
  ): Promise<{ readonly view: ObjectView; readonly source: ObjectRecord }> {
    return await this.#asOwner(async (owner) => {
      const opened = await this.#store.open(owner, from, { ranges: true });
      const source = opened.object;
      const { contentType, metadata, attributes } = source;
      const open = async (): Promise<OpenedObject> => await Promise.resolve(opened);
      const run = { source, offset: 0, length: source.sizeBytes, open };
      const options = { ...condition, contentType, metadata, attributes };
      return { view: await this.#write(owner, to, [run], options), source };
    });
  }

  async compose(
    to: ObjectRef,
    sources: readonly ComposeSource[],
    options: ComposeOptions,
  ): Promise<ObjectView> {
    const { view, etags } = await openingAgain(() => this.#composeOnce(to, sources, options));
    for (const [at, { bucket, key, consume }] of sources.entries())
      if (consume === true)
        await this.#store.delete({ bucket, key }, { ifMatch: etags[at] as string });
    return view;
  }

  async #composeOnce(
    to: ObjectRef,
    sources: readonly ComposeSource[],
    options: ComposeOptions,
  ): Promise<{ readonly view: ObjectView; readonly etags: readonly string[] }> {
    return await this.#asOwner(async (owner) => {
      const runs: Run[] = [];
      const isHeld = sources.length <= SOURCES_HELD_MAX;
      for (const source of sources) runs.push(await this.#open(owner, source, isHeld));
      const view = await this.#write(owner, to, runs, options);
      return { view, etags: runs.map(({ source }) => source.etag) };
    });
  }

  async #open(owner: Owner, source: ComposeSource, isHeld: boolean): Promise<Run> {
    const { bucket, key } = source;
    const opened = await this.#openAt(owner, source);
    const { object, leaseId } = opened;
    const { sizeBytes, version } = object;
    const offset = source.offset ?? 0;
    const length = source.length ?? sizeBytes - offset;
    if (offset < 0 || length < 0 || offset + length > sizeBytes)
      throw new StoreError(
        'range_invalid',
        `${length} bytes from ${offset} of ${bucket}/${key}, which has ${sizeBytes}`,
        { bucket, key, offset, length, sizeBytes },
      );
    if (!isHeld) this.#store.release(owner, [leaseId]);
    const open = async (): Promise<OpenedObject> =>
      isHeld ? opened : await this.#openAt(owner, { ...source, version });
    return { source: object, offset, length, open };
  }

  async #openAt(owner: Owner, { bucket, key, version }: ComposeSource): Promise<OpenedObject> {
    const found =
      version === undefined ? undefined : await this.#catalog.findVersion(bucket, key, version);
    const versionId = found === undefined ? undefined : versionIdOf(found.object);
    const ref = { bucket, key, ...(versionId !== undefined && { versionId }) };
    const opened = await this.#store.open(owner, ref, { ranges: true });
    if (version !== undefined && opened.object.version !== version)
      throw new StoreError('precondition_failed', `${bucket}/${key} is not at version ${version}`, {
        ...{ bucket, key, version, found: opened.object.version },
      });
    return opened;
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
    for (const { offset, length, open } of runs) {
      const opened = await open();
      for (let at = 0; at < length; at += piece.length) {
        const part = piece.subarray(0, Math.min(piece.length, length - at));
        await store.read(owner, opened.leaseId, part, offset + at);
        await store.write(owner, writeId, part, position);
        position += part.length;
      }
      this.#store.release(owner, [opened.leaseId]);
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
