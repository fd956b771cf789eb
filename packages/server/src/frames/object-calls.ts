/** Frames about objects: stage, fill, commit; open, read, release. */
import type { Committed, StagedWrite } from '@ebb/core';
import { messages, OPS, READ_BYTES_MAX, StoreError, TIER_BY_POLICY } from '@ebb/protocol';
import { READ_RANGES_PARALLEL } from '../limits.ts';
import { type CallContext, EMPTY, type Handler } from './call.ts';

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

const open: Handler = async ({ store, owner }, payload) => {
  const { leaseId, object, extents } = await store.open(
    owner,
    messages.open.request.decode(payload),
  );
  const { version, etag, sizeBytes } = object;
  return messages.open.response.encode({ leaseId, version, etag, sizeBytes, extents });
};

const release: Handler = ({ store, owner }, payload) => {
  store.release(owner, messages.release.request.decode(payload).leaseIds);
  return EMPTY;
};

/** The answer is filled in place: its length, then the ranges one after the other. */
const read: Handler = async (context, payload) => {
  const { ranges } = messages.read.request.decode(payload);
  const totalBytes = ranges.reduce((sum, range) => sum + range.length, 0);
  if (totalBytes > READ_BYTES_MAX)
    throw new StoreError(
      'request_invalid',
      `${totalBytes} bytes in one read, at most ${READ_BYTES_MAX}`,
      { totalBytes },
    );
  context.hold(totalBytes);
  try {
    const answer = Buffer.allocUnsafeSlow(4 + totalBytes);
    let at = answer.writeUInt32LE(totalBytes, 0);
    const pieces = ranges.map(({ blobId, offset, length }) => {
      const target = answer.subarray(at, at + length);
      at += length;
      return { blobId, offset, target };
    });
    await readAll(context, pieces);
    return answer;
  } finally {
    context.hold(-totalBytes);
  }
};

/** All settle before it does: nobody writes into the answer after it is gone. */
async function readAll(
  { store }: CallContext,
  pieces: readonly { readonly blobId: number; readonly offset: number; readonly target: Buffer }[],
): Promise<void> {
  let next = 0;
  let failure: { readonly error: unknown } | undefined;
  const lane = async (): Promise<void> => {
    for (
      let piece = pieces[next++];
      piece !== undefined && failure === undefined;
      piece = pieces[next++]
    ) {
      try {
        if (piece.target.length > 0) await store.readBlob(piece.blobId, piece.target, piece.offset);
      } catch (error) {
        failure ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(READ_RANGES_PARALLEL, pieces.length) }, lane));
  if (failure !== undefined) throw failure.error;
}

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
  [OPS.read, read],
];
