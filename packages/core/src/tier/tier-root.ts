/**
 * The directory of a local tier: whose it is, and what is laid out in it. Taken by nobody else and found again by the same
 * tier of the same node; anything unexpected is refused and left as it is.
 *
 * A disk whose mount is missing looks like an empty directory. So a marker has an id, the catalog notes the id of its disk
 * (store/known-disk.ts), and a start with another disk than that is refused while the catalog has copies there: else they
 * would be told as lost, and their files would be removed as orphans when the disk is back.
 */
import { randomUUID } from 'node:crypto';
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
  realpathSync,
  rmSync,
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
  /** What the catalog knows of the directory. Without it an empty one is taken as it is: a reboot empties a tmpfs. */
  readonly known?: KnownRoot | undefined;
}

export interface KnownRoot {
  /** The id in its marker; undefined: none was noted. */
  readonly id: string | undefined;
  /** Whether the catalog has copies there that objects need. */
  readonly holdsCopies: boolean;
}

const MARKER = 'ebb-tier.json';
/** Persisted, keep stable. A marker of an earlier version has no `id`, and gets one. */
const MARKER_FORMAT = 1;
/** Whoever runs the node makes this file: the disk that the catalog knows is gone for good, and this one takes its place. */
const REPLACED = 'ebb-disk-lost';
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
  /** That a file is not there says something only while this holds. @throws `io_failed` when the directory is away, or another */
  assertThere(): void;
  /**
   * Lays the directory out again where it was removed from a tmpfs, as a reboot would. False where that is not so: a disk, or a
   * directory in whose place there is something, may come back. @throws as `openTierRoot`
   */
  renew(): boolean;
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
  let claimedId = laidOut ? findTierId(root) : undefined;
  const layOutNow = (): boolean => {
    laidOut = layOut(options);
    if (laidOut) claimedId = findTierId(root);
    return laidOut;
  };
  return {
    isTmpfs,
    isLaidOut: () => laidOut || layOutNow(),
    assertThere: () => {
      if (!laidOut) return;
      const marker = readMarker(join(root, MARKER));
      if (marker !== undefined && marker.id === claimedId) return;
      const message = `tier ${name} is away: ${root} ${describeOther(root, marker)}${describeMount(root)}`;
      throw new StoreError('io_failed', message, { root });
    },
    renew: () => {
      const isReboot = isTmpfs && options.known === undefined && !isThere(root);
      return isReboot && statfsOfNearest(root).type === TMPFS_MAGIC && layOutNow();
    },
  };
}

/** The id in the marker; undefined where there is none. */
export function findTierId(root: string): string | undefined {
  const id = readMarker(join(root, MARKER))?.id;
  return typeof id === 'string' ? id : undefined;
}

/** The catalog knows the disk by now. */
export function forgetReplaced(root: string): void {
  rmSync(join(root, REPLACED), { force: true });
}

/** False when the file system has no room for it. */
function layOut({ name, root, nodeId, setting, known }: TierRootOptions): boolean {
  assertTrustedPath({ path: root, setting });
  const isKnown = known?.holdsCopies === true && !isThere(join(root, REPLACED));
  // Before anything is made: what would be made could lie where the disk is to be mounted.
  if (isKnown && readMarker(join(root, MARKER)) === undefined)
    throw otherDisk({ root, setting }, undefined);
  try {
    const { isNew } = openOwnDirectory({ path: root, setting }, { mode: 0o755, closes: false });
    if (isNew) chmodSync(root, SHARED_DIRECTORY);
    claimRoot({ name, root, nodeId, setting }, isKnown ? known.id : undefined);
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

/**
 * @param knownId The marker has this id and no other.
 * @throws `data_directory_in_use`, `version_unsupported`, `config_invalid`
 */
function claimRoot(
  whose: Pick<TierRootOptions, 'name' | 'root' | 'nodeId' | 'setting'>,
  knownId: string | undefined,
): void {
  const { name, root, nodeId, setting } = whose;
  const file = join(root, MARKER);
  const marker = readMarker(file);
  if (marker === undefined) {
    const foreign = readdirSync(root, { withFileTypes: true }).filter(isForeign);
    if (foreign.length > 0) {
      const message = `${root} is not empty and not a tier of Ebb: it has ${foreign[0]?.name}`;
      throw new StoreError('config_invalid', message, { root });
    }
    writeMarker(file, { nodeId, tier: name });
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
  if (knownId !== undefined && marker.id !== knownId) throw otherDisk({ root, setting }, marker);
  if (typeof marker.id !== 'string') addId(file, { nodeId, tier: name });
}

/** What a crash between mkdir and the marker, a fresh mount or its operator may have left, is not foreign. */
function isForeign(entry: Dirent): boolean {
  return !['lost+found', `${MARKER}.new`, REPLACED].includes(entry.name);
}

interface Marker {
  readonly format: unknown;
  readonly nodeId: unknown;
  readonly tier: unknown;
  readonly id: unknown;
}

/** Under its name only when it is whole. */
function writeMarker(file: string, whose: { nodeId: string; tier: string }): void {
  const marker: Marker = { format: MARKER_FORMAT, ...whose, id: randomUUID() };
  writeOwnFile(file, `${JSON.stringify(marker)}\n`, { mode: 0o640, sync: true });
}

/** A full file system keeps the marker that it has. */
function addId(file: string, whose: { nodeId: string; tier: string }): void {
  try {
    writeMarker(file, whose);
  } catch (error) {
    if (!isNoRoom(error)) throw error;
  }
}

function otherDisk(
  { root, setting }: Pick<TierRootOptions, 'root' | 'setting'>,
  marker: Marker | undefined,
): StoreError {
  const found = `${describeOther(root, marker)}${describeMount(root)}`;
  const message = `${setting}: the catalog has copies of objects on a disk that is not there: ${root} ${found}. Mount that disk or move it back, and start again. If it is gone for good, make an empty file ${join(root, REPLACED)}: the next start then goes on with what is there, and what is not there is lost`;
  return new StoreError('config_invalid', message, { root });
}

function describeOther(root: string, marker: Marker | undefined): string {
  if (marker !== undefined) return `is another disk, by its ${MARKER}`;
  return isThere(root) ? `has no ${MARKER}` : 'does not exist';
}

/** '' on a host that does not tell. */
function describeMount(root: string): string {
  try {
    const places = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
    const path = isThere(root) ? realpathSync(root) : root;
    const isMounted = places.some((line) => unescapeMount(line.split(' ')[4] ?? '') === path);
    return isMounted ? ', and a file system is mounted there' : ', and nothing is mounted there';
  } catch {
    return '';
  }
}

/** The kernel writes blanks, line ends and backslashes of a path as three octal digits. */
function unescapeMount(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

function readMarker(file: string): Marker | undefined {
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
      return { format: undefined, nodeId: undefined, tier: undefined, id: undefined, ...marker };
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
