/**
 * Objects: rows of `objects`, the tree of names itself.
 *
 * N1  `put` and `remove` are the only ones who write and delete whole rows, and with each row they move the references of
 *     its blobs (B1), the counters of its bucket and its job, and record the event (E1). Nothing is counted from `pinned` and `expires`.
 * N2  An object that moves is written under its new name before the old one goes, so that its blobs keep a reference
 *     throughout: none of them is ever freed by a rename.
 * N3  Rows are read in batches that the caller bounds (S4), in the order of their names' UTF-8 bytes.
 *
 * Nothing here checks whether a change may be: that is done before, in sqlite-object-changes.ts and sqlite-bulk-changes.ts.
 */
import { assert } from '@ebb/protocol';
import { isMirrored } from './bucket-policy.ts';
import type { BlobRecord, Cause, Extent, ObjectRecord, StoredContent } from './catalog.ts';
import { decodeObjectBody, encodeObjectBody, isFoundBody, withFound } from './catalog-records.ts';
import { withExtentsOf } from './packed-extents.ts';
import type { BlobTable, RowName } from './sqlite-blobs.ts';
import type { Bucket } from './sqlite-buckets.ts';
import type { Counters } from './sqlite-counters.ts';
import type { EventLog } from './sqlite-events.ts';
import type { Before, SpoolTable } from './sqlite-spool.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';
import { JoinedContent } from './stored-content.ts';
import { rangeEnd } from './utf8-order.ts';

/** An object as its row has it. */
export interface StoredObject {
  readonly key: string;
  readonly version: number;
  readonly sizeBytes: number;
  readonly jobId: string | null;
  readonly createdAtMs: number;
  readonly pinned: boolean;
  /** catalog-records.ts */
  readonly body: Uint8Array;
  readonly remoteEtag: string | null;
}

/** A row as scans give it; `fromRow` makes an object of it when it is used. */
export type ObjectRow = readonly [
  key: string,
  version: number,
  sizeBytes: number,
  jobId: string | null,
  createdAtMs: number,
  pinned: number,
  body: Uint8Array,
  remoteEtag: string | null,
];

/** An object, and the bucket that it lies in. */
export interface PlacedObject {
  readonly bucket: Bucket;
  readonly stored: StoredObject;
}

/** Where a scan of names begins. */
export type Seek = { readonly from: string } | { readonly after: string };

export class ObjectTable {
  readonly #tx: SqliteTransactions;
  readonly #counters: Counters;
  readonly #blobs: BlobTable;
  readonly #spool: SpoolTable;
  readonly #events: EventLog;
  readonly #sql: ReturnType<typeof prepareStatements>;

  constructor(
    tx: SqliteTransactions,
    parts: {
      readonly counters: Counters;
      readonly blobs: BlobTable;
      readonly spool: SpoolTable;
      readonly events: EventLog;
    },
  ) {
    this.#tx = tx;
    this.#counters = parts.counters;
    this.#blobs = parts.blobs;
    this.#spool = parts.spool;
    this.#events = parts.events;
    this.#sql = prepareStatements(tx);
  }

  find(bucket: Bucket, key: string): StoredObject | undefined {
    const row = this.#sql.find.get(bucket.id, key);
    return row === undefined ? undefined : fromRow(row as unknown as ObjectRow);
  }

  /** At most `limit` objects from `seek` to before `end`, in order of names. */
  scan(bucket: Bucket, seek: Seek, end: string | undefined, limit: number): ObjectRow[] {
    const { scanFrom, scanFromTo, scanAfter, scanAfterTo } = this.#sql;
    const rows =
      'from' in seek
        ? end === undefined
          ? scanFrom.all(bucket.id, seek.from, limit)
          : scanFromTo.all(bucket.id, seek.from, end, limit)
        : end === undefined
          ? scanAfter.all(bucket.id, seek.after, limit)
          : scanAfterTo.all(bucket.id, seek.after, end, limit);
    return rows as unknown as ObjectRow[];
  }

  /** The first `limit` objects below `prefix`. */
  scanPrefix(bucket: Bucket, prefix: string, limit: number): ObjectRow[] {
    return this.scan(bucket, { from: prefix }, rangeEnd(prefix), limit);
  }

  /** The first `limit` names of the job's objects, in whatever bucket. */
  namesOfJob(jobId: string, limit: number): RowName[] {
    const rows = this.#sql.namesOfJob.all(jobId, limit) as unknown as [number, string][];
    return rows.map(([bucket, key]) => ({ bucket, key }));
  }

