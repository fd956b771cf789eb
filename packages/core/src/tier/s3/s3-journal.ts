/**
 * The multipart uploads that this process began and did not end yet, by their ids, so that no part of them stays in the
 * store: one file for each in a directory of the node. In the worker only.
 *
 * I1  An upload is noted before its first part is sent, and forgotten when the store has completed or aborted it.
 * I2  Only uploads that stand here are ever aborted: nobody else's, also not under the same key. An upload whose creation
 *     was not answered has no id that we know, and no parts.
 *
 * A file holds JSON: persisted, keep stable.
 */
import { createHash } from 'node:crypto';
import { mkdir, open, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isMissing, toStoreError } from '../fs-error.ts';

export interface NotedUpload {
  readonly bucket: string;
  readonly key: string;
  readonly uploadId: string;
}

export class UploadJournal {
  readonly #directory: string | undefined;
  /** Begun by this process, and not known to have ended. */
  readonly #open = new Map<string, NotedUpload>();
  /** Of these, the ones that nobody works on. */
  readonly #left = new Set<string>();
  #isRead = false;

  /** @param parent undefined: nothing outlives the process. @param location keeps targets apart. */
  constructor(parent: string | undefined, location: string) {
    this.#directory = parent === undefined ? undefined : join(parent, hash(location));
  }

  /** @throws `io_failed`, `tier_full` */
  async note(upload: NotedUpload): Promise<void> {
    this.#open.set(upload.uploadId, upload);
    if (this.#directory === undefined) return;
    try {
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
      await writeDurably(this.#path(upload), JSON.stringify(upload));
      await syncDirectory(this.#directory);
    } catch (error) {
      throw toStoreError(error, `noting an upload in ${this.#directory}`);
    }
  }

  async forget(upload: NotedUpload): Promise<void> {
    this.#open.delete(upload.uploadId);
    this.#left.delete(upload.uploadId);
    // One that stays is aborted once more, to no effect.
    if (this.#directory !== undefined) await rm(this.#path(upload), { force: true });
  }

  /** The store did not answer to its abort: it is among the leftovers from now on. */
  leave(upload: NotedUpload): void {
    this.#left.add(upload.uploadId);
  }

  /** Of earlier processes, and left by this one. @throws `io_failed` */
  async leftovers(): Promise<readonly NotedUpload[]> {
    if (!this.#isRead) {
      for (const upload of await this.#readAll()) {
        if (this.#open.has(upload.uploadId)) continue;
        this.#open.set(upload.uploadId, upload);
        this.#left.add(upload.uploadId);
      }
      this.#isRead = true;
    }
    return [...this.#left].flatMap((uploadId) => this.#open.get(uploadId) ?? []);
  }

  async #readAll(): Promise<readonly NotedUpload[]> {
    const directory = this.#directory;
    if (directory === undefined) return [];
    try {
      const names = await readdir(directory);
      const texts = names.map(async (name) => await readFile(join(directory, name), 'utf8'));
      return (await Promise.all(texts)).flatMap((text) => findUpload(text) ?? []);
    } catch (error) {
      if (isMissing(error)) return [];
      throw toStoreError(error, `reading ${directory}`);
    }
  }

  #path({ uploadId }: NotedUpload): string {
    return join(this.#directory as string, `${hash(uploadId)}.json`);
  }
}

/** Undefined for a file that a power cut left half-written: its upload has no parts. */
function findUpload(text: string): NotedUpload | undefined {
  try {
    const { bucket, key, uploadId } = JSON.parse(text) as Partial<NotedUpload>;
    const isWhole = [bucket, key, uploadId].every((field) => typeof field === 'string');
    return isWhole ? ({ bucket, key, uploadId } as NotedUpload) : undefined;
  } catch {
    return undefined;
  }
}

async function writeDurably(file: string, text: string): Promise<void> {
  const handle = await open(file, 'w', 0o600);
  try {
    await handle.writeFile(text);
    await handle.datasync();
  } finally {
    await handle.close();
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function hash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}
