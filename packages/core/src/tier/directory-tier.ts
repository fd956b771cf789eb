/**
 * Tier 2 on a directory: the embedded default where there is no object store, or a shared file system. An object
 * `bucket/key` is the plain file `root/bucket/key`, readable with any tool when Ebb is gone.
 *
 * I1  A name appears whole or not at all, and durably: bytes go to `root/.ebb-tmp/<node id>/`, are verified on the way and
 *     synced; then comes rename(2); then the directory is synced, and those above it that are new.
 * I2  Nothing outside `root` is read or written. Names come from clients, so `parseName` admits no empty, `.` or `..`
 *     segment and no NUL: below the root textually. A symbolic link could still lead out: the last segment is never
 *     followed (lstat, rename, unlink and O_NOFOLLOW do not), and the directory is refused when its real path is not its
 *     path. Between that check and the use, somebody who may write in `root` could put a link in its place; but such a one
 *     can change the objects anyway, and is not whom this protects from.
 * I3  After an abort or error nothing is left: no temporary file, no directory that holds nothing.
 * I4  What others put under a name is not deleted with what was to be deleted, nor replaced where `replaces` says otherwise: a
 *     file is known by its inode, size and time. A deletion looks at what it has taken away, and puts back what is another
 *     file; between the look of a put and its rename(2) others may still be overwritten.
 * I5  That a name is not there is believed only while the directory of temporary files is: a file system that is not mounted
 *     looks like an empty one.
 *
 * What an object store allows and a directory does not: an object `a` beside `a/b`, `a/` and `a//b`, segments above 255
 * bytes. `accepts` says no to those, and `put` refuses with `name_invalid`. Placement then takes a private name. Content
 * type and metadata have no place in a plain file: the catalog keeps them.
 */
import { type BigIntStats, constants, lstatSync } from 'node:fs';
import {
  type FileHandle,
  link,
  lstat,
  mkdir,
  open,
  opendir,
  readdir,
  realpath,
  rename,
  rmdir,
  unlink,
} from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import { assert, isStoreError, StoreError } from '@ebb/protocol';
import { formatCrc32c } from '../checksum.ts';
import {
  DURABLE_DIRECTORIES_MAX,
  REMOTE_NAME_BYTES_MAX,
  REMOTE_SEGMENT_BYTES_MAX,
} from '../limits.ts';
import { errnoOf, isMissing, toStoreError } from './fs-error.ts';
import { createMover } from './mover.ts';
import { explainPathError } from './own-paths.ts';
import type {
  Mover,
  RemoteDeleteOptions,
  RemoteHeaders,
  RemoteListOptions,
  RemoteObject,
  RemotePutOptions,
  RemoteReadOptions,
  RemoteRun,
  RemoteSource,
  RemoteTier,
} from './tier.ts';

export interface DirectoryTierOptions {
  /** Absolute. Made if missing. */
  readonly root: string;
  /** Keeps the temporary files of nodes apart: to be given where several share the root. */
  readonly nodeId?: string;
  /** Stays the caller's to close. Without one the tier has its own. */
  readonly mover?: Mover;
  /** For tests that look at the order of calls or make one fail. */
  readonly fs?: DirectoryFs;
}

