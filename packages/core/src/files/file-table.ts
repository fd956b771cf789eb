/**
 * Open files, and what each holds: a lease on the version it shows, or a staged write with its own bytes.
 *
 *     open ──► shows a version (or nothing) ──write, truncate──► staged copy ──sync──► shows the version it published ─► …
 *
 * I1  A file shows one version, or its own bytes: never a mixture, and never what others publish meanwhile.
 * I2  Nothing is visible to others before `sync` or `close`; each publishes all bytes as one version, or none.
 * I3  The copy of the current bytes is made at the first change that needs them, and takes no more than are kept.
 * I4  Calls on one file run one after the other. After a sync that failed the file has no bytes to go on with: every call
 *     fails as the sync did, until it is closed.
 * I5  A file lives as long as its owner, or until it was idle for `idleMs`. What it held is given back at once.
 */
import { ACKS, type Ack, isStoreError, StoreError } from '@ebb/protocol';
import type { Condition, ObjectRecord } from '../catalog/catalog.ts';
import { OPEN_FILES_MAX } from '../limits.ts';
import { parseAnyBucketName, parseKey } from '../object-ref.ts';
import { durabilityOf, meets } from '../placement/policy.ts';
import type {
  Committed,
  ObjectRef,
  OpenedObject,
  Owner,
  StagedWrite,
} from '../store/object-store.ts';
import type { StoreParts } from '../store/parts.ts';
import type { ReadPath } from '../store/read-path.ts';
import type { WritePath } from '../store/write-path.ts';
import { copyExtents } from './copy-extents.ts';
import type {
  FileOpenOptions,
  FileSync,
  Files,
  FileView,
  OpenedFile,
  PublishedFile,
} from './files.ts';

const NOTHING = Buffer.alloc(0);

interface OpenFile {
  readonly fileId: number;
  readonly owner: Owner;
  readonly ref: ObjectRef;
  readonly options: FileOpenOptions;
  /** Of the object as it was opened: a new version keeps what the options do not say. */
  readonly former: ObjectRecord | undefined;
  /** The version it shows; undefined while it is empty or staged. */
  base: OpenedObject | undefined;
  staged: StagedWrite | undefined;
  sizeBytes: number;
  isDirty: boolean;
  /** Opened, or published last. */
  version: number | null;
  etag: string | null;
  condition: Condition;
  /** The last call under way, never rejecting. */
  last: Promise<void>;
  calls: number;
  failure: { readonly error: unknown } | undefined;
  deadlineMs: number;
}

export interface FileTableParts extends StoreParts {
  readonly reads: ReadPath;
  readonly writes: WritePath;
  /** Brings a version that is there to this durability, and tells what holds. */
  readonly promise: (object: ObjectRecord, ack: Ack) => Promise<Ack>;
}

export class FileTable implements Files {
  readonly #parts: FileTableParts;
  readonly #files = new Map<number, OpenFile>();
  readonly #byOwner = new Map<number, Set<OpenFile>>();

  constructor(parts: FileTableParts) {
    this.#parts = parts;
  }

  get size(): number {
    return this.#files.size;
  }

