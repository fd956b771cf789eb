/**
 * The other half of checksum-thread.ts: computes checksums of shared memory, one batch after the other. Imports nothing of
 * Ebb, so that it starts the same from source, from dist and under a test runner.
 */
import { parentPort } from 'node:worker_threads';
import { crc32c } from '@node-rs/crc32';

export interface ChecksumTask {
  /** A view of shared memory. */
  readonly bytes: Uint8Array;
  /** One checksum is computed for each so many bytes; the last block may be shorter. */
  readonly blockBytes: number;
  /** The checksum of what came before the first block. */
  readonly before: number;
}

parentPort?.on('message', (tasks: readonly ChecksumTask[]) => {
  parentPort?.postMessage(tasks.map(checksumsOf));
});

function checksumsOf({ bytes, blockBytes, before }: ChecksumTask): number[] {
  const found: number[] = [];
  for (let at = 0; at < bytes.length; at += blockBytes)
    found.push(crc32c(bytes.subarray(at, at + blockBytes), at === 0 ? before : 0));
  return found;
}