/** The calls that change something. Paths are absolute; errors are those of node:fs. */
export interface DirectoryFs {
  createFile(path: string): Promise<void>;
  makeDirectory(path: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  link(from: string, to: string): Promise<void>;
  syncDirectory(path: string): Promise<void>;
  unlink(path: string): Promise<void>;
  removeDirectory(path: string): Promise<void>;
}

export const nodeDirectoryFs: DirectoryFs = {
  createFile: async (path) => await (await open(path, 'wx', 0o660)).close(),
  makeDirectory: async (path) => {
    await mkdir(path, 0o2770);
  },
  rename,
  link,
  syncDirectory: async (path) => {
    await withFile(path, constants.O_RDONLY | constants.O_DIRECTORY, (handle) => handle.sync());
  },
  unlink,
  removeDirectory: rmdir,
};

/** @throws `io_failed` */
export async function openDirectoryTier(options: DirectoryTierOptions): Promise<RemoteTier> {
  const { nodeId = 'node' } = options;
  assert(isAbsolute(options.root), "a tier's root is an absolute path");
  assert(/^[A-Za-z0-9_-]+$/.test(nodeId), 'a node id is a plain file name');
  try {
    await mkdir(options.root, { recursive: true, mode: 0o2770 });
    const root = await realpath(options.root);
    const temporary = join(root, TEMPORARY, nodeId);
    await mkdir(temporary, { recursive: true, mode: 0o2770 });
    await assertOwnTemporary(temporary);
    // They are this node's alone, and it just started: nobody writes them any more. What cannot be removed does no harm.
    for (const name of await readdir(temporary))
      if (TEMPORARY_NAME.test(name)) await unlink(join(temporary, name)).catch(() => undefined);
    return new DirectoryTier(options, { root, temporary });
  } catch (error) {
    const explained = explainPathError(error, { path: options.root, setting: '--remote file://' });
    throw toStoreError(explained, `cannot open tier 2 at ${options.root}`);
  }
}

const TEMPORARY = '.ebb-tmp';
const TEMPORARY_NAME = /^[0-9a-f]+$/;
/** A plain file has none. */
const NO_HEADERS: RemoteHeaders = { contentType: 'application/octet-stream', metadata: {} };
/** A delete may take away the directory that a put just made: then the put makes it again. */
const PUBLISH_ATTEMPTS = 5;

/** Others may write in the root, and could have put a link to files of theirs, or of anybody, where ours are removed (I2). */
async function assertOwnTemporary(path: string): Promise<void> {
  const real = await realpath(path);
  const { uid } = await lstat(path);
  const isPlain = real === path; // behind a link nothing is made
  if (isPlain && (uid === process.geteuid?.() || uid === (await uidOfNewFile(path)))) return;
  const why = isPlain ? `belongs to uid ${uid}` : `leads to ${real}`;
  const message = `${path} is for the files of this node alone, but it ${why}; remove it`;
  throw new StoreError('config_invalid', message, { path });
}

/** Some file servers give whatever we make to another user. Undefined: nothing can be made there. */
async function uidOfNewFile(directory: string): Promise<number | undefined> {
  const path = join(directory, '0'); // none of the later ones, and taken away at the start
  try {
    await unlink(path).catch(() => undefined);
    await withFile(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, () =>
      Promise.resolve(),
    );
    return (await lstat(path)).uid;
  } catch {
    return undefined;
  } finally {
    await unlink(path).catch(() => undefined);
  }
}

class DirectoryTier implements RemoteTier {
  readonly location: string;
  readonly #root: string;
  readonly #temporary: string;
  readonly #mover: Mover;
  readonly #ownsMover: boolean;
  readonly #fs: DirectoryFs;
  /** Directories whose own entry is known to be on disk, so that they are synced once and not with every put. */
  readonly #durable = new Set<string>();
  #lastTemporary = 0;

  constructor(options: DirectoryTierOptions, paths: { root: string; temporary: string }) {
    this.location = `file://${paths.root}`;
    this.#root = paths.root;
    this.#temporary = paths.temporary;
    this.#mover = options.mover ?? createMover();
    this.#ownsMover = options.mover === undefined;
    this.#fs = options.fs ?? nodeDirectoryFs;
  }

