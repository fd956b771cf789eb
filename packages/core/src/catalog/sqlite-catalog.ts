/**
 * The embedded catalog: one SQLite file in the node's data directory, for one process. Why SQLite: docs/adr/0001.
 *
 * Every method is a synchronous piece of SQL inside a shared transaction (sqlite-transactions.ts), over the tables of
 * sqlite-schema.ts; wal-keeper.ts makes it durable. Beyond the contract's invariants (catalog.ts) this file keeps:
 *
 * S1  Checks come before the first write of a change, so that a refused change alone fails.
 * S2  blobs.refs, the link rows, `place` and the counters follow from the objects and copies: `#put`, `#remove`,
 *     `#changeRefs` and `setBlobCopies` are the only ones who write them. A test recounts all of it and compares.
 * S3  Counters live in memory and follow each group: committed with it, or taken back with it. Writing them with every group
 *     would cost a fifth page in the log, a quarter of a commit. They are saved by `close`; after a crash `open` counts
 *     again (1 s for 1,000,000 objects), which meta.counters_saved decides.
 * S4  Memory does not grow with the number of objects: a page cache of fixed size, pages of listings, buckets, and jobs that
 *     have objects.
 *
 * A change of many objects (renamePrefix, deletePrefix) runs in one piece, about 30 µs an object: callers bound the ones
 * that have a limit. renamePrefix has none, because it must be atomic.
 */
import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync, type StatementSync } from 'node:sqlite';
import { assert, MiB, StoreError } from '@ebb/protocol';
import { type Clock, systemClock } from '../clock.ts';
import { keyProblem } from '../object-ref.ts';
import type {
  BlobCopies,
  BlobRecord,
  BucketPolicy,
  BucketRecord,
  Catalog,
  CatalogTotals,
  Condition,
  Extent,
  Freed,
  JobRecord,
  ListOptions,
  ListPage,
  ObjectCommit,
  ObjectRecord,
} from './catalog.ts';
import {
  decodeObjectBody,
  decodePolicy,
  encodeObjectBody,
  encodePolicy,
  type ObjectBody,
} from './catalog-records.ts';
import { translateSqliteError } from './sqlite-errors.ts';
import {
  COUNTER,
  PAGE_BYTES,
  PLACE,
  PLACES,
  RECOUNT,
  SCHEMA,
  SCHEMA_VERSION,
} from './sqlite-schema.ts';
import { SqliteTransactions } from './sqlite-transactions.ts';
import { commonPrefix, compareUtf8, rangeEnd } from './utf8-order.ts';
import { WalKeeper } from './wal-keeper.ts';

export interface SqliteCatalogOptions {
  /** Created if need be. */
  readonly directory: string;
  /** For the date of creation; the contract's own times are the callers'. */
  readonly clock?: Clock;
  /** Identifies a new data directory. */
  readonly newNodeId?: () => string;
}

const FILE = 'catalog.sqlite';
const PAGE_CACHE_BYTES = 16 * MiB;
/** Ids are reserved on disk in blocks of this size, durably, before any is handed out. */
const ID_BLOCK = 65_536;
const IDS_PER_CALL_MAX = ID_BLOCK;
/** Rows that a change of many objects holds at a time. */
const BATCH_ROWS = 256;
const LIST_BATCH_ROWS_MAX = 256;

/** @throws {StoreError} `data_directory_in_use`, `version_unsupported`, `data_corrupt`, `io_failed` */
export async function openSqliteCatalog(options: SqliteCatalogOptions): Promise<Catalog> {
  const { directory, clock = systemClock, newNodeId = randomUUID } = options;
  await mkdir(directory, { recursive: true });
  const file = join(directory, FILE);
  const database = openDatabase(file);
  try {
    const opened = prepareSchema(database, { file, clock, newNodeId });
    return await SqliteCatalog.open(database, { file, ...opened });
  } catch (error) {
    database.close();
    throw translateSqliteError(error, file);
  }
}

function openDatabase(file: string): DatabaseSync {
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(file, { timeout: 0 });
    database.exec(`pragma page_size=${PAGE_BYTES}`);
    // The lock comes first: entering WAL mode under EXCLUSIVE takes it, and it is kept until close or death.
    database.exec('pragma locking_mode=EXCLUSIVE');
    database.exec('pragma journal_mode=WAL');
    database.exec('pragma synchronous=NORMAL');
    database.exec('pragma wal_autocheckpoint=0');
    database.exec('pragma temp_store=MEMORY');
    database.exec(`pragma cache_size=${-PAGE_CACHE_BYTES / 1024}`);
    return database;
  } catch (error) {
    database?.close();
    throw translateSqliteError(error, file);
  }
}

/** Creates the tables of a new file, and refuses those of another version. */
function prepareSchema(
  database: DatabaseSync,
  options: { file: string; clock: Clock; newNodeId: () => string },
): OpenedFile {
  database.exec('begin exclusive');
  const { user_version: version } = database.prepare('pragma user_version').get() as {
    user_version: number;
  };
  if (version === 0) {
    database.exec(SCHEMA);
    database.exec(`pragma user_version=${SCHEMA_VERSION}`);
    const insert = database.prepare('insert into meta (name, value) values (?, ?)');
    insert.run('node_id', options.newNodeId());
    insert.run('created_at', options.clock.now());
    insert.run('ids_reserved', 0);
    insert.run('bucket_ids_reserved', 0);
    insert.run('counters_saved', 1);
  } else if (version !== SCHEMA_VERSION) {
    throw new StoreError(
      'version_unsupported',
      `${options.file} has format ${version}; this version of Ebb reads ${SCHEMA_VERSION}. Use the version that wrote it.`,
      { found: version, supported: SCHEMA_VERSION },
    );
  }
  const read = database.prepare('select value from meta where name = ?');
  const meta = (name: string): unknown => read.get(name)?.['value'];
  const nodeId = meta('node_id');
  const idsReserved = meta('ids_reserved');
  if (typeof nodeId !== 'string' || typeof idsReserved !== 'number') {
    throw new StoreError('data_corrupt', `${options.file} has no node id`);
  }
  const countersSaved = meta('counters_saved') === 1;
  database.exec("update meta set value = 0 where name = 'counters_saved'");
  database.exec('commit');
  return { nodeId, idsReserved, countersSaved };
}

interface OpenedFile {
  readonly nodeId: string;
  readonly idsReserved: number;
  /** Whether the saved counters are those of the tables: the last process closed the catalog. */
  readonly countersSaved: boolean;
}

interface Bucket {
  readonly id: number;
  record: BucketRecord;
  /** Its objects and their sizes. */
  readonly counter: Counter;
}

/** A count and a sum of bytes (S3). */
interface Counter {
  readonly scope: number;
  readonly name: string;
  count: number;
  bytes: number;
  /** As of the last committed group. */
  committed: { readonly count: number; readonly bytes: number };
  dirty: boolean;
}

/** An object row as it is stored. */
interface StoredObject {
  readonly version: number;
  readonly sizeBytes: number;
  readonly jobId: string | null;
  readonly createdAtMs: number;
  readonly pinned: boolean;
  readonly body: Uint8Array;
}

