/** What the main thread asks of the worker that holds the AWS SDK (s3-worker.ts), and what comes back. */
import type { ErrorDetails, StoreErrorCode } from '@ebb/protocol';
import type { RemoteHeaders, RemoteObject, RemoteSource } from '../tier.ts';
import type { S3Target } from './s3-location.ts';

export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

export interface S3Settings {
  /** Up to here one request stores an object; beyond, a multipart upload. */
  readonly singlePutBytesMax: number;
  /** Of a multipart upload; larger where 10,000 parts would not do. */
  readonly partBytes: number;
  /** Without a byte sent or received for so long, a request has failed. */
  readonly stallMs: number;
  /** The same while the store joins parts or copies. */
  readonly serverWorkMs: number;
  readonly connectMs: number;
  readonly attempts: number;
  readonly retryDelayMs: number;
}

export interface S3TargetConfig {
  readonly targetId: number;
  readonly target: S3Target;
  /** Undefined: the SDK's own chain (environment, files, mounted tokens, the metadata service of the machine). */
  readonly credentials: S3Credentials | undefined;
  /** As PEM: the CA of the endpoint's certificate. Undefined: those that Node trusts. */
  readonly ca: string | undefined;
  /** A directory; undefined: multipart uploads of a killed process stay until the store's lifecycle rule takes them. */
  readonly uploadJournal: string | undefined;
  readonly settings: S3Settings;
}

interface KeyRun {
  readonly offset: number;
  readonly length: number;
  readonly etag?: string;
}

/**
 * What a store lacks, as its answers showed. `ignores_conditions`: it gave another object than the ETag that was asked for; Ebb
 * compares each answer by itself. `refuses_checksums`: it takes no checksum with a put; Ebb compares the MD5 that is its ETag, or
 * reads back. `refuses_conditions`: of puts and deletes; Ebb asks right before.
 */
export type S3Remark = 'ignores_conditions' | 'refuses_checksums' | 'refuses_conditions';

/** What an examination of a store found; `says` is a sentence that says what to do. */
export interface S3Observation {
  readonly check: string;
  readonly level: 'ok' | 'warn' | 'fail';
  readonly says: string;
}

/** Argument and result of each call. Keys are those of the S3 bucket. */
export interface S3Calls {
  put: {
    argument: {
      key: string;
      sources: readonly RemoteSource[];
      replaces?: string | null;
    } & RemoteHeaders;
    result: RemoteObject;
  };
  /** At most `S3_RANGE_BYTES`. */
  read: {
    argument: { key: string } & KeyRun;
    result: { bytes: Uint8Array<ArrayBuffer>; etag: string };
  };
  fetch: {
    argument: { key: string; file: string; crc32c: number | null } & KeyRun;
    result: number;
  };
  copy: { argument: { from: string; to: string } & KeyRun; result: RemoteObject };
  head: { argument: { key: string }; result: (RemoteObject & RemoteHeaders) | undefined };
  presign: { argument: { key: string; seconds: number }; result: string };
  delete: { argument: { key: string; etag?: string }; result: undefined };
  list: {
    argument: { keyPrefix: string; after?: string };
    result: { entries: readonly (RemoteObject & { key: string })[]; next: string | undefined };
  };
  examine: { argument: { keyPrefix: string }; result: readonly S3Observation[] };
  abortLeftoverUploads: { argument: Record<never, never>; result: number };
}

export type S3CallKind = keyof S3Calls;

export type S3CallOf<K extends S3CallKind = S3CallKind> = {
  [Kind in K]: { readonly kind: Kind } & Readonly<S3Calls[Kind]['argument']>;
}[K];

export type S3Request =
  | { readonly kind: 'target'; readonly config: S3TargetConfig }
  | { readonly kind: 'forget'; readonly targetId: number }
  | {
      readonly kind: 'call';
      readonly callId: number;
      readonly targetId: number;
      readonly call: S3CallOf;
    }
  | { readonly kind: 'abort'; readonly callId: number };

export type S3Reply =
  | { readonly targetId: number; readonly remark: S3Remark }
  | { readonly callId: number; readonly result: S3Calls[S3CallKind]['result'] }
  | { readonly callId: number; readonly failed: S3ReplyError };

export interface S3ReplyError {
  readonly code: StoreErrorCode;
  readonly message: string;
  readonly details: ErrorDetails;
}
