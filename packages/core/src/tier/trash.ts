/**
 * Takes files out of the way at once and unlinks them a little later, one at a time, when that takes long: freeing the
 * pages of 1 GiB takes 75 ms. The bytes are no longer charged; `emptyNow` is for when the file system runs short.
 */
import { renameSync, unlinkSync } from 'node:fs';
import { unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { SYNC_UNLINK_BYTES_MAX, TRASH_FILES_MAX } from '../limits.ts';
import { isMissing, toStoreError } from './fs-error.ts';

export class Trash {
  readonly #directory: string;
  readonly #waiting = new Set<string>();
  #running: Promise<void> | undefined;
  #lastName = 0;

  constructor(directory: string) {
    this.#directory = directory;
  }

  nextName(): string {
    this.#lastName++;
    return this.#lastName.toString(16);
  }

  discard(file: string, bytes: number): void {
    if (bytes <= SYNC_UNLINK_BYTES_MAX || this.#waiting.size >= TRASH_FILES_MAX) {
      unlinkIfThere(file);
      return;
    }
    const trashed = join(this.#directory, this.nextName());
    try {
      renameSync(file, trashed);
    } catch (error) {
      if (isMissing(error)) return;
      throw toStoreError(error, `removing ${file}`);
    }
    this.#waiting.add(trashed);
    this.#running ??= this.#run();
  }

  emptyNow(): void {
    for (const file of this.#waiting) unlinkIfThere(file);
    this.#waiting.clear();
  }

  async settled(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    for (const file of this.#waiting) {
      // What cannot be unlinked now stays in the trash and is tried again at the next start.
      await unlink(file).catch(() => undefined);
      this.#waiting.delete(file);
    }
    this.#running = undefined;
  }
}

function unlinkIfThere(file: string): void {
  try {
    unlinkSync(file);
  } catch (error) {
    if (!isMissing(error)) throw toStoreError(error, `removing ${file}`);
  }
}