interface Blob {
  readonly record: BlobRecord;
  /** The object whose name stands in the blob's own row. */
  readonly bucket: number | null;
  readonly key: string | null;
}

const OBJECT_COLUMNS = 'key, version, size, job, created_at, pinned, body';
type ObjectRow = [string, number, number, string | null, number, number, Uint8Array];
const BLOB_COLUMNS =
  'blob_id, size, crc32c, refs, created_at, generation, memory_bytes, disk_bytes, remote_name, bucket, key';
type BlobRow = [
  number,
  number,
  number,
  number,
  number,
  number,
  number | null,
  number | null,
  string | null,
  number | null,
  string | null,
];

type Where = 'memory' | 'disk' | 'remote' | 'freed' | 'unmirrored';
const WHERE: Readonly<Record<Where, (place: number) => boolean>> = {
  memory: (place) => (place & PLACE.memory) !== 0,
  disk: (place) => (place & PLACE.disk) !== 0,
  remote: (place) => (place & PLACE.remote) !== 0,
  freed: (place) => (place & PLACE.freed) !== 0,
  unmirrored: (place) => (place & (PLACE.remote | PLACE.freed)) === 0,
};

const NOTHING_COUNTED = { count: 0, bytes: 0 };
const NOTHING_FREED: Freed = { freed: [] };

class SqliteCatalog implements Catalog {
  readonly #database: DatabaseSync;
  readonly #nodeId: string;
  readonly #tx: SqliteTransactions;
  readonly #sql: Statements;
  #keeper: WalKeeper | undefined;
  readonly #buckets = new Map<string, Bucket>();
  readonly #bucketNames = new Map<number, string>();
  readonly #counters = new Map<string, Counter>();
  #dirtyCounters: Counter[] = [];
  #nextId: number;
  #idsReserved: number;
  #reservation: Promise<void> | undefined;
  #failure: StoreError | undefined;
  #closing: Promise<void> | undefined;

