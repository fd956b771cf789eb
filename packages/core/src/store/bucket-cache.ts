/** Bucket records by name, so that a stage and a commit need not ask the catalog. This process alone changes buckets. */
import { StoreError } from '@ebb/protocol';
import type { BucketRecord, Catalog } from '../catalog/catalog.ts';

/** Far more than anybody has; beyond, the cache begins anew. */
const BUCKETS_MAX = 10_000;

export class BucketCache {
  readonly #catalog: Catalog;
  readonly #records = new Map<string, BucketRecord>();
  #changes = 0;

  constructor(catalog: Catalog) {
    this.#catalog = catalog;
  }

  /** Undefined when it is not known here: then `get` tells. */
  find(name: string): BucketRecord | undefined {
    return this.#records.get(name);
  }

  /** @throws `bucket_not_found` */
  async get(name: string): Promise<BucketRecord> {
    const changes = this.#changes;
    const bucket = await this.#catalog.findBucket(name);
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

  forget(name: string): void {
    this.#changes++;
    this.#records.delete(name);
  }
}
