/** Calls of the file system for a directory as tier 2. */
import { constants } from 'node:fs';
import { type FileHandle, link, open, rename, rmdir, unlink } from 'node:fs/promises';
import type { PatientCalls } from './patient-calls.ts';

/** The calls of a deletion that change something (those of a put: publish.ts). Paths are absolute; errors are those of node:fs. */
export interface DirectoryFs {
  rename(from: string, to: string): Promise<void>;
  link(from: string, to: string): Promise<void>;
  syncDirectory(path: string): Promise<void>;
  unlink(path: string): Promise<void>;
  removeDirectory(path: string): Promise<void>;
}

export const nodeDirectoryFs: DirectoryFs = {
  rename,
  link,
  syncDirectory: async (path) => {
    await withFile(path, constants.O_RDONLY | constants.O_DIRECTORY, (handle) => handle.sync());
  },
  unlink,
  removeDirectory: rmdir,
};

/** Each is made within a change of a name. */
export function patientFs(fs: DirectoryFs, calls: PatientCalls): DirectoryFs {
  const patient =
    <A extends readonly string[]>(doing: string, call: (...paths: A) => Promise<void>) =>
    async (...paths: A): Promise<void> =>
      await calls.call(`${doing} ${paths[0]}`, () => call(...paths), { within: true });
  return {
    rename: patient('renaming', (from: string, to: string) => fs.rename(from, to)),
    link: patient('linking', (from: string, to: string) => fs.link(from, to)),
    syncDirectory: patient('syncing', (path: string) => fs.syncDirectory(path)),
    unlink: patient('removing', (path: string) => fs.unlink(path)),
    removeDirectory: patient('removing', (path: string) => fs.removeDirectory(path)),
  };
}

export async function withFile<T>(
  path: string,
  flags: number,
  work: (handle: FileHandle) => Promise<T>,
): Promise<T> {
  const handle = await open(path, flags);
  try {
    return await work(handle);
  } finally {
    await handle.close();
  }
}