  private constructor(database: DatabaseSync, options: OpenedFile) {
    this.#database = database;
    this.#nodeId = options.nodeId;
    this.#sql = prepareStatements(database);
    // What was reserved before and not used is a gap.
    this.#nextId = options.idsReserved + 1;
    this.#idsReserved = options.idsReserved;
    this.#tx = new SqliteTransactions(database, {
      onCommitted: (writes) => {
        this.#keepCounters();
        this.#keeper?.committed(writes);
      },
      onRollback: () => {
        this.#takeBackCounters();
        this.#loadBuckets();
      },
    });
    this.#loadCounters(options.countersSaved);
    this.#loadBuckets();
  }

  static async open(
    database: DatabaseSync,
    options: OpenedFile & { readonly file: string },
  ): Promise<SqliteCatalog> {
    const catalog = new SqliteCatalog(database, options);
    catalog.#keeper = await WalKeeper.open(options.file, {
      database,
      transactions: catalog.#tx,
      onFailure: (error) => {
        catalog.#failure = error;
        catalog.#tx.refuse(error);
      },
    });
    return catalog;
  }

  // ── ids ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  async nextIds(count: number): Promise<number> {
    assert(Number.isInteger(count) && count >= 1, 'ids are asked for in whole numbers from 1');
    assert(count <= IDS_PER_CALL_MAX, `at most ${IDS_PER_CALL_MAX} ids a call`);
    while (this.#nextId + count - 1 > this.#idsReserved) await this.#reserveIds();
    const first = this.#nextId;
    this.#nextId += count;
    // Ahead of need, so that nobody waits for the disk. A failure shows up when the block is needed.
    if (this.#idsReserved - this.#nextId < ID_BLOCK / 2) this.#reserveIds().catch(() => undefined);
    return first;
  }

  async nodeId(): Promise<string> {
    return this.#nodeId;
  }

  /** Durable before the block is used: after a power cut no id may come again, since files and tier 2 know them. */
  #reserveIds(): Promise<void> {
    this.#reservation ??= this.#reserveIdBlock().finally(() => {
      this.#reservation = undefined;
    });
    return this.#reservation;
  }

  async #reserveIdBlock(): Promise<void> {
    const reserved = this.#idsReserved + ID_BLOCK;
    await this.#tx.change(() => this.#tx.write(this.#sql.setMeta, reserved, 'ids_reserved'));
    await this.durable();
    this.#idsReserved = reserved;
  }

  // ── buckets ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async createBucket(
    record: BucketRecord,
  ): Promise<{ readonly created: boolean; readonly bucket: BucketRecord }> {
    const policy = encodePolicy(record.policy);
    return await this.#tx.change(() => {
      const existing = this.#buckets.get(record.name);
      if (existing !== undefined) return { created: false, bucket: existing.record };
      const id = (this.#sql.getMeta.get('bucket_ids_reserved') as unknown as [number])[0] + 1;
      this.#tx.write(this.#sql.setMeta, id, 'bucket_ids_reserved');
      this.#tx.write(this.#sql.insertBucket, record.name, id, record.createdAtMs, policy);
      this.#remember(id, record);
      return { created: true, bucket: record };
    });
  }

  async setBucketPolicy(name: string, policy: BucketPolicy): Promise<void> {
    const encoded = encodePolicy(policy);
    await this.#tx.change(() => {
      const bucket = this.#getBucket(name);
      const expired = bucket.record.policy.ttlMs !== null;
      const expires = policy.ttlMs !== null;
      this.#tx.write(this.#sql.setPolicy, encoded, name);
      if (expired !== expires) this.#tx.write(this.#sql.setExpires, expires ? 1 : 0, bucket.id);
      bucket.record = { ...bucket.record, policy };
    });
  }

  async findBucket(name: string): Promise<BucketRecord | undefined> {
    return await this.#tx.read(() => this.#buckets.get(name)?.record);
  }

  async listBuckets(): Promise<readonly BucketRecord[]> {
    return await this.#tx.read(() =>
      Array.from(this.#buckets.values(), (bucket) => bucket.record).sort((a, b) =>
        compareUtf8(a.name, b.name),
      ),
    );
  }

  async deleteBucket(name: string): Promise<void> {
    await this.#tx.change(() => {
      const bucket = this.#getBucket(name);
      const { count } = bucket.counter;
      if (count > 0) {
        throw new StoreError('bucket_not_empty', `bucket ${name} still has ${count} objects`, {
          bucket: name,
          objects: count,
        });
      }
      this.#tx.write(this.#sql.deleteBucket, name);
      this.#counters.delete(counterId(COUNTER.bucket, String(bucket.id)));
      this.#buckets.delete(name);
      this.#bucketNames.delete(bucket.id);
    });
  }

  async bucketTotals(name: string): Promise<{ objects: number; sizeBytes: number }> {
    return await this.#tx.read(() => {
      return sums(this.#buckets.get(name)?.counter);
    });
  }

  // ── objects ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async findObject(bucket: string, key: string): Promise<ObjectRecord | undefined> {
    return await this.#tx.read(() => {
      const found = this.#buckets.get(bucket);
      const stored = found === undefined ? undefined : this.#findStored(found.id, key);
      return stored === undefined ? undefined : toObject(bucket, key, stored);
    });
  }

  async listObjects(bucket: string, options: ListOptions): Promise<ListPage> {
    assert(Number.isInteger(options.limit) && options.limit >= 0, 'a page has a limit');
    return await this.#tx.read(() => {
      const found = this.#buckets.get(bucket);
      if (found === undefined || options.limit === 0) {
        return { objects: [], prefixes: [], next: null };
      }
      return this.#listPage(found, options);
    });
  }

  async commitObject(commit: ObjectCommit): Promise<Freed> {
    const { object, newBlobs, condition } = commit;
    const born = assertCommit(commit);
    const incoming = toStored(object, encodeObjectBody(object));
    return await this.#tx.change(() => {
      const bucket = this.#getBucket(object.bucket);
      const old = this.#findStored(bucket.id, object.key);
      checkCondition(condition, old, {
        bucket: object.bucket,
        key: object.key,
        ifExists: 'already_exists',
      });
      if (old !== undefined && old.version > object.version) {
        throw new StoreError(
          'superseded',
          `${object.bucket}/${object.key} has version ${old.version}; version ${object.version} comes too late`,
          { bucket: object.bucket, key: object.key, version: object.version, newer: old.version },
        );
      }
      const before = old === undefined ? [] : decodeObjectBody(old.body).extents;
      const after = object.extents.filter((extent) => !born.has(extent.blobId));
      for (const extent of after) this.#assertLive(extent);
      for (const blob of newBlobs) {
        if (blob.remoteName !== null) {
          this.#assertRemoteNameFree(blob.remoteName, { except: blob.blobId, before, after });
        }
        // The first insert of a change checks by itself that the id is new, and leaves nothing behind (S1).
        if (newBlobs.length > 1) assert(this.#findBlob(blob.blobId) === undefined, 'ids are new');
      }
      const bornFreed: BlobRecord[] = [];
      for (const blob of newBlobs) {
        const refs = born.get(blob.blobId)?.refs ?? 0;
        this.#insertBlob({ ...blob, refs, generation: 1 }, { bucket: bucket.id, key: object.key });
        if (refs === 0) bornFreed.push({ ...blob, refs, generation: 1 });
      }
      const { freed } = this.#put(bucket, object.key, { old, before, incoming, after });
      return bornFreed.length === 0 && freed.length === 0
        ? NOTHING_FREED
        : { freed: [...bornFreed, ...freed] };
    });
  }

  async deleteObject(
    bucket: string,
    key: string,
    condition: Condition,
  ): Promise<Freed & { readonly object: ObjectRecord | undefined }> {
    return await this.#tx.change(() => {
      const found = this.#buckets.get(bucket);
      const old = found === undefined ? undefined : this.#findStored(found.id, key);
      checkCondition(condition, old, { bucket, key, ifExists: 'precondition_failed' });
      if (found === undefined || old === undefined) return { ...NOTHING_FREED, object: undefined };
      const object = toObject(bucket, key, old);
      return { ...this.#remove(found, key, old, object.extents), object };
    });
  }

  async deletePrefix(
    bucket: string,
    prefix: string,
    limit: number,
  ): Promise<Freed & { objects: number; sizeBytes: number; done: boolean }> {
    assert(Number.isInteger(limit) && limit >= 1, 'a deletion has a limit');
    return await this.#tx.change(() => {
      const found = this.#buckets.get(bucket);
      if (found === undefined) return { ...NOTHING_FREED, objects: 0, sizeBytes: 0, done: true };
      const receipt = { freed: [] as BlobRecord[], objects: 0, sizeBytes: 0 };
      while (receipt.objects < limit) {
        const rows = this.#range(found.id, prefix, Math.min(BATCH_ROWS, limit - receipt.objects));
        if (rows.length === 0) break;
        for (const row of rows) this.#removeRow(found, row, receipt);
      }
      return { ...receipt, done: this.#range(found.id, prefix, 1).length === 0 };
    });
  }

  async copyObject(
    from: { readonly bucket: string; readonly key: string },
    to: {
      readonly bucket: string;
      readonly key: string;
      readonly version: number;
      readonly createdAtMs: number;
    },
    condition: Condition,
  ): Promise<Freed & { readonly object: ObjectRecord }> {
    assertKey(to.key);
    return await this.#tx.change(() => {
      const source = this.#getStored(from);
      const bucket = this.#getBucket(to.bucket);
      const old = this.#findStored(bucket.id, to.key);
      checkCondition(condition, old, {
        bucket: to.bucket,
        key: to.key,
        ifExists: 'already_exists',
      });
      if (old !== undefined && old.version > to.version) {
        throw new StoreError('superseded', `${to.bucket}/${to.key} has a newer version`, {
          bucket: to.bucket,
          key: to.key,
          version: to.version,
          newer: old.version,
        });
      }
      const incoming: StoredObject = {
        ...source.stored,
        version: to.version,
        createdAtMs: to.createdAtMs,
        jobId: null,
        pinned: false,
      };
      const freed = this.#put(bucket, to.key, {
        old,
        before: old === undefined ? [] : decodeObjectBody(old.body).extents,
        incoming,
        after: decodeObjectBody(incoming.body).extents,
      });
      return { ...freed, object: toObject(to.bucket, to.key, incoming) };
    });
  }

  async renameObject(
    from: { readonly bucket: string; readonly key: string },
    to: { readonly bucket: string; readonly key: string },
    condition: Condition,
  ): Promise<Freed & { readonly object: ObjectRecord }> {
    assertKey(to.key);
    return await this.#tx.change(() => {
      const source = this.#getStored(from);
      const bucket = this.#getBucket(to.bucket);
      const old = this.#findStored(bucket.id, to.key);
      checkCondition(condition, old, {
        bucket: to.bucket,
        key: to.key,
        ifExists: 'already_exists',
      });
      const object = toObject(to.bucket, to.key, source.stored);
      if (from.bucket === to.bucket && from.key === to.key) return { ...NOTHING_FREED, object };
      return { ...this.#move(source, { bucket, key: to.key, old }), object };
    });
  }

  async renamePrefix(
    from: { readonly bucket: string; readonly prefix: string },
    to: { readonly bucket: string; readonly prefix: string },
    options: { readonly overwrite: boolean },
  ): Promise<Freed & { objects: number; sizeBytes: number }> {
    if (
      from.bucket === to.bucket &&
      (from.prefix.startsWith(to.prefix) || to.prefix.startsWith(from.prefix))
    ) {
      throw new StoreError(
        'request_invalid',
        `one of the prefixes ${JSON.stringify(from.prefix)} and ${JSON.stringify(to.prefix)} contains the other`,
        { from: from.prefix, to: to.prefix },
      );
    }
    return await this.#tx.change(() => {
      const source = this.#getBucket(from.bucket);
      const target = this.#getBucket(to.bucket);
      const renamed = (key: string): string => to.prefix + key.slice(from.prefix.length);
      this.#assertTargets(source, from.prefix, {
        bucket: target,
        renamed,
        overwrite: options.overwrite,
      });
      const receipt = { freed: [] as BlobRecord[], objects: 0, sizeBytes: 0 };
      // New names never start with the old prefix, so the range empties.
      for (;;) {
        const rows = this.#range(source.id, from.prefix, BATCH_ROWS);
        if (rows.length === 0) return receipt;
        for (const row of rows) {
          const stored = fromRow(row);
          const key = renamed(row[0]);
          const old = this.#findStored(target.id, key);
          const { freed } = this.#move(
            { bucket: source, key: row[0], stored },
            { bucket: target, key, old },
          );
          for (const blob of freed) receipt.freed.push(blob);
          receipt.objects++;
          receipt.sizeBytes += stored.sizeBytes;
        }
      }
    });
  }

  async setPinned(bucket: string, key: string, pinned: boolean): Promise<ObjectRecord> {
    return await this.#tx.change(() => {
      const found = this.#buckets.get(bucket);
      const stored = found === undefined ? undefined : this.#findStored(found.id, key);
      if (found === undefined || stored === undefined) throw notFound(bucket, key);
      if (stored.pinned !== pinned)
        this.#tx.write(this.#sql.setPinned, pinned ? 1 : 0, found.id, key);
      return toObject(bucket, key, { ...stored, pinned });
    });
  }

  async listExpired(
    nowMs: number,
    limit: number,
  ): Promise<readonly { bucket: string; key: string; version: number }[]> {
    return await this.#tx.read(() => {
      const expired: { bucket: string; key: string; version: number }[] = [];
      for (const { id, record } of this.#buckets.values()) {
        if (record.policy.ttlMs === null || expired.length >= limit) continue;
        const rows = this.#sql.listExpired.all(
          id,
          nowMs - record.policy.ttlMs,
          limit - expired.length,
        ) as unknown as [string, number][];
        for (const [key, version] of rows) expired.push({ bucket: record.name, key, version });
      }
      return expired;
    });
  }

  // ── blobs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  async findBlob(blobId: number): Promise<BlobRecord | undefined> {
    return await this.#tx.read(() => this.#findBlob(blobId)?.record);
  }

  async listBlobs(options: {
    readonly afterBlobId: number;
    readonly limit: number;
    readonly where?: Where;
  }): Promise<readonly BlobRecord[]> {
    const { where, afterBlobId, limit } = options;
    const statement = where === undefined ? this.#sql.listBlobs : this.#sql.listBlobsWhere[where];
    return await this.#tx.read(() => {
      const rows = statement.all(afterBlobId, limit) as unknown as BlobRow[];
      return rows.map((row) => toBlob(row).record);
    });
  }

  async setBlobCopies(
    blobId: number,
    expectedGeneration: number,
    copies: BlobCopies,
  ): Promise<boolean> {
    return await this.#tx.change(() => {
      const found = this.#findBlob(blobId);
      if (found === undefined) return false;
      const { record } = found;
      if (record.refs === 0 || record.generation !== expectedGeneration) return false;
      const { memoryBytes, diskBytes, remoteName } = copies;
      if (remoteName !== null && remoteName !== record.remoteName) {
        this.#assertRemoteNameFree(remoteName, { except: blobId, before: [], after: [] });
      }
      this.#tx.write(
        this.#sql.setCopies,
        memoryBytes,
        diskBytes,
        remoteName,
        placeOf(copies, record.refs),
        blobId,
      );
      this.#countCopies(record, -1);
      this.#countCopies({ ...record, memoryBytes, diskBytes, remoteName }, 1);
      return true;
    });
  }

  async dropBlob(blobId: number): Promise<void> {
    await this.#tx.change(() => {
      const found = this.#findBlob(blobId);
      if (found === undefined || found.record.refs > 0) return;
      this.#tx.write(this.#sql.deleteBlob, blobId);
      this.#countCopies(found.record, -1);
      this.#count(this.#counter(COUNTER.blobs, ''), -1, -found.record.sizeBytes);
    });
  }

  async objectsOfBlob(
    blobId: number,
    limit: number,
  ): Promise<readonly { bucket: string; key: string; pinned: boolean }[]> {
    return await this.#tx.read(() => {
      const rows = this.#sql.objectsOfBlob.all(blobId, blobId, limit) as unknown as [
        number,
        string,
        number,
      ][];
      return rows.map(([bucket, key, pinned]) => ({
        bucket: this.#bucketName(bucket),
        key,
        pinned: pinned === 1,
      }));
    });
  }

  // ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  async putJob(record: JobRecord): Promise<void> {
    const { jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes } = record;
    await this.#tx.change(() =>
      this.#tx.write(this.#sql.putJob, jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes),
    );
  }

  async findJob(jobId: string): Promise<JobRecord | undefined> {
    return await this.#tx.read(() => {
      const row = this.#sql.findJob.get(jobId);
      return row === undefined ? undefined : toJob(row as unknown as JobRow);
    });
  }

  async listJobs(): Promise<readonly JobRecord[]> {
    return await this.#tx.read(() => (this.#sql.listJobs.all() as unknown as JobRow[]).map(toJob));
  }

  async deleteJob(jobId: string): Promise<void> {
    await this.#tx.change(() => this.#tx.write(this.#sql.deleteJob, jobId));
  }

  async jobTotals(jobId: string): Promise<{ objects: number; sizeBytes: number }> {
    return await this.#tx.read(() => sums(this.#counters.get(counterId(COUNTER.job, jobId))));
  }

  async deleteJobObjects(
    jobId: string,
    limit: number,
  ): Promise<Freed & { objects: number; sizeBytes: number; done: boolean }> {
    assert(Number.isInteger(limit) && limit >= 1, 'a deletion has a limit');
    return await this.#tx.change(() => {
      const receipt = { freed: [] as BlobRecord[], objects: 0, sizeBytes: 0 };
      while (receipt.objects < limit) {
        const batch = Math.min(BATCH_ROWS, limit - receipt.objects);
        const names = this.#sql.objectsOfJob.all(jobId, batch) as unknown as [number, string][];
        if (names.length === 0) break;
        for (const [id, key] of names) {
          const bucket = this.#buckets.get(this.#bucketName(id)) as Bucket;
          const row = this.#sql.findObject.get(id, key) as unknown as ObjectRow;
          this.#removeRow(bucket, row, receipt);
        }
      }
      const left = sums(this.#counters.get(counterId(COUNTER.job, jobId))).objects;
      return { ...receipt, done: left === 0 };
    });
  }

  // ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async putRecord(namespace: string, key: string, value: Uint8Array): Promise<void> {
    await this.#tx.change(() => this.#tx.write(this.#sql.putRecord, namespace, key, value));
  }

  async findRecord(namespace: string, key: string): Promise<Uint8Array | undefined> {
    return await this.#tx.read(
      () => (this.#sql.findRecord.get(namespace, key) as unknown as [Uint8Array] | undefined)?.[0],
    );
  }

  async listRecords(
    namespace: string,
    prefix: string,
  ): Promise<readonly { readonly key: string; readonly value: Uint8Array }[]> {
    return await this.#tx.read(() => {
      const end = rangeEnd(prefix);
      const rows = (end === undefined
        ? this.#sql.listRecordsFrom.all(namespace, prefix)
        : this.#sql.listRecordsBetween.all(namespace, prefix, end)) as unknown as [
        string,
        Uint8Array,
      ][];
      return rows.map(([key, value]) => ({ key, value }));
    });
  }

  async deleteRecord(namespace: string, key: string): Promise<void> {
    await this.#tx.change(() => this.#tx.write(this.#sql.deleteRecord, namespace, key));
  }

  // ── the whole ─────────────────────────────────────────────────────────────────────────────────────────────────────

  async totals(): Promise<CatalogTotals> {
    return await this.#tx.read(() => {
      let objects = 0;
      for (const bucket of this.#buckets.values()) objects += bucket.counter.count;
      const counter = (scope: number) => this.#counter(scope, '');
      const [memory, disk, remote] = [COUNTER.memory, COUNTER.disk, COUNTER.remote].map(
        counter,
      ) as [Counter, Counter, Counter];
      return {
        buckets: this.#buckets.size,
        objects,
        blobs: counter(COUNTER.blobs).count,
        bytes: { 0: memory.bytes, 1: disk.bytes, 2: remote.bytes },
        blobsByTier: { 0: memory.count, 1: disk.count, 2: remote.count },
      };
    });
  }

  async durable(): Promise<void> {
    if (this.#closing !== undefined) throw new StoreError('draining', 'the catalog is closed');
    this.#tx.flush();
    await (this.#keeper as WalKeeper).durable();
  }

  async close(): Promise<void> {
    this.#closing ??= this.#close();
    await this.#closing;
  }

  async #close(): Promise<void> {
    const keeper = this.#keeper as WalKeeper;
    this.#tx.flush();
    await keeper.settled(); // changes that a checkpoint held have run by now
    if (this.#failure === undefined) {
      const saved = this.#saveCounters();
      this.#tx.refuse(new StoreError('draining', 'the catalog is closed'));
      await saved;
    }
    await keeper.settled();
    // After a failed sync the log is the only copy one can trust, and closing SQLite would delete it: leave both open.
    if (this.#failure !== undefined) return;
    await keeper.checkpoint();
    this.#database.close();
    await keeper.close();
  }

  // ── listing ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Walks the names after `startAfter`. Below a common prefix it reads one key, then seeks to the end of that prefix, so
   * the cost is that of the names that it returns. Batches grow while objects come, and shrink to one row after a prefix.
   */
  #listPage(bucket: Bucket, options: ListOptions): ListPage {
    const { prefix, delimiter, limit } = options;
    const end = rangeEnd(prefix);
    const objects: ObjectRecord[] = [];
    const prefixes: string[] = [];
    let last = '';
    let seek = firstSeek(options);
    let batch = delimiter === '' ? LIST_BATCH_ROWS_MAX : 8;
    while (seek !== undefined) {
      const rows = this.#scan(bucket.id, seek, end, Math.min(batch, limit + 1));
      const asked = Math.min(batch, limit + 1);
      seek = rows.length < asked ? undefined : { after: (rows.at(-1) as ObjectRow)[0] };
      batch = Math.min(batch * 2, LIST_BATCH_ROWS_MAX);
      for (const row of rows) {
        const rolledUp = commonPrefix(row[0], prefix, delimiter);
        if (objects.length + prefixes.length === limit) return { objects, prefixes, next: last };
        last = rolledUp ?? row[0];
        if (rolledUp === undefined) {
          objects.push(toObject(bucket.record.name, row[0], fromRow(row)));
          continue;
        }
        prefixes.push(rolledUp);
        const from = rangeEnd(rolledUp);
        seek = from === undefined ? undefined : { from };
        batch = 1;
        break;
      }
    }
    return { objects, prefixes, next: null };
  }

  #scan(bucket: number, seek: Seek, end: string | undefined, limit: number): ObjectRow[] {
    const { scanFrom, scanFromTo, scanAfter, scanAfterTo } = this.#sql;
    const rows =
      'from' in seek
        ? end === undefined
          ? scanFrom.all(bucket, seek.from, limit)
          : scanFromTo.all(bucket, seek.from, end, limit)
        : end === undefined
          ? scanAfter.all(bucket, seek.after, limit)
          : scanAfterTo.all(bucket, seek.after, end, limit);
    return rows as unknown as ObjectRow[];
  }

  #range(bucket: number, prefix: string, limit: number): ObjectRow[] {
    return this.#scan(bucket, { from: prefix }, rangeEnd(prefix), limit);
  }

  // ── one object replaces another ───────────────────────────────────────────────────────────────────────────────────

  /** Writes an object row over `old`, and moves references and counters along. The only writer of object rows but `#remove`. */
  #put(
    bucket: Bucket,
    key: string,
    change: {
      readonly old: StoredObject | undefined;
      /** Extents of `old`. */
      readonly before: readonly Extent[];
      readonly incoming: StoredObject;
      /** Extents of `incoming` whose references are not counted yet. */
      readonly after: readonly Extent[];
    },
  ): Freed {
    const { old, incoming } = change;
    this.#tx.write(
      old === undefined ? this.#sql.insertObject : this.#sql.replaceObject,
      bucket.id,
      key,
      incoming.version,
      incoming.sizeBytes,
      incoming.jobId,
      incoming.createdAtMs,
      incoming.pinned ? 1 : 0,
      bucket.record.policy.ttlMs === null ? 0 : 1,
      incoming.body,
    );
    if (old !== undefined) this.#countObject(bucket, old, -1);
    this.#countObject(bucket, incoming, 1);
    return { freed: this.#changeRefs({ bucket: bucket.id, key }, change.before, change.after) };
  }

  #remove(bucket: Bucket, key: string, old: StoredObject, extents: readonly Extent[]): Freed {
    this.#tx.write(this.#sql.deleteObject, bucket.id, key);
    this.#countObject(bucket, old, -1);
    return { freed: this.#changeRefs({ bucket: bucket.id, key }, extents, []) };
  }

  #removeRow(
    bucket: Bucket,
    row: ObjectRow,
    receipt: { readonly freed: BlobRecord[]; objects: number; sizeBytes: number },
  ): void {
    const old = fromRow(row);
    const { freed } = this.#remove(bucket, row[0], old, decodeObjectBody(old.body).extents);
    for (const blob of freed) receipt.freed.push(blob);
    receipt.objects++;
    receipt.sizeBytes += old.sizeBytes;
  }

  /** The target is written first, so that the blobs keep a reference throughout. */
  #move(
    source: { readonly bucket: Bucket; readonly key: string; readonly stored: StoredObject },
    target: {
      readonly bucket: Bucket;
      readonly key: string;
      readonly old: StoredObject | undefined;
    },
  ): Freed {
    const { extents } = decodeObjectBody(source.stored.body);
    const freed = this.#put(target.bucket, target.key, {
      old: target.old,
      before: target.old === undefined ? [] : decodeObjectBody(target.old.body).extents,
      incoming: source.stored,
      after: extents,
    });
    const left = this.#remove(source.bucket, source.key, source.stored, extents);
    assert(left.freed.length === 0, 'a moved object keeps its blobs');
    return freed;
  }

  /** The object `name` had extents `before` and has `after` now. Returns blobs that lost their last reference. */
  #changeRefs(
    name: { readonly bucket: number; readonly key: string },
    before: readonly Extent[],
    after: readonly Extent[],
  ): BlobRecord[] {
    const freed: BlobRecord[] = [];
    for (const [blobId, uses] of countUses(before, after)) {
      if (uses.before === uses.after) continue;
      const blob = this.#findBlob(blobId);
      assert(blob !== undefined, 'a blob that objects name is known');
      const refs = blob.record.refs + uses.after - uses.before;
      assert(refs >= 0, 'references do not fall below zero');
      let holder: { bucket: number | null; key: string | null } = blob;
      const isHolder = blob.bucket === name.bucket && blob.key === name.key;
      if (uses.before === 0) {
        if (blob.bucket === null) holder = name;
        else this.#tx.write(this.#sql.insertLink, blobId, name.bucket, name.key);
      } else if (uses.after === 0) {
        if (isHolder) holder = { bucket: null, key: null };
        else this.#tx.write(this.#sql.deleteLink, blobId, name.bucket, name.key);
      }
      this.#writeRefs(blob.record, { refs, bucket: holder.bucket, key: holder.key });
      if (refs === 0) freed.push({ ...blob.record, refs });
    }
    return freed;
  }

  #writeRefs(
    record: BlobRecord,
    now: { readonly refs: number; readonly bucket: number | null; readonly key: string | null },
  ): void {
    this.#tx.write(
      this.#sql.setRefs,
      now.refs,
      placeOf(record, now.refs),
      now.bucket,
      now.key,
      record.blobId,
    );
  }

  #insertBlob(record: BlobRecord, holder: { readonly bucket: number; readonly key: string }): void {
    const isHeld = record.refs > 0;
    this.#tx.write(
      this.#sql.insertBlob,
      record.blobId,
      record.sizeBytes,
      record.crc32c,
      record.refs,
      record.createdAtMs,
      record.generation,
      record.memoryBytes,
      record.diskBytes,
      record.remoteName,
      placeOf(record, record.refs),
      isHeld ? holder.bucket : null,
      isHeld ? holder.key : null,
    );
    this.#countCopies(record, 1);
    this.#count(this.#counter(COUNTER.blobs, ''), 1, record.sizeBytes);
  }

  // ── look-ups and checks ───────────────────────────────────────────────────────────────────────────────────────────

  #findStored(bucket: number, key: string): StoredObject | undefined {
    const row = this.#sql.findObject.get(bucket, key);
    return row === undefined ? undefined : fromRow(row as unknown as ObjectRow);
  }

  #findBlob(blobId: number): Blob | undefined {
    const row = this.#sql.findBlob.get(blobId);
    return row === undefined ? undefined : toBlob(row as unknown as BlobRow);
  }

  #getBucket(name: string): Bucket {
    const bucket = this.#buckets.get(name);
    if (bucket === undefined) {
      throw new StoreError('bucket_not_found', `no bucket ${name}`, { bucket: name });
    }
    return bucket;
  }

  #bucketName(id: number): string {
    const name = this.#bucketNames.get(id);
    assert(name !== undefined, 'an object lies in a bucket');
    return name;
  }

  #getStored(from: { readonly bucket: string; readonly key: string }): {
    readonly bucket: Bucket;
    readonly key: string;
    readonly stored: StoredObject;
  } {
    const bucket = this.#getBucket(from.bucket);
    const stored = this.#findStored(bucket.id, from.key);
    if (stored === undefined) throw notFound(from.bucket, from.key);
    return { bucket, key: from.key, stored };
  }

  #assertLive(extent: Extent): void {
    const blob = this.#findBlob(extent.blobId)?.record;
    if (blob === undefined || blob.refs === 0) {
      throw new StoreError('data_lost', `blob ${extent.blobId} is gone`, { blobId: extent.blobId });
    }
    assert(extent.offset + extent.length <= blob.sizeBytes, 'an extent lies within its blob');
  }

  /** The name may be held by freed blobs, and by one that this very change frees. */
  #assertRemoteNameFree(
    remoteName: string,
    change: {
      readonly except: number;
      readonly before: readonly Extent[];
      readonly after: readonly Extent[];
    },
  ): void {
    const holders = this.#sql.remoteNameHolders.all(remoteName, change.except) as unknown as [
      number,
      number,
    ][];
    for (const [blobId, refs] of holders) {
      const uses = countUses(change.before, change.after).get(blobId) ?? { before: 0, after: 0 };
      if (refs - uses.before + uses.after === 0) continue;
      throw new StoreError('already_exists', `blob ${blobId} is stored as ${remoteName} already`, {
        remoteName,
        blobId,
      });
    }
  }

  /** Every new name of a prefix rename, before the first is written (S1). */
  #assertTargets(
    source: Bucket,
    prefix: string,
    target: {
      readonly bucket: Bucket;
      readonly renamed: (key: string) => string;
      readonly overwrite: boolean;
    },
  ): void {
    const end = rangeEnd(prefix);
    let seek: Seek | undefined = { from: prefix };
    while (seek !== undefined) {
      const rows: ObjectRow[] = this.#scan(source.id, seek, end, BATCH_ROWS);
      seek = rows.length < BATCH_ROWS ? undefined : { after: (rows.at(-1) as ObjectRow)[0] };
      for (const [key] of rows) {
        const name = target.renamed(key);
        const problem = keyProblem(name);
        if (problem !== undefined) {
          throw new StoreError('name_invalid', `${JSON.stringify(key)}: its new name ${problem}`);
        }
        if (!target.overwrite && this.#findStored(target.bucket.id, name) !== undefined) {
          const { name: bucket } = target.bucket.record;
          throw new StoreError('already_exists', `${bucket}/${name} exists`, { bucket, key: name });
        }
      }
    }
  }

  // ── caches ────────────────────────────────────────────────────────────────────────────────────────────────────────

  #loadCounters(saved: boolean): void {
    const rows = saved ? this.#sql.listCounters.all() : this.#database.prepare(RECOUNT).all();
    for (const row of rows) {
      const [scope, name, count, bytes] = (saved ? row : Object.values(row)) as unknown as [
        number,
        string,
        number,
        number,
      ];
      const committed = { count, bytes };
      this.#counters.set(counterId(scope, name), {
        scope,
        name,
        ...committed,
        committed,
        dirty: false,
      });
    }
  }

  #loadBuckets(): void {
    this.#buckets.clear();
    this.#bucketNames.clear();
    for (const row of this.#sql.listBuckets.all()) {
      const [name, id, createdAtMs, policy] = row as unknown as [string, number, number, string];
      this.#remember(id, { name, createdAtMs, policy: decodePolicy(policy) });
    }
  }

  #remember(id: number, record: BucketRecord): void {
    this.#buckets.set(record.name, {
      id,
      record,
      counter: this.#counter(COUNTER.bucket, String(id)),
    });
    this.#bucketNames.set(id, record.name);
  }

  #counter(scope: number, name: string): Counter {
    const id = counterId(scope, name);
    let counter = this.#counters.get(id);
    if (counter === undefined) {
      counter = { scope, name, ...NOTHING_COUNTED, committed: NOTHING_COUNTED, dirty: false };
      this.#counters.set(id, counter);
    }
    return counter;
  }

  #count(counter: Counter, count: number, bytes: number): void {
    counter.count += count;
    counter.bytes += bytes;
    assert(counter.count >= 0 && counter.bytes >= 0, 'counters do not fall below zero');
    if (counter.dirty) return;
    counter.dirty = true;
    this.#dirtyCounters.push(counter);
  }

  #countObject(bucket: Bucket, object: StoredObject, sign: 1 | -1): void {
    this.#count(bucket.counter, sign, sign * object.sizeBytes);
    if (object.jobId !== null) {
      this.#count(this.#counter(COUNTER.job, object.jobId), sign, sign * object.sizeBytes);
    }
  }

  #countCopies(blob: BlobCopies & Pick<BlobRecord, 'sizeBytes'>, sign: 1 | -1): void {
    if (blob.memoryBytes !== null)
      this.#count(this.#counter(COUNTER.memory, ''), sign, sign * blob.memoryBytes);
    if (blob.diskBytes !== null)
      this.#count(this.#counter(COUNTER.disk, ''), sign, sign * blob.diskBytes);
    if (blob.remoteName !== null)
      this.#count(this.#counter(COUNTER.remote, ''), sign, sign * blob.sizeBytes);
  }

  #keepCounters(): void {
    for (const counter of this.#dirtyCounters) {
      const { scope, name, count, bytes } = counter;
      counter.dirty = false;
      counter.committed = { count, bytes };
      // Jobs come and go: one without objects has no counter (S4).
      if (scope === COUNTER.job && count === 0) this.#counters.delete(counterId(scope, name));
    }
    this.#dirtyCounters = [];
  }

  #takeBackCounters(): void {
    for (const counter of this.#dirtyCounters) {
      counter.count = counter.committed.count;
      counter.bytes = counter.committed.bytes;
      counter.dirty = false;
    }
    this.#dirtyCounters = [];
  }

  /** The last change before the end. */
  async #saveCounters(): Promise<void> {
    await this.#tx.change(() => {
      this.#tx.write(this.#sql.deleteCounters);
      for (const { scope, name, count, bytes } of this.#counters.values()) {
        if (count > 0) this.#tx.write(this.#sql.putCounter, scope, name, count, bytes);
      }
      this.#tx.write(this.#sql.setMeta, 1, 'counters_saved');
    });
  }
}

