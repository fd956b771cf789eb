/**
 * Sends what happens to the names of mirrored buckets to tier 2, behind the writer's back: a version to be stored, a name to
 * be deleted. What is still to be sent is the catalog's spool, entered with the change itself, so nothing is lost with the
 * process, and after an outage all goes on where it stopped.
 *
 * I1  One name is sent by one at a time, its states in order; the last one is what stays.
 * I2  An object is stored under its own name as one plain object, whatever blobs it lies in, and verified before its blobs
 *     count as stored there.
 *     An object of an encrypted bucket is there as the segments of its extents, one behind the other. One whose name the store
 *     cannot have is there blob by blob, under private names.
 * I3  Before a name is overwritten or deleted in tier 2, blobs that live on elsewhere and lie there are copied to a
 *     private name, or found in another object: no byte that somebody still needs goes with a name.
 * I4  Nothing is done to a name in tier 2 before the change that asks for it is durable: a power cut that takes the change back
 *     finds what was there before.
 * I5  What fails is tried again, after a growing pause (pauses.ts), in which others get their turn; a target that does not answer is
 *     asked by one at a time. An object that has no good copy left cannot be stored, ever: it is given up, and
 *     `ebb verify` names it. What the place of a put answers never says that: only a bad or missing source does, and of one in
 *     tier 2 two different questions (still-there.ts).
 * I6  Others put, change and delete objects in tier 2 too. What is deleted there is what this node put or saw there
 *     (known-object.ts), and a version that comes back without a write of its own is stored over nothing else. What others have put
 *     in its place stays: a deletion is over then, and a version gives way to theirs (`follow`).
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import PQueue from 'p-queue';
import type {
  BlobRecord,
  Catalog,
  Extent,
  ObjectRecord,
  RemoteCopy,
  SpoolEntry,
} from '../catalog/catalog.ts';
import type { Clock } from '../clock.ts';
import { sealedSize } from '../encryption/frames.ts';
import { storedSize } from '../encryption/vault.ts';
import { SMALL_MOVE_BYTES_MAX } from '../limits.ts';
import { bucketOfVersions } from '../object-ref.ts';
import type { LifeLog } from '../store/life-log.ts';
import { orAborted } from '../store/or-aborted.ts';
import { isStillThere } from '../tier/still-there.ts';
import type { RemoteObject, RemoteSource, RemoteTier } from '../tier/tier.ts';
import type { BlobPlacement, HeldFile, Place } from './blob-placement.ts';
import { contentOf, type Known, lookAt } from './known-object.ts';
import { Pauses, type Subject } from './pauses.ts';
import type { PrivateCopies } from './private-copies.ts';
import { NO_OWN_NAME, ownName, privateNameBeside } from './remote-names.ts';
import { isSealedBlob, type SealedCopies } from './sealed-copies.ts';

const SENDS_AT_ONCE = 4;
/** A send that ends finds the next entry waiting: the queue is filled up to QUEUED_MAX when fewer than QUEUED_MIN are left. */
const QUEUED_MAX = 32;
const QUEUED_MIN = 8;
const PAGE = 256;
/** Entries passed over in one look through the spool, which takes some milliseconds then. */
const SKIPPED_MAX = 1024;
const SPOOL_FAILED_PAUSE_MS = 30_000;

export interface MirrorParts {
  readonly nodeId: string;
  readonly catalog: Catalog;
  readonly placement: BlobPlacement;
  readonly remote: RemoteTier;
  readonly clock: Clock;
  readonly log: LifeLog;
  readonly sealed: SealedCopies;
  readonly privateCopies: PrivateCopies;
  /** Compares a file of a blob on disk as a whole. @throws `data_corrupt` */
  readonly compareFile: (blob: BlobRecord, file: string) => Promise<void>;
  /** No local file is lost while the directory of its tier is away. @throws `io_failed` */
  readonly assertLocalThere: () => void;
  readonly onMoved: (move: { from: Place; to: Place; bytes: number }) => void;
  /** A name's turn is over: it was stored, deleted, given up, or has to wait for another try. */
  readonly onSent: (name: { readonly bucket: string; readonly key: string }) => void;
  /** Others put something else under the name, and it stays. */
  readonly onKept: (name: string) => void;
  /** Takes in what others put under the name of this entry, in place of the version that was to be stored. */
  readonly follow: (entry: SpoolEntry) => Promise<void>;
  readonly onError: (error: unknown, subject: string) => void;
}

