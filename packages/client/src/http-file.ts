/** An open file of a node whose files are not seen here: every call is a request, and the node holds the state. */
import {
  type Ack,
  FILE_FLAG_NAMES,
  FILE_READ_BYTES_MAX,
  type FileInfo,
  fileInfoSchema,
  filePublishedSchema,
  fileWrittenSchema,
  PATHS,
  StoreError,
} from '@ebb/protocol';
import type { FileFlags, FileHandle, FileStat, OpenFileOptions, Published } from './file-handle.ts';
import type { HttpClient } from './http-client.ts';
import type { ObjectRef } from './object-info.ts';

export async function openHttpFile(
  http: HttpClient,
  ref: ObjectRef,
  flags: FileFlags,
  { ifMatch, jobId, signal }: OpenFileOptions,
): Promise<FileHandle> {
  const names = FILE_FLAG_NAMES.filter((name) => flags[name]);
  const info = await http.json('POST', PATHS.files, fileInfoSchema, {
    body: { ...ref, flags: names, ifMatch, job: jobId },
    signal,
  });
  return new HttpFile(http, info, { isAppending: flags.append, signal });
}

class HttpFile implements FileHandle {
  readonly bucket: string;
  readonly key: string;
  readonly #http: HttpClient;
  readonly #file: string;
  readonly #isAppending: boolean;
  readonly #signal: AbortSignal | undefined;
  #isClosed = false;

  constructor(
    http: HttpClient,
    { bucket, key, file }: FileInfo,
    options: { readonly isAppending: boolean; readonly signal: AbortSignal | undefined },
  ) {
    this.bucket = bucket;
    this.key = key;
    this.#http = http;
    this.#file = file;
    this.#isAppending = options.isAppending;
    this.#signal = options.signal;
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    let done = 0;
    while (done < target.byteLength) {
      const length = Math.min(FILE_READ_BYTES_MAX, target.byteLength - done);
      const query = { offset: position + done, length };
      const got = await this.#http.bytes('GET', this.#path(PATHS.fileBytes), {
        query,
        signal: this.#signal,
      });
      target.set(got, done);
      done += got.length;
      if (got.length < length) break;
    }
    return done;
  }

  async write(source: Uint8Array, position: number): Promise<number> {
    const answer = await this.#http.bytes('PUT', this.#path(PATHS.fileBytes), {
      query: { offset: position },
      body: source,
      idempotent: !this.#isAppending,
      signal: this.#signal,
    });
    return fileWrittenSchema.parse(JSON.parse(answer.toString('utf8'))).offset;
  }

  async truncate(sizeBytes: number): Promise<void> {
    await this.#http.json('POST', this.#path(PATHS.fileTruncate), fileInfoSchema, {
      body: { sizeBytes },
      idempotent: true,
      signal: this.#signal,
    });
  }

  async stat(): Promise<FileStat> {
    const signal = this.#signal;
    const { sizeBytes, version, etag } = await this.#http.json(
      'GET',
      this.#path(PATHS.file),
      fileInfoSchema,
      { signal },
    );
    return { sizeBytes, version, etag };
  }

  async sync(durability: Ack = 'disk'): Promise<Published | null> {
    return await this.#publish(PATHS.fileSync, { durability });
  }

  async close(): Promise<Published | null> {
    const path = this.#path(PATHS.fileClose);
    this.#isClosed = true;
    return await this.#publish(path, {});
  }

  async abort(): Promise<void> {
    if (this.#isClosed) return;
    const path = this.#path(PATHS.file);
    this.#isClosed = true;
    await this.#http.plain('DELETE', path, { idempotent: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }

  async #publish(template: string, body: { readonly durability?: Ack }): Promise<Published | null> {
    const path = template.replace('{file}', this.#file);
    const { published } = await this.#http.json('POST', path, filePublishedSchema, {
      body,
      signal: this.#signal,
    });
    if (published === null) return null;
    const { version, etag, durability } = published;
    return { version, etag, durability };
  }

  #path(template: string): string {
    if (this.#isClosed) throw new StoreError('file_not_open', 'this file was closed');
    return template.replace('{file}', this.#file);
  }
}
