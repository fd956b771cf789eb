/**
 * Direct access to the node's files. A client has it when the node answered its challenge under both directories; then
 * bytes go by `pread` and `pwrite`, and the daemon is out of the way. Invariants: protocol/src/node-files.ts, I1 and I3.
 */
import { randomBytes } from 'node:crypto';
import { closeSync, constants, fstatSync, lstatSync, openSync } from 'node:fs';
import { access, type FileHandle, lstat, open } from 'node:fs/promises';
import { dirname, isAbsolute, join } from 'node:path';
import { isNodeFilePath, type messages, proofName, StoreError } from '@ebb/protocol';

export type NodeFileMode = 'r' | 'r+';

export interface LocalFiles {
  /**
   * Absolute path of a file that the node named relative to its tier's directory.
   * @throws {StoreError} `io_failed` for a path that no node gives
   */
  path(tier: 0 | 1 | 2, relative: string): string;
  /** The file, checked. @throws the errno of node:fs, and {StoreError} `io_failed` for what is not a file of the node */
  open(tier: 0 | 1 | 2, relative: string, mode: NodeFileMode): Promise<FileHandle>;
  /** Does what `open` does; gives a descriptor that the caller closes. */
  openSync(tier: 0 | 1 | 2, relative: string, mode: NodeFileMode): number;
}

/** To be sent with `proveHost`, and known to nobody before. */
export function createChallenge(): string {
  return randomBytes(16).toString('hex');
}

/** undefined when this process does not see the files. */
export async function findLocalFiles(
  { memoryDir, diskDir }: messages.HelloResponse,
  challenge: string,
): Promise<LocalFiles | undefined> {
  const owners = await Promise.all(
    [memoryDir, diskDir].map((directory) => findProofOwner(directory, challenge)),
  );
  const [memoryOwner, diskOwner] = owners;
  if (memoryOwner === undefined || diskOwner === undefined) return undefined;
  return new NodeFiles([
    { directory: memoryDir, owner: memoryOwner },
    { directory: diskDir, owner: diskOwner },
  ]);
}

interface Place {
  readonly directory: string;
  /** User id of the node, as this process sees it. */
  readonly owner: number;
}

class NodeFiles implements LocalFiles {
  readonly #places: readonly [Place, Place];
  /** Directories of blobs that were found to be directories of the node: at most 256 a place. */
  readonly #checked = new Set<string>();

  constructor(places: readonly [Place, Place]) {
    this.#places = places;
  }

  path(tier: 0 | 1 | 2, relative: string): string {
    return join(this.#place(tier, relative).directory, relative);
  }

  async open(tier: 0 | 1 | 2, relative: string, mode: NodeFileMode): Promise<FileHandle> {
    const place = this.#place(tier, relative);
    const path = this.#checkedPath(place, relative);
    const file = await open(path, flagsOf(mode));
    try {
      assertOwn(file.fd, place, relative);
      return file;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  openSync(tier: 0 | 1 | 2, relative: string, mode: NodeFileMode): number {
    const place = this.#place(tier, relative);
    const fd = openSync(this.#checkedPath(place, relative), flagsOf(mode));
    try {
      assertOwn(fd, place, relative);
      return fd;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  #place(tier: 0 | 1 | 2, relative: string): Place {
    if (tier === 2 || !isNodeFilePath(relative)) throw notOwn(relative, 'no node calls a file so');
    return this.#places[tier];
  }

  #checkedPath(place: Place, relative: string): string {
    const path = join(place.directory, relative);
    const parent = dirname(path);
    if (!this.#checked.has(parent)) {
      for (const directory of [dirname(parent), parent]) {
        const { uid, ...kind } = statOf(directory);
        if (!kind.isDirectory || uid !== place.owner)
          throw notOwn(relative, `${directory} is no directory of the node`);
      }
      this.#checked.add(parent);
    }
    return path;
  }
}

function statOf(directory: string): { readonly isDirectory: boolean; readonly uid: number } {
  const stat = lstatSync(directory);
  return { isDirectory: stat.isDirectory(), uid: stat.uid };
}

/** A link is refused, and a pipe that somebody put there keeps nobody waiting. */
function flagsOf(mode: NodeFileMode): number {
  const access = mode === 'r' ? constants.O_RDONLY : constants.O_RDWR;
  return access | constants.O_NOFOLLOW | constants.O_NONBLOCK;
}

function assertOwn(fd: number, { owner }: Place, relative: string): void {
  const stat = fstatSync(fd);
  if (!stat.isFile()) throw notOwn(relative, 'it is no plain file');
  if (stat.uid !== owner)
    throw notOwn(relative, `it belongs to user ${stat.uid}, the node is ${owner}`);
}

function notOwn(path: string, why: string): StoreError {
  const message = `the node named a file that is not its own: ${JSON.stringify(path)}: ${why}`;
  return new StoreError('io_failed', message, { path });
}

/** User id of whoever made the proof; undefined when there is none, or the directory is not ours to use. */
async function findProofOwner(directory: string, challenge: string): Promise<number | undefined> {
  if (!isAbsolute(directory)) return undefined;
  try {
    const proof = await lstat(join(directory, proofName(challenge)));
    await access(directory, constants.R_OK | constants.X_OK);
    return proof.isFile() ? proof.uid : undefined;
  } catch {
    return undefined; // not there, or not ours to read: the other way works
  }
}
