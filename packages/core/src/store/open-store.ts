/** Wires the store: catalog, tiers and placement come in, an ObjectStore (object-store.ts) that has recovered comes out. */
import type { Catalog } from '../catalog/catalog.ts';
import { createChecksumThread } from '../checksum-thread/checksum-thread.ts';
import { type Clock, systemClock } from '../clock.ts';
import type { Keyring } from '../encryption/keyring.ts';
import { Vault } from '../encryption/vault.ts';
import { BlobPlacement } from '../placement/blob-placement.ts';
import { RecencyIndex } from '../placement/evictor.ts';
import { Mirror } from '../placement/mirror.ts';
import { PrivateCopies } from '../placement/private-copies.ts';
import { SealedCopies } from '../placement/sealed-copies.ts';
import { Spiller } from '../placement/spiller.ts';
import { createCutTier } from '../tier/cut-tier.ts';
import type { LocalTier, Mover, RemoteTier } from '../tier/tier.ts';
import { AwakeTime } from './awake-time.ts';
import { BadCopies } from './bad-copies.ts';
import { BlockSums } from './block-sums.ts';
import { Buckets } from './buckets.ts';
import { CheckedReads } from './checked-reads.ts';
import { ComparedFiles } from './compared-files.ts';
import { Conditions } from './conditions.ts';
import { DiskHealth } from './disk-health.ts';
import { IdBlocks } from './id-blocks.ts';
import { Importer } from './importer.ts';
import { JobTable } from './job-table.ts';
import { LeaseTable } from './lease-table.ts';
import { LifeLog } from './life-log.ts';
import type { ObjectStore } from './object-store.ts';
import {
  DEFAULT_SETTINGS,
  type StoreObserver,
  type StoreParts,
  type StoreSettings,
} from './parts.ts';
import { Quotas } from './quotas.ts';
import { RangeCache } from './range-cache.ts';
import { type RecoveryReport, recover } from './recovery.ts';
import { Retirement } from './retirement.ts';
import { RoomWatch } from './room-watch.ts';
import { SpoolGate } from './spool-gate.ts';
import { StagingTable } from './staging.ts';
import { CatalogObjectStore } from './store.ts';
import { TierPresence } from './tier-presence.ts';
import { Waits } from './wait.ts';

export interface StoreOptions {
  readonly catalog: Catalog;
  readonly memory: LocalTier;
  readonly disk: LocalTier;
  readonly remote: RemoteTier;
  readonly mover: Mover;
  /** For what a writer waits for, so that it does not wait for copies that nobody waits for; default: the same. */
  readonly commitMover?: Mover;
  readonly clock?: Clock;
  readonly settings?: Partial<StoreSettings>;
  readonly observer?: Partial<StoreObserver>;
  /** Where the parts of the store tell what they lack. */
  readonly conditions?: Conditions;
  /** Master keys; without them encrypted buckets can be neither made nor read. */
  readonly encryptionKeys?: Keyring;
}

export interface OpenedStore {
  readonly store: ObjectStore;
  readonly recovery: RecoveryReport;
}

