/** A small body that is read before it is looked at (JSON, XML), held whole: bounded in bytes, in time, and for all together. */
import type { IncomingMessage } from 'node:http';
import { StoreError } from '@ebb/protocol';
import { GATHERED_BODY_MS_MAX } from '../limits.ts';
import type { PeerMemory } from './peer-memory.ts';

export interface GatherOptions {
  readonly held: PeerMemory;
  /** Bytes of the data, without its framing. */
  readonly bytesMax: number;
  readonly tooLarge: () => Error;
  /** Takes a framing off, as that of receive-body.ts. */
  readonly unframe?: ((arrived: Buffer, emit: (data: Buffer) => void) => void) | undefined;
  readonly timeoutMs?: number;
}

const FIRST_BYTES = 4096;

/** @throws what `tooLarge` makes; {StoreError} `timed_out`, `busy`, `aborted` */
export async function gatherBody(
  request: IncomingMessage,
  { held, bytesMax, tooLarge, unframe, timeoutMs = GATHERED_BODY_MS_MAX }: GatherOptions,
): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const hold = held.hold(0, () =>
    reject(new StoreError('busy', 'the body came slowly while others waited for the memory')),
  );
  let gathered: Buffer = Buffer.alloc(0);
  let bytes = 0;
  // Grown by doubling: a body that comes byte by byte costs no buffer for each.
  const take = (data: Buffer): void => {
    const needed = bytes + data.length;
    if (needed > bytesMax) throw tooLarge();
    if (needed > gathered.length) {
      const grown = Math.min(bytesMax, Math.max(FIRST_BYTES, needed, gathered.length * 2));
      held.resize(hold, grown);
      const larger = Buffer.allocUnsafeSlow(grown);
      gathered.copy(larger, 0, 0, bytes);
      gathered = larger;
    }
    data.copy(gathered, bytes);
    bytes = needed;
  };
  const onData = (arrived: Buffer): void => {
    try {
      if (unframe === undefined) take(arrived);
      else unframe(arrived, take);
    } catch (error) {
      reject(error);
    }
  };
  const onEnd = (): void => resolve(gathered.subarray(0, bytes));
  const onClose = (): void => {
    if (!request.complete) reject(new StoreError('aborted', 'the client went away'));
  };
  const timer = setTimeout(
    () => reject(new StoreError('timed_out', `the body did not come whole in ${timeoutMs} ms`)),
    timeoutMs,
  );
  request.on('data', onData).once('end', onEnd).once('close', onClose).once('error', onClose);
  if (request.destroyed) onClose();
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    held.release(hold);
    request.removeListener('data', onData);
    request.removeListener('end', onEnd);
    request.removeListener('close', onClose);
  }
}