type Seek = { readonly from: string } | { readonly after: string };

/** Where a page begins; undefined when nothing can come. A name inside a common prefix means that this prefix has passed. */
function firstSeek(options: ListOptions): Seek | undefined {
  const { prefix, startAfter, delimiter } = options;
  if (startAfter === '' || compareUtf8(startAfter, prefix) < 0) return { from: prefix };
  if (!startAfter.startsWith(prefix)) return undefined;
  const passed = commonPrefix(startAfter, prefix, delimiter);
  if (passed === undefined) return { after: startAfter };
  const from = rangeEnd(passed);
  return from === undefined ? undefined : { from };
}

/** Returns the new blobs by id, with the references that the object's extents give them. */
function assertCommit({
  object,
  newBlobs,
}: ObjectCommit): Map<number, { sizeBytes: number; refs: number }> {
  assertKey(object.key);
  const born = new Map<number, { sizeBytes: number; refs: number }>();
  for (const { blobId, sizeBytes } of newBlobs) born.set(blobId, { sizeBytes, refs: 0 });
  assert(born.size === newBlobs.length, 'each new blob is named once');
  let sizeBytes = 0;
  for (const extent of object.extents) {
    sizeBytes += extent.length;
    const blob = born.get(extent.blobId);
    if (blob === undefined) continue;
    blob.refs++;
    assert(extent.offset + extent.length <= blob.sizeBytes, 'an extent lies within its blob');
  }
  assert(sizeBytes === object.sizeBytes, 'the extents add up to the size of the object');
  return born;
}

