/** A whole store on temporary directories, which can be crashed and opened again, or lose what a host loses at a reboot. */

import { mkdtempSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type Catalog,
  type Clock,
  createMover,
  type Keyring,
  type LocalTier,
  type Mover,
  type ObjectStore,
  type Owner,
  openDirectoryTier,
  openFileTier,
  openKnownDisk,
  openObjectStore,
  openSqliteCatalog,
  type RecoveryReport,
  type RemoteTier,
  resolvePolicy,
  type StoreObserver,
  type StoreSettings,
} from '@ebb/core';
import { MiB } from '@ebb/protocol';

export interface TestStoreOptions {
  readonly memoryBytes?: number;
  readonly diskBytes?: number;
  readonly settings?: Partial<StoreSettings>;
  readonly clock?: Clock;
  /** Events that the catalog keeps. */
  readonly eventsMax?: number;
  readonly encryptionKeys?: Keyring;
  /** Is told beside `failures`. */
  readonly observer?: Partial<StoreObserver>;
  /** Faults: each gets the real part and returns what the store shall use in its place. */
  readonly faults?: Faults;
}

export interface Faults {
  catalog?(catalog: Catalog): Catalog;
  memory?(tier: LocalTier): LocalTier;
  disk?(tier: LocalTier): LocalTier;
  remote?(tier: RemoteTier): RemoteTier;
  mover?(mover: Mover): Mover;
}

/** The same object with some methods replaced; the rest goes to the original. */
export function override<T extends object>(target: T, changes: Partial<T>): T {
  return new Proxy(target, {
    get: (original, name) => {
      const changed = Reflect.get(changes, name) as unknown;
      if (changed !== undefined) return changed;
      const value = Reflect.get(original, name, original) as unknown;
      return typeof value === 'function' ? (value.bind(original) as unknown) : value;
    },
  });
}

export interface TestStore {
  readonly store: ObjectStore;
  readonly owner: Owner;
  readonly root: string;
  readonly memoryDir: string;
  /** Below the tiers, as they are: for looking behind the store's back. */
  readonly tiers: {
    readonly memory: LocalTier;
    readonly disk: LocalTier;
    readonly remote: RemoteTier;
  };
  /** For what features keep beside the store. */
  readonly catalog: Catalog;
  readonly recovery: RecoveryReport;
  /** Errors of background work, in order. */
  readonly failures: readonly unknown[];
  /** Stages, fills and commits; resolves with the ETag. */
  put(
    bucket: string,
    key: string,
    bytes: Uint8Array,
    options?: Parameters<ObjectStore['commit']>[2] extends infer C
      ? Partial<C> & { jobId?: string; tier?: 0 | 1 }
      : never,
  ): Promise<string>;
  /** The whole object. */
  get(bucket: string, key: string): Promise<Buffer>;
  /** As a killed process leaves it: nothing is drained, flushed or cleaned. The returned store runs on the same directories. */
  crash(
    options?: TestStoreOptions & {
      readonly loseMemory?: boolean;
      /** What happens to the files before the next start; `root` has `catalog`, `disk` and `remote`. */
      readonly meanwhile?: (root: string) => void;
    },
  ): Promise<TestStore>;
  /** Removes the directories as well. No effect after a crash: they are the next store's. */
  close(): Promise<void>;
}

export async function openTestStore(options: TestStoreOptions = {}): Promise<TestStore> {
  // On tmpfs as well: these tests are about order and bytes, and a sync of a busy disk takes 20 ms.
  const root = mkdtempSync('/dev/shm/ebb-test-');
  const memoryDir = mkdtempSync('/dev/shm/ebb-test-');
  return await openOn(root, memoryDir, options);
}

async function openOn(
  root: string,
  memoryDir: string,
  options: TestStoreOptions,
): Promise<TestStore> {
  const failures: unknown[] = [];
  for (const dir of ['catalog', 'disk', 'remote'])
    await mkdir(join(root, dir), { recursive: true });
  const catalog = await openSqliteCatalog({
    directory: join(root, 'catalog'),
    ...(options.clock === undefined ? {} : { clock: options.clock }),
    ...(options.eventsMax === undefined ? {} : { eventsMax: options.eventsMax }),
  });
  // A start that fails can be followed by another.
  await using opened = new AsyncDisposableStack();
  opened.defer(async () => await catalog.close());
  const nodeId = await catalog.nodeId();
  const mover = createMover();
  opened.defer(async () => await mover.close());
  const memory = await openFileTier({
    name: 'memory',
    root: join(memoryDir, 'memory'),
    nodeId,
    capacityBytes: options.memoryBytes ?? 64 * MiB,
    recycle: true,
    poolBytesMax: (options.memoryBytes ?? 64 * MiB) / 4,
    mover,
  });
  const disk = await openKnownDisk(catalog, {
    root: join(root, 'disk'),
    capacityBytes: options.diskBytes ?? 256 * MiB,
    recycle: false,
    poolBytesMax: 0,
    mover,
  });
  const remote = await openDirectoryTier({ root: join(root, 'remote') });
  const { faults = {} } = options;
  const { store, recovery } = await openObjectStore({
    catalog: faults.catalog?.(catalog) ?? catalog,
    memory: faults.memory?.(memory) ?? memory,
    disk: faults.disk?.(disk) ?? disk,
    remote: faults.remote?.(remote) ?? remote,
    mover: faults.mover?.(mover) ?? mover,
    ...(options.clock === undefined ? {} : { clock: options.clock }),
    settings: options.settings ?? {},
    ...(options.encryptionKeys === undefined ? {} : { encryptionKeys: options.encryptionKeys }),
    observer: { ...options.observer, failed: (error) => failures.push(error) },
  });
  opened.move();
  const owner = store.createOwner('test');
  let crashed = false;
  return {
    store,
    owner,
    root,
    memoryDir,
    tiers: { memory, disk, remote },
    catalog,
    recovery,
    failures,
    async put(bucket, key, bytes, put = {}) {
      const { jobId, tier, ...commit } = put;
      const staged = await store.stage(
        owner,
        { bucket, key },
        {
          reserveBytes: bytes.byteLength,
          ...(jobId === undefined ? {} : { jobId }),
          ...(tier === undefined ? {} : { tier }),
        },
      );
      await store.write(owner, staged.writeId, bytes, 0);
      const { object } = await store.commit(owner, staged.writeId, {
        sizeBytes: bytes.byteLength,
        ...commit,
      });
      return object.etag;
    },
    async get(bucket, key) {
      const opened = await store.open(owner, { bucket, key });
      try {
        const target = Buffer.alloc(opened.object.sizeBytes);
        await store.read(owner, opened.leaseId, target, 0);
        return target;
      } finally {
        store.release(owner, [opened.leaseId]);
      }
    },
    async crash(next = {}) {
      crashed = true;
      await catalog.close(); // what remains of the old store fails from here on, as if the process were gone
      await mover.close();
      await store.close().catch(() => undefined); // ends its timers; it can change nothing any more
      if (next.loseMemory === true)
        await rm(join(memoryDir, 'memory'), { recursive: true, force: true });
      const { loseMemory: _, meanwhile, ...changes } = next;
      meanwhile?.(root);
      return await openOn(root, memoryDir, { ...options, ...changes });
    },
    async close() {
      if (crashed) return;
      await store.close();
      await rm(root, { recursive: true, force: true });
      await rm(memoryDir, { recursive: true, force: true });
    },
  };
}

export const ephemeral = resolvePolicy({ preset: 'ephemeral' });
export const buffered = resolvePolicy({ preset: 'buffered' });
export const durable = resolvePolicy({ preset: 'durable' });
