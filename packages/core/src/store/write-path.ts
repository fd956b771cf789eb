/**
 * The life of a write: stage, fill, commit.
 *
 * I1  Nothing is visible before the catalog's commit; after it, everything is. An error after it (the disk refused to sync,
 *     tier 2 did not answer) tells that the promise was not kept; the object stays, with what it has.
 * I2  What the acknowledgement promises holds before `commit` resolves: for `disk` the bytes and the catalog are synced,
 *     for `remote` tier 2 has verified bytes.
 * I3  A write that fails or is dropped gives back its room at once.
 * I4  Room is reserved before bytes are written, so that want of space is an error at a call, not in the middle of a copy.
 * I5  Versions of one key grow in the order in which the catalog sees the commits: the id is taken in the same turn.
 * I6  Writes through the daemon are done one after the other, and a commit waits for those that were sent before it. One
 *     that failed, and was not repeated, makes the commit fail. Gaps between them are zeros, and never a former file's bytes.
 * I7  Plain bytes of an encrypted bucket are staged in tier 0 alone; on disk they are encrypted before the commit resolves.
 */

import { dirname } from 'node:path';
import { ACKS, type Ack, formatBytes, isStoreError, StoreError } from '@ebb/protocol';
import { isMirrored } from '../catalog/bucket-policy.ts';
import type { ObjectRecord } from '../catalog/catalog.ts';
import { sealedSize } from '../encryption/frames.ts';
import { OBJECT_BYTES_MAX, SYNC_IO_BYTES_MAX } from '../limits.ts';
import { parseAnyBucketName, parseKey } from '../object-ref.ts';
import { assertObjectBytes } from '../object-size.ts';
import { durabilityOf, meets, stagingTiers } from '../placement/policy.ts';
import type { BlockCollector, LocalBlob, LocalTier } from '../tier/tier.ts';
import { collectorFor } from './block-sums.ts';
import { LastRoom } from './last-room.ts';
import { neverFits } from './never-fits.ts';
import type {
  CommitOptions,
  Committed,
  ObjectRef,
  Owner,
  StagedWrite,
  StageOptions,
} from './object-store.ts';
import { payOwed } from './owed.ts';
import type { StoreParts } from './parts.ts';
import { isLimited } from './quotas.ts';
import type { Room } from './room-watch.ts';
import type { Staging } from './staging.ts';

const RETRY_AFTER_MS = 1000;
/** Between two looks for room: the first, doubled up to the last. */
const ROOM_PAUSE_MS = 20;
const ROOM_PAUSE_MS_MAX = 400;
/** More than a tier writes at once on the main thread: a large gap is filled beside other work. */
const ZEROS = Buffer.alloc(4 * SYNC_IO_BYTES_MAX);
/** Failed ranges remembered of one write; with more, it can only be given up. */
const MISSING_MAX = 16;

/** Why a pass over a new file on disk was not made. */
const SUMS_LATER: ReadonlySet<string> = new Set(['data_lost', 'draining', 'busy', 'aborted']);

interface StagedFile {
  readonly tier: 0 | 1;
  readonly file: LocalBlob;
}

export class WritePath {
  readonly #parts: StoreParts;
  #isDraining = false;
  readonly #committing = new Set<Promise<unknown>>();
  readonly #lastRoom: LastRoom;

  constructor(parts: StoreParts) {
    this.#parts = parts;
    this.#lastRoom = new LastRoom(parts);
  }

  refuseNewWrites(): void {
    this.#isDraining = true;
  }

