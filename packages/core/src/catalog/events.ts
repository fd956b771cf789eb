/** Events of objects as the catalog keeps them, and which of them somebody wants. */
import type { Ack, EventType, TierIndex } from '@ebb/protocol';
import { isHiddenBucket } from '../object-ref.ts';
import type { BucketPolicy, BucketRecord } from './catalog.ts';

export interface CatalogEvent {
  readonly eventId: number;
  readonly atMs: number;
  /** A rename is `deleted` of the old name and `created` or `updated` of the new one. */
  readonly type: EventType;
  readonly bucket: string;
  readonly key: string;
  readonly version: number;
  readonly sizeBytes: number;
  /** Of `tier` only. */
  readonly place: EventPlace | null;
}

/** Where an object's bytes lie now. */
export interface EventPlace {
  /** null: some of its bytes are in no tier. */
  readonly durability: Ack | null;
  /** Tiers that hold all its bytes. */
  readonly tiers: readonly TierIndex[];
}

/** What is left out does not narrow. */
export interface EventFilter {
  readonly bucket?: string;
  readonly key?: string;
  readonly prefix?: string;
  readonly types?: readonly EventType[];
}

export interface EventPage {
  readonly events: readonly CatalogEvent[];
  /** All up to here were looked at: the next page comes after it. */
  readonly throughEventId: number;
}

/** Of an ephemeral bucket nobody asks, and its writes are too many and too short-lived to be logged. */
export function wantsEvents(policy: BucketPolicy): boolean {
  return policy.events ?? policy.preset !== 'ephemeral';
}

export function recordsEvents({ name, policy }: BucketRecord): boolean {
  return wantsEvents(policy) && !isHiddenBucket(name);
}

export function matchesEvent(
  filter: EventFilter,
  event: Pick<CatalogEvent, 'type' | 'bucket' | 'key'>,
): boolean {
  const { bucket, key, prefix, types } = filter;
  return (
    (bucket === undefined || event.bucket === bucket) &&
    (key === undefined || event.key === key) &&
    (prefix === undefined || event.key.startsWith(prefix)) &&
    (types === undefined || types.includes(event.type))
  );
}