/** The whole rule is parseKey's, at the entrance; this keeps what SQLite cannot store apart out of the tables. */
function assertKey(key: string): void {
  assert(key !== '', 'a key is not empty');
  assert(key.isWellFormed(), 'a key is well-formed Unicode');
}

function checkCondition(
  condition: Condition,
  old: StoredObject | undefined,
  subject: {
    readonly bucket: string;
    readonly key: string;
    readonly ifExists: 'already_exists' | 'precondition_failed';
  },
): void {
  const { bucket, key, ifExists } = subject;
  if (condition.ifNoneMatch === true && old !== undefined) {
    throw new StoreError(ifExists, `${bucket}/${key} exists`, { bucket, key });
  }
  if (condition.ifMatch === undefined) return;
  const found = old === undefined ? null : decodeObjectBody(old.body).etag;
  if (found !== condition.ifMatch) {
    throw new StoreError(
      'precondition_failed',
      `${bucket}/${key} ${found === null ? 'does not exist' : `has ETag ${found}`}, ${condition.ifMatch} was asked for`,
      { bucket, key, found, wanted: condition.ifMatch },
    );
  }
}

function countUses(
  before: readonly Extent[],
  after: readonly Extent[],
): Map<number, { before: number; after: number }> {
  const uses = new Map<number, { before: number; after: number }>();
  const of = (blobId: number): { before: number; after: number } => {
    const found = uses.get(blobId);
    if (found !== undefined) return found;
    const fresh = { before: 0, after: 0 };
    uses.set(blobId, fresh);
    return fresh;
  };
  for (const { blobId } of before) of(blobId).before++;
  for (const { blobId } of after) of(blobId).after++;
  return uses;
}

