/**
 * An open file whose bytes are on this host: reads and writes go to the node's files, and the node is asked only to open,
 * to give a file to write in, for more room, and to publish.
 *
 * I1  Bytes are written only within the reservation, and never to a file that was published.
 * I2  A staged file may have been another's: what lies beyond the end of this one is cut off before it grows over it.
 * I3  The files of an earlier answer are not read once `fileStage` is under way: they may be used again.
 * I4  Bytes count only if the session still lived when they had arrived (object-reader.ts, I2). When it is gone, so is the file.
 * I5  Writes run alone, reads beside each other.
 */
import { readSync, writeSync } from 'node:fs';
import type { FileHandle as NodeFile } from 'node:fs/promises';
import { type Ack, FILE_FLAGS, isStoreError, messages, OPS, StoreError } from '@ebb/protocol';
import { crc32c } from '@node-rs/crc32';
import { errorCode, unreachable } from './errors.ts';
import type { FileFlags, FileHandle, FileStat, OpenFileOptions, Published } from './file-handle.ts';
import type { CallCodec, FrameConnection, FrameSession } from './frame-connection.ts';
import { DIRECT_PIECE_BYTES, EAGER_EXTENTS_MAX, SYNC_BYTES } from './limits.ts';
import type { ObjectRef } from './object-info.ts';
import { afterPoll, closeFiles, type Lease, openExtent, readLease } from './object-reader.ts';
import { abortedError } from './retry.ts';

export async function openLocalFile(
  connection: FrameConnection,
  ref: ObjectRef,
  flags: FileFlags,
  { ifMatch = '', jobId = '', signal }: OpenFileOptions,
): Promise<FileHandle> {
  const session = await connection.session(signal);
  const bits = (Object.keys(FILE_FLAGS) as (keyof typeof FILE_FLAGS)[])
    .filter((name) => flags[name])
    .reduce((all, name) => all | FILE_FLAGS[name], 0);
  const message = { ...ref, flags: bits, ifMatch, jobId };
  const opened = await session.call(OPS.fileOpen, messages.fileOpen, message, {
    signal,
    undo: ({ fileId }) => session.send(OPS.fileAbort, messages.fileAbort, { fileId }),
  });
  const file = new LocalFile(session, ref, opened, { flags, signal });
  try {
    await file.openExtents();
    return file;
  } catch (error) {
    await file.abort();
    throw error;
  }
}

interface StagedFile {
  readonly file: NodeFile;
  readonly tier: number;
  readonly path: string;
  readonly reservedBytes: number;
  /** False once it was published. */
  isWritable: boolean;
}

class LocalFile implements FileHandle {
  readonly bucket: string;
  readonly key: string;
  readonly #session: FrameSession;
  readonly #fileId: number;
  readonly #flags: FileFlags;
  readonly #signal: AbortSignal | undefined;
  /** The version it shows, while it has no file of its own. */
  readonly #base: Lease;
  #staged: StagedFile | undefined;
  #sizeBytes: number;
  #isDirty: boolean;
  #version: number | null;
  #etag: string | null;
  /** CRC32C of the first bytes, as long as they come in order. */
  #crc = { value: 0, bytes: 0 };
  #isClosed = false;
  #lastWrite: Promise<unknown> = Promise.resolve();
  readonly #reads = new Set<Promise<unknown>>();

  constructor(
    session: FrameSession,
    { bucket, key }: ObjectRef,
    opened: messages.FileOpenResponse,
    options: { readonly flags: FileFlags; readonly signal: AbortSignal | undefined },
  ) {
    this.bucket = bucket;
    this.key = key;
    this.#session = session;
    this.#fileId = opened.fileId;
    this.#flags = options.flags;
    this.#signal = options.signal;
    this.#base = { session, opened, files: new Map() };
    this.#sizeBytes = opened.sizeBytes;
    this.#version = opened.exists ? opened.version : null;
    this.#etag = opened.exists ? opened.etag : null;
    this.#isDirty = !opened.exists || options.flags.truncate;
    if (opened.sizeBytes > 0) this.#crc.bytes = Number.POSITIVE_INFINITY;
  }

