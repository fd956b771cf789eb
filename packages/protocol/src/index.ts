export * from './checkpoint.ts';
export * from './conditions.ts';
export * from './control.ts';
export * from './errors.ts';
export * from './events.ts';
export * from './file-control.ts';
export * from './frames.ts';
export * from './headers.ts';
export * from './index-block.ts';
export * as messages from './messages.ts';
export {
  ACKS,
  type Ack,
  EPOCH_NONE,
  type ExtentLocation,
  FILE_FLAGS,
  LIST_FRAME_LIMIT_MAX,
  type MapOutputRow,
  OPS,
  PROTOCOL_VERSION,
  READ_BYTES_MAX,
  type ShuffleRef,
  TIER_BY_POLICY,
  type TierIndex,
} from './messages.ts';
export * from './node-files.ts';
export * from './paths.ts';
export * from './prefix-snapshots.ts';
export * from './units.ts';
