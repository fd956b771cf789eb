/**
 * The embedded catalog: one SQLite file in the node's data directory, for one process. Why SQLite: docs/adr/0001.
 *
 * Every method of the contract is a synchronous piece of work on the tables, inside one change or read of a shared
 * transaction. Beyond the contract's invariants (catalog.ts) the parts keep:
 *
 * S1  Checks come before the first write of a change, so that a refused change alone fails.
 * S2  References, link rows, `place` and counters follow from the objects and the copies: whoever writes a row moves them
 *     along, and nobody else touches them. A test recounts all of it and compares.
 * S3  Counters live in memory, and follow each group of changes.
 * S4  Memory does not grow with the number of objects: a page cache of fixed size, pages of listings, buckets, and jobs that
 *     have objects.
 *
 *   sqlite-file          opens the file: lock, tables of sqlite-schema, version
 *   sqlite-transactions  changes in groups, reads beside them; prepared statements
 *   wal-keeper           durability and the length of the log, off the main thread
 *   log-reserve          blocks that the log has before it needs them; catalog-room: who may still add to a full disk; catalog-health
 *   sqlite-tables        the tables: -objects, -blobs and -block-sums (S2), -buckets, -spool, -private-copies, -jobs, -records, -counters (S3)
 *   sqlite-events        the log of what was done (E1 to E4)
 *   sqlite-*-changes     what may be done to objects: to one (S1), to many, to those that go to tier 2; to the copies of a blob
 *   sqlite-listing       pages of names
 *   sqlite-versions      what a change in a bucket that keeps versions leaves behind; pages of it in -version-listing
 *   sqlite-ids           ids that never come twice
 */
import { randomUUID } from 'node:crypto';
import { StoreError } from '@ebb/protocol';
import { type Clock, systemClock } from '../clock.ts';
import type { Catalog } from './catalog.ts';
import { CatalogHealth } from './catalog-health.ts';
import { type CatalogConditions, CatalogRoom } from './catalog-room.ts';
import { extendLog, keepReserve } from './log-reserve.ts';
import { copyPrefix, deleteJobObjects, deletePrefix, renamePrefix } from './sqlite-bulk-changes.ts';
import { setBlobCopies } from './sqlite-copy-changes.ts';
import { sums } from './sqlite-counters.ts';
import { translateSqliteError } from './sqlite-errors.ts';
import { EVENTS_MAX } from './sqlite-events.ts';
import { type CatalogFile, openCatalogFile } from './sqlite-file.ts';
import { IdAllocator } from './sqlite-ids.ts';
import { listExpired, listPage } from './sqlite-listing.ts';
import {
  askMirrored,
  setBucketPolicy,
  setMirrored,
  unsetMirrored,
} from './sqlite-mirror-changes.ts';
import {
  commitObject,
  copyObject,
  deleteObject,
  deleteVersion,
  findObject,
  renameObject,
  setAttributes,
  setPinned,
} from './sqlite-object-changes.ts';
import { loadTables, type Tables, totalsOf } from './sqlite-tables.ts';
import { SqliteTransactions } from './sqlite-transactions.ts';
import { listVersions } from './sqlite-version-listing.ts';
import { findVersion } from './sqlite-versions.ts';
import { WalKeeper } from './wal-keeper.ts';

export interface SqliteCatalogOptions {
  /** Created if need be. */
  readonly directory: string;
  /** For the date of creation and the times of events; the contract's own times are the callers'. */
  readonly clock?: Clock;
  /** Events that are kept; default 100,000. */
  readonly eventsMax?: number;
  /** Identifies a new data directory. */
  readonly newNodeId?: () => string;
  /** Keeps room for deletions and starts, and refuses what adds to a catalog whose file system has little left. Default false. */
  readonly keepsRoom?: boolean;
  /** Where it tells that it lacks room, or that its disk refuses changes. */
  readonly conditions?: CatalogConditions;
}

/** @throws {StoreError} `data_directory_in_use`, `version_unsupported`, `data_corrupt`, `io_failed` */
export async function openSqliteCatalog(options: SqliteCatalogOptions): Promise<Catalog> {
  const { directory, clock = systemClock, newNodeId = randomUUID } = options;
  const { eventsMax = EVENTS_MAX } = options;
  const { conditions = { enter: () => undefined, leave: () => undefined } } = options;
  const room = options.keepsRoom === true ? new CatalogRoom({ directory, conditions }) : undefined;
  let file: CatalogFile | undefined;
  try {
    file = await openCatalogFile({ directory, clock, newNodeId });
    return await openCatalog(file, { events: { clock, eventsMax }, room, conditions });
  } catch (error) {
    room?.close();
    file?.database.close();
    throw translateSqliteError(error, file?.path ?? directory);
  }
}

