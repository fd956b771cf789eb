/**
 * Stamps: what a finished step was made from, so that the next run can skip it.
 *
 * A stamp is written last, after the step's outputs are complete; a step that was interrupted has no stamp and runs again.
 */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { generatedDir } from './paths.mjs';

/** A digest of every file under `dir`: relative names and contents, in a fixed order. */
export function hashTree(dir, { skip = [] } = {}) {
  const hash = createHash('sha256');
  for (const file of listFiles(dir, new Set(skip))) {
    hash.update(`${path.relative(dir, file)}\0`);
    hash.update(readFileSync(file));
    hash.update('\0');
  }
  return hash.digest('hex');
}

export function hashText(...texts) {
  const hash = createHash('sha256');
  for (const text of texts) hash.update(`${text}\0`);
  return hash.digest('hex');
}

/** Files below `dir`, sorted; folders named in `skip` are not entered. A missing folder has no files. */
export function listFiles(dir, skip = new Set()) {
  if (!existsSync(dir)) return [];
  const files = [];
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const full = path.join(dir, entry.name);
    if (entry.isDirectory() && !skip.has(entry.name)) files.push(...listFiles(full, skip));
    else if (entry.isFile()) files.push(full);
  }
  return files.sort((left, right) => (left < right ? -1 : 1));
}

/** Does the step's stamp name this key, and are all its outputs still there? */
export function isStamped(step, key) {
  try {
    const stamp = JSON.parse(readFileSync(stampFile(step), 'utf8'));
    return stamp.key === key && stamp.outputs.every((output) => existsSync(output));
  } catch {
    return false; // No stamp, or half a stamp: the step runs.
  }
}

export function writeStamp(step, key, outputs) {
  const file = stampFile(step);
  writeFileSync(`${file}.tmp`, JSON.stringify({ key, outputs }));
  renameSync(`${file}.tmp`, file);
}

export function dropStamp(step) {
  rmSync(stampFile(step), { force: true });
}

function stampFile(step) {
  return path.join(generatedDir('stamps'), `${step}.json`);
}