  async put(
    name: string,
    sources: readonly RemoteSource[],
    { signal, replaces }: RemotePutOptions = {},
  ): Promise<RemoteObject> {
    return await this.#publishNew(name, { signal, replaces }, async (temporary) => {
      let at = 0;
      for (const { file, offset, length, crc32c } of sources) {
        const copy = { from: file, to: temporary, fromOffset: offset, toOffset: at };
        await this.#copyVerified(name, { ...copy, sizeBytes: length, sync: true, crc32c, signal });
        at += length;
      }
    });
  }

  async copy(
    from: string,
    to: string,
    run: Omit<RemoteRun, 'crc32c' | 'signal'>,
  ): Promise<RemoteObject> {
    return await this.#publishNew(to, {}, async (temporary) => {
      const path = await this.#currentPath(from, run);
      const copy = { from: path, to: temporary, fromOffset: run.offset, sizeBytes: run.length };
      await this.#copyVerified(from, { ...copy, sync: true, crc32c: null });
    });
  }

  async read(
    name: string,
    target: Uint8Array,
    position: number,
    { etag, signal }: RemoteReadOptions = {},
  ): Promise<void> {
    stopIfAborted(signal);
    try {
      const path = await this.#confinedPath(name);
      // A pipe that somebody put there must keep nobody waiting: opened so, it is there at once.
      const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
      await withFile(path, flags, async (handle) => {
        const stats = await handle.stat({ bigint: true });
        if (!stats.isFile()) throw noSuchName(name);
        if (etag !== undefined) assertUnchanged(name, stats, etag);
        for (let done = 0; done < target.length; ) {
          stopIfAborted(signal);
          const length = target.length - done;
          const { bytesRead } = await handle.read(target, done, length, position + done);
          if (bytesRead === 0) throw endsBefore(name, position + target.length);
          done += bytesRead;
        }
      });
    } catch (error) {
      throw await this.#readError(name, error);
    }
  }

  async fetch(name: string, file: string, run: RemoteRun): Promise<number> {
    const { offset, length, crc32c, signal } = run;
    const path = await this.#currentPath(name, run);
    try {
      const copy = { from: path, to: file, fromOffset: offset, sizeBytes: length, sync: false };
      return await this.#copyVerified(name, { ...copy, crc32c, signal });
    } catch (error) {
      throw await this.#readError(name, error);
    }
  }

  async head(name: string): Promise<(RemoteObject & RemoteHeaders) | undefined> {
    try {
      const stats = await lstat(await this.#confinedPath(name), { bigint: true });
      return stats.isFile() ? { ...toRemoteObject(stats), ...NO_HEADERS } : undefined;
    } catch (error) {
      if (!isNoSuchName(error)) throw toStoreError(error, `looking for ${name} in tier 2`);
      await this.#assertMounted();
      return undefined;
    }
  }

  presign(): Promise<undefined> {
    return Promise.resolve(undefined);
  }

  async delete(name: string, { etag }: RemoteDeleteOptions = {}): Promise<void> {
    try {
      const path = await this.#confinedPath(name);
      // unlink(2) on a directory is EISDIR: then there is no such object.
      if (etag === undefined) await this.#fs.unlink(path);
      else await this.#unlinkUnchanged(name, path, etag);
      // A deleted object that comes back after a power cut would be one that nobody knows.
      await this.#syncNearest(await this.#removeEmptyAbove(path));
    } catch (error) {
      if (!isNoSuchName(error)) throw toStoreError(error, `deleting ${name} from tier 2`);
      await this.#assertMounted();
    }
  }

  accepts(name: string): boolean {
    const segments = findSegments(name);
    return segments !== undefined && this.#findConflict(segments) === undefined;
  }

  async *list(
    prefix: string,
    { signal }: RemoteListOptions = {},
  ): AsyncIterable<RemoteObject & { readonly name: string }> {
    // Everything below the last `/` of the prefix, filtered: a prefix need not end at a segment.
    const above = prefix.slice(0, prefix.lastIndexOf('/') + 1);
    if (above !== '' && findSegments(`${above}x`) === undefined) return;
    try {
      await this.#assertConfined(join(this.#root, above));
    } catch (error) {
      if (!isNoSuchName(error)) throw toStoreError(error, `listing ${prefix} in tier 2`);
      await this.#assertMounted();
      return;
    }
    for await (const entry of this.#walk(above, prefix)) {
      stopIfAborted(signal);
      yield entry;
    }
    await this.#assertMounted();
  }

  async close(): Promise<void> {
    if (this.#ownsMover) await this.#mover.close();
  }

  /** I5. @throws `io_failed` */
  async #assertMounted(): Promise<void> {
    try {
      await lstat(this.#temporary);
    } catch (error) {
      if (!isMissing(error)) throw toStoreError(error, 'looking at tier 2');
      const message = `${this.#root} is not the directory that was opened as tier 2: ${this.#temporary} is not there; is it mounted?`;
      throw new StoreError('io_failed', message, { root: this.#root }, error);
    }
  }

  /** I4 */
  async #unlinkUnchanged(name: string, path: string, etag: string): Promise<void> {
    assertUnchanged(name, await lstat(path, { bigint: true }), etag);
    // Taken away first, and looked at again: what others put there since goes back to its place.
    const taken = this.#newTemporary();
    await this.#fs.rename(path, taken);
    try {
      assertUnchanged(name, await lstat(taken, { bigint: true }), etag);
    } catch (error) {
      await this.#putBack(taken, path);
      throw error;
    }
    await this.#fs.unlink(taken);
  }

  /** Over nothing that others put there since, where the file system can tell; one without hard links cannot. */
  async #putBack(taken: string, path: string): Promise<void> {
    try {
      await this.#fs.link(taken, path);
    } catch (error) {
      if (errnoOf(error) !== 'EEXIST') return await this.#fs.rename(taken, path);
    }
    await this.#fs.unlink(taken);
  }

  /** I4 @throws `precondition_failed` */
  async #assertReplaces(name: string, etag: string | null): Promise<void> {
    const found = await this.head(name);
    if ((found?.etag ?? null) === etag) return;
    throw replacedError(name, etag, found?.etag ?? null);
  }

  #newTemporary(): string {
    this.#lastTemporary++;
    return join(this.#temporary, this.#lastTemporary.toString(16));
  }

  async *#walk(
    above: string,
    prefix: string,
  ): AsyncIterable<RemoteObject & { readonly name: string }> {
    try {
      for await (const entry of await opendir(join(this.#root, above))) {
        const name = above + entry.name;
        if (!name.startsWith(prefix) || name === TEMPORARY) continue;
        if (entry.isDirectory()) yield* this.#walk(`${name}/`, prefix);
        else if (entry.isFile() && findSegments(name) !== undefined) {
          const path = join(this.#root, name);
          const stats = await lstat(path, { bigint: true }).catch(() => undefined);
          if (stats?.isFile() === true) yield { name, ...toRemoteObject(stats) };
        }
      }
    } catch (error) {
      // Deleted while we walked.
      if (!isNoSuchName(error)) throw toStoreError(error, `listing ${above} in tier 2`);
    }
  }

  /** A new file under `name`: made beside, filled, then put in its place (I1). */
  async #publishNew(
    name: string,
    {
      signal,
      replaces,
    }: {
      readonly signal?: AbortSignal | undefined;
      readonly replaces?: string | null | undefined;
    },
    fill: (temporary: string) => Promise<void>,
  ): Promise<RemoteObject> {
    const segments = parseName(name);
    this.#assertNoConflict(name, segments);
    const temporary = this.#newTemporary();
    try {
      await this.#fs.createFile(temporary);
      await fill(temporary);
      stopIfAborted(signal);
      // Its identity does not change with its name.
      const stats = await lstat(temporary, { bigint: true });
      if (replaces !== undefined) await this.#assertReplaces(name, replaces);
      const made = toRemoteObject(stats);
      await this.#publish(temporary, segments, { name, etag: made.etag });
      return made;
    } catch (error) {
      await this.#fs.unlink(temporary).catch(() => undefined);
      throw this.#putError(name, error);
    }
  }

  /** @throws `data_lost`, `precondition_failed`, `range_invalid` */
  async #currentPath(
    name: string,
    { offset, length, etag }: Pick<RemoteRun, 'offset' | 'length' | 'etag'>,
  ): Promise<string> {
    const path = await this.#confinedPath(name).catch(async (error: unknown) => {
      throw await this.#readError(name, error);
    });
    const stats = await lstat(path, { bigint: true }).catch(async (error: unknown) => {
      throw await this.#readError(name, error);
    });
    if (!stats.isFile()) throw noSuchName(name);
    if (etag !== undefined) assertUnchanged(name, stats, etag);
    if (offset + length > Number(stats.size)) throw endsBefore(name, offset + length);
    return path;
  }

  /** @throws `data_corrupt` */
  async #copyVerified(
    name: string,
    options: {
      from: string;
      to: string;
      sync: boolean;
      sizeBytes: number;
      fromOffset?: number;
      toOffset?: number;
      crc32c: number | null;
      signal?: AbortSignal | undefined;
    },
  ): Promise<number> {
    const { crc32c: expected, signal, ...copy } = options;
    const found = await this.#mover.copy({ ...copy, ...(signal === undefined ? {} : { signal }) });
    if (expected === null || found === expected) return found;
    const sums = { name, expected: formatCrc32c(expected), found: formatCrc32c(found) };
    const message = `${name} has CRC32C ${sums.found}, expected ${sums.expected}`;
    throw new StoreError('data_corrupt', message, sums);
  }

  async #publish(
    temporary: string,
    segments: readonly string[],
    { name, etag }: { readonly name: string; readonly etag: string },
  ): Promise<void> {
    const path = this.#path(segments);
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#makeDirectories(segments.slice(0, -1));
        await this.#assertConfined(dirname(path));
        await this.#fs.rename(temporary, path);
        break;
      } catch (error) {
        await this.#removeEmptyAbove(path);
        if (!isMissing(error) || attempt === PUBLISH_ATTEMPTS) throw error;
      }
    }
    try {
      await this.#syncUpwards(dirname(path));
    } catch (error) {
      // Visible but perhaps not durable is neither all nor nothing.
      await this.#unlinkUnchanged(name, path, etag).catch(() => undefined);
      await this.#removeEmptyAbove(path);
      throw error;
    }
  }

  /** The directory, and those above it up to one whose entry is durable already. */
  async #syncUpwards(directory: string): Promise<void> {
    const synced: string[] = [];
    for (let at = directory; ; at = dirname(at)) {
      await this.#fs.syncDirectory(at);
      if (at === this.#root || this.#durable.has(at)) break;
      synced.push(at);
    }
    // Only now: another put that finds them here relies on all of it.
    if (this.#durable.size + synced.length > DURABLE_DIRECTORIES_MAX) this.#durable.clear();
    for (const at of synced) this.#durable.add(at);
  }

  async #makeDirectories(segments: readonly string[]): Promise<void> {
    let path = this.#root;
    for (const segment of segments) {
      path = join(path, segment);
      if (this.#durable.has(path)) continue;
      try {
        await this.#fs.makeDirectory(path);
      } catch (error) {
        if (errnoOf(error) !== 'EEXIST') throw error;
        // Nothing is made behind a link (I2).
        if (!(await lstat(path)).isDirectory()) throw error;
      }
    }
  }

  /** Returns the lowest directory that stays. */
  async #removeEmptyAbove(path: string): Promise<string> {
    let at = dirname(path);
    for (; at !== this.#root; at = dirname(at)) {
      // Forgotten first: a put that comes between must make and sync it again.
      this.#durable.delete(at);
      try {
        // Behind a link it is not ours to remove (I2).
        if ((await realpath(at)) !== at) continue;
        await this.#fs.removeDirectory(at);
      } catch (error) {
        if (isMissing(error)) continue;
        break;
      }
    }
    return at;
  }

  /** Somebody else's delete may have removed the directory since: then its parent's entry list is what has to be on disk. */
  async #syncNearest(directory: string): Promise<void> {
    for (let at = directory; ; at = dirname(at)) {
      try {
        await this.#fs.syncDirectory(at);
        return;
      } catch (error) {
        if (!isMissing(error) || at === this.#root) throw error;
      }
    }
  }

  #path(segments: readonly string[]): string {
    return join(this.#root, ...segments);
  }

  /** @throws as `#assertConfined`; `data_lost` for a name that `put` never takes */
  async #confinedPath(name: string): Promise<string> {
    const segments = findSegments(name);
    if (segments === undefined) throw noSuchName(name);
    const path = this.#path(segments);
    await this.#assertConfined(dirname(path));
    return path;
  }

  /** I2. @throws ENOENT or ENOTDIR when there is no such directory, `io_failed` when a link leads elsewhere */
  async #assertConfined(directory: string): Promise<void> {
    const real = await realpath(directory);
    const path = directory.endsWith('/') ? directory.slice(0, -1) : directory;
    if (real === path) return;
    const message = `${path} is or lies behind a symbolic link to ${real}; links in tier 2 are not followed`;
    throw new StoreError('io_failed', message);
  }

  #assertNoConflict(name: string, segments: readonly string[]): void {
    const conflict = this.#findConflict(segments);
    if (conflict !== undefined) throw conflictError(name, conflict);
  }

  /** A file where a directory must be, or a directory (which holds an object) where the file must be. 2 µs a segment. */
  #findConflict(segments: readonly string[]): string | undefined {
    let path = this.#root;
    for (const [index, segment] of segments.entries()) {
      path = join(path, segment);
      const stats = lstatSync(path, { throwIfNoEntry: false });
      if (stats === undefined) return undefined;
      const isLast = index === segments.length - 1;
      if (isLast ? !stats.isFile() : !stats.isDirectory())
        return segments.slice(0, index + 1).join('/');
    }
    return undefined;
  }

  #putError(name: string, error: unknown): StoreError {
    const isConflict = ['ENOTDIR', 'EISDIR', 'ENOTEMPTY', 'EEXIST'].includes(errnoOf(error));
    if (isConflict) return conflictError(name, name, error);
    if (errnoOf(error) === 'ENAMETOOLONG') return nameError(name, 'it is too long here', error);
    return toStoreError(error, `putting ${name} into tier 2`);
  }

  async #readError(name: string, error: unknown): Promise<StoreError> {
    if (isStoreError(error) || !isNoSuchName(error))
      return toStoreError(error, `reading ${name} from tier 2`);
    try {
      await this.#assertMounted();
    } catch (unmounted) {
      return unmounted as StoreError;
    }
    return noSuchName(name, error);
  }
}

