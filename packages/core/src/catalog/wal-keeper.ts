/**
 * Makes the catalog's file durable, and keeps its write-ahead log short, without ever syncing on the main thread.
 *
 * SQLite in WAL mode appends pages to `-wal`; a checkpoint copies them into the database file, after which the next
 * transaction starts the log again from its beginning. Left to itself SQLite syncs both files during a checkpoint, inside
 * whatever COMMIT crossed the limit: tens of milliseconds in which no request is served. So automatic checkpoints are off, and
 * `checkpoint` does SQLite's steps in SQLite's order, with the two syncs in libuv's thread pool:
 *
 *   1. fdatasync(-wal)                     writers go on: this takes the bulk
 *   2. hold: nothing is committed
 *   3.   fdatasync(-wal)                   every frame that step 4 copies is durable before a page of the database changes
 *   4.   wal_checkpoint(PASSIVE) with synchronous=OFF     copies pages, a few milliseconds
 *   5.   fdatasync(database)               the pages are durable before the log may be overwritten
 *   6. release: the next transaction overwrites the log; with synchronous=NORMAL SQLite syncs the new header first
 *
 * K1  Every committed transaction is in the log since its last restart, or in the part of the database file that step 5
 *     synced. So after `fdatasync(-wal)` all that was committed before it survives a power cut, whether a checkpoint ran
 *     or not: before step 6 the log still has the frames, after it the database has them, durably.
 * K2  A power cut between 3 and 6 finds a whole log with its old header, and SQLite copies it again. One during 6 finds the
 *     new header (old frames no longer match its salt) over a complete database, or the old log. No third state: the header
 *     is synced before the first new frame, which is why synchronous stays NORMAL while transactions run.
 * K3  The database file is opened once, after SQLite has its lock, and closed after SQLite is closed: POSIX drops all
 *     locks of a process on a file when the process closes any descriptor of it. `-wal` carries no lock.
 *     (The order was seen with strace: -wal fdatasync, database pwrite…, database fdatasync, -wal header pwrite, -wal fsync.)
 * K4  When a sync fails, what the disk holds is unknown, and a second fdatasync may lie. So the first failure is final:
 *     `onFailure` refuses all further changes, and a restart recovers from the log.
 *
 * Not covered: `process.exit` without `close` between 4 and 5, followed by a power cut before the kernel wrote the pages by
 * itself. SQLite's own clean-up then takes the log for copied and deletes it. `kill -9` and crashes do not run that clean-up.
 */
import { close, fdatasync, fsync, open } from 'node:fs';
import { dirname } from 'node:path';
import type { DatabaseSync, StatementSync } from 'node:sqlite';
import { promisify } from 'node:util';
import { MiB, StoreError } from '@ebb/protocol';
import { PAGE_BYTES } from './sqlite-schema.ts';
import type { SqliteTransactions } from './sqlite-transactions.ts';

/** A checkpoint starts when the log is so long; copying its pages (step 4) takes 2 to 5 ms of the main thread. */
const CHECKPOINT_BYTES_MAX = 8 * MiB;
/** Row changes between two looks at the length of the log, which cost 2 µs. One change writes a handful of pages at most. */
const LOOK_EVERY_WRITES_MAX = 512;

const openFile = promisify(open);
const closeFile = promisify(close);
const syncData = promisify(fdatasync);
const syncAll = promisify(fsync);

export class WalKeeper {
  readonly #database: DatabaseSync;
  readonly #transactions: SqliteTransactions;
  readonly #onFailure: (error: StoreError) => void;
  readonly #logLength: StatementSync;
  readonly #databaseFd: number;
  readonly #walFd: number;
  readonly #checkpointPages: number;
  readonly #lookEveryWrites: number;
  #committed = 1;
  #synced = 0;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #writesSinceLook = 0;
  #checkpoint: Promise<void> | undefined;
  #failure: StoreError | undefined;