  /** The oldest `limit` objects of before `createdBeforeMs`, in a bucket with a TTL. */
  listExpired(
    bucket: Bucket,
    createdBeforeMs: number,
    limit: number,
  ): { bucket: string; key: string; version: number }[] {
    const { name } = bucket.record;
    const rows = this.#sql.listExpired.all(bucket.id, createdBeforeMs, limit) as unknown as [
      string,
      number,
    ][];
    return rows.map(([key, version]) => ({ bucket: name, key, version }));
  }

  /** Writes an object over `old`. Returns the blobs that are freed by it. */
  put(
    bucket: Bucket,
    change: {
      /** What is under the name of `incoming` now. */
      readonly old: StoredObject | undefined;
      /** Extents of `old`. */
      readonly before: readonly Extent[];
      readonly incoming: StoredObject;
      /** Extents of `incoming` whose references are not counted yet. */
      readonly after: readonly Extent[];
      /** It goes to tier 2 although its bucket is not mirrored. */
      readonly mirror?: boolean;
      /** No write to this name asked for it (SpoolEntry.onlyOverSeen). */
      readonly onlyOverSeen?: boolean;
    },
  ): BlobRecord[] {
    const { old, incoming } = change;
    const { key } = incoming;
    // What is written here is no longer what others put into tier 2.
    const body = incoming.remoteEtag === null ? withFound(incoming.body, false) : incoming.body;
    this.#tx.write(
      old === undefined ? this.#sql.insert : this.#sql.replace,
      bucket.id,
      key,
      incoming.version,
      incoming.sizeBytes,
      incoming.jobId,
      incoming.createdAtMs,
      incoming.pinned ? 1 : 0,
      bucket.record.policy.ttlMs === null ? 0 : 1,
      body,
      incoming.remoteEtag,
    );
    this.#spoolPut(bucket, change);
    if (old !== undefined) this.#count(bucket, old, -1);
    this.#count(bucket, incoming, 1);
    this.#events.record(old === undefined ? 'created' : 'updated', bucket, incoming);
    return this.#blobs.changeRefs({ bucket: bucket.id, key }, change.before, change.after);
  }

  /** Returns the blobs that are freed by it. */
  remove(placed: PlacedObject, extents: readonly Extent[], cause: Cause = 'asked'): BlobRecord[] {
    this.#events.record('deleted', placed.bucket, placed.stored);
    return this.#removeRow(placed, extents, cause);
  }

  #removeRow(
    { bucket, stored }: PlacedObject,
    extents: readonly Extent[],
    cause: Cause,
  ): BlobRecord[] {
    const name = { bucket: bucket.id, key: stored.key };
    this.#tx.write(this.#sql.delete, name.bucket, name.key);
    this.#count(bucket, stored, -1);
    const isSent = cause === 'asked' || (cause === 'policy' && !isFoundBody(stored.body));
    if (
      isSent &&
      (isMirrored(bucket.record.policy) ||
        stored.remoteEtag !== null ||
        this.#spool.has(bucket, stored.key))
    )
      this.#spool.note(
        bucket,
        { key: stored.key, version: null, sizeBytes: 0 },
        this.#before(bucket, stored),
      );
    return this.#blobs.changeRefs(name, extents, []);
  }

  /** Writes `source` over `old` under another name (N2). Returns the blobs that are freed by it. */
  move(
    source: PlacedObject,
    target: {
      readonly bucket: Bucket;
      readonly key: string;
      readonly old: StoredObject | undefined;
      readonly onlyOverSeen?: boolean;
    },
  ): BlobRecord[] {
    const { onlyOverSeen = false } = target;
    const extents = extentsOf(source.stored);
    this.#events.record('deleted', source.bucket, source.stored);
    const freed = this.put(target.bucket, {
      old: target.old,
      before: extentsOf(target.old),
      incoming: { ...source.stored, key: target.key, remoteEtag: null },
      after: extents,
      onlyOverSeen,
    });
    const left = this.#removeRow(source, extents, 'asked');
    assert(left.length === 0, 'a moved object keeps its blobs');
    return freed;
  }

  setPinned({ bucket, stored }: PlacedObject, pinned: boolean): void {
    this.#tx.write(this.#sql.setPinned, pinned ? 1 : 0, bucket.id, stored.key);
  }

  /** With the same extents as before. */
  setBody({ bucket, stored }: PlacedObject, body: Uint8Array): void {
    this.#tx.write(this.#sql.setBody, body, bucket.id, stored.key);
  }

  setRemoteEtag({ bucket, stored }: PlacedObject, etag: string | null): void {
    this.#tx.write(this.#sql.setRemoteEtag, etag, bucket.id, stored.key);
  }

  /** I5 of catalog.ts. */
  #spoolPut(
    bucket: Bucket,
    change: {
      readonly old: StoredObject | undefined;
      readonly incoming: StoredObject;
      readonly mirror?: boolean;
      readonly onlyOverSeen?: boolean;
    },
  ): void {
    const { old, incoming, onlyOverSeen = false } = change;
    const { key, version, sizeBytes } = incoming;
    if (incoming.remoteEtag !== null) this.#spool.forget(bucket, key);
    else if (isMirrored(bucket.record.policy) || change.mirror === true) {
      const before = { ...this.#before(bucket, old), onlyOverSeen };
      this.#spool.note(bucket, { key, version, sizeBytes }, before);
    } else if ((old?.remoteEtag ?? null) !== null || this.#spool.has(bucket, key))
      this.#spool.note(bucket, { key, version: null, sizeBytes: 0 }, this.#before(bucket, old));
  }

  /** What tier 2 has of `old`, or may have if that waited to be sent. */
  #before(bucket: Bucket, old: StoredObject | undefined): Before {
    return {
      seenEtag: old?.remoteEtag ?? null,
      waited: () => (old === undefined ? undefined : this.#contentOf(bucket, old)),
    };
  }

  /** Undefined where it is not known: of an encrypted object, and of one of which some bytes have no checksum. */
  #contentOf({ record }: Bucket, { body, sizeBytes }: StoredObject): StoredContent | undefined {
    if (record.policy.encrypted === true) return undefined;
    const { crc32c, extents } = decodeObjectBody(body);
    if (crc32c !== null) return { sizeBytes, crc32c };
    const joined = new JoinedContent();
    for (const extent of extents)
      if (!joined.add(extent, this.#blobs.find(extent.blobId))) return undefined;
    return joined.of({ sizeBytes });
  }

  #count(bucket: Bucket, { jobId, sizeBytes }: StoredObject, sign: 1 | -1): void {
    this.#counters.add(bucket.counter, sign, sign * sizeBytes);
    if (jobId !== null) this.#counters.add(this.#counters.job(jobId), sign, sign * sizeBytes);
  }
}

export function fromRow(row: ObjectRow): StoredObject {
  return {
    key: row[0],
    version: row[1],
    sizeBytes: Math.max(0, row[2]), // a damaged row must not stop a start
    jobId: row[3],
    createdAtMs: row[4],
    pinned: row[5] === 1,
    body: row[6],
    remoteEtag: row[7],
  };
}

export function encodeObject(object: ObjectRecord): StoredObject {
  const { key, version, sizeBytes, jobId, createdAtMs, pinned, remoteEtag } = object;
  const body = encodeObjectBody(object);
  return { key, version, sizeBytes, jobId, createdAtMs, pinned, body, remoteEtag };
}

export function decodeObject(bucket: string, stored: StoredObject): ObjectRecord {
  const { key, version, sizeBytes, jobId, createdAtMs, pinned, remoteEtag } = stored;
  const body = decodeObjectBody(stored.body);
  const { etag, crc32c, contentType, metadata, attributes } = body;
  const object = {
    bucket,
    key,
    version,
    sizeBytes,
    etag,
    crc32c,
    contentType,
    metadata,
    attributes,
    createdAtMs,
    jobId,
    pinned,
    remoteEtag,
    ...(body.versioned === true ? ({ versioned: true } as const) : {}),
  };
  return withExtentsOf(object, body);
}

const NO_EXTENTS: readonly Extent[] = [];

/** None where there is no object. */
export function extentsOf(stored: StoredObject | undefined): readonly Extent[] {
  return stored === undefined ? NO_EXTENTS : decodeObjectBody(stored.body).extents;
}

// ── rows and statements ─────────────────────────────────────────────────────────────────────────────────────────────

const COLUMNS = 'key, version, size, job, created_at, pinned, body, remote_etag';

function prepareStatements(tx: SqliteTransactions) {
  const scan = (condition: string) =>
    tx.prepare(
      `select ${COLUMNS} from objects where bucket = ? and ${condition} order by key limit ?`,
    );
  const written = 'bucket, key, version, size, job, created_at, pinned, expires, body, remote_etag';
  return {
    find: tx.prepare(`select ${COLUMNS} from objects where bucket = ? and key = ?`),
    insert: tx.prepare(`insert into objects (${written}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`),
    replace: tx.prepare(`replace into objects (${written}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`),
    delete: tx.prepare('delete from objects where bucket = ? and key = ?'),
    setBody: tx.prepare('update objects set body = ? where bucket = ? and key = ?'),
    setRemoteEtag: tx.prepare('update objects set remote_etag = ? where bucket = ? and key = ?'),
    setPinned: tx.prepare('update objects set pinned = ? where bucket = ? and key = ?'),
    scanFrom: scan('key >= ?'),
    scanFromTo: scan('key >= ? and key < ?'),
    scanAfter: scan('key > ?'),
    scanAfterTo: scan('key > ? and key < ?'),
    listExpired: tx.prepare(
      'select key, version from objects where bucket = ? and expires = 1 and created_at < ? order by created_at, key limit ?',
    ),
    namesOfJob: tx.prepare(
      'select bucket, key from objects where job = ? order by bucket, key limit ?',
    ),
  };
}
