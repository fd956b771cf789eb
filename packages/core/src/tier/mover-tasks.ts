/**
 * What a mover's worker does: one job at a time, with synchronous calls and one buffer. Imports nothing of Ebb that imports
 * more, so that it starts the same from source, from dist and under a test runner.
 *
 * A job's cancel flag lies in shared memory, because a thread that is busy reads no messages.
 */
import {
  closeSync,
  constants,
  fdatasyncSync,
  fstatSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs';
import { crc32c } from '@node-rs/crc32';
import { joinCrc32c, shiftOf } from '../crc32c-join.ts';
import {
  FRAME_BYTES,
  type FrameKey,
  frameLength,
  frameStart,
  openFrame,
  SEALED_FRAME_BYTES,
  sealFrame,
} from '../encryption/frames.ts';
import { type FileIdentity, identityOf } from './file-identity.ts';
import { MoverFailure, type MoverFailureDetails, type MoverFailureKind } from './mover-failure.ts';
import { nodePublishCalls, type PublishCalls, type PublishRequest, publish } from './publish.ts';

export interface MoverWorkerData {
  readonly bufferBytes: number;
  readonly syncEveryBytes: number;
  /** At each place, the number of the job that was told to stop there. */
  readonly cancel: SharedArrayBuffer;
  /** One `bigint`: when the worker last took a step, by `process.hrtime`. */
  readonly lastStep: SharedArrayBuffer;
}

export type MoverTask =
  | {
      readonly kind: 'copy';
      readonly from: string;
      readonly to: string;
      readonly sizeBytes: number;
      readonly fromOffset?: number;
      readonly toOffset?: number;
      /** The file `from` has this one while it is read. */
      readonly etag?: string | undefined;
      readonly sync: boolean;
      /** The directory of `to`: synced after the file. */
      readonly directory?: string;
      /** The CRC32C of each block of so many bytes is wanted too. */
      readonly blockBytes?: number;
    }
  | {
      /** Through encryption: plain or sealed bytes in, plain, sealed or none out. */
      readonly kind: 'convert';
      readonly from: SealableSource;
      readonly to?: SealableTarget;
      readonly sizeBytes: number;
      readonly sync: boolean;
    }
  | {
      readonly kind: 'checksum';
      readonly file: string;
      readonly sizeBytes: number;
      readonly offset?: number;
      readonly blockBytes?: number;
    }
  | { readonly kind: 'populate'; readonly file: string; readonly sizeBytes: number }
  | (PublishRequest & { readonly kind: 'publish'; readonly sizeBytes: number });

/** `offset`: of the plain bytes. A sealed segment begins at `segmentStart` of the file. */
export interface SealableSource {
  readonly file: string;
  readonly offset: number;
  readonly sealed?: FrameKey & { readonly segmentStart: number };
}

/** From the start of the file on. */
export interface SealableTarget {
  readonly file: string;
  readonly sealed?: { readonly key: FrameKey; readonly header: Uint8Array };
}

export interface MoverRequest {
  readonly jobId: number;
  /** Where in `cancel` it is told to stop. No other job that is with the worker has it. */
  readonly place: number;
  readonly task: MoverTask;
}

/** `crc32c` is 0 for a task that computes none, `blocks` empty where none were asked for. */
export interface Sums {
  readonly crc32c: number;
  readonly blocks: readonly number[];
}

export type MoverReply =
  | { readonly jobId: number; readonly sums: Sums; readonly made?: FileIdentity }
  | {
      readonly jobId: number;
      readonly failed: MoverFailureKind;
      readonly message: string;
      readonly errno: string;
      readonly details: MoverFailureDetails;
    };

type TaskOf<K extends MoverTask['kind']> = Extract<MoverTask, { kind: K }>;

const NO_SUMS: Sums = { crc32c: 0, blocks: [] };

export class MoverTasks {
  readonly #bufferBytes: number;
  readonly #syncEveryBytes: number;
  readonly #cancelled: Int32Array;
  readonly #lastStep: BigInt64Array;
  /** Where the job that runs is told to stop. */
  #place = 0;
  readonly #buffer: Buffer;
  readonly #publishCalls: PublishCalls;

  constructor(
    { bufferBytes, syncEveryBytes, cancel, lastStep }: MoverWorkerData,
    publishCalls: PublishCalls = nodePublishCalls,
  ) {
    this.#bufferBytes = bufferBytes;
    this.#syncEveryBytes = syncEveryBytes;
    this.#cancelled = new Int32Array(cancel);
    this.#lastStep = new BigInt64Array(lastStep);
    this.#buffer = Buffer.allocUnsafeSlow(bufferBytes);
    this.#publishCalls = publishCalls;
  }

  answer({ jobId, place, task }: MoverRequest): MoverReply {
    this.#place = place;
    try {
      if (task.kind !== 'publish') return { jobId, sums: this.#run(jobId, task) };
      return { jobId, sums: NO_SUMS, made: this.#publish(jobId, task) };
    } catch (error) {
      const { message, code } = error as Error & { code?: string };
      const { failed, details } = error instanceof MoverFailure ? error : UNKNOWN_FAILURE;
      return { jobId, failed, message, errno: code ?? '', details };
    }
  }

  #run(jobId: number, task: Exclude<MoverTask, { kind: 'publish' }>): Sums {
    if (task.kind === 'copy') return this.#copy(jobId, task);
    if (task.kind === 'checksum') return this.#checksum(jobId, task);
    if (task.kind === 'convert') return { crc32c: this.#convert(jobId, task), blocks: [] };
    this.#populate(jobId, task.file, task.sizeBytes);
    return NO_SUMS;
  }

  #publish(jobId: number, task: TaskOf<'publish'>): FileIdentity {
    return publish(task, this.#publishCalls, {
      copyRun: ({ file, offset, length, etag }, fd, at) =>
        withSource(file, (from) => {
          const run = { file, offset, sizeBytes: length };
          return whileUnchanged(
            { fd: from, file, etag },
            () => this.#copyThrough(jobId, from, run, { fd, at, sync: true }).crc32c,
          );
        }),
      stopIfCancelled: () => this.#stopIfCancelled(jobId),
    });
  }

  #copy(jobId: number, task: TaskOf<'copy'>): Sums {
    const { sizeBytes, fromOffset = 0, toOffset = 0, blockBytes, directory, sync, etag } = task;
    const run = { file: task.from, offset: fromOffset, sizeBytes, blockBytes };
    const sums = withSource(task.from, (from) =>
      withFile(task.to, constants.O_WRONLY, (fd) => {
        const copied = whileUnchanged({ fd: from, file: task.from, etag }, () =>
          this.#copyThrough(jobId, from, run, { fd, at: toOffset, sync }),
        );
        if (sync) fdatasyncSync(fd);
        return copied;
      }),
    );
    if (directory !== undefined) nodePublishCalls.syncDirectory(directory);
    return sums;
  }

  /** With `sync` what is written goes out now and then, and not all of it at the end. */
  #copyThrough(
    jobId: number,
    from: number,
    run: Run,
    to: { readonly fd: number; readonly at: number; readonly sync: boolean },
  ): Sums {
    let unsyncedBytes = 0;
    return this.#readThrough(jobId, from, run, (chunk, at) => {
      writeAll(to.fd, chunk, to.at + at);
      unsyncedBytes += chunk.length;
      if (!to.sync || unsyncedBytes < this.#syncEveryBytes) return;
      fdatasyncSync(to.fd);
      unsyncedBytes = 0;
    });
  }

  #convert(jobId: number, task: Extract<MoverTask, { kind: 'convert' }>): number {
    const { from, to, sizeBytes, sync } = task;
    return withSource(from.file, (source) => {
      const read = (use: (chunk: Uint8Array, at: number) => void): number =>
        from.sealed === undefined
          ? this.#readThrough(jobId, source, { ...from, sizeBytes }, use).crc32c
          : this.#openThrough(jobId, source, { ...from, sealed: from.sealed, sizeBytes }, use);
      if (to === undefined) return read(() => undefined);
      return withFile(to.file, constants.O_WRONLY, (target) => {
        const { sealed } = to;
        const crc =
          sealed === undefined
            ? read((chunk, at) => writeAll(target, chunk, at))
            : sealThrough(target, sealed, read);
        if (sync) fdatasyncSync(target);
        return crc;
      });
    });
  }

  /** As readThrough, of the plain bytes of a sealed segment. What `use` writes may be the same file, further ahead. */
  #openThrough(
    jobId: number,
    fd: number,
    run: SealableSource & {
      readonly sealed: NonNullable<SealableSource['sealed']>;
      readonly sizeBytes: number;
    },
    use: (chunk: Uint8Array, at: number) => void,
  ): number {
    const { file, offset, sizeBytes, sealed } = run;
    const end = offset + sizeBytes;
    const frame = Buffer.alloc(SEALED_FRAME_BYTES);
    let crc = 0;
    for (let index = Math.floor(offset / FRAME_BYTES); index * FRAME_BYTES < end; index++) {
      this.#stopIfCancelled(jobId);
      const length = frameLength(sealed, index) + SEALED_FRAME_BYTES - FRAME_BYTES;
      const at = sealed.segmentStart + frameStart(index);
      for (let done = 0; done < length; ) {
        const got = readSync(fd, frame, done, length - done, at + done);
        if (got === 0) throw new MoverFailure('short', `${file} ends within frame ${index}`);
        done += got;
      }
      const plain = openFrame(sealed, index, frame);
      if (plain === undefined)
        throw new MoverFailure('damaged', `${file}: frame ${index} does not open`);
      const start = index * FRAME_BYTES;
      const from = Math.max(start, offset);
      const chunk = plain.subarray(from - start, Math.min(end - start, plain.length));
      crc = crc32c(chunk, crc);
      use(chunk, from - offset);
    }
    this.#stopIfCancelled(jobId);
    return crc;
  }

  #checksum(jobId: number, task: Extract<MoverTask, { kind: 'checksum' }>): Sums {
    const run = { offset: 0, ...task };
    return withSource(task.file, (fd) => this.#readThrough(jobId, fd, run, () => undefined));
  }

  #populate(jobId: number, file: string, sizeBytes: number): void {
    this.#buffer.fill(0);
    withFile(file, constants.O_WRONLY, (fd) => {
      for (let at = 0; at < sizeBytes; at += this.#bufferBytes) {
        this.#stopIfCancelled(jobId);
        writeAll(fd, this.#buffer.subarray(0, Math.min(this.#bufferBytes, sizeBytes - at)), at);
      }
    });
  }

  /** Returns the checksums of the run. `use` gets pieces of it, and where they begin in it. */
  #readThrough(
    jobId: number,
    fd: number,
    run: Run,
    use: (chunk: Uint8Array, at: number) => void,
  ): Sums {
    const { file, offset, sizeBytes, blockBytes = sizeBytes } = run;
    const blocks = new BlockSums(blockBytes);
    let at = 0;
    while (at < sizeBytes) {
      this.#stopIfCancelled(jobId);
      const got = readSync(
        fd,
        this.#buffer,
        0,
        Math.min(this.#bufferBytes, sizeBytes - at),
        offset + at,
      );
      if (got === 0)
        throw new MoverFailure('short', `${file} ends at ${offset + at} of ${offset + sizeBytes}`);
      const chunk = this.#buffer.subarray(0, got);
      blocks.add(chunk);
      this.#stopIfCancelled(jobId); // whoever gave up during a long read may use the target again
      use(chunk, at);
      at += got;
    }
    this.#stopIfCancelled(jobId);
    return blocks.end();
  }

  /** Between two steps, each a call of the file system or a few. */
  #stopIfCancelled(jobId: number): void {
    Atomics.store(this.#lastStep, 0, process.hrtime.bigint());
    if (Atomics.load(this.#cancelled, this.#place) === jobId)
      throw new MoverFailure('aborted', 'stopped half-way');
  }
}

const UNKNOWN_FAILURE = { failed: 'errno', details: {} } as const;

interface Run {
  readonly file: string;
  readonly offset: number;
  readonly sizeBytes: number;
  readonly blockBytes?: number | undefined;
}

/** Writes what `read` gives as frames; those that come in pieces are put together first. */
function sealThrough(
  fd: number,
  { key, header }: NonNullable<SealableTarget['sealed']>,
  read: (use: (chunk: Uint8Array) => void) => number,
): number {
  const frame = Buffer.alloc(FRAME_BYTES);
  const target = Buffer.alloc(SEALED_FRAME_BYTES);
  let filled = 0;
  let index = 0;
  writeAll(fd, header, 0);
  return read((chunk) => {
    for (let at = 0; at < chunk.length; ) {
      const length = frameLength(key, index);
      const piece = chunk.subarray(at, at + length - filled);
      frame.set(piece, filled);
      filled += piece.length;
      at += piece.length;
      if (filled < length) return;
      const plain = frame.subarray(0, length);
      writeAll(fd, sealFrame(key, index, { plain, target }), frameStart(index));
      filled = 0;
      index++;
    }
  });
}

/** Checksums of blocks. That of all comes of them: joining two takes less than a microsecond, and no byte is looked at twice. */
class BlockSums {
  readonly #blockBytes: number;
  readonly #shift: number;
  readonly #sums: number[] = [];
  #crc32c = 0;
  #block = 0;
  #blockFilled = 0;

  constructor(blockBytes: number) {
    this.#blockBytes = blockBytes;
    this.#shift = shiftOf(blockBytes);
  }

  add(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length; ) {
      const part = chunk.subarray(at, at + this.#blockBytes - this.#blockFilled);
      this.#block = crc32c(part, this.#block);
      this.#blockFilled += part.length;
      at += part.length;
      if (this.#blockFilled === this.#blockBytes) this.#endBlock(this.#shift);
    }
  }

  end(): Sums {
    if (this.#blockFilled > 0) this.#endBlock(shiftOf(this.#blockFilled));
    return { crc32c: this.#crc32c, blocks: this.#sums };
  }

  #endBlock(shift: number): void {
    this.#crc32c = joinCrc32c(this.#crc32c, this.#block, shift);
    this.#sums.push(this.#block);
    this.#block = 0;
    this.#blockFilled = 0;
  }
}

function writeAll(fd: number, chunk: Uint8Array, at: number): void {
  for (let done = 0; done < chunk.length; ) {
    done += writeSync(fd, chunk, done, chunk.length - done, at + done);
  }
}

function withSource<T>(file: string, work: (fd: number) => T): T {
  try {
    return withFile(file, constants.O_RDONLY, work);
  } catch (error) {
    const { code, path } = error as Error & { code?: string; path?: string };
    if (code === 'ENOENT' && path === file) throw new MoverFailure('missing', `no file ${file}`);
    throw error;
  }
}

/** Others may write in place, so it is compared again after the last byte, and where the file turned out to be shorter. */
function whileUnchanged<T>(
  { fd, file, etag }: { fd: number; file: string; etag: string | undefined },
  work: () => T,
): T {
  if (etag === undefined) return work();
  assertEtag(fd, file, etag);
  try {
    return work();
  } finally {
    assertEtag(fd, file, etag);
  }
}

function assertEtag(fd: number, file: string, expected: string): void {
  const found = identityOf(fstatSync(fd, { bigint: true })).etag;
  if (found === expected) return;
  throw new MoverFailure('replaced', `${file} was replaced`, { source: file, expected, found });
}

/** What others can put into tier 2 as a directory is opened here, too: a link is not followed, and a pipe keeps nobody waiting. */
function withFile<T>(file: string, flags: number, work: (fd: number) => T): T {
  const fd = openSync(file, flags | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    if (!fstatSync(fd).isFile()) throw new MoverFailure('missing', `${file} is no plain file`);
    return work(fd);
  } finally {
    closeSync(fd);
  }
}
