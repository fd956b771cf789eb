/**
 * Tier 2 on an object store: S3, or what speaks its protocol. An object `bucket/key` is the S3 object `prefix/bucket/key`, or
 * `prefix/key` in a tier for one bucket: readable with any S3 client when Ebb is gone.
 *
 * This is the main thread's half, which does no work of its own: the network, the SDK and the checksums are in one worker
 * thread of the process (s3-thread.ts, s3-worker.ts). What the worker promises stands in s3-upload.ts, s3-multipart.ts,
 * s3-download.ts and s3-copy.ts.
 *
 * Opening asks nothing of the store, so that a node starts while it is away.
 */
import { randomBytes } from 'node:crypto';
import { assert, StoreError } from '@ebb/protocol';
import {
  S3_ATTEMPTS,
  S3_CONNECT_MS,
  S3_PART_BYTES,
  S3_RANGE_BYTES,
  S3_RETRY_DELAY_MS,
  S3_SERVER_WORK_MS,
  S3_SINGLE_PUT_BYTES_MAX,
  S3_STALL_MS,
} from '../../limits.ts';
import type {
  RemoteDeleteOptions,
  RemoteHeaders,
  RemoteListOptions,
  RemoteObject,
  RemotePutOptions,
  RemoteReadOptions,
  RemoteRun,
  RemoteSource,
  RemoteTier,
} from '../tier.ts';
import { formatS3Location, type S3Target } from './s3-location.ts';
import { createS3Names, type S3Layout, type S3Names } from './s3-names.ts';
import { PageGuard } from './s3-pages.ts';
import type {
  S3CallKind,
  S3CallOf,
  S3Calls,
  S3Credentials,
  S3Observation,
  S3Remark,
  S3Settings,
} from './s3-protocol.ts';
import { type S3Thread, sharedS3Thread } from './s3-thread.ts';

export interface S3TierOptions {
  readonly target: S3Target;
  /** Undefined: the SDK's own chain finds them (environment, files, mounted tokens, the metadata service of the machine). */
  readonly credentials?: S3Credentials | undefined;
  /** As PEM: the CA of the endpoint's certificate, in place of those that Node trusts. */
  readonly ca?: string | undefined;
  readonly names: S3Layout;
  /** With `names: 'key'`: the bucket that the tier serves. Names of others are not accepted and not found. */
  readonly bucket?: string;
  /**
   * Absolute; a directory of this node alone, made if missing. Multipart uploads are noted there until they end, so that those
   * of a killed process are aborted by the next. Without it they stay in the store.
   */
  readonly uploadJournal?: string;
  /** What the store turns out to lack, each once for a worker's life. */
  readonly onRemark?: (remark: S3Remark) => void;
  /** For tests. */
  readonly settings?: Partial<S3Settings>;
  /** For tests that end the worker. */
  readonly thread?: S3Thread;
}

export interface S3Tier extends RemoteTier {
  /**
   * Aborts the multipart uploads that stand in the journal and that nobody works on: the next put does it by itself.
   * Returns how many. Nobody else's is ever touched.
   */
  abortLeftoverUploads(): Promise<number>;
  /**
   * Tries out what the tier needs of the store, under `PREFIX/.ebb/doctor-…/`, without a prefix `.ebb-doctor-…/`, and removes that again, also when it is aborted.
   * @throws `aborted`
   */
  examine(signal?: AbortSignal): Promise<readonly S3Observation[]>;
}

const DEFAULT_SETTINGS: S3Settings = {
  singlePutBytesMax: S3_SINGLE_PUT_BYTES_MAX,
  partBytes: S3_PART_BYTES,
  stallMs: S3_STALL_MS,
  serverWorkMs: S3_SERVER_WORK_MS,
  connectMs: S3_CONNECT_MS,
  attempts: S3_ATTEMPTS,
  retryDelayMs: S3_RETRY_DELAY_MS,
};

export function openS3Tier(options: S3TierOptions): S3Tier {
  return new ObjectStoreTier(options);
}

class ObjectStoreTier implements S3Tier {
  readonly location: string;
  readonly #names: S3Names;
  readonly #root: string;
  readonly #thread: S3Thread;
  readonly #targetId: number;

