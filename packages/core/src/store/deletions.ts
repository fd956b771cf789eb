/** Taking names away, and the bytes that nothing refers to then: one, a version, all under a prefix, what expired or was lost. */
import { isStoreError } from '@ebb/protocol';
import type {
  BlobRecord,
  BucketPolicy,
  Cause,
  Condition,
  ObjectRecord,
  VersionRecord,
} from '../catalog/catalog.ts';
import { parseVersionId, parseVersionKey } from '../catalog/version-keys.ts';
import { bucketOfVersions, parseAnyBucketName, parseKey } from '../object-ref.ts';
import type { DeleteReceipt, ObjectRef } from './object-store.ts';
import type { StoreParts } from './parts.ts';
import { allBlobs } from './scan.ts';
import { findVersion, stamped, versionIdOf } from './versions.ts';

/** Changes in one step of the catalog, which nothing else interrupts: some ten milliseconds. */
const BATCH = 128;

export interface DeletedCount {
  readonly objects: number;
  readonly sizeBytes: number;
}

interface Batch extends DeletedCount {
  readonly freed: readonly BlobRecord[];
  readonly done: boolean;
}

export class Deletions {
  readonly #parts: StoreParts;

  constructor(parts: StoreParts) {
    this.#parts = parts;
  }

  async delete(
    ref: ObjectRef,
    condition: Condition = {},
    options: { readonly marksAbsent?: boolean; readonly cause?: Cause } = {},
  ): Promise<DeleteReceipt> {
    parseAnyBucketName(ref.bucket);
    const marks = options.marksAbsent === true && (await this.#versioningOf(ref.bucket)) !== 'off';
    if (marks) parseKey(ref.key);
    const { freed, object, marker } = await stamped(this.#parts, (stamp) =>
      this.#parts.catalog.deleteObject(ref.bucket, ref.key, condition, { ...stamp, ...options }),
    );
    await this.#parts.retireAll(freed);
    this.#parts.mirror.wake();
    const deleted = object !== undefined;
    return marker === undefined ? { deleted } : { deleted, markerId: versionIdOf(marker) };
  }

  async deleteVersion(
    ref: ObjectRef & { readonly versionId: string },
    condition: Condition = {},
  ): Promise<VersionRecord | undefined> {
    parseAnyBucketName(ref.bucket);
    const { catalog } = this.#parts;
    const found = await findVersion(catalog, ref);
    const which = parseVersionId(ref.versionId);
    if (found === undefined || which === undefined) return undefined;
    const { freed, removed } = await catalog.deleteVersion(ref.bucket, ref.key, which, condition);
    await this.#parts.retireAll(freed);
    this.#parts.mirror.wake();
    return removed;
  }

  async deleteAllVersions(bucket: string, prefix: string): Promise<DeletedCount> {
    if ((await this.#versioningOf(bucket)) === 'off')
      return await this.deletePrefix(bucket, prefix);
    const { catalog } = this.#parts;
    const first = { prefix, delimiter: '', startAfter: { key: '' }, limit: BATCH };
    return await this.#inBatches(async () => {
      const { versions, next } = await catalog.listVersions(bucket, first);
      // The oldest first: then no version comes back for a moment, and none is moved for that.
      const gone = await Promise.all(
        versions
          .toReversed()
          .map(({ object: { key, version } }) => catalog.deleteVersion(bucket, key, version, {})),
      );
      const removed = gone.flatMap((one) => one.removed ?? []);
      return {
        freed: gone.flatMap(({ freed }) => freed),
        objects: removed.length,
        sizeBytes: removed.reduce((sum, { object }) => sum + object.sizeBytes, 0),
        done: next === null,
      };
    });
  }

  async deletePrefix(bucket: string, prefix: string): Promise<DeletedCount> {
    parseAnyBucketName(bucket);
    return await this.#inBatches(() =>
      stamped(this.#parts, (stamp) =>
        this.#parts.catalog.deletePrefix(bucket, prefix, BATCH, stamp),
      ),
    );
  }

  async deleteOfJob(jobId: string): Promise<DeletedCount> {
    return await this.#inBatches(() => this.#parts.catalog.deleteJobObjects(jobId, BATCH));
  }

  async deleteExpired(): Promise<void> {
    const { catalog, clock, retireAll } = this.#parts;
    for (const expired of await catalog.listExpired(clock.now(), BATCH)) {
      const { bucket, key, version } = expired;
      if ((await catalog.findBucket(bucket))?.policy.versioning !== 'off') {
        await retireAll((await catalog.deleteVersion(bucket, key, version, {}, 'policy')).freed);
        continue;
      }
      const object = await catalog.findObject(bucket, key);
      if (object?.version === version) await this.#deleteUnchanged(object);
    }
  }

  /** The objects of which no copy is left; how many there were. */
  async deleteLost(): Promise<number> {
    const { catalog } = this.#parts;
    let lost = 0;
    for await (const blob of allBlobs(catalog)) {
      const { blobId, refs, memoryBytes, diskBytes, remote } = blob;
      if (refs === 0 || memoryBytes !== null || diskBytes !== null || remote !== null) continue;
      for (const name of await catalog.objectsOfBlob(blobId, 1024)) {
        const object = await catalog.findObject(name.bucket, name.key);
        // It may have been replaced since: the new version is not lost.
        if (object?.extents.some((extent) => extent.blobId === blobId) !== true) continue;
        if (await this.#deleteLost(object)) lost++;
      }
    }
    return lost;
  }

  /** What is lost leaves a delete marker where versions are kept: an older version must not appear in its place. */
  async #deleteLost(object: ObjectRecord): Promise<boolean> {
    const { catalog, retireAll } = this.#parts;
    const owner = bucketOfVersions(object.bucket);
    if (owner === undefined && !(await this.#deleteUnchanged(object))) return false;
    const bucket = owner ?? object.bucket;
    const key = owner === undefined ? object.key : parseVersionKey(object.key).key;
    const { freed } = await catalog.deleteVersion(bucket, key, object.version, {}, 'policy');
    await retireAll(freed);
    return true;
  }

  /** Only if it is still this version. */
  async #deleteUnchanged(object: ObjectRecord): Promise<boolean> {
    try {
      const options = { cause: 'policy' } as const;
      return (await this.delete(object, { ifMatch: object.etag }, options)).deleted;
    } catch (error) {
      if (isStoreError(error, 'precondition_failed')) return false;
      throw error;
    }
  }

  async #inBatches(step: () => Promise<Batch>): Promise<DeletedCount> {
    let objects = 0;
    let sizeBytes = 0;
    for (;;) {
      const batch = await step();
      await this.#parts.retireAll(batch.freed);
      this.#parts.mirror.wake();
      objects += batch.objects;
      sizeBytes += batch.sizeBytes;
      if (batch.done) return { objects, sizeBytes };
    }
  }

  async #versioningOf(name: string): Promise<BucketPolicy['versioning']> {
    const { buckets } = this.#parts;
    return (buckets.find(name) ?? (await buckets.get(name))).policy.versioning;
  }
}
