// A node, and what one does with it

// Objects
export type { PutBody } from './body.ts';
export type {
  Abortable,
  Buckets,
  DeletePrefixOptions,
  EbbClient,
  ListOptions,
  MoveOptions,
  TierName,
} from './client.ts';
export type { EventStream, EventsOptions } from './events.ts';
export type { FileHandle, FileMode, FileStat, OpenFileOptions, Published } from './file-handle.ts';
// For feature packages: the connection, staged files, retries
export {
  type CallCodec,
  type CallOptions,
  type FrameConnection,
  type FrameConnectionOptions,
  type FrameSession,
  openFrameConnection,
  type PushHandlers,
} from './frame-connection.ts';
export type { GetOptions, GetResult } from './get.ts';
export type { ByteRange } from './http-client.ts';
export type { JobHandle, JobOptions, Jobs } from './jobs.ts';
export type { LocalFiles } from './local-files.ts';
// Names and addresses
export { DEFAULT_NODE, type NodeAddress, parseNodeAddress } from './node-address.ts';
export type { ObjectRef, OpenInfo } from './object-info.ts';
export {
  formatObjectName,
  isObjectUrl,
  type ObjectName,
  parseObjectKey,
  parseObjectName,
  toPrefix,
} from './object-name.ts';
export type { ObjectHandle } from './object-reader.ts';
export { type OpenClientOptions, openClient } from './open-client.ts';
export type { PartReader } from './part-reader.ts';
export type { PrefixSnapshots, RestoreSnapshotOptions } from './prefix-snapshots.ts';
export type { CommitOptions, Committed, Progress, PutOptions, StagedWriter } from './put.ts';
export { DEFAULT_RETRY, decideRetry, type RetryPolicy, withRetry } from './retry.ts';
// Checkpoints
export type {
  InBucket,
  PlanOptions,
  Runs,
  Snapshots,
  SnapshotWaitOptions,
  StepChoice,
} from './runs.ts';
export {
  openStagedFile,
  type SealedWrite,
  type StageCall,
  type StagedFile,
  type StagedWriterOptions,
} from './staged-writer.ts';
export type { TlsOptions } from './tls.ts';
export type { Waited, WaitOptions } from './wait.ts';
