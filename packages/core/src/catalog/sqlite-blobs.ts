/**
 * Blobs: what they are, where their copies lie, and which objects use them. A blob is born with an object, lives while
 * objects name it, is *freed* by the last one, and is dropped when its files are gone. Recovery and the movers find blobs by
 * `list`, by the tier they lie in.
 *
 * B1  blobs.refs is the number of extents of objects that name the blob (I2): only `insert` and `changeRefs` write it, called
 *     by sqlite-objects.ts for every object row that is written or removed.
 * B2  An object that uses a blob stands either in the blob's own row (bucket, key), at most one, or as a row of blob_links:
 *     so that a blob with one object, nearly every one, costs no second row.
 * B3  `place` and the counters follow from the copies and from whether refs is 0.
 * B4  Several blobs may lie in one object of tier 2, each from an offset on.
 * B5  An object of many blobs, as a large upload is, changes their references by a few statements for all of them: the same
 *     rows come of it as blob by blob, in a tenth of the time.
 */
import { assert, StoreError } from '@ebb/protocol';
import type { BlobCopies, BlobRecord, Catalog, Extent, ObjectCommit } from './catalog.ts';
import type { Counters } from './sqlite-counters.ts';
import { PLACE, PLACES } from './sqlite-schema.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

/** An object's name, as rows have it. */
export interface RowName {
  readonly bucket: number;
  readonly key: string;
}

type ListOptions = Parameters<Catalog['listBlobs']>[0];
type Where = NonNullable<ListOptions['where']>;

/** From here on references change for all blobs of an object together (B5). */
const MANY_BLOBS = 64;
const THOSE = 'blob_id in (select value from json_each(?1))';

type LiveRow = [blobId: number, size: number, refs: number, sealId: string | null];
type LiveBlob = Pick<BlobRecord, 'sizeBytes' | 'refs' | 'sealId'>;

interface Blob {
  readonly record: BlobRecord;
  /** The object whose name stands in the blob's own row (B2). */
  readonly bucket: number | null;
  readonly key: string | null;
}

export class BlobTable {
  readonly #tx: SqliteTransactions;
  readonly #counters: Counters;
  readonly #sql: ReturnType<typeof prepareStatements>;

  constructor(tx: SqliteTransactions, counters: Counters) {
    this.#tx = tx;
    this.#counters = counters;
    this.#sql = prepareStatements(tx);
  }

  // ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────

  find(blobId: number): BlobRecord | undefined {
    return this.#find(blobId)?.record;
  }

  list({ where, afterBlobId, limit }: ListOptions): BlobRecord[] {
    const statement = where === undefined ? this.#sql.list : this.#sql.listWhere[where];
    const rows = statement.all(afterBlobId, limit) as unknown as BlobRow[];
    return rows.map((row) => toBlob(row).record);
  }

