/**
 * Files that turned out to hold wrong bytes, kept for whoever wants to know what happened: `root/x/<blob id, hex>-<n>`. They are
 * second names of the files, so that readers who have them open notice nothing.
 *
 * They are no copies and count for no budget. So only as much is kept as SET_ASIDE_PART of the tier, and the oldest go first.
 */
import { linkSync, lstatSync, mkdirSync, readdirSync, type Stats, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { SET_ASIDE_FILES_MAX, SET_ASIDE_PART } from '../limits.ts';

const DIRECTORY_MODE = 0o700;

/** No error when it cannot be kept: the file is given up by its own name all the same. Returns whether it was kept. */
export function setFileAside(
  file: string,
  where: { readonly root: string; readonly blobId: number; readonly capacityBytes: number },
): boolean {
  const directory = join(where.root, 'x');
  try {
    mkdirSync(directory, { recursive: true, mode: DIRECTORY_MODE });
    if (!lstatSync(directory).isDirectory()) return false;
    const { size } = lstatSync(file);
    if (!makeRoom(directory, size, where.capacityBytes * SET_ASIDE_PART)) return false;
    linkSync(file, join(directory, `${where.blobId.toString(16)}-${Date.now().toString(36)}`));
    return true;
  } catch {
    return false;
  }
}

function makeRoom(directory: string, bytes: number, bytesMax: number): boolean {
  if (bytes > bytesMax) return false;
  const kept = readdirSync(directory)
    .map((name) => ({ path: join(directory, name), stats: lstatSync(join(directory, name)) }))
    .sort((a, b) => changedAt(a.stats) - changedAt(b.stats));
  let total = kept.reduce((sum, { stats }) => sum + stats.size, bytes);
  let files = kept.length;
  for (const { path, stats } of kept) {
    if (total <= bytesMax && files < SET_ASIDE_FILES_MAX) return true;
    unlinkSync(path);
    total -= stats.size;
    files--;
  }
  return true;
}

function changedAt({ ctimeMs }: Stats): number {
  return ctimeMs;
}
