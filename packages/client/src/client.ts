/** What a program does with a node. The path, node-local or HTTP, is chosen when the client is opened (open-client.ts). */
import {
  type Affected,
  affectedSchema,
  type BucketChange,
  type BucketInfo,
  type BucketPolicyInput,
  bucketInfoSchema,
  type GcResponse,
  gcResponseSchema,
  type ListResponse,
  listResponseSchema,
  type ObjectInfo,
  objectInfoSchema,
  objectPath,
  PATHS,
  type ShuffleInfo,
  type Status,
  StoreError,
  type SyncResponse,
  shuffleInfoSchema,
  statusSchema,
  syncResponseSchema,
  type VerifyResponse,
  verifyResponseSchema,
  type Why,
  whySchema,
} from '@ebb/protocol';
import type { PutBody } from './body.ts';
import { type EventStream, type EventsOptions, followEvents } from './events.ts';
import {
  type FileHandle,
  type FileMode,
  type OpenFileOptions,
  parseFileMode,
} from './file-handle.ts';
import type { FrameConnection } from './frame-connection.ts';
import { type GetOptions, type GetResult, getObject } from './get.ts';
import type { HttpClient } from './http-client.ts';
import { openHttpFile } from './http-file.ts';
import { createJobs, type Jobs } from './jobs.ts';
import { LIST_PAGE_OBJECTS } from './limits.ts';
import { listOf } from './lists.ts';
import { openLocalFile } from './local-file.ts';
import type { ObjectRef } from './object-info.ts';
import { type ObjectHandle, openHttpObject, openLocalObject } from './object-reader.ts';
import { createPrefixSnapshots, type PrefixSnapshots } from './prefix-snapshots.ts';
import {
  type Committed,
  type PutOptions,
  putObject,
  type StagedWriter,
  stageObject,
} from './put.ts';
import type { RetryPolicy } from './retry.ts';
import { createRuns, createSnapshots, type Runs, type Snapshots } from './runs.ts';
import type { StagedWriterOptions } from './staged-writer.ts';
import { type Waited, type WaitOptions, waitForObject } from './wait.ts';

export type TierName = ObjectInfo['tiers'][number];

export interface Abortable {
  readonly signal?: AbortSignal | undefined;
}

export interface ListOptions extends Abortable {
  readonly prefix?: string | undefined;
  readonly delimiter?: string | undefined;
  /** Keys after this one; the `next` of the page before. */
  readonly startAfter?: string | undefined;
  readonly limit?: number | undefined;
}

export interface MoveOptions extends Abortable {
  /** false: refuse with `already_exists` when there is an object of the new name. Default: true. */
  readonly overwrite?: boolean | undefined;
}

export interface DeletePrefixOptions extends Abortable {
  /** For good, with old versions and delete markers. */
  readonly allVersions?: boolean | undefined;
}

export interface Buckets {
  /** Idempotent for an equal policy. */
  create(name: string, policy?: BucketPolicyInput, options?: Abortable): Promise<BucketInfo>;
  /** Whether it keeps old versions. */
  change(name: string, change: BucketChange, options?: Abortable): Promise<BucketInfo>;
  get(name: string, options?: Abortable): Promise<BucketInfo>;
  list(options?: Abortable): Promise<BucketInfo[]>;
  /** @throws `bucket_not_empty` */
  delete(name: string, options?: Abortable): Promise<void>;
}

export interface EbbClient extends AsyncDisposable {
  /** Whether bytes go through files of this host or over HTTP. */
  readonly path: 'local' | 'http';
  readonly buckets: Buckets;
  readonly jobs: Jobs;
  /** Of checkpoints: what is kept of each training job. */
  readonly runs: Runs;
  /** Of a run. */
  readonly snapshots: Snapshots;
  /** Of objects and prefixes. */
  readonly prefixSnapshots: PrefixSnapshots;
  /** The connection for frequent calls, for feature packages. @throws `unsupported` when the node is behind a plain HTTP proxy */
  readonly connection: FrameConnection;

  put(bucket: string, key: string, body: PutBody, options?: PutOptions): Promise<Committed>;
  get(bucket: string, key: string, options?: GetOptions): Promise<GetResult>;
  /** Positional reads of one version, under a lease. */
  open(bucket: string, key: string, options?: Abortable): Promise<ObjectHandle>;
  /** A writer for bytes that come bit by bit; nothing is visible before its commit. */
  stage(
    bucket: string,
    key: string,
    options?: StagedWriterOptions & { readonly jobId?: string | undefined },
  ): Promise<StagedWriter>;

