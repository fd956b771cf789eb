/**
 * Group commit over one SQLite connection: changes that arrive in one turn of the event loop share one transaction.
 * A transaction costs a write of every touched page to the WAL, so sixteen commits together cost a third of sixteen alone.
 *
 * T1  A change runs at once, synchronously and whole; its promise settles after the COMMIT of its group. So a promise that
 *     resolved survives the death of the process, and the order of calls is the order of changes.
 * T2  A change that throws before it wrote anything fails alone. One that throws later, or a COMMIT that fails, undoes the
 *     whole group: every member rejects, none is applied, and `onRollback` puts caches right before any further call runs.
 * T3  A read that runs while a group is open may see what is not committed yet, so it settles after that group, and is
 *     repeated if the group was undone. No caller ever acts on something that a crash could still take back.
 * T4  While `hold` runs, nothing is committed: changes wait in order, reads go on.
 * T5  A group that found no room is undone, and each of its changes tried once more: those that the catalog then refuses, for lack
 *     of room, no longer take along those that free some.
 */
import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite';
import { InvariantError, isStoreError, StoreError } from '@ebb/protocol';
import { translateSqliteError } from './sqlite-errors.ts';
import { readingAnyInteger } from './sqlite-integers.ts';

/** Changes in one transaction; reaching it commits at once. Bounds the pages that wait, and how long a member waits. */
const GROUP_CHANGES_MAX = 512;

export interface TransactionHooks {
  readonly onCommitted: (writes: number) => void;
  readonly onRollback: () => void;
  /** SQLite could not begin, write or commit. `tier_full`: the change is tried once more after this. */
  readonly onFailed?: (error: StoreError) => void;
}

interface Group {
  changes: number;
  readonly done: Promise<void>;
  readonly settle: (failure: unknown) => void;
}

export class SqliteTransactions {
  readonly #database: DatabaseSync;
  readonly #begin: StatementSync;
  readonly #commit: StatementSync;
  readonly #hooks: TransactionHooks;
  #group: Group | undefined;
  #writes = 0;
  #changeWrote = false;
  #held: (() => void)[] | undefined;
  #refusal: StoreError | undefined;

  constructor(database: DatabaseSync, hooks: TransactionHooks) {
    this.#database = database;
    this.#hooks = hooks;
    this.#begin = database.prepare('begin immediate');
    this.#commit = database.prepare('commit');
  }

  /** A statement on this connection, whose rows come as arrays. */
  prepare(sql: string): StatementSync {
    const statement = this.#database.prepare(sql);
    statement.setReturnArrays(true);
    return readingAnyInteger(statement);
  }

  /** `apply` must check everything before its first write (T2), and write through `write`. */
  change<T>(apply: () => T, isRetry = false): Promise<T> {
    const held = this.#held;
    if (held === undefined) return this.#change(apply, isRetry);
    return new Promise((resolve, reject) => {
      held.push(() => void this.#change(apply, isRetry).then(resolve, reject));
    });
  }

  async read<T>(query: () => T): Promise<T> {
    for (;;) {
      if (this.#refusal !== undefined && !this.#database.isOpen) throw this.#refusal;
      const group = this.#group;
      const result = this.#query(query);
      if (group === undefined) return result;
      if (!(await isUndone(group))) return result;
    }
  }

  /** Runs a writing statement inside a change. */
  write(statement: StatementSync, ...values: SQLInputValue[]): void {
    statement.run(...values);
    this.#changeWrote = true;
    this.#writes++;
  }

  /** Commits the open group now. */
  flush(): void {
    const group = this.#group;
    if (group === undefined) return;
    const writes = this.#writes;
    try {
      this.#commit.run();
    } catch (error) {
      this.#undo(group, error);
      return;
    }
    this.#group = undefined;
    this.#writes = 0;
    if (writes > 0) this.#hooks.onCommitted(writes);
    group.settle(undefined);
  }

  /** Runs `work` while nothing is committed (T4). One at a time. */
  async hold(work: () => Promise<void>): Promise<void> {
    if (this.#held !== undefined) throw new InvariantError('one hold at a time');
    this.flush();
    const held: (() => void)[] = [];
    this.#held = held;
    try {
      await work();
    } finally {
      this.#held = undefined;
      for (const resume of held) resume();
    }
  }

  /** From here on every change is refused. Reads go on until the database is closed. */
  refuse(why: StoreError): void {
    this.#refusal ??= why;
  }

  async #change<T>(apply: () => T, isRetry: boolean): Promise<T> {
    if (this.#refusal !== undefined) throw this.#refusal;
    const group = (this.#group ??= this.#open());
    let result: T;
    this.#changeWrote = false;
    try {
      result = apply();
    } catch (error) {
      const failure = translateSqliteError(error, 'catalog');
      if (this.#changeWrote || !this.#database.isTransaction) this.#undo(group, error);
      // A check that failed against an uncommitted state counts only when that state was committed (T3).
      else if (await isUndone(group)) return await this.change(apply, isRetry);
      if (isRetry || !isNoRoom(failure)) throw failure;
      this.#hooks.onFailed?.(failure);
      return await this.change(apply, true);
    }
    if (++group.changes >= GROUP_CHANGES_MAX) this.flush();
    try {
      await group.done;
    } catch (error) {
      if (isRetry || !isNoRoom(error)) throw error;
      return await this.change(apply, true);
    }
    return result;
  }

  #open(): Group {
    try {
      this.#begin.run();
    } catch (error) {
      const failure = translateSqliteError(error, 'catalog');
      if (isStoreError(failure)) this.#hooks.onFailed?.(failure);
      throw failure;
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    promise.catch(() => undefined);
    setImmediate(() => {
      if (this.#group === group) this.flush();
    });
    const group: Group = {
      changes: 0,
      done: promise,
      settle: (failure) => (failure === undefined ? resolve() : reject(failure)),
    };
    return group;
  }

  #undo(group: Group, cause: unknown): void {
    this.#group = undefined;
    this.#writes = 0;
    if (this.#database.isTransaction) this.#database.exec('rollback');
    this.#hooks.onRollback();
    const translated = translateSqliteError(cause, 'catalog');
    if (isSqliteError(translated)) this.#hooks.onFailed?.(translated);
    group.settle(
      isStoreError(translated)
        ? translated
        : new StoreError(
            'busy',
            'another change of the same group failed; none was applied',
            {},
            cause,
          ),
    );
  }

  #query<T>(query: () => T): T {
    try {
      return query();
    } catch (error) {
      throw translateSqliteError(error, 'catalog');
    }
  }
}

/** Told by SQLite, and no check of ours. */
function isSqliteError(error: unknown): error is StoreError {
  return isStoreError(error) && error.details['sqlite'] !== undefined;
}

function isNoRoom(error: unknown): error is StoreError {
  return isSqliteError(error) && error.code === 'tier_full';
}

async function isUndone(group: Group): Promise<boolean> {
  return await group.done.then(
    () => false,
    () => true,
  );
}
