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
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statfsSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { formatBytes, StoreError } from '@ebb/protocol';
import { errnoOf, isMissing } from './fs-error.ts';

export interface TierRootOptions {
  readonly name: string;
  readonly root: string;
  readonly nodeId: string;
  readonly capacityBytes: number;
  readonly recycle: boolean;
}

const MARKER = 'ebb-tier.json';
/** Persisted, keep stable. */
const MARKER_FORMAT = 1;
const TMPFS_MAGIC = 0x01021994;
/** Group-writable, and new files inherit the group: the clients' way in. */
const SHARED_DIRECTORY = 0o2770;
/** No client needs a name in the pool or the trash; new files still inherit the group. */
const PRIVATE_DIRECTORY = 0o2700;
/** Of the blobs: the low byte of their id, so that ids given in order spread evenly. Persisted, keep stable. */
export const FAN_OUT: readonly string[] = Array.from(
  { length: 256 },
  (_, low) => `b/${low.toString(16).padStart(2, '0')}`,
);

/**
 * Makes or checks the directories, and says whether they lie on tmpfs.
 * @throws `data_directory_in_use`, `version_unsupported`, `config_invalid`, and the errno of node:fs
 */
export function prepareRoot({
  name,
  root,
  nodeId,
  capacityBytes,
  recycle,
}: TierRootOptions): boolean {
  const isNew = mkdirSync(root, { recursive: true }) !== undefined;
  if (isNew) chmodSync(root, SHARED_DIRECTORY);
  const { type, blocks, bsize } = statfsSync(root);
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
  claimRoot({ name, root, nodeId });
  makeDirectory(join(root, 'p'), PRIVATE_DIRECTORY);
  makeDirectory(join(root, 't'), PRIVATE_DIRECTORY);
  makeDirectory(join(root, 'b'), SHARED_DIRECTORY);
  for (const directory of FAN_OUT) makeDirectory(join(root, directory), SHARED_DIRECTORY);
  if (recycle && !Number.isSafeInteger(statSync(root).ino)) {
    const message = `the file system at ${root} has inode numbers beyond 2^53: it cannot recycle files`;
    throw new StoreError('config_invalid', message);
  }
  if (!isTmpfs) for (const path of [join(root, 'b'), root, dirname(root)]) syncDirectoryNow(path);
  return isTmpfs;
}

/** @throws `data_directory_in_use`, `version_unsupported`, `config_invalid` */
function claimRoot(whose: { name: string; root: string; nodeId: string }): void {
  const { name, root, nodeId } = whose;
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
    writeFileSync(`${file}.new`, text, { flush: true });
    renameSync(`${file}.new`, file);
    return;
  }
  if (marker.format !== MARKER_FORMAT) {
    const message = `${root} has format ${String(marker.format)}, this version knows ${MARKER_FORMAT}`;
    throw new StoreError('version_unsupported', message, { root });
  }
  if (marker.nodeId !== nodeId) {
    const message = `${root} belongs to node ${String(marker.nodeId)}, this is node ${nodeId}`;
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

function makeDirectory(path: string, mode: number): void {
  try {
    mkdirSync(path);
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
    return;
  }
  // The umask had its say in mkdir.
  chmodSync(path, mode);
}

function syncDirectoryNow(path: string): void {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
