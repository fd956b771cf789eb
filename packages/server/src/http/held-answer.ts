/**
 * An answer that is held whole until its reader has taken it.
 *
 * I1  What was asked for by a read may be refused for want of memory. The answer of a change is counted in any case: by now
 *     the change was made, and `busy` would say that it was not.
 * I2  A reader that is gone already holds nothing: its answer goes nowhere.
 */
import type { ServerResponse } from 'node:http';
import type { PeerMemory } from './peer-memory.ts';

/** Counts the bytes until they have left. @throws {StoreError} `busy` when it is a read, and others hold all there is */
export function holdAnswer(held: PeerMemory, response: ServerResponse, bytes: number): void {
  if (response.destroyed) return;
  const hold = held.hold(0, () => response.destroy());
  const { method } = response.req;
  if (method === 'GET' || method === 'HEAD') held.resize(hold, bytes);
  else held.charge(hold, bytes);
  response.once('close', () => held.release(hold));
}