/** Undefined when the name cannot be a path below the root (I2), or would not fit into one. */
function findSegments(name: string): readonly string[] | undefined {
  const segments = name.split('/');
  const isPlain =
    segments.length >= 2 &&
    segments[0] !== TEMPORARY &&
    // A lone surrogate would be stored as U+FFFD, and two names become one.
    name.isWellFormed() &&
    !name.includes('\0') &&
    Buffer.byteLength(name) <= REMOTE_NAME_BYTES_MAX &&
    segments.every(isSegment);
  return isPlain ? segments : undefined;
}

function isSegment(segment: string): boolean {
  if (segment === '' || segment === '.' || segment === '..') return false;
  return Buffer.byteLength(segment) <= REMOTE_SEGMENT_BYTES_MAX;
}

/** @throws `name_invalid` */
function parseName(name: string): readonly string[] {
  const segments = findSegments(name);
  if (segments === undefined) throw nameError(name, 'a segment is empty, . or .., or too long');
  return segments;
}

function nameError(name: string, why: string, cause?: unknown): StoreError {
  const message = `${JSON.stringify(name)} cannot be a file of tier 2: ${why}`;
  return new StoreError('name_invalid', message, { name }, cause);
}

function conflictError(name: string, conflict: string, cause?: unknown): StoreError {
  return nameError(name, `${conflict} is a file or directory already`, cause);
}

