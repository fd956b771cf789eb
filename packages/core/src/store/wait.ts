/**
 * Waits until an object is as durable as somebody needs it.
 *
 * W1  What a wait resolved with holds, whatever the records said before: a wait for `disk` makes the copies that are missing,
 *     syncs them and the catalog; one for `remote` resolves when tier 2 has every byte and the catalog knows it durably.
 * W2  A wait is for one version: it ends with an error when the object is gone or replaced, and says at once what can never
 *     be (`not_mirrored`).
 * W3  A wait for `remote` begins no copy of its own: the mirror does that in its order. An object that the mirror gave up
 *     ends the wait.
 * W4  Waiters wake when the mirror is done with their name, and look again with every sweep of the store, which is when they
 *     learn of what has no call of its own (a rename).
 */
import { type Ack, StoreError } from '@ebb/protocol';
import { isMirrored } from '../catalog/bucket-policy.ts';
import type { BlobRecord, ObjectRecord } from '../catalog/catalog.ts';
import { storedSize } from '../encryption/vault.ts';
import { parseAnyBucketName } from '../object-ref.ts';
import { neverFits } from './never-fits.ts';
import type { ObjectRef } from './object-store.ts';
import { orAborted } from './or-aborted.ts';
import type { StoreParts } from './parts.ts';

export interface WaitOptions {
  /** The object must be this version; undefined: the one that is there now. */
  readonly version?: number;
  readonly signal?: AbortSignal;
}
export interface Waited {
  readonly object: ObjectRecord;
  /** What holds now: what was waited for, or better. */
  readonly durability: Ack;
}

type Parts = Pick<
  StoreParts,
  'catalog' | 'placement' | 'disk' | 'mirror' | 'buckets' | 'spiller' | 'diskLeases'
>;

const TRIES_MAX = 4;

export class Waits {
  readonly #parts: Parts;
  /** By name. */
  readonly #waiting = new Map<string, Set<() => void>>();
  #end: StoreError | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** @throws `not_found`, `precondition_failed`, `not_mirrored`, `data_lost`, `data_corrupt`, `tier_full`, `busy`, `draining`, `aborted` */
  async wait(ref: ObjectRef, ack: Ack, options: WaitOptions = {}): Promise<Waited> {
    parseAnyBucketName(ref.bucket);
    const object = await this.#get(ref, options.version);
    if (ack === 'memory') return { object, durability: 'memory' };
    if (ack === 'remote') return await this.#untilRemote(object, options.signal);
    const durable = this.#makeDurable(object);
    durable.catch(() => undefined); // for a caller that gave up: who asks again finds the copy further on
    return await orAborted(durable, options.signal);
  }

