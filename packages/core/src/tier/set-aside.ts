/**
 * Files that turned out to hold wrong bytes, kept for whoever wants to know what happened: `root/x/<n, hex>-<blob id, hex>`, numbered as they come. They are
 * second names of the files, so that readers who have them open notice nothing.
 *
 * They are no copies and count for no budget. So only as much is kept as SET_ASIDE_PART of the tier, and the oldest go first.
 */
import { linkSync, lstatSync, mkdirSync, readdirSync, unlinkSync } from 'node:fs';
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
    const kept = readdirSync(directory).sort((a, b) => numberOf(a) - numberOf(b));
    const next = numberOf(kept.at(-1) ?? '') + 1;
    if (!makeRoom(directory, kept, size, where.capacityBytes * SET_ASIDE_PART)) return false;
    linkSync(file, join(directory, `${next.toString(16)}-${where.blobId.toString(16)}`));
    return true;
  } catch {
    return false;
  }
}

/** `names`: oldest first. */
function makeRoom(
  directory: string,
  names: readonly string[],
  bytes: number,
  bytesMax: number,
): boolean {
  if (bytes > bytesMax) return false;
  const kept = names.map((name) => ({
    path: join(directory, name),
    sizeBytes: lstatSync(join(directory, name)).size,
  }));
  let total = kept.reduce((sum, { sizeBytes }) => sum + sizeBytes, bytes);
  let files = kept.length;
  for (const { path, sizeBytes } of kept) {
    if (total <= bytesMax && files < SET_ASIDE_FILES_MAX) return true;
    unlinkSync(path);
    total -= sizeBytes;
    files--;
  }
  return true;
}

/** 0 for what is not one of ours. */
function numberOf(name: string): number {
  const number = Number.parseInt(name, 16);
  return Number.isSafeInteger(number) ? number : 0;
}
