/**
 * Takes in snapshots that another node stored: manifests and data objects that are in the run's bucket, and in tier 2, and of
 * which this node has no records. No data object is read.
 *
 * I1  A snapshot is taken in when its manifest is whole and every data object that it names is in tier 2, with all the bytes
 *     that it names. Anything else is refused by name, and keeps nothing else out.
 * I2  What the node has a record of stays as it is. What a session is saving now is left to it.
 * I3  All snapshots of a run appear in one change of the catalog: retention never sees some of them, and takes from none what
 *     another one shares with it. A crash before that change leaves nothing; the next import does all of it.
 * I4  Objects of the run stay while they are looked at: that and the change are within `serial`.
 * I5  Imported snapshots keep their order among each other, and are older than all that this node committed to the run.
 */
import type { Clock, Serial } from '@ebb/core';
import { isStoreError, MiB, type RunsImported, StoreError } from '@ebb/protocol';
import { checkManifest, parseManifest } from './manifest.ts';
import { manifestKey, parseDataKey, parseManifestKey, type RunRef, runKey } from './names.ts';
import type { CheckpointStore, Objects } from './objects.ts';
import { latestStep, type Run, type Runs } from './runs.ts';
import type { SnapshotRecord } from './snapshot-record.ts';

/** What is larger is no text of JavaScript. */
const MANIFEST_BYTES_MAX = 500 * MiB;
/** Each takes memory for its manifest, some megabytes for a large model. */
const READS_AT_ONCE = 8;
/** Of this manifest, or of what it names. Others, such as a store that is away, end the import. */
const REFUSALS = [
  ...(['data_corrupt', 'data_lost', 'key_unavailable', 'name_invalid', 'not_found'] as const),
  ...(['superseded', 'too_large', 'version_unsupported'] as const),
] as const;

export interface ImportingParts {
  readonly store: CheckpointStore;
  readonly objects: Objects;
  readonly runs: Runs;
  readonly serial: Serial<string>;
  readonly clock: Clock;
  /** Makes the run if it is not there. */
  readonly ensureRun: (ref: RunRef) => Promise<Run>;
}

interface Candidate {
  readonly step: number;
  readonly record: Omit<SnapshotRecord, 'sequence' | 'stored'>;
  /** Its place in the order of the node that made it; 0 in manifests of 0.1.0. */
  readonly sequence: number;
  /** Bytes that each data object must have at least. */
  readonly needed: ReadonlyMap<string, number>;
}

/** Of one bucket, below one prefix. */
export class Importing {
  readonly #parts: ImportingParts;

  constructor(parts: ImportingParts) {
    this.#parts = parts;
  }

  /** @throws `bucket_not_found`, `aborted`, and those of the tier */
  async importUnder(
    { bucket, prefix }: { readonly bucket: string; readonly prefix: string },
    signal?: AbortSignal,
  ): Promise<RunsImported> {
    const steps = new Map<string, number[]>();
    for await (const { key } of this.#parts.objects.list(bucket, prefix)) {
      signal?.throwIfAborted();
      const found = parseManifestKey(key);
      if (found === undefined) continue;
      const of = steps.get(found.run) ?? [];
      steps.set(found.run, of);
      of.push(found.step);
    }
    const runs: RunsImported['runs'] = [];
    const refused: RunsImported['refused'] = [];
    for (const [name, of] of steps) {
      const done = await this.#importRun({ bucket, run: name }, of, signal);
      refused.push(...done.refused);
      if (done.run !== undefined) runs.push(done.run);
    }
    return { runs, refused };
  }

