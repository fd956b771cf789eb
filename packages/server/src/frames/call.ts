/** What a handler of a frame is given, and gives back. */
import type { ObjectStore, Owner } from '@ebb/core';
import type { ShuffleService } from '@ebb/shuffle';
import type { HostProofs } from '../host-proofs.ts';
import type { NodeFacts } from '../services.ts';

/** One per connection. */
export interface CallContext {
  readonly store: ObjectStore;
  readonly shuffles: ShuffleService;
  readonly node: NodeFacts;
  readonly hostProofs: HostProofs;
  readonly owner: Owner;
  /** HELLO's job: alive while the connection is. */
  jobId: string;
  /** The client asked whether it shares our host, and so may see our files. Without that it is shown none on disk. */
  mayShareHost: boolean;
  /** Asks the client to let go of blobs. The same function for all of the connection's shuffles. */
  readonly revoke: (blobIds: readonly number[]) => void;
}

/**
 * Takes the payload of a request, and gives that of its answer: at once where nothing has to be waited for. The payload may
 * be kept until the answer. Throws or rejects with StoreError for what is expected to go wrong.
 */
export type Handler = (context: CallContext, payload: Buffer) => Buffer | Promise<Buffer>;

export const EMPTY = Buffer.alloc(0);
