/**
 * Buckets, and the hidden ones that each has for its uploads and, kept by the catalog, for its old versions.
 *
 * Records are kept by name, so that a stage and a commit need not ask the catalog: this process alone changes buckets.
 *
 * B1  A bucket begins without uploads: what one of the same name left, because a node died while it was deleted, goes first.
 */
import { StoreError } from '@ebb/protocol';
import type { BucketPolicy, BucketRecord, Catalog } from '../catalog/catalog.ts';
import type { Clock } from '../clock.ts';
import {
  isHiddenBucket,
  parseAnyBucketName,
  parseBucketName,
  uploadsBucketOf,
} from '../object-ref.ts';
import { equalPolicies } from '../placement/policy.ts';

/** Far more than anybody has; beyond, the cache begins anew. */
const BUCKETS_MAX = 10_000;
/** An upload that nobody completes or aborts for so long goes by itself. */
const UPLOADS_TTL_MS = 7 * 24 * 3600 * 1000;

export interface BucketsParts {
  readonly catalog: Catalog;
  readonly clock: Clock;
  /** Deletes all objects of a bucket. */
  readonly empty: (bucket: string) => Promise<unknown>;
  /** @throws `key_unavailable` */
  readonly assertCanEncrypt: () => void;
}

export class Buckets {
  readonly #parts: BucketsParts;
  readonly #records = new Map<string, BucketRecord>();
  #changes = 0;

  constructor(parts: BucketsParts) {
    this.#parts = parts;
  }

  /** Undefined when it is not known here: then `get` tells. */
  find(name: string): BucketRecord | undefined {
    return this.#records.get(name);
  }

  /** @throws `name_invalid`, `bucket_not_found` */
  async get(name: string): Promise<BucketRecord> {
    parseAnyBucketName(name);
    const changes = this.#changes;
    const bucket = await this.#parts.catalog.findBucket(name);
    if (bucket === undefined)
      throw new StoreError('bucket_not_found', `no bucket "${name}": create it first`, {
        bucket: name,
      });
    // A bucket that was deleted while we asked must not be remembered.
    if (changes === this.#changes) {
      if (this.#records.size >= BUCKETS_MAX) this.#records.clear();
      this.#records.set(name, bucket);
    }
    return bucket;
  }

  async list(): Promise<readonly BucketRecord[]> {
    return (await this.#parts.catalog.listBuckets()).filter(({ name }) => !isHiddenBucket(name));
  }

  async create(
    name: string,
    policy: BucketPolicy,
  ): Promise<{ created: boolean; bucket: BucketRecord }> {
    parseBucketName(name);
    const { catalog, clock, assertCanEncrypt } = this.#parts;
    if (policy.encrypted === true) assertCanEncrypt();
    const known = await catalog.findBucket(name);
    if (known === undefined) await this.#dropUploadsOf(name); // B1
    const result = await catalog.createBucket({ name, createdAtMs: clock.now(), policy });
    // Who asks for no versions is served by a bucket that keeps them: they were turned on since.
    const found = result.bucket.policy;
    const asked =
      policy.versioning === 'off' ? { ...policy, versioning: found.versioning } : policy;
    if (!result.created && !equalPolicies(found, asked))
      throw new StoreError(
        'bucket_exists',
        `bucket "${name}" exists with another policy (${JSON.stringify(result.bucket.policy)})`,
        { bucket: name },
      );
    return result;
  }

  async setVersioning(name: string, versioning: 'enabled' | 'suspended'): Promise<BucketRecord> {
    parseBucketName(name);
    const { policy } = await this.get(name);
    this.#forget(name);
    await this.#parts.catalog.setBucketPolicy(name, { ...policy, versioning });
    this.#forget(name);
    return await this.get(name);
  }

  /** What the bucket has stays as it is written: so the bucket must be empty. @throws `bucket_not_empty`, `key_unavailable` */
  async setEncrypted(name: string, encrypted: boolean): Promise<BucketRecord> {
    parseBucketName(name);
    const { catalog, assertCanEncrypt } = this.#parts;
    if (encrypted) assertCanEncrypt();
    const { policy } = await this.get(name);
    if ((policy.encrypted ?? false) === encrypted) return await this.get(name);
    const { encrypted: _, ...rest } = policy;
    await this.#dropUploadsOf(name);
    this.#forget(name);
    await catalog.setBucketPolicy(name, encrypted ? { ...rest, encrypted } : rest);
    this.#forget(name);
    return await this.get(name);
  }

  async delete(name: string): Promise<void> {
    parseBucketName(name);
    await this.#drop(name);
    await this.#dropUploadsOf(name);
  }

  /** The name of the hidden bucket, made at first use: acknowledged as the bucket is, and not mirrored. */
  async uploadsOf(bucket: string): Promise<string> {
    const name = uploadsBucketOf(bucket);
    if (this.find(name) !== undefined) return name;
    const { policy } = await this.get(bucket);
    await this.#parts.catalog.createBucket({
      name,
      createdAtMs: this.#parts.clock.now(),
      policy: {
        ...policy,
        ack: policy.ack === 'remote' ? 'disk' : policy.ack,
        mirror: false,
        ttlMs: UPLOADS_TTL_MS,
        versioning: 'off',
        events: false,
      },
    });
    await this.get(name);
    return name;
  }

  async #dropUploadsOf(bucket: string): Promise<void> {
    const uploads = uploadsBucketOf(bucket);
    if ((await this.#parts.catalog.findBucket(uploads)) === undefined) return;
    await this.#parts.empty(uploads);
    await this.#drop(uploads);
  }

  async #drop(name: string): Promise<void> {
    this.#forget(name);
    await this.#parts.catalog.deleteBucket(name);
    this.#forget(name);
  }

  #forget(name: string): void {
    this.#changes++;
    this.#records.delete(name);
  }
}
