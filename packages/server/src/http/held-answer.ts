/** An answer that is held whole until its reader has taken it. */
import type { ServerResponse } from 'node:http';
import type { PeerMemory } from './peer-memory.ts';

/** Counts the bytes until they have left. @throws {StoreError} `busy` when others hold all there is */
export function holdAnswer(held: PeerMemory, response: ServerResponse, bytes: number): void {
  const hold = held.hold(bytes, () => response.destroy());
  response.once('close', () => held.release(hold));
}
