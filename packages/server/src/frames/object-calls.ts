/** Frames about objects: stage, fill, commit; open, read, release. */
import type { Committed, StagedWrite } from '@ebb/core';
import { type ExtentLocation, messages, OPS, StoreError, TIER_BY_POLICY } from '@ebb/protocol';
import { EMPTY, type Handler } from './call.ts';

const stage: Handler = async ({ store, owner }, payload) => {
  const { bucket, key, reserveBytes, tier, jobId } = messages.stage.request.decode(payload);
  const asked = parseTier(tier);
  const staged = await store.stage(
    owner,
    { bucket, key },
    {
      reserveBytes,
      ...(asked === undefined ? {} : { tier: asked }),
      ...(jobId === '' ? {} : { jobId }),
    },
  );
  return encodeStaged(staged);
};

const extend: Handler = ({ store, owner }, payload) => {
  const { writeId, reserveBytes } = messages.extend.request.decode(payload);
  return messages.extend.response.encode({
    reservedBytes: store.extend(owner, writeId, reserveBytes),
  });
};

const write: Handler = async ({ store, owner }, payload) => {
  const { writeId, offset, data } = messages.write.request.decode(payload);
  await store.write(owner, writeId, data, offset);
  return EMPTY;
};

const commit: Handler = async ({ store, owner }, payload) => {
  const m = messages.commit.request.decode(payload);
  const committed: Committed = await store.commit(owner, m.writeId, {
    sizeBytes: m.sizeBytes,
    metadata: m.metadata,
    ...(m.crc32c === undefined ? {} : { crc32c: m.crc32c }),
    ...(m.ifMatch === '' ? {} : { ifMatch: m.ifMatch }),
    ...(m.ifNoneMatch ? { ifNoneMatch: true } : {}),
    ...(m.ack === undefined ? {} : { ack: m.ack }),
    ...(m.contentType === '' ? {} : { contentType: m.contentType }),
  });
  const { version, etag } = committed.object;
  return messages.commit.response.encode({ version, etag, durability: committed.durability });
};

const abort: Handler = async ({ store, owner }, payload) => {
  await store.abort(owner, messages.abort.request.decode(payload).writeId);
  return EMPTY;
};

const open: Handler = async ({ store, owner, mayShareHost }, payload) => {
  const { leaseId, object, extents } = await store.open(
    owner,
    messages.open.request.decode(payload),
    { files: mayShareHost },
  );
  const { version, etag, sizeBytes } = object;
  const shown = mayShareHost ? extents : extents.map(withoutFile);
  return messages.open.response.encode({ leaseId, version, etag, sizeBytes, extents: shown });
};

/** A file on disk was not compared for who does not read it. */
function withoutFile(extent: ExtentLocation): ExtentLocation {
  return extent.tier === 1 ? { ...extent, path: '' } : extent;
}

const release: Handler = ({ store, owner }, payload) => {
  store.release(owner, messages.release.request.decode(payload).leaseIds);
  return EMPTY;
};

export function parseTier(tier: number): 0 | 1 | undefined {
  if (tier === TIER_BY_POLICY) return undefined;
  if (tier !== 0 && tier !== 1)
    throw new StoreError('request_invalid', `a write is staged on tier 0 or 1, not ${tier}`);
  return tier;
}

export function encodeStaged({
  writeId,
  blobId,
  tier,
  path,
  reservedBytes,
  slotId,
}: StagedWrite): Buffer {
  return messages.staged.encode({ writeId, blobId, tier, path, reservedBytes, slotId });
}

export const OBJECT_CALLS: readonly (readonly [op: number, handler: Handler])[] = [
  [OPS.stage, stage],
  [OPS.extend, extend],
  [OPS.write, write],
  [OPS.commit, commit],
  [OPS.abort, abort],
  [OPS.open, open],
  [OPS.release, release],
];
