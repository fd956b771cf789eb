/**
 * Snapshots of an object, or of all below a prefix, and their restoring: names for the same bytes, so neither moves any.
 *
 * The copies lie in an ordinary bucket beside the source's, `BUCKET-snapshots`, below `NAME/`. It has the policy of the source's as
 * far as that concerns what holds of the bytes (ack, mirror, place in tier 2, encryption), and nothing that would take
 * them away (TTL, quota) or double them (old versions). A small record of the catalog says what the snapshot is of.
 *
 * P1  A snapshot is the source at one moment: its objects appear in one step of the catalog. So does what is restored.
 * P2  The record comes before the objects, as `making`, and goes after them, as `removing`. One that a crash left in
 *     either state is no snapshot, and is cleared away after the next start.
 * P3  Nothing is copied that would have to be written anew, or would lie under weaker promises: that is refused.
 * P4  Others may write into the bucket of snapshots. What lacks objects is not restored.
 */
import {
  isStoreError,
  type PrefixSnapshotInfo,
  type PrefixSnapshotRestored,
  type PrefixSnapshotSource,
  prefixSnapshotNameSchema,
  StoreError,
} from '@ebb/protocol';
import type { BucketPolicy, Catalog } from '../catalog/catalog.ts';
import type { Clock } from '../clock.ts';
import { Serial } from '../serial.ts';
import type { ObjectStore } from '../store/object-store.ts';

export interface PrefixSnapshots {
  /** @throws `name_invalid`, `already_exists`, `not_found`, `bucket_not_found`, `bucket_exists`, `unsupported` */
  create(name: string, source: PrefixSnapshotSource): Promise<PrefixSnapshotInfo>;
  /** By name. */
  list(): Promise<readonly PrefixSnapshotInfo[]>;
  /** @throws `not_found` */
  get(name: string): Promise<PrefixSnapshotInfo>;
  /**
   * In one step. Other objects below the target stay, unless it is to be exact.
   * @throws `not_found`; `already_exists` without `overwrite`; `data_lost` when objects of it are gone; `request_invalid`, `unsupported`
   */
  restore(name: string, options: RestoreOptions): Promise<PrefixSnapshotRestored>;
  /** @throws `not_found` */
  remove(name: string): Promise<void>;
  close(): Promise<void>;
}

interface RestoreOptions {
  /** Default: where it was taken. */
  readonly to?: PrefixSnapshotSource | undefined;
  readonly overwrite: boolean;
  /** Needs `overwrite`. */
  readonly exact: boolean;
}

export interface PrefixSnapshotsOptions {
  readonly store: Pick<
    ObjectStore,
    'copy' | 'copyPrefix' | 'createBucket' | 'deletePrefix' | 'getBucket' | 'listRecords'
  >;
  readonly records: Pick<
    Catalog,
    'deleteRecord' | 'durable' | 'findRecord' | 'listRecords' | 'putRecord'
  >;
  readonly clock: Clock;
  /** Whether another bucket may lie in this place of tier 2. @throws when not */
  readonly assertRemoteFree: (bucket: string, remote: string) => Promise<void>;
  /** What is no snapshot could not be cleared away; the next start tries again. */
  readonly onError: (error: unknown, name: string) => void;
}

/** Of the catalog's records. Persisted: fields are added, never changed. */
const NAMESPACE = 'prefix-snapshots';
const BUCKET_SUFFIX = '-snapshots';

interface SnapshotRecord extends PrefixSnapshotInfo {
  /** P2 */
  readonly state: 'making' | 'made' | 'removing';
}

/** On a store that has recovered. */
export async function openPrefixSnapshots(
  options: PrefixSnapshotsOptions,
): Promise<PrefixSnapshots> {
  const snapshots = new CatalogPrefixSnapshots(options);
  await snapshots.open();
  return snapshots;
}

class CatalogPrefixSnapshots implements PrefixSnapshots {
  readonly #options: PrefixSnapshotsOptions;
  readonly #serial = new Serial<string>();

  constructor(options: PrefixSnapshotsOptions) {
    this.#options = options;
  }

