/**
 * Writes one staged file, node-local or through the node, and hands over what a commit needs.
 *
 * Bytes are appended. Small chunks are gathered in pooled pieces, of which PIECES_INFLIGHT are under way at a time; large
 * ones are written from where they are. CRC32C is computed on this thread while the kernel copies on another.
 *
 * I1  Bytes are written only within the reservation: `extend` comes first. Beyond it a tmpfs answers with a signal or ENOSPC.
 * I2  When tier 0 has no more room, the write moves: staged anew on tier 1, what is written is copied, the first one is
 *     aborted. Callers notice only by `tier`.
 * I3  A buffer given to `write` belongs to its caller again when `write` resolves.
 * I4  After a failure the writer only aborts. A writer that is disposed without a commit aborts.
 * I5  All calls go through the session that staged the file (frame-connection.ts, I3).
 */
import { closeSync, writeSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { assert, isStoreError, messages, OPS, StoreError, type TierIndex } from '@ebb/protocol';
import { crc32c } from '@node-rs/crc32';
import { errorCode, toStoreError, unreachable } from './errors.ts';
import type { FrameSession } from './frame-connection.ts';
import {
  DIRECT_BYTES,
  DIRECT_PIECE_BYTES,
  PIECE_BYTES,
  PIECES_INFLIGHT,
  RESERVE_FIRST_BYTES,
  RESERVE_STEP_BYTES_MAX,
  SYNC_BYTES,
} from './limits.ts';
import type { LocalFiles, NodeFileMode } from './local-files.ts';
import { givePiece, takePiece } from './piece-pool.ts';
import { abortedError } from './retry.ts';

/** Asks the node for a staged file: by `stage`, `mapStage`, or what a feature has. */
export type StageCall = (request: {
  readonly reserveBytes: number;
  /** 0, 1 or TIER_BY_POLICY. */
  readonly tier: number;
}) => Promise<{ readonly session: FrameSession; readonly staged: messages.StagedResponse }>;

export interface StagedWriterOptions {
  /** What is known of the size; more is reserved on the way. */
  readonly reserveBytes?: number | undefined;
  /** 0, 1 or TIER_BY_POLICY (default). */
  readonly tier?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a commit call needs. The session is the one to commit on. */
export interface SealedWrite {
  readonly session: FrameSession;
  readonly writeId: number;
  readonly sizeBytes: number;
  readonly crc32c: number;
  readonly tier: TierIndex;
}

export interface StagedFile extends AsyncDisposable {
  readonly writeId: number;
  readonly tier: TierIndex;
  /** Identifies the underlying file across recycling; 0: never recycled. */
  readonly slotId: number;
  /** Absolute path, for callers that map the file themselves; undefined when it is not visible here. */
  readonly path: string | undefined;
  readonly sizeBytes: number;
  readonly reservedBytes: number;
  /** Appends. One call at a time. */
  write(chunk: Uint8Array): Promise<void>;
  /** Makes sure that this much may be written in all. May move the write to tier 1. */
  extend(reserveBytes: number): Promise<void>;
  /** Writes out what is gathered and closes the file; only a commit or `abort` may follow. */
  seal(): Promise<SealedWrite>;
  /** Tells the writer that the commit was done: disposing no longer aborts. */
  settled(): void;
  /** Throws the staged bytes away. Aborting twice, or after `settled`, does nothing. */
  abort(): Promise<void>;
}

const TIER_DISK = 1;

export async function openStagedFile(
  stage: StageCall,
  options: StagedWriterOptions & { readonly tierByPolicy: number },
): Promise<StagedFile> {
  const reserveBytes = options.reserveBytes ?? RESERVE_FIRST_BYTES;
  const { session, staged } = await stage({
    reserveBytes,
    tier: options.tier ?? options.tierByPolicy,
  });
  return new Writer(stage, session, staged, options.signal);
}

type State = 'open' | 'failed' | 'sealed' | 'settled' | 'aborted';

class Writer implements StagedFile {
  readonly #stage: StageCall;
  readonly #signal: AbortSignal | undefined;
  readonly #session: FrameSession;
  #staged: messages.StagedResponse;
  #reservedBytes: number;
  #file: FileHandle | undefined;
  /** The node's file could not be opened here: bytes go through the node. */
  #throughNode: boolean;

  #state: State = 'open';
  #busy = false;
  /** Accepted from the caller, and covered by #crc up to #placedBytes. */
  #sizeBytes = 0;
  /** Handed to the file or the node. */
  #placedBytes = 0;
  #crc = 0;
  #gathered: Buffer | undefined;
  #gatheredBytes = 0;
  readonly #inflight = new Set<Promise<void>>();
  #failure: unknown;

  constructor(
    stage: StageCall,
    session: FrameSession,
    staged: messages.StagedResponse,
    signal: AbortSignal | undefined,
  ) {
    this.#stage = stage;
    this.#session = session;
    this.#staged = staged;
    this.#reservedBytes = staged.reservedBytes;
    this.#signal = signal;
    this.#throughNode = session.files === undefined;
  }

  get writeId(): number {
    return this.#staged.writeId;
  }
  get tier(): TierIndex {
    return this.#staged.tier;
  }
  get slotId(): number {
    return this.#staged.slotId;
  }
  get path(): string | undefined {
    return this.#session.files?.path(this.#staged.tier, this.#staged.path);
  }
  get sizeBytes(): number {
    return this.#sizeBytes;
  }
  get reservedBytes(): number {
    return this.#reservedBytes;
  }

  async write(chunk: Uint8Array): Promise<void> {
    if (chunk.byteLength === 0) return;
    await this.#alone(async () => {
      this.#sizeBytes += chunk.byteLength;
      if (chunk.byteLength < DIRECT_BYTES) await this.#gather(chunk);
      else await this.#writeDirect(chunk);
    });
  }

  async extend(reserveBytes: number): Promise<void> {
    await this.#alone(() => this.#reserve(reserveBytes));
  }

  async seal(): Promise<SealedWrite> {
    await this.#alone(async () => {
      if (this.#placedBytes === 0 && this.#fitsSync()) this.#writeOnlySync();
      else await this.#flush();
      await this.#settleInflight(0);
      await this.#closeFile();
    });
    assert(this.#placedBytes === this.#sizeBytes, 'all accepted bytes are placed at the seal');
    this.#state = 'sealed';
    this.#dropGathered();
    return {
      session: this.#session,
      writeId: this.#staged.writeId,
      sizeBytes: this.#sizeBytes,
      crc32c: this.#crc,
      tier: this.#staged.tier,
    };
  }

  settled(): void {
    this.#state = 'settled';
  }

  async abort(): Promise<void> {
    if (this.#state === 'settled' || this.#state === 'aborted') return;
    this.#state = 'aborted';
    await Promise.allSettled(this.#inflight);
    this.#dropGathered();
    await this.#closeFile();
    const { writeId } = this.#staged;
    // If the session is gone, so is the staged write; any other failure leaves it to its deadline.
    await this.#session.call(OPS.abort, messages.abort, { writeId }).catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.abort();
  }

  /** One operation at a time; the first failure is final (I4). */
  async #alone(work: () => Promise<void>): Promise<void> {
    assert(!this.#busy, 'one call at a time on a staged writer');
    if (this.#state !== 'open') {
      throw new StoreError(
        'write_not_found',
        `this staged write is ${this.#state}`,
        {},
        this.#failure,
      );
    }
    this.#busy = true;
    try {
      if (this.#signal?.aborted === true) throw abortedError(this.#signal);
      await work();
    } catch (error) {
      this.#state = 'failed';
      this.#failure = error;
      await Promise.allSettled(this.#inflight);
      throw error;
    } finally {
      this.#busy = false;
    }
  }

  async #gather(chunk: Uint8Array): Promise<void> {
    let taken = 0;
    while (taken < chunk.byteLength) {
      this.#gathered ??= takePiece();
      const part = chunk.subarray(taken, taken + PIECE_BYTES - this.#gatheredBytes);
      this.#gathered.set(part, this.#gatheredBytes);
      this.#gatheredBytes += part.byteLength;
      taken += part.byteLength;
      if (this.#gatheredBytes === PIECE_BYTES) await this.#flush();
    }
  }

  /** Starts writing the gathered piece; it returns to the pool when it was written. */
  async #flush(): Promise<void> {
    const piece = this.#gathered;
    if (piece === undefined || this.#gatheredBytes === 0) return;
    const bytes = piece.subarray(0, this.#gatheredBytes);
    this.#gathered = undefined;
    this.#gatheredBytes = 0;
    await this.#place(bytes, () => givePiece(piece));
  }

  async #writeDirect(chunk: Uint8Array): Promise<void> {
    await this.#flush();
    await this.#reserveFor(chunk.byteLength);
    if (!this.#throughNode && this.#file === undefined) await this.#openFile();
    const pieceBytes = this.#throughNode ? PIECE_BYTES : DIRECT_PIECE_BYTES;
    for (let at = 0; at < chunk.byteLength; at += pieceBytes) {
      if (this.#signal?.aborted === true) throw abortedError(this.#signal);
      if (!this.#throughNode) await this.#settleInflight(0);
      await this.#place(chunk.subarray(at, at + pieceBytes));
    }
    await this.#settleInflight(0); // the chunk is the caller's again (I3)
  }

  /** Starts one positional write, and computes the checksum while it runs. */
  async #place(bytes: Uint8Array, done?: () => void): Promise<void> {
    // A file whose session is gone may already serve someone else.
    if (!this.#session.alive) throw unreachable('the node went away during this write');
    await this.#reserveFor(bytes.byteLength);
    await this.#settleInflight(PIECES_INFLIGHT - 1);
    if (!this.#throughNode && this.#file === undefined) await this.#openFile();
    const position = this.#placedBytes;
    this.#placedBytes += bytes.byteLength;
    const written = this.#writeAt(bytes, position)
      .catch((error: unknown) => {
        this.#failure ??= error;
      })
      .finally(() => {
        this.#inflight.delete(written);
        done?.();
      });
    this.#inflight.add(written);
    this.#crc = crc32c(bytes, this.#crc);
  }

  async #writeAt(bytes: Uint8Array, position: number): Promise<void> {
    if (this.#file === undefined) {
      const data = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const message = { writeId: this.#staged.writeId, offset: position, data };
      await this.#session.call(OPS.write, messages.write, message, { signal: this.#signal });
      return;
    }
    let done = 0;
    while (done < bytes.byteLength) {
      const { bytesWritten } = await this.#file.write(
        bytes,
        done,
        bytes.byteLength - done,
        position + done,
      );
      done += bytesWritten;
    }
  }

  /** Waits until at most `left` writes are under way. A write that met the end of tier 0 is done again on tier 1. */
  async #settleInflight(left: number): Promise<void> {
    while (this.#inflight.size > left) await Promise.race(this.#inflight);
    if (this.#failure !== undefined) throw translateFileError(this.#failure, this.#staged);
  }

  #fitsSync(): boolean {
    return (
      this.#gatheredBytes > 0 &&
      this.#gatheredBytes <= SYNC_BYTES &&
      this.#gatheredBytes <= this.#reservedBytes &&
      this.#staged.tier === 0 &&
      !this.#throughNode
    );
  }

  #writeOnlySync(): void {
    const bytes = (this.#gathered as Buffer).subarray(0, this.#gatheredBytes);
    writeFileSync(this.#files, bytes, this.#staged);
    this.#crc = crc32c(bytes);
    this.#placedBytes = bytes.byteLength;
  }

  async #reserveFor(bytes: number): Promise<void> {
    if (this.#throughNode) return; // the node reserves as it takes the bytes
    const needBytes = this.#placedBytes + bytes;
    if (needBytes <= this.#reservedBytes) return;
    const step = Math.min(
      Math.max(this.#reservedBytes, RESERVE_FIRST_BYTES),
      RESERVE_STEP_BYTES_MAX,
    );
    await this.#reserve(Math.max(needBytes, this.#reservedBytes + step), needBytes);
  }

  /** Reserves what is wished, or else what is needed; moves to tier 1 when tier 0 has neither (I2). */
  async #reserve(wishedBytes: number, neededBytes = wishedBytes): Promise<void> {
    for (const reserveBytes of new Set([wishedBytes, neededBytes])) {
      if (reserveBytes <= this.#reservedBytes) return;
      try {
        const message = { writeId: this.#staged.writeId, reserveBytes };
        const options = { signal: this.#signal };
        const answer = await this.#session.call(OPS.extend, messages.extend, message, options);
        this.#reservedBytes = answer.reservedBytes;
        return;
      } catch (error) {
        if (!isStoreError(error, 'tier_full')) throw error;
        if (this.#throughNode) return; // a hint only: the node moves the write itself
        if (reserveBytes > neededBytes) continue;
        if (this.#staged.tier !== 0) throw error;
      }
    }
    await this.#moveToDisk(neededBytes);
  }

  async #moveToDisk(reserveBytes: number): Promise<void> {
    await this.#settleInflight(0);
    const from = this.#staged;
    const { session, staged } = await this.#stage({ reserveBytes, tier: TIER_DISK });
    if (session !== this.#session) {
      throw unreachable('the node was restarted during this write');
    }
    const source = this.#file ?? (this.#placedBytes > 0 ? await this.#openStaged('r') : undefined);
    this.#staged = staged;
    this.#reservedBytes = staged.reservedBytes;
    this.#file = undefined;
    try {
      await this.#openFile();
      if (source !== undefined) await this.#copyFrom(source);
    } finally {
      await source?.close();
      session.send(OPS.abort, messages.abort, { writeId: from.writeId });
    }
  }

  async #copyFrom(source: FileHandle): Promise<void> {
    const piece = takePiece();
    try {
      for (let at = 0; at < this.#placedBytes; ) {
        const wanted = Math.min(PIECE_BYTES, this.#placedBytes - at);
        const { bytesRead } = await source.read(piece, 0, wanted, at);
        assert(bytesRead > 0, 'a staged file holds what was written to it');
        await this.#writeAt(piece.subarray(0, bytesRead), at);
        at += bytesRead;
      }
    } finally {
      givePiece(piece);
    }
  }

  async #openFile(): Promise<void> {
    try {
      this.#file = await this.#openStaged('r+');
    } catch (thrown) {
      const code = errorCode(thrown);
      if (code !== 'EACCES' && code !== 'ENOENT' && code !== 'EPERM') throw thrown;
      if (this.#placedBytes > 0) throw translateFileError(thrown, this.#staged);
      this.#throughNode = true;
    }
  }

  async #openStaged(mode: NodeFileMode): Promise<FileHandle> {
    return await this.#files.open(this.#staged.tier, this.#staged.path, mode);
  }

  get #files(): LocalFiles {
    const { files } = this.#session;
    assert(files !== undefined, 'only a client that sees the files opens them');
    return files;
  }

  async #closeFile(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    await file?.close();
  }

  #dropGathered(): void {
    if (this.#gathered !== undefined) givePiece(this.#gathered);
    this.#gathered = undefined;
    this.#gatheredBytes = 0;
  }
}

/** A whole small file on tmpfs, without the thread pool. @throws {StoreError} `tier_full`, `io_failed` */
export function writeFileSync(
  files: LocalFiles,
  bytes: Uint8Array,
  staged: messages.StagedResponse,
): void {
  try {
    const fd = files.openSync(staged.tier, staged.path, 'r+');
    try {
      let done = 0;
      while (done < bytes.byteLength) {
        done += writeSync(fd, bytes, done, bytes.byteLength - done, done);
      }
    } finally {
      closeSync(fd);
    }
  } catch (thrown) {
    throw translateFileError(thrown, staged);
  }
}

function translateFileError(thrown: unknown, staged: messages.StagedResponse): Error {
  const code = errorCode(thrown);
  const details = { tier: staged.tier, path: staged.path, errno: code };
  if (code === 'ENOSPC') return new StoreError('tier_full', undefined, details, thrown);
  if (/^E[A-Z0-9]+$/.test(code)) return new StoreError('io_failed', undefined, details, thrown);
  return toStoreError(thrown);
}
