/**
 * From the question for a slot to the commit: who hands over what, who waits for it, and when that is over.
 *
 * I1  One thing at a time changes what is handed over to a run (`#section`): a job that takes over, a commit, an abort and
 *     the sweep see each other's work whole. Nobody waits for a peer in there.
 * I2  A slot is taken by what can be read or is being written: images of committed snapshots, parts that were handed over,
 *     staged writes that live. Before its part is staged, a rank has the promise of a slot: for a moment, which is
 *     shorter when it asks for another step. So an answer that was lost, or a client that died, holds nothing.
 * I3  One job saves to a run, the one that began to save last. Whoever saved before it is told so by name: by each call
 *     from there on, also after a restart of the node.
 * I4  Who waits for a slot or for a part waits a minute at most, is told for what, and is told at once when it cannot come.
 * I5  Parts that nobody commits go: when their session gives up, when another job takes over, or after a while without a
 *     word from their session. Why is remembered, for those who wait for the snapshot.
 * I6  Each answer to `begin` gives a key that nobody was given before, also after a restart. So of two saves that have one
 *     session and step (two threads, a fork, a job that was started twice) neither writes over the other's image.
 * I7  A part of a snapshot is one image: the record names its key and version, from the look at its table on. Whoever
 *     reads it later (storing, plans, losses) compares both. Another object under the key is nobody's snapshot: it counts
 *     as the loss of the image.
 * I8  Which image is a part: the one whose key the commit says; else the one that was begun last, of those handed over. A
 *     commit that says another one than its session has committed is told so. Where a snapshot of several parts has more
 *     than one image of a part that the commit says no key of, nobody knows which belong together: it is given up.
 */
import type { Clock, Serial } from '@ebb/core';
import { type SnapshotBegun, StoreError } from '@ebb/protocol';
import type { BeginOptions, CommitSnapshot } from './checkpoint-service.ts';
import type { Losses } from './losses.ts';
import {
  IMAGE_BUCKET,
  imageKey,
  imageName,
  imagesPrefix,
  isAfter,
  isPendingManifest,
  jobOf,
  nextSession,
  PREPARED_PREFIX,
  parseImageKey,
  parseImageName,
  runKey,
  SEALED_IMAGE_BUCKET,
  type SnapshotRef,
} from './names.ts';
import type { CheckpointStore, Objects } from './objects.ts';
import {
  type Begun,
  begunKey,
  type Ended,
  endedError,
  type Run,
  type Runs,
  remember,
  visible,
  wake,
} from './runs.ts';
import {
  imageKeyOf,
  lastSessionOf,
  type SnapshotPart,
  type SnapshotRecord,
} from './snapshot-record.ts';
import type { Storing } from './storing.ts';
import { awaitChange } from './waiting.ts';

/** A longer one is asked for in steps: what is silent for too long is cut on the way. */
const WAIT_MS_MAX = 60_000;
/** Staged writes that end without a commit wake nobody. */
const SLOT_POLL_MS = 250;
const PART_POLL_MS_MIN = 5;
const PART_POLL_MS_MAX = 100;
/** From the answer to `begin` to the staged write. */
const PROMISE_MS = 10_000;
/** The same, when the same rank asks for another step: it would have staged this one by now. */
const PROMISE_LEFT_MS = 1000;
/** Parts of a session that says nothing more; as long as a client waits for the parts of other ranks. */
const SILENCE_MS_MAX = 10 * 60_000;
const RETRY_AFTER_MS = 1000;

export interface HandingOverParts {
  readonly store: CheckpointStore;
  readonly objects: Objects;
  readonly runs: Runs;
  readonly storing: Storing;
  readonly losses: Losses;
  readonly serial: Serial<string>;
  readonly clock: Clock;
  /** Never given before, also by the node's earlier lives; what is given later is higher. */
  readonly nextId: () => Promise<number>;
  /** The node stops. */
  readonly stop: AbortSignal;
}

/** Where a run's images lie, and whether its snapshots are stored. */
export interface Placing {
  readonly imageBucket: string;
  readonly isStored: boolean;
}

