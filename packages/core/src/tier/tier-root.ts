/**
 * The directory of a local tier: whose it is, and what is laid out in it. Taken by nobody else and found again by the same
 * tier of the same node; anything unexpected is refused and left as it is.
 */
import {
  chmodSync,
  closeSync,
  constants,
  type Dirent,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  type StatsFs,
  statfsSync,
  statSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { formatBytes, StoreError } from '@ebb/protocol';
import { errnoOf, isMissing, isNoRoom } from './fs-error.ts';
import {
  assertTrustedPath,
  closeTo,
  explainPathError,
  openOwnDirectory,
  writeOwnFile,
} from './own-paths.ts';

export interface TierRootOptions {
  readonly name: string;
  readonly root: string;
  readonly nodeId: string;
  readonly capacityBytes: number;
  readonly recycle: boolean;
  /** The name that a person knows for the directory: the flag of the setting. */
  readonly setting: string;
}

const MARKER = 'ebb-tier.json';
/** Persisted, keep stable. */
const MARKER_FORMAT = 1;
const TMPFS_MAGIC = 0x01021994;
/**
 * The clients' way in: the group may look, and new files inherit it. It may not write: clients write into files that are there,
 * and whoever could make names here could make links.
 */
const SHARED_DIRECTORY = 0o2750;
/** Write rights of group and others. */
const NAMES_OF_OTHERS = 0o022;
/** No client needs a name in the pool or the trash; new files still inherit the group. */
const PRIVATE_DIRECTORY = 0o2700;
/** Of the blobs: the low byte of their id, so that ids given in order spread evenly. Persisted, keep stable. */
export const FAN_OUT: readonly string[] = Array.from(
  { length: 256 },
  (_, low) => `b/${low.toString(16).padStart(2, '0')}`,
);

export interface TierRoot {
  readonly isTmpfs: boolean;
  /**
   * Whether all directories are there. The start lays them out; where it found no room it is tried again here, so that a
   * node starts on a full file system and takes data as soon as there is room.
   * @throws as `openTierRoot`
   */
  isLaidOut(): boolean;
}

/**
 * Makes or checks the directories. Those that are there are directories of this user, and no links (own-paths.ts).
 * @throws `data_directory_in_use`, `version_unsupported`, `config_invalid`, and the errno of node:fs
 */
export function openTierRoot(options: TierRootOptions): TierRoot {
  const { name, root, capacityBytes, recycle } = options;
  let laidOut = layOut(options);
  const { type, blocks, bsize } = statfsOfNearest(root);
  const isTmpfs = type === TMPFS_MAGIC;
  const totalBytes = blocks * bsize;
  // Compared with the whole and not with what is free now: others filling a disk must not keep a node from starting with
  // the data it has. That nothing free is handed out which is not there is seen to at every `create`.
  if (blocks > 0 && capacityBytes > totalBytes) {
    const sizes = { capacityBytes, totalBytes };
    const hint = isTmpfs ? '; mount it larger (size=) or lower the capacity' : '';
    const message = `tier ${name} wants ${formatBytes(capacityBytes)}, but the file system at ${root} has ${formatBytes(totalBytes)} in all${hint}`;
    throw new StoreError('config_invalid', message, sizes);
  }
  if (recycle && laidOut && !Number.isSafeInteger(statSync(root).ino)) {
    const message = `the file system at ${root} has inode numbers beyond 2^53: it cannot recycle files`;
    throw new StoreError('config_invalid', message);
  }
  if (!isTmpfs && laidOut)
    for (const path of [join(root, 'b'), root, dirname(root)]) syncDirectoryNow(path);
  return {
    isTmpfs,
    isLaidOut: () => {
      laidOut ||= layOut(options);
      return laidOut;
    },
  };
}

/** False when the file system has no room for it. */
function layOut({ name, root, nodeId, setting }: TierRootOptions): boolean {
  try {
    const { isNew } = openOwnDirectory({ path: root, setting }, { mode: 0o755, closes: false });
    if (isNew) chmodSync(root, SHARED_DIRECTORY);
    claimRoot({ name, root, nodeId, setting });
    closeTo(root, NAMES_OF_OTHERS);
    makeDirectory(join(root, 'p'), PRIVATE_DIRECTORY, setting);
    makeDirectory(join(root, 't'), PRIVATE_DIRECTORY, setting);
    makeDirectory(join(root, 'b'), SHARED_DIRECTORY, setting);
    for (const directory of FAN_OUT)
      makeDirectory(join(root, directory), SHARED_DIRECTORY, setting);
    return true;
  } catch (error) {
    if (isNoRoom(error)) return false;
    throw error;
  }
}

/** Takes a directory, or the one in which it will be. */
function statfsOfNearest(path: string): StatsFs {
  for (let at = path; ; at = dirname(at)) {
    try {
      return statfsSync(at);
    } catch (error) {
      if (!isMissing(error) || at === dirname(at)) throw error;
    }
  }
}

/** @throws `data_directory_in_use`, `version_unsupported`, `config_invalid` */
function claimRoot(whose: Pick<TierRootOptions, 'name' | 'root' | 'nodeId' | 'setting'>): void {
  const { name, root, nodeId, setting } = whose;
  const file = join(root, MARKER);
  const marker = readMarker(file);
  if (marker === undefined) {
    const foreign = readdirSync(root, { withFileTypes: true }).filter(isForeign);
    if (foreign.length > 0) {
      const message = `${root} is not empty and not a tier of Ebb: it has ${foreign[0]?.name}`;
      throw new StoreError('config_invalid', message, { root });
    }
    // Under its name only when it is whole.
    const text = `${JSON.stringify({ format: MARKER_FORMAT, nodeId, tier: name })}\n`;
    writeOwnFile(file, text, { mode: 0o640, sync: true });
    return;
  }
  if (marker.format !== MARKER_FORMAT) {
    const message = `${root} has format ${String(marker.format)}, this version knows ${MARKER_FORMAT}`;
    throw new StoreError('version_unsupported', message, { root });
  }
  if (marker.nodeId !== nodeId) {
    const message = `${setting} ${root} belongs to node ${String(marker.nodeId)}, this is node ${nodeId}; name another, or remove it if that node is gone for good`;
    throw new StoreError('data_directory_in_use', message, { root });
  }
  if (marker.tier !== name) {
    const message = `${root} is tier ${String(marker.tier)} of this node and cannot be tier ${name} too`;
    throw new StoreError('config_invalid', message, { root });
  }
}

/** What a crash between mkdir and the marker, or a fresh mount, may have left, is not foreign. */
function isForeign(entry: Dirent): boolean {
  return !['lost+found', `${MARKER}.new`].includes(entry.name);
}

function readMarker(file: string): { format: unknown; nodeId: unknown; tier: unknown } | undefined {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
  try {
    const marker: unknown = JSON.parse(text);
    if (typeof marker === 'object' && marker !== null) {
      return { format: undefined, nodeId: undefined, tier: undefined, ...marker };
    }
  } catch {
    // Told below.
  }
  throw new StoreError('config_invalid', `${file} is not readable as the marker of a tier`);
}

/** @throws `config_invalid` when something else has the name: a link, a file, or a directory of somebody else's */
function makeDirectory(path: string, mode: number, setting: string): void {
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw explainPathError(error, { path, setting });
    assertTrustedPath({ path, setting });
  }
  // The umask had its say in mkdir, and an earlier version in the mode. One of root's stays as root made it.
  const stats = lstatSync(path);
  if (stats.uid === process.geteuid?.() && (stats.mode & 0o7777) !== mode) chmodSync(path, mode);
}

function syncDirectoryNow(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