  async open(owner: Owner, ref: ObjectRef, options: FileOpenOptions): Promise<OpenedFile> {
    assertFlags(options);
    if (this.#files.size >= OPEN_FILES_MAX)
      throw new StoreError('busy', `${OPEN_FILES_MAX} files are open already`, {
        retryAfterMs: 1000,
      });
    parseAnyBucketName(ref.bucket);
    parseKey(ref.key);
    const { reads, awake } = this.#parts;
    const { former, base } = await this.#openBase(owner, ref, options);
    try {
      assertMayOpen(ref, former, options);
      const fileId = this.#parts.takeId() ?? (await this.#parts.nextId());
      if (!this.#parts.owners.has(owner.ownerId))
        throw new StoreError('aborted', `${owner.name} is gone: nobody would close this file`);
      const file: OpenFile = {
        ...{ fileId, owner, ref, options, former, base },
        staged: undefined,
        sizeBytes: base?.object.sizeBytes ?? 0,
        isDirty: former === undefined || (options.truncate === true && former.sizeBytes > 0),
        version: former?.version ?? null,
        etag: former?.etag ?? null,
        condition: firstCondition(options),
        last: Promise.resolve(),
        calls: 0,
        failure: undefined,
        deadlineMs: awake.now() + (options.idleMs ?? 0),
      };
      this.#files.set(fileId, file);
      const owned = this.#byOwner.get(owner.ownerId);
      if (owned === undefined) this.#byOwner.set(owner.ownerId, new Set([file]));
      else owned.add(file);
      return { ...viewOf(file), opened: base };
    } catch (error) {
      if (base !== undefined) reads.release(owner, [base.leaseId]);
      throw error;
    }
  }

  stat(owner: Owner, fileId: number): FileView {
    return viewOf(this.#get(owner, fileId));
  }

  async read(owner: Owner, fileId: number, target: Uint8Array, position: number): Promise<number> {
    const file = this.#get(owner, fileId);
    if (file.options.read !== true) throw wrongMode(file, 'reading');
    assertPosition(position);
    return await this.#inTurn(file, async () => {
      const length = Math.max(0, Math.min(target.byteLength, file.sizeBytes - position));
      if (length === 0) return 0;
      const wanted = target.subarray(0, length);
      const { reads, writes } = this.#parts;
      if (file.staged !== undefined)
        await writes.readStaged(owner, file.staged.writeId, wanted, position);
      else await reads.read(owner, leaseOf(file), wanted, position);
      return length;
    });
  }

  async write(owner: Owner, fileId: number, source: Uint8Array, position: number): Promise<number> {
    const file = this.#getWritable(owner, fileId);
    assertPosition(position);
    return await this.#inTurn(file, async () => {
      const at = file.options.append === true ? file.sizeBytes : position;
      if (source.byteLength === 0) return at;
      const end = at + source.byteLength;
      const staged = await this.#staged(file, { reserveBytes: end, keepBytes: file.sizeBytes });
      await this.#parts.writes.write(owner, staged.writeId, source, at);
      file.sizeBytes = Math.max(file.sizeBytes, end);
      file.isDirty = true;
      return at;
    });
  }

  async truncate(owner: Owner, fileId: number, sizeBytes: number): Promise<void> {
    const file = this.#getWritable(owner, fileId);
    assertPosition(sizeBytes);
    await this.#inTurn(file, async () => {
      const { writes } = this.#parts;
      if (sizeBytes > file.sizeBytes) {
        const room = { reserveBytes: sizeBytes, keepBytes: file.sizeBytes };
        const { writeId } = await this.#staged(file, room);
        await writes.write(owner, writeId, NOTHING, sizeBytes); // fills the gap with zeros
      } else if (sizeBytes < file.sizeBytes && file.staged !== undefined)
        writes.setWritten(owner, file.staged.writeId, sizeBytes);
      else if (sizeBytes === 0) this.#dropBase(file);
      if (sizeBytes !== file.sizeBytes) file.isDirty = true;
      file.sizeBytes = sizeBytes;
    });
  }

  async stage(
    owner: Owner,
    fileId: number,
    { reserveBytes, keepBytes }: { readonly reserveBytes: number; readonly keepBytes: number },
  ): Promise<StagedWrite> {
    const file = this.#getWritable(owner, fileId);
    assertPosition(keepBytes);
    return await this.#inTurn(file, async () => {
      const needBytes = Math.max(reserveBytes, keepBytes);
      const former = file.staged;
      if (former === undefined) {
        assertKept(file, keepBytes);
        file.isDirty ||= keepBytes !== file.sizeBytes;
        file.sizeBytes = keepBytes;
        return await this.#staged(file, { reserveBytes: needBytes, keepBytes });
      }
      const room = { needBytes, writtenBytes: keepBytes };
      const staged = await this.#parts.writes.makeRoom(owner, former.writeId, room);
      file.staged = staged;
      return staged;
    });
  }

  async sync(owner: Owner, fileId: number, options: FileSync): Promise<PublishedFile | undefined> {
    const file = this.#get(owner, fileId);
    assertAck(options.ack);
    return await this.#inTurn(file, () => this.#sync(file, options));
  }

  async close(owner: Owner, fileId: number, options: FileSync): Promise<PublishedFile | undefined> {
    const file = this.#get(owner, fileId);
    assertAck(options.ack);
    try {
      return await this.#inTurn(file, async () => {
        noteSize(file, options);
        return file.isDirty || options.ack !== undefined
          ? await this.#sync(file, options)
          : undefined;
      });
    } finally {
      this.#end(file);
    }
  }

  async abort(owner: Owner, fileId: number): Promise<void> {
    const file = this.#files.get(fileId);
    if (file?.owner.ownerId !== owner.ownerId) return;
    this.#end(file);
    await file.last; // a commit that was under way ends by itself
  }

  /** Before the store drops what the owner has staged and leased. */
  dropOwner(owner: Owner): void {
    for (const file of this.#byOwner.get(owner.ownerId) ?? []) this.#files.delete(file.fileId);
    this.#byOwner.delete(owner.ownerId);
  }

  /** Gives up idle files, and keeps alive what the others hold (I5). */
  sweep(): void {
    const { awake, writes, reads } = this.#parts;
    const now = awake.now();
    for (const file of this.#files.values()) {
      const isIdle = file.options.idleMs !== undefined && file.deadlineMs <= now;
      if (isIdle && file.calls === 0) this.#end(file);
      else if (file.staged !== undefined) writes.keepAlive(file.owner, file.staged.writeId);
      else if (file.base !== undefined) reads.keepAlive(file.base.leaseId);
    }
  }

  async #openBase(
    owner: Owner,
    ref: ObjectRef,
    { create, truncate }: FileOpenOptions,
  ): Promise<{ former: ObjectRecord | undefined; base: OpenedObject | undefined }> {
    const { reads } = this.#parts;
    try {
      // Its bytes are of no interest, and may even be lost.
      if (truncate === true) {
        const former = (await reads.find(ref))?.object;
        if (former === undefined) throw await reads.notFound(ref);
        return { former, base: undefined };
      }
      const base = await reads.open(owner, ref);
      return { former: base.object, base };
    } catch (error) {
      if (create === true && isStoreError(error, 'not_found'))
        return { former: undefined, base: undefined };
      throw error;
    }
  }

  /** The file's own bytes, made from the version it shows if it has none yet (I3). */
  async #staged(
    file: OpenFile,
    { reserveBytes, keepBytes }: { readonly reserveBytes: number; readonly keepBytes: number },
  ): Promise<StagedWrite> {
    if (file.staged !== undefined) return file.staged;
    const { writes, reads } = this.#parts;
    const { owner, ref, base } = file;
    const jobId = file.options.jobId ?? file.former?.jobId ?? undefined;
    const staged = await writes.stage(owner, ref, {
      reserveBytes: Math.max(reserveBytes, keepBytes),
      ...(jobId === undefined ? {} : { jobId }),
    });
    try {
      if (base !== undefined && keepBytes > 0) {
        const readBlob: ReadPath['readBlob'] = (blobId, target, position) =>
          reads.readBlob(blobId, target, position, owner);
        await copyExtents(this.#parts, readBlob, base, { bytes: keepBytes, to: staged });
      }
      writes.setWritten(owner, staged.writeId, keepBytes);
      if (this.#files.get(file.fileId) !== file) throw notOpen(file.fileId);
    } catch (error) {
      writes.abort(owner, staged.writeId);
      throw error;
    }
    file.staged = staged;
    this.#dropBase(file);
    return staged;
  }

  async #sync(file: OpenFile, options: FileSync): Promise<PublishedFile | undefined> {
    noteSize(file, options);
    if (file.isDirty) return await this.#publish(file, options);
    const { reads } = this.#parts;
    const view = await reads.find(file.ref);
    // Replaced or deleted: it is nobody's concern any more how durable it was.
    if (view === undefined || view.object.version !== file.version) return undefined;
    const { version, etag, sizeBytes } = view.object;
    const { ack } = options;
    const durability =
      ack === undefined ? view.durability : await this.#raiseDurability(view.object, ack);
    return { version, etag, sizeBytes, durability };
  }

  /** @throws `tier_full` when there is no room for the copy that this takes */
  async #raiseDurability(object: ObjectRecord, ack: Ack): Promise<Ack> {
    const { promise, catalog } = this.#parts;
    const durability = await promise(object, ack);
    for (const { blobId, length } of object.extents) {
      const blob = await catalog.findBlob(blobId);
      if (blob !== undefined && !meets(durabilityOf(blob), ack))
        throw new StoreError(
          'tier_full',
          `no room for a copy of ${object.bucket}/${object.key} that is durable as ${ack}`,
          { needBytes: length, ack },
        );
    }
    // In a bucket that promises memory, a view does not count copies on disk; these were just synced.
    return meets(durability, ack) ? durability : ack;
  }

  async #publish(file: OpenFile, { ack, crc32c, sizeBytes }: FileSync): Promise<PublishedFile> {
    const { writes, reads } = this.#parts;
    const { owner, options, former } = file;
    const kept = { reserveBytes: file.sizeBytes, keepBytes: file.sizeBytes };
    const staged = await this.#staged(file, kept);
    if (sizeBytes !== undefined) writes.setWritten(owner, staged.writeId, sizeBytes);
    const hold = file.sizeBytes === 0 ? undefined : reads.holdStaged(writes.where(owner, staged));
    let committed: Committed;
    try {
      committed = await writes.commit(owner, staged.writeId, {
        sizeBytes: file.sizeBytes,
        contentType: options.contentType ?? former?.contentType ?? 'application/octet-stream',
        metadata: options.metadata ?? former?.metadata ?? {},
        ...file.condition,
        ...(ack === undefined ? {} : { ack }),
        ...(crc32c === undefined || file.sizeBytes === 0 ? {} : { crc32c }),
      });
    } catch (error) {
      hold?.giveBack();
      file.staged = undefined;
      file.failure = { error };
      throw error;
    }
    const { object, durability } = committed;
    file.staged = undefined;
    file.isDirty = false;
    file.version = object.version;
    file.etag = object.etag;
    file.condition = options.ifMatch === undefined ? {} : { ifMatch: object.etag };
    // Its owner may have gone or given it up meanwhile: then nobody reads on.
    if (this.#files.get(file.fileId) === file) file.base = hold?.keep(owner, object);
    else hold?.giveBack();
    return { version: object.version, etag: object.etag, sizeBytes: object.sizeBytes, durability };
  }

  /** Runs after the calls before it (I4). */
  async #inTurn<T>(file: OpenFile, work: () => Promise<T>): Promise<T> {
    file.calls++;
    const run = file.last.then(async () => {
      if (file.failure !== undefined) throw file.failure.error;
      if (this.#files.get(file.fileId) !== file) throw notOpen(file.fileId);
      return await work();
    });
    file.last = run.then(
      () => undefined,
      () => undefined,
    );
    try {
      return await run;
    } finally {
      file.calls--;
      file.deadlineMs = this.#parts.awake.now() + (file.options.idleMs ?? 0);
    }
  }

  #dropBase(file: OpenFile): void {
    if (file.base !== undefined) this.#parts.reads.release(file.owner, [file.base.leaseId]);
    file.base = undefined;
  }

  #end(file: OpenFile): void {
    if (!this.#files.delete(file.fileId)) return;
    const owned = this.#byOwner.get(file.owner.ownerId);
    owned?.delete(file);
    if (owned?.size === 0) this.#byOwner.delete(file.owner.ownerId);
    if (file.staged !== undefined) this.#parts.writes.abort(file.owner, file.staged.writeId);
    this.#dropBase(file);
  }

  #get(owner: Owner, fileId: number): OpenFile {
    const file = this.#files.get(fileId);
    if (file?.owner.ownerId !== owner.ownerId) throw notOpen(fileId);
    return file;
  }

  #getWritable(owner: Owner, fileId: number): OpenFile {
    const file = this.#get(owner, fileId);
    if (file.options.write !== true) throw wrongMode(file, 'writing');
    return file;
  }
}

