/**
 * Open files: objects that are read and written by position, with POSIX meaning as far as immutable versions allow
 * (docs/files.md has the table). The contract; the mechanism is in file-table.ts.
 */
import type { Ack } from '@ebb/protocol';
import type { ObjectRef, OpenedObject, Owner, StagedWrite } from '../store/object-store.ts';

export interface FileFlags {
  readonly read?: boolean;
  readonly write?: boolean;
  /** Makes the object when there is none: at the first sync, or the close. */
  readonly create?: boolean;
  /** With `create`: refuses when there is an object, at the open and again when it is published. */
  readonly exclusive?: boolean;
  /** Starts empty. */
  readonly truncate?: boolean;
  /** Every write goes to the end. */
  readonly append?: boolean;
}

export interface FileOpenOptions extends FileFlags {
  /** The object must be at this ETag, at the open and whenever this file is published. Without it the last close wins. */
  readonly ifMatch?: string;
  /** Of a new version; what is left out stays as the object has it. */
  readonly jobId?: string;
  readonly contentType?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  /** Given up when no call came for this long. Left out: it lives as long as its owner. */
  readonly idleMs?: number;
}

export interface FileView extends ObjectRef {
  readonly fileId: number;
  readonly sizeBytes: number;
  /** The version that was opened, or published last; null when there is none yet. */
  readonly version: number | null;
  readonly etag: string | null;
  /** It has changes that are not published. */
  readonly isDirty: boolean;
}

export interface OpenedFile extends FileView {
  /** The version whose bytes it starts with, and a lease on them; undefined when it starts empty. */
  readonly opened: OpenedObject | undefined;
}

export interface FileSync {
  /** What must hold on return. Left out: what the bucket promises. */
  readonly ack?: Ack;
  /** Of a file that its owner writes directly (`stage`): how long it is now. */
  readonly sizeBytes?: number;
  /** CRC32C of all bytes, when the owner knows it. */
  readonly crc32c?: number;
}

export interface PublishedFile {
  readonly version: number;
  readonly etag: string;
  readonly sizeBytes: number;
  readonly durability: Ack;
}

/** Calls on one file run one after the other. All throw `file_not_open` for a file that is not open for this owner. */
export interface Files {
  /** How many are open. */
  readonly size: number;
  /** @throws `not_found`, `already_exists`, `precondition_failed`, `request_invalid`, `busy` when too many are open */
  open(owner: Owner, ref: ObjectRef, options: FileOpenOptions): Promise<OpenedFile>;
  stat(owner: Owner, fileId: number): FileView;
  /** Fills `target` from `position`; returns fewer bytes only at the end of the file, and 0 beyond it. */
  read(owner: Owner, fileId: number, target: Uint8Array, position: number): Promise<number>;
  /** Returns where the bytes went: `position`, or the end of a file that appends. A gap before it reads as zeros. */
  write(owner: Owner, fileId: number, source: Uint8Array, position: number): Promise<number>;
  /** Cuts, or grows with zeros. */
  truncate(owner: Owner, fileId: number, sizeBytes: number): Promise<void>;
  /**
   * For an owner that writes the file itself: a staged file with room for `reserveBytes` that begins with the first
   * `keepBytes` of this one. Called again when more room is needed; the file may then be another one, on another tier,
   * and what the owner wrote below `keepBytes` is in it.
   */
  stage(
    owner: Owner,
    fileId: number,
    options: { readonly reserveBytes: number; readonly keepBytes: number },
  ): Promise<StagedWrite>;
  /**
   * Publishes what was written so far as a version, and goes on. Without changes it sees to the durability alone, and is
   * undefined when there is nothing, or the version is no longer the object's.
   */
  sync(owner: Owner, fileId: number, options: FileSync): Promise<PublishedFile | undefined>;
  /** As `sync`, when there are changes; then the file is closed, whether that went well or not. */
  close(owner: Owner, fileId: number, options: FileSync): Promise<PublishedFile | undefined>;
  /** Throws away what was not published. No error when it is not open: aborting twice is fine. */
  abort(owner: Owner, fileId: number): Promise<void>;
}
