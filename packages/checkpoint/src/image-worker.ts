/**
 * Reads images beside the main thread: digests of their blocks, and blocks copied into a data object. It runs at the lowest
 * priority that the system gives to a thread, since the processors belong to the training job.
 */
import { closeSync, constants, openSync, readSync, writeSync } from 'node:fs';
import { constants as osConstants, setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { crc32c } from '@node-rs/crc32';
import { DIGEST_BYTES, digestOf } from './digest.ts';

export type ImageTask =
  | {
      readonly kind: 'digest';
      readonly file: string;
      readonly imageBytes: number;
      readonly blockBytes: number;
    }
  | {
      /** Joins pieces of one file in another, from its start on. */
      readonly kind: 'gather';
      readonly file: string;
      readonly to: string;
      readonly pieces: readonly { readonly offset: number; readonly length: number }[];
    };

export interface ImageRequest {
  readonly taskId: number;
  readonly task: ImageTask;
}
export type ImageReply =
  | { readonly taskId: number; readonly digests: Uint8Array }
  | { readonly taskId: number; readonly crc32c: number }
  | { readonly taskId: number; readonly errno: string; readonly message: string };

const COPY_BYTES = 1024 * 1024;

/** Of this thread alone, on Linux; elsewhere of the process, so it is left. */
if (process.platform === 'linux') setPriority(0, osConstants.priority.PRIORITY_LOW);

parentPort?.on('message', ({ taskId, task }: ImageRequest) => {
  try {
    parentPort?.postMessage({ taskId, ...run(task) } satisfies ImageReply);
  } catch (error) {
    const { message, code = '' } = error as Error & { code?: string };
    parentPort?.postMessage({ taskId, errno: code, message } satisfies ImageReply);
  }
});

function run(task: ImageTask): { digests: Uint8Array } | { crc32c: number } {
  return task.kind === 'digest' ? { digests: digest(task) } : { crc32c: gather(task) };
}

function digest({ file, imageBytes, blockBytes }: Extract<ImageTask, { kind: 'digest' }>): Buffer {
  const digests = Buffer.alloc(Math.ceil(imageBytes / blockBytes) * DIGEST_BYTES);
  const buffer = Buffer.allocUnsafeSlow(blockBytes);
  withFile(file, constants.O_RDONLY, (fd) => {
    for (let at = 0, to = 0; at < imageBytes; at += blockBytes, to += DIGEST_BYTES) {
      const block = buffer.subarray(0, Math.min(blockBytes, imageBytes - at));
      readFully(fd, block, at);
      digests.set(digestOf(block), to);
    }
  });
  return digests;
}

function gather({ file, to, pieces }: Extract<ImageTask, { kind: 'gather' }>): number {
  const buffer = Buffer.allocUnsafeSlow(COPY_BYTES);
  let crc = 0;
  let written = 0;
  withFile(file, constants.O_RDONLY, (from) =>
    withFile(to, constants.O_WRONLY, (target) => {
      for (const { offset, length } of pieces)
        for (let done = 0; done < length; ) {
          const chunk = buffer.subarray(0, Math.min(COPY_BYTES, length - done));
          readFully(from, chunk, offset + done);
          crc = crc32c(chunk, crc);
          for (let at = 0; at < chunk.length; )
            at += writeSync(target, chunk, at, chunk.length - at, written + at);
          done += chunk.length;
          written += chunk.length;
        }
    }),
  );
  return crc;
}

function readFully(fd: number, target: Uint8Array, position: number): void {
  for (let done = 0; done < target.length; ) {
    const got = readSync(fd, target, done, target.length - done, position + done);
    if (got === 0) throw new Error(`the file ends at ${position + done}`);
    done += got;
  }
}

function withFile(file: string, flags: number, work: (fd: number) => void): void {
  const fd = openSync(file, flags | constants.O_NOFOLLOW);
  try {
    work(fd);
  } finally {
    closeSync(fd);
  }
}