async function openCatalog(
  file: CatalogFile,
  options: {
    readonly events: { readonly clock: Clock; readonly eventsMax: number };
    readonly room: CatalogRoom | undefined;
    readonly conditions: CatalogConditions;
  },
): Promise<Catalog> {
  const { database, path, nodeId } = file;
  const { room, conditions } = options;
  const tx = new SqliteTransactions(database, {
    onCommitted: (writes) => {
      tables.counters.keep();
      keeper.committed(writes);
      tables.events.keep(() => keeper.durable());
      health.noteCommitted();
    },
    onRollback: () => {
      tables.counters.takeBack();
      tables.events.takeBack();
      tables.buckets.load();
    },
    onFailed: (error) => {
      if (error.code === 'tier_full') room?.noteFull();
      else if (error.code === 'io_failed') health.noteFailed(error);
    },
  });
  const touch = tx.prepare("update meta set value = value where name = 'node_id'");
  const health = new CatalogHealth(conditions, () => tx.change(() => tx.write(touch)));
  const tables = loadTables(tx, { ...options.events, ...file });
  if (room !== undefined) keepLogReserve(path, room);
  const keeper = await WalKeeper.open(path, {
    database,
    transactions: tx,
    checkpointBytes: room === undefined ? undefined : room.reserveBytes / 2,
    onFailure: (error) => {
      tx.refuse(error);
      health.noteFinal(error);
    },
  });
  let closing: Promise<void> | undefined;
  const durable = async (): Promise<void> => {
    if (closing !== undefined) throw new StoreError('draining', 'the catalog is closed');
    tx.flush();
    await keeper.durable();
  };
  const close = async (): Promise<void> => {
    room?.close();
    health.close();
    closing ??= closeCatalog(file, { tx, tables, keeper, keepsRoom: room !== undefined });
    await closing;
  };
  const ids = new IdAllocator(tx, { reserved: file.idsReserved, durable });
  const assertMayGrow = (): void => room?.assertMayGrow();
  return createCatalog({ nodeId, ids, tx, tables, durable, close, assertMayGrow });
}

/** The log gets its blocks at the start, or as soon as there are enough. */
function keepLogReserve(path: string, room: CatalogRoom): void {
  let isKept = false;
  const keep = (availableBytes: number): void => {
    const { reserveBytes } = room;
    if (!isKept && availableBytes > 2 * reserveBytes) isKept = extendLog(path, reserveBytes);
  };
  room.onRoom(keep);
  room.look();
}