/** What was handed over for the parts of a snapshot. */
interface HandedOver {
  readonly parts: readonly SnapshotPart[];
  /** Keys of all images of its session. */
  readonly images: readonly string[];
}

type Decision =
  | { readonly is: 'go'; readonly id: number }
  | { readonly is: 'skip'; readonly reason: string }
  | { readonly is: 'wait'; readonly taken: readonly string[] };

export class HandingOver {
  readonly #parts: HandingOverParts;
  /** Snapshots that were left out since the start. */
  skipped = 0;

  constructor(parts: HandingOverParts) {
    this.#parts = parts;
  }

  /** @throws `superseded`, `already_committed`, `busy`, `aborted`, `draining`, `not_found` */
  async begin(
    run: Run,
    step: number,
    { options, placing }: { readonly options: BeginOptions; readonly placing: Placing },
  ): Promise<SnapshotBegun> {
    const { clock } = this.#parts;
    const waitMs = Math.min(options.waitMs ?? WAIT_MS_MAX, WAIT_MS_MAX);
    const untilMs = clock.monotonic() + waitMs;
    for (let isFirst = true; ; isFirst = false) {
      const found = await this.#section(run, () =>
        this.#decide(run, step, { options, placing, isFirst }),
      );
      if (found.is === 'go') {
        const image = imageName(options.part, found.id);
        const key = imageKey({ ...run.ref, step }, options.session, image);
        return { decision: 'go', bucket: placing.imageBucket, key };
      }
      if (found.is === 'skip') return { decision: 'skip', reason: found.reason };
      if (clock.monotonic() >= untilMs) throw allTaken(run, found.taken);
      await this.#look(run, Math.min(SLOT_POLL_MS, untilMs - clock.monotonic()), options.signal);
    }
  }

  /**
   * Waits for the parts, and has `publish` make the snapshot of them.
   * @throws `superseded`, `busy`, `aborted`, `draining`, `not_found`, `request_invalid`, and those of the callbacks
   */
  async commit(
    run: Run,
    step: number,
    {
      options,
      imageBucket,
      check,
      publish,
    }: {
      readonly options: CommitSnapshot;
      readonly imageBucket: string;
      readonly check: (parts: SnapshotRecord['parts']) => Promise<void>;
      /** Within the section, when all parts are there. False: `check` has to look once more. */
      readonly publish: (parts: SnapshotRecord['parts']) => Promise<boolean>;
    },
  ): Promise<void> {
    const { session } = options;
    const ref = { ...run.ref, step };
    assertKeys(ref, options);
    const begun = await this.#begunOf(run, step, { session, imageBucket });
    begun.commits++;
    try {
      for (;;) {
        const { parts, images } = await this.#awaitParts(run, begun, { options, imageBucket });
        try {
          await check(parts);
        } catch (error) {
          this.#assertGoesOn(run, begun); // another job may have thrown them away meanwhile
          throw error;
        }
        const isDone = await this.#section(run, async () => {
          this.#assertGoesOn(run, begun);
          for (const part of parts) {
            const name = { bucket: imageBucket, key: imageKeyOf(ref, session, part) };
            const found = await this.#parts.store.find(name);
            if (found?.object.version !== part.version) return false; // I7
          }
          if (!(await publish(parts))) return false;
          run.begun.delete(begunKey(begun));
          // Another commit of this session may have been first: its images are the snapshot's then.
          for (const key of images)
            if (!this.#isNeeded(key))
              await this.#parts.objects.delete({ bucket: imageBucket, key });
          return true;
        });
        if (isDone) return;
      }
    } finally {
      begun.commits--;
      begun.heardMs = this.#parts.clock.monotonic();
    }
  }

  async abort(
    run: Run,
    begun: Pick<Begun, 'session' | 'step'>,
    imageBucket: string,
  ): Promise<void> {
    await this.#section(run, async () => {
      if (hasCommitted(run, begun)) return;
      const message = `session ${begun.session} gave up its snapshot of step ${begun.step} of run ${run.ref.run}`;
      await this.#drop(run, begun, { imageBucket, ended: { code: 'superseded', message } });
    });
  }

  /** The run goes: nothing more is handed over to it. */
  async dropAll(run: Run, imageBucket: string): Promise<void> {
    await this.#section(run, async () => {
      const message = `run ${run.ref.run} was removed`;
      for (const begun of [...run.begun.values()])
        await this.#drop(run, begun, { imageBucket, ended: { code: 'not_found', message } });
    });
  }

  /** Whether a snapshot of this session may still come. @throws why it will not */
  mayCome(run: Run, begun: Pick<Begun, 'session' | 'step'>): boolean {
    this.#assertGoesOn(run, begun);
    return run.begun.has(begunKey(begun));
  }

  /** Looks at what lies in the image buckets, and in the memory of this object: what nobody needs goes (I5). */
  async sweep(onError: (error: unknown, subject: string) => void): Promise<void> {
    const { objects, runs } = this.#parts;
    for (const bucket of await this.#imageBuckets())
      for await (const { key } of objects.list(bucket, '')) {
        if (key.startsWith(PREPARED_PREFIX)) continue;
        if (!this.#isNeeded(key)) await objects.delete({ bucket, key });
      }
    for (const run of runs.all())
      await this.#giveUpSilent(run).catch((error: unknown) => onError(error, runKey(run.ref)));
  }

  /** What clients that died had made ready: made before this time. */
  async dropPrepared(beforeMs: number): Promise<void> {
    const { objects } = this.#parts;
    for (const bucket of await this.#imageBuckets())
      for await (const { key, createdAtMs } of objects.list(bucket, PREPARED_PREFIX))
        if (createdAtMs <= beforeMs) await objects.delete({ bucket, key });
  }

  // ── slots (I2) ────────────────────────────────────────────────────────────────────────────────────────────────────

  async #decide(
    run: Run,
    step: number,
    {
      options: { session, part },
      placing: { imageBucket, isStored },
      isFirst,
    }: { readonly options: BeginOptions; readonly placing: Placing; readonly isFirst: boolean },
  ): Promise<Decision> {
    const { runs, clock } = this.#parts;
    this.#assertThere(run);
    const key = begunKey({ step, session });
    await this.#takeOver(run, step, { session, imageBucket });
    const record = run.snapshots.get(step);
    const there = record === undefined ? undefined : lastSessionOf(record);
    if (there !== undefined && !isAfter(session, there))
      throw committedBefore(run, step, { session, there });
    const left = run.ended.get(key);
    if (left !== undefined) {
      // Once more: nothing of the first time may be among its parts.
      await this.#drop(run, { step, session }, { imageBucket, ended: left });
      run.ended.delete(key);
    }
    const known = run.begun.get(key);
    const isHeld = known !== undefined && (await this.#isHeld(run, known, imageBucket));
    if (isStored && !isHeld) {
      const reason = run.skipped.get(key);
      if (reason !== undefined) return { is: 'skip', reason };
      const taken = await this.#takenSlots(run, step, { imageBucket, session, part, isFirst });
      if (taken.length >= run.policy.slots && run.policy.behind === 'wait')
        return { is: 'wait', taken };
      if (taken.length >= run.policy.slots && run.policy.behind === 'skip') {
        const why = `storing is behind: all ${run.policy.slots} slots of run ${run.ref.run} are taken`;
        remember(run.skipped, key, why);
        this.skipped++;
        return { is: 'skip', reason: why };
      }
    }
    const id = await this.#parts.nextId();
    const nowMs = clock.monotonic();
    const sinceId = left === undefined ? 0 : id;
    const begun = known ?? newBegun({ step, session }, { sinceId, heardMs: nowMs });
    begun.promises.set(part, nowMs);
    begun.heardMs = nowMs;
    if (runs.find(run.ref) === run) run.begun.set(key, begun);
    return { is: 'go', id };
  }

  /** Who holds them, of other steps than this, in words. */
  async #takenSlots(
    run: Run,
    step: number,
    {
      imageBucket,
      session,
      part,
      isFirst,
    }: {
      readonly imageBucket: string;
      readonly session: string;
      readonly part: string;
      readonly isFirst: boolean;
    },
  ): Promise<readonly string[]> {
    const { storing, losses } = this.#parts;
    await storing.dropImages(run);
    const first = this.#holders(run, step);
    if (first.size < run.policy.slots) return [...first.values()];
    for (const begun of [...run.begun.values()]) {
      if (begun.step === step) continue;
      if (jobOf(begun.session) === jobOf(session))
        await this.#takeBackPromise(run, begun, { imageBucket, part });
      if (!(await this.#isHeld(run, begun, imageBucket))) run.begun.delete(begunKey(begun));
    }
    if (isFirst)
      for (const [of, record] of visible(run))
        if (!record.imagesGone) await losses.checkImages({ ...run.ref, step: of }, record);
    if (this.#holders(run, step).size >= run.policy.slots)
      await storing.dropImages(run, { isSlotWanted: true });
    return [...this.#holders(run, step).values()];
  }

  #holders(run: Run, step: number): Map<number, string> {
    const held = new Map<number, string>();
    for (const begun of run.begun.values())
      held.set(
        begun.step,
        `step ${begun.step} is being handed over by session ${begun.session}${begun.commits > 0 ? ', which waits for its parts' : ''}`,
      );
    for (const [of, { imagesGone, stored }] of visible(run)) {
      if (imagesGone) continue;
      const problem = this.#parts.storing.problemOf({ ...run.ref, step: of });
      const why = problem === undefined ? '' : ` (the last try failed: ${problem})`;
      held.set(
        of,
        stored === null ? `step ${of} is not stored yet${why}` : `step ${of} is in memory`,
      );
    }
    held.delete(step);
    return held;
  }

  /** A rank that asks for another step has not staged this one, and will not. */
  async #takeBackPromise(
    run: Run,
    begun: Begun,
    { imageBucket, part }: { readonly imageBucket: string; readonly part: string },
  ): Promise<void> {
    const sinceMs = begun.promises.get(part);
    if (sinceMs === undefined || sinceMs > this.#parts.clock.monotonic() - PROMISE_LEFT_MS) return;
    const images = `${sessionPrefix(run, begun)}${part}~`;
    if (this.#parts.store.isStagedUnder({ bucket: imageBucket, key: images })) return;
    if (await this.#isAnyImage(imageBucket, images)) return;
    begun.promises.delete(part);
  }

  async #isHeld(run: Run, begun: Begun, bucket: string): Promise<boolean> {
    const oldMs = this.#parts.clock.monotonic() - PROMISE_MS;
    if (begun.promises.values().some((sinceMs) => sinceMs > oldMs)) return true;
    const prefix = sessionPrefix(run, begun);
    if (this.#parts.store.isStagedUnder({ bucket, key: prefix })) return true;
    return await this.#isAnyImage(bucket, prefix);
  }

  // ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Also one that was forgotten, when parts of it are there. @throws `superseded`, `not_found` */
  async #begunOf(
    run: Run,
    step: number,
    { session, imageBucket }: { readonly session: string; readonly imageBucket: string },
  ): Promise<Begun> {
    return await this.#section(run, async () => {
      this.#assertGoesOn(run, { step, session });
      const known = run.begun.get(begunKey({ step, session }));
      const heardMs = this.#parts.clock.monotonic();
      if (known !== undefined) {
        known.heardMs = heardMs;
        return known;
      }
      const begun = newBegun({ step, session }, { sinceId: 0, heardMs });
      if (!(await this.#isAnyImage(imageBucket, sessionPrefix(run, begun)))) {
        const message = `session ${session} has begun no snapshot of step ${step}, or its parts were given up`;
        throw new StoreError('superseded', message, { step, session });
      }
      run.begun.set(begunKey(begun), begun);
      return begun;
    });
  }

  async #awaitParts(
    run: Run,
    begun: Begun,
    {
      options,
      imageBucket: bucket,
    }: { readonly options: CommitSnapshot; readonly imageBucket: string },
  ): Promise<HandedOver> {
    const { clock } = this.#parts;
    const { parts, waitMs = WAIT_MS_MAX, signal } = options;
    const names = [...new Set(parts)];
    const untilMs = clock.monotonic() + Math.min(waitMs, WAIT_MS_MAX);
    for (let pauseMs = PART_POLL_MS_MIN; ; pauseMs = Math.min(pauseMs * 2, PART_POLL_MS_MAX)) {
      const images = await this.#imagesOf(run, begun, bucket);
      this.#assertGoesOn(run, begun);
      const found = chooseImages({ ...run.ref, step: begun.step }, options, images);
      if (names.every((name) => found.chosen.has(name))) {
        if (found.isMixed) await this.#giveUpMixed(run, begun, bucket);
        return {
          parts: names.map((name) => partOf(name, found.chosen.get(name) as Image)),
          images: images.map(({ key }) => key),
        };
      }
      if (clock.monotonic() >= untilMs) {
        const missing = names.filter((name) => !found.chosen.has(name));
        throw new StoreError('busy', partsMissing(run, begun, names, missing), {
          ...{ step: begun.step, missing: missing.slice(0, 20), parts: names.length },
          retryAfterMs: RETRY_AFTER_MS,
        });
      }
      await this.#look(run, Math.min(pauseMs, untilMs - clock.monotonic()), signal);
    }
  }

  /** All that were handed over, the one that was begun first first. */
  async #imagesOf(run: Run, begun: Begun, bucket: string): Promise<readonly Image[]> {
    const { objects } = this.#parts;
    const images: Image[] = [];
    for await (const object of objects.list(bucket, sessionPrefix(run, begun))) {
      const { image } = parseImageKey(object.key);
      if (isPendingManifest(image)) continue;
      const { part, id } = parseImageName(image);
      if (id >= begun.sinceId) images.push({ ...object, image, part, id });
    }
    return images.sort((a, b) => a.id - b.id);
  }

  /** I8 @throws `superseded` */
  async #giveUpMixed(run: Run, begun: Begun, imageBucket: string): Promise<never> {
    const message = `session ${begun.session} has saved step ${begun.step} of run ${run.ref.run} more than once at a time, and which parts belong together is not known: they were thrown away. All lives of a job need sessions of their own`;
    await this.#section(run, async () => {
      const ended = { code: 'superseded', message } as const;
      await this.#drop(run, begun, { imageBucket, ended });
    });
    throw new StoreError('superseded', message, { step: begun.step, session: begun.session });
  }

  // ── what is over (I3, I5) ─────────────────────────────────────────────────────────────────────────────────────────

  async #takeOver(
    run: Run,
    step: number,
    { session, imageBucket }: { readonly session: string; readonly imageBucket: string },
  ): Promise<void> {
    const job = jobOf(session);
    this.#assertNotFenced(run, session);
    if (run.jobs.current === job) return;
    const begun = [...run.begun.values()].filter((one) => jobOf(one.session) !== job);
    const others = new Set(begun.map((one) => jobOf(one.session)));
    const newest = visible(run)[0]?.[1];
    if (run.jobs.current === null && newest !== undefined) others.add(jobOf(newest.session));
    others.delete(job);
    await this.#parts.runs.takeOver(run, { job, step, others });
    for (const one of begun) await this.#drop(run, one, { imageBucket });
  }

  async #drop(
    run: Run,
    begun: Pick<Begun, 'session' | 'step'>,
    { imageBucket, ended }: { readonly imageBucket: string; readonly ended?: Ended },
  ): Promise<void> {
    if (ended !== undefined) remember(run.ended, begunKey(begun), ended);
    run.begun.delete(begunKey(begun));
    // What else came by a session that has committed goes with the next sweep.
    if (!hasCommitted(run, begun))
      await this.#parts.objects.deleteAll(imageBucket, sessionPrefix(run, begun));
    wake(run);
  }

  async #giveUpSilent(run: Run): Promise<void> {
    const { clock, store } = this.#parts;
    const oldMs = clock.monotonic() - SILENCE_MS_MAX;
    const isSilent = (begun: Begun): boolean => begun.commits === 0 && begun.heardMs <= oldMs;
    for (const begun of [...run.begun.values()].filter(isSilent))
      await this.#section(run, async () => {
        const imageBuckets = await this.#imageBuckets();
        // From here on nothing is awaited before it is forgotten: it may have said a word until now, or be gone.
        if (run.begun.get(begunKey(begun)) !== begun || !isSilent(begun)) return;
        const key = sessionPrefix(run, begun);
        if (imageBuckets.some((bucket) => store.isStagedUnder({ bucket, key }))) return;
        const message = `session ${begun.session} handed over parts of step ${begun.step} of run ${run.ref.run}, and did not commit them in ${SILENCE_MS_MAX / 1000} s: they were thrown away`;
        for (const imageBucket of imageBuckets)
          await this.#drop(run, begun, { imageBucket, ended: { code: 'superseded', message } });
      });
  }

  /** An object of an image bucket. One that belongs to a session which may go on is noted as begun. */
  #isNeeded(key: string): boolean {
    const { step, session, image, ...of } = parseImageKey(key);
    const run = this.#parts.runs.find(of);
    if (run === undefined) return false;
    const record = run.snapshots.get(step);
    if (record?.session === session)
      return isPendingManifest(image) || (!record.imagesGone && isImageOf(record, image));
    if (record?.previous?.session === session) return isPendingManifest(image);
    if (isPendingManifest(image) || run.ended.has(begunKey({ step, session }))) return false;
    if (isFenced(run, session)) return false;
    const known = run.begun.get(begunKey({ step, session }));
    if (known !== undefined) return parseImageName(image).id >= known.sinceId;
    const heardMs = this.#parts.clock.monotonic();
    const begun = newBegun({ step, session }, { sinceId: 0, heardMs });
    run.begun.set(begunKey(begun), begun);
    return true;
  }

  /** @throws `superseded`, `not_found`, `data_lost` */
  #assertGoesOn(run: Run, { step, session }: Pick<Begun, 'session' | 'step'>): void {
    this.#assertThere(run);
    this.#assertNotFenced(run, session);
    const ended = run.ended.get(begunKey({ step, session }));
    if (ended !== undefined) throw endedError({ ...run.ref, step }, ended);
  }

  #assertThere(run: Run): void {
    if (this.#parts.runs.find(run.ref) === run) return;
    throw new StoreError('not_found', `run ${run.ref.run} was removed`, { ...run.ref });
  }

  #assertNotFenced(run: Run, session: string): void {
    const over = run.jobs.fenced.find(({ job }) => job === jobOf(session));
    if (over === undefined) return;
    const when = new Date(over.atMs).toISOString();
    throw new StoreError(
      'superseded',
      `session ${session} saves no more to run ${run.ref.run}: session ${over.by} took over at step ${over.step} (${when}). If that is the job to go on with, stop this one. All ranks of one job need the same session`,
      { run: run.ref.run, session, by: over.by, step: over.step },
    );
  }

  // ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /** I1 */
  async #section<T>(run: Run, work: () => Promise<T>): Promise<T> {
    return await this.#parts.serial.run(`handing over ${runKey(run.ref)}`, work);
  }

  /** Until something of the run changes, or the time is up. @throws `aborted`, `draining` */
  async #look(run: Run, ms: number, signal: AbortSignal | undefined): Promise<void> {
    const { clock, stop } = this.#parts;
    const stops = signal === undefined ? stop : AbortSignal.any([signal, stop]);
    await awaitChange(run, { clock, ms, signal: stops });
    if (signal?.aborted === true)
      throw new StoreError('aborted', 'the caller waits no longer', {}, signal.reason);
    if (stop.aborted) throw new StoreError('draining', 'the node is stopping');
  }

  async #isAnyImage(bucket: string, prefix: string): Promise<boolean> {
    const options = { prefix, delimiter: '', startAfter: '', limit: 1 };
    return (await this.#parts.store.listRecords(bucket, options)).objects.length > 0;
  }

  async #imageBuckets(): Promise<readonly string[]> {
    const buckets = await this.#parts.store.listBuckets();
    const names = buckets.map(({ name }) => name);
    return names.filter((name) => name === IMAGE_BUCKET || name === SEALED_IMAGE_BUCKET);
  }
}