  async stage(owner: Owner, ref: ObjectRef, options: StageOptions): Promise<StagedWrite> {
    const { staging, awake, settings, jobs, buckets, quotas } = this.#parts;
    const { reserveBytes } = options;
    this.#assertTakesWrites(owner);
    parseAnyBucketName(ref.bucket);
    parseKey(ref.key);
    assertObjectBytes(reserveBytes, ref);
    const bucket = buckets.find(ref.bucket) ?? (await buckets.get(ref.bucket));
    if (isMirrored(bucket.policy)) this.#parts.spoolGate.assertOpen(ref.bucket);
    const jobId = options.jobId === undefined || options.jobId === '' ? null : options.jobId;
    if (jobId !== null) jobs.beat(jobId, awake.now());
    const job = jobId === null ? undefined : jobs.get(jobId).record;
    const quota = isLimited(bucket, job) ? await quotas.take(bucket, job, reserveBytes) : undefined;
    try {
      const blobId = this.#parts.takeId() ?? (await this.#parts.nextId());
      const sealId = bucket.policy.encrypted === true ? this.#parts.vault.newSealId() : undefined;
      const tiers = stagingTiers(bucket.policy, options.tier);
      const { tier, file } =
        this.#tryCreate(tiers, blobId, reserveBytes) ??
        (await this.#waitForRoom(() => this.#tryCreate(tiers, blobId, reserveBytes), {
          tiers,
          ref,
          needBytes: reserveBytes,
          signal: options.signal,
        }));
      try {
        // All of it may have ended while we waited; nobody would give the file back then.
        this.#assertTakesWrites(owner);
        if (jobId !== null) jobs.get(jobId);
      } catch (error) {
        this.#tier(tier).remove(blobId, { recycle: true });
        throw error;
      }
      if (tier === 1 && tiers[0] === 0) void this.#parts.spiller.makeRoom(0, reserveBytes);
      const write: Staging = {
        writeId: blobId,
        blobId,
        owner,
        ref,
        jobId,
        sealId,
        tier,
        quota,
        reservedBytes: reserveBytes,
        writtenBytes: 0,
        lastWrite: undefined,
        missing: [],
        isCommitting: false,
        commit: undefined,
        deadlineMs: awake.now() + settings.stagingTtlMs,
      };
      staging.add(write);
      return this.#stagedWrite(write, file);
    } catch (error) {
      if (quota !== undefined) quotas.release(quota);
      throw error;
    }
  }

  /** The limits of bucket and job are checked by the commit: this call cannot wait. */
  extend(owner: Owner, writeId: number, reserveBytes: number): number {
    const write = this.#touch(owner, writeId);
    assertObjectBytes(reserveBytes, write.ref);
    if (reserveBytes <= write.reservedBytes) return write.reservedBytes;
    if (!this.#tier(write.tier).extend(write.blobId, reserveBytes)) {
      const { capacityBytes } = this.#tier(write.tier).usage();
      // A write on tier 0 may still go to tier 1, where there may be room.
      if (write.tier === 1 && reserveBytes > capacityBytes)
        throw neverFits(write.ref, { needBytes: reserveBytes, capacityBytes, where: 'tier 1' });
      void this.#parts.spiller.makeRoom(write.tier, reserveBytes - write.reservedBytes);
      throw this.#full('tier_full', [write.tier], write.ref, reserveBytes);
    }
    this.#parts.staging.grow(write, reserveBytes);
    if (write.quota !== undefined) this.#parts.quotas.count(write.quota, reserveBytes);
    return reserveBytes;
  }

  shrink(owner: Owner, writeId: number): void {
    const write = this.#touch(owner, writeId);
    if (write.writtenBytes >= write.reservedBytes) return;
    this.#tier(write.tier).shrink(write.blobId, write.writtenBytes);
    this.#parts.staging.grow(write, write.writtenBytes);
  }

  async write(owner: Owner, writeId: number, source: Uint8Array, position: number): Promise<void> {
    const write = this.#touch(owner, writeId);
    if (!Number.isSafeInteger(position) || position < 0)
      throw new StoreError('request_invalid', `${position} is no position in an object`);
    const end = position + source.byteLength;
    assertObjectBytes(end, write.ref);
    const before = write.lastWrite;
    const run =
      before === undefined
        ? this.#writeNow(write, source, position)
        : before.then(() => this.#writeNow(write, source, position));
    const settled = run.then(
      () => noteWritten(write, position, end),
      (error: unknown) => {
        if (write.missing.length <= MISSING_MAX)
          write.missing.push({ from: position, to: end, error });
      },
    );
    write.lastWrite = settled;
    await settled;
    if (write.lastWrite === settled) write.lastWrite = undefined;
    await run;
  }

  /** Of what was written so far, for an open file that reads back its own bytes. */
  async readStaged(
    owner: Owner,
    writeId: number,
    target: Uint8Array,
    position: number,
  ): Promise<void> {
    const write = this.#touch(owner, writeId);
    if (write.lastWrite !== undefined) await write.lastWrite;
    await this.#tier(write.tier).read(write.blobId, target, position);
  }

  /** Where a staged write is now: it may have moved to tier 1. */
  where(owner: Owner, { writeId }: StagedWrite): StagedWrite {
    return this.#stagedWrite(this.#touch(owner, writeId));
  }

  /** No effect on a write that has ended. */
  keepAlive(owner: Owner, writeId: number): void {
    const write = this.#parts.staging.find(owner, writeId);
    if (write !== undefined)
      write.deadlineMs = this.#parts.awake.now() + this.#parts.settings.stagingTtlMs;
  }

  /**
   * Says how much of the file counts as written: less than before cuts its end off (what comes there later begins as
   * zeros), more vouches for bytes that the writer brought through the file itself.
   */
  setWritten(owner: Owner, writeId: number, writtenBytes: number): void {
    const write = this.#touch(owner, writeId);
    write.writtenBytes = writtenBytes;
    if (write.missing.length > MISSING_MAX) return;
    const left = write.missing.filter((range) => range.from < writtenBytes);
    write.missing.splice(0, write.missing.length, ...left);
  }

  /** Room for a writer that fills the file itself and has `writtenBytes` there. The write may move: see what it is afterwards. */
  async makeRoom(
    owner: Owner,
    writeId: number,
    { needBytes, writtenBytes }: { readonly needBytes: number; readonly writtenBytes: number },
  ): Promise<StagedWrite> {
    const write = this.#touch(owner, writeId);
    assertObjectBytes(needBytes, write.ref);
    write.writtenBytes = writtenBytes;
    if (needBytes > write.reservedBytes) await this.#grow(write, needBytes);
    return this.#stagedWrite(write);
  }

  async commit(owner: Owner, writeId: number, options: CommitOptions): Promise<Committed> {
    const write = this.#touch(owner, writeId);
    write.isCommitting = true;
    const run = this.#commit(write, options);
    write.commit = run;
    this.#committing.add(run);
    try {
      return await run;
    } catch (error) {
      this.drop(write);
      throw error;
    } finally {
      this.#committing.delete(run);
    }
  }

  abort(owner: Owner, writeId: number): void {
    const write = this.#parts.staging.find(owner, writeId);
    if (write !== undefined && !write.isCommitting) this.drop(write);
  }

  dropOwner(owner: Owner): void {
    for (const write of this.#parts.staging.ofOwner(owner))
      if (!write.isCommitting) this.drop(write);
  }

  dropJob(jobId: string): number {
    const writes = this.#parts.staging.ofJob(jobId).filter((write) => !write.isCommitting);
    for (const write of writes) this.drop(write);
    return writes.length;
  }

  dropExpired(): number {
    const writes = this.#parts.staging.expired(this.#parts.awake.now());
    for (const write of writes) this.drop(write);
    return writes.length;
  }

  /** The writer may still have the file open: it is unlinked, not recycled. No effect on a write that has ended. */
  drop(write: Staging): void {
    const { staging, quotas, memory, disk } = this.#parts;
    if (!staging.end(write, 'dropped')) return;
    if (write.quota !== undefined) quotas.release(write.quota);
    // Both: a commit may have been copying it to disk.
    memory.remove(write.blobId, { recycle: false });
    disk.remove(write.blobId, { recycle: false });
  }

  /** Commits under way have ended. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#committing]);
  }

  /** Those of one job have: each made its object, or never will. */
  async settledOf(jobId: string): Promise<void> {
    const commits = this.#parts.staging.ofJob(jobId).flatMap(({ commit }) => commit ?? []);
    await Promise.allSettled(commits);
  }

  async #commit(write: Staging, options: CommitOptions): Promise<Committed> {
    const { catalog, clock, staging, recency, observer, log, mirror, buckets } = this.#parts;
    if (write.lastWrite !== undefined) await write.lastWrite;
    const bucket = buckets.find(write.ref.bucket) ?? (await buckets.get(write.ref.bucket));
    if (write.jobId !== null) this.#parts.jobs.get(write.jobId);
    const { sizeBytes } = options;
    const ack = options.ack ?? bucket.policy.ack;
    assertCommit(write, { sizeBytes, ack });
    if (write.quota !== undefined) await this.#parts.quotas.raise(write.quota, sizeBytes);
    const isEmpty = sizeBytes === 0;
    const tier = this.#tier(write.tier);
    // Also the one look at the file: missing, too short, or longer than what was reserved.
    const allocatedBytes = isEmpty ? 0 : tier.seal(write.blobId, sizeBytes);
    const blocks = write.sealId === undefined ? collectorFor(sizeBytes) : undefined;
    // On disk the bytes lie as they came; a copy from memory makes its own.
    if (write.tier === 1 && blocks?.blockBytes === options.blocks?.blockBytes)
      blocks?.sums.push(...(options.blocks?.sums ?? []));
    const crc32c = isEmpty
      ? 0
      : (options.crc32c ??
        (await this.#parts.commitMover.checksum(tier.absolutePath(write.blobId), sizeBytes, {
          ...(write.tier === 1 && blocks && { blocks }),
        })));
    if ((options.crc32c ?? crc32c) !== crc32c)
      throw new StoreError('checksum_mismatch', 'no bytes have the CRC32C 0');
    let diskBytes = write.tier === 1 && !isEmpty ? allocatedBytes : null;
    if (!isEmpty && ack !== 'memory') {
      diskBytes = await this.#parts.diskHealth.watch(async () => {
        if (diskBytes === null) return await this.#copyToDisk(write, { sizeBytes, crc32c, blocks });
        await this.#parts.disk.sync(write.blobId);
        return diskBytes;
      });
    }
    const blob = {
      blobId: write.blobId,
      sizeBytes,
      crc32c,
      createdAtMs: clock.now(),
      memoryBytes: write.tier === 0 ? allocatedBytes : null,
      diskBytes,
      remote: null,
      ...(write.sealId === undefined ? {} : { sealId: write.sealId }),
    };
    const object: ObjectRecord = {
      bucket: write.ref.bucket,
      key: write.ref.key,
      version: this.#parts.takeId() ?? (await this.#parts.nextId()),
      sizeBytes,
      etag: etagOf(write.blobId, crc32c),
      crc32c,
      contentType: options.contentType ?? 'application/octet-stream',
      metadata: options.metadata ?? {},
      attributes: options.attributes ?? {},
      createdAtMs: blob.createdAtMs,
      jobId: write.jobId,
      pinned: false,
      extents: isEmpty ? [] : [{ blobId: write.blobId, offset: 0, length: sizeBytes }],
      remoteEtag: null,
    };
    // I5: nothing is awaited between the version and this call.
    const committing = catalog.commitObject({
      object,
      newBlobs: isEmpty ? [] : [blob],
      condition: options,
      mirror: ack === 'remote',
      ...(options.requires === undefined ? {} : { requires: options.requires }),
    });
    // In the same group: what belongs to a blob that was refused is left out.
    if (diskBytes !== null) this.#keepSums(write, { sizeBytes, crc32c, blocks });
    const { freed, object: stored } = await (write.quota === undefined
      ? committing
      : this.#parts.quotas.publish(write.quota, committing));
    // From here on the object is visible: what follows must not undo it (I1).
    staging.end(write, 'committed');
    if (isEmpty) tier.remove(write.blobId, { recycle: true });
    else if (write.tier === 0) recency.add(write.blobId, allocatedBytes);
    observer.committed(sizeBytes, write.tier);
    log.add(write.blobId, 'committed', {
      tier: tier.name,
      sizeBytes,
      ack,
      object: `${object.bucket}/${object.key}`,
    });
    if (!isEmpty) this.#parts.spiller.noteGrowth(write.tier);
    if (isMirrored(bucket.policy)) this.#parts.spoolGate.committed(sizeBytes);
    if (ack !== 'memory' || freed.length > 0)
      await payOwed(object, async () => {
        if (ack !== 'memory') await catalog.durable();
        if (freed.length > 0) await this.#parts.retireAll(freed, { isDurable: ack !== 'memory' });
        if (ack !== 'remote') return;
        await mirror.ensureStored(object);
        await catalog.durable();
      });
    if (ack !== 'remote' && (isMirrored(bucket.policy) || freed.length > 0)) mirror.wake();
    // A copy on disk that was never synced is no promise of `disk`, nor is a record in a catalog that was not.
    const durability = ack === 'memory' ? 'memory' : ack === 'remote' ? 'remote' : 'disk';
    if (!isEmpty && ack === 'disk' && !meets(durabilityOf(blob), ack))
      throw new StoreError('internal', `acknowledged ${durability} without a copy there`);
    return { object: stored, blobId: write.blobId, durability };
  }

  #stagedWrite(
    { writeId, blobId, tier, reservedBytes }: Staging,
    file = this.#tier(tier).find(blobId),
  ): StagedWrite {
    if (file === undefined)
      throw new StoreError('data_lost', `the file of write ${writeId} is gone`, { writeId });
    const absolutePath = this.#tier(tier).absolutePath(blobId);
    return {
      ...{ writeId, blobId, tier, absolutePath, reservedBytes },
      path: file.path,
      slotId: file.slotId,
    };
  }

  #tryCreate(
    tiers: readonly (0 | 1)[],
    blobId: number,
    reserveBytes: number,
  ): StagedFile | undefined {
    for (const tier of tiers) {
      const create = (): LocalBlob | undefined => this.#tier(tier).create(blobId, reserveBytes);
      const file = tier === 1 ? this.#lastRoom.take(reserveBytes, create) : create();
      if (file !== undefined) return { tier, file };
    }
    return undefined;
  }

  /**
   * Asks the spiller for room and tries again, for `roomWaitMs` at most. Then `busy` when room is on its way (files that
   * wait for their readers, a spiller at work with some prospect, less in use than before, or the last room of tier 1, which is
   * given out slowly), else `tier_full`.
   */
  async #waitForRoom<T>(
    tryOnce: () => T | undefined,
    want: {
      readonly tiers: readonly (0 | 1)[];
      readonly ref: ObjectRef;
      readonly needBytes: number;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<T> {
    const { spiller, clock, settings, placement } = this.#parts;
    const { tiers, ref, needBytes, signal } = want;
    const capacityBytes = Math.max(...tiers.map((tier) => this.#tier(tier).usage().capacityBytes));
    if (needBytes > capacityBytes)
      throw neverFits(ref, { needBytes, capacityBytes, where: 'the largest tier for this write' });
    const usedBefore = this.#usedBytes(tiers);
    const deadlineMs = clock.monotonic() + settings.roomWaitMs;
    for (let pauseMs = ROOM_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, ROOM_PAUSE_MS_MAX)) {
      const made = Promise.all(tiers.map((tier) => spiller.makeRoom(tier, needBytes)));
      await this.#atMost(deadlineMs - clock.monotonic(), made, signal);
      const found = tryOnce();
      if (found !== undefined) return found;
      const leftMs = deadlineMs - clock.monotonic();
      if (leftMs <= 0) break;
      await this.#atMost(Math.min(pauseMs, leftMs), undefined, signal);
      const late = tryOnce();
      if (late !== undefined) return late;
    }
    const isComing =
      tiers.some((tier) => spiller.mayFree(tier)) ||
      tiers.some((tier) => placement.limboBytes(tier === 0 ? 'memory' : 'disk') > 0) ||
      this.#usedBytes(tiers) < usedBefore ||
      (tiers.includes(1) && this.#lastRoom.isHeldFor(needBytes));
    throw this.#full(isComing ? 'busy' : 'tier_full', tiers, ref, needBytes);
  }

  /** Waits for `work`, or just for the time. @throws `aborted` */
  async #atMost(
    ms: number,
    work: Promise<unknown> | undefined,
    signal?: AbortSignal,
  ): Promise<void> {
    const enough = new AbortController();
    const stop = signal === undefined ? enough.signal : AbortSignal.any([enough.signal, signal]);
    const time = this.#parts.clock.sleep(Math.max(0, ms), stop).catch(() => undefined);
    await (work === undefined ? time : Promise.race([work, time]));
    enough.abort();
    if (signal?.aborted === true)
      throw new StoreError('aborted', 'the caller gave up waiting for room', {}, signal.reason);
  }

  #usedBytes(tiers: readonly (0 | 1)[]): number {
    return tiers.reduce<number>((sum, tier) => sum + this.#tier(tier).usage().usedBytes, 0);
  }

  async #writeNow(write: Staging, source: Uint8Array, position: number): Promise<void> {
    const end = position + source.byteLength;
    this.#assertOpen(write);
    if (end > write.reservedBytes) await this.#grow(write, end);
    // A recycled file has bytes of others where nobody wrote yet.
    for (let at = write.writtenBytes; at < position; at = write.writtenBytes) {
      const gap = ZEROS.subarray(0, Math.min(ZEROS.length, position - at));
      await this.#tier(write.tier).write(write.blobId, gap, at);
      this.#assertOpen(write);
      write.writtenBytes = at + gap.length;
    }
    await this.#tier(write.tier).write(write.blobId, source, position);
    write.writtenBytes = Math.max(write.writtenBytes, end);
  }

  /** More room for a write whose bytes come through us: on tier 0 first, else the write moves to tier 1 with what it has. */
  async #grow(write: Staging, needBytes: number): Promise<void> {
    const { staging, spiller, quotas } = this.#parts;
    if (write.quota !== undefined) await quotas.raise(write.quota, needBytes);
    this.#assertOpen(write);
    const wish = Math.min(Math.max(needBytes, write.reservedBytes * 2), OBJECT_BYTES_MAX);
    for (const bytes of wish === needBytes ? [needBytes] : [wish, needBytes]) {
      if (this.#tier(write.tier).extend(write.blobId, bytes)) {
        staging.grow(write, bytes);
        return;
      }
    }
    if (write.tier === 0 && write.sealId === undefined) {
      void spiller.makeRoom(0, needBytes);
      await this.#moveToDisk(write, needBytes);
      return;
    }
    const extendNow = (): true | undefined => {
      this.#assertOpen(write);
      return this.#tier(write.tier).extend(write.blobId, needBytes) ? true : undefined;
    };
    await this.#waitForRoom(extendNow, { tiers: [write.tier], ref: write.ref, needBytes });
    staging.grow(write, needBytes);
  }

  async #moveToDisk(write: Staging, needBytes: number): Promise<void> {
    const { staging, memory, disk, commitMover } = this.#parts;
    const createNow = (): LocalBlob | undefined => {
      this.#assertOpen(write);
      return disk.create(write.blobId, needBytes);
    };
    if (createNow() === undefined)
      await this.#waitForRoom(createNow, { tiers: [1], ref: write.ref, needBytes });
    try {
      await commitMover.copy({
        from: memory.absolutePath(write.blobId),
        to: disk.absolutePath(write.blobId),
        sizeBytes: write.writtenBytes,
        sync: false,
      });
      this.#assertOpen(write);
    } catch (error) {
      disk.remove(write.blobId, { recycle: false });
      this.#assertOpen(write); // that it was dropped says more than that its file was gone
      throw error;
    }
    memory.remove(write.blobId, { recycle: false });
    staging.moveTo(write, 1);
    staging.grow(write, needBytes);
  }

  /** Resolves when the copy and its name are synced: in one errand of the mover, and not in three. */
  async #copyToDisk(
    write: Staging,
    what: {
      readonly sizeBytes: number;
      readonly crc32c: number;
      readonly blocks: BlockCollector | undefined;
    },
  ): Promise<number> {
    const { sizeBytes, crc32c, blocks } = what;
    const { disk, memory, commitMover, vault, sealed } = this.#parts;
    const { blobId, sealId } = write;
    const needBytes = sealId === undefined ? sizeBytes : sealedSize(sizeBytes);
    const createNow = (): LocalBlob | undefined => disk.create(blobId, needBytes);
    if (createNow() === undefined)
      await this.#waitForRoom(createNow, { tiers: [1], ref: write.ref, needBytes });
    if (sealId !== undefined) {
      vault.note(blobId, { sealId, sizeBytes });
      await sealed.sealMemory({ blobId, sizeBytes, crc32c, sealId }, { sync: true });
      const sealedBytes = disk.seal(blobId, needBytes);
      await disk.sync(blobId);
      return sealedBytes;
    }
    const to = disk.absolutePath(blobId);
    const found = await commitMover.copy({
      from: memory.absolutePath(blobId),
      ...{ to, directory: dirname(to) },
      sizeBytes,
      sync: true,
      ...(blocks && { blocks }),
    });
    if (found !== crc32c)
      throw new StoreError(
        'checksum_mismatch',
        `the bytes have CRC32C ${found}, the commit says ${crc32c}`,
      );
    return disk.seal(blobId, sizeBytes);
  }

  /** For reads from disk to be compared with: of the pass that the commit made, or made behind the writer's back. */
  #keepSums(
    { blobId, sealId }: Staging,
    what: {
      readonly sizeBytes: number;
      readonly crc32c: number;
      readonly blocks: BlockCollector | undefined;
    },
  ): void {
    const { blockSums, disk, observer } = this.#parts;
    const { sizeBytes, crc32c, blocks } = what;
    if (sealId !== undefined || blocks === undefined) return;
    const kept =
      blocks.sums.length > 0
        ? blockSums.keep(blobId, blocks)
        : blockSums.make({ blobId, sizeBytes, crc32c }, disk.absolutePath(blobId));
    kept.catch((error: unknown) => {
      // Deleted already, or no time for it now: the first read makes them.
      if (isStoreError(error) && SUMS_LATER.has(error.code)) return;
      observer.failed(error, 'verification', `blob ${blobId}`);
    });
  }

  #touch(owner: Owner, writeId: number): Staging {
    const write = this.#parts.staging.get(owner, writeId);
    write.deadlineMs = this.#parts.awake.now() + this.#parts.settings.stagingTtlMs;
    return write;
  }

  /** Between two waits a write may have been aborted, or its time been up. */
  #assertOpen(write: Staging): void {
    if (this.#parts.staging.isOpen(write)) return;
    const { writeId } = write;
    throw new StoreError('write_not_found', `write ${writeId} was given up meanwhile`, { writeId });
  }

  #assertTakesWrites(owner: Owner): void {
    if (this.#isDraining)
      throw new StoreError('draining', 'the node is stopping and takes no new writes');
    if (!this.#parts.owners.has(owner.ownerId))
      throw new StoreError('aborted', `${owner.name} is gone: nobody would finish this write`);
  }

  #tier(tier: 0 | 1): LocalTier {
    return tier === 0 ? this.#parts.memory : this.#parts.disk;
  }

  #full(
    code: 'busy' | 'tier_full',
    tiers: readonly (0 | 1)[],
    ref: ObjectRef,
    needBytes: number,
  ): StoreError {
    const rooms = tiers.map((tier) => this.#parts.rooms.noteRefused(this.#tier(tier), needBytes));
    const tier = tiers[tiers.length - 1] as 0 | 1;
    if (code === 'tier_full' && tier === 1) this.#parts.rooms.noteAtLimit(this.#tier(1), needBytes);
    const { freeBytes, availableBytes } = rooms[rooms.length - 1] as Room;
    const { capacityBytes } = this.#tier(tier).usage();
    const what =
      availableBytes < Math.min(needBytes, freeBytes)
        ? `but the file system at ${this.#tier(tier).root} has ${formatBytes(availableBytes)} left for tier ${tier}`
        : `tier ${tier} has ${freeBytes} of ${capacityBytes} free`;
    const sizes = { needBytes, freeBytes, availableBytes, capacityBytes };
    // What is mirrored goes from here when tier 2 has it.
    const away = this.#parts.conditions.list().find(({ name }) => name === 'remote_unreachable');
    const why =
      away === undefined ? '' : `; nothing leaves for tier 2, which fails: ${away.reason}`;
    return new StoreError(
      code,
      `${ref.bucket}/${ref.key} needs ${needBytes} bytes, ${what}${why}`,
      {
        ...{ tier, ...sizes, retryAfterMs: RETRY_AFTER_MS },
        ...(away === undefined ? {} : { remote: away.subject }),
      },
    );
  }
}