  async open(): Promise<void> {
    for (const record of await this.#records()) {
      if (record.state === 'made') continue;
      const { name } = record;
      // Behind the start: there may be many objects. Whoever asks for the name waits for it.
      this.#serial
        .run(name, async () => await this.#clear(record))
        .catch((error: unknown) => this.#options.onError(error, name));
    }
  }

  async create(name: string, source: PrefixSnapshotSource): Promise<PrefixSnapshotInfo> {
    const { store, records, clock } = this.#options;
    if (!prefixSnapshotNameSchema.safeParse(name).success)
      throw new StoreError(
        'name_invalid',
        `snapshot ${JSON.stringify(name.slice(0, 80))}: use 1 to 64 letters, digits, ".", "_" and "-", a letter or digit first`,
      );
    return await this.#serial.run(name, async () => {
      const there = await this.#find(name);
      if (there?.state === 'made')
        throw new StoreError('already_exists', `there is a snapshot ${name}`, { name });
      if (there !== undefined) await this.#clear(there);
      const bucket = await this.#ensureBucket(source.bucket);
      const kept = { bucket, prefix: `${name}/` };
      const page = { ...kept, delimiter: '', startAfter: '', limit: 1 };
      if ((await store.listRecords(bucket, page)).objects.length > 0)
        throw new StoreError(
          'already_exists',
          `${bucket}/${name}/ has objects that are of no snapshot: remove them, or choose another name`,
          { bucket, name },
        );
      const createdAtMs = clock.now();
      const begun = { name, source, kept, createdAtMs, objects: 0, sizeBytes: 0 };
      await this.#put({ ...begun, state: 'making' });
      try {
        const { objects, sizeBytes } = await this.#copy(source, kept);
        await this.#put({ ...begun, objects, sizeBytes, state: 'made' });
        await records.durable();
        return { ...begun, objects, sizeBytes };
      } catch (error) {
        await this.#clear({ ...begun, state: 'making' }).catch((failure: unknown) =>
          this.#options.onError(failure, name),
        );
        throw error;
      }
    });
  }

  async list(): Promise<readonly PrefixSnapshotInfo[]> {
    return (await this.#records()).filter(({ state }) => state === 'made').map(infoOf);
  }

  async get(name: string): Promise<PrefixSnapshotInfo> {
    return infoOf(await this.#get(name));
  }

  async restore(name: string, options: RestoreOptions): Promise<PrefixSnapshotRestored> {
    const { store } = this.#options;
    return await this.#serial.run(name, async () => {
      const { source, kept, objects } = await this.#get(name);
      const { to = source, overwrite, exact } = options;
      if ('key' in source !== 'key' in to)
        throw new StoreError(
          'request_invalid',
          `snapshot ${name} is of ${'key' in source ? 'an object' : 'a prefix'}: so must its target be`,
        );
      const found = await this.#count(kept);
      // P4
      if (found < objects)
        throw new StoreError(
          'data_lost',
          `snapshot ${name} had ${objects} objects, and ${kept.bucket}/${kept.prefix} has ${found}`,
          { name, objects, found },
        );
      if ('prefix' in to) return await store.copyPrefix(kept, to, { overwrite, exact });
      if (exact) throw new StoreError('request_invalid', 'exact is for prefixes');
      await this.#assertAlike(kept.bucket, to.bucket);
      const from = { bucket: kept.bucket, key: kept.prefix + lastName(source) };
      const { object } = await store.copy(from, to, { ifNoneMatch: !overwrite });
      return { objects: 1, sizeBytes: object.sizeBytes, removed: 0 };
    });
  }

  async remove(name: string): Promise<void> {
    await this.#serial.run(name, async () => {
      const record = await this.#get(name);
      await this.#put({ ...record, state: 'removing' });
      await this.#clear(record);
    });
  }

  async close(): Promise<void> {
    await this.#serial.settled();
  }

  async #copy(
    source: PrefixSnapshotSource,
    kept: SnapshotRecord['kept'],
  ): Promise<{ readonly objects: number; readonly sizeBytes: number }> {
    const { store } = this.#options;
    if ('key' in source) {
      const to = { bucket: kept.bucket, key: kept.prefix + lastName(source) };
      const { object } = await store.copy(source, to, { ifNoneMatch: true });
      return { objects: 1, sizeBytes: object.sizeBytes };
    }
    const copied = await store.copyPrefix(source, kept, { overwrite: false, exact: false });
    if (copied.objects > 0) return copied;
    throw new StoreError('not_found', `no objects under ${source.bucket}/${source.prefix}`, {
      ...source,
    });
  }

  /** P3 */
  async #ensureBucket(source: string): Promise<string> {
    const { store, assertRemoteFree } = this.#options;
    const { policy } = await store.getBucket(source);
    const bucket = source + BUCKET_SUFFIX;
    const { remote } = policy;
    if (remote !== null)
      try {
        await assertRemoteFree(bucket, remote);
      } catch (error) {
        throw new StoreError(
          'unsupported',
          `bucket ${source} has a place in tier 2 to itself (${remote}): its snapshots could not lie there`,
          { bucket: source },
          error,
        );
      }
    await store.createBucket(bucket, keptPolicy(policy));
    return bucket;
  }

  /** P3: a copy of one object would be written anew otherwise. */
  async #assertAlike(from: string, to: string): Promise<void> {
    const { store } = this.#options;
    const kinds = await Promise.all(
      [from, to].map(async (name) => (await store.getBucket(name)).policy.encrypted === true),
    );
    if (kinds[0] === kinds[1]) return;
    const message = `${from} and ${to} are not both encrypted: what is restored would be written anew`;
    throw new StoreError('unsupported', message, { from, to });
  }

  /** Objects first. P2 */
  async #clear({ name, kept }: SnapshotRecord): Promise<void> {
    const { store, records } = this.#options;
    try {
      await store.deletePrefix(kept.bucket, kept.prefix);
    } catch (error) {
      if (!isStoreError(error, 'bucket_not_found')) throw error;
    }
    await records.deleteRecord(NAMESPACE, name);
  }

  async #count({ bucket, prefix }: SnapshotRecord['kept']): Promise<number> {
    const { store } = this.#options;
    let objects = 0;
    for (let startAfter: string | null = ''; startAfter !== null; ) {
      const options = { prefix, delimiter: '', startAfter, limit: 1000 };
      const page: { objects: readonly unknown[]; next: string | null } = await store.listRecords(
        bucket,
        options,
      );
      objects += page.objects.length;
      startAfter = page.next;
    }
    return objects;
  }

  async #get(name: string): Promise<SnapshotRecord> {
    const found = await this.#find(name);
    if (found?.state === 'made') return found;
    throw new StoreError('not_found', `there is no snapshot ${name}`, { name });
  }

  async #find(name: string): Promise<SnapshotRecord | undefined> {
    const value = await this.#options.records.findRecord(NAMESPACE, name);
    return value === undefined ? undefined : decode(value);
  }

  async #records(): Promise<readonly SnapshotRecord[]> {
    const found = await this.#options.records.listRecords(NAMESPACE, '');
    return found.map(({ value }) => decode(value));
  }

  async #put(record: SnapshotRecord): Promise<void> {
    const value = Buffer.from(JSON.stringify(record));
    await this.#options.records.putRecord(NAMESPACE, record.name, value);
  }
}

/** Of the bucket that holds snapshots of one with this policy. */
function keptPolicy(policy: BucketPolicy): BucketPolicy {
  const { preset, ack, mirror, remote, encrypted } = policy;
  return {
    ...{ preset, ack, mirror, remote, versioning: 'off', events: false },
    ...{ ttlMs: null, quotaBytes: null, revalidateMs: null },
    ...(encrypted === true ? { encrypted } : {}),
  };
}

function lastName(source: PrefixSnapshotSource): string {
  return 'key' in source ? source.key.slice(source.key.lastIndexOf('/') + 1) : '';
}

function decode(value: Uint8Array): SnapshotRecord {
  return JSON.parse(Buffer.from(value).toString('utf8')) as SnapshotRecord;
}

function infoOf({ state: _, ...info }: SnapshotRecord): PrefixSnapshotInfo {
  return info;
}
