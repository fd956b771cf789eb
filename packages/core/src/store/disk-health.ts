/**
 * Whether tier 1 takes what is written and synced. One that fails is a condition (`tier_failed`): the node serves reads, and
 * writes that need no disk. While it holds a small blob is written and removed again now and then, so that it ends by itself.
 */
import { isStoreError } from '@ebb/protocol';
import type { LocalTier } from '../tier/tier.ts';
import type { Conditions } from './conditions.ts';

const TRIAL = Buffer.alloc(4096);
/** Sweeps between two tries. */
const TRY_EVERY = 5;

type WatchedDisk = Pick<LocalTier, 'name' | 'root' | 'create' | 'write' | 'sync' | 'remove'>;

export class DiskHealth {
  readonly #disk: WatchedDisk;
  readonly #conditions: Conditions;
  readonly #nextId: () => Promise<number>;
  #sweeps = 0;

  constructor(options: {
    readonly disk: WatchedDisk;
    readonly conditions: Conditions;
    readonly nextId: () => Promise<number>;
  }) {
    this.#disk = options.disk;
    this.#conditions = options.conditions;
    this.#nextId = options.nextId;
  }

  /** Runs what writes to the disk, and notes what that says of it. */
  async watch<T>(work: () => Promise<T>): Promise<T> {
    try {
      const result = await work();
      this.#conditions.leave('tier_failed', this.#disk.name);
      return result;
    } catch (error) {
      if (isStoreError(error, 'io_failed')) {
        const reason = `${this.#disk.root} fails: ${error.message}.`;
        this.#conditions.enter('tier_failed', this.#disk.name, { reason, error });
      }
      throw error;
    }
  }

  /** Never rejects. */
  async sweep(): Promise<void> {
    if (!this.#conditions.has('tier_failed', this.#disk.name)) return;
    if (++this.#sweeps % TRY_EVERY === 0) await this.#try().catch(() => undefined);
  }

  async #try(): Promise<void> {
    const blobId = await this.#nextId();
    if (this.#disk.create(blobId, TRIAL.length) === undefined) return; // full, which is another condition
    try {
      await this.watch(async () => {
        await this.#disk.write(blobId, TRIAL, 0);
        await this.#disk.sync(blobId);
      });
    } finally {
      this.#disk.remove(blobId, { recycle: false });
    }
  }
}
