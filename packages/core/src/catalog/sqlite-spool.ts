/**
 * The spool: names of which tier 2 does not have the last state yet, in the order in which they began to differ.
 *
 * P1  One row a name and target. A name that changes again keeps its place, and what was to be sent before is sent no more.
 * P2  A row goes only with the version it named: who sent an older state leaves the row to the newer one.
 * P3  A row knows what tier 2 had under the name when this node last put or found something there (`seen`), and what it may
 *     have put there since without an answer (`tried`). Nothing else is ever deleted or replaced there but by a write.
 */
import type { Clock } from '../clock.ts';
import { shownSum } from './byte-sum.ts';
import type { SpoolEntry, StoredContent } from './catalog.ts';
import type { Bucket } from './sqlite-buckets.ts';
import type { Counters } from './sqlite-counters.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

/** Version null: to be deleted. */
interface State {
  readonly key: string;
  readonly version: number | null;
  readonly sizeBytes: number;
}

/** What is known of the name in tier 2, when a row is made or changed. */
export interface Before {
  /** The ETag in tier 2 of the object that is replaced or removed. */
  readonly seenEtag: string | null;
  readonly onlyOverSeen?: boolean;
  /** That object's content: it may have been sent without an answer. Asked where it waited. */
  readonly waited: () => StoredContent | undefined;
}

/** More than so many versions of a name are not sent one after the other without any answer. */
const TRIED_MAX = 4;

type SpoolRow = [
  seq: number,
  target: string,
  bucket: string,
  key: string,
  version: number | null,
  sizeBytes: number,
  sinceMs: number,
  seenEtag: string | null,
  onlyOverSeen: number,
  tried: string | null,
];

export class SpoolTable {
  readonly #tx: SqliteTransactions;
  readonly #counters: Counters;
  readonly #clock: Clock;
  readonly #sql: ReturnType<typeof prepareStatements>;

  constructor(
    tx: SqliteTransactions,
    parts: { readonly counters: Counters; readonly clock: Clock },
  ) {
    this.#tx = tx;
    this.#counters = parts.counters;
    this.#clock = parts.clock;
    this.#sql = prepareStatements(tx);
  }

  note({ record }: Bucket, { key, version, sizeBytes }: State, before: Before): void {
    const { name, policy } = record;
    const target = policy.remote ?? '';
    const old = this.#find(name, key, target);
    const only = before.onlyOverSeen === true ? 1 : 0;
    if (old === undefined) {
      const row = [target, name, key, version, sizeBytes, this.#clock.now()] as const;
      this.#tx.write(this.#sql.insert, ...row, before.seenEtag, only);
    } else {
      const waited = old[4] === null ? undefined : before.waited();
      const tried = waited === undefined ? old[9] : encodeTried([...decodeTried(old[9]), waited]);
      this.#tx.write(this.#sql.update, version, sizeBytes, only, tried, old[0]);
    }
    this.#counters.add(
      this.#counters.spool,
      old === undefined ? 1 : 0,
      sizeBytes - (old?.[5] ?? 0),
    );
  }

  /** P3: an older state came to tier 2. */
  saw({ bucket, key, target }: SpoolEntry, etag: string): void {
    const row = this.#find(bucket, key, target ?? '');
    if (row !== undefined) this.#tx.write(this.#sql.saw, etag, row[0]);
  }