function viewOf({ fileId, ref, sizeBytes, version, etag, isDirty }: OpenFile): FileView {
  return { ...{ fileId, sizeBytes, version, etag, isDirty }, bucket: ref.bucket, key: ref.key };
}

function leaseOf({ base, fileId }: OpenFile): number {
  if (base === undefined) throw notOpen(fileId);
  return base.leaseId;
}

/** An owner that writes the file itself tells its size when it publishes. */
function noteSize(file: OpenFile, { sizeBytes }: FileSync): void {
  if (sizeBytes === undefined || file.options.write !== true) return;
  assertPosition(sizeBytes);
  if (file.staged === undefined) {
    if (sizeBytes === file.sizeBytes) return;
    assertKept(file, sizeBytes);
  }
  file.sizeBytes = sizeBytes;
  file.isDirty = true;
}

function assertKept(file: OpenFile, keepBytes: number): void {
  if (keepBytes > file.sizeBytes)
    throw new StoreError(
      'range_invalid',
      `${keepBytes} bytes kept of a file of ${file.sizeBytes}`,
      { keepBytes, sizeBytes: file.sizeBytes },
    );
}

function firstCondition({ exclusive, ifMatch }: FileOpenOptions): Condition {
  if (exclusive === true) return { ifNoneMatch: true };
  return ifMatch === undefined ? {} : { ifMatch };
}

