/** Frames about files and directories: open, stage, sync, close; make and remove. Their names are in name-calls.ts. */
import { makeDirectory, type PublishedFile, removeDirectory } from '@ebb/core';
import { FILE_FLAGS, messages, OPS, StoreError } from '@ebb/protocol';
import { type CallContext, EMPTY, type Handler } from './call.ts';
import { encodeStaged } from './object-calls.ts';

const KNOWN_FLAGS = Object.values(FILE_FLAGS).reduce((all, flag) => all | flag, 0);

const open: Handler = async ({ store, owner }, payload) => {
  const { bucket, key, flags, ifMatch, jobId } = messages.fileOpen.request.decode(payload);
  if ((flags & ~KNOWN_FLAGS) !== 0)
    throw new StoreError('unsupported', `open flags ${flags & ~KNOWN_FLAGS} are not known`);
  const has = (flag: number): boolean => (flags & flag) !== 0;
  const file = await store.files.open(
    owner,
    { bucket, key },
    {
      read: has(FILE_FLAGS.read),
      write: has(FILE_FLAGS.write),
      create: has(FILE_FLAGS.create),
      exclusive: has(FILE_FLAGS.exclusive),
      truncate: has(FILE_FLAGS.truncate),
      append: has(FILE_FLAGS.append),
      ...(ifMatch === '' ? {} : { ifMatch }),
      ...(jobId === '' ? {} : { jobId }),
    },
  );
  return messages.fileOpen.response.encode({
    fileId: file.fileId,
    exists: file.version !== null,
    version: file.version ?? 0,
    etag: file.etag ?? '',
    sizeBytes: file.sizeBytes,
    extents: file.opened?.extents ?? [],
  });
};

const stage: Handler = async ({ store, owner }, payload) => {
  const { fileId, reserveBytes, keepBytes } = messages.fileStage.request.decode(payload);
  return encodeStaged(await store.files.stage(owner, fileId, { reserveBytes, keepBytes }));
};

const sync: Handler = async (context, payload) => await publish('sync', context, payload);
const close: Handler = async (context, payload) => await publish('close', context, payload);

async function publish(
  how: 'sync' | 'close',
  { store, owner }: CallContext,
  payload: Buffer,
): Promise<Buffer> {
  const { fileId, sizeBytes, crc32c, ack } = messages.fileSync.request.decode(payload);
  const published: PublishedFile | undefined = await store.files[how](owner, fileId, {
    sizeBytes,
    ...(crc32c === undefined ? {} : { crc32c }),
    ...(ack === undefined ? {} : { ack }),
  });
  return messages.fileSync.response.encode({
    published: published !== undefined,
    version: published?.version ?? 0,
    etag: published?.etag ?? '',
    durability: published?.durability ?? 'memory',
  });
}

const abort: Handler = async ({ store, owner }, payload) => {
  await store.files.abort(owner, messages.fileAbort.request.decode(payload).fileId);
  return EMPTY;
};

const mkdir: Handler = async ({ store, owner }, payload) => {
  await makeDirectory(store, owner, messages.directoryMake.request.decode(payload));
  return EMPTY;
};

const rmdir: Handler = async ({ store }, payload) => {
  await removeDirectory(store, messages.directoryRemove.request.decode(payload));
  return EMPTY;
};

export const FILE_CALLS: readonly (readonly [op: number, handler: Handler])[] = [
  [OPS.fileOpen, open],
  [OPS.fileStage, stage],
  [OPS.fileSync, sync],
  [OPS.fileClose, close],
  [OPS.fileAbort, abort],
  [OPS.directoryMake, mkdir],
  [OPS.directoryRemove, rmdir],
];
