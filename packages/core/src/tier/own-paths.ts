/**
 * Which paths a node may trust. It deletes and writes below its directories by name, so whoever can put a link or a directory
 * of their own on the way could turn that against files of others.
 *
 * P1  Each directory on the way belongs to this user or to root. Others may write in it only where it is sticky: there they
 *     cannot move or replace what is not theirs.
 * P2  A link on the way is followed when it is this user's or root's, and where it leads is checked in the same way. The
 *     directory itself is no link. One of ours in which every user may write is closed to them; a sticky one (a tmpfs is mounted
 *     so) stays as it is, and each directory in it is checked in turn.
 * P3  A file is made under a name that did not exist (O_EXCL), and opened without following a link.
 *
 * The group of a directory is trusted: its owner chose it. Between the check and the use nobody else can change what was
 * checked, by P1; that is why checking once, at the start, is enough.
 */
import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  fsyncSync,
  lstatSync,
  openSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  type Stats,
  writeSync,
} from 'node:fs';
import { userInfo } from 'node:os';
import { dirname, join, parse, resolve, sep } from 'node:path';
import { StoreError } from '@ebb/protocol';
import { errnoOf, isMissing, isNoRoom } from './fs-error.ts';
import { makeDirectoriesSync } from './make-directories.ts';

export interface OwnDirectory {
  readonly path: string;
  /** The name that a person knows: the flag of the setting. */
  readonly setting: string;
}

const LINKS_MAX = 40;
const STICKY = 0o1000;
const WRITABLE_BY_OTHERS = 0o002;

/**
 * Makes the directory, or checks the one that is there: trusted (P1, P2), and this user may write in it.
 * @throws `config_invalid` with what to do; the errno of node:fs when there is no room
 */
export function openOwnDirectory(
  { path, setting }: OwnDirectory,
  options: { readonly mode: number; readonly closes?: boolean },
): { readonly isNew: boolean } {
  assertTrustedPath({ path, setting });
  try {
    const isNew = makeDirectoriesSync(path, { mode: options.mode });
    // Somebody may have been quicker to make it.
    assertTrustedPath({ path, setting });
    if (options.closes !== false) closeTo(path, WRITABLE_BY_OTHERS);
    accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
    return { isNew };
  } catch (error) {
    throw isNoRoom(error) ? error : explainPathError(error, { path, setting });
  }
}

/** Takes the right to write away from a directory of ours (P2). `whom`: bits of the mode. */
export function closeTo(path: string, whom: number): void {
  const stats = lstatSync(path);
  if (isOurs(stats) && (stats.mode & STICKY) === 0 && (stats.mode & whom) !== 0)
    chmodSync(path, stats.mode & 0o7777 & ~whom);
}

/** P1 and P2 as far as the path exists. @throws `config_invalid` */
export function assertTrustedPath({ path, setting }: OwnDirectory): void {
  const problem = findProblem(path, 0);
  if (problem === undefined) return;
  throw new StoreError('config_invalid', `${setting} ${path}: ${problem}`, { setting, path });
}

/** For directories that hold something of ours among that of others, such as a socket: they may be sticky. */
export function assertTrustedParent({ path, setting }: OwnDirectory): void {
  const problem = findProblem(dirname(path), 0, { isParent: true });
  if (problem === undefined) return;
  throw new StoreError('config_invalid', `${setting} ${path}: ${problem}`, { setting, path });
}

/** One of our own, made beside and put in its place (P3). @throws the errno of node:fs */
export function writeOwnFile(
  path: string,
  text: string,
  { mode, sync = false }: { readonly mode: number; readonly sync?: boolean },
): void {
  const fresh = `${path}.new`;
  rmSync(fresh, { force: true });
  try {
    const flags = constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY | constants.O_NOFOLLOW;
    const fd = openSync(fresh, flags, mode);
    try {
      writeSync(fd, text);
      if (sync) fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(fresh, path);
  } catch (error) {
    // What a full file system left of it.
    rmSync(fresh, { force: true });
    throw error;
  }
}

const PERMANENT: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'not permitted',
  EROFS: 'the file system is read-only',
  ENOTDIR: 'a part of the path is no directory',
  EEXIST: 'there is a file of this name',
  ELOOP: 'too many links',
  ENAMETOOLONG: 'the path is too long',
  ENOENT: 'a part of the path is missing',
};