function assertFlags(options: FileOpenOptions): void {
  const { read, write, create, exclusive, truncate, append, ifMatch } = options;
  if (read !== true && write !== true)
    throw new StoreError('request_invalid', 'a file is opened for reading, writing, or both');
  if (write !== true && (create === true || truncate === true || append === true))
    throw new StoreError('request_invalid', 'create, truncate and append need write');
  if (exclusive === true && create !== true)
    throw new StoreError('request_invalid', 'exclusive needs create');
  if (ifMatch !== undefined && create === true)
    throw new StoreError('request_invalid', 'a condition on the version excludes create');
}

function assertMayOpen(
  { bucket, key }: ObjectRef,
  former: ObjectRecord | undefined,
  { exclusive, ifMatch }: FileOpenOptions,
): void {
  if (exclusive === true && former !== undefined)
    throw new StoreError('already_exists', `${bucket}/${key} exists`, { bucket, key });
  if (ifMatch !== undefined && former?.etag !== ifMatch)
    throw new StoreError('precondition_failed', `${bucket}/${key} is not the version named`, {
      ...{ bucket, key },
    });
}

function assertPosition(position: number): void {
  if (!Number.isSafeInteger(position) || position < 0)
    throw new StoreError('request_invalid', `${position} is no position in a file`);
}

function assertAck(ack: Ack | undefined): void {
  if (ack !== undefined && !ACKS.includes(ack))
    throw new StoreError('request_invalid', `no acknowledgement level "${String(ack)}"`);
}

function wrongMode({ ref, fileId }: OpenFile, what: string): StoreError {
  return new StoreError('request_invalid', `${ref.bucket}/${ref.key} is not open for ${what}`, {
    fileId,
  });
}

function notOpen(fileId: number): StoreError {
  return new StoreError('file_not_open', `file ${fileId} is not open for this client`, { fileId });
}