/** An object's bytes in local files, which are not given to others before `release`. */
interface HeldObject {
  readonly sources: readonly RemoteSource[];
  readonly from: Place;
  release(): void;
}

export class Mirror {
  readonly #parts: MirrorParts;
  readonly #queue = new PQueue({ concurrency: SENDS_AT_ONCE });
  /** Small ones that somebody waits for: not behind large ones. */
  readonly #waitedFor = new PQueue({ concurrency: SENDS_AT_ONCE });
  /** Names that wait in the queue. */
  readonly #queued = new Set<string>();
  /** Names that are being sent (I1). */
  readonly #sending = new Map<string, Promise<void>>();
  readonly #stop = new AbortController();
  readonly #pauses: Pauses;
  readonly #idle = new Set<() => void>();
  #pumping: Promise<void> | undefined;
  #isDirty = false;
  /** Nearly all that waits is for targets that do not answer: no look through all of it before one may be asked again. */
  #skipUntilMs = 0;

  constructor(parts: MirrorParts) {
    this.#parts = parts;
    this.#pauses = new Pauses({
      clock: parts.clock,
      signal: this.#stop.signal,
      onOver: () => this.wake(),
    });
  }

  /** The spool may have grown: begins to send, if that is not under way. */
  wake(): void {
    this.#isDirty = true;
    if (this.#stop.signal.aborted || this.#parts.clock.monotonic() < this.#skipUntilMs) return;
    this.#pumping ??= this.#pump().finally(() => {
      this.#pumping = undefined;
      if (this.#isDirty) this.wake();
    });
  }

  /**
   * Sends what waits of one name, now. Resolves when nothing does.
   * @throws what the attempt failed with; it goes on in the background
   */
  async flush({ bucket, key }: Pick<ObjectRecord, 'bucket' | 'key'>): Promise<void> {
    const { catalog } = this.#parts;
    for (;;) {
      const entry = await catalog.findSpooled(bucket, key);
      if (entry === undefined) return;
      if (this.#stop.signal.aborted) throw stopped(entry);
      const sending = this.#sending.get(nameOf(entry));
      const { signal } = this.#stop;
      try {
        const queue = entry.sizeBytes <= SMALL_MOVE_BYTES_MAX ? this.#waitedFor : this.#queue;
        // What waits in the queue when it is cleared never runs.
        await orAborted(
          sending ?? queue.add(() => this.#send(entry, { isDurable: false }), { priority: 1 }),
          signal,
        );
      } catch (error) {
        if (signal.aborted) throw stopped(entry, error);
        throw error;
      }
    }
  }

  /**
   * Resolves when tier 2 has this version under its name, or the name has another version by now.
   * @throws as `flush`; `data_lost` when it has no good copy left
   */
  async ensureStored(object: Pick<ObjectRecord, 'bucket' | 'key' | 'version'>): Promise<void> {
    const { bucket, key, version } = object;
    await this.flush(object);
    const now = await this.#parts.catalog.findObject(bucket, key);
    if (now?.version !== version || now.remoteEtag !== null) return;
    const message = `${bucket}/${key} has no good copy that could be stored in tier 2`;
    throw new StoreError('data_lost', message, { bucket, key });
  }

  /** Resolves when the spool is empty, or the signal says to wait no longer. */
  async idle(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const { entries } = await this.#parts.catalog.spoolTotals();
      if (entries === 0) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#idle.add(resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
      this.wake();
      await promise;
      this.#idle.delete(resolve);
    }
  }

  /** Nothing more is sent, and who waits is told. */
  stop(): void {
    this.#stop.abort();
    this.#queue.clear();
    this.#waitedFor.clear();
    for (const resolve of this.#idle) resolve();
  }

  async close(): Promise<void> {
    this.stop();
    await Promise.allSettled([...this.#sending.values()]);
    await this.#pumping;
  }

  async #pump(): Promise<void> {
    const { catalog } = this.#parts;
    try {
      while (this.#isDirty && !this.#stop.signal.aborted) {
        this.#isDirty = false;
        let skipped = 0;
        for (let after = 0; ; ) {
          const page = await catalog.listSpool({ after, limit: PAGE });
          if (page.length === 0) break;
          let isDurable = false;
          for (const entry of page) {
            after = entry.seq;
            if (this.#stop.signal.aborted) return;
            if (this.#queued.has(nameOf(entry))) continue;
            if (!this.#mayBeSent(entry)) {
              skipped++;
              continue;
            }
            if (!isDurable) await catalog.durable(); // I4, of the whole page at once
            isDurable = true;
            await this.#enqueue(entry);
          }
        }
        if (skipped > SKIPPED_MAX) this.#skipUntilMs = this.#pauses.nextTargetMs();
        if ((await catalog.spoolTotals()).entries === 0)
          for (const resolve of this.#idle) resolve();
      }
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#parts.onError(error, 'spool');
      this.#pauses.later(SPOOL_FAILED_PAUSE_MS);
    }
  }

  #mayBeSent(entry: SpoolEntry): boolean {
    return !this.#sending.has(nameOf(entry)) && this.#pauses.mayTry(subjectOf(entry));
  }

  /** Waits until there is place in the queue, so that the spool is never in memory. */
  async #enqueue(entry: SpoolEntry): Promise<void> {
    // While a target does not answer, one entry asks.
    if (this.#pauses.isAway(subjectOf(entry).target)) await this.#queue.onIdle();
    else if (this.#queue.size >= QUEUED_MAX) await this.#queue.onSizeLessThan(QUEUED_MIN);
    if (this.#stop.signal.aborted || !this.#mayBeSent(entry)) return;
    const name = nameOf(entry);
    this.#queued.add(name);
    // Cleared at close: the catalog still knows.
    void this.#queue
      .add(async () => {
        this.#queued.delete(name);
        await this.#sendInTurn(entry);
      })
      .catch(() => undefined);
  }

  /** What others in the queue met since it was entered counts: it comes again with a later look through the spool. */
  async #sendInTurn(entry: SpoolEntry): Promise<void> {
    const { target } = subjectOf(entry);
    const isWaitedFor = this.#pauses.isAway(target) && this.#sending.size > 0;
    if (!isWaitedFor && this.#mayBeSent(entry)) await this.#send(entry, { isDurable: true });
  }

  /** `isDurable`: the change that `entry` tells of is (I4). */
  async #send(entry: SpoolEntry, { isDurable }: { readonly isDurable: boolean }): Promise<void> {
    const name = nameOf(entry);
    const before = this.#sending.get(name);
    if (before !== undefined || this.#stop.signal.aborted) return await before;
    const run = this.#sendOnce(entry, isDurable);
    this.#sending.set(name, run);
    try {
      await run;
      if (this.#pauses.succeeded(subjectOf(entry))) this.#skipUntilMs = 0;
    } catch (error) {
      this.#failed(entry, error);
      throw error;
    } finally {
      this.#sending.delete(name);
      this.#parts.onSent(entry);
      this.#isDirty = true; // it may have changed again meanwhile
      this.wake();
    }
  }

  async #sendOnce(entry: SpoolEntry, isDurable: boolean): Promise<void> {
    const { catalog } = this.#parts;
    const now = await catalog.findSpooled(entry.bucket, entry.key);
    // With another target it has another name there; it is found again under that.
    if (now === undefined || now.target !== entry.target) return;
    if (!isDurable || now.version === null || !isSameEntry(now, entry)) await catalog.durable(); // I4
    if (now.version === null) await this.#delete(now);
    else await this.#store(now);
  }

  #failed(entry: SpoolEntry, error: unknown): void {
    if (this.#stop.signal.aborted) return;
    this.#parts.onError(error, `${entry.bucket}/${entry.key}`);
    this.#pauses.failed(subjectOf(entry), { isAway: isStoreError(error, 'io_failed') });
  }

  // ── one name ──────────────────────────────────────────────────────────────────────────────────────────────────────

  async #delete(entry: SpoolEntry): Promise<void> {
    const { catalog } = this.#parts;
    const name = ownName(entry.target, entry);
    // Nothing is there when it was never sent.
    if (entry.seenEtag !== null || entry.tried.length > 0) {
      if (!(await this.#deleteKnown(entry, name))) this.#parts.onKept(name);
    }
    await catalog.dropSpooled(entry);
  }

  /** False when what is there is somebody else's (I6). */
  async #deleteKnown(entry: SpoolEntry, name: string): Promise<boolean> {
    const { remote } = this.#parts;
    const { signal } = this.#stop;
    try {
      const found = await lookAt(remote, name, entry, signal);
      if (found.there === undefined) return true;
      if (!found.isKnown) return false;
      await this.#rescue(name, entry);
      await remote.delete(name, { etag: found.there.etag, signal });
      return true;
    } catch (error) {
      if (isStoreError(error, 'precondition_failed')) return false;
      throw error;
    }
  }

  async #store(entry: SpoolEntry): Promise<void> {
    const { catalog } = this.#parts;
    const object = await catalog.findObject(entry.bucket, entry.key);
    if (object === undefined || object.version !== entry.version) return; // it goes on with the entry of now
    try {
      await this.#storeObject(entry, object);
    } catch (error) {
      const now = await catalog.findObject(entry.bucket, entry.key);
      if (now?.version !== object.version) return; // overtaken: what failed is wanted no more
      if (isStoreError(error, 'data_lost') || isStoreError(error, 'data_corrupt')) {
        if (error.code === 'data_lost') this.#parts.assertLocalThere();
        this.#parts.onError(error, `${entry.bucket}/${entry.key}`);
        await catalog.dropSpooled(entry);
        return;
      }
      throw error;
    }
  }

  async #storeObject(entry: SpoolEntry, object: ObjectRecord): Promise<void> {
    const name = ownName(entry.target, entry);
    if (!this.#parts.remote.accepts(name)) return await this.#storeBlobs(entry, object);
    if (!entry.onlyOverSeen) return await this.#storeUnder(name, entry, object, undefined);
    await this.#storeOverSeen(name, entry, object);
  }

  /** I6 */
  async #storeOverSeen(name: string, entry: SpoolEntry, object: ObjectRecord): Promise<void> {
    const { catalog, remote } = this.#parts;
    // It may be there already: nobody heard of it when the answer was lost, or the process was killed.
    const own = await contentOf(catalog, object);
    const sent = { ...entry, tried: own === undefined ? entry.tried : [...entry.tried, own] };
    const look = (): Promise<Known> => lookAt(remote, name, sent, this.#stop.signal);
    const found = await look();
    const isFree = found.there === undefined || found.isKnown;
    try {
      if (isFree) return await this.#storeUnder(name, entry, object, found.there?.etag ?? null);
    } catch (error) {
      if (!isStoreError(error, 'precondition_failed')) throw error;
      const now = await look();
      if (now.there === undefined || now.isKnown) throw error; // it is not the name that others took
    }
    // Names of old versions are this node's own, told apart by numbers that another node counts as well.
    if (bucketOfVersions(entry.bucket) !== undefined) return await this.#storeBlobs(entry, object);
    this.#parts.onKept(name);
    await this.#parts.follow(entry);
  }

  /** `replaces`: I6; undefined for a version that somebody wrote under this name. */
  async #storeUnder(
    name: string,
    entry: SpoolEntry,
    object: ObjectRecord,
    replaces: string | null | undefined,
  ): Promise<void> {
    await this.#rescue(name, entry);
    let made: { readonly object: RemoteObject; readonly from: Place };
    try {
      made = await this.#put(name, object, replaces);
    } catch (error) {
      // Since we looked, another object may have taken the name's place in a directory.
      if (!isStoreError(error, 'name_invalid')) throw error;
      return await this.#storeBlobs(entry, object);
    }
    const { catalog, log } = this.#parts;
    const { etag } = made.object;
    const { from } = made;
    const copies = await this.#copiesIn(name, etag, object);
    const isNoted = await catalog.setMirrored(entry, { etag, copies });
    if (!isNoted) return;
    for (const { blobId } of copies)
      log.add(blobId, 'copied to remote', { from, why: 'mirrored by policy', dropped: 'nothing' });
    this.#parts.onMoved({ from, to: 'remote', bytes: object.sizeBytes });
  }

  /** An object that cannot have its name there. */
  async #storeBlobs(entry: SpoolEntry, object: ObjectRecord): Promise<void> {
    const { catalog, placement } = this.#parts;
    for (const { blobId } of object.extents) {
      const blob = await catalog.findBlob(blobId);
      if (blob === undefined) throw lost(object, blobId);
      if (blob.remote !== null) continue;
      const why = 'mirrored by policy, under no name of its own';
      const result = await placement.move(blobId, 'remote', { drop: [], why });
      if (result === 'done') continue;
      const message = `a part of ${object.bucket}/${object.key} could not be stored: ${result}`;
      throw new StoreError('busy', message, { blobId, result });
    }
    await catalog.setMirrored(entry, { etag: NO_OWN_NAME, copies: [] });
  }

  async #put(
    name: string,
    object: ObjectRecord,
    replaces: string | null | undefined,
  ): Promise<{ readonly object: RemoteObject; readonly from: Place }> {
    const stored = await this.#findStored(object);
    if (stored !== undefined) {
      const { name: from, offset, etag, length } = stored;
      const run = { offset, length, etag };
      try {
        return { object: await this.#parts.remote.copy(from, name, run), from: 'remote' };
      } catch (error) {
        // The bucket has another target than the one where its bytes are.
        if (!isStoreError(error, 'unsupported')) throw await this.#goneOr(object, stored, error);
      }
    }
    let failure: unknown;
    // One that is broken or gone is no reason to fail while another is good.
    for (const first of await this.#sourcesOf(object)) {
      let held: HeldObject | undefined;
      try {
        held = await this.#hold(object, first);
        const { contentType, metadata } = object;
        const { signal } = this.#stop;
        const made = await this.#parts.remote.put(name, held.sources, {
          ...{ contentType, metadata, signal },
          ...(replaces === undefined ? {} : { replaces }),
        });
        return { object: made, from: held.from };
      } catch (error) {
        if (!isStoreError(error, 'data_corrupt') && !isStoreError(error, 'data_lost')) throw error;
        failure = error;
      } finally {
        held?.release();
      }
    }
    throw failure;
  }

  /** What is encrypted is taken from disk, where it is that already. */
  async #sourcesOf({ extents: [first] }: ObjectRecord): Promise<readonly ('memory' | 'disk')[]> {
    const blob = first && (await this.#parts.catalog.findBlob(first.blobId));
    return blob?.sealId === undefined ? ['memory', 'disk'] : ['disk', 'memory'];
  }

  /** Where in tier 2 its bytes lie in one run already, if they lie nowhere else: of a copy, or after a rename. */
  async #findStored(
    object: ObjectRecord,
  ): Promise<(RemoteCopy & { readonly length: number }) | undefined> {
    let run: RemoteCopy | undefined;
    let length = 0;
    for (const extent of object.extents) {
      const blob = await this.#parts.catalog.findBlob(extent.blobId);
      if (blob?.remote == null || blob.memoryBytes !== null || blob.diskBytes !== null)
        return undefined;
      // A segment is read from its header on.
      if (isSealedBlob(blob) && !isWholeOf(extent, blob)) return undefined;
      const { name, offset, etag } = blob.remote;
      run ??= { name, etag, offset: offset + extent.offset };
      if (run.name !== name || run.offset + length !== offset + extent.offset) return undefined;
      length += storedLength(blob, extent.length);
    }
    return run && { ...run, length };
  }

  /** The local files of an object, held; what is in tier 2 only is brought to disk. */
  async #hold(object: ObjectRecord, first: 'memory' | 'disk'): Promise<HeldObject> {
    const { catalog, placement } = this.#parts;
    const sources: RemoteSource[] = [];
    const files: Pick<HeldFile, 'place' | 'release'>[] = [];
    const release = (): void => {
      for (const file of files) file.release();
    };
    try {
      for (const { blobId, offset, length } of object.extents) {
        const blob = await catalog.findBlob(blobId);
        if (blob === undefined) throw lost(object, blobId);
        const held = placement.holdFile(blobId, first) ?? (await this.#fetchAndHold(object, blob));
        const isWhole = offset === 0 && length === blob.sizeBytes;
        files.push(held);
        if (isSealedBlob(blob)) {
          const run = { offset, length };
          const segment = await this.#parts.sealed.segmentOf(blob, run, held.place);
          files.push({ place: held.place, release: segment.release });
          sources.push(segment.source);
          continue;
        }
        // The CRC32C of a part is not known: then the file has to be right as a whole.
        if (!isWhole && held.place === 'disk') await this.#parts.compareFile(blob, held.file);
        sources.push({ file: held.file, offset, length, crc32c: isWhole ? blob.crc32c : null });
      }
      return { sources, from: files[0]?.place ?? 'memory', release };
    } catch (error) {
      release();
      throw error;
    }
  }

  async #fetchAndHold(object: ObjectRecord, { blobId, remote }: BlobRecord): Promise<HeldFile> {
    const { placement } = this.#parts;
    if (remote === null) throw lost(object, blobId);
    const why = `to be stored as ${object.bucket}/${object.key}`;
    let result: Awaited<ReturnType<BlobPlacement['move']>>;
    try {
      result = await placement.move(blobId, 'disk', { drop: [], why });
    } catch (error) {
      throw await this.#goneOr(object, remote, error);
    }
    const held = placement.holdFile(blobId, 'disk');
    if (held !== undefined) return held;
    const message = `${object.bucket}/${object.key} has to be read from tier 2 to be stored under its name, and the disk has no room`;
    throw new StoreError('busy', message, { blobId, result });
  }

  /** Others replaced or deleted what held the only copy: `data_lost`, else it would be tried for ever. */
  async #goneOr(
    object: ObjectRecord,
    { name, etag }: Pick<RemoteCopy, 'name' | 'etag'>,
    error: unknown,
  ): Promise<unknown> {
    if (!GONE.some((code) => isStoreError(error, code))) return error;
    if (await isStillThere(this.#parts.remote, { name, etag })) {
      const message = `${name}: tier 2 did not give it, and then says that it is there`;
      return new StoreError('io_failed', message, { name }, error);
    }
    const message = `${object.bucket}/${object.key}: others replaced ${name} in tier 2, which held its only copy`;
    return new StoreError('data_lost', message, { name }, error);
  }

  /** Blobs that lie whole in the object that was made. */
  async #copiesIn(
    name: string,
    etag: string,
    object: ObjectRecord,
  ): Promise<readonly { readonly blobId: number; readonly remote: RemoteCopy }[]> {
    const copies: { blobId: number; remote: RemoteCopy }[] = [];
    let at = 0;
    for (const { blobId, offset, length } of object.extents) {
      const blob = await this.#parts.catalog.findBlob(blobId);
      if (offset === 0 && length === blob?.sizeBytes)
        copies.push({ blobId, remote: { name, offset: at, etag } });
      at += storedLength(blob, length);
    }
    return copies;
  }

  /**
   * I3. Where the bytes are now, and that those which are left to go are wanted no more, must survive a power cut before the
   * name goes (I4). Where nothing was sent under the name there is nothing to be lost with it.
   */
  async #rescue(name: string, { seenEtag, tried }: SpoolEntry): Promise<void> {
    const { catalog, placement } = this.#parts;
    const blobs = await catalog.listBlobsStoredAs(name);
    if (blobs.length === 0 && seenEtag === null && tried.length === 0) return;
    for (const { blobId } of blobs)
      await placement.exclusively(blobId, async () => {
        const blob = await catalog.findBlob(blobId);
        if (blob === undefined || blob.refs === 0 || blob.remote?.name !== name) return;
        const elsewhere = await this.#findElsewhere(blob, name);
        if (elsewhere === undefined) await this.#copyToPrivate(blob, blob.remote);
        else await this.#setRemote(blob, elsewhere);
      });
    await catalog.durable();
  }

  async #copyToPrivate(blob: BlobRecord, from: RemoteCopy): Promise<void> {
    const { privateCopies, remote, nodeId } = this.#parts;
    const name = privateNameBeside(from.name, { nodeId, blobId: blob.blobId });
    const run = { offset: from.offset, length: storedSize(blob), etag: from.etag };
    await privateCopies.during(name, async () => {
      let etag: string;
      try {
        ({ etag } = await remote.copy(from.name, name, run));
      } catch (error) {
        if (!GONE.some((code) => isStoreError(error, code))) throw error;
        // Others replaced or deleted what held the blob.
        if (await isStillThere(remote, from)) throw error;
        return await this.#setRemote(blob, null);
      }
      await this.#setRemote(blob, { name, offset: 0, etag });
    });
  }

  async #setRemote(blob: BlobRecord, remote: RemoteCopy | null): Promise<void> {
    const { blobId, generation, memoryBytes, diskBytes } = blob;
    await this.#parts.catalog.setBlobCopies(blobId, generation, { memoryBytes, diskBytes, remote });
  }

  /** Another plain object that has the whole blob in it. */
  async #findElsewhere(blob: BlobRecord, name: string): Promise<RemoteCopy | undefined> {
    const { catalog, remote } = this.#parts;
    for (const user of await catalog.objectsOfBlob(blob.blobId, PAGE)) {
      const object = await catalog.findObject(user.bucket, user.key);
      const policy = (await catalog.findBucket(user.bucket))?.policy;
      if (object?.remoteEtag == null || policy === undefined) continue;
      const other = ownName(policy.remote, object);
      let at = 0;
      for (const { blobId, offset, length } of object.extents) {
        const isWhole = blobId === blob.blobId && offset === 0 && length === blob.sizeBytes;
        // It may be stored under a private name, where its own could not be.
        if (isWhole && other !== name && (await remote.head(other))?.etag === object.remoteEtag)
          return { name: other, offset: at, etag: object.remoteEtag };
        // Blobs of one object are all encrypted, or none is.
        at += storedLength(blob, length);
      }
    }
    return undefined;
  }
}