function placeOf(copies: BlobCopies, refs: number): number {
  return (
    (copies.memoryBytes === null ? 0 : PLACE.memory) |
    (copies.diskBytes === null ? 0 : PLACE.disk) |
    (copies.remoteName === null ? 0 : PLACE.remote) |
    (refs > 0 ? 0 : PLACE.freed)
  );
}

function counterId(scope: number, name: string): string {
  return `${scope}/${name}`;
}

function sums(counter: Counter | undefined): { objects: number; sizeBytes: number } {
  return { objects: counter?.count ?? 0, sizeBytes: counter?.bytes ?? 0 };
}

function notFound(bucket: string, key: string): StoreError {
  return new StoreError('not_found', `no object ${bucket}/${key}`, { bucket, key });
}

// ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────────

function fromRow(row: ObjectRow): StoredObject {
  return {
    version: row[1],
    sizeBytes: row[2],
    jobId: row[3],
    createdAtMs: row[4],
    pinned: row[5] === 1,
    body: row[6],
  };
}

function toStored(object: ObjectRecord, body: Uint8Array): StoredObject {
  const { version, sizeBytes, jobId, createdAtMs, pinned } = object;
  return { version, sizeBytes, jobId, createdAtMs, pinned, body };
}

function toObject(bucket: string, key: string, stored: StoredObject): ObjectRecord {
  const { version, sizeBytes, jobId, createdAtMs, pinned } = stored;
  const { etag, crc32c, contentType, metadata, extents }: ObjectBody = decodeObjectBody(
    stored.body,
  );
  return {
    bucket,
    key,
    version,
    sizeBytes,
    etag,
    crc32c,
    contentType,
    metadata,
    createdAtMs,
    jobId,
    pinned,
    extents,
  };
}