/** A `config_invalid` that names setting, path, owner and user, for what trying again does not change; else the error itself. */
export function explainPathError(error: unknown, { path, setting }: OwnDirectory): unknown {
  const means = PERMANENT[errnoOf(error)];
  if (error instanceof StoreError || means === undefined) return error;
  const message = `${setting} ${path}: ${means} for ${describeUser()}${describeNearest(path)}; ${FIX}`;
  return new StoreError('config_invalid', message, { setting, path, errno: errnoOf(error) }, error);
}

const FIX =
  'give it to this user (chown), run the node as the user that it belongs to, or name another';

/** What is wrong with the path, and what to do; undefined when it can be trusted as far as it exists. */
function findProblem(
  path: string,
  links: number,
  options: { readonly isParent?: boolean } = {},
): string | undefined {
  if (links > LINKS_MAX) return 'too many links on the way; name the directory itself';
  const { root } = parse(path);
  const names = path
    .slice(root.length)
    .split(sep)
    .filter((name) => name !== '');
  let at = root;
  for (const [index, name] of ['', ...names].entries()) {
    at = join(at, name);
    const isLast = index === names.length;
    let stats: Stats;
    try {
      stats = lstatSync(at);
    } catch (error) {
      if (isMissing(error)) return undefined;
      return errnoOf(error) === 'ENOTDIR'
        ? `${dirname(at)} is no directory; name another`
        : undefined;
    }
    if (!isTrusted(stats.uid))
      return `${at} belongs to uid ${stats.uid}, neither to ${describeUser()} nor to root: whoever made it could turn what the node writes and deletes below it against others; remove it, or name another`;
    if (stats.isSymbolicLink()) {
      if (isLast && options.isParent !== true)
        return `${at} is a link to ${readlinkSync(at)}, and links are not followed here; remove it, or name the directory itself`;
      const rest = names.slice(index);
      return findProblem(join(resolve(dirname(at), readlinkSync(at)), ...rest), links + 1, options);
    }
    if (!stats.isDirectory()) return `${at} is no directory; remove it, or name another`;
    const isOpen = (stats.mode & WRITABLE_BY_OTHERS) !== 0 && (stats.mode & STICKY) === 0;
    const isClosedByUs = isLast && options.isParent !== true && isOurs(stats);
    if (isOpen && !isClosedByUs)
      return `every user may write in ${at} (mode ${modeOf(stats)}), and so replace what is below it; take that right away (chmod o-w ${at}), or name another`;
  }
  return undefined;
}

function isOurs({ uid }: Stats): boolean {
  return uid === process.geteuid?.();
}

function isTrusted(uid: number): boolean {
  return uid === 0 || uid === process.geteuid?.() || uid === unmappedUid();
}

let unmapped: number | undefined;

/** In a user namespace all owners that it does not know look alike, root among them; -1: all are known. */
function unmappedUid(): number {
  unmapped ??= findUnmappedUid();
  return unmapped;
}

function findUnmappedUid(): number {
  try {
    const [inside, , count] = readFileSync('/proc/self/uid_map', 'utf8').trim().split(/\s+/);
    if (inside === '0' && count === '4294967295') return -1;
    return Number(readFileSync('/proc/sys/kernel/overflowuid', 'utf8'));
  } catch {
    return -1;
  }
}

function describeUser(): string {
  const uid = process.geteuid?.() ?? 0;
  try {
    return `user ${userInfo().username} (uid ${uid})`;
  } catch {
    return `uid ${uid}`;
  }
}

/** The lowest part that exists, with its owner. */
function describeNearest(path: string): string {
  for (let at = path; ; at = dirname(at)) {
    try {
      const stats = lstatSync(at);
      return `; ${at} belongs to uid ${stats.uid}, mode ${modeOf(stats)}`;
    } catch {
      if (at === dirname(at)) return '';
    }
  }
}

function modeOf({ mode }: Stats): string {
  return (mode & 0o7777).toString(8).padStart(4, '0');
}