  private constructor(
    parts: {
      database: DatabaseSync;
      transactions: SqliteTransactions;
      onFailure: (error: StoreError) => void;
      /** Where the log is to stay short: half of the blocks that it has. */
      checkpointBytes?: number | undefined;
    },
    fds: { database: number; wal: number },
  ) {
    this.#database = parts.database;
    this.#transactions = parts.transactions;
    this.#onFailure = parts.onFailure;
    this.#databaseFd = fds.database;
    const bytes = Math.min(CHECKPOINT_BYTES_MAX, parts.checkpointBytes ?? CHECKPOINT_BYTES_MAX);
    this.#checkpointPages = Math.floor(bytes / PAGE_BYTES);
    this.#lookEveryWrites = Math.min(LOOK_EVERY_WRITES_MAX, Math.ceil(this.#checkpointPages / 4));
    this.#walFd = fds.wal;
    // NOOP (SQLite 3.51) only reports; an older SQLite takes it for PASSIVE, which is slower and no less right.
    this.#logLength = parts.database.prepare('pragma wal_checkpoint(NOOP)');
  }

  /** `file` is open in `database`, and its first transaction was committed, so that `-wal` exists. */
  static async open(
    file: string,
    parts: {
      database: DatabaseSync;
      transactions: SqliteTransactions;
      onFailure: (error: StoreError) => void;
      /** Where the log is to stay short: half of the blocks that it has. */
      checkpointBytes?: number | undefined;
    },
  ): Promise<WalKeeper> {
    const database = await openFile(file, 'r');
    const wal = await openFile(`${file}-wal`, 'r');
    const keeper = new WalKeeper(parts, { database, wal });
    // The names of both files, and the first page of a new database.
    await syncAll(database);
    await syncDirectory(dirname(file));
    await keeper.durable();
    return keeper;
  }

  /** Why no sync counts any more (K4). */
  get failure(): StoreError | undefined {
    return this.#failure;
  }

  /** Must be called after every COMMIT that wrote. */
  committed(writes: number): void {
    this.#committed++;
    this.#writesSinceLook += writes;
    if (this.#writesSinceLook < this.#lookEveryWrites || this.#checkpoint !== undefined) return;
    this.#writesSinceLook = 0;
    const { log } = this.#logLength.get() as unknown as { log: number };
    if (log >= this.#checkpointPages) void this.checkpoint().catch(() => undefined);
  }

  /** Resolves when all that was committed before survives a power cut. Callers during a sync share the next one. */
  async durable(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#synced === this.#committed) return;
    if (this.#running === undefined) {
      this.#running = this.#sync().finally(() => {
        this.#running = undefined;
      });
      return await this.#running;
    }
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        return this.durable();
      });
    return await this.#next;
  }

  /** Copies the log into the database file, so that the next transaction begins a new log. */
  async checkpoint(): Promise<void> {
    this.#checkpoint ??= this.#runCheckpoint().finally(() => {
      this.#checkpoint = undefined;
    });
    await this.#checkpoint;
  }

  /** Waits for what runs. The database must be closed between this and `close`. */
  async settled(): Promise<void> {
    await Promise.allSettled([this.#checkpoint, this.#next, this.#running]);
  }

  async close(): Promise<void> {
    await closeFile(this.#walFd);
    await closeFile(this.#databaseFd);
  }

  async #sync(): Promise<void> {
    const covers = this.#committed;
    try {
      await syncData(this.#walFd);
    } catch (error) {
      throw this.#fail(error);
    }
    this.#synced = Math.max(this.#synced, covers);
  }

  async #runCheckpoint(): Promise<void> {
    await this.durable();
    await this.#transactions.hold(async () => {
      await this.#sync();
      this.#database.exec('pragma synchronous=OFF');
      try {
        this.#database.exec('pragma wal_checkpoint(PASSIVE)');
      } finally {
        this.#database.exec('pragma synchronous=NORMAL');
      }
      try {
        await syncData(this.#databaseFd);
      } catch (error) {
        throw this.#fail(error);
      }
    });
  }

  #fail(cause: unknown): StoreError {
    this.#failure ??= new StoreError(
      'io_failed',
      'the disk refused to sync the catalog; no change is accepted until the node is restarted',
      {},
      cause,
    );
    this.#onFailure(this.#failure);
    return this.#failure;
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const fd = await openFile(directory, 'r');
  try {
    await syncAll(fd);
  } finally {
    await closeFile(fd);
  }
}