  async #importRun(
    ref: RunRef,
    steps: readonly number[],
    signal: AbortSignal | undefined,
  ): Promise<{ run?: RunsImported['runs'][number]; refused: RunsImported['refused'] }> {
    const { runs, serial } = this.#parts;
    const refused: RunsImported['refused'] = [];
    const tryStep = async <T>(step: number, work: () => Promise<T>): Promise<T | undefined> => {
      signal?.throwIfAborted();
      try {
        return await work();
      } catch (error) {
        if (!REFUSALS.some((code) => isStoreError(error, code))) throw error;
        refused.push({ key: manifestKey({ ...ref, step }), problem: (error as Error).message });
        return undefined;
      }
    };
    const unknown = steps.filter((step) => runs.find(ref)?.snapshots.has(step) !== true); // I2
    const candidates: Candidate[] = [];
    for (let at = 0; at < unknown.length; at += READS_AT_ONCE) {
      const reads = unknown
        .slice(at, at + READS_AT_ONCE)
        .map((step) => tryStep(step, async () => await this.#read(ref, step)));
      await Promise.allSettled(reads);
      candidates.push(...(await Promise.all(reads)).filter((read) => read !== undefined));
    }
    const imported = await serial.run(runKey(ref), async () => {
      const found = new Map<Candidate, Omit<SnapshotRecord, 'sequence'>>();
      for (const one of candidates) {
        const record = await tryStep(one.step, async () => await this.#find(ref, one));
        if (record !== undefined) found.set(one, record);
      }
      if (found.size === 0) return 0;
      const run = await this.#parts.ensureRun(ref);
      // Up to the change nothing else gets a turn: who began or committed until now is seen.
      const records = new Map<number, SnapshotRecord>();
      for (const [one, record] of found) {
        if (run.snapshots.has(one.step)) continue; // I2
        const problem = problemIn(run, one);
        if (problem === undefined) records.set(one.step, { ...record, sequence: one.sequence });
        else refused.push({ key: manifestKey({ ...ref, step: one.step }), problem });
      }
      if (records.size > 0) await runs.add(ref, inOrder(run, records));
      return records.size;
    });
    refused.sort((a, b) => (a.key < b.key ? -1 : 1));
    const unchanged = steps.length - imported - refused.length;
    const run = runs.find(ref);
    if (run === undefined || imported + unchanged === 0) return { refused };
    return { run: { run: ref.run, imported, unchanged, latestStep: latestStep(run) }, refused };
  }

  async #read(ref: RunRef, step: number): Promise<Candidate> {
    const { store, objects, clock } = this.#parts;
    const name = { bucket: ref.bucket, key: manifestKey({ ...ref, step }) };
    const { sizeBytes } = (await store.head(name)).object;
    if (sizeBytes > MANIFEST_BYTES_MAX)
      throw new StoreError('too_large', `it has ${sizeBytes} bytes: no manifest is so large`);
    const manifest = parseManifest(await objects.get(name));
    const needed = checkManifest(manifest, { ...ref, step });
    const { session, metadata } = manifest;
    return {
      step,
      needed,
      sequence: manifest.sequence ?? 0,
      record: {
        ...{ session, metadata, isImported: true },
        parts: manifest.parts.map(({ name: part, imageBytes }) => ({ name: part, imageBytes })),
        // The other node's clock may be ahead.
        committedAtMs: Math.min(Date.parse(manifest.committedAt), clock.now()),
        ...{ pinned: false, bad: null, imagesGone: true, previous: null, isRemoved: false },
      },
    };
  }

  /** I1 */
  async #find(
    ref: RunRef,
    { step, needed, record }: Candidate,
  ): Promise<Omit<SnapshotRecord, 'sequence'>> {
    const objects: Record<string, number> = {};
    let newBytes = 0;
    for (const [key, bytes] of needed) {
      const found = await this.#parts.store.find({ bucket: ref.bucket, key });
      if (found === undefined)
        throw new StoreError('not_found', `it names ${key}, which is not there`);
      const { sizeBytes } = found.object;
      if (sizeBytes < bytes) {
        const message = `it names ${bytes} bytes of ${key}, which has ${sizeBytes}`;
        throw new StoreError('data_corrupt', message);
      }
      if (found.durability !== 'remote')
        throw new StoreError('not_found', `it names ${key}, which tier 2 does not have yet`);
      objects[key] = sizeBytes;
      if (parseDataKey(key)?.step === step) newBytes += sizeBytes;
    }
    const stored = { isPublished: true, durability: 'remote', objects, newBytes } as const;
    return { ...record, stored };
  }
}

/** The imported records with their places, and those of this node that make room for them (I5). */
function inOrder(
  run: Run,
  imported: ReadonlyMap<number, SnapshotRecord>,
): ReadonlyMap<number, SnapshotRecord> {
  const placed = new Map<number, SnapshotRecord>();
  const byAge = [...imported].sort(
    ([stepA, a], [stepB, b]) =>
      a.sequence - b.sequence || a.committedAtMs - b.committedAtMs || stepA - stepB,
  );
  let last = 0;
  for (const [step, record] of byAge) {
    last = Math.max(last + 1, record.sequence);
    placed.set(step, { ...record, sequence: last });
  }
  const own = [...run.snapshots].filter(([, { isImported }]) => isImported !== true);
  const first = Math.min(...own.map(([, { sequence }]) => sequence));
  const shift = Math.max(0, last - first + 1);
  if (shift > 0)
    for (const [step, record] of own)
      placed.set(step, { ...record, sequence: record.sequence + shift });
  return placed;
}

/** What this node itself does or did at the same names. */
function problemIn(run: Run, { step, needed, record, sequence }: Candidate): string | undefined {
  const begun = run.begun.values().find((one) => one.step === step);
  if (begun !== undefined) return `session ${begun.session} is saving this step now`;
  for (const key of needed.keys()) {
    const of = parseDataKey(key)?.step ?? step;
    const own = run.snapshots.get(of);
    if (own === undefined || own.isImported === true) continue;
    // Saved anew after this manifest was written, in the place of what that names.
    if (own.stored?.objects[key] === undefined) continue;
    // Not unless both say that it was written later: clocks and counts are of two nodes.
    if (sequence <= own.sequence || record.committedAtMs <= own.committedAtMs)
      return `it names ${key} as it was before this node saved step ${of}`;
  }
  return undefined;
}
