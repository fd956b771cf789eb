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
 * I6  A root that does not answer when the tier is opened, or is not mounted, is *away*. It is opened by the first call that
 *     finds it, one opening at a time: an opening removes temporary files, and must never find those of a put.
 *
 * What an object store allows and a directory does not: an object `a` beside `a/b`, `a/` and `a//b`, segments above 255
 * bytes. `accepts` says no to those, and `put` refuses with `name_invalid`. Placement then takes a private name. Content
 * type and metadata have no place in a plain file: the catalog keeps them.
 */
import { type BigIntStats, constants, type Dir, type Dirent } from 'node:fs';
import { lstat, mkdir, opendir, readdir, realpath, unlink } from 'node:fs/promises';
import { dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { assert, isStoreError, StoreError } from '@ebb/protocol';
import { DURABLE_DIRECTORIES_MAX, REMOTE_NAME_BYTES_MAX } from '../limits.ts';
import { settlesWithin } from '../settles-within.ts';
import { type DirectoryFs, nodeDirectoryFs, patientFs, withFile } from './directory-fs.ts';
import {
  assertUnchanged,
  conflictError,
  endsBefore,
  findSegments,
  isNoSuchName,
  mismatch,
  nameError,
  noSuchName,
  parseName,
  replacedError,
  TEMPORARY,
} from './directory-names.ts';
import { identityOf } from './file-identity.ts';
import { errnoOf, isMissing, toStoreError } from './fs-error.ts';
import { makeDirectories } from './make-directories.ts';
import { createMover } from './mover.ts';
import { explainPathError, openOwnDirectory } from './own-paths.ts';
import { type PatientCalls, patientCalls } from './patient-calls.ts';
import type { PublishRequest } from './publish.ts';
import type {
  Mover,
  Progress,
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
  /**
   * Something of this node's lies there already. Then nothing is made, and a root without the node's own directory for
   * temporary files is away until it is mounted (I5).
   */
  readonly isKnown?: boolean;
  /** It lies among the node's own directories, and is made and checked like them (own-paths.ts). */
  readonly isOwn?: boolean;
  /** Keeps the temporary files of nodes apart: to be given where several share the root. */
  readonly nodeId?: string;
  /** Makes puts and fetches, and stays the caller's to close. Without one the tier has its own: copies of others do not wait for it. */
  readonly mover?: Mover;
  /** For tests that look at the order of calls or make one fail. */
  readonly fs?: DirectoryFs;
  /** How long calls may take, and how many at once; those of the process otherwise. */
  readonly calls?: PatientCalls;
  /** How long the opening waits for a root that does not answer. */
  readonly openMs?: number;
}

/** A root that is away is a tier all the same (I6). @throws `io_failed`, `config_invalid` */
export async function openDirectoryTier(options: DirectoryTierOptions): Promise<RemoteTier> {
  assert(isAbsolute(options.root), "a tier's root is an absolute path");
  assert(/^[A-Za-z0-9_-]+$/.test(options.nodeId ?? NODE_ID), 'a node id is a plain file name');
  const tier = new DirectoryTier(options);
  try {
    await tier.open();
    return tier;
  } catch (error) {
    await tier.close();
    throw error;
  }
}

const NODE_ID = 'node';
/** A start does not wait longer for a file server. What answers later is opened later (I6). */
const OPEN_MS = 5_000;
/** A put ends when it, and those before it, came no further for so long: one sync may have much to write. */
const PUT_PATIENCE_MS = 120_000;
/** Two large files, and one worker for small ones. A second starts when the first has much to do. */
const WORKERS = 3;
const TEMPORARY_TRIES = 1000;
const TEMPORARY_NAME = /^[0-9a-f]+$/;
/** What a put fails with before it makes a directory. */
const BEFORE_DIRECTORIES: ReadonlySet<unknown> = new Set([
  ...['busy', 'aborted', 'draining', 'data_corrupt', 'data_lost'],
]);
/** What stands in the way of a put. */
const CONFLICTS: ReadonlySet<unknown> = new Set(['ENOTDIR', 'EISDIR', 'ENOTEMPTY', 'EEXIST']);
/** What link(2) fails with where the file system has no hard links, or not for this file. */
const NO_LINKS: ReadonlySet<string> = new Set(['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'EMLINK']);
/** Others may take away a directory between its making and the use. */
const PUT_BACK_TRIES = 5;
/** A plain file has none. */
const NO_HEADERS: RemoteHeaders = { contentType: 'application/octet-stream', metadata: {} };

interface Paths {
  readonly root: string;
  readonly temporary: string;
}

/**
 * Looks at the root, and makes what is missing unless something is known to be there. Undefined: what is known is not there.
 * @throws the errno of node:fs, `config_invalid`
 */
async function openRoot(options: DirectoryTierOptions): Promise<Paths | undefined> {
  const { isKnown = false, isOwn = false, nodeId = NODE_ID } = options;
  const isThere = await lstat(options.root).then(() => true, missingAs(false));
  if (isKnown && !isThere) return undefined;
  // It answered a moment ago: these calls run on this thread.
  if (isOwn) openOwnDirectory({ path: options.root, setting: '--remote' }, { mode: 0o2770 });
  if (isKnown) {
    const known = await lstat(join(options.root, TEMPORARY, nodeId)).catch(missingAs(undefined));
    if (known?.isDirectory() !== true) return undefined;
  }
  await makeDirectories(options.root, { mode: 0o2770 });
  const root = await realpath(options.root);
  const temporary = join(root, TEMPORARY, nodeId);
  await makeDirectories(temporary, { mode: 0o2770 });
  await assertOwnTemporary(temporary);
  // They are this node's alone, and nobody writes them any more (I6). What cannot be removed does no harm.
  for (const name of await readdir(temporary))
    if (TEMPORARY_NAME.test(name)) await unlink(join(temporary, name)).catch(() => undefined);
  return { root, temporary };
}

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
  readonly #options: DirectoryTierOptions;
  #root: string;
  #temporary: string;
  readonly #mover: Mover;
  readonly #ownsMover: boolean;
  readonly #fs: DirectoryFs;
  readonly #calls: PatientCalls;
  /** Directories whose own entry is known to be on disk, so that they are synced once and not with every put. */
  readonly #durable = new Set<string>();
  #lastTemporary = 0;
  /** The root has not been opened (I6). */
  #isAway = true;
  #opening: Promise<boolean> | undefined;

  constructor(options: DirectoryTierOptions) {
    this.#options = options;
    this.#root = resolve(options.root); // until it is opened
    this.#temporary = join(this.#root, TEMPORARY, options.nodeId ?? NODE_ID);
    this.#mover = options.mover ?? createMover({ workers: WORKERS });
    this.#ownsMover = options.mover === undefined;
    this.#calls = options.calls ?? patientCalls;
    this.#fs = patientFs(options.fs ?? nodeDirectoryFs, this.#calls);
  }

  get location(): string {
    return `file://${this.#root}`;
  }

  /** I6. @throws `io_failed`, `config_invalid` */
  async open(): Promise<void> {
    const opening = this.#open();
    if (await settlesWithin(opening, this.#options.openMs ?? OPEN_MS)) await opening;
  }

  /** False: it is not mounted. @throws `io_failed`, `config_invalid` */
  #open(): Promise<boolean> {
    if (!this.#isAway) return Promise.resolve(true);
    this.#opening ??= this.#openOnce().finally(() => {
      this.#opening = undefined;
    });
    return this.#opening;
  }

  async #openOnce(): Promise<boolean> {
    const path = this.#options.root;
    const doing = `opening tier 2 at ${path}`;
    try {
      const open = async (): Promise<Paths | undefined> => await openRoot(this.#options);
      const paths = await this.#calls.call(doing, open, { within: true });
      if (paths === undefined) return false;
      this.#root = paths.root;
      this.#temporary = paths.temporary;
      this.#isAway = false;
      return true;
    } catch (error) {
      const explained = explainPathError(error, { path, setting: '--remote file://' });
      throw toStoreError(explained, `cannot open tier 2 at ${path}`);
    }
  }

  async put(
    name: string,
    sources: readonly RemoteSource[],
    options?: RemotePutOptions,
  ): Promise<RemoteObject> {
    return await this.#publish(name, sources, options);
  }

  async copy(
    from: string,
    to: string,
    run: Omit<RemoteRun, 'crc32c' | 'signal'>,
  ): Promise<RemoteObject> {
    const { offset, length, etag } = run;
    const file = await this.#currentPath(from, run);
    return await this.#publish(to, [{ file, offset, length, etag, crc32c: null }]);
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
      const assertThis = (stats: BigIntStats): void => {
        if (!stats.isFile()) throw noSuchName(name);
        if (etag !== undefined) assertUnchanged(name, stats, etag);
      };
      const bytes = await this.#calls.call(`reading ${name} from tier 2`, () =>
        withFile(path, flags, async (handle) => {
          assertThis(await handle.stat({ bigint: true }));
          // Nobody else's: who gives up may use the target again while the system still reads (Q3 of patient-calls.ts).
          const own = Buffer.allocUnsafeSlow(target.length);
          let done = 0;
          for (let got = 1; done < own.length && got > 0; done += got) {
            stopIfAborted(signal);
            got = (await handle.read(own, done, own.length - done, position + done)).bytesRead;
          }
          // Others may have written in the file meanwhile, or cut it off.
          assertThis(await handle.stat({ bigint: true }));
          if (done < own.length) throw endsBefore(name, position + own.length);
          return own;
        }),
      );
      target.set(bytes);
    } catch (error) {
      throw await this.#readError(name, error);
    }
  }

  async fetch(name: string, file: string, run: RemoteRun): Promise<number> {
    const { offset, length, crc32c, etag, signal } = run;
    const path = await this.#currentPath(name, run);
    const isLate = new AbortController();
    const copy = {
      ...{ from: path, to: file, fromOffset: offset, sizeBytes: length, sync: false, etag },
      signal: anyOf(signal, isLate.signal),
    };
    try {
      const doing = `fetching ${name} from tier 2`;
      const { onAccepted, progress } = watched();
      const work = async (): Promise<number> =>
        await this.#copyVerified(name, { ...copy, crc32c, onAccepted });
      return await this.#calls.during(file, doing, work, { progress });
    } catch (error) {
      if (isUnanswered(error)) isLate.abort(); // nothing more is written into the file
      throw await this.#readError(name, error);
    }
  }

  async head(name: string): Promise<(RemoteObject & RemoteHeaders) | undefined> {
    try {
      const stats = await this.#lstat(await this.#confinedPath(name));
      return stats.isFile() ? { ...identityOf(stats), ...NO_HEADERS } : undefined;
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
      await this.#calls.during(path, `deleting ${name} from tier 2`, async () => {
        // unlink(2) on a directory is EISDIR: then there is no such object.
        if (etag === undefined) await this.#fs.unlink(path);
        else await this.#unlinkUnchanged(name, path, etag);
        // A deleted object that comes back after a power cut would be one that nobody knows.
        await this.#syncNearest(await this.#removeEmptyAbove(path));
      });
    } catch (error) {
      if (!isNoSuchName(error)) throw toStoreError(error, `deleting ${name} from tier 2`);
      await this.#assertMounted();
    }
  }

  accepts(name: string): boolean {
    return findSegments(name) !== undefined;
  }

  async *list(
    prefix: string,
    { signal }: RemoteListOptions = {},
  ): AsyncIterable<RemoteObject & { readonly name: string }> {
    // Everything below the last `/` of the prefix, filtered: a prefix need not end at a segment.
    const above = prefix.slice(0, prefix.lastIndexOf('/') + 1);
    if (above !== '' && findSegments(`${above}x`) === undefined) return;
    await this.#openIfAway();
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
    await this.#calls.close();
  }

  /** I5. @throws `io_failed` */
  async #assertMounted(): Promise<void> {
    if (this.#isAway) return await this.#openIfAway();
    try {
      await this.#lstat(this.#temporary);
    } catch (error) {
      if (!isMissing(error)) throw toStoreError(error, 'looking at tier 2');
      throw this.#unmountedError(error);
    }
  }

  /** I6. @throws `io_failed`, `config_invalid` */
  async #openIfAway(): Promise<void> {
    if (!this.#isAway) return;
    const { root } = this.#options;
    const open = async (): Promise<boolean> => await this.#open();
    if (await this.#calls.during(root, `opening tier 2 at ${root}`, open)) return;
    throw this.#unmountedError();
  }

  #unmountedError(cause?: unknown): StoreError {
    const message = `${this.#root} is not the directory that is known as tier 2: ${this.#temporary} is not there; is it mounted? If it is the right one, make that directory`;
    return new StoreError('io_failed', message, { root: this.#root }, cause);
  }

  /** I4 */
  async #unlinkUnchanged(name: string, path: string, etag: string): Promise<void> {
    assertUnchanged(name, await this.#lstat(path), etag);
    // Taken away first, and looked at again: what others put there since goes back to its place.
    const taken = await this.#freeTemporary();
    try {
      await this.#fs.rename(path, taken);
    } catch (error) {
      // EISDIR and the like say nothing of the name: they may come of what others put under the other one.
      throw isMissing(error) ? error : toStoreError(error, `taking ${name} out of tier 2`);
    }
    try {
      assertUnchanged(name, await this.#lstat(taken), etag);
    } catch (error) {
      await this.#putBack(taken, path);
      throw error;
    }
    await this.#fs.unlink(taken);
  }

  /**
   * Over nothing that others put there since, where the file system can tell; one without hard links cannot.
   * @throws {StoreError} whatever fails, so that nobody takes a missing directory for a missing name
   */
  async #putBack(taken: string, path: string): Promise<void> {
    for (let tries = 1; ; tries++) {
      try {
        const isMoved = await this.#linkOrRename(taken, path);
        await this.#fs.syncDirectory(dirname(path));
        if (!isMoved) await this.#fs.unlink(taken);
        return;
      } catch (error) {
        if (!isMissing(error) || tries === PUT_BACK_TRIES) {
          const doing = `putting back what others put at ${path}: it lies at ${taken} until the next start`;
          throw new StoreError('io_failed', `${doing}; ${String(error)}`, { path, taken }, error);
        }
      }
      await this.#makeAbove(path);
    }
  }

  /** Says whether the file is no longer at its old place. */
  async #linkOrRename(taken: string, path: string): Promise<boolean> {
    try {
      await this.#fs.link(taken, path);
    } catch (error) {
      if (errnoOf(error) === 'EEXIST') return false;
      if (!NO_LINKS.has(errnoOf(error))) throw error;
      await this.#fs.rename(taken, path);
      return true;
    }
    return false;
  }

  /** The directories above a name, not behind a link (I2). What takes their place is told by what comes next. */
  async #makeAbove(path: string): Promise<void> {
    const directories = this.#directoriesOf(relative(this.#root, path).split(sep));
    for (const directory of directories) {
      this.#durable.delete(directory);
      const make = async (): Promise<void> => await mkdir(directory, 0o2770);
      await this.#calls.call(`making ${directory}`, make, { within: true }).catch(() => undefined);
      if ((await this.#realpath(directory).catch(missingAs(undefined))) !== directory) return;
    }
    for (const directory of [...directories.toReversed(), this.#root])
      await this.#fs.syncDirectory(directory).catch(missingAs(undefined));
  }

  #newTemporary(): string {
    this.#lastTemporary++;
    return join(this.#temporary, this.#lastTemporary.toString(16));
  }

  /** rename(2) takes the place of what is there already, which is not ours. */
  async #freeTemporary(): Promise<string> {
    for (let tries = 0; tries < TEMPORARY_TRIES; tries++) {
      const path = this.#newTemporary();
      try {
        await this.#lstat(path);
      } catch (error) {
        if (isMissing(error)) return path;
        throw toStoreError(error, `looking at ${path}`);
      }
    }
    const message = `${this.#temporary} is full of files that others put there`;
    throw new StoreError('io_failed', message);
  }

  async *#walk(
    above: string,
    prefix: string,
  ): AsyncIterable<RemoteObject & { readonly name: string }> {
    try {
      for await (const entry of this.#entries(join(this.#root, above))) {
        const name = above + entry.name;
        if (!name.startsWith(prefix) || name === TEMPORARY) continue;
        if (entry.isDirectory()) {
          // What lies deeper than any name of ours is somebody else's, and its path may be longer than the system takes.
          if (Buffer.byteLength(name) < REMOTE_NAME_BYTES_MAX)
            yield* this.#walk(`${name}/`, prefix);
        } else if (entry.isFile() && findSegments(name) !== undefined) {
          const path = join(this.#root, name);
          const stats = await this.#lstat(path).catch(missingAs(undefined));
          if (stats?.isFile() === true) yield { name, ...identityOf(stats) };
        }
      }
    } catch (error) {
      // Deleted while we walked.
      if (!isNoSuchName(error)) throw toStoreError(error, `listing ${above} in tier 2`);
    }
  }

  /** A new file under `name`, in one errand of the mover: made beside, filled, then put in its place (I1). */
  async #publish(
    name: string,
    sources: PublishRequest['sources'],
    { signal, replaces }: Pick<RemotePutOptions, 'signal' | 'replaces'> = {},
  ): Promise<RemoteObject> {
    const segments = parseName(name);
    await this.#openIfAway().catch((error: unknown) => {
      throw this.#putError(name, error);
    });
    const path = this.#path(segments);
    const directories = this.#directoriesOf(segments);
    const makes = directories.filter((directory) => !this.#durable.has(directory));
    const syncs = this.#upToDurable(directories);
    const temporary = this.#newTemporary();
    const files = { root: this.#root, directories, makes, syncs, temporary, path };
    const doing = `putting ${name} into tier 2`;
    const isLate = new AbortController();
    const stop = anyOf(signal, isLate.signal);
    const { onAccepted, progress } = watched();
    let made: RemoteObject | undefined;
    let hasEnded = false;
    const put = async (): Promise<RemoteObject> => {
      try {
        made = await this.#mover.publish({ ...files, sources, replaces, signal: stop, onAccepted });
        await this.#noteSynced(directories, syncs);
        return made;
      } finally {
        hasEnded = true;
      }
    };
    const undo = async (error: unknown): Promise<void> => {
      const etag = made?.etag ?? unsyncedEtag(error);
      // Visible but perhaps not durable is neither all nor nothing.
      if (etag !== undefined) await this.#unlinkUnchanged(name, path, etag).catch(() => undefined);
      // Died after the rename, it left the name, which the next try replaces.
      if (isWorkerDead(error)) await this.#fs.unlink(temporary).catch(() => undefined);
      if (!BEFORE_DIRECTORIES.has(codeOf(error))) await this.#removeEmptyAbove(path);
    };
    try {
      return await this.#calls.during(path, doing, put, { patienceMs: PUT_PATIENCE_MS, progress });
    } catch (error) {
      // A put that has no answer ends before its next step, if it ever comes to it. One that ended has an answer, also when one of
      // its calls had none.
      if (isUnanswered(error) && !hasEnded) isLate.abort();
      else await this.#calls.during(path, doing, async () => await undo(error));
      if (isMissingDirectory(error)) await this.#assertMounted();
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
    const stats = await this.#lstat(path).catch(async (error: unknown) => {
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
    { crc32c: expected, ...copy }: Parameters<Mover['copy']>[0] & { crc32c: number | null },
  ): Promise<number> {
    const found = await this.#mover.copy(copy);
    if (expected === null || found === expected) return found;
    throw mismatch(name, { expected, found });
  }

  /** From the top down, without the root. */
  #directoriesOf(segments: readonly string[]): readonly string[] {
    return segments.slice(0, -1).map((_, index) => this.#path(segments.slice(0, index + 1)));
  }

  /** The lowest directory, and those above it up to one whose entry is durable already. */
  #upToDurable(directories: readonly string[]): readonly string[] {
    const upwards: string[] = [];
    for (const directory of directories.toReversed()) {
      upwards.push(directory);
      if (this.#durable.has(directory)) return upwards;
    }
    return [...upwards, this.#root];
  }

  /**
   * Only now: another put that finds them here relies on all of it. A delete may have taken one away since it was found durable,
   * and the put has made it again: then what is above it is synced too.
   */
  async #noteSynced(directories: readonly string[], synced: readonly string[]): Promise<void> {
    const upwards = this.#upToDurable(directories);
    for (const directory of upwards)
      if (!synced.includes(directory)) await this.#fs.syncDirectory(directory);
    if (this.#durable.size + upwards.length > DURABLE_DIRECTORIES_MAX) this.#durable.clear();
    for (const directory of upwards) if (directory !== this.#root) this.#durable.add(directory);
  }

  /** Returns the lowest directory that stays. */
  async #removeEmptyAbove(path: string): Promise<string> {
    let at = dirname(path);
    for (; at !== this.#root; at = dirname(at)) {
      // Forgotten first: a put that comes between must make and sync it again.
      this.#durable.delete(at);
      try {
        // Behind a link it is not ours to remove (I2).
        if ((await this.#realpath(at)) !== at) continue;
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
    await this.#openIfAway();
    const path = this.#path(segments);
    await this.#assertConfined(dirname(path));
    return path;
  }

  /** I2. @throws ENOENT or ENOTDIR when there is no such directory, `io_failed` when a link leads elsewhere */
  async #assertConfined(directory: string): Promise<void> {
    const real = await this.#realpath(directory);
    const path = directory.endsWith('/') ? directory.slice(0, -1) : directory;
    if (real === path) return;
    const message = `${path} is or lies behind a symbolic link to ${real}; links in tier 2 are not followed`;
    throw new StoreError('io_failed', message);
  }

  async #lstat(path: string): Promise<BigIntStats> {
    return await this.#calls.call(`looking at ${path}`, () => lstat(path, { bigint: true }));
  }

  async #realpath(path: string): Promise<string> {
    return await this.#calls.call(`looking at ${path}`, () => realpath(path));
  }

  async *#entries(path: string): AsyncGenerator<Dirent> {
    const doing = `listing ${path}`;
    const closed = (directory: Dir): Promise<void> => directory.close();
    const directory = await this.#calls.call(doing, () => opendir(path), { late: closed });
    try {
      for (;;) {
        const entry = await this.#calls.call(doing, () => directory.read());
        if (entry === null) return;
        yield entry;
      }
    } finally {
      await this.#calls.call(doing, () => closed(directory)).catch(() => undefined);
    }
  }

  #putError(name: string, error: unknown): StoreError {
    const doing = `putting ${name} into tier 2`;
    const { code, details, message } = toStoreError(error, doing);
    const { errno, expected, found } = details;
    if (CONFLICTS.has(errno)) return conflictError(name, name, error);
    if (errno === 'ENAMETOOLONG') return nameError(name, 'it is too long here', error);
    if (code === 'precondition_failed' && details['source'] === undefined)
      return replacedError(name, expected as string | null, found as string | null);
    if (code === 'data_corrupt' && expected !== undefined)
      return mismatch(name, { expected: Number(expected), found: Number(found) });
    const told = message.startsWith(doing) ? message : `${doing}: ${message}`;
    return new StoreError(code, told, { name, ...details }, error);
  }

  async #readError(name: string, error: unknown): Promise<StoreError> {
    if (isStoreError(error, 'precondition_failed')) {
      const { expected, found } = error.details;
      return replacedError(name, expected as string | null, found as string | null);
    }
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

/** The progress of a job of the mover, from before it has taken it on. */
function watched(): { onAccepted: (progress: Progress) => void; progress: Progress } {
  let current: Progress = () => 0;
  return {
    onAccepted: (progress) => {
      current = progress;
    },
    progress: () => current(),
  };
}

function anyOf(signal: AbortSignal | undefined, other: AbortSignal): AbortSignal {
  return signal === undefined ? other : AbortSignal.any([signal, other]);
}

function isUnanswered(error: unknown): boolean {
  return isStoreError(error, 'io_failed') && error.details['patienceMs'] !== undefined;
}

function missingAs<T>(value: T): (error: unknown) => T {
  return (error) => {
    if (isMissing(error)) return value;
    throw error;
  };
}

function codeOf(error: unknown): unknown {
  return isStoreError(error) ? error.code : undefined;
}

function isMissingDirectory(error: unknown): boolean {
  return isStoreError(error) && error.details['errno'] === 'ENOENT';
}

/** A worker that lives says which call failed, and takes its temporary file away. */
function isWorkerDead(error: unknown): boolean {
  return isStoreError(error, 'io_failed') && error.details['errno'] === undefined;
}

/** The ETag of a file that is in its place, and whose directory could not be synced. */
function unsyncedEtag(error: unknown): string | undefined {
  const etag = isStoreError(error) ? error.details['unsynced'] : undefined;
  return typeof etag === 'string' ? etag : undefined;
}

function stopIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) {
    throw new StoreError('aborted', 'the caller gave up', {}, signal.reason);
  }
}
