/** Files that appear when they are whole. */
import { open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { makeDirectories } from '@ebb/core';

/** Bytes go to the end; the file is there, under its name, when `work` has resolved. */
export async function writeWhole(
  path: string,
  work: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> {
  await makeDirectories(dirname(resolve(path)));
  const part = join(dirname(path), `.${basename(path)}.ebb-${process.pid}.part`);
  const file = await open(part, 'w');
  try {
    await work(async (bytes) => {
      for (let done = 0; done < bytes.byteLength; )
        done += (await file.write(bytes, done)).bytesWritten;
    });
    await file.close();
    await rename(part, path);
  } catch (error) {
    await file.close().catch(() => undefined);
    await rm(part, { force: true });
    throw error;
  }
}
