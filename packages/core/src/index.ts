// The object store, and what it is made of.

// Back ends.
export type * from './catalog/catalog.ts';
export { openSqliteCatalog } from './catalog/sqlite-catalog.ts';
// Ports and pure helpers.
export * from './checksum.ts';
export { type Clock, systemClock } from './clock.ts';
// Open files and directories.
export { makeDirectory, removeDirectory } from './files/directories.ts';
export type * from './files/files.ts';
export { parseBucketName, parseJobId, parseKey } from './object-ref.ts';
export { resolvePolicy } from './placement/policy.ts';
export type * from './store/object-store.ts';
export type { StoreObserver, StoreSettings } from './store/parts.ts';
export type { RecoveryReport } from './store/recovery.ts';
export { type OpenedStore, openObjectStore, type StoreOptions } from './store/store.ts';
export { openDirectoryTier } from './tier/directory-tier.ts';
export { openFileTier } from './tier/file-tier.ts';
export { createMover } from './tier/mover.ts';
export type {
  LocalBlob,
  LocalTier,
  LocalTierUsage,
  Mover,
  RemoteTier,
  RemoteTierCapabilities,
} from './tier/tier.ts';
