/**
 * Makes a file of tier 2 as a directory, in one errand of the mover: beside its place, filled, compared, synced, renamed into
 * its place, and the directories synced. A dozen system calls take less than the trips through the thread pool did, one for
 * each call. directory-tier.ts says what has to hold (I1 to I4), and does what comes after a failure.
 */
import {
  closeSync,
  constants,
  fdatasyncSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  realpathSync,
  renameSync,
  unlinkSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { type FileIdentity, identityOf } from './file-identity.ts';
import { MoverFailure } from './mover-failure.ts';

export interface PublishRequest {
  /** Runs of local files: one behind the other they are the new file. `crc32c` null: not known, not compared. */
  readonly sources: readonly {
    readonly file: string;
    readonly offset: number;
    readonly length: number;
    readonly crc32c: number | null;
    /** The file has this one while it is read. */
    readonly etag?: string | undefined;
  }[];
  /** Absolute. Not there before, and not there afterwards. */
  readonly temporary: string;
  /** Absolute: where the file is in the end. */
  readonly path: string;
  /** Of the tier. Absolute; it is there. */
  readonly root: string;
  /** Those above `path`, below the root, from the top down. */
  readonly directories: readonly string[];
  /** Of them: those that are not known to be there. */
  readonly makes: readonly string[];
  /** What is synced when the file is in its place, in order. */
  readonly syncs: readonly string[];
  /** The ETag of what may be replaced, null for nothing; undefined: whatever is there. */
  readonly replaces?: string | null | undefined;
}

/** The calls that change something; errors are those of node:fs. Tests look at their order, and make one fail. */
export interface PublishCalls {
  /** Returns a descriptor. */
  createFile(path: string): number;
  syncFile(fd: number): void;
  makeDirectory(path: string): void;
  rename(from: string, to: string): void;
  syncDirectory(path: string): void;
  unlink(path: string): void;
}

export const nodePublishCalls: PublishCalls = {
  createFile: (path) =>
    openSync(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o660),
  syncFile: fdatasyncSync,
  makeDirectory: (path) => mkdirSync(path, 0o2770),
  rename: renameSync,
  syncDirectory: (path) => {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
    const fd = openSync(path, flags);
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  },
  unlink: unlinkSync,
};

/** Work of the runner of jobs. */
export interface PublishHelp {
  /** Copies a run to `at` of the descriptor and returns its CRC32C. */
  readonly copyRun: (run: PublishRequest['sources'][number], fd: number, at: number) => number;
  /** @throws `aborted` */
  readonly stopIfCancelled: () => void;
}

/** A delete may take away a directory between its making and the rename: then it is made again. */
const ATTEMPTS = 5;

/** @throws {MoverFailure} and errors of node:fs; in no case is the temporary file left, and after `unsynced` the name is there */
export function publish(
  request: PublishRequest,
  calls: PublishCalls,
  { copyRun, stopIfCancelled }: PublishHelp,
): FileIdentity {
  const { temporary, directories, root } = request;
  const fd = createTemporary(temporary, calls);
  let identity: FileIdentity;
  let wereMadeAgain: boolean;
  try {
    fill(fd, request, calls, copyRun);
    // After the close, which may set the time on a file server. It does not change with the name.
    identity = identityOf(lstatSync(temporary, { bigint: true }));
    stopIfCancelled();
    wereMadeAgain = putInPlace(request, calls);
  } catch (error) {
    tryUnlink(calls, temporary);
    throw error;
  }
  const syncs = wereMadeAgain ? [...directories.toReversed(), root] : request.syncs;
  try {
    for (const directory of syncs) calls.syncDirectory(directory);
  } catch (error) {
    const { message, code = '' } = error as NodeJS.ErrnoException;
    throw new MoverFailure('unsynced', message, { errno: code, unsynced: identity.etag });
  }
  return identity;
}

/** What is there already is not ours to remove, and says nothing of the name: the next try takes another one. */
function createTemporary(temporary: string, calls: PublishCalls): number {
  try {
    return calls.createFile(temporary);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    throw Object.assign(new Error(`${temporary} is there already`), { code: 'EAGAIN' });
  }
}

function fill(
  fd: number,
  { sources }: PublishRequest,
  calls: PublishCalls,
  copyRun: PublishHelp['copyRun'],
): void {
  try {
    let at = 0;
    for (const source of sources) {
      const found = copyRun(source, fd, at);
      const { crc32c: expected } = source;
      if (expected !== null && found !== expected) {
        const message = `${source.file} has another CRC32C`;
        throw new MoverFailure('mismatch', message, { expected, found });
      }
      at += source.length;
    }
    calls.syncFile(fd);
  } finally {
    closeSync(fd);
  }
}

/** Says whether directories had to be made that were known to be there: somebody else took them away. */
function putInPlace(request: PublishRequest, calls: PublishCalls): boolean {
  const { temporary, path, directories, makes } = request;
  for (let attempt = 1; ; attempt++) {
    try {
      for (const directory of attempt === 1 ? makes : directories) makeDirectory(calls, directory);
      assertOwnPath(dirname(path));
      assertReplaceable(path, request.replaces);
      calls.rename(temporary, path);
      return attempt > 1;
    } catch (error) {
      const isGone = (error as NodeJS.ErrnoException).code === 'ENOENT';
      if (!isGone || attempt === ATTEMPTS) throw error;
    }
  }
}

function makeDirectory(calls: PublishCalls, directory: string): void {
  try {
    calls.makeDirectory(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    // Nothing is made behind a link.
    if (!lstatSync(directory).isDirectory()) throw error;
  }
}

/** @throws ENOENT or ENOTDIR when there is no such directory, `link` when a link leads elsewhere */
function assertOwnPath(directory: string): void {
  const real = realpathSync.native(directory);
  if (real === directory) return;
  const message = `${directory} is or lies behind a symbolic link to ${real}`;
  throw new MoverFailure('link', message);
}

/** @throws EEXIST for what is no file: rename(2) would put the new one in the place of a link or a pipe */
function assertReplaceable(path: string, replaces: string | null | undefined): void {
  const stats = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  if (stats?.isFile() === false)
    throw Object.assign(new Error(`${path} is no plain file`), { code: 'EEXIST' });
  const found = stats === undefined ? null : identityOf(stats).etag;
  if (replaces === undefined || found === replaces) return;
  throw new MoverFailure('replaced', `${path} was replaced`, { expected: replaces, found });
}

function tryUnlink(calls: PublishCalls, path: string): void {
  try {
    calls.unlink(path);
  } catch {
    // It goes at the next start.
  }
}
