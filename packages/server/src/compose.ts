/** The one place where parts are put together: nothing else in the daemon calls `open*` or `create*` of another package. */
import { readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { openCheckpointService } from '@ebb/checkpoint';
import {
  CATALOG_FILE,
  type Catalog,
  Conditions,
  catalogSpareBytes,
  createMover,
  type ObjectStore,
  openFileTier,
  openKnownDisk,
  openObjectStore,
  openOwnDirectory,
  openPrefixSnapshots,
  openSqliteCatalog,
  type RecoveryReport,
  systemClock,
} from '@ebb/core';
import { isStoreError, StoreError } from '@ebb/protocol';
import { openShuffleService } from '@ebb/shuffle';
import type { Logger } from 'pino';
import { DISK_PART, isLoopback, type NodeConfig } from './config.ts';
import { planDescriptors, readDescriptorLimit } from './descriptors.ts';
import { FrameServer } from './frames/frame-server.ts';
import { describeHolder, findLockHolder } from './holders.ts';
import { openHostProofs } from './host-proofs.ts';
import { BufferPool } from './http/buffer-pool.ts';
import { Connections } from './http/connections.ts';
import { foreignness } from './http/foreign-request.ts';
import { type Listeners, openListeners } from './http/listeners.ts';
import { PeerMemory } from './http/peer-memory.ts';
import { createRequestHandler, type RequestHandler } from './http/request-handler.ts';
import {
  ANSWER_PIECES_MAX,
  CONNECTIONS_RESERVED,
  HELD_BYTES_MAX,
  HELD_PATIENCE_MS,
  PIECE_BYTES,
  PIECES_KEPT,
  PIECES_MAX,
  SMALL_BODY_BYTES,
} from './limits.ts';
import { createMetrics, type Metrics } from './metrics.ts';
import { openRemote, RemoteChoice } from './remotes.ts';
import { createS3Surface, type S3Surface } from './s3/surface.ts';
import { answerAtWrongAddress } from './s3/wrong-address.ts';
import type { NodeFacts, NodeState, Services } from './services.ts';
import { loadTlsIdentity } from './tls/reload.ts';

export const VERSION = (
  JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    version: string;
  }
).version;

/** What a node has before its store is open: the data directory's lock, and sockets that answer probes. */
export interface NodeFrame {
  readonly catalog: Catalog;
  readonly metrics: Metrics;
  readonly frames: FrameServer;
  readonly handler: RequestHandler;
  readonly s3: S3Surface | null;
  readonly listeners: Listeners;
  readonly facts: NodeFacts;
}

/** @throws {StoreError} `data_directory_in_use` before anything else is touched; `config_invalid` for addresses */
export async function openNodeFrame(
  config: NodeConfig,
  { log, state }: { readonly log: Logger; readonly state: () => NodeState },
): Promise<NodeFrame> {
  openOwnDirectory({ path: config.dataDir, setting: '--data' }, { mode: 0o750 });
  const directory = join(config.dataDir, 'catalog');
  openOwnDirectory({ path: directory, setting: '--data' }, { mode: 0o750 });
  const conditions = openConditions(log);
  const catalog = await openCatalog(config, directory, conditions);
  try {
    const metrics = createMetrics(conditions);
    // One for all surfaces: it bounds the daemon's memory.
    const pieces = new BufferPool({
      pieceBytes: PIECE_BYTES,
      piecesMax: PIECES_MAX,
      piecesKept: PIECES_KEPT,
      answerPiecesMax: ANSWER_PIECES_MAX,
    });
    const held = new PeerMemory({
      bytesMax: HELD_BYTES_MAX,
      ownBytes: SMALL_BODY_BYTES,
      patienceMs: HELD_PATIENCE_MS,
      onEnded: () => metrics.peersEnded.inc({ why: 'memory' }),
    });
    const frames = new FrameServer({
      pieces,
      onEnded: () => metrics.peersEnded.inc({ why: 'memory' }),
    });
    metrics.attachBodies({ pieces, held, frames });
    const startedAtMs = Date.now();
    const facts: NodeFacts = {
      version: VERSION,
      startedAtMs,
      instanceId: startedAtMs * 1000 + Math.floor(Math.random() * 1000),
      socketPath: config.socketPath,
      jobHeartbeatTtlMs: config.jobHeartbeatTtlMs,
      state,
      connections: () => frames.connections,
      conditions,
    };
    const admit = createAdmission(config);
    const handler = createRequestHandler({
      ...{ state, conditions, metrics, log, admit, pieces, held },
      answerStranger: answerAtWrongAddress,
    });
    const s3 =
      config.s3 === null
        ? null
        : createS3Surface({ config: config.s3, metrics, log, pieces, held });
    const tls = config.tls === null ? null : loadTlsIdentity(config.tls);
    const connections = new Connections({
      connectionsMax: planDescriptors(readDescriptorLimit()).connectionsMax,
      reserved: CONNECTIONS_RESERVED,
      onEnded: () => metrics.peersEnded.inc({ why: 'connections' }),
    });
    const listeners = await openListeners({
      ...{ tls, connections },
      listen: config.listen,
      socketPath: config.socketPath,
      onRequest: handler.onRequest,
      onExpectContinue: handler.onExpectContinue,
      onUpgrade: (request, socket, head) => frames.upgrade(request, socket, head, admit),
      s3:
        s3 === null || config.s3 === null
          ? null
          : {
              listen: config.s3.listen,
              onRequest: s3.onRequest,
              onExpectContinue: s3.onExpectContinue,
            },
    });
    return { catalog, metrics, frames, handler, s3, listeners, facts };
  } catch (error) {
    await catalog.close();
    throw error;
  }
}

