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

/** @throws {StoreError} `node_unreachable` at once when no node answers; `request_invalid` for a bad address;
 * `config_invalid` for a certificate that is not trusted, or files that cannot be read */
export async function openClient(options: OpenClientOptions): Promise<EbbClient> {
  const given = parseNodeAddress(options.node, await readClientTls(options));
  const retry = { ...DEFAULT_RETRY, ...options.retry };
  const address = await nearestAddress(given, options.signal);
  const connection = await openFrames(address, options, retry);
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

/** The node's Unix socket, when the address is TCP on this host and the socket can be used. */
async function nearestAddress(
  given: NodeAddress,
  signal: AbortSignal | undefined,
): Promise<NodeAddress> {
  if (given.socketPath !== undefined || !isThisHost(given.origin)) return given;
  const http = createHttpClient(given, { retry: NO_RETRY });
  try {
    const { socket } = await http.json('GET', PATHS.status, statusSchema, { signal });
    if (socket === null) return given;
    await access(socket, constants.R_OK | constants.W_OK);
    return parseNodeAddress(`unix://${socket}`);
  } catch (error) {
    // Another container with the same loopback, or no rights on the socket: TCP works as well.
    if (isStoreError(error, 'node_unreachable') || isStoreError(error, 'aborted')) throw error;
    return given;
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