function toBlob(row: BlobRow): Blob {
  return {
    record: {
      blobId: row[0],
      sizeBytes: row[1],
      crc32c: row[2],
      refs: row[3],
      createdAtMs: row[4],
      generation: row[5],
      memoryBytes: row[6],
      diskBytes: row[7],
      remoteName: row[8],
    },
    bucket: row[9],
    key: row[10],
  };
}

type JobRow = [string, string, number, number, number | null];
function toJob(row: JobRow): JobRecord {
  const [jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes] = row;
  return { jobId, label, createdAtMs, heartbeatTtlMs, budgetBytes };
}

// ── statements ──────────────────────────────────────────────────────────────────────────────────────────────────────

type Statements = ReturnType<typeof prepareStatements>;

function prepareStatements(database: DatabaseSync) {
  const prepare = (sql: string): StatementSync => {
    const statement = database.prepare(sql);
    statement.setReturnArrays(true);
    return statement;
  };
  const scan = (condition: string): StatementSync =>
    prepare(
      `select ${OBJECT_COLUMNS} from objects where bucket = ? and ${condition} order by key limit ?`,
    );
  /** The runs of all places that `matches`, merged by blob id: SQLite steps each run only as far as the page needs. */
  const blobsWhere = (matches: (place: number) => boolean): StatementSync => {
    const runs = Array.from({ length: PLACES }, (_, place) => place)
      .filter(matches)
      .map((place) => `select ${BLOB_COLUMNS} from blobs where place = ${place} and blob_id > ?1`);
    return prepare(`${runs.join(' union all ')} order by 1 limit ?2`);
  };
  const objectColumns = 'bucket, key, version, size, job, created_at, pinned, expires, body';
  return {
    getMeta: prepare('select value from meta where name = ?'),
    setMeta: prepare('update meta set value = ? where name = ?'),

    listBuckets: prepare('select name, id, created_at, policy from buckets'),
    insertBucket: prepare('insert into buckets (name, id, created_at, policy) values (?, ?, ?, ?)'),
    setPolicy: prepare('update buckets set policy = ? where name = ?'),
    deleteBucket: prepare('delete from buckets where name = ?'),

    findObject: prepare(`select ${OBJECT_COLUMNS} from objects where bucket = ? and key = ?`),
    insertObject: prepare(
      `insert into objects (${objectColumns}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    replaceObject: prepare(
      `replace into objects (${objectColumns}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    deleteObject: prepare('delete from objects where bucket = ? and key = ?'),
    setPinned: prepare('update objects set pinned = ? where bucket = ? and key = ?'),
    setExpires: prepare('update objects set expires = ? where bucket = ?'),
    scanFrom: scan('key >= ?'),
    scanFromTo: scan('key >= ? and key < ?'),
    scanAfter: scan('key > ?'),
    scanAfterTo: scan('key > ? and key < ?'),
    listExpired: prepare(
      'select key, version from objects where bucket = ? and expires = 1 and created_at < ? order by created_at, key limit ?',
    ),
    objectsOfJob: prepare(
      'select bucket, key from objects where job = ? order by bucket, key limit ?',
    ),

    findBlob: prepare(`select ${BLOB_COLUMNS} from blobs where blob_id = ?`),
    insertBlob: prepare(
      `insert into blobs (blob_id, size, crc32c, refs, created_at, generation, memory_bytes, disk_bytes, remote_name,
       place, bucket, key) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    setRefs: prepare('update blobs set refs = ?, place = ?, bucket = ?, key = ? where blob_id = ?'),
    setCopies: prepare(
      `update blobs set memory_bytes = ?, disk_bytes = ?, remote_name = ?, place = ?, generation = generation + 1
       where blob_id = ?`,
    ),
    deleteBlob: prepare('delete from blobs where blob_id = ?'),
    listBlobs: prepare(
      `select ${BLOB_COLUMNS} from blobs where blob_id > ? order by blob_id limit ?`,
    ),
    listBlobsWhere: {
      memory: blobsWhere(WHERE.memory),
      disk: blobsWhere(WHERE.disk),
      remote: blobsWhere(WHERE.remote),
      freed: blobsWhere(WHERE.freed),
      unmirrored: blobsWhere(WHERE.unmirrored),
    },
    remoteNameHolders: prepare(
      'select blob_id, refs from blobs where remote_name = ? and refs > 0 and blob_id <> ?',
    ),
    insertLink: prepare('insert into blob_links (blob_id, bucket, key) values (?, ?, ?)'),
    deleteLink: prepare('delete from blob_links where blob_id = ? and bucket = ? and key = ?'),
    objectsOfBlob: prepare(
      `select o.bucket, o.key, o.pinned from (
         select bucket, key from blobs where blob_id = ? and bucket is not null
         union all select bucket, key from blob_links where blob_id = ?
       ) as name cross join objects as o on o.bucket = name.bucket and o.key = name.key limit ?`,
    ),

    listCounters: prepare('select scope, name, count, bytes from counters'),
    putCounter: prepare('insert into counters (scope, name, count, bytes) values (?, ?, ?, ?)'),
    deleteCounters: prepare('delete from counters'),

    putJob: prepare(
      'replace into jobs (job_id, label, created_at, heartbeat_ttl, budget) values (?, ?, ?, ?, ?)',
    ),
    findJob: prepare(
      'select job_id, label, created_at, heartbeat_ttl, budget from jobs where job_id = ?',
    ),
    listJobs: prepare(
      'select job_id, label, created_at, heartbeat_ttl, budget from jobs order by job_id',
    ),
    deleteJob: prepare('delete from jobs where job_id = ?'),

    putRecord: prepare('replace into records (namespace, key, value) values (?, ?, ?)'),
    findRecord: prepare('select value from records where namespace = ? and key = ?'),
    listRecordsFrom: prepare(
      'select key, value from records where namespace = ? and key >= ? order by key',
    ),
    listRecordsBetween: prepare(
      'select key, value from records where namespace = ? and key >= ? and key < ? order by key',
    ),
    deleteRecord: prepare('delete from records where namespace = ? and key = ?'),
  };
}
