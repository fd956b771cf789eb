/**
 * The life of a write: stage, fill, commit.
 *
 * I1  Nothing is visible before the catalog's commit; after it, everything is.
 * I2  What the acknowledgement promises holds before `commit` resolves: for `disk` the bytes and the catalog are synced,
 *     for `remote` tier 2 has verified bytes.
 * I3  A write that fails or is dropped gives back its room at once.
 * I4  Room is reserved before bytes are written, so that want of space is an error at a call, not in the middle of a copy.
 */

import { statSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { ACKS, type Ack, StoreError } from '@ebb/protocol';
import type { BucketRecord, ObjectRecord } from '../catalog/catalog.ts';
import { parseBucketName, parseKey } from '../object-ref.ts';
import { durabilityOf, meets, stagingTiers } from '../placement/policy.ts';
import type { LocalTier } from '../tier/tier.ts';
import type {
  CommitOptions,
  Committed,
  ObjectRef,
  Owner,
  StagedWrite,
  StageOptions,
} from './object-store.ts';
import type { StoreParts } from './parts.ts';
import type { Staging } from './staging.ts';

/** Larger single objects are refused. Multipart joins extents beyond it. */
export const OBJECT_BYTES_MAX = 5 * 1024 ** 4;
const RETRY_AFTER_MS = 1000;

export class WritePath {
  readonly #parts: StoreParts;
  #isDraining = false;
  readonly #committing = new Set<Promise<unknown>>();

  constructor(parts: StoreParts) {
    this.#parts = parts;
  }

  refuseNewWrites(): void {
    this.#isDraining = true;
  }

  async stage(owner: Owner, ref: ObjectRef, options: StageOptions): Promise<StagedWrite> {
    const { staging, clock, settings, jobs } = this.#parts;
    if (this.#isDraining)
      throw new StoreError('draining', 'the node is stopping and takes no new writes');
    parseBucketName(ref.bucket);
    parseKey(ref.key);
    if (!(options.reserveBytes >= 0 && options.reserveBytes <= OBJECT_BYTES_MAX)) {
      throw new StoreError(
        'too_large',
        `${options.reserveBytes} bytes for ${ref.bucket}/${ref.key}, at most ${OBJECT_BYTES_MAX}`,
        {
          sizeBytes: options.reserveBytes,
          sizeBytesMax: OBJECT_BYTES_MAX,
        },
      );
    }
    const bucket = await this.#getBucket(ref.bucket);
    const jobId = options.jobId === undefined || options.jobId === '' ? null : options.jobId;
    if (jobId !== null) jobs.beat(jobId, clock.now());
    await this.#checkQuotas(bucket, jobId, options.reserveBytes);
    const blobId = await this.#parts.nextId();
    const tier = await this.#createFile(blobId, bucket, options);
    const local = this.#tier(tier);
    const found = local.find(blobId);
    if (found === undefined)
      throw new StoreError('internal', `staged blob ${blobId} is gone from ${local.name}`);
    staging.add({
      writeId: blobId,
      blobId,
      owner,
      ref,
      jobId,
      tier,
      reservedBytes: options.reserveBytes,
      writtenBytes: 0,
      isCommitting: false,
      deadlineMs: clock.now() + settings.stagingTtlMs,
    });
    return {
      writeId: blobId,
      blobId,
      tier,
      path: found.path,
      absolutePath: local.absolutePath(blobId),
      reservedBytes: options.reserveBytes,
      slotId: found.slotId,
    };
  }

  extend(owner: Owner, writeId: number, reserveBytes: number): number {
    const write = this.#touch(owner, writeId);
    if (reserveBytes <= write.reservedBytes) return write.reservedBytes;
    if (!this.#tier(write.tier).extend(write.blobId, reserveBytes)) {
      void (write.tier === 0
        ? this.#parts.spiller.kickMemory(reserveBytes)
        : this.#parts.spiller.kickDisk(reserveBytes));
      throw this.#full(write.ref, reserveBytes, 'tier_full', write.tier);
    }
    this.#parts.staging.grow(write, reserveBytes);
    return reserveBytes;
  }

  async write(owner: Owner, writeId: number, source: Uint8Array, position: number): Promise<void> {
    const write = this.#touch(owner, writeId);
    const end = position + source.byteLength;
    if (end > OBJECT_BYTES_MAX)
      throw new StoreError('too_large', `write up to byte ${end}, at most ${OBJECT_BYTES_MAX}`);
    if (end > write.reservedBytes) await this.#grow(write, end);
    await this.#tier(write.tier).write(write.blobId, source, position);
    write.writtenBytes = Math.max(write.writtenBytes, end);
  }

  async commit(owner: Owner, writeId: number, options: CommitOptions): Promise<Committed> {
    const write = this.#touch(owner, writeId);
    write.isCommitting = true;
    const run = this.#commit(write, options);
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
    const writes = this.#parts.staging.expired(this.#parts.clock.now());
    for (const write of writes) this.drop(write);
    return writes.length;
  }

  /** The writer may still have the file open: it is unlinked, not recycled. */
  drop(write: Staging): void {
    this.#parts.staging.end(write, 'dropped');
    const tier = this.#tier(write.tier);
    if (tier.find(write.blobId) !== undefined) tier.remove(write.blobId, { recycle: false });
  }

  async settled(): Promise<void> {
    await Promise.allSettled([...this.#committing]);
  }

  async #commit(write: Staging, options: CommitOptions): Promise<Committed> {
    const { catalog, clock, staging, recency, observer, log, mirror, placement } = this.#parts;
    const bucket = await this.#getBucket(write.ref.bucket);
    if (write.jobId !== null) this.#parts.jobs.get(write.jobId);
    const ack = options.ack ?? bucket.policy.ack;
    if (!ACKS.includes(ack))
      throw new StoreError('request_invalid', `no acknowledgement level "${String(ack)}"`);
    const { sizeBytes } = options;
    const tier = this.#tier(write.tier);
    await this.#checkLength(write, tier, sizeBytes);
    const crc32c = await this.#checksum(write, tier, options);
    const isEmpty = sizeBytes === 0;
    const object: ObjectRecord = {
      bucket: write.ref.bucket,
      key: write.ref.key,
      version: await this.#parts.nextId(),
      sizeBytes,
      etag: etagOf(write.blobId, crc32c),
      crc32c,
      contentType: options.contentType ?? 'application/octet-stream',
      metadata: options.metadata ?? {},
      createdAtMs: clock.now(),
      jobId: write.jobId,
      pinned: false,
      extents: isEmpty ? [] : [{ blobId: write.blobId, offset: 0, length: sizeBytes }],
    };
    const diskCopy =
      !isEmpty && ack !== 'memory' && write.tier === 0
        ? await this.#copyToDisk(write, sizeBytes, crc32c)
        : undefined;
    if (!isEmpty && ack !== 'memory') await this.#parts.disk.sync(write.blobId);
    const allocated = isEmpty ? 0 : tier.seal(write.blobId, sizeBytes);
    const blob = {
      blobId: write.blobId,
      sizeBytes,
      crc32c,
      createdAtMs: object.createdAtMs,
      memoryBytes: write.tier === 0 ? allocated : null,
      diskBytes: write.tier === 1 ? allocated : (diskCopy ?? null),
      remoteName: null,
    };
    let freed: Awaited<ReturnType<typeof catalog.commitObject>>;
    try {
      freed = await catalog.commitObject({
        object,
        newBlobs: isEmpty ? [] : [blob],
        condition: {
          ...(options.ifMatch === undefined ? {} : { ifMatch: options.ifMatch }),
          ...(options.ifNoneMatch === undefined ? {} : { ifNoneMatch: options.ifNoneMatch }),
        },
      });
    } catch (error) {
      if (diskCopy !== undefined) this.#parts.disk.remove(write.blobId, { recycle: false });
      throw error;
    }
    // From here on the object is visible: what follows must not undo it.
    staging.end(write, 'committed');
    if (isEmpty) tier.remove(write.blobId, { recycle: true });
    else if (write.tier === 0) recency.add(write.blobId, allocated);
    observer.committed(sizeBytes, write.tier);
    log.add(write.blobId, 'committed', {
      tier: tier.name,
      sizeBytes,
      ack,
      object: `${object.bucket}/${object.key}`,
    });
    if (freed.freed.length > 0) await this.#parts.retireAll(freed.freed);
    if (ack !== 'memory') await catalog.durable();
    if (!isEmpty && ack === 'remote') {
      const result = await placement.move(write.blobId, 'remote', {
        drop: [],
        why: 'acknowledgement asked for',
      });
      if (result !== 'done')
        throw new StoreError(
          'precondition_failed',
          `${object.bucket}/${object.key} was replaced before tier 2 had it`,
        );
      await catalog.durable();
    } else if (!isEmpty && bucket.policy.mirror) {
      mirror.add(write.blobId, sizeBytes);
    }
    if (write.tier === 0) void this.#parts.spiller.kickMemory();
    else void this.#parts.spiller.kickDisk();
    const reached: Ack = isEmpty
      ? ack === 'memory'
        ? 'disk'
        : ack
      : ack === 'remote'
        ? 'remote'
        : durabilityOf(blob);
    // A copy on disk that was never synced is no promise of `disk`.
    const durability = !isEmpty && ack === 'memory' ? 'memory' : reached;
    if (!meets(durability, ack))
      throw new StoreError('internal', `acknowledged ${durability}, asked for ${ack}`);
    return { object, blobId: write.blobId, durability };
  }

  async #createFile(blobId: number, bucket: BucketRecord, options: StageOptions): Promise<0 | 1> {
    const { spiller, clock, settings } = this.#parts;
    const tiers = stagingTiers(bucket.policy, options.tier);
    const tryOnce = (): 0 | 1 | undefined =>
      tiers.find((tier) => this.#tier(tier).create(blobId, options.reserveBytes) !== undefined);
    const capacity = Math.max(...tiers.map((tier) => this.#tier(tier).usage().capacityBytes));
    if (options.reserveBytes > capacity) {
      throw new StoreError(
        'tier_full',
        `${options.reserveBytes} bytes can never fit: the largest tier for this write has ${capacity}`,
        {
          needBytes: options.reserveBytes,
          capacityBytes: capacity,
        },
      );
    }
    const deadlineMs = clock.now() + settings.roomWaitMs;
    for (let pauseMs = 10; ; pauseMs = Math.min(pauseMs * 2, 200)) {
      const tier = tryOnce();
      if (tier === 0) return tier;
      if (tier === 1) {
        if (tiers.includes(0)) void spiller.kickMemory(options.reserveBytes);
        return tier;
      }
      const room = Promise.all([
        tiers.includes(0) ? spiller.kickMemory(options.reserveBytes) : undefined,
        tiers.includes(1) ? spiller.kickDisk(options.reserveBytes) : undefined,
      ]);
      const before = this.#usedBytes(tiers);
      await Promise.race([room, clock.sleep(settings.roomWaitMs, options.signal)]);
      const again = tryOnce();
      if (again !== undefined) return again;
      if (clock.now() >= deadlineMs) {
        const ref = { bucket: bucket.name, key: `(blob ${blobId})` };
        throw this.#full(
          ref,
          options.reserveBytes,
          this.#usedBytes(tiers) < before || spiller.isWorking ? 'busy' : 'tier_full',
          tiers[tiers.length - 1] as 0 | 1,
        );
      }
      await clock.sleep(pauseMs, options.signal);
    }
  }

  #usedBytes(tiers: readonly (0 | 1)[]): number {
    return tiers.reduce<number>((sum, tier) => sum + this.#tier(tier).usage().usedBytes, 0);
  }

  async #checkQuotas(bucket: BucketRecord, jobId: string | null, needBytes: number): Promise<void> {
    const { catalog, staging, jobs } = this.#parts;
    if (bucket.policy.quotaBytes !== null) {
      const { sizeBytes } = await catalog.bucketTotals(bucket.name);
      if (sizeBytes + needBytes > bucket.policy.quotaBytes) {
        throw new StoreError(
          'quota_exceeded',
          `bucket ${bucket.name} holds ${sizeBytes} bytes, its quota is ${bucket.policy.quotaBytes}, this write needs ${needBytes}`,
          { bucket: bucket.name, needBytes },
        );
      }
    }
    const budgetBytes = jobId === null ? null : jobs.get(jobId).record.budgetBytes;
    if (jobId === null || budgetBytes === null) return;
    const { sizeBytes } = await catalog.jobTotals(jobId);
    const held = sizeBytes + staging.jobBytes(jobId);
    if (held + needBytes > budgetBytes) {
      throw new StoreError(
        'quota_exceeded',
        `job ${jobId} holds ${held} bytes, its budget is ${budgetBytes}, this write needs ${needBytes}`,
        { jobId, needBytes },
      );
    }
  }

  /** More room for a write whose bytes come through us: on tier 0 first, else the write moves to tier 1 with what it has. */
  async #grow(write: Staging, needBytes: number): Promise<void> {
    const { staging, memory, disk, mover } = this.#parts;
    const wish = Math.min(Math.max(needBytes, write.reservedBytes * 2), OBJECT_BYTES_MAX);
    for (const bytes of [wish, needBytes]) {
      if (this.#tier(write.tier).extend(write.blobId, bytes)) {
        staging.grow(write, bytes);
        return;
      }
    }
    if (write.tier === 1) {
      await this.#parts.spiller.kickDisk(needBytes);
      if (!disk.extend(write.blobId, needBytes))
        throw this.#full(write.ref, needBytes, 'tier_full', 1);
      staging.grow(write, needBytes);
      return;
    }
    void this.#parts.spiller.kickMemory(needBytes);
    if (disk.create(write.blobId, needBytes) === undefined)
      throw this.#full(write.ref, needBytes, 'tier_full', 1);
    await mover.copy({
      from: memory.absolutePath(write.blobId),
      to: disk.absolutePath(write.blobId),
      sizeBytes: write.writtenBytes,
      sync: false,
    });
    memory.remove(write.blobId, { recycle: true });
    staging.moveTo(write, 1);
    staging.grow(write, needBytes);
  }

  async #checkLength(write: Staging, tier: LocalTier, sizeBytes: number): Promise<void> {
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0)
      throw new StoreError('request_invalid', `size ${sizeBytes} is not a length`);
    const file = tier.absolutePath(write.blobId);
    // The file may be longer: recycled files keep their pages.
    const presentBytes = tier.name === 'memory' ? statSync(file).size : (await stat(file)).size;
    if (presentBytes < sizeBytes) {
      throw new StoreError(
        'length_mismatch',
        `commit of ${sizeBytes} bytes, but only ${presentBytes} were written`,
        { sizeBytes, presentBytes },
      );
    }
    if (sizeBytes > write.reservedBytes && !tier.extend(write.blobId, sizeBytes))
      throw this.#full(write.ref, sizeBytes, 'tier_full', write.tier);
  }

  async #checksum(write: Staging, tier: LocalTier, options: CommitOptions): Promise<number> {
    if (options.crc32c !== undefined) return options.crc32c;
    if (options.sizeBytes === 0) return 0;
    return await this.#parts.mover.checksum(tier.absolutePath(write.blobId), options.sizeBytes);
  }

  async #copyToDisk(write: Staging, sizeBytes: number, crc32c: number): Promise<number> {
    const { disk, memory, mover } = this.#parts;
    if (disk.create(write.blobId, sizeBytes) === undefined)
      throw this.#full(write.ref, sizeBytes, 'tier_full', 1);
    try {
      const found = await mover.copy({
        from: memory.absolutePath(write.blobId),
        to: disk.absolutePath(write.blobId),
        sizeBytes,
        sync: true,
      });
      if (found !== crc32c)
        throw new StoreError(
          'checksum_mismatch',
          `the bytes have CRC32C ${found}, the commit says ${crc32c}`,
        );
      return disk.seal(write.blobId, sizeBytes);
    } catch (error) {
      disk.remove(write.blobId, { recycle: false });
      throw error;
    }
  }

  async #getBucket(name: string): Promise<BucketRecord> {
    const bucket = await this.#parts.catalog.findBucket(name);
    if (bucket === undefined)
      throw new StoreError('bucket_not_found', `no bucket "${name}": create it first`, {
        bucket: name,
      });
    return bucket;
  }

  #touch(owner: Owner, writeId: number): Staging {
    const write = this.#parts.staging.get(owner, writeId);
    write.deadlineMs = this.#parts.clock.now() + this.#parts.settings.stagingTtlMs;
    return write;
  }

  #tier(tier: 0 | 1): LocalTier {
    return tier === 0 ? this.#parts.memory : this.#parts.disk;
  }

  #full(ref: ObjectRef, needBytes: number, code: 'busy' | 'tier_full', tier: 0 | 1): StoreError {
    const usage = this.#tier(tier).usage();
    const freeBytes = usage.capacityBytes - usage.usedBytes + usage.pooledBytes;
    return new StoreError(
      code,
      `${ref.bucket}/${ref.key} needs ${needBytes} bytes, tier ${tier} has ${freeBytes} of ${usage.capacityBytes} free`,
      {
        tier,
        needBytes,
        freeBytes,
        retryAfterMs: RETRY_AFTER_MS,
      },
    );
  }
}

/** Opaque, and different for every version: the id is never reused. */
function etagOf(blobId: number, crc32c: number): string {
  return `${blobId.toString(16)}-${crc32c.toString(16).padStart(8, '0')}`;
}
