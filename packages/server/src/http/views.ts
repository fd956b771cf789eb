/** The store's records as the JSON of protocol/control.ts. */
import {
  type BucketRecord,
  type BucketTotals,
  formatCrc32c,
  type JobView,
  type ObjectView,
  type TierStatus,
  wantsEvents,
} from '@ebb/core';
import type { BucketInfo, JobInfo, ObjectInfo, Status } from '@ebb/protocol';
import { tierName } from './data/object-headers.ts';

export function objectInfo({ object, durability, tiers, isLost }: ObjectView): ObjectInfo {
  const {
    bucket,
    key,
    version,
    sizeBytes,
    etag,
    contentType,
    metadata,
    createdAtMs,
    jobId,
    pinned,
  } = object;
  return {
    ...{
      bucket,
      key,
      version,
      sizeBytes,
      etag,
      contentType,
      createdAtMs,
      jobId,
      pinned,
      durability,
    },
    metadata: { ...metadata },
    crc32c: object.crc32c === null ? null : formatCrc32c(object.crc32c),
    tiers: tiers.map(tierName),
    ...(isLost ? { lost: true as const } : {}),
  };
}

export function bucketInfo(
  { name, createdAtMs, policy }: BucketRecord,
  totals?: BucketTotals,
): BucketInfo {
  return {
    name,
    createdAtMs,
    policy: { ...policy, events: wantsEvents(policy), encrypted: policy.encrypted ?? false },
    ...totals,
  };
}

export function jobInfo({ job, lastHeartbeatMs, objects, sizeBytes }: JobView): JobInfo {
  const { token, ...shown } = job; // its opener's alone
  return { ...shown, lastHeartbeatMs, objects, sizeBytes };
}

export function tierInfo(status: TierStatus): Status['tiers'][number] {
  const { location, capacityBytes, usedBytes, stagedBytes, pooledBytes, blobs } = status;
  return {
    tier: tierName(status.tier),
    location,
    capacityBytes,
    usedBytes,
    stagedBytes,
    pooledBytes,
    blobs,
  };
}