/** An image that was handed over. */
interface Image {
  readonly key: string;
  readonly image: string;
  readonly part: string;
  readonly id: number;
  readonly sizeBytes: number;
  readonly version: number;
}

/** I8. `images`: in the order in which they were begun. */
function chooseImages(
  ref: SnapshotRef,
  { parts, images: said = {} }: CommitSnapshot,
  images: readonly Image[],
): { readonly chosen: ReadonlyMap<string, Image>; readonly isMixed: boolean } {
  const wanted = new Set(parts);
  const chosen = new Map<string, Image>();
  let isMixed = false;
  for (const image of images) {
    const { part, key } = image;
    const isSaid = Object.hasOwn(said, part);
    if (!wanted.has(part) || (isSaid && said[part] !== key)) continue;
    if (chosen.has(part) && wanted.size > 1) isMixed = true;
    chosen.set(part, image);
  }
  return { chosen, isMixed };
}

function partOf(name: string, { image, sizeBytes, version }: Image): SnapshotPart {
  return { name, imageBytes: sizeBytes, image, version };
}

function isImageOf({ parts }: SnapshotRecord, image: string): boolean {
  return parts.some((part) => (part.image ?? part.name) === image);
}

/** Whether what lies under its prefix belongs to a snapshot, be it one that was replaced and may have to come back. */
function hasCommitted(run: Run, { step, session }: Pick<Begun, 'session' | 'step'>): boolean {
  const record = run.snapshots.get(step);
  return record?.session === session || record?.previous?.session === session;
}

