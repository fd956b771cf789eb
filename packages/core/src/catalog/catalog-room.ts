/**
 * Whether the file system has room for the catalog to grow. Others fill it, and a deletion must not need what only a deletion
 * can give.
 *
 * R1  What adds objects, buckets, jobs or sums is refused while less than `lowBytes` is left, before it wrote anything. The rest
 *     (deletions and what they note, moves between tiers, what a start notes, the small records of packages) goes on: it has
 *     the log's own blocks (log-reserve.ts), and most of it frees some.
 * R2  It ends at twice the room at which it began, by itself.
 * R3  A look costs 2 µs, and is made at most every `LOOK_MS`: in that time nobody adds as much as is kept.
 */
import { statfsSync } from 'node:fs';
import { formatBytes, MiB, StoreError } from '@ebb/protocol';
import type { Conditions } from '../store/conditions.ts';

export type CatalogConditions = Pick<Conditions, 'enter' | 'leave'>;

/** A checkpoint copies as much into the database file, which may have to grow by it. */
const LOW_BYTES_MAX = 8 * MiB;
const LOW_PART = 0.02;
/** So long a log holds thousands of deletions beyond the length at which it is copied. */
const RESERVE_BYTES_MAX = 16 * MiB;
const RESERVE_PART = 0.03;
const LOOK_MS = 100;
/** Also while nobody changes anything: others fill and free. */
const POLL_MS = 1000;

export interface FileSystemSpace {
  readonly availableBytes: number;
  readonly totalBytes: number;
}

export class CatalogRoom {
  readonly #directory: string;
  readonly #conditions: CatalogConditions;
  readonly #space: () => FileSystemSpace;
  readonly #now: () => number;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #isShort = false;
  #leftBytes = 0;
  readonly #poll: NodeJS.Timeout;
  #onRoom: (availableBytes: number) => void = () => undefined;

  constructor(options: {
    readonly directory: string;
    readonly conditions: CatalogConditions;
    readonly space?: () => FileSystemSpace;
    readonly now?: () => number;
  }) {
    this.#directory = options.directory;
    this.#conditions = options.conditions;
    this.#space = options.space ?? (() => spaceOf(options.directory));
    this.#now = options.now ?? (() => performance.now());
    this.#poll = setInterval(() => this.#lookQuietly(), POLL_MS);
    this.#poll.unref();
  }

  get reserveBytes(): number {
    return reserveBytesOf(this.#space());
  }

  /** Called at each look that finds enough. */
  onRoom(listener: (availableBytes: number) => void): void {
    this.#onRoom = listener;
  }

  /** @throws `tier_full` (R1) */
  assertMayGrow(): void {
    const now = this.#now();
    if (now - this.#lookedAtMs >= LOOK_MS) {
      this.#lookedAtMs = now;
      this.look();
    }
    if (this.#isShort) throw this.#refusal();
  }

  look(): void {
    const space = this.#space();
    const lowBytes = lowBytesOf(space);
    this.#leftBytes = space.availableBytes;
    if (space.availableBytes < lowBytes * (this.#isShort ? 2 : 1)) this.#begin(lowBytes);
    else {
      this.#end();
      this.#onRoom(space.availableBytes);
    }
  }

  /** SQLite found none, whatever a look says. */
  noteFull(): void {
    this.#lookedAtMs = this.#now();
    const space = this.#space();
    this.#leftBytes = space.availableBytes;
    this.#begin(lowBytesOf(space));
  }

  close(): void {
    clearInterval(this.#poll);
  }

  #lookQuietly(): void {
    try {
      this.look();
    } catch {
      // The directory cannot be looked at just now; a change will tell why.
    }
  }

  #begin(lowBytes: number): void {
    const reason = `The file system of the catalog at ${this.#directory} has ${formatBytes(this.#leftBytes)} left. Below ${formatBytes(lowBytes)} the catalog takes what frees room, and nothing that adds to it.`;
    this.#conditions.enter('catalog_full', 'catalog', { reason, error: this.#refusal() });
    this.#isShort = true;
  }

  #end(): void {
    if (!this.#isShort) return;
    this.#isShort = false;
    this.#conditions.leave('catalog_full', 'catalog');
  }

  #refusal(): StoreError {
    const message = `the file system of the catalog at ${this.#directory} has ${formatBytes(this.#leftBytes)} left, which is kept for deletions; delete objects, or free room there`;
    return new StoreError('tier_full', message, { availableBytes: this.#leftBytes });
  }
}

/** What others on the same file system leave to the catalog, so that it does not run short by their doing. */
export function catalogSpareBytes(directory: string): number {
  return 2 * lowBytesOf(spaceOf(directory));
}

function lowBytesOf({ totalBytes }: FileSystemSpace): number {
  return Math.min(LOW_BYTES_MAX, Math.floor(totalBytes * LOW_PART));
}

function reserveBytesOf({ totalBytes }: FileSystemSpace): number {
  return Math.min(RESERVE_BYTES_MAX, Math.floor(totalBytes * RESERVE_PART));
}

function spaceOf(directory: string): FileSystemSpace {
  const { blocks, bavail, bsize } = statfsSync(directory);
  // A tmpfs without a limit reports no blocks.
  if (blocks === 0)
    return { availableBytes: Number.POSITIVE_INFINITY, totalBytes: Number.POSITIVE_INFINITY };
  return { availableBytes: bavail * bsize, totalBytes: blocks * bsize };
}
