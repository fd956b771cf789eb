/**
 * `mkdir -p`. The one of node:fs goes round for ever where a directory is there and takes no entry, and the system says
 * that it is not there: below /proc.
 */
import { existsSync, mkdirSync } from 'node:fs';
import { access, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';

interface MakeOptions {
  readonly mode?: number | undefined;
}

/** Whether one was made. @throws the errno of node:fs */
export function makeDirectoriesSync(path: string, options: MakeOptions = {}): boolean {
  const missing = missingOf(path);
  for (const directory of missing) orThere(directory, () => mkdirSync(directory, options));
  return missing.length > 0;
}

/** On no account on this thread, which a file system that does not answer would stop. @throws the errno of node:fs */
export async function makeDirectories(path: string, options: MakeOptions = {}): Promise<void> {
  const missing: string[] = [];
  for (let at = path; !(await exists(at)); at = dirname(at)) {
    missing.unshift(at);
    if (dirname(at) === at) break;
  }
  for (const directory of missing)
    await mkdir(directory, options).catch(async (error: unknown) => {
      if (!isThereAlready(error) || !(await exists(directory))) throw error;
    });
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

/** The highest one first. */
function missingOf(path: string): readonly string[] {
  const missing: string[] = [];
  for (let at = path; !existsSync(at); at = dirname(at)) {
    missing.unshift(at);
    if (dirname(at) === at) break;
  }
  return missing;
}

/** Somebody may be quicker to make it. */
function orThere(directory: string, make: () => void): void {
  try {
    make();
  } catch (error) {
    if (!isThereAlready(error) || !existsSync(directory)) throw error;
  }
}

function isThereAlready(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EEXIST';
}