function newBegun(
  { step, session }: Pick<Begun, 'session' | 'step'>,
  { sinceId, heardMs }: { readonly sinceId: number; readonly heardMs: number },
): Begun {
  return { step, session, promises: new Map(), sinceId, heardMs, commits: 0 };
}

/** @throws `request_invalid` when a key that it says cannot be of an image of that part */
function assertKeys(ref: SnapshotRef, { session, parts, images = {} }: CommitSnapshot): void {
  for (const [part, key] of Object.entries(images)) {
    const { image } = parseImageKey(key);
    const isOne =
      parts.includes(part) &&
      parseImageName(image).part === part &&
      key === imageKey(ref, session, image);
    if (isOne) continue;
    const message = `${key} is no image of part ${part} of step ${ref.step} that session ${session} has begun`;
    throw new StoreError('request_invalid', message, { step: ref.step, session, part });
  }
}

/**
 * Of a session that has committed this step: whether it did so with these images (I8).
 * @throws `already_committed`
 */
export function assertCommitted(
  ref: SnapshotRef,
  record: SnapshotRecord,
  { images = {} }: CommitSnapshot,
): void {
  const { session } = record;
  for (const part of record.parts) {
    if (!Object.hasOwn(images, part.name)) continue;
    if (images[part.name] === imageKeyOf(ref, session, part)) continue;
    const next = nextSession(lastSessionOf(record));
    const message = `session ${session} has committed another save of step ${ref.step} of run ${ref.run}: two of one session were under way at once. What is saved beside needs a session of its own, such as ${next}`;
    throw new StoreError('already_committed', message, {
      ...{ step: ref.step, session, nextSession: next },
    });
  }
}

