/** The service on a whole store, which can be killed, or lost but for tier 2; for tests. */
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { type Clock, type LocalTier, systemClock } from '@ebb/core';
import { MiB, type RestorePlan } from '@ebb/protocol';
import { openTestStore, override, type TestStore, type TestStoreOptions } from '@ebb/testkit';
import { type CheckpointRecords, type CheckpointService, openCheckpointService } from '../index.ts';
import { buildImage } from './build-image.ts';

export const RUN = { bucket: 'checkpoints', run: 'gpt' };
export const at = (step: number) => ({ ...RUN, step });

export class Bench implements AsyncDisposable {
  at: TestStore;
  service: CheckpointService;
  readonly errors: unknown[] = [];

  private constructor(store: TestStore, service: CheckpointService) {
    this.at = store;
    this.service = service;
  }

  static async open(options: TestStoreOptions = {}): Promise<Bench> {
    const store = await openTestStore({ memoryBytes: 96 * MiB, ...options });
    const bench = new Bench(store, undefined as never);
    bench.service = await bench.openService();
    return bench;
  }

  async openService(
    clock: Clock = systemClock,
    records: CheckpointRecords = this.at.catalog,
  ): Promise<CheckpointService> {
    return await openCheckpointService({
      ...{ store: this.at.store, records, clock },
      onError: (error) => this.errors.push(error),
    });
  }

  /** A new node that has nothing but a copy of this one's tier 2; this one goes on. */
  async openNext(options: TestStoreOptions = {}): Promise<Bench> {
    const next = await Bench.open(options);
    await cp(this.remote, next.remote, { recursive: true, force: true });
    return next;
  }

  /** Tier 2, as others see it. */
  get remote(): string {
    return join(this.at.root, 'remote');
  }

  /** As kill -9 leaves it, and again from there. */
  async crash({ release, ...options }: { loseMemory?: boolean; release?: () => void } = {}) {
    const before = this.service;
    const crashing = this.at.crash({ memoryBytes: 96 * MiB, ...options });
    // What waits for the disk goes on when its catalog is closed: the old store ends after that.
    await setTimeout(100);
    release?.();
    this.at = await crashing;
    await before.close().catch(() => undefined);
    this.service = await this.openService();
  }

  async hand(step: number, part: string, image: Buffer, session = 's1') {
    const begun = await this.service.begin(at(step), {
      ...{ session, part, imageBytes: image.length },
    });
    if (begun.decision === 'go') await this.at.put(begun.bucket, begun.key, image);
    return begun;
  }

  async save(step: number, image: Buffer, { session = 's1', overwrite = true } = {}) {
    await this.hand(step, 'rank-00000', image, session);
    return await this.service.commit(at(step), {
      ...{ session, parts: ['rank-00000'], metadata: {}, overwrite },
    });
  }

  /** The part as a reader puts it together: from the image, or from data objects. */
  async read(plan: RestorePlan, part = 0, from: 'image' | 'runs' = 'image'): Promise<Buffer> {
    const { image, runs } = plan.parts[part] as RestorePlan['parts'][number];
    if (from === 'image' && image !== null) return await this.at.get(image.bucket, image.key);
    const pieces = (runs ?? []).map(async ([, length, key, offset]) =>
      (await this.at.get(RUN.bucket, key)).subarray(offset, offset + length),
    );
    return Buffer.concat(await Promise.all(pieces));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.service.close();
    await this.at.close();
  }
}

/** A state of `mib` MiB, of which each MiB depends on the step at which it last changed. */
export function stateOf(mib: number, changedAt: (block: number) => number): Buffer {
  const bytes = Buffer.alloc(mib * MiB);
  for (let block = 0; block < mib; block++)
    bytes.fill(`block ${block} of step ${changedAt(block)} `, block * MiB, (block + 1) * MiB);
  return buildImage({ weights: bytes });
}

/** A disk whose syncs do not end before `release`. */
export function holdDisk() {
  let held = Promise.withResolvers<void>();
  return {
    disk: (tier: LocalTier): LocalTier =>
      override(tier, {
        sync: async (blobId) => {
          await held.promise;
          await tier.sync(blobId);
        },
      }),
    hold: () => {
      held = Promise.withResolvers<void>();
    },
    release: () => held.resolve(),
  };
}
