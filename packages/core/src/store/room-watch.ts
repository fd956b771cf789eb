/**
 * Sees when the file system under a tier has less room than the tier may still take: others filled it. The node then serves
 * what it has and takes what fits elsewhere, under the condition `tier_without_room`, until there is room again.
 *
 * I1  A tier that is full by its own limit is not meant: that is what it is for. Where nothing can leave the disk tier, and a
 *     write found no room there, that is the condition `tier_at_limit`.
 * I2  What a single write asks for makes no condition beyond `WANTED_BYTES_MAX`: a caller cannot put a node into one by asking
 *     for much.
 * I3  It ends at twice the room at which it began, so that it does not come and go with every write.
 */
import { formatBytes, MiB } from '@ebb/protocol';
import type { LocalTier } from '../tier/tier.ts';
import type { Conditions } from './conditions.ts';

const LOW_BYTES = 4 * MiB;
const WANTED_BYTES_MAX = 64 * MiB;

type WatchedTier = Pick<LocalTier, 'name' | 'root' | 'usage' | 'availableBytes'>;

export interface Room {
  /** What the tier may take by its own limit. */
  readonly freeBytes: number;
  /** What its file system has for it. */
  readonly availableBytes: number;
}

export class RoomWatch {
  readonly #tiers: readonly WatchedTier[];
  readonly #conditions: Conditions;
  /** What writes looked for in vain, by the name of the tier. */
  readonly #wantedBytes = new Map<string, number>();
  /** What writes looked for in vain in the disk tier, which is at its limit. */
  #wantedAtLimitBytes = 0;

  constructor(tiers: readonly WatchedTier[], conditions: Conditions) {
    this.#tiers = tiers;
    this.#conditions = conditions;
  }

  look(): void {
    for (const tier of this.#tiers) {
      // What is away has no room, and a condition of its own (tier-presence.ts).
      if (this.#conditions.has('tier_away', tier.name)) continue;
      const { freeBytes } = this.#look(tier);
      // It ends at twice the room that was looked for, so that it does not come and go with every write (I3).
      if (tier.name === 'disk' && freeBytes >= this.#wantedAtLimitBytes * 2)
        this.#conditions.leave('tier_at_limit', tier.name);
    }
  }

  /** A write ends without room in the disk tier, from which nothing can go. */
  noteAtLimit(tier: WatchedTier, needBytes: number): void {
    const { freeBytes } = roomOf(tier);
    if (freeBytes >= Math.min(needBytes, WANTED_BYTES_MAX)) return;
    this.#wantedAtLimitBytes = Math.min(needBytes, WANTED_BYTES_MAX);
    const { capacityBytes } = tier.usage();
    const reason = `Tier ${tier.name} has ${formatBytes(freeBytes)} left of its limit of ${formatBytes(capacityBytes)}, and nothing in it can leave.`;
    this.#conditions.enter('tier_at_limit', tier.name, { reason });
  }

  /** A write found no room. */
  noteRefused(tier: WatchedTier, needBytes: number): Room {
    const before = this.#wantedBytes.get(tier.name) ?? 0;
    this.#wantedBytes.set(tier.name, Math.max(before, Math.min(needBytes, WANTED_BYTES_MAX)));
    return this.#look(tier);
  }

  #look(tier: WatchedTier): Room {
    const room = roomOf(tier);
    const { freeBytes, availableBytes } = room;
    const wantedBytes = Math.max(LOW_BYTES, this.#wantedBytes.get(tier.name) ?? 0);
    const isHeld = this.#conditions.has('tier_without_room', tier.name);
    const enoughBytes = Math.min(isHeld ? wantedBytes * 2 : wantedBytes, freeBytes);
    if (availableBytes < enoughBytes) {
      const reason = `The file system at ${tier.root} has ${formatBytes(availableBytes)} left for tier ${tier.name}, which may take ${formatBytes(freeBytes)} more by its own limit.`;
      this.#conditions.enter('tier_without_room', tier.name, { reason });
    } else {
      this.#wantedBytes.delete(tier.name);
      this.#conditions.leave('tier_without_room', tier.name);
    }
    return room;
  }
}

function roomOf(tier: WatchedTier): Room {
  const { capacityBytes, usedBytes, pooledBytes } = tier.usage();
  return {
    freeBytes: Math.max(0, capacityBytes - usedBytes) + pooledBytes,
    // Pooled files are given up for what is new.
    availableBytes: Math.max(0, tier.availableBytes()) + pooledBytes,
  };
}
