/**
 * What others put into tier 2: objects that are there and not in the catalog are taken in, those that changed there are taken
 * in again, those that went there go. Bytes stay where they are until somebody reads them.
 *
 * I1  What this node still has to send wins: a name in the spool is not looked at.
 * I2  An object is replaced or removed only while it is the version that was compared.
 * I3  What is in tier 2 under the names of an encrypted bucket is taken in if it is segments that open under a key of this
 *     node, as who lost a catalog finds it; anything else is refused.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import PQueue from 'p-queue';
import type { Catalog, Freed, ObjectCommit, ObjectRecord } from '../catalog/catalog.ts';
import type { Clock } from '../clock.ts';
import { HEADER_BYTES, sealedSize } from '../encryption/frames.ts';
import type { SealFacts } from '../encryption/sealed-format.ts';
import type { Vault } from '../encryption/vault.ts';
import { keyProblem } from '../object-ref.ts';
import { NO_OWN_NAME, ownName } from '../placement/remote-names.ts';
import type { RemoteHeaders, RemoteObject, RemoteTier } from '../tier/tier.ts';
import type { ObjectRef, SyncReport } from './object-store.ts';
import { RecentMap } from './recent-map.ts';
import { objectsUnder } from './scan.ts';

/** Of an encrypted bucket: the object is not one of ours. */
const NOT_OURS: ReadonlySet<string> = new Set([
  'data_corrupt',
  'key_unavailable',
  'version_unsupported',
  'too_large',
]);
const LOOKS_AT_ONCE = 16;
const CHECKED_MIN = 32_768;

export interface ImporterParts {
  readonly catalog: Catalog;
  readonly remote: RemoteTier;
  readonly clock: Clock;
  readonly vault: Vault;
  nextId(): Promise<number>;
  retireAll(freed: Freed['freed']): Promise<void>;
}

type Outcome = 'added' | 'updated' | 'removed' | 'unchanged';

export class Importer {
  readonly #parts: ImporterParts;
  /** When an object was last compared with tier 2, by version. */
  readonly #checkedAtMs = new RecentMap<number, number>(CHECKED_MIN);

  constructor(parts: ImporterParts) {
    this.#parts = parts;
  }

  /** @throws `bucket_not_found`, `aborted`, and those of the tier */
  async sync(
    bucket: string,
    prefix: string,
    options: { readonly remove: boolean; readonly signal?: AbortSignal },
  ): Promise<SyncReport> {
    const { catalog, remote } = this.#parts;
    const target = (await catalog.findBucket(bucket))?.policy.remote ?? null;
    const counts = { added: 0, updated: 0, removed: 0, unchanged: 0, bytes: 0 };
    const refused: { key: string; problem: string }[] = [];
    const seen = new Set<string>();
    const queue = new PQueue({ concurrency: LOOKS_AT_ONCE });
    const failures: Error[] = [];
    const take = (key: string, found: RemoteObject | undefined): void => {
      void queue
        .add(async () => {
          const outcome = await this.#compare({ bucket, key }, found);
          counts[outcome]++;
          if (outcome === 'added' || outcome === 'updated') counts.bytes += found?.sizeBytes ?? 0;
        })
        .catch((error: Error) => {
          if (error instanceof StoreError && NOT_OURS.has(error.code))
            refused.push({ key, problem: error.message });
          else failures.push(error);
        });
    };
    const mayGoOn = async (): Promise<void> => {
      await queue.onSizeLessThan(LOOKS_AT_ONCE);
      options.signal?.throwIfAborted();
      if (failures[0] !== undefined) throw failures[0];
    };
    const base = ownName(target, { bucket, key: '' });
    for await (const { name, ...found } of remote.list(base + prefix)) {
      const key = name.slice(base.length);
      if (key.startsWith('.ebb/')) continue;
      const problem = keyProblem(key);
      if (problem !== undefined) {
        refused.push({ key, problem });
        continue;
      }
      if (options.remove) seen.add(key);
      await mayGoOn();
      take(key, found);
    }
    if (options.remove)
      for await (const { key, remoteEtag } of objectsUnder(catalog, bucket, prefix)) {
        if (remoteEtag === null || seen.has(key)) continue;
        await mayGoOn();
        take(key, undefined);
      }
    await queue.onIdle();
    if (failures[0] !== undefined) throw failures[0];
    return { ...counts, refused };
  }

  /** Looks whether the object changed in tier 2, and follows it. Resolves with what is there now. */
  async refresh(ref: ObjectRef): Promise<ObjectRecord | undefined> {
    const { catalog, remote } = this.#parts;
    const target = (await catalog.findBucket(ref.bucket))?.policy.remote ?? null;
    await this.#compare(ref, await remote.head(ownName(target, ref)));
    return await catalog.findObject(ref.bucket, ref.key);
  }

