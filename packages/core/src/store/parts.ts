/** The machinery that the halves of the store (writes, reads, names, jobs) share. Made once in open-store.ts. */
import type { TierIndex } from '@ebb/protocol';
import type { BlobRecord, Catalog } from '../catalog/catalog.ts';
import type { ChecksumThread } from '../checksum-thread/checksum-thread.ts';
import type { Clock } from '../clock.ts';
import type { Vault } from '../encryption/vault.ts';
import type { BlobPlacement } from '../placement/blob-placement.ts';
import type { RecencyIndex } from '../placement/evictor.ts';
import type { Mirror } from '../placement/mirror.ts';
import type { WaterMarks } from '../placement/policy.ts';
import type { PrivateCopies } from '../placement/private-copies.ts';
import type { SealedCopies } from '../placement/sealed-copies.ts';
import type { Spiller } from '../placement/spiller.ts';
import type { LocalTier, Mover, RemoteTier } from '../tier/tier.ts';
import type { AwakeTime } from './awake-time.ts';
import type { BadCopies } from './bad-copies.ts';
import type { BlockSums } from './block-sums.ts';
import type { Buckets } from './buckets.ts';
import type { CheckedReads } from './checked-reads.ts';
import type { ComparedFiles } from './compared-files.ts';
import type { Conditions } from './conditions.ts';
import type { DiskHealth } from './disk-health.ts';
import type { Importer } from './importer.ts';
import type { JobTable } from './job-table.ts';
import type { LeaseTable } from './lease-table.ts';
import type { LifeLog } from './life-log.ts';
import type { Quotas } from './quotas.ts';
import type { RangeCache } from './range-cache.ts';
import type { RoomWatch } from './room-watch.ts';
import type { SpoolGate } from './spool-gate.ts';
import type { StagingTable } from './staging.ts';
import type { TierPresence } from './tier-presence.ts';

export interface StoreSettings {
  readonly memoryMarks: WaterMarks;
  readonly diskMarks: WaterMarks;
  /** A staged write that saw no call for this long is thrown away. */
  readonly stagingTtlMs: number;
  readonly leaseTtlMs: number;
  /** How long a given-up tier-0 file waits for its readers before it is unlinked under them. */
  readonly limboMs: number;
  /** How long a writer waits for room that is being made, before `busy`. */
  readonly roomWaitMs: number;
  /** Beyond it, writes into mirrored buckets are told to wait; null: no limit. */
  readonly spoolBytesMax: number | null;
  readonly spoolAgeMsMax: number | null;
  /** Whether URLs for reading from tier 2 are handed out. */
  readonly presignReads: boolean;
}

export const DEFAULT_SETTINGS: StoreSettings = {
  memoryMarks: { high: 0.9, low: 0.75 },
  diskMarks: { high: 0.9, low: 0.8 },
  stagingTtlMs: 15 * 60_000,
  leaseTtlMs: 10 * 60_000,
  limboMs: 30_000,
  roomWaitMs: 2000,
  spoolBytesMax: null,
  spoolAgeMsMax: null,
  presignReads: true,
};

type BackgroundWork =
  | 'spill'
  | 'mirror'
  | 'promotion'
  | 'removal'
  | 'sweep'
  | 'persist'
  | 'verification';

/** What happened, for metrics. All optional work: listeners must not throw. */
export interface StoreObserver {
  committed(sizeBytes: number, tier: 0 | 1): void;
  moved(move: {
    from: 'memory' | 'disk' | 'remote';
    to: 'memory' | 'disk' | 'remote';
    bytes: number;
  }): void;
  /** A copy in this tier turned out to hold wrong bytes. */
  corrupt(tier: TierIndex): void;
  /** `work`: one of a few kinds, fit for a label; `subject`: which blob. */
  failed(error: unknown, work: BackgroundWork, subject?: string): void;
  /** In tier 2 others put something else under this name: it stays, and what was to be sent there is not. */
  kept(name: string): void;
}

export interface StoreParts {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly remote: RemoteTier;
  readonly mover: Mover;
  /** Of writers: their commits, and writes that change the tier. */
  readonly commitMover: Mover;
  readonly clock: Clock;
  readonly awake: AwakeTime;
  readonly settings: StoreSettings;
  readonly observer: StoreObserver;
  readonly conditions: Conditions;
  readonly presence: TierPresence;
  readonly rooms: RoomWatch;
  readonly diskHealth: DiskHealth;
  /** Of tier 0. */
  readonly leases: LeaseTable;
  /** Of tier 1, where a lease only delays the unlink. */
  readonly diskLeases: LeaseTable;
  readonly staging: StagingTable;
  readonly jobs: JobTable;
  readonly recency: RecencyIndex;
  readonly placement: BlobPlacement;
  readonly spiller: Spiller;
  readonly mirror: Mirror;
  readonly log: LifeLog;
  readonly vault: Vault;
  readonly sealed: SealedCopies;
  readonly privateCopies: PrivateCopies;
  readonly buckets: Buckets;
  readonly quotas: Quotas;
  readonly importer: Importer;
  readonly ranges: RangeCache;
  readonly blockSums: BlockSums;
  readonly checkedReads: CheckedReads;
  readonly comparedFiles: ComparedFiles;
  readonly badCopies: BadCopies;
  readonly checksums: ChecksumThread;
  readonly spoolGate: SpoolGate;
  /** Ids of owners that were not dropped: nothing is given to one that is gone. */
  readonly owners: ReadonlySet<number>;
  /** A fresh id without a wait, or undefined when `nextId` has to be waited for. */
  takeId(): number | undefined;
  nextId(): Promise<number>;
  /**
   * Removes what a change of names left without references. What a power cut could bring back by taking the change back
   * (copies on disk and in tier 2) goes only after the change is durable; `isDurable`: it is. Never rejects: what fails is tried again.
   */
  retireAll(freed: readonly BlobRecord[], how?: { readonly isDurable: boolean }): Promise<void>;
}