  /** Opens an object as a file, to read and write it by position. @throws `not_found`, `already_exists`, `precondition_failed` */
  openFile(ref: ObjectRef, mode: FileMode, options?: OpenFileOptions): Promise<FileHandle>;
  /** A directory that is there while it is empty. @throws `already_exists` */
  makeDirectory(bucket: string, path: string, options?: Abortable): Promise<void>;
  /** @throws `not_found`, `directory_not_empty` */
  removeDirectory(bucket: string, path: string, options?: Abortable): Promise<void>;

  head(bucket: string, key: string, options?: Abortable): Promise<ObjectInfo>;
  list(bucket: string, options?: ListOptions): Promise<ListResponse>;
  /** All objects, page by page. */
  listAll(bucket: string, options?: Omit<ListOptions, 'delimiter'>): AsyncGenerator<ObjectInfo>;
  /** @throws `not_found` */
  delete(
    bucket: string,
    key: string,
    options?: Abortable & { readonly ifMatch?: string | undefined },
  ): Promise<void>;
  deletePrefix(bucket: string, prefix: string, options?: DeletePrefixOptions): Promise<Affected>;
  copy(from: ObjectRef, to: ObjectRef, options?: MoveOptions): Promise<ObjectInfo>;
  rename(from: ObjectRef, to: ObjectRef, options?: MoveOptions): Promise<Affected>;
  /** Atomic. The keys are the prefixes. */
  renamePrefix(from: ObjectRef, to: ObjectRef, options?: MoveOptions): Promise<Affected>;
  pin(bucket: string, key: string, pinned: boolean, options?: Abortable): Promise<ObjectInfo>;
  relocate(bucket: string, key: string, tier: TierName, options?: Abortable): Promise<Affected>;
  relocatePrefix(
    bucket: string,
    prefix: string,
    tier: TierName,
    options?: Abortable,
  ): Promise<Affected>;

  /** Resolves when the object is as durable as asked. @throws as waitForObject (wait.ts) */
  wait(bucket: string, key: string, options?: WaitOptions): Promise<Waited>;
  /** What happens to objects; goes on over restarts of the node. Nothing is asked before it is read. */
  events(options?: EventsOptions): EventStream;

  status(options?: Abortable): Promise<Status>;
  shuffles(options?: Abortable): Promise<ShuffleInfo[]>;
  why(bucket: string, key: string, options?: Abortable): Promise<Why>;
  verify(
    options?: Abortable & {
      readonly bucket?: string | undefined;
      readonly prefix?: string | undefined;
    },
  ): Promise<VerifyResponse>;
  /**
   * Takes in what others put into the bucket in the remote tier, and the checkpoints among it. No bytes of objects are read.
   * `remove`: what went there goes here, but not so much that the remote tier looks broken, without `force`. `dryRun`: says what
   * would be done.
   */
  sync(bucket: string, options?: SyncBucketOptions): Promise<SyncResponse>;
  gc(options?: Abortable): Promise<GcResponse>;
  close(): Promise<void>;
}

interface SyncBucketOptions extends Abortable {
  readonly prefix?: string;
  readonly remove?: boolean;
  readonly force?: boolean;
  readonly dryRun?: boolean;
}

export interface ClientParts {
  readonly http: HttpClient;
  readonly connection: FrameConnection | undefined;
  readonly path: 'local' | 'http';
  readonly jobId: string | undefined;
  readonly retry: RetryPolicy;
  /** Calls without a signal of their own end with this one. */
  readonly signal: AbortSignal | undefined;
}

export function createClient(parts: ClientParts): EbbClient {
  return new Client(parts);
}

class Client implements EbbClient {
  readonly path: 'local' | 'http';
  readonly buckets: Buckets;
  readonly jobs: Jobs;
  readonly runs: Runs;
  readonly snapshots: Snapshots;
  readonly prefixSnapshots: PrefixSnapshots;
  readonly #parts: ClientParts;
  readonly #http: HttpClient;

  constructor(parts: ClientParts) {
    this.#parts = parts;
    this.#http = parts.http;
    this.path = parts.path;
    this.jobs = createJobs(parts.http);
    this.buckets = this.#createBuckets();
    const runs = {
      http: parts.http,
      open: this.open.bind(this),
      withSignal: this.#with.bind(this),
    };
    this.runs = createRuns(runs);
    this.snapshots = createSnapshots(runs);
    this.prefixSnapshots = createPrefixSnapshots(runs);
  }