  /** Names of objects that use the blob, by number of the bucket. */
  users(blobId: number, limit: number): (RowName & { readonly pinned: boolean })[] {
    const rows = this.#sql.users.all(blobId, blobId, limit) as unknown as [
      number,
      string,
      number,
    ][];
    return rows.map(([bucket, key, pinned]) => ({ bucket, key, pinned: pinned === 1 }));
  }

  // ── copies ────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** As the contract says: false, and no change, when the caller was overtaken. */
  setCopies(blobId: number, expectedGeneration: number, copies: BlobCopies): boolean {
    const record = this.find(blobId);
    if (record === undefined || record.refs === 0) return false;
    if (record.generation !== expectedGeneration) return false;
    const { memoryBytes, diskBytes, remote } = copies;
    this.#tx.write(
      this.#sql.setCopies,
      memoryBytes,
      diskBytes,
      remote?.name ?? null,
      remote?.offset ?? null,
      remote?.etag ?? null,
      placeOf(copies, record.refs),
      blobId,
    );
    this.#countCopies(record, -1);
    this.#countCopies({ ...record, memoryBytes, diskBytes, remote }, 1);
    return true;
  }

  setChecksum(blobId: number, crc32c: number): void {
    this.#tx.write(this.#sql.setChecksum, crc32c, blobId);
  }

  listStoredAs(remoteName: string): BlobRecord[] {
    const rows = this.#sql.listStoredAs.all(remoteName) as unknown as BlobRow[];
    return rows.map((row) => toBlob(row).record);
  }

  /** In the node's own tier 2. The index of names has them before and behind those of places with a name. */
  hasOwnCopies(): boolean {
    return this.#sql.hasOwnCopies.get() !== undefined;
  }

  /** No effect on a blob with refs, and false: one without them has no link rows either. */
  drop(blobId: number): boolean {
    const record = this.find(blobId);
    if (record === undefined || record.refs > 0) return false;
    this.#tx.write(this.#sql.delete, blobId);
    this.#countCopies(record, -1);
    this.#counters.add(this.#counters.blobs, -1, -record.sizeBytes);
    return true;
  }

  // ── references ────────────────────────────────────────────────────────────────────────────────────────────────────

  /** A new blob, with the references that the object `name` gives it. Born freed when there are none. */
  insert(born: ObjectCommit['newBlobs'][number], refs: number, name: RowName): BlobRecord {
    const record = { ...born, refs, generation: 1 };
    const isHeld = refs > 0;
    this.#tx.write(
      this.#sql.insert,
      record.blobId,
      record.sizeBytes,
      record.crc32c,
      refs,
      record.createdAtMs,
      record.generation,
      record.memoryBytes,
      record.diskBytes,
      record.remote?.name ?? null,
      record.remote?.offset ?? null,
      record.remote?.etag ?? null,
      placeOf(record, refs),
      isHeld ? name.bucket : null,
      isHeld ? name.key : null,
      record.sealId ?? null,
    );
    this.#countCopies(record, 1);
    this.#counters.add(this.#counters.blobs, 1, record.sizeBytes);
    return record;
  }

  /** The object `name` had extents `before` and has `after` now. Returns blobs that lost their last reference. */
  changeRefs(name: RowName, before: readonly Extent[], after: readonly Extent[]): BlobRecord[] {
    const freed: BlobRecord[] = [];
    const uses = countUses(before, after);
    if (uses.size >= MANY_BLOBS) freed.push(...this.#changeManyRefs(name, uses));
    for (const [blobId, { before, after }] of uses) {
      if (before === after) continue;
      const blob = this.#find(blobId);
      assert(blob !== undefined, 'a blob that objects name is known');
      const { record } = blob;
      const refs = record.refs + after - before;
      assert(refs >= 0, 'references do not fall below zero');
      let holder: { readonly bucket: number | null; readonly key: string | null } = blob;
      if (before === 0) {
        if (blob.bucket === null) holder = name;
        else this.#tx.write(this.#sql.insertLink, blobId, name.bucket, name.key);
      } else if (after === 0) {
        const isHolder = blob.bucket === name.bucket && blob.key === name.key;
        if (isHolder) holder = { bucket: null, key: null };
        else this.#tx.write(this.#sql.deleteLink, blobId, name.bucket, name.key);
      }
      const place = placeOf(record, refs);
      this.#tx.write(this.#sql.setRefs, refs, place, holder.bucket, holder.key, blobId);
      if (refs === 0) freed.push({ ...record, refs });
    }
    return freed;
  }

  /** B5: blobs that the object gains or loses with one extent each. They are taken out of `uses`. */
  #changeManyRefs(
    { bucket, key }: RowName,
    uses: Map<number, { before: number; after: number }>,
  ): BlobRecord[] {
    const gained: number[] = [];
    const lost: number[] = [];
    for (const [blobId, { before, after }] of uses) {
      if (before + after !== 1) continue;
      (after === 1 ? gained : lost).push(blobId);
      uses.delete(blobId);
    }
    const { many } = this.#sql;
    if (gained.length > 0) {
      const ids = JSON.stringify(gained);
      this.#tx.write(many.insertLinks, ids, bucket, key);
      this.#tx.write(many.gain, ids, bucket, key);
    }
    if (lost.length === 0) return [];
    const ids = JSON.stringify(lost);
    this.#tx.write(many.deleteLinks, ids, bucket, key);
    this.#tx.write(many.lose, ids, bucket, key);
    const rows = many.findUnused.all(ids) as unknown as BlobRow[];
    const freed = rows.map((row) => toBlob(row).record);
    if (freed.length > 0)
      this.#tx.write(many.free, JSON.stringify(freed.map(({ blobId }) => blobId)));
    return freed;
  }

  // ── checks before a change ────────────────────────────────────────────────────────────────────────────────────────

  assertUnknown(blobId: number): void {
    assert(this.#find(blobId) === undefined, 'ids are new');
  }

  /**
   * The blobs of these extents, each once.
   * @throws {StoreError} `data_lost` when an object can no longer be given one of them
   */
  assertLive(extents: readonly Extent[]): Iterable<LiveBlob> {
    const found =
      extents.length >= MANY_BLOBS ? this.#findLive(extents) : new Map<number, LiveBlob>();
    for (const { blobId, offset, length } of extents) {
      const blob = found.get(blobId) ?? this.find(blobId);
      if (blob === undefined || blob.refs === 0)
        throw new StoreError('data_lost', `blob ${blobId} is gone`, { blobId });
      assert(offset + length <= blob.sizeBytes, 'an extent lies within its blob');
      found.set(blobId, blob);
    }
    return found.values();
  }

  #findLive(extents: readonly Extent[]): Map<number, LiveBlob> {
    const ids = JSON.stringify(extents.map(({ blobId }) => blobId));
    const rows = this.#sql.many.findLive.all(ids) as unknown as LiveRow[];
    return new Map(
      rows.map(([blobId, sizeBytes, refs, sealId]) => [
        blobId,
        { sizeBytes, refs, ...(sealId === null ? {} : { sealId }) },
      ]),
    );
  }

  #find(blobId: number): Blob | undefined {
    const row = this.#sql.find.get(blobId);
    return row === undefined ? undefined : toBlob(row as unknown as BlobRow);
  }

  #countCopies(blob: BlobCopies & Pick<BlobRecord, 'sizeBytes'>, sign: 1 | -1): void {
    const { memory, disk, remote } = this.#counters;
    if (blob.memoryBytes !== null) this.#counters.add(memory, sign, sign * blob.memoryBytes);
    if (blob.diskBytes !== null) this.#counters.add(disk, sign, sign * blob.diskBytes);
    if (blob.remote !== null) this.#counters.add(remote, sign, sign * blob.sizeBytes);
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
    (copies.remote === null ? 0 : PLACE.remote) |
    (refs > 0 ? 0 : PLACE.freed)
  );
}

