/**
 * What S3 keeps with a bucket beside its policy: a record of the catalog, under the bucket's name.
 *
 * I1  Settings belong to one life of a bucket: a record names when its bucket was created, and counts for no other. So a
 *     bucket that was deleted, by whatever surface, and created again begins without any.
 */
import type { Catalog, ObjectStore } from '@ebb/core';
import { StoreError } from '@ebb/protocol';
import type { CorsRule } from './cors.ts';

/** Persisted, keep stable. */
const NAMESPACE = 's3-bucket';
const FORMAT = 1;

export interface BucketSettings {
  readonly cors?: readonly CorsRule[];
}

export type SettingRecords = Pick<Catalog, 'putRecord' | 'findRecord' | 'deleteRecord' | 'durable'>;

export class BucketSettingsTable {
  readonly #records: SettingRecords;
  readonly #store: ObjectStore;

  constructor(store: ObjectStore, records: SettingRecords) {
    this.#store = store;
    this.#records = records;
  }

  /** @throws {StoreError} `bucket_not_found`, `name_invalid` */
  async get(bucket: string): Promise<BucketSettings> {
    const { createdAtMs } = await this.#store.getBucket(bucket);
    const value = await this.#records.findRecord(NAMESPACE, bucket);
    if (value === undefined) return {};
    const found = decodeSettings(value);
    return found.bucketCreatedAtMs === createdAtMs ? found.settings : {}; // I1
  }

  /** Survives a power cut when it resolves. @throws {StoreError} `bucket_not_found`, `name_invalid` */
  async set(bucket: string, settings: BucketSettings): Promise<void> {
    const { createdAtMs } = await this.#store.getBucket(bucket);
    const isEmpty = Object.values(settings).every((setting) => setting === undefined);
    if (isEmpty) await this.#records.deleteRecord(NAMESPACE, bucket);
    else await this.#records.putRecord(NAMESPACE, bucket, encodeSettings(createdAtMs, settings));
    await this.#records.durable();
  }

  /** Of a bucket that is gone, so that nothing is left of it; what another surface deletes is left, and never counts (I1). */
  async forget(bucket: string): Promise<void> {
    await this.#records.deleteRecord(NAMESPACE, bucket);
  }
}

function encodeSettings(bucketCreatedAtMs: number, settings: BucketSettings): Buffer {
  return Buffer.from(JSON.stringify({ format: FORMAT, bucketCreatedAtMs, settings }));
}

function decodeSettings(value: Uint8Array): {
  readonly bucketCreatedAtMs: number;
  readonly settings: BucketSettings;
} {
  let found: { format?: unknown; bucketCreatedAtMs?: unknown; settings?: unknown };
  try {
    found = JSON.parse(Buffer.from(value).toString('utf8')) as typeof found;
  } catch (error) {
    throw new StoreError('data_corrupt', 'S3 settings of a bucket are not JSON', {}, error);
  }
  if (found.format !== FORMAT)
    throw new StoreError(
      'version_unsupported',
      `S3 settings of a bucket have format ${String(found.format)}`,
    );
  if (typeof found.bucketCreatedAtMs !== 'number' || typeof found.settings !== 'object')
    throw new StoreError('data_corrupt', 'S3 settings of a bucket are incomplete');
  return {
    bucketCreatedAtMs: found.bucketCreatedAtMs,
    settings: (found.settings ?? {}) as BucketSettings,
  };
}