/** Recovers what an earlier run left, then starts. The store closes the parts it was given. */
export async function openObjectStore(options: StoreOptions): Promise<OpenedStore> {
  const clock = options.clock ?? systemClock;
  const awake = new AwakeTime(clock);
  const settings = { ...DEFAULT_SETTINGS, ...options.settings };
  const observer: StoreObserver = {
    committed: () => undefined,
    moved: () => undefined,
    corrupt: () => undefined,
    failed: () => undefined,
    kept: () => undefined,
    ...options.observer,
  };
  const { catalog, memory, mover, commitMover = mover } = options;
  const cutTier = createCutTier(options.remote);
  const remote = cutTier.tier;
  const { conditions = new Conditions(clock) } = options;
  const nodeId = await catalog.nodeId();
  const vault = new Vault(options.encryptionKeys ?? null);
  const disk = vault.readableDisk(options.disk);
  const recency = new RecencyIndex();
  const log = new LifeLog({ subjectsMax: 20_000, eventsMax: 32, now: () => clock.now() });
  const leases = new LeaseTable({
    limboMs: settings.limboMs,
    now: () => awake.now(),
    remove: (blobId, how) => placement.removeFile('memory', blobId, how),
  });
  const diskLeases = new LeaseTable({
    limboMs: settings.limboMs,
    now: () => awake.now(),
    remove: (blobId) => placement.removeFile('disk', blobId, { recycle: false }),
  });
  const ids = new IdBlocks(catalog);
  const sealed = new SealedCopies({
    ...{ catalog, memory, disk, remote, mover, vault },
    nextId: () => ids.next(),
  });
  const privateCopies = new PrivateCopies({
    ...{ catalog, remote, clock },
    onError: (error, subject) => observer.failed(error, 'removal', subject),
  });
  const blockSums = new BlockSums({ catalog, mover: commitMover });
  const checksums = createChecksumThread();
  const comparedFiles = new ComparedFiles(blockSums, clock);
  const placement: BlobPlacement = new BlobPlacement({
    ...{ catalog, memory, disk, remote, mover, leases, diskLeases, recency, log, sealed },
    blockSums,
    privateCopies,
    nodeId,
    onMoved: (move) => observer.moved(move),
    onError: (error) => observer.failed(error, 'removal'),
  });
  const ranges = new RangeCache({
    ...{ catalog, disk, remote, mover },
    nextId: () => ids.next(),
    onError: (error, subject) => observer.failed(error, 'verification', subject),
  });
  const retirement = new Retirement({ catalog, clock, placement, ranges, observer });
  const importer = new Importer({
    ...{ catalog, remote, clock, vault },
    nextId: () => ids.next(),
    retireAll: (freed) => retirement.retireAll(freed),
  });
  const mirror = new Mirror({
    ...{ nodeId, catalog, placement, remote, clock, log, sealed, privateCopies },
    compareFile: async ({ crc32c, ...blob }, file) => {
      if (crc32c !== null) await comparedFiles.compare({ ...blob, crc32c }, file);
    },
    assertLocalThere: () => {
      memory.assertThere();
      disk.assertThere();
    },
    onMoved: (move) => {
      observer.moved(move);
      spiller.noteRemoteTook();
    },
    onSent: (name) => waits.noteChanged(name),
    onKept: (name) => observer.kept(name),
    follow: (entry) => importer.giveWay(entry),
    onError: (error, subject) => observer.failed(error, 'mirror', subject),
  });
  const spiller = new Spiller({
    ...{ catalog, memory, disk, placement, leases, recency },
    mirrorFirst: async (blobId) => {
      for (const { bucket, key } of await catalog.objectsOfBlob(blobId, 64)) {
        const object = await catalog.findObject(bucket, key);
        if (object !== undefined) await mirror.flush(object);
      }
    },
    dropCached: (bytes) => ranges.shrink(bytes),
    memoryMarks: settings.memoryMarks,
    diskMarks: settings.diskMarks,
    onError: (error) => observer.failed(error, 'spill'),
  });
  const badCopies = new BadCopies({
    ...{ catalog, disk, placement, mirror, privateCopies, log, observer },
  });
  const owners = new Set<number>();
  const parts: StoreParts = {
    ...{
      catalog,
      memory,
      disk,
      remote,
      mover,
      commitMover,
      clock,
      awake,
      settings,
      observer,
      conditions,
      presence: new TierPresence({ catalog, memory, disk, placement, conditions, log }),
      rooms: new RoomWatch([memory, disk], conditions),
      diskHealth: new DiskHealth({ disk, conditions, nextId: () => ids.next() }),
      leases,
      diskLeases,
      recency,
      placement,
      spiller,
      mirror,
      log,
      vault,
      sealed,
      privateCopies,
      blockSums,
      badCopies,
      checksums,
    },
    checkedReads: new CheckedReads(blockSums, checksums),
    comparedFiles,
    staging: new StagingTable(),
    jobs: new JobTable(),
    buckets: new Buckets({
      catalog,
      clock,
      empty: (bucket) => store.deletePrefix(bucket, ''),
      assertCanEncrypt: () => void vault.assertCanSeal(),
    }),
    quotas: new Quotas(catalog),
    importer,
    ranges,
    spoolGate: new SpoolGate({
      bytesMax: settings.spoolBytesMax,
      ageMsMax: settings.spoolAgeMsMax,
    }),
    owners,
    takeId: () => ids.take(),
    nextId: () => ids.next(),
    retireAll: (freed, how) => retirement.retireAll(freed, how),
  };
  const waits = new Waits(parts);
  const recovery = await recover(parts);
  const store: CatalogObjectStore = new CatalogObjectStore(parts, {
    owners,
    waits,
    retirement,
    cutRemote: () => cutTier.cut(),
    nodeId,
  });
  await store.start();
  return { store, recovery };
}