  /** As `refresh`, when the last look is longer ago than the bucket's policy allows. */
  async revalidate(object: ObjectRecord, maxAgeMs: number): Promise<ObjectRecord | undefined> {
    if (object.remoteEtag === null) return object;
    const now = this.#parts.clock.now();
    const checkedAtMs = this.#checkedAtMs.get(object.version) ?? object.createdAtMs;
    const ageMs = now - checkedAtMs;
    // A clock that was set back says nothing about how long ago the look was.
    if (ageMs >= 0 && ageMs < maxAgeMs) return object;
    this.#checkedAtMs.set(object.version, now);
    return await this.refresh(object);
  }

  async #compare(
    ref: ObjectRef,
    found: (RemoteObject & Partial<RemoteHeaders>) | undefined,
  ): Promise<Outcome> {
    const { catalog } = this.#parts;
    if ((await catalog.findSpooled(ref.bucket, ref.key)) !== undefined) return 'unchanged'; // I1
    const object = await catalog.findObject(ref.bucket, ref.key);
    // Never stored there by us, and not waiting to be: of a bucket that is not mirrored.
    if (object !== undefined && object.remoteEtag === null) return 'unchanged';
    if (object?.remoteEtag === found?.etag) return 'unchanged';
    // It could not be stored under its name: that nothing is there says nothing.
    if (found === undefined && object?.remoteEtag === NO_OWN_NAME) return 'unchanged';
    try {
      return found === undefined
        ? await this.#remove(object as ObjectRecord)
        : await this.#take(ref, found, object);
    } catch (error) {
      // Written or deleted here meanwhile (I2).
      const codes = ['already_exists', 'precondition_failed', 'superseded'] as const;
      if (codes.some((code) => isStoreError(error, code))) return 'unchanged';
      throw error;
    }
  }

  async #remove(object: ObjectRecord): Promise<Outcome> {
    const { catalog, clock, nextId, retireAll } = this.#parts;
    const { bucket, key, etag } = object;
    const stamp = { version: await nextId(), createdAtMs: clock.now() };
    const { freed } = await catalog.deleteObject(bucket, key, { ifMatch: etag }, stamp);
    await retireAll(freed);
    return 'removed';
  }

  async #take(
    { bucket, key }: ObjectRef,
    listed: RemoteObject & Partial<RemoteHeaders>,
    old: ObjectRecord | undefined,
  ): Promise<Outcome> {
    const { catalog, remote, clock, nextId, retireAll } = this.#parts;
    const policy = (await catalog.findBucket(bucket))?.policy;
    const name = ownName(policy?.remote ?? null, { bucket, key });
    // A listing tells neither type nor metadata.
    const found = listed.contentType === undefined ? await remote.head(name) : listed;
    if (found === undefined) return 'unchanged'; // gone again since
    const { etag, contentType = 'application/octet-stream', metadata = {} } = found;
    const whole = { offset: 0, sizeBytes: found.sizeBytes };
    const segments = policy?.encrypted === true ? await this.#segmentsOf(name, found) : [whole];
    const version = await nextId();
    const createdAtMs = clock.now();
    const blobs: ObjectCommit['newBlobs'][number][] = [];
    for (const { offset, ...facts } of segments) {
      if (facts.sizeBytes === 0) continue;
      const remote = { name, offset, etag };
      const places = { memoryBytes: null, diskBytes: null, remote };
      blobs.push({ blobId: await nextId(), ...facts, crc32c: null, createdAtMs, ...places });
    }
    const sizeBytes = blobs.reduce((sum, blob) => sum + blob.sizeBytes, 0);
    const { freed } = await catalog.commitObject({
      object: {
        ...{ bucket, key, version, sizeBytes, etag, crc32c: null, contentType, metadata },
        ...{ attributes: {}, createdAtMs, jobId: null, pinned: old?.pinned ?? false },
        extents: blobs.map((blob) => ({ blobId: blob.blobId, offset: 0, length: blob.sizeBytes })),
        remoteEtag: etag,
      },
      newBlobs: blobs,
      condition: old === undefined ? { ifNoneMatch: true } : { ifMatch: old.etag },
    });
    await retireAll(freed);
    return old === undefined ? 'added' : 'updated';
  }

  /** I3. @throws `data_corrupt`, `key_unavailable`, `version_unsupported` for what was not put there by a node with our keys */
  async #segmentsOf(
    name: string,
    { sizeBytes, etag }: RemoteObject,
  ): Promise<readonly (SealFacts & { readonly offset: number })[]> {
    const { remote, vault } = this.#parts;
    const segments: (SealFacts & { readonly offset: number })[] = [];
    for (let offset = 0; offset < sizeBytes; ) {
      const header = Buffer.alloc(Math.min(HEADER_BYTES, sizeBytes - offset));
      await remote.read(name, header, offset, { etag });
      const facts = vault.inspect(header);
      segments.push({ ...facts, offset });
      offset += sealedSize(facts.sizeBytes);
      if (offset > sizeBytes)
        throw new StoreError('data_corrupt', 'an encrypted object ends within a segment');
    }
    return segments;
  }
}