/** Ambiguous: it is committed here, and tier 2 may have it by now or gets it after the next start. */
function stopped({ bucket, key }: SpoolEntry, cause?: unknown): StoreError {
  const message = `the node stops, and tier 2 has not confirmed ${bucket}/${key}: it is kept here, and sent after the next start`;
  return new StoreError('not_yet_durable', message, { bucket, key }, cause);
}

/** What a copy fails with when its source is another object by now, or none. */
const GONE = ['precondition_failed', 'data_lost', 'range_invalid'] as const;

/** The same change, and not another one that has its number: numbers of the spool are used again. */
function isSameEntry(a: SpoolEntry, b: SpoolEntry): boolean {
  return (
    a.seq === b.seq &&
    a.version === b.version &&
    a.seenEtag === b.seenEtag &&
    a.onlyOverSeen === b.onlyOverSeen &&
    a.sinceMs === b.sinceMs
  );
}

function nameOf({ target, bucket, key }: SpoolEntry): string {
  return ownName(target, { bucket, key });
}

function subjectOf(entry: SpoolEntry): Subject {
  return { name: nameOf(entry), target: entry.target ?? '' };
}

function isWholeOf({ offset, length }: Extent, { sizeBytes }: BlobRecord): boolean {
  return offset === 0 && length === sizeBytes;
}

/** What a run of a blob takes in an object of tier 2. */
function storedLength(blob: Pick<BlobRecord, 'sealId'> | undefined, length: number): number {
  return blob?.sealId === undefined ? length : sealedSize(length);
}

function lost(object: ObjectRecord, blobId: number): StoreError {
  const message = `${object.bucket}/${object.key}: no copy of blob ${blobId} is left`;
  return new StoreError('data_lost', message, { blobId });
}