// ── rows and statements ─────────────────────────────────────────────────────────────────────────────────────────────

const COLUMNS =
  'blob_id, size, crc32c, refs, created_at, generation, memory_bytes, disk_bytes, remote_name, remote_offset, remote_etag, bucket, key, seal_id';
type BlobRow = [
  number,
  number,
  number | null,
  number,
  number,
  number,
  number | null,
  number | null,
  string | null,
  number | null,
  string | null,
  number | null,
  string | null,
  string | null,
];

function toBlob(row: BlobRow): Blob {
  return {
    record: {
      blobId: row[0],
      sizeBytes: Math.max(0, row[1]), // a damaged row must not stop a start
      crc32c: row[2],
      refs: row[3],
      createdAtMs: row[4],
      generation: row[5],
      memoryBytes: row[6] === null ? null : Math.max(0, row[6]),
      diskBytes: row[7] === null ? null : Math.max(0, row[7]),
      remote: row[8] === null ? null : { name: row[8], offset: row[9] ?? 0, etag: row[10] ?? '' },
      ...(row[13] === null ? {} : { sealId: row[13] }),
    },
    bucket: row[11],
    key: row[12],
  };
}

const IS_AT: Readonly<Record<Where, (place: number) => boolean>> = {
  memory: (place) => (place & PLACE.memory) !== 0,
  disk: (place) => (place & PLACE.disk) !== 0,
  remote: (place) => (place & PLACE.remote) !== 0,
  freed: (place) => (place & PLACE.freed) !== 0,
  unmirrored: (place) => (place & (PLACE.remote | PLACE.freed)) === 0,
};

