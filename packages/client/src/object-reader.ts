/**
 * Reads an open object version, by position. Node-local: `pread` on the node's files under a lease; what lies in tier 2
 * only, or cannot be opened here, is fetched by `read` frames. Otherwise: HTTP ranges.
 *
 * I1  One version: bytes of two versions are never mixed. When the node was restarted in between, the object is opened
 *     again and must still be at that version, else `precondition_failed`.
 * I2  Bytes count only if the lease still held when they had arrived: after the end of a session a file may be recycled.
 *     So the event loop looks at its sockets once more between the last byte and this judgement (`afterPoll`).
 * I3  `read` fills the target up to the end of the object, and returns 0 only at the end. A byte is a byte, 0xFF too.
 * I4  Positional reads may run in parallel. `close` waits for them and gives the lease back.
 */
import { readSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import {
  assert,
  type ExtentLocation,
  isStoreError,
  messages,
  OPS,
  READ_BYTES_MAX,
  StoreError,
} from '@ebb/protocol';
import { errorCode, unreachable } from './errors.ts';
import type { FrameConnection, FrameSession } from './frame-connection.ts';
import type { HttpClient } from './http-client.ts';
import { PIECE_BYTES } from './limits.ts';
import { changedWhileRead, type ObjectRef, type OpenInfo } from './object-info.ts';
import { abortedError, type RetryPolicy, withRetry } from './retry.ts';

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined;
}

/** An open version of an object. It stays readable while the handle is open, whatever happens to the name. */
export interface ObjectHandle extends AsyncDisposable {
  readonly info: OpenInfo;
  /** Fills `target` from `position`; returns the bytes read: fewer than asked for only at the end of the object. */
  read(target: Uint8Array, position: number, options?: ReadOptions): Promise<number>;
  close(): Promise<void>;
}

export async function openLocalObject(
  connection: FrameConnection,
  ref: ObjectRef,
  options: { readonly retry: RetryPolicy; readonly signal?: AbortSignal | undefined },
): Promise<ObjectHandle> {
  const opened = await withRetry(
    { policy: options.retry, idempotent: true, signal: options.signal },
    () => openLease(connection, ref, options.signal),
  );
  return new LocalHandle(connection, ref, opened, options.retry);
}

/** What positional reads of a version need; file-handle.ts reads open files by it too. */
export interface Lease {
  readonly session: FrameSession;
  readonly opened: Pick<messages.OpenResponse, 'extents'>;
  /** Open files by path; null: cannot be opened here. */
  readonly files: Map<string, Promise<FileHandle | null>>;
}

interface ObjectLease extends Lease {
  readonly opened: messages.OpenResponse;
}

async function openLease(
  connection: FrameConnection,
  ref: ObjectRef,
  signal: AbortSignal | undefined,
): Promise<ObjectLease> {
  const session = await connection.session(signal);
  const opened = await session.call(OPS.open, messages.open, ref, {
    signal,
    undo: (late) => session.send(OPS.release, messages.release, { leaseIds: [late.leaseId] }),
  });
  const extentBytes = opened.extents.reduce((sum, extent) => sum + extent.length, 0);
  assert(extentBytes === opened.sizeBytes, 'the extents of an object cover it');
  return { session, opened, files: new Map() };
}

class LocalHandle implements ObjectHandle {
  readonly info: OpenInfo;
  readonly #connection: FrameConnection;
  readonly #ref: ObjectRef;
  readonly #retry: RetryPolicy;
  #lease: ObjectLease;
  #reopening: Promise<void> | undefined;
  #closed = false;
  readonly #running = new Set<Promise<number>>();

  constructor(connection: FrameConnection, ref: ObjectRef, lease: ObjectLease, retry: RetryPolicy) {
    this.#connection = connection;
    this.#ref = ref;
    this.#retry = retry;
    this.#lease = lease;
    const { version, etag, sizeBytes } = lease.opened;
    this.info = { bucket: ref.bucket, key: ref.key, version, etag, sizeBytes };
  }

  async read(target: Uint8Array, position: number, options: ReadOptions = {}): Promise<number> {
    if (this.#closed) throw new StoreError('lease_not_found', 'this handle was closed');
    const length = readableBytes(target.byteLength, position, this.info.sizeBytes);
    if (length === 0) return 0;
    const run = this.#readRetried(target.subarray(0, length), position, options.signal);
    this.#running.add(run);
    try {
      return await run;
    } finally {
      this.#running.delete(run);
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.allSettled(this.#running);
    await this.#giveBack(this.#lease);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #readRetried(target: Uint8Array, position: number, signal?: AbortSignal): Promise<number> {
    if (this.#lease.session.alive) {
      const lease = this.#lease;
      try {
        await readLease(lease, target, position, signal);
        await afterPoll();
        if (lease.session.alive) return target.byteLength; // (I2)
      } catch (error) {
        if (lease.session.alive) throw error;
      }
    }
    return await withRetry({ policy: this.#retry, idempotent: true, signal }, async () => {
      if (!this.#lease.session.alive) await this.#reopened(signal);
      const lease = this.#lease;
      await readLease(lease, target, position, signal);
      await afterPoll();
      if (!lease.session.alive) throw unreachable('the node went away during this read');
      return target.byteLength;
    });
  }

  /** Parallel reads share one re-opening. */
  async #reopened(signal: AbortSignal | undefined): Promise<void> {
    this.#reopening ??= this.#reopen(signal).finally(() => {
      this.#reopening = undefined;
    });
    await this.#reopening;
  }

  async #reopen(signal: AbortSignal | undefined): Promise<void> {
    const lost = this.#lease;
    const lease = await openLease(this.#connection, this.#ref, signal);
    if (lease.opened.version !== this.info.version) {
      await this.#giveBack(lease);
      throw changedWhileRead(this.info, lease.opened.version);
    }
    this.#lease = lease;
    await closeFiles(lost);
  }

  async #giveBack(lease: ObjectLease): Promise<void> {
    await closeFiles(lease);
    lease.session.send(OPS.release, messages.release, { leaseIds: [lease.opened.leaseId] });
  }
}

