import type { FrameConnection } from '@ebb/client';
import type { MapOutputRow } from '@ebb/protocol';

/** What writers, readers and views ask of the node. */
export interface ShuffleCalls {
  readonly jobId: string;
  readonly connection: FrameConnection;
  resolve(
    shuffleId: number,
    attemptIds: readonly number[],
    options: { readonly suspect: boolean; readonly signal?: AbortSignal | undefined },
  ): Promise<readonly MapOutputRow[]>;
}
