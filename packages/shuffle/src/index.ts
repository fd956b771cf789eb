// In the daemon
export {
  openShuffleService,
  type ShuffleRecords,
  type ShuffleServiceOptions,
  type ShuffleStore,
} from './catalog-shuffle-service.ts';
// In programs that shuffle
export type { ChunkCompression } from './chunk-framing.ts';
export type {
  PartitionedReader,
  ReaderOptions,
  ReaderRecord,
  RecordBatch,
} from './partitioned-reader.ts';
export {
  hashPartition,
  type PartitionedWriter,
  type WriterOptions,
  type WriterResult,
} from './partitioned-writer.ts';
export {
  type IndexedOutput,
  type IndexRange,
  type PlannedRange,
  planReduce,
  type ReducePlan,
  type ReducePlanRequest,
  type RemoteBatch,
  type RemoteRange,
} from './reduce-plan.ts';
export {
  bytesSerializer,
  createJsonSerializer,
  type Serializer,
  stringSerializer,
} from './serializer.ts';
export {
  createShuffleClient,
  type ShuffleClient,
  type ShuffleClientOptions,
} from './shuffle-client.ts';
export type * from './shuffle-service.ts';