function sessionPrefix(run: Run, { step, session }: Pick<Begun, 'session' | 'step'>): string {
  return `${imagesPrefix({ ...run.ref, step })}${session}/`;
}

function isFenced(run: Run, session: string): boolean {
  return run.jobs.fenced.some(({ job }) => job === jobOf(session));
}

function allTaken({ ref, policy: { slots } }: Run, taken: readonly string[]): StoreError {
  const message = `all ${slots} slots of run ${ref.run} are taken: ${taken.join('; ')}`;
  return new StoreError('busy', message, { slots, taken, retryAfterMs: RETRY_AFTER_MS });
}

function committedBefore(
  { ref }: Run,
  step: number,
  { session, there }: { readonly session: string; readonly there: string },
): StoreError {
  const next = nextSession(there);
  const message = `session ${there} has committed step ${step} of run ${ref.run}: what is saved anew needs a session of its own, such as ${next}`;
  return new StoreError('already_committed', message, { step, session, nextSession: next });
}

function partsMissing(
  { ref }: Run,
  { step }: Begun,
  names: readonly string[],
  missing: readonly string[],
): string {
  const shown = missing.slice(0, 5).join(', ');
  const more = missing.length > 5 ? `, and ${missing.length - 5} more` : '';
  return `step ${step} of run ${ref.run}: of ${names.length} parts ${shown}${more} did not come yet`;
}
