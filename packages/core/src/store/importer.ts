/**
 * What others put into tier 2: objects that are there and not in the catalog are taken in, those that changed there are taken
 * in again, those that went there go. Bytes stay where they are until somebody reads them. A whole bucket: bucket-sync.ts.
 *
 * I1  What this node still has to send wins: a name in the spool is not looked at, and the catalog checks that in the same step.
 * I2  An object is replaced or removed only while it is the version that was compared.
 * I3  What is in tier 2 under the names of an encrypted bucket is taken in if it is segments that open under a key of this
 *     node, as who lost a catalog finds it; anything else is refused.
 * I4  What was learned from tier 2 is never sent to tier 2: neither a removal nor a version enters the spool (catalog.ts, I5).
 * I5  That an object went is believed when two different questions say so: HEAD and a listing.
 */
import { isStoreError, StoreError } from '@ebb/protocol';
import type { Catalog, Freed, ObjectCommit, ObjectRecord, SpoolEntry } from '../catalog/catalog.ts';
import type { Clock } from '../clock.ts';
import { HEADER_BYTES, sealedSize } from '../encryption/frames.ts';
import type { SealFacts } from '../encryption/sealed-format.ts';
import type { Vault } from '../encryption/vault.ts';
import { NO_OWN_NAME, ownName } from '../placement/remote-names.ts';
import { isListed } from '../tier/still-there.ts';
import type { RemoteHeaders, RemoteObject, RemoteTier } from '../tier/tier.ts';
import type { ObjectRef } from './object-store.ts';
import { RecentMap } from './recent-map.ts';

const CHECKED_MIN = 32_768;

export interface ImporterParts {
  readonly catalog: Catalog;
  readonly remote: RemoteTier;
  readonly clock: Clock;
  readonly vault: Vault;
  nextId(): Promise<number>;
  retireAll(freed: Freed['freed']): Promise<void>;
}

export type Outcome = 'added' | 'updated' | 'removed' | 'unchanged';

export class Importer {
  readonly #parts: ImporterParts;
  /** When an object was last compared with tier 2, by version. */
  readonly #checkedAtMs = new RecentMap<number, number>(CHECKED_MIN);

  constructor(parts: ImporterParts) {
    this.#parts = parts;
  }

  /** Looks whether the object changed in tier 2, and follows it. Resolves with what is there now. */
  async refresh(ref: ObjectRef): Promise<ObjectRecord | undefined> {
    const { catalog, remote } = this.#parts;
    const target = (await catalog.findBucket(ref.bucket))?.policy.remote ?? null;
    const name = ownName(target, ref);
    const found = await remote.head(name);
    // I5: where the listing has it, one of both is wrong, and nothing follows from that.
    if (found !== undefined || !(await isListed(remote, name)))
      await this.compare(ref, found, { dryRun: false });
    return await catalog.findObject(ref.bucket, ref.key);
  }

  /** A version that was to be stored over what others put under its name since: theirs takes its place. */
  async giveWay(entry: SpoolEntry): Promise<void> {
    const { catalog, remote } = this.#parts;
    const object = await catalog.findObject(entry.bucket, entry.key);
    const found = await remote.head(ownName(entry.target, entry));
    if (found === undefined || object === undefined || object.version !== entry.version) return;
    await this.#unlessChangedHere(
      async () => await this.#take(entry, found, { old: object, overSpooled: object.version }),
    );
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

  /** Follows what tier 2 has of an object, or nothing there. `dryRun`: says what that would be. @throws those of the tier, and of I3 */
  async compare(
    ref: ObjectRef,
    found: (RemoteObject & Partial<RemoteHeaders>) | undefined,
    { dryRun }: { readonly dryRun: boolean },
  ): Promise<Outcome> {
    const { catalog } = this.#parts;
    if ((await catalog.findSpooled(ref.bucket, ref.key)) !== undefined) return 'unchanged'; // I1
    const object = await catalog.findObject(ref.bucket, ref.key);
    // Never stored there by us, and not waiting to be: of a bucket that is not mirrored.
    if (object !== undefined && object.remoteEtag === null) return 'unchanged';
    if (object?.remoteEtag === found?.etag) return 'unchanged';
    // It could not be stored under its name: that nothing is there says nothing.
    if (found === undefined && object?.remoteEtag === NO_OWN_NAME) return 'unchanged';
    if (dryRun) return found === undefined ? 'removed' : object === undefined ? 'added' : 'updated';
    return await this.#unlessChangedHere(async () =>
      found === undefined
        ? await this.#remove(object as ObjectRecord)
        : await this.#take(ref, found, { old: object }),
    );
  }

  /** Written or deleted here meanwhile (I1, I2). */
  async #unlessChangedHere(work: () => Promise<Outcome>): Promise<Outcome> {
    try {
      return await work();
    } catch (error) {
      const codes = ['already_exists', 'precondition_failed', 'superseded'] as const;
      if (codes.some((code) => isStoreError(error, code))) return 'unchanged';
      throw error;
    }
  }

  /** I4 */
  async #remove(object: ObjectRecord): Promise<Outcome> {
    const { catalog, clock, nextId, retireAll } = this.#parts;
    const { bucket, key, etag } = object;
    const stamp = { version: await nextId(), createdAtMs: clock.now(), cause: 'gone' } as const;
    const { freed } = await catalog.deleteObject(bucket, key, { ifMatch: etag }, stamp);
    await retireAll(freed);
    return 'removed';
  }

  async #take(
    { bucket, key }: ObjectRef,
    listed: RemoteObject & Partial<RemoteHeaders>,
    { old, overSpooled }: { readonly old: ObjectRecord | undefined; readonly overSpooled?: number },
  ): Promise<Outcome> {
    const { catalog, remote, clock, nextId, retireAll } = this.#parts;
    const policy = (await catalog.findBucket(bucket))?.policy;
    const name = ownName(policy?.remote ?? null, { bucket, key });
    // A listing tells neither type nor metadata.
    const found = listed.contentType === undefined ? await remote.head(name) : listed;
    if (found === undefined) return 'unchanged'; // gone again since
    assertSameObject(name, listed, found);
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
      found: overSpooled === undefined ? {} : { overSpooled },
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

/** Two answers about one content must tell one length: else one of them is wrong, and neither is believed. */
function assertSameObject(name: string, listed: RemoteObject, found: RemoteObject): void {
  if (listed.etag !== found.etag || listed.sizeBytes === found.sizeBytes) return;
  const sizes = { listedBytes: listed.sizeBytes, foundBytes: found.sizeBytes };
  const message = `tier 2 says that ${name} has ${listed.sizeBytes} bytes, and ${found.sizeBytes} bytes under the same ETag`;
  throw new StoreError('io_failed', message, { name, ...sizes });
}