  /** The mirror is done with a name, or the object is another. */
  noteChanged(ref: ObjectRef): void {
    for (const wake of [...(this.#waiting.get(nameOf(ref)) ?? [])]) wake();
  }

  /** Every waiter looks again. */
  wakeAll(): void {
    for (const waiters of [...this.#waiting.values()]) for (const wake of [...waiters]) wake();
  }

  /** Every wait ends with `draining`. */
  close(): void {
    this.#end ??= new StoreError('draining', 'the node is stopping; wait again when it is back');
    this.wakeAll();
  }

  async #makeDurable(object: ObjectRecord): Promise<Waited> {
    const { catalog, disk } = this.#parts;
    for (const blobId of new Set(object.extents.map((extent) => extent.blobId))) {
      // A copy may be moved on to tier 2 between look and sync: then the next look finds it there.
      for (let tries = 1; ; tries++) {
        const blob = await this.#blob(object, blobId);
        if (blob.remote !== null) break;
        if (blob.diskBytes === null) await this.#copyToDisk(object, blob);
        try {
          await disk.sync(blobId);
          break;
        } catch (error) {
          if (tries === TRIES_MAX) throw error;
        }
      }
    }
    await catalog.durable();
    const now = await this.#get(object, object.version);
    return { object: now, durability: 'disk' };
  }

  async #copyToDisk(object: ObjectRecord, blob: BlobRecord): Promise<void> {
    const { blobId } = blob;
    const sizeBytes = storedSize(blob);
    const { placement, spiller, disk, diskLeases } = this.#parts;
    const move = (): ReturnType<typeof placement.move> =>
      placement.move(blobId, 'disk', { drop: [], why: 'somebody waits for it to be durable' });
    if ((await move()) !== 'full') return;
    const { capacityBytes } = disk.usage();
    if (sizeBytes > capacityBytes)
      throw neverFits(object, { needBytes: sizeBytes, capacityBytes, where: 'disk' });
    await spiller.makeRoom(1, sizeBytes);
    if ((await move()) !== 'full') return;
    const name = `${object.bucket}/${object.key}`;
    if (diskLeases.isInLimbo(blobId))
      throw new StoreError('busy', `${name}: readers still hold its former file on disk`, {
        retryAfterMs: 1000,
      });
    throw new StoreError(
      'tier_full',
      `${name} needs ${sizeBytes} bytes on disk, which has no room`,
      { tier: 1, needBytes: sizeBytes },
    );
  }

  async #untilRemote(object: ObjectRecord, signal: AbortSignal | undefined): Promise<Waited> {
    const { catalog, mirror } = this.#parts;
    mirror.wake();
    for (;;) {
      if (this.#end !== undefined) throw this.#end;
      // Taken before the look: what comes while we look is not missed.
      using news = this.#listen(object);
      const now = await this.#get(object, object.version);
      if (await this.#isRemote(now)) {
        await catalog.durable();
        return { object: await this.#get(object, object.version), durability: 'remote' };
      }
      await orAborted(news.promise, signal);
    }
  }

  /** W2, W3. @throws `not_mirrored`, `data_corrupt` */
  async #isRemote(object: ObjectRecord): Promise<boolean> {
    const { buckets, catalog } = this.#parts;
    const { bucket, key } = object;
    if (object.remoteEtag !== null) return true;
    if ((await catalog.findSpooled(bucket, key)) !== undefined) return false;
    const { policy } = buckets.find(bucket) ?? (await buckets.get(bucket));
    if (isMirrored(policy)) {
      // It may have been noted between the two looks.
      const now = await this.#get(object, object.version);
      if (now.remoteEtag !== null) return true;
      throw new StoreError(
        'data_corrupt',
        `the mirror found no good copy of ${bucket}/${key}; \`ebb verify\` names what is broken`,
        { bucket, key },
      );
    }
    const blobs = object.extents.map(({ blobId }) => this.#blob(object, blobId));
    if (blobs.length > 0 && (await Promise.all(blobs)).every(({ remote }) => remote !== null))
      return true;
    throw new StoreError(
      'not_mirrored',
      `bucket ${bucket} is not mirrored: ${bucket}/${key} stays on this node`,
      { bucket, key },
    );
  }

  /** Of the version that is waited for. @throws `not_found`, `precondition_failed`, `data_lost` */
  async #blob(object: ObjectRecord, blobId: number): Promise<BlobRecord> {
    const { bucket, key } = await this.#get(object, object.version);
    const blob = await this.#parts.catalog.findBlob(blobId);
    const isSomewhere =
      blob !== undefined &&
      (blob.memoryBytes !== null || blob.diskBytes !== null || blob.remote !== null);
    if (isSomewhere) return blob;
    throw new StoreError('data_lost', `the bytes of ${bucket}/${key} are in no tier`, {
      bucket,
      key,
    });
  }

  async #get({ bucket, key }: ObjectRef, version: number | undefined): Promise<ObjectRecord> {
    const { catalog, buckets } = this.#parts;
    const object = await catalog.findObject(bucket, key);
    if (object === undefined) {
      await buckets.get(bucket);
      throw new StoreError('not_found', `no object ${bucket}/${key}`, { bucket, key });
    }
    if (version === undefined || object.version === version) return object;
    throw new StoreError(
      'precondition_failed',
      `${bucket}/${key} has version ${object.version}; version ${version}, which was waited for, is gone`,
      { bucket, key, version, found: object.version },
    );
  }

  /** News of this name, or the end of the store. */
  #listen(ref: ObjectRef): { readonly promise: Promise<void> } & Disposable {
    const { promise, resolve } = Promise.withResolvers<void>();
    const name = nameOf(ref);
    const waiters = this.#waiting.get(name) ?? new Set();
    this.#waiting.set(name, waiters.add(resolve));
    return {
      promise,
      [Symbol.dispose]: () => {
        waiters.delete(resolve);
        if (waiters.size === 0) this.#waiting.delete(name);
      },
    };
  }
}

function nameOf({ bucket, key }: ObjectRef): string {
  return `${bucket}/${key}`;
}
