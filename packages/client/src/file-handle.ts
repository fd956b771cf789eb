/**
 * An object opened as a file: read and written by position, published by `sync` and `close` (docs/files.md). The node
 * keeps the rules; what is here moves bytes, by files of this host (local-file.ts) or over HTTP (http-file.ts).
 */
import { type Ack, StoreError } from '@ebb/protocol';

/** As for node:fs. `x`: refuse when there is an object; `+`: reading and writing; `a`: every write goes to the end. */
export type FileMode = 'r' | 'r+' | 'w' | 'w+' | 'wx' | 'wx+' | 'a' | 'a+' | 'ax' | 'ax+';

export interface OpenFileOptions {
  /** ETag the object must have, now and whenever the file is published. Without it the last close wins. */
  readonly ifMatch?: string | undefined;
  /** The job that owns what is published; left out: the one of the object there is. */
  readonly jobId?: string | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface FileStat {
  readonly sizeBytes: number;
  /** Opened, or published last; null when there is none yet. */
  readonly version: number | null;
  readonly etag: string | null;
}

export interface Published {
  readonly version: number;
  readonly etag: string;
  readonly durability: Ack;
}

/**
 * Calls may run in parallel; each sees the file before or after another, never in between. Over HTTP that holds for up to
 * 1 MiB of one call.
 */
export interface FileHandle extends AsyncDisposable {
  readonly bucket: string;
  readonly key: string;
  /** Fills `target` from `position`; returns fewer bytes only at the end of the file, 0 beyond it. */
  read(target: Uint8Array, position: number): Promise<number>;
  /** Writes all of `source`; a gap before it reads as zeros. Returns where it went: a mode with `a` writes at the end. */
  write(source: Uint8Array, position: number): Promise<number>;
  /** Cuts, or grows with zeros. */
  truncate(sizeBytes: number): Promise<void>;
  stat(): Promise<FileStat>;
  /** Publishes what was written so far, at least this durable (default `disk`), and goes on. Null: there is nothing yet. */
  sync(durability?: Ack): Promise<Published | null>;
  /** Publishes what was written, as durable as the bucket promises, and closes. Null: nothing was changed. */
  close(): Promise<Published | null>;
  /** Closes, and throws away what was not published. Disposing does this too, unless the file was closed. */
  abort(): Promise<void>;
}

export interface FileFlags {
  readonly read: boolean;
  readonly write: boolean;
  readonly create: boolean;
  readonly exclusive: boolean;
  readonly truncate: boolean;
  readonly append: boolean;
}

/** @throws {StoreError} `request_invalid` */
export function parseFileMode(mode: string): FileFlags {
  const match = /^(r|[wa]x?)(\+?)$/.exec(mode);
  if (match === null)
    throw new StoreError('request_invalid', `"${mode}" is no mode to open a file in`);
  const [, kind = '', plus] = match;
  const isReader = kind === 'r';
  return {
    read: isReader || plus === '+',
    write: !isReader || plus === '+',
    create: !isReader,
    exclusive: kind.endsWith('x'),
    truncate: kind.startsWith('w'),
    append: kind.startsWith('a'),
  };
}
