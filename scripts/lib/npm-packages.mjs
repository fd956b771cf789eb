/** Is `node_modules` what `package-lock.json` asks for? npm leaves a list of what it installed; the two are compared. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { OWN_NODE, ROOT } from './paths.mjs';

export function isInstalled(root = ROOT) {
  // npm writes its hidden list last, so half an installation has none.
  const lock = readJson(path.join(root, 'package-lock.json'));
  const installed = readJson(path.join(root, 'node_modules', '.package-lock.json'));
  return (
    lock !== undefined &&
    installed !== undefined &&
    existsSync(OWN_NODE) &&
    lockMatches(lock, installed)
  );
}

/** Every package of the lock is there in its version; an optional one may be missing (another platform's binary). */
export function lockMatches(lock, installed) {
  return Object.entries(lock.packages).every(([where, wanted]) => {
    if (!where.includes('node_modules/')) return true; // The root and the workspaces themselves.
    const found = installed.packages[where];
    if (found === undefined)
      return wanted.optional === true || wanted.devOptional === true || wanted.peer === true;
    return found.version === wanted.version;
  });
}

function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}
