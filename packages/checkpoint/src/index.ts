export {
  type CheckpointServiceOptions,
  openCheckpointService,
} from './catalog-checkpoint-service.ts';
export type * from './checkpoint-service.ts';
export { DIGEST_BYTES, digestOf } from './digest.ts';
export type { RunRef, SnapshotRef } from './names.ts';
export type { CheckpointStore } from './objects.ts';
export type { CheckpointRecords } from './runs.ts';