function assertCommit(write: Staging, { sizeBytes, ack }: { sizeBytes: number; ack: Ack }): void {
  if (!ACKS.includes(ack))
    throw new StoreError('request_invalid', `no acknowledgement level "${String(ack)}"`);
  assertObjectBytes(sizeBytes, write.ref);
  const failed = write.missing[0];
  if (failed !== undefined) throw failed.error;
  // Its bytes came through us, so we know; the file itself may be longer, because it was another's before.
  if (write.writtenBytes > 0 && write.writtenBytes < sizeBytes) {
    const presentBytes = write.writtenBytes;
    throw new StoreError(
      'length_mismatch',
      `commit of ${sizeBytes} bytes, but only ${presentBytes} were written`,
      { sizeBytes, presentBytes },
    );
  }
}

/** What a later write brought is missing no more. */
function noteWritten(write: Staging, from: number, to: number): void {
  if (write.missing.length === 0 || write.missing.length > MISSING_MAX) return;
  const left = write.missing.filter((range) => range.from < from || range.to > to);
  write.missing.splice(0, write.missing.length, ...left);
}

/** Opaque, and different for every version: the id is never reused. */
function etagOf(blobId: number, crc32c: number): string {
  return `${blobId.toString(16)}-${crc32c.toString(16).padStart(8, '0')}`;
}
