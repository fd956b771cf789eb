/** Where things lie. Everything that scripts make is under `.ebb/`, which git ignores and anyone may delete. */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const GENERATED = path.join(ROOT, '.ebb');
export const VENV = path.join(GENERATED, 'venv');
export const VENV_PYTHON = path.join(VENV, 'bin', 'python');
export const QUERIES = path.join(GENERATED, 'queries');
export const JVM = path.join(ROOT, 'clients', 'jvm');
/** The Node that Ebb runs on: an npm package, so that an older Node on the machine does not matter. */
export const OWN_NODE = path.join(ROOT, 'node_modules', '.bin', 'node');

/** A folder under `.ebb/`, made when missing. */
export function generatedDir(...parts) {
  const dir = path.join(GENERATED, ...parts);
  mkdirSync(dir, { recursive: true });
  return dir;
}

/** As people type it: relative to the repository. */
export function shown(file) {
  return path.relative(ROOT, file) || '.';
}