/** How many bytes a read gets. @throws {StoreError} `range_invalid` */
function readableBytes(wanted: number, position: number, sizeBytes: number): number {
  if (!Number.isSafeInteger(position) || position < 0) {
    throw new StoreError('range_invalid', `${position} is no position in an object`);
  }
  return Math.max(0, Math.min(wanted, sizeBytes - position));
}

/** Fills the target, which lies within the object. */
export async function readLease(
  lease: Lease,
  target: Uint8Array,
  position: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  let extentStart = 0;
  let done = 0;
  for (const extent of lease.opened.extents) {
    const from = position + done - extentStart;
    extentStart += extent.length;
    if (from >= extent.length) continue;
    const part = target.subarray(done, done + extent.length - from);
    await readExtent(lease, extent, part, extent.offset + from, signal);
    done += part.byteLength;
    if (done === target.byteLength) return;
  }
  assert(done === target.byteLength, 'the range lies within the extents');
}

async function readExtent(
  lease: Lease,
  extent: ExtentLocation,
  target: Uint8Array,
  position: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const file = await openExtent(lease, extent);
  if (file === null) {
    await readThroughNode(lease.session, extent.blobId, target, position, signal);
    return;
  }
  // A copy out of tmpfs is shorter than a trip to the thread pool; a disk may take its time.
  const inMemory = extent.tier === 0;
  for (let done = 0; done < target.byteLength; ) {
    if (signal?.aborted === true) throw abortedError(signal);
    const wanted = Math.min(PIECE_BYTES, target.byteLength - done);
    const bytesRead = inMemory
      ? readSync(file.fd, target, done, wanted, position + done)
      : (await file.read(target, done, wanted, position + done)).bytesRead;
    if (inMemory && done + bytesRead < target.byteLength) await nextTurn();
    if (bytesRead === 0) {
      throw new StoreError('data_corrupt', 'a file of the node ends too early', {
        path: extent.path,
        position: position + done,
      });
    }
    done += bytesRead;
  }
}

/** Lets others run between two synchronous reads. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** The first turn may still belong to the poll that is going on; before the second there was a whole one. */
export function afterPoll(): Promise<void> {
  return new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
}

export async function openExtent(lease: Lease, extent: ExtentLocation): Promise<FileHandle | null> {
  const { files } = lease.session;
  if (extent.path === '' || extent.tier === 2 || files === undefined) return null;
  let opening = lease.files.get(extent.path);
  if (opening === undefined) {
    opening = files.open(extent.tier, extent.path, 'r').catch((thrown: unknown) => {
      const code = errorCode(thrown);
      if (code === 'ENOENT' || code === 'EACCES' || code === 'EPERM') return null;
      if (isStoreError(thrown)) throw thrown;
      throw new StoreError('io_failed', undefined, { path: extent.path, errno: code }, thrown);
    });
    lease.files.set(extent.path, opening);
  }
  return await opening;
}

async function readThroughNode(
  session: FrameSession,
  blobId: number,
  target: Uint8Array,
  position: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (let done = 0; done < target.byteLength; ) {
    const length = Math.min(READ_BYTES_MAX, target.byteLength - done);
    const message = { ranges: [{ blobId, offset: position + done, length }] };
    const { data } = await session.call(OPS.read, messages.read, message, { signal });
    assert(data.length === length, 'the node answers with exactly the bytes asked for');
    target.set(data, done);
    done += length;
  }
}

export async function closeFiles(lease: Lease): Promise<void> {
  const opened = await Promise.allSettled(lease.files.values());
  lease.files.clear();
  for (const file of opened) {
    if (file.status === 'fulfilled') await file.value?.close();
  }
}

/** The same over HTTP: each read is a range request that must meet the same version. */
export async function openHttpObject(
  http: HttpClient,
  ref: ObjectRef,
  options: ReadOptions,
): Promise<ObjectHandle> {
  const info = await http.headOpen(ref, options.signal);
  let closed = false;
  const close = async (): Promise<void> => {
    closed = true;
  };
  return {
    info,
    async read(target, position, readOptions = {}) {
      if (closed) throw new StoreError('lease_not_found', 'this handle was closed');
      const length = readableBytes(target.byteLength, position, info.sizeBytes);
      if (length === 0) return 0;
      const range = { offset: position, length };
      let done = 0;
      for await (const chunk of http.body(info, range, readOptions.signal)) {
        target.set(chunk, done);
        done += chunk.byteLength;
      }
      assert(done === length, 'a body has the length it announced');
      return done;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
