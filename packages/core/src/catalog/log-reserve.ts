/**
 * Blocks that the catalog's log has before it needs them, so that deletions and starts go on when others have filled the file
 * system: SQLite writes its log (`-wal`) into a file that is long enough already.
 *
 * L1  What is beyond the log's last frame is never read: SQLite stops at the first frame whose salt and checksum do not fit. Zeros
 *     fit none, and frames of an earlier log carry another salt.
 * L2  A clean close makes SQLite delete `-wal`. Its blocks stay under a second name, `-reserve`, and the next start gives them
 *     back as `-wal`, after the header is gone: an old log must not be taken for one that is to be copied.
 *
 * On a file system that copies on write (btrfs, zfs) blocks that are there do not help; there only what is refused early does.
 */
import {
  closeSync,
  constants,
  fdatasyncSync,
  fstatSync,
  linkSync,
  lstatSync,
  openSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { MiB } from '@ebb/protocol';

/** SQLite's: magic, version, page size, salts, checksum. */
const LOG_HEADER_BYTES = 32;
const ZEROS = Buffer.alloc(MiB);

/** Before SQLite opens the database (L2). A reserve that cannot be used is given up. */
export function takeReserve(database: string): void {
  const log = `${database}-wal`;
  const reserve = reserveOf(database);
  try {
    if (lstatSync(reserve, { throwIfNoEntry: false }) === undefined) return;
    const isUseful =
      lstatSync(log, { throwIfNoEntry: false }) === undefined &&
      (lstatSync(database, { throwIfNoEntry: false })?.size ?? 0) > 0;
    if (!isUseful) {
      rmSync(reserve);
      return;
    }
    const fd = openSync(reserve, constants.O_WRONLY | constants.O_NOFOLLOW);
    try {
      writeSync(fd, ZEROS, 0, LOG_HEADER_BYTES, 0);
      fdatasyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(reserve, log);
  } catch {
    rmSync(reserve, { force: true });
  }
}

/** While nothing is written. False when the file system has no room for all of it; what there is stays. */
export function extendLog(database: string, bytes: number): boolean {
  try {
    const fd = openSync(`${database}-wal`, constants.O_WRONLY | constants.O_NOFOLLOW);
    try {
      for (let at = fstatSync(fd).size; at < bytes; )
        at += writeSync(fd, ZEROS, 0, Math.min(ZEROS.length, bytes - at), at);
      return true;
    } finally {
      closeSync(fd);
    }
  } catch {
    return false;
  }
}

/** Right before SQLite closes the database, and deletes its log. */
export function keepReserve(database: string): void {
  try {
    rmSync(reserveOf(database), { force: true });
    linkSync(`${database}-wal`, reserveOf(database));
  } catch {
    // A file system without links: the next start makes room anew, where there is some.
  }
}

function reserveOf(database: string): string {
  return `${database}-reserve`;
}
