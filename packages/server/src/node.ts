/**
 * The life of a node:  lock the data directory → listen (probes answer) → recover → ready → drain → closed.
 *
 * `/healthz` answers from the first moment on, `/readyz` says 503 until the store has recovered and again while it drains.
 */
import { settlesWithin, threadsInCalls } from '@ebb/core';
import { StoreError } from '@ebb/protocol';
import { type Logger, pino } from 'pino';
import {
  type NodeFrame,
  type NodeServices,
  openNodeFrame,
  openServices,
  VERSION,
} from './compose.ts';
import type { NodeConfig } from './config.ts';
import { type LogSink, openStderrSink } from './log-sink.ts';
import { removeNames, removePidFile, removeStalePidFile, writePidFile } from './pid-file.ts';
import type { NodeState } from './services.ts';
import { listenForStop } from './stop-signals.ts';
import { startTlsReload, type TlsReload } from './tls/reload.ts';

export interface RunningNode {
  /** With the real port; null without TCP. */
  readonly url: string | null;
  /** Of the S3 surface; null without it. */
  readonly s3Url: string | null;
  readonly socketPath: string | null;
  readonly state: NodeState;
  readonly services: NodeServices;
  /** Reads the certificate anew: SIGHUP. The log says what came of it. */
  reload(reason: string): void;
  /** Refuses new work, waits for what is under way, and closes. A second call waits for the first. */
  drain(reason: string): Promise<void>;
  /** At once: what is under way is cut, what was acknowledged stays. */
  close(): Promise<void>;
}

export interface NodeOptions {
  readonly log?: Logger;
}

/** Ready when it resolves. @throws {StoreError} `config_invalid`, `data_directory_in_use`, and those of recovery */
export async function startNode(
  config: NodeConfig,
  { log = createLog(config) }: NodeOptions = {},
): Promise<RunningNode> {
  const node = new Node(config, log);
  await bringUp(node, config, log);
  return node;
}

async function bringUp(node: Node, config: NodeConfig, log: Logger): Promise<void> {
  for (const warning of config.warnings) log.warn(warning);
  const startedMs = performance.now();
  await node.start();
  const { recovery } = node.services;
  if (recovery.lostBlobs > 0)
    log.warn(
      { lostBlobs: recovery.lostBlobs },
      'bytes that were in no tier but one that is gone are lost: their objects answer `data_lost`; write them again, or remove them with `ebb gc`',
    );
  log.info(
    {
      ...{
        version: VERSION,
        nodeId: node.services.store.nodeId,
        url: node.url,
        s3Url: node.s3Url,
        socket: node.socketPath,
      },
      ...{
        dataDir: config.dataDir,
        memoryDir: config.memoryDir,
        memoryLimitBytes: config.memoryLimitBytes,
        diskLimitBytes: config.diskLimitBytes,
      },
      recovery,
      tookMs: Math.round(performance.now() - startedMs),
    },
    'ready',
  );
}

/** A start that is nearly over ends before the node stops, in the orderly way. */
const START_ENDS_MS = 2000;

/**
 * For `ebb node`: runs until a signal, and resolves with the exit code. One that comes again later ends the process at once. One
 * that comes while the node starts ends the start, however long that would take: nothing was acknowledged yet, and what the
 * start had begun is what any start finds after a kill.
 * @throws what the start does
 */
export async function runNode(config: NodeConfig): Promise<number> {
  const log = createLog(config);
  // A fault we did not foresee: state in memory may be wrong, what was committed is not. So: tell, and go; the next start recovers.
  for (const event of ['uncaughtException', 'unhandledRejection'] as const)
    process.on(event, (error: unknown) => {
      log.fatal({ err: error }, event);
      process.exit(70);
    });
  const signal = Promise.withResolvers<NodeJS.Signals>();
  // Also on the way out that nobody planned; until the node is ready the names are not its own.
  let ownsNames = false;
  process.on('exit', () => {
    if (ownsNames) removeNames(config);
    // A thread whose file system does not answer would hold up the end of the process for as long (stuck-threads.ts).
    if (threadsInCalls() > 0) process.kill(process.pid, 'SIGKILL');
  });
  listenForStop(
    {
      onFirst: signal.resolve,
      onAgain: (name) => {
        log.warn(`asked again to stop (${name}): ending at once`);
        process.exit(1);
      },
    },
    // Without a certificate there is nothing to read anew: a terminal that goes away stops the node, as it ends every program.
    { also: config.tls === null ? ['SIGHUP'] : [] },
  );
  const node = new Node(config, log);
  const starting = bringUp(node, config, log);
  if (config.tls !== null)
    process.on(
      'SIGHUP',
      () =>
        void starting.then(
          () => node.reload('SIGHUP'),
          () => undefined,
        ),
    );
  void signal.promise.then(async (name) => {
    if (await settlesWithin(starting, START_ENDS_MS)) return;
    log.warn(`asked to stop (${name}) during the start, which is not over: ending`);
    await settlesWithin(node.close(), START_ENDS_MS); // the addresses
    process.exit(0);
  });
  await starting;
  ownsNames = true;
  try {
    writePidFile(config);
  } catch (error) {
    log.warn({ err: error }, 'no ebb.pid in the data directory');
  }
  try {
    await node.drain(await signal.promise);
  } finally {
    ownsNames = false;
    removePidFile(config); // the listeners took the socket away
  }
  if (threadsInCalls() > 0) {
    log.warn('a file system does not answer: the process ends by SIGKILL; everything is closed');
    process.exit(0);
  }
  return 0;
}

