/**
 * Opens a client: finds the node, and chooses how bytes travel.
 *
 * Frames are tried on the address as given. When the HELLO shows that this process sees the node's directories, bytes go
 * through files (`path: 'local'`), else over HTTP. A client that was given a TCP address of this host changes to the node's
 * Unix socket, which it learns from the status.
 */
import { access, constants } from 'node:fs/promises';
import { isStoreError, PATHS, statusSchema } from '@ebb/protocol';
import { createClient, type EbbClient } from './client.ts';
import { type FrameConnection, openFrameConnection } from './frame-connection.ts';
import { createHttpClient } from './http-client.ts';
import { FIRST_ANSWER_MS } from './limits.ts';
import { type NodeAddress, parseNodeAddress } from './node-address.ts';
import { DEFAULT_RETRY, NO_RETRY, type RetryPolicy } from './retry.ts';
import { readClientTls, type TlsOptions } from './tls.ts';

export interface OpenClientOptions extends TlsOptions {
  /** `http://127.0.0.1:9700`, `https://node.example:9700` or `unix:///path/ebb.sock`. */
  readonly node: string;
  /** The open job that this client works for: it owns what is put, and lives while the client is connected. */
  readonly job?: string | undefined;
  /** Ends every call of this client. */
  readonly signal?: AbortSignal | undefined;
  /** `'http'`: do not use the node's files even if they are visible. Default: choose. */
  readonly path?: 'auto' | 'http' | undefined;
  /** For logs of the node. */
  readonly name?: string | undefined;
  readonly retry?: Partial<RetryPolicy> | undefined;
  readonly connectTimeoutMs?: number | undefined;
}

/** @throws {StoreError} `node_unreachable` at once when nobody listens there, within seconds when nobody answers; `request_invalid` for a bad address;
 * `config_invalid` for a certificate that is not trusted, or files that cannot be read */
export async function openClient(options: OpenClientOptions): Promise<EbbClient> {
  const given = parseNodeAddress(options.node, await readClientTls(options));
  const retry = { ...DEFAULT_RETRY, ...options.retry };
  const { address, connection } = await connectNearest(given, options, retry);
  const session = connection?.currentSession;
  const local = session?.files !== undefined && options.path !== 'http';
  return createClient({
    http: createHttpClient(address, { retry }),
    connection,
    path: local ? 'local' : 'http',
    jobId: options.job,
    retry,
    signal: options.signal,
  });
}

interface Connected {
  readonly address: NodeAddress;
  readonly connection: FrameConnection | undefined;
}

/** By the node's Unix socket where it can be used, and where the node behind it is the one at the given address. */
async function connectNearest(
  given: NodeAddress,
  options: OpenClientOptions,
  retry: RetryPolicy,
): Promise<Connected> {
  const near = await findSocket(given, options.signal);
  if (near !== undefined) {
    const connection = await openFrames(near.address, options, retry).catch(() => undefined);
    if (connection?.currentSession?.hello.nodeId === near.nodeId) {
      return { address: near.address, connection };
    }
    // The path means another socket here, or the node is just restarting.
    await connection?.close();
  }
  return { address: given, connection: await openFrames(given, options, retry) };
}

/** What the node says of its socket, when the address is TCP on this host and the socket can be used. */
async function findSocket(
  given: NodeAddress,
  signal: AbortSignal | undefined,
): Promise<{ readonly address: NodeAddress; readonly nodeId: string } | undefined> {
  if (given.socketPath !== undefined || !isThisHost(given.origin)) return undefined;
  const http = createHttpClient(given, { retry: NO_RETRY });
  try {
    const { socket, nodeId } = await http.json('GET', PATHS.status, statusSchema, {
      answerWithinMs: FIRST_ANSWER_MS,
      signal,
    });
    if (socket === null) return undefined;
    await access(socket, constants.R_OK | constants.W_OK);
    return { address: parseNodeAddress(`unix://${socket}`), nodeId };
  } catch (error) {
    // Another container with the same loopback, or no rights on the socket: TCP works as well.
    if (isStoreError(error, 'node_unreachable') || isStoreError(error, 'aborted')) throw error;
    return undefined;
  } finally {
    await http.close();
  }
}

function isThisHost(origin: string): boolean {
  const { hostname } = new URL(origin);
  return hostname === 'localhost' || hostname === '[::1]' || hostname.startsWith('127.');
}

/** undefined when something in between passes no upgrades: HTTP remains. */
async function openFrames(
  address: NodeAddress,
  options: OpenClientOptions,
  retry: RetryPolicy,
): Promise<FrameConnection | undefined> {
  try {
    return await openFrameConnection(
      {
        address,
        clientName: options.name ?? `ebb-ts/0.1.0 pid-${process.pid}`,
        jobId: options.job,
        reconnectMs: retry.unreachableMs,
        localFiles: options.path !== 'http',
        ...(options.connectTimeoutMs === undefined
          ? {}
          : { connectTimeoutMs: options.connectTimeoutMs }),
      },
      options.signal,
    );
  } catch (error) {
    if (isStoreError(error, 'unsupported')) return undefined;
    throw error;
  }
}
