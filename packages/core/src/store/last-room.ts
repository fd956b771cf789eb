/**
 * Slows writers down while tier 1 fills and nothing of it can go, which the spiller has found out by then: tier 2 is away, or
 * all is pinned. The last of the room above the high mark is given out ever more slowly, so that at any moment it would last `LAST_MS`. Writers wait, then are told
 * `busy`, and `tier_full` when there is no room for them: a node does not go from full speed to nothing at one byte.
 *
 * Only new writes are slowed. Those that began may end, and what the spiller itself moves to disk is not held up.
 */
import type { Clock } from '../clock.ts';
import type { WaterMarks } from '../placement/policy.ts';
import type { Spiller } from '../placement/spiller.ts';
import type { LocalTier } from '../tier/tier.ts';

/** Of the room above the high mark, from which on the spiller works. */
const LAST_PART = 0.5;
const LAST_MS = 10_000;

interface LastRoomParts {
  readonly clock: Clock;
  readonly disk: Pick<LocalTier, 'usage'>;
  readonly settings: { readonly diskMarks: WaterMarks };
  readonly spiller: Pick<Spiller, 'isInVain'>;
}

export class LastRoom {
  readonly #parts: LastRoomParts;
  #nextMs = Number.NEGATIVE_INFINITY;

  constructor(parts: LastRoomParts) {
    this.#parts = parts;
  }

  /** Runs `create`, unless it is too early for that. */
  take<T>(bytes: number, create: () => T | undefined): T | undefined {
    const freeBytes = this.#scarceBytes();
    if (freeBytes === undefined) return create();
    const now = this.#parts.clock.monotonic();
    if (now < this.#nextMs) return undefined;
    const made = create();
    if (made !== undefined) this.#nextMs = now + (LAST_MS * bytes) / Math.max(freeBytes, bytes, 1);
    return made;
  }

  /** There is room for so much, but not yet. */
  isHeldFor(bytes: number): boolean {
    const freeBytes = this.#scarceBytes();
    return (
      freeBytes !== undefined && freeBytes >= bytes && this.#parts.clock.monotonic() < this.#nextMs
    );
  }

  /** Undefined while there is enough, or more to come. */
  #scarceBytes(): number | undefined {
    const { disk, spiller, settings } = this.#parts;
    if (!spiller.isInVain(1)) return undefined;
    const { usedBytes, capacityBytes } = disk.usage();
    const freeBytes = capacityBytes - usedBytes;
    const scarceBytes = capacityBytes * (1 - settings.diskMarks.high) * LAST_PART;
    return freeBytes > scarceBytes ? undefined : freeBytes;
  }
}
