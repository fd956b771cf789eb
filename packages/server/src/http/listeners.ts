/** The sockets: TCP, with TLS where the node has a certificate, and Unix; one HTTP server each, the same handlers behind all. */
import { chmodSync, lstatSync, unlinkSync } from 'node:fs';
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerOptions,
} from 'node:http';
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https';
import { type AddressInfo, connect, type ListenOptions, type Socket } from 'node:net';
import type { TlsOptions } from 'node:tls';
import { assertTrustedParent, explainPathError } from '@ebb/core';
import { PATHS, StoreError } from '@ebb/protocol';
import { describeHolder, findPortHolder } from '../holders.ts';
import {
  HEADER_BYTES_MAX,
  HEADERS_TIMEOUT_MS,
  IDLE_TIMEOUT_MS,
  KEEP_ALIVE_TIMEOUT_MS,
  TLS_HANDSHAKE_MS,
  TLS_HANDSHAKES_MAX,
} from '../limits.ts';
import type { TlsIdentity } from '../tls/identity.ts';
import type { Connections } from './connections.ts';
import { inTurn } from './in-turn.ts';
import { ALLOW, refusalOf, refuse, refuseRaw, wellFormed } from './message-rules.ts';
import { endWhenHeard, heard, heardWhenAsked } from './refused-body.ts';

export interface ListenersOptions {
  readonly listen: { readonly host: string; readonly port: number } | null;
  readonly socketPath: string | null;
  readonly onRequest: RequestListener;
  readonly onExpectContinue: RequestListener;
  readonly onUpgrade: (request: IncomingMessage, socket: Socket, head: Buffer) => void;
  /** The S3 surface, on an address of its own. */
  readonly s3: {
    readonly listen: { readonly host: string; readonly port: number };
    readonly onRequest: RequestListener;
    readonly onExpectContinue: RequestListener;
  } | null;
  /** The connections of all of them have one bound. */
  readonly connections: Connections;
  /** Of both TCP addresses; null: plain HTTP. */
  readonly tls: TlsIdentity | null;
}

export interface Listeners {
  /** With the real port; null without TCP. */
  readonly url: string | null;
  /** Of the S3 surface, with the real port. */
  readonly s3Url: string | null;
  /** For connections from now on; those that are open go on. Whether clients need a certificate does not change. */
  setTls(identity: TlsIdentity): void;
  /** Takes no more connections, lets requests under way end until the deadline, then cuts them. */
  close(deadlineMs: number): Promise<void>;
}

/** @throws {StoreError} `config_invalid` when an address cannot be had, `data_directory_in_use` when another node answers on the socket */
export async function openListeners(options: ListenersOptions): Promise<Listeners> {
  const servers: AnyServer[] = [];
  const { listen, socketPath, s3, tls, connections } = options;
  try {
    let url: string | null = null;
    let s3Url: string | null = null;
    if (listen !== null) {
      const server = await open(
        { ...options, tls },
        listen,
        `--listen ${listen.host}:${listen.port}`,
      );
      servers.push(server);
      url = urlOf(server);
    }
    if (s3 !== null) {
      const setting = `--s3-listen ${s3.listen.host}:${s3.listen.port}`;
      const server = await open(
        { ...s3, connections, tls: withoutClients(tls), ignoresExpectations: true },
        s3.listen,
        setting,
      );
      servers.push(server);
      s3Url = urlOf(server);
    }
    if (socketPath !== null) {
      assertTrustedParent({ path: socketPath, setting: '--socket' });
      await removeStaleSocket(socketPath);
      const plain = { ...options, tls: null };
      servers.push(await open(plain, { path: socketPath }, `--socket ${socketPath}`));
      chmodSync(socketPath, 0o660); // of the daemon's group: DESIGN, Security
    }
    return {
      ...{ url, s3Url },
      setTls: ({ context }) => {
        for (const server of servers)
          if ('setSecureContext' in server) server.setSecureContext(context);
      },
      close: async (deadlineMs) => await closeAll(servers, deadlineMs),
    };
  } catch (error) {
    await closeAll(servers, 0);
    throw error;
  }
}

type AnyServer = Server | TlsServer;

/** The S3 surface knows its clients by their access keys. */
function withoutClients(tls: TlsIdentity | null): TlsIdentity | null {
  return tls === null ? null : { ...tls, asksClients: false };
}