export function createLog(
  config: Pick<NodeConfig, 'logLevel'>,
  sink: LogSink = openStderrSink(),
): Logger {
  process.once('exit', () => sink.flushSync());
  return pino(
    {
      name: 'ebb',
      level: config.logLevel,
      timestamp: pino.stdTimeFunctions.isoTime,
      // Nothing of ours logs headers; should one slip in, it does not show what is secret.
      redact: {
        paths: ['*.authorization', '*.headers.authorization', '*.headers.cookie'],
        censor: '[secret]',
      },
    },
    sink,
  );
}

/** The part of the time to drain that is kept for the end: the last answers, and files and threads that are closed. */
const CLOSE_MS = 2500;
/** From the moment when tier 2 is given up on, for the answers to those who waited for it. */
const ANSWERS_MS = 500;
/** For frame clients to close their side after the last answer. */
const FRAMES_CLOSE_MS = 500;

class Node implements RunningNode {
  readonly #config: NodeConfig;
  readonly #log: Logger;
  #state: NodeState = 'starting';
  #frame: NodeFrame | undefined;
  #services: NodeServices | undefined;
  #closing: Promise<void> | undefined;
  #draining: Promise<void> | undefined;
  #tlsReload: TlsReload | undefined;

  constructor(config: NodeConfig, log: Logger) {
    this.#config = config;
    this.#log = log;
  }

  get url(): string | null {
    return this.#frame?.listeners.url ?? null;
  }
  get s3Url(): string | null {
    return this.#frame?.listeners.s3Url ?? null;
  }
  get socketPath(): string | null {
    return this.#config.socketPath;
  }
  get state(): NodeState {
    const conditions = this.#frame?.facts.conditions;
    return this.#state === 'ready' && conditions?.holds('refuses_changes') === true
      ? 'read_only'
      : this.#state;
  }
  get services(): NodeServices {
    if (this.#services === undefined) throw new StoreError('starting');
    return this.#services;
  }

  async start(): Promise<void> {
    const frame = await openNodeFrame(this.#config, { log: this.#log, state: () => this.state });
    this.#frame = frame;
    removeStalePidFile(this.#config); // the data directory is ours now
    if (this.#config.tls !== null)
      this.#tlsReload = startTlsReload({
        files: this.#config.tls,
        log: this.#log,
        apply: (identity) => frame.listeners.setTls(identity),
      });
    try {
      this.#services = await openServices(frame, this.#config, this.#log);
    } catch (error) {
      this.#tlsReload?.close();
      frame.frames.destroy();
      await frame.listeners.close(0);
      await frame.catalog.close().catch(() => undefined); // the store may have closed it
      throw error;
    }
    this.#state = 'ready';
  }

  reload(reason: string): void {
    this.#tlsReload?.reload(reason);
  }

  async drain(reason: string): Promise<void> {
    this.#draining ??= this.#drain(reason);
    await this.#draining;
  }

  async #drain(reason: string): Promise<void> {
    const { drainDeadlineMs, persistOnDrain } = this.#config;
    const startedMs = performance.now();
    this.#state = 'draining';
    this.#log.info({ reason, deadlineMs: drainDeadlineMs, persist: persistOnDrain }, 'draining');
    this.#frame?.frames.sayGoingAway(reason);
    try {
      // First: what it stores are writes, and the store takes no more of them after this.
      const workMs = drainDeadlineMs - Math.min(CLOSE_MS, drainDeadlineMs / 2);
      await this.services.checkpoints.drain(workMs);
      const tookMs = Math.ceil(performance.now() - startedMs);
      const leftMs = Math.max(0, workMs - tookMs);
      await this.services.store.drain({ persist: persistOnDrain, deadlineMs: leftMs });
    } catch (error) {
      this.#log.error(
        { err: error },
        'drain was not complete; what was acknowledged stays where it is',
      );
    }
    await this.#close(Math.max(0, drainDeadlineMs - (performance.now() - startedMs)));
    this.#log.info({ tookMs: Math.round(performance.now() - startedMs) }, 'stopped');
  }

  async close(): Promise<void> {
    this.#state = 'draining';
    await this.#close(0);
  }

  async #close(deadlineMs: number): Promise<void> {
    this.#closing ??= (async () => {
      const frame = this.#frame;
      if (frame === undefined) return;
      this.#tlsReload?.close();
      frame.frames.close();
      // Who was told and does not go is cut.
      const cut = setTimeout(() => frame.frames.destroy(), Math.min(deadlineMs, FRAMES_CLOSE_MS));
      // So that who waits for tier 2 still hears that the node stops.
      const answersMs = Math.max(0, deadlineMs - ANSWERS_MS);
      const giveUp = setTimeout(() => this.#services?.store.giveUpRemote(), answersMs);
      await frame.listeners.close(deadlineMs);
      clearTimeout(cut);
      clearTimeout(giveUp);
      await this.#services?.close();
    })();
    await this.#closing;
  }
}
