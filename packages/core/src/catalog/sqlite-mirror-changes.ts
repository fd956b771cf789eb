/**
 * Changes around tier 2: what it has got is noted, and a bucket that is mirrored from now on is entered into the spool.
 * Each runs inside one change of sqlite-transactions.ts.
 */
import { isMirrored } from './bucket-policy.ts';
import type { BucketPolicy, ObjectRecord, RemoteCopy, SpoolEntry } from './catalog.ts';
import { isFoundBody } from './catalog-records.ts';
import { recordPlace } from './sqlite-copy-changes.ts';
import { fromRow, type ObjectRow, type Seek } from './sqlite-objects.ts';
import type { Tables } from './sqlite-tables.ts';

const BATCH_ROWS = 256;
/** That this node knows of. */
const NOTHING_THERE = { seenEtag: null, waited: () => undefined };

export function setMirrored(
  tables: Tables,
  entry: SpoolEntry,
  made: {
    readonly etag: string;
    readonly copies: readonly { readonly blobId: number; readonly remote: RemoteCopy }[];
  },
): boolean {
  const { buckets, objects, blobs, spool } = tables;
  const bucket = buckets.find(entry.bucket);
  const stored = bucket === undefined ? undefined : objects.find(bucket, entry.key);
  if (bucket === undefined || stored?.version !== entry.version) {
    spool.saw(entry, made.etag);
    return false;
  }
  objects.setRemoteEtag({ bucket, stored }, made.etag);
  for (const { blobId, remote } of made.copies) {
    const blob = blobs.find(blobId);
    if (blob === undefined || blob.remote !== null) continue;
    const { memoryBytes, diskBytes } = blob;
    blobs.setCopies(blobId, blob.generation, { memoryBytes, diskBytes, remote });
  }
  recordPlace(tables, { bucket, stored: { ...stored, remoteEtag: made.etag } });
  spool.drop(entry);
  return true;
}

export function askMirrored(
  { buckets, objects, spool }: Tables,
  { bucket: name, key, version }: Pick<ObjectRecord, 'bucket' | 'key' | 'version'>,
): void {
  const bucket = buckets.find(name);
  const stored = bucket === undefined ? undefined : objects.find(bucket, key);
  if (bucket === undefined || stored?.version !== version || stored.remoteEtag !== null) return;
  spool.note(bucket, stored, { ...NOTHING_THERE, onlyOverSeen: isFoundBody(stored.body) });
}

/** What others put there is not stored again: it is theirs to repair. */
export function unsetMirrored(
  tables: Tables,
  name: Pick<ObjectRecord, 'bucket' | 'key' | 'remoteEtag'>,
): void {
  const { buckets, objects, spool } = tables;
  const bucket = buckets.find(name.bucket);
  const stored = bucket === undefined ? undefined : objects.find(bucket, name.key);
  const seenEtag = stored?.remoteEtag ?? null;
  if (bucket === undefined || stored === undefined || seenEtag === null) return;
  if (seenEtag !== name.remoteEtag) return;
  objects.setRemoteEtag({ bucket, stored }, null);
  recordPlace(tables, { bucket, stored: { ...stored, remoteEtag: null } });
  if (isFoundBody(stored.body)) return;
  spool.note(bucket, stored, { ...NOTHING_THERE, seenEtag, onlyOverSeen: true });
}

/** Runs in one piece, about 10 µs an object when mirroring begins or ends. */
export function setBucketPolicy(tables: Tables, name: string, policy: BucketPolicy): void {
  const { buckets, objects, spool } = tables;
  const before = buckets.get(name).record.policy;
  buckets.setPolicy(name, policy);
  if (isMirrored(before) && !isMirrored(policy)) spool.dropPuts(name);
  if (isMirrored(before) || !isMirrored(policy)) return;
  const bucket = buckets.get(name);
  for (let seek: Seek | undefined = { from: '' }; seek !== undefined; ) {
    const rows: ObjectRow[] = objects.scan(bucket, seek, undefined, BATCH_ROWS);
    for (const { key, version, sizeBytes, remoteEtag } of rows.map(fromRow))
      if (remoteEtag === null) spool.note(bucket, { key, version, sizeBytes }, NOTHING_THERE);
    seek = rows.length < BATCH_ROWS ? undefined : { after: (rows.at(-1) as ObjectRow)[0] };
  }
}