  /** An open descriptor keeps the version, whatever happens to the name. */
  async openExtents(): Promise<void> {
    const { extents } = this.#base.opened;
    for (const extent of extents.slice(0, EAGER_EXTENTS_MAX)) await openExtent(this.#base, extent);
  }

  async read(target: Uint8Array, position: number): Promise<number> {
    this.#assertMode('read');
    assertPosition(position);
    await this.#lastWrite;
    const run = this.#readNow(target, position);
    const settled = run.catch(() => undefined).finally(() => this.#reads.delete(settled));
    this.#reads.add(settled);
    return await run;
  }

  async write(source: Uint8Array, position: number): Promise<number> {
    this.#assertMode('write');
    assertPosition(position);
    return await this.#alone(async () => {
      const at = this.#flags.append ? this.#sizeBytes : position;
      if (source.byteLength === 0) return at;
      const end = at + source.byteLength;
      const { file, tier } = await this.#stage(end);
      if (at > this.#sizeBytes) await this.#growTo(file, at);
      try {
        await writeAll(file, source, at, tier === 0 && source.byteLength <= SYNC_BYTES);
      } catch (error) {
        this.#crc.bytes = Number.POSITIVE_INFINITY; // some of it may be there
        throw error;
      }
      this.#noteCrc(source, at);
      this.#sizeBytes = Math.max(this.#sizeBytes, end);
      this.#isDirty = true;
      return at;
    });
  }

  async truncate(sizeBytes: number): Promise<void> {
    this.#assertMode('write');
    assertPosition(sizeBytes);
    await this.#alone(async () => {
      if (sizeBytes === this.#sizeBytes) return;
      if (sizeBytes > this.#sizeBytes) {
        const { file } = await this.#stage(sizeBytes);
        await this.#growTo(file, sizeBytes);
      } else {
        if (this.#staged?.isWritable === true) await this.#staged.file.truncate(sizeBytes);
        this.#sizeBytes = sizeBytes;
      }
      if (sizeBytes === 0) this.#crc = { value: 0, bytes: 0 };
      else if (sizeBytes < this.#crc.bytes) this.#crc.bytes = Number.POSITIVE_INFINITY;
      this.#isDirty = true;
    });
  }

  async stat(): Promise<FileStat> {
    this.#assertOpen();
    await this.#lastWrite;
    return { sizeBytes: this.#sizeBytes, version: this.#version, etag: this.#etag };
  }

  async sync(durability: Ack = 'disk'): Promise<Published | null> {
    this.#assertOpen();
    return await this.#alone(async () => {
      // So that it can be read on from the file that is published.
      if (this.#isDirty && this.#sizeBytes > 0) await this.#stage(this.#sizeBytes);
      const published = await this.#publish(OPS.fileSync, durability);
      if (this.#staged !== undefined) this.#staged.isWritable = false;
      this.#isDirty = false;
      return published;
    });
  }

  async close(): Promise<Published | null> {
    this.#assertOpen();
    this.#isClosed = true;
    return await this.#alone(async () => {
      await this.#closeFiles();
      return await this.#publish(OPS.fileClose, undefined);
    });
  }

  async abort(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#alone(() => this.#closeFiles());
    const message = { fileId: this.#fileId };
    // If the session is gone, so is the file.
    await this.#session.call(OPS.fileAbort, messages.fileAbort, message).catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }

  async #readNow(target: Uint8Array, position: number): Promise<number> {
    const length = Math.max(0, Math.min(target.byteLength, this.#sizeBytes - position));
    if (length === 0) return 0;
    const wanted = target.subarray(0, length);
    const staged = this.#staged;
    if (staged === undefined) await readLease(this.#base, wanted, position, this.#signal);
    else await readAll(staged.file, wanted, position, staged.tier === 0 && length <= SYNC_BYTES);
    await afterPoll();
    if (!this.#session.alive) throw unreachable('the node went away during this read'); // (I4)
    return length;
  }

  /** A file of its own to write in, with room for this much (I1). */
  async #stage(needBytes: number): Promise<StagedFile> {
    const former = this.#staged;
    if (former?.isWritable === true && needBytes <= former.reservedBytes) return former;
    const message = {
      fileId: this.#fileId,
      reserveBytes: Math.max(needBytes, this.#sizeBytes),
      keepBytes: this.#sizeBytes,
    };
    const answer = await this.#call(OPS.fileStage, messages.fileStage, message);
    const { tier, path, reservedBytes } = answer;
    const isSame = former?.isWritable === true && former.tier === tier && former.path === path;
    if (!isSame) {
      this.#staged = undefined;
      await former?.file.close();
    }
    await closeFiles(this.#base);
    const file = isSame ? former.file : await this.#openStaged(tier, path);
    this.#staged = { file, tier, path, reservedBytes, isWritable: true };
    return this.#staged;
  }

  async #openStaged(tier: 0 | 1 | 2, path: string): Promise<NodeFile> {
    const { files } = this.#session;
    if (files === undefined)
      throw new StoreError('unsupported', "the node's files are not seen here");
    try {
      return await files.open(tier, path, 'r+');
    } catch (thrown) {
      throw fileError(thrown);
    }
  }

  /** Zeros from the end of the file on (I2). */
  async #growTo(file: NodeFile, sizeBytes: number): Promise<void> {
    try {
      await file.truncate(this.#sizeBytes);
      await file.truncate(sizeBytes);
    } catch (thrown) {
      throw fileError(thrown);
    }
    this.#sizeBytes = sizeBytes;
    this.#isDirty = true;
  }

  #noteCrc(source: Uint8Array, at: number): void {
    if (at === this.#crc.bytes) {
      this.#crc.value = crc32c(source, this.#crc.value);
      this.#crc.bytes += source.byteLength;
    } else if (at < this.#crc.bytes) this.#crc.bytes = Number.POSITIVE_INFINITY;
  }

  async #publish(op: number, ack: Ack | undefined): Promise<Published | null> {
    const isKnown = this.#crc.bytes === this.#sizeBytes;
    const message = {
      ...{ fileId: this.#fileId, sizeBytes: this.#sizeBytes, ack },
      crc32c: isKnown && this.#isDirty ? this.#crc.value : undefined,
    };
    const answer = await this.#call(op, messages.fileSync, message);
    if (!answer.published) return null;
    const { version, etag, durability } = answer;
    this.#version = version;
    this.#etag = etag;
    return { version, etag, durability };
  }

  /**
   * Waits for the answer, however long a large copy or tier 2 takes: who gave up would not know whether its files are
   * still its own (I1, I3).
   */
  async #call<Request, Response>(
    op: number,
    codec: CallCodec<Request, Response>,
    message: Request,
  ): Promise<Response> {
    if (this.#signal?.aborted === true) throw abortedError(this.#signal);
    return await this.#session.call(op, codec, message, { timeoutMs: 0 });
  }

  /** After the writes before it and the reads that have begun (I3, I5). */
  async #alone<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#lastWrite.then(async () => {
      await Promise.all(this.#reads);
      return await work();
    });
    this.#lastWrite = run.catch(() => undefined);
    return await run;
  }

  async #closeFiles(): Promise<void> {
    await this.#staged?.file.close();
    this.#staged = undefined;
    await closeFiles(this.#base);
  }

  #assertMode(mode: 'read' | 'write'): void {
    this.#assertOpen();
    if (!this.#flags[mode])
      throw new StoreError('request_invalid', `${this.bucket}/${this.key} is not open to ${mode}`);
  }

  #assertOpen(): void {
    if (this.#isClosed) throw new StoreError('file_not_open', 'this file was closed');
  }
}

function assertPosition(position: number): void {
  if (!Number.isSafeInteger(position) || position < 0)
    throw new StoreError('request_invalid', `${position} is no position in a file`);
}

async function writeAll(
  file: NodeFile,
  source: Uint8Array,
  position: number,
  isShort: boolean,
): Promise<void> {
  try {
    for (let done = 0; done < source.byteLength; ) {
      const length = Math.min(DIRECT_PIECE_BYTES, source.byteLength - done);
      done += isShort
        ? writeSync(file.fd, source, done, length, position + done)
        : (await file.write(source, done, length, position + done)).bytesWritten;
    }
  } catch (thrown) {
    throw fileError(thrown);
  }
}

async function readAll(
  file: NodeFile,
  target: Uint8Array,
  position: number,
  isShort: boolean,
): Promise<void> {
  for (let done = 0; done < target.byteLength; ) {
    const length = target.byteLength - done;
    const got = isShort
      ? readSync(file.fd, target, done, length, position + done)
      : (await file.read(target, done, length, position + done)).bytesRead;
    if (got === 0) throw new StoreError('data_corrupt', 'a file of the node ends too early');
    done += got;
  }
}

function fileError(thrown: unknown): StoreError {
  if (isStoreError(thrown)) return thrown;
  const errno = errorCode(thrown);
  return new StoreError(
    errno === 'ENOSPC' ? 'tier_full' : 'io_failed',
    undefined,
    { errno },
    thrown,
  );
}