/** @throws as `openSqliteCatalog`; `data_directory_in_use` names the process that has it */
async function openCatalog(
  config: NodeConfig,
  directory: string,
  conditions: Conditions,
): Promise<Catalog> {
  try {
    return await openSqliteCatalog({ directory, conditions, keepsRoom: true });
  } catch (error) {
    if (isStoreError(error, 'data_corrupt')) {
      const message = `${error.message}; bring back a copy of ${directory}, or move it away to begin with an empty catalog (what tier 2 has comes back by \`ebb sync\`)`;
      throw new StoreError('data_corrupt', message, { dataDir: config.dataDir }, error);
    }
    if (!isStoreError(error, 'data_directory_in_use')) throw error;
    const who = describeHolder(findLockHolder(join(directory, CATALOG_FILE)));
    const message = `--data ${config.dataDir} is in use by ${who}; stop that node, or give this one another --data`;
    throw new StoreError('data_directory_in_use', message, { dataDir: config.dataDir }, error);
  }
}

export interface NodeServices extends Services {
  readonly recovery: RecoveryReport;
  /** The store with all that is under it. */
  close(): Promise<void>;
}

/** Opens the tiers, recovers, and lets the sockets answer everything. */
export async function openServices(
  frame: NodeFrame,
  config: NodeConfig,
  log: Logger,
): Promise<NodeServices> {
  // Whatever fails on the way, all that was opened is closed: else its threads and timers would keep the process.
  await using opened = new AsyncDisposableStack();
  const { store, recovery } = await openStore(frame, config, log);
  opened.defer(async () => await store.close());
  const { metrics, facts: node, catalog: records } = frame;
  const failed = (work: 'checkpoint' | 'snapshot') => (error: unknown, subject: string) => {
    log.error({ err: error, work, subject }, 'background work failed');
    metrics.backgroundFailures.inc({ work });
  };
  const shuffles = await openShuffleService({ store, records, clock: systemClock });
  const checkpoints = await openCheckpointService({
    ...{ store, records, clock: systemClock },
    onError: failed('checkpoint'),
  });
  opened.defer(async () => await checkpoints.close());
  const remotes = new RemoteChoice(config.remotes);
  const prefixSnapshots = await openPrefixSnapshots({
    ...{ store, records, clock: systemClock },
    assertRemoteFree: async (bucket, remote) =>
      remotes.assertFree(bucket, remote, await store.listBuckets()),
    onError: failed('snapshot'),
  });
  opened.defer(async () => await prefixSnapshots.close());
  const local = store.tiers().filter(({ tier }) => tier !== 2);
  const hostProofs = openHostProofs(local.map(({ location }) => location));
  opened.defer(() => hostProofs.close());
  const features = { shuffles, checkpoints, prefixSnapshots };
  const services = { store, ...features, metrics, log, node, hostProofs, remotes };
  metrics.attach({ store, shuffles, checkpoints, connections: node.connections });
  frame.handler.attach(services);
  frame.s3?.attach(store, frame.catalog);
  frame.frames.attach(services);
  const all = opened.move();
  return { ...services, recovery, close: async () => await all.disposeAsync() };
}