/** Every put makes a new file: its number and time tell it from its predecessor. */
function toRemoteObject({ ino, size, mtimeNs }: BigIntStats): RemoteObject {
  return {
    sizeBytes: Number(size),
    etag: `${ino.toString(16)}-${size.toString(16)}-${mtimeNs.toString(16)}`,
    modifiedAtMs: Number(mtimeNs / 1_000_000n),
  };
}

/** @throws `precondition_failed` */
function assertUnchanged(name: string, stats: BigIntStats, etag: string): void {
  const found = toRemoteObject(stats).etag;
  if (found !== etag) throw replacedError(name, etag, found);
}

function replacedError(name: string, expected: string | null, found: string | null): StoreError {
  const has = found === null ? 'does not exist' : `has the ETag ${found}`;
  const wanted = expected === null ? 'nothing was expected' : `expected ${expected}`;
  const message = `${name} ${has} in tier 2, ${wanted}: somebody replaced it there`;
  return new StoreError('precondition_failed', message, { name, expected, found });
}

function endsBefore(name: string, end: number): StoreError {
  return new StoreError('range_invalid', `${name} ends before ${end}`, { name, end });
}

function noSuchName(name: string, cause?: unknown): StoreError {
  return new StoreError('data_lost', `no object ${name} in tier 2`, { name }, cause);
}

/** A link is no object either: O_NOFOLLOW gives ELOOP. */
function isNoSuchName(error: unknown): boolean {
  if (isStoreError(error, 'data_lost')) return true;
  return ['ENOENT', 'ENOTDIR', 'EISDIR', 'ELOOP'].includes(errnoOf(error));
}

function stopIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) {
    throw new StoreError('aborted', 'the caller gave up', {}, signal.reason);
  }
}

async function withFile<T>(
  path: string,
  flags: number,
  work: (handle: FileHandle) => Promise<T>,
): Promise<T> {
  const handle = await open(path, flags);
  try {
    return await work(handle);
  } finally {
    await handle.close();
  }
}
