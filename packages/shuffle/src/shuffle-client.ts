/**
 * The shuffle calls of one job over one frame connection, for writers and readers of this process.
 *
 * It answers the node's `revoke`: reads of tier-0 files here begin and end within one turn of the event loop, so no read is
 * under way when a revoke is handled; the blob is noted as moved, and released at once. The next read asks where it is.
 */
import { type FrameConnection, type FrameSession, withRetry } from '@ebb/client';
import { type MapOutputRow, messages, OPS, type ShuffleRef } from '@ebb/protocol';
import { INDEX_CACHE_BYTES_DEFAULT } from './limits.ts';
import {
  openPartitionedReader,
  type PartitionedReader,
  type ReaderOptions,
} from './partitioned-reader.ts';
import {
  openPartitionedWriter,
  type PartitionedWriter,
  type WriterOptions,
} from './partitioned-writer.ts';
import type { ShuffleCalls } from './shuffle-calls.ts';
import { ShuffleView } from './shuffle-view.ts';

export interface ShuffleClientOptions {
  /** The open job that owns the shuffles. */
  readonly jobId: string;
  /** Of each shuffle's decoded index blocks, kept between readers. */
  readonly indexCacheBytes?: number;
}

export interface ShuffleClient extends AsyncDisposable {
  /** Idempotent for equal numbers. */
  register(shuffle: {
    readonly shuffleId: number;
    readonly maps: number;
    readonly partitions: number;
  }): Promise<void>;
  /** One attempt at one map's output. */
  openWriter<K = Uint8Array, V = Uint8Array>(
    options: WriterOptions<K, V>,
  ): Promise<PartitionedWriter<K, V>>;
  /** A range of partitions of a range of maps; by default all maps. */
  openReader<K = Buffer, V = Buffer>(
    options: ReaderOptions<K, V>,
  ): Promise<PartitionedReader<K, V>>;
  /** Lets go of a shuffle's files, and forgets its table. */
  release(shuffleId: number): Promise<void>;
  /** Deletes the shuffle's map outputs. */
  remove(shuffleId: number): Promise<{ readonly freedBytes: number }>;
  /** Lets go of all. The connection stays open: it is its opener's. */
  close(): Promise<void>;
}

/** The connection's push handlers are the shuffle client's from here on: one client a connection. */
export function createShuffleClient(
  connection: FrameConnection,
  options: ShuffleClientOptions,
): ShuffleClient {
  return new Client(connection, options);
}

class Client implements ShuffleClient, ShuffleCalls {
  readonly jobId: string;
  readonly connection: FrameConnection;
  readonly #options: ShuffleClientOptions;
  readonly #views = new Map<number, ShuffleView>();

  constructor(connection: FrameConnection, options: ShuffleClientOptions) {
    this.connection = connection;
    this.jobId = options.jobId;
    this.#options = options;
    connection.setHandlers({
      onRevoke: (blobIds, session) => this.#onRevoke(blobIds, session),
    });
  }

  async register(shuffle: {
    readonly shuffleId: number;
    readonly maps: number;
    readonly partitions: number;
  }): Promise<void> {
    const request = { ...shuffle, jobId: this.jobId };
    await withRetry({ idempotent: true }, () =>
      this.connection.call(OPS.shuffleRegister, messages.shuffleRegister, request),
    );
  }

  openWriter<K = Uint8Array, V = Uint8Array>(
    options: WriterOptions<K, V>,
  ): Promise<PartitionedWriter<K, V>> {
    return openPartitionedWriter(this, options);
  }

  openReader<K = Buffer, V = Buffer>(
    options: ReaderOptions<K, V>,
  ): Promise<PartitionedReader<K, V>> {
    return openPartitionedReader(this, this.#view(options.shuffleId), options);
  }

  async resolve(
    shuffleId: number,
    attemptIds: readonly number[],
    options: { readonly suspect: boolean; readonly signal?: AbortSignal | undefined },
  ): Promise<readonly MapOutputRow[]> {
    const { suspect, signal } = options;
    const request = { ...this.#ref(shuffleId), attemptIds, suspect };
    const { rows } = await withRetry({ idempotent: true, signal }, () =>
      this.connection.call(OPS.mapResolve, messages.mapResolve, request, { signal }),
    );
    return rows;
  }

  async release(shuffleId: number): Promise<void> {
    if (!this.#views.delete(shuffleId)) return;
    const session = this.connection.currentSession; // without one, the lease has ended
    await session
      ?.call(OPS.shuffleRelease, messages.shuffleRelease, this.#ref(shuffleId))
      .catch(() => undefined);
  }

  async remove(shuffleId: number): Promise<{ readonly freedBytes: number }> {
    await this.release(shuffleId);
    return await withRetry({ idempotent: true }, () =>
      this.connection.call(OPS.shuffleRemove, messages.shuffleRemove, this.#ref(shuffleId)),
    );
  }

  async close(): Promise<void> {
    await Promise.all([...this.#views.keys()].map((shuffleId) => this.release(shuffleId)));
    this.connection.setHandlers({});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #onRevoke(blobIds: readonly number[], session: FrameSession): void {
    for (const view of this.#views.values()) view.markMoved(blobIds);
    session.send(OPS.blobsReleased, messages.blobsReleased, { blobIds });
  }

  #view(shuffleId: number): ShuffleView {
    let view = this.#views.get(shuffleId);
    if (view === undefined) {
      const indexCacheBytes = this.#options.indexCacheBytes ?? INDEX_CACHE_BYTES_DEFAULT;
      view = new ShuffleView(this, { shuffleId, indexCacheBytes });
      this.#views.set(shuffleId, view);
    }
    return view;
  }

  #ref(shuffleId: number): ShuffleRef {
    return { jobId: this.jobId, shuffleId };
  }
}
