/** Frames about names: what is there, what goes, what is called otherwise. One step of the catalog each, as over HTTP. */
import type { ObjectRecord } from '@ebb/core';
import { LIST_FRAME_LIMIT_MAX, messages, OPS, StoreError } from '@ebb/protocol';
import type { Handler } from './call.ts';

const head: Handler = async ({ store }, payload) => {
  const { object } = await store.head(messages.head.request.decode(payload));
  return messages.head.response.encode(objectRow(object));
};

const list: Handler = async ({ store }, payload) => {
  const { bucket, ...options } = messages.listObjects.request.decode(payload);
  if (options.limit < 1 || options.limit > LIST_FRAME_LIMIT_MAX)
    throw new StoreError(
      'request_invalid',
      `a page has 1 to ${LIST_FRAME_LIMIT_MAX} names, not ${options.limit}`,
    );
  const page = await store.list(bucket, options);
  return messages.listObjects.response.encode({
    objects: page.objects.map(({ object }) => objectRow(object)),
    prefixes: page.prefixes,
    next: page.next ?? undefined,
  });
};

const deleteObject: Handler = async ({ store }, payload) => {
  const ref = messages.deleteObject.request.decode(payload);
  const { deleted } = await store.delete(ref);
  return messages.deleteObject.response.encode({ deleted });
};

const deletePrefix: Handler = async ({ store }, payload) => {
  const { bucket, prefix } = messages.deletePrefix.request.decode(payload);
  await store.getBucket(bucket);
  return messages.deletePrefix.response.encode(await store.deletePrefix(bucket, prefix));
};

const rename: Handler = async ({ store }, payload) => {
  const m = messages.rename.request.decode(payload);
  const { object } = await store.rename(
    { bucket: m.bucket, key: m.from },
    { bucket: m.toBucket, key: m.to },
    m.overwrite ? {} : { ifNoneMatch: true },
  );
  return messages.rename.response.encode(objectRow(object));
};

const renamePrefix: Handler = async ({ store }, payload) => {
  const m = messages.renamePrefix.request.decode(payload);
  const affected = await store.renamePrefix(
    { bucket: m.bucket, prefix: m.from },
    { bucket: m.toBucket, prefix: m.to },
    { overwrite: m.overwrite },
  );
  return messages.renamePrefix.response.encode(affected);
};

function objectRow(object: ObjectRecord): messages.ObjectRow {
  const { key, version, sizeBytes, etag, createdAtMs } = object;
  return { key, version, sizeBytes, etag, createdAtMs, crc32c: object.crc32c ?? undefined };
}

export const NAME_CALLS: readonly (readonly [op: number, handler: Handler])[] = [
  [OPS.head, head],
  [OPS.listObjects, list],
  [OPS.deleteObject, deleteObject],
  [OPS.deletePrefix, deletePrefix],
  [OPS.rename, rename],
  [OPS.renamePrefix, renamePrefix],
];
