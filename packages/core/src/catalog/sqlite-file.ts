/**
 * Opens the catalog's file: takes SQLite's lock for the life of the process, makes the tables of a new file, and refuses a
 * file of another version.
 *
 * - The lock is taken at once or not at all: a second process, or a second opener in this one, gets `data_directory_in_use`.
 * - The first transaction marks the saved counters as not to be trusted (S3): only `close` writes them again.
 * - A file that could not be opened is left closed.
 */
import { accessSync, constants } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { MiB, StoreError } from '@ebb/protocol';
import type { Clock } from '../clock.ts';
import { isMissing } from '../tier/fs-error.ts';
import { explainPathError } from '../tier/own-paths.ts';
import { takeReserve } from './log-reserve.ts';
import { BLOCK_SUMS_SCHEMA } from './sqlite-block-sums.ts';
import { translateSqliteError } from './sqlite-errors.ts';
import { EVENTS_SCHEMA } from './sqlite-events.ts';
import { readingAnyInteger } from './sqlite-integers.ts';
import { JOB_TOKENS_SCHEMA } from './sqlite-jobs.ts';
import { PRIVATE_COPIES_SCHEMA } from './sqlite-private-copies.ts';
import { soundReservations } from './sqlite-reservations.ts';
import { PAGE_BYTES, SCHEMA, SCHEMA_VERSION } from './sqlite-schema.ts';

export interface CatalogFile {
  readonly path: string;
  readonly database: DatabaseSync;
  readonly nodeId: string;
  /** Ids up to here may have been handed out. */
  readonly idsReserved: number;
  /** Whether the saved counters are those of the tables: the last process closed the catalog. */
  readonly countersSaved: boolean;
}

export const CATALOG_FILE = 'catalog.sqlite';
const PAGE_CACHE_BYTES = 16 * MiB;

/** @throws {StoreError} `data_directory_in_use`, `version_unsupported`, `data_corrupt`, `io_failed` */
export async function openCatalogFile(options: {
  /** Created if need be. */
  readonly directory: string;
  readonly clock: Clock;
  readonly newNodeId: () => string;
}): Promise<CatalogFile> {
  await mkdir(options.directory, { recursive: true });
  const path = join(options.directory, CATALOG_FILE);
  let database: DatabaseSync | undefined;
  try {
    assertMayWrite(path);
    takeReserve(path);
    database = new DatabaseSync(path, { timeout: 0 });
    configure(database);
    return { path, database, ...prepareSchema(database, { path, ...options }) };
  } catch (error) {
    database?.close();
    throw translateSqliteError(error, path);
  }
}

/** SQLite says no more than that it cannot open the file. @throws `config_invalid` */
function assertMayWrite(path: string): void {
  for (const file of [path, `${path}-wal`]) {
    try {
      accessSync(file, constants.R_OK | constants.W_OK);
    } catch (error) {
      if (!isMissing(error)) throw explainPathError(error, { path: file, setting: 'catalog' });
    }
  }
}

function configure(database: DatabaseSync): void {
  database.exec(`pragma page_size=${PAGE_BYTES}`);
  // The lock comes first: entering WAL mode under EXCLUSIVE takes it, and it is kept until close or death.
  database.exec('pragma locking_mode=EXCLUSIVE');
  database.exec('pragma journal_mode=WAL');
  database.exec('pragma synchronous=NORMAL');
  database.exec('pragma wal_autocheckpoint=0');
  database.exec('pragma temp_store=MEMORY');
  database.exec(`pragma cache_size=${-PAGE_CACHE_BYTES / 1024}`);
}

/** Creates the tables of a new file, and refuses those of another version. */
function prepareSchema(
  database: DatabaseSync,
  options: { readonly path: string; readonly clock: Clock; readonly newNodeId: () => string },
): Pick<CatalogFile, 'nodeId' | 'idsReserved' | 'countersSaved'> {
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
      `${options.path} has format ${version}; this version of Ebb reads ${SCHEMA_VERSION}. Use the version that wrote it.`,
      { found: version, supported: SCHEMA_VERSION },
    );
  }
  database.exec(EVENTS_SCHEMA);
  database.exec(PRIVATE_COPIES_SCHEMA);
  database.exec(JOB_TOKENS_SCHEMA);
  database.exec(BLOCK_SUMS_SCHEMA);
  addSealIds(database);
  addSeen(database);
  const read = readingAnyInteger(database.prepare('select value from meta where name = ?'));
  const meta = (name: string): unknown => read.get(name)?.['value'];
  const nodeId = meta('node_id');
  if (typeof nodeId !== 'string')
    throw new StoreError('data_corrupt', `${options.path} has no node id`);
  const [idsReserved] = soundReservations(database) as [number];
  const countersSaved = meta('counters_saved') === 1;
  database.exec("update meta set value = 0 where name = 'counters_saved'");
  database.exec('commit');
  return { nodeId, idsReserved, countersSaved };
}

/**
 * A file that was made before blobs could be encrypted has no column for it. A program of then refuses a catalog with an
 * encrypted bucket, by the format of its policy.
 */
function addSealIds(database: DatabaseSync): void {
  const columns = database.prepare('pragma table_info(blobs)').all();
  if (columns.some(({ name }) => name === 'seal_id')) return;
  database.exec('alter table blobs add column seal_id text');
}

/**
 * A spool that was made before deletions named what they delete. Of what waits in it nothing is known to be this node's: such a
 * deletion leaves tier 2 as it is.
 */
function addSeen(database: DatabaseSync): void {
  const columns = database.prepare('pragma table_info(spool)').all();
  if (columns.some(({ name }) => name === 'seen')) return;
  database.exec('alter table spool add column seen text');
  database.exec('alter table spool add column only_over_seen integer not null default 0');
  database.exec('alter table spool add column tried text');
}