  /** Cheap while nothing is spooled. */
  has({ record }: Bucket, key: string): boolean {
    if (this.#counters.spool.count === 0) return false;
    return this.#find(record.name, key, record.policy.remote ?? '') !== undefined;
  }

  /** Tier 2 has the name's last state already. */
  forget({ record }: Bucket, key: string): void {
    if (this.#counters.spool.count === 0) return;
    const row = this.#find(record.name, key, record.policy.remote ?? '');
    if (row !== undefined) this.#delete(row);
  }

  find(bucket: string, key: string): SpoolEntry | undefined {
    if (this.#counters.spool.count === 0) return undefined;
    const row = this.#sql.findByName.get(bucket, key);
    return row === undefined ? undefined : toEntry(row as unknown as SpoolRow);
  }

  /** P2 */
  drop({ bucket, key, target, version }: SpoolEntry): void {
    const row = this.#find(bucket, key, target ?? '');
    if (row !== undefined && row[4] === version) this.#delete(row);
  }

  /** What was to be stored of a bucket; its deletions stay. */
  dropPuts(bucket: string): void {
    for (const row of this.#sql.putsOf.all(bucket) as unknown as SpoolRow[]) this.#delete(row);
  }

  list({ after, limit }: { readonly after: number; readonly limit: number }): SpoolEntry[] {
    if (this.#counters.spool.count === 0) return []; // asked after each commit that replaces something
    return (this.#sql.list.all(after, limit) as unknown as SpoolRow[]).map(toEntry);
  }

  totals(): { entries: number; bytes: number; oldestMs: number | null } {
    const { count } = this.#counters.spool;
    const oldest = count === 0 ? undefined : this.#sql.oldest.get();
    return {
      entries: count,
      bytes: shownSum(this.#counters.spool),
      oldestMs: (oldest as unknown as [number | null] | undefined)?.[0] ?? null,
    };
  }

  /** Whether the node's own tier 2 had something under a name that waits. */
  hasOwnSeen(): boolean {
    return this.#counters.spool.count > 0 && this.#sql.hasOwnSeen.get() !== undefined;
  }

  #find(bucket: string, key: string, target: string): SpoolRow | undefined {
    return this.#sql.find.get(bucket, key, target) as unknown as SpoolRow | undefined;
  }

  #delete(row: SpoolRow): void {
    this.#tx.write(this.#sql.delete, row[0]);
    this.#counters.add(this.#counters.spool, -1, -row[5]);
  }
}

function toEntry(row: SpoolRow): SpoolEntry {
  return {
    seq: row[0],
    target: row[1] === '' ? null : row[1],
    bucket: row[2],
    key: row[3],
    version: row[4],
    sizeBytes: row[5],
    sinceMs: row[6],
    seenEtag: row[7],
    onlyOverSeen: row[8] === 1,
    tried: decodeTried(row[9]),
  };
}

/** Persisted, keep stable. */
function encodeTried(contents: readonly StoredContent[]): string {
  const last = contents.slice(-TRIED_MAX);
  return JSON.stringify(last.map(({ sizeBytes, crc32c }) => [sizeBytes, crc32c]));
}

function decodeTried(text: string | null): readonly StoredContent[] {
  if (text === null) return [];
  const pairs = JSON.parse(text) as readonly (readonly [number, number])[];
  return pairs.map(([sizeBytes, crc32c]) => ({ sizeBytes, crc32c }));
}

const COLUMNS = 'seq, target, bucket, key, version, size, since, seen, only_over_seen, tried';

function prepareStatements(tx: SqliteTransactions) {
  return {
    insert: tx.prepare(
      'insert into spool (target, bucket, key, version, size, since, seen, only_over_seen) values (?, ?, ?, ?, ?, ?, ?, ?)',
    ),
    update: tx.prepare(
      'update spool set version = ?, size = ?, only_over_seen = ?, tried = ? where seq = ?',
    ),
    saw: tx.prepare('update spool set seen = ?, tried = null where seq = ?'),
    delete: tx.prepare('delete from spool where seq = ?'),
    find: tx.prepare(`select ${COLUMNS} from spool where bucket = ? and key = ? and target = ?`),
    findByName: tx.prepare(`select ${COLUMNS} from spool where bucket = ? and key = ? limit 1`),
    putsOf: tx.prepare(`select ${COLUMNS} from spool where bucket = ? and version is not null`),
    list: tx.prepare(`select ${COLUMNS} from spool where seq > ? order by seq limit ?`),
    hasOwnSeen: tx.prepare("select 1 from spool where target = '' and seen is not null limit 1"),
    oldest: tx.prepare('select since from spool order by seq limit 1'),
  };
}