  constructor(options: S3TierOptions) {
    const { target, names: layout, bucket, credentials, uploadJournal, ca } = options;
    this.location = formatS3Location(target);
    this.#root = target.prefix === '' ? '' : `${target.prefix}/`;
    this.#names = createS3Names({
      ...{ prefix: target.prefix, layout },
      ...(bucket === undefined ? {} : { bucket }),
    });
    this.#thread = options.thread ?? sharedS3Thread;
    this.#targetId = this.#thread.register(
      {
        ...{ target, credentials, uploadJournal, ca },
        settings: { ...DEFAULT_SETTINGS, ...options.settings },
      },
      options.onRemark,
    );
  }

  async put(
    name: string,
    sources: readonly RemoteSource[],
    options: RemotePutOptions = {},
  ): Promise<RemoteObject> {
    const { contentType = 'application/octet-stream', metadata = {}, signal, replaces } = options;
    const key = this.#newKey(name);
    const condition = replaces === undefined ? {} : { replaces };
    const put = { kind: 'put', key, sources, contentType, metadata, ...condition } as const;
    return await this.#call(put, signal);
  }

  async read(
    name: string,
    target: Uint8Array,
    position: number,
    { etag, signal }: RemoteReadOptions = {},
  ): Promise<void> {
    const key = this.#key(name);
    // All pieces of the content that the first one is of.
    let pinned = etag;
    for (let done = 0; done === 0 || done < target.length; done += S3_RANGE_BYTES) {
      const length = Math.min(target.length - done, S3_RANGE_BYTES);
      const range = { key, offset: position + done, length };
      const piece = await this.#call(
        { kind: 'read', ...range, ...(pinned === undefined ? {} : { etag: pinned }) },
        signal,
      );
      assert(piece.bytes.length === length, 'a range has the length that was asked for');
      target.set(piece.bytes, done);
      pinned = piece.etag;
    }
  }

  async fetch(name: string, file: string, run: RemoteRun): Promise<number> {
    const { offset, length, crc32c, etag, signal } = run;
    const range = { offset, length, crc32c, ...(etag === undefined ? {} : { etag }) };
    return await this.#call({ kind: 'fetch', key: this.#key(name), file, ...range }, signal);
  }

  async copy(
    from: string,
    to: string,
    run: Omit<RemoteRun, 'crc32c' | 'signal'>,
  ): Promise<RemoteObject> {
    const { offset, length, etag } = run;
    const keys = { to: this.#newKey(to), from: this.#key(from) };
    const range = { offset, length, ...(etag === undefined ? {} : { etag }) };
    return await this.#call({ kind: 'copy', ...keys, ...range });
  }

  async head(name: string): Promise<(RemoteObject & RemoteHeaders) | undefined> {
    const key = this.#names.findKey(name);
    return key === undefined ? undefined : await this.#call({ kind: 'head', key });
  }

  async presign(
    name: string,
    { seconds }: { readonly seconds: number },
  ): Promise<string | undefined> {
    const key = this.#names.findKey(name);
    return key === undefined ? undefined : await this.#call({ kind: 'presign', key, seconds });
  }

  async delete(name: string, { etag, signal }: RemoteDeleteOptions = {}): Promise<void> {
    const key = this.#names.findKey(name);
    if (key === undefined) return;
    const condition = etag === undefined ? {} : { etag };
    await this.#call({ kind: 'delete', key, ...condition }, signal);
  }

  accepts(name: string): boolean {
    return this.#names.accepts(name);
  }

  async *list(
    prefix: string,
    { signal, pagesMax }: RemoteListOptions = {},
  ): AsyncIterable<RemoteObject & { readonly name: string }> {
    const listing = this.#names.findListing(prefix);
    if (listing === undefined) return;
    const { keyPrefix } = listing;
    const guard = new PageGuard(`listing ${keyPrefix} at ${this.location}`, pagesMax);
    for (let after: string | undefined, isFirst = true; isFirst || after !== undefined; ) {
      const page: S3Calls['list']['result'] = await this.#call(
        { ...{ kind: 'list', keyPrefix }, ...(after === undefined ? {} : { after }) },
        signal,
      );
      for (const { key, ...object } of page.entries) {
        const name = listing.findName(key);
        if (name !== undefined) yield { name, ...object };
      }
      guard.check(page);
      after = page.next;
      isFirst = false;
    }
  }

  async abortLeftoverUploads(): Promise<number> {
    return await this.#call({ kind: 'abortLeftoverUploads' });
  }

  async examine(signal?: AbortSignal): Promise<readonly S3Observation[]> {
    // An Ebb node as the store keeps `.ebb/` at the root of a bucket for itself.
    const place = this.#root === '' ? '.ebb-doctor-' : `${this.#root}.ebb/doctor-`;
    const keyPrefix = `${place}${randomBytes(6).toString('hex')}/`;
    return await this.#call({ kind: 'examine', keyPrefix }, signal);
  }

  async close(): Promise<void> {
    await this.#thread.forget(this.#targetId);
  }

  async #call<K extends S3CallKind>(
    call: S3CallOf<K>,
    signal?: AbortSignal,
  ): Promise<S3Calls[K]['result']> {
    return await this.#thread.call(this.#targetId, call, signal);
  }

  /** @throws `data_lost` */
  #key(name: string): string {
    const key = this.#names.findKey(name);
    if (key !== undefined) return key;
    throw new StoreError('data_lost', `no object ${JSON.stringify(name)} in tier 2`, { name });
  }

  /** @throws `name_invalid` */
  #newKey(name: string): string {
    const key = this.#names.accepts(name) ? this.#names.findKey(name) : undefined;
    if (key !== undefined) return key;
    const message = `${JSON.stringify(name)} cannot be a key of tier 2: a segment is empty, . or .., or too long, or it is another bucket's`;
    throw new StoreError('name_invalid', message, { name });
  }
}
