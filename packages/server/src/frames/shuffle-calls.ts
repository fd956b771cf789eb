/** Frames about shuffles, and the answers to `revoke`. */
import { messages, OPS } from '@ebb/protocol';
import { EMPTY, type Handler } from './call.ts';
import { encodeStaged, parseTier } from './object-calls.ts';

const register: Handler = async ({ shuffles }, payload) => {
  const { jobId, shuffleId, maps, partitions } = messages.shuffleRegister.request.decode(payload);
  await shuffles.register({ jobId, shuffleId }, { maps, partitions });
  return EMPTY;
};

const mapStage: Handler = async ({ shuffles, owner }, payload) => {
  const request = messages.mapStage.request.decode(payload);
  parseTier(request.tier);
  return encodeStaged(await shuffles.stageMap(owner, request));
};

const mapCommit: Handler = async ({ shuffles, owner }, payload) =>
  messages.mapCommit.response.encode(
    await shuffles.commitMap(owner, messages.mapCommit.request.decode(payload)),
  );

const table: Handler = async ({ shuffles, owner, revoke }, payload) => {
  const { jobId, shuffleId, sinceVersion } = messages.shuffleTable.request.decode(payload);
  return messages.shuffleTable.response.encode(
    await shuffles.table(owner, { jobId, shuffleId }, sinceVersion, revoke),
  );
};

const release: Handler = ({ shuffles, owner }, payload) => {
  shuffles.release(owner, messages.shuffleRelease.request.decode(payload));
  return EMPTY;
};

const remove: Handler = async ({ shuffles }, payload) =>
  messages.shuffleRemove.response.encode(
    await shuffles.remove(messages.shuffleRemove.request.decode(payload)),
  );

const resolve: Handler = async ({ shuffles }, payload) => {
  const { jobId, shuffleId, attemptIds, suspect } = messages.mapResolve.request.decode(payload);
  const rows = await shuffles.resolve({ jobId, shuffleId }, attemptIds, { suspect });
  return messages.mapResolve.response.encode({ rows });
};

const blobsReleased: Handler = ({ store, owner }, payload) => {
  store.guards.settled(owner, messages.blobsReleased.request.decode(payload).blobIds);
  return EMPTY;
};

export const SHUFFLE_CALLS: readonly (readonly [op: number, handler: Handler])[] = [
  [OPS.shuffleRegister, register],
  [OPS.mapStage, mapStage],
  [OPS.mapCommit, mapCommit],
  [OPS.shuffleTable, table],
  [OPS.shuffleRelease, release],
  [OPS.shuffleRemove, remove],
  [OPS.mapResolve, resolve],
  [OPS.blobsReleased, blobsReleased],
];