async function openStore(
  { catalog, metrics, facts }: NodeFrame,
  config: NodeConfig,
  log: Logger,
): Promise<{ readonly store: ObjectStore; readonly recovery: RecoveryReport }> {
  const nodeId = await catalog.nodeId();
  // Closed in reverse should a later one fail; from then on the store closes them.
  await using opened = new AsyncDisposableStack();
  const keep = <T extends { close(): Promise<void> }>(part: T): T => {
    opened.defer(async () => await part.close());
    return part;
  };
  const mover = keep(createMover());
  const commitMover = keep(createMover());
  const { handlesMax } = planDescriptors(readDescriptorLimit());
  const memory = keep(
    await openFileTier({
      ...{ name: 'memory', root: config.memoryDir, setting: '--memory-dir', nodeId, mover },
      capacityBytes: config.memoryLimitBytes,
      recycle: true,
      handlesMax,
      poolBytesMax: config.poolBytesMax,
    }),
  );
  const root = join(config.dataDir, 'disk');
  const disk = keep(
    await openKnownDisk(catalog, {
      ...{ root, setting: '--data', mover },
      // The catalog lies on the same file system: a tier that took the last of it would take the deletions along.
      spareBytes: catalogSpareBytes(config.dataDir),
      capacityBytes: config.diskLimitBytes,
      ...(config.diskLimitGrows ? { growsToPart: DISK_PART } : {}),
      recycle: false,
      handlesMax,
      poolBytesMax: 0,
    }),
  );
  const remote = keep(
    await openRemote(config.remotes, {
      ...{ nodeId, dataDir: config.dataDir },
      conditions: facts.conditions,
      catalog,
    }),
  );
  const store = await openObjectStore({
    ...{ catalog, memory, disk, remote, mover, commitMover },
    conditions: facts.conditions,
    ...(config.encryptionKeys === null ? {} : { encryptionKeys: config.encryptionKeys }),
    settings: {
      memoryMarks: config.memoryMarks,
      diskMarks: config.diskMarks,
      stagingTtlMs: config.stagingTtlMs,
      spoolBytesMax: config.spoolBytesMax,
      spoolAgeMsMax: config.spoolAgeMsMax,
      presignReads: config.presignReads,
    },
    observer: {
      ...metrics.storeObserver,
      failed: (error, work, subject) => {
        // The condition tells of a place of tier 2 that is away, once.
        const isAway = facts.conditions.list().some(({ name }) => name === 'remote_unreachable');
        const isTold = isAway && isStoreError(error, 'io_failed');
        if (isTold) log.debug({ work, subject, error: error.message }, 'background work failed');
        else log.error({ err: error, work, subject }, 'background work failed');
        metrics.backgroundFailures.inc({ work });
      },
      kept: (name) =>
        log.warn({ name }, 'others put this object into tier 2: it stays as it is there'),
    },
  });
  opened.move();
  return store;
}

/** One line when a condition begins, and one when it ends. */
function openConditions(log: Logger): Conditions {
  const conditions = new Conditions(systemClock);
  conditions.onChange(({ condition, began, tookMs }) => {
    if (began) log.warn({ condition }, `condition ${condition.name} began: ${condition.reason}`);
    else log.info({ condition, tookMs }, `condition ${condition.name} ended`);
  });
  return conditions;
}

/** While only this host is to reach us, over TCP. */
function createAdmission(config: NodeConfig): (request: IncomingMessage) => void {
  if (config.listen === null || config.allowRemote) return () => undefined;
  return (request) => {
    if (request.socket.remoteAddress === undefined) return; // the Unix socket
    const reason = foreignness(request, isLoopback);
    if (reason !== undefined)
      throw new StoreError('request_invalid', `${reason}; --allow-remote lifts that`);
  };
}
