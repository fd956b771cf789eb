/**
 * Buckets: rows of `buckets`, and all of them in memory, because the other tables know a bucket by its number.
 *
 * - The cache is what the tables are, uncommitted changes included; `load` reads it again after a group was undone.
 * - A number is given out once, so that a bucket created again shares nothing with the deleted one.
 * - A bucket that keeps versions has a hidden bucket beside it (sqlite-versions.ts) from when its policy first says so until
 *   it is deleted. It is empty then: `delete` refuses while an old version is left. Its policy follows, but that it is not
 *   mirrored as a whole: sqlite-versions.ts says which of its rows go to tier 2.
 * - Blobs of encrypted buckets are encrypted, and those of others are not: what `setPolicy` changes there is refused while
 *   the bucket has objects, and what shares blobs between two buckets asks `assertSameEncryption`.
 * - objects.expires says whether the bucket of an object has a TTL: `setPolicy` writes it for all objects of the bucket.
 */
import { assert, StoreError } from '@ebb/protocol';
import { versionsBucketOf } from '../object-ref.ts';
import type { BlobRecord, BucketPolicy, BucketRecord } from './catalog.ts';
import { decodePolicy, encodePolicy } from './catalog-records.ts';
import type { Counter, Counters } from './sqlite-counters.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';
import { compareUtf8 } from './utf8-order.ts';

export interface Bucket {
  readonly id: number;
  record: BucketRecord;
  /** Its objects and their sizes. */
  readonly counter: Counter;
}

export class BucketTable {
  readonly #tx: SqliteTransactions;
  readonly #counters: Counters;
  readonly #sql: ReturnType<typeof prepareStatements>;
  readonly #byName = new Map<string, Bucket>();
  readonly #byId = new Map<number, Bucket>();

  constructor(tx: SqliteTransactions, counters: Counters) {
    this.#tx = tx;
    this.#counters = counters;
    this.#sql = prepareStatements(tx);
    this.load();
  }

  load(): void {
    this.#byName.clear();
    this.#byId.clear();
    for (const row of this.#sql.list.all()) {
      const [name, id, createdAtMs, policy] = row as unknown as [string, number, number, string];
      this.#remember(id, { name, createdAtMs, policy: decodePolicy(policy) });
    }
  }

  get count(): number {
    return this.#byName.size;
  }

  /** In no order. */
  all(): Iterable<Bucket> {
    return this.#byName.values();
  }

  find(name: string): Bucket | undefined {
    return this.#byName.get(name);
  }

  /** @throws {StoreError} `bucket_not_found` */
  get(name: string): Bucket {
    const bucket = this.#byName.get(name);
    if (bucket === undefined) {
      throw new StoreError('bucket_not_found', `no bucket ${name}`, { bucket: name });
    }
    return bucket;
  }

  /** The bucket that a row of another table names. */
  withId(id: number): Bucket {
    const bucket = this.#byId.get(id);
    assert(bucket !== undefined, 'an object lies in a bucket');
    return bucket;
  }