  get connection(): FrameConnection {
    if (this.#parts.connection !== undefined) return this.#parts.connection;
    throw new StoreError('unsupported', 'frames do not get through to this node');
  }

  put(bucket: string, key: string, body: PutBody, options: PutOptions = {}): Promise<Committed> {
    return putObject(this.#data(), { bucket, key }, body, this.#with(options));
  }

  get(bucket: string, key: string, options: GetOptions = {}): Promise<GetResult> {
    return getObject(this.#data(), { bucket, key }, this.#with(options));
  }

  open(bucket: string, key: string, options: Abortable = {}): Promise<ObjectHandle> {
    const { connection, retry } = this.#data();
    const { signal } = this.#with(options);
    const ref = { bucket, key };
    if (connection === undefined) return openHttpObject(this.#http, ref, { signal });
    return openLocalObject(connection, ref, { retry, signal });
  }

  stage(
    bucket: string,
    key: string,
    options: StagedWriterOptions & { readonly jobId?: string | undefined } = {},
  ): Promise<StagedWriter> {
    const jobId = options.jobId ?? this.#parts.jobId;
    return stageObject(this.connection, { bucket, key }, { ...this.#with(options), jobId });
  }

  async openFile(
    ref: ObjectRef,
    mode: FileMode,
    options: OpenFileOptions = {},
  ): Promise<FileHandle> {
    const { connection, http, jobId } = this.#data();
    const flags = parseFileMode(mode);
    const withJob = { ...this.#with(options), jobId: options.jobId ?? jobId };
    return connection === undefined
      ? await openHttpFile(http, ref, flags, withJob)
      : await openLocalFile(connection, ref, flags, withJob);
  }

  async makeDirectory(bucket: string, path: string, options: Abortable = {}): Promise<void> {
    const { signal } = this.#with(options);
    await this.#http.plain('POST', PATHS.directories, { body: { bucket, path }, signal });
  }

  async removeDirectory(bucket: string, path: string, options: Abortable = {}): Promise<void> {
    const { signal } = this.#with(options);
    await this.#http.plain('DELETE', PATHS.directories, { query: { bucket, path }, signal });
  }

  /** By a list of one: the headers of HEAD tell less, and the first key with this prefix is the key itself. */
  async head(bucket: string, key: string, options: Abortable = {}): Promise<ObjectInfo> {
    const page = await this.list(bucket, { ...options, prefix: key, limit: 1 });
    const found = page.objects[0];
    if (found?.key === key) return found;
    throw new StoreError('not_found', `no object ${bucket}/${key}`, { bucket, key });
  }

  list(bucket: string, options: ListOptions = {}): Promise<ListResponse> {
    const { prefix, delimiter, startAfter, limit, signal } = this.#with(options);
    const query = { prefix, delimiter, startAfter, limit };
    return this.#http.json('GET', bucketPath(PATHS.objects, bucket), listResponseSchema, {
      query,
      signal,
    });
  }

  async *listAll(
    bucket: string,
    options: Omit<ListOptions, 'delimiter'> = {},
  ): AsyncGenerator<ObjectInfo> {
    let startAfter = options.startAfter;
    let left = options.limit ?? Number.POSITIVE_INFINITY;
    while (left > 0) {
      const limit = Math.min(left, LIST_PAGE_OBJECTS);
      const page = await this.list(bucket, { ...options, startAfter, limit });
      yield* page.objects;
      left -= page.objects.length;
      if (page.next === null) return;
      startAfter = page.next;
    }
  }

  async delete(
    bucket: string,
    key: string,
    options: Abortable & { readonly ifMatch?: string | undefined } = {},
  ): Promise<void> {
    const headers = options.ifMatch === undefined ? {} : { 'if-match': `"${options.ifMatch}"` };
    const { signal } = this.#with(options);
    await this.#http.plain('DELETE', objectPath(bucket, key), { headers, signal });
  }

  deletePrefix(
    bucket: string,
    prefix: string,
    options: DeletePrefixOptions = {},
  ): Promise<Affected> {
    const { allVersions, signal } = this.#with(options);
    return this.#http.json('DELETE', bucketPath(PATHS.objects, bucket), affectedSchema, {
      query: { prefix, allVersions: allVersions === true ? 'true' : undefined },
      idempotent: true,
      signal,
    });
  }

  copy(from: ObjectRef, to: ObjectRef, options: MoveOptions = {}): Promise<ObjectInfo> {
    const { overwrite = true, signal } = this.#with(options);
    return this.#http.json('POST', PATHS.copy, objectInfoSchema, {
      body: { from, to, overwrite },
      idempotent: overwrite,
      signal,
    });
  }

  rename(from: ObjectRef, to: ObjectRef, options: MoveOptions = {}): Promise<Affected> {
    const { overwrite = true, signal } = this.#with(options);
    return this.#http.json('POST', PATHS.rename, affectedSchema, {
      body: { from, to, prefix: false, overwrite },
      signal,
    });
  }

  renamePrefix(from: ObjectRef, to: ObjectRef, options: MoveOptions = {}): Promise<Affected> {
    const { overwrite = true, signal } = this.#with(options);
    return this.#http.json('POST', PATHS.rename, affectedSchema, {
      body: { from, to, prefix: true, overwrite },
      signal,
    });
  }

  pin(bucket: string, key: string, pinned: boolean, options: Abortable = {}): Promise<ObjectInfo> {
    const { signal } = this.#with(options);
    return this.#http.json('POST', PATHS.pin, objectInfoSchema, {
      body: { bucket, key, pinned },
      idempotent: true,
      signal,
    });
  }

  relocate(
    bucket: string,
    key: string,
    tier: TierName,
    options: Abortable = {},
  ): Promise<Affected> {
    return this.#relocate({ bucket, key, tier, prefix: false }, options);
  }

  relocatePrefix(
    bucket: string,
    prefix: string,
    tier: TierName,
    options: Abortable = {},
  ): Promise<Affected> {
    return this.#relocate({ bucket, key: prefix, tier, prefix: true }, options);
  }

  wait(bucket: string, key: string, options: WaitOptions = {}): Promise<Waited> {
    return waitForObject(this.#http, { bucket, key }, this.#with(options));
  }

  events(options: EventsOptions = {}): EventStream {
    return followEvents(this.#http, this.#with(options), this.#parts.retry);
  }

  status(options: Abortable = {}): Promise<Status> {
    return this.#http.json('GET', PATHS.status, statusSchema, this.#with(options));
  }

  shuffles(options: Abortable = {}): Promise<ShuffleInfo[]> {
    const parser = listOf('shuffles', shuffleInfoSchema);
    return this.#http.json('GET', PATHS.shuffles, parser, this.#with(options));
  }

  why(bucket: string, key: string, options: Abortable = {}): Promise<Why> {
    const { signal } = this.#with(options);
    return this.#http.json('GET', PATHS.why, whySchema, { query: { bucket, key }, signal });
  }

  verify(
    options: Abortable & {
      readonly bucket?: string | undefined;
      readonly prefix?: string | undefined;
    } = {},
  ): Promise<VerifyResponse> {
    const { bucket, prefix, signal } = this.#with(options);
    return this.#http.json('POST', PATHS.verify, verifyResponseSchema, {
      query: { bucket, prefix },
      idempotent: true,
      signal,
    });
  }

  sync(bucket: string, options: SyncBucketOptions = {}): Promise<SyncResponse> {
    const { signal, ...asked } = this.#with(options);
    return this.#http.json('POST', bucketPath(PATHS.sync, bucket), syncResponseSchema, {
      body: asked,
      idempotent: true,
      signal,
    });
  }

  gc(options: Abortable = {}): Promise<GcResponse> {
    const { signal } = this.#with(options);
    return this.#http.json('POST', PATHS.gc, gcResponseSchema, { idempotent: true, signal });
  }

  async close(): Promise<void> {
    await Promise.all([this.#parts.connection?.close(), this.#http.close()]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #relocate(
    body: { bucket: string; key: string; tier: TierName; prefix: boolean },
    options: Abortable,
  ): Promise<Affected> {
    const { signal } = this.#with(options);
    return this.#http.json('POST', PATHS.relocate, affectedSchema, {
      body,
      idempotent: true,
      signal,
    });
  }

  #createBuckets(): Buckets {
    const http = this.#http;
    return {
      create: (name, policy = {}, options = {}) =>
        http.json('PUT', bucketPath(PATHS.bucket, name), bucketInfoSchema, {
          body: policy,
          signal: this.#with(options).signal,
        }),
      change: (name, change, options = {}) =>
        http.json('POST', bucketPath(PATHS.bucket, name), bucketInfoSchema, {
          body: change,
          idempotent: true,
          signal: this.#with(options).signal,
        }),
      get: (name, options = {}) =>
        http.json('GET', bucketPath(PATHS.bucket, name), bucketInfoSchema, this.#with(options)),
      list: (options = {}) =>
        http.json('GET', PATHS.buckets, listOf('buckets', bucketInfoSchema), this.#with(options)),
      delete: async (name, options = {}) => {
        const { signal } = this.#with(options);
        await http.plain('DELETE', bucketPath(PATHS.bucket, name), { signal });
      },
    };
  }

  /** Bytes go by frames and files only where the files are seen; else HTTP streams better. */
  #data() {
    const { http, retry, jobId, connection, path } = this.#parts;
    return { http, retry, jobId, connection: path === 'local' ? connection : undefined };
  }

  #with<T extends Abortable>(options: T): T {
    const own = this.#parts.signal;
    if (own === undefined) return options;
    const signal = options.signal === undefined ? own : AbortSignal.any([own, options.signal]);
    return { ...options, signal };
  }
}

function bucketPath(template: string, bucket: string): string {
  return template.replace('{bucket}', encodeURIComponent(bucket));
}
