/** The shuffle service's face to the server. Implemented by catalog-shuffle-service.ts. */
import type { Owner, StagedWrite } from '@ebb/core';
import type { MapOutputRow, messages, ShuffleInfo, ShuffleRef } from '@ebb/protocol';

export interface ShuffleService {
  /** Idempotent for equal numbers. @throws `job_not_found`, `request_invalid` when the shuffle exists with other numbers. */
  register(
    ref: ShuffleRef,
    shape: { readonly maps: number; readonly partitions: number },
  ): Promise<void>;
  /** @throws `shuffle_not_found`, `request_invalid`, and those of ObjectStore.stage */
  stageMap(owner: Owner, request: messages.MapStageRequest): Promise<StagedWrite>;
  /** One winner among the attempts at a map (messages.ts, MapCommitResponse). @throws as ObjectStore.commit */
  commitMap(owner: Owner, request: messages.MapCommitRequest): Promise<messages.MapCommitResponse>;
  /** Also takes the owner's read lease on the shuffle; `revoke` is how the owner is asked to let go of blobs. */
  table(
    owner: Owner,
    ref: ShuffleRef,
    sinceVersion: number,
    revoke: (blobIds: readonly number[]) => void,
  ): Promise<messages.ShuffleTableResponse>;
  resolve(
    ref: ShuffleRef,
    attemptIds: readonly number[],
    options: { readonly suspect: boolean },
  ): Promise<readonly MapOutputRow[]>;
  release(owner: Owner, ref: ShuffleRef): void;
  remove(ref: ShuffleRef): Promise<{ readonly freedBytes: number }>;
  list(): Promise<readonly ShuffleInfo[]>;
}
