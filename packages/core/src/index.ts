// The object store, and what it is made of.

export { isMirrored } from './catalog/bucket-policy.ts';
// Back ends.
export type * from './catalog/catalog.ts';
export { catalogSpareBytes } from './catalog/catalog-room.ts';
export * from './catalog/events.ts';
export { openSqliteCatalog } from './catalog/sqlite-catalog.ts';
export { CATALOG_FILE } from './catalog/sqlite-file.ts';
// Ports and pure helpers.
export * from './checksum.ts';
export { type ChecksumThread, createChecksumThread } from './checksum-thread/checksum-thread.ts';
export { type Clock, systemClock } from './clock.ts';
export { type Keyring, parseKeyring } from './encryption/keyring.ts';
// Open files and directories.
export { makeDirectory, removeDirectory } from './files/directories.ts';
export type * from './files/files.ts';
export { nextTurn } from './next-turn.ts';
export {
  KEY_BYTES_MAX,
  parseBucketName,
  parseJobId,
  parseKey,
  uploadsBucketOf,
} from './object-ref.ts';
export { Pauses } from './placement/pauses.ts';
export { resolvePolicy } from './placement/policy.ts';
export { Serial } from './serial.ts';
export { settlesWithin } from './settles-within.ts';
export {
  openPrefixSnapshots,
  type PrefixSnapshots,
} from './snapshots/prefix-snapshots.ts';
export { type BodySums, createBodySums } from './store/body-sums.ts';
export { type ConditionChange, Conditions } from './store/conditions.ts';
export { openKnownDisk } from './store/known-disk.ts';
export type * from './store/object-store.ts';
export { openingAgain } from './store/open-again.ts';
export { type OpenedStore, openObjectStore, type StoreOptions } from './store/open-store.ts';
export { isOwnPlaceKnown, noteOwnCopies } from './store/own-copies.ts';
export type { StoreObserver, StoreSettings } from './store/parts.ts';
export type { RecoveryReport } from './store/recovery.ts';
export { versionIdOf } from './store/versions.ts';
export { openDirectoryTier } from './tier/directory-tier.ts';
export { openFileTier } from './tier/file-tier.ts';
export { errnoOf } from './tier/fs-error.ts';
export { makeDirectories } from './tier/make-directories.ts';
export { createMover } from './tier/mover.ts';
export {
  assertTrustedParent,
  assertTrustedPath,
  explainPathError,
  openOwnDirectory,
  writeOwnFile,
} from './tier/own-paths.ts';
export { createRoutedTier, type RoutedTierOptions } from './tier/routed-tier.ts';
export { formatS3Location, parseS3Location, type S3Target } from './tier/s3/s3-location.ts';
export type { S3Layout } from './tier/s3/s3-names.ts';
export type { S3Credentials, S3Observation, S3Remark } from './tier/s3/s3-protocol.ts';
export { openS3Tier, type S3Tier, type S3TierOptions } from './tier/s3/s3-tier.ts';
export { threadsInCalls } from './tier/stuck-threads.ts';
export type {
  BlockCollector,
  LocalBlob,
  LocalTier,
  LocalTierUsage,
  Mover,
  RemoteHeaders,
  RemoteObject,
  RemotePutOptions,
  RemoteReadOptions,
  RemoteRun,
  RemoteSource,
  RemoteTier,
} from './tier/tier.ts';
export { createWatchedTier } from './tier/watched-tier.ts';