/** The contract, method by method. The names in this file are those of callers; the tables know numbers of buckets. */
function createCatalog(parts: {
  readonly nodeId: string;
  readonly ids: IdAllocator;
  readonly tx: SqliteTransactions;
  readonly tables: Tables;
  readonly durable: () => Promise<void>;
  readonly close: () => Promise<void>;
  readonly assertMayGrow: () => void;
}): Catalog {
  const { nodeId, ids, tx, tables, durable, close, assertMayGrow } = parts;
  const { buckets, objects, blobs, counters, jobs, records, spool, events } = tables;
  const { privateCopies, blockSums } = tables;
  /** A change that adds to the catalog: refused first when the file system has little room left (catalog-room.ts, R1). */
  const grow = <T>(apply: () => T): Promise<T> =>
    tx.change(() => {
      assertMayGrow();
      return apply();
    });
  return {
    nextIds: (count) => ids.take(count),
    nodeId: async () => nodeId,

    createBucket: (record) =>
      tx.change(() => {
        // One that is there already is only found.
        if (buckets.find(record.name) === undefined) assertMayGrow();
        return buckets.create(record);
      }),
    setBucketPolicy: (name, policy) => grow(() => setBucketPolicy(tables, name, policy)),
    findBucket: (name) => tx.read(() => buckets.find(name)?.record),
    listBuckets: () => tx.read(() => buckets.list()),
    deleteBucket: (name) => tx.change(() => buckets.delete(name)),
    bucketTotals: (name) => tx.read(() => sums(buckets.find(name)?.counter)),

    findObject: (bucket, key) => tx.read(() => findObject(tables, { bucket, key })),
    listObjects: (bucket, options) =>
      tx.read(() => listPage(objects, buckets.find(bucket), options)),
    commitObject: (commit) => grow(() => commitObject(tables, commit)),
    deleteObject: (bucket, key, condition, stamp) =>
      tx.change(() => deleteObject(tables, { bucket, key }, condition, stamp)),
    deletePrefix: (bucket, prefix, limit, stamp) =>
      tx.change(() => deletePrefix(tables, { bucket, prefix }, limit, stamp)),
    copyObject: (from, to, condition) => grow(() => copyObject(tables, from, to, condition)),
    renameObject: (from, to, condition, stamp) =>
      grow(() => renameObject(tables, from, to, condition, stamp)),
    renamePrefix: (from, to, options, stamp) =>
      grow(() => renamePrefix(tables, from, to, options, stamp)),
    findVersion: (bucket, key, which) => tx.read(() => findVersion(tables, { bucket, key }, which)),
    copyPrefix: (from, to, options, stamp) =>
      grow(() => copyPrefix(tables, from, to, options, stamp)),
    listVersions: (bucket, options) =>
      tx.read(() => listVersions(tables, buckets.find(bucket), options)),
    deleteVersion: (bucket, key, which, condition, cause) =>
      tx.change(() => deleteVersion(tables, { bucket, key }, which, { condition, cause })),
    setPinned: (bucket, key, pinned) => grow(() => setPinned(tables, { bucket, key }, pinned)),
    setAttributes: (name, change) => grow(() => setAttributes(tables, name, change)),
    listExpired: (nowMs, limit) => tx.read(() => listExpired(tables, nowMs, limit)),

    findBlob: (blobId) => tx.read(() => blobs.find(blobId)),
    listBlobs: (options) => tx.read(() => blobs.list(options)),
    setBlobCopies: (blobId, expectedGeneration, copies) =>
      tx.change(() => setBlobCopies(tables, blobId, expectedGeneration, copies)),
    setBlobChecksum: (blobId, crc32c) => tx.change(() => blobs.setChecksum(blobId, crc32c)),
    putBlockSums: (blobId, firstBlock, sums) =>
      grow(() => {
        if (blobs.find(blobId) !== undefined) blockSums.put(blobId, firstBlock, sums);
      }),
    findBlockSums: (blobId, firstBlock) => tx.read(() => blockSums.find(blobId, firstBlock)),
    hasOwnCopies: () => tx.read(() => blobs.hasOwnCopies() || spool.hasOwnSeen()),
    listBlobsStoredAs: (remoteName) => tx.read(() => blobs.listStoredAs(remoteName)),
    dropBlob: (blobId) =>
      tx.change(() => {
        if (blobs.drop(blobId)) blockSums.drop(blobId);
      }),
    objectsOfBlob: (blobId, limit) =>
      tx.read(() =>
        blobs.users(blobId, limit).map(({ bucket, key, pinned }) => ({
          bucket: buckets.withId(bucket).record.name,
          key,
          pinned,
        })),
      ),

    listSpool: (options) => tx.read(() => spool.list(options)),
    findSpooled: (bucket, key) => tx.read(() => spool.find(bucket, key)),
    setMirrored: (entry, made) => tx.change(() => setMirrored(tables, entry, made)),
    askMirrored: (object) => grow(() => askMirrored(tables, object)),
    unsetMirrored: (name) => tx.change(() => unsetMirrored(tables, name)),
    dropSpooled: (entry) => tx.change(() => spool.drop(entry)),
    spoolTotals: () => tx.read(() => spool.totals()),

    notePrivateCopy: (name) => tx.change(() => privateCopies.note(name)),
    hasPrivateCopy: (name) => tx.read(() => privateCopies.has(name)),
    listPrivateCopies: (options) => tx.read(() => privateCopies.list(options)),
    dropPrivateCopy: (name) => tx.change(() => privateCopies.drop(name)),

    putJob: (record) => grow(() => jobs.put(record)),
    findJob: (jobId) => tx.read(() => jobs.find(jobId)),
    listJobs: () => tx.read(() => jobs.list()),
    deleteJob: (jobId) => tx.change(() => jobs.delete(jobId)),
    jobTotals: (jobId) => tx.read(() => counters.ofJob(jobId)),
    deleteJobObjects: (jobId, limit) => tx.change(() => deleteJobObjects(tables, jobId, limit)),

    putRecord: (namespace, key, value) => tx.change(() => records.put(namespace, key, value)),
    putRecords: (namespace, all) =>
      tx.change(() => {
        for (const { key, value } of all) records.put(namespace, key, value);
      }),
    findRecord: (namespace, key) => tx.read(() => records.find(namespace, key)),
    listRecords: (namespace, prefix) => tx.read(() => records.list(namespace, prefix)),
    deleteRecord: (namespace, key) => tx.change(() => records.delete(namespace, key)),

    listEvents: (options) => tx.read(() => events.list(options)),
    lastEventId: async () => {
      const last = await tx.read(() => events.last);
      if (last > events.lastShown) await durable();
      return last;
    },
    onEvents: (listener) => events.listen(listener),

    totals: () => tx.read(() => totalsOf(tables)),
    durable,
    close,
  };
}

async function closeCatalog(
  { database, path }: CatalogFile,
  parts: {
    readonly tx: SqliteTransactions;
    readonly tables: Tables;
    readonly keeper: WalKeeper;
    readonly keepsRoom: boolean;
  },
): Promise<void> {
  const { tx, tables, keeper } = parts;
  tx.flush();
  await keeper.settled(); // changes that a checkpoint held have run by now
  if (keeper.failure === undefined) {
    const saved = tx.change(() => {
      tables.events.save();
      tables.counters.save();
    });
    tx.refuse(new StoreError('draining', 'the catalog is closed'));
    // Without room they are not saved, and counted again at the next start.
    await saved.catch(() => undefined);
  }
  await keeper.settled();
  // After a failed sync the log is the only copy one can trust, and closing SQLite would delete it: leave both open.
  if (keeper.failure !== undefined) return;
  // One that finds no room leaves the log, from which the next start recovers.
  const isCopied = await keeper.checkpoint().then(
    () => true,
    () => false,
  );
  if (keeper.failure !== undefined) return;
  if (isCopied && parts.keepsRoom) keepReserve(path);
  database.close();
  await keeper.close();
}
