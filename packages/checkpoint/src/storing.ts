/**
 * Makes snapshots durable behind the training job's back: blocks that no earlier snapshot has become a data object a part, then
 * comes the manifest, and when tier 2 has all of it, the manifest is shown in the run's bucket.
 *
 * I1  One snapshot is stored at a time on a node, the one that was committed last first; so what a crash would cost is
 *     as young as it can be. What was committed later has the higher sequence; times of day order nothing.
 * I2  A record says `stored` when all that its manifest names is as durable as its bucket asks, and so is the manifest.
 * I3  The manifest appears in the run's bucket after every object that it names; where that is mirrored, when tier 2 has
 *     them. Who reads the object store alone sees whole snapshots only.
 * I4  Storing, dropping images and removing are one after the other in a run (`serial`): no snapshot comes to name a data
 *     object that is being deleted.
 * I5  What fails is tried again after a growing pause, and others get their turn meanwhile.
 * I6  What was made for a snapshot that was replaced or removed meanwhile goes when its storing ends.
 * I7  Bytes, digests and shards of a part are read from one opened object, which is the image that the record names.
 */
import { type BucketPolicy, type Clock, isMirrored, Pauses, type Serial } from '@ebb/core';
import {
  type Ack,
  CHECKPOINT_BLOCK_BYTES,
  CHECKPOINT_FORMAT,
  isStoreError,
  type Manifest,
  type ManifestPart,
  type RunPolicy,
  StoreError,
} from '@ebb/protocol';
import { type DeltaBase, planDelta } from './delta-plan.ts';
import { Digests } from './digest.ts';
import { readShards } from './image.ts';
import type { ImageThread } from './image-thread.ts';
import type { Losses } from './losses.ts';
import { parseManifest } from './manifest.ts';
import {
  dataKey,
  IMAGE_BUCKET,
  imagesPrefix,
  manifestKey,
  pendingManifestKey,
  runKey,
  SEALED_IMAGE_BUCKET,
  type SnapshotRef,
  snapshotKey,
} from './names.ts';
import type { CheckpointStore, Name, Objects } from './objects.ts';
import { bytesOf, type Retained, stepsToRemove } from './retention.ts';
import { type Ended, endedKey, type Run, type Runs, remember, visible } from './runs.ts';
import {
  assertIsImage,
  imageKeyOf,
  type SnapshotPart,
  type SnapshotRecord,
} from './snapshot-record.ts';

const LOOK_FAILED_PAUSE_MS = 30_000;
const MANIFESTS_KEPT = 4;

export interface StoringParts {
  readonly store: CheckpointStore;
  readonly objects: Objects;
  readonly runs: Runs;
  readonly thread: ImageThread;
  readonly serial: Serial<string>;
  readonly losses: Losses;
  readonly clock: Clock;
  readonly onError: (error: unknown, subject: string) => void;
}

export class Storing {
  readonly #parts: StoringParts;
  readonly #stop = new AbortController();
  readonly #pauses: Pauses;
  /** Snapshots whose way to tier 2 is being waited for. */
  readonly #publishing = new Map<string, Promise<void>>();
  /** The last that were read or written, by key; a session writes a step once. */
  readonly #manifests = new Map<string, Manifest>();
  /** Why a snapshot is not stored yet, by its key: what the last try said. */
  readonly #problems = new Map<string, string>();
  #working: Promise<void> | undefined;
  #isDirty = false;
  /** Bytes of data objects that were made since the start. */
  storedBytes = 0;