  list(): BucketRecord[] {
    const records = Array.from(this.#byName.values(), (bucket) => bucket.record);
    return records.sort((a, b) => compareUtf8(a.name, b.name));
  }

  create(record: BucketRecord): { readonly created: boolean; readonly bucket: BucketRecord } {
    const existing = this.#byName.get(record.name);
    if (existing !== undefined) return { created: false, bucket: existing.record };
    const policy = encodePolicy(record.policy);
    const id = (this.#sql.lastId.get() as unknown as [number])[0] + 1;
    this.#tx.write(this.#sql.setLastId, id);
    this.#tx.write(this.#sql.insert, record.name, id, record.createdAtMs, policy);
    this.#remember(id, record);
    this.#prepareVersions(record);
    return { created: true, bucket: record };
  }

  #prepareVersions({ name, createdAtMs, policy }: BucketRecord): void {
    if (policy.versioning === 'off') return;
    const hidden = versionsBucketOf(name);
    const hiddenPolicy: BucketPolicy = {
      ...policy,
      ack: policy.ack === 'remote' ? 'disk' : policy.ack,
      // Never where a bucket's objects lie for others to read: there are no names of ours between theirs.
      ...{ remote: null, mirror: false, revalidateMs: null, versioning: 'off' },
    };
    if (this.#byName.has(hidden)) this.setPolicy(hidden, hiddenPolicy);
    else this.create({ name: hidden, createdAtMs, policy: hiddenPolicy });
  }

  setPolicy(name: string, policy: BucketPolicy): void {
    const bucket = this.get(name);
    if (isEncrypted(bucket.record) !== (policy.encrypted === true)) this.#assertEmpty(bucket);
    const expired = bucket.record.policy.ttlMs !== null;
    const expires = policy.ttlMs !== null;
    this.#tx.write(this.#sql.setPolicy, encodePolicy(policy), name);
    if (expired !== expires) this.#tx.write(this.#sql.setExpires, expires ? 1 : 0, bucket.id);
    bucket.record = { ...bucket.record, policy };
    this.#prepareVersions(bucket.record);
  }

  delete(name: string): void {
    const bucket = this.get(name);
    this.#assertEmpty(bucket);
    const versions = this.#byName.get(versionsBucketOf(name));
    this.#tx.write(this.#sql.delete, name);
    this.#counters.retire(bucket.counter);
    this.#byName.delete(name);
    this.#byId.delete(bucket.id);
    if (versions !== undefined) this.delete(versions.record.name);
  }

  #assertEmpty({ record: { name }, counter }: Bucket): void {
    const versions = this.#byName.get(versionsBucketOf(name));
    if (versions !== undefined && versions.counter.count > 0) {
      throw new StoreError(
        'bucket_not_empty',
        `bucket ${name} still has ${versions.counter.count} old versions and delete markers`,
        { bucket: name, versions: versions.counter.count },
      );
    }
    if (counter.count > 0) {
      throw new StoreError(
        'bucket_not_empty',
        `bucket ${name} still has ${counter.count} object${counter.count === 1 ? '' : 's'}`,
        {
          bucket: name,
          objects: counter.count,
        },
      );
    }
  }

  #remember(id: number, record: BucketRecord): void {
    const bucket = { id, record, counter: this.#counters.bucket(id) };
    this.#byName.set(record.name, bucket);
    this.#byId.set(id, bucket);
  }
}

function isEncrypted({ policy }: BucketRecord): boolean {
  return policy.encrypted === true;
}

/** @throws {StoreError} `precondition_failed`: the caller saw the buckets when they were alike */
export function assertSameEncryption(a: Bucket, b: Bucket): void {
  if (isEncrypted(a.record) === isEncrypted(b.record)) return;
  throw encryptionChanged(b.record);
}

/** @throws {StoreError} `precondition_failed`: the bucket was another one when this was written */
export function assertEncryptedAs({ record }: Bucket, blob: Pick<BlobRecord, 'sealId'>): void {
  if (isEncrypted(record) !== (blob.sealId !== undefined)) throw encryptionChanged(record);
}

function encryptionChanged({ name }: BucketRecord): StoreError {
  const message = `whether bucket ${name} is encrypted was changed meanwhile; try again`;
  return new StoreError('precondition_failed', message, { bucket: name });
}

function prepareStatements(tx: SqliteTransactions) {
  return {
    list: tx.prepare('select name, id, created_at, policy from buckets'),
    insert: tx.prepare('insert into buckets (name, id, created_at, policy) values (?, ?, ?, ?)'),
    setPolicy: tx.prepare('update buckets set policy = ? where name = ?'),
    delete: tx.prepare('delete from buckets where name = ?'),
    lastId: tx.prepare("select value from meta where name = 'bucket_ids_reserved'"),
    setLastId: tx.prepare("update meta set value = ? where name = 'bucket_ids_reserved'"),
    setExpires: tx.prepare('update objects set expires = ? where bucket = ?'),
  };
}