function urlOf(server: AnyServer): string {
  const { address, port, family } = server.address() as AddressInfo;
  const scheme = 'setSecureContext' in server ? 'https' : 'http';
  return `${scheme}://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
}

async function open(
  options: Pick<ListenersOptions, 'onRequest' | 'onExpectContinue' | 'tls' | 'connections'> &
    Partial<Pick<ListenersOptions, 'onUpgrade'>> & { readonly ignoresExpectations?: boolean },
  address: ListenOptions,
  setting: string,
): Promise<AnyServer> {
  const http = {
    maxHeaderSize: HEADER_BYTES_MAX,
    headersTimeout: HEADERS_TIMEOUT_MS,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    requestTimeout: 0, // a body may take as long as it moves; silence is bounded below
    connectionsCheckingInterval: 5_000,
    // An upgrade nobody asked us to know is ignored, as HTTP allows: Java's client offers h2c on every request.
    shouldUpgradeCallback: (request) =>
      options.onUpgrade !== undefined && request.url?.split('?', 1)[0] === PATHS.frames,
  } satisfies ServerOptions;
  const { tls } = options;
  const server =
    tls === null ? createServer(http) : createTlsServer({ ...http, ...toTlsOptions(tls) });
  if (tls !== null) keepHandshakes(server);
  server.timeout = IDLE_TIMEOUT_MS;
  server.maxHeadersCount = 0; // their bytes are bounded; beyond a count Node would leave some out, unsaid
  const { connections } = options;
  // With TLS when the handshake has ended; before, see keepHandshakes.
  server.on(tls === null ? 'connection' : 'secureConnection', (socket: Socket) => {
    endWhenHeard(socket);
    connections.add(socket);
  });
  const counted = (listener: RequestListener): RequestListener =>
    inTurn(wellFormed(whenPlaced(connections, listener)));
  server.on('request', heard(counted(options.onRequest)));
  server.on('checkContinue', heardWhenAsked(counted(options.onExpectContinue)));
  // S3 takes requests with expectations that nobody knows; elsewhere the platform answers 417.
  if (options.ignoresExpectations === true)
    server.on('checkExpectation', heard(counted(options.onRequest)));
  server.on('connect', (_request, socket) => refuseRaw(socket as Socket, 405, ALLOW));
  server.on('upgrade', (request, socket, head) => {
    const refusal = refusalOf(request);
    if (refusal !== undefined) {
      refuseRaw(socket as Socket, refusal.status);
      return;
    }
    try {
      connections.begin(socket as Socket); // until it closes
    } catch {
      refuseRaw(socket as Socket, 503);
      return;
    }
    options.onUpgrade?.(request, socket as Socket, head);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (address.path !== undefined && error.code !== 'EADDRINUSE') {
        reject(explainPathError(error, { path: address.path, setting: '--socket' }) as Error);
        return;
      }
      const reason =
        error.code === 'EADDRINUSE'
          ? `somebody listens there already: ${describeHolder(address.port === undefined ? undefined : findPortHolder(address.port))}`
          : error.code === 'EACCES'
            ? 'this user may not listen there (ports below 1024 are for root)'
            : error.message;
      reject(
        new StoreError(
          'config_invalid',
          `${setting}: ${reason}; name another`,
          { setting, reason: error.code ?? '' },
          error,
        ),
      );
    });
    server.listen(address, resolve);
  });
  server.removeAllListeners('error');
  return server;
}

const PROBES: ReadonlySet<string> = new Set([PATHS.healthz, PATHS.readyz, PATHS.metrics]);

/** Lets a request through when there is a place for it; probes have their own. */
function whenPlaced(connections: Connections, listener: RequestListener): RequestListener {
  return (request, response) => {
    const { socket } = request;
    try {
      connections.begin(socket, { isProbe: PROBES.has(request.url ?? '') });
    } catch {
      refuse(response, { status: 503, reason: 'all connections are at work; come again' });
      return;
    }
    response.once('close', () => connections.end(socket));
    listener(request, response);
  };
}

function toTlsOptions({ context, asksClients }: TlsIdentity): TlsOptions {
  return {
    ...context,
    handshakeTimeout: TLS_HANDSHAKE_MS,
    requestCert: asksClients,
    rejectUnauthorized: asksClients,
  };
}

/** A node that was killed leaves its socket file. It goes only when nobody answers on it. */
async function removeStaleSocket(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new StoreError(
      'config_invalid',
      `--socket ${path}: there is a file of this name that is no socket; name another`,
      { path },
    );
  const answers = await new Promise<boolean>((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(false);
      else
        reject(
          new StoreError('config_invalid', `--socket ${path}: ${error.message}`, { path }, error),
        );
    });
  });
  if (answers)
    throw new StoreError('data_directory_in_use', `another node answers on ${path}`, { path });
  try {
    unlinkSync(path);
  } catch (error) {
    throw explainPathError(error, { path, setting: '--socket' });
  }
}

/** Connections whose handshake has not ended, which the server does not count among its own. */
const handshakes = new WeakMap<AnyServer, Map<string, Socket>>();

function keepHandshakes(server: AnyServer): void {
  const open = new Map<string, Socket>();
  const nameOf = (socket: Socket): string => `${socket.remoteAddress} ${socket.remotePort}`;
  handshakes.set(server, open);
  server.on('connection', (socket: Socket) => {
    const name = nameOf(socket);
    // Nothing is known of the oldest but that it has not said who it is.
    if (open.size >= TLS_HANDSHAKES_MAX)
      for (const oldest of open.values()) {
        oldest.destroy();
        break;
      }
    open.set(name, socket);
    socket.once('close', () => {
      if (open.get(name) === socket) open.delete(name);
    });
  });
  server.on('secureConnection', (socket: Socket) => open.delete(nameOf(socket)));
}

async function closeAll(servers: readonly AnyServer[], deadlineMs: number): Promise<void> {
  const timer = setTimeout(() => {
    for (const server of servers) server.closeAllConnections();
  }, deadlineMs);
  await Promise.all(
    servers.map(
      (server) =>
        new Promise<void>((resolve) => {
          server.close(() => resolve());
          server.closeIdleConnections();
          for (const socket of handshakes.get(server)?.values() ?? []) socket.destroy();
        }),
    ),
  );
  clearTimeout(timer);
}