  constructor(parts: StoringParts) {
    this.#parts = parts;
    this.#pauses = new Pauses({
      clock: parts.clock,
      signal: this.#stop.signal,
      onOver: () => this.wake(),
    });
  }

  /** There may be something to store. */
  wake(): void {
    this.#isDirty = true;
    if (this.#stop.signal.aborted) return;
    this.#working ??= this.#work()
      .catch((error: unknown) => {
        if (this.#stop.signal.aborted) return;
        this.#parts.onError(error, 'checkpoints');
        this.#pauses.later(LOOK_FAILED_PAUSE_MS);
      })
      .finally(() => {
        this.#working = undefined;
        if (this.#isDirty) this.wake();
      });
  }

  /** Snapshots that are to be stored and are not yet. */
  async unstored(): Promise<readonly SnapshotRecord[]> {
    const found: SnapshotRecord[] = [];
    for (const run of this.#parts.runs.all())
      if (await this.#wantsStored(run.ref.bucket))
        for (const [, record] of visible(run)) if (record.stored === null) found.push(record);
    return found;
  }

  /** What keeps a snapshot from being stored, when a try has failed. */
  problemOf(ref: SnapshotRef): string | undefined {
    return this.#problems.get(snapshotKey(ref));
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#working;
    await Promise.allSettled([...this.#publishing.values()]);
  }

  // ── what is to be done ────────────────────────────────────────────────────────────────────────────────────────────

  async #work(): Promise<void> {
    while (this.#isDirty && !this.#stop.signal.aborted) {
      this.#isDirty = false;
      for (;;) {
        await this.#publishWhatIsStored();
        const next = await this.#next();
        if (next === undefined || this.#stop.signal.aborted) break;
        const { ref, session } = next;
        await this.#try({ ...ref, session }, () =>
          this.#parts.serial.run(runKey(ref), async () => await this.#storeNext(ref)),
        );
      }
    }
  }

  /** I1 */
  async #next(): Promise<{ readonly ref: SnapshotRef; readonly session: string } | undefined> {
    let best: { ref: SnapshotRef; session: string; sequence: number } | undefined;
    for (const run of this.#parts.runs.all())
      for (const [step, { stored, session, sequence }] of visible(run)) {
        const ref = { ...run.ref, step };
        if (stored !== null || !this.#pauses.mayTry(subjectOf(ref))) continue;
        if (best !== undefined && best.sequence >= sequence) continue;
        if (await this.#wantsStored(ref.bucket)) best = { ref, session, sequence };
      }
    return best;
  }

  async #storeNext(ref: SnapshotRef): Promise<void> {
    const { runs } = this.#parts;
    const record = runs.find(ref)?.snapshots.get(ref.step);
    if (record === undefined || record.isRemoved || record.stored !== null) return;
    if (this.#isOvertaken(ref, record)) {
      const message = `snapshot ${snapshotKey(ref)} was dropped: a newer one was stored before it, and the run asks for no more (superseded=drop)`;
      await this.remove(ref, message);
      return;
    }
    if (!(await this.#parts.losses.checkImages(ref, record))) return;
    await this.#store(ref, record);
    await this.dropImages(runs.get(ref));
    await this.retain(runs.get(ref));
  }

  /** By the run's policy it is dropped: a newer one is stored, and nobody asked for this one. */
  #isOvertaken({ step, ...of }: SnapshotRef, record: SnapshotRecord): boolean {
    const run = this.#parts.runs.get(of);
    const { superseded, keepEvery } = run.policy;
    if (superseded === 'store' || record.pinned) return false;
    if (keepEvery !== null && step % keepEvery === 0) return false;
    return visible(run).some(
      ([, one]) => one.stored !== null && one.bad === null && one.sequence > record.sequence,
    );
  }

  async #try(
    { session, ...ref }: SnapshotRef & { readonly session: string },
    work: () => Promise<void>,
  ): Promise<void> {
    const subject = subjectOf(ref);
    this.#problems.delete(subject.name);
    try {
      await work();
      this.#pauses.succeeded(subject);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      const now = this.#parts.runs.find(ref)?.snapshots.get(ref.step);
      // Nothing is left to be done for one that was removed or replaced meanwhile.
      if (now?.session !== session || now.isRemoved) return;
      remember(this.#problems, subject.name, (error as Error).message);
      this.#pauses.failed(subject, { isAway: false });
      this.#parts.onError(error, subject.name);
    }
  }

  // ── one snapshot ──────────────────────────────────────────────────────────────────────────────────────────────────

  async #store(ref: SnapshotRef, record: SnapshotRecord): Promise<void> {
    const { runs, objects } = this.#parts;
    const policy = await this.#policyOf(ref.bucket);
    const ack: Ack = policy.ack === 'memory' ? 'memory' : 'disk';
    const base = await this.#baseOf(ref);
    const parts: ManifestPart[] = [];
    const named = new Map<string, number>();
    const made: Name[] = [];
    let newBytes = 0;
    try {
      for (const part of record.parts) {
        const stored = await this.#storePart(ref, { record, part, base, ack });
        parts.push(stored.part);
        made.push({ bucket: ref.bucket, key: stored.newKey });
        newBytes += stored.newBytes;
        for (const [, , key] of stored.part.runs)
          named.set(key, key === stored.newKey ? stored.newBytes : (base?.objects.get(key) ?? 0));
      }
    } catch (error) {
      await this.#forgetMade(ref, made);
      throw error;
    }
    const manifest: Manifest = {
      format: CHECKPOINT_FORMAT,
      run: ref.run,
      step: ref.step,
      session: record.session,
      committedAt: new Date(record.committedAtMs).toISOString(),
      sequence: record.sequence,
      metadata: { ...record.metadata },
      parts,
    };
    const name = this.manifestName(ref, record.session, policy);
    await objects.put(name, Buffer.from(JSON.stringify(manifest)), ack);
    this.#remember(name.key, manifest);
    const stored = { durability: ack, objects: Object.fromEntries(named), newBytes };
    const { session, previous } = record;
    const isNoted = await runs.change(
      { ...ref, session },
      { stored, previous: null },
      { durable: true },
    );
    if (isNoted && previous !== null) await this.#forgetStored(ref, previous, policy);
    if (!isNoted) await this.#forgetMade(ref, [...made, name]); // I6
  }

  async #storePart(
    ref: SnapshotRef,
    {
      record,
      part,
      base,
      ack,
    }: {
      readonly record: SnapshotRecord;
      readonly part: SnapshotPart;
      readonly base: Base | undefined;
      readonly ack: Ack;
    },
  ): Promise<{ readonly part: ManifestPart; readonly newKey: string; readonly newBytes: number }> {
    const { objects, thread } = this.#parts;
    const policy = await this.#policyOf(ref.bucket);
    const { name } = part;
    const image = { bucket: imageBucket(policy), key: imageKeyOf(ref, record.session, part) };
    return await objects.using(image, async (opened) => {
      assertIsImage(part, opened.object); // I7
      const blockBytes = CHECKPOINT_BLOCK_BYTES;
      const imageBytes = opened.object.sizeBytes;
      const digests = await objects.digest(opened, blockBytes, thread);
      const newKey = this.#freeDataKey(ref, name, record);
      const plan = planDelta(
        { imageBytes, blockBytes, digests: new Digests(digests) },
        newKey,
        base?.parts.get(name),
      );
      const { runs, pieces, newBytes } = plan;
      if (newBytes > 0) {
        const to = { bucket: ref.bucket, key: newKey, sizeBytes: newBytes, ack };
        await objects.gather(opened, pieces, to, thread);
        this.storedBytes += newBytes;
      }
      const shards = await readShards((target, at) => objects.read(opened, target, at), {
        imageBytes,
        part: name,
      });
      return {
        newKey,
        newBytes,
        part: {
          name,
          imageBytes,
          blockBytes,
          digest: 'gmac-aes-128',
          digests: digests.toString('base64'),
          runs: runs.map((run) => [...run]),
          shards: [...shards],
        },
      };
    });
  }

  /**
   * One that nobody names: an earlier snapshot of this step may have been replaced while others still share its blocks. Another part
   * of this one may be called as a further copy of ours is.
   */
  #freeDataKey(ref: SnapshotRef, part: string, { parts }: SnapshotRecord): string {
    const { snapshots } = this.#parts.runs.get(ref);
    const others = parts.filter(({ name }) => name !== part);
    for (let copy = 0; ; copy++) {
      const key = dataKey(ref, part, copy);
      if (others.some(({ name }) => dataKey(ref, name, 0) === key)) continue;
      if (!snapshots.values().some((record) => isNamedBy(record, key))) return key;
    }
  }

  async #baseOf(ref: SnapshotRef): Promise<Base | undefined> {
    const run = this.#parts.runs.get(ref);
    if (!run.policy.delta) return undefined;
    let newest: readonly [number, SnapshotRecord] | undefined;
    for (const [step, record] of visible(run)) {
      if (record.stored === null || record.bad !== null) continue;
      newest ??= [step, record];
    }
    if (newest === undefined) return undefined;
    const [step, record] = newest;
    const manifest = await this.readManifest({ ...ref, step }, record);
    const objects = objectsOf(record);
    const parts = new Map<string, DeltaBase>();
    for (const { name, imageBytes, digests, runs } of manifest.parts) {
      const named = new Set(runs.map(([, , key]) => key));
      parts.set(name, {
        imageBytes,
        runs,
        digests: new Digests(Buffer.from(digests, 'base64')),
        objectBytes: new Map([...objects].filter(([key]) => named.has(key))),
      });
    }
    return { parts, objects };
  }

  /** @throws `data_corrupt` */
  async readManifest(
    ref: SnapshotRef,
    { session, isImported }: Pick<SnapshotRecord, 'isImported' | 'session'>,
  ): Promise<Manifest> {
    const pending = this.manifestName(ref, session, await this.#policyOf(ref.bucket));
    const known = this.#manifests.get(pending.key);
    if (known !== undefined) return known;
    const name = isImported === true ? { bucket: ref.bucket, key: manifestKey(ref) } : pending;
    const bytes = await this.#parts.objects.get(name);
    try {
      const manifest = parseManifest(bytes);
      assertSession(manifest, session);
      this.#remember(pending.key, manifest);
      return manifest;
    } catch (error) {
      const message = `${name.bucket}/${name.key} is not the manifest of this snapshot`;
      throw new StoreError('data_corrupt', message, { step: ref.step }, error);
    }
  }

  #remember(key: string, manifest: Manifest): void {
    this.#manifests.set(key, manifest);
    for (const oldest of this.#manifests.keys()) {
      if (this.#manifests.size <= MANIFESTS_KEPT) break;
      this.#manifests.delete(oldest);
    }
  }

  manifestName(ref: SnapshotRef, session: string, policy: BucketPolicy): Name {
    return { bucket: imageBucket(policy), key: pendingManifestKey(ref, session) };
  }

  // ── to tier 2 (I3) ────────────────────────────────────────────────────────────────────────────────────────────────

  async #publishWhatIsStored(): Promise<void> {
    for (const run of this.#parts.runs.all())
      if (await this.#wantsStored(run.ref.bucket)) await this.#publishAll(run);
  }

  async #publishAll(run: Run): Promise<void> {
    const policy = await this.#policyOf(run.ref.bucket);
    const last: Ack = isMirrored(policy) ? 'remote' : policy.ack === 'memory' ? 'memory' : 'disk';
    for (const [step, { stored, session }] of visible(run)) {
      const ref = { ...run.ref, step };
      const key = snapshotKey(ref);
      if (stored === null || stored.isPublished === true) continue;
      if (this.#publishing.has(key) || !this.#pauses.mayTry(subjectOf(ref))) continue;
      const publishing = this.#try({ ...ref, session }, () =>
        this.#publish(ref, session, last),
      ).finally(() => {
        this.#publishing.delete(key);
      });
      this.#publishing.set(key, publishing);
    }
  }

  async #publish(ref: SnapshotRef, session: string, last: Ack): Promise<void> {
    const { store, runs, serial } = this.#parts;
    const { bucket } = ref;
    const record = runs.snapshot(ref);
    const { signal } = this.#stop;
    if (last === 'remote')
      for (const key of objectsOf(record).keys())
        await store.wait({ bucket, key }, last, { signal });
    const isShown = await serial.run(runKey(ref), async () => {
      const now = runs.find(ref)?.snapshots.get(ref.step);
      if (now?.session !== session || now.isRemoved) return false;
      const name = this.manifestName(ref, session, await this.#policyOf(bucket));
      await store.copy(name, { bucket, key: manifestKey(ref) });
      return true;
    });
    if (!isShown) return;
    if (last === 'remote') await store.wait({ bucket, key: manifestKey(ref) }, last, { signal });
    const now = runs.find(ref)?.snapshots.get(ref.step)?.stored;
    if (now == null) return;
    const stored = { ...now, durability: last, isPublished: true as const };
    await runs.change({ ...ref, session }, { stored }, { durable: true });
  }

  // ── what goes ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Gives up images that are not needed: all but those of what is not stored, and of the newest snapshot unless its slot is wanted. */
  async dropImages(run: Run, { isSlotWanted = false } = {}): Promise<void> {
    const { runs, objects } = this.#parts;
    const policy = await this.#policyOf(run.ref.bucket);
    const [newest] = visible(run);
    for (const [step, { stored, imagesGone, session, parts }] of visible(run)) {
      if (stored === null || imagesGone) continue;
      if (step === newest?.[0] && !isSlotWanted) continue;
      const ref = { ...run.ref, step };
      // The record first: nobody is sent to an image that is being deleted.
      await runs.change({ ...ref, session }, { imagesGone: true }, { durable: false });
      for (const part of parts)
        await objects.delete({ bucket: imageBucket(policy), key: imageKeyOf(ref, session, part) });
    }
  }

  /** Removes what the run's policy lets go, and what was lost. Called within `serial`. */
  async retain(run: Run): Promise<void> {
    const { runs } = this.#parts;
    for (const [step, { isRemoved }] of [...run.snapshots])
      if (isRemoved) await this.remove({ ...run.ref, step }, 'it is being removed');
    const policy = await this.#policyOf(run.ref.bucket);
    const retained = visible(run).map(([step, record]) => {
      const ageMs = runs.ageMs({ ...run.ref, step }, record);
      return { ...toRetained(step, record, policy), ageMs };
    });
    for (const step of stepsToRemove(retained, run.policy)) {
      const ref = { ...run.ref, step };
      const message = `snapshot ${snapshotKey(ref)} was committed, and removed since, as the run's policy says (${describePolicy(run.policy)})`;
      await this.remove(ref, message);
    }
  }

  /** Called within `serial`. Goes on after a crash in the middle. `why`: for those who look for it later. */
  async remove(ref: SnapshotRef, why: string): Promise<void> {
    const { runs, objects } = this.#parts;
    const run = runs.find(ref);
    const record = run?.snapshots.get(ref.step);
    if (run === undefined || record === undefined) return;
    const key = endedKey({ ...ref, session: record.session });
    const ended: Ended = { code: 'not_found', message: why };
    if (!run.ended.has(key)) remember(run.ended, key, ended);
    if (!record.isRemoved) await runs.put(ref, { ...record, isRemoved: true }, { durable: true });
    const policy = await this.#policyOf(ref.bucket);
    await objects.delete({ bucket: ref.bucket, key: manifestKey(ref) });
    await this.#forgetStored(ref, record, policy);
    if (record.previous !== null) await this.#forgetStored(ref, record.previous, policy);
    await runs.drop(ref, record);
  }

  /** I6 */
  async #forgetMade(ref: SnapshotRef, made: readonly Name[]): Promise<void> {
    const { runs, objects } = this.#parts;
    const records = [...(runs.find(ref)?.snapshots.values() ?? [])];
    for (const { bucket, key } of made)
      if (!records.some((record) => isNamedBy(record, key))) await objects.delete({ bucket, key });
  }

  /** Deletes what this record named and no other does. */
  async #forgetStored(
    ref: SnapshotRef,
    record: SnapshotRecord,
    policy: BucketPolicy,
  ): Promise<void> {
    const { runs, objects } = this.#parts;
    const still = new Set<string>();
    for (const [step, one] of runs.get(ref).snapshots)
      if (!(step === ref.step && (one.isRemoved || one.session === record.session)))
        for (const key of objectsOf(one).keys()) still.add(key);
    for (const key of objectsOf(record).keys())
      if (!still.has(key)) await objects.delete({ bucket: ref.bucket, key });
    await objects.deleteAll(imageBucket(policy), `${imagesPrefix(ref)}${record.session}/`);
  }

  async #wantsStored(bucket: string): Promise<boolean> {
    try {
      return wantsStored(await this.#policyOf(bucket));
    } catch (error) {
      if (isStoreError(error, 'bucket_not_found')) return false;
      throw error;
    }
  }

  async #policyOf(bucket: string): Promise<BucketPolicy> {
    return (await this.#parts.store.getBucket(bucket)).policy;
  }
}

/** An imported one may have been replaced in tier 2 since. */
function assertSession(manifest: Manifest, session: string): void {
  if (manifest.session === session) return;
  throw new StoreError('data_corrupt', `it is of session ${manifest.session}, not ${session}`);
}

interface Base {
  readonly parts: ReadonlyMap<string, DeltaBase>;
  readonly objects: ReadonlyMap<string, number>;
}

/** For pauses: each snapshot fails for itself. */
function subjectOf(ref: SnapshotRef): { readonly name: string; readonly target: string } {
  return { name: snapshotKey(ref), target: ref.bucket };
}

/** Whether memory alone is not what the bucket promises. */
export function wantsStored(policy: BucketPolicy): boolean {
  return policy.ack !== 'memory' || isMirrored(policy);
}

export function imageBucket(policy: BucketPolicy): string {
  return policy.encrypted === true ? SEALED_IMAGE_BUCKET : IMAGE_BUCKET;
}

/** Data objects that a record needs, also those of what it replaced and may have to give back. */
function objectsOf({ stored, previous }: SnapshotRecord): ReadonlyMap<string, number> {
  return new Map([
    ...Object.entries(previous?.stored?.objects ?? {}),
    ...Object.entries(stored?.objects ?? {}),
  ]);
}

function isNamedBy({ stored, previous }: SnapshotRecord, key: string): boolean {
  return [stored, previous?.stored].some((one) => one != null && Object.hasOwn(one.objects, key));
}

export function storedBytesOf(run: Run, policy: BucketPolicy): number {
  return bytesOf(visible(run).map(([step, record]) => toRetained(step, record, policy)));
}

function describePolicy({ keepLast, keepEvery, maxAgeMs, maxBytes }: RunPolicy): string {
  const rules = {
    ...{ keep_last: keepLast, keep_every: keepEvery },
    ...{ max_age_s: maxAgeMs === null ? null : maxAgeMs / 1000, max_bytes: maxBytes },
  };
  const said = Object.entries(rules).filter(([, value]) => value !== null);
  return said.map(([name, value]) => `${name}=${value}`).join(', ');
}

function toRetained(
  step: number,
  record: SnapshotRecord,
  policy: BucketPolicy,
): Omit<Retained, 'ageMs'> {
  return {
    step,
    sequence: record.sequence,
    pinned: record.pinned,
    isBad: record.bad !== null,
    isSafe: record.stored !== null || !wantsStored(policy),
    objects: objectsOf(record),
    imageBytes: record.parts.reduce((sum, { imageBytes }) => sum + imageBytes, 0),
  };
}
