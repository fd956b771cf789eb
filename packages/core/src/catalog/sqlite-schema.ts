/**
 * The tables of the embedded catalog. Persisted: a change gets a new SCHEMA_VERSION and a migration.
 *
 * A commit of an object touches one leaf page in each of three trees (objects, blobs, blobs_by_place; a fourth when a job
 * owns it), and each page costs 3 to 4 µs in the WAL: that number, not the number of rows, is the budget here. So there is
 * no table of expiry dates, none of copies by tier, no counter that changes with every commit, and no row per (blob, object)
 * as long as one object names a blob. Pages are small (2 KiB), because a commit changes 200 bytes of each.
 *
 * - `objects` is WITHOUT ROWID: the tree of names is the table, and a page of a listing is one range scan.
 * - `blobs` has a rowid, because the rowid *is* the blob id: SQLite has no cheaper tree for an integer key.
 * - `place` is a small number made of bits (PLACE): a blob has exactly one entry in blobs_by_place, whatever the number of
 *   its copies. "Blobs with a copy on disk" merges the runs of the places that have that bit.
 * - A blob row holds the name of one object that uses the blob. Further ones (copies, joined parts) are rows in blob_links.
 * - `spool` holds names, and not numbers of buckets: a deletion in tier 2 outlives its bucket. Only buckets that are mirrored pay.
 * - `bucket` is a number that is given out once, so that a bucket created again shares nothing with the deleted one.
 */
export const SCHEMA_VERSION = 1;

export const PAGE_BYTES = 2048;

/** Bits of blobs.place. Persisted, keep stable. */
export const PLACE = { memory: 1, disk: 2, remote: 4, freed: 8 } as const;
export const PLACES = 16;

/** Rows of `counters`: a count, and a sum of bytes. Persisted, keep stable. */
export const COUNTER = {
  blobs: 0,
  memory: 1,
  disk: 2,
  remote: 3,
  /** Objects and their sizes, by bucket number. */
  bucket: 4,
  /** Objects and their sizes, by job id. */
  job: 5,
  spool: 6,
} as const;

export const SCHEMA = `
  create table meta (name text primary key, value any) strict, without rowid;
  create table buckets (
    name text primary key, id integer not null, created_at integer not null, policy text not null
  ) strict, without rowid;
  create table objects (
    bucket integer not null, key text not null, version integer not null, size integer not null,
    job text, created_at integer not null, pinned integer not null, expires integer not null, body blob not null,
    remote_etag text, primary key (bucket, key)
  ) strict, without rowid;
  create index objects_by_job on objects (job, bucket, key) where job is not null;
  create index objects_by_age on objects (bucket, created_at, key) where expires = 1;
  create table blobs (
    blob_id integer primary key, size integer not null, crc32c integer, refs integer not null,
    created_at integer not null, generation integer not null,
    memory_bytes integer, disk_bytes integer, remote_name text, remote_offset integer, remote_etag text,
    place integer not null, bucket integer, key text, seal_id text
  ) strict;
  create index blobs_by_place on blobs (place, blob_id);
  create index blobs_by_remote_name on blobs (remote_name) where remote_name is not null;
  create table blob_links (
    blob_id integer not null, bucket integer not null, key text not null, primary key (blob_id, bucket, key)
  ) strict, without rowid;
  create table spool (
    seq integer primary key, target text not null, bucket text not null, key text not null,
    version integer, size integer not null, since integer not null,
    seen text, only_over_seen integer not null default 0, tried text
  ) strict;
  create unique index spool_by_name on spool (bucket, key, target);
  create table counters (
    scope integer not null, name text not null, count integer not null, bytes integer not null,
    primary key (scope, name)
  ) strict, without rowid;
  create table jobs (
    job_id text primary key, label text not null, created_at integer not null, heartbeat_ttl integer not null, budget integer
  ) strict, without rowid;
  create table records (
    namespace text not null, key text not null, value blob not null, primary key (namespace, key)
  ) strict, without rowid;
`;
