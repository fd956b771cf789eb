/** Where things lie. Everything that scripts make is under `.ebb/`, which git ignores and anyone may delete. */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const GENERATED = path.join(ROOT, '.ebb');
export const VENV = path.join(GENERATED, 'venv');
export const VENV_PYTHON = path.join(VENV, 'bin', 'python');
/** Of the Python client: apart from Spark's, so that a change of one does not make the other again. */
export const CLIENT_VENV = path.join(GENERATED, 'python-client');
export const CLIENT_VENV_PYTHON = path.join(CLIENT_VENV, 'bin', 'python');
export const QUERIES = path.join(GENERATED, 'queries');
export const JVM = path.join(ROOT, 'clients', 'jvm');
export const PYTHON = path.join(ROOT, 'clients', 'python');
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