/** The runs of all places of `where`, merged by blob id: SQLite steps each run only as far as the page needs. */
function selectWhere(where: Where): string {
  const runs = Array.from({ length: PLACES }, (_, place) => place)
    .filter(IS_AT[where])
    .map((place) => `select ${COLUMNS} from blobs where place = ${place} and blob_id > ?1`);
  return `${runs.join(' union all ')} order by 1 limit ?2`;
}

function prepareStatements(tx: SqliteTransactions) {
  return {
    find: tx.prepare(`select ${COLUMNS} from blobs where blob_id = ?`),
    list: tx.prepare(`select ${COLUMNS} from blobs where blob_id > ? order by blob_id limit ?`),
    listWhere: {
      memory: tx.prepare(selectWhere('memory')),
      disk: tx.prepare(selectWhere('disk')),
      remote: tx.prepare(selectWhere('remote')),
      freed: tx.prepare(selectWhere('freed')),
      unmirrored: tx.prepare(selectWhere('unmirrored')),
    },
    insert: tx.prepare(
      `insert into blobs (blob_id, size, crc32c, refs, created_at, generation, memory_bytes, disk_bytes, remote_name,
       remote_offset, remote_etag, place, bucket, key, seal_id) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    setRefs: tx.prepare(
      'update blobs set refs = ?, place = ?, bucket = ?, key = ? where blob_id = ?',
    ),
    setCopies: tx.prepare(
      `update blobs set memory_bytes = ?, disk_bytes = ?, remote_name = ?, remote_offset = ?, remote_etag = ?, place = ?, generation = generation + 1
       where blob_id = ?`,
    ),
    delete: tx.prepare('delete from blobs where blob_id = ?'),
    setChecksum: tx.prepare('update blobs set crc32c = ? where blob_id = ? and crc32c is null'),
    listStoredAs: tx.prepare(
      `select ${COLUMNS} from blobs where remote_name = ? and refs > 0 order by blob_id`,
    ),
    // Names in other places begin with `|` (remote-names.ts); `}` is what comes next.
    hasOwnCopies: tx.prepare(
      `select 1 from blobs where remote_name < '|' union all select 1 from blobs where remote_name >= '}' limit 1`,
    ),
    many: {
      findLive: tx.prepare(`select blob_id, size, refs, seal_id from blobs where ${THOSE}`),
      findUnused: tx.prepare(`select ${COLUMNS} from blobs where ${THOSE} and refs = 0`),
      insertLinks: tx.prepare(
        `insert into blob_links select blob_id, ?2, ?3 from blobs where ${THOSE} and bucket is not null`,
      ),
      gain: tx.prepare(
        `update blobs set refs = refs + 1, bucket = ifnull(bucket, ?2), key = iif(bucket is null, ?3, key) where ${THOSE}`,
      ),
      deleteLinks: tx.prepare(`delete from blob_links where ${THOSE} and bucket = ?2 and key = ?3`),
      lose: tx.prepare(
        `update blobs set refs = refs - 1, bucket = iif(bucket = ?2 and key = ?3, null, bucket),
         key = iif(bucket = ?2 and key = ?3, null, key) where ${THOSE}`,
      ),
      free: tx.prepare(`update blobs set place = place | ${PLACE.freed} where ${THOSE}`),
    },
    insertLink: tx.prepare('insert into blob_links (blob_id, bucket, key) values (?, ?, ?)'),
    deleteLink: tx.prepare('delete from blob_links where blob_id = ? and bucket = ? and key = ?'),
    users: tx.prepare(
      `select o.bucket, o.key, o.pinned from (
         select bucket, key from blobs where blob_id = ? and bucket is not null
         union all select bucket, key from blob_links where blob_id = ?
       ) as name cross join objects as o on o.bucket = name.bucket and o.key = name.key limit ?`,
    ),
  };
}
